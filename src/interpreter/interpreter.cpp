// Direct threading: each operation holds the address of the code that runs it. Everything decided
// once is decided in prepare(): operand forms, jump targets, slots; a backward jump is preceded by
// an operation that spends fuel.
#include "interpreter/interpreter.hpp"

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "isa/opcode.hpp"
#include "vm/slot_table.hpp"

// Computed goto is what direct threading is made of.
#pragma GCC diagnostic ignored "-Wpedantic"

namespace bpftime {
namespace {

static_assert(std::endian::native == std::endian::little);

struct Op {
  const void* handler;
  uint64_t imm;    // operand, slot number, or kind of atomic
  int32_t target;  // of a jump or call, relative to this operation
  int16_t off;
  uint8_t dst, src;
};
static_assert(sizeof(Op) == 24);

// ---- the operations
// ------------------------------------------------------------------------------------------------
// name, 64-bit expression, 32-bit expression over a (old dst) and b (operand), both unsigned
#define BPFTIME_ALU(X)                                                        \
  X(Add, a + b)                                                               \
  X(Sub, a - b)                                                               \
  X(Mul, a* b)                                                                \
  X(Or, a | b)                                                                \
  X(And, a& b)                                                                \
  X(Xor, a ^ b)                                                               \
  X(Mov, b)                                                                   \
  X(Lsh, a << (b & (kBits - 1)))                                              \
  X(Rsh, a >> (b & (kBits - 1)))                                              \
  X(Arsh, static_cast<Unsigned>(static_cast<Signed>(a) >> (b & (kBits - 1)))) \
  X(Div, b == 0 ? 0 : a / b)                                                  \
  X(Mod, b == 0 ? a : a % b)                                                  \
  X(Sdiv, signed_div(a, b))                                                   \
  X(Smod, signed_mod(a, b))

// name, condition over a (dst) and b (operand)
#define BPFTIME_JUMPS(X)                                    \
  X(Jeq, a == b)                                            \
  X(Jne, a != b)                                            \
  X(Jgt, a > b)                                             \
  X(Jge, a >= b)                                            \
  X(Jlt, a < b)                                             \
  X(Jle, a <= b)                                            \
  X(Jset, (a & b) != 0)                                     \
  X(Jsgt, static_cast<Signed>(a) > static_cast<Signed>(b))  \
  X(Jsge, static_cast<Signed>(a) >= static_cast<Signed>(b)) \
  X(Jslt, static_cast<Signed>(a) < static_cast<Signed>(b))  \
  X(Jsle, static_cast<Signed>(a) <= static_cast<Signed>(b))

// clang-format off: it never comes to rest over this
#define BPFTIME_OTHERS(X)                                                                       \
  X(Neg64)                                                                                      \
  X(Neg32)                                                                                      \
  X(Sx8to64)                                                                                    \
  X(Sx16to64) X(Sx32to64) X(Sx8to32) X(Sx16to32) X(Zx16) X(Zx32) X(Swap16) X(Swap32) X(Swap64)  \
      X(Slot) X(Load1) X(Load2) X(Load4) X(Load8) X(LoadS1) X(LoadS2) X(LoadS4) X(Store1)       \
          X(Store2) X(Store4) X(Store8) X(StoreImm1) X(StoreImm2) X(StoreImm4) X(StoreImm8)     \
              X(Atomic4) X(Atomic8) X(Acquire1) X(Acquire2) X(Acquire4) X(Acquire8) X(Release1) \
                  X(Release2) X(Release4) X(Release8) X(Ja) X(MayGoto) X(Fuel) X(Call)          \
                      X(CallLocal) X(Exit)
// clang-format on

enum OpName : uint16_t {
#define X(name, expr) kDo##name##64Reg, kDo##name##64Imm, kDo##name##32Reg, kDo##name##32Imm,
  BPFTIME_ALU(X) BPFTIME_JUMPS(X)
#undef X
#define X(name) kDo##name,
      BPFTIME_OTHERS(X)
#undef X
          kOpNames
};

template <class Unsigned>
Unsigned signed_div(Unsigned a, Unsigned b) {
  using Signed = std::make_signed_t<Unsigned>;
  if (b == 0) {
    return 0;
  }
  if (b == static_cast<Unsigned>(-1)) {
    return Unsigned{0} - a;  // and INT_MIN / -1 = INT_MIN
  }
  return static_cast<Unsigned>(static_cast<Signed>(a) / static_cast<Signed>(b));
}
template <class Unsigned>
Unsigned signed_mod(Unsigned a, Unsigned b) {
  using Signed = std::make_signed_t<Unsigned>;
  if (b == 0) {
    return a;
  }
  if (b == static_cast<Unsigned>(-1)) {
    return 0;
  }
  return static_cast<Unsigned>(static_cast<Signed>(a) % static_cast<Signed>(b));
}

template <class T>
T load_as(uint64_t address) {
  T value;
  // SAFETY: the caller has checked [address, address + sizeof(T)) against the allowed ranges.
  std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof value);
  return value;
}
template <class T>
void store_as(uint64_t address, T value) {
  // SAFETY: as load_as, for writing.
  std::memcpy(reinterpret_cast<void*>(address), &value, sizeof value);
}

// All of RFC 9669 §5.3; sequentially consistent. Preconditions: checked, writable, aligned.
template <class T>
void run_atomic(uint64_t address, uint64_t kind, uint64_t* src, uint64_t* r0) {
  // SAFETY: address is checked and aligned for T.
  T* at = reinterpret_cast<T*>(address);
  const T operand = static_cast<T>(*src);
  T old = 0;
  switch (kind & ~uint64_t{BPF_FETCH}) {
    case BPF_ADD:
      old = __atomic_fetch_add(at, operand, __ATOMIC_SEQ_CST);
      break;
    case BPF_OR:
      old = __atomic_fetch_or(at, operand, __ATOMIC_SEQ_CST);
      break;
    case BPF_AND:
      old = __atomic_fetch_and(at, operand, __ATOMIC_SEQ_CST);
      break;
    case BPF_XOR:
      old = __atomic_fetch_xor(at, operand, __ATOMIC_SEQ_CST);
      break;
    case BPF_XCHG & ~BPF_FETCH:
      old = __atomic_exchange_n(at, operand, __ATOMIC_SEQ_CST);
      break;
    default: {  // BPF_CMPXCHG
      T expected = static_cast<T>(*r0);
      __atomic_compare_exchange_n(at, &expected, operand, false, __ATOMIC_SEQ_CST,
                                  __ATOMIC_SEQ_CST);
      *r0 = expected;
      return;
    }
  }
  if ((kind & BPF_FETCH) != 0) {
    *src = old;
  }
}

struct Function {
  uint32_t first_op;
  bool uses_frame;
};

}  // namespace

