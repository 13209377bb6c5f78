// bpftimed: the broker. Started by `bpftime`, one for each user and session; leaves when nothing
// uses it.
//   bpftimed --session-dir DIR [--idle-ms N] [--agent FILE] [--foreground]
// Goes to the background by itself; the process that was started ends when the broker answers: 0 =
// a broker lives in DIR (this one or another), 1 = it could not be started, and stderr says why.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "broker/alive_page.hpp"
#include "broker/lane_table.hpp"
#include "broker/compile.hpp"
#include "broker/place.hpp"
#include "broker/server.hpp"
#include "broker/session.hpp"
#include "broker/target_control.hpp"
#include "ipc/channel.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kLogBytes = 1 << 20;
constexpr uint64_t kMaxAgentBytes = 16 << 20;

struct Options {
  std::string session_dir;
  std::string agent;
  int idle_ms = 3000;
  bool foreground = false;
};

std::string next_to_us(const char* relative) {
  char exe[4096];
  const ssize_t n = ::readlink("/proc/self/exe", exe, sizeof(exe) - 1);
  if (n <= 0) {
    return relative;
  }
  exe[n] = 0;
  char* slash = std::strrchr(exe, '/');
  *slash = 0;
  return std::string(exe) + "/" + relative;
}

bool parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; i++) {
    const std::string name = argv[i];
    const bool has_value = i + 1 < argc;
    if (name == "--foreground") {
      options->foreground = true;
    } else if (name == "--session-dir" && has_value) {
      options->session_dir = argv[++i];
    } else if (name == "--agent" && has_value) {
      options->agent = argv[++i];
    } else if (name == "--idle-ms" && has_value) {
      options->idle_ms = std::atoi(argv[++i]);
    } else {
      return false;
    }
  }
  if (options->agent.empty()) {
    options->agent = next_to_us("../lib/bpftime/bpftime-agent.so");  // where installed
    if (::access(options->agent.c_str(), R_OK) != 0) {
      options->agent = next_to_us("../lib/bpftime-agent.so");  // where built
    }
  }
  return !options->session_dir.empty() && options->session_dir[0] == '/' && options->idle_ms >= 0;
}

std::vector<std::byte> read_file(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st{};
  if (!file || ::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode) ||
      static_cast<uint64_t>(st.st_size) > kMaxAgentBytes) {
    return {};
  }
  std::vector<std::byte> bytes(static_cast<size_t>(st.st_size));
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (n <= 0) {
      return {};
    }
    done += static_cast<size_t>(n);
  }
  return bytes;
}

uint32_t uprobe_type() {
  UniqueFd file(::open("/sys/bus/event_source/devices/uprobe/type", O_RDONLY | O_CLOEXEC));
  char text[16] = {};
  if (!file || ::read(file.get(), text, sizeof(text) - 1) <= 0) {
    return 8;  // what most kernels say; the shim serves the same number where the file is missing
  }
  return static_cast<uint32_t>(std::strtoul(text, nullptr, 10));
}

// Of the forked daemon: tells the one that waits how it went, once.
void tell(int* ready, const char* text) {
  if (*ready >= 0) {
    if (::write(*ready, text, std::strlen(text)) < 0) {
      // Nobody waits any more.
    }
    ::close(*ready);
    *ready = -1;
  }
}

int fail(int* ready, const char* what, const Error& error) {
  const std::string text = std::string("bpftime: ") + what + ": " + error.why + " (" +
                           ::strerrorname_np(error.code) + ")\n";
  tell(ready, text.c_str());
  return 1;
}

// While a target is stopped every microsecond counts, and the target's own threads may keep all CPUs busy. A short time
// slice, which needs no privilege, lets a thread that wakes run soon (Linux 6.12; sched_setattr(2): sched_runtime of
// SCHED_OTHER). Elsewhere nothing changes.
void ask_for_short_slices() {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes{};
  attributes.size = sizeof(attributes);
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) == 0 &&
      attributes.policy == SCHED_OTHER) {
    attributes.runtime = 100'000;
    ::syscall(SYS_sched_setattr, 0, &attributes, 0);
  }
}

