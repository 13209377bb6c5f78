// Programs that end by calling another one (bpf_tail_call). Home: injected *, under the recursion guard, as run_list() is.
#pragma once
#include <cstdint>

#include "vm/program.hpp"

namespace bpftime {

// Stands for the program whose address lies before its slots: runs it, then what it called at its end, and so on. The
// helper leaves the program by way of its CodeRange::resume; the hit goes on with what is left of its budget.
// The result is the last one's.
uint64_t run_tail_calls(void* regs, Hit* hit);

}  // namespace bpftime
