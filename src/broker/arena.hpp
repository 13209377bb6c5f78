// Where things lie in a target's arena (abi/agent.hpp), and who gives out its heap. Home: broker. The allocator is the
// broker's own book-keeping: nothing of it is in the target.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "abi/agent.hpp"

namespace bpftime {

inline constexpr uint64_t kMappingsOffset = 256 << 10;
inline constexpr uint64_t kMaxMappings = 8192;
// What is about to be mapped, until it is among the mappings: a count, and MappedRange's. The broker may be killed in
// between, and the address may turn out to be taken by somebody else.
inline constexpr uint64_t kIntentsOffset = 384 << 10;
inline constexpr uint64_t kMaxIntents = 4096;
inline constexpr uint64_t kCodeRangesOffset = 512 << 10;
inline constexpr uint64_t kMaxCodeRanges = 8192;
inline constexpr uint64_t kJournalOffset = 1 << 20;
inline constexpr uint64_t kMaxJournal = 65536;
inline constexpr uint64_t kSemaphoresOffset = 6 << 20;
inline constexpr uint64_t kMaxSemaphores = 65536;
inline constexpr uint64_t kHeapOffset = 8 << 20;
static_assert(sizeof(AgentState) <= kMappingsOffset);
static_assert(kMappingsOffset + kMaxMappings * sizeof(MappedRange) <= kIntentsOffset);
static_assert(kIntentsOffset + (kMaxIntents + 1) * sizeof(MappedRange) <= kCodeRangesOffset);
static_assert(kCodeRangesOffset + kMaxCodeRanges * sizeof(CodeRange) <= kJournalOffset);
static_assert(kJournalOffset + kMaxJournal * sizeof(JournalEntry) <= kSemaphoresOffset);
static_assert(kSemaphoresOffset + kMaxSemaphores * sizeof(uint64_t) <= kHeapOffset);

// Gives out addresses in [begin, end), in sizes of 16 * 2^n; a freed piece is used again for its size.
class RemoteHeap {
 public:
  RemoteHeap() = default;
  RemoteHeap(uint64_t begin, uint64_t end) : next_(begin), end_(end) {}
  // 0 when full.
  uint64_t allocate(uint64_t bytes) {
    const uint64_t size = size_class(bytes);
    auto& free = free_[size];
    if (!free.empty()) {
      const uint64_t at = free.back();
      free.pop_back();
      return at;
    }
    if (size > end_ - next_) {
      return 0;
    }
    const uint64_t at = next_;
    next_ += size;
    return at;
  }
  void release(uint64_t at, uint64_t bytes) { free_[size_class(bytes)].push_back(at); }

 private:
  static uint64_t size_class(uint64_t bytes) {
    uint64_t size = 16;
    while (size < bytes) {
      size *= 2;
    }
    return size;
  }
  uint64_t next_ = 0, end_ = 0;
  std::map<uint64_t, std::vector<uint64_t>> free_;
};

}  // namespace bpftime
