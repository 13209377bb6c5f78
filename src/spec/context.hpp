// What the context of each program type looks like to a program. Home: pure *, any thread.
// Sources: uapi linux/bpf.h, linux/bpf_perf_event.h, asm/ptrace.h (x86-64); Linux 6.18's behaviour.
#pragma once
#include <cstdint>

namespace bpftime {

enum class FieldKind : uint8_t {
  kNumber,
  kPacket,  // a load gives a pointer to the packet's begin
  kPacketMeta,
  kPacketEnd,
  kSocketOrNull,  // struct bpf_sock *
};
enum FieldFlag : uint8_t {
  kRead = 1,
  kWrite = 2,
  kNarrow = 4,         // smaller aligned accesses than `bytes` are allowed
  kOnlyWhole = 8,      // of the granule: loads have exactly this size
  kOnlyInDevmap = 16,  // XDP programs with expected_attach_type BPF_XDP_DEVMAP
};
struct ContextField {
  uint16_t begin, end;  // bytes
  uint8_t granule;      // access size: at most this, aligned to itself
  uint8_t flags;
  FieldKind kind;
};
struct ContextSpec {
  uint32_t prog_type;
  const ContextField* fields;
  uint32_t field_count;
  // What the program may return; INT64_MIN..INT64_MAX = anything.
  int64_t return_min, return_max;
};

// nullptr: the program type is described by BTF, or not known.
const ContextSpec* find_context(uint32_t prog_type);

}  // namespace bpftime
