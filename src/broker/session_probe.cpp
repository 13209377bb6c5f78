// perf_event_open(2) for uprobes, its ioctls, and a program at an event (kernel v6.18
// kernel/events/core.c).
#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "broker/session.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kAttrSizeVer0 = 64;  // PERF_ATTR_SIZE_VER0
constexpr uint64_t kIsReturn = 1;       // config bit 0: format/retprobe
constexpr uint64_t kKnownFlags = 0xf;   // PERF_FLAG_FD_NO_GROUP ... PERF_FLAG_FD_CLOEXEC

Result<perf_event_attr> perf_attr_of(const Request& request) {
  perf_event_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  const size_t known = std::min(sizeof(attr), request.attr.size());
  std::memcpy(&attr, request.attr.data(), known);
  const uint32_t size = attr.size == 0 ? kAttrSizeVer0 : attr.size;
  if (size < kAttrSizeVer0 || size > 4096) {
    return make_error(E2BIG, "perf_event_attr of an impossible size");
  }
  for (size_t i = known; i < request.attr.size(); i++) {
    if (request.attr[i] != std::byte{0}) {
      return make_error(E2BIG, "perf_event_attr has fields that nobody knows");
    }
  }
  return attr;
}

}  // namespace

Result<Reply> Session::perf_open(const Caller& caller, const Request& request) {
  const perf_event_attr attr = TRY(perf_attr_of(request));
  const int64_t pid = request.args[0];
  const int64_t cpu = request.args[1];
  if ((static_cast<uint64_t>(request.args[3]) & ~kKnownFlags) != 0) {
    return make_error(EINVAL, "unknown flags");
  }
  if (attr.type == PERF_TYPE_SOFTWARE && attr.config == PERF_COUNT_SW_BPF_OUTPUT) {
    return open_output(caller, attr, pid, cpu);
  }
  if (attr.type != config_.uprobe_type) {
    return make_error(ENOENT, "no such event");
  }
  if (pid < -1 || pid > INT32_MAX || cpu < -1 || (pid == -1 && cpu == -1) ||
      request.args[2] != -1) {
    return make_error(EINVAL, "pid, cpu and group do not fit");
  }
  auto event = std::make_shared<PerfEventObject>();
  if (pid >= 0) {
    event->pid = TRY(process_of(pid == 0 ? caller.pid : static_cast<pid_t>(pid)));
    if (::kill(event->pid, 0) != 0) {
      return make_error(errno == EPERM ? EACCES : ESRCH, "no such process, or not ours to probe");
    }
  }
  // Kernel v6.18 kernel/events/uprobes.c: uprobe_register.
  event->semaphore_offset = attr.config >> 32;
  if (event->semaphore_offset % sizeof(uint16_t) != 0) {
    return make_error(EINVAL, "a semaphore at an odd offset");
  }
  const RequestPayload* path = request.payload(kPathTag);
  if (path == nullptr || request.fds.empty()) {
    return make_error(EINVAL, "no file named");
  }
  struct stat st{};
  if (::fstat(request.fds[0].get(), &st) != 0 || !S_ISREG(st.st_mode)) {
    return make_error(EINVAL, "not a regular file");
  }
  if (attr.probe_offset >= static_cast<uint64_t>(st.st_size)) {
    return make_error(EINVAL, "offset outside of the file");
  }
  event->file.reset(::fcntl(request.fds[0].get(), F_DUPFD_CLOEXEC, 3));
  if (!event->file) {
    return make_error(errno, "cannot keep the file");
  }
  const auto* text = reinterpret_cast<const char*>(path->bytes.data());
  event->path.assign(text, ::strnlen(text, std::min<size_t>(path->bytes.size(), 4096)));
  event->device = st.st_dev;
  event->inode = st.st_ino;
  event->file_offset = attr.probe_offset;
  event->is_return = (attr.config & kIsReturn) != 0;
  const UprobePlaces::Place place{event->file_offset, event->semaphore_offset, 0};
  TRY(check_semaphores(event->device, event->inode, {&place, 1}));
  event->enabled = attr.disabled == 0;
  return give(caller, event);
}

Result<void> Session::set_program(const Caller& caller,
                                  const std::shared_ptr<PerfEventObject>& event,
                                  const std::shared_ptr<ProgramObject>& program, LinkId link,
                                  uint64_t cookie) {
  if (program->type != BPF_PROG_TYPE_KPROBE) {
    return make_error(EINVAL, "a uprobe takes programs of type kprobe");
  }
  if (event->program != nullptr) {
    return make_error(EEXIST, "the event has a program");
  }
  event->program = program;
  event->attachment = link;
  event->cookie = cookie;
  event->disarmed = false;
  auto armed = arm(caller, *event);
  if (!armed) {
    event->program.reset();
    sync_soon();
  }
  return armed;
}

Result<Reply> Session::perf_ioctl(const Caller& caller, const Request& request) {
  objects_.collect_ended();
  pins_.look();
  if (request.refs.empty()) {
    if (request.command == kSettle) {  // the caller closed an fd: what it kept armed is to be gone
      if (targets_ != nullptr) {
        TRY(targets_->sync(nullptr));
      }
      return Reply{};
    }
    return make_error(EBADF, "no event named");
  }
  if (object_of<PerfOutputObject>(request.refs[0], ENOTTY)) {
    // It has no programs; what it is enabled for, output, it always does.
    const bool is_known = request.command == PERF_EVENT_IOC_ENABLE ||
                          request.command == PERF_EVENT_IOC_DISABLE ||
                          request.command == PERF_EVENT_IOC_RESET;
    return is_known ? Result<Reply>(Reply{})
                    : make_error(request.command == PERF_EVENT_IOC_SET_BPF ? EINVAL : ENOTTY,
                                 "an output event has no such ioctl");
  }
  const auto event = TRY(object_of<PerfEventObject>(request.refs[0], ENOTTY));
  switch (request.command) {
    case PERF_EVENT_IOC_ENABLE: {
      const bool was_enabled = event->enabled;
      event->enabled = true;
      event->disarmed = false;
      auto armed = arm(caller, *event);
      if (!armed) {
        event->enabled = was_enabled;
        sync_soon();
        return armed.error();
      }
      return Reply{};
    }
    case PERF_EVENT_IOC_DISABLE:
      event->enabled = false;
      if (targets_ != nullptr) {
        TRY(targets_->sync(nullptr));
      }
      return Reply{};
    case PERF_EVENT_IOC_SET_BPF: {
      if (request.refs.size() < 2) {
        return make_error(EBADF, "no such program");
      }
      const auto program = TRY(object_of<ProgramObject>(request.refs[1], EINVAL));
      TRY(set_program(caller, event, program, LinkId{objects_.next_link_id()}, 0));
      return Reply{};
    }
    default:
      return make_error(ENOTTY, "no such ioctl");
  }
}

}  // namespace bpftime
