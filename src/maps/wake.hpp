// Waking the readers of a buffer. Home: injected *, any thread. docs/decisions/0002-waking-readers.md.
#pragma once
#include <linux/futex.h>

#include <climits>

#include "abi/region.hpp"
#include "base/raw_syscall.hpp"

namespace bpftime {

// What a producer has to do beside what was done here.
enum class Wake : uint32_t { kNothing, kTellTheBroker };

// Preconditions: a full fence since the record became visible. A reader that does not wait costs two loads.
inline Wake wake_readers(WakeWords& wake) {
  if (wake.sleeping.load(std::memory_order_relaxed) != 0) {
    wake.sleeping.store(0, std::memory_order_relaxed);
    wake.sequence.fetch_add(1, std::memory_order_seq_cst);
    raw_syscall(SYS_futex, reinterpret_cast<uint64_t>(&wake.sequence), FUTEX_WAKE, INT_MAX);
  }
  const bool tells = wake.wants_byte.load(std::memory_order_relaxed) != 0 &&
                     wake.wants_byte.exchange(0, std::memory_order_seq_cst) != 0;
  return tells ? Wake::kTellTheBroker : Wake::kNothing;
}

// The broker could not be told: the next record tries again, wherever the reader is by then.
inline void still_owe_a_byte(WakeWords& wake) {
  wake.wants_byte.store(kByteOwed, std::memory_order_seq_cst);
}

// For who knows of a producer that died: wakes whoever may sleep. The descriptors are the broker's own business.
inline void wake_all_readers(WakeWords& wake) {
  wake.sleeping.store(1, std::memory_order_seq_cst);
  (void)wake_readers(wake);
}

}  // namespace bpftime
