// What the context of each program type looks like to a program, what such a program may do with packets, and what it
// may return. Home: pure *, any thread.
// Sources: uapi linux/bpf.h, linux/bpf_perf_event.h, asm/ptrace.h (x86-64); Linux 6.18's behaviour.
#pragma once
#include <cstdint>
#include <span>

namespace bpftime {

enum class FieldKind : uint8_t {
  kNumber,
  kPacket,  // a load gives a pointer to the packet's begin
  kPacketMeta,
  kPacketEnd,
  kSocket,  // struct bpf_sock *
  kSocketOrNull,
  kSocketCommonOrNull,  // only some of its fields
  kFlowKeys,            // struct bpf_flow_keys *
  kTraceBuffer,         // what a writable tracepoint hands over
  kStruct,              // a kernel structure, trusted: `type`
};
enum FieldFlag : uint8_t {
  kRead = 1,
  kWrite = 2,
  kNarrowRead = 4,   // aligned pieces of the granule
  kNarrowWrite = 8,  // the same
  kOnlyFirst = 16,   // narrow: only the granule's first bytes
};
struct ContextField {
  uint16_t begin, end;  // bytes
  uint8_t granule;      // size of an access, aligned to itself
  uint8_t flags;
  FieldKind kind = FieldKind::kNumber;
  const char* type = nullptr;
};
enum PacketUse : uint8_t {
  kWritesPacket = 1,
  kHelpersReadPacket = 2,  // those that say kTakesPackets
  kHelpersTakePacket = 4,  // all, and they may write
  kLoadsPacketBytes = 8,   // BPF_LD_ABS, BPF_LD_IND
};

inline constexpr uint64_t kAnyAttachType = ~0ULL;
// `attach_types`: bit = BPF_CGROUP_INET_INGRESS and so on, expected_attach_type of the program.
struct ContextSpec {
  uint32_t prog_type;
  uint64_t attach_types;
  std::span<const ContextField> fields;
  uint8_t packet_use;  // PacketUse
};
struct ReturnSpec {
  uint32_t prog_type;
  uint64_t attach_types;
  int64_t min, max;
};

// nullptr: the program type is described by BTF, or not known.
const ContextSpec* find_context(uint32_t prog_type, uint32_t attach_type);
// What the program may return; nullptr: anything.
const ReturnSpec* find_return(uint32_t prog_type, uint32_t attach_type);
// May a program say BPF_F_SLEEPABLE? Must it?
bool may_be_sleepable(uint32_t prog_type, uint32_t attach_type);
bool must_be_sleepable(uint32_t prog_type);
// Which of `fields` an access of `size` bytes at `at` falls into; nullptr: none that allows it.
const ContextField* find_field(std::span<const ContextField> fields, int64_t at, int size,
                               bool is_write);

// What programs see of sockets (struct bpf_sock, struct bpf_tcp_sock, struct bpf_xdp_sock).
enum class SocketKind : uint8_t { kSock, kSockCommon, kTcpSock, kXdpSock };
std::span<const ContextField> socket_fields(SocketKind kind);

}  // namespace bpftime
