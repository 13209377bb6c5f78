// bpftime attach, detach: one process, or all that fit.
#include <cerrno>
#include <cstdio>

#include "cli/commands.hpp"
#include "cli/processes.hpp"

namespace bpftime::cli {
namespace {

bool are_process_ids(const std::vector<int64_t>& pids) {
  for (const int64_t pid : pids) {
    if (pid <= 0 || pid > INT32_MAX) {
      return false;
    }
  }
  return true;
}

// Every process is told to the broker of its session; a broker is reached once.
class Brokers {
 public:
  explicit Brokers(const Surroundings& here) : here_(here) {}
  Result<Channel*> of(pid_t pid, bool start) {
    const Surroundings theirs = for_process(here_, pid);
    for (auto& [uid, channel] : known_) {
      if (uid == theirs.uid) {
        return &channel;
      }
    }
    auto broker = reach_broker(theirs, Role::kCommand, start);
    if (!broker) {
      return broker.error();
    }
    known_.emplace_back(theirs.uid, std::move(broker).value());
    return &known_.back().second;
  }

 private:
  const Surroundings& here_;
  std::vector<std::pair<uid_t, Channel>> known_;
};

int change(const Surroundings& here, const Invocation& invocation, bool attaches) {
  const char* verb = attaches ? "attach" : "detach";
  const ProcessChoice& choice = invocation.processes;
  if (!are_process_ids(choice.pids)) {
    return complain(verb, "not a process id", "give the number that ps shows");
  }
  const auto pids = choose_processes(choice);
  if (!pids) {
    return complain(verb, pids.error().why, "see getent passwd");
  }
  if (pids->empty()) {
    return complain(verb, "no process fits", "see ps -eo pid,user,comm,exe");
  }
  // Where processes were not named one by one, those that cannot be had are told and passed over.
  const bool is_named = choice.names.empty() && choice.users.empty() && choice.exes.empty();
  Brokers brokers(here);
  int failures = 0;
  size_t done = 0;
  for (const pid_t pid : *pids) {
    const std::string what = std::string(verb) + " " + std::to_string(pid);
    auto broker = brokers.of(pid, attaches);
    std::string why;
    auto changed =
        broker ? ask(*broker, attaches ? MessageKind::kAttach : MessageKind::kDetach, pid, &why)
               : Result<Reply>(broker.error());
    if (changed) {
      done++;
      std::fprintf(stderr, "bpftime: %s %d\n", attaches ? "attached to" : "detached from", pid);
      continue;
    }
    const int code = changed.error().code;
    if (!attaches && (code == ENOENT || code == ESRCH)) {
      if (is_named && !choice.children) {
        failures++;
        complain(what, "not a target", "see bpftime status for targets");
      }
      continue;
    }
    failures++;
    complain(what, changed.error(), why, pid);
  }
  if (pids->size() > 1) {
    std::fprintf(stderr, "bpftime: %s %zu of %zu processes\n",
                 attaches ? "attached to" : "detached from", done, pids->size());
  }
  return done == 0 || (is_named && failures != 0) ? kExitFailed : 0;
}

int detach_all(const Surroundings& here) {
  auto broker = reach_broker(here, Role::kCommand, false);
  if (!broker) {
    if (broker.error().code == ENOENT) {
      std::fputs("bpftime: nothing is attached\n", stderr);
      return 0;
    }
    return complain("detach", broker.error(), "", 0);
  }
  std::string why;
  auto detached = ask(&*broker, MessageKind::kDetach, 0, &why);
  if (!detached) {
    return complain("detach", detached.error(), why, 0);
  }
  std::fprintf(stderr, "bpftime: detached from %lld processes\n",
               static_cast<long long>(detached->value));
  return 0;
}

}  // namespace

int run_attach(const Surroundings& here, const Invocation& invocation) {
  return change(here, invocation, true);
}

int run_detach(const Surroundings& here, const Invocation& invocation) {
  return invocation.processes.is_empty() ? detach_all(here) : change(here, invocation, false);
}

}  // namespace bpftime::cli
