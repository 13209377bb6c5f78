// What a probe sees, and what the probed function and its caller do not notice.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <iterator>

#include "abi/hit_offsets.h"
#include "base/raw_syscall.hpp"
#include "fake_broker.hpp"
#include "seen.hpp"

using namespace bpftime;
using namespace bpftime::testing;

#define BODY extern "C" __attribute__((noipa, visibility("default")))

extern "C" {
long shape_five(long);
long shape_jcc(long);
long shape_rip();
long shape_call(long);
long shape_callee(long);
long shape_tail(long);
long shape_tail_to_five(long);
long shape_jrcxz(long, long, long, long);
long shape_loop_to_entry(long, long);
long shape_jumped_into(long);
long shape_ret(long);
long shape_short(long);
long shape_after_short(long);
long shape_endbr(long);
long shape_syscall(long);
long shape_inside();
extern char shape_inside_site[];
long shape_flags();
void shape_all();
uint64_t call_and_compare(void (*)());
extern long shape_call_returns_to;
extern int compare_with_df;
}

BODY long add_ten(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j) {
  return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f + 1000000 * g + 10000000 * h +
         100000000 * i + 1000000000 * j;
}

static uint64_t stack_words[2];  // seen from a callback

TEST(EntryProbe, SeesArgumentsAndStackArguments) {
  Hooked h = hook(&add_ten, Probe::kEntry);
  forget();
  seen.on_entry = [](pt_regs* regs, Site*) {
    stack_words[0] = reinterpret_cast<uint64_t*>(regs->rsp)[1];
    stack_words[1] = reinterpret_cast<uint64_t*>(regs->rsp)[4];
  };
  EXPECT_EQ(add_ten(1, 2, 3, 4, 5, 6, 7, 8, 9, 1), 1987654321);
  EXPECT_EQ(seen.entries, 1u);
  EXPECT_EQ(seen.entry.rdi, 1u);
  EXPECT_EQ(seen.entry.rsi, 2u);
  EXPECT_EQ(seen.entry.rdx, 3u);
  EXPECT_EQ(seen.entry.rcx, 4u);
  EXPECT_EQ(seen.entry.r8, 5u);
  EXPECT_EQ(seen.entry.r9, 6u);
  EXPECT_EQ(seen.entry.rip, reinterpret_cast<uint64_t>(&add_ten));
  EXPECT_EQ(seen.entry.cs, 0x33u);
  EXPECT_EQ(seen.entry.ss, 0x2bu);
  EXPECT_EQ(stack_words[0], 7u);
  EXPECT_EQ(stack_words[1], 1u);
  EXPECT_EQ(seen.entry_site, h.site);
  h.restore();
}

TEST(ReturnProbe, SeesReturnValueWithStackArguments) {
  for (Probe probe : {Probe::kReturn, Probe::kBoth}) {
    Hooked h = hook(&add_ten, probe);
    forget();
    EXPECT_EQ(add_ten(1, 2, 3, 4, 5, 6, 7, 8, 9, 1), 1987654321);
    EXPECT_EQ(seen.returns, 1u);
    EXPECT_EQ(seen.entries, probe == Probe::kBoth ? 1u : 0u);
    EXPECT_EQ(seen.ret.rax, 1987654321u);
    EXPECT_EQ(seen.return_site, h.site);
    if (probe == Probe::kBoth) {
      EXPECT_EQ(seen.ret.rsp, seen.entry.rsp + 8);
      EXPECT_EQ(seen.entry.rbx, seen.ret.rbx);
    }
    h.restore();
    forget();
    add_ten(1, 2, 3, 4, 5, 6, 7, 8, 9, 1);
    EXPECT_EQ(seen.returns, 0u);
  }
}

// The address in the caller that the function returns to.
BODY long called_from(void** return_address) {
  __asm__ volatile("" ::: "memory");
  *return_address = __builtin_return_address(0);
  return 5;
}

TEST(ReturnProbe, IpIsTheOriginalReturnAddress) {
  void* in_body = nullptr;
  Hooked h = hook(&called_from, Probe::kReturn);
  forget();
  called_from(&in_body);
  EXPECT_EQ(in_body, reinterpret_cast<void*>(&bpftime_return_point));
  // what lies before it is the call of called_from
  const auto* caller = reinterpret_cast<const uint8_t*>(seen.ret.rip);
  ASSERT_EQ(caller[-5], 0xe8);
  int32_t distance;
  std::memcpy(&distance, caller - 4, 4);
  EXPECT_EQ(caller + distance, reinterpret_cast<const uint8_t*>(&called_from));
  h.restore();
}

