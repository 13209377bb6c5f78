// Letting a target go: its code restored, the agent unmapped at once or as soon as no thread is inside.
#include "broker/targets_impl.hpp"

#include <cerrno>
#include <string>
#include <utility>

#include "broker/takeout.hpp"

namespace bpftime {

Result<void> Targets::Impl::unregister(TargetProcess* t) {
  loop->remove(t->pidfd.get());
  loop->remove(t->channel.get());
  return {};
}

Result<void> Targets::Impl::detach(pid_t pid) {
  const auto it = targets.find(pid);
  if (it == targets.end()) {
    return make_error(ESRCH, "this process is not a target");
  }
  auto t = std::move(it->second);
  targets.erase(it);
  (void)unregister(t.get());
  let_go_before_exec(pid);
  const auto out = take_out(pid, deadline_in_ms(kTakeOutMs));
  if (!out) {
    watch_late();
    host->log("process " + std::to_string(pid) + ": not taken out: " + out.error().why);
    if (out.error().code == ETIMEDOUT) {
      asleep.push_back(t->identity);
      wake_up_later();
    }
  } else if (out->why_mapped != nullptr) {
    host->log("process " + std::to_string(pid) +
              ": code restored; the agent stays mapped, asleep: " + out->why_mapped);
    asleep.push_back(t->identity);
    wake_up_later();
  }
  if (out && out->why_mapped == nullptr) {
    config.lanes->free_of(OwnerId{t->owner});
  }
  host->target_gone(OwnerId{t->owner}, pid);
  // Children that forked and never hit a probe still have our bytes.
  for (const auto& child : processes_with_arena()) {
    if (!targets.contains(child.pid) && child.owner.alive_inode == alive_inode &&
        child.arena == t->arena && child.pid != pid) {
      (void)take_out(child.pid, deadline());
    }
  }
  if (!out) {
    return out.error();
  }
  return {};
}

void Targets::Impl::wake_up_later() {
  if (is_waking) {
    return;
  }
  is_waking = true;
  loop->after(500, [this] {
    is_waking = false;
    std::erase_if(asleep, [this](const ProcessIdentity& who) {
      const auto now = identify(who.pid);
      if (!now || *now != who || targets.contains(who.pid)) {
        return true;
      }
      const auto out = take_out(who.pid, deadline_in_ms(50), 1);
      if (out && out->why_mapped == nullptr) {
        host->log("process " + std::to_string(who.pid) + ": the agent is unmapped now");
      }
      return out ? out->why_mapped == nullptr : out.error().code != ETIMEDOUT;
    });
    if (!asleep.empty()) {
      wake_up_later();
    }
  });
}

void Targets::Impl::forget(pid_t pid, const char* how) {
  const auto it = targets.find(pid);
  if (it == targets.end()) {
    return;
  }
  auto t = std::move(it->second);
  targets.erase(it);
  (void)unregister(t.get());
  host->log("process " + std::to_string(pid) + " " + how);
  config.lanes->free_of(OwnerId{t->owner});
  host->target_gone(OwnerId{t->owner}, pid);
}

}  // namespace bpftime