struct Interpreter::Prepared {
  std::vector<Op> ops;
  std::vector<uint32_t> insn_of;    // of each operation, for messages
  std::vector<Function> functions;  // as function_starts
  std::vector<Slot> slots;
};

namespace {

struct Run {
  const std::vector<Op>* ops;
  const std::vector<Function>* functions;
  std::span<const MemoryRange> allowed;
  Hit* hit;
  uint64_t stack_end;  // one past the highest byte of the main frame
  uint32_t depth;      // frames in use
  bool has_failed;     // error is set; every level leaves
  Error error;
  const Op* failed_at;
  uint64_t failed_address;
  MemoryRange readable, writable;  // the ranges hit last
};

constexpr std::array<uint64_t, 5> kNoArgs{};

uint64_t execute(Run* run, uint32_t function, const std::array<uint64_t, 5>& args,
                 const void* const** handlers);

// What a function reference is in interpreted code: one of kMaxFunctions C functions with the type
// HelperFn; the run is found through hit->program_rsp, which compiled code uses for the same thing:
// to know where it is.
template <size_t kFunction>
uint64_t call_back(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, Hit* hit) {
  // SAFETY: Interpreter::run put it there, and takes it away when it ends.
  Run* run = reinterpret_cast<Run*>(hit->program_rsp);
  if (run->has_failed || run->depth >= kMaxCallFrames || hit->ended != kHitNormal) {
    return 1;  // a helper's loop ends with this
  }
  return execute(run, kFunction, {r1, r2, r3, r4, r5}, nullptr);
}
template <size_t... kFunctions>
constexpr std::array<HelperFn, sizeof...(kFunctions)> make_callbacks(
    std::index_sequence<kFunctions...>) {
  return {call_back<kFunctions>...};
}
constexpr std::array<HelperFn, kMaxFunctions> kCallbacks =
    make_callbacks(std::make_index_sequence<kMaxFunctions>());

// The slow half of an access check: looks through all ranges and remembers the one it found.
__attribute__((noinline)) bool find_range(Run* run, uint64_t address, uint64_t bytes,
                                          bool is_write) {
  for (const MemoryRange& range : run->allowed) {
    const uint64_t into = address - range.begin;
    if (into < range.size_bytes && range.size_bytes - into >= bytes &&
        (range.is_writable || !is_write)) {
      (is_write ? run->writable : run->readable) = range;
      return true;
    }
  }
  return false;
}

inline bool may_access(Run* run, uint64_t frame_top, uint64_t address, uint64_t bytes,
                       bool is_write) {
  const uint64_t lowest = frame_top - kFrameBytes;
  if (address - lowest <= run->stack_end - lowest - bytes) {
    return true;
  }
  const MemoryRange& last = is_write ? run->writable : run->readable;
  const uint64_t into = address - last.begin;
  if (__builtin_expect(into < last.size_bytes && last.size_bytes - into >= bytes, 1)) {
    return true;
  }
  return find_range(run, address, bytes, is_write);
}

// Runs one function (and what it calls) to its exit. With `handlers`, runs nothing and tells where
// the operations' code is.
uint64_t execute(Run* run, uint32_t function, const std::array<uint64_t, 5>& args,
                 const void* const** handlers) {
  static const void* const kHandlers[kOpNames] = {
#define X(name, expr) \
  &&do_##name##64Reg, &&do_##name##64Imm, &&do_##name##32Reg, &&do_##name##32Imm,
      BPFTIME_ALU(X) BPFTIME_JUMPS(X)
#undef X
#define X(name) &&do_##name,
          BPFTIME_OTHERS(X)
#undef X
  };
  if (handlers != nullptr) {
    *handlers = kHandlers;
    return 0;
  }
  struct Caller {
    const Op* resume;
    uint64_t saved[4];  // r6..r9
    uint64_t may_goto_left;
  };
  Caller callers[kMaxCallFrames];
  const uint32_t base_depth = run->depth;
  uint64_t r[11];
  for (uint32_t i = 0; i < 11; ++i) {
    r[i] = 0;
  }
  for (uint32_t i = 0; i < 5; ++i) {
    r[i + 1] = args[i];
  }
  r[10] = run->stack_end - uint64_t{kFrameBytes} * base_depth;
  uint64_t may_goto_left = kMayGotoRounds;
  const Op* pc = run->ops->data() + (*run->functions)[function].first_op;
  if ((*run->functions)[function].uses_frame) {
    // SAFETY: run() reserved kMaxCallFrames frames, and depth is below that.
    std::memset(reinterpret_cast<void*>(r[10] - kFrameBytes), 0, kFrameBytes);
  }
  ++run->depth;
  uint64_t address = 0;

#define NEXT()          \
  do {                  \
    ++pc;               \
    goto * pc->handler; \
  } while (false)
  goto * pc->handler;

#define X(name, expr)                                                  \
  do_##name##64Reg : {                                                 \
    using Unsigned = uint64_t;                                         \
    [[maybe_unused]] constexpr unsigned kBits = 64;                    \
    using Signed [[maybe_unused]] = int64_t;                           \
    [[maybe_unused]] const Unsigned a = r[pc->dst];                    \
    const Unsigned b = r[pc->src];                                     \
    r[pc->dst] = (expr);                                               \
    NEXT();                                                            \
  }                                                                    \
  do_##name##64Imm : {                                                 \
    using Unsigned = uint64_t;                                         \
    [[maybe_unused]] constexpr unsigned kBits = 64;                    \
    using Signed [[maybe_unused]] = int64_t;                           \
    [[maybe_unused]] const Unsigned a = r[pc->dst];                    \
    const Unsigned b = pc->imm;                                        \
    r[pc->dst] = (expr);                                               \
    NEXT();                                                            \
  }                                                                    \
  do_##name##32Reg : {                                                 \
    using Unsigned = uint32_t;                                         \
    [[maybe_unused]] constexpr unsigned kBits = 32;                    \
    using Signed [[maybe_unused]] = int32_t;                           \
    [[maybe_unused]] const auto a = static_cast<Unsigned>(r[pc->dst]); \
    const auto b = static_cast<Unsigned>(r[pc->src]);                  \
    r[pc->dst] = static_cast<Unsigned>(expr);                          \
    NEXT();                                                            \
  }                                                                    \
  do_##name##32Imm : {                                                 \
    using Unsigned = uint32_t;                                         \
    [[maybe_unused]] constexpr unsigned kBits = 32;                    \
    using Signed [[maybe_unused]] = int32_t;                           \
    [[maybe_unused]] const auto a = static_cast<Unsigned>(r[pc->dst]); \
    const auto b = static_cast<Unsigned>(pc->imm);                     \
    r[pc->dst] = static_cast<Unsigned>(expr);                          \
    NEXT();                                                            \
  }
  BPFTIME_ALU(X)
