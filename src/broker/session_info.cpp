// Ids and descriptions: *_GET_NEXT_ID, *_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD, TASK_FD_QUERY. What a caller gets is cut to
// what it has room for, and the counts that it reads back tell how much there is (kernel v6.18 kernel/bpf/syscall.c:
// bpf_prog_get_info_by_fd and its neighbours).
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>

#include "broker/bpf_call.hpp"
#include "spec/newer.hpp"

namespace bpftime {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// The info that goes back, and what its pointers name.
class InfoAnswer {
 public:
  explicit InfoAnswer(const RequestPayload* given) : given_(given) {}

  // The caller's own bytes: its pointers and counts.
  template <class T>
  void read(T* info) const {
    if (given_ != nullptr) {
      std::memcpy(info, given_->bytes.data(), std::min(sizeof(T), given_->bytes.size()));
    }
  }
  // Writes to `address`, at most `room` bytes of it.
  void write(uint64_t address, std::span<const std::byte> bytes, uint64_t room) {
    const auto part = bytes.first(std::min<uint64_t>(bytes.size(), room));
    if (!part.empty()) {
      const InfoPiece piece{address, part.size()};
      add(&pieces_, bytes_of(piece));
      add(&pieces_, part);
      count_++;
    }
  }
  // An array of records that is as large as the caller's count says: *count becomes how many there are.
  template <class T>
  void write_array(uint64_t address, uint32_t* count, std::span<const T> items) {
    write(address, std::as_bytes(items), static_cast<uint64_t>(*count) * sizeof(T));
    *count = static_cast<uint32_t>(items.size());
  }
  Reply finish(std::span<const std::byte> info) const {
    const InfoOutput head{static_cast<uint32_t>(info.size()), count_};
    Reply reply;
    add(&reply.output, bytes_of(head));
    add(&reply.output, info);
    reply.output.insert(reply.output.end(), pieces_.begin(), pieces_.end());
    return reply;
  }

