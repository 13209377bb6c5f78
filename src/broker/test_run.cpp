#include "broker/test_run.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "broker/cgroup.hpp"
#include "broker/worker.hpp"
#include "helpers/helpers.hpp"
#include "helpers/run_state.hpp"
#include "maps/map_view.hpp"
#include "runtime/run.hpp"
#include "runtime/tail_call.hpp"

namespace bpftime {
namespace {

constexpr int kDeadlineMs = 10'000;
constexpr uint32_t kCpuSeconds = 5;
constexpr uint32_t kResultMagic = 0x74736574;

struct RunResult {
  uint32_t magic, ended, value, reserved;
};

// ---- In the worker -------------------------------------------------------------------------------------------------

// What the sinks below find behind ProcessInfo::user.
struct Voice {
  int channel;
  pid_t caller;
};

void say(const ProbeHit& hit, AgentSays says, uint64_t value, const char* text, uint32_t bytes) {
  const auto& voice = *static_cast<const Voice*>(hit.process->user);
  AgentMessage message{};
  message.magic = kAgentMagic;
  message.says = says;
  message.pid = static_cast<uint32_t>(voice.caller);
  message.tid = message.pid;
  message.value = value;
  message.text_bytes = std::min<uint32_t>(bytes, sizeof(message.text));
  ::prctl(PR_GET_NAME, message.comm);
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  message.time_ns =
      static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  if (bytes != 0) {
    std::memcpy(message.text, text, message.text_bytes);
  }
  (void)!::send(voice.channel, &message, sizeof(message), MSG_NOSIGNAL);
}

void* map_fd(int fd, uint64_t bytes, int protection) {
  void* base = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
  return base == MAP_FAILED ? nullptr : base;
}

// A frozen map's copy is sealed: before Linux 6.7 only a description that cannot write maps it shared.
void* map_sealed(int fd, uint64_t bytes) {
  char name[32];
  std::snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
  const UniqueFd reader(::open(name, O_RDONLY | O_CLOEXEC));
  return map_fd(reader.get(), bytes, PROT_READ);
}

// A program as it lies in targets.
struct ProgramHere {
  std::vector<uint64_t> slots;
  CodeRange range{};
  TailTarget target{};
};

// Programs and maps by their ids: those of the run, and what it may call at its end.
struct Prepared {
  std::map<uint32_t, ProgramHere> programs;
  std::map<uint32_t, MapView> views;
  LaneWord* lanes = nullptr;
};

Result<const TailTarget*> bring_program(const ProgramObject& program, Prepared* all);

// What stands in a PROG_ARRAY, as the helper looks for it there (broker/target_tail_calls.cpp).
Result<std::byte*> table_of(const MapObject& map, Prepared* all) {
  void* const memory =
      ::mmap(nullptr, uint64_t{map.spec.max_entries} * sizeof(TailTarget*), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return make_error(ENOMEM, "no room for what is called");
  }
  for (const auto& [index, called] : map.programs) {
    static_cast<const TailTarget**>(memory)[index] = TRY(bring_program(*called, all));
  }
  return static_cast<std::byte*>(memory);
}

Result<void> bring_map(const MapObject& map, Prepared* all) {
  const auto [at, is_new] = all->views.try_emplace(map.id);
  if (!is_new) {
    return {};
  }
  void* base = map.sealed ? map_sealed(map.sealed.get(), map.region_bytes)
                          : map_fd(map.region.get(), map.region_bytes, PROT_READ | PROT_WRITE);
  at->second = TRY(open_region(static_cast<std::byte*>(base), map.region_bytes, map.spec));
  at->second.map_id = map.id;
  if (map.spec.map_type == BPF_MAP_TYPE_PROG_ARRAY) {
    at->second.used = TRY(table_of(map, all));
  }
  return {};
}

Result<uint64_t> value_of(const Slot& slot, std::byte* code, const Prepared& all) {
  switch (slot.kind) {
    case SlotKind::kHelper:
      return reinterpret_cast<uint64_t>(find_helper_function(slot.id));
    case SlotKind::kFunction:
      return reinterpret_cast<uint64_t>(code) + slot.addend;
    case SlotKind::kReadAside:
      return reinterpret_cast<uint64_t>(&bpftime_read_aside);
    case SlotKind::kMap:
    case SlotKind::kMapValue:
      break;
  }
  const auto view = all.views.find(slot.id);
  if (view == all.views.end()) {
    return make_error(ENOENT, "a map of the program is gone");
  }
  return slot.kind == SlotKind::kMap
             ? reinterpret_cast<uint64_t>(&view->second)
             : reinterpret_cast<uint64_t>(view->second.values) + slot.addend;
}

Result<const TailTarget*> bring_program(const ProgramObject& program, Prepared* all) {
  const auto [at, is_new] = all->programs.try_emplace(program.id);
  ProgramHere& here = at->second;
  if (!is_new) {
    return &here.target;
  }
  auto* code = static_cast<std::byte*>(
      map_fd(program.code.get(), program.compiled.code.size(), PROT_READ | PROT_EXEC));
  if (code == nullptr) {
    return make_error(ENOMEM, "cannot map the code");
  }
  for (const auto& map : program.maps) {
    TRY(bring_map(*map, all));
  }
  for (const Slot& slot : program.compiled.slots) {
    here.slots.push_back(TRY(value_of(slot, code, *all)));
  }
  if (!program.compiled.faults.empty()) {
    here.range.resume =
        reinterpret_cast<uint64_t>(code) + program.compiled.faults.front().resume_at;
  }
  // SAFETY: position independent code that the compiler's worker made; entry at offset 0 (vm/program.hpp).
  here.target = {reinterpret_cast<ProgramFn>(code), here.slots.data(), &here.range};
  return &here.target;
}

// One run, without anything attached.
RunResult run_once(const TailTarget& first, const ProcessInfo& process, ThreadBlock* thread,
                   void* context) {
  auto& hit = *reinterpret_cast<ProbeHit*>(thread->hit_space);
  set_up(hit, thread, context, &process);
  RunResult result{kResultMagic, 0, 0, 0};
  result.value = static_cast<uint32_t>(run_chain(first, context, hit));
  result.ended = hit.ended;
  end_run(hit);
  return result;
}

std::string name_of(pid_t pid) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/comm", pid);
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  char name[16] = {};
  const ssize_t n = file ? ::read(file.get(), name, sizeof(name) - 1) : 0;
  return {name, n > 0 ? std::strcspn(name, "\n") : 0};
}

[[noreturn]] void work(const TestRun& run, const LaneTable* lanes, int channel) {
  for (const int number : {SIGSEGV, SIGBUS}) {
    ::signal(number, SIG_DFL);
  }
  Prepared prepared;
  const auto first = bring_program(*run.program, &prepared);
  const std::string name = name_of(run.caller);
  ::prctl(PR_SET_NAME, name.c_str());
  if (!first) {
    ::_exit(1);
  }
  if (lanes != nullptr) {
    prepared.lanes =
        static_cast<LaneWord*>(map_fd(lanes->fd(), lanes->bytes(), PROT_READ | PROT_WRITE));
  }
  isolate_worker(channel, kCpuSeconds);
  if (run.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(run.cpu), &set);
    ::sched_setaffinity(0, sizeof(set), &set);
  }
  Voice voice{kWorkerChannel, run.caller};
  ProcessInfo process{};
  process.owner = raw(run.owner);
  process.tgid = static_cast<uint32_t>(run.caller);
  process.user = &voice;
  process.cgroup_id = cgroup_id_of(run.caller);
  if (lanes != nullptr && prepared.lanes != nullptr) {
    process.lanes = prepared.lanes;
    process.cpu_lanes = lanes->cpus();
    process.lane_count = lanes->count();
  }
  auto* thread = ::new ThreadBlock();
  thread->tid = static_cast<uint32_t>(run.caller);
  thread->tgid = thread->tid;
  alignas(16) std::byte context[256] = {};
  std::copy(run.context.begin(), run.context.end(), context);
  RunResult result{};
  for (uint64_t i = 0; i < run.repeat && result.ended == kHitNormal; i++) {
    result = run_once(**first, process, thread, context);
  }
  (void)!::send(kWorkerChannel, &result, sizeof(result), MSG_NOSIGNAL);
  ::_exit(0);
}

}  // namespace

