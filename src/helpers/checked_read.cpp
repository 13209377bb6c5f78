// Checked reads (DESIGN D9). A page in this thread's cache is copied plainly; else a harmless
// system call asks the kernel whether it can be read. Where SIGSEGV or SIGBUS is blocked a fault
// would kill, so there nothing is cached and process_vm_readv copies. A page that vanished after it
// was cached faults inside the two routines below; the fault handler knows them by their addresses
// (is_checked_copy) and continues at their error path.
#include <cerrno>
#include <csignal>

#include "base/raw_syscall.hpp"
#include "helpers/helpers.hpp"

// int64_t bpftime_checked_copy(void* to, const void* from, uint64_t size, ThreadBlock* thread): 0 or -EFAULT; with a
// `thread`, `to` is zeroed and the thread's cache emptied then, so that the caller need keep nothing for that
// int64_t bpftime_checked_copy_string(void* to, const void* from, uint64_t size): bytes copied,
// with the NUL when
//   one was met (rdx = 1 then); or -EFAULT. size > 0.
__asm__(R"(
  .pushsection .text.bpftime_checked_copy, "ax", @progbits
  .globl bpftime_checked_copy
  .hidden bpftime_checked_copy
  .type bpftime_checked_copy, @function
bpftime_checked_copy:
  .cfi_startproc
  movq %rcx, %r9
  movq %rdi, %r8
  movq %rdx, %rcx
  cmpq $8, %rcx
  jb 3f
  cmpq $16, %rcx
  ja 2f
  movq (%rsi), %rax
  movq -8(%rsi,%rcx), %rsi
  movq %rax, (%rdi)
  movq %rsi, -8(%rdi,%rcx)
  jmp 6f
2:
  cmpq $64, %rcx
  jae 5f
1:
  movq (%rsi), %rax
  movq %rax, (%rdi)
  addq $8, %rsi
  addq $8, %rdi
  subq $8, %rcx
  cmpq $8, %rcx
  jae 1b
  testq %rcx, %rcx
  jz 6f
  movq -8(%rsi,%rcx), %rax
  movq %rax, -8(%rdi,%rcx)
  jmp 6f
3:
  testq %rcx, %rcx
  jz 6f
4:
  movzbl (%rsi), %eax
  movb %al, (%rdi)
  incq %rsi
  incq %rdi
  decq %rcx
  jnz 4b
  jmp 6f
5:
  movq (%rsi), %rax
  movq 8(%rsi), %rdx
  movq %rax, (%rdi)
  movq %rdx, 8(%rdi)
  movq 16(%rsi), %rax
  movq 24(%rsi), %rdx
  movq %rax, 16(%rdi)
  movq %rdx, 24(%rdi)
  addq $32, %rsi
  addq $32, %rdi
  subq $32, %rcx
  cmpq $64, %rcx
  jae 5b
  jmp 1b
6:
  xorl %eax, %eax
  ret
  .cfi_endproc
  .size bpftime_checked_copy, . - bpftime_checked_copy
  .globl bpftime_checked_copy_string
  .hidden bpftime_checked_copy_string
  .type bpftime_checked_copy_string, @function
bpftime_checked_copy_string:
  .cfi_startproc
  xorl %r9d, %r9d
  movq %rdx, %rcx
  xorl %eax, %eax
  xorl %edx, %edx
1:
  movzbl (%rsi,%rax), %r8d
  movb %r8b, (%rdi,%rax)
  incq %rax
  testl %r8d, %r8d
  jz 2f
  cmpq %rcx, %rax
  jb 1b
  ret
2:
  movl $1, %edx
  ret
  .cfi_endproc
  .size bpftime_checked_copy_string, . - bpftime_checked_copy_string
  .globl bpftime_checked_copy_fault
  .hidden bpftime_checked_copy_fault
bpftime_checked_copy_fault:
  .cfi_startproc
  testq %r9, %r9
  jz 1f
  movq %r9, %rdi
  movq %r8, %rsi
  jmp bpftime_checked_copy_failed
1:
  movq $-14, %rax
  xorl %edx, %edx
  ret
  .cfi_endproc
  .popsection
)");

extern "C" {
__attribute__((visibility("hidden"))) int64_t bpftime_checked_copy(void* to, const void* from,
                                                                   uint64_t size,
                                                                   bpftime::ThreadBlock* thread);
__attribute__((visibility("hidden"))) int64_t
bpftime_checked_copy_failed(bpftime::ThreadBlock* thread, void* to, uint64_t size);
struct StringCopy {
  int64_t bytes;
  uint64_t ended;
};
__attribute__((visibility("hidden"))) StringCopy bpftime_checked_copy_string(void* to,
                                                                             const void* from,
                                                                             uint64_t size);
__attribute__((visibility("hidden"))) void bpftime_checked_copy_fault();
}

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kUserEnd =
    0x7ffffffff000;  // TASK_SIZE_MAX; with 5-level paging hints nobody maps above by chance

enum class Readable { kNo, kYes, kByKernel };

bool can_be_read(uint64_t page) {
  // SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK are 0, 1, 2: an unknown `how` is looked at after the set
  // was read.
  return page != 0 && raw_syscall(SYS_rt_sigprocmask, 77, page, 0, 8) == -EINVAL;
}

bool faults_are_blocked() {
  uint64_t mask = 0;
  constexpr uint64_t kFaults = 1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1);
  if (raw_syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0, reinterpret_cast<uint64_t>(&mask), 8) != 0) {
    return true;
  }
  return (mask & kFaults) != 0;
}

