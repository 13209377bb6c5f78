// Empty callbacks, compiled as the agent is.
#include "hook/thunks.hpp"

extern "C" {
uint64_t bpftime_on_hit(pt_regs*, bpftime::Site*, bpftime::ThreadBlock*,
                        const bpftime::AttachedList*) {
  return 0;
}
__attribute__((naked)) void bpftime_on_simple_hit() { __asm__("xor %eax, %eax; ret"); }
void bpftime_cold_hit(pt_regs*, bpftime::Site*, bpftime::ThreadBlock*) {}
__attribute__((noipa)) void floor_callback(pt_regs*) {}
}
