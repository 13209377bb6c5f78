#include "bpfcall/answer.hpp"

#include <fcntl.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string>
#include <utility>

#include "bpfcall/answer_parts.hpp"
#include "spec/newer.hpp"

// What each command points to is a table (kShapes): fields that hold fds, and pointers with the field that tells
// their length. The broker gets attr, fds by identity, and bytes; it never sees a pointer that means anything.

namespace bpftime {
namespace {

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

}  // namespace

Answer answer_bpf(const Caller& caller, uint32_t command, uint64_t attr, uint32_t attr_bytes) {
  auto answer = try_bpf(caller, command, attr, attr_bytes);
  return answer ? std::move(*answer) : failed(answer.error().code);
}

}  // namespace bpftime
