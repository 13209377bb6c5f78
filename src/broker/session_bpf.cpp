// bpf(2): maps, programs, BTF, links, ids. The order of checks is the kernel's (v6.18
// kernel/bpf/syscall.c), since tools tell features apart by which errno comes first.
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "broker/bpf_call.hpp"
#include "broker/memfd.hpp"
#include "broker/program_check.hpp"
#include "broker/sha256.hpp"
#include "maps/map_view.hpp"
#include "spec/newer.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kKnownLoadFlags = 0x1ff;  // BPF_F_STRICT_ALIGNMENT ... BPF_F_TEST_REG_INVARIANTS
constexpr uint32_t kLogFixed = 8;            // BPF_LOG_FIXED
constexpr uint64_t kMostLogBytes = 48ULL << 20;
constexpr uint32_t kKnownLogBits = 0xf;    // kernel: BPF_LOG_MASK
constexpr uint32_t kMaxRecordBytes = 252;  // kernel: MAX_FUNCINFO_REC_SIZE, MAX_LINEINFO_REC_SIZE

// End of the last field that a command uses (kernel: CHECK_ATTR); 0 = any.
#define BPFTIME_END_OF(field) (offsetof(bpf_attr, field) + sizeof(bpf_attr::field))
size_t attr_end(uint32_t command) {
  switch (command) {
    case BPF_MAP_FREEZE:
      return sizeof(uint32_t);
    case BPF_OBJ_PIN:
    case BPF_OBJ_GET:
      return kObjPinEnd;
    case BPF_LINK_CREATE:
      return 64;
    case BPF_LINK_UPDATE:
      return BPFTIME_END_OF(link_update.old_prog_fd);
    case BPF_LINK_DETACH:
      return BPFTIME_END_OF(link_detach.link_fd);
    case BPF_PROG_TEST_RUN:
      return BPFTIME_END_OF(test.batch_size);
    case BPF_OBJ_GET_INFO_BY_FD:
      return BPFTIME_END_OF(info.info);
    case BPF_PROG_BIND_MAP:
      return BPFTIME_END_OF(prog_bind_map.flags);
    case BPF_PROG_GET_NEXT_ID:
    case BPF_MAP_GET_NEXT_ID:
    case BPF_BTF_GET_NEXT_ID:
    case BPF_LINK_GET_NEXT_ID:
      return BPFTIME_END_OF(next_id);
    case BPF_ENABLE_STATS:
      return BPFTIME_END_OF(enable_stats.type);
    case BPF_TASK_FD_QUERY:
      return BPFTIME_END_OF(task_fd_query.probe_addr);
    case BPF_PROG_GET_FD_BY_ID:
    case BPF_BTF_GET_FD_BY_ID:
    case BPF_LINK_GET_FD_BY_ID:
    case BPF_MAP_GET_FD_BY_ID:
      return BPFTIME_END_OF(open_flags);
    default:
      return 0;
  }
}
#undef BPFTIME_END_OF

Result<bpf_attr> attr_of(const Request& request) {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  const size_t known = std::min(sizeof(attr), request.attr.size());
  std::memcpy(&attr, request.attr.data(), known);
  if (!is_zero(std::span(request.attr).subspan(known))) {
    return make_error(E2BIG, "attr has fields that nobody knows");
  }
  const size_t end = attr_end(request.command);
  if (end != 0 && end < sizeof(attr) && !is_zero(std::as_bytes(std::span(&attr, 1)).subspan(end))) {
    return make_error(EINVAL, "attr has fields that the command does not");
  }
  return attr;
}

