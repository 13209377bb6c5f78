#include "kernel/kernel_verifier.hpp"

#include <linux/capability.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

#include "base/raw_syscall.hpp"
#include "spec/newer.hpp"

namespace bpftime {
namespace {

constexpr int kMostTries = 5;  // of a load that a signal broke off

long bpf(int command, bpf_attr* attr) {
  return raw_syscall(SYS_bpf, static_cast<uint64_t>(command), reinterpret_cast<uint64_t>(attr),
                     sizeof(*attr));
}

bpf_attr empty_attr() {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  return attr;
}

template <class T>
uint64_t address(const T* items) {
  return reinterpret_cast<uint64_t>(items);
}

Error error_of(long result, const char* why) { return make_error(static_cast<int>(-result), why); }

void copy_name(char (&to)[BPF_OBJ_NAME_LEN], const std::string& from) {
  for (size_t i = 0; i + 1 < sizeof(to) && i < from.size(); ++i) {
    const char c = from[i];
    const bool good = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
    to[i] = good ? c : '_';
  }
}

// This thread without CAP_PERFMON and CAP_SYS_ADMIN for a while.
class WithoutPerfmon {
 public:
  WithoutPerfmon() {
    raw_syscall(SYS_capget, address(&head_), address(had_));
    __user_cap_data_struct less[2] = {had_[0], had_[1]};
    less[0].effective &= ~(1U << CAP_SYS_ADMIN);
    less[1].effective &= ~(1U << (CAP_PERFMON - 32));
    raw_syscall(SYS_capset, address(&head_), address(less));
  }
  ~WithoutPerfmon() { raw_syscall(SYS_capset, address(&head_), address(had_)); }
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

// Behind "infinite loop detected" two states follow.
std::string last_message(const std::string& log) {
  constexpr std::string_view kNoMessage[] = {"processed ", "verification ", "stack depth ",
                                             "cur state:", "old state:"};
  std::string last, line;
  for (size_t at = 0; at < log.size(); at += line.size() + 1) {
    line = log.substr(at, log.find('\n', at) - at);
    const bool is_message = std::none_of(std::begin(kNoMessage), std::end(kNoMessage),
                                         [&](std::string_view s) { return line.starts_with(s); });
    if (!line.empty() && is_message) {
      last = line;
    }
  }
  return last;
}

bool may_be_empty(uint32_t map_type) {
  return map_type == BPF_MAP_TYPE_SK_STORAGE || map_type == BPF_MAP_TYPE_TASK_STORAGE ||
         map_type == BPF_MAP_TYPE_INODE_STORAGE || map_type == kMapCgrpStorage;
}

std::vector<bpf_func_info> raw_functions(const VerifierProgram& program) {
  std::vector<bpf_func_info> records;
  for (const BtfFuncInfo& function : program.functions) {
    records.push_back({function.insn, function.type});
  }
  return records;
}

// The texts are strings of the program's BTF: where they stand there is their number.
std::vector<bpf_line_info> raw_lines(const VerifierProgram& program) {
  std::vector<bpf_line_info> records;
  const auto strings = program.btf->string(0);
  for (const BtfLineInfo& line : program.lines) {
    const auto offset = [&](std::string_view text) {
      return static_cast<uint32_t>(text.data() - strings->data());
    };
    records.push_back(
        {line.insn, offset(line.file), offset(line.text), line.line << 10 | line.column});
  }
  return records;
}

// A value's bytes, for good.
Result<void> fill_and_freeze(int map, std::span<const std::byte> value) {
  const uint32_t zero = 0;
  bpf_attr attr = empty_attr();
  attr.map_fd = static_cast<uint32_t>(map);
  attr.key = address(&zero);
  attr.value = address(value.data());
  if (const long result = bpf(BPF_MAP_UPDATE_ELEM, &attr); result < 0) {
    return error_of(result, "the kernel refuses a map's content");
  }
  attr = empty_attr();
  attr.map_fd = static_cast<uint32_t>(map);
  if (const long result = bpf(BPF_MAP_FREEZE, &attr); result < 0) {
    return error_of(result, "the kernel does not freeze a map");
  }
  return {};
}

}  // namespace

Result<void> KernelVerifier::available() {
  const bpf_insn insns[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0},
                            {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  VerifierProgram program;
  program.insns = insns;
  program.prog_type = BPF_PROG_TYPE_KPROBE;
  const int error = KernelVerifier().ask(program, {.log_level = 0}).error;
  if (error != 0) {
    return make_error(error, "the kernel lets this process load no program");
  }
  return {};
}

Result<KernelVerifier> KernelVerifier::make(std::span<const VerifierMap> maps, const Btf* btf,
                                            std::string* log) {
  KernelVerifier kernel;
  const auto say = [log](const std::string& what, const Error& error) {
    if (log != nullptr) {
      *log += "the kernel refuses " + what + ": " + std::strerror(error.code) + "\n";
    }
    return error;
  };
  if (auto added = kernel.add_types(btf); !added) {
    return say("the program's types", added.error());
  }
  for (const VerifierMap& map : maps) {
    auto made = kernel.create_map(map);
    if (!made) {
      return say("map " + map.name, made.error());
    }
    kernel.maps_.push_back({map.id, std::move(made).value()});
  }
  return kernel;
}

int KernelVerifier::fd_of(const Btf* btf) const {
  const auto it =
      std::find_if(types_.begin(), types_.end(), [&](const Types& t) { return t.key == btf; });
  return it == types_.end() ? -1 : it->fd.get();
}

Result<void> KernelVerifier::add_types(const Btf* btf) {
  if (btf == nullptr || fd_of(btf) >= 0) {
    return {};
  }
  bpf_attr attr = empty_attr();
  attr.btf = address(btf->bytes().data());
  attr.btf_size = static_cast<uint32_t>(btf->bytes().size());
  const long fd = bpf(BPF_BTF_LOAD, &attr);
  if (fd < 0) {
    return error_of(fd, "BPF_BTF_LOAD");
  }
  types_.push_back({btf, UniqueFd(static_cast<int>(fd))});
  return {};
}

Result<UniqueFd> KernelVerifier::create_map(const VerifierMap& map) {
  UniqueFd inner;
  if (map.inner != nullptr) {
    inner = TRY(create_map(*map.inner));
  }
  TRY(add_types(map.btf));
  bpf_attr attr = empty_attr();
  attr.map_type = map.map_type;
  attr.map_flags = map.map_flags;
  attr.key_size = map.key_size;
  attr.value_size = map.value_size;
  // A tool sets what its object leaves at 0.
  attr.max_entries = map.max_entries != 0 || may_be_empty(map.map_type) ? map.max_entries : 1;
  attr.map_extra = map.map_extra;
  copy_name(attr.map_name, map.name);
  if (map.btf != nullptr && map.btf_value_type_id != 0) {
    attr.btf_fd = static_cast<uint32_t>(fd_of(map.btf));
    attr.btf_key_type_id = map.btf_key_type_id;
    attr.btf_value_type_id = map.btf_value_type_id;
  }
  attr.inner_map_fd = inner ? static_cast<uint32_t>(inner.get()) : 0;
  long fd = bpf(BPF_MAP_CREATE, &attr);
  if (fd < 0 && attr.btf_fd != 0) {  // kinds that take no types
    attr.btf_fd = attr.btf_key_type_id = attr.btf_value_type_id = 0;
    fd = bpf(BPF_MAP_CREATE, &attr);
  }
  if (fd < 0) {
    return error_of(fd, "BPF_MAP_CREATE");
  }
  UniqueFd made(static_cast<int>(fd));
  if (!map.constants.empty()) {
    TRY(fill_and_freeze(made.get(), map.constants));
  }
  return made;
}

std::vector<bpf_insn> KernelVerifier::with_fds(std::span<const bpf_insn> insns) const {
  std::vector<bpf_insn> code(insns.begin(), insns.end());
  for (size_t i = 0; i < code.size(); ++i) {
    if (code[i].code != (BPF_LD | BPF_IMM | BPF_DW)) {
      continue;
    }
    if (code[i].src_reg == BPF_PSEUDO_MAP_FD || code[i].src_reg == BPF_PSEUDO_MAP_VALUE) {
      const auto id = static_cast<uint32_t>(code[i].imm);
      const auto it =
          std::find_if(maps_.begin(), maps_.end(), [&](const Map& map) { return map.id == id; });
      code[i].imm = it == maps_.end() ? -1 : it->fd.get();
    }
    ++i;
  }
  return code;
}

long KernelVerifier::load(const VerifierProgram& program, uint32_t log_level,
                          std::span<char> log) const {
  const std::vector<bpf_insn> insns = with_fds(program.insns);
  std::vector<bpf_func_info> functions;
  std::vector<bpf_line_info> lines;
  bpf_attr attr = empty_attr();
  attr.prog_type = program.prog_type;
  attr.expected_attach_type = program.expected_attach_type;
  attr.attach_btf_id = program.attach_btf_id;
  attr.prog_flags = program.prog_flags;
  attr.insns = address(insns.data());
  attr.insn_cnt = static_cast<uint32_t>(insns.size());
  attr.license = address("GPL");
  if (program.btf != nullptr) {
    functions = raw_functions(program);
    lines = raw_lines(program);
    attr.prog_btf_fd = static_cast<uint32_t>(fd_of(program.btf));
    attr.func_info = address(functions.data());
    attr.func_info_cnt = static_cast<uint32_t>(functions.size());
    attr.func_info_rec_size = sizeof(bpf_func_info);
    attr.line_info = address(lines.data());
    attr.line_info_cnt = static_cast<uint32_t>(lines.size());
    attr.line_info_rec_size = sizeof(bpf_line_info);
  }
  if (log_level != 0) {
    attr.log_level = log_level;
    attr.log_buf = address(log.data());
    attr.log_size = static_cast<uint32_t>(log.size());
  }
  long result = bpf(BPF_PROG_LOAD, &attr);
  for (int tries = 1; result == -EAGAIN && tries < kMostTries; ++tries) {
    result = bpf(BPF_PROG_LOAD, &attr);
  }
  return result;
}

KernelVerdict KernelVerifier::ask(const VerifierProgram& program, const KernelQuestion& question) {
  KernelVerdict verdict;
  const size_t room = question.log_level == 0 ? 0 : question.log_bytes;
  const std::unique_ptr<char[]> log(new char[room + 1]);  // not cleared: most logs are short
  log[0] = 0;
  std::optional<WithoutPerfmon> unprivileged;
  if (question.no_pointer_leaks) {
    unprivileged.emplace();
  }
  long result = load(program, question.log_level, {log.get(), room});
  if (result == -ENOSPC && room != 0) {  // the log had no room, whatever the verdict
    result = load(program, 0, {});
  }
  unprivileged.reset();
  const UniqueFd loaded(result >= 0 ? static_cast<int>(result) : -1);
  verdict.error = result < 0 ? static_cast<int>(-result) : 0;
  verdict.log = std::string(log.get(), ::strnlen(log.get(), room));
  verdict.message = last_message(verdict.log);
  verdict.insns_processed = number_after(verdict.log, "processed ");
  verdict.peak_states = number_after(verdict.log, "peak_states ");
  verdict.time_us = number_after(verdict.log, "verification time ");
  // Its log begins when the verifier does.
  verdict.was_verified = verdict.accepted() || !verdict.log.empty();
  return verdict;
}

}  // namespace bpftime
