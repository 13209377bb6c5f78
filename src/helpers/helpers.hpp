// One function a helper, in the HelperFn ABI of vm/program.hpp; prototypes in spec. Home: injected
// *, any thread, any signal state. The Hit* is always a ProbeHit*. General registers only, no libc,
// no heap, no TLS.
#pragma once
#include <cstdint>

#include "abi/agent.hpp"
#include "abi/ids.hpp"
#include "helpers/probe_hit.hpp"
#include "vm/program.hpp"

namespace bpftime {

struct Helper {
  uint64_t id;
  HelperFn function;
};
static_assert(sizeof(Helper) ==
              sizeof(HelperEntry));  // AgentDescriptor::helpers points at kHelpers

extern const Helper kHelpers[];
extern const uint32_t kHelperCount;
HelperFn find_helper_function(uint32_t id);  // nullptr = not there

// ---- Checked reads of this process's memory (DESIGN D9); 0 or -EFAULT. `to` is trusted memory.
// -------------- On -EFAULT `to` is zero-filled, as the kernel does.
int64_t checked_read(ThreadBlock* thread, void* to, uint64_t from, uint64_t size);
// Up to and with the NUL; length with the NUL, or -EFAULT. When `size` is too small: size, and NUL
// at the end.
int64_t checked_read_string(ThreadBlock* thread, char* to, uint64_t from, uint64_t size);

// For the fault handler: where to continue when a fault's ip lies in a checked copy; 0 = it does
// not.
uint64_t checked_copy_resume(uint64_t ip);

// Records that the thread's program reserved and left open are discarded: it ended without committing them.
void discard_open_records(ThreadBlock& thread, OwnerId owner);

// trace_printk's format rules (kernel/trace/bpf_trace.c, kernel/bpf/helpers.c:
// bpf_bprintf_prepare): text into `out`, NUL-terminated; its length or -EINVAL. `format` has
// `format_bytes` bytes with the NUL.
int64_t format_trace(ThreadBlock* thread, char* out, uint64_t out_bytes, const char* format,
                     uint64_t format_bytes, const uint64_t* args, uint32_t arg_count);

}  // namespace bpftime

// Sinks, resolved at link time: by src/agent in a target, by the test in a test.
extern "C" {
void bpftime_say_printk(bpftime::ProbeHit* hit, const char* text, uint32_t text_bytes);
// Somebody waits on a descriptor for what was written to the map. False: nobody has heard.
bool bpftime_say_wake(bpftime::ThreadBlock* thread, uint32_t map_id);
// The entry that the call which begins at stack address `sp` will take, where none is free; null: none.
bpftime::ReturnEntry* bpftime_free_return_entry(bpftime::ThreadBlock* thread, uint64_t sp);
}
