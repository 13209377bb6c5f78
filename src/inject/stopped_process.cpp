#include "inject/stopped_process.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>

#include "inject/stopped_state.hpp"

namespace bpftime {
namespace {

// Results of an interrupted system call that only the kernel sees (Kernel v6.12
// include/linux/errno.h). On the way back to user space they become a restart, or EINTR when a
// handler runs: arch/x86/kernel/signal.c.
constexpr long kRestartSys = -512, kRestartNoIntr = -513, kRestartNoHand = -514,
               kRestartBlock = -516;

bool will_restart(const Registers& registers) {
  const auto result = static_cast<long>(registers.rax);
  return static_cast<long>(registers.orig_rax) >= 0 &&
         (result == kRestartSys || result == kRestartNoIntr || result == kRestartNoHand ||
          result == kRestartBlock);
}

// signal(7), "Interruption of system calls and library functions by stop signals": these end with
// EINTR even when no handler runs, so a plain stop would show. (Sockets: those with SO_RCVTIMEO or
// SO_SNDTIMEO.)
bool ends_with_eintr(long number) {
  switch (number) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_rt_sigtimedwait:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_io_getevents:
    case SYS_accept:
    case SYS_accept4:
    case SYS_connect:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_sendto:
    case SYS_sendmsg:
      return true;
    default:
      return false;
  }
}

}  // namespace

Error why_not_permitted(pid_t pid) {
  const auto status = read_status(pid);
  if (!status) {
    return make_error(ESRCH, "no such process");
  }
  if (status->is_zombie()) {
    return make_error(ESRCH, "the process has ended");
  }
  if (status->tracer != 0) {
    return make_error(EBUSY, "the process is traced by another (a debugger, strace)");
  }
  if (geteuid() != 0 && (status->uid != getuid() || status->effective_uid != getuid())) {
    return make_error(EPERM, status->uid != getuid()
                                 ? "the process belongs to another user"
                                 : "the process has another user's rights (set-user-id)");
  }
  const auto yama = read_text_file("/proc/sys/kernel/yama/ptrace_scope");
  if (geteuid() != 0 && yama && !yama->empty() && (*yama)[0] != '0') {
    return make_error(EPERM,
                      "kernel.yama.ptrace_scope forbids tracing processes that are no children");
  }
  return make_error(EPERM,
                    "the process is not dumpable (set-user-id, file capabilities, or its own "
                    "prctl(PR_SET_DUMPABLE)): only root reaches it");
}

namespace {

// Where a thread with these registers goes when `patch` comes (`back`: when it goes): -1 untouched,
// 0 cannot be.
constexpr uint64_t kUntouched = ~uint64_t{0};
uint64_t moved_ip(const Registers& registers, const Patch& patch, bool back) {
  const uint64_t site = raw(patch.site);
  const uint64_t ip = registers.rip;
  // A call to be restarted has its ip behind the `syscall` instruction (2 bytes) and goes back by
  // as much.
  const uint64_t behind = will_restart(registers) ? 2 : 0;
  const uint64_t at = ip - behind;
  if (back) {
    for (uint32_t i = 0; i < patch.move_count; ++i) {
      if (patch.moves[i].resume_at == at) {
        return site + patch.moves[i].offset_in_site + behind;
      }
    }
    return kUntouched;
  }
  // Of a call to be restarted both count: a restart runs the copy, EINTR goes on behind it.
  const uint64_t offset = at - site;
  if (at >= site + patch.site_bytes || ip <= site) {
    return kUntouched;
  }
  if (at == site && behind != 0) {  // the displaced `syscall` is the first instruction
    for (uint32_t i = 0; i < patch.move_count; ++i) {
      if (patch.moves[i].offset_in_site == 2) {
        return patch.moves[i].resume_at;
      }
    }
    return 0;
  }
  for (uint32_t i = 0; i < patch.move_count; ++i) {
    if (patch.moves[i].offset_in_site == offset) {
      return patch.moves[i].resume_at + behind;
    }
  }
  return 0;
}

std::span<const std::byte> site_bytes(const Patch& patch, bool after) {
  const uint32_t count = std::min<uint32_t>(patch.site_bytes, sizeof patch.before);
  return std::as_bytes(std::span(after ? patch.after : patch.before, count));
}

// A tracee that is not stopped cannot be let go. It comes to an exit stop (killed), to an end that
// we must take note of, or to the stop that we asked for: false when not before the deadline.
bool let_go_when_stopped(pid_t tid, uint64_t deadline_ns) {
  for (;;) {
    const auto status = wait_for_stop(tid, deadline_ns);
    if (!status) {
      return status.error().code == ESRCH;
    }
    if (!WIFSTOPPED(*status)) {
      return true;
    }
    const int signal = (*status >> 16) == 0 ? WSTOPSIG(*status) & 0x7f : 0;
    if (ptrace(PTRACE_DETACH, tid, nullptr, static_cast<long>(signal)) == 0) {
      return true;
    }
  }
}

// The one thing here that outlives its StoppedProcess: threads that did not stop in time
// (uninterruptible). Per thread of ours, as tracing is.
std::vector<pid_t>& late_threads() {
  static thread_local std::vector<pid_t> tids;
  return tids;
}
constexpr uint64_t kWaitForLateMs = 500;

}  // namespace

