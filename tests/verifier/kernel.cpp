#include "tests/verifier/kernel.hpp"

#include <linux/capability.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "base/raw_syscall.hpp"
#include "spec/newer.hpp"

namespace bpftime::testing {
namespace {

long bpf(int command, bpf_attr* attr) {
  return raw_syscall(SYS_bpf, static_cast<uint64_t>(command), reinterpret_cast<uint64_t>(attr),
                     sizeof(*attr));
}
bpf_attr empty_attr() {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  return attr;
}
void copy_name(char (&to)[BPF_OBJ_NAME_LEN], const std::string& from) {
  for (size_t i = 0; i + 1 < sizeof(to) && i < from.size(); ++i) {
    const char c = from[i];
    const bool good = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
    to[i] = good ? c : '_';
  }
}
Error error_of(long result, const char* why) { return make_error(static_cast<int>(-result), why); }
// This thread without CAP_PERFMON and CAP_SYS_ADMIN for a while.
class WithoutPerfmon {
 public:
  WithoutPerfmon() {
    raw_syscall(SYS_capget, reinterpret_cast<uint64_t>(&head_), reinterpret_cast<uint64_t>(had_));
    __user_cap_data_struct less[2] = {had_[0], had_[1]};
    less[0].effective &= ~(1U << CAP_SYS_ADMIN);
    less[1].effective &= ~(1U << (CAP_PERFMON - 32));
    raw_syscall(SYS_capset, reinterpret_cast<uint64_t>(&head_), reinterpret_cast<uint64_t>(less));
  }
  ~WithoutPerfmon() {
    raw_syscall(SYS_capset, reinterpret_cast<uint64_t>(&head_), reinterpret_cast<uint64_t>(had_));
  }
  WithoutPerfmon(const WithoutPerfmon&) = delete;
  WithoutPerfmon& operator=(const WithoutPerfmon&) = delete;

 private:
  __user_cap_header_struct head_ = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct had_[2] = {};
};

uint64_t number_after(const std::string& text, std::string_view mark) {
  const size_t at = text.rfind(mark);
  return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + mark.size(), nullptr, 10);
}
std::string last_message(const std::string& log) {
  std::string last, line;
  for (size_t at = 0; at < log.size(); at += line.size() + 1) {
    line = log.substr(at, log.find('\n', at) - at);
    if (!line.empty() && !line.starts_with("processed ") && !line.starts_with("verification ") &&
        !line.starts_with("stack depth ")) {
      last = line;
    }
  }
  return last;
}

}  // namespace

