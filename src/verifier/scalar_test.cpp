// Layer A: every operator and every refinement, exhaustively at 4 bits over all reduced values that
// known bits, one range of the whole and one of the half can make; random and edge values at 64.
#include "verifier/scalar.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "verifier/testing/scalar_samples.hpp"

namespace bpftime {
namespace {

using testing::concrete, testing::holds, testing::kJumps, testing::kOps;

using S4 = ScalarOf<4>;
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
              if (!r.contains(concrete<4>(op, is_half, a, b))) {
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

// The soak at 4 bits looks at one of those that are the same.
TEST(Scalar, OperatorsCommuteAndComparisonsTurnRound) {
  static constexpr struct {
    uint8_t op, negated, mirrored;
  } kSame[] = {{BPF_JEQ, BPF_JNE, BPF_JEQ},    {BPF_JNE, BPF_JEQ, BPF_JNE},
               {BPF_JLT, BPF_JGE, BPF_JGT},    {BPF_JLE, BPF_JGT, BPF_JGE},
               {BPF_JSLT, BPF_JSGE, BPF_JSGT}, {BPF_JSLE, BPF_JSGT, BPF_JSGE}};
  const auto& values = all_values();
  const auto refined = [](uint8_t op, bool is_half, bool taken, S4 a, S4 b, bool turn) {
    const bool any = refine<4>(op, is_half, taken, turn ? &b : &a, turn ? &a : &b);
    return std::tuple(any, any ? a : S4::unknown(), any ? b : S4::unknown());
  };
  uint64_t differ = 0;
  for (size_t i = 0; i < values.size(); i += 3) {
    for (size_t j = i % 3; j < values.size(); j += 3) {
      const S4& a = values[i];
      const S4& b = values[j];
      for (const bool is_half : {false, true}) {
        for (const auto& same : kSame) {
          const auto wanted = refined(same.op, is_half, true, a, b, false);
          differ += wanted != refined(same.negated, is_half, false, a, b, false) ? 1 : 0;
          differ += wanted != refined(same.mirrored, is_half, true, a, b, true) ? 1 : 0;
        }
        for (const uint8_t op : testing::kCommuting) {
          differ += alu<4>(op, is_half, a, b) != alu<4>(op, is_half, b, a) ? 1 : 0;
        }
      }
    }
  }
  EXPECT_EQ(differ, 0U);
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

TEST(Scalar, IsSoundAtSixtyFourBits) {
  std::mt19937_64 random(20);
  for (int round = 0; round < 300'000; ++round) {
    ASSERT_EQ(testing::check_random_scalars(random), "") << "round " << round;
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
