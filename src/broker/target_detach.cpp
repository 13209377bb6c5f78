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
  const auto out =
      take_out(pid, deadline_in_ms(kTakeOutMs), kTakeOutLooks, Patience::kNotForWaitingCalls);
  if (!out) {
    watch_late();
    host->log("process " + std::to_string(pid) + ": not taken out: " + out.error().why);
  } else if (out->why_mapped != nullptr) {
    host->log("process " + std::to_string(pid) +
              ": code restored; the agent stays mapped, asleep: " + out->why_mapped);
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
  if (out ? out->why_mapped != nullptr : out.error().code == ETIMEDOUT) {
    put_to_sleep(std::move(t), out.has_value());
  }
  if (!out) {
    return out.error();
  }
  return {};
}

void Targets::Impl::put_to_sleep(std::unique_ptr<TargetProcess> t, bool is_restored) {
  for (auto& [_, site] : t->sites) {
    retire_site(t.get(), site);
  }
  t->sites.clear();
  t->places.clear();
  t->why_not.clear();
  for (auto& [_, raised] : t->semaphores) {
    for (const RaisedSemaphore& one : raised) {
      t->free_semaphores.push_back(one.index);
    }
  }
  t->semaphores.clear();
  t->armed = t->listens = false;
  const pid_t pid = t->pid;
  asleep.insert_or_assign(pid, Asleep{std::move(t), is_restored});
  look_at_asleep_later();
}

void Targets::Impl::look_at_asleep_later() {
  if (is_looking) {
    return;
  }
  is_looking = true;
  loop->after(500, [this] {
    is_looking = false;
    std::erase_if(asleep, [this](const auto& one) {
      return is_done_with(one.second, Patience::kNotForWaitingCalls);
    });
    if (!asleep.empty()) {
      look_at_asleep_later();
    }
  });
}

// True when nothing of ours is there any more, or nothing can be done about it.
bool Targets::Impl::is_done_with(const Asleep& one, Patience patience) {
  const pid_t pid = one.t->pid;
  const auto now = identify(pid);
  if (now && *now == one.t->identity) {
    // While a call waits, for hours perhaps, one look at a time is enough: it stops all threads.
    const auto out = patience == Patience::kNotForWaitingCalls
                         ? take_out(pid, deadline_in_ms(50), 1, patience)
                         : take_out(pid, deadline_in_ms(kTakeOutMs));
    if (out ? out->why_mapped != nullptr : out.error().code == ETIMEDOUT) {
      return false;
    }
    if (out) {
      host->log("process " + std::to_string(pid) + ": the agent is unmapped now");
    }
  }
  config.lanes->free_of(OwnerId{one.t->owner});
  return true;
}

std::unique_ptr<TargetProcess> Targets::Impl::woken(pid_t pid) {
  const auto found = asleep.find(pid);
  if (found == asleep.end()) {
    return nullptr;
  }
  Asleep one = std::move(found->second);
  asleep.erase(found);
  const auto now = identify(pid);
  const auto arena = find_arena(pid);
  const bool is_there = now && *now == one.t->identity && arena && *arena == one.t->arena;
  if (!is_there) {
    config.lanes->free_of(OwnerId{one.t->owner});
  }
  return one.is_restored && is_there ? std::move(one.t) : nullptr;
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
