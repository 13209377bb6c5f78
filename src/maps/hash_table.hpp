// The table below HASH and PERCPU_HASH. Home: injected *, maps only.
//
// A bucket is one cache line: seven slots with a byte of the hash each, so that one compare of 8
// bytes finds the candidate without a branch to guess; what finds no slot hangs in a chain
// behind it.
//
// Readers take no lock: version, tags, slot, key, then the version again. A writer changes what
// readers see by one store (a tag word, a slot, a link) and counts the version up before the
// element that it took out is used again, so an unchanged version says that no element the reader
// looked at was reused meanwhile.
//
// An update of a present key writes a whole new element, the bucket's spare, and swaps: no reader
// sees half a value, and a death in the middle leaves the old one. Exactly max_entries elements can
// be linked at once because there are max_entries + buckets of them and each bucket always keeps
// one spare: full means "no free element".
//
// Death: before an element moves, `journal` names it. Its own `home` word says truly whose it is
// (taken with a compare and swap from 0), the bit map only tells where to look. repair() brings a
// bucket that its owner left to one of the two states around the interrupted operation.
// docs/abi-regions.md has the order of all stores.
#pragma once
#include <linux/bpf.h>

#include <cerrno>

#include "maps/bytes.hpp"
#include "maps/map_ops.hpp"

