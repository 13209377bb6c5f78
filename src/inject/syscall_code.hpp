// Code of a process that its threads can be driven through, so that none has to be written. Home: edge, this room.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "base/result.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {

// A `syscall` instruction of the vdso, else of any executable mapping. ENOENT.
Result<uint64_t> find_syscall_instruction(const StoppedProcess& process);

// Where a driven call can come back through: `syscall; ret`, and what a signal handler returns to,
// `mov $15, %rax; syscall` (rt_sigreturn), which every C library has.
struct WayBack {
  uint64_t syscall_ret = 0, sigreturn = 0;
};
// Looking costs a millisecond the first time; then each file's offsets are known, and each process's addresses.
void look_for_way_back(pid_t pid);
std::optional<WayBack> find_way_back(const StoppedProcess& process);

}  // namespace bpftime
