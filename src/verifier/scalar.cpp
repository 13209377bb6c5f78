#include "verifier/scalar.hpp"

#include <algorithm>
#include <bit>

namespace bpftime {
namespace {

__extension__ using Wide = __int128;
__extension__ using UWide = unsigned __int128;

// ---- Known bits ----

Bits add(Bits a, Bits b) {
  const uint64_t sum_values = a.value + b.value;
  const uint64_t sum_all = sum_values + a.mask + b.mask;
  const uint64_t unknown = (sum_all ^ sum_values) | a.mask | b.mask;
  return {sum_values & ~unknown, unknown};
}
Bits sub(Bits a, Bits b) {
  const uint64_t difference = a.value - b.value;
  const uint64_t unknown = ((difference + a.mask) ^ (difference - b.mask)) | a.mask | b.mask;
  return {difference & ~unknown, unknown};
}
Bits mul(Bits a, Bits b) {
  const uint64_t product = a.value * b.value;
  Bits rest{0, 0};
  while (a.value != 0 || a.mask != 0) {
    if ((a.value & 1) != 0) {
      rest = add(rest, {0, b.mask});
    } else if ((a.mask & 1) != 0) {
      rest = add(rest, {0, b.value | b.mask});
    }
    a = {a.value >> 1, a.mask >> 1};
    b = {b.value << 1, b.mask << 1};
  }
  return add({product, 0}, rest);
}
Bits bit_and(Bits a, Bits b) {
  const uint64_t value = a.value & b.value;
  return {value, (a.value | a.mask) & (b.value | b.mask) & ~value};
}
Bits bit_or(Bits a, Bits b) {
  const uint64_t value = a.value | b.value;
  return {value, (a.mask | b.mask) & ~value};
}
Bits bit_xor(Bits a, Bits b) {
  const uint64_t mask = a.mask | b.mask;
  return {(a.value ^ b.value) & ~mask, mask};
}
template <unsigned W>
Bits cut(Bits a) {
  return {Width<W>::u(a.value), Width<W>::u(a.mask)};
}
template <unsigned W>
Bits shift_left(Bits a, unsigned n) {
  return cut<W>({a.value << n, a.mask << n});
}
Bits shift_right(Bits a, unsigned n) { return {a.value >> n, a.mask >> n}; }
template <unsigned W>
Bits shift_arithmetic(Bits a, unsigned n) {
  return cut<W>({static_cast<uint64_t>(Width<W>::s(a.value) >> n),
                 static_cast<uint64_t>(Width<W>::s(a.mask) >> n)});
}
// The common upper bits of min..max.
Bits bits_between(uint64_t min, uint64_t max) {
  const unsigned unknown = static_cast<unsigned>(std::bit_width(min ^ max));
  const uint64_t mask = unknown == 64 ? ~0ULL : (1ULL << unknown) - 1;
  return {min & ~mask, mask};
}
// False: they contradict each other.
bool meet(Bits* a, Bits b) {
  if (((a->value ^ b.value) & ~a->mask & ~b.mask) != 0) {
    return false;
  }
  const uint64_t mask = a->mask & b.mask;
  *a = {(a->value | b.value) & ~mask, mask};
  return true;
}

// ---- Ranges ----

// lo..hi as exact integers, brought back to W bits where that leaves them in order.
template <unsigned W>
void put_unsigned(Range<W>* range, Wide lo, Wide hi) {
  if ((lo >> W) == (hi >> W)) {
    range->umin = Width<W>::u(static_cast<uint64_t>(lo));
    range->umax = Width<W>::u(static_cast<uint64_t>(hi));
  } else {
    range->umin = 0;
    range->umax = Width<W>::kMax;
  }
}
template <unsigned W>
void put_signed(Range<W>* range, Wide lo, Wide hi) {
  constexpr Wide kBias = static_cast<Wide>(Width<W>::kSign);
  if (((lo + kBias) >> W) == ((hi + kBias) >> W)) {
    range->smin = Width<W>::s(static_cast<uint64_t>(lo));
    range->smax = Width<W>::s(static_cast<uint64_t>(hi));
  } else {
    range->smin = Width<W>::kSmin;
    range->smax = Width<W>::kSmax;
  }
}

template <unsigned W>
Range<W> add(const Range<W>& a, const Range<W>& b) {
  Range<W> r;
  put_unsigned(&r, Wide{a.umin} + b.umin, Wide{a.umax} + b.umax);
  put_signed(&r, Wide{a.smin} + b.smin, Wide{a.smax} + b.smax);
  return r;
}
template <unsigned W>
Range<W> sub(const Range<W>& a, const Range<W>& b) {
  Range<W> r;
  put_unsigned(&r, Wide{a.umin} - b.umax, Wide{a.umax} - b.umin);
  put_signed(&r, Wide{a.smin} - b.smax, Wide{a.smax} - b.smin);
  return r;
}
template <unsigned W>
Range<W> mul(const Range<W>& a, const Range<W>& b) {
  Range<W> r = Range<W>::full();
  const UWide most = UWide{a.umax} * b.umax;
  if (most <= Width<W>::kMax) {
    r.umin = a.umin * b.umin;
    r.umax = static_cast<uint64_t>(most);
  }
  const Wide products[] = {Wide{a.smin} * b.smin, Wide{a.smin} * b.smax, Wide{a.smax} * b.smin,
                           Wide{a.smax} * b.smax};
  const Wide lo = *std::min_element(products, products + 4);
  const Wide hi = *std::max_element(products, products + 4);
  if (lo >= Width<W>::kSmin && hi <= Width<W>::kSmax) {
    r.smin = static_cast<int64_t>(lo);
    r.smax = static_cast<int64_t>(hi);
  }
  return r;
}
template <unsigned W>
Range<W> shift_left(const Range<W>& a, unsigned n) {
  Range<W> r = Range<W>::full();
  if (a.umax <= Width<W>::kMax >> n) {
    r.umin = a.umin << n;
    r.umax = a.umax << n;
  }
  if (a.smin >= Width<W>::kSmin >> n && a.smax <= Width<W>::kSmax >> n) {
    r.smin = static_cast<int64_t>(static_cast<uint64_t>(a.smin) << n);
    r.smax = static_cast<int64_t>(static_cast<uint64_t>(a.smax) << n);
  }
  return r;
}
template <unsigned W>
Range<W> shift_right(const Range<W>& a, unsigned n) {
  Range<W> r = Range<W>::full();
  r.umin = a.umin >> n;
  r.umax = a.umax >> n;
  return r;
}
template <unsigned W>
Range<W> shift_arithmetic(const Range<W>& a, unsigned n) {
  Range<W> r = Range<W>::full();
  r.smin = a.smin >> n;
  r.smax = a.smax >> n;
  return r;
}
template <unsigned W>
Range<W> bit_and(const Range<W>& a, const Range<W>& b) {
  Range<W> r = Range<W>::full();
  r.umax = std::min(a.umax, b.umax);
  return r;
}
template <unsigned W>
Range<W> bit_or(const Range<W>& a, const Range<W>& b) {
  Range<W> r = Range<W>::full();
  r.umin = std::max(a.umin, b.umin);
  return r;
}

template <unsigned W>
void meet_unsigned(Range<W>* r, uint64_t lo, uint64_t hi) {
  r->umin = std::max(r->umin, lo);
  r->umax = std::min(r->umax, hi);
}
template <unsigned W>
void meet_signed(Range<W>* r, int64_t lo, int64_t hi) {
  r->smin = std::max(r->smin, lo);
  r->smax = std::min(r->smax, hi);
}
template <unsigned W>
bool is_empty(const Range<W>& r) {
  return r.umin > r.umax || r.smin > r.smax;
}

template <unsigned W>
void from_bits(Range<W>* r, Bits bits) {
  constexpr uint64_t kSign = Width<W>::kSign;
  meet_unsigned(r, bits.value, bits.value | bits.mask);
  meet_signed(r, Width<W>::s(bits.value | (bits.mask & kSign)),
              Width<W>::s(bits.value | (bits.mask & ~kSign)));
}

// Unsigned and signed view of the same W bits: two arcs of one circle.
template <unsigned W>
void from_other_sign(Range<W>* r) {
  constexpr uint64_t kSign = Width<W>::kSign;
  if ((r->umin & kSign) == (r->umax & kSign)) {
    meet_signed(r, Width<W>::s(r->umin), Width<W>::s(r->umax));
  }
  if ((r->smin < 0) == (r->smax < 0)) {
    meet_unsigned(r, Width<W>::u(static_cast<uint64_t>(r->smin)),
                  Width<W>::u(static_cast<uint64_t>(r->smax)));
  } else if ((r->umin & kSign) == 0 && (r->umax & kSign) != 0) {
    // Both arcs cross their borders: the negative or the positive part may be out of the question.
    if (Width<W>::s(r->umax) < r->smin) {
      meet_unsigned(r, r->umin, static_cast<uint64_t>(r->smax));
      meet_signed(r, 0, r->smax);
    } else if (static_cast<int64_t>(r->umin) > r->smax) {
      meet_unsigned(r, Width<W>::u(static_cast<uint64_t>(r->smin)), r->umax);
      meet_signed(r, r->smin, Width<W>::s(r->umax));
    }
  }
}

// The lower half of numbers lo..hi (less than one turn of the half apart).
template <unsigned H>
void low_from_arc(Range<H>* low, uint64_t lo, uint64_t hi) {
  if (hi - lo > Width<H>::kMax) {
    return;
  }
  if (Width<H>::u(lo) <= Width<H>::u(hi)) {
    meet_unsigned(low, Width<H>::u(lo), Width<H>::u(hi));
  }
  if (Width<H>::s(lo) <= Width<H>::s(hi)) {
    meet_signed(low, Width<H>::s(lo), Width<H>::s(hi));
  }
}

// The least number >= x whose lower half is in low; the greatest <= x. False: there is none (it
// would be outside of the type, which the caller's ranges exclude too).
template <unsigned H>
Wide next_with_low(Wide x, const Range<H>& low) {
  constexpr Wide kMask = static_cast<Wide>(Width<H>::kMax);
  const Wide half = x & kMask;
  if (half < static_cast<Wide>(low.umin)) {
    return (x & ~kMask) + static_cast<Wide>(low.umin);
  }
  return half <= static_cast<Wide>(low.umax)
             ? x
             : (x & ~kMask) + kMask + 1 + static_cast<Wide>(low.umin);
}
template <unsigned H>
Wide previous_with_low(Wide x, const Range<H>& low) {
  constexpr Wide kMask = static_cast<Wide>(Width<H>::kMax);
  const Wide half = x & kMask;
  if (half > static_cast<Wide>(low.umax)) {
    return (x & ~kMask) + static_cast<Wide>(low.umax);
  }
  return half >= static_cast<Wide>(low.umin)
             ? x
             : (x & ~kMask) - kMask - 1 + static_cast<Wide>(low.umax);
}

}  // namespace

template <unsigned W>
bool ScalarOf<W>::reduce() {
  for (int round = 0; round < 2; ++round) {
    const ScalarOf before = *this;
    from_bits(&range, bits);
    from_bits(&low, cut<kHalf>(bits));
    for (int inner = 0; inner < 2; ++inner) {
      from_other_sign(&range);
      from_other_sign(&low);
      if (is_empty(range) || is_empty(low)) {
        return false;
      }
      low_from_arc(&low, range.umin, range.umax);
      low_from_arc(&low, static_cast<uint64_t>(range.smin), static_cast<uint64_t>(range.smax));
      from_other_sign(&low);
      if (is_empty(low)) {
        return false;
      }
      const Wide lo = next_with_low(Wide{range.umin}, low);
      const Wide hi = previous_with_low(Wide{range.umax}, low);
      const Wide slo = next_with_low(Wide{range.smin}, low);
      const Wide shi = previous_with_low(Wide{range.smax}, low);
      if (lo > hi || slo > shi) {
        return false;
      }
      // lo <= hi, lo >= umin and hi <= umax: all are numbers of W bits.
      range = {static_cast<uint64_t>(lo), static_cast<uint64_t>(hi), static_cast<int64_t>(slo),
               static_cast<int64_t>(shi)};
      if (range.smin >= Half::kSmin && range.smax <= Half::kSmax) {
        meet_signed(&range, low.smin, low.smax);
        if (is_empty(range)) {
          return false;
        }
      }
    }
    if (is_empty(range) || is_empty(low) || !meet(&bits, bits_between(range.umin, range.umax))) {
      return false;
    }
    const Bits half = bits_between(low.umin, low.umax);
    if (!meet(&bits, {half.value, half.mask | (Full::kMax & ~Half::kMax)})) {
      // The upper bits of `half` are unknown, so only its lower ones can contradict.
      return false;
    }
    if (*this == before) {
      break;
    }
  }
  from_bits(&range, bits);
  from_bits(&low, cut<kHalf>(bits));
  return !is_empty(range) && !is_empty(low);
}

template <unsigned W>
ScalarOf<W> ScalarOf<W>::constant(uint64_t x) {
  return {{Full::u(x), 0}, Range<W>::constant(x), Range<kHalf>::constant(x)};
}
template <unsigned W>
ScalarOf<W> ScalarOf<W>::unknown() {
  return {{0, Full::kMax}, Range<W>::full(), Range<kHalf>::full()};
}
template <unsigned W>
ScalarOf<W> ScalarOf<W>::between(uint64_t umin, uint64_t umax) {
  ScalarOf r = unknown();
  r.range.umin = umin;
  r.range.umax = umax;
  r.reduce();
  return r;
}
template <unsigned W>
ScalarOf<W> ScalarOf<W>::between_signed(int64_t smin, int64_t smax) {
  ScalarOf r = unknown();
  r.range.smin = smin;
  r.range.smax = smax;
  r.reduce();
  return r;
}
template <unsigned W>
bool ScalarOf<W>::contains(uint64_t x) const {
  const int64_t sx = Full::s(x);
  const uint64_t half = Half::u(x);
  const int64_t shalf = Half::s(x);
  return (x & ~bits.mask & Full::kMax) == bits.value && x >= range.umin && x <= range.umax &&
         sx >= range.smin && sx <= range.smax && half >= low.umin && half <= low.umax &&
         shalf >= low.smin && shalf <= low.smax;
}
template <unsigned W>
bool ScalarOf<W>::includes(const ScalarOf& other) const {
  return (other.bits.mask & ~bits.mask) == 0 &&
         ((other.bits.value ^ bits.value) & ~bits.mask) == 0 && range.umin <= other.range.umin &&
         range.umax >= other.range.umax && range.smin <= other.range.smin &&
         range.smax >= other.range.smax && low.umin <= other.low.umin &&
         low.umax >= other.low.umax && low.smin <= other.low.smin && low.smax >= other.low.smax;
}
template <unsigned W>
ScalarOf<W> ScalarOf<W>::zero_extended(unsigned n) const {
  if (n >= W) {
    return *this;
  }
  const uint64_t kept = (1ULL << n) - 1;
  ScalarOf r = unknown();
  r.bits = {bits.value & kept, bits.mask & kept};
  r.range.umin = 0;
  r.range.umax = kept;
  if (n == kHalf) {
    r.low = low;
    r.range.umin = low.umin;
    r.range.umax = low.umax;
  } else if (range.umax - range.umin <= kept && (range.umin & kept) <= (range.umax & kept)) {
    r.range.umin = range.umin & kept;
    r.range.umax = range.umax & kept;
  }
  r.reduce();
  return r;
}
template <unsigned W>
ScalarOf<W> ScalarOf<W>::sign_extended(unsigned n) const {
  if (n >= W) {
    return *this;
  }
  const uint64_t kept = (1ULL << n) - 1;
  const unsigned up = W - n;
  ScalarOf r = unknown();
  r.bits = shift_arithmetic<W>(shift_left<W>(bits, up), up);
  const auto extended = [&](uint64_t x) { return Full::s(x << up) >> up; };
  r.range.smin = Full::kSmin >> up;
  r.range.smax = Full::kSmax >> up;
  if (n == kHalf) {
    r.low = low;
    r.range.smin = low.smin;
    r.range.smax = low.smax;
  } else {
    if (range.umax - range.umin <= kept && extended(range.umin) <= extended(range.umax)) {
      meet_signed(&r.range, extended(range.umin), extended(range.umax));
    }
    const auto lo = static_cast<uint64_t>(range.smin);
    const auto hi = static_cast<uint64_t>(range.smax);
    if (hi - lo <= kept && extended(lo) <= extended(hi)) {
      meet_signed(&r.range, extended(lo), extended(hi));
    }
  }
  r.reduce();
  return r;
}

namespace {

// The operators at one width; `Low` ranges follow for those where the lower half of the result
// depends on the lower halves only.
template <unsigned W>
bool alu_range(uint8_t op, const Range<W>& a, const Range<W>& b, Range<W>* r) {
  switch (op) {
    case BPF_ADD:
      *r = add(a, b);
      return true;
    case BPF_SUB:
      *r = sub(a, b);
      return true;
    case BPF_MUL:
      *r = mul(a, b);
      return true;
    case BPF_AND:
      *r = bit_and(a, b);
      return true;
    case BPF_OR:
      *r = bit_or(a, b);
      return true;
    case BPF_XOR:
      *r = Range<W>::full();
      return true;
    default:
      return false;
  }
}
template <unsigned W>
Bits alu_bits(uint8_t op, Bits a, Bits b) {
  switch (op) {
    case BPF_ADD:
      return cut<W>(add(a, b));
    case BPF_SUB:
      return cut<W>(sub(a, b));
    case BPF_MUL:
      return cut<W>(mul(a, b));
    case BPF_AND:
      return bit_and(a, b);
    case BPF_OR:
      return bit_or(a, b);
    default:
      return bit_xor(a, b);
  }
}
template <unsigned W>
bool shift(uint8_t op, Bits bits, const Range<W>& range, unsigned n, Bits* out_bits,
           Range<W>* out_range) {
  switch (op) {
    case BPF_LSH:
      *out_bits = shift_left<W>(bits, n);
      *out_range = shift_left(range, n);
      return true;
    case BPF_RSH:
      *out_bits = shift_right(bits, n);
      *out_range = shift_right(range, n);
      return true;
    case BPF_ARSH:
      *out_bits = shift_arithmetic<W>(bits, n);
      *out_range = shift_arithmetic(range, n);
      return true;
    default:
      return false;
  }
}

template <unsigned W>
ScalarOf<W> half_result(Bits bits, const Range<W / 2>& range) {
  ScalarOf<W> r = ScalarOf<W>::unknown();
  r.bits = cut<W / 2>(bits);
  r.low = range;
  r.range.umax = Width<W / 2>::kMax;
  r.reduce();
  return r;
}

}  // namespace

template <unsigned W>
ScalarOf<W> alu(uint8_t op, bool is_half, const ScalarOf<W>& a, const ScalarOf<W>& b) {
  constexpr unsigned kHalf = W / 2;
  if (op == BPF_NEG) {
    return alu<W>(BPF_SUB, is_half, ScalarOf<W>::constant(0), a);
  }
  const bool is_shift = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
  if (is_half) {
    const Bits a_bits = cut<kHalf>(a.bits);
    const Bits b_bits = cut<kHalf>(b.bits);
    Range<kHalf> range;
    if (alu_range<kHalf>(op, a.low, b.low, &range)) {
      return half_result<W>(alu_bits<kHalf>(op, a_bits, b_bits), range);
    }
    Bits bits;
    if (is_shift && b_bits.mask == 0 && b_bits.value < kHalf &&
        shift<kHalf>(op, a_bits, a.low, static_cast<unsigned>(b_bits.value), &bits, &range)) {
      return half_result<W>(bits, range);
    }
    return half_result<W>({0, Width<kHalf>::kMax}, Range<kHalf>::full());
  }
  ScalarOf<W> r = ScalarOf<W>::unknown();
  if (alu_range<W>(op, a.range, b.range, &r.range)) {
    alu_range<kHalf>(op, a.low, b.low, &r.low);
    r.bits = alu_bits<W>(op, a.bits, b.bits);
  } else if (is_shift && b.is_constant() && b.bits.value < W) {
    const auto n = static_cast<unsigned>(b.bits.value);
    shift<W>(op, a.bits, a.range, n, &r.bits, &r.range);
    if (op == BPF_LSH && n == kHalf) {
      // The lower half moves up whole, with its sign.
      meet_signed(&r.range, Width<W>::s(static_cast<uint64_t>(a.low.smin) << n),
                  Width<W>::s(static_cast<uint64_t>(a.low.smax) << n));
    }
    if (op == BPF_LSH && n < kHalf) {
      r.low = shift_left(a.low, n);
    }
  } else {
    return r;
  }
  r.reduce();
  return r;
}

Scalar byte_swapped(const Scalar& a, unsigned n) {
  const auto swapped = [n](uint64_t x) { return __builtin_bswap64(x) >> (64 - n); };
  Scalar r = Scalar::unknown();
  r.bits = {swapped(a.bits.value), swapped(a.bits.mask)};
  r.reduce();
  return r;
}

namespace {

// a < b or a <= b, on one width.
template <unsigned W>
void order(bool is_signed, bool or_equal, Range<W>* a, Range<W>* b, bool* ok) {
  if (is_signed) {
    if (!or_equal && (b->smax == Width<W>::kSmin || a->smin == Width<W>::kSmax)) {
      *ok = false;
      return;
    }
    const int64_t gap = or_equal ? 0 : 1;
    a->smax = std::min(a->smax, b->smax - gap);
    b->smin = std::max(b->smin, a->smin + gap);
  } else {
    if (!or_equal && (b->umax == 0 || a->umin == Width<W>::kMax)) {
      *ok = false;
      return;
    }
    const uint64_t gap = or_equal ? 0 : 1;
    a->umax = std::min(a->umax, b->umax - gap);
    b->umin = std::max(b->umin, a->umin + gap);
  }
  *ok = !is_empty(*a) && !is_empty(*b);
}

// `c` is not in *r: the ends move.
template <unsigned W>
bool exclude(Range<W>* r, uint64_t c) {
  const int64_t sc = Width<W>::s(c);
  if (r->umin == r->umax && r->umin == c) {
    return false;
  }
  if (r->smin == r->smax && r->smin == sc) {
    return false;
  }
  r->umin += r->umin == c ? 1 : 0;
  r->umax -= r->umax == c ? 1 : 0;
  r->smin += r->smin == sc ? 1 : 0;
  r->smax -= r->smax == sc ? 1 : 0;
  return true;
}

template <unsigned W>
bool refine_range(uint8_t op, Range<W>* a, Range<W>* b) {
  bool ok = true;
  switch (op) {
    case BPF_JEQ:
      meet_unsigned(a, b->umin, b->umax);
      meet_signed(a, b->smin, b->smax);
      *b = *a;
      return !is_empty(*a);
    case BPF_JNE:
      if (b->umin == b->umax && !exclude(a, b->umin)) {
        return false;
      }
      if (a->umin == a->umax && !exclude(b, a->umin)) {
        return false;
      }
      return true;
    case BPF_JLT:
      order(false, false, a, b, &ok);
      return ok;
    case BPF_JLE:
      order(false, true, a, b, &ok);
      return ok;
    case BPF_JGT:
      order(false, false, b, a, &ok);
      return ok;
    case BPF_JGE:
      order(false, true, b, a, &ok);
      return ok;
    case BPF_JSLT:
      order(true, false, a, b, &ok);
      return ok;
    case BPF_JSLE:
      order(true, true, a, b, &ok);
      return ok;
    case BPF_JSGT:
      order(true, false, b, a, &ok);
      return ok;
    case BPF_JSGE:
      order(true, true, b, a, &ok);
      return ok;
    default:
      return true;
  }
}

uint8_t negated(uint8_t op) {
  switch (op) {
    case BPF_JEQ:
      return BPF_JNE;
    case BPF_JNE:
      return BPF_JEQ;
    case BPF_JLT:
      return BPF_JGE;
    case BPF_JLE:
      return BPF_JGT;
    case BPF_JGT:
      return BPF_JLE;
    case BPF_JGE:
      return BPF_JLT;
    case BPF_JSLT:
      return BPF_JSGE;
    case BPF_JSLE:
      return BPF_JSGT;
    case BPF_JSGT:
      return BPF_JSLE;
    default:
      return BPF_JSLT;
  }
}

// a & b is not zero, or is zero.
bool refine_set(bool taken, uint64_t width_mask, Bits* a, Bits* b) {
  const uint64_t a_may = (a->value | a->mask) & width_mask;
  const uint64_t b_may = (b->value | b->mask) & width_mask;
  if (taken) {
    if ((a_may & b_may) == 0) {
      return false;
    }
    // If one of them has a single bit that may be set, the other must have it.
    const uint64_t common = a_may & b_may;
    if (std::has_single_bit(common)) {
      a->value |= common;
      a->mask &= ~common;
      b->value |= common;
      b->mask &= ~common;
    }
    return true;
  }
  const uint64_t a_must = a->value & width_mask;
  const uint64_t b_must = b->value & width_mask;
  if ((a_must & b_must) != 0) {
    return false;
  }
  a->mask &= ~b_must;
  b->mask &= ~a_must;
  return true;
}

}  // namespace

template <unsigned W>
bool refine(uint8_t op, bool is_half, bool taken, ScalarOf<W>* a, ScalarOf<W>* b) {
  constexpr uint64_t kHalfMask = Width<W / 2>::kMax;
  if (op == BPF_JSET) {
    if (!refine_set(taken, is_half ? kHalfMask : Width<W>::kMax, &a->bits, &b->bits)) {
      return false;
    }
    return a->reduce() && b->reduce();
  }
  const uint8_t holds = taken ? op : negated(op);
  if (is_half) {
    if (!refine_range<W / 2>(holds, &a->low, &b->low)) {
      return false;
    }
  } else if (!refine_range<W>(holds, &a->range, &b->range)) {
    return false;
  }
  if (holds == BPF_JEQ) {
    const uint64_t loose = is_half ? Width<W>::kMax & ~kHalfMask : 0;
    const Bits a_bits{a->bits.value & ~loose, a->bits.mask | loose};
    const Bits b_bits{b->bits.value & ~loose, b->bits.mask | loose};
    if (!meet(&a->bits, b_bits) || !meet(&b->bits, a_bits)) {
      return false;
    }
    if (!is_half) {
      if (!refine_range<W / 2>(BPF_JEQ, &a->low, &b->low)) {
        return false;
      }
    }
  }
  return a->reduce() && b->reduce();
}

Scalar join(const Scalar& a, const Scalar& b) {
  Scalar r;
  const uint64_t unknown = a.bits.mask | b.bits.mask | (a.bits.value ^ b.bits.value);
  r.bits = {a.bits.value & ~unknown, unknown};
  r.range = {std::min(a.range.umin, b.range.umin), std::max(a.range.umax, b.range.umax),
             std::min(a.range.smin, b.range.smin), std::max(a.range.smax, b.range.smax)};
  r.low = {std::min(a.low.umin, b.low.umin), std::max(a.low.umax, b.low.umax),
           std::min(a.low.smin, b.low.smin), std::max(a.low.smax, b.low.smax)};
  return r;
}

template struct ScalarOf<64>;
template struct ScalarOf<4>;
template struct ScalarOf<8>;
template Scalar alu(uint8_t, bool, const Scalar&, const Scalar&);
template ScalarOf<4> alu(uint8_t, bool, const ScalarOf<4>&, const ScalarOf<4>&);
template ScalarOf<8> alu(uint8_t, bool, const ScalarOf<8>&, const ScalarOf<8>&);
template bool refine(uint8_t, bool, bool, Scalar*, Scalar*);
template bool refine(uint8_t, bool, bool, ScalarOf<4>*, ScalarOf<4>*);
template bool refine(uint8_t, bool, bool, ScalarOf<8>*, ScalarOf<8>*);

}  // namespace bpftime
