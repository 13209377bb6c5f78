#include "tests/verifier/scalar_soak.hpp"

#include <algorithm>
#include <array>
#include <iterator>
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

// The numbers that fit each of the five sets that a value consists of. Those that fit the value fit all.
class Members {
 public:
  Members() {
    for (unsigned lo = 0; lo < 16; ++lo) {
      for (unsigned hi = 0; hi < 16; ++hi) {
        S4 s = S4::unknown();
        s.bits = {lo, hi};
        bits_[lo | hi << 4] = members_of(s);
        s = S4::unknown();
        s.range.umin = lo;
        s.range.umax = hi;
        unsigned_[lo | hi << 4] = members_of(s);
        s = S4::unknown();
        s.range.smin = Width<4>::s(lo);
        s.range.smax = Width<4>::s(hi);
        signed_[lo | hi << 4] = members_of(s);
      }
    }
    for (unsigned lo = 0; lo < 4; ++lo) {
      for (unsigned hi = 0; hi < 4; ++hi) {
        S4 s = S4::unknown();
        s.low.umin = lo;
        s.low.umax = hi;
        low_unsigned_[lo | hi << 2] = members_of(s);
        s = S4::unknown();
        s.low.smin = Width<2>::s(lo);
        s.low.smax = Width<2>::s(hi);
        low_signed_[lo | hi << 2] = members_of(s);
      }
    }
  }
  [[nodiscard]] bool contains_all(const S4& s, Set wanted) const {
    const auto index = [](auto lo, auto hi, unsigned width) {
      const uint64_t all = (1U << width) - 1;
      return (static_cast<uint64_t>(lo) & all) | (static_cast<uint64_t>(hi) & all) << width;
    };
    const int fit = bits_[index(s.bits.value, s.bits.mask, 4)] &
                    unsigned_[index(s.range.umin, s.range.umax, 4)] &
                    signed_[index(s.range.smin, s.range.smax, 4)] &
                    low_unsigned_[index(s.low.umin, s.low.umax, 2)] &
                    low_signed_[index(s.low.smin, s.low.smax, 2)];
    return (wanted & ~fit) == 0;
  }

 private:
  std::array<Set, 256> bits_{}, unsigned_{}, signed_{};
  std::array<Set, 16> low_unsigned_{}, low_signed_{};
};

// The union of what each number of a set stands for, for all sets: by their lower and upper byte.
class Unions {
 public:
  explicit Unions(const std::array<Set, 16>& each) {
    for (unsigned half = 0; half < 2; ++half) {
      for (unsigned set = 1; set < 256; ++set) {
        const auto first =
            static_cast<size_t>(half * 8 + static_cast<unsigned>(__builtin_ctz(set)));
        of_[half][set] = static_cast<Set>(of_[half][set & (set - 1)] | each[first]);
      }
    }
  }
  [[nodiscard]] Set operator()(Set set) const {
    return static_cast<Set>(of_[0][set & 255U] | of_[1][set >> 8]);
  }

 private:
  std::array<std::array<Set, 256>, 2> of_{};
};

// One value against all others: what is the same for all of them.
struct Row {
  struct Operator {
    uint8_t op;
    bool is_half, commutes;
    Unions image;  // of its numbers and those of a set
  };
  struct Jump {
    uint8_t op;
    bool is_half, taken;
    Unions left;  // those of its numbers for which some number of a set fits
    Set right;    // numbers that fit some of its own
  };
  const Value& value;
  std::vector<Operator> operators;
  std::vector<Jump> jumps;

  explicit Row(const Value& a) : value(a) {
    for (const uint8_t op : kOps) {
      for (const bool is_half : {false, true}) {
        const bool commutes =
            std::find(std::begin(kCommuting), std::end(kCommuting), op) != std::end(kCommuting);
        operators.push_back({op, is_half, commutes, Unions(images(op, is_half))});
      }
    }
    for (const Comparison& c : kComparisons) {
      for (const bool is_half : {false, true}) {
        jumps.push_back(jump(c.op, is_half, c.taken));
      }
    }
  }

 private:
  template <class Fn>
  void each_member(Fn fn) const {
    for (unsigned rest = value.members; rest != 0; rest &= rest - 1) {
      fn(static_cast<unsigned>(__builtin_ctz(rest)));
    }
  }
  [[nodiscard]] std::array<Set, 16> images(uint8_t op, bool is_half) const {
    std::array<Set, 16> each{};
    for (unsigned b = 0; b < 16; ++b) {
      each_member([&](unsigned a) {
        each[b] = static_cast<Set>(each[b] | 1U << concrete<4>(op, is_half, a, b));
      });
    }
    return each;
  }
  [[nodiscard]] Jump jump(uint8_t op, bool is_half, bool taken) const {
    std::array<Set, 16> each{};
    Set right = 0;
    for (unsigned b = 0; b < 16; ++b) {
      each_member([&](unsigned a) {
        if (holds<4>(op, is_half, a, b) == taken) {
          each[b] = static_cast<Set>(each[b] | 1U << a);
          right = static_cast<Set>(right | 1U << b);
        }
      });
    }
    return {op, is_half, taken, Unions(each), right};
  }
};

std::string name_of(const char* what, uint8_t op, bool is_half) {
  return std::string(what) + " " + std::to_string(op) + " half " + std::to_string(is_half);
}

std::string check_extensions(const Members& members, const Value& a) {
  for (unsigned n = 1; n <= 4; ++n) {
    Set zero = 0, sign = 0;
    for (unsigned rest = a.members; rest != 0; rest &= rest - 1) {
      const auto kept = static_cast<unsigned>(__builtin_ctz(rest)) & ((1U << n) - 1);
      const unsigned upper = (kept >> (n - 1)) != 0 ? 15U << n & 15U : 0U;
      zero = static_cast<Set>(zero | 1U << kept);
      sign = static_cast<Set>(sign | 1U << (kept | upper));
    }
    if (!members.contains_all(a.abstract.zero_extended(n), zero) ||
        !members.contains_all(a.abstract.sign_extended(n), sign)) {
      return "extension of " + std::to_string(n) + " bits";
    }
  }
  return "";
}

// `is_second`: the pair was looked at the other way round.
std::string check_pair(const Members& members, const Row& row, const Value& b, bool is_second) {
  const Value& a = row.value;
  for (const Row::Operator& o : row.operators) {
    if ((is_second && o.commutes) || (o.op == BPF_NEG && &a != &b)) {
      continue;
    }
    if (!members.contains_all(alu<4>(o.op, o.is_half, a.abstract, b.abstract),
                              o.image(b.members))) {
      return name_of("op", o.op, o.is_half);
    }
  }
  for (const Row::Jump& j : row.jumps) {
    const Set left = j.left(b.members);
    S4 x = a.abstract, y = b.abstract;
    const bool any = refine<4>(j.op, j.is_half, j.taken, &x, &y);
    if (left != 0 && (!any || !members.contains_all(x, left) ||
                      !members.contains_all(y, static_cast<Set>(j.right & b.members)))) {
      return name_of("jump", j.op, j.is_half);
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
  static const Members kMembers;
  const AllValues& all = all_values();
  if (!all.unsound.empty()) {
    return all.unsound;
  }
  if (std::string fault = check_extensions(kMembers, all.values[row]); !fault.empty()) {
    return fault;
  }
  const Row checked(all.values[row]);
  for (const Value& other : all.values) {
    const std::string fault = check_pair(kMembers, checked, other, &other < &checked.value);
    if (!fault.empty()) {
      return fault;
    }
  }
  return "";
}

}  // namespace bpftime::testing
