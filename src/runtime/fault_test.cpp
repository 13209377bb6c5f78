#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>

#include <cerrno>
#include <csetjmp>
#include <csignal>

#include "base/raw_syscall.hpp"
#include "helpers/helpers.hpp"
#include "maps/testing/test_map.hpp"
#include "runtime/testing/armed.hpp"

namespace {
uint32_t& disarmed_why() {
  static uint32_t why;
  return why;
}
}  // namespace

extern "C" {
void bpftime_say_printk(bpftime::ProbeHit*, const char*, uint32_t) {}
bool bpftime_say_wake(bpftime::ThreadBlock*, uint32_t) { return true; }
void bpftime_say_disarmed(bpftime::ThreadBlock*, bpftime::AgentState*, uint32_t, uint32_t why) {
  disarmed_why() = why;
}

// As an engine makes them: the prologue saves every register that a callee keeps (a helper is left
// in the middle), then rsp; the resume stub sets it back and returns 0.
extern char test_program[], test_program_deep[], test_program_helper[], test_program_resume[],
    test_program_end[];
__asm__(R"(
  .pushsection .text
test_program:
  pushq %rbx
  movq %rsp, 24(%rsi)
  movq %rsi, %rbx
  movq 8, %rax
  popq %rbx
  ret
test_program_deep:
  pushq %rbx
  movq %rsp, 24(%rsi)
  movq %rsi, %rbx
  subq $512, %rsp
  call 1f
  addq $512, %rsp
  popq %rbx
  ret
1:
  pushq %rax
  movq $0x1234, 0xffffffffffffff00
  popq %rax
  ret
test_program_helper:
  pushq %rbx
  movq %rsp, 24(%rsi)
  movq %rsi, %r9
  movq %rdi, %rax
  movq (%rax), %rdi
  movq 8(%rax), %rsi
  movl $8, %edx
  xorl %ecx, %ecx
  xorl %r8d, %r8d
  call *16(%rax)
  popq %rbx
  ret
test_program_resume:
  movq 24(%rdi), %rsp
  xorl %eax, %eax
  popq %rbx
  ret
test_program_end:
  .popsection
)");
}

