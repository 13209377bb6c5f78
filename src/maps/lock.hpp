// The lock of a shared bucket: taken with a futex word that the kernel marks when its owner dies
// (DESIGN D4). Home: injected *. No heap, no libc; sched_yield and nanosleep by raw system call
// while waiting, bounded.
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi/ids.hpp"
#include "abi/region.hpp"

namespace bpftime {

// Linux uapi linux/futex.h: struct robust_list_head; as get_robust_list(2) gives it.
struct RobustListHead {
  void* first;
  long futex_offset;
  void* volatile list_op_pending;
};

// Who takes locks. Made on the stack for each operation.
struct LockContext {
  OwnerId owner = OwnerId{0};        // of this process, from the broker; 0 only in tests
  uint32_t tid = 0;                  // of this thread, as the kernel numbers it here
  RobustListHead* robust = nullptr;  // null: nobody learns of our death but by sweep()
  // True when no operation of this thread can be going on below this one (hits do not nest): a lock
  // that names this thread was then left by a longjmp, and is taken over. Else it gives EBUSY.
  bool never_nested = false;
  // A live holder is waited for some seconds, not 20 ms: calls that a loader makes, which the kernel would not answer
  // with EBUSY because a writer is preempted. Never a hit.
  bool is_patient = false;
  // Asked about the owner of a lock that the kernel marked: tids repeat across pid namespaces, so a
  // mark may mean someone else. Null: marked = dead.
  bool (*owner_alive)(OwnerId owner, void* arg) = nullptr;
  void* owner_alive_arg = nullptr;
};

enum class Locked : uint32_t { kBusy, kTaken, kTakenFromDead };

// kBusy after a bounded wait (about 20 ms, or LockContext::is_patient) or when this thread holds it already. After
// kTakenFromDead repair first. `saved` keeps what list_op_pending held before; give it back to
// unlock().
Locked lock(RobustLock& lock, const LockContext& who, void** saved);
void unlock(RobustLock& lock, const LockContext& who, void* saved);

// A lock for a scope, false where it was busy. `who` outlives it.
class HeldLock {
 public:
  HeldLock(RobustLock& lock, const LockContext& who)
      : lock_(lock), who_(who), how_(bpftime::lock(lock, who, &saved_)) {}
  ~HeldLock() {
    if (how_ != Locked::kBusy) {
      unlock(lock_, who_, saved_);
    }
  }
  HeldLock(const HeldLock&) = delete;
  HeldLock& operator=(const HeldLock&) = delete;
  explicit operator bool() const { return how_ != Locked::kBusy; }
  [[nodiscard]] bool is_from_dead() const { return how_ == Locked::kTakenFromDead; }

 private:
  RobustLock& lock_;
  const LockContext& who_;
  void* saved_ = nullptr;
  Locked how_;
};

// For locks that leave nothing to repair: frees one that `dead` holds, or that the kernel marked. False when it is free
// or another's.
bool release_of_dead(RobustLock& lock, const LockContext& who, OwnerId dead);

// The thread's robust list head: get_robust_list, or `own` (24 bytes that live as long as the
// thread) registered when there is none. Null when neither works.
RobustListHead* find_robust_head(uint64_t* own);

}  // namespace bpftime
