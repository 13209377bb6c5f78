#include "isa/context_use.hpp"

#include <gtest/gtest.h>

#include <string_view>

#include "isa/testing/assembler.hpp"

namespace bpftime {
namespace {

uint32_t use_of(std::string_view text) {
  std::string message;
  auto insns = testing::assemble(text, &message);
  EXPECT_TRUE(insns) << message;
  auto program = decode(std::span<const bpf_insn>(*insns));
  EXPECT_TRUE(program);
  return context_use(*program);
}

TEST(ContextUse, ReadsAreFollowedThroughCopiesAndBranches) {
  EXPECT_EQ(use_of("mov %r0, 0\nexit"), 0U);
  EXPECT_EQ(use_of("ldxdw %r0, [%r1+112]\nexit"), 1U << 14);
  EXPECT_EQ(use_of("mov %r6, %r1\nldxw %r0, [%r6+4]\nldxb %r0, [%r6+23]\nexit"), 1U << 0 | 1U << 2);
  EXPECT_EQ(use_of("ldxdw %r0, [%r1+4]\nexit"), 3U) << "across two words";
  EXPECT_EQ(use_of("mov %r6, %r1\njeq %r2, 0, +1\nmov %r6, 0\nldxdw %r0, [%r6+8]\nexit"), 1U << 1);
}

TEST(ContextUse, OtherUsesOfTheSameRegisterAreNotTheContexts) {
  EXPECT_EQ(use_of("mov %r1, %r10\nstdw [%r1-8], 1\nldxdw %r0, [%r1-8]\nexit"), 0U);
  EXPECT_EQ(use_of("lddw %r1, 0x1000\nldxdw %r0, [%r1+0]\nexit"), 0U);
  EXPECT_EQ(use_of("call 5\nldxdw %r2, [%r0+0]\nexit"), kContextEscapes) << "r1 goes to the helper";
  EXPECT_EQ(use_of("mov %r1, 0\ncall 5\nldxdw %r1, [%r0+0]\nexit"), 0U);
}

TEST(ContextUse, WhatCannotBeFollowedEscapes) {
  EXPECT_EQ(use_of("stxdw [%r10-8], %r1\nexit"), kContextEscapes);
  EXPECT_EQ(use_of("add %r1, 8\nldxdw %r0, [%r1+0]\nexit"), kContextEscapes);
  EXPECT_EQ(use_of("mov32 %r2, %r1\nexit"), kContextEscapes);
  EXPECT_EQ(use_of("add %r0, %r1\nexit"), kContextEscapes);
  EXPECT_EQ(use_of("stdw [%r1+0], 1\nexit"), kContextEscapes);
  EXPECT_EQ(use_of("ldxdw %r0, [%r1-8]\nexit"), kContextEscapes);
  EXPECT_EQ(use_of("lock add [%r10-8], %r1\nexit"), kContextEscapes);
}

TEST(ContextUse, LocalCallsTakeItAlong) {
  EXPECT_EQ(use_of("call local f\nmov %r0, 0\nexit\nf:\nldxdw %r0, [%r1+16]\nexit"), 1U << 2);
  EXPECT_EQ(use_of("mov %r1, 0\ncall local f\nmov %r0, 0\nexit\nf:\nmov %r0, 0\nexit"), 0U);
  EXPECT_EQ(use_of("call local f\nldxdw %r0, [%r0+24]\nexit\nf:\nmov %r0, %r1\nexit"), 1U << 3);
}

}  // namespace
}  // namespace bpftime
