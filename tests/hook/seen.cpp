#include "seen.hpp"

namespace bpftime::testing {

Seen seen;

namespace {

void copy_regs(pt_regs* to, const pt_regs* from) {
  auto* d = reinterpret_cast<volatile uint64_t*>(to);
  const auto* s = reinterpret_cast<const uint64_t*>(from);
  for (unsigned i = 0; i < sizeof(pt_regs) / 8; i++) {
    d[i] = s[i];
  }
}

// A callback may change every register that a call may change, and the flags.
void clobber() {
  __asm__ volatile(
      "mov $0x5a5a5a5a, %%eax; mov %%rax, %%rcx; mov %%rax, %%rdx; mov %%rax, %%rsi; mov %%rax, "
      "%%rdi;"
      "mov %%rax, %%r8; mov %%rax, %%r9; mov %%rax, %%r10; mov %%rax, %%r11; cmp %%rax, %%rax; stc"
      :
      :
      : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc");
}

}  // namespace
}  // namespace bpftime::testing

extern "C" {
__attribute__((visibility("hidden"), used)) uint64_t bpftime_test_on_hit(
    pt_regs* regs, bpftime::Site* site, bpftime::ThreadBlock* block, const bpftime::AttachedList*);
__attribute__((visibility("hidden"), used)) uint64_t
bpftime_test_on_plain_hit(bpftime::ThreadBlock* block);

static uint64_t on_entry(pt_regs* regs, bpftime::Site* site, bpftime::ThreadBlock* block) {
  using namespace bpftime::testing;
  seen.entries.fetch_add(1, std::memory_order_relaxed);
  copy_regs(&seen.entry, regs);
  seen.entry_site = site;
  seen.block = block;
  seen.entry_stack = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  if (seen.on_entry != nullptr) {
    seen.on_entry(regs, site);
  }
  if (seen.override_next) {
    seen.override_next = false;
    regs->rax = seen.override_value;
    return 1;
  }
  clobber();
  return 0;
}

static void on_return(pt_regs* regs, bpftime::Site* site, bpftime::ThreadBlock* block) {
  using namespace bpftime::testing;
  seen.returns.fetch_add(1, std::memory_order_relaxed);
  copy_regs(&seen.ret, regs);
  seen.return_site = site;
  seen.block = block;
  seen.return_stack = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  if (seen.on_return != nullptr) {
    seen.on_return(regs, site);
  }
  clobber();
}

uint64_t bpftime_test_on_hit(pt_regs* regs, bpftime::Site* site, bpftime::ThreadBlock* block,
                             const bpftime::AttachedList* /*list*/) {
  if (regs->rip == site->address) {
    return on_entry(regs, site, block);
  }
  on_return(regs, site, block);
  return 0;
}

uint64_t bpftime_test_on_plain_hit(bpftime::ThreadBlock* block) {
  using namespace bpftime::testing;
  seen.plain.fetch_add(1, std::memory_order_relaxed);
  copy_regs(&seen.plain_regs, reinterpret_cast<const pt_regs*>(block->regs));
  seen.plain_stack = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  if (seen.on_plain != nullptr) {
    seen.on_plain();
  }
  clobber();
  return seen.plain_again ? 1 : 0;
}

// As run_list does: comes back with nothing but rsp as it was.
__asm__(
    ".text; .globl bpftime_on_hit; .hidden bpftime_on_hit; .type bpftime_on_hit, @function;"
    "bpftime_on_hit: .cfi_startproc; sub $8, %rsp; .cfi_adjust_cfa_offset 8;"
    "call bpftime_test_on_hit;"
    "add $8, %rsp; .cfi_adjust_cfa_offset -8; mov $0x5b5b5b5b, %ebx; mov %rbx, %rbp; mov %rbx, %r12;"
    "mov %rbx, %r13; mov %rbx, %r14; mov %rbx, %r15; ret; .cfi_endproc;"
    ".size bpftime_on_hit, .-bpftime_on_hit;"
    ".globl bpftime_on_plain_hit; .hidden bpftime_on_plain_hit;"
    ".globl bpftime_on_simple_hit; .hidden bpftime_on_simple_hit; bpftime_on_simple_hit:"
    ".type bpftime_on_plain_hit, @function;"
    "bpftime_on_plain_hit: .cfi_startproc; push %rbp; .cfi_def_cfa %rsp, 16;"
    ".cfi_offset %rbp, -16; mov %rsp, %rbp; .cfi_def_cfa_register %rbp; and $-16, %rsp;"
    "mov %rcx, %rdi; call bpftime_test_on_plain_hit; leave; .cfi_def_cfa %rsp, 8;"
    "ret; .cfi_endproc; .size bpftime_on_plain_hit, .-bpftime_on_plain_hit");

void bpftime_cold_hit(pt_regs*, bpftime::Site* site, bpftime::ThreadBlock*) {
  using namespace bpftime::testing;
  seen.cold.fetch_add(1, std::memory_order_relaxed);
  if (seen.on_cold != nullptr) {
    seen.on_cold(site);
  }
}

}  // extern "C"
