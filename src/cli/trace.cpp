// bpftime trace: tool and target in one line. Two children of one process group, so the terminal's
// signals reach both; a signal sent to bpftime alone is passed on. When the target ends, the tool
// is asked to (SIGINT, as by hand).
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "cli/commands.hpp"

namespace bpftime::cli {
namespace {

constexpr int kLookMs = 20;  // between two looks whether the tool's probes are there
constexpr int kArmedWithinMs = 30'000;
constexpr int kToolEndsWithinMs = 10'000;

int status_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

int64_t armed_probes(Channel* broker) {
  std::string why;
  auto reply = ask(broker, MessageKind::kStatus, 0, &why);
  return reply ? reply->value : -1;
}

// The signals that concern us are blocked and taken one by one.
class Signals {
 public:
  Signals() {
    sigemptyset(&ours_);
    for (const int s : {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
      sigaddset(&ours_, s);
    }
    ::sigprocmask(SIG_BLOCK, &ours_, &before_);
  }
  ~Signals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  void restore_in_child() const { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  // Waits up to `ms`, and passes on what was sent to us alone: the terminal's own reached the
  // children already.
  void wait(int ms, std::initializer_list<pid_t> children) const {
    const timespec timeout{ms / 1000, (ms % 1000) * 1'000'000L};
    siginfo_t info{};
    const int signal = ::sigtimedwait(&ours_, &info, &timeout);
    if (signal > 0 && signal != SIGCHLD && info.si_code != SI_KERNEL) {
      for (const pid_t child : children) {
        if (child > 0) {
          ::kill(child, signal);
        }
      }
    }
  }

 private:
  sigset_t ours_, before_;
};

template <class Run>
pid_t spawn(const Signals& signals, Run run) {
  const pid_t child = ::fork();
  if (child == 0) {
    signals.restore_in_child();
    ::_exit(run());
  }
  return child;
}

// True once the child ended; its status is in *status then, and *child is 0.
bool reap(pid_t* child, int* status) {
  int got = 0;
  if (*child > 0 && ::waitpid(*child, &got, WNOHANG) == *child) {
    *status = status_of(got);
    *child = 0;
  }
  return *child == 0;
}

void end_tool(const Signals& signals, pid_t* tool, int* status) {
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    if (reap(tool, status)) {
      return;
    }
    ::kill(*tool, signal);
    for (int waited = 0; waited < kToolEndsWithinMs && !reap(tool, status); waited += 100) {
      signals.wait(100, {*tool});
    }
  }
}

int trace_command(const Surroundings& here, const std::vector<std::string>& tool_words,
                  const std::vector<std::string>& target_words) {
  auto broker = reach_broker(here, Role::kCommand, true);
  if (!broker) {
    return complain("trace", broker.error(), "", 0);
  }
  if (const int failed = announce(&*broker, here, "trace"); failed != 0) {
    return failed;
  }
  const int64_t before = armed_probes(&*broker);
  const Signals signals;
  pid_t tool = spawn(signals, [&] { return run_load(here, tool_words); });
  int tool_status = 0;
  for (int waited = 0; armed_probes(&*broker) <= before; waited += kLookMs) {
    if (reap(&tool, &tool_status)) {
      complain("trace " + tool_words[0], "ended before it had a probe",
               "run it with bpftime load alone");
      return tool_status == 0 ? kExitFailed : tool_status;
    }
    if (waited >= kArmedWithinMs) {
      complain("trace " + tool_words[0], "has no probe yet", "the target is started all the same");
      break;
    }
    signals.wait(kLookMs, {tool});
  }
  pid_t target = spawn(signals, [&] { return run_start(here, target_words, {}); });
  int target_status = 0;
  while (!reap(&target, &target_status)) {
    reap(&tool, &tool_status);
    signals.wait(1000, {tool, target});
  }
  end_tool(signals, &tool, &tool_status);
  return target_status;
}

int trace_process(const Surroundings& anywhere, pid_t pid,
                  const std::vector<std::string>& tool_words) {
  const Surroundings here = for_process(anywhere, pid);
  auto broker = reach_broker(here, Role::kCommand, true);
  if (!broker) {
    return complain("trace", broker.error(), "", 0);
  }
  if (const int failed = announce(&*broker, here, "trace"); failed != 0) {
    return failed;
  }
  std::string why;
  auto attached = ask(&*broker, MessageKind::kAttach, pid, &why);
  if (!attached) {
    return complain("trace --pid " + std::to_string(pid), attached.error(), why, pid);
  }
  const Signals signals;
  pid_t tool = spawn(signals, [&] { return run_load(here, tool_words); });
  int tool_status = 0;
  while (!reap(&tool, &tool_status)) {
    signals.wait(1000, {tool});
  }
  (void)ask(&*broker, MessageKind::kDetach, pid, &why);  // the process may have ended
  return tool_status;
}

}  // namespace

int run_trace(const Surroundings& here, const Invocation& invocation) {
  const auto dashes = std::find(invocation.words.begin(), invocation.words.end(), "--");
  if (invocation.pid != 0) {
    if (invocation.pid < 0 || invocation.pid > INT32_MAX) {
      return complain("trace --pid", "not a process id", "give the number that ps shows");
    }
    return trace_process(here, static_cast<pid_t>(invocation.pid), invocation.words);
  }
  if (dashes == invocation.words.end() || dashes + 1 == invocation.words.end()) {
    complain("trace", "no target", "give -- COMMAND... behind the tool, or --pid PID before it");
    return kExitUsage;
  }
  return trace_command(here, {invocation.words.begin(), dashes},
                       {dashes + 1, invocation.words.end()});
}

}  // namespace bpftime::cli
