// The planner on hand-made bytes: what it overwrites, what it refuses, where displaced instructions
// go.
#include "patchplan/plan.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "abi/trampoline.hpp"

using namespace bpftime;

namespace {

constexpr uint64_t kSite = 0x400000, kRoom = 0x10400000, kThunk = 0x20000000;

struct Case {
  std::vector<uint8_t> code;  // function, then what follows
  uint64_t function_bytes;
  uint64_t next = 0;  // where the next function begins; 0: at the end of `code`
  uint64_t offset = 0;
  bool wants_return = false;
  uint64_t thunk = kThunk, room = kRoom;
  std::vector<PaddingRange> padding = {};
  std::vector<RemoteAddr> targets = {};
};

Result<Plan> plan(const Case& c) {
  PlanInput input;
  input.function_begin = static_cast<RemoteAddr>(kSite);
  input.site = static_cast<RemoteAddr>(kSite + c.offset);
  input.code = c.code;
  input.function_bytes = c.function_bytes;
  input.bytes_to_next_function = c.next != 0 ? c.next : c.code.size();
  input.room = static_cast<RemoteAddr>(c.room);
  input.site_record = static_cast<RemoteAddr>(0x7000);
  input.entry_thunk = input.inside_thunk = input.return_thunk = static_cast<RemoteAddr>(c.thunk);
  input.wants_return = c.wants_return;
  input.padding = c.padding;
  input.jump_targets = c.targets;
  return plan_patch(input);
}

std::vector<uint8_t> copy_of(const Plan& p, uint64_t from, size_t bytes) {
  return {p.trampoline.begin() + static_cast<long>(from),
          p.trampoline.begin() + static_cast<long>(from + bytes)};
}

// push %rbp; mov %rsp,%rbp; push %r15; ret
const std::vector<uint8_t> kUsual = {0x55, 0x48, 0x89, 0xe5, 0x41, 0x57, 0xc3};

}  // namespace

TEST(Plan, UsualPrologueGetsAFiveByteJumpAndMoves) {
  const auto p = plan({.code = kUsual, .function_bytes = 7});
  ASSERT_TRUE(p);
  EXPECT_EQ(p->means, Means::kJump5);
  EXPECT_EQ(p->patch.site_bytes, 5u);
  EXPECT_EQ(p->displaced_bytes, 6u);
  EXPECT_EQ(0, std::memcmp(p->patch.before, kUsual.data(), 5));
  EXPECT_EQ(p->patch.after[0], 0xe9);
  int32_t distance;
  std::memcpy(&distance, p->patch.after + 1, 4);
  EXPECT_EQ(kSite + 5 + static_cast<uint64_t>(distance), kRoom + kTrampolineEntry);
  ASSERT_EQ(p->patch.move_count, 2u);
  EXPECT_EQ(p->patch.moves[0].offset_in_site, 1u);
  EXPECT_EQ(p->patch.moves[0].resume_at, kRoom + kEntryCopy + 1);
  EXPECT_EQ(p->patch.moves[1].offset_in_site, 4u);
  EXPECT_EQ(p->patch.moves[1].resume_at, kRoom + kEntryCopy + 4);
  EXPECT_EQ(copy_of(*p, kEntryCopy, 6), std::vector<uint8_t>(kUsual.begin(), kUsual.begin() + 6));
}

TEST(Plan, TrampolineNamesItsSite) {
  for (bool far : {false, true}) {
    const auto p = plan({.code = kUsual,
                         .function_bytes = 7,
                         .wants_return = true,
                         .thunk = far ? 0x7f0000000000 : kThunk});
    ASSERT_TRUE(p);
    uint64_t word;
    std::memcpy(&word, p->trampoline.data(), 8);
    EXPECT_EQ(word, 0x7000u);
    std::memcpy(&word, p->trampoline.data() + 8, 8);
    EXPECT_EQ(word, far ? 0x7f0000000000 : kThunk);
    EXPECT_EQ(p->trampoline[25], far ? 0xff : 0x90);
    EXPECT_EQ(copy_of(*p, kReturnCopy, 6),
              std::vector<uint8_t>(kUsual.begin(), kUsual.begin() + 6));
  }
}

TEST(Plan, LoneRetIsPatchedOverItsPadding) {
  const auto p = plan(
      {.code = {0xc3, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}, .function_bytes = 1});
  ASSERT_TRUE(p);
  EXPECT_EQ(p->means, Means::kPaddingJump);
  EXPECT_EQ(copy_of(*p, kEntryCopy, 1)[0], 0xc3);
  EXPECT_EQ(p->trampoline.size(), kEntryCopy + 1);  // nothing to go back to
}

TEST(Plan, ShortFunctionBeforeTheNextIsRefused) {
  const auto p =
      plan({.code = {0x89, 0xf8, 0xc3, 0x55, 0x55, 0x55}, .function_bytes = 3, .next = 3});
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, EOPNOTSUPP);
}