// Kernel: bpf_obj_name_cpy.
Result<std::string> name_of(const char* field) {
  const size_t length = ::strnlen(field, BPF_OBJ_NAME_LEN);
  if (length == BPF_OBJ_NAME_LEN) {
    return make_error(EINVAL, "name does not end");
  }
  for (size_t i = 0; i < length; i++) {
    const char c = field[i];
    if ((c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' &&
        c != '.') {
      return make_error(EINVAL, "name has other characters than letters, digits, _ and .");
    }
  }
  return std::string(field, length);
}

// Writes the start state through a mapping of our own, which is gone afterwards.
Result<void> format_file(int fd, uint64_t bytes, const MapSpec& spec) {
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    return make_error(ENOMEM, "cannot map a region");
  }
  uint64_t seed = 0;
  if (::getrandom(&seed, sizeof(seed), 0) != sizeof(seed)) {
    seed = static_cast<uint64_t>(::time(nullptr));
  }
  auto formatted = format_region(static_cast<std::byte*>(base), bytes, spec, seed);
  ::munmap(base, bytes);
  return formatted;
}

// Kernel v6.18 kernel/bpf/core.c: bpf_prog_calc_tag: the hash of the instructions without what differs from load to load,
// the fds of maps.
uint64_t tag_of_program(std::span<const std::byte> bytes) {
  std::vector<std::byte> plain(bytes.begin(), bytes.end());
  for (size_t at = 0; at + 2 * sizeof(bpf_insn) <= plain.size(); at += sizeof(bpf_insn)) {
    bpf_insn pair[2];
    std::memcpy(pair, plain.data() + at, sizeof(pair));
    if (pair[0].code != (BPF_LD | BPF_IMM | BPF_DW)) {
      continue;
    }
    if (pair[0].src_reg == BPF_PSEUDO_MAP_FD || pair[0].src_reg == BPF_PSEUDO_MAP_VALUE) {
      pair[0].imm = 0;
      pair[1].imm = 0;
      std::memcpy(plain.data() + at, pair, sizeof(pair));
    }
    at += sizeof(bpf_insn);
  }
  uint64_t tag = 0;
  std::memcpy(&tag, sha256(plain).data(), sizeof(tag));
  return tag;
}

// func_info and line_info: `count` records of the caller's size, of which we know the first `known` bytes.
// Kernel v6.18 kernel/bpf/verifier.c: check_btf_func_early, check_btf_line.
// Errors: EINVAL, E2BIG, EFAULT.
Result<std::vector<std::byte>> records_of(const Request& request, uint32_t tag, uint32_t count,
                                          uint32_t size, size_t known) {
  std::vector<std::byte> records;
  if (count == 0) {
    return records;
  }
  if (size < known || size > kMaxRecordBytes || size % sizeof(uint32_t) != 0) {
    return make_error(EINVAL, "records of func_info or line_info have an impossible size");
  }
  const RequestPayload* given = request.payload(tag);
  if (given == nullptr || given->bytes.size() != static_cast<uint64_t>(count) * size) {
    return make_error(EFAULT, "func_info or line_info cannot be read");
  }
  const std::span<const std::byte> bytes(given->bytes);
  for (size_t at = 0; at < bytes.size(); at += size) {
    const auto record = bytes.subspan(at, size);
    if (!is_zero(record.subspan(known))) {
      return make_error(E2BIG, "records of func_info or line_info have fields that nobody knows");
    }
    records.insert(records.end(), record.begin(), record.begin() + static_cast<ptrdiff_t>(known));
  }
  return records;
}

uint64_t since_boot_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_BOOTTIME, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

struct LogRoom {
  uint64_t bytes = 0;
  bool is_measured = false;  // a level is given: its true size is told, also without a buffer
  bool wanted = false;
  bool keeps_first = false;
};

// Kernel v6.18 kernel/bpf/log.c: bpf_vlog_init, bpf_verifier_log_attr_valid.
Result<LogRoom> log_room(uint32_t level, uint32_t size, uint64_t buffer,
                         const RequestPayload* room) {
  if ((buffer != 0) != (size != 0) || (buffer != 0 && level == 0) ||
      (level & ~kKnownLogBits) != 0 || size > UINT32_MAX >> 2) {
    return make_error(EINVAL, "log level, size and buffer do not fit");
  }
  LogRoom result;
  result.is_measured = level != 0;
  if (level != 0 && room != nullptr && (room->flags & kOutputWanted) != 0) {
    result.bytes = std::min<uint64_t>(room->size_bytes, size);
    result.wanted = result.bytes != 0;
    result.keeps_first = (level & kLogFixed) != 0;
  }
  return result;
}