#undef X

#define JUMP_IF(condition)              \
  do {                                  \
    pc += (condition) ? pc->target : 1; \
    goto * pc->handler;                 \
  } while (false)
#define X(name, expr)                                 \
  do_##name##64Reg : {                                \
    using Signed [[maybe_unused]] = int64_t;          \
    const uint64_t a = r[pc->dst];                    \
    const uint64_t b = r[pc->src];                    \
    JUMP_IF(expr);                                    \
  }                                                   \
  do_##name##64Imm : {                                \
    using Signed [[maybe_unused]] = int64_t;          \
    const uint64_t a = r[pc->dst];                    \
    const uint64_t b = pc->imm;                       \
    JUMP_IF(expr);                                    \
  }                                                   \
  do_##name##32Reg : {                                \
    using Signed [[maybe_unused]] = int32_t;          \
    const auto a = static_cast<uint32_t>(r[pc->dst]); \
    const auto b = static_cast<uint32_t>(r[pc->src]); \
    JUMP_IF(expr);                                    \
  }                                                   \
  do_##name##32Imm : {                                \
    using Signed [[maybe_unused]] = int32_t;          \
    const auto a = static_cast<uint32_t>(r[pc->dst]); \
    const auto b = static_cast<uint32_t>(pc->imm);    \
    JUMP_IF(expr);                                    \
  }
  BPFTIME_JUMPS(X)
