// What is known of a 64-bit number: the scalar domain. Home: pure.
//
// A value of the domain is the intersection of five sets: known bits (value, mask: a bit of `mask`
// is unknown, else it is that of `value`), an unsigned and a signed range of the whole, and the same
// of its lower half. Every function is pure and has one obligation (tested exhaustively at 4 bits,
// scalar_test.cpp): if the concrete operands are in the abstract ones, the concrete result is in the
// abstract result. Known-bits arithmetic: Vishwanathan et al., "Sound, Precise, and Fast Abstract
// Interpretation with Tristate Numbers", CGO 2022.
//
// The width is a parameter only for the tests; the verifier uses Scalar = ScalarOf<64>.
#pragma once
#include <cstdint>

#include "isa/opcode.hpp"

namespace bpftime {

// Numbers of W bits: unsigned ones zero-extended in uint64_t, signed ones sign-extended in int64_t.
template <unsigned W>
struct Width {
  static constexpr uint64_t kMax = W == 64 ? ~0ULL : (1ULL << (W % 64)) - 1;
  static constexpr uint64_t kSign = 1ULL << (W - 1);
  static constexpr int64_t kSmax = static_cast<int64_t>(kSign - 1);
  static constexpr int64_t kSmin = -kSmax - 1;
  static constexpr uint64_t u(uint64_t x) { return x & kMax; }
  static constexpr int64_t s(uint64_t x) { return static_cast<int64_t>(x << (64 - W)) >> (64 - W); }
};

struct Bits {
  uint64_t value, mask;
  friend bool operator==(const Bits&, const Bits&) = default;
};

template <unsigned W>
struct Range {
  uint64_t umin, umax;
  int64_t smin, smax;
  static constexpr Range full() { return {0, Width<W>::kMax, Width<W>::kSmin, Width<W>::kSmax}; }
  static constexpr Range constant(uint64_t x) {
    return {Width<W>::u(x), Width<W>::u(x), Width<W>::s(x), Width<W>::s(x)};
  }
  friend bool operator==(const Range&, const Range&) = default;
};

template <unsigned W>
struct ScalarOf {
  static constexpr unsigned kHalf = W / 2;
  using Full = Width<W>;
  using Half = Width<kHalf>;

  Bits bits;
  Range<W> range;
  Range<kHalf> low;

  static ScalarOf constant(uint64_t x);
  static ScalarOf unknown();
  // The values umin..umax.
  static ScalarOf between(uint64_t umin, uint64_t umax);
  // The values smin..smax.
  static ScalarOf between_signed(int64_t smin, int64_t smax);

  [[nodiscard]] bool is_constant() const { return bits.mask == 0; }
  [[nodiscard]] bool low_is_constant() const { return (bits.mask & Half::kMax) == 0; }
  [[nodiscard]] bool is_unknown() const { return *this == unknown(); }
  [[nodiscard]] bool contains(uint64_t x) const;
  // Every value of `other` is one of ours, judged domain by domain.
  [[nodiscard]] bool includes(const ScalarOf& other) const;
  friend bool operator==(const ScalarOf&, const ScalarOf&) = default;

  // Lets the five sets narrow each other. False: no value is in all of them.
  bool reduce();
  // Zero-extension of the lower n bits; sign-extension of the lower n bits.
  [[nodiscard]] ScalarOf zero_extended(unsigned n) const;
  [[nodiscard]] ScalarOf sign_extended(unsigned n) const;
};

using Scalar = ScalarOf<64>;

// `op` is BPF_ADD ... BPF_ARSH (BPF_NEG: of `a`). With `is_half`, of the lower halves, zero-extended.
template <unsigned W>
ScalarOf<W> alu(uint8_t op, bool is_half, const ScalarOf<W>& a, const ScalarOf<W>& b);
// Bytes swapped within the lower n bits, zero-extended. 64 bits only.
Scalar byte_swapped(const Scalar& a, unsigned n);

// Narrows both operands to those values for which `a op b` is `taken`; op is BPF_JEQ ... BPF_JSLE.
// False: there are none.
template <unsigned W>
bool refine(uint8_t op, bool is_half, bool taken, ScalarOf<W>* a, ScalarOf<W>* b);

// One set that includes both.
Scalar join(const Scalar& a, const Scalar& b);

}  // namespace bpftime
