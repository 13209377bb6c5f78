// The kernel's facts, each stated once: map kinds, helpers, commands. Home: pure *, any thread, any
// signal state. Numbers come from the system's uapi header; newer ones stand in newer.hpp.
#pragma once
#include <linux/bpf.h>

#include <cstddef>
#include <cstdint>

#include "base/result.hpp"

namespace bpftime {

// The shape of a map. Exists only after check_map_spec (or in a test that knows what it does).
struct MapSpec {
  uint32_t map_type, map_flags, key_size, value_size, max_entries;
  uint32_t cpu_count;  // lanes of per-CPU kinds; 1 otherwise
  uint64_t map_extra;
};
static_assert(sizeof(MapSpec) == 32);

// Checks BPF_MAP_CREATE as the kernel does and gives the shape.
// `attr` is a private copy of `attr_bytes` bytes from the caller; what is missing counts as zero.
// Errors: EINVAL, E2BIG, EPERM, ENOMEM as Linux 6.18 (kernel/bpf/syscall.c, hashtab.c, arraymap.c);
// A kind that we do not have yet is EINVAL, as an older kernel says.
// kernel says.
Result<MapSpec> check_map_spec(const void* attr, uint32_t attr_bytes, uint32_t cpu_count);

// What a map kind looks like, whether or not src/maps has it.
struct MapKind {
  uint32_t map_type;
  const char* name;  // as bpftool prints it
  bool is_per_cpu;
  bool is_supported;
};
const MapKind* find_map_kind(uint32_t map_type);  // nullptr = no such kind

enum class ArgKind : uint8_t {
  kNone,
  kScalar,
  kConstSize,      // of the memory in the argument before it; > 0
  kConstSizeZero,  // the same, may be 0
  kCtx,
  kMap,
  kKey,
  kValue,
  kReadMem,
  kWriteMem,
  kConstString,
  kFunction,
  kAnyPtr,
  kReference,
};
enum class RetKind : uint8_t { kScalar, kVoid, kMapValueOrNull, kMemOrNull };

inline constexpr uint64_t kAllProgramTypes = ~0ULL;
constexpr uint64_t program_type_bit(uint32_t type) { return 1ULL << type; }
inline constexpr uint64_t kTracingPrograms =
    program_type_bit(BPF_PROG_TYPE_KPROBE) | program_type_bit(BPF_PROG_TYPE_TRACEPOINT) |
    program_type_bit(BPF_PROG_TYPE_PERF_EVENT) | program_type_bit(BPF_PROG_TYPE_RAW_TRACEPOINT) |
    program_type_bit(BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE) |
    program_type_bit(BPF_PROG_TYPE_TRACING);

struct HelperSpec {
  uint32_t id;
  const char* name;
  ArgKind args[5];
  RetKind ret;
  uint64_t program_types;  // bit = BPF_PROG_TYPE_*
};
const HelperSpec* find_helper(uint32_t id);  // nullptr = we do not have it
uint32_t helper_spec_count();
const HelperSpec& helper_spec_at(uint32_t index);

// Functions of the kernel that programs call by BTF id; their numbers here stand beside the helpers' and are no
// program's business.
inline constexpr uint32_t kHelperTailCall = 12;  // BPF_FUNC_tail_call
inline constexpr uint32_t kKfuncSessionIsReturn = 1U << 16;
inline constexpr uint32_t kKfuncSessionCookie = (1U << 16) + 1;
const HelperSpec* find_kfunc(const char* name, size_t length);  // nullptr = we do not have it

const char* command_name(uint32_t command);    // "BPF_MAP_CREATE"; nullptr = no such command
const char* program_type_name(uint32_t type);  // "kprobe"; nullptr = no such type

}  // namespace bpftime
