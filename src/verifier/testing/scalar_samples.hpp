// Layer A's means: what the operators and comparisons do to concrete numbers, abstract samples around a
// number, and one random check at 64 bits. Home: tests; scalar_test.cpp and verifier_soak.
#pragma once
#include <algorithm>
#include <iterator>
#include <random>
#include <string>

#include "verifier/scalar.hpp"

namespace bpftime::testing {

inline constexpr uint8_t kOps[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_AND,  BPF_OR,
                                   BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH, BPF_NEG};
inline constexpr uint8_t kJumps[] = {BPF_JEQ,  BPF_JNE,  BPF_JLT,  BPF_JLE,  BPF_JGT, BPF_JGE,
                                     BPF_JSET, BPF_JSLT, BPF_JSLE, BPF_JSGT, BPF_JSGE};

// What stands for the others: `a OP b` is `b OP a` for kCommuting, and every comparison is one of these,
// not taken, or with its operands changed (scalar_test holds it against that).
inline constexpr uint8_t kCommuting[] = {BPF_ADD, BPF_AND, BPF_OR, BPF_XOR};
struct Comparison {
  uint8_t op;
  bool taken;
};
inline constexpr Comparison kComparisons[] = {{BPF_JEQ, true},  {BPF_JNE, true},  {BPF_JLT, true},
                                              {BPF_JLE, true},  {BPF_JSLT, true}, {BPF_JSLE, true},
                                              {BPF_JSET, true}, {BPF_JSET, false}};

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

struct Sample {
  Scalar abstract;
  uint64_t value;
  bool is_sound;  // the value is still in it after reduce()
};

// A value and an abstract one around it, edges often.
inline Sample sample(std::mt19937_64& random) {
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
  const bool was_in = s.contains(x);
  const bool is_sound = was_in && s.reduce() && s.contains(x);
  return {s, x, is_sound};
}

// One round: an operator, a comparison, the extensions and a join. Empty: all sound; else which was not.
inline std::string check_random_scalars(std::mt19937_64& random) {
  const Sample a = sample(random);
  const Sample b = sample(random);
  const uint64_t choice = random();
  const bool is_half = (choice & 1) != 0;
  const auto of = [&](const char* what, unsigned number) {
    return std::string(what) + " " + std::to_string(number) + " half " + std::to_string(is_half) +
           " of " + std::to_string(a.value) + ", " + std::to_string(b.value);
  };
  if (!a.is_sound || !b.is_sound) {
    return of("reduce", 0);
  }
  const uint8_t op = kOps[(choice >> 8) % std::size(kOps)];
  if (!alu(op, is_half, a.abstract, b.abstract)
           .contains(concrete<64>(op, is_half, a.value, b.value))) {
    return of("op", op);
  }
  const uint8_t jump = kJumps[(choice >> 24) % std::size(kJumps)];
  Scalar x = a.abstract;
  Scalar y = b.abstract;
  if (!refine(jump, is_half, holds<64>(jump, is_half, a.value, b.value), &x, &y) ||
      !x.contains(a.value) || !y.contains(b.value)) {
    return of("jump", jump);
  }
  for (const unsigned n : {8U, 16U, 32U}) {
    const uint64_t kept = a.value & ((1ULL << n) - 1);
    const auto extended =
        static_cast<uint64_t>(static_cast<int64_t>(a.value << (64 - n)) >> (64 - n));
    if (!a.abstract.zero_extended(n).contains(kept) ||
        !a.abstract.sign_extended(n).contains(extended) ||
        !byte_swapped(a.abstract, n).contains(__builtin_bswap64(a.value) >> (64 - n))) {
      return of("extension", n);
    }
  }
  const Scalar both = join(a.abstract, b.abstract);
  return both.includes(a.abstract) && both.includes(b.abstract) ? "" : of("join", 0);
}

}  // namespace bpftime::testing
