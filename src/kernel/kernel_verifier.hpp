// The running kernel's verifier: what does it say to this program? Home: edge. Makes equal maps and types in the kernel,
// loads the program there, and closes all of it again; nothing is attached. For processes that may load programs
// (CAP_BPF and CAP_PERFMON): the broker's worker, bpftime(1), tests.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "verifier/verifier.hpp"

namespace bpftime {

struct KernelVerdict {
  // 0: accepted; else the errno. EPERM and the like when it refused before its verifier looked.
  int error = 0;
  bool was_verified = false;  // false: refused for the machine's sake, no verdict on the program
  std::string message;        // the log's last line before "processed"
  std::string log;
  uint64_t insns_processed = 0, peak_states = 0, time_us = 0;
  [[nodiscard]] bool accepted() const { return error == 0; }
};

struct KernelQuestion {
  uint32_t log_level = 1;  // as in bpf(2); 0 is fast and tells only the errno
  uint64_t log_bytes = 16ULL << 20;
  // As a loader that may load programs, but has not CAP_PERFMON, which may see pointers.
  bool no_pointer_leaks = false;
};

class KernelVerifier {
 public:
  // May this process load programs into this kernel? Errors: EPERM; ENOSYS, EINVAL: no eBPF for probes.
  static Result<void> available();

  // Maps and types, made once for all programs that name them. What the arguments point to outlives the call only.
  // Errors: what the kernel said to a map or to the types; *log, when given, gets which.
  static Result<KernelVerifier> make(std::span<const VerifierMap> maps, const Btf* btf,
                                     std::string* log = nullptr);
  // Its maps and its types are among those that this was made for. It is asked as one under the GPL.
  KernelVerdict ask(const VerifierProgram& program, const KernelQuestion& question = {});

 private:
  struct Types {
    const Btf* key;
    UniqueFd fd;
  };
  struct Map {
    uint32_t id;
    UniqueFd fd;
  };
  [[nodiscard]] int fd_of(const Btf* btf) const;
  Result<void> add_types(const Btf* btf);
  Result<UniqueFd> create_map(const VerifierMap& map);
  [[nodiscard]] std::vector<bpf_insn> with_fds(std::span<const bpf_insn> insns) const;
  [[nodiscard]] long load(const VerifierProgram& program, uint32_t log_level,
                          std::span<char> log) const;

  std::vector<Types> types_;
  std::vector<Map> maps_;
};

}  // namespace bpftime
