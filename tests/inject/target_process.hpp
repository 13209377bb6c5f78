// A live process for a test: tests/inject/targets/target.c in one of its builds and modes. It ends
// with the test.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "inject/process.hpp"

namespace bpftime {

constexpr uint64_t kPatience =
    60000;  // ms that a test waits for what comes at once on a quiet machine

// Waits for what nothing tells of, such as a state in /proc; whether it came to be in time.
inline bool comes_true(const std::function<bool()>& condition) {
  const uint64_t deadline = deadline_in_ms(kPatience);
  while (!condition()) {
    if (monotonic_ns() > deadline) {
      return false;
    }
    usleep(500);
  }
  return true;
}
inline bool comes_to_state(pid_t pid, char state) {
  return comes_true([=] {
    const auto status = read_status(pid);
    return status && status->state == state;
  });
}
inline bool comes_to_wait_in(pid_t pid, long number) {
  return comes_true([=] {
    const auto waiting = waiting_syscall(pid, pid);
    return waiting && *waiting == number;
  });
}

inline std::vector<std::byte> file_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> chars{std::istreambuf_iterator<char>(file), {}};
  const auto* begin = reinterpret_cast<const std::byte*>(chars.data());
  return {begin, begin + chars.size()};
}

class TargetProcess {
 public:
  // `before_exec` runs in the child.
  TargetProcess(const char* build, const char* mode, int n = 1,
                const std::function<void()>& before_exec = {}, const char* path = nullptr) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) {
      abort();
    }
    const std::string program =
        path != nullptr ? path : std::string(TARGET_DIRECTORY) + "/" + build;
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (before_exec) {
        before_exec();
      }
      const std::string count = std::to_string(n);
      execl(program.c_str(), build, mode, count.c_str(), nullptr);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    in_.reset(in[1]);
    out_.reset(out[0]);
    is_ready_ = read_until("ready\n");
  }
  ~TargetProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  TargetProcess(const TargetProcess&) = delete;
  TargetProcess& operator=(const TargetProcess&) = delete;

  pid_t pid() const { return pid_; }
  bool is_ready() const { return is_ready_; }
  const std::string& output() const { return output_; }
  // Ends it the ordinary way: its exit status (128 + signal when killed). Its words are in
  // output().
  int finish() {
    in_.reset();
    read_until(nullptr);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // A number in its last words: "errors 0 counted 5".
  long said(const char* what) const {
    const size_t at = output_.rfind(std::string(what) + " ");
    return at == std::string::npos ? -1 : atol(output_.c_str() + at + strlen(what) + 1);
  }

 private:
  bool read_until(const char* end) {
    char chunk[4096];
    while (end == nullptr || output_.find(end) == std::string::npos) {
      const ssize_t got = read(out_.get(), chunk, sizeof chunk);
      if (got <= 0) {
        return false;
      }
      output_.append(chunk, static_cast<size_t>(got));
    }
    return true;
  }
  pid_t pid_ = 0;
  bool is_ready_ = false;
  UniqueFd in_, out_;
  std::string output_;
};

// Runs `body` in a forked child as nobody; its exit status is what body returns, in [0, 120).
inline int as_nobody(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) {
      _exit(121);
    }
    prctl(PR_SET_DUMPABLE, 1);
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace bpftime