#undef X

do_Neg64:
  r[pc->dst] = 0 - r[pc->dst];
  NEXT();
do_Neg32:
  r[pc->dst] = uint32_t{0} - static_cast<uint32_t>(r[pc->dst]);
  NEXT();
do_Sx8to64:
  r[pc->dst] = static_cast<uint64_t>(int64_t{static_cast<int8_t>(r[pc->src])});
  NEXT();
do_Sx16to64:
  r[pc->dst] = static_cast<uint64_t>(int64_t{static_cast<int16_t>(r[pc->src])});
  NEXT();
do_Sx32to64:
  r[pc->dst] = static_cast<uint64_t>(int64_t{static_cast<int32_t>(r[pc->src])});
  NEXT();
do_Sx8to32:
  r[pc->dst] = static_cast<uint32_t>(int32_t{static_cast<int8_t>(r[pc->src])});
  NEXT();
do_Sx16to32:
  r[pc->dst] = static_cast<uint32_t>(int32_t{static_cast<int16_t>(r[pc->src])});
  NEXT();
do_Zx16:
  r[pc->dst] = static_cast<uint16_t>(r[pc->dst]);
  NEXT();
do_Zx32:
  r[pc->dst] = static_cast<uint32_t>(r[pc->dst]);
  NEXT();
do_Swap16:
  r[pc->dst] = __builtin_bswap16(static_cast<uint16_t>(r[pc->dst]));
  NEXT();
do_Swap32:
  r[pc->dst] = __builtin_bswap32(static_cast<uint32_t>(r[pc->dst]));
  NEXT();
do_Swap64:
  r[pc->dst] = __builtin_bswap64(r[pc->dst]);
  NEXT();
do_Slot:
  r[pc->dst] = run->hit->slots[pc->imm];
  NEXT();

#define CHECK(base, bytes, is_write)                                              \
  do {                                                                            \
    address = r[base] + static_cast<uint64_t>(int64_t{pc->off});                  \
    if (__builtin_expect(!may_access(run, r[10], address, bytes, is_write), 0)) { \
      goto bad_access;                                                            \
    }                                                                             \
  } while (false)
