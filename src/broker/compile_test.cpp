// What the verifier learned, in the code that comes out.
#include "broker/compile.hpp"

#include <gtest/gtest.h>

#include "abi/agent.hpp"
#include "helpers/probe_hit.hpp"
#include "isa/testing/assembler.hpp"

namespace bpftime {
namespace {

constexpr char kRounds[] =
    "mov %r6, 0\n"
    "again:\n"
    "add %r6, 1\n"
    "jlt %r6, 100, again\n"
    "mov %r0, 0\n"
    "exit";

ProgramAnswer answer_to(const char* text, bool let_through = false) {
  auto task = std::make_shared<ProgramTask>();
  const auto insns = testing::assemble(text);
  EXPECT_TRUE(insns.has_value());
  auto program = decode(std::span(*insns));
  EXPECT_TRUE(program.has_value());
  task->program = std::move(program).value();
  task->prog_type = BPF_PROG_TYPE_KPROBE;
  task->let_through = let_through;
  ProgramAnswer answer;
  InlineCompiler().compile(task, [&](Result<ProgramAnswer> given) {
    ASSERT_TRUE(given.has_value());
    answer = std::move(given).value();
  });
  EXPECT_FALSE(answer.compiled.code.empty()) << answer.judgement.log;
  return answer;
}

bool counts(const ProgramAnswer& answer) { return (answer.compiled.facts & kCountsFuel) != 0; }

TEST(Compile, LoopsThatEndSoonCountNothing) {
  const ProgramAnswer answer = answer_to(kRounds);
  EXPECT_EQ(answer.judgement.most_back_edges, 100U);
  EXPECT_FALSE(counts(answer));
}

TEST(Compile, BudgetOutlastsAllTailCallsOfWhatIsNotCounted) {
  Judgement judgement;
  EXPECT_TRUE(may_use_up_budget(judgement));
  judgement.most_back_edges = kHitFuel / (kMostTailCalls + 1);
  EXPECT_FALSE(may_use_up_budget(judgement));
  judgement.most_back_edges++;
  EXPECT_TRUE(may_use_up_budget(judgement));
}

TEST(Compile, LoopsWithoutAKnownBoundAreCounted) {
  EXPECT_TRUE(
      counts(answer_to("mov %r0, 0\n"
                       "again:\n"
                       "may_goto out\n"
                       "ja again\n"
                       "out:\n"
                       "exit")));
}

TEST(Compile, WhatIsLetThroughIsCounted) {
  const ProgramAnswer answer = answer_to("again:\nja again", true);
  EXPECT_NE(answer.judgement.error, 0);
  EXPECT_TRUE(counts(answer));
}

uint32_t context_use_of(const char* text) { return answer_to(text).judgement.context_use; }

TEST(Compile, WhatIsReadOfTheContext) {
  EXPECT_EQ(context_use_of("mov %r0, 0\nexit"), 0U);
  EXPECT_EQ(context_use_of("ldxdw %r0, [%r1+112]\nmov %r0, 0\nexit"), 1U << 14);
  EXPECT_EQ(context_use_of("mov %r6, %r1\nldxw %r0, [%r6+4]\nldxb %r0, [%r6+23]\nmov %r0, 0\nexit"),
            1U << 0 | 1U << 2);
  EXPECT_EQ(context_use_of(
                "stxdw [%r10-8], %r1\nldxdw %r2, [%r10-8]\nldxdw %r0, [%r2+8]\nmov %r0, 0\nexit"),
            2U)
      << "through the stack";
  EXPECT_EQ(
      context_use_of("call local f\nmov %r0, 0\nexit\nf:\nldxdw %r0, [%r1+16]\nmov %r0, 0\nexit"),
      1U << 2);
  EXPECT_EQ(context_use_of("call 5\nmov %r0, 0\nexit"), 0U)
      << "a helper without arguments gets none";
  EXPECT_EQ(context_use_of("call 174\nmov %r0, 0\nexit"), 0U) << "get_attach_cookie";
}

// get_stackid would; a read at its address; its address in memory of others, or as a number.
TEST(Compile, OthersMayReadTheContext) {
  const char* const kEnd = "mov %r0, 0\nexit";
  for (const char* text : {"mov %r3, %r1\nmov %r1, %r10\nadd %r1, -8\nmov %r2, 8\ncall 113\n",
                           "mov %r2, %r1\nsub %r2, %r10\n", "mov32 %r2, %r1\n",
                           "mov %r2, 0\nstxdw [%r10-8], %r2\nlock add [%r10-8], %r1\n"}) {
    EXPECT_EQ(context_use_of((std::string(text) + kEnd).c_str()), kContextEscapes) << text;
  }
}

TEST(Compile, NothingIsReliedOnInARejectedProgram) {
  const ProgramAnswer answer = answer_to("ldxdw %r0, [%r5+0]\nexit", true);
  EXPECT_NE(answer.judgement.error, 0);
  EXPECT_TRUE(answer.judgement.operands.empty());
  EXPECT_EQ(answer.judgement.context_use, kContextEscapes);
}

}  // namespace
}  // namespace bpftime