size_t let_late_threads_go() {
  std::erase_if(late_threads(), [](pid_t tid) { return let_go_when_stopped(tid, 0); });
  return late_threads().size();
}

// SIGCHLD, blocked while this lives: a stop of a tracee is then something that can be waited for.
namespace {
class BlockedChildSignal {
 public:
  BlockedChildSignal() {
    sigemptyset(&child_);
    sigaddset(&child_, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &child_, &before_);
  }
  ~BlockedChildSignal() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedChildSignal(const BlockedChildSignal&) = delete;
  BlockedChildSignal& operator=(const BlockedChildSignal&) = delete;
  // One that came before is enough. It may also be about something else: the caller looks again.
  void wait(long at_most_ns) const {
    const timespec limit = {0, at_most_ns};
    sigtimedwait(&child_, nullptr, &limit);
  }

 private:
  sigset_t child_, before_;
};
}  // namespace

bool Patience::is_over(uint64_t looked_at_ns) {
  constexpr uint64_t kTurnNs = 15'000'000'000;
  constexpr uint64_t kAsleepNs = 100'000'000;
  constexpr unsigned kLooksAsleep = 10;
  if (looked_at_ns <= deadline_ns_) {
    return false;
  }
  if (deadline_ns_ == 0 || looked_at_ns > deadline_ns_ + kTurnNs) {
    return true;
  }
  const auto thread = read_status(tid_);
  const bool is_asleep = !thread || thread->is_zombie() || thread->state == 'D' ||
                         (thread->state == 'S' && what_ == Awaited::kEndOfCall);
  if (!is_asleep) {
    looks_asleep_ = 0;
    return false;
  }
  if (looks_asleep_++ == 0) {
    asleep_since_ns_ = looked_at_ns;
  }
  return looks_asleep_ > kLooksAsleep && looked_at_ns - asleep_since_ns_ > kAsleepNs;
}

Result<int> wait_for_stop(pid_t tid, uint64_t deadline_ns, unsigned spins, Awaited what) {
  // Most stops come within microseconds, when the other CPU is free. Then we sleep: whoever stops needs our CPU, and a
  // thread that yields again and again on a busy machine waits for everybody else's time slice each time.
  constexpr long kLookAgainNs = 2000000;  // the signal may have gone to another thread of ours
  std::optional<BlockedChildSignal> signal;
  Patience patience(tid, what, deadline_ns);
  for (unsigned round = 0;; ++round) {
    // Looked at before the thread is: we too may wait for our turn in between.
    const uint64_t time = round == 0 || round >= spins ? monotonic_ns() : 0;
    int status = 0;
    const pid_t got = waitpid(tid, &status, __WALL | WNOHANG);
    if (got == tid) {
      return status;
    }
    if (got < 0 && errno != EINTR) {
      return make_error(ESRCH, "the thread has ended");
    }
    if (time != 0 && patience.is_over(time)) {
      return make_error(ETIMEDOUT, "a thread does not stop in time (uninterruptible sleep)");
    }
    if (round < spins) {
      __builtin_ia32_pause();
      continue;
    }
    if (!signal) {
      signal.emplace();
      continue;  // once more: what came before it was blocked is gone
    }
    if (round % 8 == 0) {
      const auto process = read_status(tid);
      if (process && process->is_zombie()) {
        return make_error(EAGAIN, "a main thread that ended before the others");
      }
    }
    signal->wait(kLookAgainNs);
  }
}

