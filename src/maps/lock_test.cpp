#include "maps/lock.hpp"

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <new>
#include <thread>

#include "maps/testing/test_map.hpp"

namespace bpftime {
namespace {

using testing::patient_thread;
using testing::this_thread;

struct Shared {
  RobustLock* lock = static_cast<RobustLock*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ~Shared() { ::munmap(lock, 4096); }
};

// Takes the lock in a child, which then dies by SIGKILL.
void die_holding(RobustLock* shared, uint32_t owner) {
  const pid_t child = ::fork();
  if (child == 0) {
    void* saved = nullptr;
    (void)lock(*shared, this_thread(owner), &saved);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
}

TEST(RobustLock, TakesAndGivesBackAndLeavesThePendingValueOfOthers) {
  Shared s;
  LockContext who = this_thread(7);
  ASSERT_NE(who.robust, nullptr);
  void* const before = who.robust->list_op_pending;
  void* saved = nullptr;
  ASSERT_EQ(lock(*s.lock, who, &saved), Locked::kTaken);
  EXPECT_EQ(s.lock->word.load(), who.tid);
  EXPECT_EQ(s.lock->owner.load(), 7U);
  EXPECT_NE(who.robust->list_op_pending, before);
  unlock(*s.lock, who, saved);
  EXPECT_EQ(s.lock->word.load(), 0U);
  EXPECT_EQ(s.lock->owner.load(), 0U);
  EXPECT_EQ(who.robust->list_op_pending, before);

  // A hit inside a robust pthread lock: its announcement comes back.
  int other = 0;
  who.robust->list_op_pending = &other;
  ASSERT_EQ(lock(*s.lock, who, &saved), Locked::kTaken);
  unlock(*s.lock, who, saved);
  EXPECT_EQ(who.robust->list_op_pending, &other);
  who.robust->list_op_pending = before;
}

TEST(RobustLock, TheKernelMarksAKilledOwnerAndTheNextTakesOver) {
  Shared s;
  die_holding(s.lock, 7);
  EXPECT_NE(s.lock->word.load() & FUTEX_OWNER_DIED, 0U);
  void* saved = nullptr;
  const LockContext who = this_thread(8);
  EXPECT_EQ(lock(*s.lock, who, &saved), Locked::kTakenFromDead);
  EXPECT_EQ(s.lock->owner.load(), 8U);
  unlock(*s.lock, who, saved);
  EXPECT_EQ(lock(*s.lock, who, &saved), Locked::kTaken);
  unlock(*s.lock, who, saved);
}

TEST(RobustLock, AMarkThatMeansSomeoneElseIsNotBelieved) {
  Shared s;
  die_holding(s.lock, 7);
  LockContext who = this_thread(8);
  who.owner_alive = [](OwnerId owner, void*) { return owner == OwnerId{7}; };
  void* saved = nullptr;
  EXPECT_EQ(lock(*s.lock, who, &saved), Locked::kBusy);
  who.owner_alive = [](OwnerId owner, void*) { return owner != OwnerId{7}; };
  EXPECT_EQ(lock(*s.lock, who, &saved), Locked::kTakenFromDead);
  unlock(*s.lock, who, saved);
}

TEST(RobustLock, ALiveOwnerGivesBusyAfterABoundedWait) {
  Shared s;
  s.lock->word = 1;  // init's tid: lives, and holds it for ever
  s.lock->owner = 99;
  void* saved = nullptr;
  const LockContext who = this_thread(8);
  void* const before = who.robust->list_op_pending;
  timespec begin = {};
  timespec end = {};
  ::clock_gettime(CLOCK_MONOTONIC, &begin);
  EXPECT_EQ(lock(*s.lock, who, &saved), Locked::kBusy);
  ::clock_gettime(CLOCK_MONOTONIC, &end);
  const double seconds = static_cast<double>(end.tv_sec - begin.tv_sec) +
                         static_cast<double>(end.tv_nsec - begin.tv_nsec) * 1e-9;
  EXPECT_LT(seconds, 30.0);  // 20 ms on a quiet machine
  EXPECT_EQ(who.robust->list_op_pending, before);
}

TEST(RobustLock, APatientOneWaitsForAHolderThatIsSlow) {
  Shared s;
  s.lock->word = 1;
  s.lock->owner = 99;
  std::thread holder([&] {
    const timespec slow = {0, 200'000'000};  // ten times what others wait
    ::nanosleep(&slow, nullptr);
    s.lock->owner = 0;
    s.lock->word.store(0, std::memory_order_release);
  });
  void* saved = nullptr;
  const LockContext who = patient_thread(8);
  EXPECT_EQ(lock(*s.lock, who, &saved), Locked::kTaken);
  unlock(*s.lock, who, saved);
  holder.join();
}

TEST(RobustLock, TheSameThreadIsBusyAtOnceUnlessItCannotBeNested) {
  Shared s;
  LockContext who = this_thread(8);
  void* saved = nullptr;
  void* inner = nullptr;
  ASSERT_EQ(lock(*s.lock, who, &saved), Locked::kTaken);
  EXPECT_EQ(lock(*s.lock, who, &inner), Locked::kBusy);
  who.never_nested = true;  // left by a longjmp, then
  EXPECT_EQ(lock(*s.lock, who, &inner), Locked::kTakenFromDead);
  unlock(*s.lock, who, inner);
  unlock(*s.lock, who, saved);
  who.robust->list_op_pending = nullptr;
}

TEST(RobustLock, AThreadWithoutAHeadGetsItsOwn) {
  const pid_t child = ::fork();
  if (child == 0) {
    static uint64_t own[3];
    (void)::syscall(SYS_set_robust_list, nullptr, sizeof(RobustListHead));
    if (find_robust_head(nullptr) != nullptr) {
      ::_exit(1);
    }
    ::_exit(find_robust_head(own) == reinterpret_cast<RobustListHead*>(own) &&
                    find_robust_head(own) == reinterpret_cast<RobustListHead*>(own)
                ? 0
                : 2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace bpftime
