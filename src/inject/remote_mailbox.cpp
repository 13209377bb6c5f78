// RemoteThread with a thread that works on its mailbox: set to work, given calls, stopped again.
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "inject/mailbox.hpp"
#include "inject/process_maps.hpp"
#include "inject/remote_call.hpp"
#include "inject/signal_frame.hpp"
#include "inject/stopped_state.hpp"

namespace bpftime {
namespace {

using Region = MailboxRegion;
constexpr unsigned kSpins = 24;  // looks at the mailbox before we sleep
constexpr int kLookAgainMs = 2;  // whether the thread has stopped instead
constexpr timespec kPause = {0, 20000};

bool has_failed(uint64_t result) { return result > ~uint64_t{4095}; }

// A hint for mmap: far from where programs and the kernel put things (holes near code are planned for other ends), and
// not to be foretold.
uint64_t somewhere() {
  constexpr uint64_t kLowest = 1ULL << 40;
  uint32_t pages = 0;
  (void)getrandom(&pages, sizeof pages, GRND_NONBLOCK);
  return kLowest + pages * Region::kPage;
}

// SAFETY: an address of the target, only handed to the kernel.
iovec there(uint64_t at, size_t bytes) { return {reinterpret_cast<void*>(at), bytes}; }

iovec ours(const void* at, size_t bytes) { return {const_cast<void*>(at), bytes}; }

bool read_whole(pid_t tid, uint64_t at, void* to, size_t bytes) {
  const iovec here = ours(to, bytes);
  const iovec from = there(at, bytes);
  return process_vm_readv(tid, &here, 1, &from, 1, 0) == static_cast<ssize_t>(bytes);
}

}  // namespace

std::vector<std::pair<RemoteAddr, uint64_t>> RemoteThread::left_behind(pid_t pid) {
  std::vector<std::pair<RemoteAddr, uint64_t>> found;
  const auto maps = read_maps(pid);
  if (!maps) {
    return found;
  }
  std::byte code[256];
  const auto own = mailbox_code().first(std::min(sizeof code, mailbox_code().size()));
  for (size_t i = 0; i + 1 < maps->size(); i++) {
    const Mapping& m = (*maps)[i];
    const Mapping& rest = (*maps)[i + 1];
    if (m.path.empty() && m.prot == (PROT_READ | PROT_EXEC) && m.end - m.begin == Region::kPage &&
        rest.path.empty() && rest.begin == m.end && rest.end - m.begin == Region::kBytes &&
        read_memory(pid, RemoteAddr{m.begin}, std::span(code, own.size())) &&
        (std::memcmp(code, own.data(), own.size()) == 0 ||
         std::all_of(code, code + own.size(), [](std::byte b) { return b == std::byte{0}; }))) {
      found.emplace_back(RemoteAddr{m.begin}, Region::kBytes);
    }
  }
  const auto threads =
      found.empty() ? Result<std::vector<pid_t>>(std::vector<pid_t>()) : read_threads(pid);
  if (!threads || std::any_of(threads->begin(), threads->end(), [&](pid_t tid) {
        const auto status = read_thread_status(pid, tid);
        return status && status->tracer != 0;
      })) {
    return {};
  }
  return found;
}

// Maps the region. Whether code may run there: where it may not (no executable anonymous memory) it is scratch memory only.
Result<bool> RemoteThread::map_region() {
  if (region_ == 0) {
    const uint64_t region =
        TRY(drive(SYS_mmap, {somewhere(), Region::kBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ~uint64_t{0}, 0}));
    if (has_failed(region)) {
      return make_error(ENOMEM, "no memory in the target");
    }
    region_ = region;
  }
  tried_mailbox_ = true;
  const uint64_t code =
      TRY(drive(SYS_mmap, {region_, Region::kPage, PROT_READ | PROT_EXEC,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~uint64_t{0}, 0}));
  if (xstate_.empty()) {
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  return !has_failed(code);
}

// A socket pair whose end with us is closed by the kernel when we die: then the thread takes itself back. (Without one it
// does not sleep but yields.) Returns the number of the target's copy of our end, to be closed there; -1: no pair.
Result<int> RemoteThread::open_lifeline() {
  const RemoteAddr scratch{region_ + Region::kScratchAt};
  if (has_failed(TRY(
          drive(SYS_socketpair, {AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, raw(scratch), 0, 0})))) {
    return -1;
  }
  const auto pair = TRY((process_->read_value<std::pair<int, int>>(scratch)));
  lifeline_ = pair.first;
  if (auto ours = take_fd(process_->pid(), pair.second)) {
    our_lifeline_ = std::move(*ours);
  }
  return pair.second;
}

// What the mailbox's code starts with.
Result<void> RemoteThread::write_mailbox() {
  Mailbox mailbox = {};
  mailbox.frame = region_ + Region::kFrameAt + 8;  // rt_sigreturn looks 8 below the stack pointer
  mailbox.lifeline = our_lifeline_ ? lifeline_ : -1;
  mailbox.spins = turns_.shares_cpu() ? 1 : 100;
  if (driven_sp_ != 0) {
    mailbox.syscall_ret = syscall_ip_;
    mailbox.return_sp = driven_sp_;
    mailbox.region = region_;
    mailbox.region_bytes = Region::kBytes;
  }
  return process_->write_value(RemoteAddr{region_ + Region::kMailboxAt}, mailbox);
}

// Maps the region and sets the thread to work on its mailbox; where no code may run there, calls are driven on.
Result<void> RemoteThread::start_mailbox() {
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  if (tried_mailbox_ || !TRY(map_region())) {
    return {};
  }
  StoppedProcess& process = *process_;
  // SAFETY: the code is position independent and ends in a loop; only this thread runs it.
  TRY(process.write(RemoteAddr{region_}, mailbox_code()));
  TRY(process.write(RemoteAddr{region_ + Region::kFrameAt},
                    signal_frame(saved_, interrupted_syscall(process, saved_), saved_mask_,
                                 region_ + Region::kXstateAt)));
  TRY(process.write(RemoteAddr{region_ + Region::kXstateAt}, signal_frame_xstate(xstate_)));
  const int to_close = TRY(open_lifeline());
  TRY(write_mailbox());

  Registers registers = saved_;
  registers.rax = to_close < 0 ? SYS_getpid : SYS_close;
  registers.rdi = static_cast<uint64_t>(to_close);
  registers.rip = region_;
  registers.rbx = region_ + Region::kMailboxAt;
  registers.rbp = 0;
  registers.rsp = region_ + Region::kStackTop;
  registers.orig_rax = ~0UL;
  registers.eflags = kFlagsKept;
  if (ptrace(PTRACE_SETREGS, tid_, nullptr, &registers) != 0 ||
      ptrace(PTRACE_CONT, tid_, nullptr, nullptr) != 0) {
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  has_run_ = has_mailbox_ = true;
  sequence_ = 0;
  return {};
}

// What may happen to the thread while it runs on its mailbox. An error: it does so no longer.
Result<void> RemoteThread::see_stop(int status) {
  if (!WIFSTOPPED(status) || status >> 16 == PTRACE_EVENT_EXIT) {
    has_mailbox_ = false;
    return forget(make_error(ESRCH, "the process has ended"));
  }
  if (status >> 16 == 0) {
    if (WSTOPSIG(status) != SIGSTOP) {
      has_mailbox_ = false;
      return make_error(EFAULT, "the called function faulted");
    }
    process_->state().stop_afterwards = true;
  }
  ptrace(PTRACE_CONT, tid_, nullptr, nullptr);
  return {};
}

// The number that says "new" is written last.
Result<void> RemoteThread::write_calls(const PostedCalls& posted) {
  const uint32_t sequence = ++sequence_;
  const auto count = static_cast<uint32_t>(posted.all.size());
  const uint64_t at = region_ + Region::kMailboxAt;
  const iovec from[3] = {ours(posted.all.data(), posted.bytes()), ours(&count, 4),
                         ours(&sequence, 4)};
  const iovec to[3] = {there(region_ + Region::kCallsAt, posted.bytes()),
                       there(at + offsetof(Mailbox, count), 4), there(at, 4)};
  if (process_vm_writev(tid_, from, 3, to, 3, 0) != static_cast<ssize_t>(posted.bytes() + 8)) {
    has_mailbox_ = false;
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  return {};
}

// Has the thread stopped instead of working?
Result<void> RemoteThread::look_for_stop() {
  int status = 0;
  const pid_t got = waitpid(tid_, &status, __WALL | WNOHANG);
  if (got < 0) {
    has_mailbox_ = false;
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  return got == tid_ ? see_stop(status) : Result<void>();
}

// A call does not return: the thread is stopped in it.
Error RemoteThread::call_off() {
  has_mailbox_ = false;
  ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
  if (!wait_for_stop(tid_, deadline_in_ms(200))) {
    return forget(make_error(ETIMEDOUT, "the thread does not stop")).error();
  }
  return make_error(ETIMEDOUT, "a call in the target does not return in time");
}

// The thread needs a CPU, perhaps ours: we sleep until it says that it is done. *is_announced: it knows that it is to say
// so; when it is told just now, there is first another look.
void RemoteThread::sleep_until_told(bool* is_announced) {
  if (!our_lifeline_ || lifeline_ < 0) {
    nanosleep(&kPause, nullptr);
    return;
  }
  if (!*is_announced) {
    *is_announced = true;
    const uint32_t yes = 1;
    (void)process_->write_value(
        RemoteAddr{region_ + Region::kMailboxAt + offsetof(Mailbox, is_waited_for)}, yes);
    return;
  }
  pollfd lifeline = {our_lifeline_.get(), POLLIN, 0};
  char bytes[64];
  if (poll(&lifeline, 1, kLookAgainMs) > 0) {
    const ssize_t got = recv(our_lifeline_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
    *is_announced = got <= 0;
    if (got == 0) {  // somebody has closed the target's end
      nanosleep(&kPause, nullptr);
    }
  }
}

Result<void> RemoteThread::await_results(PostedCalls* posted) {
  bool is_woken = false, is_announced = false;
  Patience patience(tid_, Awaited::kEndOfCall, deadline_ns_);
  const unsigned looks = turns_.shares_cpu() ? 0 : kSpins;
  for (unsigned round = 0;; ++round) {
    const uint64_t looked_at = monotonic_ns();
    Mailbox now;
    const bool is_there = read_whole(tid_, region_ + Region::kMailboxAt, &now, sizeof now);
    if (is_there && now.done == sequence_ &&
        read_whole(tid_, region_ + Region::kCallsAt, posted->all.data(), posted->bytes())) {
      return {};
    }
    if (is_there && now.sleeping != 0 && !is_woken) {
      is_woken = true;  // (awake already? then its next read returns early, once)
      (void)send(our_lifeline_.get(), "w", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    if (!is_there || (round >= looks && round > 0) || round % 16 == 15) {
      TRY(look_for_stop());
      if (patience.is_over(looked_at)) {
        return call_off();
      }
    }
    if (round >= looks) {
      sleep_until_told(&is_announced);
    }
  }
}

// As many of the calls as there is room for; returns how many.
Result<size_t> RemoteThread::post(std::span<const RemoteCalls::Call> calls,
                                  std::vector<uint64_t>* results) {
  PostedCalls posted = posted_calls(calls, region_);
  TRY(write_calls(posted));
  TRY(await_results(&posted));
  for (const size_t i : posted.places) {
    results->push_back(posted.all[i].result);
  }
  return posted.places.size();
}

// The thread stops again, so that it can be driven. Its lifeline stays until then.
Result<void> RemoteThread::stop_mailbox() {
  if (!has_mailbox_) {
    return {};
  }
  ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
  while (has_mailbox_) {
    const auto status = wait_for_stop(tid_, std::max(deadline_ns_, deadline_in_ms(200)), spins());
    if (!status) {
      has_mailbox_ = false;
      return forget(make_error(ESRCH, "the process has ended"));
    }
    // With SIGSTOP and the like instead of SIGTRAP in a process that a signal has stopped.
    if (WIFSTOPPED(*status) && *status >> 16 == PTRACE_EVENT_STOP) {
      has_mailbox_ = false;
      break;
    }
    const auto seen = see_stop(*status);
    if (!seen) {
      return seen.error().code == EFAULT ? Result<void>() : seen;
    }
    ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
  }
  return {};
}

}  // namespace bpftime
