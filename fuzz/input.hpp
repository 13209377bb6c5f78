// What fuzz targets take from their input, and how they say that something does not hold. Fuzz targets only.
#pragma once
#include <cstdint>
#include <cstdlib>

#include "abi/region.hpp"

namespace bpftime::fuzz {

struct Input {
  const uint8_t* at;
  const uint8_t* end;
  // The next bytes as a number; zeros behind the end.
  uint64_t take(uint32_t bytes) {
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes; i++) {
      value = value << 8 | (at < end ? *at++ : 0U);
    }
    return value;
  }
  uint32_t take32(uint32_t bytes) { return static_cast<uint32_t>(take(bytes)); }
};

inline void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

// A lock that someone seems to hold costs 20 ms each time: keep only what can be taken.
inline void keep_takeable(RobustLock& lock) {
  lock.word = (lock.word & 0x40000000) != 0 ? 0x40000001U : 0U;
  lock.owner = 7;
}

}  // namespace bpftime::fuzz