bool KernelOracle::is_available() {
  BpfObject none;
  ObjectProgram program;
  program.prog_type = BPF_PROG_TYPE_KPROBE;
  program.insns.resize(2);
  program.insns[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  program.insns[1].code = BPF_JMP | BPF_EXIT;
  auto oracle = make(none);
  return oracle && oracle->load(program, 0).error == 0;
}

Result<KernelOracle> KernelOracle::make(const BpfObject& object) {
  KernelOracle oracle;
  oracle.object_ = &object;
  if (!object.btf.empty()) {
    bpf_attr attr = empty_attr();
    attr.btf = reinterpret_cast<uint64_t>(object.btf.data());
    attr.btf_size = static_cast<uint32_t>(object.btf.size());
    const long fd = bpf(BPF_BTF_LOAD, &attr);
    if (fd < 0) {
      return error_of(fd, "BPF_BTF_LOAD");
    }
    oracle.btf_.reset(static_cast<int>(fd));
  }
  // An inner map stands behind its outer one, or before: inner ones first.
  oracle.maps_.resize(object.maps.size());
  for (const bool with_inner : {false, true}) {
    for (const ObjectMap& map : object.maps) {
      if ((map.inner >= 0) == with_inner) {
        TRY(oracle.create_map(map));
      }
    }
  }
  return oracle;
}

Result<void> KernelOracle::create_map(const ObjectMap& map) {
  const auto index = static_cast<size_t>(&map - object_->maps.data());
  bpf_attr attr = empty_attr();
  attr.map_type = map.map_type;
  attr.map_flags = map.map_flags;
  attr.key_size = map.key_size;
  attr.value_size = map.value_size;
  // A tool sets what its object leaves at 0.
  attr.max_entries = map.max_entries != 0 || map.map_type == BPF_MAP_TYPE_SK_STORAGE ||
                             map.map_type == BPF_MAP_TYPE_TASK_STORAGE ||
                             map.map_type == BPF_MAP_TYPE_INODE_STORAGE ||
                             map.map_type == kMapCgrpStorage
                         ? map.max_entries
                         : 1;
  attr.map_extra = map.map_extra;
  copy_name(attr.map_name, map.name);
  if (btf_ && map.btf_value_type_id != 0) {
    attr.btf_fd = static_cast<uint32_t>(btf_.get());
    attr.btf_key_type_id = map.btf_key_type_id;
    attr.btf_value_type_id = map.btf_value_type_id;
  }
  if (map.inner >= 0) {
    attr.inner_map_fd = static_cast<uint32_t>(maps_[static_cast<size_t>(map.inner)].get());
  }
  long fd = bpf(BPF_MAP_CREATE, &attr);
  if (fd < 0 && attr.btf_fd != 0) {  // kinds that take no types
    attr.btf_fd = attr.btf_key_type_id = attr.btf_value_type_id = 0;
    fd = bpf(BPF_MAP_CREATE, &attr);
  }
  if (fd < 0) {
    return error_of(fd, "BPF_MAP_CREATE");
  }
  maps_[index].reset(static_cast<int>(fd));
  if (!map.content.empty()) {
    const uint32_t zero = 0;
    attr = empty_attr();
    attr.map_fd = static_cast<uint32_t>(fd);
    attr.key = reinterpret_cast<uint64_t>(&zero);
    attr.value = reinterpret_cast<uint64_t>(map.content.data());
    if (const long result = bpf(BPF_MAP_UPDATE_ELEM, &attr); result < 0) {
      return error_of(result, "BPF_MAP_UPDATE_ELEM");
    }
  }
  if (map.is_frozen) {
    attr = empty_attr();
    attr.map_fd = static_cast<uint32_t>(fd);
    if (const long result = bpf(BPF_MAP_FREEZE, &attr); result < 0) {
      return error_of(result, "BPF_MAP_FREEZE");
    }
  }
  return {};
}

long KernelOracle::load_with(const ObjectProgram& program, uint32_t log_level,
                             std::span<char> log) {
  std::vector<bpf_insn> insns = program.insns;
  for (size_t i = 0; i < insns.size(); ++i) {
    if (insns[i].code != (BPF_LD | BPF_IMM | BPF_DW)) {
      continue;
    }
    const bool is_map =
        insns[i].src_reg == BPF_PSEUDO_MAP_FD || insns[i].src_reg == BPF_PSEUDO_MAP_VALUE;
    if (is_map && static_cast<size_t>(insns[i].imm) < maps_.size()) {
      insns[i].imm = maps_[static_cast<size_t>(insns[i].imm)].get();
    }
    ++i;
  }
  bpf_attr attr = empty_attr();
  attr.prog_type = program.prog_type;
  attr.expected_attach_type = program.expected_attach_type;
  attr.attach_btf_id = program.attach_btf_id;
  attr.prog_flags = program.prog_flags;
  attr.kern_version = program.kern_version;
  attr.insns = reinterpret_cast<uint64_t>(insns.data());
  attr.insn_cnt = static_cast<uint32_t>(insns.size());
  attr.license = reinterpret_cast<uint64_t>("GPL");
  copy_name(attr.prog_name, program.name);
  if (btf_) {
    attr.prog_btf_fd = static_cast<uint32_t>(btf_.get());
    if (!program.functions.empty()) {
      attr.func_info = reinterpret_cast<uint64_t>(program.functions.data());
      attr.func_info_cnt = static_cast<uint32_t>(program.functions.size());
      attr.func_info_rec_size = sizeof(bpf_func_info);
    }
    if (!program.lines.empty()) {
      attr.line_info = reinterpret_cast<uint64_t>(program.lines.data());
      attr.line_info_cnt = static_cast<uint32_t>(program.lines.size());
      attr.line_info_rec_size = sizeof(bpf_line_info);
    }
  }
  if (log_level != 0) {
    attr.log_level = log_level;
    attr.log_buf = reinterpret_cast<uint64_t>(log.data());
    attr.log_size = static_cast<uint32_t>(log.size());
  }
  return bpf(BPF_PROG_LOAD, &attr);
}

KernelVerdict KernelOracle::load(const ObjectProgram& program, uint32_t log_level,
                                 bool no_pointer_leaks) {
  KernelVerdict verdict;
  const size_t room = log_level == 0 ? 0 : log_level == 4 ? 4096 : 16 << 20;
  const std::unique_ptr<char[]> log(new char[room + 1]);  // not cleared: most logs are short
  log[0] = 0;
  std::optional<WithoutPerfmon> unprivileged;
  if (no_pointer_leaks) {
    unprivileged.emplace();
  }
  const long result = load_with(program, log_level, {log.get(), room});
  unprivileged.reset();
  if (result >= 0) {
    ::close(static_cast<int>(result));
  }
  verdict.error = result < 0 ? static_cast<int>(-result) : 0;
  if (log_level != 0) {
    verdict.log = std::string(log.get(), ::strnlen(log.get(), room));
    verdict.message = last_message(verdict.log);
    verdict.insns_processed = number_after(verdict.log, "processed ");
    verdict.peak_states = number_after(verdict.log, "peak_states ");
    verdict.time_us = number_after(verdict.log, "verification time ");
  }
  // Its log begins when the verifier does.
  verdict.was_verified = verdict.error == 0 || !verdict.log.empty();
  return verdict;
}

Result<UniqueFd> KernelOracle::keep(const ObjectProgram& program) {
  const long result = load_with(program, 0, {});
  if (result < 0) {
    return error_of(result, "BPF_PROG_LOAD");
  }
  return UniqueFd(static_cast<int>(result));
}

}  // namespace bpftime::testing
