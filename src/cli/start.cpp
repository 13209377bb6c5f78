// bpftime start: becomes the program, as a target from its first instruction on.
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "cli/commands.hpp"

namespace bpftime::cli {
namespace {

// Copies lines to stderr until `until` (a pidfd) ends, and what came by then.
void print_lines(int lines, int until) {
  char buffer[4096];
  for (;;) {
    pollfd polled[2] = {{lines, POLLIN, 0}, {until, POLLIN, 0}};
    if (::poll(polled, 2, -1) < 0 && errno != EINTR) {
      return;
    }
    if ((polled[0].revents & (POLLIN | POLLHUP)) != 0) {
      const ssize_t n = ::read(lines, buffer, sizeof(buffer));
      if (n <= 0 || ::write(2, buffer, static_cast<size_t>(n)) < 0) {
        return;
      }
    } else if (polled[1].revents != 0) {
      return;
    }
  }
}

// The printer is no child of the command: it would not expect one.
Result<void> start_printer(Channel* broker, std::string* why) {
  Reply reply = TRY(ask(broker, MessageKind::kLog, 1, why));
  const UniqueFd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self || !reply.fd) {
    return make_error(self ? EPROTO : errno, "cannot watch the command");
  }
  const pid_t child = ::fork();
  if (child < 0) {
    return make_error(errno, "fork");
  }
  if (child == 0) {
    if (::fork() != 0) {
      ::_exit(0);
    }
    ::setpgid(0, 0);  // Ctrl-C is for the command, whose last lines are still printed
    broker->fd.reset();
    print_lines(reply.fd.get(), self.get());
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  return {};
}

}  // namespace

int run_start(const Surroundings& here, const std::vector<std::string>& words,
              const StartOptions& options) {
  std::string program;
  if (const int failed = find_program(words[0], &program); failed != 0) {
    return failed;
  }
  if (gives_rights(program)) {
    complain("start " + words[0], "is set-user-id, and who is traced gets no rights by that",
             "run bpftime start as root, or a copy of it");
    return kExitNotRun;
  }
  if (is_static(program)) {
    std::fprintf(stderr, "bpftime: %s is statically linked: entry probes only\n", words[0].c_str());
  }
  {
    auto broker = reach_broker(here, Role::kCommand, true);
    if (!broker) {
      return complain("start", broker.error(), "", 0);
    }
    std::string why;
    if (options.show_printk) {
      auto printing = start_printer(&*broker, &why);
      if (!printing) {
        return complain("start --show-printk", printing.error(), why, 0);
      }
    }
    // Where Yama lets only parents trace (yama.txt: ptrace_scope 1), the broker may.
    ::prctl(PR_SET_PTRACER, broker->welcome.broker_pid, 0, 0, 0);
    auto held = ask(&*broker, MessageKind::kStart,
                    {::getpid(), options.no_follow ? kStartNoFollow : 0}, &why);
    if (!held) {
      return complain("start " + words[0], held.error(), why, ::getpid());
    }
  }
  return run_command(words);
}

}  // namespace bpftime::cli