 private:
  static void add(std::vector<std::byte>* to, std::span<const std::byte> bytes) {
    to->insert(to->end(), bytes.begin(), bytes.end());
    to->resize((to->size() + 7) & ~size_t{7});
  }
  const RequestPayload* given_;
  std::vector<std::byte> pieces_;
  uint32_t count_ = 0;
};

bpf_map_info info_of(const MapObject& map) {
  bpf_map_info info{};
  info.type = map.spec.map_type;
  info.id = map.id;
  info.key_size = map.spec.key_size;
  info.value_size = map.spec.value_size;
  info.max_entries = map.spec.max_entries;
  info.map_flags = map.spec.map_flags;
  info.map_extra = map.map_extra;
  info.btf_id = map.btf == nullptr ? 0 : map.btf->id;
  info.btf_key_type_id = map.btf_key_type_id;
  info.btf_value_type_id = map.btf_value_type_id;
  copy_name(info.name, map.name);
  return info;
}

// Where a caller asks for records it may say how large it takes them to be.
bool is_record_size(uint32_t count, uint32_t size, size_t known) {
  return (count == 0 && size == 0) || size == known;
}

// Errors: EINVAL a record size that is not ours.
Result<bpf_prog_info> info_of(const ProgramObject& program, const RunTotals& runs,
                              InfoAnswer* answer) {
  bpf_prog_info info{};
  answer->read(&info);
  info.type = program.type;
  info.id = program.id;
  std::memcpy(info.tag, &program.tag, sizeof(info.tag));
  info.load_time = program.load_time_ns;
  info.created_by_uid = program.uid;
  info.ifindex = 0;
  info.netns_dev = 0;
  info.netns_ino = 0;
  info.gpl_compatible = is_gpl_compatible(program.license) ? 1 : 0;
  copy_name(info.name, program.name);
  std::vector<uint32_t> map_ids;
  for (const auto& map : program.maps) {
    map_ids.push_back(map->id);
  }
  answer->write_array<uint32_t>(info.map_ids, &info.nr_map_ids, map_ids);
  // kernel: set_info_rec_size
  if (!is_record_size(info.nr_func_info, info.func_info_rec_size, sizeof(bpf_func_info)) ||
      !is_record_size(info.nr_line_info, info.line_info_rec_size, sizeof(bpf_line_info)) ||
      !is_record_size(info.nr_jited_line_info, info.jited_line_info_rec_size, sizeof(uint64_t))) {
    return make_error(EINVAL, "records are of another size");
  }
  info.func_info_rec_size = sizeof(bpf_func_info);
  info.line_info_rec_size = sizeof(bpf_line_info);
  info.jited_line_info_rec_size = sizeof(uint64_t);
  info.run_time_ns = runs.ns;
  info.run_cnt = runs.count;
  info.recursion_misses = runs.missed;
  info.verified_insns = program.insn_count;
  info.btf_id = program.btf == nullptr ? 0 : program.btf->id;
  info.attach_btf_obj_id = 0;
  info.attach_btf_id = 0;
  answer->write(info.xlated_prog_insns, program.insns, info.xlated_prog_len);
  info.xlated_prog_len = static_cast<uint32_t>(program.insns.size());
  const std::vector<std::byte>& code = program.compiled.code;
  answer->write(info.jited_prog_insns, code, info.jited_prog_len);
  info.jited_prog_len = static_cast<uint32_t>(code.size());
  // Code has another address in each target, so the one that is given is none; it is one piece.
  const uint64_t address = 0;
  const auto length = static_cast<uint32_t>(code.size());
  answer->write_array<uint64_t>(info.jited_ksyms, &info.nr_jited_ksyms, std::span(&address, 1));
  answer->write_array<uint32_t>(info.jited_func_lens, &info.nr_jited_func_lens,
                                std::span(&length, 1));
  answer->write(info.func_info, program.func_info,
                uint64_t{info.nr_func_info} * sizeof(bpf_func_info));
  info.nr_func_info = static_cast<uint32_t>(program.func_info.size() / sizeof(bpf_func_info));
  answer->write(info.line_info, program.line_info,
                uint64_t{info.nr_line_info} * sizeof(bpf_line_info));
  info.nr_line_info = static_cast<uint32_t>(program.line_info.size() / sizeof(bpf_line_info));
  info.nr_jited_line_info = 0;
  answer->write(info.prog_tags, bytes_of(program.tag), uint64_t{info.nr_prog_tags} * 8);
  info.nr_prog_tags = 1;
  return info;
}

// The info of a uprobe_multi link; *error: ENOSPC where arrays are cut, which are written all the same. Kernel v6.18
// kernel/trace/bpf_trace.c: bpf_uprobe_multi_link_fill_link_info.
// Errors: EINVAL a room without a size, ENAMETOOLONG too small for the path.
Result<UprobeMultiInfo> info_of(const LinkObject& link, const UprobePlaces& all, InfoAnswer* answer,
                                int* error) {
  UprobeMultiInfo info{};
  answer->read(&info);
  const bool wants_arrays = info.offsets != 0 || info.ref_ctr_offsets != 0 || info.cookies != 0;
  const uint32_t room = info.count;
  if ((info.path == 0) != (info.path_bytes == 0) || (wants_arrays && room == 0)) {
    return make_error(EINVAL, "a room without a size");
  }
  const std::string path = all.path + '\0';
  if (info.path_bytes != 0 && info.path_bytes < path.size()) {
    return make_error(ENAMETOOLONG, "no room for the path");
  }
  if (info.path != 0) {
    answer->write(info.path, std::as_bytes(std::span(path)), info.path_bytes);
  }
  const auto column = [&](uint64_t address, uint64_t UprobePlaces::Place::* field) {
    std::vector<uint64_t> words;
    for (const UprobePlaces::Place& place : all.places) {
      words.push_back(place.*field);
    }
    if (address != 0) {
      answer->write(address, std::as_bytes(std::span(words)), uint64_t{room} * sizeof(uint64_t));
    }
  };
  column(info.offsets, &UprobePlaces::Place::offset);
  column(info.ref_ctr_offsets, &UprobePlaces::Place::semaphore_offset);
  column(info.cookies, &UprobePlaces::Place::cookie);
  *error = wants_arrays && room < all.places.size() ? ENOSPC : 0;
  info.type = kLinkUprobeMulti;
  info.id = link.id;
  info.prog_id = link.program->id;
  info.path_bytes = static_cast<uint32_t>(path.size());
  info.count = static_cast<uint32_t>(all.places.size());
  info.flags = all.is_return ? kUprobeMultiReturn : 0;
  info.pid = all.pid > 0 ? static_cast<uint32_t>(all.pid) : 0;
  return info;
}

// Errors: EINVAL a room without a size or the other way round, ENOSPC too small (what fits is written).
Result<LinkInfo> info_of(const LinkObject& link, InfoAnswer* answer) {
  LinkInfo info{};
  answer->read(&info);
  info.type = BPF_LINK_TYPE_PERF_EVENT;
  info.id = link.id;
  info.prog_id = link.program->id;
  if (link.event == nullptr) {
    return info;
  }
  // kernel: bpf_perf_link_fill_link_info, bpf_perf_link_fill_common
  const PerfEventObject& event = *link.event;
  auto& uprobe = info.uprobe;
  if ((uprobe.file_name == 0) != (uprobe.name_bytes == 0)) {
    return make_error(EINVAL, "a room for the name without a size");
  }
  const std::string name = event.path + '\0';
  const uint32_t room = uprobe.name_bytes;
  if (room != 0 && room < name.size()) {
    return make_error(ENOSPC, "no room for the name");
  }
  answer->write(uprobe.file_name, std::as_bytes(std::span(name)), room);
  info.perf_event_type = event.is_return ? kPerfEventUretprobe : kPerfEventUprobe;
  info.reserved = 0;
  uprobe.name_bytes = static_cast<uint32_t>(name.size());
  uprobe.offset = static_cast<uint32_t>(event.file_offset);
  uprobe.cookie = event.cookie;
  uprobe.ref_ctr_offset = event.semaphore_offset;
  return info;
}

bpf_btf_info info_of(const BtfObject& btf, InfoAnswer* answer) {
  bpf_btf_info info{};
  answer->read(&info);
  info.id = btf.id;
  answer->write(info.btf, btf.types.bytes(), info.btf_size);
  info.btf_size = static_cast<uint32_t>(btf.types.bytes().size());
  if (info.name != 0 && info.name_len != 0) {
    answer->write(info.name, bytes_of('\0'), 1);
  }
  info.name_len = 0;
  info.kernel_btf = 0;
  return info;
}

}  // namespace

