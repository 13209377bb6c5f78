#include "broker/compile.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>

#include "abi/agent.hpp"
#include "abi/thread_block.hpp"
#include "broker/judge_as_chosen.hpp"
#include "broker/worker.hpp"
#include "helpers/probe_hit.hpp"
#include "jit_x64/compile.hpp"
#include "maps/map_view.hpp"
#include "spec/kernel_types.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BPFTIME_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BPFTIME_SANITIZED 1
#endif
#endif

namespace bpftime {
namespace {

constexpr uint32_t kMagic = 0x6a706662;
struct Head {
  uint32_t magic;
  int32_t verdict, compile_error;  // 0, or an errno
  uint32_t too_complex, stack_bytes, facts, context_use;
  uint64_t insns_processed;
  uint64_t log_bytes, code_bytes, slot_count, fault_count;
};
static_assert(sizeof(Head) == 72);

// Where code finds, from its Hit, what the thread's checked reads know (helpers/checked_read.cpp).
constexpr int32_t from_hit(size_t offset_in_thread) {
  return static_cast<int32_t>(offset_in_thread) -
         static_cast<int32_t>(offsetof(ThreadBlock, hit_space));
}
constexpr ReadCache kReadCache = {
    .pages = from_hit(offsetof(ThreadBlock, page_cache)),
    .page_count = kPageCacheSize,
    .page_mark = kCachedPage,
    .hits = from_hit(offsetof(ThreadBlock, hits)),
    .age = from_hit(offsetof(ThreadBlock, page_cache_time)),
    .age_shift = kPageCacheAge,
};

std::vector<KnownArray> arrays_of(const std::vector<VerifierMap>& maps) {
  std::vector<KnownArray> arrays;
  for (const VerifierMap& map : maps) {
    const uint64_t stride = array_stride(map.value_size);
    if (map.map_type == BPF_MAP_TYPE_ARRAY && stride <= INT32_MAX) {
      arrays.push_back({map.id, map.max_entries, static_cast<uint32_t>(stride)});
    }
  }
  return arrays;
}

Result<CompiledProgram> compile_now(const ProgramTask& task, const DecodedProgram& program,
                                    const Judgement& judgement) {
  const std::vector<KnownArray> arrays = arrays_of(task.maps);
  CompileOptions options;
  options.count_fuel = may_use_up_budget(judgement);
  options.has_bmi2 = host_has_bmi2();
  options.read_cache = &kReadCache;
  options.frame_bytes = judgement.stack_bytes;
  if (!judgement.operands.empty()) {
    options.operands = judgement.operands;
    options.dead = &judgement.dead;
    options.arrays = arrays;
  }
  CompiledProgram compiled = TRY(compile_x64(program, options));
  compiled.context_use = judgement.context_use;
  return compiled;
}

std::optional<Btf> read_kernel_btf() {
  UniqueFd file(::open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC));
  struct stat st{};
  if (!file || ::fstat(file.get(), &st) != 0 || st.st_size <= 0) {
    return std::nullopt;
  }
  std::vector<std::byte> bytes(static_cast<size_t>(st.st_size));
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (n <= 0) {
      return std::nullopt;
    }
    done += static_cast<size_t>(n);
  }
  auto types = Btf::parse(std::move(bytes));
  return types ? std::optional<Btf>(std::move(types).value()) : std::nullopt;
}

// The kernel's types, or ours (spec/kernel_types.hpp) where there are none, or where the loader saw none: ours have small
// numbers, which are no functions in the kernel's.
std::optional<Btf> kernel_btf_for(const DecodedProgram& program) {
  auto kernel = read_kernel_btf();
  auto own = Btf::parse({kernel_types().begin(), kernel_types().end()});
  const auto all_known = [&](const Btf& types) {
    return std::all_of(program.insns.begin(), program.insns.end(), [&](const bpf_insn& insn) {
      if (insn.code != (BPF_JMP | BPF_CALL) || insn.src_reg != BPF_PSEUDO_KFUNC_CALL) {
        return true;
      }
      const auto type = types.type(static_cast<uint32_t>(insn.imm));
      return type && type->kind == BtfKind::kFunc;
    });
  };
  if (own && (!kernel || (!all_known(*kernel) && all_known(*own)))) {
    return std::move(own).value();
  }
  return kernel;
}

