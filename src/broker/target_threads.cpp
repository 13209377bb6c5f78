// How a target's threads are known to the agent.
#include <cstddef>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "broker/targets_impl.hpp"

namespace bpftime {

// First arming, all threads stopped: how a thread is known, and its gs base.
Result<void> Targets::Impl::discover_threads(TargetProcess* t, StoppedProcess& process) {
  // In a pid namespace tids are small numbers, which stand elsewhere in a TCB too: only known places count there
  // (struct pthread of musl 1.2 and of glibc 2.31 to 2.41).
  constexpr uint32_t kMuslTid = 0x30;
  constexpr uint32_t kGlibcTid = 0x2d0;
  const bool in_namespace = t->status.inner_tgid != t->pid;
  bool gs_is_free = true;
  bool self_pointer = true;
  std::set<uint32_t> tid_offsets;
  bool first = true;
  std::vector<std::pair<pid_t, Registers>> threads;
  for (const pid_t tid : process.threads()) {
    const Registers regs = TRY(process.registers(tid));
    threads.emplace_back(tid, regs);
    gs_is_free = gs_is_free && regs.gs_base == 0;
    const auto self = process.read_value<uint64_t>(RemoteAddr{regs.fs_base});
    if (regs.fs_base == 0 || !self || *self != regs.fs_base) {
      self_pointer = false;
      continue;
    }
    const pid_t inner_tid = in_namespace ? TRY(read_thread_status(t->pid, tid)).inner_tid : tid;
    std::set<uint32_t> offsets;
    std::vector<uint32_t> tcb(0x800 / sizeof(uint32_t));
    if (process.read(RemoteAddr{regs.fs_base}, std::as_writable_bytes(std::span(tcb)))) {
      for (uint32_t i = 0; i < tcb.size(); i++) {
        if (tcb[i] == static_cast<uint32_t>(inner_tid) &&
            (!in_namespace || i * 4 == kMuslTid || i * 4 == kGlibcTid)) {
          offsets.insert(i * 4);
        }
      }
    }
    if (first) {
      tid_offsets = offsets;
      first = false;
    } else {
      std::erase_if(tid_offsets, [&](uint32_t o) { return !offsets.contains(o); });
    }
  }
  gs_is_free = gs_is_free && self_pointer;
  const uint32_t tid_offset = self_pointer && !tid_offsets.empty() ? *tid_offsets.begin() : 0;
  const auto put = [&](size_t offset, uint32_t value) {
    return process.write_value(RemoteAddr{t->arena + offset}, value);
  };
  TRY(put(offsetof(AgentState, tcb_tid_offset), tid_offset));
  TRY(put(offsetof(AgentState, fs_self_pointer), self_pointer ? 1 : 0));
  TRY(put(offsetof(AgentState, use_gs), gs_is_free ? 1 : 0));
  t->is_hashed = !gs_is_free;
  TRY(put(offsetof(AgentState, no_fsgsbase), t->has_fsgsbase ? 0 : 1));
  TRY(put(offsetof(AgentState, gs_was_set), gs_is_free ? 1 : 0));
  if (gs_is_free) {
    for (auto& [tid, regs] : threads) {
      regs.gs_base = raw(t->image.base) + agent.nobody;
      TRY(process.set_registers(tid, regs));
    }
  }
  return {};
}

}  // namespace bpftime
