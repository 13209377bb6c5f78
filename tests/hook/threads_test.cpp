// Threads that come and go, signals on top of hits, coroutines inside probed functions, small and
// alternate stacks.
#include <gtest/gtest.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "fake_broker.hpp"
#include "seen.hpp"

using namespace bpftime;
using namespace bpftime::testing;

#define BODY extern "C" __attribute__((noipa, visibility("default")))

BODY long leaf(long n) { return n + 1; }
BODY long second(long n) { return n + 2; }
BODY long nested(long n) {
  long r = n > 0 ? nested(n - 1) : 0;
  __asm__ volatile("" : "+r"(r));
  return r + 1;
}

static void raise_usr1(pt_regs*, Site*) {
  syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), SIGUSR1);
}
static long in_handler;
static void handler_calls_second(int) { in_handler = second(40); }
static void on_signal(int signal, void (*handler)(int), int flags = 0) {
  struct sigaction action{};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigaction(signal, &action, nullptr);
}

TEST(Nested, HitInASignalHandlerOnTopOfAHitIsCountedAsMissed) {
  on_signal(SIGUSR1, handler_calls_second);
  for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
    Hooked a = hook(&leaf, probe);
    Hooked b = hook(&second, probe);
    second(0);
    const uint64_t missed = seen.block->missed;
    const uint64_t runs = missed_runs();
    forget();
    (probe == Probe::kReturn ? seen.on_return : seen.on_entry) = raise_usr1;
    in_handler = 0;
    EXPECT_EQ(leaf(1), 2);
    EXPECT_EQ(in_handler, 42);
    EXPECT_EQ(seen.block->missed, missed + 1);
    EXPECT_EQ(missed_runs(), runs + (probe == Probe::kBoth ? 2 : 1));
    EXPECT_EQ(seen.entries, probe == Probe::kReturn ? 0u : 1u);
    EXPECT_EQ(seen.returns, probe == Probe::kEntry ? 0u : 1u);
    EXPECT_EQ(thread_block()->guard, 0u);
    forget_callbacks();
    EXPECT_EQ(leaf(1), 2);
    EXPECT_EQ(second(1), 3);
    EXPECT_EQ(seen.entries, probe == Probe::kReturn ? 0u : 3u);
    a.restore();
    b.restore();
  }
}

static sigjmp_buf env;
static void jump_out(int) { siglongjmp(env, 1); }

TEST(Nested, LongjmpOutOfAHitDoesNotSilenceTheThread) {
  on_signal(SIGUSR1, jump_out);
  for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
    Hooked h = hook(&leaf, probe);
    Hooked n = hook(&nested, probe);
    forget();
    (probe == Probe::kReturn ? seen.on_return : seen.on_entry) = raise_usr1;
    static int i;  // not in a register over longjmp
    for (i = 0; i < 1000; i++) {
      if (sigsetjmp(env, 1) == 0) {
        leaf(1);
        ADD_FAILURE() << "not reached";
      }
    }
    forget_callbacks();
    const uint64_t entries = seen.entries;
    const uint64_t returns = seen.returns;
    EXPECT_GE(entries + returns, 990u);  // every hit jumped out of, but that does not stop the next
    EXPECT_EQ(nested(5), 6);
    EXPECT_EQ(leaf(1), 2);
    EXPECT_GE(seen.entries - entries, probe == Probe::kReturn ? 0u : 7u);
    EXPECT_GE(seen.returns - returns, probe == Probe::kEntry ? 0u : 6u);
    EXPECT_EQ(thread_block()->guard, 0u);
    h.restore();
    n.restore();
  }
}

// ---- stacks ----
static long on_alt_result;
static void handler_calls_leaf(int) { on_alt_result = leaf(1); }

struct AlternateStack {
  explicit AlternateStack(size_t bytes) : memory(bytes) {
    stack_t here{};
    here.ss_sp = memory.data();
    here.ss_size = memory.size();
    sigaltstack(&here, nullptr);
  }
  ~AlternateStack() {
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
  }
  AlternateStack(const AlternateStack&) = delete;
  AlternateStack& operator=(const AlternateStack&) = delete;
  [[nodiscard]] bool holds(uint64_t address) const {
    const auto low = reinterpret_cast<uint64_t>(memory.data());
    return address > low && address < low + memory.size();
  }
  std::vector<char> memory;
};

