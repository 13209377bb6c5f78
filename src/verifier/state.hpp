// What is known at one point of one path: registers, stack, what is held. Home: pure.
//
// A state stands for all machine states that fit it (its concretisation): a register of a kind
// holds such a value, a stack byte of a kind such a byte, and so on. kNone and kInvalid stand for
// anything at all.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "spec/context.hpp"
#include "verifier/scalar.hpp"

namespace bpftime {
inline namespace verifier_inside {  // other rooms have a State and a Frame of their own

enum class RegKind : uint8_t {
  kNone,      // nothing was ever written there
  kScalar,    // num
  kCtx,       // the context
  kMap,       // `object` = index of the map: what helpers are called with
  kMapValue,  // into a value of map `object`
  kMapKey,    // into a key of map `object` (callbacks)
  kStack,     // into the stack of frame `frame`
  kPacket,    // packet data; `size` bytes from off 0 of this `id` are known to be there
  kPacketMeta,
  kPacketEnd,
  kMem,  // into memory of `size` bytes (ring buffer record, dynptr slice, global data); kUntrusted: anywhere
  kBtf,       // to a kernel structure, type `object`
  kFunction,  // of the program, starting at instruction `object`
  kDynptr,    // to a dynptr that the kernel made (callback argument)
  kArena,
  kSocket,       // `object` = SocketKind
  kFlowKeys,     // struct bpf_flow_keys
  kTraceBuffer,  // of a writable tracepoint; how much is there is checked where it is attached
};

enum RegFlag : uint16_t {
  kOrNull = 1,
  kReadOnly = 2,
  kRingbufRecord = 4,  // may be submitted or discarded
  kTrusted = 8,
  kRcu = 16,
  kUntrusted = 32,
  kAllocated = 64,  // made by the program (bpf_obj_new)
  kPerCpu = 128,
  kKernelBtf = 256,  // `object` is a type of vmlinux, not of the program
  kSlice = 512,      // of a dynptr: goes when the dynptr goes; `owner` = its id
  kNonOwning = 1024,
  kMapUid = 2048,       // kMap or kMapValue from a map in a map; `owner` tells which
  kBuffer = 4096,       // kMem: an iterator's, whose size is known when it is attached
  kPacketSlice = 8192,  // with kSlice: of packet data, goes when that may move
};

struct Reg {
  RegKind kind = RegKind::kNone;
  uint8_t frame = 0;
  uint16_t flags = 0;
  bool precise = false;    // scalars: pruning must respect the value
  bool has_delta = false;  // scalars: value = (what `id` stands for) + delta
  int32_t off = 0;         // pointers: the fixed part of the offset; `num` is the variable one
  int32_t delta = 0;
  uint32_t id = 0;   // scalars: equal ones; kOrNull: null together; packets: same base
  uint32_t ref = 0;  // the reference that is held through it
  uint32_t object = 0;
  uint32_t size = 0;
  uint32_t owner = 0;
  Scalar num = Scalar::constant(0);

  [[nodiscard]] bool is_scalar() const { return kind == RegKind::kScalar; }
  [[nodiscard]] bool is_pointer() const {
    return kind != RegKind::kScalar && kind != RegKind::kNone;
  }
  [[nodiscard]] bool or_null() const { return (flags & kOrNull) != 0; }
  [[nodiscard]] bool is_zero() const {
    return is_scalar() && num.is_constant() && num.bits.value == 0;
  }
  static Reg scalar(const Scalar& num) {
    Reg r;
    r.kind = RegKind::kScalar;
    r.num = num;
    return r;
  }
  static Reg unknown() { return scalar(Scalar::unknown()); }
  static Reg pointer(RegKind kind, uint32_t object = 0, uint16_t flags = 0) {
    Reg r;
    r.kind = kind;
    r.object = object;
    r.flags = flags;
    return r;
  }
};

enum class ByteKind : uint8_t { kInvalid, kSpill, kMisc, kZero, kDynptr, kIterator, kIrqFlag };

enum class DynptrKind : uint8_t { kNone, kLocal, kRingbuf, kSkb, kXdp, kSkbMeta };
enum class IteratorState : uint8_t { kActive, kDrained };

// Eight bytes of stack. kSpill: `reg` lies there (if its lower bytes only: bytes[0..n) are kSpill).
// kDynptr, kIterator: `reg.id`, `reg.ref`, and the rest as below.
struct StackSlot {
  std::array<ByteKind, 8> bytes{};
  Reg reg;
  bool is_first = false;  // dynptr: the lower of two slots
  DynptrKind dynptr = DynptrKind::kNone;
  bool dynptr_read_only = false;
  IteratorState iterator = IteratorState::kActive;
  uint32_t iterator_type = 0;  // id of its BTF type
  uint32_t iterator_depth = 0;

  [[nodiscard]] bool is_spill() const { return bytes[0] == ByteKind::kSpill; }
  [[nodiscard]] bool is_full_spill() const {
    return bytes[0] == ByteKind::kSpill && bytes[7] == ByteKind::kSpill;
  }
};

enum class FrameKind : uint8_t { kCall, kCallback, kAsync };

struct Frame {
  std::array<Reg, 11> regs;
  std::vector<StackSlot>
      slots;               // [i] holds fp-8*(i+1) .. fp-8*i-1; as deep as anything was touched
  uint32_t call_insn = 0;  // the caller's call
  uint32_t function = 0;   // index
  FrameKind kind = FrameKind::kCall;
  int64_t return_min = INT32_MIN, return_max = INT32_MAX;  // kCallback, kAsync
  uint32_t callback_depth = 0;
  uint32_t entry = 0;  // kAsync: which of the callback's runs
};

enum class RefKind : uint8_t { kPointer, kLock, kResLock, kIrq, kIterator, kDynptr };
struct Ref {
  uint32_t id = 0;
  RefKind kind = RefKind::kPointer;
  uint32_t insn = 0;    // where it was acquired
  uint32_t owner = 0;   // locks: which object
  uint32_t helper = 0;  // what acquired it
  friend bool operator==(const Ref&, const Ref&) = default;
};

// One instruction that the path went through, for the walk backwards (precise.cpp).
struct Step {
  uint32_t insn = 0;
  uint8_t depth = 0;          // frames below it
  uint8_t stack_frame = 255;  // a spill was written or read: where
  uint8_t stack_slot = 0;
  bool returns_callback = false;
  bool ends_function = false;  // a tail call, or a packet load that failed: r0 is none of its own
  // Scalars that a conditional jump narrowed together: five entries of 12 bits, lowest first:
  // used (1), frame (3), is a slot (1), index (7).
  uint64_t linked = 0;
};

struct State {
  std::vector<Frame> frames;
  std::vector<Ref> refs;
  uint32_t rcu_depth = 0, preempt_depth = 0;
  uint32_t may_goto_depth = 0, callback_unroll = 0;
  bool in_sleepable = false;

  // ---- Exploration ----
  uint32_t insn = 0;            // what comes next
  uint32_t branches = 1;        // paths from here that have not ended
  State* parent = nullptr;      // the stored state that this path went through last
  uint32_t rank = 0;            // stored: how many there are from the entry to it
  std::vector<Step> steps;      // since then
  State* loop_entry = nullptr;  // a path from here was cut off at this state while it was under way
  uint32_t back_edges = 0;      // on the path so far
  uint64_t remaining = 0;       // stored: most back edges of what follows, of paths that have ended
  uint32_t trace_node = UINT32_MAX, trace_own = UINT32_MAX;
  uint32_t hits = 0, misses = 0;

  [[nodiscard]] Frame& top() { return frames.back(); }
  [[nodiscard]] const Frame& top() const { return frames.back(); }
  [[nodiscard]] uint8_t depth() const { return static_cast<uint8_t>(frames.size() - 1); }
};

}  // namespace verifier_inside
}  // namespace bpftime
