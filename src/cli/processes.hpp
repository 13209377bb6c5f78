// Which processes the user means. Home: bpftime(1).
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.hpp"

namespace bpftime::cli {

// A process is meant when one of these fits; with `children`, so is whatever descends from it.
struct ProcessChoice {
  std::vector<int64_t> pids;
  std::vector<std::string> names;  // as /proc/PID/comm
  std::vector<std::string> users;  // name or number
  std::vector<std::string> exes;   // path of the program, or its last part
  bool children = false;

  [[nodiscard]] bool is_empty() const {
    return pids.empty() && names.empty() && users.empty() && exes.empty();
  }
};

// In ascending order. Never this process, its parents, a kernel thread, or a broker; but a pid that was named is always
// there, whether or not it exists. Errors: EINVAL no such user.
Result<std::vector<pid_t>> choose_processes(const ProcessChoice& choice);

}  // namespace bpftime::cli