Result<void> seize_thread(pid_t pid, pid_t tid, long options) {
  if (ptrace(PTRACE_SEIZE, tid, nullptr, options) == 0) {
    return {};
  }
  if (errno == ESRCH) {
    return make_error(ESRCH, "the thread has ended");
  }
  if (errno == EPERM) {
    // Also the answer for a thread that has ended and is not yet reaped.
    const auto status = read_thread_status(pid, tid);
    if (!status || status->is_zombie()) {
      return make_error(ESRCH, "the thread has ended");
    }
    if (std::erase(late_threads(), tid) != 0) {
      // Ours, from an earlier try that it did not stop for in time.
      if (!let_go_when_stopped(tid, deadline_in_ms(kWaitForLateMs))) {
        late_threads().push_back(tid);
        return make_error(ETIMEDOUT, "a thread does not stop in time (uninterruptible sleep)");
      }
      if (ptrace(PTRACE_SEIZE, tid, nullptr, options) == 0) {
        return {};
      }
      return make_error(errno == EPERM ? ESRCH : errno, "PTRACE_SEIZE");
    }
    return why_not_permitted(pid);
  }
  return make_error(errno, "PTRACE_SEIZE");
}

Result<HeldThread> held_from_status(pid_t tid, int status) {
  if (!WIFSTOPPED(status)) {
    return make_error(ESRCH, "the thread has ended");
  }
  HeldThread thread = {};
  thread.tid = tid;
  const int event = status >> 16;
  thread.is_exiting = event == PTRACE_EVENT_EXIT;
  thread.signal = event == 0 ? WSTOPSIG(status) & 0x7f : 0;
  if (ptrace(PTRACE_GETREGS, tid, nullptr, &thread.registers) != 0) {
    return make_error(errno, "PTRACE_GETREGS");
  }
  if (!thread.is_exiting && static_cast<long>(thread.registers.rax) == -EINTR &&
      ends_with_eintr(static_cast<long>(thread.registers.orig_rax))) {
    thread.registers.rax = static_cast<unsigned long>(kRestartNoHand);
    if (ptrace(PTRACE_SETREGS, tid, nullptr, &thread.registers) != 0) {
      return make_error(errno, "PTRACE_SETREGS");
    }
  }
  return thread;
}

long interrupted_syscall(const StoppedProcess& process, const Registers& registers) {
  const auto number = static_cast<long>(registers.orig_rax);
  std::byte code[7];  // b8 imm32 0f 05
  if (number == SYS_restart_syscall &&
      process.read(RemoteAddr{registers.rip - sizeof code}, code) && code[0] == std::byte{0xb8} &&
      code[5] == std::byte{0x0f} && code[6] == std::byte{0x05}) {
    int32_t original = 0;
    std::memcpy(&original, code + 1, sizeof original);
    return original;
  }
  return number;
}

Result<void> open_memory(StoppedProcess::State& state) {
  // Through a thread: a main thread that has ended has no memory any more.
  for (const HeldThread& thread : state.threads) {
    if (!thread.is_exiting) {
      state.memory_tid = thread.tid;
      break;
    }
  }
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/task/%d/mem", state.pid, state.memory_tid);
  state.memory.reset(open(path, O_RDWR | O_CLOEXEC));
  if (!state.memory) {
    return make_error(errno == ENOENT ? ESRCH : errno, "cannot open the process's memory");
  }
  return {};
}

