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

}  // namespace
}  // namespace bpftime