#define LOAD(label, type, wide)                                                  \
  do_##label : CHECK(pc->src, sizeof(type), false);                              \
  r[pc->dst] = static_cast<uint64_t>(static_cast<wide>(load_as<type>(address))); \
  NEXT();
  LOAD(Load1, uint8_t, uint64_t)
  LOAD(Load2, uint16_t, uint64_t)
  LOAD(Load4, uint32_t, uint64_t)
  LOAD(Load8, uint64_t, uint64_t)
  LOAD(LoadS1, int8_t, int64_t)
  LOAD(LoadS2, int16_t, int64_t)
  LOAD(LoadS4, int32_t, int64_t)
#define STORE(label, type, value)                    \
  do_##label : CHECK(pc->dst, sizeof(type), true);   \
  store_as<type>(address, static_cast<type>(value)); \
  NEXT();
  STORE(Store1, uint8_t, r[pc->src])
  STORE(Store2, uint16_t, r[pc->src])
  STORE(Store4, uint32_t, r[pc->src])
  STORE(Store8, uint64_t, r[pc->src])
  STORE(StoreImm1, uint8_t, pc->imm)
  STORE(StoreImm2, uint16_t, pc->imm)
  STORE(StoreImm4, uint32_t, pc->imm)
  STORE(StoreImm8, uint64_t, pc->imm)

#define CHECK_ALIGNED(base, bytes, is_write) \
  do {                                       \
    CHECK(base, bytes, is_write);            \
    if (address % (bytes) != 0) {            \
      goto bad_alignment;                    \
    }                                        \
  } while (false)
do_Atomic4:
  CHECK_ALIGNED(pc->dst, 4, true);
  run_atomic<uint32_t>(address, pc->imm, &r[pc->src], &r[0]);
  NEXT();
do_Atomic8:
  CHECK_ALIGNED(pc->dst, 8, true);
  run_atomic<uint64_t>(address, pc->imm, &r[pc->src], &r[0]);
  NEXT();
  // SAFETY (both): checked and aligned.
#define ACQUIRE(label, type)                                                              \
  do_##label : CHECK_ALIGNED(pc->src, sizeof(type), false);                               \
  r[pc->dst] = __atomic_load_n(reinterpret_cast<const type*>(address), __ATOMIC_ACQUIRE); \
  NEXT();
  ACQUIRE(Acquire1, uint8_t)
  ACQUIRE(Acquire2, uint16_t)
  ACQUIRE(Acquire4, uint32_t)
  ACQUIRE(Acquire8, uint64_t)
#define RELEASE(label, type)                                                        \
  do_##label : CHECK_ALIGNED(pc->dst, sizeof(type), true);                          \
  __atomic_store_n(reinterpret_cast<type*>(address), static_cast<type>(r[pc->src]), \
                   __ATOMIC_RELEASE);                                               \
  NEXT();
  RELEASE(Release1, uint8_t)
  RELEASE(Release2, uint16_t)
  RELEASE(Release4, uint32_t)
  RELEASE(Release8, uint64_t)

do_Ja:
  pc += pc->target;
  goto * pc->handler;
do_MayGoto:
  if (may_goto_left == 0) {
    pc += pc->target;
    goto * pc->handler;
  }
  --may_goto_left;
  NEXT();
do_Fuel:
  if (--run->hit->fuel < 0) {
    run->hit->ended = kHitOutOfFuel;
    r[0] = 0;
    goto leave;
  }
  NEXT();