HeldThread* StoppedProcess::State::find(pid_t tid) {
  for (HeldThread& thread : threads) {
    if (thread.tid == tid) {
      return &thread;
    }
  }
  return nullptr;
}

StoppedProcess::State::~State() {
  for (const HeldThread& thread : threads) {
    if (ptrace(PTRACE_DETACH, thread.tid, nullptr, static_cast<long>(thread.signal)) != 0) {
      undone.push_back(thread.tid);
    }
  }
  // A main thread's end is told only after that of all others, which have to be taken note of
  // first.
  const uint64_t deadline = deadline_in_ms(100);
  const auto not_main = [&](pid_t tid) { return tid != pid; };
  std::stable_partition(undone.begin(), undone.end(), not_main);
  while (!undone.empty()) {
    std::erase_if(undone, [&](pid_t tid) { return let_go_when_stopped(tid, deadline); });
    if (monotonic_ns() > deadline) {
      break;
    }
  }
  late_threads().insert(late_threads().end(), undone.begin(), undone.end());
  if (stop_afterwards) {
    kill(pid, SIGSTOP);
  }
}

Result<void> hold_all(StoppedProcess::State& state, uint64_t deadline_ns) {
  std::vector<pid_t> ended;  // seen as ended while still listed
  for (;;) {
    const std::vector<pid_t> listed = TRY(read_threads(state.pid));
    std::vector<pid_t> fresh;
    for (const pid_t tid : listed) {
      if (state.find(tid) != nullptr || std::find(ended.begin(), ended.end(), tid) != ended.end()) {
        continue;
      }
      const auto seized = seize_thread(state.pid, tid, kBaseOptions);
      if (!seized) {
        if (seized.error().code == ESRCH) {
          ended.push_back(tid);
          continue;
        }
        state.undone.insert(state.undone.end(), fresh.begin(), fresh.end());
        return seized.error();
      }
      ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr);
      fresh.push_back(tid);
    }
    if (fresh.empty()) {
      break;  // every listed thread is stopped: nobody is left to make another
    }
    for (size_t i = 0; i < fresh.size(); ++i) {
      const auto status = wait_for_stop(fresh[i], deadline_ns);
      if (!status && status.error().code == ETIMEDOUT) {
        state.undone.insert(state.undone.end(), fresh.begin() + static_cast<long>(i), fresh.end());
        return status.error();
      }
      if (!status || !WIFSTOPPED(*status)) {
        if (!status && status.error().code == EAGAIN) {
          state.undone.push_back(fresh[i]);
        }
        ended.push_back(fresh[i]);
        continue;
      }
      auto thread = held_from_status(fresh[i], *status);
      if (!thread) {
        state.undone.push_back(fresh[i]);  // killed between its stop and now
        ended.push_back(fresh[i]);
        continue;
      }
      state.threads.push_back(*thread);
    }
  }
  const auto runs = [](const HeldThread& thread) { return !thread.is_exiting; };
  if (std::none_of(state.threads.begin(), state.threads.end(), runs)) {
    return make_error(ESRCH, "the process has ended");
  }
  std::sort(state.threads.begin(), state.threads.end(),
            [&](const HeldThread& a, const HeldThread& b) {
              return (a.tid != state.pid) < (b.tid != state.pid);
            });
  state.is_whole = true;
  return {};
}

StoppedProcess::StoppedProcess(std::unique_ptr<State> state) : state_(std::move(state)) {}
StoppedProcess::~StoppedProcess() = default;
StoppedProcess::StoppedProcess(StoppedProcess&&) noexcept = default;
StoppedProcess& StoppedProcess::operator=(StoppedProcess&&) noexcept = default;

Result<StoppedProcess> StoppedProcess::stop(pid_t pid, uint64_t deadline_ns) {
  let_late_threads_go();
  auto state = std::make_unique<State>();
  state->pid = pid;
  TRY(hold_all(*state, deadline_ns));
  TRY(open_memory(*state));
  return StoppedProcess(std::move(state));
}

