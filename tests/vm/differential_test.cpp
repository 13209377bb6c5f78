// Random programs: every engine must come to the same result, fuel and memory; and, run as root,
// the kernel to the same result. A failing program is printed with its seed: BPFTIME_SEED=n runs
// that one alone.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>

#include "base/unique_fd.hpp"
#include "tests/vm/engines.hpp"
#include "tests/vm/generator.hpp"

namespace bpftime::testing {
namespace {

uint64_t next_random(uint64_t* state) {  // splitmix64
  uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

std::vector<uint8_t> random_bytes(uint64_t seed, size_t count) {
  std::vector<uint8_t> bytes(count);
  uint64_t state = seed;
  for (uint8_t& byte : bytes) {
    byte = static_cast<uint8_t>(next_random(&state));
  }
  return bytes;
}

uint64_t mix(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, Hit*) {
  // And what a C function may do to registers.
  __asm__ volatile("" ::: "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
  return a + b * 3 + c * 5 + d * 7 + e * 11;
}

// Program after program for a time budget (BPFTIME_DIFFERENTIAL_TIMES of it), or the one that BPFTIME_SEED names.
template <class Body>
void for_seeds(double seconds, uint64_t least, Body body) {
  if (const char* only = std::getenv("BPFTIME_SEED")) {
    body(std::strtoull(only, nullptr, 0));
    return;
  }
  if (const char* times = std::getenv("BPFTIME_DIFFERENTIAL_TIMES")) {
    seconds *= std::strtod(times, nullptr);
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  uint64_t seed = 1;
  for (; seed <= least || std::chrono::steady_clock::now() < end; ++seed) {
    body(seed);
    if (::testing::Test::HasFailure()) {
      return;
    }
  }
  ::testing::Test::RecordProperty("programs", static_cast<int>(seed));
  std::printf("%llu programs\n", static_cast<unsigned long long>(seed));
}

TEST(Differential, EnginesAgreeOnRandomPrograms) {
  for_seeds(3.0, 500, [](uint64_t seed) {
    const std::vector<uint8_t> bytes = random_bytes(seed, 3000);
    ByteSource source(bytes);
    GeneratorOptions options;
    options.max_units = 20 + static_cast<uint32_t>(seed % 200);
    const std::vector<bpf_insn> insns = Generator(source, options).run();
    DecodeProblem problem;
    const auto program = decode(std::span(insns), &problem);
    ASSERT_TRUE(program) << "seed " << seed << ": " << problem.insn << " " << problem.why;
    Host host;
    host.helpers = {{kMixHelper, mix}};
    // Every fourth program runs out of fuel, or just does not.
    const int64_t fuel = seed % 4 == 0 ? static_cast<int64_t>(seed / 4 % 40) : int64_t{1} << 40;
    Outcome first;
    std::vector<std::byte> first_memory;
    for (const Engine engine : kEngines) {
      if (engine == Engine::kJitNoFuel && seed % 4 == 0) {
        continue;
      }
      alignas(16) std::byte memory[kInputBytes];
      for (uint32_t i = 0; i < kInputBytes; ++i) {
        memory[i] = static_cast<std::byte>(bytes[i] ^ 0x5a);
      }
      const Outcome outcome = run_on(engine, program.value(), memory, host, fuel);
      const std::vector<std::byte> after(memory, memory + kInputBytes);
      ASSERT_EQ(outcome.error, 0) << "seed " << seed << ": " << outcome.why << "\n"
                                  << print(program.value());
      if (engine == Engine::kInterpreter) {
        first = outcome;
        first_memory = after;
        continue;
      }
      ASSERT_TRUE(outcome.value == first.value && outcome.ended == first.ended &&
                  (outcome.fuel == first.fuel || engine == Engine::kJitNoFuel) &&
                  after == first_memory)
          << "seed " << seed << " on " << name_of(engine) << ": " << std::hex << outcome.value
          << " != " << first.value << " fuel " << outcome.fuel << " " << first.fuel << "\n"
          << print(program.value());
    }
  });
}

long bpf(int command, bpf_attr* attr) { return ::syscall(SYS_bpf, command, attr, sizeof *attr); }

TEST(Differential, KernelAgreesOnRandomPrograms) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "BPF_PROG_TEST_RUN needs root";
  }
  int accepted = 0;
  int refused = 0;
  for_seeds(3.0, 100, [&](uint64_t seed) {
    const std::vector<uint8_t> bytes = random_bytes(seed * 77, 1200);
    ByteSource source(bytes);
    GeneratorOptions options;
    options.for_kernel = true;
    options.max_units = 10 + static_cast<uint32_t>(seed % 60);
    const std::vector<bpf_insn> insns = Generator(source, options).run();
    const auto program = decode(std::span(insns));
    ASSERT_TRUE(program) << "seed " << seed;
    bpf_attr attr{};
    attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
    attr.insns = reinterpret_cast<uint64_t>(insns.data());
    attr.insn_cnt = static_cast<uint32_t>(insns.size());
    attr.license = reinterpret_cast<uint64_t>("GPL");
    const UniqueFd loaded(static_cast<int>(bpf(BPF_PROG_LOAD, &attr)));
    if (!loaded) {
      ++refused;  // too complex for the verifier, or code that it proves dead
      return;
    }
    ++accepted;
    unsigned char packet[64] = {};
    bpf_attr run{};
    run.test.prog_fd = static_cast<uint32_t>(loaded.get());
    run.test.data_in = reinterpret_cast<uint64_t>(packet);
    run.test.data_size_in = sizeof packet;
    ASSERT_EQ(bpf(BPF_PROG_TEST_RUN, &run), 0) << seed;
    for (const Engine engine : kEngines) {
      const Outcome outcome = run_on(engine, program.value(), {});
      ASSERT_EQ(outcome.error, 0) << outcome.why;
      ASSERT_EQ(outcome.value, run.test.retval)
          << "seed " << seed << " on " << name_of(engine) << "\n"
          << print(program.value());
    }
  });
  std::printf("%d taken by the kernel, %d not\n", accepted, refused);
  EXPECT_GT(accepted, refused);
}

// Random changes to fields of valid programs: what the kernel takes, decode() takes.
TEST(Differential, DecoderTakesWhatTheKernelTakes) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "BPF_PROG_LOAD needs root";
  }
  int accepted = 0;
  for_seeds(2.5, 100, [&](uint64_t seed) {
    const std::vector<uint8_t> bytes = random_bytes(seed * 991, 300);
    ByteSource source(bytes);
    GeneratorOptions options;
    options.for_kernel = true;
    options.max_units = 8;
    std::vector<bpf_insn> insns = Generator(source, options).run();
    uint64_t state = seed;
    bpf_insn& changed = insns[next_random(&state) % insns.size()];
    const uint64_t value = next_random(&state);
    switch (value % 6) {
      case 0:
        changed.code = static_cast<uint8_t>(value >> 8);
        break;
      case 1:
        changed.code ^= static_cast<uint8_t>(1U << (value >> 8) % 8);
        break;
      case 2:
        changed.off = static_cast<int16_t>((value >> 8) % 40);
        break;
      case 3:
        changed.imm = static_cast<int32_t>((value >> 8) % 0x120);
        break;
      case 4:
        changed.src_reg = (value >> 8) & 0xf;
        break;
      default:
        changed.dst_reg = (value >> 8) & 0xf;
        break;
    }
    if (changed.code == (BPF_JMP | BPF_EXIT) && changed.off != 0) {
      return;  // the one field that we check and the kernel does not
    }
    bpf_attr attr{};
    attr.prog_type = BPF_PROG_TYPE_KPROBE;
    attr.insns = reinterpret_cast<uint64_t>(insns.data());
    attr.insn_cnt = static_cast<uint32_t>(insns.size());
    attr.license = reinterpret_cast<uint64_t>("GPL");
    const UniqueFd loaded(static_cast<int>(bpf(BPF_PROG_LOAD, &attr)));
    if (!loaded) {
      return;
    }
    ++accepted;
    DecodeProblem problem;
    const auto program = decode(std::span(insns), &problem);
    if (!program) {
      // The verifier looks at what can be reached only; decode() at everything.
      static std::vector<char> log(16 << 20);
      attr.log_level = 2;
      attr.log_size = static_cast<uint32_t>(log.size());
      attr.log_buf = reinterpret_cast<uint64_t>(log.data());
      const UniqueFd again(static_cast<int>(bpf(BPF_PROG_LOAD, &attr)));
      const std::string line = "\n" + std::to_string(problem.insn) + ": (";
      if (std::strstr(log.data(), line.c_str()) == nullptr) {
        return;
      }
    }
    ASSERT_TRUE(program) << "seed " << seed << ", instruction " << problem.insn << ": "
                         << problem.why << "\n"
                         << print(insns[problem.insn], nullptr, problem.insn);
  });
  std::printf("%d taken by the kernel\n", accepted);
  EXPECT_GT(accepted, 10);
}

}  // namespace
}  // namespace bpftime::testing
