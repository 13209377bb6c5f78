// Plans how one place in a target's code is patched: which bytes, which trampoline, where each
// displaced instruction goes. Home: pure, broker only. The one room that includes Zydis. The code
// given is a target's: any bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "abi/ids.hpp"
#include "abi/patch.hpp"
#include "base/result.hpp"

namespace bpftime {

enum class Means : uint8_t {
  kJump5,        // jmp rel32 over whole instructions of the function
  kPaddingJump,  // over the function's last bytes and the padding behind it, or a 2-byte jump into
                 // padding nearby
};
const char* means_name(Means means);

// Bytes between functions that no code runs through (find_padding).
struct PaddingRange {
  RemoteAddr begin;
  std::span<const uint8_t> content;  // what is there; empty: no padding
};

struct PlanInput {
  RemoteAddr site;            // the probed instruction
  RemoteAddr function_begin;  // <= site
  // The function from begin to its end (symbol size), then what follows: at least to the next
  // symbol, or 32 bytes where they exist. function_bytes <= code.size(). A symbol of size 0:
  // function_bytes = up to the next symbol.
  std::span<const uint8_t> code;
  uint64_t function_bytes = 0;
  uint64_t bytes_to_next_function =
      0;  // from function_begin; >= function_bytes (code up to there is free or padding)
  RemoteAddr room{};  // trampoline goes exactly here; kTrampolineAlign-ed, within 2 GB of the site
  RemoteAddr site_record{};  // the Site in the target's table
  RemoteAddr entry_thunk{}, inside_thunk{}, return_thunk{};
  uint32_t site_index = 0;
  bool wants_return = false;  // only where site == function_begin
  // Padding within ±127 bytes of the site that is not taken yet; may be empty.
  std::span<const PaddingRange> padding;
  // Further addresses that something jumps to (landing pads, .cold parts); may be empty.
  std::span<const RemoteAddr> jump_targets;
};

struct Plan {
  Patch patch;
  Patch hole;  // kPaddingJump through a hole: write this one too (before `patch`); else
               // hole.site_bytes == 0
  Means means;
  uint32_t displaced_bytes;
  bool is_function_begin;           // not somewhere inside
  std::vector<uint8_t> trampoline;  // to be written at patch.trampoline before the patch is
};

// What the whole of a function tells of any place in it: its every byte is decoded for that, so it is kept where a
// function gets many probes. Addresses are offsets from the function's begin.
struct FunctionFacts {
  std::vector<uint64_t> targets;  // what it jumps to, sorted
  bool has_indirect_jump = false;
  bool takes_rbx = false;  // the first use of rbx is not saving it
};
FunctionFacts function_facts(std::span<const uint8_t> function);

// `facts`: of input.code.first(input.function_bytes). Errors, each with a literal reason: EILSEQ (the
// probed bytes are not instructions), EOPNOTSUPP (no place for a jump, something jumps into the displaced bytes, ...), EINVAL (input contradicts
// itself), ERANGE (room is out of reach).
Result<Plan> plan_patch(const PlanInput& input, const FunctionFacts& facts);
Result<Plan> plan_patch(const PlanInput& input);

// True for functions whose frame is returned through twice or whose caller's frame they read
// (setjmp, vfork, getcontext, ...): no return probe there. A name as in the symbol table, version
// suffixes (@...) ignored.
bool returns_twice(std::string_view name);

// Padding between two functions: `gap` are the bytes from the end of one to the beginning of the
// next, at `begin`. All of it if it is nothing but nops, int3 or zeros and the code before it does
// not run into it (`before`: the function's own bytes), else empty.
PaddingRange find_padding(std::span<const uint8_t> before, std::span<const uint8_t> gap,
                          RemoteAddr begin);

}  // namespace bpftime