TEST(Stacks, HitInAHandlerOnTheAlternateStackStaysThere) {
  Hooked h = hook(&leaf, Probe::kBoth);
  const AlternateStack alternate(64 << 10);
  on_signal(SIGUSR2, handler_calls_leaf, SA_ONSTACK);
  forget();
  raise(SIGUSR2);
  EXPECT_EQ(on_alt_result, 2);
  EXPECT_EQ(seen.entries, 1u);
  EXPECT_TRUE(alternate.holds(seen.entry_stack));
  EXPECT_TRUE(alternate.holds(seen.return_stack));
  // and on the ordinary stack again
  forget();
  leaf(1);
  EXPECT_GT(seen.entry_stack, seen.block->hit_stack_top - kHitStackBytes);
  EXPECT_LE(seen.entry_stack, seen.block->hit_stack_top);
  h.restore();
}

TEST(Stacks, FurtherSignalDuringAHitOnTheAlternateStackDoesNotOverwriteIt) {
  Hooked h = hook(&leaf, Probe::kEntry);
  const AlternateStack alternate(128 << 10);
  static volatile uint64_t canary_seen;
  on_signal(
      SIGUSR2,
      [](int) {
        volatile uint64_t canary[64];
        for (int i = 0; i < 64; i++) {
          canary[i] = 0xc0ffee + static_cast<uint64_t>(i);
        }
        leaf(1);  // during this hit, SIGUSR1 comes, on the alternate stack too
        canary_seen = 0;
        for (int i = 0; i < 64; i++) {
          canary_seen = canary_seen + (canary[i] == 0xc0ffee + static_cast<uint64_t>(i));
        }
      },
      SA_ONSTACK);
  on_signal(
      SIGUSR1,
      [](int) {
        volatile char waste[8000];
        for (size_t i = 0; i < sizeof waste; i++) {
          waste[i] = 0x55;
        }
      },
      SA_ONSTACK);
  forget();
  seen.on_entry = raise_usr1;
  raise(SIGUSR2);
  EXPECT_EQ(canary_seen, 64u);
  h.restore();
}

// A context of its own with `bytes` of stack, below which nothing may be written.
struct SmallStack {
  explicit SmallStack(size_t bytes) : size(bytes) {
    memory = static_cast<char*>(
        mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(memory, 4096, PROT_NONE);
  }
  ~SmallStack() { munmap(memory, 3 * 4096); }
  [[nodiscard]] char* bottom() const { return memory + 4096; }
  char* memory;
  size_t size;
};
static ucontext_t main_context;
static ucontext_t small_context;
static long small_result;

TEST(Stacks, TwoKilobytesAreEnough) {
  for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
    Hooked h = hook(&leaf, probe);
    SmallStack stack(2048);
    std::thread([&] {  // a new thread: its block is made on that stack
      forget();
      getcontext(&small_context);
      small_context.uc_stack.ss_sp = stack.bottom();
      small_context.uc_stack.ss_size = stack.size;
      small_context.uc_link = &main_context;
      makecontext(&small_context, reinterpret_cast<void (*)()>(+[] { small_result = leaf(6); }), 0);
      swapcontext(&main_context, &small_context);
    })
        .join();
    EXPECT_EQ(small_result, 7);
    EXPECT_EQ(seen.entries + seen.returns, probe == Probe::kBoth ? 2u : 1u);
    h.restore();
  }
}

// ---- coroutines ----
struct Coroutine {
  ucontext_t context, back;
  std::vector<char> stack;
  bool finished = false;
  long steps = 0;
};
static thread_local Coroutine* running;
static void yield() {
  Coroutine* self = running;
  swapcontext(&self->context, &self->back);
}
BODY long yields(long n) {  // a probed function that is left and entered again in its middle
  yield();
  long r = n > 0 ? yields(n - 1) : 0;
  __asm__ volatile("" : "+r"(r));
  yield();
  return r + 1;
}
static void coroutine_main() {
  Coroutine* self = running;
  for (int i = 0; i < 20; i++) {
    self->steps += yields(i % 4);
  }
  self->finished = true;
}
static __attribute__((noipa)) void resume(Coroutine* c) {
  running = c;
  swapcontext(&c->back, &c->context);
}
static void make(Coroutine* c) {
  c->stack.resize(64 << 10);
  getcontext(&c->context);
  c->context.uc_stack.ss_sp = c->stack.data();
  c->context.uc_stack.ss_size = c->stack.size();
  c->context.uc_link = &c->back;
  makecontext(&c->context, coroutine_main, 0);
}

