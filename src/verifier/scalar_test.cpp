// Layer A: every operator and every refinement, exhaustively at 4 bits over all reduced values that
// known bits, one range of the whole and one of the half can make; random and edge values at 64.
#include "verifier/scalar.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace bpftime {
namespace {

using S4 = ScalarOf<4>;
constexpr uint8_t kOps[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_AND,  BPF_OR,
                            BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH, BPF_NEG};
constexpr uint8_t kJumps[] = {BPF_JEQ,  BPF_JNE,  BPF_JLT,  BPF_JLE,  BPF_JGT, BPF_JGE,
                              BPF_JSET, BPF_JSLT, BPF_JSLE, BPF_JSGT, BPF_JSGE};

template <unsigned W>
uint64_t concrete(uint8_t op, bool is_half, uint64_t a, uint64_t b) {
  const unsigned width = is_half ? W / 2 : W;
  const uint64_t all = width == 64 ? ~0ULL : (1ULL << width) - 1;
  a &= all;
  b &= all;
  const unsigned n = static_cast<unsigned>(b & (width - 1));
  const int64_t sa = static_cast<int64_t>(a << (64 - width)) >> (64 - width);
  switch (op) {
    case BPF_ADD:
      return (a + b) & all;
    case BPF_SUB:
      return (a - b) & all;
    case BPF_MUL:
      return (a * b) & all;
    case BPF_AND:
      return a & b;
    case BPF_OR:
      return a | b;
    case BPF_XOR:
      return a ^ b;
    case BPF_LSH:
      return (a << n) & all;
    case BPF_RSH:
      return a >> n;
    case BPF_ARSH:
      return static_cast<uint64_t>(sa >> n) & all;
    default:
      return (0 - a) & all;
  }
}

template <unsigned W>
bool holds(uint8_t op, bool is_half, uint64_t a, uint64_t b) {
  const unsigned width = is_half ? W / 2 : W;
  const auto sx = [width](uint64_t x) {
    return static_cast<int64_t>(x << (64 - width)) >> (64 - width);
  };
  const uint64_t ua = a << (64 - width);
  const uint64_t ub = b << (64 - width);
  switch (op) {
    case BPF_JEQ:
      return ua == ub;
    case BPF_JNE:
      return ua != ub;
    case BPF_JLT:
      return ua < ub;
    case BPF_JLE:
      return ua <= ub;
    case BPF_JGT:
      return ua > ub;
    case BPF_JGE:
      return ua >= ub;
    case BPF_JSET:
      return (ua & ub) != 0;
    case BPF_JSLT:
      return sx(a) < sx(b);
    case BPF_JSLE:
      return sx(a) <= sx(b);
    case BPF_JSGT:
      return sx(a) > sx(b);
    default:
      return sx(a) >= sx(b);
  }
}

bool before(const S4& a, const S4& b) {
  const auto key = [](const S4& s) {
    return std::tuple(s.bits.value, s.bits.mask, s.range.umin, s.range.umax, s.range.smin,
                      s.range.smax, s.low.umin, s.low.umax, s.low.smin, s.low.smax);
  };
  return key(a) < key(b);
}

// Every concrete value of what goes into reduce() must still be there afterwards.
const std::vector<S4>& all_values() {
  static const std::vector<S4> kValues = [] {
    std::vector<S4> values;
    const auto take = [&values](S4 s) {
      std::vector<uint64_t> in;
      for (uint64_t x = 0; x < 16; ++x) {
        if (s.contains(x)) {
          in.push_back(x);
        }
      }
      const bool any = s.reduce();
      EXPECT_TRUE(any || in.empty());
      for (const uint64_t x : in) {
        EXPECT_TRUE(s.contains(x));
      }
      if (any && !in.empty()) {
        values.push_back(s);
      }
    };
    for (uint64_t mask = 0; mask < 16; ++mask) {
      for (uint64_t value = 0; value < 16; ++value) {
        if ((value & mask) != 0) {
          continue;
        }
        for (uint64_t lo = 0; lo < 16; ++lo) {
          for (uint64_t hi = lo; hi < 16; ++hi) {
            S4 s = S4::unknown();
            s.bits = {value, mask};
            s.range.umin = lo;
            s.range.umax = hi;
            take(s);
            s = S4::unknown();
            s.bits = {value, mask};
            s.range.smin = static_cast<int64_t>(lo) - 8;
            s.range.smax = static_cast<int64_t>(hi) - 8;
            take(s);
          }
        }
      }
    }
    for (uint64_t lo = 0; lo < 16; ++lo) {
      for (uint64_t hi = lo; hi < 16; ++hi) {
        for (uint64_t from = 0; from < 4; ++from) {
          for (uint64_t to = from; to < 4; ++to) {
            for (int kind = 0; kind < 4; ++kind) {
              S4 s = S4::unknown();
              if ((kind & 1) != 0) {
                s.range.umin = lo;
                s.range.umax = hi;
              } else {
                s.range.smin = static_cast<int64_t>(lo) - 8;
                s.range.smax = static_cast<int64_t>(hi) - 8;
              }
              if ((kind & 2) != 0) {
                s.low.umin = from;
                s.low.umax = to;
              } else {
                s.low.smin = static_cast<int64_t>(from) - 2;
                s.low.smax = static_cast<int64_t>(to) - 2;
              }
              take(s);
            }
          }
        }
      }
    }
    std::sort(values.begin(), values.end(), before);
    values.erase(std::unique(values.begin(), values.end()), values.end());
    return values;
  }();
  return kValues;
}

std::vector<uint64_t> members(const S4& s) {
  std::vector<uint64_t> in;
  for (uint64_t x = 0; x < 16; ++x) {
    if (s.contains(x)) {
      in.push_back(x);
    }
  }
  return in;
}

TEST(Scalar, OperatorsAreSoundAtFourBits) {
  const auto& values = all_values();
  std::vector<std::vector<uint64_t>> in;
  for (const S4& s : values) {
    in.push_back(members(s));
  }
  uint64_t unsound = 0;
  for (const uint8_t op : kOps) {
    for (const bool is_half : {false, true}) {
      for (size_t i = 0; i < values.size(); ++i) {
        for (size_t j = 0; j < values.size(); ++j) {
          const S4 r = alu<4>(op, is_half, values[i], values[j]);
          for (const uint64_t a : in[i]) {
            for (const uint64_t b : in[j]) {
              const uint64_t width = is_half ? 2 : 4;
              const bool wide_shift = (op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH) &&
                                      (is_half ? b & 3 : b) >= width;
              if (!wide_shift && !r.contains(concrete<4>(op, is_half, a, b))) {
                ++unsound;
              }
            }
          }
          if (op == BPF_NEG) {
            break;
          }
        }
      }
      ASSERT_EQ(unsound, 0U) << "op " << int{op} << " half " << is_half;
    }
  }
}

TEST(Scalar, RefinementsAreSoundAtFourBits) {
  const auto& values = all_values();
  std::vector<std::vector<uint64_t>> in;
  for (const S4& s : values) {
    in.push_back(members(s));
  }
  for (const uint8_t op : kJumps) {
    for (const bool is_half : {false, true}) {
      uint64_t unsound = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        for (size_t j = 0; j < values.size(); ++j) {
          for (const bool taken : {false, true}) {
            S4 a = values[i];
            S4 b = values[j];
            const bool any = refine<4>(op, is_half, taken, &a, &b);
            for (const uint64_t x : in[i]) {
              for (const uint64_t y : in[j]) {
                if (holds<4>(op, is_half, x, y) == taken &&
                    (!any || !a.contains(x) || !b.contains(y))) {
                  ++unsound;
                }
              }
            }
          }
        }
      }
      ASSERT_EQ(unsound, 0U) << "jump " << int{op} << " half " << is_half;
    }
  }
}