ProgramAnswer answer_now(const ProgramTask& given, uint32_t seconds,
                         const std::function<void()>& between) {
  ProgramAnswer answer;
  std::optional<Btf> kernel;
  if (calls_kernel_functions(given.program)) {
    kernel = kernel_btf_for(given.program);
  }
  ProgramTask task = given;
  task.kernel_btf = kernel ? &*kernel : nullptr;
  answer.judgement = judge_as_chosen(task, seconds);
  if (answer.judgement.error != 0 && !task.let_through) {
    return answer;
  }
  between();
  DecodedProgram program = task.program;
  auto settled = settle_calls(answer.judgement.dead, task.prog_type, task.kernel_btf, &program,
                              &answer.judgement.log);
  if (!settled) {
    answer.compile_error = settled.error().code;
    return answer;
  }
  auto compiled = compile_now(task, program, answer.judgement);
  if (compiled) {
    answer.compiled = std::move(compiled).value();
  } else {
    answer.compile_error = compiled.error().code;
    if (task.log_level != 0) {
      answer.judgement.log += std::string(compiled.error().why) + "\n";
    }
  }
  return answer;
}

#ifndef BPFTIME_SANITIZED
// The address space that this process has now.
uint64_t address_space_bytes() {
  unsigned long pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(file, "%lu", &pages) != 1) {
      pages = 0;
    }
    std::fclose(file);
  }
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}
#endif

template <class T>
void append(std::vector<std::byte>* to, const T* items, size_t count) {
  const auto* p = reinterpret_cast<const std::byte*>(items);
  to->insert(to->end(), p, p + sizeof(T) * count);
}

[[noreturn]] void work(const ProgramTask& task, int pipe, const WorkerCompiler::Limits& limits) {
  isolate_worker(pipe, limits.cpu_seconds);
#ifndef BPFTIME_SANITIZED
  const uint64_t most = limits.address_space_bytes;
  rlimit cap = {std::min(most, address_space_bytes() + limits.judge_bytes), most};
  ::setrlimit(RLIMIT_AS, &cap);
#endif
  if (limits.nap_for_tests_ms != 0) {
    ::usleep(limits.nap_for_tests_ms * 1000);
  }
  if (limits.crash_for_tests) {
    ::raise(SIGKILL);
  }
  const std::vector<std::byte> bytes = serialize(answer_now(task, limits.judge_seconds, [&] {
#ifndef BPFTIME_SANITIZED
    cap = {most, most};
    ::setrlimit(RLIMIT_AS, &cap);
#endif
  }));
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(kWorkerChannel, bytes.data() + done, bytes.size() - done);
    if (n <= 0) {
      ::_exit(1);
    }
    done += static_cast<size_t>(n);
  }
  ::_exit(0);
}

}  // namespace

bool may_use_up_budget(const Judgement& judgement) {
  return judgement.most_back_edges > kHitFuel / (kMostTailCalls + 1);
}

std::vector<std::byte> serialize(const ProgramAnswer& answer) {
  const CompiledProgram& compiled = answer.compiled;
  Head head{};
  head.magic = kMagic;
  head.verdict = answer.judgement.error;
  head.compile_error = answer.compile_error;
  head.too_complex = answer.judgement.too_complex ? 1 : 0;
  head.insns_processed = answer.judgement.insns_processed;
  head.log_bytes = answer.judgement.log.size();
  head.code_bytes = compiled.code.size();
  head.slot_count = compiled.slots.size();
  head.fault_count = compiled.faults.size();
  head.stack_bytes = compiled.stack_bytes;
  head.facts = compiled.facts;
  head.context_use = compiled.context_use;
  std::vector<std::byte> bytes;
  append(&bytes, &head, 1);
  append(&bytes, answer.judgement.log.data(), answer.judgement.log.size());
  append(&bytes, compiled.code.data(), compiled.code.size());
  append(&bytes, compiled.slots.data(), compiled.slots.size());
  append(&bytes, compiled.faults.data(), compiled.faults.size());
  return bytes;
}

