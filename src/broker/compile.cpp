#include "broker/compile.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "isa/context_use.hpp"
#include "jit_x64/compile.hpp"

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
  int32_t error;  // 0, or an errno
  uint64_t code_bytes, slot_count, fault_count;
  uint32_t stack_bytes, facts, context_use, reserved;
};
static_assert(sizeof(Head) == 48);

Result<CompiledProgram> compile_now(const DecodedProgram& program) {
  CompileOptions options;
  options.has_bmi2 = host_has_bmi2();
  CompiledProgram compiled = TRY(compile_x64(program, options));
  compiled.context_use = context_use(program);
  return compiled;
}

template <class T>
void append(std::vector<std::byte>* to, const T* items, size_t count) {
  const auto* p = reinterpret_cast<const std::byte*>(items);
  to->insert(to->end(), p, p + sizeof(T) * count);
}

[[noreturn]] void work(const DecodedProgram& program, int pipe, pid_t parent,
                       const WorkerCompiler::Limits& limits) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) {
    ::_exit(1);
  }
  ::signal(SIGTERM, SIG_DFL);
  // Nothing of the broker's stays open: a loader's HUP must not wait for a compiler.
  if (::dup2(pipe, 3) < 0) {
    ::_exit(1);
  }
  if (::close_range(4, ~0U, 0) != 0) {  // before Linux 5.9
    for (int fd = 4; fd < static_cast<int>(::sysconf(_SC_OPEN_MAX)); fd++) {
      ::close(fd);
    }
  }
  rlimit cap{limits.cpu_seconds, limits.cpu_seconds};
  ::setrlimit(RLIMIT_CPU, &cap);
  cap = {0, 0};
  ::setrlimit(RLIMIT_CORE, &cap);
#ifndef BPFTIME_SANITIZED
  cap = {limits.address_space_bytes, limits.address_space_bytes};
  ::setrlimit(RLIMIT_AS, &cap);
#endif
  if (limits.nap_for_tests_ms != 0) {
    ::usleep(limits.nap_for_tests_ms * 1000);
  }
  if (limits.crash_for_tests) {
    ::raise(SIGKILL);
  }
  auto compiled = compile_now(program);
  std::vector<std::byte> bytes;
  if (compiled) {
    bytes = serialize(*compiled);
  } else {
    Head head{};
    head.magic = kMagic;
    head.error = compiled.error().code;
    append(&bytes, &head, 1);
  }
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(3, bytes.data() + done, bytes.size() - done);
    if (n <= 0) {
      ::_exit(1);
    }
    done += static_cast<size_t>(n);
  }
  ::_exit(0);
}

}  // namespace

std::vector<std::byte> serialize(const CompiledProgram& compiled) {
  Head head{};
  head.magic = kMagic;
  head.code_bytes = compiled.code.size();
  head.slot_count = compiled.slots.size();
  head.fault_count = compiled.faults.size();
  head.stack_bytes = compiled.stack_bytes;
  head.facts = compiled.facts;
  head.context_use = compiled.context_use;
  std::vector<std::byte> bytes;
  append(&bytes, &head, 1);
  append(&bytes, compiled.code.data(), compiled.code.size());
  append(&bytes, compiled.slots.data(), compiled.slots.size());
  append(&bytes, compiled.faults.data(), compiled.faults.size());
  return bytes;
}

Result<CompiledProgram> parse_compiled(std::span<const std::byte> bytes) {
  Head head{};
  if (bytes.size() < sizeof(head)) {
    return make_error(EPROTO, "compiler's answer is too short");
  }
  std::memcpy(&head, bytes.data(), sizeof(head));
  bytes = bytes.subspan(sizeof(head));
  if (head.magic != kMagic) {
    return make_error(EPROTO, "compiler's answer is not one");
  }
  if (head.error != 0) {
    return make_error(head.error > 0 && head.error < 4096 ? head.error : EPROTO,
                      "the compiler refused the program");
  }
  constexpr uint64_t kLimit = 1ULL << 31;
  if (head.code_bytes == 0 || head.code_bytes > kLimit || head.slot_count > kLimit ||
      head.fault_count > kLimit ||
      head.code_bytes + head.slot_count * sizeof(Slot) + head.fault_count * sizeof(FaultRange) !=
          bytes.size()) {
    return make_error(EPROTO, "compiler's answer has other sizes than it says");
  }
  CompiledProgram compiled{};
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
        fault.resume_at >= head.code_bytes) {
      return make_error(EPROTO, "compiler's answer points outside of the code");
    }
  }
  for (const Slot& slot : compiled.slots) {
    if (slot.kind > SlotKind::kFunction) {
      return make_error(EPROTO, "compiler's answer has a slot of no kind");
    }
  }
  return compiled;
}

void InlineCompiler::compile(std::shared_ptr<const DecodedProgram> program, Done done) {
  done(compile_now(*program));
}

WorkerCompiler::~WorkerCompiler() {
  for (auto& [fd, worker] : workers_) {
    loop_->remove(fd);
    loop_->cancel(worker.timer);
    ::kill(worker.pid, SIGKILL);
    ::waitpid(worker.pid, nullptr, 0);
  }
}

void WorkerCompiler::compile(std::shared_ptr<const DecodedProgram> program, Done done) {
  if (workers_.size() >= limits_.at_once) {
    waiting_.push_back({std::move(program), std::move(done)});
    return;
  }
  auto started = start(*program, &done);
  if (!started) {
    done(started.error());
  }
}

Result<void> WorkerCompiler::start(const DecodedProgram& program, Done* done) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return make_error(errno, "pipe2");
  }
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return make_error(errno, "fork of a compiler");
  }
  if (pid == 0) {
    work(program, theirs.get(), parent, limits_);
  }
  theirs.reset();
  const int fd = ours.get();
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  auto added = loop_->add(fd, EPOLLIN, [this, fd](uint32_t) { readable(fd); });
  if (!added) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return added.error();
  }
  const uint64_t timer = loop_->after(limits_.deadline_ms, [this, fd] { finish(fd, true); });
  workers_[fd] = Worker{pid, std::move(ours), {}, timer, std::move(*done)};
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
  ::kill(worker.pid, SIGKILL);  // it has said what it had to say, or never will
  int status = 0;
  while (::waitpid(worker.pid, &status, 0) < 0 && errno == EINTR) {
  }
  start_waiting();
  if (timed_out) {
    worker.done(make_error(ETIMEDOUT, "the compiler took too long"));
  } else if (worker.bytes.empty()) {
    worker.done(make_error(ENOMEM, "the compiler died"));
  } else {
    worker.done(parse_compiled(worker.bytes));
  }
}

void WorkerCompiler::start_waiting() {
  while (!waiting_.empty() && workers_.size() < limits_.at_once) {
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    auto started = start(*next.program, &next.done);
    if (!started) {
      next.done(started.error());
    }
  }
}

}  // namespace bpftime
