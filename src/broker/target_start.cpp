// `bpftime start`: a process is followed through its exec, and gets its agent at the new program's entry point.
#include "broker/targets_impl.hpp"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace bpftime {
namespace {

constexpr uint64_t kStartMs = 10000;    // from `bpftime start` to the program's entry point
constexpr uint64_t kFollowedMs = 5000;  // from execve: it may fail, and the process goes on
constexpr int kLookAtStartingMs = 5;

}  // namespace

Result<void> Targets::Impl::attach_at_exec(pid_t pid, bool follows, Why why) {
  if (agent_error.code != 0) {
    return agent_error;
  }
  if (!child_signals) {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    ::pthread_sigmask(SIG_BLOCK, &child, nullptr);
    child_signals.reset(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
    TRY(loop->add(child_signals.get(), EPOLLIN, [this](uint32_t) {
      signalfd_siginfo info{};
      while (::read(child_signals.get(), &info, sizeof(info)) == sizeof(info)) {
      }
      std::vector<pid_t> pids;
      for (const auto& [started, _] : starting) {
        pids.push_back(started);
      }
      for (const pid_t started : pids) {
        step_starting(started);
      }
    }));
  }
  auto held = TRY(HeldProcess::seize(pid, deadline()));
  const bool is_first = starting.empty();
  starting.insert_or_assign(
      pid, Starting{std::move(held), deadline_in_ms(why == Why::kStarted ? kStartMs : kFollowedMs),
                    follows, why});
  if (is_first) {
    look_at_starting();
  }
  return {};
}

// SIGCHLD may have been consumed by work on another target.
void Targets::Impl::look_at_starting() {
  loop->after(kLookAtStartingMs, [this] {
    std::vector<pid_t> pids;
    for (const auto& [pid, _] : starting) {
      pids.push_back(pid);
    }
    for (const pid_t pid : pids) {
      step_starting(pid);
    }
    if (!starting.empty()) {
      look_at_starting();
    }
  });
}

void Targets::Impl::step_starting(pid_t pid) {
  const auto it = starting.find(pid);
  if (it == starting.end()) {
    return;
  }
  const auto state = it->second.held.step();
  if (!state || *state == HeldState::kGone || *state == HeldState::kNotFollowed ||
      monotonic_ns() > it->second.give_up_ns) {
    if (state && *state == HeldState::kNotFollowed) {
      host->log("process " + std::to_string(pid) +
                " is left alone: its new program is set-user-id, unreadable or not for x86-64");
    } else if (it->second.why == Why::kStarted) {
      host->log("process " + std::to_string(pid) + " was not followed into its program" +
                (state ? "" : std::string(": ") + state.error().why));
    }
    starting.erase(it);
    return;
  }
  if (*state != HeldState::kAtEntry) {
    return;
  }
  forget(pid, "runs another program now");
  const auto attached = [&]() -> Result<void> {
    auto t = TRY(new_record(pid));
    t->follows = it->second.follows;
    StoppedProcess process = TRY(it->second.held.take(deadline()));
    const AgentEntrance way =
        TRY(find_entrance(process, {agent.bytes, agent_fd.get()}, AgentWish::kAny, true));
    RemoteThread thread = TRY(RemoteThread::begin(process, way.tid, deadline()));
    t->image = TRY(bring_agent(thread, way));
    if (t->image.way == AgentWay::kMapped) {
      host->log("process " + std::to_string(pid) +
                " runs a program without a dynamic loader: entry probes only, and no libraries");
    }
    TRY(set_up(t.get(), thread));
    Held held{&process, &thread};
    return adopt(std::move(t), &held);
  }();
  starting.erase(pid);
  if (!attached) {
    watch_late();
    host->log("process " + std::to_string(pid) + ": agent not brought in: " + attached.error().why);
  }
}

}  // namespace bpftime
