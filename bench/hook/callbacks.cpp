// Empty callbacks, compiled as the agent is.
#include "hook/thunks.hpp"

extern "C" {
uint64_t bpftime_on_entry(pt_regs*, bpftime::Site*, bpftime::ThreadBlock*,
                          const bpftime::AttachedList*) {
  return 0;
}
void bpftime_on_return(pt_regs*, bpftime::Site*, bpftime::ThreadBlock*,
                       const bpftime::AttachedList*) {}
void bpftime_cold_hit(bpftime::Site*, bpftime::ThreadBlock*) {}
__attribute__((noipa)) void floor_callback(pt_regs*) {}
}
