// perf_event_open(2) and the ioctls of perf events.
#include <linux/perf_event.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "bpfcall/answer_parts.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kKnownPerfAttrBytes = 144;  // Linux 6.18: up to config4
constexpr uint64_t kKnownPerfFlags =
    PERF_FLAG_FD_NO_GROUP | PERF_FLAG_FD_OUTPUT | PERF_FLAG_PID_CGROUP | PERF_FLAG_FD_CLOEXEC;

// Linux 6.18 kernel/events/core.c: perf_copy_attr.
Result<std::vector<std::byte>> read_perf_attr(const CallerMemory& memory, uint64_t from) {
  uint32_t size = 0;
  TRY(memory.read(memory.self, from + offsetof(perf_event_attr, size),
                  std::as_writable_bytes(std::span(&size, 1))));
  if (size == 0) {
    size = PERF_ATTR_SIZE_VER0;
  }
  const bool in_range = size >= PERF_ATTR_SIZE_VER0 && size <= kPageBytes;
  const Result<void> tail = in_range && size > kKnownPerfAttrBytes
                                ? check_tail(memory, from, kKnownPerfAttrBytes, size)
                                : Result<void>{};
  if (!tail && tail.error().code != E2BIG) {
    return tail.error();
  }
  if (!in_range || !tail) {
    TRY(write_u32(memory, from + offsetof(perf_event_attr, size), kKnownPerfAttrBytes));
    return make_error(E2BIG, "size of perf_event_attr");
  }
  std::vector<std::byte> attr(std::min(size, kKnownPerfAttrBytes));
  TRY(memory.read(memory.self, from, attr));
  return attr;
}

Answer opened(Reply&& reply, const PerfOpenCall& call) {
  Answer answer;
  answer.value = reply.value;
  answer.close_on_exec = (call.flags & PERF_FLAG_FD_CLOEXEC) != 0;
  if (reply.value >= 0) {
    answer.fd = std::move(reply.fd);
    answer.object = reply.object;
  }
  return answer;
}

Result<Answer> try_perf_open(const Caller& caller, const PerfOpenCall& call) {
  if ((call.flags & ~kKnownPerfFlags) != 0) {
    return make_error(EINVAL, "unknown flags");
  }
  Request request;
  request.kind = MessageKind::kPerfOpen;
  request.attr = TRY(read_perf_attr(caller.memory, call.attr));
  request.args[0] = call.pid;
  request.args[1] = call.cpu;
  request.args[2] = call.group_fd;
  request.args[3] = static_cast<int64_t>(call.flags);
  if (field<uint32_t>(request.attr.data(), offsetof(perf_event_attr, type)) == PERF_TYPE_SOFTWARE) {
    Reply reply = TRY(caller.ask(caller.self, &request));
    return opened(std::move(reply), call);
  }
  // Linux 6.18 kernel/trace/trace_event_perf.c: perf_uprobe_init.
  const auto path_address =
      field<uint64_t>(request.attr.data(), offsetof(perf_event_attr, config1));
  if (path_address == 0) {
    return make_error(EINVAL, "no path");
  }
  auto path = read_string(caller.memory, path_address, PATH_MAX);
  if (!path) {
    return path.error().code == ENAMETOOLONG ? make_error(E2BIG, "path too long") : path.error();
  }
  if (path->empty()) {
    return make_error(EINVAL, "empty path");
  }
  RequestPayload name;
  name.tag = kPathTag;
  name.bytes = *path;
  name.size_bytes = path->size();
  path->push_back(std::byte{0});
  UniqueFd file = TRY(caller.open_path(caller.self, reinterpret_cast<const char*>(path->data())));
  struct stat st{};
  if (::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode)) {
    return make_error(EINVAL, "not a regular file");
  }
  request.payloads.push_back(std::move(name));
  request.fds.push_back(std::move(file));
  Reply reply = TRY(caller.ask(caller.self, &request));
  return opened(std::move(reply), call);
}

}  // namespace

bool is_uprobe_event(const CallerMemory& memory, uint64_t attr, uint32_t uprobe_type) {
  uint32_t type = 0;
  return memory.read(memory.self, attr, std::as_writable_bytes(std::span(&type, 1))).has_value() &&
         type == uprobe_type;
}

bool is_output_event(const CallerMemory& memory, uint64_t attr) {
  uint32_t type = 0;
  uint64_t config = 0;
  return memory.read(memory.self, attr, std::as_writable_bytes(std::span(&type, 1))).has_value() &&
         type == PERF_TYPE_SOFTWARE &&
         memory
             .read(memory.self, attr + offsetof(perf_event_attr, config),
                   std::as_writable_bytes(std::span(&config, 1)))
             .has_value() &&
         config == PERF_COUNT_SW_BPF_OUTPUT;
}

Answer answer_perf_open(const Caller& caller, const PerfOpenCall& call) {
  auto answer = try_perf_open(caller, call);
  return answer ? std::move(*answer) : failed(answer.error().code);
}

Answer answer_perf_ioctl(const Caller& caller, int fd, uint64_t request_number, uint64_t argument) {
  Request request;
  request.kind = MessageKind::kPerfIoctl;
  request.command = static_cast<uint32_t>(request_number);
  request.args[0] = static_cast<int64_t>(argument);
  add_ref(caller, fd, &request);
  if (request.refs.empty()) {
    return failed(EBADF);
  }
  if (request.command == PERF_EVENT_IOC_SET_BPF) {
    add_ref(caller, static_cast<int>(argument), &request);
  }
  auto reply = caller.ask(caller.self, &request);
  if (!reply) {
    return failed(reply.error().code);
  }
  Answer answer;
  answer.value = reply->value;
  return answer;
}

}  // namespace bpftime
