// The format of a trampoline: what patchplan writes and the thunks rely on. Home: pure *, constants,
// shared by hook (injected *) and patchplan (broker).
//
// A trampoline begins at a 16-byte aligned address `room`, in two shapes. The patched site jumps to
// room + kTrampolineEntry; `copy` are the displaced instructions, relocated, then a jump back.
//
//   entry-only, at a function's first instruction      a site with a return probe (first
//   instruction only)
//     +0  Site*                                          +0  Site*
//     +8  address of the thunk (used when far)           +8  address of return_thunk (used when
//     far) +16 nop; call entry_thunk      (6 bytes)           +16 push %r11 +22 copy +18 lea
//     room(%rip), %r11
//   inside a function (not the first instruction)        +25 jmp return_thunk      (5 or 6 bytes)
//     +16 lea -128(%rsp), %rsp       (5 bytes)           +32 copy
//     +21 nop; call inside_thunk     (6 bytes)
//     +27 lea 128(%rsp), %rsp        (8 bytes)
//     +35 copy
//
// A thunk that is further than rel32 reaches is called through +8 (`call *disp(%rip)` is 6 bytes as
// well). entry_thunk and inside_thunk find the Site from their return address, return_thunk from
// r11.
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
