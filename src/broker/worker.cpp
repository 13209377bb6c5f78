#include "broker/worker.hpp"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace bpftime {

namespace {

void begin_worker(pid_t broker) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != broker) {
    ::_exit(1);
  }
  ::signal(SIGTERM, SIG_DFL);
}

}  // namespace

void isolate_worker(int channel, unsigned cpu_seconds) {
  if (::dup2(channel, kWorkerChannel) < 0) {
    ::_exit(1);
  }
  if (::close_range(kWorkerChannel + 1, ~0U, 0) != 0) {  // before Linux 5.9
    for (int fd = kWorkerChannel + 1; fd < static_cast<int>(::sysconf(_SC_OPEN_MAX)); fd++) {
      ::close(fd);
    }
  }
  rlimit cap{cpu_seconds, cpu_seconds};
  ::setrlimit(RLIMIT_CPU, &cap);
  cap = {0, 0};
  ::setrlimit(RLIMIT_CORE, &cap);
}

Result<StartedWorker> start_worker(EventLoop* loop, const int (&ends)[2],
                                   const std::function<void(int channel)>& work,
                                   const std::function<void(int channel)>& readable) {
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return make_error(errno, "fork of a worker");
  }
  if (pid == 0) {
    begin_worker(parent);
    work(theirs.get());
    ::_exit(1);
  }
  const int fd = ours.get();
  auto added = loop->add(fd, EPOLLIN, [readable, fd](uint32_t) { readable(fd); });
  if (!added) {
    end_worker(pid);
    return added.error();
  }
  return StartedWorker{pid, std::move(ours)};
}

void end_worker(pid_t pid) {
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace bpftime
