// The agent's two ways into a target, and out again (DESIGN D8). Home: edge, broker.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "inject/remote_call.hpp"
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

// How an agent can come into a process: found while the process runs, or is held anyway.
struct AgentEntrance {
  explicit AgentEntrance(const AgentSource& source) : file(source) {}
  // What of the target's loader we call, as addresses in the target.
  struct Loader {
    RemoteAddr dlopen, dlclose, errno_location;
    uint64_t extra_flags;
  };
  AgentSource file;
  std::optional<StoppedProcess> process;  // one thread of it, held for this
  pid_t tid = 0;                          // who shall work; 0: anyone that is held
  std::optional<Loader> loader;           // where dlopen may be called
  bool may_map = true;                    // where it may not, or fails
  std::string path;                       // of `file` as the target sees it; "": it does not
  uint64_t stopped_since_ns = 0;
};
// Of a running process: holds a thread at a wait (inject/wait_point.hpp), else any. Errors: as StoppedProcess::borrow; EOPNOTSUPP: `file` is not an agent (freestanding, relative relocations only).
Result<AgentEntrance> open_entrance(pid_t pid, const AgentSource& file, AgentWish wish,
                                    uint64_t deadline_ns);
// Of a process already held. `is_fresh`: at the entry point of a new program (inject/hold.hpp), where any thread may
// call dlopen.
Result<AgentEntrance> find_entrance(StoppedProcess& process, const AgentSource& file,
                                    AgentWish wish, bool is_fresh);
// `thread` works on; its owner finishes it. (AgentImage::stopped_ns: 0.)
Result<AgentImage> bring_agent(RemoteThread& thread, const AgentEntrance& way);

// All of it in one, the thread finished and, in the first, let go. Errors also: as RemoteThread::begin, ENOMEM.
Result<AgentImage> bring_agent(pid_t pid, const AgentSource& file, AgentWish wish,
                               uint64_t deadline_ns);
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

}  // namespace bpftime