Result<StoppedProcess> StoppedProcess::borrow(pid_t pid, pid_t tid, uint64_t deadline_ns) {
  let_late_threads_go();
  auto state = std::make_unique<State>();
  state->pid = pid;
  TRY(seize_thread(pid, tid, kBaseOptions));
  ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr);
  const auto status = wait_for_stop(tid, deadline_ns);
  if (!status) {
    state->undone.push_back(tid);
    if (status.error().code == ETIMEDOUT) {
      return status.error();
    }
    return make_error(ESRCH, "the thread has ended");
  }
  auto thread = held_from_status(tid, *status);
  if (!thread) {
    if (WIFSTOPPED(*status)) {
      state->undone.push_back(tid);
    }
    return make_error(ESRCH, "the thread has ended");
  }
  state->threads.push_back(*thread);
  if (thread->is_exiting) {
    return make_error(ESRCH, "the thread has ended");
  }
  TRY(open_memory(*state));
  return StoppedProcess(std::move(state));
}

pid_t StoppedProcess::pid() const { return state_->pid; }

std::vector<pid_t> StoppedProcess::threads() const {
  std::vector<pid_t> tids;
  for (const HeldThread& thread : state_->threads) {
    if (!thread.is_exiting) {
      tids.push_back(thread.tid);
    }
  }
  return tids;
}

Result<Registers> StoppedProcess::registers(pid_t tid) const {
  const HeldThread* thread = state_->find(tid);
  if (thread == nullptr) {
    return make_error(ESRCH, "not a held thread");
  }
  return thread->registers;
}

Result<void> StoppedProcess::set_registers(pid_t tid, const Registers& registers) {
  HeldThread* thread = state_->find(tid);
  if (thread == nullptr) {
    return make_error(ESRCH, "not a held thread");
  }
  if (ptrace(PTRACE_SETREGS, tid, nullptr, &registers) != 0) {
    return make_error(errno, "PTRACE_SETREGS");
  }
  thread->registers = registers;
  return {};
}

Result<uint64_t> StoppedProcess::signal_mask(pid_t tid) const {
  uint64_t mask = 0;
  if (ptrace(PTRACE_GETSIGMASK, tid, sizeof mask, &mask) != 0) {
    return make_error(errno, "PTRACE_GETSIGMASK");
  }
  return mask;
}

Result<void> StoppedProcess::set_signal_mask(pid_t tid, uint64_t mask) {
  if (ptrace(PTRACE_SETSIGMASK, tid, sizeof mask, &mask) != 0) {
    return make_error(errno, "PTRACE_SETSIGMASK");
  }
  return {};
}

namespace {

Result<uint32_t> move_all(StoppedProcess& process, std::span<const Patch> patches, bool back) {
  StoppedProcess::State& state = process.state();
  std::vector<std::pair<pid_t, Registers>> moves;
  for (const HeldThread& thread : state.threads) {
    if (thread.is_exiting) {
      continue;
    }
    for (const Patch& patch : patches) {
      const uint64_t to = moved_ip(thread.registers, patch, back);
      if (to == 0) {
        return make_error(EFAULT, "a thread stands in the middle of an instruction of the patch");
      }
      if (to != kUntouched) {
        moves.emplace_back(thread.tid, thread.registers);
        moves.back().second.rip = to;
        break;
      }
    }
  }
  for (const auto& [tid, registers] : moves) {
    const auto moved = process.set_registers(tid, registers);
    if (!moved && moved.error().code != ESRCH) {  // killed: it needs no ip any more
      return moved.error();
    }
  }
  return static_cast<uint32_t>(moves.size());
}

Result<void> write_all(StoppedProcess& process, std::span<const Patch> patches, bool after) {
  for (const Patch& patch : patches) {
    std::byte now[16];
    const auto expected = site_bytes(patch, !after);
    TRY(process.read(patch.site, std::span(now, expected.size())));
    if (std::memcmp(now, expected.data(), expected.size()) != 0) {
      return make_error(ESTALE, "the code to be patched is not what it was");
    }
  }
  for (const Patch& patch : patches) {
    TRY(process.write(patch.site, site_bytes(patch, after)));
  }
  return {};
}

}  // namespace