int serve(const Options& options, int ready) {
  ask_for_short_slices();
  auto place = Place::take(options.session_dir);
  for (int tries = 0; !place && place.error().code == EALREADY; tries++) {
    // Either it serves, or it is leaving and its place is free in a moment.
    if (connect_to(options.session_dir + "/" + kSocketName)) {
      tell(&ready, "ok");
      return 0;
    }
    if (tries == 100) {
      return fail(&ready, "cannot start the broker", place.error());
    }
    ::usleep(20'000);
    place.~Result();
    new (&place) Result<Place>(Place::take(options.session_dir));
  }
  if (!place) {
    return fail(&ready, "cannot start the broker", place.error());
  }
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  LogFile log_file(options.session_dir + "/broker.log", kLogBytes);
  const auto log = [&](const std::string& line) {
    log_file.write(line);
    if (options.foreground) {
      std::fprintf(stderr, "bpftime: %s\n", line.c_str());
    }
  };
  auto loop = EventLoop::create();
  if (!loop) {
    return fail(&ready, "cannot start the broker", loop.error());
  }
  auto alive = AliveWord::create();
  if (!alive) {
    return fail(&ready, "cannot start the broker", alive.error());
  }
  Session::Config config;
  // An object takes three fds of ours at most; some stay free for connections and targets.
  const uint64_t for_objects = files.rlim_cur > 1024 ? (files.rlim_cur - 512) / 3 : 128;
  config.limits.references = std::min<uint64_t>(config.limits.references, for_objects);
  const long cpus = ::sysconf(_SC_NPROCESSORS_CONF);
  auto lanes = LaneTable::create(cpus > 0 ? static_cast<uint32_t>(cpus) : 1);
  if (!lanes) {
    return fail(&ready, "cannot start the broker", lanes.error());
  }
  config.cpu_count = lanes->count();
  config.lanes = &*lanes;
  config.uprobe_type = uprobe_type();
  config.log = log;
  config.pins = options.session_dir + "/" + kPinsName;
  Session session(loop->get(), config,
                  std::make_unique<WorkerCompiler>(loop->get(), WorkerCompiler::Limits{}));
  Targets::Config targets;
  targets.agent_file = read_file(options.agent);
  targets.alive_fd = alive->fd();
  targets.alive_expected = alive->expected();
  targets.lanes = &*lanes;
  targets.first_owner = kFirstTargetOwner;
  if (targets.agent_file.empty()) {
    log("no agent at " + options.agent + ": nothing can be attached");
  }
  session.set_targets(make_targets(loop->get(), &session, std::move(targets)));
  Server server(loop->get(), &session,
                Server::Config{::geteuid(), options.idle_ms, config.cpu_count, config.uprobe_type});

  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    sigaddset(&signals, signal);
  }
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  auto added = (*loop)->add(signal_fd.get(), EPOLLIN, [&](uint32_t) {
    signalfd_siginfo info{};
    while (::read(signal_fd.get(), &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo != SIGHUP) {
        log("ended by a signal");
        server.shut_down();
      }
    }
  });
  if (added) {
    added = server.serve(place->listener());
  }
  if (!added) {
    return fail(&ready, "cannot start the broker", added.error());
  }
  log("broker started, pid " + std::to_string(::getpid()));
  const uint32_t recovered = session.targets().recover_orphans();
  if (recovered != 0) {
    log(std::to_string(recovered) + " processes restored that an earlier broker left behind");
  }
  tell(&ready, "ok");
  (*loop)->run();
  session.shut_down();
  log("broker ended");
  return 0;
}

// The broker as a child of init, in a session of its own, without any fd of whoever started it.
int serve_in_background(const Options& options) {
  int pipe_ends[2];
  if (::pipe2(pipe_ends, O_CLOEXEC) != 0) {
    std::perror("bpftime: pipe");
    return 1;
  }
  const pid_t child = ::fork();
  if (child < 0) {
    std::perror("bpftime: cannot start the broker: fork");
    return 1;
  }
  if (child == 0) {
    ::setsid();
    if (::fork() != 0) {
      ::_exit(0);
    }
    int ready = pipe_ends[1];
    if (ready != 3) {
      ::dup3(ready, 3, O_CLOEXEC);
      ready = 3;
    }
    if (::close_range(4, ~0U, 0) != 0) {
      for (int fd = 4; fd < 65536; fd++) {
        ::close(fd);
      }
    }
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, 0);
    ::dup2(null, 1);
    ::dup2(null, 2);
    if (null > 3) {
      ::close(null);
    }
    ::umask(077);
    if (::chdir("/") != 0) {
      ::_exit(1);
    }
    ::_exit(serve(options, ready));
  }
  ::close(pipe_ends[1]);
  ::waitpid(child, nullptr, 0);
  char text[1024];
  ssize_t n = 0;
  while ((n = ::read(pipe_ends[0], text, sizeof(text) - 1)) < 0 && errno == EINTR) {
  }
  text[n > 0 ? n : 0] = 0;
  if (std::strcmp(text, "ok") == 0) {
    return 0;
  }
  std::fputs(n > 0 ? text : "bpftime: the broker died at its start\n", stderr);
  return 1;
}

}  // namespace
}  // namespace bpftime

int main(int argc, char** argv) {
  bpftime::Options options;
  if (!bpftime::parse(argc, argv, &options)) {
    std::fputs(
        "usage: bpftimed --session-dir DIR [--idle-ms N] [--agent FILE] [--foreground]\n"
        "The broker of bpftime; `bpftime` starts it when it is needed.\n",
        stderr);
    return 2;
  }
  return options.foreground ? bpftime::serve(options, -1) : bpftime::serve_in_background(options);
}
