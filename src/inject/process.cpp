#include "inject/process.hpp"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace bpftime {
namespace {

// /proc says ENOENT for a process that is not there, ESRCH for one that ends while being read.
int gone_code(int code) { return code == ENOENT ? ESRCH : code; }

// The value of "Key:\t..." in /proc/PID/status.
std::string_view field(std::string_view text, std::string_view key) {
  size_t at = 0;
  while (at < text.size()) {
    size_t end = text.find('\n', at);
    if (end == std::string_view::npos) {
      end = text.size();
    }
    const std::string_view line = text.substr(at, end - at);
    if (line.size() > key.size() && line.starts_with(key) && line[key.size()] == ':') {
      const size_t value = line.find_first_not_of(" \t", key.size() + 1);
      return value == std::string_view::npos ? std::string_view() : line.substr(value);
    }
    at = end + 1;
  }
  return {};
}

template <class T>
T number(std::string_view text, int base = 10) {
  T value{};
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

// The n-th (from 0) word of a value that holds several.
std::string_view word(std::string_view text, int n) {
  size_t at = 0;
  for (;;) {
    at = text.find_first_not_of(" \t", at);
    if (at == std::string_view::npos) {
      return {};
    }
    size_t end = text.find_first_of(" \t", at);
    if (end == std::string_view::npos) {
      end = text.size();
    }
    if (n-- == 0) {
      return text.substr(at, end - at);
    }
    at = end;
  }
}

Result<ProcessStatus> parse_status(const std::string& text) {
  ProcessStatus status = {};
  status.name = field(text, "Name");
  const std::string_view state = field(text, "State");
  if (state.empty()) {
    return make_error(EINVAL, "/proc status without a state");
  }
  status.state = state[0];
  status.tgid = number<pid_t>(field(text, "Tgid"));
  status.parent = number<pid_t>(field(text, "PPid"));
  status.tracer = number<pid_t>(field(text, "TracerPid"));
  status.inner_tgid = status.tgid;
  const std::string_view inner = field(text, "NStgid");
  for (int i = 0; !word(inner, i).empty(); ++i) {
    status.inner_tgid = number<pid_t>(word(inner, i));
  }
  status.inner_tid = number<pid_t>(field(text, "Pid"));
  const std::string_view inner_tids = field(text, "NSpid");
  for (int i = 0; !word(inner_tids, i).empty(); ++i) {
    status.inner_tid = number<pid_t>(word(inner_tids, i));
  }
  status.uid = number<uint32_t>(word(field(text, "Uid"), 0));
  status.effective_uid = number<uint32_t>(word(field(text, "Uid"), 1));
  status.gid = number<uint32_t>(word(field(text, "Gid"), 0));
  status.seccomp = number<uint32_t>(field(text, "Seccomp"));
  status.seccomp_filters = number<uint32_t>(field(text, "Seccomp_filters"));
  status.thread_count = number<uint32_t>(field(text, "Threads"));
  status.descriptor_slots = number<uint32_t>(field(text, "FDSize"));
  status.signals_blocked = number<uint64_t>(field(text, "SigBlk"), 16);
  status.signals_ignored = number<uint64_t>(field(text, "SigIgn"), 16);
  status.signals_caught = number<uint64_t>(field(text, "SigCgt"), 16);
  return status;
}

Result<std::string> read_proc(pid_t pid, const char* name) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  auto text = read_text_file(path);
  if (!text) {
    return make_error(gone_code(text.error().code), "cannot read the process's /proc");
  }
  return std::move(*text);
}

}  // namespace

uint64_t monotonic_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

Result<std::string> read_text_file(const char* path, size_t limit) {
  const UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return make_error(errno, "cannot open");
  }
  std::string text;
  size_t used = 0;
  for (;;) {
    if (text.size() - used < 4096) {
      text.resize(std::max<size_t>(8192, text.size() * 2));
    }
    const ssize_t got = read(fd.get(), text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return make_error(errno, "cannot read");
    }
    if (got == 0) {
      text.resize(used);
      return text;
    }
    used += static_cast<size_t>(got);
    if (used > limit) {
      return make_error(EFBIG, "file too large");
    }
  }
}

