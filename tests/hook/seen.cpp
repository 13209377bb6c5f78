#include "seen.hpp"

#include "abi/hit_offsets.h"

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
uint64_t test_plain_program(void* regs, bpftime::Hit* hit);
uint64_t test_few_program(void* regs, bpftime::Hit* hit);
__attribute__((visibility("hidden"), used)) uint64_t bpftime_test_on_hit(
    pt_regs* regs, bpftime::Site* site, bpftime::ThreadBlock* block, const bpftime::AttachedList*);
__attribute__((visibility("hidden"), used)) uint64_t
bpftime_test_on_simple_hit(bpftime::ThreadBlock* block);
__attribute__((visibility("hidden"), used)) void bpftime_test_plain(const uint64_t* regs,
                                                                    uint64_t* hit);

static uint64_t on_entry(pt_regs* regs, bpftime::Site* site, bpftime::ThreadBlock* block) {
  using namespace bpftime::testing;
  block->hit_space[HIT_ENDED / 8] = 0;
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
  block->hit_space[HIT_ENDED / 8] = 0;
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

static void on_plain(const uint64_t* regs) {
  using namespace bpftime::testing;
  seen.plain.fetch_add(1, std::memory_order_relaxed);
  copy_regs(&seen.plain_regs, reinterpret_cast<const pt_regs*>(regs));
  seen.plain_stack = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  if (seen.on_plain != nullptr) {
    seen.on_plain();
  }
}

uint64_t bpftime_test_on_simple_hit(bpftime::ThreadBlock* block) {
  on_plain(block->regs);
  bpftime::testing::clobber();
  return bpftime::testing::seen.plain_again ? 1 : 0;
}

void bpftime_test_plain(const uint64_t* regs, uint64_t* hit) {
  on_plain(regs);
  hit[HIT_ENDED / 8] = bpftime::testing::seen.plain_again ? 1 : 0;
  bpftime::testing::clobber();
}

// As run_list does: comes back with nothing but rsp as it was.
__asm__(
    ".text; .globl bpftime_on_hit; .hidden bpftime_on_hit; .type bpftime_on_hit, @function;"
    "bpftime_on_hit: .cfi_startproc; sub $8, %rsp; .cfi_adjust_cfa_offset 8;"
    "call bpftime_test_on_hit;"
    "add $8, %rsp; .cfi_adjust_cfa_offset -8; mov $0x5b5b5b5b, %ebx; mov %rbx, %rbp; mov %rbx, %r12;"
    "mov %rbx, %r13; mov %rbx, %r14; mov %rbx, %r15; ret; .cfi_endproc;"
    ".size bpftime_on_hit, .-bpftime_on_hit;"
    ".globl bpftime_on_simple_hit; .hidden bpftime_on_simple_hit;"
    ".type bpftime_on_simple_hit, @function;"
    "bpftime_on_simple_hit: .cfi_startproc; push %rbp; .cfi_def_cfa %rsp, 16;"
    ".cfi_offset %rbp, -16; mov %rsp, %rbp; .cfi_def_cfa_register %rbp; and $-16, %rsp;"
    "mov %rcx, %rdi; call bpftime_test_on_simple_hit; leave; .cfi_def_cfa %rsp, 8;"
    "ret; .cfi_endproc; .size bpftime_on_simple_hit, .-bpftime_on_simple_hit");

// Programs: a plain one, whose stack is aligned as it happens, and one that leaves r8 to r11 alone.
__asm__(
    ".text; .globl test_plain_program; .type test_plain_program, @function;"
    "test_plain_program: .cfi_startproc; push %rbp; .cfi_def_cfa %rsp, 16;"
    ".cfi_offset %rbp, -16; mov %rsp, %rbp; .cfi_def_cfa_register %rbp; and $-16, %rsp;"
    "call bpftime_test_plain; leave; .cfi_def_cfa %rsp, 8;"
    "ret; .cfi_endproc; .size test_plain_program, .-test_plain_program;"
    ".globl test_few_program; .type test_few_program, @function;"
    "test_few_program: .cfi_startproc; push %rbp; .cfi_def_cfa %rsp, 16;"
    ".cfi_offset %rbp, -16; mov %rsp, %rbp; .cfi_def_cfa_register %rbp;"
    "push %r8; push %r9; push %r10; push %r11; and $-16, %rsp;"
    "call bpftime_test_plain; lea -32(%rbp), %rsp; pop %r11; pop %r10; pop %r9; pop %r8; pop %rbp;"
    ".cfi_def_cfa %rsp, 8; ret; .cfi_endproc; .size test_few_program, .-test_few_program");

void bpftime_cold_hit(pt_regs*, bpftime::Site* site, bpftime::ThreadBlock*) {
  using namespace bpftime::testing;
  seen.cold.fetch_add(1, std::memory_order_relaxed);
  if (seen.on_cold != nullptr) {
    seen.on_cold(site);
  }
}

}  // extern "C"

bpftime::testing::Program bpftime::testing::program_of(uint32_t kind) {
  return (kind & kListFew) != 0 ? test_few_program : test_plain_program;
}
