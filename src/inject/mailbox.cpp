#include "inject/mailbox.hpp"

#include <algorithm>

// The code of a thread that works on its mailbox (rbx; its calls a page further). rbp: the last
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

static_assert(offsetof(Mailbox, syscall_ret) == 72 && offsetof(Mailbox, return_sp) == 80 &&
              offsetof(Mailbox, region) == 88 && offsetof(Mailbox, region_bytes) == 96);
static_assert(offsetof(Mailbox, spins) == 64 && offsetof(Mailbox, done) == 4 &&
              offsetof(Mailbox, count) == 8 && offsetof(Mailbox, is_waited_for) == 12 &&
              offsetof(Mailbox, frame) == 16 && offsetof(Mailbox, lifeline) == 24 &&
              offsetof(Mailbox, sleeping) == 28 && offsetof(Mailbox, wake_bytes) == 32);
static_assert(offsetof(PostedCall, number) == 8 && offsetof(PostedCall, args) == 16 &&
              offsetof(PostedCall, result) == 64 && sizeof(PostedCall) == 72);
static_assert(MailboxRegion::kCallsAt - MailboxRegion::kMailboxAt == 4096);

constexpr uint64_t kCopiesNumber = ~uint64_t{0};  // PostedCall::number that is no call

}  // namespace

PostedCalls posted_calls(std::span<const RemoteCalls::Call> calls, uint64_t region) {
  PostedCalls posted;
  for (const RemoteCalls::Call& call : calls) {
    const auto copies = std::count_if(call.args.begin(), call.args.end(),
                                      [](const RemoteCalls::Arg& arg) { return arg.is_place; });
    const size_t own = posted.all.size() + static_cast<size_t>(copies);
    if (own >= kPostedAtOnce) {
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
        copy.args[1] = region + MailboxRegion::kCallsAt + own * sizeof(PostedCall) +
                       offsetof(PostedCall, args) + i * sizeof(uint64_t);
        posted.all.push_back(copy);
      } else {
        request.args[i] = call.args[i].value;
      }
    }
    posted.places.push_back(own);
    posted.all.push_back(request);
  }
  return posted;
}

std::span<const std::byte> mailbox_code() {
  return std::as_bytes(std::span(bpftime_mailbox_code, bpftime_mailbox_code_end));
}

}  // namespace bpftime
