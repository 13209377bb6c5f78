// SIGSEGV and SIGBUS are the agent's from the first probe to the last (DESIGN D10).
#include <signal.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "broker/inside.hpp"
#include "broker/takeout.hpp"
#include "broker/targets_impl.hpp"
#include "inject/remote_memory.hpp"

namespace bpftime {

// Faults in programs and in checked reads come to the agent; everything else goes on to the target's own actions.
// Other threads run meanwhile: the action that ours replaced is what counts, should it be another than the one seen.
Result<void> Targets::Impl::own_signals(TargetProcess* t, RemoteThread& thread) {
  StoppedProcess& process = thread.process();
  constexpr uint64_t kRestorer = 0x04000000;  // SA_RESTORER, asm/signal.h
  KernelSigaction ours{};
  ours.handler = raw(t->image.base) + agent.fault_handler;
  ours.flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | kRestorer;
  ours.restorer = raw(t->image.base) + agent.signal_restorer;
  constexpr std::array<int, 2> kSignals = {SIGSEGV, SIGBUS};
  const auto note = [&](int signal, const KernelSigaction& old) {
    const uint64_t words[4] = {old.handler, old.flags, old.restorer, old.mask};
    return process.write(
        RemoteAddr{t->arena + offsetof(AgentState, old_actions) + signal * sizeof(words)},
        std::as_bytes(std::span(words)));
  };
  const auto seen = TRY(remote_sigactions(thread, kSignals, nullptr));
  uint32_t owned = 0;
  for (size_t i = 0; i < kSignals.size(); i++) {
    if (seen[i].handler != ours.handler) {
      TRY(note(kSignals[i], seen[i]));
    }
    owned |= 1U << kSignals[i];
  }
  TRY(process.write_value(RemoteAddr{t->arena + offsetof(AgentState, signals_owned)}, owned));
  const auto old = TRY(remote_sigactions(thread, kSignals, &ours));
  for (size_t i = 0; i < kSignals.size(); i++) {
    if (old[i].handler != ours.handler && std::memcmp(&old[i], &seen[i], sizeof(old[i])) != 0) {
      TRY(note(kSignals[i], old[i]));
    }
  }
  t->owns_signals = true;
  return {};
}

namespace {

constexpr int kLingerMs = 200;  // tools that switch their probes off and on again

bool has_links(const TargetProcess& t) {
  return std::any_of(t.sites.begin(), t.sites.end(), [](const auto& site) {
    return !site.second.entry.links.empty() || !site.second.on_return.links.empty();
  });
}

}  // namespace

// While the target is the one it is now and nothing else has changed.
void Targets::Impl::later(TargetProcess* t, int ms, void (Impl::*what)(TargetProcess*)) {
  loop->after(ms, [this, what, pid = t->pid, owner = t->owner, generation = t->generation] {
    const auto it = targets.find(pid);
    if (it != targets.end() && it->second->owner == owner && it->second->generation == generation) {
      (this->*what)(it->second.get());
    }
  });
}

// All threads are stopped. With the last link gone, the agent's own probes go a little later, and with them the signal
// actions; a thread that is still inside a program may need these, then later still.
void Targets::Impl::settle_signals(TargetProcess* t, StoppedProcess& all) {
  constexpr int kLookAgainMs = 20;
  if (!t->sites.empty()) {
    if (!has_links(*t)) {
      later(t, kLingerMs, &Impl::stop_listening);
    }
    return;
  }
  const auto inside = threads_inside(all, t->arena, true);
  if (inside && inside->empty() && give_signals_back(all, t->arena, deadline())) {
    t->owns_signals = false;
  } else {
    later(t, kLookAgainMs, &Impl::try_again_to_give_back);
  }
}

void Targets::Impl::stop_listening(TargetProcess* t) {
  t->listens = false;
  if (!sync(t)) {
    later(t, kLingerMs, &Impl::stop_listening);
  }
}

void Targets::Impl::try_again_to_give_back(TargetProcess* t) {
  auto stopped = StoppedProcess::stop(t->pid, deadline());
  if (stopped) {
    settle_signals(t, *stopped);
  } else {
    watch_late();
    later(t, kLingerMs, &Impl::try_again_to_give_back);
  }
}

}  // namespace bpftime
