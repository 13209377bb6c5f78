// What a function that programs call wants and gives: one schema for helpers, kfuncs and functions
// of a host. The verifier checks calls against it by rule, none by name where it can be helped.
// Home: pure *, any thread.
//
// Sources: bpf-helpers(7); uapi linux/bpf.h; Linux 6.18's behaviour.
#pragma once
#include <cstdint>

namespace bpftime {

enum class Param : uint8_t {
  kNone,
  kAny,  // any initialised value
  kCtx,
  kMap,
  kKey,       // readable, key_size bytes of the map before it
  kValue,     // readable, value_size bytes
  kValueOut,  // written, value_size bytes
  kRead,      // readable, as many bytes as the size that follows says
  kWrite,     // written, the same
  kReadWrite,
  kFixedRead,   // readable, `bytes`
  kFixedWrite,  // written, `bytes`, naturally aligned
  kSize,        // of the memory before it; not 0
  kSizeOrZero,
  kAllocSize,    // a constant; the size of the memory that the call gives
  kConstString,  // into read-only memory, with an end
  kFunction,     // a function of the program: a callback
  kStackPtr,     // into the stack: what a callback is handed
  kSpinLock,
  kTimer,
  kKptrField,
  kDynptrOut,     // an uninitialised dynptr
  kDynptr,        // an initialised one
  kRecord,        // a ring buffer record: is released
  kSocket,        // a full socket
  kSocketCommon,  // any socket
  kKernelStruct,  // a pointer to a kernel structure (task, file ...)
  kPerCpuVar,     // address of a per-CPU kernel variable
};
enum class Gives : uint8_t {
  kNumber,
  kNothing,
  kMapValueOrNull,
  kMapValue,
  kMemoryOrNull,  // of the constant kAllocSize, a reference to release
  kSocketOrNull,  // a reference to release when `acquires`
  kTcpSocketOrNull,
  kSocketCommonOrNull,
  kKernelStruct,
  kKernelStructOrNull,
  kPerCpuOrNull,
  kPerCpu,
  kSliceOrNull,  // memory of a dynptr, kAllocSize bytes
  kKptrOrNull,
};

enum ParamFlag : uint8_t {
  kMayBeNull = 1,
  kReleases = 2,
  kMayBeNullTraced = 4,  // in BTF-typed tracing programs
  kNotByType = 8,        // a socket: none that is known by its kernel type only
};
struct ParamSpec {
  Param kind = Param::kNone;
  uint8_t flags = 0;
  uint8_t bytes = 0;
};

enum Effect : uint16_t {
  kSleeps = 1,
  kChangesPacket = 2,  // packet pointers are void afterwards
  kCallsBack = 4,      // now, in the same thread
  kCallsBackLater = 8,
  kAcquires = 16,
  kAtMostSize = 32,  // the number it gives is at most its kSize argument, and at least -MAX_ERRNO
  kAtMostAnyAtArg3 = 64,
  kMaySucceedOnlyZeroOrError = 128,
  kTakesPackets = 256,  // memory arguments may lie in a packet
  kSameSocket = 512,    // gives its socket as another type: both go when the reference goes
};

struct Prototype {
  uint32_t id;
  const char* name;
  ParamSpec args[5];
  Gives gives;
  uint16_t effects;
  uint64_t program_types;     // bit = BPF_PROG_TYPE_*
  const char* kernel_struct;  // Gives::kKernelStruct*: its name
};

const Prototype* find_prototype(uint32_t id);  // nullptr = no helper of Linux 6.18
// As programs of this type call it.
const Prototype* find_prototype(uint32_t id, uint32_t prog_type);
bool is_offered(const Prototype& helper, uint32_t prog_type, uint32_t attach_type);
uint32_t prototype_count();
const Prototype& prototype_at(uint32_t index);

}  // namespace bpftime