[[gnu::noinline]] Readable ask(ThreadBlock* thread, uint64_t page) {
  if (!can_be_read(page)) {
    return Readable::kNo;
  }
  if (thread == nullptr || faults_are_blocked()) {
    return Readable::kByKernel;
  }
  thread->page_cache[page / kPage % kPageCacheSize] = page | kCachedPage;
  return Readable::kYes;
}

[[gnu::noinline]] void empty_cache(ThreadBlock* thread) {
  for (uint64_t& page : thread->page_cache) {
    page = 0;
  }
  thread->page_cache_time = thread->hits >> kPageCacheAge;
}

inline Readable readable(ThreadBlock* thread, uint64_t page) {
  if (thread != nullptr) {
    if (thread->page_cache_time != thread->hits >> kPageCacheAge) [[unlikely]] {
      empty_cache(thread);
    }
    if (thread->page_cache[page / kPage % kPageCacheSize] == (page | kCachedPage)) [[likely]] {
      return Readable::kYes;
    }
  }
  return ask(thread, page);
}

int64_t read_by_kernel(void* to, uint64_t from, uint64_t size) {
  struct {
    uint64_t base, size;
  } local = {reinterpret_cast<uint64_t>(to), size}, remote = {from, size};
  const long pid = raw_syscall(SYS_getpid);
  const long result =
      raw_syscall(SYS_process_vm_readv, static_cast<uint64_t>(pid),
                  reinterpret_cast<uint64_t>(&local), 1, reinterpret_cast<uint64_t>(&remote), 1, 0);
  return result == static_cast<long>(size) ? 0 : -EFAULT;
}

void zero(void* to, uint64_t size) {
  auto* at = static_cast<volatile unsigned char*>(to);
  for (uint64_t i = 0; i < size; i++) {
    at[i] = 0;
  }
}

uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

int64_t read_pages(ThreadBlock* thread, char* to, uint64_t from, uint64_t size) {
  if (from >= kUserEnd || size > kUserEnd - from) {
    return -EFAULT;
  }
  while (size > 0) {
    const uint64_t part = least(size, kPage - from % kPage);
    int64_t result = -EFAULT;
    switch (readable(thread, from & ~(kPage - 1))) {
      case Readable::kYes:
        result = bpftime_checked_copy(to, reinterpret_cast<const void*>(from), part, nullptr);
        break;
      case Readable::kByKernel:
        result = read_by_kernel(to, from, part);
        break;
      case Readable::kNo:
        break;
    }
    if (result != 0) {
      return result;
    }
    to += part;
    from += part;
    size -= part;
  }
  return 0;
}

// Out of line, so that checked_read itself saves no registers.
[[gnu::noinline]] int64_t read_slowly(ThreadBlock* thread, void* to, uint64_t from, uint64_t size) {
  if (read_pages(thread, static_cast<char*>(to), from, size) != 0) {
    zero(to, size);
    return -EFAULT;
  }
  return 0;
}

}  // namespace

int64_t checked_read(ThreadBlock* thread, void* to, uint64_t from, uint64_t size) {
  const uint64_t page = from & ~(kPage - 1);
  // Size 0 is none of these; a cached page lies below kUserEnd.
  if (size - 1 > kPage - 1 - from % kPage || thread == nullptr ||
      thread->page_cache_time != thread->hits >> kPageCacheAge ||
      thread->page_cache[page / kPage % kPageCacheSize] != (page | kCachedPage)) [[unlikely]] {
    return read_slowly(thread, to, from, size);
  }
  return bpftime_checked_copy(to, reinterpret_cast<const void*>(from), size, thread);
}

int64_t checked_read_string(ThreadBlock* thread, char* to, uint64_t from, uint64_t size) {
  if (size == 0) {
    return 0;
  }
  uint64_t done = 0;
  while (done < size) {
    const uint64_t at = from + done;
    const uint64_t part = least(size - done, kPage - at % kPage);
    if (at >= kUserEnd) {
      zero(to, size);
      return -EFAULT;
    }
    StringCopy copied = {-EFAULT, 0};
    switch (readable(thread, at & ~(kPage - 1))) {
      case Readable::kYes:
        copied = bpftime_checked_copy_string(to + done, reinterpret_cast<const void*>(at), part);
        break;
      case Readable::kByKernel: {
        char some[64];
        const uint64_t few = least(part, sizeof some);
        if (read_by_kernel(some, at, few) == 0) {
          copied = bpftime_checked_copy_string(to + done, some, few);
        }
        break;
      }
      case Readable::kNo:
        break;
    }
    if (copied.bytes < 0) {
      zero(to, size);
      return -EFAULT;
    }
    done += static_cast<uint64_t>(copied.bytes);
    if (copied.ended != 0) {
      return static_cast<int64_t>(done);
    }
  }
  to[size - 1] = 0;
  return static_cast<int64_t>(size);
}

uint64_t checked_copy_resume(uint64_t ip) {
  const auto begin = reinterpret_cast<uint64_t>(&bpftime_checked_copy);
  const auto end = reinterpret_cast<uint64_t>(&bpftime_checked_copy_fault);
  return ip >= begin && ip < end ? end : 0;
}

}  // namespace bpftime

extern "C" __attribute__((visibility("hidden"))) int64_t
bpftime_read_slowly(void* to, uint64_t size, uint64_t from, bpftime::ProbeHit* hit) {
  return bpftime::checked_read(hit->thread, to, from, size);
}

// A cached page has vanished.
int64_t bpftime_checked_copy_failed(bpftime::ThreadBlock* thread, void* to, uint64_t size) {
  bpftime::empty_cache(thread);
  bpftime::zero(to, size);
  return -EFAULT;
}