// The log with its NUL; when the room is too small its last bytes, or with BPF_LOG_FIXED its first.
// False when something is missing.
bool put_log(const LogRoom& room, const std::string& text, Reply* reply) {
  if (!room.is_measured) {
    return true;
  }
  const LogOutput head{static_cast<uint32_t>(text.size() + 1), 0};
  const auto head_bytes = std::as_bytes(std::span(&head, 1));
  reply->output.assign(head_bytes.begin(), head_bytes.end());
  if (!room.wanted) {
    return true;
  }
  const size_t bytes = std::min<uint64_t>(text.size(), room.bytes - 1);
  const size_t from = room.keeps_first ? 0 : text.size() - bytes;
  const auto* p = reinterpret_cast<const std::byte*>(text.data()) + from;
  reply->output.insert(reply->output.end(), p, p + bytes);
  reply->output.push_back(std::byte{0});
  return bytes == text.size();
}

// Kernel v6.18 kernel/bpf/syscall.c: bpf_prog_attach_check_attach_type; kernel/trace/bpf_trace.c:
// bpf_uprobe_multi_link_attach.
Result<void> check_attach_type(const ProgramObject& program, uint32_t type) {
  const uint32_t expected = program.expected_attach_type;
  const bool is_kprobe = program.type == BPF_PROG_TYPE_KPROBE;
  const bool is_kprobe_multi = type == kTraceKprobeMulti || type == kTraceKprobeSession;
  const auto has_own_type = [](uint32_t t) {
    return is_uprobe_multi(t) || t == kTraceKprobeMulti || t == kTraceKprobeSession;
  };
  if (is_kprobe && has_own_type(expected) && type != expected) {
    return make_error(EINVAL, "attach type is not the one that the program expects");
  }
  if (is_kprobe && is_kprobe_multi) {
    return make_error(EOPNOTSUPP, "no multi probes of the kernel");
  }
  if (is_kprobe && is_uprobe_multi(type)) {
    return type == expected ? Result<void>{}
                            : make_error(EINVAL, "the program expects another type");
  }
  if (type != BPF_PERF_EVENT || program.type == BPF_PROG_TYPE_SOCKET_FILTER) {
    return make_error(EINVAL, "attach type does not fit the program");
  }
  return {};
}

// A map as the verifier wants it.
VerifierMap describe_map(const MapObject& map, std::vector<std::vector<std::byte>>* contents) {
  VerifierMap r;
  r.id = map.id;
  r.name = map.name;
  r.map_type = map.spec.map_type;
  r.map_flags = map.spec.map_flags;
  r.key_size = map.spec.key_size;
  r.value_size = map.spec.value_size;
  r.max_entries = map.spec.max_entries;
  r.map_extra = map.map_extra;
  if (map.btf != nullptr) {
    r.btf = &map.btf->types;
    r.btf_key_type_id = map.btf_key_type_id;
    r.btf_value_type_id = map.btf_value_type_id;
  }
  // Frozen, closed to programs, and in a file that nobody can write: its bytes are constants.
  if (map.sealed && map.spec.map_type == BPF_MAP_TYPE_ARRAY && map.spec.max_entries == 1) {
    void* base = ::mmap(nullptr, map.region_bytes, PROT_READ, MAP_PRIVATE, map.sealed.get(), 0);
    if (base != MAP_FAILED) {
      auto view = open_region(static_cast<std::byte*>(base), map.region_bytes, map.spec);
      if (view) {
        contents->emplace_back(view->values, view->values + map.spec.value_size);
        r.constants = contents->back();
      }
      ::munmap(base, map.region_bytes);
    }
  }
  return r;
}

}  // namespace

