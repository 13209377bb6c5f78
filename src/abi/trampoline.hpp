// The format of a trampoline: what patchplan writes and the thunks rely on. Home: pure *,
// constants, shared by hook (injected *) and patchplan (broker).
//
// A trampoline begins at a 16-byte aligned address `room`. The patched site jumps to
// room + kTrampolineEntry; `copy` are the displaced instructions, relocated, then a jump back.
// Every one: +0 Site*, +8 the thunk's address (used when rel32 does not reach it). Then
//
// at a function's first instruction, no return probe (found from the thunk's return address)
//     +16 nop; call entry_thunk      6 bytes
//     +22 copy
// at a function's first instruction, with a return probe (found from r11)
//     +16 push %r11
//     +18 lea room(%rip), %r11
//     +25 nop; jmp return_thunk      6 bytes
//     +32 copy
// inside a function (found from the thunk's return address)
//     +16 lea -128(%rsp), %rsp       5 bytes
//     +21 nop; call inside_thunk     6 bytes
//     +27 lea 128(%rsp), %rsp        8 bytes
//     +35 copy
#pragma once
#include <cstdint>

namespace bpftime {

inline constexpr uint64_t kTrampolineAlign = 16;
inline constexpr uint64_t kTrampolineEntry = 16;
inline constexpr uint64_t kTrampolineSite = 0;
inline constexpr uint64_t kTrampolineThunk = 8;
inline constexpr uint64_t kEntryCopy = 22;
inline constexpr uint64_t kInsideCopy = 35;
inline constexpr uint64_t kReturnCopy = 32;
inline constexpr uint64_t kInsideReturn = 27;  // where inside_thunk returns to
inline constexpr uint64_t kRedZone = 128;      // x86-64 psABI §3.2.2
// No trampoline is longer.
inline constexpr uint64_t kMaxTrampolineBytes = 192;

}  // namespace bpftime