TEST(Scalar, ExtensionsAreSoundAtFourBits) {
  for (const S4& s : all_values()) {
    for (unsigned n = 1; n <= 4; ++n) {
      const S4 z = s.zero_extended(n);
      const S4 x = s.sign_extended(n);
      for (const uint64_t a : members(s)) {
        const uint64_t kept = a & ((1U << n) - 1);
        ASSERT_TRUE(z.contains(kept));
        const uint64_t extended =
            (kept & (1U << (n - 1))) != 0 ? (kept | ~((1ULL << n) - 1)) & 15 : kept;
        ASSERT_TRUE(x.contains(extended));
      }
    }
  }
}

struct Sample {
  Scalar abstract;
  uint64_t value;
};

// A value and an abstract one around it.
Sample sample(std::mt19937_64& random) {
  static constexpr uint64_t kEdges[] = {
      0,     1,          2,          0x7f,       0x80,
      0xff,  0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
      ~0ULL, 1ULL << 63, ~0ULL >> 1, ~0ULL - 1,  0xffffffff80000000};
  const auto pick = [&]() -> uint64_t {
    const uint64_t r = random();
    return (r & 3) == 0   ? kEdges[(r >> 8) % std::size(kEdges)]
           : (r & 3) == 1 ? random() >> (r >> 8 & 63)
           : (r & 3) == 2 ? kEdges[(r >> 8) % std::size(kEdges)] + (r >> 16 & 7) - 3
                          : random();
  };
  const uint64_t x = pick();
  Scalar s = Scalar::unknown();
  const uint64_t kinds = random();
  if ((kinds & 1) != 0) {
    const uint64_t mask = (kinds & 2) != 0 ? random() & random() : 0xffULL << (kinds >> 8 & 63);
    s.bits = {x & ~mask, mask};
  }
  if ((kinds & 4) != 0) {
    const uint64_t y = pick();
    s.range.umin = std::min(x, y);
    s.range.umax = std::max(x, pick());
  }
  if ((kinds & 8) != 0) {
    s.range.smin = std::min(static_cast<int64_t>(x), static_cast<int64_t>(pick()));
    s.range.smax = std::max(static_cast<int64_t>(x), static_cast<int64_t>(pick()));
  }
  if ((kinds & 16) != 0) {
    s.low.umin = std::min(x & 0xffffffff, pick() & 0xffffffff);
    s.low.umax = std::max(x & 0xffffffff, pick() & 0xffffffff);
  }
  if ((kinds & 32) != 0) {
    s.low.smin = std::min<int64_t>(static_cast<int32_t>(x), static_cast<int32_t>(pick()));
    s.low.smax = std::max<int64_t>(static_cast<int32_t>(x), static_cast<int32_t>(pick()));
  }
  if ((kinds & 0x1c0) == 0) {
    s = Scalar::constant(x);
  }
  EXPECT_TRUE(s.contains(x));
  EXPECT_TRUE(s.reduce());
  EXPECT_TRUE(s.contains(x));
  return {s, x};
}

