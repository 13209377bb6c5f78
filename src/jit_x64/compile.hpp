// One-pass x86-64 compiler. Home: pure; runs in the broker's worker, bpftime-vm and tests, never in
// a target.
//
// Registers: r0 rax, r1 rdi, r2 rsi, r3 rdx, r4 rcx, r5 r8, r6 rbx, r7 r13, r8 r14, r9 r15, r10
// rbp; r12 holds the Hit*; r9 and r10 are scratch; r11 holds hit->fuel while a program that counts
// runs (written back before helper calls and at exit). Nothing but general registers, no absolute
// address: the code runs wherever it is mapped.
//
// References (the caller resolves names first, so that the code is the same in every process):
//  - a map load (BPF_PSEUDO_MAP_FD, _MAP_VALUE) has the MapId in `imm`, and becomes Slot kMap or
//  kMapValue;
//  - a helper call becomes Slot kHelper with id = imm;
//  - a function reference (BPF_PSEUDO_FUNC) becomes the address of a function with the type
//  HelperFn: r1..r5 as the first
//    five arguments, the Hit* as the sixth, r0 as the result. A helper that calls it passes its own
//    `hit` on.
// Fuel: every executed backward jump, taken or not, takes one from hit->fuel; below zero, the
// program leaves from any depth with hit->ended = kHitOutOfFuel and result 0. A callback helper
// counts its own iterations in the same hit->fuel.
#pragma once
#include <span>
#include <vector>

#include "base/result.hpp"
#include "isa/operand_facts.hpp"
#include "isa/program.hpp"
#include "vm/program.hpp"

namespace bpftime {

// What checked reads of user memory know of a thread (helpers/checked_read.cpp): a page that was found readable is
// copied from plainly. Offsets are from the Hit*.
struct ReadCache {
  int32_t pages;        // uint64_t[page_count], direct mapped by page number: page | page_mark
  uint32_t page_count;  // a power of two, at most 128
  uint32_t page_mark;   // 4095
  int32_t hits, age;    // the cache is as old as it may be unless hits >> age_shift == age
  uint32_t age_shift;
};
inline constexpr uint32_t kLargestInlineRead = 16;

// An array whose elements lie side by side from Slot kMapValue on.
struct KnownArray {
  uint32_t map;  // MapId
  uint32_t element_count, stride;
};

struct CompileOptions {
  bool count_fuel = true;     // off: no run takes more than the budget, whatever its inputs
  bool has_bmi2 = false;      // the code may use BMI2 (shlx and others); see host_has_bmi2()
  bool takes_length = false;  // the code has a third argument, which becomes r2: uint64_t
                              // (*)(void*, Hit*, uint64_t)
  // Not null: probe_read, probe_read_user and probe_read_kernel of 1 to kLargestInlineRead bytes become a look into the
  // cache and a copy; what is not in it is read through Slot kReadAside. Stays valid.
  const ReadCache* read_cache = nullptr;
  // Of a program of one function: what it uses of its stack; 0 = not known.
  uint32_t frame_bytes = 0;
  // What the verifier learned of each instruction, and which no run reaches; empty, null: nothing. Both stay valid. With
  // them, what nobody needs gets no code, and lookups in `arrays` are compiled inline.
  std::span<const OperandFacts> operands = {};
  const std::vector<bool>* dead = nullptr;
  std::span<const KnownArray> arrays = {};
};

// Errors: E2BIG for call chains deeper than kMaxCallFrames, recursion, or more than 2 GB of code;
// EOPNOTSUPP for what no engine runs yet (kfunc calls, kernel variables, arena casts, unresolved
// map indexes).
Result<CompiledProgram> compile_x64(const DecodedProgram& program, const CompileOptions& options);

bool host_has_bmi2();

}  // namespace bpftime