Result<ProgramAnswer> parse_answer(std::span<const std::byte> bytes) {
  Head head{};
  if (bytes.size() < sizeof(head)) {
    return make_error(EPROTO, "worker's answer is too short");
  }
  std::memcpy(&head, bytes.data(), sizeof(head));
  bytes = bytes.subspan(sizeof(head));
  if (head.magic != kMagic || head.verdict < 0 || head.verdict >= 4096 || head.compile_error < 0 ||
      head.compile_error >= 4096) {
    return make_error(EPROTO, "worker's answer is not one");
  }
  constexpr uint64_t kLimit = 1ULL << 31;
  if (head.code_bytes > kLimit || head.slot_count > kLimit || head.fault_count > kLimit ||
      head.log_bytes > kLimit ||
      head.log_bytes + head.code_bytes + head.slot_count * sizeof(Slot) +
              head.fault_count * sizeof(FaultRange) !=
          bytes.size()) {
    return make_error(EPROTO, "worker's answer has other sizes than it says");
  }
  ProgramAnswer answer;
  answer.judgement.error = head.verdict;
  answer.compile_error = head.compile_error;
  answer.judgement.too_complex = head.too_complex != 0;
  answer.judgement.insns_processed = head.insns_processed;
  answer.judgement.log.assign(reinterpret_cast<const char*>(bytes.data()), head.log_bytes);
  bytes = bytes.subspan(head.log_bytes);
  CompiledProgram& compiled = answer.compiled;
  compiled.code.assign(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(head.code_bytes));
  bytes = bytes.subspan(head.code_bytes);
  compiled.slots.resize(head.slot_count);
  if (head.slot_count != 0) {
    std::memcpy(compiled.slots.data(), bytes.data(), head.slot_count * sizeof(Slot));
  }
  bytes = bytes.subspan(head.slot_count * sizeof(Slot));
  compiled.faults.resize(head.fault_count);
  if (head.fault_count != 0) {
    std::memcpy(compiled.faults.data(), bytes.data(), bytes.size());
  }
  compiled.stack_bytes = head.stack_bytes;
  compiled.facts = head.facts;
  compiled.context_use = head.context_use;
  for (const FaultRange& fault : compiled.faults) {
    if (fault.code_begin > fault.code_end || fault.code_end > head.code_bytes ||
        fault.resume_at >= head.code_bytes ||
        uint64_t{fault.reads_at} + uint64_t{fault.read_count} * sizeof(ReadFixup) >
            head.code_bytes) {
      return make_error(EPROTO, "worker's answer points outside of the code");
    }
  }
  for (const Slot& slot : compiled.slots) {
    if (slot.kind > SlotKind::kReadAside) {
      return make_error(EPROTO, "worker's answer has a slot of no kind");
    }
  }
  return answer;
}

void InlineCompiler::compile(std::shared_ptr<const ProgramTask> task, Done done) {
  done(answer_now(*task, WorkerCompiler::Limits{}.judge_seconds, [] {}));
}

WorkerCompiler::~WorkerCompiler() {
  for (auto& [fd, worker] : workers_) {
    loop_->remove(fd);
    loop_->cancel(worker.timer);
    end_worker(worker.pid);
  }
}

void WorkerCompiler::compile(std::shared_ptr<const ProgramTask> task, Done done) {
  if (workers_.size() >= limits_.at_once) {
    waiting_.push_back({std::move(task), std::move(done)});
    return;
  }
  auto started = start(*task, &done);
  if (!started) {
    done(started.error());
  }
}

Result<void> WorkerCompiler::start(const ProgramTask& task, Done* done) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return make_error(errno, "pipe2");
  }
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  auto worker = TRY(start_worker(
      loop_, ends, [&](int pipe) { work(task, pipe, limits_); }, [this](int fd) { readable(fd); }));
  const int fd = worker.channel.get();
  const uint64_t timer = loop_->after(limits_.deadline_ms, [this, fd] { finish(fd, true); });
  workers_[fd] = Worker{worker.pid, std::move(worker.channel), {}, timer, std::move(*done)};
  return {};
}

void WorkerCompiler::readable(int fd) {
  const auto it = workers_.find(fd);
  if (it == workers_.end()) {
    return;
  }
  Worker& worker = it->second;
  for (int rounds = 0; rounds < 16; rounds++) {
    std::byte buffer[64 << 10];
    const ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n < 0) {
      if (errno == EAGAIN || errno == EINTR) {
        return;
      }
      finish(fd, false);
      return;
    }
    if (n == 0 || worker.bytes.size() + static_cast<size_t>(n) > limits_.result_bytes) {
      finish(fd, false);
      return;
    }
    worker.bytes.insert(worker.bytes.end(), buffer, buffer + n);
  }
}

void WorkerCompiler::finish(int fd, bool timed_out) {
  auto node = workers_.extract(fd);
  if (node.empty()) {
    return;
  }
  Worker& worker = node.mapped();
  loop_->remove(fd);
  loop_->cancel(worker.timer);
  end_worker(worker.pid);
  start_waiting();
  if (timed_out) {
    worker.done(make_error(ETIMEDOUT, "the compiler took too long"));
  } else if (worker.bytes.empty()) {
    worker.done(make_error(ENOMEM, "the compiler died"));
  } else {
    worker.done(parse_answer(worker.bytes));
  }
}

void WorkerCompiler::start_waiting() {
  while (!waiting_.empty() && workers_.size() < limits_.at_once) {
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    auto started = start(*next.task, &next.done);
    if (!started) {
      next.done(started.error());
    }
  }
}

}  // namespace bpftime
