// The loop itself is run_list.S; here is what it seldom needs.
#include "runtime/run.hpp"

#include "helpers/run_state.hpp"
#include "runtime/run_offsets.h"

extern "C" {
__attribute__((visibility("hidden"))) void bpftime_run_begin(bpftime::ThreadBlock* thread,
                                                             void* regs,
                                                             const bpftime::AttachedList* list);
__attribute__((visibility("hidden"))) void bpftime_run_ended(bpftime::ProbeHit* hit);
}

namespace bpftime {
namespace {

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"  // ProbeHit has a base; no virtual one
#define CHECK_OFFSET(name, type, field) static_assert((name) == offsetof(type, field))
CHECK_OFFSET(LIST_FLAGS, AttachedList, flags);
CHECK_OFFSET(LIST_ALIVE, AttachedList, alive);
CHECK_OFFSET(LIST_ALIVE_EXPECTED, AttachedList, alive_expected);
CHECK_OFFSET(THREAD_REGS, ThreadBlock, regs);
CHECK_OFFSET(THREAD_HIT_STACK_TOP, ThreadBlock, hit_stack_top);
CHECK_OFFSET(THREAD_PLAIN_WINDOW, ThreadBlock, plain_window);
CHECK_OFFSET(THREAD_HITS, ThreadBlock, hits);
CHECK_OFFSET(THREAD_HIT_SPACE, ThreadBlock, hit_space);
CHECK_OFFSET(HIT_SLOTS, ProbeHit, slots);
CHECK_OFFSET(HIT_FUEL, ProbeHit, fuel);
CHECK_OFFSET(HIT_ENDED, ProbeHit, ended);
CHECK_OFFSET(HIT_TOUCHED, ProbeHit, reserved);
static_assert(HIT_TOUCHED == HIT_ENDED + 4);  // compared as one word
CHECK_OFFSET(HIT_ATTACHED, ProbeHit, attached);
CHECK_OFFSET(HIT_SITE, ProbeHit, site);
CHECK_OFFSET(HIT_LEAVE, ProbeHit, leave_rsp);
CHECK_OFFSET(HIT_ANSWER, ProbeHit, answer);
CHECK_OFFSET(HIT_REGS, ProbeHit, regs);
CHECK_OFFSET(HIT_THREAD, ProbeHit, thread);
static_assert(HIT_STACK_BYTES == kHitStackBytes);
CHECK_OFFSET(LIST_COUNT, AttachedList, count);
CHECK_OFFSET(LIST_ITEMS, AttachedList, items);
CHECK_OFFSET(ATTACHED_PROGRAM, Attached, program);
CHECK_OFFSET(ATTACHED_SLOTS, Attached, slots);
CHECK_OFFSET(ATTACHED_COUNTS, Attached, counts);
CHECK_OFFSET(ATTACHED_FLAGS, Attached, flags);
CHECK_OFFSET(COUNTS_RUN, HitCounts, run);
CHECK_OFFSET(COUNTS_DISARMED, HitCounts, disarmed);
#pragma GCC diagnostic pop
static_assert(ATTACHED_BYTES == sizeof(Attached) && ATTACHED_COUNTED == kAttachedCounted);
static_assert(FUEL == kHitFuel && kHitNormal == 0);

}  // namespace
}  // namespace bpftime

extern "C" {

// A thread's first hit, the first after a signal handler jumped out of a program, or the end of a
// plain program that did not end by itself.
void bpftime_run_begin(bpftime::ThreadBlock* thread, void* regs,
                       const bpftime::AttachedList* list) {
  using namespace bpftime;
  auto& hit = *reinterpret_cast<ProbeHit*>(thread->hit_space);
  if (hit.ended != kHitNormal && hit.faulted != nullptr && hit.faulted == list->items[0].code) {
    hit.attached = list->items;
    bpftime_run_ended(&hit);
  }
  set_up(hit, thread, regs, &list->state->process);
  hit.state = list->state;
}

// A program that left something to put back (Hit::reserved), or that did not end by itself: never again
// in this process, and its link's owner hears of it.
void bpftime_run_ended(bpftime::ProbeHit* hit) {
  using namespace bpftime;
  const Attached& item = *hit->attached;
  const uint32_t why = hit->ended;
  end_run(*hit);
  if (why == kHitNormal) {
    return;
  }
  auto& count = why == kHitOutOfFuel ? item.counts->out_of_fuel : item.counts->faulted;
  count.fetch_add(1, std::memory_order_relaxed);
  uint64_t armed = 0;
  if (item.counts->disarmed.compare_exchange_strong(armed, why, std::memory_order_relaxed)) {
    bpftime_say_disarmed(hit->thread, hit->state, item.link, why);
  }
  if ((item.flags & kAttachedAlone) != 0) {
    // From now on by run_list, which looks at `disarmed`. Other sites' lists: when they come here.
    const auto list = reinterpret_cast<uint64_t>(&item) - offsetof(AttachedList, items);
    __atomic_store_n(&reinterpret_cast<AttachedList*>(list)->flags, 0, __ATOMIC_RELAXED);
  }
}

}  // extern "C"
