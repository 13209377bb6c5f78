#include <gtest/gtest.h>

#include <cerrno>

#include "isa/encode.hpp"
#include "isa/program.hpp"
#include "isa/testing/assembler.hpp"

namespace bpftime {
namespace {

std::vector<bpf_insn> assembled(std::string_view text) {
  std::string message;
  auto insns = testing::assemble(text, &message);
  EXPECT_TRUE(insns) << message;
  return insns ? std::move(insns).value() : std::vector<bpf_insn>{};
}

// The errno of decode(), 0 when it takes the program.
int decode_errno(const std::vector<bpf_insn>& insns, DecodeProblem* problem = nullptr) {
  const auto program = decode(std::span(insns), problem);
  return program ? 0 : program.error().code;
}
int decode_errno(std::string_view text, DecodeProblem* problem = nullptr) {
  return decode_errno(assembled(text), problem);
}
// One instruction, with what it needs around it.
int insn_errno(const bpf_insn& insn) {
  return decode_errno(std::vector{insn, mov_imm(0, 0), exit_insn()});
}

TEST(Decode, EmptyOrTooLongFailsWithE2big) {
  EXPECT_EQ(decode_errno(std::vector<bpf_insn>{}), E2BIG);
  std::vector<bpf_insn> insns(kMaxInsns + 1, mov_imm(0, 0));
  insns.back() = exit_insn();
  EXPECT_EQ(decode_errno(insns), E2BIG);
  insns.erase(insns.begin());
  EXPECT_EQ(decode_errno(insns), 0);
}

TEST(Decode, PartOfAnInstructionFailsWithEinval) {
  const std::vector<std::byte> bytes(12);
  const auto program = decode(std::span(bytes));
  ASSERT_FALSE(program);
  EXPECT_EQ(program.error().code, EINVAL);
}

TEST(Decode, ProblemNamesTheInstruction) {
  DecodeProblem problem;
  EXPECT_EQ(decode_errno("mov %r0, 0\nmov %r1, 0\nraw 0x99\nexit", &problem), EINVAL);
  EXPECT_EQ(problem.insn, 2U);
  EXPECT_STREQ(problem.why, "unknown opcode");
}

TEST(Decode, EveryOpcodeIsTakenOrRefusedAsByKernel618) {
  // The opcodes in kernel v6.18 kernel/bpf/core.c (BPF_INSN_MAP), less LD_ABS and LD_IND, which
  // need an skb.
  std::vector<bool> known(256);
  for (const int op : {0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xa0, 0xb0, 0xc0}) {
    for (const int form : {0x04, 0x0c, 0x07, 0x0f}) {
      known[static_cast<size_t>(op | form)] = true;
    }
  }
  for (const int code : {0x84, 0x87, 0xd4, 0xdc, 0xd7, 0x18, 0x05, 0x06, 0x85, 0x95, 0xe5}) {
    known[static_cast<size_t>(code)] = true;
  }
  for (const int op : {0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0}) {
    for (const int form : {0x05, 0x0d, 0x06, 0x0e}) {
      known[static_cast<size_t>(op | form)] = true;
    }
  }
  for (const int size : {0x00, 0x08, 0x10, 0x18}) {
    for (const int form : {0x61, 0x62, 0x63, 0xc3}) {
      known[static_cast<size_t>(size | form)] = true;
    }
    known[static_cast<size_t>(size | 0x81)] = size != 0x18;
  }
  for (unsigned code = 0; code < 256; ++code) {
    bpf_insn insn = make_insn(static_cast<uint8_t>(code), 1, 0, 0, 0);
    if (is_jump_class(insn.code) &&
        (insn_op(insn.code) == BPF_CALL || insn_op(insn.code) == BPF_EXIT ||
         insn_op(insn.code) == BPF_JA || insn_op(insn.code) == kJumpCond)) {
      insn.dst_reg = 0;
    }
    if (insn_op(insn.code) == BPF_END && (code & 7) != 5 && (code & 7) != 6) {
      insn.imm = 16;
    }
    if (insn_class(insn.code) == BPF_STX && insn_mode(insn.code) == BPF_ATOMIC) {
      insn.imm = kStoreRelease;
    }
    std::vector<bpf_insn> program = {insn};
    if (code == kOpLddw) {
      program.push_back(lddw_second(0));
    }
    program.push_back(exit_insn());
    EXPECT_EQ(decode_errno(program), known[code] ? 0 : EINVAL) << std::hex << code;
  }
}

TEST(Decode, ReservedFieldsFailWithEinval) {
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_ADD, 1, 1, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_ADD, 1, 0, 1, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_ADD | BPF_X, 1, 2, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_DIV | BPF_X, 1, 2, 1, 0)), 0);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_DIV | BPF_X, 1, 2, 2, 0)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 2, 32, 0)), 0);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU | BPF_MOV | BPF_X, 1, 2, 32, 0)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU | BPF_MOV | BPF_X, 1, 2, 1, 0)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 2, -1, 0)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 2, 1, 1)), 0);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 2, 1, 2)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_NEG, 1, 0, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU | BPF_END, 1, 0, 0, 17)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_END, 1, 0, 0, 64)), 0);
  EXPECT_EQ(insn_errno(make_insn(BPF_ALU64 | BPF_END | BPF_X, 1, 0, 0, 64)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_LDX | BPF_MEM, 1, 2, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_STX | BPF_MEM, 1, 2, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(BPF_ST | BPF_MEM, 1, 2, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpExit, 0, 0, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpJa, 0, 0, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpJa32, 0, 0, 1, 0)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpMayGoto, 0, 1, 0, 0)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpMayGoto, 0, 0, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpCall, 1, 0, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpCall, 0, 0, 1, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpCall, 0, kCallKfunc, 1, 1)), 0);
  EXPECT_EQ(insn_errno(make_insn(kOpCall, 0, 3, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(make_insn(kOpCall | BPF_X, 2, 0, 0, 0)), EINVAL);  // callx
  EXPECT_EQ(insn_errno(call_helper(0x7fffffff)), 0);  // an unknown helper is not our question
}

TEST(Decode, AtomicKindsAreThoseOfTheKernel) {
  for (int kind = 0; kind < 0x200; ++kind) {
    const int op = kind & 0xf0;
    const bool is_plain =
        (kind & ~0xf1) == 0 && (op == BPF_ADD || op == BPF_OR || op == BPF_AND || op == BPF_XOR);
    const bool is_word = is_plain || kind == BPF_XCHG || kind == BPF_CMPXCHG;
    const bool is_any = kind == kLoadAcquire || kind == kStoreRelease;
    EXPECT_EQ(insn_errno(atomic(BPF_DW, kind, 1, 0, 2)) == 0, is_word || is_any) << kind;
    EXPECT_EQ(insn_errno(atomic(BPF_W, kind, 1, 0, 2)) == 0, is_word || is_any) << kind;
    EXPECT_EQ(insn_errno(atomic(BPF_H, kind, 1, 0, 2)) == 0, is_any) << kind;
    EXPECT_EQ(insn_errno(atomic(BPF_B, kind, 1, 0, 2)) == 0, is_any) << kind;
  }
}

TEST(Decode, RegistersAboveTenAndWritesToTheFramePointerFailWithEinval) {
  EXPECT_EQ(insn_errno(mov_imm(11, 1)), EINVAL);
  EXPECT_EQ(insn_errno(mov_reg(1, 11)), EINVAL);
  EXPECT_EQ(insn_errno(mov_imm(10, 1)), EINVAL);
  EXPECT_EQ(insn_errno(alu64_imm(BPF_ADD, 10, 8)), EINVAL);
  EXPECT_EQ(insn_errno(load(BPF_DW, 10, 10, -8)), EINVAL);
  EXPECT_EQ(insn_errno(atomic(BPF_DW, BPF_ADD | BPF_FETCH, 1, 0, 10)), EINVAL);
  EXPECT_EQ(insn_errno(atomic(BPF_DW, BPF_ADD, 1, 0, 10)), 0);
  EXPECT_EQ(insn_errno(atomic(BPF_DW, BPF_CMPXCHG, 1, 0, 10)), 0);
  EXPECT_EQ(insn_errno(atomic(BPF_DW, kLoadAcquire, 10, 0, 1)), EINVAL);
  EXPECT_EQ(insn_errno(store(BPF_DW, 10, -8, 10)), 0);
  EXPECT_EQ(decode_errno(std::vector{lddw_first(10, kLoadImm, 0), lddw_second(0), exit_insn()}),
            EINVAL);
}

TEST(Decode, HalfOfA64BitLoadFailsWithEinval) {
  EXPECT_EQ(decode_errno(std::vector{lddw_first(0, kLoadImm, 1)}), EINVAL);
  EXPECT_EQ(decode_errno(std::vector{lddw_first(0, kLoadImm, 1), mov_imm(0, 0), exit_insn()}),
            EINVAL);
  EXPECT_EQ(decode_errno(std::vector{lddw_first(0, kLoadImm, 1), lddw_second(0)}), EINVAL);
  EXPECT_EQ(decode_errno(std::vector{lddw_second(0), exit_insn()}), EINVAL);
  EXPECT_EQ(
      decode_errno(std::vector{lddw_first(0, kLoadMapFd, 1), lddw_second(1ULL << 32), exit_insn()}),
      EINVAL);
  EXPECT_EQ(decode_errno(
                std::vector{lddw_first(0, kLoadMapValue, 1), lddw_second(1ULL << 32), exit_insn()}),
            0);
  EXPECT_EQ(decode_errno(std::vector{make_insn(kOpLddw, 0, 7, 0, 0), lddw_second(0), exit_insn()}),
            EINVAL);
}

TEST(Decode, JumpOutsideOrIntoA64BitLoadFailsWithEinval) {
  EXPECT_EQ(decode_errno("ja +1\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("ja -2\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("ja32 +2147483647\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("jeq %r1, 0, +1\nlddw %r0, 1\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("jeq %r1, 0, +2\nlddw %r0, 1\nexit"), 0);
  EXPECT_EQ(decode_errno("may_goto +1\nexit"), EINVAL);
}

TEST(Decode, JumpIntoAnotherFunctionFailsWithEinval) {
  EXPECT_EQ(decode_errno("call local f\nja +1\nf:\nmov %r0, 0\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("call local f\nexit\nf:\nja -2"), EINVAL);
}

TEST(Decode, FunctionMayEndWithABackwardJumpButNotFallOff) {
  EXPECT_EQ(decode_errno("mov %r0, 0\nja over\nback:\nexit\nover:\nja back"), 0);
  EXPECT_EQ(
      decode_errno("call local f\nexit\nback:\nexit\nf:\nja32 last\nout:\nexit\nlast:\nja32 out"),
      0);
  EXPECT_EQ(decode_errno("mov %r0, 0"), EINVAL);
  EXPECT_EQ(decode_errno("exit\njeq %r0, 0, -2"), EINVAL);
  EXPECT_EQ(decode_errno("call local f\nmov %r0, 0\nf:\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("call local f\nexit\nf:\nmay_goto -1"), EINVAL);
}

TEST(Decode, FunctionStartsAreTargetsOfCallsAndReferences) {
  const auto insns =
      assembled("call local f\nlddw %r2, func g\nexit\ng:\nexit\nf:\nmov %r0, 1\nexit");
  const auto program = decode(std::span(insns));
  ASSERT_TRUE(program);
  EXPECT_EQ(program.value().function_starts, (std::vector<uint32_t>{0, 4, 5}));
  EXPECT_EQ(function_of(program.value(), 3), 0U);
  EXPECT_EQ(function_of(program.value(), 6), 2U);
}

TEST(Decode, CallOutOfRangeIntoA64BitLoadOrToMainFailsWithEinval) {
  EXPECT_EQ(decode_errno("call local +1\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("call local -3\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("call local +3\nlddw %r0, 1\nexit\nexit"), 0);
  EXPECT_EQ(decode_errno("call local +1\nlddw %r0, 1\nexit"), EINVAL);
  EXPECT_EQ(decode_errno("mov %r0, 0\nexit\ncall local -3\nexit"), EINVAL);
  EXPECT_EQ(decode_errno(std::vector{call_local(0x7fffffff), exit_insn()}), EINVAL);
}

TEST(Decode, FirstInstructionMayBeACall) {
  EXPECT_EQ(decode_errno("call local f\nexit\nf:\nexit"), 0);
}

TEST(Decode, MoreThan256FunctionsFailWithE2big) {
  for (const int32_t functions : {256, 257}) {
    std::vector<bpf_insn> insns;
    for (int32_t f = 1; f < functions; ++f) {
      insns.push_back(
          call_local(functions - 1));  // the f-th call reaches the f-th exit after main's
    }
    insns.push_back(exit_insn());
    for (int32_t f = 1; f < functions; ++f) {
      insns.push_back(exit_insn());
    }
    EXPECT_EQ(decode_errno(insns), functions == 256 ? 0 : E2BIG);
  }
}

int depth_of(std::string_view text) {
  const auto insns = assembled(text);
  const auto program = decode(std::span(insns));
  EXPECT_TRUE(program);
  if (!program) {
    return -1;
  }
  const auto depth = call_depth(program.value());
  return depth ? static_cast<int>(depth.value()) : -depth.error().code;
}

TEST(CallDepth, CountsFramesAndRefusesRecursion) {
  EXPECT_EQ(depth_of("exit"), 1);
  EXPECT_EQ(depth_of("call local f\nexit\nf:\nexit"), 2);
  EXPECT_EQ(depth_of("lddw %r2, func f\nexit\nf:\nexit"), 2);
  EXPECT_EQ(depth_of("call local f\nexit\nf:\ncall local f\nexit"), -E2BIG);
  EXPECT_EQ(depth_of("call local f\nexit\nf:\ncall local g\nexit\ng:\ncall local f\nexit"), -E2BIG);
  std::string text = "call local f1\nexit\n";
  for (int f = 1; f < 7; ++f) {
    text += "f" + std::to_string(f) + ":\ncall local f" + std::to_string(f + 1) + "\nexit\n";
  }
  EXPECT_EQ(depth_of(text + "f7:\nexit"), 8);
  EXPECT_EQ(depth_of(text + "f7:\ncall local f8\nexit\nf8:\nexit"), -E2BIG);
}

}  // namespace
}  // namespace bpftime
