// What comes back from the broker, written where the caller's attr says.
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "bpfcall/answer_parts.hpp"

namespace bpftime {
namespace {

Result<void> write_output(const CallerMemory& memory, uint64_t to, uint64_t room,
                          std::span<const std::byte> bytes) {
  const std::span<const std::byte> part = bytes.subspan(0, std::min<size_t>(bytes.size(), room));
  if (part.empty() || to == 0) {
    return {};
  }
  return memory.write(memory.self, to, part);
}

Result<void> write_test_run(const CallerMemory& memory, uint64_t attr_address,
                            const std::byte* attr, std::span<const std::byte> output) {
  TestRunOutput head;
  if (output.size() < sizeof(head)) {
    return make_error(EPROTO, "test run without a result");
  }
  std::memcpy(&head, output.data(), sizeof(head));
  std::span<const std::byte> rest = output.subspan(sizeof(head));
  const uint64_t data_padded = (static_cast<uint64_t>(head.data_bytes) + 7) & ~7ULL;
  if (data_padded > rest.size() || head.ctx_bytes > rest.size() - data_padded) {
    return make_error(EPROTO, "test run output is cut");
  }
  TRY(write_output(memory, field<uint64_t>(attr, AT(test.data_out)),
                   field<uint32_t>(attr, AT(test.data_size_out)),
                   rest.subspan(0, head.data_bytes)));
  TRY(write_output(memory, field<uint64_t>(attr, AT(test.ctx_out)),
                   field<uint32_t>(attr, AT(test.ctx_size_out)),
                   rest.subspan(data_padded, head.ctx_bytes)));
  TRY(write_u32(memory, attr_address + AT(test.data_size_out), head.data_size));
  TRY(write_u32(memory, attr_address + AT(test.ctx_size_out), head.ctx_size));
  TRY(write_u32(memory, attr_address + AT(test.retval), head.retval));
  return write_u32(memory, attr_address + AT(test.duration), head.duration_ns);
}

// Bytes of an answer, part by part, each padded to 8.
class OutputReader {
 public:
  explicit OutputReader(std::span<const std::byte> bytes) : rest_(bytes) {}
  Result<std::span<const std::byte>> take(uint64_t bytes) {
    if (bytes > rest_.size()) {
      return make_error(EPROTO, "answer is cut");
    }
    const auto part = rest_.first(bytes);
    rest_ = rest_.subspan(std::min<uint64_t>(rest_.size(), (bytes + 7) & ~7ULL));
    return part;
  }
  template <class T>
  Result<T> take_one() {
    const auto bytes = TRY(take(sizeof(T)));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> rest() const { return rest_; }

 private:
  std::span<const std::byte> rest_;
};

// `is_cut`: what pointers in the info name is written, the info is not.
Result<void> write_info(const CallerMemory& memory, uint64_t attr_address, const std::byte* attr,
                        std::span<const std::byte> output, bool is_cut) {
  OutputReader reader(output);
  const InfoOutput head = TRY(reader.take_one<InfoOutput>());
  const std::span<const std::byte> info = TRY(reader.take(head.info_bytes));
  for (uint32_t i = 0; i < head.pieces; i++) {
    const InfoPiece piece = TRY(reader.take_one<InfoPiece>());
    const std::span<const std::byte> bytes = TRY(reader.take(piece.size_bytes));
    TRY(memory.write(memory.self, piece.address, bytes));
  }
  if (is_cut) {
    return {};
  }
  const uint64_t room = field<uint32_t>(attr, AT(info.info_len));
  TRY(write_output(memory, field<uint64_t>(attr, AT(info.info)), room, info));
  return write_u32(memory, attr_address + AT(info.info_len),
                   static_cast<uint32_t>(std::min<uint64_t>(room, info.size())));
}

// Linux 6.18 kernel/bpf/syscall.c: bpf_task_fd_query_copy. buf_len becomes the name's length without its NUL.
Result<void> write_task_fd(const CallerMemory& memory, uint64_t attr_address, const std::byte* attr,
                           std::span<const std::byte> output) {
  OutputReader reader(output);
  const TaskFdOutput about = TRY(reader.take_one<TaskFdOutput>());
  const std::span<const std::byte> name = reader.rest();
  const auto room = field<uint32_t>(attr, AT(task_fd_query.buf_len));
  const auto buffer = field<uint64_t>(attr, AT(task_fd_query.buf));
  TRY(write_u32(memory, attr_address + AT(task_fd_query.buf_len),
                static_cast<uint32_t>(name.size())));
  if (room != 0 && buffer != 0) {
    const auto part = name.first(std::min<size_t>(name.size(), room - 1));
    constexpr std::byte kEnd{0};
    TRY(write_output(memory, buffer, part.size(), part));
    TRY(memory.write(memory.self, buffer + part.size(), std::span(&kEnd, 1)));
  }
  TRY(write_u32(memory, attr_address + AT(task_fd_query.prog_id), about.prog_id));
  TRY(write_u32(memory, attr_address + AT(task_fd_query.fd_type), about.fd_type));
  const uint64_t places[2] = {about.probe_offset, about.probe_addr};
  return memory.write(memory.self, attr_address + AT(task_fd_query.probe_offset),
                      std::as_bytes(std::span(places)));
}

// union bpf_attr, log_true_size of the two commands: since Linux 6.4, missing in older headers.
constexpr uint32_t kLogTrueSizeAt = 140, kBtfLogTrueSizeAt = 28;

struct PlaceInAttr {
  uint64_t attr_address;
  uint32_t attr_bytes;  // as the caller said
  uint32_t at;
};

// Linux 6.18 kernel/bpf/verifier.c: bpf_check: the true size goes where the caller's attr has room for it.
Result<void> write_log(const CallerMemory& memory, const PlaceInAttr& true_size, uint64_t buffer,
                       uint32_t room, std::span<const std::byte> output) {
  if (output.empty()) {
    return {};
  }
  OutputReader reader(output);
  const LogOutput head = TRY(reader.take_one<LogOutput>());
  if (true_size.attr_bytes >= true_size.at + sizeof(uint32_t)) {
    TRY(write_u32(memory, true_size.attr_address + true_size.at, head.true_bytes));
  }
  return write_output(memory, buffer, room, reader.rest());
}

}  // namespace

Result<void> write_back(const CallerMemory& memory, uint32_t command, uint64_t attr_address,
                        uint32_t attr_bytes, const std::byte* attr, const Reply& reply) {
  switch (command) {
    case BPF_PROG_LOAD:
      return write_log(memory, {attr_address, attr_bytes, kLogTrueSizeAt},
                       field<uint64_t>(attr, AT(log_buf)), field<uint32_t>(attr, AT(log_size)),
                       reply.output);
    case BPF_BTF_LOAD:
      return write_log(memory, {attr_address, attr_bytes, kBtfLogTrueSizeAt},
                       field<uint64_t>(attr, AT(btf_log_buf)),
                       field<uint32_t>(attr, AT(btf_log_size)), reply.output);
    case BPF_OBJ_GET_INFO_BY_FD:
      if (reply.value < 0 && (reply.value != -ENOSPC || reply.output.empty())) {
        return {};
      }
      return write_info(memory, attr_address, attr, reply.output, reply.value < 0);
    case BPF_TASK_FD_QUERY:
      return reply.value < 0 && reply.value != -ENOSPC
                 ? Result<void>{}
                 : write_task_fd(memory, attr_address, attr, reply.output);
    case BPF_PROG_GET_NEXT_ID:
    case BPF_MAP_GET_NEXT_ID:
    case BPF_BTF_GET_NEXT_ID:
    case BPF_LINK_GET_NEXT_ID: {
      uint32_t next = 0;
      if (reply.value < 0) {
        return {};
      }
      if (reply.output.size() < sizeof(next)) {
        return make_error(EPROTO, "no id in the answer");
      }
      std::memcpy(&next, reply.output.data(), sizeof(next));
      return write_u32(memory, attr_address + AT(next_id), next);
    }
    case BPF_PROG_TEST_RUN:
      return reply.value < 0 ? Result<void>{}
                             : write_test_run(memory, attr_address, attr, reply.output);
    default:
      return {};
  }
}

}  // namespace bpftime