BODY double average(int count, ...) {
  va_list list;
  va_start(list, count);
  double sum = 0;
  for (int i = 0; i < count; i++) {
    sum += va_arg(list, double);
  }
  va_end(list);
  return sum / count;
}
struct Big {
  long a[5];
};
BODY Big big(long x) { return {{x, x + 1, x + 2, x + 3, x + 4}}; }
struct Pair {
  long a, b;
};
BODY Pair pair(long x) { return {x, -x}; }
BODY long double long_double(long double x) { return x * 2; }
BODY long takes_big(Big b, long x) { return b.a[4] + x; }

TEST(ReturnProbe, LeavesFloatsVarargsAndStructsAlone) {
  for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
    Hooked hooks[] = {hook(&average, probe), hook(&big, probe), hook(&pair, probe),
                      hook(&long_double, probe), hook(&takes_big, probe)};
    forget();
    EXPECT_EQ(average(10, 1., 2., 3., 4., 5., 6., 7., 8., 9., 10.), 5.5);
    EXPECT_EQ(big(7).a[4], 11);
    EXPECT_EQ(pair(9).b, -9);
    EXPECT_EQ(long_double(1.5L), 3.0L);
    EXPECT_EQ(takes_big({{1, 2, 3, 4, 5}}, 37), 42);
    EXPECT_EQ(seen.entries, probe == Probe::kReturn ? 0u : 5u);
    EXPECT_EQ(seen.returns, probe == Probe::kEntry ? 0u : 5u);
    for (Hooked& h : hooks) {
      h.restore();
    }
  }
}

TEST(Probe, ChangesNoRegisterNoFlagNoVector) {
  for (int df = 0; df < 2; df++) {
    compare_with_df = df;
    EXPECT_EQ(call_and_compare(&shape_all), 0u);
    for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
      Hooked h = hook(&shape_all, probe);
      forget();
      EXPECT_EQ(call_and_compare(&shape_all), 0u) << "df " << df;
      EXPECT_EQ(seen.entries + seen.returns, probe == Probe::kBoth ? 2u : 1u);
      EXPECT_EQ((probe == Probe::kReturn ? seen.ret : seen.entry).eflags & 0x8d5, 0x895u);
      h.disarm();
      EXPECT_EQ(call_and_compare(&shape_all), 0u) << "disarmed";
      EXPECT_EQ(seen.entries + seen.returns, probe == Probe::kBoth ? 2u : 1u);
      h.restore();
    }
  }
  compare_with_df = 0;
}

constexpr uint32_t kKinds[] = {kListPlain, kListPlain | kListFew, kListSimple};

// Plain and simple lists; with `again` what runs them says that it could not.
TEST(Probe, ListsOfOneProgramChangeNothingAndSeeTheirRegisters) {
  for (const uint32_t kind : kKinds) {
    for (const bool again : {false, true}) {
      for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
        const uint64_t hits = probe == Probe::kBoth ? 2 : 1;
        use_lists(kind, program_of(kind));
        for (int df = 0; df < 2; df++) {
          compare_with_df = df;
          Hooked h = hook(&shape_all, probe);
          forget();
          seen.plain_again = again;
          EXPECT_EQ(call_and_compare(&shape_all), 0u) << "df " << df << " kind " << kind;
          EXPECT_EQ(seen.plain, hits);
          EXPECT_EQ(seen.entries + seen.returns, again ? hits : 0);
          h.restore();
        }
        compare_with_df = 0;
        Hooked h = hook(&add_ten, probe);
        forget();
        seen.plain_again = again;
        uint64_t here = 0;
        EXPECT_EQ(add_ten(1, 2, 3, 4, 5, 6, 7, 8, 9, 1), 1987654321);
        if (probe == Probe::kEntry) {
          EXPECT_EQ(seen.plain_regs.rdi, 1u);
          EXPECT_EQ(seen.plain_regs.rsi, 2u);
          EXPECT_EQ(seen.plain_regs.rdx, 3u);
          const pt_regs& general = again ? seen.entry : seen.plain_regs;
          if (again || (kind & kListFew) == 0) {
            EXPECT_EQ(general.r8, 5u);
            EXPECT_EQ(general.r9, 6u);
          }
        } else {
          EXPECT_EQ(seen.plain_regs.rax, 1987654321u);
        }
        const uint64_t hit_stack = thread_block()->hit_stack_top - seen.plain_stack;
        EXPECT_EQ(hit_stack < kHitStackBytes, kind == kListSimple);
        const uint64_t distance = reinterpret_cast<uint64_t>(&here) - seen.plain_stack;
        EXPECT_EQ(distance < kHitStackBytes, kind != kListSimple);
        h.restore();
      }
    }
  }
  use_lists(0);
}