Result<Reply> Session::bpf(const Caller& caller, const Request& request) {
  const BpfCall call{caller, request, TRY(attr_of(request))};
  switch (request.command) {
    case BPF_MAP_CREATE:
      return map_create(call);
    case BPF_MAP_UPDATE_ELEM:
    case BPF_MAP_DELETE_ELEM:
      return slot_command(call);
    case BPF_MAP_FREEZE:
      return map_freeze(call);
    case BPF_BTF_LOAD:
      return btf_load(call);
    case BPF_LINK_CREATE:
      return link_create(call);
    case BPF_OBJ_PIN:
      return obj_pin(call);
    case BPF_OBJ_GET:
      return obj_get(call);
    case BPF_PROG_BIND_MAP:
      return prog_bind_map(call);
    case BPF_OBJ_GET_INFO_BY_FD:
      return object_info(call);
    case BPF_PROG_GET_NEXT_ID:
      return next_id(call, ObjectKind::kProg);
    case BPF_MAP_GET_NEXT_ID:
      return next_id(call, ObjectKind::kMap);
    case BPF_BTF_GET_NEXT_ID:
      return next_id(call, ObjectKind::kBtf);
    case BPF_LINK_GET_NEXT_ID:
      return next_id(call, ObjectKind::kLink);
    case BPF_PROG_GET_FD_BY_ID:
      return fd_by_id(call, ObjectKind::kProg);
    case BPF_MAP_GET_FD_BY_ID:
      return fd_by_id(call, ObjectKind::kMap);
    case BPF_BTF_GET_FD_BY_ID:
      return fd_by_id(call, ObjectKind::kBtf);
    case BPF_LINK_GET_FD_BY_ID:
      return fd_by_id(call, ObjectKind::kLink);
    case BPF_ENABLE_STATS:
      return enable_stats(call);
    case BPF_TASK_FD_QUERY:
      return task_fd_query(call);
    case BPF_LINK_UPDATE:
      return link_update(call);
    case BPF_LINK_DETACH:
      return link_detach(call);
    default:
      return make_error(EINVAL, "no such command");
  }
}

// ---- Maps ----

Result<Reply> Session::map_create(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  auto map = std::make_shared<MapObject>();
  map->spec = TRY(check_map_spec(&attr, sizeof(attr), config_.cpu_count));
  if (map->spec.map_type == BPF_MAP_TYPE_PERF_EVENT_ARRAY) {
    // Events are of CPUs, not of lanes.
    map->spec.cpu_count = static_cast<uint32_t>(
        std::clamp<long>(::sysconf(_SC_NPROCESSORS_CONF), 1, long{map->spec.cpu_count}));
  }
  map->name = TRY(name_of(attr.map_name));
  map->map_extra = attr.map_extra;
  if (attr.btf_key_type_id != 0 || attr.btf_value_type_id != 0) {
    map->btf = TRY(object_of<BtfObject>(call.request, static_cast<int>(attr.btf_fd), EINVAL));
    map->btf_key_type_id = attr.btf_key_type_id;
    map->btf_value_type_id = attr.btf_value_type_id;
  }
  map->region_bytes = TRY(region_bytes(map->spec));
  if (map->region_bytes > config_.limits.map_bytes) {
    return make_error(ENOMEM, "map too large");
  }
  TRY(charge(map.get(), &map_bytes_, config_.limits.total_bytes, map->region_bytes));
  map->region = TRY(make_memfd(kMapName, map->region_bytes));
  TRY(seal_size(map->region.get()));
  TRY(format_file(map->region.get(), map->region_bytes, map->spec));
  return give(call.caller, map);
}

