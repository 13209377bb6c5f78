#include "runtime/run.hpp"

#include "helpers/probe_hit.hpp"

namespace bpftime {
namespace {

// A program that did not end by itself: never again in this process, and its link's owner hears of
// it.
[[gnu::noinline]] void disarm(const Attached& item, const ProbeHit& hit, AgentState* state) {
  if (item.counts == nullptr) {
    return;
  }
  auto& count = hit.ended == kHitOutOfFuel ? item.counts->out_of_fuel : item.counts->faulted;
  count.fetch_add(1, std::memory_order_relaxed);
  uint64_t armed = 0;
  if (item.counts->disarmed.compare_exchange_strong(armed, hit.ended, std::memory_order_relaxed)) {
    bpftime_say_disarmed(hit.thread, state, item.link, hit.ended);
  }
}

#ifdef BPFTIME_AGENT
#define BPFTIME_VECTOR_CLOBBERS
#else
#define BPFTIME_VECTOR_CLOBBERS                                                              \
  , "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#endif

// Calls the program so that the fault handler can come back here from anywhere below: the registers
// that a callee keeps are written down first.
inline __attribute__((always_inline)) void call_program(const Attached& item, void* regs,
                                                        ProbeHit& hit) {
  void* context = regs;
  Hit* engine_hit = &hit;
  auto function = item.program;
  uint64_t* leave = hit.leave;
  __asm__ volatile(
      "leaq 1f(%%rip), %%rax\n\t"
      "movq %%rax, (%[leave])\n\t"
      "movq %%rsp, 8(%[leave])\n\t"
      "movq %%rbx, 16(%[leave])\n\t"
      "movq %%rbp, 24(%[leave])\n\t"
      "movq %%r12, 32(%[leave])\n\t"
      "movq %%r13, 40(%[leave])\n\t"
      "movq %%r14, 48(%[leave])\n\t"
      "movq %%r15, 56(%[leave])\n\t"
      "call *%[function]\n"
      "1:"
      : "+D"(context), "+S"(engine_hit), [function] "+c"(function), [leave] "+d"(leave)
      :
      : "rax", "r8", "r9", "r10", "r11", "memory", "cc" BPFTIME_VECTOR_CLOBBERS);
}

}  // namespace

uint64_t run_list(const AttachedList* list, void* regs, Site* site, ThreadBlock* thread,
              AgentState* state) {
  if (list == nullptr || list->count == 0 || !is_armed(state)) {
    return 0;
  }
  thread->hits++;
  ProbeHit hit;  // what a program or helper reads is set below
  hit.thread = thread;
  hit.regs = regs;
  hit.site = site;
  hit.function_ip = site == nullptr ? 0 : site->address;
  hit.cpu = kNoCpu;
  hit.process = &state->process;
  uint64_t answer = 0;
  const Attached* const end = list->items + list->count;
  for (const Attached* at = list->items; at != end; at++) {
    const Attached& item = *at;
    if (item.counts != nullptr && item.counts->disarmed.load(std::memory_order_relaxed) != 0)
        [[unlikely]] {
      continue;
    }
    hit.slots = item.slots;
    hit.fuel = kHitFuel;
    hit.ended = kHitNormal;
    hit.attached = &item;
    thread->hit = &hit;
    call_program(item, regs, hit);
    thread->hit = nullptr;
    if (hit.ended != kHitNormal) [[unlikely]] {
      disarm(item, hit, state);
    }
    if (item.flags != 0) [[unlikely]] {
      if ((item.flags & kAttachedCounted) != 0 && item.counts != nullptr) {
        item.counts->run.fetch_add(1, std::memory_order_relaxed);
      }
      if ((item.flags & kAttachedInternal) != 0) {
        answer |= hit.answer;
      }
    }
  }
  return answer;
}

}  // namespace bpftime
