// What the callbacks of a test saw. seen.cpp is compiled as the agent is: general registers only,
// no libc.
#pragma once
#include <atomic>
#include <cstdint>

#include "hook/thunks.hpp"

namespace bpftime::testing {

struct Seen {
  std::atomic<uint64_t> entries, returns, cold, plain;
  pt_regs entry, ret, plain_regs;
  Site* entry_site;
  Site* return_site;
  ThreadBlock* block;
  uint64_t entry_stack, return_stack, plain_stack;  // rsp in the callback
  bool plain_again;  // what a plain or simple hit answers: run it the general way
  void (*on_plain)();
  bool override_next;
  uint64_t override_value;
  // Run in the callback, on the hit stack.
  void (*on_entry)(pt_regs* regs, Site* site);
  void (*on_return)(pt_regs* regs, Site* site);
  void (*on_cold)(Site* site);
};
extern Seen seen;
inline void forget_callbacks() {
  seen.on_entry = nullptr;
  seen.on_return = nullptr;
}
inline void forget() {
  seen.entries = 0;
  seen.returns = 0;
  seen.cold = 0;
  seen.plain = 0;
  seen.plain_again = false;
  seen.on_plain = nullptr;
  seen.on_entry = nullptr;
  seen.on_return = nullptr;
  seen.on_cold = nullptr;
  seen.override_next = false;
}

// What use_lists() wants for lists of this kind.
using Program = uint64_t (*)(void* regs, Hit* hit);
Program program_of(uint32_t kind);

}  // namespace bpftime::testing