Result<Reply> Session::map_freeze(const BpfCall& call) {
  const auto map =
      TRY(object_of<MapObject>(call.request, static_cast<int>(call.attr.map_fd), EINVAL));
  if (map->frozen) {
    return make_error(EBUSY, "map is frozen already");
  }
  // The loader may keep a writable mapping of the old file: who must not see changes gets a file
  // that nobody can write. A map that programs may write stays shared, and only bpf(2) is closed to
  // it, as in the kernel.
  if ((map->spec.map_flags & BPF_F_RDONLY_PROG) != 0) {
    UniqueFd sealed = TRY(make_memfd(kMapName, map->region_bytes));
    TRY(copy_file(map->region.get(), sealed.get(), map->region_bytes));
    TRY(seal_content(sealed.get()));
    map->sealed = std::move(sealed);
  }
  map->frozen = true;
  return Reply{};
}

Result<Reply> Session::map_region(const Request& request) {
  if (request.refs.empty()) {
    return make_error(EBADF, "no map named");
  }
  if (const auto event = object_of<PerfOutputObject>(request.refs[0], EINVAL)) {
    return event_region(*event, request.args[0]);
  }
  return region_reply(*TRY(object_of<MapObject>(request.refs[0], EINVAL)), 0);
}

// ---- BTF ----

Result<Reply> Session::btf_load(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  const RequestPayload* data = call.request.payload(tag_of(attr, attr.btf));
  if (attr.btf_size > kMaxBtfBytes) {
    return make_error(E2BIG, "BTF too large");
  }
  if (data == nullptr || data->bytes.size() != attr.btf_size) {
    return make_error(EFAULT, "BTF cannot be read");
  }
  const LogRoom room = TRY(log_room(attr.btf_log_level, attr.btf_log_size, attr.btf_log_buf,
                                    call.request.payload(tag_of(attr, attr.btf_log_buf))));
  auto types = Btf::parse(data->bytes);
  if (!types) {
    Reply reply;
    reply.value = -int64_t{types.error().code};
    put_log(room, std::string(types.error().why) + "\n", &reply);
    return reply;
  }
  auto btf = std::make_shared<BtfObject>(std::move(types).value());
  TRY(charge(btf.get(), &btf_bytes_, config_.limits.btf_bytes, data->bytes.size()));
  Reply reply = TRY(give(call.caller, btf));
  put_log(room, "", &reply);
  return reply;
}

// ---- Programs ----