TEST(Probe, APlainProgramRunsNeitherForADeadBrokerNorBeforeTheHitIsSetUp) {
  for (const uint32_t kind : {uint32_t{kListPlain}, kListPlain | kListFew}) {
    for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
      const uint64_t hits = probe == Probe::kBoth ? 2 : 1;
      use_lists(kind, program_of(kind));
      Hooked h = hook(&shape_all, probe);
      forget();
      kill_broker(true);
      EXPECT_EQ(call_and_compare(&shape_all), 0u);
      EXPECT_EQ(seen.plain + seen.entries + seen.returns, 0u);
      kill_broker(false);
      const uint64_t before = thread_block()->hits;
      EXPECT_EQ(call_and_compare(&shape_all), 0u);
      EXPECT_EQ(seen.plain, hits);
      EXPECT_EQ(thread_block()->hits, before + hits);
      thread_block()->hit_space[HIT_ATTACHED / 8] = 0;
      EXPECT_EQ(call_and_compare(&shape_all), 0u);
      EXPECT_EQ(seen.plain, hits);
      EXPECT_EQ(seen.entries + seen.returns, hits);
      h.restore();
    }
  }
  use_lists(0);
}

TEST(Probe, AProgramThatReadsIsPlainOnlyOnAStackThatIsKnown) {
  for (const uint32_t kind : {uint32_t{kListPlain}, kListPlain | kListFew}) {
    for (const bool reads : {false, true}) {
      for (Probe probe : {Probe::kEntry, Probe::kReturn}) {
        use_lists(kind | (reads ? kListReads : 0U), program_of(kind));
        Hooked h = hook(&shape_all, probe);
        forget();
        ThreadBlock* const block = thread_block();
        block->plain_window = 0;
        std::fill(std::begin(block->plain_stacks), std::end(block->plain_stacks), 0);
        EXPECT_EQ(call_and_compare(&shape_all), 0u);
        EXPECT_EQ(seen.plain, reads ? 0u : 1u);
        EXPECT_EQ(seen.entries + seen.returns, reads ? 1u : 0u);
        EXPECT_EQ(call_and_compare(&shape_all), 0u);
        EXPECT_EQ(seen.plain, reads ? 1u : 2u);
        h.restore();
      }
    }
  }
  use_lists(0);
}

TEST(Probe, DisplacedInstructionsOfManyShapesWork) {
  for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
    Hooked hooks[] = {hook(&shape_five, probe),         hook(&shape_jcc, probe),
                      hook(&shape_rip, probe),          hook(&shape_call, probe),
                      hook(&shape_tail_to_five, probe), hook(&shape_jrcxz, probe),
                      hook(&shape_endbr, probe),        hook(&shape_syscall, probe),
                      hook(&shape_ret, probe),          hook(&shape_tail, probe)};
    forget();
    EXPECT_EQ(shape_five(37), 42);
    EXPECT_EQ(shape_jcc(0), 11);
    EXPECT_EQ(shape_jcc(1), 22);
    EXPECT_EQ(shape_rip(), 0x1122334455667788);
    EXPECT_EQ(shape_call(5), 106);
    // a displaced call returns to the original code
    EXPECT_EQ(shape_call_returns_to, reinterpret_cast<long>(&shape_call) + 5);
    EXPECT_EQ(shape_tail_to_five(1), 6);  // two probes
    EXPECT_EQ(shape_jrcxz(0, 0, 0, 0), 2);
    EXPECT_EQ(shape_jrcxz(0, 0, 0, 1), 1);
    EXPECT_EQ(shape_endbr(4), 7);
    EXPECT_EQ(shape_syscall(SYS_getpid), getpid());
    shape_ret(0);
    EXPECT_EQ(shape_tail(1), 101);
    const uint64_t calls = 13;
    EXPECT_EQ(seen.entries, probe == Probe::kReturn ? 0 : calls);
    EXPECT_EQ(seen.returns, probe == Probe::kEntry ? 0 : calls);
    for (Hooked& h : hooks) {
      h.restore();
    }
  }
}

TEST(Probe, JumpBackToTheFirstByteHitsAgain) {
  Hooked h = hook(&shape_loop_to_entry, Probe::kEntry);
  forget();
  EXPECT_EQ(shape_loop_to_entry(5, 0), 5);
  EXPECT_EQ(seen.entries, 5u);
  h.restore();
}