namespace {
// proc(5): a field of /proc/PID/stat by its number there, from 3 on. The name, field 2, is in
// parentheses and may hold any byte; fields count from after the last one.
Result<uint64_t> stat_field(pid_t pid, const char* file, int field_number) {
  const std::string text = TRY(read_proc(pid, file));
  const size_t paren = text.rfind(')');
  if (paren == std::string::npos) {
    return make_error(EINVAL, "/proc stat without a name");
  }
  const std::string_view rest = std::string_view(text).substr(paren + 1);
  return number<uint64_t>(word(rest, field_number - 3));
}
}  // namespace

Result<ProcessIdentity> identify(pid_t pid) {
  return ProcessIdentity{pid, TRY(stat_field(pid, "stat", 22))};
}

Result<uint32_t> last_cpu(pid_t pid, pid_t tid) {
  char name[64];
  std::snprintf(name, sizeof name, "task/%d/stat", tid);
  return static_cast<uint32_t>(TRY(stat_field(pid, name, 39)));
}

Result<ProcessStatus> read_status(pid_t pid) { return parse_status(TRY(read_proc(pid, "status"))); }

Result<ProcessStatus> read_thread_status(pid_t pid, pid_t tid) {
  char name[64];
  std::snprintf(name, sizeof name, "task/%d/status", tid);
  return parse_status(TRY(read_proc(pid, name)));
}

Result<std::vector<pid_t>> read_threads(pid_t pid) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR* directory = opendir(path);
  if (directory == nullptr) {
    return make_error(gone_code(errno), "no such process");
  }
  std::vector<pid_t> threads;
  errno = 0;
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') {
      threads.push_back(number<pid_t>(entry->d_name));
    }
  }
  closedir(directory);
  if (threads.empty()) {
    return make_error(ESRCH, "no such process");
  }
  return threads;
}

Result<std::string> read_executable(pid_t pid) {
  char link[64], path[4096];
  std::snprintf(link, sizeof link, "/proc/%d/exe", pid);
  const ssize_t length = readlink(link, path, sizeof path);
  if (length < 0) {
    return make_error(errno, "cannot read the process's executable link");
  }
  return std::string(path, static_cast<size_t>(length));
}

Result<long> waiting_syscall(pid_t pid, pid_t tid) {
  char name[64];
  std::snprintf(name, sizeof name, "task/%d/syscall", tid);
  const std::string text = TRY(read_proc(pid, name));
  if (text.empty() || text[0] < '0' || text[0] > '9') {
    return -1L;  // "running", or "-1 sp pc": in no system call
  }
  return number<long>(word(text, 0));
}

Result<UniqueFd> open_pidfd(pid_t pid) {
  const long fd = ::syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) {
    return make_error(errno, "pidfd_open");
  }
  return UniqueFd(static_cast<int>(fd));
}

Result<UniqueFd> take_fd(pid_t pid, int remote_fd) {
  const UniqueFd pidfd = TRY(open_pidfd(pid));
  const long fd = ::syscall(SYS_pidfd_getfd, pidfd.get(), remote_fd, 0);
  if (fd < 0) {
    return make_error(errno, "pidfd_getfd");
  }
  return UniqueFd(static_cast<int>(fd));
}

Result<std::vector<std::pair<uint64_t, uint64_t>>> read_auxv(pid_t pid) {
  const std::string text = TRY(read_proc(pid, "auxv"));
  std::vector<std::pair<uint64_t, uint64_t>> values;
  for (size_t at = 0; at + 16 <= text.size(); at += 16) {
    std::pair<uint64_t, uint64_t> value;
    std::memcpy(&value.first, text.data() + at, 8);
    std::memcpy(&value.second, text.data() + at + 8, 8);
    if (value.first == AT_NULL) {
      break;
    }
    values.push_back(value);
  }
  return values;
}

}  // namespace bpftime
