// Which file an address of a target is of, for stacks by build id. Home: pure *. In the arena: immutable, sorted, replaced as a
// whole by the broker while all threads stand still.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bpftime {

inline constexpr uint32_t kBuildIdBytes =
    20;  // BPF_BUILD_ID_SIZE; a shorter one is filled up with zeros

// One executable mapping of a file that has a build id.
struct BuildIdRow {
  uint64_t begin, end;
  uint64_t offset;  // in the file, of `begin`
  uint8_t id[kBuildIdBytes];
  uint32_t reserved;
  bool operator==(const BuildIdRow&) const = default;
};
static_assert(sizeof(BuildIdRow) == 48);

// `count` rows follow.
struct BuildIdTable {
  uint64_t count;
};

// The row that holds `address`, or null. `table` may be null.
inline const BuildIdRow* find_build_id(const BuildIdTable* table, uint64_t address) {
  if (table == nullptr) {
    return nullptr;
  }
  // SAFETY: rows follow their count.
  const auto* const rows = reinterpret_cast<const BuildIdRow*>(table + 1);
  uint64_t low = 0;
  uint64_t high = table->count;
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    if (rows[middle].end <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < table->count && rows[low].begin <= address ? &rows[low] : nullptr;
}

}  // namespace bpftime
