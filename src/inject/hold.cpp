#include "inject/hold.hpp"

#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>
#include <utility>

#include "inject/process.hpp"
#include "inject/remote_memory.hpp"
#include "inject/stopped_state.hpp"

namespace bpftime {
namespace {

constexpr std::byte kInt3{0xcc};
constexpr long kHoldOptions = kBaseOptions | PTRACE_O_TRACEEXEC;
constexpr uint64_t kTrapBit = 1ULL << (SIGTRAP - 1);

// May the program that `pid` has just become be followed? 64-bit x86, without privileges of its
// own.
bool may_follow(pid_t pid) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/exe", pid);
  const UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
  struct stat info = {};
  Elf64_Ehdr header;
  return file && fstat(file.get(), &info) == 0 && (info.st_mode & (S_ISUID | S_ISGID)) == 0 &&
         pread(file.get(), &header, sizeof header, 0) == sizeof header &&
         std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
         header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_machine == EM_X86_64;
}

}  // namespace

struct HeldProcess::State {
  pid_t pid = 0;
  HeldState where = HeldState::kBeforeExec;
  uint64_t entry = 0;
  std::byte entry_byte{};
  bool has_trap = false;                            // int3 stands at the entry
  bool trap_ignored = false, trap_blocked = false;  // of SIGTRAP in the new program: put back
  Registers registers{};
  UniqueFd memory;

  ~State() { let_go(); }

  bool is_traced() const {
    return where == HeldState::kBeforeExec || where == HeldState::kLoading ||
           where == HeldState::kAtEntry;
  }
  bool write_entry(std::byte value) {
    return pwrite(memory.get(), &value, 1, static_cast<off_t>(entry)) == 1;
  }
  void remove_trap() {
    if (has_trap) {
      write_entry(entry_byte);
      has_trap = false;
    }
  }
  void go_on(int signal) { ptrace(PTRACE_CONT, pid, nullptr, static_cast<long>(signal)); }

  HeldState leave(HeldState to, int signal) {
    remove_trap();
    ptrace(PTRACE_DETACH, pid, nullptr, static_cast<long>(signal));
    return where = to;
  }

  HeldState on_exec() {
    has_trap = false;  // it was in the old program
    const auto auxv = read_auxv(pid);
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%d/mem", pid);
    memory.reset(open(path, O_RDWR | O_CLOEXEC));
    entry = 0;
    bool is_secure = false;
    if (auxv) {
      for (const auto& [key, value] : *auxv) {
        entry = key == AT_ENTRY ? value : entry;
        is_secure = is_secure || (key == AT_SECURE && value != 0);
      }
    }
    if (!memory || entry == 0 || is_secure || !may_follow(pid) ||
        pread(memory.get(), &entry_byte, 1, static_cast<off_t>(entry)) != 1) {
      return leave(HeldState::kNotFollowed, 0);
    }
    const auto status = read_status(pid);
    if (!status || !write_entry(kInt3)) {
      return leave(HeldState::kNotFollowed, 0);
    }
    has_trap = true;
    // A trap that finds SIGTRAP blocked or ignored sets its action to the default (Kernel v6.12
    // kernel/signal.c: force_sig_info_to_task); both survive exec, so both are seen to and put back
    // at the entry.
    trap_ignored = (status->signals_ignored & kTrapBit) != 0;
    uint64_t mask = 0;
    trap_blocked =
        ptrace(PTRACE_GETSIGMASK, pid, sizeof mask, &mask) == 0 && (mask & kTrapBit) != 0;
    if (trap_blocked) {
      mask &= ~kTrapBit;
      ptrace(PTRACE_SETSIGMASK, pid, sizeof mask, &mask);
    }
    where = HeldState::kLoading;
    go_on(0);
    return where;
  }