Result<uint32_t> StoppedProcess::move_ips(std::span<const Patch> patches) {
  return move_all(*this, patches, false);
}
Result<uint32_t> StoppedProcess::move_ips_back(std::span<const Patch> patches) {
  return move_all(*this, patches, true);
}
Result<void> StoppedProcess::write_patches(std::span<const Patch> patches) {
  return write_all(*this, patches, true);
}
Result<void> StoppedProcess::restore_patches(std::span<const Patch> patches) {
  return write_all(*this, patches, false);
}

namespace {
ssize_t vm_read(pid_t pid, RemoteAddr from, std::span<std::byte> to) {
  const iovec local = {to.data(), to.size()};
  // SAFETY: an address in another process, only handed to the kernel.
  const iovec remote = {reinterpret_cast<void*>(raw(from)), to.size()};
  return process_vm_readv(pid, &local, 1, &remote, 1, 0);
}
}  // namespace

Result<void> read_memory(pid_t pid, RemoteAddr from, std::span<std::byte> to) {
  const ssize_t got = vm_read(pid, from, to);
  if (got < 0) {
    return make_error(errno, "cannot read the process's memory");
  }
  if (static_cast<size_t>(got) != to.size()) {
    return make_error(EFAULT, "address not readable in the process");
  }
  return {};
}

Result<void> write_memory(pid_t pid, RemoteAddr to, uint64_t value) {
  const iovec local = {&value, sizeof value};
  // SAFETY: as above.
  const iovec remote = {reinterpret_cast<void*>(raw(to)), sizeof value};
  if (process_vm_writev(pid, &local, 1, &remote, 1, 0) != sizeof value) {
    return make_error(errno, "cannot write the process's memory");
  }
  return {};
}

size_t read_memory_part(pid_t pid, RemoteAddr from, std::span<std::byte> to) {
  return static_cast<size_t>(std::max<ssize_t>(vm_read(pid, from, to), 0));
}

Result<void> StoppedProcess::read(RemoteAddr from, std::span<std::byte> to) const {
  if (to.empty()) {
    return {};
  }
  const auto quick = read_memory(state_->memory_tid, from, to);
  if (quick) {
    return {};
  }
  // Memory without PROT_READ (execute-only text) is readable to a tracer through /proc/PID/mem.
  const ssize_t got =
      pread(state_->memory.get(), to.data(), to.size(), static_cast<off_t>(raw(from)));
  if (got != static_cast<ssize_t>(to.size())) {
    return make_error(quick.error().code == ESRCH ? ESRCH : EFAULT,
                      "address not readable in the process");
  }
  return {};
}

Result<void> StoppedProcess::write(RemoteAddr to, std::span<const std::byte> from) {
  // SAFETY: the kernel writes through page protection here but never into shared file pages.
  size_t done = 0;
  while (done < from.size()) {
    const ssize_t put = pwrite(state_->memory.get(), from.data() + done, from.size() - done,
                               static_cast<off_t>(raw(to) + done));
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0) {
      return make_error(errno == EIO ? EFAULT : errno, "cannot write the process's memory");
    }
    if (put == 0) {
      return make_error(ESRCH, "the process's memory is gone (ended, or exec)");
    }
    done += static_cast<size_t>(put);
  }
  return {};
}

Result<void> StoppedProcess::write_code(RemoteAddr to, std::span<const std::byte> before,
                                        std::span<const std::byte> after) {
  if (before.size() != after.size()) {
    return make_error(EINVAL, "write_code: lengths differ");
  }
  std::vector<std::byte> now(before.size());
  TRY(read(to, now));
  if (!std::equal(now.begin(), now.end(), before.begin())) {
    return make_error(ESTALE, "the code to be written is not what it was");
  }
  return write(to, after);
}

void StoppedProcess::release() {
  if (state_ != nullptr) {
    state_ = std::make_unique<State>();
  }
}

}  // namespace bpftime