bool is_gpl_compatible(const std::string& license) {
  for (const char* one : {"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL",
                          "Dual MIT/GPL", "Dual MPL/GPL"}) {
    if (license == one) {
      return true;
    }
  }
  return false;
}

Result<Reply> Session::next_id(const BpfCall& call, ObjectKind kind) {
  if (call.attr.start_id >= INT32_MAX) {
    return make_error(EINVAL, "no such id");
  }
  objects_.collect_ended();
  const uint32_t id = objects_.next_id(kind, call.attr.start_id);
  if (id == 0) {
    return make_error(ENOENT, "no more");
  }
  Reply reply;
  const auto bytes = bytes_of(id);
  reply.output.assign(bytes.begin(), bytes.end());
  return reply;
}

Result<Reply> Session::fd_by_id(const BpfCall& call, ObjectKind kind) {
  const auto object = objects_.find(kind, call.attr.map_id);
  if (object == nullptr) {
    return make_error(ENOENT, "no such id");
  }
  return give(call.caller, object);
}

Result<Reply> Session::object_info(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  const ObjectRef* ref = call.request.ref(static_cast<int>(attr.info.bpf_fd));
  if (ref == nullptr) {
    return make_error(EBADF, "no such fd");
  }
  const auto object = ref->inode == 0 ? nullptr : objects_.find(ref->device, ref->inode);
  if (object == nullptr) {
    return make_error(EINVAL, "fd is no bpf object");
  }
  const RequestPayload* given = call.request.payload(tag_of(attr, attr.info.info));
  // Kernel: bpf_check_uarg_tail_zero.
  const auto check_tail = [&](size_t known) -> Result<void> {
    if (attr.info.info_len > 4096 || (given != nullptr && given->bytes.size() > known &&
                                      !is_zero(std::span(given->bytes).subspan(known)))) {
      return make_error(E2BIG, "info has fields that nobody knows");
    }
    return {};
  };
  InfoAnswer answer(given);
  const auto finish = [&](const auto& info) {
    return answer.finish(bytes_of(info).first(std::min<size_t>(sizeof(info), attr.info.info_len)));
  };
  switch (object->kind) {
    case ObjectKind::kMap:
      TRY(check_tail(sizeof(bpf_map_info)));
      return finish(info_of(static_cast<const MapObject&>(*object)));
    case ObjectKind::kProg:
      TRY(check_tail(sizeof(bpf_prog_info)));
      return finish(
          TRY(info_of(static_cast<const ProgramObject&>(*object), runs_of(object->id), &answer)));
    case ObjectKind::kLink: {
      TRY(check_tail(sizeof(LinkInfo)));
      const auto& link = static_cast<const LinkObject&>(*object);
      if (link.uprobes == nullptr) {
        return finish(TRY(info_of(link, &answer)));
      }
      int error = 0;
      Reply reply = finish(TRY(info_of(link, *link.uprobes, &answer, &error)));
      reply.value = -error;
      return reply;
    }
    case ObjectKind::kBtf:
      TRY(check_tail(sizeof(bpf_btf_info)));
      return finish(info_of(static_cast<const BtfObject&>(*object), &answer));
    default:
      return make_error(EINVAL, "fd is no bpf object");
  }
}

