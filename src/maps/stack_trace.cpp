// STACK_TRACE. Linux 6.18 kernel/bpf/stackmap.c. Unlike there, max_entries is not a limit beside the
// number of ids (its next power of two): nothing has to be taken from a free list.
#include "maps/stack_trace.hpp"

#include <linux/bpf.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

__extension__ using uint128 = unsigned __int128;
constexpr uint32_t kTries = 128;
constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
static_assert(sizeof(bpf_stack_build_id) == kFrameWords * 8 &&
              offsetof(bpf_stack_build_id, ip) == 24);

bool has_build_ids(const MapView& map) { return (map.spec.map_flags & BPF_F_STACK_BUILD_ID) != 0; }

StackBucket& bucket_at(const MapView& map, uint32_t id) {
  // SAFETY: id <= bucket_mask, so it lies inside the region, 8-byte aligned.
  return *reinterpret_cast<StackBucket*>(map.values +
                                         static_cast<uint64_t>(id) * map.element_stride);
}
std::byte* words_of(StackBucket& bucket) { return reinterpret_cast<std::byte*>(&bucket + 1); }
uint64_t most_words(const MapView& map) { return map.spec.value_size / 8; }

// The value that addresses make, word by word, in their order.
class Words {
 public:
  Words(const MapView& map, const BuildIdTable* build_ids, const uint64_t* ips)
      : has_build_ids_(has_build_ids(map)), build_ids_(build_ids), ips_(ips) {}
  uint64_t at(uint32_t n) {
    if (!has_build_ids_) {
      return ips_[n];
    }
    if (n % kFrameWords == 0) {
      stack_frame(build_ids_, ips_[n / kFrameWords], frame_);
    }
    return frame_[n % kFrameWords];
  }

 private:
  bool has_build_ids_;
  const BuildIdTable* build_ids_;
  const uint64_t* ips_;
  uint64_t frame_[kFrameWords] = {};
};

uint32_t hash_of(const uint64_t* ips, uint32_t count) {
  uint64_t hash = count;
  for (uint32_t i = 0; i < count; i++) {
    const uint128 product = static_cast<uint128>(hash ^ ips[i]) * 0x9e3779b97f4a7c15;
    hash = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  return static_cast<uint32_t>(hash ^ hash >> 32);
}

enum class Found : uint8_t { kUnclear, kNothing, kSame, kOther };

// What stands in a bucket, as far as it stands still.
BPFTIME_RACY Found look(StackBucket& bucket, uint32_t hash, Words value, uint32_t words,
                        bool is_fast) {
  const uint32_t version = bucket.version.load(kAcquire);
  const uint32_t there = bucket.words.load(kRelaxed);
  bool is_same = bucket.hash.load(kRelaxed) == hash && (is_fast || there == words);
  if (is_same && !is_fast) {
    const std::byte* at = words_of(bucket);
    for (uint32_t n = 0; n < words && is_same; n++, at += 8) {
      is_same = load_as<uint64_t>(at) == value.at(n);
    }
  }
  __asm__ volatile("" ::: "memory");
  if ((version & 1) != 0 || bucket.version.load(kRelaxed) != version) {
    return Found::kUnclear;
  }
  return there == 0 ? Found::kNothing : is_same ? Found::kSame : Found::kOther;
}

class Held : public HeldLock {
 public:
  Held(StackBucket& bucket, const LockContext& who) : HeldLock(bucket.lock, who), bucket_(bucket) {
    if (*this && (bucket.version.load(kRelaxed) & 1) != 0) {  // its writer died
      bucket.words.store(0, kRelaxed);
      end_change();
    }
  }
  void begin_change() {
    // Acquire: what follows is not stored before the version is odd.
    bucket_.version.exchange(bucket_.version.load(kRelaxed) | 1, std::memory_order_acq_rel);
  }
  void end_change() { bucket_.version.store((bucket_.version.load(kRelaxed) | 1) + 1, kRelease); }

 private:
  StackBucket& bucket_;
};

int erase(const MapView& map, const LockContext& who, const void* key) {
  const auto id = load_as<uint32_t>(key);
  if (id > map.bucket_mask) {
    return -E2BIG;
  }
  StackBucket& bucket = bucket_at(map, id);
  Held held(bucket, who);
  if (!held) {
    return -EBUSY;
  }
  if (bucket.words.load(kRelaxed) == 0) {
    return -ENOENT;
  }
  held.begin_change();
  bucket.words.store(0, kRelaxed);
  held.end_change();
  return 0;
}

bool is_used(const MapView& map, uint32_t id) {
  return bucket_at(map, id).words.load(kRelaxed) != 0;
}

int next_key(const MapView& map, const void* key, void* next) {
  uint64_t id = 0;
  if (key != nullptr) {
    const auto from = load_as<uint32_t>(key);
    id = from <= map.bucket_mask && is_used(map, from) ? uint64_t{from} + 1 : 0;
  }
  for (; id <= map.bucket_mask; id++) {
    if (is_used(map, static_cast<uint32_t>(id))) {
      store_as<uint32_t>(next, static_cast<uint32_t>(id));
      return 0;
    }
  }
  return -ENOENT;
}

int copy_out(const MapView& map, StackBucket& bucket, void* value) {
  uint64_t words = bucket.words.load(kRelaxed);
  words = words < most_words(map) ? words : most_words(map);
  copy_bytes(value, words_of(bucket), words * 8);
  zero_bytes(static_cast<std::byte*>(value) + words * 8, (most_words(map) - words) * 8);
  return words == 0 ? -ENOENT : 0;
}

int sys_lookup(const MapView& map, const void* key, void* value, uint64_t flags,
               const LockContext* who) {
  if (flags != 0) {
    return -EINVAL;
  }
  const auto id = load_as<uint32_t>(key);
  if (id > map.bucket_mask) {
    return -ENOENT;
  }
  StackBucket& bucket = bucket_at(map, id);
  for (uint32_t tries = 0; tries < kTries; tries++) {
    const uint32_t version = bucket.version.load(kAcquire);
    const int result = copy_out(map, bucket, value);
    __asm__ volatile("" ::: "memory");
    if ((version & 1) == 0 && bucket.version.load(kRelaxed) == version) {
      return result;
    }
  }
  if (who == nullptr) {
    return -EAGAIN;
  }
  const Held held(bucket, *who);
  return held ? copy_out(map, bucket, value) : -EBUSY;
}

int visit(const MapView& map, uint64_t* cursor, void* key, uint32_t /*lane*/, std::byte** value) {
  for (; *cursor <= map.bucket_mask; (*cursor)++) {
    const auto id = static_cast<uint32_t>(*cursor);
    if (is_used(map, id)) {
      store_as<uint32_t>(key, id);
      *value = words_of(bucket_at(map, id));
      (*cursor)++;
      return 0;
    }
  }
  return -ENOENT;
}

}  // namespace

