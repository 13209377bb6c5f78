#include "tests/verifier/scalar_soak.hpp"

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "verifier/testing/scalar_samples.hpp"

namespace bpftime::testing {
namespace {

using S4 = ScalarOf<4>;
using Set = uint16_t;  // bit x: the number x is in it

Set members_of(const S4& s) {
  Set set = 0;
  for (unsigned x = 0; x < 16; ++x) {
    set = static_cast<Set>(set | (s.contains(x) ? 1U << x : 0U));
  }
  return set;
}

struct Value {
  S4 abstract;
  Set members;
};

uint64_t key_of(const S4& s) {
  const auto signed_bits = [](int64_t x, unsigned n) {
    return static_cast<uint64_t>(x) & ((1U << n) - 1);
  };
  return s.bits.value | s.bits.mask << 4 | s.range.umin << 8 | s.range.umax << 12 |
         signed_bits(s.range.smin, 4) << 16 | signed_bits(s.range.smax, 4) << 20 |
         s.low.umin << 24 | s.low.umax << 26 | signed_bits(s.low.smin, 2) << 28 |
         signed_bits(s.low.smax, 2) << 30;
}

// Calls `fn` with every range of W bits, signed and unsigned apart from one another.
template <unsigned W, class Fn>
void each_range(Fn fn) {
  for (uint64_t lo = 0; lo <= Width<W>::kMax; ++lo) {
    for (uint64_t hi = lo; hi <= Width<W>::kMax; ++hi) {
      for (int64_t slo = Width<W>::kSmin; slo <= Width<W>::kSmax; ++slo) {
        for (int64_t shi = slo; shi <= Width<W>::kSmax; ++shi) {
          fn(Range<W>{lo, hi, slo, shi});
        }
      }
    }
  }
}

struct AllValues {
  std::vector<Value> values;
  std::string unsound;  // what reduce() lost

  AllValues() {
    std::unordered_map<uint64_t, Set> seen;
    for (uint64_t mask = 0; mask < 16; ++mask) {
      for (uint64_t value = 0; value < 16; ++value) {
        if ((value & mask) == 0) {
          each_range<4>([&](const Range<4>& range) {
            each_range<2>([&](const Range<2>& low) {
              S4 s;
              s.bits = {value, mask};
              s.range = range;
              s.low = low;
              take(s, &seen);
            });
          });
        }
      }
    }
  }

 private:
  void take(S4 s, std::unordered_map<uint64_t, Set>* seen) {
    const Set before = members_of(s);
    if (before == 0) {
      return;
    }
    if (!s.reduce() || members_of(s) != before) {
      unsound = "reduce() loses a number";
    }
    if (seen->emplace(key_of(s), before).second) {
      values.push_back({s, before});
    }
  }
};

const AllValues& all_values() {
  static const AllValues kAll;
  return kAll;
}

// What an operator makes of a number `a` and all of a set of b's; for which b's a comparison holds.
struct Tables {
  std::vector<std::array<std::vector<Set>, 16>> images;  // by op and half, a, set
  std::vector<std::array<Set, 16>> holding;              // by jump and half, a

  Tables() {
    for (const uint8_t op : kOps) {
      for (const bool is_half : {false, true}) {
        auto& table = images.emplace_back();
        for (unsigned a = 0; a < 16; ++a) {
          table[a].resize(1U << 16);
          for (unsigned set = 1; set < 1U << 16; ++set) {
            const auto b = static_cast<unsigned>(__builtin_ctz(set));
            table[a][set] =
                static_cast<Set>(table[a][set & (set - 1)] | 1U << concrete<4>(op, is_half, a, b));
          }
        }
      }
    }
    for (const uint8_t op : kJumps) {
      for (const bool is_half : {false, true}) {
        auto& table = holding.emplace_back();
        for (unsigned a = 0; a < 16; ++a) {
          table[a] = 0;
          for (unsigned b = 0; b < 16; ++b) {
            table[a] = static_cast<Set>(table[a] | (holds<4>(op, is_half, a, b) ? 1U << b : 0U));
          }
        }
      }
    }
  }
};

bool contains_all(const S4& s, Set wanted) {
  for (unsigned rest = wanted; rest != 0; rest &= rest - 1) {
    if (!s.contains(static_cast<unsigned>(__builtin_ctz(rest)))) {
      return false;
    }
  }
  return true;
}

std::string check_pair(const Tables& tables, const Value& a, const Value& b) {
  size_t index = 0;
  for (const uint8_t op : kOps) {
    for (const bool is_half : {false, true}) {
      const auto& table = tables.images[index++];
      Set image = 0;
      for (unsigned rest = a.members; rest != 0; rest &= rest - 1) {
        image =
            static_cast<Set>(image | table[static_cast<size_t>(__builtin_ctz(rest))][b.members]);
      }
      if (!contains_all(alu<4>(op, is_half, a.abstract, b.abstract), image)) {
        return "op " + std::to_string(op) + " half " + std::to_string(is_half);
      }
    }
  }
  index = 0;
  for (const uint8_t op : kJumps) {
    for (const bool is_half : {false, true}) {
      const auto& table = tables.holding[index++];
      for (const bool taken : {false, true}) {
        Set left = 0, right = 0;
        for (unsigned rest = a.members; rest != 0; rest &= rest - 1) {
          const auto x = static_cast<unsigned>(__builtin_ctz(rest));
          const auto partners = static_cast<Set>((taken ? table[x] : ~table[x]) & b.members);
          left = static_cast<Set>(left | (partners != 0 ? 1U << x : 0U));
          right = static_cast<Set>(right | partners);
        }
        S4 x = a.abstract, y = b.abstract;
        const bool any = refine<4>(op, is_half, taken, &x, &y);
        if (left != 0 && (!any || !contains_all(x, left) || !contains_all(y, right))) {
          return "jump " + std::to_string(op) + " half " + std::to_string(is_half);
        }
      }
    }
  }
  return "";
}

}  // namespace

std::string check_random_block(uint64_t block) {
  std::mt19937_64 random(block);
  for (uint64_t round = 0; round < kRoundsOfABlock; ++round) {
    const std::string fault = check_random_scalars(random);
    if (!fault.empty()) {
      return fault;
    }
  }
  return "";
}

uint64_t four_bit_rows() { return all_values().values.size(); }

std::string check_four_bit_row(uint64_t row) {
  static const Tables kTables;
  const AllValues& all = all_values();
  if (!all.unsound.empty()) {
    return all.unsound;
  }
  for (const Value& other : all.values) {
    const std::string fault = check_pair(kTables, all.values[row], other);
    if (!fault.empty()) {
      return fault;
    }
  }
  return "";
}

}  // namespace bpftime::testing