TEST(Plan, ShortFunctionJumpsIntoPaddingNearby) {
  const std::vector<uint8_t> nops(16, 0x90);
  for (int64_t away : {-100, 60, 127 + 2 - 11}) {
    const auto p =
        plan({.code = {0x89, 0xf8, 0xc3, 0x55, 0x55, 0x55},
              .function_bytes = 3,
              .next = 3,
              .padding = {{static_cast<RemoteAddr>(kSite + static_cast<uint64_t>(away)), nops}}});
    ASSERT_TRUE(p) << away;
    EXPECT_EQ(p->means, Means::kPaddingJump);
    EXPECT_EQ(p->patch.site_bytes, 2u);
    EXPECT_EQ(p->patch.after[0], 0xeb);
    const uint64_t hole = kSite + 2 + static_cast<uint64_t>(static_cast<int8_t>(p->patch.after[1]));
    EXPECT_EQ(raw(p->hole.site), hole);
    EXPECT_EQ(p->hole.site_bytes, 5u);
    EXPECT_EQ(p->hole.before[0], 0x90);
    int32_t distance;
    std::memcpy(&distance, p->hole.after + 1, 4);
    EXPECT_EQ(hole + 5 + static_cast<uint64_t>(distance), kRoom + kTrampolineEntry);
    EXPECT_GE(hole, kSite + static_cast<uint64_t>(away));
    EXPECT_LE(hole + 5, kSite + static_cast<uint64_t>(away) + 16);
  }
  const auto far = plan({.code = {0x89, 0xf8, 0xc3, 0x55, 0x55, 0x55},
                         .function_bytes = 3,
                         .next = 3,
                         .padding = {{static_cast<RemoteAddr>(kSite + 200), nops}}});
  EXPECT_FALSE(far);
}

TEST(Plan, JumpIntoTheOverwrittenBytesIsRefused) {
  // xor %eax,%eax; 1: inc %eax; dec %edi; jnz 1b; ret
  const std::vector<uint8_t> loop = {0x31, 0xc0, 0xff, 0xc0, 0xff, 0xcf, 0x75, 0xfa, 0xc3};
  const auto p = plan({.code = loop, .function_bytes = 9});
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, EOPNOTSUPP);
  // a 2-byte jump leaves the loop's head alone
  const std::vector<uint8_t> nops(8, 0xcc);
  EXPECT_TRUE(plan({.code = loop,
                    .function_bytes = 9,
                    .padding = {{static_cast<RemoteAddr>(kSite + 9), nops}}}));
  EXPECT_FALSE(
      plan({.code = kUsual, .function_bytes = 7, .targets = {static_cast<RemoteAddr>(kSite + 4)}}));
}

TEST(Plan, JumpToTheFirstByteIsAllowed) {
  // add $1,%rsi; dec %rdi; jnz 0; ret
  EXPECT_TRUE(plan(
      {.code = {0x48, 0x83, 0xc6, 1, 0x48, 0xff, 0xcf, 0x75, 0xf7, 0xc3}, .function_bytes = 10}));
}

TEST(Plan, NoInstructionIsEilseq) {
  const auto p = plan({.code = {0x06, 0x07, 0, 0, 0, 0, 0, 0}, .function_bytes = 8});
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, EILSEQ);
}

TEST(Plan, CallReturnsToTheOriginalCode) {
  // call +0x1000; ret
  const auto p = plan({.code = {0xe8, 0x00, 0x10, 0, 0, 0xc3}, .function_bytes = 6});
  ASSERT_TRUE(p);
  // push $0x400005; jmp
  EXPECT_EQ(copy_of(*p, kEntryCopy, 6), (std::vector<uint8_t>{0x68, 5, 0, 0x40, 0, 0xe9}));
}

TEST(Plan, ShortCallWouldReturnIntoTheJumpAndIsRefused) {
  // call *%rax; ret; nops
  const auto p = plan({.code = {0xff, 0xd0, 0xc3, 0x90, 0x90, 0x90, 0x90}, .function_bytes = 3});
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, EOPNOTSUPP);
}

TEST(Plan, SyscallThatMayBeRestartedIsMovedByItsEnd) {
  // mov %r10d... : 89 f8 (2), nop (1), syscall (0f 05) at 3, ret
  const auto p = plan({.code = {0x89, 0xf8, 0x90, 0x0f, 0x05, 0xc3}, .function_bytes = 6});
  ASSERT_TRUE(p);
  ASSERT_EQ(p->patch.move_count, 3u);
  EXPECT_EQ(p->patch.moves[1].offset_in_site, 3u);
  EXPECT_EQ(p->patch.moves[2].offset_in_site, 5u);
  EXPECT_EQ(p->patch.moves[2].resume_at, p->patch.moves[1].resume_at + 2);
}

