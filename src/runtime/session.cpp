#include "runtime/session.hpp"

#include "helpers/helpers.hpp"
#include "helpers/probe_hit.hpp"
#include "runtime/tail_call.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kRsp = 19;  // in struct pt_regs, as 64-bit words

// kSessionsOfCall of them.
SessionCell* cells_of(const ReturnEntry& entry) {
  const ThreadBlock& home = *entry.home;
  return home.sessions + (&entry - home.entries) * kSessionsOfCall;
}

// For the call that begins: the thunk takes the first free entry next, and no other hit comes between.
SessionCell* take_cell(ProbeHit& hit) {
  ThreadBlock& thread = *hit.thread;
  const ReturnEntry* entry = thread.free_entries;
  if (entry == nullptr) {
    entry = bpftime_free_return_entry(&thread, static_cast<const uint64_t*>(hit.regs)[kRsp]);
  }
  if (entry == nullptr) {
    return nullptr;
  }
  const uint64_t sequence = thread.sequence + 1;
  SessionCell* const cells = cells_of(*entry);
  for (uint32_t i = 0; i < kSessionsOfCall; i++) {
    // Of the same sequence, but of another hit: that call did not come to pass.
    if (cells[i].sequence != sequence || cells[i].hits != thread.hits) {
      cells[i] = {sequence, thread.hits, 0, hit.attached->link, 0};
      return &cells[i];
    }
  }
  return nullptr;
}

SessionCell* find_cell(const ProbeHit& hit) {
  const ReturnEntry& entry = *hit.thread->returning;
  SessionCell* const cells = cells_of(entry);
  for (uint32_t i = 0; i < kSessionsOfCall; i++) {
    if (cells[i].sequence == entry.sequence && cells[i].link == hit.attached->link &&
        (cells[i].flags & kSessionReturned) == 0) {
      return &cells[i];
    }
  }
  return nullptr;
}

// The run that is counted is none.
uint64_t run_nothing(const ProbeHit& hit) {
  if ((hit.attached->flags & kAttachedCounted) != 0) {
    hit.attached->counts->run.fetch_sub(1, std::memory_order_relaxed);
  }
  return 0;
}

}  // namespace

uint64_t run_session(void* regs, Hit* base) {
  auto& hit = *static_cast<ProbeHit*>(base);
  if (runs_at_return(hit)) {
    SessionCell none{};
    const bool has_entry = (hit.attached->flags & kAttachedReturnOnly) == 0;
    SessionCell* const cell = has_entry ? find_cell(hit) : &none;
    if (cell == nullptr) {
      return run_nothing(hit);
    }
    cell->flags |= kSessionReturned;
    if ((cell->flags & kSessionSkipsReturn) != 0) {
      return run_nothing(hit);
    }
    hit.session = cell;
    return run_tail_calls(regs, base);
  }
  SessionCell* const cell = take_cell(hit);
  if (cell == nullptr) {
    hit.attached->counts->missed.fetch_add(1, std::memory_order_relaxed);
    return run_nothing(hit);
  }
  hit.session = cell;
  if (run_tail_calls(regs, base) != 0) {
    cell->flags |= kSessionSkipsReturn;
  }
  return 0;
}

}  // namespace bpftime