void Session::prog_load(const Caller& caller, Request&& request, Answer answer_to) {
  std::string log_text;
  LogRoom room;
  const auto refuse = [&](const Error& error) {
    Reply reply;
    reply.value = -int64_t{error.code};
    put_log(room, log_text, &reply);
    answer_to(std::move(reply));
  };
  auto program = std::make_shared<ProgramObject>();
  auto task = std::make_shared<ProgramTask>();
  // Everything up to the verifier, in the kernel's order.
  const auto prepare = [&]() -> Result<void> {
    const bpf_attr attr = TRY(attr_of(request));
    if ((attr.prog_flags & ~kKnownLoadFlags) != 0) {
      return make_error(EINVAL, "unknown prog_flags");
    }
    const RequestPayload* license = request.payload(tag_of(attr, attr.license));
    if (license == nullptr) {
      return make_error(EFAULT, "license cannot be read");
    }
    if (attr.insn_cnt == 0 || attr.insn_cnt > kMaxInsns) {
      return make_error(E2BIG, "too few or too many instructions");
    }
    switch (attr.prog_type) {
      case BPF_PROG_TYPE_SOCKET_FILTER:
      case BPF_PROG_TYPE_KPROBE:
      case BPF_PROG_TYPE_TRACEPOINT:
      case BPF_PROG_TYPE_PERF_EVENT:
      case BPF_PROG_TYPE_RAW_TRACEPOINT:
        break;
      default:
        return make_error(EINVAL, "program type is not supported");
    }
    program->type = attr.prog_type;
    program->expected_attach_type = attr.expected_attach_type;
    program->name = TRY(name_of(attr.prog_name));
    const auto* text = reinterpret_cast<const char*>(license->bytes.data());
    program->license.assign(text, ::strnlen(text, std::min<size_t>(license->bytes.size(), 127)));
    if (attr.prog_btf_fd != 0) {
      auto btf = object_of<BtfObject>(request, static_cast<int>(attr.prog_btf_fd), EINVAL);
      if (btf) {
        program->btf = std::move(btf).value();
      } else if (attr.func_info_cnt != 0 || attr.line_info_cnt != 0) {
        return btf.error();
      }
    }
    const RequestPayload* insns = request.payload(tag_of(attr, attr.insns));
    if (insns == nullptr || insns->bytes.size() != attr.insn_cnt * sizeof(bpf_insn)) {
      return make_error(EFAULT, "instructions cannot be read");
    }
    room = TRY(log_room(attr.log_level, attr.log_size, attr.log_buf,
                        request.payload(tag_of(attr, attr.log_buf))));
    std::vector<int> fd_array;
    if (const RequestPayload* fds = request.payload(tag_of(attr, attr.fd_array))) {
      fd_array.resize(fds->bytes.size() / sizeof(int));
      if (!fd_array.empty()) {
        std::memcpy(fd_array.data(), fds->bytes.data(), fd_array.size() * sizeof(int));
      }
    }
    LinkedProgram linked = TRY(link_program(
        insns->bytes, fd_array, [&](int fd) { return object_of<MapObject>(request, fd, EINVAL); },
        &log_text));
    program->insn_count = attr.insn_cnt;
    program->uid = caller.uid;
    program->tag = tag_of_program(insns->bytes);
    const auto shown = std::as_bytes(std::span(linked.program.insns));
    program->insns.assign(shown.begin(), shown.end());
    if (program->btf != nullptr) {
      program->func_info = TRY(records_of(request, tag_of(attr, attr.func_info), attr.func_info_cnt,
                                          attr.func_info_rec_size, sizeof(bpf_func_info)));
      program->line_info = TRY(records_of(request, tag_of(attr, attr.line_info), attr.line_info_cnt,
                                          attr.line_info_rec_size, sizeof(bpf_line_info)));
    }
    for (const auto& map : linked.maps) {
      if (map->spec.map_type == BPF_MAP_TYPE_PROG_ARRAY && !fits_in(*map, *program)) {
        return make_error(EINVAL, "an array of programs of another kind");
      }
    }
    program->maps = std::move(linked.maps);
    task->program = std::move(linked.program);
    task->prog_type = attr.prog_type;
    task->expected_attach_type = attr.expected_attach_type;
    task->prog_flags = attr.prog_flags;
    task->btf = program->btf != nullptr ? &program->btf->types : nullptr;
    task->func_info = program->func_info;
    task->line_info = program->line_info;
    task->log_level = attr.log_level;
    task->log_bytes = kMostLogBytes;
    task->let_through = caller.unverified;
    task->verifier = program->verifier = caller.verifier;
    for (const auto& map : program->maps) {
      task->maps.push_back(describe_map(*map, &task->contents));
    }
    return {};
  };
  auto prepared = prepare();
  if (!prepared) {
    if (log_text.empty()) {
      log_text = std::string(prepared.error().why) + "\n";
    }
    refuse(prepared.error());
    return;
  }
  size_t& pending = pending_[caller.key];
  if (pending >= config_.limits.pending_of_one) {
    refuse(make_error(EAGAIN, "too many programs at once"));
    return;
  }
  pending++;
  compiler_->compile(task, [this, caller, program, room,
                            answer_to = std::move(answer_to)](Result<ProgramAnswer> answer) {
    const auto it = pending_.find(caller.key);
    if (it != pending_.end() && --it->second == 0) {
      pending_.erase(it);
    }
    std::string text = answer ? std::move(answer->judgement.log) : std::string();
    const auto install = [&]() -> Result<Reply> {
      if (!answer) {
        return answer.error();
      }
      const Judgement& judgement = answer->judgement;
      if (answer->compile_error != 0) {
        return make_error(answer->compile_error, "the engine cannot run it");
      }
      if (answer->compiled.code.empty()) {
        return make_error(judgement.error != 0 ? judgement.error : EPROTO, "the verifier says no");
      }
      program->verified = judgement.error == 0;
      program->compiled = std::move(answer->compiled);
      const auto& code = program->compiled.code;
      TRY(charge(program.get(), &code_bytes_, config_.limits.code_bytes, code.size()));
      program->code = TRY(make_memfd(kCodeName, (code.size() + 4095) & ~4095ULL));
      TRY(write_all(program->code.get(), code, 0));
      TRY(seal_content(program->code.get()));
      program->load_time_ns = since_boot_ns();
      for (const auto& map : program->maps) {
        if (map->spec.map_type == BPF_MAP_TYPE_PROG_ARRAY) {
          map->callers = ProgramKind{program->type, program->expected_attach_type};
        }
      }
      return give(caller, program);
    };
    auto installed = install();
    Reply reply;
    if (!installed) {
      const Error& error = installed.error();
      log("program " + program->name + " of process " + std::to_string(caller.pid) +
          " refused: " + error.why);
      // What the engine cannot run is, to the loader, what an older kernel cannot.
      const int code = error.code == EOPNOTSUPP || error.code == EPROTO ? EINVAL : error.code;
      reply.value = -int64_t{code};
      if (text.empty()) {
        text = std::string(error.why) + "\n";
      }
    } else {
      reply = std::move(installed).value();
      if (!program->verified) {
        log("program " + program->name + " is not verified");
        text = "program " + program->name + " is not verified\n" + text;
      }
    }
    if (!put_log(room, text, &reply)) {
      reply.fd.reset();
      reply.object = ObjectKind::kNone;
      reply.value = -int64_t{ENOSPC};
    }
    answer_to(std::move(reply));
  });
}

