#include "broker/worker.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace bpftime {

void begin_worker(pid_t broker) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != broker) {
    ::_exit(1);
  }
  ::signal(SIGTERM, SIG_DFL);
}

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

void end_worker(pid_t pid) {
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace bpftime