  // A SIGTRAP stop: ours? Then the thread is put to the entry point as it would stand there.
  bool came_to_entry() {
    siginfo_t info = {};
    if (!has_trap || ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) != 0 ||
        info.si_code != SI_KERNEL || ptrace(PTRACE_GETREGS, pid, nullptr, &registers) != 0 ||
        registers.rip != entry + 1) {
      return false;
    }
    remove_trap();
    registers.rip = entry;
    ptrace(PTRACE_SETREGS, pid, nullptr, &registers);
    if (trap_blocked) {
      uint64_t mask = 0;
      if (ptrace(PTRACE_GETSIGMASK, pid, sizeof mask, &mask) == 0) {
        mask |= kTrapBit;
        ptrace(PTRACE_SETSIGMASK, pid, sizeof mask, &mask);
      }
    }
    return true;
  }

  HeldState on_stop(int status) {
    const int event = status >> 16, signal = WSTOPSIG(status);
    switch (event) {
      case PTRACE_EVENT_EXEC:
        return on_exec();
      case PTRACE_EVENT_EXIT:
        return leave(HeldState::kGone, 0);
      case PTRACE_EVENT_STOP:
        if (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU) {
          ptrace(PTRACE_LISTEN, pid, nullptr, nullptr);  // stays stopped until its SIGCONT
        } else {
          go_on(0);
        }
        return where;
      default:
        if (where == HeldState::kLoading && signal == SIGTRAP && came_to_entry()) {
          return where = HeldState::kAtEntry;
        }
        go_on(signal);
        return where;
    }
  }

  void let_go() {
    if (!is_traced()) {
      return;
    }
    remove_trap_late();
    if (where == HeldState::kAtEntry) {
      if (trap_ignored) {
        restore_ignored();
      }
      ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
    } else {
      ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr);
      auto status = wait_for_stop(pid, deadline_in_ms(2000));
      if (status && WIFSTOPPED(*status) && *status >> 16 == PTRACE_EVENT_STOP &&
          stands_behind_trap()) {
        // It has met the trap, and its SIGTRAP comes next.
        ptrace(PTRACE_CONT, pid, nullptr, nullptr);
        status = wait_for_stop(pid, deadline_in_ms(2000));
      }
      if (status && WIFSTOPPED(*status)) {
        int signal = *status >> 16 == 0 ? WSTOPSIG(*status) : 0;
        if (signal == SIGTRAP && stood_on_trap()) {
          signal = 0;
        }
        ptrace(PTRACE_DETACH, pid, nullptr, static_cast<long>(signal));
      } else if (!status && status.error().code == ETIMEDOUT) {
        StoppedProcess::State late;
        late.pid = pid;
        late.undone.push_back(pid);
      }
    }
    where = HeldState::kGone;
  }

 private:
  bool trap_was_set_ = false;
  // The byte can go back while the process runs; it may have met the trap just before.
  void remove_trap_late() {
    trap_was_set_ = has_trap;
    remove_trap();
  }
  bool stands_behind_trap() {
    return trap_was_set_ && ptrace(PTRACE_GETREGS, pid, nullptr, &registers) == 0 &&
           registers.rip == entry + 1;
  }
  bool stood_on_trap() {
    has_trap = trap_was_set_;
    return came_to_entry();
  }
  void restore_ignored() {
    StoppedProcess process(held_now());
    auto thread = RemoteThread::begin(process, pid, deadline_in_ms(200));
    if (thread) {
      const KernelSigaction ignore = {reinterpret_cast<uint64_t>(SIG_IGN), 0, 0, 0};
      (void)remote_sigaction(*thread, SIGTRAP, &ignore);
      (void)thread->finish();
    }
    process.state().threads.clear();  // not let go yet
  }

 public:
  // The process as a StoppedProcess's state with its one thread known so far.
  std::unique_ptr<StoppedProcess::State> held_now() {
    auto held = std::make_unique<StoppedProcess::State>();
    held->pid = pid;
    held->threads.push_back(
        HeldThread{.tid = pid, .signal = 0, .is_exiting = false, .registers = registers});
    (void)open_memory(*held);
    return held;
  }
  void put_back_ignored() {
    if (trap_ignored) {
      restore_ignored();
      trap_ignored = false;
    }
  }
};

HeldProcess::HeldProcess(std::unique_ptr<State> state) : state_(std::move(state)) {}
HeldProcess::~HeldProcess() = default;
HeldProcess::HeldProcess(HeldProcess&&) noexcept = default;
HeldProcess& HeldProcess::operator=(HeldProcess&&) noexcept = default;

Result<HeldProcess> HeldProcess::seize(pid_t pid, uint64_t /*deadline_ns*/) {
  TRY(seize_thread(pid, pid, kHoldOptions));
  auto state = std::make_unique<State>();
  state->pid = pid;
  return HeldProcess(std::move(state));
}

pid_t HeldProcess::pid() const { return state_->pid; }

Result<HeldState> HeldProcess::step() {
  State& state = *state_;
  while (state.where == HeldState::kBeforeExec || state.where == HeldState::kLoading) {
    int status = 0;
    const pid_t got = waitpid(state.pid, &status, __WALL | WNOHANG);
    if (got == 0) {
      break;
    }
    if (got != state.pid || !WIFSTOPPED(status)) {
      state.where = HeldState::kGone;
      break;
    }
    state.on_stop(status);
  }
  return state.where;
}

Result<HeldState> HeldProcess::wait(uint64_t deadline_ns) {
  for (unsigned round = 0;; ++round) {
    const HeldState where = TRY(step());
    if (where != HeldState::kBeforeExec && where != HeldState::kLoading) {
      return where;
    }
    if (monotonic_ns() > deadline_ns) {
      return make_error(ETIMEDOUT, "the process has not come to its entry point");
    }
    if (round < 64) {
      sched_yield();
    } else {
      const timespec pause = {0, round < 1024 ? 50000 : 1000000};
      nanosleep(&pause, nullptr);
    }
  }
}

Result<StoppedProcess> HeldProcess::take(uint64_t deadline_ns) {
  State& state = *state_;
  if (state.where != HeldState::kAtEntry) {
    return make_error(EINVAL, "the process is not at its entry point");
  }
  state.put_back_ignored();
  auto held = state.held_now();
  state.where = HeldState::kGone;  // no longer ours to let go
  if (ptrace(PTRACE_SETOPTIONS, state.pid, nullptr, kBaseOptions) != 0) {
    return make_error(ESRCH, "the process has ended");
  }
  // Constructors of libraries may have made threads.
  TRY(hold_all(*held, deadline_ns));
  if (!held->memory) {
    return make_error(EACCES, "cannot open the process's memory");
  }
  return StoppedProcess(std::move(held));
}

}  // namespace bpftime
