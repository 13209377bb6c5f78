// What the kernel keeps a map of each kind in: programs may read it. Home: pure *.
// Source: the running kernel's verifier (6.18), which names them.
#pragma once
#include <cstdint>

namespace bpftime {

const char* map_struct(uint32_t map_type);  // nullptr = not known

}  // namespace bpftime
