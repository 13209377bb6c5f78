// Hits that run nothing, by thread and by link: what a nested hit, one without room on its stack or a return
// without a ReturnEntry comes to. Rare; called by thunks.S alone. Home: injected *.
#include "hook/thread_state.hpp"

namespace bpftime {
namespace {

// The programs of `list` (may be null); of sessions that run at the entry too or not.
void count(const AttachedList* list, bool with_sessions) {
  if (list == nullptr) {
    return;
  }
  for (uint32_t i = 0; i < list->count; i++) {
    const uint32_t kind = list->items[i].flags & (kAttachedSession | kAttachedReturnOnly);
    if (with_sessions || kind != kAttachedSession) {
      list->items[i].counts->missed.fetch_add(1, std::memory_order_relaxed);
    }
  }
}

}  // namespace
}  // namespace bpftime

// `sp`: the thunk's.
extern "C" {
BPFTIME_HIDDEN void bpftime_missed_list(bpftime::ThreadBlock* block, uint64_t sp,
                                        const bpftime::AttachedList* list);
BPFTIME_HIDDEN void bpftime_missed_call(bpftime::ThreadBlock* block, uint64_t sp,
                                        const bpftime::Site* site);
BPFTIME_HIDDEN void bpftime_missed_return(bpftime::ThreadBlock* block, uint64_t sp,
                                          const bpftime::Site* site);

void bpftime_missed_list(bpftime::ThreadBlock* block, uint64_t /*sp*/,
                         const bpftime::AttachedList* list) {
  block->missed++;
  bpftime::count(list, true);
}

// Of a call that will not be seen to return: a session misses both at once, its one run of the call.
void bpftime_missed_return(bpftime::ThreadBlock* block, uint64_t /*sp*/,
                           const bpftime::Site* site) {
  block->missed++;
  bpftime::count(site->on_return.load(std::memory_order_relaxed), false);
}

void bpftime_missed_call(bpftime::ThreadBlock* block, uint64_t sp, const bpftime::Site* site) {
  bpftime::count(site->on_entry.load(std::memory_order_relaxed), true);
  bpftime_missed_return(block, sp, site);
}

}  // extern "C"
