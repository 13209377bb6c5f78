// What compilers may rely on of one instruction, beyond what it says itself. Home: pure *, header only.
//
// The verifier learns it (src/verifier/learn.cpp) and it holds for every run that reaches the instruction, whatever the
// inputs: on each path that leads there it was so, and where paths were cut off because an older state covers them, the
// older state's number was relied on (is precise), so that it covers them in this too. Dead instructions have none.
// A field at its first value says nothing.
#pragma once
#include <cstdint>

namespace bpftime {

// What the address of a load, a store or an atomic points into.
enum PointsTo : uint8_t {
  kToStack = 1,  // of a program's frame, the one that runs or one below it
  kToContext = 2,
  kToMapValue = 4,  // global data too
  kToPacket = 8,
  kToRecord = 16,  // reserved in a ring buffer
  kToOther = 32,
};

enum Ways : uint8_t { kGoesOn = 1, kJumps = 2 };

struct OperandFacts {
  uint8_t points_to = 0;  // PointsTo bits: no run has another
  uint8_t alignment = 0;  // log2 of what divides the address of the access; 3 at most
  uint8_t ways = 0;       // conditional jumps: Ways that runs go
  // A call of a helper: its r1 is this map (MapId as in map loads).
  uint32_t map = UINT32_MAX;
  // A number: of a division or remainder, the divisor (its lower half in 32-bit ones); of map_lookup_elem in an array,
  // the index; of another helper, the size in bytes of the memory that it is handed, when one argument tells one.
  uint64_t lowest = 0, highest = UINT64_MAX;
};

}  // namespace bpftime
