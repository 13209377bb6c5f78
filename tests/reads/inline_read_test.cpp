// docs/decisions/0005: a read that is compiled inline does what the helper does.
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>

#include "abi/hit_offsets.h"
#include "base/raw_syscall.hpp"
#include "helpers/helpers.hpp"
#include "isa/opcode.hpp"
#include "jit_x64/compile.hpp"
#include "runtime/testing/armed.hpp"

extern "C" {
void bpftime_say_printk(bpftime::ProbeHit*, const char*, uint32_t) {}
bool bpftime_say_wake(bpftime::ThreadBlock*, uint32_t) { return true; }
void bpftime_say_disarmed(bpftime::ThreadBlock*, bpftime::AgentState*, uint32_t, uint32_t) {}
}

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;
constexpr int32_t from_hit(size_t offset) {
  return static_cast<int32_t>(offset) - static_cast<int32_t>(offsetof(ThreadBlock, hit_space));
}
constexpr ReadCache kCache = {from_hit(offsetof(ThreadBlock, page_cache)),
                              kPageCacheSize,
                              kCachedPage,
                              from_hit(offsetof(ThreadBlock, hits)),
                              from_hit(offsetof(ThreadBlock, page_cache_time)),
                              kPageCacheAge};

// r0 = probe_read_user(ctx[0], bytes, ctx[1]), with a page of the stack between it and the caller's.
DecodedProgram reader(int32_t bytes) {
  const std::vector<bpf_insn> insns = {
      {BPF_LDX | BPF_MEM | BPF_DW, 3, 1, 8, 0},
      {BPF_LDX | BPF_MEM | BPF_DW, 1, 1, 0, 0},
      {BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, bytes},
      {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_user},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  return decode(insns).value();
}

class Code {
 public:
  explicit Code(int32_t bytes) {
    CompileOptions options;
    options.read_cache = &kCache;
    compiled_ = compile_x64(reader(bytes), options).value();
    memory_ = static_cast<std::byte*>(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE | PROT_EXEC,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::copy(compiled_.code.begin(), compiled_.code.end(), memory_);
    const FaultRange& f = compiled_.faults.at(0);
    const auto at = reinterpret_cast<uint64_t>(memory_);
    range_ = {at + f.code_begin, at + f.code_end, at + f.resume_at, at + f.reads_at, f.read_count};
  }
  ~Code() { ::munmap(memory_, kPage); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  [[nodiscard]] const CompiledProgram& compiled() const { return compiled_; }
  [[nodiscard]] const CodeRange& range() const { return range_; }
  uint64_t run(void* context, ProbeHit* hit) const {
    return reinterpret_cast<ProgramFn>(memory_)(context, hit);
  }

 private:
  CompiledProgram compiled_;
  std::byte* memory_;
  CodeRange range_;
};

testing::Armed* current;
void on_fault(int signo, siginfo_t* info, void* context) {
  const NextHandler next = handle_fault(signo, info, context, &current->thread, &current->state);
  if (next.handler != 0) {
    reinterpret_cast<void (*)(int, siginfo_t*, void*)>(next.handler)(signo, info, context);
  }
}

// A thread in the middle of a plain hit, with a hit stack of its own.
struct PlainHit {
  testing::Armed armed;
  ProbeHit& hit = *reinterpret_cast<ProbeHit*>(armed.thread.hit_space);
  uint64_t slots[1] = {reinterpret_cast<uint64_t>(&bpftime_read_aside)};
  char* hit_stack;
  struct sigaction before[2] = {};
  PlainHit() {
    current = &armed;
    hit_stack = static_cast<char*>(::mmap(nullptr, kHitStackBytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    armed.thread.hit_stack_top = reinterpret_cast<uint64_t>(hit_stack) + kHitStackBytes;
    armed.thread.plain_window =
        reinterpret_cast<uint64_t>(__builtin_frame_address(0)) >> PLAIN_SHIFT;
    armed.thread.guard = 1;
    armed.thread.hit = &hit;
    hit.thread = &armed.thread;
    hit.fuel = kHitFuel;
    hit.slots = slots;
    set_idle(hit);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSEGV, &action, &before[0]);
    ::sigaction(SIGBUS, &action, &before[1]);
  }
  ~PlainHit() {
#ifdef __SANITIZE_ADDRESS__
    // Frames of helpers may have been left without their epilogues.
    __asan_handle_no_return();
    ASAN_UNPOISON_MEMORY_REGION(hit_stack, kHitStackBytes);
#endif
    ::sigaction(SIGSEGV, &before[0], nullptr);
    ::sigaction(SIGBUS, &before[1], nullptr);
    ::munmap(hit_stack, kHitStackBytes);
  }
  PlainHit(const PlainHit&) = delete;
  PlainHit& operator=(const PlainHit&) = delete;
  void knows(const Code& code) {
    armed.state.code_ranges = reinterpret_cast<uint64_t>(&code.range());
    armed.state.code_range_count = 1;
  }
  void caches(uint64_t address, bool yes) {
    armed.thread.page_cache[address / kPage % kPageCacheSize] = yes ? address | kCachedPage : 0;
  }
  [[nodiscard]] bool used_the_hit_stack() const {
    return std::any_of(hit_stack, hit_stack + kHitStackBytes, [](char c) { return c != 0; });
  }
};

// The frames of `test` lie in one window of PLAIN_SHIFT bits, wherever the stack begins.
template <class Test>
__attribute__((noinline)) void in_one_window(Test test) {
  constexpr uint64_t kWindow = 1ULL << PLAIN_SHIFT;
  const auto here = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  void* const room = here % kWindow < kWindow / 4 ? __builtin_alloca(kWindow / 2) : nullptr;
  __asm__ volatile("" : : "r"(room) : "memory");
  test();
}

struct Pages {
  char* at;  // readable, its neighbour not
  Pages() {
    at = static_cast<char*>(
        ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (uint64_t i = 0; i < 2 * kPage; i++) {
      at[i] = static_cast<char>('a' + i % 23);
    }
  }
  ~Pages() { ::munmap(at, 2 * kPage); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
};

// Same result, same bytes, nothing beside them: from `from`, with its page cached or not.
void expect_as_the_helper(PlainHit& plain, const Code& code, int32_t bytes, uint64_t from,
                          bool is_cached) {
  char ours[32], theirs[32];
  std::memset(ours, '#', sizeof(ours));
  std::memset(theirs, '#', sizeof(theirs));
  plain.caches(from, is_cached);
  const auto expected = find_helper_function(BPF_FUNC_probe_read_user)(
      reinterpret_cast<uint64_t>(theirs + 8), static_cast<uint64_t>(bytes), from, 0, 0, &plain.hit);
  uint64_t context[2] = {reinterpret_cast<uint64_t>(ours + 8), from};
  plain.caches(from, is_cached);
  EXPECT_EQ(code.run(context, &plain.hit), expected) << bytes << " at " << std::hex << from;
  EXPECT_EQ(std::memcmp(ours, theirs, sizeof(ours)), 0) << bytes << " at " << std::hex << from;
  EXPECT_EQ(plain.hit.ended, static_cast<uint32_t>(kHitNormal));
  EXPECT_EQ(plain.hit.attached, reinterpret_cast<const Attached*>(&plain.hit));
}

TEST(InlineRead, DoesAsTheHelperForEverySizeAndAddress) {
  for (int32_t bytes = 1; bytes <= static_cast<int32_t>(kLargestInlineRead); bytes++) {
    PlainHit plain;
    const Code code(bytes);
    plain.knows(code);
    EXPECT_EQ(code.compiled().facts & (kCallsHelpers | kReadsInline), uint32_t{kReadsInline});
    const Pages pages;
    const auto at = reinterpret_cast<uint64_t>(pages.at);
    const auto size = static_cast<uint64_t>(bytes);
    for (const uint64_t from :
         {at, at + 1, at + kPage - size, at + kPage - size + 1, at + kPage - 1, at + kPage}) {
      expect_as_the_helper(plain, code, bytes, from, false);
      expect_as_the_helper(plain, code, bytes, from, true);
    }
    for (const uint64_t from :
         {0ULL, 8ULL, 1ULL << 47, ~0ULL, ~0ULL - 7, 0xffffffff81000000ULL, 0x7ffffffff000ULL - 1}) {
      expect_as_the_helper(plain, code, bytes, from, false);
    }
    ::mprotect(pages.at + kPage, kPage, PROT_NONE);
    for (const uint64_t from : {at + kPage - size, at + kPage - size + 1, at + kPage}) {
      expect_as_the_helper(plain, code, bytes, from, false);
    }
  }
}

TEST(InlineRead, AMappingThatGoesAwayBehindTheCacheIsEfault) {
  for (const bool is_unmapped : {false, true}) {
    for (int32_t bytes = 1; bytes <= static_cast<int32_t>(kLargestInlineRead); bytes++) {
      PlainHit plain;
      const Code code(bytes);
      plain.knows(code);
      const Pages pages;
      if (is_unmapped) {
        ::munmap(pages.at, kPage);
      } else {
        ::mprotect(pages.at, kPage, PROT_NONE);
      }
      expect_as_the_helper(plain, code, bytes, reinterpret_cast<uint64_t>(pages.at) + 64, true);
      EXPECT_EQ(plain.armed.thread
                    .page_cache[reinterpret_cast<uint64_t>(pages.at) / kPage % kPageCacheSize],
                0U);
    }
  }
}

TEST(InlineRead, TheCacheAgesAsTheHelpersDoes) {
  in_one_window([] {
    PlainHit plain;
    const Code code(16);
    plain.knows(code);
    const Pages pages;
    const auto from = reinterpret_cast<uint64_t>(pages.at);
    char to[16];
    uint64_t context[2] = {reinterpret_cast<uint64_t>(to), from};
    EXPECT_EQ(code.run(context, &plain.hit), 0U);
    EXPECT_TRUE(plain.used_the_hit_stack()) << "the first is slow";
    std::memset(plain.hit_stack, 0, kHitStackBytes);
    EXPECT_EQ(code.run(context, &plain.hit), 0U);
    EXPECT_FALSE(plain.used_the_hit_stack()) << "the second is not";
    plain.armed.thread.hits += 1U << kPageCacheAge;
    EXPECT_EQ(code.run(context, &plain.hit), 0U);
    EXPECT_TRUE(plain.used_the_hit_stack());
    EXPECT_EQ(std::memcmp(to, pages.at, 16), 0);
  });
}

// On the hit stack already, or on a signal stack, which must not be left.
TEST(InlineRead, OnAnotherStackTheSlowWayStaysThere) {
  PlainHit plain;
  const Code code(8);
  plain.knows(code);
  plain.armed.thread.plain_window = 0;
  const Pages pages;
  for (const uint64_t from : {reinterpret_cast<uint64_t>(pages.at), uint64_t{8}}) {
    expect_as_the_helper(plain, code, 8, from, false);
  }
  EXPECT_FALSE(plain.used_the_hit_stack());
}

// A program that was let through unverified: it ends, and says whose code it was.
TEST(InlineRead, ABadDestinationEndsTheProgram) {
  in_one_window([] {
    for (const bool is_cached : {true, false}) {
      PlainHit plain;
      plain.armed.state.agent_base = 4096;  // everything here is "the agent's image"
      plain.armed.state.agent_bytes = 1ULL << 47;
      const Code code(16);
      plain.knows(code);
      const Pages pages;
      const auto from = reinterpret_cast<uint64_t>(pages.at);
      plain.caches(from, is_cached);
      uint64_t context[2] = {64, from};
      EXPECT_EQ(code.run(context, &plain.hit), 0U);
      EXPECT_EQ(plain.hit.ended, static_cast<uint32_t>(kHitFault));
      EXPECT_EQ(plain.hit.attached, nullptr);
      EXPECT_EQ(plain.hit.faulted, &code.range());
    }
  });
}

TEST(InlineRead, OnlyKnownSizesOfOneToSixteenBytesAreInline) {
  CompileOptions options;
  options.read_cache = &kCache;
  for (const int32_t bytes : {0, -1, 17, 4096}) {
    EXPECT_EQ(compile_x64(reader(bytes), options).value().facts & (kCallsHelpers | kReadsInline),
              uint32_t{kCallsHelpers})
        << bytes;
  }
  std::vector<bpf_insn> jumps_over = {
      {BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 100},
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1, 0},
      {BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 8},
      {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  EXPECT_EQ(compile_x64(decode(jumps_over).value(), options).value().facts &
                (kCallsHelpers | kReadsInline),
            uint32_t{kCallsHelpers});
}

}  // namespace
}  // namespace bpftime