// ---- In the broker -------------------------------------------------------------------------------------------------

TestRunner::~TestRunner() {
  for (auto& [fd, worker] : workers_) {
    loop_->remove(fd);
    loop_->cancel(worker.timer);
    end_worker(worker.pid);
  }
}

Result<void> TestRunner::start(const TestRun& run, Done done) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return make_error(errno, "socketpair");
  }
  auto worker = TRY(start_worker(
      loop_, ends, [&](int channel) { work(run, lanes_, channel); },
      [this](int fd) { readable(fd); }));
  const int fd = worker.channel.get();
  const uint64_t timer = loop_->after(
      kDeadlineMs, [this, fd] { finish(fd, make_error(ETIMEDOUT, "the program took too long")); });
  workers_[fd] = Worker{worker.pid, std::move(worker.channel), timer, std::move(done)};
  return {};
}

void TestRunner::readable(int fd) {
  for (int rounds = 0; rounds < 64 && workers_.contains(fd); rounds++) {
    std::byte packet[sizeof(AgentMessage)];
    const ssize_t n = ::recv(fd, packet, sizeof(packet), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      return;
    }
    if (n <= 0) {
      finish(fd, make_error(EFAULT, "the program faulted"));
      return;
    }
    const auto bytes = std::span(packet).first(static_cast<size_t>(n));
    RunResult result{};
    if (bytes.size() == sizeof(result)) {
      std::memcpy(&result, bytes.data(), sizeof(result));
      if (result.magic == kResultMagic) {
        finish(fd, result.ended == kHitNormal
                       ? Result<uint32_t>(result.value)
                       : Result<uint32_t>(make_error(ENOSPC, "the program used up its budget")));
        return;
      }
    }
    if (const auto message = parse_agent_message(bytes)) {
      said_(*message);
    }
  }
}

void TestRunner::finish(int fd, Result<uint32_t> result) {
  auto node = workers_.extract(fd);
  if (node.empty()) {
    return;
  }
  Worker& worker = node.mapped();
  loop_->remove(fd);
  loop_->cancel(worker.timer);
  end_worker(worker.pid);
  worker.done(std::move(result));
}

}  // namespace bpftime

// What helpers say, of a program that runs here (helpers/helpers.hpp).
extern "C" {
void bpftime_say_printk(bpftime::ProbeHit* hit, const char* text, uint32_t text_bytes) {
  bpftime::say(*hit, bpftime::AgentSays::kPrintk, 0, text, text_bytes);
}
bool bpftime_say_wake(bpftime::ThreadBlock* thread, uint32_t map_id) {
  bpftime::say(*static_cast<const bpftime::ProbeHit*>(thread->hit), bpftime::AgentSays::kWake,
               map_id, nullptr, 0);
  return true;
}
}