do_Call: {
  const uint64_t target = run->hit->slots[pc->imm];
  if (target == 0) {
    run->error = make_error(EINVAL, "call of a helper that this host does not have");
    goto failed;
  }
  // SAFETY: the host promises a HelperFn in each kHelper slot.
  r[0] = reinterpret_cast<HelperFn>(target)(r[1], r[2], r[3], r[4], r[5], run->hit);
  if (__builtin_expect(run->has_failed || run->hit->ended != kHitNormal, 0)) {
    r[0] = 0;
    goto leave;
  }
  NEXT();
}
do_CallLocal: {
  if (run->depth ==
      kMaxCallFrames) {  // prepare() has counted: only a helper's callbacks can come here
    run->error = make_error(E2BIG, "more than 8 frames");
    goto failed;
  }
  Caller& caller = callers[run->depth - base_depth];
  caller.resume = pc + 1;
  for (uint32_t i = 0; i < 4; ++i) {
    caller.saved[i] = r[6 + i];
  }
  caller.may_goto_left = may_goto_left;
  may_goto_left = kMayGotoRounds;
  ++run->depth;
  r[10] -= kFrameBytes;
  if (pc->imm != 0) {
    // SAFETY: as above, depth was below kMaxCallFrames.
    std::memset(reinterpret_cast<void*>(r[10] - kFrameBytes), 0, kFrameBytes);
  }
  pc += pc->target;
  goto * pc->handler;
}
do_Exit: {
  if (--run->depth == base_depth) {
    return r[0];
  }
  const Caller& caller = callers[run->depth - base_depth];
  for (uint32_t i = 0; i < 4; ++i) {
    r[6 + i] = caller.saved[i];
  }
  may_goto_left = caller.may_goto_left;
  r[10] += kFrameBytes;
  pc = caller.resume;
  goto * pc->handler;
}

bad_alignment:
  run->error = make_error(EFAULT, "misaligned atomic access");
  run->failed_address = address;
  goto failed;
bad_access:
  run->error = make_error(EFAULT, "access outside of what is allowed");
  run->failed_address = address;
failed:
  run->has_failed = true;
  run->failed_at = pc;
leave:
  run->depth = base_depth;
  return 0;
}

OpName form(OpName reg64, const bpf_insn& insn, bool is64) {
  return static_cast<OpName>(reg64 + (is64 ? 0 : 2) + (insn_has_reg(insn.code) ? 0 : 1));
}

OpName alu_op(const bpf_insn& insn) {
  const bool is64 = insn_class(insn.code) == BPF_ALU64;
  switch (insn_op(insn.code)) {
    case BPF_ADD:
      return form(kDoAdd64Reg, insn, is64);
    case BPF_SUB:
      return form(kDoSub64Reg, insn, is64);
    case BPF_MUL:
      return form(kDoMul64Reg, insn, is64);
    case BPF_DIV:
      return form(insn.off == 1 ? kDoSdiv64Reg : kDoDiv64Reg, insn, is64);
    case BPF_MOD:
      return form(insn.off == 1 ? kDoSmod64Reg : kDoMod64Reg, insn, is64);
    case BPF_OR:
      return form(kDoOr64Reg, insn, is64);
    case BPF_AND:
      return form(kDoAnd64Reg, insn, is64);
    case BPF_XOR:
      return form(kDoXor64Reg, insn, is64);
    case BPF_LSH:
      return form(kDoLsh64Reg, insn, is64);
    case BPF_RSH:
      return form(kDoRsh64Reg, insn, is64);
    case BPF_ARSH:
      return form(kDoArsh64Reg, insn, is64);
    case BPF_NEG:
      return is64 ? kDoNeg64 : kDoNeg32;
    case BPF_END:
      if (!is64 && !insn_has_reg(insn.code)) {  // to little endian: cut off
        return insn.imm == 16 ? kDoZx16 : insn.imm == 32 ? kDoZx32 : kDoLsh64Imm;
      }
      return insn.imm == 16 ? kDoSwap16 : insn.imm == 32 ? kDoSwap32 : kDoSwap64;
    default:  // BPF_MOV
      switch (insn_has_reg(insn.code) ? insn.off : 0) {
        case 8:
          return is64 ? kDoSx8to64 : kDoSx8to32;
        case 16:
          return is64 ? kDoSx16to64 : kDoSx16to32;
        case 32:
          return kDoSx32to64;
        default:
          return form(kDoMov64Reg, insn, is64);
      }
  }
}

