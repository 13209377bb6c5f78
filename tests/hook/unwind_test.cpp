// Whatever walks or leaves the stack goes through return probes and through hits as if they were
// not there.
#include <dlfcn.h>
#include <execinfo.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "fake_broker.hpp"
#include "seen.hpp"

#pragma GCC diagnostic ignored "-Winfinite-recursion"  // ends by longjmp, cancellation, exit
using namespace bpftime;
using namespace bpftime::testing;

#define BODY extern "C" __attribute__((noipa, visibility("default")))

namespace {

struct Hooks {
  explicit Hooks(std::vector<void*> functions, Probe probe) {
    for (void* f : functions) {
      all.push_back(hook_function(f, probe));
    }
    forget();
  }
  ~Hooks() {
    for (Hooked& h : all) {
      h.restore();
    }
  }
  std::vector<Hooked> all;
};
template <class F>
void* address(F* f) {
  return reinterpret_cast<void*>(f);
}

std::string names(void* const* frames, int count) {
  std::string text;
  for (int i = 0; i < count; i++) {
    Dl_info info{};
    if (dladdr(frames[i], &info) != 0 && info.dli_sname != nullptr) {
      text += info.dli_sname;
    } else {
      text += "?";
    }
    text += " ";
  }
  return text;
}

std::atomic<int> destroyed;
struct Destroyed {
  ~Destroyed() { destroyed++; }
};

}  // namespace

BODY long thrower(long n) {
  Destroyed d;
  if (n == 0) {
    throw 42L;
  }
  long r = thrower(n - 1);
  __asm__ volatile("" : "+r"(r));
  return r + 1;
}
BODY long catcher(long n) {  // the direct caller of a probed function has the handler
  try {
    return thrower(n);
  } catch (long value) {
    return value + n;
  }
}
BODY long rethrower(long n) {
  try {
    return thrower(n);
  } catch (long) {
    throw;
  }
}
BODY long outer(long n) {
  try {
    return rethrower(n);
  } catch (long value) {
    return value;
  }
}

TEST(Unwind, ExceptionsPassProbedFrames) {
  for (Probe probe : {Probe::kEntry, Probe::kReturn, Probe::kBoth}) {
    Hooks hooks({address(&thrower), address(&catcher), address(&rethrower), address(&outer)},
                probe);
    destroyed = 0;
    EXPECT_EQ(catcher(0), 42);
    EXPECT_EQ(catcher(6), 48);
    EXPECT_EQ(outer(3), 42);
    EXPECT_EQ(destroyed, 1 + 7 + 4);
    EXPECT_EQ(seen.returns, probe == Probe::kEntry ? 0u : 3u);  // catcher twice, outer once
  }
}

TEST(Unwind, TwoHundredThousandThrowsMissNothing) {
  Hooks hooks({address(&thrower), address(&catcher)}, Probe::kBoth);
  catcher(0);
  const uint64_t missed = seen.block->missed;
  forget();
  for (int i = 0; i < 200000; i++) {
    ASSERT_EQ(catcher(i % 3), 42 + i % 3);
  }
  EXPECT_EQ(seen.returns, 200000u);
  EXPECT_EQ(seen.block->missed, missed);
}

static jmp_buf env;
BODY long jumper(long n) {
  if (n == 0) {
    longjmp(env, 7);
  }
  long r = jumper(n - 1);
  __asm__ volatile("" : "+r"(r));
  return r + 1;
}
BODY long jump_catcher(long n) {
  if (const int r = setjmp(env); r != 0) {
    return r;
  }
  return jumper(n);
}

TEST(Unwind, TwoHundredThousandLongjmpsMissNothing) {
  Hooks hooks({address(&jumper), address(&jump_catcher)}, Probe::kBoth);
  jump_catcher(0);
  const uint64_t missed = seen.block->missed;
  forget();
  for (int i = 0; i < 200000; i++) {
    ASSERT_EQ(jump_catcher(i % 3), 7);
  }
  EXPECT_EQ(seen.returns, 200000u);
  EXPECT_EQ(seen.block->missed, missed);
}

static std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

static std::string walked;
BODY long walk_backtrace() {
  void* frames[64];
  const int count = backtrace(frames, 64);
  walked = names(frames, count);
  return count;
}
// LLVM's libunwind, privately loaded (linked in, it would be the process's unwinder). Its API by
// name: libunwind.h of LLVM 14: unw_context_t and unw_cursor_t are arrays of words, UNW_REG_IP is
// -1.
BODY long walk_llvm() {
  static void* const library = dlopen("libunwind.so.1", RTLD_NOW | RTLD_LOCAL);
  static const auto get_context =
      reinterpret_cast<int (*)(void*)>(dlsym(library, "unw_getcontext"));
  static const auto init =
      reinterpret_cast<int (*)(void*, void*)>(dlsym(library, "unw_init_local"));
  static const auto step = reinterpret_cast<int (*)(void*)>(dlsym(library, "unw_step"));
  static const auto get_reg =
      reinterpret_cast<int (*)(void*, int, uint64_t*)>(dlsym(library, "unw_get_reg"));
  uint64_t context[256];
  uint64_t cursor[512];
  get_context(context);
  init(cursor, context);
  walked.clear();
  do {
    uint64_t ip = 0;
    get_reg(cursor, -1, &ip);
    void* frame = reinterpret_cast<void*>(ip);
    walked += names(&frame, 1);
  } while (step(cursor) > 0);
  return 1;
}
static long (*walker)();
BODY long middle(long n) {
  long r = n == 0 ? walker() : middle(n - 1);
  __asm__ volatile("" : "+r"(r));
  return r;
}
BODY long top() {
  long r = middle(2);
  __asm__ volatile("" : "+r"(r));
  return r;
}

