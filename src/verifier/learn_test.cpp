// What compilers may rely on of single instructions (isa/operand_facts.hpp).
#include <gtest/gtest.h>

#include "isa/testing/assembler.hpp"
#include "verifier/verifier.hpp"

namespace bpftime {
namespace {

class Learn : public ::testing::Test {
 protected:
  const OperandFacts& of(const std::string& text, uint32_t insn) {
    auto insns = testing::assemble(text);
    EXPECT_TRUE(insns.has_value()) << text;
    VerifierProgram program;
    program.insns = *insns;
    program.prog_type = BPF_PROG_TYPE_KPROBE;
    program.prog_flags = BPF_F_TEST_STATE_FREQ;  // paths meet wherever they can
    for (const uint32_t id : {5U, 6U}) {
      VerifierMap map;
      map.id = id;
      map.map_type = BPF_MAP_TYPE_ARRAY;
      map.key_size = 4;
      map.value_size = 16;
      map.max_entries = 8;
      program.maps.push_back(map);
    }
    verdict_ = verify(program, {});
    EXPECT_TRUE(verdict_.accepted()) << verdict_.message;
    return verdict_.facts.operands.at(insn);
  }
  Verdict verdict_;
};

TEST_F(Learn, WhereAnAddressPoints) {
  const OperandFacts& store = of("stdw [%r10-16], 0\nmov %r0, 0\nexit", 0);
  EXPECT_EQ(store.points_to, kToStack);
  EXPECT_EQ(store.alignment, 3);
  const OperandFacts& load = of("ldxw %r0, [%r1+4]\nmov %r0, 0\nexit", 0);
  EXPECT_EQ(load.points_to, kToContext);
  EXPECT_EQ(load.alignment, 2);
}

TEST_F(Learn, TwoPathsToOneAccessAreJoined) {
  const OperandFacts& load =
      of("call 7\n"
         "stxdw [%r10-16], %r0\n"
         "mov %r2, %r10\n"
         "add %r2, -16\n"
         "mov %r6, %r2\n"
         "lddw %r1, map 5\n"
         "call 1\n"
         "jeq %r0, 0, other\n"
         "mov %r6, %r0\n"
         "other:\n"
         "ldxb %r0, [%r6+2]\n"
         "mov %r0, 0\n"
         "exit",
         10);
  EXPECT_EQ(load.points_to, kToStack | kToMapValue);
  EXPECT_EQ(load.alignment, 1);
  const OperandFacts& slot =
      of("stdw [%r10-16], 0\n"
         "mov %r6, %r10\n"
         "add %r6, -16\n"
         "call 7\n"
         "jeq %r0, 0, other\n"
         "add %r6, 1\n"
         "other:\n"
         "ldxb %r0, [%r6+2]\n"
         "mov %r0, 0\n"
         "exit",
         6);
  EXPECT_EQ(slot.points_to, kToStack);
  EXPECT_EQ(slot.alignment, 0);
}

TEST_F(Learn, ADivisorThatNoPathHasAtZero) {
  const std::string begin = "call 7\nmov %r6, %r0\nmov %r0, 100\n";
  const OperandFacts& tested =
      of(begin + "jeq %r6, 0, out\ndiv %r0, %r6\nout:\nmov %r0, 0\nexit", 4);
  EXPECT_EQ(tested.lowest, 1U);
  const OperandFacts& set = of(begin + "or %r6, 4\nmod32 %r0, %r6\nmov %r0, 0\nexit", 4);
  EXPECT_EQ(set.lowest, 4U);
  EXPECT_EQ(set.highest, UINT32_MAX);
  const OperandFacts& any = of(begin + "div %r0, %r6\nmov %r0, 0\nexit", 3);
  EXPECT_EQ(any.lowest, 0U);
}

// The second path comes with a zero and nothing else relies on the number: it must not be cut off for the first one's sake.
TEST_F(Learn, ADivisorThatASecondPathHasAtZero) {
  const OperandFacts& divisor =
      of("call 7\n"
         "mov %r6, 0\n"
         "jeq %r0, 0, divide\n"
         "mov %r6, 3\n"  // walked first
         "divide:\n"
         "mov %r0, 100\n"
         "div %r0, %r6\n"
         "mov %r0, 0\n"
         "exit",
         5);
  EXPECT_EQ(divisor.lowest, 0U);
}

TEST_F(Learn, WaysThatAJumpGoes) {
  const std::string text =
      "mov %r6, 1\n"
      "jeq %r6, 2, never\n"
      "call 7\n"
      "jgt %r0, 5, both\n"
      "both:\n"
      "jne %r6, 2, always\n"
      "never:\n"
      "always:\n"
      "mov %r0, 0\n"
      "exit";
  EXPECT_EQ(of(text, 1).ways, kGoesOn);
  EXPECT_EQ(of(text, 3).ways, kJumps | kGoesOn);  // to the next instruction
  EXPECT_EQ(of(text, 4).ways, kJumps);
  EXPECT_EQ(of("call 7\njgt %r0, 5, over\nmov %r0, 1\nover:\nmov %r0, 0\nexit", 1).ways,
            kGoesOn | kJumps);
  EXPECT_EQ(of("mov %r6, 1\njlt %r6, 2, always\nmov %r0, 1\nalways:\nmov %r0, 0\nexit", 1).ways,
            kJumps);
}

constexpr const char* kLookup =
    "mov %r2, %r10\n"
    "add %r2, -4\n"
    "lddw %r1, map 5\n"
    "call 1\n"
    "mov %r0, 0\n"
    "exit";

TEST_F(Learn, TheMapAndTheIndexOfALookup) {
  const OperandFacts& constant = of(std::string("stw [%r10-4], 3\n") + kLookup, 5);
  EXPECT_EQ(constant.map, 5U);
  EXPECT_EQ(constant.lowest, 0U);
  EXPECT_EQ(constant.highest, UINT64_MAX);  // bytes of a slot's upper half have no number
}

TEST_F(Learn, AnIndexInASlotOfItsOwn) {
  const std::string lookup =
      "mov %r2, %r10\nadd %r2, -8\nlddw %r1, map 5\ncall 1\nmov %r0, 0\nexit";
  const OperandFacts& constant = of("stw [%r10-8], 3\n" + lookup, 5);
  EXPECT_EQ(constant.lowest, 3U);
  EXPECT_EQ(constant.highest, 3U);
  const OperandFacts& bounded = of("call 7\nand %r0, 6\nstxw [%r10-8], %r0\n" + lookup, 7);
  EXPECT_EQ(bounded.highest, 6U);
  const OperandFacts& beyond = of("call 7\nand %r0, 15\nstxw [%r10-8], %r0\n" + lookup, 7);
  EXPECT_EQ(beyond.highest, UINT64_MAX);
}

TEST_F(Learn, AnIndexThatASecondPathHasBeyond) {
  const OperandFacts& call =
      of("call 7\n"
         "mov %r6, 20\n"
         "jeq %r0, 0, look\n"
         "mov %r6, %r0\n"  // walked first
         "and %r6, 3\n"
         "look:\n"
         "stxw [%r10-8], %r6\n"
         "mov %r2, %r10\n"
         "add %r2, -8\n"
         "lddw %r1, map 5\n"
         "call 1\n"
         "mov %r0, 0\n"
         "exit",
         10);
  EXPECT_EQ(call.map, 5U);
  EXPECT_EQ(call.highest, UINT64_MAX);
}

TEST_F(Learn, OneOfTwoMaps) {
  const OperandFacts& call =
      of("stw [%r10-8], 0\n"
         "call 7\n"
         "mov %r6, %r0\n"
         "lddw %r1, map 5\n"
         "jeq %r6, 0, look\n"
         "lddw %r1, map 6\n"
         "look:\n"
         "mov %r2, %r10\n"
         "add %r2, -8\n"
         "call 1\n"
         "mov %r0, 0\n"
         "exit",
         10);
  EXPECT_EQ(call.map, UINT32_MAX);
}

TEST_F(Learn, TheSizeOfMemory) {
  const OperandFacts& read =
      of("mov %r3, 0\n"
         "mov %r2, 16\n"
         "mov %r1, %r10\n"
         "add %r1, -16\n"
         "call 112\n"
         "mov %r0, 0\n"
         "exit",
         4);
  EXPECT_EQ(read.lowest, 16U);
  EXPECT_EQ(read.highest, 16U);
}

}  // namespace
}  // namespace bpftime
