// How often a run can jump back: what engines need not count (ProgramFacts::most_back_edges).
#include <gtest/gtest.h>

#include "isa/testing/assembler.hpp"
#include "verifier/verifier.hpp"

namespace bpftime {
namespace {

uint32_t most_of(const std::string& text) {
  auto insns = testing::assemble(text);
  EXPECT_TRUE(insns.has_value()) << text;
  VerifierProgram program;
  program.insns = *insns;
  program.prog_type = BPF_PROG_TYPE_KPROBE;
  const Verdict verdict = verify(program, {});
  EXPECT_TRUE(verdict.accepted()) << verdict.message;
  return verdict.facts.most_back_edges;
}

TEST(BackEdges, AreNoneInAStraightProgram) { EXPECT_EQ(most_of("mov %r0, 0\nexit"), 0U); }

TEST(BackEdges, OfALoopAreItsRoundsTheLastOneToo) {
  EXPECT_EQ(most_of("mov %r6, 0\n"
                    "again:\n"
                    "add %r6, 1\n"
                    "jlt %r6, 10, again\n"
                    "mov %r0, 0\n"
                    "exit"),
            10U);
}

TEST(BackEdges, OfLoopsInLoopsMultiply) {
  EXPECT_EQ(most_of("mov %r6, 0\n"
                    "outer:\n"
                    "mov %r7, 0\n"
                    "inner:\n"
                    "add %r7, 1\n"
                    "jlt %r7, 20, inner\n"
                    "add %r6, 1\n"
                    "jlt %r6, 10, outer\n"
                    "mov %r0, 0\n"
                    "exit"),
            210U);
}

TEST(BackEdges, AreThoseOfTheLongestRun) {
  EXPECT_EQ(most_of("call 7\n"  // get_prandom_u32
                    "and %r0, 7\n"
                    "again:\n"
                    "add %r0, 1\n"
                    "jlt %r0, 8, again\n"
                    "mov %r0, 0\n"
                    "exit"),
            8U);
}

// One way to the second loop has gone round before; the other is pruned there.
TEST(BackEdges, BehindAPrunedPathCount) {
  EXPECT_EQ(most_of("call 7\n"
                    "jgt %r0, 5, join\n"
                    "mov %r6, 0\n"
                    "first:\n"
                    "add %r6, 1\n"
                    "jlt %r6, 30, first\n"
                    "join:\n"
                    "mov %r0, 0\n"
                    "mov %r6, 0\n"
                    "second:\n"
                    "add %r6, 1\n"
                    "jlt %r6, 50, second\n"
                    "mov %r0, 0\n"
                    "exit"),
            80U);
}

TEST(BackEdges, OfAFunctionCountForEachCall) {
  EXPECT_EQ(most_of("call local again\n"
                    "call local again\n"
                    "mov %r0, 0\n"
                    "exit\n"
                    "again:\n"
                    "mov %r0, 0\n"
                    "round:\n"
                    "add %r0, 1\n"
                    "jlt %r0, 5, round\n"
                    "exit"),
            10U);
}

TEST(BackEdges, OfWhatSomethingElseBoundsAreNotKnown) {
  EXPECT_EQ(most_of("mov %r0, 0\n"
                    "again:\n"
                    "may_goto out\n"
                    "ja again\n"
                    "out:\n"
                    "exit"),
            UINT32_MAX);
}

}  // namespace
}  // namespace bpftime