TEST(Unwind, BacktraceAndLlvmLibunwindSeeAllFrames) {
  for (auto* w : {&walk_backtrace, &walk_llvm}) {
    walker = w;
    top();
    const std::string plain = walked;
    ASSERT_NE(plain.find("middle middle middle top "), std::string::npos) << plain;
    ASSERT_NE(plain.find(" main "), std::string::npos) << plain;
    Hooks hooks({address(w), address(&middle), address(&top)}, Probe::kBoth);
    top();
    // Each probed call shows our frame between caller and callee ("?", or the exported symbol before it); without them
    // the walk is the same.
    const std::vector<std::string> want = words_of(plain);
    size_t next = 0;
    int added = 0;
    for (const std::string& word : words_of(walked)) {
      if (next < want.size() && word == want[next]) {
        next++;
      } else {
        added++;
      }
    }
    EXPECT_EQ(next, want.size()) << "plain: " << plain << "\nours:  " << walked;
    EXPECT_EQ(added, 5) << walked;
  }
}

// A signal arrives on top of a callback; its handler walks the stack.
static void walk_in_handler(int) { walk_backtrace(); }
BODY long leaf(long n) { return n + 1; }
BODY long calls_leaf(long n) {
  long r = leaf(n);
  __asm__ volatile("" : "+r"(r));
  return r;
}

static void raise_now() {
  const long pid = syscall(SYS_getpid);
  syscall(SYS_tgkill, pid, syscall(SYS_gettid), SIGUSR1);
}
static void raise_here(pt_regs*, Site*) { raise_now(); }

TEST(Unwind, BacktraceFromAHandlerOnTopOfAHitReachesMain) {
  struct sigaction action{};
  action.sa_handler = walk_in_handler;
  sigaction(SIGUSR1, &action, nullptr);
  for (Probe probe : {Probe::kEntry, Probe::kReturn}) {
    Hooks hooks({address(&leaf)}, probe);
    (probe == Probe::kEntry ? seen.on_entry : seen.on_return) = raise_here;
    walked.clear();
    EXPECT_EQ(calls_leaf(1), 2);
    EXPECT_NE(walked.find(" calls_leaf "), std::string::npos) << walked;
    EXPECT_NE(walked.find(" main "), std::string::npos) << walked;
    for (const uint32_t kind :
         {uint32_t{kListPlain}, kListPlain | kListFew, uint32_t{kListSimple}}) {
      use_lists(kind, program_of(kind));
      seen.on_plain = raise_now;
      walked.clear();
      EXPECT_EQ(calls_leaf(1), 2);
      EXPECT_NE(walked.find(" calls_leaf "), std::string::npos) << walked;
      EXPECT_NE(walked.find(" main "), std::string::npos) << walked;
      use_lists(0);
    }
  }
  signal(SIGUSR1, SIG_DFL);
}

// pthread_cancel, pthread_exit: forced unwinding through probed frames.
static sem_t ready;
static std::atomic<long> cancelled_tid;
// Until the thread waits in pause(2), whose /proc/PID/syscall this is; nothing tells of it. Whether it came to be in time.
static bool comes_to_pause(const std::string& path) {
  for (int i = 0; i < 60'000; i++) {
    char text[32] = {};
    FILE* f = std::fopen(path.c_str(), "r");
    if (f == nullptr) {
      return false;
    }
    (void)!std::fread(text, 1, sizeof text - 1, f);
    std::fclose(f);
    if (std::strncmp(text, "34 ", 3) == 0) {
      return true;
    }
    usleep(1000);
  }
  return false;
}
// An asynchronous cancellation between two calls of a C++ function terminates, probes or not (its call-site table has no
// entry there).
static bool cancelled_one_pauses() {
  return comes_to_pause("/proc/self/task/" + std::to_string(cancelled_tid) + "/syscall");
}
BODY long cancelled_body(long n) {
  Destroyed d;
  if (n > 0) {
    long r = cancelled_body(n - 1);
    __asm__ volatile("" : "+r"(r));
    return r;
  }
  cancelled_tid = syscall(SYS_gettid);
  sem_post(&ready);
  for (;;) {
    pause();
  }
}
BODY long exiting_body(long n) {
  Destroyed d;
  if (n == 0) {
    pthread_exit(reinterpret_cast<void*>(9));
  }
  long r = exiting_body(n - 1);
  __asm__ volatile("" : "+r"(r));
  return r;
}