TEST(InsideProbe, KeepsFlagsAndRedZone) {
  EXPECT_EQ(shape_inside(), 3);
  const auto begin = reinterpret_cast<char*>(&shape_inside);
  Hooked h =
      hook_bytes(begin, 100, Probe::kEntry, static_cast<uint64_t>(shape_inside_site - begin));
  forget();
  seen.on_entry = [](pt_regs* regs, Site*) {
    stack_words[0] = reinterpret_cast<uint64_t*>(regs->rsp)[-1];
    stack_words[1] = reinterpret_cast<uint64_t*>(regs->rsp)[-16];
  };
  EXPECT_EQ(shape_inside(), 3);
  EXPECT_EQ(seen.entries, 1u);
  EXPECT_EQ(seen.entry.rip, reinterpret_cast<uint64_t>(shape_inside_site));
  EXPECT_EQ(seen.entry.rax, 0x80000000u);
  EXPECT_EQ(stack_words[0], 0x1111u);
  EXPECT_EQ(stack_words[1], 0x2222u);
  h.disarm();
  EXPECT_EQ(shape_inside(), 3);
  h.restore();
}

TEST(EntryProbe, OverrideReturnsToTheCaller) {
  for (Probe probe : {Probe::kEntry, Probe::kBoth}) {
    Hooked h = hook(&shape_five, probe);
    forget();
    seen.override_next = true;
    seen.override_value = 4711;
    EXPECT_EQ(shape_five(1), 4711);
    EXPECT_EQ(seen.returns, 0u);
    EXPECT_EQ(shape_five(1), 6);
    EXPECT_EQ(thread_block()->depth, 0u);
    h.restore();
  }
}

BODY long recursive(long n) {
  if (n == 0) {
    return 0;
  }
  long below = recursive(n - 1);
  __asm__ volatile("" : "+r"(below)::"memory");  // not a loop
  return 1 + below;
}

TEST(ReturnProbe, RecursionDeeperThanTheEntriesIsCountedAsMissed) {
  Hooked h = hook(&recursive, Probe::kBoth);
  forget();
  EXPECT_EQ(recursive(100), 100);
  EXPECT_EQ(seen.returns, 101u);
  const uint64_t missed = thread_block()->missed;
  const uint64_t runs = missed_runs();
  EXPECT_EQ(recursive(5000), 5000);
  EXPECT_EQ(seen.returns, 101u + kReturnEntries);
  EXPECT_EQ(seen.entries, 101u + 5001);
  EXPECT_EQ(thread_block()->missed - missed, 5001 - kReturnEntries);
  EXPECT_EQ(missed_runs() - runs, 5001 - kReturnEntries);
  EXPECT_EQ(recursive(200), 200);
  EXPECT_EQ(seen.returns, 101u + kReturnEntries + 201);
  h.restore();
}

BODY long sets_errno() {
  errno = 33;
  return 1;
}

TEST(Probe, LeavesErrnoAlone) {
  Hooked h = hook(&sets_errno, Probe::kBoth);
  forget();
  seen.on_return = [](pt_regs*, Site*) { raw_syscall(SYS_close, 987654); };
  errno = 0;
  sets_errno();
  EXPECT_EQ(errno, 33);
  h.restore();
}

TEST(Probe, CallbackRunsOnTheHitStack) {
  Hooked h = hook(&shape_five, Probe::kBoth);
  forget();
  shape_five(1);
  const ThreadBlock* block = thread_block();
  EXPECT_GT(seen.entry_stack, block->hit_stack_top - kHitStackBytes);
  EXPECT_LT(seen.entry_stack, block->hit_stack_top);
  EXPECT_GT(seen.return_stack, block->hit_stack_top - kHitStackBytes);
  EXPECT_LT(seen.return_stack, block->hit_stack_top);
  h.restore();
}

TEST(Plan, SomethingJumpsIntoTheDisplacedBytesIsRefused) {
  const Error* refusal = nullptr;
  hook_function(reinterpret_cast<void*>(&shape_jumped_into), Probe::kEntry, 0, &refusal);
  ASSERT_NE(refusal, nullptr);
  EXPECT_EQ(refusal->code, EOPNOTSUPP);
  EXPECT_EQ(shape_jumped_into(3), 3);
}

TEST(Probe, ForkedChildFindsTheTableWipedAndPassesThrough) {
  Hooked h = hook(&add_ten, Probe::kBoth);
  Hooked e = hook(&shape_five, Probe::kEntry);
  forget();
  add_ten(0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const pid_t child = fork();
  if (child == 0) {
    bool ok = add_ten(1, 2, 3, 4, 5, 6, 7, 8, 9, 1) == 1987654321 && shape_five(2) == 7;
    ok = ok && seen.cold == 2 && seen.entries == 1 && seen.returns == 1;
    _exit(ok ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(seen.cold, 0u);
  h.restore();
  e.restore();
}
