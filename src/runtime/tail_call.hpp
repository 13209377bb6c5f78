// Programs that end by calling another one (bpf_tail_call). Home: injected *, under the recursion guard, as run_list() is; in test runs the
// broker's worker.
#pragma once
#include <cstdint>

#include "helpers/probe_hit.hpp"

namespace bpftime {

// Runs `first`, then what it called at its end, and so on. The helper leaves a program by way of its CodeRange::resume; the
// hit goes on with what is left of its budget. The result is the last one's.
uint64_t run_chain(const TailTarget& first, void* context, ProbeHit& hit);

// run_chain() from the program whose address lies before its slots, for which it stands.
uint64_t run_tail_calls(void* regs, Hit* hit);

}  // namespace bpftime
