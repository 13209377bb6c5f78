// What happens at a SIGSEGV or SIGBUS while the agent owns them (DESIGN D9, D10).
#include <signal.h>
#include <ucontext.h>

#include "base/raw_syscall.hpp"
#include "helpers/helpers.hpp"
#include "runtime/run.hpp"
#include "runtime/run_offsets.h"

extern "C" {
__attribute__((visibility("hidden"))) void bpftime_program_left();  // run_list.S
__attribute__((visibility("hidden"))) void bpftime_read_left();     // read_aside.S
}

namespace bpftime {
namespace {

// As the kernel's struct sigaction, and AgentState::old_actions.
struct KernelAction {
  uint64_t handler, flags, restorer, mask;
};
constexpr uint64_t kSaNodefer = 0x40000000;
constexpr uint64_t kSaResethand = 0x80000000;
constexpr uint64_t kSaRestorer = 0x04000000;
constexpr uint64_t kDefault = 0;
constexpr uint64_t kIgnore = 1;

bool is_in(const CodeRange* range, uint64_t ip) {
  return range != nullptr && ip >= range->begin && ip < range->end;
}

// Where a running program's hit goes on.
struct Resume {
  uint64_t ip;
  uint64_t rsp;          // 0: as it is
  bool goes_on = false;  // the program does: a read of its own failed
};

Resume resume_in(const CodeRange& range, uint64_t ip) {
  const auto* const reads = reinterpret_cast<const ReadFixup*>(range.reads);
  for (uint64_t i = 0; i < range.read_count; i++) {
    if (const uint64_t at = ip - range.begin; at >= reads[i].begin && at < reads[i].end) {
      return {range.begin + reads[i].resume, 0, true};
    }
  }
  return {range.resume, 0};
}

// A plain program ends whose leave stub that is: said to bpftime_run_begin.
void end_plain(ProbeHit* hit, const CodeRange* range) {
  hit->attached = nullptr;
  hit->faulted = range;
}

// The running program of `thread` faulted at `ip`: where to continue; ip 0 = no program did.
Resume resume_of(uint64_t ip, const ThreadBlock* thread, const AgentState* state) {
  if (thread == nullptr || thread->hit == nullptr) {
    return {0, 0};
  }
  auto* const hit = static_cast<ProbeHit*>(thread->hit);
  // A plain program runs without saying so in its hit.
  if ((!is_running(*hit) && thread->guard == 0) || hit->ended == kHitFault) {
    return {0, 0};  // on its way out already: a fault there must not go round for ever
  }
  if (is_running(*hit) && is_in(hit->attached->code, ip)) {
    return resume_in(*hit->attached->code, ip);
  }
  const auto* const ranges = reinterpret_cast<const CodeRange*>(state->code_ranges);
  const uint64_t count =
      ranges == nullptr ? 0 : state->code_range_count.load(std::memory_order_acquire);
  for (uint64_t i = 0; i < count; i++) {
    if (is_in(&ranges[i], ip)) {
      const Resume resume = resume_in(ranges[i], ip);
      if (!is_running(*hit) && !resume.goes_on) {
        end_plain(hit, &ranges[i]);
      }
      return resume;
    }
  }
  const bool in_agent = state->agent_bytes != 0 && ip - state->agent_base < state->agent_bytes;
  if (in_agent && is_reading_aside(*hit)) {
    const uint64_t leave = reinterpret_cast<const uint64_t*>(hit->leave_rsp)[ASIDE_LEAVE / 8];
    for (uint64_t i = 0; i < count; i++) {
      if (ranges[i].resume == leave) {
        end_plain(hit, &ranges[i]);
        return {reinterpret_cast<uint64_t>(&bpftime_read_left), hit->leave_rsp};
      }
    }
  }
  // In a helper that the program gave a bad pointer to: past the program, to where run_list called
  // it. A bucket lock that was held is taken over and repaired by whoever wants it next: this
  // thread at once, since its hits do not nest, others when it ends.
  if (in_agent && is_running(*hit) && (hit->attached->flags & kAttachedInternal) == 0) {
    return {reinterpret_cast<uint64_t>(&bpftime_program_left), hit->leave_rsp};
  }
  return {0, 0};
}

// The kernel's default, now: the fault fires again on return, a sent signal is sent again.
void do_default(int signo, siginfo_t* info, bool was_sent, AgentState* state) {
  const KernelAction action = {};
  raw_syscall(SYS_rt_sigaction, static_cast<uint64_t>(signo), reinterpret_cast<uint64_t>(&action),
              0, 8);
  state->signals_owned &= ~(1U << signo);
  if (was_sent) {
    raw_syscall(SYS_rt_tgsigqueueinfo, static_cast<uint64_t>(raw_syscall(SYS_getpid)),
                static_cast<uint64_t>(raw_syscall(SYS_gettid)), static_cast<uint64_t>(signo),
                reinterpret_cast<uint64_t>(info));
  }
}

// What the target's own action would have done (kernel/signal.c: get_signal, arch handle_signal).
NextHandler chain(int signo, siginfo_t* info, ucontext_t* context, bool was_sent,
                  AgentState* state) {
  uint64_t(&old)[4] = state->old_actions[signo];
  const KernelAction action = {old[0], old[1], old[2], old[3]};
  if (action.handler == kDefault || (action.handler == kIgnore && !was_sent)) {
    do_default(signo, info, was_sent, state);
    return {0, 0};
  }
  if (action.handler == kIgnore) {
    return {0, 0};
  }
  if ((action.flags & kSaResethand) != 0) {
    old[0] = kDefault;
  }
  uint64_t mask = 0;
  __builtin_memcpy(&mask, &context->uc_sigmask, sizeof mask);
  mask |= action.mask;
  if ((action.flags & kSaNodefer) == 0) {
    mask |= 1ULL << (signo - 1);
  }
  raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<uint64_t>(&mask), 0, 8);
  // A handler without SA_SIGINFO finds the other two in registers that it does not look at, as from
  // the kernel.
  return {action.handler, (action.flags & kSaRestorer) != 0 ? action.restorer : 0};
}

}  // namespace

NextHandler handle_fault(int signo, void* info_bytes, void* ucontext, ThreadBlock* thread,
                         AgentState* state) {
  auto* const info = static_cast<siginfo_t*>(info_bytes);
  auto* const context = static_cast<ucontext_t*>(ucontext);
  const bool was_sent = info->si_code <= 0;
  if (!was_sent && (signo == SIGSEGV || signo == SIGBUS)) {
    auto& registers = context->uc_mcontext.gregs;
    const auto ip = static_cast<uint64_t>(registers[REG_RIP]);
    if (const uint64_t resume = checked_copy_resume(ip)) {
      registers[REG_RIP] = static_cast<greg_t>(resume);
      return {0, 0};
    }
    if (const Resume resume = resume_of(ip, thread, state); resume.ip != 0) {
      registers[REG_RIP] = static_cast<greg_t>(resume.ip);
      if (resume.goes_on) {
        return {0, 0};
      }
      thread->hit->ended = kHitFault;
      registers[REG_RDI] = reinterpret_cast<greg_t>(thread->hit);
      if (resume.rsp != 0) {
        registers[REG_RSP] = static_cast<greg_t>(resume.rsp);
      }
      return {0, 0};
    }
  }
  return signo > 0 && signo < 65 ? chain(signo, info, context, was_sent, state) : NextHandler{0, 0};
}

}  // namespace bpftime