OpName jump_op(const bpf_insn& insn) {
  const bool is64 = insn_class(insn.code) == BPF_JMP;
  switch (insn_op(insn.code)) {
    case BPF_JA:
      return kDoJa;
    case kJumpCond:
      return kDoMayGoto;
    case BPF_JEQ:
      return form(kDoJeq64Reg, insn, is64);
    case BPF_JNE:
      return form(kDoJne64Reg, insn, is64);
    case BPF_JGT:
      return form(kDoJgt64Reg, insn, is64);
    case BPF_JGE:
      return form(kDoJge64Reg, insn, is64);
    case BPF_JLT:
      return form(kDoJlt64Reg, insn, is64);
    case BPF_JLE:
      return form(kDoJle64Reg, insn, is64);
    case BPF_JSET:
      return form(kDoJset64Reg, insn, is64);
    case BPF_JSGT:
      return form(kDoJsgt64Reg, insn, is64);
    case BPF_JSGE:
      return form(kDoJsge64Reg, insn, is64);
    case BPF_JSLT:
      return form(kDoJslt64Reg, insn, is64);
    default:
      return form(kDoJsle64Reg, insn, is64);
  }
}

OpName sized(OpName first, uint8_t code) {
  const uint32_t bytes = access_bytes(code);
  return static_cast<OpName>(first + std::countr_zero(bytes));
}

}  // namespace

Interpreter::Interpreter(std::unique_ptr<Prepared> prepared) : prepared_(std::move(prepared)) {}
Interpreter::Interpreter(Interpreter&& other) noexcept = default;
Interpreter& Interpreter::operator=(Interpreter&& other) noexcept = default;
Interpreter::~Interpreter() = default;

const std::vector<Slot>& Interpreter::slots() const { return prepared_->slots; }