TEST(Plan, FarOperandsBecomeAbsolute) {
  // lea 0x10(%rip),%rdi ; mov 0x10(%rip),%r12 ; room more than 2 GB away from both is unreachable
  // for the jump, so only the operand is far: the room lies at -1.5 GB, the operand at +1.5 GB.
  const uint64_t room = kSite + 0x100000000ULL - 0x60000000ULL - 0x100000000ULL;
  for (const std::vector<uint8_t>& code :
       {std::vector<uint8_t>{0x48, 0x8d, 0x3d, 0, 0, 0, 0x60, 0xc3},
        std::vector<uint8_t>{0x4c, 0x8b, 0x25, 0, 0, 0, 0x60, 0xc3}}) {
    const auto p = plan({.code = code, .function_bytes = 8, .room = room & ~15ULL});
    ASSERT_TRUE(p) << p.error().why;
    uint64_t target;
    std::memcpy(&target, p->trampoline.data() + kEntryCopy + 2, 8);
    EXPECT_EQ(target, kSite + 7 + 0x60000000);
  }
  // cmpb $0, far(%rip)
  const auto p = plan(
      {.code = {0x80, 0x3d, 0, 0, 0, 0x60, 0, 0xc3}, .function_bytes = 8, .room = room & ~15ULL});
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, EOPNOTSUPP);
}

TEST(Plan, RoomOutOfReachIsErange) {
  const auto p = plan({.code = kUsual, .function_bytes = 7, .room = 0x7f0000000000});
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, ERANGE);
}

TEST(Plan, InsideProbeKeepsTheRedZone) {
  const auto p = plan({.code = {0x55, 0x48, 0x89, 0xe5, 0x89, 0xf8, 0x83, 0xc0, 1, 0x5d, 0xc3},
                       .function_bytes = 11,
                       .offset = 4});
  ASSERT_TRUE(p);
  EXPECT_EQ(copy_of(*p, kTrampolineEntry, 5),
            (std::vector<uint8_t>{0x48, 0x8d, 0x64, 0x24, 0x80}));  // lea -128(%rsp),%rsp
  EXPECT_EQ(copy_of(*p, kInsideCopy, 5), (std::vector<uint8_t>{0x89, 0xf8, 0x83, 0xc0, 1}));
  EXPECT_EQ(kInsideReturn, 27u);
}

TEST(Plan, JumpTableBehindAnInsideProbeIsRefused) {
  // push %rbp; mov %rsp,%rbp; mov; add; jmp *%rax
  const auto p = plan({.code = {0x55, 0x48, 0x89, 0xe5, 0x89, 0xf8, 0x83, 0xc0, 1, 0xff, 0xe0},
                       .function_bytes = 11,
                       .offset = 4});
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, EOPNOTSUPP);
}

TEST(Plan, ReturnProbeOfAFunctionThatTakesRbxIsRefused) {
  // add %rbx,%rax; nop...; ret
  const std::vector<uint8_t> code = {0x48, 0x01, 0xd8, 0x90, 0x90, 0x90, 0xc3};
  EXPECT_FALSE(plan({.code = code, .function_bytes = 7, .wants_return = true}));
  EXPECT_TRUE(plan({.code = code, .function_bytes = 7}));
}

TEST(Plan, BranchThatProcessorsReadDifferentlyIsRefused) {
  EXPECT_FALSE(plan({.code = {0x66, 0xe9, 0, 1, 0, 0, 0x90, 0x90}, .function_bytes = 8}));
  // data16 data16 rex.W call, as for __tls_get_addr, is the same everywhere
  EXPECT_TRUE(plan({.code = {0x66, 0x66, 0x48, 0xe8, 0, 1, 0, 0, 0xc3}, .function_bytes = 9}));
}

TEST(Plan, ReturnsTwiceByName) {
  for (const char* name : {"vfork", "setjmp", "_setjmp", "__sigsetjmp", "getcontext", "swapcontext",
                           "vfork@@GLIBC_2.2.5"}) {
    EXPECT_TRUE(returns_twice(name)) << name;
  }
  EXPECT_FALSE(returns_twice("malloc"));
  EXPECT_FALSE(returns_twice("setjmp_not"));
}

TEST(Padding, OnlyBehindCodeThatHasEnded) {
  const std::vector<uint8_t> nops = {0x66, 0x90, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0xcc, 0x00};
  const std::vector<uint8_t> ends = {0x89, 0xf8, 0xc3}, runs_on = {0x89, 0xf8};
  EXPECT_EQ(find_padding(ends, nops, RemoteAddr{}).content.size(), nops.size());
  EXPECT_TRUE(find_padding(runs_on, nops, RemoteAddr{}).content.empty());
  EXPECT_TRUE(find_padding(ends, ends, RemoteAddr{}).content.empty());
}
