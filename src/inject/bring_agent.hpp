// The agent's two ways into a target, and out again (DESIGN D8). Home: edge, broker.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {

enum class AgentWay : uint32_t { kDlopen = 1, kMapped = 2 };

struct AgentImage {
  RemoteAddr base;  // load bias: an address in the agent's file + base = address in the target
  uint64_t bytes;   // from base to the end of the last segment, whole pages
  AgentWay way;
  uint64_t handle;      // of dlopen; 0 for kMapped
  uint64_t stopped_ns;  // longest time that a thread was held
};

enum class AgentWish : uint32_t {
  kAny,  // dlopen where a safe thread is found in time, else mapped
  kMappedOnly,
  kDlopenOnly,  // EAGAIN: no thread at a wait point; ENOENT: no loader
};

// `file`: the broker's own copy of the agent's ELF (freestanding, relative relocations only:
// EOPNOTSUPP). Of a running process: looks for a thread in a wait-type system call (bounded: 20
// looks in 100 ms), holds only the thread it works with. Errors: as StoppedProcess::stop and
// RemoteThread::begin, ENOMEM.
Result<AgentImage> bring_agent(pid_t pid, std::span<const std::byte> file, AgentWish wish,
                               uint64_t deadline_ns);
// Into a process already held. `is_fresh`: at the entry point of a new program (inject/hold.hpp),
// where any thread may call dlopen.
Result<AgentImage> bring_agent(StoppedProcess& process, std::span<const std::byte> file,
                               AgentWish wish, bool is_fresh, uint64_t deadline_ns);

// Takes it out again: nothing of it is left mapped. The caller has made sure that no thread runs in
// it and none returns to it. EAGAIN: dlclose is needed and no thread waits at a safe point (the
// image stays).
Result<void> unload_agent(pid_t pid, const AgentImage& image, uint64_t deadline_ns);
Result<void> unload_agent(StoppedProcess& process, const AgentImage& image, uint64_t deadline_ns);

// True for system calls in which a thread holds no lock of libc and may call dlopen (facts: hooking
// §1).
bool is_wait_syscall(long number);

}  // namespace bpftime
