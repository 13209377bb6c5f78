#include "bpfcall/shim_calls.hpp"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <type_traits>

#include "bpfcall/answer.hpp"
#include "bpfcall/map_batch.hpp"
#include "bpfcall/shim_events.hpp"
#include "bpfcall/shim_memory.hpp"
#include "bpfcall/shim_next.hpp"
#include "bpfcall/shim_objects.hpp"
#include "bpfcall/shim_pins.hpp"
#include "bpfcall/shim_session.hpp"

namespace bpftime::shim {
namespace {

constexpr uint64_t kPageBytes = 4096;

bool identify_for(void* /*self*/, int fd, ObjectRef* ref) { return identify(fd, ref); }
Result<Reply> ask_for(void* /*self*/, Request* request) { return ask(request); }
Result<UniqueFd> open_path_for(void* /*self*/, const char* path) {
  const long fd = raw_syscall(SYS_openat, static_cast<uint64_t>(AT_FDCWD),
                              reinterpret_cast<uint64_t>(path), O_PATH | O_CLOEXEC, 0);
  if (fd < 0) {
    return make_error(static_cast<int>(-fd), "cannot open the file");
  }
  return UniqueFd(static_cast<int>(fd));
}

Result<std::string> directory_for(void* /*self*/, int fd) { return directory_name(fd); }

Caller own_process() {
  return Caller{own_memory(), identify_for, ask_for, open_path_for, directory_for, nullptr};
}

// The new fd, or the value.
long install(Answer answer) {
  if (!answer.fd) {
    return answer.value;
  }
  const int fd = answer.fd.release();
  forget_fd(fd);  // should the number have been closed behind our back
  if (answer.object == ObjectKind::kLink || answer.object == ObjectKind::kPerf ||
      answer.object == ObjectKind::kStats) {
    note_attachment(fd);
  }
  if (answer.object == ObjectKind::kPerfOutput) {
    note_waitable(fd);
  }
  if (!answer.close_on_exec) {
    raw_syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_SETFD, 0);
  }
  return fd;
}

// What a thread needs to take map locks. Kept while the process is the one it was made in: the broker gives each
// process another owner number.
struct ThreadLocks {
  LockContext context;
  uint64_t own_head[3];
};
__attribute__((tls_model("initial-exec"))) thread_local constinit ThreadLocks t_locks = {};

LockContext locks_of_thread(void* /*self*/) {
  const uint32_t owner = welcome().owner;
  if (raw(t_locks.context.owner) != owner || t_locks.context.tid == 0) {
    t_locks.context.owner = OwnerId{owner};
    t_locks.context.tid = static_cast<uint32_t>(raw_syscall(SYS_gettid));
    t_locks.context.robust = find_robust_head(t_locks.own_head);
    t_locks.context.is_patient = true;
  }
  return t_locks.context;
}

// `read` gives what the caller wants as a MapCall or a MapBatchCall, `do_it` does it in the map.
template <class Read, class Do>
long in_map(uint32_t command, uint64_t attr, uint32_t attr_bytes, Read read, Do do_it) {
  const CallerMemory memory = own_memory();
  const auto call = read(memory, command, attr, attr_bytes);
  if (!call) {
    return -call.error().code;
  }
  auto answer = [&](const MapUse& use) -> long {
    if (use->buffer != 0) {
      return -EINVAL;  // an event
    }
    if (changes_map(command) && use->frozen.load(std::memory_order_relaxed) != 0) {
      return -EPERM;
    }
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(*call)>, MapCall>) {
      const MapCode code = use->map.view.code;
      if ((command == BPF_MAP_UPDATE_ELEM || command == BPF_MAP_DELETE_ELEM) &&
          (code == MapCode::kPerfEventArray || code == MapCode::kProgArray)) {
        return slot_command(use, *call);
      }
    }
    return do_it(use->map, memory, *call, locks_of_thread, nullptr);
  };
  const MapUse known = known_map(object_state(), call->map_fd);
  if (known) [[likely]] {
    return answer(known);
  }
  const auto found = find_map(call->map_fd);
  return found ? answer(*found) : -found.error().code;
}

constexpr uint64_t whole_pages(uint64_t bytes) {
  return (bytes + kPageBytes - 1) & ~(kPageBytes - 1);
}

