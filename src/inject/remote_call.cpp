#include "inject/remote_call.hpp"

#include <elf.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "inject/process_maps.hpp"
#include "inject/stopped_state.hpp"

// The code of a thread that works on its mailbox (rbx; struct Mailbox below, its calls a page further). rbp: the last
// lot of calls done. It looks for a new one for a short while, then sleeps in a read of its lifeline, which we
// wake; at its end (0 bytes: we have died) it returns to where it was.
__asm__(R"(
  .pushsection .rodata
  .balign 16
  .globl bpftime_mailbox_code, bpftime_mailbox_code_end
  .hidden bpftime_mailbox_code, bpftime_mailbox_code_end
bpftime_mailbox_code:
    syscall                   # closes the target's copy of our end of the lifeline
    movl $0x800000, %r14d     # rounds without a lifeline and without a request: seconds
1:  movl 64(%rbx), %r15d
2:  movl 0(%rbx), %eax
    cmpl %ebp, %eax
    jne 3f
    pause
    decl %r15d
    jnz 2b
    movl $1, 28(%rbx)         # sleeping; then once more whether there is something to do
    mfence
    movl 0(%rbx), %eax
    cmpl %ebp, %eax
    jne 6f
    movl 24(%rbx), %edi
    leaq 32(%rbx), %rsi
    movl $32, %edx
    xorl %eax, %eax           # read
    syscall
    testq %rax, %rax
    jz 7f
    jns 6f
    movl $24, %eax            # sched_yield: there is no lifeline yet, or somebody has closed it
    syscall
    decl %r14d
    jz 7f
6:  movl $0, 28(%rbx)
    jmp 1b
7:  movl 24(%rbx), %edi
    movl $3, %eax             # close: the lifeline
    syscall
    movq 72(%rbx), %rcx
    testq %rcx, %rcx
    jz 11f
    movq 80(%rbx), %rsp       # rcx: syscall; ret. rsp: there rt_sigreturn's caller, then the frame
    movq 88(%rbx), %rdi
    movq 96(%rbx), %rsi
    movl $11, %eax            # munmap: of this code too
    jmp *%rcx
11: movq 16(%rbx), %rsp
    movl $15, %eax            # rt_sigreturn
    syscall
3:  movl %eax, %ebp
    movl $0x800000, %r14d
    leaq 4096(%rbx), %r12
    movl 8(%rbx), %r13d
8:  testl %r13d, %r13d
    jz 5f
    movq 8(%r12), %rax
    movq 16(%r12), %rdi
    movq 24(%r12), %rsi
    movq 32(%r12), %rdx
    movq 40(%r12), %r10
    movq 48(%r12), %r8
    movq 56(%r12), %r9
    cmpq $-1, %rax            # no call: the 32-bit number at rdi becomes an argument of the next one, at rsi
    je 9f
    movq 0(%r12), %r11
    testq %r11, %r11
    jnz 4f
    syscall
    jmp 10f
4:  movq %r10, %rcx
    call *%r11
    jmp 10f
9:  movslq (%rdi), %rax
    movq %rax, (%rsi)
10: movq %rax, 64(%r12)
    addq $72, %r12
    decl %r13d
    jmp 8b
5:  movl %ebp, 4(%rbx)
    mfence                    # done; then whether somebody sleeps for it
    cmpl $0, 12(%rbx)
    je 1b
    movl $0, 12(%rbx)
    movl 24(%rbx), %edi
    leaq 32(%rbx), %rsi
    movl $1, %edx
    movl $0x4040, %r10d       # MSG_NOSIGNAL | MSG_DONTWAIT
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    movl $44, %eax            # sendto
    syscall
    jmp 1b
bpftime_mailbox_code_end:
  .popsection
)");
extern "C" const char bpftime_mailbox_code[], bpftime_mailbox_code_end[];