Result<Reply> Session::prog_bind_map(const BpfCall& call) {
  const auto& bind = call.attr.prog_bind_map;
  if (bind.flags != 0) {
    return make_error(EINVAL, "unknown flags");
  }
  const auto program =
      TRY(object_of<ProgramObject>(call.request, static_cast<int>(bind.prog_fd), EINVAL));
  const auto map = TRY(object_of<MapObject>(call.request, static_cast<int>(bind.map_fd), EINVAL));
  if (std::find(program->maps.begin(), program->maps.end(), map) == program->maps.end()) {
    if (program->maps.size() >= config_.limits.references_of_one) {
      return make_error(E2BIG, "too many maps");
    }
    program->maps.push_back(map);
  }
  return Reply{};
}

// ---- Links ----

Result<Reply> Session::link_create(const BpfCall& call) {
  const auto& create = call.attr.link_create;
  const auto program =
      TRY(object_of<ProgramObject>(call.request, static_cast<int>(create.prog_fd), EINVAL));
  TRY(check_attach_type(*program, create.attach_type));
  if (is_uprobe_multi(create.attach_type)) {
    return link_create_multi(call, program);
  }
  if (create.flags != 0) {
    return make_error(EINVAL, "unknown flags");
  }
  const auto event =
      TRY(object_of<PerfEventObject>(call.request, static_cast<int>(create.target_fd), EBADF));
  auto link = std::make_shared<LinkObject>();
  objects_.name(link);
  link->program = program;
  link->event = event;
  TRY(set_program(call.caller, event, program, LinkId{link->id}, create.perf_event.bpf_cookie));
  auto reply = give(call.caller, link);
  if (!reply) {
    sync_soon();
  }
  return reply;
}

// Kernel v6.18 kernel/bpf/syscall.c: link_update, link_detach: a link of a perf event can be neither updated nor
// detached but by its last close.
Result<Reply> Session::link_update(const BpfCall& call) {
  const auto& update = call.attr.link_update;
  if ((update.flags & ~uint32_t{BPF_F_REPLACE}) != 0) {
    return make_error(EINVAL, "unknown flags");
  }
  TRY(object_of<LinkObject>(call.request, static_cast<int>(update.link_fd), EINVAL));
  TRY(object_of<ProgramObject>(call.request, static_cast<int>(update.new_prog_fd), EINVAL));
  if ((update.flags & BPF_F_REPLACE) != 0) {
    TRY(object_of<ProgramObject>(call.request, static_cast<int>(update.old_prog_fd), EINVAL));
  }
  return make_error(EINVAL, "links of events keep their program");
}

