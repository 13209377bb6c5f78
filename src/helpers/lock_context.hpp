// Who takes the locks of maps in a hit. Home: injected *, helpers only.
#pragma once
#include "helpers/probe_hit.hpp"
#include "maps/lock.hpp"

namespace bpftime {

inline LockContext lock_context(const ProbeHit& hit) {
  ThreadBlock& thread = *hit.thread;
  if (thread.robust_head == nullptr) [[unlikely]] {
    thread.robust_head = find_robust_head(thread.own_robust);
  }
  LockContext who;
  who.owner = OwnerId{hit.process->owner};
  who.tid = thread.tid;
  who.robust = static_cast<RobustListHead*>(thread.robust_head);
  who.never_nested = true;  // a hit inside a hit is counted as missed, not run
  return who;
}

}  // namespace bpftime
