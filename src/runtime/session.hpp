// Programs of uprobe.session links: one program at entry and return of a call (Linux 6.18
// kernel/trace/bpf_trace.c: uprobe_prog_run, uprobe_multi_link_handler). Home: injected *, under the
// recursion guard, as run_list() is.
#pragma once
#include <cstdint>

#include "vm/program.hpp"

namespace bpftime {

// Stands for the program whose address lies before its slots. At the entry it takes a SessionCell for the call that
// begins; at the return it runs the program with the same cell, or not at all when the program has returned
// another value than 0 at the entry. With kAttachedReturnOnly it runs at each return, with a cookie that is 0.
uint64_t run_session(void* regs, Hit* hit);

}  // namespace bpftime
