// What a run leaves to put back, and what a hit is before one: for runtime, and for test runs in the broker's worker. Home:
// injected *, on the thread that runs the hit.
#pragma once
#include "abi/ids.hpp"
#include "helpers/helpers.hpp"
#include "helpers/lane.hpp"
#include "helpers/probe_hit.hpp"

namespace bpftime {

// After a run, however it ended: lane and open records are given back, the hit is as before it.
inline void end_run(ProbeHit& hit) {
  if ((hit.reserved & kHitHasLane) != 0) {
    give_back_lane(hit);
  }
  hit.ended = kHitNormal;
  hit.reserved = 0;
  hit.cpu = kNoCpu;
  if (hit.thread->open_record_count != 0) {
    discard_open_records(*hit.thread, OwnerId{hit.process->owner});
  }
}

// `hit`, in whatever state a run was left (all zero: there was none), becomes the thread's idle one.
inline void set_up(ProbeHit& hit, ThreadBlock* thread, void* regs, const ProcessInfo* process) {
  hit.thread = thread;
  hit.process = process;
  end_run(hit);
  hit.fuel = kHitFuel;
  hit.answer = 0;
  hit.faulted = nullptr;
  hit.regs = regs;
  thread->hit = &hit;
  set_idle(hit);
}

}  // namespace bpftime
