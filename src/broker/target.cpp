// Targets: what the session calls. The parts are Targets::Impl (targets_impl.hpp).
#include "broker/targets_impl.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>

#include "broker/takeout.hpp"

namespace bpftime {

Targets::Impl::Impl(EventLoop* event_loop, TargetHost* target_host, Config target_config)
    : loop(event_loop), host(target_host), config(std::move(target_config)) {
  arena_file.reset(::memfd_create(kArenaName, MFD_CLOEXEC));
  if (arena_file && ::ftruncate(arena_file.get(), static_cast<off_t>(kArenaBytes)) != 0) {
    arena_file.reset();
  }
  auto parsed = AgentFile::parse(std::move(config.agent_file));
  if (parsed) {
    agent = std::move(*parsed);
    if (auto shared = share_agent(agent.bytes)) {
      agent_fd = std::move(*shared);
    }
  } else {
    agent_error = parsed.error();
  }
  next_owner = config.first_owner;
  struct stat st{};
  if (::fstat(config.alive_fd, &st) == 0) {
    alive_inode = st.st_ino;
  }
}

void Targets::Impl::watch_late() {
  constexpr int kLookAtLateMs = 20;
  if (!watches_late && let_late_threads_go() != 0) {
    watches_late = true;
    loop->after(kLookAtLateMs, [this] {
      watches_late = false;
      watch_late();
    });
  }
}

Targets::Targets(EventLoop* loop, TargetHost* host, Config config)
    : impl_(std::make_unique<Impl>(loop, host, std::move(config))) {}
Targets::~Targets() {
  detach_all();
  // Whoever is left asleep now stays so until another broker comes: one more try for each.
  for (const auto& [_, one] : impl_->asleep) {
    (void)impl_->is_done_with(one, Patience::kUntilDeadline);
  }
}

Result<void> Targets::attach(pid_t pid) {
  auto attached = impl_->attach(pid);
  if (!attached) {
    impl_->watch_late();
  }
  return attached;
}

Result<void> Targets::attach_at_exec(pid_t pid, bool follows) {
  return impl_->attach_at_exec(pid, follows, Impl::Why::kStarted);
}

Result<void> Targets::detach(pid_t pid) { return impl_->detach(pid); }

void Targets::detach_all() {
  while (!impl_->targets.empty()) {
    (void)impl_->detach(impl_->targets.begin()->first);
  }
}

Result<void> Targets::sync(const LinkId* concerning) {
  std::vector<pid_t> pids;
  for (const auto& [pid, _] : impl_->targets) {
    pids.push_back(pid);
  }
  std::optional<Error> error;
  pid_t named = -1;
  if (concerning != nullptr) {
    if (const auto links = impl_->host->wanted_links_of(*concerning); !links.empty()) {
      named = links[0].pid;
    }
  }
  for (const pid_t pid : pids) {
    const auto it = impl_->targets.find(pid);
    if (it == impl_->targets.end()) {
      continue;
    }
    TargetProcess* const t = it->second.get();
    const auto synced = impl_->sync(t, nullptr, concerning);
    if (!synced && synced.error().code != ESRCH) {
      impl_->host->log("process " + std::to_string(pid) + ": " + synced.error().why);
    }
    if (concerning == nullptr || error || pid != named) {
      continue;
    }
    const auto why = t->why_not.find(raw(*concerning));
    if (!synced) {
      error = synced.error();
    } else if (why != t->why_not.end() && why->second.code != 0) {
      if (t->is_placed(raw(*concerning))) {  // at others of its places
        impl_->host->log("process " + std::to_string(pid) + ": link " +
                         std::to_string(raw(*concerning)) +
                         " is not at all of its places: " + why->second.why);
      } else {
        error = make_error(why->second.code, why->second.why);
      }
    }
  }
  if (error) {
    return *error;
  }
  return {};
}

bool Targets::has(pid_t pid) const { return impl_->targets.contains(pid); }
size_t Targets::count() const { return impl_->targets.size() + impl_->starting.size(); }

uint32_t Targets::recover_orphans() {
  uint32_t recovered = 0;
  for (const auto& orphan : processes_with_arena()) {
    if (!orphan.owner.is_alive && take_out(orphan.pid, Impl::deadline())) {
      impl_->host->log("process " + std::to_string(orphan.pid) +
                       ": code restored after an earlier broker");
      recovered++;
    }
  }
  return recovered;
}

}  // namespace bpftime