// mmap of a map: Linux 6.18 kernel/bpf/syscall.c bpf_map_mmap, arraymap.c array_map_mmap.
long mmap_map(const MapUse& use, uint64_t address, uint64_t length, uint64_t protection,
              uint64_t flags, uint64_t offset) {
  const MapSpec& spec = use->map.view.spec;
  if (length == 0 || offset % kPageBytes != 0) {
    return -EINVAL;
  }
  const bool is_ring = spec.map_type == BPF_MAP_TYPE_RINGBUF;
  if (spec.map_type != BPF_MAP_TYPE_ARRAY && !is_ring) {
    return -kKernelEnotsupp;
  }
  const bool is_shared =
      (flags & MAP_TYPE) == MAP_SHARED || (flags & MAP_TYPE) == MAP_SHARED_VALIDATE;
  if (!is_shared) {
    return -EINVAL;
  }
  const bool is_write = (protection & PROT_WRITE) != 0;
  if (is_write && use->frozen.load() != 0) {
    return -EPERM;
  }
  // kernel/bpf/ringbuf.c: ringbuf_map_mmap_kern: the reader's page is all that can be written.
  if (is_ring && is_write && (offset != 0 || whole_pages(length) != kPageBytes)) {
    return -EPERM;
  }
  if (is_write && (spec.map_flags & BPF_F_RDONLY_PROG) != 0) {
    return -EACCES;
  }
  if (!is_ring && (spec.map_flags & BPF_F_MMAPABLE) == 0) {
    return -EINVAL;
  }
  const MapView& view = use->map.view;
  // What can be mapped: an array's values; of a ring buffer everything but our head page.
  const auto values = is_ring ? 0 : static_cast<uint64_t>(view.values - view.base);
  const uint64_t bytes = is_ring ? use->region_bytes - kRegionHeadBytes
                                 : static_cast<uint64_t>(view.value_stride) * view.element_count;
  const uint64_t room = whole_pages(bytes);
  if (length > room || offset > room || whole_pages(length) > room - offset) {
    return -EINVAL;
  }
  auto region = ask_for_region(ObjectRef{-1, 0, use->device, use->inode});
  if (!region) {
    return -region.error().code;
  }
  UniqueFd file = std::move(region->file);
  if (!is_write) {
    // As in the kernel: what was mapped for reading cannot be made writable later.
    file = reader_of(std::move(file));
  }
  const long result = raw_syscall(SYS_mmap, address, length, protection, flags,
                                  static_cast<uint64_t>(file.get()), values + offset);
  if (!is_syscall_error(result)) {
    if ((flags & MAP_FIXED) != 0) {
      forget_mappings(static_cast<uint64_t>(result), whole_pages(length));
    }
    if (is_write) {
      note_mapping(use->map_id, static_cast<uint64_t>(result), whole_pages(length));
    }
  }
  return result;
}

bool is_socket(int fd) {
  ObjectRef ref{};
  return identify(fd, &ref) && ref.inode != 0;
}

}  // namespace

long bpf_call(uint64_t command, uint64_t attr, uint64_t attr_bytes) {
  if (!is_active()) [[unlikely]] {
    if (!has_session()) {
      return raw_syscall(SYS_bpf, command, attr, attr_bytes);
    }
    if (!activate(Loudness::kSayWhy)) {
      return -ENOSYS;
    }
  }
  const auto number = static_cast<uint32_t>(command);
  const auto size = static_cast<uint32_t>(attr_bytes);
  if (is_map_element_command(number)) {
    return in_map(number, attr, size, read_map_call, answer_map_call);
  }
  if (is_map_batch_command(number)) {
    return in_map(number, attr, size, read_map_batch_call, answer_map_batch_call);
  }
  int map_fd = -1;
  if (number == BPF_MAP_FREEZE) {
    const CallerMemory memory = own_memory();
    const auto fd_bytes = std::as_writable_bytes(std::span(&map_fd, 1));
    if (size >= fd_bytes.size() && memory.read(memory.self, attr, fd_bytes)) {
      const auto use = find_map(map_fd);
      if (use && ((*use)->frozen.load() != 0 || !(*use)->map.may_write)) {
        return -EPERM;
      }
      if (use && is_mapped_writable((*use)->map_id)) {
        return -EBUSY;
      }
    }
  }
  const long value = install(answer_bpf(own_process(), number, attr, size));
  if (number == BPF_MAP_CREATE && value >= 0) {
    uint32_t type = 0;
    const CallerMemory memory = own_memory();
    if (memory.read(memory.self, attr, std::as_writable_bytes(std::span(&type, 1))) &&
        type == BPF_MAP_TYPE_RINGBUF) {
      note_waitable(static_cast<int>(value));
    }
  }
  if (number == BPF_MAP_FREEZE && value == 0) {
    mark_frozen(map_fd);
  }
  return value;
}

long perf_event_open_call(uint64_t attr, uint64_t pid, uint64_t cpu, uint64_t group_fd,
                          uint64_t flags) {
  if (!has_session()) {
    return raw_syscall(SYS_perf_event_open, attr, pid, cpu, group_fd, flags);
  }
  if (!activate(Loudness::kSayWhy)) {
    return -ENOSYS;
  }
  if (!is_uprobe_event(own_memory(), attr, welcome().uprobe_type) &&
      !is_output_event(own_memory(), attr)) {
    return raw_syscall(SYS_perf_event_open, attr, pid, cpu, group_fd, flags);
  }
  PerfOpenCall call{attr, static_cast<int32_t>(pid), static_cast<int32_t>(cpu),
                    static_cast<int32_t>(group_fd), flags};
  if (call.pid == 0) {
    call.pid = raw_syscall(SYS_getpid);
  }
  return install(answer_perf_open(own_process(), call));
}