namespace bpftime {
namespace {

using testing::Armed;
using testing::List;

Armed* current;

void on_fault(int signo, siginfo_t* info, void* context) {
  const NextHandler next = handle_fault(signo, info, context, &current->thread, &current->state);
  if (next.handler != 0) {
    reinterpret_cast<void (*)(int, siginfo_t*, void*)>(next.handler)(signo, info, context);
  }
}

// Installs our action over what is there, as the broker does in a target.
struct Owned {
  Armed armed;
  struct sigaction before = {};
  int signo;
  explicit Owned(int the_signal = SIGSEGV) : signo(the_signal) {
    uint64_t old[4] = {};
    raw_syscall(SYS_rt_sigaction, static_cast<uint64_t>(signo), 0, reinterpret_cast<uint64_t>(old),
                8);
    for (int i = 0; i < 4; i++) {
      armed.state.old_actions[signo][i] = old[i];
    }
    armed.state.signals_owned = 1U << signo;
    current = &armed;
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigfillset(&action.sa_mask);
    ::sigaction(signo, &action, &before);
  }
  ~Owned() {
    ::sigaction(signo, &before, nullptr);
    current = nullptr;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
};

CodeRange range() {
  return {reinterpret_cast<uint64_t>(test_program), reinterpret_cast<uint64_t>(test_program_resume),
          reinterpret_cast<uint64_t>(test_program_resume), 0, 0};
}

TEST(Fault, InAProgramEndsThatHitAndDisarmsTheLink) {
  Owned owned;
  const CodeRange code = range();
  for (char* const entry : {test_program, test_program_deep}) {
    HitCounts counts = {};
    disarmed_why() = 0;
    Attached item = {};
    item.program = reinterpret_cast<uint64_t (*)(void*, Hit*)>(entry);
    item.code = &code;
    item.counts = &counts;
    const List list({item});
    owned.armed.hit(list.get());
    EXPECT_EQ(counts.faulted.load(), 1U);
    EXPECT_EQ(counts.disarmed.load(), static_cast<uint64_t>(kHitFault));
    EXPECT_EQ(disarmed_why(), static_cast<uint32_t>(kHitFault));
    EXPECT_EQ(owned.armed.running(), nullptr);
    owned.armed.hit(list.get());  // disarmed: passes through
    EXPECT_EQ(counts.faulted.load(), 1U);
  }
}

TEST(Fault, TheListOfCodeRangesIsKnownToo) {
  Owned owned;
  const CodeRange code = range();
  owned.armed.state.code_ranges = reinterpret_cast<uint64_t>(&code);
  owned.armed.state.code_range_count = 1;
  HitCounts counts = {};
  Attached item = {};
  item.program = reinterpret_cast<uint64_t (*)(void*, Hit*)>(test_program);
  item.counts = &counts;
  const List list({item});
  owned.armed.hit(list.get());
  EXPECT_EQ(counts.faulted.load(), 1U);
}

TEST(Fault, ACachedPageThatVanishedIsEfault) {
  for (const int how : {0, 1}) {
    Owned owned;
    auto* const page = static_cast<char*>(
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    page[0] = 'x';
    char to[700] = {};
    ASSERT_EQ(checked_read(&owned.armed.thread, to, reinterpret_cast<uint64_t>(page), 16), 0);
    if (how == 0) {
      ::mprotect(page, 4096, PROT_NONE);
    } else {
      ::munmap(page, 4096);
    }
    for (const uint64_t size : {1UL, 7UL, 8UL, 16UL, 33UL, 700UL}) {
      to[0] = '#';
      owned.armed.thread.page_cache[reinterpret_cast<uint64_t>(page) / 4096 % kPageCacheSize] =
          reinterpret_cast<uint64_t>(page) | kCachedPage;
      EXPECT_EQ(checked_read(&owned.armed.thread, to, reinterpret_cast<uint64_t>(page), size),
                -EFAULT)
          << size;
      EXPECT_EQ(to[0], 0);
      owned.armed.thread.page_cache[reinterpret_cast<uint64_t>(page) / 4096 % kPageCacheSize] =
          reinterpret_cast<uint64_t>(page) | kCachedPage;
      EXPECT_EQ(
          checked_read_string(&owned.armed.thread, to, reinterpret_cast<uint64_t>(page), size),
          -EFAULT);
    }
    ::munmap(page, 4096);
  }
}

TEST(Fault, CachesAreEmptiedByAge) {
  Armed armed;
  auto* const page = static_cast<char*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  char to[8];
  ASSERT_EQ(checked_read(&armed.thread, to, reinterpret_cast<uint64_t>(page), 8), 0);
  ::munmap(page, 4096);
  armed.thread.hits += 1000;
  EXPECT_EQ(checked_read(&armed.thread, to, reinterpret_cast<uint64_t>(page), 8),
            -EFAULT);  // no handler here
}

sigjmp_buf back;
struct Seen {
  int times = 0, signo = 0, code = 0;
  void* at = nullptr;
  sigset_t mask = {};
} seen;

void targets_handler(int signo, siginfo_t* info, void* /*context*/) {
  seen.times++;
  seen.signo = signo;
  seen.code = info->si_code;
  seen.at = info->si_addr;
  ::sigprocmask(SIG_BLOCK, nullptr, &seen.mask);
  siglongjmp(back, 1);
}

[[gnu::noinline]] void fault_at(volatile char* address) {
  __asm__ volatile("" : "+r"(address));
  *address = 1;
}

// True when the fault came back through siglongjmp.
[[gnu::noinline]] bool faults_and_comes_back() {
  if (sigsetjmp(back, 1) == 0) {
    fault_at(reinterpret_cast<volatile char*>(24));
    return false;
  }
  return true;
}

TEST(Fault, TheTargetsOwnFaultReachesItsHandlerWithItsMask) {
  for (const int flags :
       {SA_SIGINFO, SA_SIGINFO | SA_NODEFER, static_cast<int>(SA_SIGINFO | SA_RESETHAND)}) {
    struct sigaction mine = {};
    struct sigaction before = {};
    mine.sa_sigaction = targets_handler;
    mine.sa_flags = flags;
    sigemptyset(&mine.sa_mask);
    sigaddset(&mine.sa_mask, SIGUSR2);
    ::sigaction(SIGSEGV, &mine, &before);
    {
      Owned owned;
      seen = Seen();
      EXPECT_TRUE(faults_and_comes_back());
      EXPECT_EQ(seen.times, 1);
      EXPECT_EQ(seen.signo, SIGSEGV);
      EXPECT_EQ(seen.code, SEGV_MAPERR);
      EXPECT_EQ(seen.at, reinterpret_cast<void*>(24));
      EXPECT_EQ(sigismember(&seen.mask, SIGUSR2), 1);
      EXPECT_EQ(sigismember(&seen.mask, SIGUSR1), 0) << "our own mask shows";
      EXPECT_EQ(sigismember(&seen.mask, SIGSEGV), (flags & SA_NODEFER) != 0 ? 0 : 1);
      EXPECT_EQ(owned.armed.state.old_actions[SIGSEGV][0] == 0,
                (flags & static_cast<int>(SA_RESETHAND)) != 0);
    }
    ::sigaction(SIGSEGV, &before, nullptr);
  }
}

// A child does `act` with our action over `handler`; its wait status.
int in_child(void (*handler)(int), void (*act)()) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGSEGV, handler);
    Owned owned;
    act();
    ::_exit(7);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(Fault, WithoutAHandlerTheTargetDiesAsItWouldHave) {
  for (auto* const handler : {SIG_DFL, SIG_IGN}) {  // a fault cannot be ignored
    const int status = in_child(handler, [] { fault_at(reinterpret_cast<volatile char*>(24)); });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
  }
}

TEST(Fault, ASignalThatWasSentDoesWhatItWouldHave) {
  const int status = in_child(SIG_DFL, [] { ::raise(SIGSEGV); });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
  const int ignored = in_child(SIG_IGN, [] { ::raise(SIGSEGV); });
  EXPECT_TRUE(WIFEXITED(ignored) && WEXITSTATUS(ignored) == 7) << ignored;
}

struct UpdateCall {
  const MapView* map;
  const uint64_t* key;
  HelperFn function;
};

// Programs whose helper gets a bad pointer: the fault lies in our own code, a bucket's lock is
// held.
TEST(Fault, InAHelperWithABadPointerEndsTheProgramAndItsLockIsTakenOver) {
  Owned owned;
  owned.armed.state.agent_base = 4096;  // everything here is "the agent's image"
  owned.armed.state.agent_bytes = 1ULL << 47;
  const CodeRange code = range();
  const testing::TestMap map(testing::hash_spec(8, 8, 3));
  const uint64_t key = 1;
  UpdateCall call = {&map.map, &key, find_helper_function(2)};
  HitCounts counts = {};
  Attached item = {};
  item.program = reinterpret_cast<uint64_t (*)(void*, Hit*)>(test_program_helper);
  item.code = &code;
  item.counts = &counts;
  const List list({item});
  owned.armed.hit(list.get(), &call);
#ifdef __SANITIZE_ADDRESS__
  __asan_handle_no_return();  // the helper's frame was left without its epilogue
#endif
  EXPECT_EQ(counts.faulted.load(), 1U);
  EXPECT_NE(reinterpret_cast<const HashBucket*>(map.map.table)->lock.word.load(), 0U);

  ProbeHit hit = {};
  hit.thread = &owned.armed.thread;
  hit.process = &owned.armed.state.process;
  const auto update = [&](uint64_t k, uint64_t v) {
    return static_cast<int64_t>(find_helper_function(2)(
        reinterpret_cast<uint64_t>(&map.map), reinterpret_cast<uint64_t>(&k),
        reinterpret_cast<uint64_t>(&v), 0, 0, &hit));
  };
  EXPECT_EQ(map.lookup(1), nullptr);
  for (uint64_t k = 1; k <= 3; k++) {
    EXPECT_EQ(update(k, k), 0);
  }
  EXPECT_EQ(update(4, 4), -E2BIG);
  EXPECT_EQ(map.keys().size(), 3U);
  EXPECT_EQ(reinterpret_cast<const HashBucket*>(map.map.table)->lock.word.load(), 0U);
}

}  // namespace
}  // namespace bpftime
