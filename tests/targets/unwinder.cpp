// Everything that walks or leaves frames, each through outer(), which a test probes at entry and return.
// Line "go" runs all and prints "ok NAME" or "WRONG NAME" for each, then "done". "quit" ends.
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace {
enum What { kPlain, kThrow, kJump, kTrace, kCancel, kExit };
jmp_buf back;
int frames_seen;
volatile int cleaned;
}  // namespace

extern "C" __attribute__((noinline)) int outer(int what, int depth);

namespace {
struct Cleaner {
  ~Cleaner() { cleaned = cleaned + 1; }
};

__attribute__((noinline)) int inner(int what) {
  switch (what) {
    case kThrow:
      throw std::runtime_error("through a probed frame");
    case kJump:
      longjmp(back, 7);
    case kTrace: {
      void* frames[64];
      frames_seen = backtrace(frames, 64);
      return 1;
    }
    case kCancel:
      pthread_cancel(pthread_self());
      pthread_testcancel();
      return -1;
    case kExit:
      pthread_exit(nullptr);
    default:
      return 1;
  }
}

void say(const char* name, bool ok) { std::printf("%s %s\n", ok ? "ok" : "WRONG", name); }

void* in_thread(void* arg) {
  outer(static_cast<int>(reinterpret_cast<long>(arg)), 3);
  return reinterpret_cast<void*>(1);
}

bool ends_thread(int what, void* expected) {
  pthread_t thread;
  cleaned = 0;
  if (pthread_create(&thread, nullptr, in_thread, reinterpret_cast<void*>(long{what})) != 0) {
    return false;
  }
  void* result = nullptr;
  pthread_join(thread, &result);
  return result == expected && cleaned == 4;
}

void run_all() {
  say("plain", outer(kPlain, 10) == 11);
  bool caught = false;
  cleaned = 0;
  try {  // the handler is in the direct caller of a probed function
    outer(kThrow, 0);
  } catch (const std::runtime_error&) {
    caught = true;
  }
  say("catch_in_direct_caller", caught && cleaned == 1);
  caught = false;
  cleaned = 0;
  try {
    outer(kThrow, 20);
  } catch (const std::runtime_error&) {
    caught = true;
  }
  say("throw_through_21_probed_frames", caught && cleaned == 21);
  int many = 0;
  for (int i = 0; i < 3000; i++) {
    try {
      outer(kThrow, 3);
    } catch (const std::runtime_error&) {
      many++;
    }
  }
  say("throw_3000_times", many == 3000);
  volatile int jumps = 0;
  for (volatile int i = 0; i < 3000; i = i + 1) {
    if (setjmp(back) == 0) {
      outer(kJump, 5);
    } else {
      jumps = jumps + 1;
    }
  }
  say("longjmp_3000_times", jumps == 3000);
  outer(kTrace, 0);
  const int shallow = frames_seen;
  outer(kTrace, 10);
  // Each outer() is one more frame; a probed call adds one of the agent's.
  say("backtrace_sees_all_frames", shallow > 3 && frames_seen >= shallow + 10);
  say("pthread_cancel", ends_thread(kCancel, PTHREAD_CANCELED));
  say("pthread_exit", ends_thread(kExit, nullptr));
  say("plain_after_all", outer(kPlain, 200) == 201);
  std::printf("done\n");
}
}  // namespace

extern "C" __attribute__((noinline)) int outer(int what, int depth) {
  Cleaner cleaner;
  const int below = depth == 0 ? inner(what) : outer(what, depth - 1) + 1;
  __asm__ volatile("");
  return below;
}

int main() {
  std::printf("ready %d\n", getpid());
  std::fflush(stdout);
  char line[64];
  while (std::fgets(line, sizeof(line), stdin) != nullptr && std::strcmp(line, "quit\n") != 0) {
    run_all();
    std::fflush(stdout);
  }
  return 0;
}