Result<Interpreter> Interpreter::prepare(const DecodedProgram& program) {
  TRY(call_depth(program));
  const void* const* handlers = nullptr;
  execute(nullptr, 0, kNoArgs, &handlers);
  auto prepared = std::make_unique<Prepared>();
  SlotTable slots;
  const auto count = static_cast<uint32_t>(program.insns.size());
  std::vector<uint32_t> op_of(count);  // where a jump to this instruction goes
  prepared->ops.reserve(count + count / 8);
  prepared->insn_of.reserve(count + count / 8);
  const auto emit = [&](OpName name, const bpf_insn& insn, uint32_t index, uint64_t imm) {
    prepared->ops.push_back({handlers[name], imm, 0, insn.off, insn.dst_reg, insn.src_reg});
    prepared->insn_of.push_back(index);
  };
  for (uint32_t i = 0; i < count; ++i) {
    const bpf_insn& insn = program.insns[i];
    const uint64_t imm = static_cast<uint64_t>(int64_t{insn.imm});
    op_of[i] = static_cast<uint32_t>(prepared->ops.size());
    switch (insn_class(insn.code)) {
      case BPF_ALU:
      case BPF_ALU64:
        if (insn_op(insn.code) == BPF_MOV && insn_has_reg(insn.code) && insn.off == 1) {
          return make_error(EOPNOTSUPP, "arena address casts are not supported yet");
        }
        if (insn.code == (BPF_ALU | BPF_END | BPF_TO_LE) && insn.imm == 64) {
          emit(kDoLsh64Imm, insn, i, 0);  // nothing to do
          break;
        }
        emit(alu_op(insn), insn, i, imm);
        break;
      case BPF_LD: {
        const bpf_insn& second = program.insns[i + 1];
        const uint64_t high = static_cast<uint32_t>(second.imm);
        switch (insn.src_reg) {
          case kLoadImm:
            emit(kDoMov64Imm, insn, i, lddw_value(insn, second));
            break;
          case kLoadMapFd:
            emit(kDoSlot, insn, i,
                 slots.intern(SlotKind::kMap, static_cast<uint32_t>(insn.imm), 0));
            break;
          case kLoadMapValue:
            emit(kDoSlot, insn, i,
                 slots.intern(SlotKind::kMapValue, static_cast<uint32_t>(insn.imm), high));
            break;
          case kLoadFunction: {
            const auto target = static_cast<uint32_t>(int64_t{i} + 1 + insn.imm);
            emit(kDoMov64Imm, insn, i,
                 reinterpret_cast<uint64_t>(kCallbacks[function_of(program, target)]));
            break;
          }
          default:
            return make_error(EOPNOTSUPP, "unresolved or unsupported 64-bit load");
        }
        ++i;
        op_of[i] = op_of[i - 1];
        break;
      }
      case BPF_LDX:
        emit(sized(insn_mode(insn.code) == BPF_MEM ? kDoLoad1 : kDoLoadS1, insn.code), insn, i,
             imm);
        break;
      case BPF_ST:
        emit(sized(kDoStoreImm1, insn.code), insn, i, imm);
        break;
      case BPF_STX:
        if (insn_mode(insn.code) == BPF_MEM) {
          emit(sized(kDoStore1, insn.code), insn, i, imm);
        } else if (insn.imm == kLoadAcquire) {
          emit(sized(kDoAcquire1, insn.code), insn, i, imm);
        } else if (insn.imm == kStoreRelease) {
          emit(sized(kDoRelease1, insn.code), insn, i, imm);
        } else {
          emit(insn_size(insn.code) == BPF_W ? kDoAtomic4 : kDoAtomic8, insn, i, imm);
        }
        break;
      default:
        if (insn.code == kOpExit) {
          emit(kDoExit, insn, i, imm);
        } else if (insn.code == kOpCall) {
          if (insn.src_reg == kCallKfunc) {
            return make_error(EOPNOTSUPP, "calls of kernel functions are not supported");
          }
          if (insn.src_reg == kCallLocal) {
            emit(kDoCallLocal, insn, i, imm);
          } else {
            emit(kDoCall, insn, i,
                 slots.intern(SlotKind::kHelper, static_cast<uint32_t>(insn.imm), 0));
          }
        } else {
          if (jump_target(insn, i) <= i) {
            emit(kDoFuel, insn, i, 0);
          }
          emit(jump_op(insn), insn, i, imm);
        }
        break;
    }
  }
  for (size_t f = 0; f < program.function_starts.size(); ++f) {
    prepared->functions.push_back({op_of[program.function_starts[f]], false});
  }
  uint32_t function = 0;
  for (size_t at = 0; at < prepared->ops.size(); ++at) {
    Op& op = prepared->ops[at];
    const uint32_t i = prepared->insn_of[at];
    const bpf_insn& insn = program.insns[i];
    while (function + 1 < program.function_starts.size() &&
           i >= program.function_starts[function + 1]) {
      ++function;
    }
    if (insn.dst_reg == 10 || insn.src_reg == 10) {
      prepared->functions[function].uses_frame = true;
    }
    int64_t target = -1;
    if (is_jump(insn.code)) {
      target = jump_target(insn, i);
    } else if (insn.code == kOpCall && insn.src_reg == kCallLocal) {
      target = int64_t{i} + 1 + insn.imm;
    }
    if (target >= 0) {
      op.target = static_cast<int32_t>(int64_t{op_of[static_cast<size_t>(target)]} -
                                       static_cast<int64_t>(at));
    }
  }
  for (size_t at = 0; at < prepared->ops.size(); ++at) {
    const bpf_insn& insn = program.insns[prepared->insn_of[at]];
    if (insn.code == kOpCall && insn.src_reg == kCallLocal) {
      const auto target = static_cast<uint32_t>(int64_t{prepared->insn_of[at]} + 1 + insn.imm);
      prepared->ops[at].imm = prepared->functions[function_of(program, target)].uses_frame;
    }
  }
  prepared->slots = slots.take();
  return Interpreter(std::move(prepared));
}

Result<uint64_t> Interpreter::run(std::span<const uint64_t> args,
                                  std::span<const MemoryRange> allowed, Hit* hit,
                                  InterpreterFault* fault) const {
  alignas(16) std::byte frames[kMaxCallFrames * kFrameBytes];
  const MemoryRange none{0, 0, false};
  Run run{&prepared_->ops,
          &prepared_->functions,
          allowed,
          hit,
          reinterpret_cast<uint64_t>(frames) + sizeof frames,
          0,
          false,
          Error{},
          nullptr,
          0,
          none,
          none};
  std::array<uint64_t, 5> registers{};
  for (size_t i = 0; i < args.size() && i < registers.size(); ++i) {
    registers[i] = args[i];
  }
  const uint64_t saved = std::exchange(hit->program_rsp, reinterpret_cast<uint64_t>(&run));
  const uint64_t value = execute(&run, 0, registers, nullptr);
  hit->program_rsp = saved;
  if (run.has_failed) {
    if (fault != nullptr) {
      const auto at = static_cast<size_t>(run.failed_at - prepared_->ops.data());
      *fault = {prepared_->insn_of[at], run.failed_address};
    }
    return run.error;
  }
  return value;
}

}  // namespace bpftime
