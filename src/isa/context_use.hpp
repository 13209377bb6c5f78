// Which bytes of its context (r1 at entry) a program reads. Home: pure; any process, any thread.
//
// A fact for the hit path, not a check: the program was found well-formed by decode(), and nothing is
// known of types. What the analysis cannot follow (the context's address in memory, in arithmetic other than
// with a constant, in a helper's hands) counts as escaped: everything may be read.
#pragma once
#include <cstdint>

#include "isa/program.hpp"

namespace bpftime {

inline constexpr uint32_t kContextEscapes = 1U << 31;  // any byte may be read, or written

// Bit n (n < 31): a byte of the context's n-th eight is read. Stores to the context escape.
uint32_t context_use(const DecodedProgram& program);

}  // namespace bpftime
