// The lane of a hit (abi/lanes.hpp). Home: injected *, helpers and runtime; on the thread that runs
// the hit.
#pragma once
#include "helpers/probe_hit.hpp"

namespace bpftime {

// Takes one for the rest of the program's run, or counts the run as missed and gives kNoCpu. Takes
// nothing when the hit has one: use lane_of().
uint32_t take_lane(ProbeHit& hit);

inline uint32_t lane_of(ProbeHit& hit) { return hit.cpu != kNoCpu ? hit.cpu : take_lane(hit); }

// The CPU that stands for the hit where there is something for each CPU only, such as a perf buffer:
// its lane's, or where it runs. Takes nothing.
uint32_t cpu_of(ProbeHit& hit);

// Ends what take_lane() began. At the end of a run that says kHitHasLane.
inline void give_back_lane(ProbeHit& hit) {
  hit.process->lanes[hit.cpu].owner.store(0, std::memory_order_release);
}

}  // namespace bpftime
