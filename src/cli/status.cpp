// bpftime status, log, shutdown, version: ask, print, end. Where no broker runs there is nothing,
// which is no error.
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "cli/commands.hpp"

namespace bpftime::cli {
namespace {

constexpr int kShutdownMs = 10'000;

bool copy_to_stdout(int fd) {
  char buffer[16 << 10];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n == 0) {
      return true;
    }
    if (n < 0) {
      if (errno == EINTR) {
        continue;
      }
      return false;
    }
    for (ssize_t done = 0; done < n;) {
      const ssize_t w = ::write(1, buffer + done, static_cast<size_t>(n - done));
      if (w < 0) {
        return false;
      }
      done += w;
    }
  }
}

}  // namespace

int run_status(const Surroundings& here, const Invocation& invocation) {
  auto broker = reach_broker(here, Role::kCommand, false);
  if (!broker) {
    if (broker.error().code != ENOENT) {
      return complain("status", broker.error(), "", 0);
    }
    std::puts(invocation.json ? "{\"broker_pid\": 0, \"targets\": [], \"programs\": [], "
                                "\"probes\": [], \"maps\": []}"
                              : "no broker runs: nothing is loaded, nothing is attached");
    return 0;
  }
  std::string why;
  auto reply = ask(&*broker, MessageKind::kStatus, {0, 0, 0, invocation.json ? 1 : 0}, &why);
  if (!reply) {
    return complain("status", reply.error(), why, 0);
  }
  std::fwrite(reply->output.data(), 1, reply->output.size(), stdout);
  return 0;
}

int run_log(const Surroundings& here, const Invocation& invocation) {
  auto broker = reach_broker(here, Role::kCommand, invocation.follow);
  if (!broker) {
    if (broker.error().code == ENOENT) {
      return 0;  // nothing runs, nothing was printed
    }
    return complain("log", broker.error(), "", 0);
  }
  std::string why;
  auto reply = ask(&*broker, MessageKind::kLog, invocation.follow ? 1 : 0, &why);
  if (!reply || !reply->fd) {
    return complain("log", reply ? make_error(EPROTO, "no answer") : reply.error(), why, 0);
  }
  return copy_to_stdout(reply->fd.get()) ? 0 : kExitFailed;
}

int run_shutdown(const Surroundings& here) {
  auto broker = reach_broker(here, Role::kCommand, false);
  if (!broker) {
    if (broker.error().code == ENOENT) {
      std::fputs("bpftime: no broker runs\n", stderr);
      return 0;
    }
    return complain("shutdown", broker.error(), "", 0);
  }
  const UniqueFd life(static_cast<int>(::syscall(SYS_pidfd_open, broker->welcome.broker_pid, 0)));
  std::string why;
  auto reply = ask(&*broker, MessageKind::kShutdown, 0, &why);
  if (!reply && reply.error().code != EPIPE) {
    return complain("shutdown", reply.error(), why, 0);
  }
  pollfd polled{life.get(), POLLIN, 0};
  if (life && ::poll(&polled, 1, kShutdownMs) == 0) {
    return complain("shutdown", "the broker is still there",
                    "see broker.log in " + broker->directory);
  }
  return 0;
}

int run_version() {
  std::puts("bpftime " BPFTIME_VERSION);
  return 0;
}

}  // namespace bpftime::cli