RunTotals Session::runs_of(uint32_t program) {
  RunTotals sum;
  if (targets_ == nullptr) {
    return sum;
  }
  const auto runs = targets_->runs();
  const auto add = [&](const ProgramObject* runner, LinkId link) {
    const auto totals = runs.find(link);
    if (runner != nullptr && runner->id == program && totals != runs.end()) {
      sum.count += totals->second.count;
      sum.ns += totals->second.ns;
      sum.missed += totals->second.missed;
    }
  };
  for (const auto& event : objects_.all<PerfEventObject>()) {
    add(event->program.get(), event->attachment);
  }
  for (const auto& link : objects_.all<LinkObject>()) {
    if (link->uprobes != nullptr) {
      add(link->program.get(), LinkId{link->id});
    }
  }
  return sum;
}

// Kernel v6.18 kernel/bpf/syscall.c: bpf_enable_stats.
Result<Reply> Session::enable_stats(const BpfCall& call) {
  if (call.attr.enable_stats.type != BPF_STATS_RUN_TIME) {
    return make_error(EINVAL, "no such statistics");
  }
  Reply reply = TRY(give(call.caller, std::make_shared<StatsObject>()));
  if (targets_ != nullptr) {
    TRY(targets_->sync(nullptr));
  }
  return reply;
}

// Kernel v6.18 kernel/bpf/syscall.c: bpf_task_fd_query.
Result<Reply> Session::task_fd_query(const BpfCall& call) {
  const auto& query = call.attr.task_fd_query;
  if (query.flags != 0) {
    return make_error(EINVAL, "unknown flags");
  }
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%u", query.pid);
  struct stat st{};
  if (::stat(path, &st) != 0) {
    return make_error(ENOENT, "no such process");
  }
  std::snprintf(path, sizeof(path), "/proc/%u/fd/%u", query.pid, query.fd);
  if (::stat(path, &st) != 0) {
    return make_error(errno == EACCES ? EPERM : EBADF, "not open there");
  }
  const auto object = objects_.find(st.st_dev, st.st_ino);
  if (object == nullptr || object->kind != ObjectKind::kPerf) {
    return make_error(kKernelEnotsupp, "not an event");
  }
  const auto& event = static_cast<const PerfEventObject&>(*object);
  if (event.program == nullptr) {
    return make_error(ENOENT, "the event has no program");
  }
  const TaskFdOutput about{
      event.program->id,
      static_cast<uint32_t>(event.is_return ? BPF_FD_TYPE_URETPROBE : BPF_FD_TYPE_UPROBE),
      event.file_offset, 0};
  Reply reply;
  for (const auto part : {bytes_of(about), std::as_bytes(std::span(event.path))}) {
    reply.output.insert(reply.output.end(), part.begin(), part.end());
  }
  if (query.buf != 0 && query.buf_len != 0 && query.buf_len < event.path.size() + 1) {
    reply.value = -ENOSPC;
  }
  return reply;
}

}  // namespace bpftime
