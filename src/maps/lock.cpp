// Order of taking: announce the lock in list_op_pending, then the word, then the owner beside it;
// of giving back: owner, word, announcement. A death anywhere in between leaves either a free word
// or a marked one.
#include "maps/lock.hpp"

#include <linux/futex.h>
#include <time.h>

#include "base/raw_syscall.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kSpins = 200;
constexpr uint32_t kYields = 60;
constexpr uint32_t kSleeps = 60;             // of kSleepNs and the timer slack: about 15 ms
constexpr uint32_t kPatientSleeps = 20'000;  // about 5 s
constexpr long kSleepNs = 200'000;

// The kernel's `entry + futex_offset` is the word.
void* pending_for(RobustLock& lock, const RobustListHead& head) {
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(&lock.word) -
                                 static_cast<uintptr_t>(head.futex_offset));
}

void wait_a_little(uint32_t round) {
  if (round < kSpins) {
    __asm__ volatile("pause");
  } else if (round < kSpins + kYields) {
    raw_syscall(SYS_sched_yield);
  } else {
    const timespec time = {0, kSleepNs};
    raw_syscall(SYS_nanosleep, reinterpret_cast<uint64_t>(&time), 0);
  }
}

// True when the lock that says `word` may be taken from its owner.
bool is_abandoned(uint32_t word, uint32_t owner, const LockContext& who, uint32_t round) {
  if ((word & FUTEX_OWNER_DIED) != 0) {
    if (owner == 0) {
      return round >=
             kSpins + kYields / 2;  // somebody may stand between taking the word and naming himself
    }
    if (owner == raw(who.owner)) {
      // A thread of this process; only a tid of another pid namespace makes the mark wrong.
      return raw_syscall(SYS_tkill, word & FUTEX_TID_MASK, 0) != 0;
    }
    return who.owner_alive == nullptr || !who.owner_alive(OwnerId{owner}, who.owner_alive_arg);
  }
  return who.never_nested && word == who.tid && owner == raw(who.owner) && owner != 0;
}

[[gnu::noinline]] Locked lock_slowly(RobustLock& lock, const LockContext& who) {
  const uint32_t rounds = kSpins + kYields + (who.is_patient ? kPatientSleeps : kSleeps);
  for (uint32_t round = 0; round < rounds; round++) {
    uint32_t word = lock.word.load(std::memory_order_relaxed);
    if (word == 0) {
      if (lock.word.compare_exchange_strong(word, who.tid, std::memory_order_acquire)) {
        return Locked::kTaken;
      }
    } else {
      const uint32_t owner = lock.owner.load(std::memory_order_relaxed);
      if (is_abandoned(word, owner, who, round)) {
        if (lock.word.compare_exchange_strong(word, who.tid, std::memory_order_acquire)) {
          return Locked::kTakenFromDead;
        }
      } else if (word == who.tid && owner == raw(who.owner) && owner != 0) {
        return Locked::kBusy;  // this thread, below us
      }
    }
    wait_a_little(round);
  }
  return Locked::kBusy;
}

}  // namespace

Locked lock(RobustLock& lock, const LockContext& who, void** saved) {
  *saved = nullptr;
  if (who.robust != nullptr) {
    *saved = who.robust->list_op_pending;
    who.robust->list_op_pending = pending_for(lock, *who.robust);
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
  uint32_t free = 0;
  Locked result = Locked::kTaken;
  if (!lock.word.compare_exchange_strong(free, who.tid, std::memory_order_acquire)) [[unlikely]] {
    result = lock_slowly(lock, who);
    if (result == Locked::kBusy) {
      if (who.robust != nullptr) {
        who.robust->list_op_pending = *saved;
      }
      return result;
    }
  }
  lock.owner.store(raw(who.owner), std::memory_order_relaxed);
  return result;
}

void unlock(RobustLock& lock, const LockContext& who, void* saved) {
  lock.owner.store(0, std::memory_order_relaxed);
  lock.word.store(0, std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (who.robust != nullptr) {
    who.robust->list_op_pending = saved;
  }
}

bool release_of_dead(RobustLock& lock, const LockContext& who, OwnerId dead) {
  uint32_t word = lock.word.load(std::memory_order_relaxed);
  if (word == 0) {
    return false;
  }
  const uint32_t owner = lock.owner.load(std::memory_order_relaxed);
  if (owner == raw(dead) && dead != OwnerId{0}) {
    // Marked as the kernel would have, had it known; then it is taken like any other.
    lock.word.compare_exchange_strong(word, word | FUTEX_OWNER_DIED, std::memory_order_acquire);
  } else if ((word & FUTEX_OWNER_DIED) == 0) {
    return false;
  }
  void* saved = nullptr;
  if (bpftime::lock(lock, who, &saved) == Locked::kBusy) {
    return false;
  }
  unlock(lock, who, saved);
  return true;
}

RobustListHead* find_robust_head(uint64_t* own) {
  RobustListHead* head = nullptr;
  uint64_t bytes = 0;
  if (raw_syscall(SYS_get_robust_list, 0, reinterpret_cast<uint64_t>(&head),
                  reinterpret_cast<uint64_t>(&bytes)) == 0 &&
      head != nullptr) {
    return head;
  }
  if (own == nullptr) {
    return nullptr;
  }
  // An empty list is one that points at itself.
  head = reinterpret_cast<RobustListHead*>(own);
  head->first = head;
  head->futex_offset = 0;
  head->list_op_pending = nullptr;
  if (raw_syscall(SYS_set_robust_list, reinterpret_cast<uint64_t>(head), sizeof(RobustListHead)) !=
      0) {
    return nullptr;
  }
  return head;
}

}  // namespace bpftime