uint32_t stack_depth(const MapView& map) {
  return static_cast<uint32_t>(most_words(map)) / (has_build_ids(map) ? kFrameWords : 1);
}

void stack_frame(const BuildIdTable* build_ids, uint64_t ip, uint64_t* words) {
  bpf_stack_build_id frame = {};
  static_assert(sizeof(frame.build_id) == kBuildIdBytes);
  if (const BuildIdRow* const row = find_build_id(build_ids, ip)) {
    frame.status = BPF_STACK_BUILD_ID_VALID;
    copy_bytes(frame.build_id, row->id, kBuildIdBytes);
    frame.offset = row->offset + (ip - row->begin);
  } else {
    frame.status = BPF_STACK_BUILD_ID_IP;
    frame.ip = ip;
  }
  copy_bytes(words, &frame, sizeof(frame));
}

int64_t stack_id(const MapView& map, const LockContext& who, const BuildIdTable* build_ids,
                 const uint64_t* ips, uint32_t count, uint64_t flags) {
  if (count > stack_depth(map)) {
    return -EINVAL;
  }
  const uint32_t words = count * (has_build_ids(map) ? kFrameWords : 1);
  const uint32_t hash = hash_of(ips, count);
  const uint32_t id = hash & map.bucket_mask;
  const bool is_fast = (flags & BPF_F_FAST_STACK_CMP) != 0;
  const bool replaces = (flags & BPF_F_REUSE_STACKID) != 0;
  StackBucket& bucket = bucket_at(map, id);
  Words value(map, build_ids, ips);
  Found found = look(bucket, hash, value, words, is_fast);
  if (found == Found::kSame) [[likely]] {
    return id;
  }
  if (found == Found::kOther && !replaces) {
    return -EEXIST;
  }
  Held held(bucket, who);
  if (!held) {
    return -EBUSY;
  }
  found = look(bucket, hash, value, words, is_fast);
  if (found == Found::kSame) {
    return id;
  }
  if (found == Found::kOther && !replaces) {
    return -EEXIST;
  }
  held.begin_change();
  std::byte* at = words_of(bucket);
  for (uint32_t n = 0; n < words; n++, at += 8) {
    store_as<uint64_t>(at, value.at(n));
  }
  bucket.hash.store(hash, kRelaxed);
  bucket.words.store(words, kRelaxed);
  held.end_change();
  return id;
}

constinit const MapOps kStackTraceOps = {BPF_MAP_TYPE_STACK_TRACE,
                                         no_lookup,  // the verifier lets no program ask
                                         invalid_update,
                                         erase,
                                         next_key,
                                         sys_lookup,
                                         invalid_sys_update,
                                         array_sweep,
                                         visit,
                                         nullptr};

}  // namespace bpftime