TEST(Unwind, PthreadCancelAndExitRunDestructors) {
  sem_init(&ready, 0, 0);
  Hooks hooks({address(&cancelled_body), address(&exiting_body)}, Probe::kBoth);
  for (int kind : {PTHREAD_CANCEL_DEFERRED, PTHREAD_CANCEL_ASYNCHRONOUS}) {
    destroyed = 0;
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void* type) -> void* {
          pthread_setcanceltype(static_cast<int>(reinterpret_cast<long>(type)), nullptr);
          cancelled_body(4);
          return nullptr;
        },
        reinterpret_cast<void*>(static_cast<long>(kind)));
    sem_wait(&ready);
    ASSERT_TRUE(cancelled_one_pauses());
    pthread_cancel(thread);
    void* result = nullptr;
    pthread_join(thread, &result);
    EXPECT_EQ(result, PTHREAD_CANCELED);
    EXPECT_EQ(destroyed, 5);
  }
  destroyed = 0;
  pthread_t thread;
  pthread_create(
      &thread, nullptr,
      [](void*) -> void* {
        exiting_body(4);
        return nullptr;
      },
      nullptr);
  void* result = nullptr;
  pthread_join(thread, &result);
  EXPECT_EQ(result, reinterpret_cast<void*>(9));
  EXPECT_EQ(destroyed, 5);
}

// Asynchronous cancellation on top of a callback.
BODY long spun(long n) {
  if (n < 0) {
    throw 1;  // so that callers have a cleanup
  }
  return n + 1;
}
BODY long spinner(std::atomic<long>* sum) {
  Destroyed d;
  for (long i = 0;; i++) {
    sum->fetch_add(spun(i), std::memory_order_relaxed);
  }
}

TEST(Unwind, AsyncCancelOnTopOfAHitRunsDestructors) {
  sem_init(&ready, 0, 0);
  for (Probe probe : {Probe::kEntry, Probe::kReturn}) {
    Hooks hooks({address(&spun)}, probe);
    (probe == Probe::kEntry ? seen.on_entry : seen.on_return) = [](pt_regs*, Site*) {
      cancelled_tid = syscall(SYS_gettid);
      sem_post(&ready);
      for (;;) {
        syscall(SYS_pause);
      }
    };
    destroyed = 0;
    static std::atomic<long> sum;
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
          pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
          spinner(&sum);
          return nullptr;
        },
        nullptr);
    sem_wait(&ready);
    ASSERT_TRUE(cancelled_one_pauses());
    pthread_cancel(thread);
    void* result = nullptr;
    pthread_join(thread, &result);
    EXPECT_EQ(result, PTHREAD_CANCELED);
    EXPECT_EQ(destroyed, 1);
  }
}

// gdb walks through a return probe's frame (batch mode, attached to a child that waits in a body).
BODY long gdb_body(long n) {
  long r = n > 0 ? gdb_body(n - 1) : 0;
  if (n == 0) {
    (void)!write(static_cast<int>(r) + 1, "", 0);
    for (;;) {
      pause();
    }
  }
  __asm__ volatile("" : "+r"(r));
  return r;
}
BODY long gdb_caller() {
  long r = gdb_body(3);
  __asm__ volatile("" : "+r"(r));
  return r;
}

TEST(Unwind, GdbSeesAllFrames) {
  Hooks hooks({address(&gdb_body)}, Probe::kBoth);
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    // the table is wiped in a child: arm again
    AgentState* state = start_fake_broker();
    *reinterpret_cast<uint64_t*>(state->table) = kTableGuard;
    hooks.all[0].site->address = reinterpret_cast<uint64_t>(&gdb_body);
    hooks.all[0].arm(Probe::kBoth);
    (void)!write(pipes[1], "x", 1);
    gdb_caller();
    _exit(1);
  }
  char c;
  ASSERT_EQ(read(pipes[0], &c, 1), 1);
  ASSERT_TRUE(comes_to_pause("/proc/" + std::to_string(child) + "/syscall"));
  char command[128];
  std::snprintf(command, sizeof command, "gdb -nx -q -batch -p %d -ex bt 2>&1", child);
  FILE* gdb = popen(command, "r");
  ASSERT_NE(gdb, nullptr);
  std::string text;
  char line[4096];
  while (std::fgets(line, sizeof line, gdb) != nullptr) {
    text += line;
  }
  pclose(gdb);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  size_t bodies = 0;
  for (size_t at = 0; (at = text.find(" gdb_body (", at)) != std::string::npos; at++) {
    bodies++;
  }
  EXPECT_EQ(bodies, 4u) << text;
  EXPECT_NE(text.find(" gdb_caller ("), std::string::npos) << text;
  EXPECT_NE(text.find(" main ("), std::string::npos) << text;
}
