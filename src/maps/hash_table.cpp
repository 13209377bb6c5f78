// What the table seldom needs, and what knows nothing of a key's type.
#include "maps/hash_table.hpp"

namespace bpftime::hash_table {
namespace {

// Marks in the maps what its `home` says already. Again and again is the same.
void mark_used(const MapView& map, uint32_t name) {
  const uint64_t word = (name - 1) / 64;
  const uint64_t bit = 1ULL << ((name - 1) % 64);
  if ((used_word(map, word).fetch_or(bit, kRelaxed) | bit) == ~0ULL) [[unlikely]] {
    const uint64_t full_bit = 1ULL << (word % 64);
    full_word(map, word / 64).fetch_or(full_bit);
    if (used_word(map, word).load() != ~0ULL) {  // freed between the two
      full_word(map, word / 64).fetch_and(~full_bit);
    }
  }
}

// The same after a death, which may have come between marking a word as full and looking again.
void mark_used_again(const MapView& map, uint32_t name) {
  const uint64_t word = (name - 1) / 64;
  mark_used(map, name);
  if (used_word(map, word).load() != ~0ULL) {
    full_word(map, word / 64).fetch_and(~(1ULL << (word % 64)));
  }
}

// Takes a free element of one word of the map. 0 = none.
uint32_t take_from_word(const MapView& map, HashBucket& bucket, uint32_t home, uint64_t word) {
  for (uint64_t free = ~used_word(map, word).load(kRelaxed); free != 0; free &= free - 1) {
    const uint64_t number = word * 64 + static_cast<uint64_t>(__builtin_ctzll(free));
    if (number >= map.element_count) {
      return 0;  // scribbled
    }
    const auto name = static_cast<uint32_t>(number + 1);
    uint32_t nobody = 0;
    bucket.journal.store(journal_of(kJournalTransit, 0, name), kRelaxed);
    if (element_at(map, name).home.compare_exchange_strong(nobody, home, kAcquire)) {
      mark_used(map, name);
      return name;
    }
  }
  return 0;
}

bool is_linked(const MapView& map, HashBucket& bucket, uint32_t name) {
  const uint64_t tags = bucket.tags.load(kRelaxed);
  for (uint32_t slot = 0; slot < kBucketSlots; slot++) {
    if ((tags >> (slot * 8) & 0x80) != 0 && bucket.slots[slot].load(kRelaxed) == name) {
      return true;
    }
  }
  uint32_t at = bucket.chain.load(kRelaxed);
  for (uint32_t steps = 0; is_element(map, at) && steps < kMaxChain; steps++) {
    if (at == name) {
      return true;
    }
    at = element_at(map, at).next.load(kRelaxed);
  }
  return false;
}

// The element of the chain that has `left` behind it, itself counted; and at most so many.
struct ChainPlace {
  uint32_t name, left;
};
ChainPlace place_in_chain(const MapView& map, const HashBucket& bucket, uint32_t left) {
  uint32_t length = 0;
  for (uint32_t name = bucket.chain.load(kAcquire); is_element(map, name) && length < kMaxChain;
       length++) {
    name = element_at(map, name).next.load(kAcquire);
  }
  left = left < length ? left : length;
  uint32_t name = left == 0 ? 0 : bucket.chain.load(kAcquire);
  for (uint32_t skip = length - left; skip > 0 && is_element(map, name); skip--) {
    name = element_at(map, name).next.load(kAcquire);
  }
  return is_element(map, name) ? ChainPlace{name, left} : ChainPlace{0, 0};
}

}  // namespace

// Gives an element back. `home` last: until then nobody can take it, and repair() would do it
// again.
void release(const MapView& map, uint32_t name) {
  const uint64_t word = (name - 1) / 64;
  used_word(map, word).fetch_and(~(1ULL << ((name - 1) % 64)));
  const uint64_t full_bit = 1ULL << (word % 64);
  if ((full_word(map, word / 64).load() & full_bit) != 0) {
    full_word(map, word / 64).fetch_and(~full_bit);
  }
  element_at(map, name).home.store(0, kRelease);
}

uint32_t take_element(const MapView& map, HashBucket& bucket) {
  const uint64_t number = number_of(map, bucket);
  const auto home = static_cast<uint32_t>(number + 1);
  const uint64_t words = used_words(map);
  const uint64_t start = number * words / (static_cast<uint64_t>(map.bucket_mask) + 1);
  if (const uint32_t name = take_from_word(map, bucket, home, start)) [[likely]] {
    return name;
  }
  // Round through the words that are not known to be full: [start + 1, words), then [0, start].
  for (int half = 0; half < 2; half++) {
    const uint64_t end = half == 0 ? words : start + 1;
    for (uint64_t word = half == 0 ? start + 1 : 0; word < end;) {
      const uint64_t open = ~full_word(map, word / 64).load(kRelaxed) >> (word % 64);
      if (open == 0) {
        word = (word / 64 + 1) * 64;
        continue;
      }
      word += static_cast<uint64_t>(__builtin_ctzll(open));
      if (word >= end) {
        break;
      }
      if (const uint32_t name = take_from_word(map, bucket, home, word)) {
        return name;
      }
      word++;
    }
  }
  return 0;
}

void set_chain_tag(HashBucket& bucket) {
  const uint64_t tags = bucket.tags.load(kRelaxed) & (kChainTag - 1);
  bucket.tags.store(bucket.chain.load(kRelaxed) != 0 ? tags | kChainTag : tags, kRelease);
}

// Held: the lock. Each step can be done twice.
void repair(const MapView& map, HashBucket& bucket) {
  const uint64_t journal = bucket.journal.load(kRelaxed);
  const auto name = static_cast<uint32_t>(journal >> 32);
  const auto slot = static_cast<uint32_t>(journal >> 8 & 0xff);
  const uint32_t spare = spare_of(map, bucket);
  const auto home = static_cast<uint32_t>(number_of(map, bucket) + 1);
  if (is_element(map, name)) {
    switch (journal & 0xff) {
      case kJournalTransit:
        if (element_at(map, name).home.load(kRelaxed) == home && name != spare) {
          if (is_linked(map, bucket, name)) {
            mark_used_again(map, name);
          } else {
            count_version(bucket);
            release(map, name);
          }
        }
        break;
      case kJournalSwapSlot:
        if (spare != name && slot < kBucketSlots) {  // the old one is the spare already: finish
          bucket.slots[slot].store(name, kRelease);
        }
        break;
      case kJournalSwapChain:
        if (spare != name) {
          std::atomic<uint32_t>* link = &bucket.chain;
          for (uint32_t steps = 0; steps < kMaxChain; steps++) {
            const uint32_t at = link->load(kRelaxed);
            if (!is_element(map, at)) {
              break;
            }
            if (at == spare) {
              link->store(name, kRelease);
              break;
            }
            link = &element_at(map, at).next;
          }
        }
        break;
      default:
        break;
    }
  }
  set_chain_tag(bucket);
  count_version(bucket);
  bucket.journal.store(kJournalNone, kRelease);
}

uint32_t next_in_bucket(const MapView& map, HashBucket& bucket, uint32_t after) {
  bool is_behind = after == 0;
  const uint64_t tags = bucket.tags.load(kAcquire);
  for (uint32_t slot = 0; slot < kBucketSlots; slot++) {
    if ((tags >> (slot * 8) & 0x80) == 0) {
      continue;
    }
    const uint32_t name = bucket.slots[slot].load(kAcquire);
    if (!is_element(map, name)) {
      continue;
    }
    if (is_behind) {
      return name;
    }
    is_behind = name == after;
  }
  uint32_t name = bucket.chain.load(kAcquire);
  for (uint32_t steps = 0; is_element(map, name) && steps < kMaxChain; steps++) {
    if (is_behind) {
      return name;
    }
    is_behind = name == after;
    name = element_at(map, name).next.load(kAcquire);
  }
  return 0;
}

HashElement* visit(const MapView& map, uint64_t* cursor, void* key) {
  constexpr uint32_t kInChain = kBucketSlots;
  uint64_t number = (*cursor & ~0U) >> 3;
  auto slot = static_cast<uint32_t>(*cursor & 7);
  auto left = *cursor >> 32 == 0 ? ~0U : static_cast<uint32_t>((*cursor >> 32) - 1);
  for (; number <= map.bucket_mask; number++, slot = 0, left = ~0U) {
    HashBucket& bucket = bucket_at(map, number);
    uint32_t name = 0;
    uint64_t next = 0;
    for (uint32_t tries = 0; tries < kTries; tries++) {
      const uint32_t version = bucket.version.load(kAcquire);
      const uint64_t tags = bucket.tags.load(kAcquire);
      name = 0;
      for (uint32_t at = slot; at < kInChain && name == 0; at++) {
        const uint32_t there = bucket.slots[at].load(kAcquire);
        if ((tags >> (at * 8) & 0x80) != 0 && is_element(map, there)) {
          name = there;
          next = number << 3 | (at + 1);
        }
      }
      if (name == 0 && tags >= kChainTag) {
        const ChainPlace place = place_in_chain(map, bucket, left);
        name = place.name;
        next = place.left > 1 ? static_cast<uint64_t>(place.left) << 32 | number << 3 | kInChain
                              : (number + 1) << 3;
      }
      if (name != 0) {
        copy_bytes(key, key_of(element_at(map, name)), map.spec.key_size);
      }
      keep_load_order();
      if (bucket.version.load(kRelaxed) == version) {
        break;
      }
    }
    if (name != 0) {
      *cursor = next;
      return &element_at(map, name);
    }
  }
  *cursor = number << 3;
  return nullptr;
}

uint32_t sweep(const MapView& map, const LockContext& who, OwnerId dead) {
  constexpr uint32_t kDied = 0x40000000;  // FUTEX_OWNER_DIED
  uint32_t count = 0;
  for (uint64_t number = 0; number <= map.bucket_mask; number++) {
    HashBucket& bucket = bucket_at(map, number);
    uint32_t word = bucket.lock.word.load(kRelaxed);
    if (word == 0) {
      continue;
    }
    const uint32_t owner = bucket.lock.owner.load(kRelaxed);
    if (owner == raw(dead) && dead != OwnerId{0}) {
      // Mark it as the kernel would have, had it known; then it is taken like any other.
      bucket.lock.word.compare_exchange_strong(word, word | kDied, kAcquire);
    } else if ((word & kDied) == 0) {
      continue;
    }
    const Held held(map, bucket, who);
    count += held ? 1 : 0;
  }
  return count;
}

}  // namespace bpftime::hash_table
