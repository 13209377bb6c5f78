// The agent's two ways into a target, and out again (DESIGN D8). Home: edge, broker.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
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

// The agent's ELF, and an open file of ours with the same bytes that targets may map as well (a sealed memfd): where a
// target sees it in /proc it opens it there, and its pages are shared; elsewhere the bytes are written into the target.
struct AgentSource {
  AgentSource(std::span<const std::byte> file_bytes,
              int shared_fd = -1)  // NOLINT(google-explicit-constructor)
      : bytes(file_bytes), fd(shared_fd) {}
  AgentSource(const std::vector<std::byte>& file_bytes)  // NOLINT(google-explicit-constructor)
      : bytes(file_bytes) {}
  std::span<const std::byte> bytes;
  int fd = -1;
};
// A sealed memfd for AgentSource::fd.
Result<UniqueFd> share_agent(std::span<const std::byte> file);

// `file`: the broker's own copy of the agent's ELF (freestanding, relative relocations only:
// EOPNOTSUPP). Of a running process: looks for a thread in a wait-type system call (bounded: 20
// looks in 100 ms), holds only the thread it works with. Errors: as StoppedProcess::stop and
// RemoteThread::begin, ENOMEM.
Result<AgentImage> bring_agent(pid_t pid, const AgentSource& file, AgentWish wish,
                               uint64_t deadline_ns);
// Into a process already held. `is_fresh`: at the entry point of a new program (inject/hold.hpp),
// where any thread may call dlopen.
Result<AgentImage> bring_agent(StoppedProcess& process, const AgentSource& file, AgentWish wish,
                               bool is_fresh, uint64_t deadline_ns);

// Images of an agent in the process, whoever brought them: what an attach that was cut short left there. (Of a dlopen'ed
// one the handle is the loader's link map entry.)
std::vector<AgentImage> find_agent_images(pid_t pid, const AgentSource& file);

// Takes it out again: nothing of it is left mapped. The caller has made sure that no thread runs in
// it and none returns to it. EAGAIN: dlclose is needed and no thread waits at a safe point (the
// image stays).
Result<void> unload_agent(pid_t pid, const AgentImage& image, uint64_t deadline_ns);
Result<void> unload_agent(StoppedProcess& process, const AgentImage& image, uint64_t deadline_ns);

// True for system calls in which a thread holds no lock of libc and may call dlopen (facts: hooking
// §1).
bool is_wait_syscall(long number);

}  // namespace bpftime