TEST(Coroutines, SwitchingInsideProbedFunctionsKeepsEveryReturn) {
  Hooked h = hook(&yields, Probe::kBoth);
  std::vector<Coroutine> all(16);
  for (Coroutine& c : all) {
    make(&c);
  }
  forget();
  thread_block();
  const uint64_t missed = thread_block()->missed;
  bool more = true;
  for (unsigned turn = 0; more; turn++) {
    more = false;
    for (size_t i = 0; i < all.size(); i++) {
      Coroutine& c = all[(i * 7 + turn) % all.size()];
      if (!c.finished) {
        more = true;
        resume(&c);
      }
    }
  }
  for (Coroutine& c : all) {
    EXPECT_EQ(c.steps, 20 * (1 + 2 + 3 + 4) / 4);
  }
  EXPECT_EQ(seen.returns, 16u * 50);
  EXPECT_EQ(thread_block()->missed, missed);
  h.restore();
}

TEST(Coroutines, MigrationBetweenThreadsKeepsEveryReturn) {
  Hooked h = hook(&yields, Probe::kBoth);
  constexpr int kThreads = 4;
  std::vector<Coroutine> all(32);
  for (Coroutine& c : all) {
    make(&c);
  }
  forget();
  // Each round every thread resumes the coroutines that its neighbour had, so each migrates at each
  // step.
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, kThreads);
  std::vector<std::thread> threads;
  std::atomic<uint64_t> missed = 0;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < all.size(); i++) {
          if (static_cast<int>((i + static_cast<size_t>(round)) % kThreads) == t &&
              !all[i].finished) {
            resume(&all[i]);
          }
        }
        pthread_barrier_wait(&barrier);
      }
      missed += thread_block()->missed;
    });
  }
  for (std::thread& t : threads) {
    t.join();
  }
  for (Coroutine& c : all) {
    EXPECT_TRUE(c.finished);
    EXPECT_EQ(c.steps, 50);
  }
  EXPECT_EQ(missed, 0u);
  EXPECT_EQ(seen.returns, 32u * 50);
  h.restore();
}

// ---- threads ----
static __attribute__((noipa)) void* dies_in_probes(void* how) {
  for (int i = 0; i < 20; i++) {
    nested(3);
  }
  if (how != nullptr) {
    pthread_exit(nullptr);
  }
  return nullptr;
}
BODY void* probed_start(void* how) {
  dies_in_probes(how);
  return nullptr;
}

TEST(Threads, ManyShortThreadsThatReuseTcbsLoseNothing) {
  Hooked n = hook(&nested, Probe::kBoth);
  Hooked s = hook(&probed_start, Probe::kBoth);
  forget();
  const uint32_t blocks = bpftime_agent_state->block_count;
  constexpr int kRounds = 500;
  for (int i = 0; i < kRounds; i++) {
    pthread_t threads[4];
    for (long t = 0; t < 4; t++) {
      pthread_create(&threads[t], nullptr, probed_start, reinterpret_cast<void*>(t % 2));
    }
    for (pthread_t t : threads) {
      pthread_join(t, nullptr);
    }
  }
  EXPECT_EQ(seen.entries, kRounds * 4u * (20 * 4 + 1));
  EXPECT_EQ(seen.returns, kRounds * 4u * 20 * 4 + kRounds * 2u);  // half left by pthread_exit
  EXPECT_LT(bpftime_agent_state->block_count - blocks, 40u);
  n.restore();
  s.restore();
}

TEST(Threads, HashedThunksFindTheBlockWithoutGs) {
  AgentState* state = start_fake_broker();
  use_hashed_thunks(true);
  {
    Hooked n = hook(&nested, Probe::kBoth);
    Hooked l = hook(&leaf, Probe::kEntry);
    forget();
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; i++) {
      threads.emplace_back([] {
        for (int k = 0; k < 1000; k++) {
          if (nested(3) != 4 || leaf(1) != 2) {
            abort();
          }
        }
      });
    }
    for (std::thread& t : threads) {
      t.join();
    }
    EXPECT_EQ(seen.entries, 8u * 5000);
    EXPECT_EQ(seen.returns, 8u * 4000);
    n.restore();
    l.restore();
  }
  use_hashed_thunks(false);
  EXPECT_EQ(state->use_gs, 1u);
}

BODY long probed_fork_body(pid_t* child) {
  *child = fork();
  return 77;
}

TEST(Threads, ForkInsideAProbedFunctionReturnsInBoth) {
  Hooked f = hook(&probed_fork_body, Probe::kBoth);
  forget();
  pid_t child = -1;
  const long r = probed_fork_body(&child);
  if (child == 0) {
    _exit(r == 77 && seen.returns == 0 ? 0 : 1);  // wiped: nothing runs, yet it returns rightly
  }
  int status = 1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(r, 77);
  EXPECT_EQ(seen.returns, 1u);
  f.restore();
}
