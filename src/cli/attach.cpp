// bpftime attach, detach.
#include <cstdio>

#include "cli/commands.hpp"

namespace bpftime::cli {

int run_attach(const Surroundings& here, const Invocation& invocation) {
  const auto pid = static_cast<pid_t>(invocation.pid);
  const std::string what = "attach " + std::to_string(invocation.pid);
  if (invocation.pid <= 0 || invocation.pid > INT32_MAX) {
    return complain(what, "not a process id", "give the number that ps shows");
  }
  auto broker = reach_broker(for_process(here, pid), Role::kCommand, true);
  if (!broker) {
    return complain(what, broker.error(), "", 0);
  }
  std::string why;
  auto attached = ask(&*broker, MessageKind::kAttach, pid, &why);
  if (!attached) {
    return complain(what, attached.error(), why, pid);
  }
  std::fprintf(stderr, "bpftime: attached to %d\n", pid);
  return 0;
}

int run_detach(const Surroundings& here, const Invocation& invocation) {
  const bool all = invocation.pid == 0;
  const std::string what = all ? "detach" : "detach " + std::to_string(invocation.pid);
  auto broker = reach_broker(all ? here : for_process(here, static_cast<pid_t>(invocation.pid)),
                             Role::kCommand, false);
  if (!broker) {
    if (broker.error().code == ENOENT && all) {
      std::fputs("bpftime: nothing is attached\n", stderr);
      return 0;
    }
    return broker.error().code == ENOENT
               ? complain(what, "not a target", "see bpftime status for targets")
               : complain(what, broker.error(), "", 0);
  }
  std::string why;
  auto detached = ask(&*broker, MessageKind::kDetach, invocation.pid, &why);
  if (!detached) {
    return complain(what, detached.error(), why, static_cast<pid_t>(invocation.pid));
  }
  if (all) {
    std::fprintf(stderr, "bpftime: detached from %lld processes\n",
                 static_cast<long long>(detached->value));
  } else {
    std::fprintf(stderr, "bpftime: detached from %lld\n", static_cast<long long>(invocation.pid));
  }
  return 0;
}

}  // namespace bpftime::cli
