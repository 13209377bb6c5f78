// The agent: joins hook (thunks) and runtime (programs) in a target, and describes itself to the
// broker. Home: injected. A hit comes in through bpftime_on_entry / bpftime_on_return on the
// thread's hit stack, under the recursion guard; nothing here allocates, locks, prints or changes
// errno, flags or vector registers.
#include "abi/agent.hpp"

#include "agent/say.hpp"
#include "agent/shadow_signals.hpp"
#include "helpers/all.hpp"
#include "helpers/helpers.hpp"
#include "hook/thread_state.hpp"
#include "hook/thunks.hpp"
#include "runtime/run.hpp"
#include "runtime/session.hpp"
#include "runtime/tail_call.hpp"

using bpftime::AgentState;
using bpftime::Site;
using bpftime::ThreadBlock;

extern "C" {

// A forked child's first hit. The guard is set in the end whatever the broker said, so that an
// orphan passes through without asking again.
BPFTIME_HIDDEN void bpftime_cold_hit(pt_regs* /*regs*/, Site* /*site*/, ThreadBlock* block) {
  AgentState* const state = bpftime_agent_state;
  bpftime::take_over_after_fork(block);
  if (bpftime::is_armed(state)) {
    bpftime::say_forked_and_wait(state);
  }
  // The first word of the table, as hook/thunks.hpp says.
  __atomic_store_n(reinterpret_cast<uint64_t*>(state->table), bpftime::kTableGuard,
                   __ATOMIC_RELEASE);
}

BPFTIME_HIDDEN void bpftime_say_printk(bpftime::ProbeHit* hit, const char* text, uint32_t bytes) {
  bpftime::say_printk(bpftime_agent_state, hit->thread->tid, text, bytes);
}

BPFTIME_HIDDEN bool bpftime_say_wake(ThreadBlock* thread, uint32_t map_id) {
  return bpftime::say_wake(bpftime_agent_state, thread->tid, map_id);
}

BPFTIME_HIDDEN bpftime::ReturnEntry* bpftime_free_return_entry(ThreadBlock* thread, uint64_t sp) {
  return bpftime_take_entry_slow(nullptr, nullptr, thread, sp);
}

BPFTIME_HIDDEN void bpftime_say_disarmed(ThreadBlock*, AgentState* state, uint32_t link,
                                         uint32_t why) {
  bpftime::say_disarmed(state, link, why);
}

BPFTIME_HIDDEN bpftime::NextHandler bpftime_fault(int signo, void* info, void* context) {
  return bpftime::handle_fault(signo, info, context, bpftime::thread_block(), bpftime_agent_state);
}

}  // extern "C"

namespace {

// The action for the signals that the agent owns. Jumps to the handler that is still to run, as the kernel would have:
// the frame's first word is where it returns to.
__attribute__((naked)) void on_fault(int, void*, void*) {
  __asm__(R"(
    push %rdi
    .cfi_adjust_cfa_offset 8
    push %rsi
    .cfi_adjust_cfa_offset 8
    push %rdx
    .cfi_adjust_cfa_offset 8
    call bpftime_fault  # rax = handler, rdx = restorer
    mov %rdx, %rcx
    pop %rdx
    .cfi_adjust_cfa_offset -8
    pop %rsi
    .cfi_adjust_cfa_offset -8
    pop %rdi
    .cfi_adjust_cfa_offset -8
    test %rax, %rax
    jz 2f
    test %rcx, %rcx
    jz 1f
    mov %rcx, (%rsp)
1:  mov %rax, %r11
    xor %eax, %eax
    jmp *%r11
2:  ret
  )");
}

// x86-64: a handler returns into this (sigaction's sa_restorer).
__attribute__((naked)) void signal_restorer() {
  __asm__("mov $15, %eax\n\tsyscall");  // rt_sigreturn
}

// Internal program at ld.so's _dl_debug_state.
uint64_t on_libraries(void*, bpftime::Hit*) {
  bpftime::say_libraries_and_wait(bpftime_agent_state);
  return 0;
}

// Internal program at libc's sigaction.
uint64_t on_sigaction(void* regs, bpftime::Hit* hit) {
  auto* const probe_hit = static_cast<bpftime::ProbeHit*>(hit);
  if (bpftime::answer_sigaction(static_cast<pt_regs*>(regs), probe_hit->thread,
                                bpftime_agent_state)) {
    probe_hit->answer = 1;
  }
  return 0;
}

// Internal program at libc's execve.
uint64_t on_exec(void* regs, bpftime::Hit*) {
  bpftime::say_exec_and_wait(bpftime_agent_state, static_cast<const pt_regs*>(regs)->rdi);
  return 0;
}

uint64_t run_timed(void* regs, bpftime::Hit* hit) {
  const bpftime::Attached* const attached = static_cast<bpftime::ProbeHit*>(hit)->attached;
  bpftime::HitCounts* const counts = attached->counts;
  const bool is_session = (attached->flags & bpftime::kAttachedSession) != 0;
  const auto program = is_session ? bpftime::run_session : bpftime::run_tail_calls;
  const uint64_t begin = bpftime::helper::ktime_get_ns(0, 0, 0, 0, 0, hit);
  const uint64_t result = program(regs, hit);
  counts->ns.fetch_add(bpftime::helper::ktime_get_ns(0, 0, 0, 0, 0, hit) - begin,
                       std::memory_order_relaxed);
  return result;
}

}  // namespace

extern "C" __attribute__((
    visibility("default"))) constinit const bpftime::AgentDescriptor bpftime_agent_descriptor = {
    .magic = bpftime::kAgentMagic,
    .version = bpftime::kAgentVersion,
    .state = &bpftime_agent_state,
    .entry_thunk = bpftime_entry_thunk,
    .return_thunk = bpftime_return_thunk,
    .return_point = bpftime_return_point,
    .inside_thunk = bpftime_inside_thunk,
    .fault_handler = on_fault,
    .signal_restorer = signal_restorer,
    .on_libraries = on_libraries,
    .on_sigaction = on_sigaction,
    .run_timed = run_timed,
    .helpers = bpftime::kHelpers,
    .helper_count = &bpftime::kHelperCount,
    .nobody = &bpftime_nobody,
    .entry_thunk_hashed = bpftime_entry_thunk_hashed,
    .return_thunk_hashed = bpftime_return_thunk_hashed,
    .return_point_hashed = bpftime_return_point_hashed,
    .run_session = bpftime::run_session,
    .run_tail_calls = bpftime::run_tail_calls,
    .inside_thunk_hashed = bpftime_inside_thunk_hashed,
    .read_aside = bpftime_read_aside,
    .on_exec = on_exec,
};
