// What compiled code promises to its host: registers, fuel, faults, callbacks, slots. What it
// computes is tested in tests/vm.
#include "jit_x64/compile.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "isa/testing/assembler.hpp"

namespace bpftime {
namespace {

// Compiled code, mapped for this process.
struct Mapped {
  CompiledProgram program;
  std::byte* at = nullptr;
  size_t bytes = 0;
  ~Mapped() {
    if (at != nullptr) {
      ::munmap(at, bytes);
    }
  }
};

Result<CompiledProgram> compiled(std::string_view text, const CompileOptions& options = {}) {
  std::string message;
  auto insns = testing::assemble(text, &message);
  EXPECT_TRUE(insns) << message;
  if (!insns) {
    return insns.error();
  }
  return compile_x64(TRY(decode(std::span(insns.value()))), options);
}

void map(std::string_view text, Mapped* mapped, const CompileOptions& options = {}) {
  auto program = compiled(text, options);
  ASSERT_TRUE(program) << program.error().why;
  mapped->program = std::move(program).value();
  mapped->bytes = mapped->program.code.size();
  void* at =
      ::mmap(nullptr, mapped->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  std::memcpy(at, mapped->program.code.data(), mapped->bytes);
  ASSERT_EQ(::mprotect(at, mapped->bytes, PROT_READ | PROT_EXEC), 0);
  mapped->at = static_cast<std::byte*>(at);
}

struct Registers {
  uint64_t rbx, rbp, r12, r13, r14, r15;
};

// uint64_t call_marked(code, context, hit, Registers* after): calls the code with marks in the
// callee-saved registers; `after` is what they are when it has returned.
__asm__(R"(
  .text
  .globl call_marked
call_marked:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  pushq %rcx
  movq %rdi, %rax
  movq %rsi, %rdi
  movq %rdx, %rsi
  movq $0x1111, %rbx
  movq $0x2222, %rbp
  movq $0x3333, %r12
  movq $0x4444, %r13
  movq $0x5555, %r14
  movq $0x6666, %r15
  callq *%rax
  popq %rcx
  movq %rbx, 0(%rcx)
  movq %rbp, 8(%rcx)
  movq %r12, 16(%rcx)
  movq %r13, 24(%rcx)
  movq %r14, 32(%rcx)
  movq %r15, 40(%rcx)
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  retq
)");
extern "C" uint64_t call_marked(const void* code, void* context, Hit* hit, Registers* after);

// Runs, and checks that callee-saved registers are as they were.
uint64_t run(const Mapped& mapped, Hit* hit, void* context = nullptr) {
  Registers after{};
  const uint64_t value = call_marked(mapped.at, context, hit, &after);
  EXPECT_EQ(after.rbx, 0x1111U);
  EXPECT_EQ(after.rbp, 0x2222U);
  EXPECT_EQ(after.r12, 0x3333U);
  EXPECT_EQ(after.r13, 0x4444U);
  EXPECT_EQ(after.r14, 0x5555U);
  EXPECT_EQ(after.r15, 0x6666U);
  return value;
}

constexpr std::string_view kDeep =
    "mov %r6, 1\nmov %r1, 5\ncall local f\nmov %r0, 7\nexit\n"
    "f:\nmov %r7, 2\nstdw [%r10-8], 1\ncall local g\nexit\n"
    "g:\nmov %r8, 2\nmov %r9, 2\nstdw [%r10-512], 1\n";

// Over every number of bytes, so that the jumps are short, just short, just long, long.
TEST(CompileX64, ForwardJumpsReachOverAnyDistance) {
  for (int threes = 0; threes < 48; threes++) {
    for (int fours = 0; fours < 4; fours++) {
      for (const char* jump : {"ja", "jne %r0, 2,"}) {
        std::string text =
            "mov %r0, 1\n" + std::string(jump) + " +" + std::to_string(threes + fours) + "\n";
        for (int i = 0; i < threes; i++) {
          text += "add %r0, %r0\n";  // 3 bytes of code
        }
        for (int i = 0; i < fours; i++) {
          text += "add %r0, 5\n";  // 4
        }
        text += "exit\n";
        Mapped mapped;
        map(text, &mapped);
        EXPECT_EQ(run(mapped, nullptr), 1U) << text;
      }
    }
  }
}

TEST(CompileX64, LeavesFromAnyDepthWhenFuelIsUsedUp) {
  Mapped mapped;
  map(std::string(kDeep) + "l:\nja l", &mapped);
  Hit hit{nullptr, 100, kHitNormal, 0, 0};
  EXPECT_EQ(run(mapped, &hit), 0U);
  EXPECT_EQ(hit.ended, kHitOutOfFuel);
  EXPECT_EQ(hit.fuel, -1);
}

TEST(CompileX64, SpendsOneForEachBackwardJump) {
  Mapped mapped;
  map("mov %r0, 10\nl:\nsub %r0, 1\njne %r0, 0, l\nmov %r0, 3\nexit", &mapped);
  Hit hit{nullptr, 10, kHitNormal, 0, 0};
  EXPECT_EQ(run(mapped, &hit), 3U);
  EXPECT_EQ(hit.fuel, 0);
  hit.fuel = 9;
  EXPECT_EQ(run(mapped, &hit), 0U);
  EXPECT_EQ(hit.ended, kHitOutOfFuel);
}

TEST(CompileX64, WithoutLoopsFuelIsNotTouched) {
  Mapped mapped;
  map("mov %r0, 3\nexit", &mapped);
  EXPECT_EQ(run(mapped, nullptr), 3U);  // nothing in it needs a hit
  EXPECT_TRUE(mapped.program.faults.empty());
}

Mapped* faulting = nullptr;
Hit* faulting_hit = nullptr;

void on_fault(int, siginfo_t*, void* context) {
  auto* state = static_cast<ucontext_t*>(context);
  const auto ip = static_cast<uint64_t>(state->uc_mcontext.gregs[REG_RIP]);
  const uint64_t offset = ip - reinterpret_cast<uint64_t>(faulting->at);
  for (const FaultRange& range : faulting->program.faults) {
    if (offset >= range.code_begin && offset < range.code_end) {
      faulting_hit->ended = kHitFault;
      state->uc_mcontext.gregs[REG_RIP] =
          static_cast<greg_t>(reinterpret_cast<uint64_t>(faulting->at) + range.resume_at);
      state->uc_mcontext.gregs[REG_RDI] =
          static_cast<greg_t>(reinterpret_cast<uint64_t>(faulting_hit));
      return;
    }
  }
  ::signal(SIGSEGV, SIG_DFL);
}

TEST(CompileX64, FaultResumesAtTheStubFromAnyDepth) {
  struct sigaction action{};
  struct sigaction old{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGSEGV, &action, &old);
  const std::string bodies[] = {
      "mov %r1, 8\nldxb %r0, [%r1]\nexit",
      std::string(kDeep) + "mov %r1, 8\nstxdw [%r1], %r1\nmov %r0, 1\nexit",
      "mov %r6, 8\nmov %r0, 0\nlock add [%r6+0], %r0\nexit",
  };
  for (const std::string& body : bodies) {
    Mapped mapped;
    map(body, &mapped);
    Hit hit{nullptr, 100, kHitNormal, 0, 0};
    faulting = &mapped;
    faulting_hit = &hit;
    EXPECT_EQ(run(mapped, &hit), 0U);
    EXPECT_EQ(hit.ended, kHitFault);
  }
  ::sigaction(SIGSEGV, &old, nullptr);
}

uint64_t sum(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, Hit* hit) {
  EXPECT_EQ(reinterpret_cast<uint64_t>(__builtin_frame_address(0)) % 16, 0U);
  hit->fuel += 1000;
  return a + b + c + d + e;
}

TEST(CompileX64, HelpersGetArgumentsHitAndAnAlignedStack) {
  const std::string args = "mov %r1, 1\nmov %r2, 2\nmov %r3, 3\nmov %r4, 4\nmov %r5, 5\n";
  const std::array<uint64_t, 1> slots = {reinterpret_cast<uint64_t>(&sum)};
  for (const std::string& frame : {std::string(), std::string("stdw [%r10-8], 1\n")}) {
    for (int saved = 0; saved < 5; ++saved) {
      std::string text = frame;
      for (int reg = 6; reg < 6 + saved; ++reg) {
        text += "mov %r" + std::to_string(reg) + ", 0\n";
      }
      Mapped main_calls;
      map(text + args + "call 3\nexit", &main_calls);
      Hit hit{slots.data(), 0, kHitNormal, 0, 0};
      EXPECT_EQ(run(main_calls, &hit), 15U);
      EXPECT_EQ(hit.fuel, 1000);
      Mapped function_calls;
      map(frame + "call local f\nexit\nf:\n" + text + args + "call 3\nexit", &function_calls);
      EXPECT_EQ(run(function_calls, &hit), 15U);
    }
  }
}

TEST(CompileX64, FuelThatAHelperSpendsIsSpent) {
  const std::array<uint64_t, 1> slots = {reinterpret_cast<uint64_t>(&sum)};
  Mapped mapped;
  map("mov %r6, 10\nl:\nmov %r1, 0\nmov %r2, 0\nmov %r3, 0\nmov %r4, 0\nmov %r5, 0\ncall 3\n"
      "sub %r6, 1\njne %r6, 0, l\nmov %r0, 1\nexit",
      &mapped);
  Hit hit{slots.data(), 5, kHitNormal, 0, 0};
  EXPECT_EQ(run(mapped, &hit), 1U);
  EXPECT_EQ(hit.fuel, 5 + 10 * 1000 - 10);
}

// bpf_loop in small.
uint64_t loop(uint64_t rounds, uint64_t callback, uint64_t context, uint64_t, uint64_t, Hit* hit) {
  for (uint64_t i = 0; i < rounds; ++i) {
    if (reinterpret_cast<HelperFn>(callback)(i, context, 0, 0, 0, hit) != 0) {
      return i + 1;
    }
  }
  return rounds;
}

TEST(CompileX64, FunctionReferenceIsAHelperFn) {
  const std::array<uint64_t, 1> slots = {reinterpret_cast<uint64_t>(&loop)};
  Mapped mapped;
  map("stdw [%r10-8], 0\nmov %r6, 77\nmov %r1, 10\nlddw %r2, func f\nmov %r3, %r10\nadd %r3, -8\n"
      "mov %r4, 0\ncall 181\nldxdw %r0, [%r10-8]\nadd %r0, %r6\nexit\n"
      "f:\nmov %r6, 1\nmov %r9, 3\nl:\nsub %r9, 1\njne %r9, 0, l\nldxdw %r3, [%r2]\nadd %r3, %r1\n"
      "stxdw [%r2], %r3\nmov %r0, 0\nexit",
      &mapped);
  Hit hit{slots.data(), 1000, kHitNormal, 0, 0};
  EXPECT_EQ(run(mapped, &hit), 45U + 77U);
  EXPECT_EQ(hit.fuel, 1000 - 30);
  hit.fuel = 20;  // runs out in the seventh callback, below the helper
  EXPECT_EQ(run(mapped, &hit), 0U);
  EXPECT_EQ(hit.ended, kHitOutOfFuel);
}

TEST(CompileX64, SlotsAreListedOnceByFirstUse) {
  const auto program = compiled(
      "lddw %r1, map 4\nlddw %r2, mapvalue 4+8\nlddw %r3, mapvalue 4+16\nlddw %r3, map 4\ncall "
      "5\ncall 6\ncall 5\nexit");
  ASSERT_TRUE(program);
  const std::vector<Slot>& slots = program.value().slots;
  ASSERT_EQ(slots.size(), 5U);
  EXPECT_TRUE(slots[0].kind == SlotKind::kMap && slots[0].id == 4);
  EXPECT_TRUE(slots[1].kind == SlotKind::kMapValue && slots[1].id == 4 && slots[1].addend == 8);
  EXPECT_TRUE(slots[2].kind == SlotKind::kMapValue && slots[2].addend == 16);
  EXPECT_TRUE(slots[3].kind == SlotKind::kHelper && slots[3].id == 5);
  EXPECT_TRUE(slots[4].kind == SlotKind::kHelper && slots[4].id == 6);
}

TEST(CompileX64, MapValuesComeFromTheSlotTable) {
  Mapped mapped;
  map("lddw %r0, mapvalue 4+8\nlddw %r9, map 9\nadd %r0, %r9\nexit", &mapped);
  const std::array<uint64_t, 2> slots = {1000, 20};
  Hit hit{slots.data(), 0, kHitNormal, 0, 0};
  EXPECT_EQ(run(mapped, &hit), 1020U);
}

TEST(CompileX64, ManySlotsAreFound) {
  std::string text = "mov %r0, 0\n";
  std::vector<uint64_t> slots;
  uint64_t expected = 0;
  for (uint64_t i = 0; i < 300; ++i) {
    text += "lddw %r1, map " + std::to_string(i) + "\nadd %r0, %r1\n";
    slots.push_back(i * i);
    expected += i * i;
  }
  Mapped mapped;
  map(text + "exit", &mapped);
  Hit hit{slots.data(), 0, kHitNormal, 0, 0};
  EXPECT_EQ(run(mapped, &hit), expected);
}

TEST(CompileX64, StackBytesHoldTheDeepestChain) {
  const auto one = compiled("stdw [%r10-8], 1\nmov %r0, 0\nexit");
  const auto three = compiled(std::string(kDeep) + "mov %r0, 0\nexit");
  ASSERT_TRUE(one && three);
  EXPECT_GE(one.value().stack_bytes, 512U);
  EXPECT_LE(one.value().stack_bytes, 640U);
  EXPECT_GE(three.value().stack_bytes, 2 * 512U);
  EXPECT_LE(three.value().stack_bytes, 3 * 640U);
}

TEST(CompileX64, RecursionAndDepthFailWithE2big) {
  const auto recursive = compiled("call local f\nexit\nf:\ncall local f\nexit");
  ASSERT_FALSE(recursive);
  EXPECT_EQ(recursive.error().code, E2BIG);
}

TEST(CompileX64, UnsupportedReferencesFailWithEopnotsupp) {
  for (const std::string_view text :
       {"call kfunc 3\nexit", "raw 0x3018\nraw 0\nexit", "raw 0x00000001000121bf\nexit"}) {
    const auto program = compiled(text);
    ASSERT_FALSE(program);
    EXPECT_EQ(program.error().code, EOPNOTSUPP);
  }
}

// ---- with what the verifier learned

// The facts of a program, by hand: nothing is known of an instruction until it is said.
struct Known {
  explicit Known(size_t count) : operands(count), dead(count) {}
  CompileOptions options() {
    CompileOptions options;
    options.operands = operands;
    options.dead = &dead;
    options.arrays = arrays;
    return options;
  }
  std::vector<OperandFacts> operands;
  std::vector<bool> dead;
  std::vector<KnownArray> arrays;
};

TEST(CompileX64, NoRunGoesThereNoCode) {
  const char* const text =
      "mov %r1, 1\njeq %r1, 1, out\ncall 99\nlddw %r2, map 7\nout:\nmov %r0, 5\nexit";
  Known known(7);
  known.operands[1].ways = kJumps;
  known.dead[2] = known.dead[3] = known.dead[4] = true;
  Mapped mapped;
  map(text, &mapped, known.options());
  EXPECT_TRUE(mapped.program.slots.empty());
  EXPECT_EQ(mapped.program.facts, 0U);
  EXPECT_EQ(run(mapped, nullptr), 5U);
  const auto smallest = compiled("mov %r0, 5\nexit");
  EXPECT_EQ(mapped.program.code.size(), smallest.value().code.size()) << "the jump went too";
}

TEST(CompileX64, WhatNobodyReadsIsNotComputed) {
  Known known(6);
  known.operands[3].points_to = kToStack;
  Mapped mapped;
  map("lddw %r1, map 7\nmov %r2, %r10\nldxdw %r3, [%r10-8]\nmov %r0, 5\nexit", &mapped,
      known.options());
  EXPECT_TRUE(mapped.program.slots.empty());
  EXPECT_TRUE(mapped.program.faults.empty());
  EXPECT_EQ(run(mapped, nullptr), 5U);
}

// It may end the program.
TEST(CompileX64, ALoadFromAnywhereIsMadeThoughNobodyReadsIt) {
  for (const uint8_t points_to : {uint8_t{0}, uint8_t{kToOther}}) {
    Known known(3);
    known.operands[0].points_to = points_to;
    const auto program = compiled("ldxdw %r3, [%r1+0]\nmov %r0, 5\nexit", known.options());
    EXPECT_FALSE(program.value().faults.empty());
  }
}

constexpr const char* kLookup =
    "stw [%r10-8], 2\nmov %r2, %r10\nadd %r2, -8\nlddw %r1, map 7\ncall 1\nexit";

TEST(CompileX64, LookupOfAKnownElementIsItsAddress) {
  Known known(7);
  known.arrays = {{9, 4, 8}, {7, 4, 24}};
  known.operands[5].map = 7;
  known.operands[5].lowest = known.operands[5].highest = 2;
  Mapped mapped;
  map(kLookup, &mapped, known.options());
  ASSERT_EQ(mapped.program.slots.size(), 1U);
  EXPECT_TRUE(mapped.program.slots[0].kind == SlotKind::kMapValue &&
              mapped.program.slots[0].id == 7 && mapped.program.slots[0].addend == 48);
  EXPECT_EQ(mapped.program.facts & kCallsHelpers, 0U);
  const uint64_t slot = 1000;
  Hit hit{&slot, 0, kHitNormal, 0, 0};
  EXPECT_EQ(run(mapped, &hit), 1000U);
}

TEST(CompileX64, LookupFindsTheElementThatTheKeyTells) {
  for (const uint32_t stride : {8U, 24U, 4096U}) {
    for (const uint64_t highest : {uint64_t{3}, uint64_t{UINT64_MAX}}) {
      for (const uint32_t index : {0U, 1U, 3U, 4U, 0x80000000U, 0xffffffffU}) {
        if (index > highest) {
          continue;
        }
        Known known(8);
        known.arrays = {{7, 4, stride}};
        known.operands[5].map = 7;
        known.operands[5].highest = highest;
        Mapped mapped;
        map("stxdw [%r10-8], %r1\nmov %r2, %r10\nadd %r2, -8\nlddw %r1, map 7\ncall 1\nexit",
            &mapped, known.options());
        const uint64_t slot = 1000;
        Hit hit{&slot, 0, kHitNormal, 0, 0};
        // The upper half is not the key's.
        const uint64_t context = 0xabcd'0000'0000 | index;
        EXPECT_EQ(run(mapped, &hit, reinterpret_cast<void*>(context)),
                  index < 4 ? 1000 + uint64_t{index} * stride : 0)
            << index;
      }
    }
  }
}

// A map that is known, but as no array, and one of which nothing is known.
TEST(CompileX64, OtherLookupsAreCalls) {
  for (const uint32_t id : {5U, UINT32_MAX}) {
    Known known(7);
    known.arrays = {{7, 4, 24}};
    known.operands[5].map = id;
    EXPECT_NE(compiled(kLookup, known.options()).value().facts & kCallsHelpers, 0U);
  }
}

TEST(CompileX64, DivisionByWhatIsNeverZero) {
  struct Case {
    const char* op;
    uint64_t lowest, highest, divisor, result;
  };
  for (const Case& c :
       {Case{"div", 1, UINT64_MAX, 7, 100 / 7}, Case{"mod", 1, UINT64_MAX, 7, 100 % 7},
        Case{"div", 0, UINT64_MAX, 0, 0}, Case{"mod", 0, UINT64_MAX, 0, 100},
        Case{"div32", 1, UINT32_MAX, 7, 100 / 7}, Case{"sdiv", 1, UINT64_MAX, ~0ULL, 0ULL - 100},
        Case{"sdiv", 1, 9, 7, 100 / 7}, Case{"smod", 1, UINT64_MAX, ~0ULL, 0}}) {
    Known known(4);
    known.operands[1].lowest = c.lowest;
    known.operands[1].highest = c.highest;
    Mapped mapped;
    map("mov %r0, 100\n" + std::string(c.op) + " %r0, %r1\nexit", &mapped, known.options());
    EXPECT_EQ(run(mapped, nullptr, reinterpret_cast<void*>(c.divisor)), c.result) << c.op;
    const auto checked = compiled("mov %r0, 100\n" + std::string(c.op) + " %r0, %r1\nexit");
    EXPECT_EQ(mapped.program.code.size() < checked.value().code.size(), c.lowest != 0);
  }
}

}  // namespace
}  // namespace bpftime
