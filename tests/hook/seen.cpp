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

uint64_t bpftime_on_entry(pt_regs* regs, bpftime::Site* site, bpftime::ThreadBlock* block,
                          const bpftime::AttachedList* /*list*/) {
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

void bpftime_on_return(pt_regs* regs, bpftime::Site* site, bpftime::ThreadBlock* block,
                       const bpftime::AttachedList* /*list*/) {
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

void bpftime_cold_hit(bpftime::Site* site, bpftime::ThreadBlock*) {
  using namespace bpftime::testing;
  seen.cold.fetch_add(1, std::memory_order_relaxed);
  if (seen.on_cold != nullptr) {
    seen.on_cold(site);
  }
}

}  // extern "C"
