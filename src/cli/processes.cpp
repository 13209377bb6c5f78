#include "cli/processes.hpp"

#include <dirent.h>
#include <limits.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>

namespace bpftime::cli {
namespace {

struct Running {
  pid_t pid = 0, parent = 0;
  uid_t uid = 0;
  std::string name, exe;
};

std::string first_line(const std::string& path) {
  std::string line;
  FILE* file = std::fopen(path.c_str(), "re");
  if (file != nullptr) {
    char text[512];
    if (std::fgets(text, sizeof(text), file) != nullptr) {
      line.assign(text, std::strcspn(text, "\n"));
    }
    std::fclose(file);
  }
  return line;
}

// False: it ended.
bool look_at(pid_t pid, Running* process) {
  const std::string base = "/proc/" + std::to_string(pid);
  struct stat st{};
  // proc_pid_stat(5): the name may hold anything, also parentheses.
  const std::string stat = first_line(base + "/stat");
  const size_t end = stat.rfind(')');
  if (end == std::string::npos || ::stat(base.c_str(), &st) != 0) {
    return false;
  }
  char state = 0;
  int parent = 0;
  std::sscanf(stat.c_str() + end + 1, " %c %d", &state, &parent);
  process->pid = pid;
  process->parent = parent;
  process->uid = st.st_uid;
  process->name = first_line(base + "/comm");
  char exe[PATH_MAX];
  const ssize_t n = ::readlink((base + "/exe").c_str(), exe, sizeof(exe));
  process->exe.assign(exe, n > 0 ? static_cast<size_t>(n) : 0);
  constexpr char kDeleted[] = " (deleted)";
  if (process->exe.ends_with(kDeleted)) {
    process->exe.resize(process->exe.size() - std::strlen(kDeleted));
  }
  return state != 'Z';
}

std::map<pid_t, Running> all_running() {
  std::map<pid_t, Running> all;
  DIR* directory = ::opendir("/proc");
  while (directory != nullptr) {
    const dirent* entry = ::readdir(directory);
    if (entry == nullptr) {
      ::closedir(directory);
      break;
    }
    const auto pid = static_cast<pid_t>(std::atoi(entry->d_name));
    Running process;
    if (pid > 0 && look_at(pid, &process)) {
      all[pid] = std::move(process);
    }
  }
  return all;
}

Result<uid_t> user(const std::string& name) {
  char* end = nullptr;
  const unsigned long number = std::strtoul(name.c_str(), &end, 10);
  if (!name.empty() && *end == 0) {
    return static_cast<uid_t>(number);
  }
  const passwd* entry = ::getpwnam(name.c_str());
  if (entry == nullptr) {
    return make_error(EINVAL, "no such user");
  }
  return entry->pw_uid;
}

std::string last_part(const std::string& path) { return path.substr(path.rfind('/') + 1); }

bool contains(const std::vector<std::string>& list, const std::string& one) {
  return std::find(list.begin(), list.end(), one) != list.end();
}

}  // namespace

Result<std::vector<pid_t>> choose_processes(const ProcessChoice& choice) {
  std::set<pid_t> chosen;
  for (const int64_t pid : choice.pids) {
    chosen.insert(static_cast<pid_t>(pid));
  }
  std::set<uid_t> uids;
  for (const std::string& name : choice.users) {
    uids.insert(TRY(user(name)));
  }
  if (!choice.children && choice.names.empty() && uids.empty() && choice.exes.empty()) {
    return std::vector<pid_t>(chosen.begin(), chosen.end());
  }
  const std::map<pid_t, Running> all = all_running();
  std::set<pid_t> never;
  for (pid_t pid = ::getpid(); pid > 0 && all.contains(pid); pid = all.at(pid).parent) {
    never.insert(pid);
  }
  for (const auto& [pid, process] : all) {
    if (process.exe.empty() || never.contains(pid) || last_part(process.exe) == "bpftimed") {
      continue;
    }
    if (contains(choice.names, process.name) || uids.contains(process.uid) ||
        contains(choice.exes, process.exe) || contains(choice.exes, last_part(process.exe))) {
      chosen.insert(pid);
    }
  }
  for (bool grew = choice.children; grew;) {
    grew = false;
    for (const auto& [pid, process] : all) {
      if (chosen.contains(process.parent) && !never.contains(pid)) {
        grew |= chosen.insert(pid).second;
      }
    }
  }
  return std::vector<pid_t>(chosen.begin(), chosen.end());
}

}  // namespace bpftime::cli