TEST(Scalar, IsSoundAtSixtyFourBits) {
  std::mt19937_64 random(20);
  for (int round = 0; round < 300'000; ++round) {
    const Sample a = sample(random);
    const Sample b = sample(random);
    const bool is_half = (round & 1) != 0;
    const uint8_t op = kOps[random() % std::size(kOps)];
    uint64_t operand = b.value;
    Scalar operand_abstract = b.abstract;
    if (op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH) {
      operand &= is_half ? 31 : 63;
      operand_abstract = Scalar::constant(operand);
    }
    ASSERT_TRUE(alu(op, is_half, a.abstract, operand_abstract)
                    .contains(concrete<64>(op, is_half, a.value, operand)))
        << "op " << int{op} << " half " << is_half << " of " << a.value << ", " << operand;
    const uint8_t jump = kJumps[random() % std::size(kJumps)];
    Scalar x = a.abstract;
    Scalar y = b.abstract;
    const bool taken = holds<64>(jump, is_half, a.value, b.value);
    ASSERT_TRUE(refine(jump, is_half, taken, &x, &y));
    ASSERT_TRUE(x.contains(a.value) && y.contains(b.value))
        << "jump " << int{jump} << " half " << is_half << " of " << a.value << ", " << b.value;
    for (const unsigned n : {8U, 16U, 32U}) {
      const uint64_t kept = a.value & ((1ULL << n) - 1);
      const auto extended =
          static_cast<uint64_t>(static_cast<int64_t>(a.value << (64 - n)) >> (64 - n));
      ASSERT_TRUE(a.abstract.zero_extended(n).contains(kept));
      ASSERT_TRUE(a.abstract.sign_extended(n).contains(extended));
      ASSERT_TRUE(byte_swapped(a.abstract, n).contains(__builtin_bswap64(a.value) >> (64 - n)));
    }
    ASSERT_TRUE(join(a.abstract, b.abstract).includes(a.abstract));
    ASSERT_TRUE(join(a.abstract, b.abstract).includes(b.abstract));
  }
}

TEST(Scalar, ABoundOnTheHalfHoldsForTheWholeThatIsZeroExtended) {
  Scalar a = Scalar::between(0, 0xffffffff);
  Scalar seven = Scalar::constant(7);
  ASSERT_TRUE(refine(BPF_JGT, true, false, &a, &seven));
  EXPECT_EQ(a.range.umax, 7U);
  EXPECT_EQ(a.bits.mask, 7U);
}

TEST(Scalar, AnImpossibleBranchIsEmpty) {
  Scalar a = Scalar::between(0, 7);
  Scalar b = Scalar::constant(8);
  EXPECT_FALSE(refine(BPF_JEQ, false, true, &a, &b));
  a = Scalar::constant(4);
  b = Scalar::constant(4);
  EXPECT_FALSE(refine(BPF_JNE, false, true, &a, &b));
}

}  // namespace
}  // namespace bpftime