Result<Reply> Session::link_detach(const BpfCall& call) {
  TRY(object_of<LinkObject>(call.request, static_cast<int>(call.attr.link_detach.link_fd), EINVAL));
  return make_error(EOPNOTSUPP, "links of events are detached by closing them");
}

// ---- A program run without a probe ----

// Kernel v6.18 kernel/bpf/syscall.c: bpf_prog_test_run; net/bpf/test_run.c: bpf_prog_test_run_raw_tp.
void Session::prog_test_run(const Caller& caller, const Request& request, const Answer& answer_to) {
  const auto refuse = [answer_to](const Error& error) {
    Reply reply;
    reply.value = -int64_t{error.code};
    answer_to(std::move(reply));
  };
  TestRun run;
  uint32_t room_of_data = 0, room_of_context = 0;
  const auto check = [&]() -> Result<void> {
    const bpf_attr attr = TRY(attr_of(request));
    const auto& test = attr.test;
    if ((test.ctx_size_in != 0) != (test.ctx_in != 0) ||
        (test.ctx_size_out != 0) != (test.ctx_out != 0)) {
      return make_error(EINVAL, "a context without a size, or the other way round");
    }
    run.program = TRY(object_of<ProgramObject>(request, static_cast<int>(test.prog_fd), EINVAL));
    if (run.program->type != BPF_PROG_TYPE_RAW_TRACEPOINT) {
      return make_error(kKernelEnotsupp, "programs of this type are not run without their probe");
    }
    if (test.data_in != 0 || test.data_out != 0 || test.ctx_out != 0 || test.duration != 0 ||
        test.repeat != 0 || test.batch_size != 0) {
      return make_error(EINVAL, "raw tracepoints have no data");
    }
    constexpr uint32_t kMostContext = 12 * sizeof(uint64_t);  // kernel: MAX_BPF_FUNC_ARGS
    if (test.ctx_size_in > kMostContext) {
      return make_error(EINVAL, "context too large");
    }
    if ((test.flags & BPF_F_TEST_RUN_ON_CPU) == 0 && test.cpu != 0) {
      return make_error(EINVAL, "a CPU without the flag that asks for it");
    }
    if ((test.flags & BPF_F_TEST_RUN_ON_CPU) != 0) {
      if (test.cpu >= static_cast<uint32_t>(::sysconf(_SC_NPROCESSORS_CONF))) {
        return make_error(ENXIO, "no such CPU");
      }
      run.cpu = static_cast<int>(test.cpu);
    }
    if (const RequestPayload* context = request.payload(tag_of(attr, attr.test.ctx_in))) {
      run.context = context->bytes;
    }
    room_of_data = test.data_size_out;
    room_of_context = test.ctx_size_out;
    return {};
  };
  if (const auto checked = check(); !checked) {
    refuse(checked.error());
    return;
  }
  run.owner = OwnerId{next_test_owner_++};
  run.caller = caller.pid;
  const std::string name = run.program->name;
  auto started = test_runner_.start(run, [this, answer_to, refuse, name, room_of_data,
                                          room_of_context](const Result<uint32_t>& returned) {
    if (!returned) {
      log("test run of program " + name + ": " + returned.error().why);
      refuse(returned.error());
      return;
    }
    TestRunOutput output{};
    output.retval = *returned;
    output.data_size = room_of_data;
    output.ctx_size = room_of_context;
    Reply reply;
    const auto bytes = std::as_bytes(std::span(&output, 1));
    reply.output.assign(bytes.begin(), bytes.end());
    answer_to(std::move(reply));
  });
  if (!started) {
    refuse(started.error());
  }
}

}  // namespace bpftime
