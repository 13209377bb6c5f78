#include "bpfcall/shim_memory.hpp"

#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/raw_syscall.hpp"

// The cache: direct mapped, one word a page: page number << 24 | generation << 2 | writable << 1 | valid.
// A change of mappings raises the generation after it happened, which outdates every word at once. A word is made
// with the generation that was read before its page was probed.

namespace bpftime::shim {
namespace {

constexpr uint64_t kPageShift = 12;
constexpr uint64_t kPages = 512;
constexpr uint64_t kGenerations = 1 << 22;
constexpr uint64_t kValid = 1;
constexpr uint64_t kWritable = 2;
constexpr uint64_t kHighest = 1ULL << 52;  // so that a page number fits

constinit std::atomic<uint64_t> g_words[kPages] = {};
constinit std::atomic<uint64_t> g_generation = 0;

std::atomic<uint64_t>& word_of(uint64_t page) { return g_words[page % kPages]; }
uint64_t stamp(uint64_t page, uint64_t generation) {
  return page << 24 | (generation % kGenerations) << 2 | kValid;
}

bool is_known(uint64_t address, uint64_t size, bool for_write) {
  if (size == 0 || address >= kHighest || size >= kHighest) {
    return false;
  }
  const uint64_t generation = g_generation.load(std::memory_order_acquire);
  const uint64_t last = (address + size - 1) >> kPageShift;
  for (uint64_t page = address >> kPageShift; page <= last; page++) {
    const uint64_t word = word_of(page).load(std::memory_order_acquire);
    if ((word & ~kWritable) != stamp(page, generation) || (for_write && (word & kWritable) == 0)) {
      return false;
    }
  }
  return true;
}

void remember(uint64_t address, uint64_t size, bool writable, uint64_t generation) {
  if (size == 0 || address >= kHighest) {
    return;
  }
  const uint64_t last = (address + size - 1) >> kPageShift;
  for (uint64_t page = address >> kPageShift; page <= last; page++) {
    const uint64_t plain = stamp(page, generation);
    const uint64_t old = word_of(page).load(std::memory_order_relaxed);
    const uint64_t kept = (old & ~kWritable) == plain ? old & kWritable : 0;
    word_of(page).store(plain | kept | (writable ? kWritable : 0), std::memory_order_release);
  }
}

// SAFETY: both sides are addresses of this process; the kernel checks the foreign one.
Result<void> kernel_copy(long call, uint64_t own, uint64_t foreign, uint64_t size) {
  const uint64_t generation = g_generation.load(std::memory_order_acquire);
  const iovec here{reinterpret_cast<void*>(own), size};
  const iovec there{reinterpret_cast<void*>(foreign), size};
  const long n =
      raw_syscall(call, static_cast<uint64_t>(raw_syscall(SYS_getpid)),
                  reinterpret_cast<uint64_t>(&here), 1, reinterpret_cast<uint64_t>(&there), 1, 0);
  if (n != static_cast<long>(size)) {
    return make_error(EFAULT, "bad address");
  }
  remember(foreign, size, call == SYS_process_vm_writev, generation);
  return {};
}

Result<void> read(void* /*self*/, uint64_t from, std::span<std::byte> to) {
  if (is_known(from, to.size(), false)) {
    // SAFETY: every page of the range was readable, and nothing has been unmapped since.
    std::memcpy(to.data(), reinterpret_cast<const void*>(from), to.size());
    return {};
  }
  if (to.empty()) {
    return {};
  }
  return kernel_copy(SYS_process_vm_readv, reinterpret_cast<uint64_t>(to.data()), from, to.size());
}

Result<void> write(void* /*self*/, uint64_t to, std::span<const std::byte> from) {
  if (is_known(to, from.size(), true)) {
    // SAFETY: as in read().
    std::memcpy(reinterpret_cast<void*>(to), from.data(), from.size());
    return {};
  }
  if (from.empty()) {
    return {};
  }
  return kernel_copy(SYS_process_vm_writev, reinterpret_cast<uint64_t>(from.data()), to,
                     from.size());
}

void* in_place(void* /*self*/, uint64_t address, uint64_t size, bool for_write) {
  return is_known(address, size, for_write) ? reinterpret_cast<void*>(address) : nullptr;
}

}  // namespace

CallerMemory own_memory() { return CallerMemory{read, write, in_place, nullptr}; }

void forget_pages() {
  if (g_generation.fetch_add(1, std::memory_order_acq_rel) % kGenerations == kGenerations - 1) {
    for (auto& word : g_words) {
      word.store(0, std::memory_order_release);
    }
  }
}

}  // namespace bpftime::shim