namespace bpftime {
namespace {

constexpr uint64_t kStackBytes = 128 << 10;  // for called functions: above the scratch page
constexpr size_t kXstateBytes = 16 << 10;    // AVX-512 needs 2.7 KB, AMX 11 KB
constexpr uint64_t kFlagsKept = 0x246;       // IF, ZF, PF and bit 1: DF, TF, AC clear (psABI 3.2.1)

// The region, from its start: code, scratch page for arguments, mailbox and way back, calls, vector state, stack.
constexpr uint64_t kPage = 4096;
constexpr uint64_t kScratchAt = kPage, kMailboxAt = 2 * kPage, kFrameAt = kMailboxAt + 1024;
constexpr uint64_t kCallsAt = kMailboxAt + kPage, kXstateAt = kCallsAt + kPage;
constexpr uint64_t kRegionBytes = kXstateAt + kXstateBytes + kPage + kStackBytes;
constexpr unsigned kSpins = 24;        // looks at the mailbox before we sleep
constexpr int kLookAgainMs = 2;        // whether the thread has stopped instead
constexpr uint32_t kDrivenAtMost = 2;  // then the mailbox pays (about four driven calls to set up)

struct Mailbox {
  uint32_t sequence, done, count;
  uint32_t is_waited_for;  // we sleep until a byte comes from the lifeline
  uint64_t frame;
  int32_t lifeline;
  uint32_t sleeping;
  char wake_bytes[32];
  uint32_t spins;  // looks for more before it sleeps; at least 1
  uint32_t reserved;
  uint64_t syscall_ret, return_sp, region,
      region_bytes;  // the way back that leaves nothing; 0: not known
};
static_assert(offsetof(Mailbox, syscall_ret) == 72 && offsetof(Mailbox, return_sp) == 80 &&
              offsetof(Mailbox, region) == 88 && offsetof(Mailbox, region_bytes) == 96);
static_assert(offsetof(Mailbox, spins) == 64 && offsetof(Mailbox, done) == 4 &&
              offsetof(Mailbox, count) == 8 && offsetof(Mailbox, is_waited_for) == 12 &&
              offsetof(Mailbox, frame) == 16 && offsetof(Mailbox, lifeline) == 24 &&
              offsetof(Mailbox, sleeping) == 28 && offsetof(Mailbox, wake_bytes) == 32);
// One call as the mailbox's code has it.
struct PostedCall {
  uint64_t function, number, args[6], result;
};
static_assert(offsetof(PostedCall, number) == 8 && offsetof(PostedCall, args) == 16 &&
              offsetof(PostedCall, result) == 64 && sizeof(PostedCall) == 72);
constexpr uint64_t kCopiesNumber = ~uint64_t{0};  // PostedCall::number that is no call
constexpr size_t kCallsAtOnce = kPage / sizeof(PostedCall);

// What rt_sigreturn reads. Kernel v6.12 arch/x86/include/uapi/asm/{ucontext,sigcontext}.h.
struct Frame {
  uint64_t return_address, flags, link, stack_at, stack_flags, stack_bytes;
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip,
      eflags;
  uint16_t cs, gs, fs, ss;
  uint64_t error, trap, old_mask, cr2, xstate, reserved[8], mask;
};
static_assert(offsetof(Frame, r8) == 8 + 40 && offsetof(Frame, mask) == 8 + 40 + 256);

std::vector<std::byte> frame_bytes(const Registers& from, long interrupted, uint64_t mask,
                                   const std::vector<std::byte>& xstate, uint64_t xstate_at) {
  Frame frame = {};
  frame.flags = 7;                 // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
  frame.stack_flags = 0x7fffffff;  // no such mode: sigaltstack stays as it is (restore_altstack)
  frame.r8 = from.r8, frame.r9 = from.r9, frame.r10 = from.r10, frame.r11 = from.r11;
  frame.r12 = from.r12, frame.r13 = from.r13, frame.r14 = from.r14, frame.r15 = from.r15;
  frame.rdi = from.rdi, frame.rsi = from.rsi, frame.rbp = from.rbp, frame.rbx = from.rbx;
  frame.rdx = from.rdx, frame.rax = from.rax, frame.rcx = from.rcx, frame.rsp = from.rsp;
  frame.rip = from.rip, frame.eflags = from.eflags;
  const auto result = static_cast<long>(from.rax);
  if (static_cast<long>(from.orig_rax) >= 0 && result <= -512 && result >= -516) {
    frame.rax = static_cast<uint64_t>(interrupted);  // the interrupted call again
    frame.rip = from.rip - 2;
  }
  frame.cs = static_cast<uint16_t>(from.cs);
  frame.ss = static_cast<uint16_t>(from.ss);
  frame.xstate = xstate.empty() ? 0 : xstate_at;
  frame.mask = mask;
  const auto bytes = std::as_bytes(std::span(&frame, 1));
  return {bytes.begin(), bytes.end()};
}

// The vector state as a signal frame has it: marked at byte 464 and behind its end (struct
// _fpx_sw_bytes).
std::vector<std::byte> framed_xstate(std::vector<std::byte> xstate) {
  if (xstate.size() < 576) {
    return xstate;
  }
  struct {
    uint32_t magic1, extended_bytes;
    uint64_t features;
    uint32_t bytes, padding[7];
  } mark = {};
  static_assert(sizeof mark == 48);
  std::memcpy(&mark.features, xstate.data() + 464, 8);  // as PTRACE_GETREGSET gives it
  const uint32_t magic2 = 0x46505845;
  mark.magic1 = 0x46505853;
  mark.bytes = static_cast<uint32_t>(xstate.size());
  mark.extended_bytes = mark.bytes + sizeof magic2;
  std::memcpy(xstate.data() + 464, &mark, sizeof mark);
  xstate.resize(xstate.size() + sizeof magic2);
  std::memcpy(xstate.data() + mark.bytes, &magic2, sizeof magic2);
  return xstate;
}

// Somewhere to run a system call from: two bytes, 0f 05 (Intel SDM 2B, SYSCALL).
Result<uint64_t> find_syscall_in(const StoppedProcess& process, uint64_t begin, uint64_t end) {
  constexpr uint64_t kChunk = 64 << 10;
  std::vector<std::byte> code;
  for (uint64_t at = begin; at < end; at += kChunk - 1) {
    code.resize(std::min(kChunk, end - at));
    TRY(process.read(RemoteAddr{at}, code));
    for (size_t i = 0; i + 1 < code.size(); ++i) {
      if (code[i] == std::byte{0x0f} && code[i + 1] == std::byte{0x05}) {
        return at + i;
      }
    }
  }
  return make_error(ENOENT, "no syscall instruction there");
}

Result<uint64_t> find_syscall_instruction(const StoppedProcess& process) {
  if (const auto auxv = read_auxv(process.pid())) {
    for (const auto& [key, value] : *auxv) {
      if (key == AT_SYSINFO_EHDR) {
        for (uint64_t page = value; page < value + 4 * kPage; page += kPage) {
          if (const auto found = find_syscall_in(process, page, page + kPage)) {
            return *found;
          }
        }
      }
    }
  }
  const std::vector<Mapping> maps = TRY(read_maps(process.pid()));
  for (const Mapping& mapping : maps) {
    if ((mapping.prot & PROT_EXEC) != 0 && mapping.path != "[vsyscall]") {
      if (const auto found = find_syscall_in(process, mapping.begin, mapping.end)) {
        return *found;
      }
    }
  }
  return make_error(ENOENT, "no syscall instruction in the process");
}

// Code of the process that a driven call can come back through: `syscall; ret`, and what a signal handler returns to,
// `mov $15, %rax; syscall` (rt_sigreturn), which every C library has.
struct WayBack {
  uint64_t syscall_ret = 0, sigreturn = 0;
};
constexpr uint8_t kSyscallRet[] = {0x0f, 0x05, 0xc3};
constexpr uint8_t kSigreturn[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};

bool has_code(const StoppedProcess& process, uint64_t at, std::span<const uint8_t> wanted) {
  std::byte code[16];
  return at != 0 && process.read(RemoteAddr{at}, std::span(code, wanted.size())) &&
         std::memcmp(code, wanted.data(), wanted.size()) == 0;
}

// Looking costs a millisecond the first time; then each file's offsets are known, and each process's addresses.
std::map<pid_t, WayBack>& known_ways_back() {
  static thread_local std::map<pid_t, WayBack> known;
  return known;
}

WayBack find_way_back(pid_t pid) {
  struct InFile {
    dev_t device;
    ino_t inode;
    uint64_t offset, end, syscall_ret, sigreturn;  // of the mapping; ~0: not there
  };
  static thread_local std::vector<InFile> files;
  const auto maps = read_maps(pid);
  WayBack way;
  if (!maps) {
    return way;
  }
  for (const Mapping& m : *maps) {
    const bool is_library = m.path.find("/libc.") != std::string::npos ||
                            m.path.find("/libc-") != std::string::npos ||
                            m.path.find("/ld-musl") != std::string::npos;
    const bool is_first = &m == &maps->front() || m.path == maps->front().path;  // a static program
    if ((m.prot & PROT_EXEC) == 0 || m.inode == 0 || (!is_library && !is_first) ||
        (way.syscall_ret != 0 && way.sigreturn != 0)) {
      continue;
    }
    auto known = std::find_if(files.begin(), files.end(), [&](const InFile& f) {
      return f.device == m.device && f.inode == m.inode && f.offset == m.offset &&
             f.end == m.offset + (m.end - m.begin);
    });
    if (known == files.end()) {
      InFile file = {m.device, m.inode, m.offset, m.offset + (m.end - m.begin), ~0ULL, ~0ULL};
      std::vector<std::byte> code(std::min<uint64_t>(m.end - m.begin, 32 << 20));
      if (read_memory(pid, RemoteAddr{m.begin}, code)) {
        const auto offset_of = [&](std::span<const uint8_t> wanted) -> uint64_t {
          const auto pattern = std::as_bytes(wanted);
          const auto at =
              std::search(code.begin(), code.end(),
                          std::boyer_moore_horspool_searcher(pattern.begin(), pattern.end()));
          return at == code.end() ? ~0ULL : static_cast<uint64_t>(at - code.begin());
        };
        file.syscall_ret = offset_of(kSyscallRet);
        file.sigreturn = offset_of(kSigreturn);
      }
      if (files.size() > 256) {
        files.clear();
      }
      files.push_back(file);
      known = std::prev(files.end());
    }
    if (way.syscall_ret == 0 && known->syscall_ret != ~0ULL) {
      way.syscall_ret = m.begin + known->syscall_ret;
    }
    if (way.sigreturn == 0 && known->sigreturn != ~0ULL) {
      way.sigreturn = m.begin + known->sigreturn;
    }
  }
  return way;
}

// Our calls must not meet a filter that kills. A filter that we run under ourselves has let us live
// so far.
Result<long> seccomp_option(pid_t pid, pid_t tid) {
  const ProcessStatus status = TRY(read_thread_status(pid, tid));
  if (status.seccomp == 0) {
    return 0L;
  }
  if (ptrace(PTRACE_SETOPTIONS, tid, nullptr, kBaseOptions | PTRACE_O_SUSPEND_SECCOMP) == 0) {
    return static_cast<long>(PTRACE_O_SUSPEND_SECCOMP);
  }
  const auto own = read_status(getpid());
  if (status.seccomp == 2 && own && own->seccomp == 2 &&
      own->seccomp_filters == status.seccomp_filters && status.seccomp_filters != 0) {
    return 0L;
  }
  return make_error(EACCES, "the process has a seccomp filter, which only root can suspend");
}

}  // namespace

void RemoteThread::look_before(pid_t pid) {
  auto& known = known_ways_back();
  if (known.size() > 1024) {
    known.clear();
  }
  known[pid] = find_way_back(pid);
}

Result<RemoteThread> RemoteThread::begin(StoppedProcess& process, pid_t tid, uint64_t deadline_ns) {
  StoppedProcess::State& state = process.state();
  if (tid == 0) {
    // One that was not just about to take a signal, if there is one.
    for (const HeldThread& thread : state.threads) {
      if (!thread.is_exiting && (tid == 0 || thread.signal == 0)) {
        tid = thread.tid;
        if (thread.signal == 0) {
          break;
        }
      }
    }
  }
  HeldThread* thread = state.find(tid);
  if (thread == nullptr || thread->is_exiting) {
    return make_error(ESRCH, "no thread to work with");
  }
  if (state.syscall_ip == 0) {
    state.syscall_ip = TRY(find_syscall_instruction(process));
  }
  const long options = kBaseOptions | PTRACE_O_TRACESYSGOOD | TRY(seccomp_option(state.pid, tid));
  const uint64_t mask = TRY(process.signal_mask(tid));
  if (ptrace(PTRACE_SETOPTIONS, tid, nullptr, options) != 0) {
    return make_error(errno, "PTRACE_SETOPTIONS");
  }

  RemoteThread remote;
  remote.process_ = &process;
  remote.tid_ = tid;
  remote.deadline_ns_ = deadline_ns;
  remote.syscall_ip_ = state.syscall_ip;
  remote.saved_mask_ = mask;
  remote.saved_ = thread->registers;
  remote.shorten_slice();
  remote.go_where_it_runs();
  // From here ~RemoteThread puts everything back. No handler of the target runs while its thread
  // works for us: its signals are blocked with the first call.
  if (thread->signal != 0) {
    TRY(process.set_signal_mask(tid, ~uint64_t{0}));
    remote.is_blocked_ = true;
    // A signal is in our hands. Delivered while it is blocked, the kernel queues it again with its
    // siginfo (Kernel v6.12 kernel/signal.c: ptrace_signal) and comes to the trap that we ask for.
    // SIGSTOP cannot be blocked.
    int signal = thread->signal;
    if (signal == SIGSTOP) {
      state.stop_afterwards = true;
      signal = 0;
    }
    thread->signal = 0;
    ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr);
    if (ptrace(PTRACE_CONT, tid, nullptr, static_cast<long>(signal)) != 0) {
      return remote.forget(make_error(ESRCH, "the thread has ended")).error();
    }
    const int status = TRY(wait_for_stop(tid, deadline_ns));
    if (!WIFSTOPPED(status) || status >> 16 != PTRACE_EVENT_STOP) {
      return remote.forget(make_error(ESRCH, "the thread has ended")).error();
    }
  }
  return remote;
}

