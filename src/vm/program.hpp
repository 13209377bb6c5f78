// What a compiled program is: its ABI towards engines, helpers and runtime. Home: pure *, header only.
//
// Calling convention of a compiled program (x86-64): System V, ProgramFn. The code is position independent and
// shared by all targets; whatever differs per process is read as hit->slots[i]. General-purpose registers only.
// A program leaves early (r0 = 0) by itself when its budget is used up: it sets hit->ended = kHitOutOfFuel.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bpftime {

enum HitEnd : uint32_t {
  kHitNormal = 0,
  kHitOutOfFuel = 1,  // the budget (DESIGN D5) was used up
  kHitFault =
      2,  // a fault with the instruction pointer in program code (set by the agent's handler)
};

// The part of a hit that engines know. The runtime's own ProbeHit derives from it; helpers cast.
// Lives on the stack of the thread that runs the program; never shared.
struct Hit {
  const uint64_t* slots;  // +0  this process's values for CompiledProgram::slots
  int64_t fuel;  // +8  counted down by one at each back edge and callback iteration, where counted
  uint32_t ended;     // +16 HitEnd
  uint32_t reserved;  // +20
  uint64_t
      program_rsp;  // +24 rsp that the engine's prologue saved, for leaving from anywhere (fault, fuel)
};
static_assert(sizeof(Hit) == 32 && offsetof(Hit, slots) == 0 && offsetof(Hit, fuel) == 8 &&
              offsetof(Hit, ended) == 16 && offsetof(Hit, program_rsp) == 24);

using ProgramFn = uint64_t (*)(void* ctx, Hit* hit);
// The hit is the sixth argument (r9): helpers read no TLS, and a test makes a Hit on its stack.
using HelperFn = uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, Hit* hit);

// kHelper: id = helper number; value = address of its HelperFn in this process.
// kMap: id = MapId; value = address of this process's MapView of it (what a program holds as a map pointer).
// kMapValue: id = MapId, addend = offset; value = address of that byte of the map's value area.
// kReadAside: value = address of bpftime_read_aside (runtime/read_aside.S): the slow way of reads that are compiled inline.
// kFunction: a callback's address (bpf_loop, for_each): id = instruction index; value = code base + its offset.
enum class SlotKind : uint32_t { kHelper, kMap, kMapValue, kFunction, kReadAside };
struct Slot {
  SlotKind kind;
  uint32_t id;
  uint64_t addend;
};
static_assert(sizeof(Slot) == 16);

// An instruction pointer in [code_begin, code_end) at a fault: continue at resume_at, which ends the program
// with r0 = 0 after setting rsp from hit->program_rsp. All are offsets into `code`. The fault handler puts the
// Hit* into rdi before it resumes there.
struct FaultRange {
  uint32_t code_begin, code_end, resume_at;
  uint32_t reads_at = 0,
           read_count = 0;  // ReadFixup[read_count] in `code`, behind the instructions
};

// Loads of a read that is compiled inline: at a fault in [begin, end) the program goes on at `resume` with
// its registers as they were. Offsets from FaultRange::code_begin.
struct ReadFixup {
  uint32_t begin, end, resume;
};

inline constexpr uint32_t kContextEscapes = 1U << 31;  // any byte may be read, or written

// What a caller may leave out for a program.
enum ProgramFact : uint32_t {
  kCallsHelpers = 1,  // or has callbacks that helpers call
  kCountsFuel = 2,    // it, or a helper that calls it back, spends hit->fuel
  kTouchesMore = 4,   // its code names r8, r9, r10 or r11
  kReadsInline = 8,   // it has a SlotKind::kReadAside
  kMakesTailCalls = 16,
};

struct CompiledProgram {
  std::vector<std::byte> code;  // entry at offset 0
  std::vector<Slot> slots;
  std::vector<FaultRange> faults;
  // The deepest that its functions take of the stack, the return address of the first counted, what
  // helpers take not.
  uint32_t stack_bytes;
  uint32_t facts;  // ProgramFact
  // Of the eights of bytes of its context, which are read: bit n (n < 31), or kContextEscapes. Filled in by the compiler's
  // caller.
  uint32_t context_use;
};

}  // namespace bpftime
