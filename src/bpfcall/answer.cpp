#include "bpfcall/answer.hpp"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "spec/newer.hpp"

// What each command points to is a table (kShapes): fields that hold fds, and pointers with the field that tells
// their length. The broker gets attr, fds by identity, and bytes; it never sees a pointer that means anything.

namespace bpftime {
namespace {

constexpr uint32_t kPageBytes = 4096;
constexpr uint32_t kMostRecordBytes =
    252;  // Linux 6.18 kernel/bpf/verifier.c: MAX_FUNCINFO_REC_SIZE
constexpr uint16_t kFdArrayCountAt = 148;  // union bpf_attr: fd_array_cnt, Linux 6.14

enum class PointerKind : uint8_t { kEnd, kInput, kString, kRoom, kInputAndRoom };
enum class TooLong : uint8_t { kE2big, kClamp };

struct PointerField {
  PointerKind kind = PointerKind::kEnd;
  uint16_t at = 0;       // offset of the pointer in union bpf_attr
  uint16_t size_at = 0;  // of the 32-bit length; kString: unused
  uint32_t unit = 1;     // the length counts these
  uint64_t most_bytes = 0;
  TooLong too_long = TooLong::kE2big;
};
constexpr uint16_t kNoField = 0xffff;
struct CommandShape {
  uint32_t command;
  uint16_t fds[3] = {kNoField, kNoField, kNoField};
  PointerField pointers[5] = {};
};

#define AT(field) static_cast<uint16_t>(offsetof(union bpf_attr, field))
constexpr CommandShape kShapes[] = {
    {BPF_MAP_CREATE, {AT(btf_fd), AT(inner_map_fd), kNoField}, {}},
    {BPF_MAP_LOOKUP_ELEM, {AT(map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_UPDATE_ELEM, {AT(map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_DELETE_ELEM, {AT(map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_GET_NEXT_KEY, {AT(map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_LOOKUP_AND_DELETE_ELEM, {AT(map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_FREEZE, {AT(map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_LOOKUP_BATCH, {AT(batch.map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_LOOKUP_AND_DELETE_BATCH, {AT(batch.map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_UPDATE_BATCH, {AT(batch.map_fd), kNoField, kNoField}, {}},
    {BPF_MAP_DELETE_BATCH, {AT(batch.map_fd), kNoField, kNoField}, {}},
    {BPF_PROG_LOAD,
     {AT(prog_btf_fd), AT(attach_prog_fd), kNoField},
     {{PointerKind::kString, AT(license), 0, 1, 128, TooLong::kClamp},
      {PointerKind::kInput, AT(insns), AT(insn_cnt), 8, 8ULL * kMostInsns, TooLong::kE2big},
      {PointerKind::kRoom, AT(log_buf), AT(log_size), 1, kMostLogBytes, TooLong::kClamp}}},
    {BPF_BTF_LOAD,
     {kNoField, kNoField, kNoField},
     {{PointerKind::kInput, AT(btf), AT(btf_size), 1, kMostBtfBytes, TooLong::kE2big},
      {PointerKind::kRoom, AT(btf_log_buf), AT(btf_log_size), 1, kMostLogBytes, TooLong::kClamp}}},
    {BPF_OBJ_GET_INFO_BY_FD,
     {AT(info.bpf_fd), kNoField, kNoField},
     {{PointerKind::kInputAndRoom, AT(info.info), AT(info.info_len), 1, kPageBytes,
       TooLong::kE2big}}},
    {BPF_PROG_BIND_MAP, {AT(prog_bind_map.prog_fd), AT(prog_bind_map.map_fd), kNoField}, {}},
    {BPF_PROG_TEST_RUN,
     {AT(test.prog_fd), kNoField, kNoField},
     {{PointerKind::kInput, AT(test.data_in), AT(test.data_size_in), 1, 1 << 20, TooLong::kE2big},
      {PointerKind::kInput, AT(test.ctx_in), AT(test.ctx_size_in), 1, 1 << 16, TooLong::kE2big},
      {PointerKind::kRoom, AT(test.data_out), AT(test.data_size_out), 1, 1 << 20, TooLong::kClamp},
      {PointerKind::kRoom, AT(test.ctx_out), AT(test.ctx_size_out), 1, 1 << 16, TooLong::kClamp}}},
    {BPF_LINK_CREATE, {AT(link_create.prog_fd), AT(link_create.target_fd), kNoField}, {}},
    {BPF_LINK_UPDATE,
     {AT(link_update.link_fd), AT(link_update.new_prog_fd), AT(link_update.old_prog_fd)},
     {}},
    {BPF_LINK_DETACH, {AT(link_detach.link_fd), kNoField, kNoField}, {}},
    {BPF_ITER_CREATE, {AT(iter_create.link_fd), kNoField, kNoField}, {}},
    {BPF_RAW_TRACEPOINT_OPEN,
     {AT(raw_tracepoint.prog_fd), kNoField, kNoField},
     {{PointerKind::kString, AT(raw_tracepoint.name), 0, 1, 128, TooLong::kClamp}}},
    {BPF_OBJ_PIN,
     {AT(bpf_fd), kNoField, kNoField},
     {{PointerKind::kString, AT(pathname), 0, 1, PATH_MAX, TooLong::kE2big}}},
    {BPF_OBJ_GET,
     {kNoField, kNoField, kNoField},
     {{PointerKind::kString, AT(pathname), 0, 1, PATH_MAX, TooLong::kE2big}}},
};

const CommandShape* shape_of(uint32_t command) {
  for (const CommandShape& shape : kShapes) {
    if (shape.command == command) {
      return &shape;
    }
  }
  return nullptr;
}

template <class T>
T field(const std::byte* attr, uint16_t at) {
  T value;
  std::memcpy(&value, attr + at, sizeof(T));
  return value;
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

// Linux 6.18 kernel/bpf/syscall.c: bpf_check_uarg_tail_zero: more than a page is E2BIG, and so is anything but
// zeros behind what is known.
Result<void> check_tail(const CallerMemory& memory, uint64_t from, uint32_t known, uint32_t given) {
  if (given > kPageBytes) {
    return make_error(E2BIG, "attr larger than a page");
  }
  std::byte chunk[256];
  for (uint32_t at = known; at < given;) {
    const uint32_t n = std::min<uint32_t>(given - at, sizeof(chunk));
    TRY(memory.read(memory.self, from + at, std::span(chunk, n)));
    if (!all_zero(std::span(chunk, n))) {
      return make_error(E2BIG, "attr has bytes that nobody knows");
    }
    at += n;
  }
  return {};
}

// A string of at most `most` bytes with its NUL. Never reads a page behind the one the string ends in.
// Errors: EFAULT; ENAMETOOLONG when there is no NUL.
Result<std::vector<std::byte>> read_string(const CallerMemory& memory, uint64_t from,
                                           uint64_t most) {
  std::vector<std::byte> text;
  while (text.size() < most) {
    const uint64_t at = from + text.size();
    const uint64_t n = std::min<uint64_t>({kPageBytes - at % kPageBytes, 256, most - text.size()});
    const size_t before = text.size();
    text.resize(before + n);
    TRY(memory.read(memory.self, at, std::span(text).subspan(before)));
    const auto end =
        std::find(text.begin() + static_cast<ptrdiff_t>(before), text.end(), std::byte{0});
    if (end != text.end()) {
      text.erase(end, text.end());
      return text;
    }
  }
  return make_error(ENAMETOOLONG, "string without end");
}

void add_ref(const Caller& caller, int fd, Request* request) {
  if (request->ref(fd) != nullptr) {
    return;
  }
  ObjectRef ref{};
  if (caller.identify(caller.self, fd, &ref)) {
    ref.fd = fd;
    request->refs.push_back(ref);
  }
}

// Map fds (and maps' values) that 64-bit loads name: RFC 9669 §5.4, src_reg 1 and 2; linux/bpf.h BPF_PSEUDO_*.
// Errors: E2BIG more than kMaxRefs.
Result<void> add_refs_of_program(const Caller& caller, const std::vector<std::byte>& code,
                                 Request* request) {
  for (size_t at = 0; at + 2 * sizeof(bpf_insn) <= code.size(); at += sizeof(bpf_insn)) {
    bpf_insn insn;
    std::memcpy(&insn, code.data() + at, sizeof(insn));
    if (insn.code != (BPF_LD | BPF_IMM | BPF_DW)) {
      continue;
    }
    if (insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_VALUE) {
      add_ref(caller, insn.imm, request);
      if (request->refs.size() > kMaxRefs) {
        return make_error(E2BIG, "program names too many maps");
      }
    }
    at += sizeof(bpf_insn);
  }
  return {};
}

Result<void> add_payload(const CallerMemory& memory, const PointerField& pointer,
                         const std::byte* attr, Request* request) {
  const auto address = field<uint64_t>(attr, pointer.at);
  RequestPayload payload;
  payload.tag = pointer.at;
  if (pointer.kind == PointerKind::kString) {
    auto text = read_string(memory, address, pointer.most_bytes);
    if (text) {
      payload.bytes = std::move(*text);
    } else if (text.error().code != ENAMETOOLONG || pointer.too_long == TooLong::kE2big) {
      return text.error();
    } else {
      payload.bytes.resize(pointer.most_bytes - 1);
      TRY(memory.read(memory.self, address, payload.bytes));
    }
    request->payloads.push_back(std::move(payload));
    return {};
  }
  uint64_t size = static_cast<uint64_t>(field<uint32_t>(attr, pointer.size_at)) * pointer.unit;
  if (size > pointer.most_bytes) {
    if (pointer.too_long == TooLong::kE2big) {
      return make_error(E2BIG, "length out of range");
    }
    size = pointer.most_bytes;
  }
  if (pointer.kind == PointerKind::kRoom) {
    if (address != 0 && size != 0) {
      payload.flags = kOutputWanted;
      payload.size_bytes = size;
      request->payloads.push_back(std::move(payload));
    }
    return {};
  }
  payload.bytes.resize(size);
  if (size != 0) {
    TRY(memory.read(memory.self, address, payload.bytes));
  }
  payload.size_bytes = size;
  request->payloads.push_back(std::move(payload));
  return {};
}

// func_info and line_info: count and record size stand in the attr. What the broker refuses anyway is not copied.
Result<void> add_records(const CallerMemory& memory, const std::byte* attr, uint16_t at,
                         uint16_t count_at, uint16_t size_at, Request* request) {
  const uint64_t bytes =
      static_cast<uint64_t>(field<uint32_t>(attr, count_at)) * field<uint32_t>(attr, size_at);
  if (bytes == 0 || field<uint32_t>(attr, size_at) > kMostRecordBytes || bytes > kMostBtfBytes) {
    return {};
  }
  RequestPayload payload;
  payload.tag = at;
  payload.bytes.resize(bytes);
  payload.size_bytes = bytes;
  TRY(memory.read(memory.self, field<uint64_t>(attr, at), payload.bytes));
  request->payloads.push_back(std::move(payload));
  return {};
}

// The array of fds that instructions name by index (linux/bpf.h: BPF_PSEUDO_MAP_IDX, fd_array) is as long as the largest
// index says, unless fd_array_cnt does (Linux 6.14).
Result<void> add_fd_array(const Caller& caller, const std::byte* attr, Request* request) {
  const auto from = field<uint64_t>(attr, AT(fd_array));
  if (from == 0) {
    return {};
  }
  const std::vector<std::byte>& code = request->payload(AT(insns))->bytes;
  uint64_t count = field<uint32_t>(attr, kFdArrayCountAt);
  for (size_t at = 0; at + 2 * sizeof(bpf_insn) <= code.size(); at += sizeof(bpf_insn)) {
    bpf_insn insn;
    std::memcpy(&insn, code.data() + at, sizeof(insn));
    if (insn.code == (BPF_LD | BPF_IMM | BPF_DW)) {
      at += sizeof(bpf_insn);
      if ((insn.src_reg == BPF_PSEUDO_MAP_IDX || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE) &&
          insn.imm >= 0) {
        count = std::max<uint64_t>(count, static_cast<uint64_t>(insn.imm) + 1);
      }
    }
  }
  if (count == 0) {
    return {};
  }
  if (count > kMaxRefs) {
    return make_error(E2BIG, "program names too many maps");
  }
  RequestPayload payload;
  payload.tag = AT(fd_array);
  payload.bytes.resize(count * sizeof(int32_t));
  payload.size_bytes = payload.bytes.size();
  TRY(caller.memory.read(caller.memory.self, from, payload.bytes));
  for (size_t i = 0; i < count; i++) {
    add_ref(caller, field<int32_t>(payload.bytes.data(), static_cast<uint16_t>(i * 4)), request);
  }
  request->payloads.push_back(std::move(payload));
  return {};
}

// A uprobe_multi link: its file, opened as the caller sees it, and its arrays. What the broker refuses anyway is not
// copied.
Result<void> add_uprobes(const Caller& caller, const std::byte* attr, Request* request) {
  UprobeMultiCreate create;
  std::memcpy(&create, attr, sizeof(create));
  if (!is_uprobe_multi(create.attach_type) || create.flags != 0 || create.path == 0 ||
      create.offsets == 0 || create.count == 0 || create.count > kMostUprobePlaces) {
    return {};
  }
  const CallerMemory& memory = caller.memory;
  auto path = TRY(read_string(memory, create.path, PATH_MAX));
  path.push_back(std::byte{0});
  request->fds.push_back(
      TRY(caller.open_path(caller.self, reinterpret_cast<const char*>(path.data()))));
  const std::pair<size_t, uint64_t> arrays[] = {
      {offsetof(UprobeMultiCreate, offsets), create.offsets},
      {offsetof(UprobeMultiCreate, ref_ctr_offsets), create.ref_ctr_offsets},
      {offsetof(UprobeMultiCreate, cookies), create.cookies}};
  for (const auto& [at, address] : arrays) {
    if (address != 0) {
      RequestPayload payload;
      payload.tag = static_cast<uint32_t>(at);
      payload.bytes.resize(uint64_t{create.count} * sizeof(uint64_t));
      payload.size_bytes = payload.bytes.size();
      TRY(memory.read(memory.self, address, payload.bytes));
      request->payloads.push_back(std::move(payload));
    }
  }
  return {};
}

// OBJ_PIN, OBJ_GET: a relative path becomes a full one. Linux 6.18 kernel/bpf/syscall.c: bpf_obj_pin, bpf_obj_get: a
// descriptor without its flag is refused, which the broker does.
Result<void> complete_path(const Caller& caller, const std::byte* attr, Request* request) {
  std::vector<std::byte>& path = request->payloads.back().bytes;
  const bool by_descriptor = (field<uint32_t>(attr, AT(file_flags)) & kPathFd) != 0;
  const auto path_fd = field<int32_t>(attr, kPathFdAt);
  if (path.empty() || path.front() == std::byte{'/'} || (!by_descriptor && path_fd != 0)) {
    return {};
  }
  const std::string directory =
      TRY(caller.directory(caller.self, by_descriptor ? path_fd : AT_FDCWD)) + "/";
  const auto front = std::as_bytes(std::span(directory));
  path.insert(path.begin(), front.begin(), front.end());
  return {};
}

Result<void> write_u32(const CallerMemory& memory, uint64_t to, uint32_t value) {
  return memory.write(memory.self, to, std::as_bytes(std::span(&value, 1)));
}

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

Answer failed(int code) {
  Answer answer;
  answer.value = -code;
  return answer;
}

Result<Answer> try_bpf(const Caller& caller, uint32_t command, uint64_t attr_address,
                       uint32_t attr_bytes) {
  Request request;
  request.kind = MessageKind::kBpf;
  request.command = command;
  request.attr.resize(kAttrBytes);
  TRY(read_bpf_attr(caller.memory, attr_address, attr_bytes, request.attr));
  // Refs and payloads grow the request; attr stays where it is.
  const std::byte* attr = request.attr.data();
  if (command == BPF_PROG_LOAD) {
    // Linux 6.18 kernel/bpf/syscall.c: bpf_prog_load, before anything is copied.
    const auto count = field<uint32_t>(attr, AT(insn_cnt));
    if (count == 0 || count > kMostInsns) {
      return make_error(E2BIG, "number of instructions out of range");
    }
  }
  const CommandShape* shape = shape_of(command);
  if (shape != nullptr) {
    for (const uint16_t at : shape->fds) {
      if (at != kNoField) {
        add_ref(caller, field<int32_t>(attr, at), &request);
      }
    }
    for (const PointerField& pointer : shape->pointers) {
      if (pointer.kind != PointerKind::kEnd) {
        TRY(add_payload(caller.memory, pointer, attr, &request));
      }
    }
  }
  if (command == BPF_OBJ_GET_INFO_BY_FD &&
      request.ref(field<int32_t>(attr, AT(info.bpf_fd))) == nullptr) {
    return make_error(EBADFD,
                      "not open");  // kernel/bpf/syscall.c: bpf_obj_get_info_by_fd, alone in this
  }
  if (command == BPF_PROG_LOAD) {
    TRY(add_refs_of_program(caller, request.payload(AT(insns))->bytes, &request));
    TRY(add_fd_array(caller, attr, &request));
    TRY(add_records(caller.memory, attr, AT(func_info), AT(func_info_cnt), AT(func_info_rec_size),
                    &request));
    TRY(add_records(caller.memory, attr, AT(line_info), AT(line_info_cnt), AT(line_info_rec_size),
                    &request));
  }
  if (command == BPF_OBJ_PIN || command == BPF_OBJ_GET) {
    TRY(complete_path(caller, attr, &request));
  }
  if (command == BPF_LINK_CREATE) {
    TRY(add_uprobes(caller, attr, &request));
  }
  Reply reply = TRY(caller.ask(caller.self, &request));
  TRY(write_back(caller.memory, command, attr_address, attr_bytes, attr, reply));
  Answer answer;
  answer.value = reply.value;
  if (reply.value >= 0) {
    answer.fd = std::move(reply.fd);
    answer.object = reply.object;
  }
  return answer;
}

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

Result<void> read_bpf_attr(const CallerMemory& memory, uint64_t from, uint32_t given,
                           std::span<std::byte> attr) {
  const auto known = static_cast<uint32_t>(std::min<size_t>(attr.size(), kKnownAttrBytes));
  if (given > known) {
    TRY(check_tail(memory, from, known, given));
  }
  std::memset(attr.data(), 0, attr.size());
  return memory.read(memory.self, from, attr.subspan(0, std::min(given, known)));
}

Answer answer_bpf(const Caller& caller, uint32_t command, uint64_t attr, uint32_t attr_bytes) {
  auto answer = try_bpf(caller, command, attr, attr_bytes);
  return answer ? std::move(*answer) : failed(answer.error().code);
}

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

uint64_t bpf_value_bytes(const MapSpec& spec) {
  const uint64_t padded = (static_cast<uint64_t>(spec.value_size) + 7) & ~7ULL;
  return spec.cpu_count > 1 ? padded * spec.cpu_count : spec.value_size;
}

// ---- Map elements ----------------------------------------------------------------------------------------

Result<MapCall> read_map_call(const CallerMemory& memory, uint32_t command, uint64_t attr_address,
                              uint32_t attr_bytes) {
  // The element commands use 32 bytes; what is known to others must be zero (EINVAL), the rest too (E2BIG).
  struct Fields {
    uint32_t map_fd, padding;
    uint64_t key, value, flags;
  } fields{};
  static_assert(sizeof(Fields) == 32 && offsetof(Fields, key) == AT(key) &&
                offsetof(Fields, value) == AT(value) && offsetof(Fields, flags) == AT(flags));
  if (attr_bytes <= sizeof(fields)) {
    TRY(memory.read(memory.self, attr_address,
                    std::span(reinterpret_cast<std::byte*>(&fields), attr_bytes)));
  } else {
    std::byte attr[kKnownAttrBytes];
    TRY(read_bpf_attr(memory, attr_address, attr_bytes, attr));
    std::memcpy(&fields, attr, sizeof(fields));
    if (!all_zero(std::span(attr).subspan(sizeof(fields)))) {
      return make_error(EINVAL, "fields of other commands are set");
    }
  }
  // Linux 6.18 kernel/bpf/syscall.c: CHECK_ATTR with BPF_MAP_*_LAST_FIELD.
  if ((command == BPF_MAP_DELETE_ELEM && (fields.value != 0 || fields.flags != 0)) ||
      (command == BPF_MAP_GET_NEXT_KEY && fields.flags != 0) ||
      ((command == BPF_MAP_LOOKUP_ELEM || command == BPF_MAP_LOOKUP_AND_DELETE_ELEM) &&
       (fields.flags & ~static_cast<uint64_t>(BPF_F_LOCK)) != 0)) {
    return make_error(EINVAL, "fields that the command does not know are set");
  }
  return MapCall{command, static_cast<int>(fields.map_fd), fields.key, fields.value, fields.flags};
}

namespace {

// A value on its way between caller and map, when it cannot be used in place.
class ValueBuffer {
 public:
  explicit ValueBuffer(uint64_t size) : size_(size) {
    if (size > sizeof(near_)) {
      far_.resize(size);
    }
  }
  std::byte* data() { return far_.empty() ? near_ : far_.data(); }
  std::span<std::byte> bytes() { return {data(), size_}; }

 private:
  uint64_t size_;
  std::byte near_[512];
  std::vector<std::byte> far_;
};

int change(const LocalMap& map, const CallerMemory& memory, const MapCall& call, const void* key,
           const LockContext& who) {
  if (call.command == BPF_MAP_DELETE_ELEM) {
    return map_sys_erase(map.view, who, key);
  }
  const uint64_t size = bpf_value_bytes(map.view.spec);
  const void* there = memory.in_place(memory.self, call.value, size, false);
  if (there != nullptr) {
    return map_sys_update(map.view, who, key, there, call.flags);
  }
  ValueBuffer value(size);
  const auto copied = memory.read(memory.self, call.value, value.bytes());
  if (!copied) {
    return -copied.error().code;
  }
  return map_sys_update(map.view, who, key, value.data(), call.flags);
}

// Linux 6.18 kernel/bpf/syscall.c: map_lookup_and_delete_elem.
int take(const LocalMap& map, const CallerMemory& memory, const MapCall& call, const void* key,
         const LockContext& who) {
  const auto sys_take = map_ops(map.view.code).sys_take;
  if (sys_take == nullptr) {
    return -kKernelEnotsupp;
  }
  ValueBuffer value(bpf_value_bytes(map.view.spec));
  const int error = sys_take(map.view, who, key, value.data());
  if (error != 0) {
    return error;
  }
  const auto copied = memory.write(memory.self, call.value, value.bytes());
  return copied ? 0 : -copied.error().code;
}

// `who` is asked only where it is needed: that costs a system call.
int look(const LocalMap& map, const CallerMemory& memory, const MapCall& call, const void* key,
         LockContext (*who)(void* self), void* self) {
  const bool is_lookup = call.command == BPF_MAP_LOOKUP_ELEM;
  const uint64_t size = is_lookup ? bpf_value_bytes(map.view.spec) : map.view.spec.key_size;
  void* there = memory.in_place(memory.self, call.value, size, true);
  const auto look_up = [&](void* to) {
    const int error = map_sys_lookup(map.view, key, to, call.flags);
    if (error != -EAGAIN) {
      return error;
    }
    const LockContext holder = who(self);
    return map_sys_lookup(map.view, key, to, call.flags, &holder);
  };
  if (there != nullptr) {
    return is_lookup ? look_up(there) : map_next_key(map.view, key, there);
  }
  ValueBuffer value(size);
  const int error = is_lookup ? look_up(value.data()) : map_next_key(map.view, key, value.data());
  if (error != 0) {
    return error;
  }
  const auto copied = memory.write(memory.self, call.value, value.bytes());
  return copied ? 0 : -copied.error().code;
}

}  // namespace

int answer_map_call(const LocalMap& map, const CallerMemory& memory, const MapCall& call,
                    LockContext (*who)(void* self), void* self) {
  const bool takes = call.command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
  const bool changes = call.command == BPF_MAP_UPDATE_ELEM || call.command == BPF_MAP_DELETE_ELEM;
  if (((changes || takes) && !map.may_write) || (!changes && !map.may_read)) {
    return -EPERM;
  }
  if ((call.flags & BPF_F_LOCK) != 0) {
    return -EINVAL;  // no map of ours holds a bpf_spin_lock yet
  }
  const uint32_t key_size = map.view.spec.key_size;
  if (key_size > kMostKeyBytes) {
    return -E2BIG;
  }
  if (key_size == 0 && call.key != 0) {
    return -EINVAL;  // kernel/bpf/syscall.c: ___bpf_copy_key
  }
  // The key is copied: it is hashed and compared more than once.
  alignas(8) std::byte key[kMostKeyBytes];
  const void* key_pointer = key;
  if (call.key == 0 && call.command == BPF_MAP_GET_NEXT_KEY) {
    key_pointer = nullptr;  // the first one
  } else {
    const auto copied = memory.read(memory.self, call.key, std::span(key, key_size));
    if (!copied) {
      return -copied.error().code;
    }
  }
  if (takes) {
    return take(map, memory, call, key, who(self));
  }
  return changes ? change(map, memory, call, key, who(self))
                 : look(map, memory, call, key_pointer, who, self);
}

}  // namespace bpftime