long ioctl_call(uint64_t fd, uint64_t request, uint64_t argument) {
  if (is_perf_ioctl(request) && is_active() && is_socket(static_cast<int>(fd))) {
    return install(answer_perf_ioctl(own_process(), static_cast<int>(fd), request, argument));
  }
  return raw_syscall(SYS_ioctl, fd, request, argument);
}

long mmap_call(uint64_t address, uint64_t length, uint64_t protection, uint64_t flags, uint64_t fd,
               uint64_t offset) {
  const auto number = static_cast<int>(fd);
  long result = 0;
  bool answered = false;
  if (number >= 0 && (flags & MAP_ANONYMOUS) == 0 && is_active()) {
    const MapUse known = known_map(object_state(), number);
    if (is_waitable(number) &&
        mmap_event(number, address, length, protection, flags, offset, &result)) {
      answered = true;
    } else if (known) {
      result = mmap_map(known, address, length, protection, flags, offset);
      answered = true;
    } else if (is_socket(number)) {
      const auto found = find_map(number);
      if (found) {
        if ((*found)->map.view.code == MapCode::kRingBuffer) {
          note_waitable(number);
        }
        result = mmap_map(*found, address, length, protection, flags, offset);
        answered = true;
      }
    }
  }
  if (!answered) {
    result = raw_syscall(SYS_mmap, address, length, protection, flags, fd, offset);
    if ((flags & MAP_FIXED) != 0 && !is_syscall_error(result)) {
      forget_mappings(address, whole_pages(length));
    }
  }
  if ((flags & MAP_FIXED) != 0) {
    forget_pages();
  }
  return result;
}

long munmap_call(uint64_t address, uint64_t length) {
  const long result = raw_syscall(SYS_munmap, address, length);
  forget_pages();
  if (result == 0) {
    forget_mappings(address, whole_pages(length));
  }
  return result;
}

long mprotect_call(uint64_t address, uint64_t length, uint64_t protection) {
  const long result = raw_syscall(SYS_mprotect, address, length, protection);
  forget_pages();
  return result;
}

long mremap_call(uint64_t address, uint64_t length, uint64_t new_length, uint64_t flags,
                 uint64_t new_address) {
  const long result = raw_syscall(SYS_mremap, address, length, new_length, flags, new_address);
  forget_pages();
  return result;
}

// ---- fd numbers ------------------------------------------------------------------------------------------

namespace {

// After an end was closed that may have kept something armed.
void settle_detaching() {
  Request request;
  request.kind = MessageKind::kPerfIoctl;
  request.command = kSettle;
  (void)ask(&request).has_value();
}

}  // namespace

Closing before_close(int fd) {
  const Closing closing{!is_channel(fd), is_attachment(fd)};
  if (closing.allowed) {
    forget_fd(fd);
  }
  return closing;
}

void after_close(int fd, const Closing& closing) {
  forget_fd(fd);
  if (closing.is_attachment) {
    settle_detaching();
  }
}

namespace {
// `copy` has become another number for what `fd` is.
void note_copy(uint64_t fd, long copy) {
  if (copy >= 0) {
    forget_fd(static_cast<int>(copy));
    if (is_waitable(static_cast<int>(fd))) {
      note_waitable(static_cast<int>(copy));
    }
    if (is_attachment(static_cast<int>(fd))) {
      note_attachment(static_cast<int>(copy));
    }
  }
}
}  // namespace

long dup_call(uint64_t fd) {
  const long copy = raw_syscall(SYS_dup, fd);
  note_copy(fd, copy);
  return copy;
}

long dup3_call(long number, uint64_t from, uint64_t to, uint64_t flags) {
  const auto target = static_cast<int>(to);
  if (is_channel(target)) {
    move_channel_away_from(target);
  }
  const bool was_attachment = from != to && is_attachment(target);
  const long result = raw_syscall(number, from, to, flags);
  if (result >= 0 && from != to) {
    note_copy(from, result);
    if (was_attachment) {
      settle_detaching();
    }
  }
  return result;
}

long fcntl_call(uint64_t fd, uint64_t command, uint64_t argument) {
  const long copy = raw_syscall(SYS_fcntl, fd, command, argument);
  note_copy(fd, copy);
  return copy;
}

long close_range_call(uint64_t first_fd, uint64_t last_fd, uint64_t flags) {
  const auto first = static_cast<uint32_t>(first_fd);
  const auto last = static_cast<uint32_t>(last_fd);
  constexpr uint64_t kCloseOnExec = 1U << 2;  // linux/close_range.h
  const int channel = channel_fd();
  if (channel < 0 || (flags & kCloseOnExec) != 0) {
    return raw_syscall(SYS_close_range, first, last, flags);
  }
  forget_fds(first, last);
  const auto own = static_cast<uint32_t>(channel);
  long result = 0;
  if (own < first || own > last) {
    result = raw_syscall(SYS_close_range, first, last, flags);
    forget_fds(first, last);
    return result;
  }
  if (own > first) {
    result = raw_syscall(SYS_close_range, first, own - 1, flags);
  }
  if (result == 0 && own < last) {
    result = raw_syscall(SYS_close_range, own + 1, last, flags);
  }
  forget_fds(first, last);
  return result;
}

}  // namespace bpftime::shim
