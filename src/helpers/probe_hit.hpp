// ProbeHit: one run of one program at one probe. Home: injected *. On the stack of the thread that
// runs the program; helpers cast their Hit* to it.
#pragma once
#include <cstdint>

#include "abi/agent.hpp"
#include "vm/program.hpp"

namespace bpftime {

struct ProbeHit : Hit {
  ThreadBlock* thread;
  void* regs;                // struct pt_regs of the hit; the program's context
  const Attached* attached;  // null in tests and test runs
  Site* site;
  uint64_t function_ip;  // get_func_ip: address of the probed instruction
  uint32_t cpu;          // lane of this hit; kNoCpu = not asked yet
  const ProcessInfo* process;
  uint64_t answer;  // of internal programs only: 1 = return to the caller with regs->rax instead of running the function
  // Where run_list goes on, and with which registers, when the program is left in the middle of a
  // helper that faulted: rip, rsp, rbx, rbp, r12, r13, r14, r15.
  uint64_t leave[8];
};
inline constexpr uint32_t kNoCpu = ~0U;

// Back edges and callback iterations that one run may take: what bpf_loop allows at most (1 << 23).
inline constexpr int64_t kHitFuel = 1LL << 23;

}  // namespace bpftime
