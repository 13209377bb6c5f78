// HASH: one value an element. A present key's update writes a whole new element and swaps.
#include <linux/bpf.h>

#include <cerrno>

#include "maps/hash_table.hpp"
#include "maps/kinds.hpp"

namespace bpftime {
namespace {

using namespace hash_table;  // NOLINT: this file is that table's

template <class Key>
std::byte* lookup(const MapView& map, const void* key, uint32_t /*lane*/) {
  HashElement* const found = hash_table::lookup(map, Key(key));
  return found == nullptr ? nullptr : value_of(map, *found);
}

template <class Key>
void replace(const MapView& map, HashBucket& bucket, const Place& place, const Key& key,
             const void* value) {
  const uint32_t spare = spare_of(map, bucket);
  if (!is_element(map, spare)) {
    return;  // scribbled
  }
  HashElement& element = element_at(map, spare);
  element.home.store(static_cast<uint32_t>(number_of(map, bucket) + 1), kRelaxed);
  key.copy_to(map, key_of(element));
  copy_bytes(value_of(map, element), value, map.spec.value_size);
  if (place.slot == kBucketSlots) {
    element.next.store(element_at(map, place.name).next.load(kRelaxed), kRelaxed);
    bucket.journal.store(journal_of(kJournalSwapChain, 0, spare), kRelease);
  } else {
    bucket.journal.store(journal_of(kJournalSwapSlot, place.slot, spare), kRelease);
  }
  bucket.spare.store(place.name, kRelease);
  place.link->store(spare, kRelease);
  count_version(bucket);
  bucket.journal.store(kJournalNone, kRelease);
}

template <class Key>
int update(const MapView& map, const LockContext& who, uint32_t /*lane*/, const void* key_bytes,
           const void* value, uint64_t flags) {
  return update_with<Key>(
      map, who, key_bytes, flags,
      [&](HashBucket& bucket, const Place& place, const Key& key) {
        replace<Key>(map, bucket, place, key, value);
      },
      [&](HashElement& element) {
        copy_bytes(value_of(map, element), value, map.spec.value_size);
      });
}

template <class Key>
int erase(const MapView& map, const LockContext& who, const void* key) {
  return hash_table::erase<Key>(map, who, key, [](HashElement&) {});
}

template <class Key>
int sys_lookup(const MapView& map, const void* key_bytes, void* value, uint64_t flags,
               const LockContext* who) {
  if (flags != 0) {
    return -EINVAL;
  }
  const Key key(key_bytes);
  const uint64_t hash = key.hash(map);
  HashBucket& bucket = bucket_at(map, hash & map.bucket_mask);
  const auto look = [&] {
    HashElement* const element = find<Key>(map, bucket, tag_of(hash), key);
    if (element != nullptr) {
      copy_bytes(value, value_of(map, *element), map.spec.value_size);
    }
    return element != nullptr ? 0 : -ENOENT;
  };
  for (uint32_t tries = 0; tries < kTries; tries++) {
    const uint32_t version = bucket.version.load(kAcquire);
    const int result = look();
    keep_load_order();
    if (bucket.version.load(kRelaxed) == version) {
      return result;
    }
  }
  if (who == nullptr) {
    return -EAGAIN;
  }
  const Held held(map, bucket, *who);
  return held ? look() : -EBUSY;
}

template <class Key>
int sys_update(const MapView& map, const LockContext& who, const void* key, const void* value,
               uint64_t flags) {
  return update<Key>(map, who, 0, key, value, flags);
}

template <class Key>
int sys_take(const MapView& map, const LockContext& who, const void* key, void* value) {
  return hash_table::erase<Key>(map, who, key, [&](HashElement& element) {
    copy_bytes(value, value_of(map, element), map.spec.value_size);
  });
}

int visit(const MapView& map, uint64_t* cursor, void* key, uint32_t /*lane*/, std::byte** value) {
  HashElement* const element = hash_table::visit(map, cursor, key);
  if (element == nullptr) {
    return -ENOENT;
  }
  *value = value_of(map, *element);
  return 0;
}

template <class Key>
constexpr MapOps ops() {
  return {BPF_MAP_TYPE_HASH, lookup<Key>,     update<Key>, erase<Key>, hash_table::next_key<Key>,
          sys_lookup<Key>,   sys_update<Key>, sweep,       visit,      sys_take<Key>};
}

}  // namespace

constinit const MapOps kHash4Ops = ops<Key4>();
constinit const MapOps kHash8Ops = ops<Key8>();
constinit const MapOps kHash16Ops = ops<Key16>();
constinit const MapOps kHashAnyOps = ops<KeyAny>();

}  // namespace bpftime
