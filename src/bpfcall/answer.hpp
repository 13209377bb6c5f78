// Answers bpf(2), perf_event_open(2) and perf ioctls of a loader: copies what the call points to, names the fds in
// it, asks the broker, writes back. Home: edge *; the shim calls it on any thread of a loader, the supervisor
// for a loader that it watches. Knows no interposition. `attr` and everything behind it is hostile: each byte is
// copied once, through CallerMemory, and the copy is used.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "abi/messages.hpp"
#include "base/result.hpp"
#include "ipc/channel.hpp"
#include "maps/map_ops.hpp"

namespace bpftime {

// The address space of the process that made the call. Errors: EFAULT. A failed write may have written a part.
struct CallerMemory {
  Result<void> (*read)(void* self, uint64_t from, std::span<std::byte> to);
  Result<void> (*write)(void* self, uint64_t to, std::span<const std::byte> from);
  // Memory that can be used in place for `size` bytes, or null: go through read() and write().
  void* (*in_place)(void* self, uint64_t address, uint64_t size, bool for_write);
  void* self;
};

// The process that made the call, and the way to the broker.
struct Caller {
  CallerMemory memory;
  // False when `fd` is not open there. inode 0 when it can be none of ours.
  bool (*identify)(void* self, int fd, ObjectRef* ref);
  // One round trip; sets the serial number. Errors: those of ipc/channel.hpp, as errno for the caller.
  Result<Reply> (*ask)(void* self, Request* request);
  // Opens `path` with O_PATH as that process sees it. Errors: open(2).
  Result<UniqueFd> (*open_path)(void* self, const char* path);
  // Full name of the directory that `fd`, or AT_FDCWD, is there. Errors: EBADF, ENOTDIR.
  Result<std::string> (*directory)(void* self, int fd);
  void* self;
};

// value >= 0 or -errno. When `fd` is set it is to be installed in the caller, and is what the call returns.
struct Answer {
  int64_t value = 0;
  UniqueFd fd;
  ObjectKind object = ObjectKind::kNone;  // of fd
  bool close_on_exec = true;
};

// The bytes of union bpf_attr that any command knows (Linux 6.18); what lies behind must be zero.
inline constexpr uint32_t kKnownAttrBytes = 168;
inline constexpr uint32_t kMostInsns =
    1000000;  // Linux 6.18 include/linux/bpf.h: BPF_COMPLEXITY_LIMIT_INSNS
inline constexpr uint32_t kMostBtfBytes = 16 << 20;  // include/linux/btf.h: BTF_MAX_SIZE
inline constexpr uint32_t kMostLogBytes = 16 << 20;
inline constexpr uint32_t kMostKeyBytes = 512;  // kernel/bpf/hashtab.c: MAX_BPF_STACK

// Every command. Map element commands go to the broker too: see MapCall for those answered here.
Answer answer_bpf(const Caller& caller, uint32_t command, uint64_t attr, uint32_t attr_bytes);

struct PerfOpenCall {
  uint64_t attr;
  int64_t pid;
  int64_t cpu, group_fd;
  uint64_t flags;
};
// True when the event is a uprobe of `uprobe_type`, which is then answered; else it is the kernel's business.
bool is_uprobe_event(const CallerMemory& memory, uint64_t attr, uint32_t uprobe_type);
// True for PERF_COUNT_SW_BPF_OUTPUT, which is answered too.
bool is_output_event(const CallerMemory& memory, uint64_t attr);
Answer answer_perf_open(const Caller& caller, const PerfOpenCall& call);

// True for the ioctls of perf events (linux/perf_event.h, type '$').
constexpr bool is_perf_ioctl(uint64_t request) { return (request & 0xff00U) == 0x2400U; }
Answer answer_perf_ioctl(const Caller& caller, int fd, uint64_t request, uint64_t argument);

// union bpf_attr as far as `attr` has room; what the caller did not give is zero. Errors: EFAULT; E2BIG when it has what
// nobody knows.
Result<void> read_bpf_attr(const CallerMemory& memory, uint64_t from, uint32_t given,
                           std::span<std::byte> attr);
// Bytes of a value in bpf(2) shape: per-CPU kinds give one for each lane, rounded up to 8.
uint64_t bpf_value_bytes(const MapSpec& spec);

// ---- Map elements, over a region that is mapped here -----------------------------------------------------
// LOOKUP, UPDATE, DELETE, GET_NEXT_KEY, LOOKUP_AND_DELETE; batches: map_batch.hpp.
constexpr bool is_map_element_command(uint32_t command) {
  return (command >= BPF_MAP_LOOKUP_ELEM && command <= BPF_MAP_GET_NEXT_KEY) ||
         command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
}
struct MapCall {
  uint32_t command;
  int map_fd;
  uint64_t key, value, flags;  // value: next_key of GET_NEXT_KEY
};
// Errors: EFAULT, E2BIG, EINVAL, in the kernel's order (before the fd is looked at).
Result<MapCall> read_map_call(const CallerMemory& memory, uint32_t command, uint64_t attr,
                              uint32_t attr_bytes);

struct LocalMap {
  MapView view;
  bool may_read,
      may_write;  // BPF_F_WRONLY, BPF_F_RDONLY of the fd; may_write also false when frozen
};
// 0 or -errno. `who` is asked for only by commands that change the map.
int answer_map_call(const LocalMap& map, const CallerMemory& memory, const MapCall& call,
                    LockContext (*who)(void* self), void* self);

}  // namespace bpftime
