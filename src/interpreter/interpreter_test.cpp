#include "interpreter/interpreter.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>

#include "isa/testing/assembler.hpp"

namespace bpftime {
namespace {

struct Outcome {
  uint64_t value = 0;
  int error = 0;  // 0, or the errno of prepare or run
  uint32_t insn = 0;
  Hit hit{};
};

Outcome run(std::string_view text, std::span<const uint64_t> args = {},
            std::span<const MemoryRange> allowed = {}, std::span<const uint64_t> slots = {},
            int64_t fuel = INT64_MAX) {
  Outcome outcome;
  std::string message;
  const auto insns = testing::assemble(text, &message);
  EXPECT_TRUE(insns) << message;
  if (!insns) {
    return outcome;
  }
  const auto program = decode(std::span(insns.value()));
  EXPECT_TRUE(program);
  if (!program) {
    return outcome;
  }
  const auto interpreter = Interpreter::prepare(program.value());
  if (!interpreter) {
    outcome.error = interpreter.error().code;
    return outcome;
  }
  EXPECT_EQ(interpreter.value().slots().size(), slots.size());
  outcome.hit.slots = slots.data();
  outcome.hit.fuel = fuel;
  InterpreterFault fault;
  const auto value = interpreter.value().run(args, allowed, &outcome.hit, &fault);
  outcome.value = value ? value.value() : 0;
  outcome.error = value ? 0 : value.error().code;
  outcome.insn = fault.insn;
  return outcome;
}

TEST(Interpreter, ArgumentsArriveInR1ToR5) {
  const std::array<uint64_t, 5> args = {1, 20, 300, 4000, 50000};
  const Outcome outcome =
      run("mov %r0, %r1\nadd %r0, %r2\nadd %r0, %r3\nadd %r0, %r4\nadd %r0, %r5\nexit", args);
  EXPECT_EQ(outcome.value, 54321U);
}

TEST(Interpreter, AccessOutsideOfRangesFailsWithEfault) {
  std::array<uint64_t, 2> memory = {7, 8};
  const std::array<uint64_t, 1> args = {reinterpret_cast<uint64_t>(memory.data())};
  const std::array<MemoryRange, 1> allowed = {{{args[0], 16, false}}};
  EXPECT_EQ(run("ldxdw %r0, [%r1+8]\nexit", args, allowed).value, 8U);
  EXPECT_EQ(run("mov %r0, 0\nldxdw %r0, [%r1+9]\nexit", args, allowed).error, EFAULT);
  EXPECT_EQ(run("mov %r0, 0\nldxdw %r0, [%r1+9]\nexit", args, allowed).insn, 1U);
  EXPECT_EQ(run("ldxb %r0, [%r1+16]\nexit", args, allowed).error, EFAULT);
  EXPECT_EQ(run("ldxb %r0, [%r1-1]\nexit", args, allowed).error, EFAULT);
  EXPECT_EQ(run("stb [%r1+0], 1\nexit", args, allowed).error, EFAULT);
  EXPECT_EQ(run("lddw %r1, 0xfffffffffffffffc\nldxdw %r0, [%r1]\nexit", args, allowed).error,
            EFAULT);
  EXPECT_EQ(run("mov %r1, 0\nldxdw %r0, [%r1]\nexit", args, allowed).error, EFAULT);
}

TEST(Interpreter, FrameIs512BytesAndNoMore) {
  EXPECT_EQ(run("stdw [%r10-512], 5\nldxdw %r0, [%r10-512]\nexit").value, 5U);
  EXPECT_EQ(run("stdw [%r10-513], 5\nexit").error, EFAULT);
  EXPECT_EQ(run("stb [%r10+0], 5\nexit").error, EFAULT);
  EXPECT_EQ(run("stdw [%r10-7], 5\nexit").error, EFAULT);
  EXPECT_EQ(run("ldxdw %r0, [%r10-8]\nexit").value, 0U);
}

TEST(Interpreter, CalleeReachesCallersFrameAndNotADeadOne) {
  EXPECT_EQ(run("stdw [%r10-8], 1\nmov %r1, %r10\ncall local f\nldxdw %r0, [%r10-8]\nexit\n"
                "f:\nstdw [%r1-8], 9\nstdw [%r10-8], 2\nmov %r0, 0\nexit")
                .value,
            9U);
  EXPECT_EQ(run("call local f\nldxdw %r0, [%r0-8]\nexit\nf:\nstdw [%r10-8], 2\nmov %r0, %r10\nexit")
                .error,
            EFAULT);
}

TEST(Interpreter, MisalignedAtomicFailsWithEfault) {
  EXPECT_EQ(run("mov %r1, 1\nlock add [%r10-12], %r1\nexit").error, EFAULT);
  EXPECT_EQ(run("mov %r1, 1\nlock add32 [%r10-12], %r1\nmov %r0, 0\nexit").error, 0);
}

TEST(Interpreter, OutOfFuelEndsWithZeroAndSaysSo) {
  const Outcome endless = run("mov %r0, 7\nl:\nja l", {}, {}, {}, 1000);
  EXPECT_EQ(endless.error, 0);
  EXPECT_EQ(endless.value, 0U);
  EXPECT_EQ(endless.hit.ended, kHitOutOfFuel);
  const std::string_view ten = "mov %r0, 10\nl:\nsub %r0, 1\njne %r0, 0, l\nmov %r0, 3\nexit";
  EXPECT_EQ(run(ten, {}, {}, {}, 10).value, 3U);
  EXPECT_EQ(run(ten, {}, {}, {}, 10).hit.fuel, 0);
  EXPECT_EQ(run(ten, {}, {}, {}, 9).hit.ended, kHitOutOfFuel);
}

uint64_t add_all(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, Hit* hit) {
  return a + b + c + d + e + (hit->ended == kHitNormal ? 1000 : 0);
}

TEST(Interpreter, HelpersGetFiveArgumentsAndTheHit) {
  const std::array<uint64_t, 2> slots = {reinterpret_cast<uint64_t>(&add_all), 0};
  EXPECT_EQ(run("mov %r1, 1\nmov %r2, 2\nmov %r3, 3\nmov %r4, 4\nmov %r5, 5\ncall 77\nexit", {}, {},
                std::span(slots).first(1))
                .value,
            1015U);
  EXPECT_EQ(run("call 77\ncall 78\nexit", {}, {}, slots).error, EINVAL);
}

// bpf_loop in small: (rounds, callback, context)
uint64_t loop(uint64_t rounds, uint64_t callback, uint64_t context, uint64_t, uint64_t, Hit* hit) {
  for (uint64_t i = 0; i < rounds; ++i) {
    if (reinterpret_cast<HelperFn>(callback)(i, context, 0, 0, 0, hit) != 0) {
      return i + 1;
    }
  }
  return rounds;
}

TEST(Interpreter, FunctionReferenceIsAHelperFn) {
  const std::array<uint64_t, 1> slots = {reinterpret_cast<uint64_t>(&loop)};
  const std::string_view sum =
      "stdw [%r10-8], 0\nmov %r6, 77\nmov %r1, 10\nlddw %r2, func f\nmov %r3, %r10\nadd %r3, -8\n"
      "mov %r4, 0\ncall 181\nldxdw %r0, [%r10-8]\njne %r6, 77, bad\nexit\nbad:\nmov %r0, 0\nexit\n"
      "f:\nmov %r6, 1\nldxdw %r3, [%r2]\nadd %r3, %r1\nstxdw [%r2], %r3\nmov %r0, 0\nexit";
  EXPECT_EQ(run(sum, {}, {}, slots).value, 45U);
  const Outcome bad =
      run("mov %r1, 10\nlddw %r2, func f\ncall 181\nexit\nf:\nmov %r1, 0\nldxb %r0, [%r1]\nexit",
          {}, {}, slots);
  EXPECT_EQ(bad.error, EFAULT);
  EXPECT_EQ(bad.insn, 6U);
  const Outcome endless = run("mov %r1, 10\nlddw %r2, func f\ncall 181\nmov %r0, 1\nexit\nf:\nja f",
                              {}, {}, slots, 100);
  EXPECT_EQ(endless.value, 0U);
  EXPECT_EQ(endless.hit.ended, kHitOutOfFuel);
}

TEST(Interpreter, SlotsAreNumberedByFirstUse) {
  const std::array<uint64_t, 3> slots = {100, 20, 3};
  EXPECT_EQ(
      run("lddw %r0, map 4\nlddw %r1, mapvalue 4+8\nlddw %r2, mapvalue 4+16\nlddw %r3, map 4\n"
          "add %r0, %r1\nadd %r0, %r2\nadd %r0, %r3\nexit",
          {}, {}, slots)
          .value,
      223U);
}

TEST(Interpreter, UnsupportedReferencesFailWithEopnotsupp) {
  EXPECT_EQ(run("call kfunc 3\nexit").error, EOPNOTSUPP);
  EXPECT_EQ(run("raw 0x3018\nraw 0\nexit").error, EOPNOTSUPP);
  EXPECT_EQ(run("raw 0x00000001000121bf\nexit").error, EOPNOTSUPP);
}

TEST(Interpreter, MayGotoEndsALoopAfterEightMillionRounds) {
  const Outcome outcome = run("mov %r0, 0\nl:\nmay_goto out\nadd %r0, 1\nja l\nout:\nexit");
  EXPECT_EQ(outcome.value, 8U << 20);
  EXPECT_EQ(outcome.hit.ended, kHitNormal);
}

}  // namespace
}  // namespace bpftime
