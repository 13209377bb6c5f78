// The running kernel's verifier as an oracle. Home: tests; needs root (CAP_BPF and the like).
#pragma once
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "object/object.hpp"

namespace bpftime::testing {

struct KernelVerdict {
  // 0: accepted; else the errno. EPERM and the like when it refused before its verifier looked.
  int error = 0;
  bool was_verified = false;  // false: refused for the machine's sake, no verdict on the program
  std::string message;        // the log's last line before "processed"
  std::string log;
  uint64_t insns_processed = 0, peak_states = 0, time_us = 0;
};

// A program's maps and types, made once in the kernel.
class KernelOracle {
 public:
  static bool is_available();  // may this process load programs?

  // `object` must outlive it. Errors: what the kernel said to a map or to the BTF.
  static Result<KernelOracle> make(const BpfObject& object);
  // `log_level` as in bpf(2); 0 is fast and tells only the errno.
  // `no_pointer_leaks`: as a loader that may load programs, but not CAP_PERFMON, which may see pointers.
  KernelVerdict load(const ObjectProgram& program, uint32_t log_level = 1,
                     bool no_pointer_leaks = false);
  // The program stays loaded: for BPF_PROG_TEST_RUN. Errors: the errno of the load.
  Result<UniqueFd> keep(const ObjectProgram& program);
  [[nodiscard]] int map_fd(size_t index) const { return maps_[index].get(); }

 private:
  Result<void> create_map(const ObjectMap& map);
  long load_with(const ObjectProgram& program, uint32_t log_level, std::span<char> log);

  const BpfObject* object_ = nullptr;
  UniqueFd btf_;
  std::vector<UniqueFd> maps_;
};

}  // namespace bpftime::testing
