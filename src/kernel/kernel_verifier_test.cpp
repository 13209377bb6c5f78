// Needs a kernel that lets this process load programs.
#include "kernel/kernel_verifier.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace bpftime {
namespace {

constexpr bpf_insn kExit = {BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
constexpr bpf_insn kReturnZero = {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0};
constexpr uint32_t kMap = 70;

VerifierProgram probe(std::span<const bpf_insn> insns) {
  VerifierProgram program;
  program.insns = insns;
  program.prog_type = BPF_PROG_TYPE_KPROBE;
  return program;
}

VerifierMap array(uint32_t flags = 0) {
  VerifierMap map;
  map.id = kMap;
  map.name = "settings";
  map.map_type = BPF_MAP_TYPE_ARRAY;
  map.map_flags = flags;
  map.key_size = map.value_size = 4;
  map.max_entries = 1;
  return map;
}

class KernelVerifierTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!KernelVerifier::available()) {
      GTEST_SKIP() << "may not load programs here";
    }
  }
};

TEST_F(KernelVerifierTest, TellsVerdictReasonAndCost) {
  auto kernel = KernelVerifier::make({}, nullptr);
  ASSERT_TRUE(kernel.has_value());
  const bpf_insn good[] = {kReturnZero, kExit};
  const KernelVerdict accepted = kernel->ask(probe(good));
  EXPECT_TRUE(accepted.accepted()) << accepted.log;
  EXPECT_EQ(accepted.insns_processed, 2U);
  const bpf_insn bad[] = {kExit};
  const KernelVerdict refused = kernel->ask(probe(bad));
  EXPECT_EQ(refused.error, EACCES);
  EXPECT_TRUE(refused.was_verified);
  EXPECT_EQ(refused.message, "R0 !read_ok");
}

TEST_F(KernelVerifierTest, LogWithoutRoomChangesNoVerdict) {
  auto kernel = KernelVerifier::make({}, nullptr);
  ASSERT_TRUE(kernel.has_value());
  std::vector<bpf_insn> insns(100, kReturnZero);
  insns.push_back(kExit);
  const KernelVerdict verdict = kernel->ask(probe(insns), {.log_level = 2, .log_bytes = 256});
  EXPECT_TRUE(verdict.accepted()) << verdict.error;
  EXPECT_EQ(verdict.log.size(), 255U);
}

TEST_F(KernelVerifierTest, FrozenContentIsConstantThereToo) {
  VerifierMap map = array(BPF_F_RDONLY_PROG);
  const std::byte zero[4] = {};
  map.constants = zero;
  // if (settings != 0) read a number as a pointer
  const bpf_insn insns[] = {{BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, kMap},
                            {0, 0, 0, 0, 0},
                            kReturnZero,
                            {BPF_LDX | BPF_MEM | BPF_W, 2, 1, 0, 0},
                            {BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 1, 0},
                            {BPF_LDX | BPF_MEM | BPF_W, 2, 0, 0, 0},
                            kExit};
  auto known = KernelVerifier::make({&map, 1}, nullptr);
  ASSERT_TRUE(known.has_value());
  EXPECT_TRUE(known->ask(probe(insns)).accepted());
  map.constants = {};
  auto unknown = KernelVerifier::make({&map, 1}, nullptr);
  ASSERT_TRUE(unknown.has_value());
  EXPECT_FALSE(unknown->ask(probe(insns)).accepted());
}

TEST_F(KernelVerifierTest, MapThatItRefusesIsNamed) {
  VerifierMap map = array();
  map.key_size = 3;
  std::string log;
  const auto kernel = KernelVerifier::make({&map, 1}, nullptr, &log);
  ASSERT_FALSE(kernel.has_value());
  EXPECT_EQ(kernel.error().code, EINVAL);
  EXPECT_EQ(log, "the kernel refuses map settings: Invalid argument\n");
}

TEST_F(KernelVerifierTest, NobodyMayNotAsk) {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool dropped = ::setgid(65534) == 0 && ::setuid(65534) == 0;
    const auto available = KernelVerifier::available();
    ::_exit(dropped && !available && available.error().code == EPERM ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace bpftime
