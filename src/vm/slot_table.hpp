// Numbers the slots of a program while an engine goes through it in instruction order: the same
// reference gets the same slot, so both engines come to the same list. Home: pure; used by engines
// only.
#pragma once
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "vm/program.hpp"

namespace bpftime {

class SlotTable {
 public:
  uint32_t intern(SlotKind kind, uint32_t id, uint64_t addend) {
    if (slots_.size() <= kScanned) {
      for (uint32_t i = 0; i < slots_.size(); ++i) {
        if (slots_[i].kind == kind && slots_[i].id == id && slots_[i].addend == addend) {
          return i;
        }
      }
      slots_.push_back({kind, id, addend});
      return static_cast<uint32_t>(slots_.size() - 1);
    }
    if (index_.empty()) {
      for (uint32_t i = 0; i < slots_.size(); ++i) {
        index_.emplace(std::tuple(slots_[i].kind, slots_[i].id, slots_[i].addend), i);
      }
    }
    const auto [at, is_new] = index_.emplace(std::tuple(kind, id, addend), slots_.size());
    if (is_new) {
      slots_.push_back({kind, id, addend});
    }
    return at->second;
  }
  [[nodiscard]] const std::vector<Slot>& slots() const { return slots_; }
  std::vector<Slot> take() { return std::move(slots_); }

 private:
  static constexpr size_t kScanned =
      24;  // short lists are scanned, long ones (hostile or huge) indexed
  std::vector<Slot> slots_;
  std::map<std::tuple<SlotKind, uint32_t, uint64_t>, uint32_t> index_;
};

}  // namespace bpftime