namespace bpftime::hash_table {

__extension__ using uint128 = unsigned __int128;

inline constexpr uint32_t kTries = 128;  // of a reader whose bucket keeps changing
inline constexpr uint32_t kMaxChain =
    1 << 16;  // longer: only by a scribbled region or chosen collisions
inline constexpr uint64_t kOnes = 0x0101010101010101;
inline constexpr uint64_t kSlotTags = 0x0080808080808080;  // top bits of the seven slots' tags
inline constexpr uint64_t kChainTag = 1ULL << 56;
inline constexpr auto kRelaxed = std::memory_order_relaxed;
inline constexpr auto kAcquire = std::memory_order_acquire;
inline constexpr auto kRelease = std::memory_order_release;

inline uint64_t mix(uint64_t a, uint64_t b) {
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}
inline constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;   // 2^64 / golden ratio
inline constexpr uint64_t kOdd2 = 0xd1b54a32d192ed03;  // 2^64 / plastic number squared, made odd

// Two loads where one would do: a program that wrote the key as a struct of 4-byte fields a moment
// ago would make one load of 8 bytes wait for the stores to leave the store buffer (5 ns and more).
BPFTIME_RACY inline uint64_t load_halves(const void* from) {
  uint64_t low = load_as<uint32_t>(from);
  __asm__("" : "+r"(low));  // else the compiler joins them again
  return low | static_cast<uint64_t>(load_as<uint32_t>(static_cast<const std::byte*>(from) + 4))
                   << 32;
}

// A key, loaded once. One type each for the sizes that programs use, and one for the rest.
struct Key4 {
  uint32_t word;
  explicit Key4(const void* key) : word(load_as<uint32_t>(key)) {}
  [[nodiscard]] uint64_t hash(const MapView& map) const { return mix(word ^ map.seed, kOdd); }
  bool equals(const MapView& /*map*/, const std::byte* stored) const {
    return load_as<uint32_t>(stored) == word;
  }
  void copy_to(const MapView& /*map*/, std::byte* to) const { store_as(to, word); }
};
struct Key8 {
  uint64_t word;
  explicit Key8(const void* key) : word(load_halves(key)) {}
  [[nodiscard]] uint64_t hash(const MapView& map) const { return mix(word ^ map.seed, kOdd); }
  bool equals(const MapView& /*map*/, const std::byte* stored) const {
    return load_as<uint64_t>(stored) == word;
  }
  void copy_to(const MapView& /*map*/, std::byte* to) const { store_as(to, word); }
};
struct Key16 {
  uint64_t first, second;
  explicit Key16(const void* key)
      : first(load_halves(key)), second(load_halves(static_cast<const std::byte*>(key) + 8)) {}
  [[nodiscard]] uint64_t hash(const MapView& map) const {
    return mix(first ^ map.seed, second ^ kOdd) + mix(first ^ kOdd2, second ^ map.seed);
  }
  bool equals(const MapView& /*map*/, const std::byte* stored) const {
    return ((load_as<uint64_t>(stored) ^ first) | (load_as<uint64_t>(stored + 8) ^ second)) == 0;
  }
  void copy_to(const MapView& /*map*/, std::byte* to) const {
    store_as(to, first);
    store_as(to + 8, second);
  }
};
struct KeyAny {
  const std::byte* bytes;
  explicit KeyAny(const void* key) : bytes(static_cast<const std::byte*>(key)) {}
  [[nodiscard]] uint64_t hash(const MapView& map) const {
    const std::byte* at = bytes;
    uint32_t left = map.spec.key_size;
    uint64_t h = map.seed ^ left;
    for (; left >= 8; left -= 8, at += 8) {
      h = mix(h ^ load_halves(at), kOdd) + kOdd2;
    }
    uint64_t last = 0;
    if ((left & 4) != 0) {
      last = load_as<uint32_t>(at);
      at += 4;
    }
    for (left &= 3; left > 0; left--, at++) {
      last = last << 8 | static_cast<uint8_t>(*at);
    }
    return mix(h ^ last, kOdd);
  }
  bool equals(const MapView& map, const std::byte* stored) const {
    return equal_bytes(stored, bytes, map.spec.key_size);
  }
  void copy_to(const MapView& map, std::byte* to) const {
    copy_bytes(to, bytes, map.spec.key_size);
  }
};

// x86-64 keeps loads in order; the compiler has to be told. (Thread sanitizers know no fence.)
inline void keep_load_order() { __asm__ volatile("" ::: "memory"); }

inline HashBucket& bucket_at(const MapView& map, uint64_t number) {
  // SAFETY: table is 64-byte aligned inside the region and number <= bucket_mask.
  return *reinterpret_cast<HashBucket*>(map.table + number * sizeof(HashBucket));
}
inline uint64_t number_of(const MapView& map, const HashBucket& bucket) {
  return static_cast<uint64_t>(reinterpret_cast<const std::byte*>(&bucket) - map.table) /
         sizeof(HashBucket);
}
// `name` is an element's number + 1, from shared memory: check before element_at().
inline bool is_element(const MapView& map, uint32_t name) { return name - 1 < map.element_count; }
inline HashElement& element_at(const MapView& map, uint32_t name) {
  // SAFETY: is_element(name), so it lies inside the region, 8-byte aligned.
  return *reinterpret_cast<HashElement*>(map.values +
                                         static_cast<uint64_t>(name - 1) * map.element_stride);
}
inline std::byte* key_of(HashElement& element) {
  return reinterpret_cast<std::byte*>(&element + 1);
}
inline std::byte* value_of(const MapView& map, HashElement& element) {
  return reinterpret_cast<std::byte*>(&element) + map.value_offset;
}
inline uint64_t tag_of(uint64_t hash) { return 0x80 | hash >> 57; }
// Top bits of the slots whose tag may be `tag` (a wrong one now and then above a right one).
inline uint64_t candidates(uint64_t tags, uint64_t tag) {
  const uint64_t x = tags ^ tag * kOnes;
  return (x - kOnes) & ~x & kSlotTags;
}
inline uint32_t slot_of(uint64_t bits) { return static_cast<uint32_t>(__builtin_ctzll(bits)) / 8; }

// One look through a bucket, without judging the version. Null = not seen.
template <class Key>
HashElement* find(const MapView& map, HashBucket& bucket, uint64_t tag, const Key& key) {
  const uint64_t tags = bucket.tags.load(kAcquire);
  for (uint64_t bits = candidates(tags, tag); bits != 0; bits &= bits - 1) {
    const uint32_t name = bucket.slots[slot_of(bits)].load(kAcquire);
    if (is_element(map, name)) [[likely]] {
      HashElement& element = element_at(map, name);
      if (key.equals(map, key_of(element))) [[likely]] {
        return &element;
      }
    }
  }
  if (tags >= kChainTag) [[unlikely]] {
    uint32_t name = bucket.chain.load(kAcquire);
    for (uint32_t steps = 0; is_element(map, name) && steps < kMaxChain; steps++) {
      HashElement& element = element_at(map, name);
      if (key.equals(map, key_of(element))) {
        return &element;
      }
      name = element.next.load(kAcquire);
    }
  }
  return nullptr;
}

// Null = no such key. Takes no lock.
template <class Key>
inline HashElement* lookup(const MapView& map, const Key& key) {
  const uint64_t hash = key.hash(map);
  HashBucket& bucket = bucket_at(map, hash & map.bucket_mask);
  const uint64_t tag = tag_of(hash);
  HashElement* found = nullptr;
  for (uint32_t tries = 0; tries < kTries; tries++) {
    const uint32_t version = bucket.version.load(kAcquire);
    found = find<Key>(map, bucket, tag, key);
    keep_load_order();
    if (bucket.version.load(kRelaxed) == version) [[likely]] {
      break;
    }
  }
  return found;
}

// ---- Under the bucket's lock
// --------------------------------------------------------------------------------

// Where a key stands: the word that names its element.
struct Place {
  std::atomic<uint32_t>* link = nullptr;  // null: not there
  uint32_t name = 0;
  uint32_t slot = kBucketSlots;  // kBucketSlots: in the chain
  uint32_t chain_length = 0;
};

template <class Key>
Place find_place(const MapView& map, HashBucket& bucket, uint64_t tag, const Key& key) {
  Place place;
  const uint64_t tags = bucket.tags.load(kRelaxed);
  for (uint64_t bits = candidates(tags, tag); bits != 0; bits &= bits - 1) {
    const uint32_t slot = slot_of(bits);
    const uint32_t name = bucket.slots[slot].load(kRelaxed);
    if (is_element(map, name) && key.equals(map, key_of(element_at(map, name)))) {
      place.link = &bucket.slots[slot];
      place.name = name;
      place.slot = slot;
      return place;
    }
  }
  if (tags >= kChainTag) [[unlikely]] {
    std::atomic<uint32_t>* link = &bucket.chain;
    uint32_t name = link->load(kRelaxed);
    for (; is_element(map, name) && place.chain_length < kMaxChain; place.chain_length++) {
      HashElement& element = element_at(map, name);
      if (key.equals(map, key_of(element))) {
        place.link = link;
        place.name = name;
        return place;
      }
      link = &element.next;
      name = link->load(kRelaxed);
    }
  }
  return place;
}

inline uint32_t spare_of(const MapView& map, const HashBucket& bucket) {
  const uint32_t name = bucket.spare.load(kRelaxed);
  return name != 0 ? name
                   : static_cast<uint32_t>(map.spec.max_entries + number_of(map, bucket) + 1);
}

inline uint64_t journal_of(uint64_t kind, uint32_t slot, uint32_t name) {
  return kind | static_cast<uint64_t>(slot) << 8 | static_cast<uint64_t>(name) << 32;
}

inline void count_version(HashBucket& bucket) {
  bucket.version.store(bucket.version.load(kRelaxed) + 1, kRelease);
}

inline std::atomic<uint64_t>& used_word(const MapView& map, uint64_t word) {
  // SAFETY: word < ceil(element_count / 64), the length of the map; 8-byte aligned.
  return *reinterpret_cast<std::atomic<uint64_t>*>(map.used + word * 8);
}
inline std::atomic<uint64_t>& full_word(const MapView& map, uint64_t word) {
  return *reinterpret_cast<std::atomic<uint64_t>*>(map.full + word * 8);
}
inline uint64_t used_words(const MapView& map) {
  return (static_cast<uint64_t>(map.element_count) + 63) / 64;
}

// Gives an element back to the free ones.
void release(const MapView& map, uint32_t name);
// Takes a free element for this bucket, near those of its neighbours. 0 = the map is full.
uint32_t take_element(const MapView& map, HashBucket& bucket);
void set_chain_tag(HashBucket& bucket);
// Finishes or undoes what the journal of a bucket tells; the owner died or left.
void repair(const MapView& map, HashBucket& bucket);

// The lock of one bucket, repaired when it came from the dead.
class Held : public HeldLock {
 public:
  Held(const MapView& map, HashBucket& bucket, const LockContext& who)
      : HeldLock(bucket.lock, who) {
    if (is_from_dead()) [[unlikely]] {
      repair(map, bucket);
    }
  }
};

// `fill_value(element)` writes the new element's value. Preconditions: the key is not there.
template <class Key, class Fill>
int insert(const MapView& map, HashBucket& bucket, uint64_t tag, uint32_t chain_length,
           const Key& key, Fill fill_value) {
  const uint64_t tags = bucket.tags.load(kRelaxed);
  const uint64_t empty = ~tags & kSlotTags;
  if (empty == 0 && chain_length >= kMaxChain) {
    return -E2BIG;
  }
  const uint32_t name = take_element(map, bucket);
  if (name == 0) {
    bucket.journal.store(kJournalNone, kRelaxed);
    return -E2BIG;
  }
  HashElement& element = element_at(map, name);
  key.copy_to(map, key_of(element));
  fill_value(element);
  if (empty != 0) {
    const uint32_t slot = slot_of(empty);
    bucket.slots[slot].store(name, kRelease);
    const uint64_t shift = slot * 8;
    bucket.tags.store((tags & ~(0xffULL << shift)) | tag << shift, kRelease);
  } else {
    element.next.store(bucket.chain.load(kRelaxed), kRelaxed);
    bucket.chain.store(name, kRelease);
    bucket.tags.store(tags | kChainTag, kRelease);
  }
  count_version(bucket);
  bucket.journal.store(kJournalNone, kRelease);
  return 0;
}

// `change(bucket, place, key)` for a present key, `init(element)` for a new one. BPF_F_LOCK is refused with unknown flags: no
// value holds a spin lock.
template <class Key, class Change, class Init>
int update_with(const MapView& map, const LockContext& who, const void* key_bytes, uint64_t flags,
                Change change, Init init) {
  if (flags > BPF_EXIST) {
    return -EINVAL;
  }
  const Key key(key_bytes);
  const uint64_t hash = key.hash(map);
  HashBucket& bucket = bucket_at(map, hash & map.bucket_mask);
  const Held held(map, bucket, who);
  if (!held) {
    return -EBUSY;
  }
  const Place place = find_place<Key>(map, bucket, tag_of(hash), key);
  if (place.link != nullptr) {
    if (flags == BPF_NOEXIST) {
      return -EEXIST;
    }
    change(bucket, place, key);
    return 0;
  }
  if (flags == BPF_EXIST) {
    return -ENOENT;
  }
  return insert<Key>(map, bucket, tag_of(hash), place.chain_length, key, init);
}

// `before(element)` may read the element that goes.
template <class Key, class Before>
int erase(const MapView& map, const LockContext& who, const void* key_bytes, Before before) {
  const Key key(key_bytes);
  const uint64_t hash = key.hash(map);
  HashBucket& bucket = bucket_at(map, hash & map.bucket_mask);
  const Held held(map, bucket, who);
  if (!held) {
    return -EBUSY;
  }
  const Place place = find_place<Key>(map, bucket, tag_of(hash), key);
  if (place.link == nullptr) {
    return -ENOENT;
  }
  before(element_at(map, place.name));
  bucket.journal.store(journal_of(kJournalTransit, 0, place.name), kRelease);
  if (place.slot == kBucketSlots) {
    place.link->store(element_at(map, place.name).next.load(kRelaxed), kRelease);
    if (bucket.chain.load(kRelaxed) == 0) {
      set_chain_tag(bucket);
    }
  } else {
    bucket.tags.store(bucket.tags.load(kRelaxed) & ~(0xffULL << (place.slot * 8)), kRelease);
  }
  count_version(bucket);
  release(map, place.name);
  bucket.journal.store(kJournalNone, kRelease);
  return 0;
}

// ---- Iteration

// Order of a bucket: slots, then the chain. Gives the element after `after` (0 = the first); 0 = no
// more.
uint32_t next_in_bucket(const MapView& map, HashBucket& bucket, uint32_t after);

// MapOps::visit but for the value. A cursor is bucket << 3 | slot; slot 7 is the chain, and then the
// upper half says 1 + how many of its last elements are still to come (0: all of them).
HashElement* visit(const MapView& map, uint64_t* cursor, void* key);

template <class Key>
int next_key(const MapView& map, const void* key_bytes, void* next) {
  uint64_t number = 0;
  if (key_bytes != nullptr) {
    const Key key(key_bytes);
    const uint64_t hash = key.hash(map);
    HashBucket& bucket = bucket_at(map, hash & map.bucket_mask);
    bool found = false;
    uint32_t behind = 0;
    for (uint32_t tries = 0; tries < kTries; tries++) {
      const uint32_t version = bucket.version.load(kAcquire);
      HashElement* const element = find<Key>(map, bucket, tag_of(hash), key);
      found = element != nullptr;
      behind = 0;
      if (found) {
        const auto offset = reinterpret_cast<std::byte*>(element) - map.values;
        const auto name =
            static_cast<uint32_t>(static_cast<uint64_t>(offset) / map.element_stride + 1);
        behind = next_in_bucket(map, bucket, name);
        if (behind != 0) {
          Key(key_of(element_at(map, behind))).copy_to(map, static_cast<std::byte*>(next));
        }
      }
      keep_load_order();
      if (bucket.version.load(kRelaxed) == version) {
        break;
      }
    }
    if (behind != 0) {
      return 0;
    }
    number = found ? (hash & map.bucket_mask) + 1 : 0;
  }
  for (; number <= map.bucket_mask; number++) {
    HashBucket& bucket = bucket_at(map, number);
    uint32_t first = 0;
    for (uint32_t tries = 0; tries < kTries; tries++) {
      const uint32_t version = bucket.version.load(kAcquire);
      first = next_in_bucket(map, bucket, 0);
      if (first != 0) {
        Key(key_of(element_at(map, first))).copy_to(map, static_cast<std::byte*>(next));
      }
      keep_load_order();
      if (bucket.version.load(kRelaxed) == version) {
        break;
      }
    }
    if (first != 0) {
      return 0;
    }
  }
  return -ENOENT;
}

uint32_t sweep(const MapView& map, const LockContext& who, OwnerId dead);

}  // namespace bpftime::hash_table