std::vector<std::pair<RemoteAddr, uint64_t>> RemoteThread::left_behind(pid_t pid) {
  std::vector<std::pair<RemoteAddr, uint64_t>> found;
  const auto maps = read_maps(pid);
  if (!maps) {
    return found;
  }
  std::byte code[256];
  const auto own_bytes =
      std::min(sizeof code, static_cast<size_t>(bpftime_mailbox_code_end - bpftime_mailbox_code));
  for (size_t i = 0; i + 1 < maps->size(); i++) {
    const Mapping& m = (*maps)[i];
    const Mapping& rest = (*maps)[i + 1];
    if (m.path.empty() && m.prot == (PROT_READ | PROT_EXEC) && m.end - m.begin == kPage &&
        rest.path.empty() && rest.begin == m.end && rest.end - m.begin == kRegionBytes &&
        read_memory(pid, RemoteAddr{m.begin}, std::span(code, own_bytes)) &&
        (std::memcmp(code, bpftime_mailbox_code, own_bytes) == 0 ||
         std::all_of(code, code + own_bytes, [](std::byte b) { return b == std::byte{0}; }))) {
      found.emplace_back(RemoteAddr{m.begin}, kRegionBytes);
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

RemoteThread::RemoteThread(RemoteThread&& other) noexcept
    : process_(std::exchange(other.process_, nullptr)),
      tid_(other.tid_),
      deadline_ns_(other.deadline_ns_),
      syscall_ip_(other.syscall_ip_),
      saved_mask_(other.saved_mask_),
      region_(other.region_),
      sequence_(other.sequence_),
      driven_(other.driven_),
      lifeline_(other.lifeline_),
      our_lifeline_(std::move(other.our_lifeline_)),
      xstate_(std::move(other.xstate_)),
      saved_(other.saved_),
      has_run_(other.has_run_),
      is_lost_(other.is_lost_),
      has_mailbox_(other.has_mailbox_),
      tried_mailbox_(other.tried_mailbox_),
      has_called_(other.has_called_),
      driven_sp_(other.driven_sp_),
      is_blocked_(other.is_blocked_),
      slice_ns_(std::exchange(other.slice_ns_, 0)),
      our_cpus_(std::move(other.our_cpus_)),
      shares_cpu_(other.shares_cpu_) {}

unsigned RemoteThread::spins() const { return shares_cpu_ ? 0 : kSpinsForStop; }

RemoteThread::~RemoteThread() { (void)finish(); }

namespace {
// struct sched_attr of sched_setattr(2), its first version.
struct SchedulingAttributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};
constexpr uint64_t kShortSliceNs = 100000;
}  // namespace

// While it works for us it is to run soon after it wakes, even where all CPUs are busy (Linux 6.12: sched_runtime of
// SCHED_OTHER is the time slice). Its share of the CPU stays what it is.
void RemoteThread::shorten_slice() {
  SchedulingAttributes now{};
  if (::syscall(SYS_sched_getattr, tid_, &now, sizeof now, 0) == 0 && now.policy == SCHED_OTHER &&
      now.runtime > kShortSliceNs) {
    slice_ns_ = std::exchange(now.runtime, kShortSliceNs);
    now.size = sizeof now;
    if (::syscall(SYS_sched_setattr, tid_, &now, 0) != 0) {
      slice_ns_ = 0;
    }
  }
}

namespace {
// Do more threads want to run than there are CPUs?
bool is_busy() {
  const auto load =
      read_text_file("/proc/loadavg");  // proc_loadavg(5): the fourth field is RUNNABLE/ALL
  const size_t slash = load ? load->find('/') : std::string::npos;
  const size_t begin = slash == std::string::npos ? slash : load->rfind(' ', slash);
  return begin != std::string::npos &&
         std::strtol(load->c_str() + begin, nullptr, 10) > sysconf(_SC_NPROCESSORS_ONLN);
}
}  // namespace

// We and the thread work in turns, never at once: on one CPU each turn is a plain switch, where waking it on another
// that is busy waits for that one's slice. So we go where it ran last; nothing of the target's is changed for that.
void RemoteThread::go_where_it_runs() {
  shares_cpu_ = is_busy();
  if (const auto threads = read_threads(process_->pid());
      !shares_cpu_ && (!threads || threads->size() < 2)) {
    return;  // nobody is in its way
  }
  const auto cpu = last_cpu(process_->pid(), tid_);
  auto before = std::make_unique<cpu_set_t>();
  cpu_set_t there;
  CPU_ZERO(&there);
  if (!cpu || *cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof *before, before.get()) != 0) {
    shares_cpu_ = false;
    return;
  }
  CPU_SET(*cpu, &there);
  if (sched_setaffinity(0, sizeof there, &there) == 0) {
    our_cpus_ = std::move(before);
  } else {
    shares_cpu_ = false;
  }
}

void RemoteThread::restore_slice() {
  if (our_cpus_) {
    (void)sched_setaffinity(0, sizeof *our_cpus_, our_cpus_.get());
    our_cpus_.reset();
  }
  SchedulingAttributes now{};
  if (slice_ns_ != 0 && ::syscall(SYS_sched_getattr, tid_, &now, sizeof now, 0) == 0 &&
      now.policy == SCHED_OTHER) {
    now.runtime = slice_ns_;
    now.size = sizeof now;
    ::syscall(SYS_sched_setattr, tid_, &now, 0);
  }
  slice_ns_ = 0;
}

// The thread is ending, or does not answer: it is not put back.
Result<void> RemoteThread::forget(Error why) {
  is_lost_ = true;
  if (HeldThread* thread = process_->state().find(tid_)) {
    thread->is_exiting = true;
    thread->signal = 0;
  }
  return why;
}

Result<Registers> RemoteThread::run_to_syscall_stop() {
  has_run_ = true;
  for (;;) {
    if (is_lost_) {
      return make_error(ESRCH, "the thread has ended");
    }
    if (ptrace(PTRACE_SYSCALL, tid_, nullptr, nullptr) != 0) {
      return forget(make_error(ESRCH, "the thread has ended")).error();
    }
    const auto status = wait_for_stop(tid_, deadline_ns_, spins(), Awaited::kEndOfCall);
    if (!status && status.error().code == ETIMEDOUT) {
      // It waits for something (a lock of the loader): called off, finish() puts it back to where
      // it was.
      ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
      if (!wait_for_stop(tid_, deadline_in_ms(200))) {
        return forget(status.error()).error();
      }
      return status.error();
    }
    if (!status || !WIFSTOPPED(*status) || *status >> 16 == PTRACE_EVENT_EXIT) {
      return forget(make_error(ESRCH, "the process has ended")).error();
    }
    if (*status >> 16 == 0 && WSTOPSIG(*status) == (SIGTRAP | 0x80)) {
      Registers registers;
      if (ptrace(PTRACE_GETREGS, tid_, nullptr, &registers) != 0) {
        return forget(make_error(ESRCH, "the process has ended")).error();
      }
      return registers;
    }
    if (*status >> 16 == 0) {
      const int signal = WSTOPSIG(*status);
      if (signal == SIGSTOP) {
        process_->state().stop_afterwards = true;  // later, not in the middle
      } else {
        // All others are blocked: this is a fault of the code that we called.
        return make_error(EFAULT, "the called function faulted");
      }
    }
    // A trap for job control (SIGCONT, group stop of others): not for this thread now.
  }
}

// What the thread needs to come back without us, on its own stack.
void RemoteThread::prepare_way_back() {
  if (!xstate_.empty()) {
    return;
  }
  StoppedProcess& process = *process_;
  xstate_.resize(kXstateBytes);
  iovec range = {xstate_.data(), xstate_.size()};
  if (ptrace(PTRACE_GETREGSET, tid_, NT_X86_XSTATE, &range) != 0) {
    xstate_.clear();
    return;
  }
  xstate_.resize(range.iov_len);
  WayBack way = known_ways_back()[process.pid()];
  if (!has_code(process, way.syscall_ret, kSyscallRet) ||
      !has_code(process, way.sigreturn, kSigreturn)) {
    look_before(process.pid());
    way = known_ways_back()[process.pid()];
    if (way.syscall_ret == 0 || way.sigreturn == 0) {
      return;
    }
  }
  // Go's arenas, with the small stacks of goroutines in them, are from 0xc0'0000'0000 on.
  if (saved_.rsp >> 32 >= 0xc0 && saved_.rsp >> 32 <= 0xff) {
    return;
  }
  constexpr uint64_t kRedZone = 128;  // psABI 3.2.2
  const std::vector<std::byte> xstate = framed_xstate(xstate_);
  const uint64_t xstate_at = (saved_.rsp - kRedZone - xstate.size()) & ~63ULL;
  const uint64_t frame_at = (xstate_at - sizeof(Frame)) & ~15ULL;
  std::vector<std::byte> frame =
      frame_bytes(saved_, interrupted_syscall(process, saved_), saved_mask_, xstate_, xstate_at);
  std::memcpy(frame.data(), &way.sigreturn, sizeof way.sigreturn);
  if (process.write(RemoteAddr{xstate_at}, xstate) && process.write(RemoteAddr{frame_at}, frame)) {
    syscall_ip_ = way.syscall_ret;
    driven_sp_ = frame_at;
  }
}

Result<uint64_t> RemoteThread::drive(long number, const uint64_t (&args)[6]) {
  prepare_way_back();
  Registers registers = saved_;
  registers.rip = syscall_ip_;
  registers.rsp = driven_sp_ != 0 ? driven_sp_ : saved_.rsp;
  registers.rax = static_cast<unsigned long>(number);
  registers.orig_rax = ~0UL;  // nothing to restart
  registers.rdi = args[0];
  registers.rsi = args[1];
  registers.rdx = args[2];
  registers.r10 = args[3];
  registers.r8 = args[4];
  registers.r9 = args[5];
  registers.eflags = kFlagsKept;
  if (ptrace(PTRACE_SETREGS, tid_, nullptr, &registers) != 0) {
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  if (!is_blocked_) {
    TRY(process_->set_signal_mask(tid_, ~uint64_t{0}));
    is_blocked_ = true;
  }
  ++driven_;
  TRY(run_to_syscall_stop());
  return TRY(run_to_syscall_stop()).rax;
}

Result<uint64_t> RemoteThread::syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                                       uint64_t e, uint64_t f) {
  RemoteCalls calls;
  calls.add(number, {a, b, c, d, e, f});
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  if (driven_ >= kDrivenAtMost) {
    TRY(start_mailbox());
  }
  return check_result(TRY(run(calls))[0]);
}

Result<uint64_t> RemoteThread::check_result(uint64_t result) {
  if (result > ~uint64_t{4095}) {
    return make_error(static_cast<int>(-static_cast<int64_t>(result)),
                      "a system call in the target failed");
  }
  return result;
}

Result<std::vector<uint64_t>> RemoteThread::run(const RemoteCalls& calls) {
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  // Vector registers are a called function's (psABI 3.2.3), but not a thread's in a system call.
  has_called_ = has_called_ || std::any_of(calls.calls_.begin(), calls.calls_.end(),
                                           [](const auto& c) { return c.function != 0; });
  if (calls.calls_.size() > 1) {
    TRY(start_mailbox());
  }
  std::vector<uint64_t> results;
  if (has_mailbox_) {
    for (size_t done = 0; done < calls.calls_.size();) {
      done += TRY(post(std::span(calls.calls_).subspan(done), &results));
    }
    return results;
  }
  for (const RemoteCalls::Call& call : calls.calls_) {
    uint64_t args[6] = {};
    for (size_t i = 0; i < 6; i++) {
      args[i] = call.args[i].value;
      if (call.args[i].is_place) {
        args[i] =
            static_cast<uint64_t>(int64_t{TRY(process_->read_value<int32_t>(RemoteAddr{args[i]}))});
      }
    }
    results.push_back(call.function != 0 ? TRY(drive_call(call.function, args))
                                         : TRY(drive(call.number, args)));
  }
  return results;
}

Result<RemoteAddr> RemoteThread::scratch() {
  TRY(start_mailbox());
  return RemoteAddr{region_ + kScratchAt};
}

namespace {
// A hint for mmap: far from where programs and the kernel put things (holes near code are planned for other ends), and
// not to be foretold.
uint64_t somewhere() {
  constexpr uint64_t kLowest = 1ULL << 40;
  uint32_t pages = 0;
  (void)getrandom(&pages, sizeof pages, GRND_NONBLOCK);
  return kLowest + pages * kPage;
}
}  // namespace

// Maps the region and sets the thread to work on its mailbox. Where that is not allowed (no
// executable anonymous memory) the region is scratch memory only, and calls are driven on.
Result<void> RemoteThread::start_mailbox() {
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  if (tried_mailbox_) {
    return {};
  }
  const auto failed = [](uint64_t result) { return result > ~uint64_t{4095}; };
  if (region_ == 0) {
    const uint64_t region =
        TRY(drive(SYS_mmap, {somewhere(), kRegionBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ~uint64_t{0}, 0}));
    if (failed(region)) {
      return make_error(ENOMEM, "no memory in the target");
    }
    region_ = region;
  }
  tried_mailbox_ = true;
  const uint64_t code =
      TRY(drive(SYS_mmap, {region_, kPage, PROT_READ | PROT_EXEC,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~uint64_t{0}, 0}));
  if (xstate_.empty()) {
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  if (failed(code)) {
    return {};
  }
  StoppedProcess& process = *process_;
  // SAFETY: the code is position independent and ends in a loop; only this thread runs it.
  TRY(process.write(
      RemoteAddr{region_},
      std::as_bytes(std::span(bpftime_mailbox_code, static_cast<size_t>(bpftime_mailbox_code_end -
                                                                        bpftime_mailbox_code)))));
  TRY(process.write(RemoteAddr{region_ + kFrameAt},
                    frame_bytes(saved_, interrupted_syscall(process, saved_), saved_mask_, xstate_,
                                region_ + kXstateAt)));
  TRY(process.write(RemoteAddr{region_ + kXstateAt}, framed_xstate(xstate_)));
  Registers registers = saved_;
  registers.rax = SYS_getpid;
  // Our end of this pair is closed by the kernel when we die: then the thread takes itself back.
  // (Without one it does not sleep but yields.)
  const RemoteAddr scratch{region_ + kScratchAt};
  if (!failed(TRY(
          drive(SYS_socketpair, {AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, raw(scratch), 0, 0})))) {
    const auto pair = TRY((process.read_value<std::pair<int, int>>(scratch)));
    lifeline_ = pair.first;
    registers.rax = SYS_close;
    registers.rdi = static_cast<uint64_t>(pair.second);
    if (auto ours = take_fd(process.pid(), pair.second)) {
      our_lifeline_ = std::move(*ours);
    }
  }
  Mailbox mailbox = {};
  mailbox.frame = region_ + kFrameAt + 8;  // rt_sigreturn looks 8 below the stack pointer
  mailbox.lifeline = our_lifeline_ ? lifeline_ : -1;
  mailbox.spins = shares_cpu_ ? 1 : 100;
  if (driven_sp_ != 0) {
    mailbox.syscall_ret = syscall_ip_;
    mailbox.return_sp = driven_sp_;
    mailbox.region = region_;
    mailbox.region_bytes = kRegionBytes;
  }
  TRY(process.write_value(RemoteAddr{region_ + kMailboxAt}, mailbox));

  registers.rip = region_;
  registers.rbx = region_ + kMailboxAt;
  registers.rbp = 0;
  registers.rsp = region_ + kRegionBytes - 64;
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

// As many of the calls as there is room for; returns how many.
Result<size_t> RemoteThread::post(std::span<const RemoteCalls::Call> calls,
                                  std::vector<uint64_t>* results) {
  const uint64_t at = region_ + kMailboxAt;
  std::vector<PostedCall> posted;
  std::vector<size_t> places;  // of the calls among them
  for (const RemoteCalls::Call& call : calls) {
    const auto copies = std::count_if(call.args.begin(), call.args.end(),
                                      [](const RemoteCalls::Arg& arg) { return arg.is_place; });
    const size_t own = posted.size() + static_cast<size_t>(copies);
    if (own >= kCallsAtOnce) {
      break;
    }
    PostedCall request = {};
    request.function = call.function;
    request.number = static_cast<uint64_t>(call.number);
    for (size_t i = 0; i < 6; i++) {
      if (call.args[i].is_place) {
        PostedCall copy = {};
        copy.number = kCopiesNumber;
        copy.args[0] = call.args[i].value;
        copy.args[1] = region_ + kCallsAt + own * sizeof(PostedCall) + offsetof(PostedCall, args) +
                       i * sizeof(uint64_t);
        posted.push_back(copy);
      } else {
        request.args[i] = call.args[i].value;
      }
    }
    places.push_back(own);
    posted.push_back(request);
  }
  Mailbox mailbox = {};
  mailbox.sequence = ++sequence_;
  mailbox.count = static_cast<uint32_t>(posted.size());
  const size_t posted_bytes = posted.size() * sizeof(PostedCall);
  // The number that says "new" is written last.
  const iovec from[3] = {
      {posted.data(), posted_bytes}, {&mailbox.count, 4}, {&mailbox.sequence, 4}};
  // SAFETY: addresses of the target, only handed to the kernel.
  const iovec to[3] = {{reinterpret_cast<void*>(region_ + kCallsAt), posted_bytes},
                       {reinterpret_cast<void*>(at + offsetof(Mailbox, count)), 4},
                       {reinterpret_cast<void*>(at), 4}};
  if (process_vm_writev(tid_, from, 3, to, 3, 0) != static_cast<ssize_t>(posted_bytes + 8)) {
    has_mailbox_ = false;
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  bool is_woken = false, is_announced = false;
  Patience patience(tid_, Awaited::kEndOfCall, deadline_ns_);
  for (unsigned round = 0;; ++round) {
    const uint64_t looked_at = monotonic_ns();
    Mailbox now;
    const iovec here = {&now, sizeof now};
    const iovec there = {reinterpret_cast<void*>(at), sizeof now};
    const bool is_there =
        process_vm_readv(tid_, &here, 1, &there, 1, 0) == static_cast<ssize_t>(sizeof now);
    if (is_there && now.done == sequence_) {
      const iovec all = {posted.data(), posted_bytes};
      const iovec done = {reinterpret_cast<void*>(region_ + kCallsAt), posted_bytes};
      if (process_vm_readv(tid_, &all, 1, &done, 1, 0) == static_cast<ssize_t>(posted_bytes)) {
        for (const size_t i : places) {
          results->push_back(posted[i].result);
        }
        return places.size();
      }
    }
    if (is_there && now.sleeping != 0 && !is_woken) {
      is_woken = true;  // (awake already? then its next read returns early, once)
      (void)send(our_lifeline_.get(), "w", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    const unsigned looks = shares_cpu_ ? 0 : kSpins;
    if (!is_there || (round >= looks && round > 0) || round % 16 == 15) {
      int status = 0;
      const pid_t got = waitpid(tid_, &status, __WALL | WNOHANG);
      if (got == tid_) {
        TRY(see_stop(status));
      } else if (got < 0) {
        has_mailbox_ = false;
        return forget(make_error(ESRCH, "the process has ended")).error();
      }
      if (patience.is_over(looked_at)) {
        has_mailbox_ = false;
        ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
        if (!wait_for_stop(tid_, deadline_in_ms(200))) {
          return forget(make_error(ETIMEDOUT, "the thread does not stop")).error();
        }
        return make_error(ETIMEDOUT, "a call in the target does not return in time");
      }
    }
    if (round < looks) {
      continue;
    }
    // It needs a CPU, perhaps ours: we sleep until it says that it is done.
    const timespec pause = {0, 20000};
    if (!our_lifeline_ || lifeline_ < 0) {
      nanosleep(&pause, nullptr);
      continue;
    }
    if (!is_announced) {
      is_announced = true;
      const uint32_t yes = 1;
      (void)process_->write_value(RemoteAddr{at + offsetof(Mailbox, is_waited_for)}, yes);
      continue;  // done meanwhile?
    }
    pollfd lifeline = {our_lifeline_.get(), POLLIN, 0};
    char bytes[64];
    if (poll(&lifeline, 1, kLookAgainMs) > 0) {
      const ssize_t got = recv(our_lifeline_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
      is_announced = got <= 0;
      if (got == 0) {  // somebody has closed the target's end
        nanosleep(&pause, nullptr);
      }
    }
  }
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

Result<uint64_t> RemoteThread::call(RemoteAddr function,
                                    std::initializer_list<RemoteCalls::Arg> args) {
  RemoteCalls calls;
  calls.call(function, args);
  TRY(start_mailbox());
  return TRY(run(calls))[0];
}

Result<uint64_t> RemoteThread::drive_call(uint64_t function, const uint64_t (&args)[6]) {
  const uint64_t stack = region_ + kRegionBytes - 64;
  Registers registers = saved_;
  registers.rip = function;
  registers.rsp = stack - 8;  // psABI 3.2.2: 16-byte aligned before the call
  registers.rbp = 0;
  registers.rax = 0;
  registers.orig_rax = ~0UL;
  registers.rdi = args[0];
  registers.rsi = args[1];
  registers.rdx = args[2];
  registers.rcx = args[3];
  registers.r8 = args[4];
  registers.r9 = args[5];
  registers.eflags = kFlagsKept;
  // It returns to a `syscall` instruction: the stop there is ours to see, and its number is taken
  // away.
  TRY(process_->write_value(RemoteAddr{stack - 8}, syscall_ip_));
  if (ptrace(PTRACE_SETREGS, tid_, nullptr, &registers) != 0) {
    return forget(make_error(ESRCH, "the process has ended")).error();
  }
  for (;;) {
    Registers at = TRY(run_to_syscall_stop());  // entering one
    const bool returned = at.rip == syscall_ip_ + 2 && at.rsp == stack;
    const uint64_t result = at.orig_rax;
    if (returned) {
      at.orig_rax = ~0UL;
      if (ptrace(PTRACE_SETREGS, tid_, nullptr, &at) != 0) {
        return forget(make_error(ESRCH, "the process has ended")).error();
      }
    }
    TRY(run_to_syscall_stop());  // leaving it
    if (returned) {
      return result;
    }
  }
}

Result<void> RemoteThread::finish() {
  if (process_ == nullptr) {
    return {};
  }
  if (has_mailbox_ && !is_lost_) {
    (void)stop_mailbox();
  }
  our_lifeline_.reset();
  deadline_ns_ = std::max(deadline_ns_, deadline_in_ms(200));
  if (lifeline_ >= 0 && !is_lost_) {
    (void)drive(SYS_close, {static_cast<uint64_t>(lifeline_), 0, 0, 0, 0, 0});
  }
  if (region_ != 0 && !is_lost_) {
    (void)drive(SYS_munmap, {region_, kRegionBytes, 0, 0, 0, 0});
    region_ = 0;
  }
  if (has_run_ && !is_lost_) {
    if (has_called_) {
      iovec range = {xstate_.data(), xstate_.size()};
      ptrace(PTRACE_SETREGSET, tid_, NT_X86_XSTATE, &range);
    }
    // The thread is at a system call's end, where the kernel does not look for a call to restart.
    // So it goes on to one more trap, before its first instruction: from there it does
    // (arch_do_signal_or_restart).
    ptrace(PTRACE_SETREGS, tid_, nullptr, &saved_);
    ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
    for (;;) {
      if (ptrace(PTRACE_CONT, tid_, nullptr, nullptr) != 0) {
        (void)forget(make_error(ESRCH, "the thread has ended"));
        break;
      }
      const auto status = wait_for_stop(tid_, std::max(deadline_ns_, deadline_in_ms(200)), spins());
      if (!status || !WIFSTOPPED(*status) || *status >> 16 == PTRACE_EVENT_EXIT) {
        (void)forget(make_error(ESRCH, "the thread has ended"));
        break;
      }
      if (*status >> 16 == PTRACE_EVENT_STOP) {
        break;
      }
      if (*status >> 16 == 0 && WSTOPSIG(*status) == SIGSTOP) {
        process_->state().stop_afterwards = true;
      }
      ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
    }
    if (!is_lost_ && !process_->set_registers(tid_, saved_)) {
      (void)forget(make_error(ESRCH, "the thread has ended"));
    }
  }
  StoppedProcess& process = *std::exchange(process_, nullptr);
  restore_slice();
  if (is_lost_) {
    return make_error(ESRCH, "the thread has ended");
  }
  (void)process.set_signal_mask(tid_, saved_mask_);
  ptrace(PTRACE_SETOPTIONS, tid_, nullptr, kBaseOptions);
  return {};
}

}  // namespace bpftime
