#include "spec/context.hpp"

#include <linux/bpf.h>

namespace bpftime {
namespace {

constexpr uint8_t kR = kRead, kRN = kRead | kNarrow, kRWN = kRead | kWrite | kNarrow;
constexpr FieldKind kNum = FieldKind::kNumber;

// struct pt_regs, 21 words.
constexpr ContextField kKprobe[] = {{0, 168, 8, kRN, kNum}};
// What lies behind the 8 bytes of struct trace_entry, up to PERF_MAX_TRACE_SIZE.
constexpr ContextField kTracepoint[] = {{8, 8192, 8, kRN, kNum}};
// Twelve arguments (MAX_BPF_FUNC_ARGS).
constexpr ContextField kRawTracepoint[] = {{0, 96, 8, kRN, kNum}};
// struct bpf_perf_event_data: pt_regs, sample_period, addr.
constexpr ContextField kPerfEvent[] = {{0, 168, 8, kR | kOnlyWhole, kNum},
                                       {168, 184, 8, kRN, kNum}};
constexpr ContextField kXdp[] = {{0, 4, 4, kR | kOnlyWhole, FieldKind::kPacket},
                                 {4, 8, 4, kR | kOnlyWhole, FieldKind::kPacketEnd},
                                 {8, 12, 4, kR | kOnlyWhole, FieldKind::kPacketMeta},
                                 {12, 20, 4, kR | kOnlyWhole, kNum},
                                 {20, 24, 4, kR | kOnlyWhole | kOnlyInDevmap, kNum}};
// struct __sk_buff: len 0, pkt_type 4, mark 8, queue_mapping 12, protocol 16, vlan_* 20,
// priority 32, ingress_ifindex 36, ifindex 40, tc_index 44, cb 48..68, hash 68, tc_classid 72,
// data 76, data_end 80, napi_id 84, family.. local_port 88..140, data_meta 140, flow_keys 144,
// tstamp 152, wire_len 160, gso_segs 164, sk 168, gso_size 176, tstamp_type 180, hwtstamp 184.
constexpr ContextField kSocketFilter[] = {{0, 48, 4, kRN, kNum},
                                          {48, 68, 8, kRWN, kNum},
                                          {68, 72, 4, kRN, kNum},
                                          {84, 88, 4, kRN, kNum},
                                          {88, 140, 4, kRN, kNum},
                                          {164, 168, 4, kRN, kNum},
                                          {168, 176, 8, kR | kOnlyWhole, FieldKind::kSocketOrNull},
                                          {176, 180, 4, kRN, kNum}};
constexpr ContextField kSched[] = {{0, 8, 4, kRN, kNum},
                                   {8, 16, 4, kRWN, kNum},
                                   {16, 32, 4, kRN, kNum},
                                   {32, 36, 4, kRWN, kNum},
                                   {36, 44, 4, kRN, kNum},
                                   {44, 48, 4, kRWN, kNum},
                                   {48, 68, 8, kRWN, kNum},
                                   {68, 72, 4, kRN, kNum},
                                   {72, 76, 4, kRWN, kNum},
                                   {76, 80, 4, kR | kOnlyWhole, FieldKind::kPacket},
                                   {80, 84, 4, kR | kOnlyWhole, FieldKind::kPacketEnd},
                                   {84, 88, 4, kRN, kNum},
                                   {140, 144, 4, kR | kOnlyWhole, FieldKind::kPacketMeta},
                                   {152, 160, 8, kRWN | kOnlyWhole, kNum},
                                   {160, 168, 4, kRN, kNum},
                                   {168, 176, 8, kR | kOnlyWhole, FieldKind::kSocketOrNull},
                                   {176, 181, 4, kRN, kNum},
                                   {184, 192, 8, kR | kOnlyWhole, kNum}};

template <uint32_t kCount>
constexpr ContextSpec row(uint32_t type, const ContextField (&fields)[kCount],
                          int64_t min = INT64_MIN, int64_t max = INT64_MAX) {
  return {type, fields, kCount, min, max};
}
constexpr ContextSpec kContexts[] = {
    row(BPF_PROG_TYPE_SOCKET_FILTER, kSocketFilter),
    row(BPF_PROG_TYPE_KPROBE, kKprobe),
    row(BPF_PROG_TYPE_SCHED_CLS, kSched),
    row(BPF_PROG_TYPE_SCHED_ACT, kSched),
    row(BPF_PROG_TYPE_TRACEPOINT, kTracepoint),
    row(BPF_PROG_TYPE_XDP, kXdp),
    row(BPF_PROG_TYPE_PERF_EVENT, kPerfEvent),
    row(BPF_PROG_TYPE_RAW_TRACEPOINT, kRawTracepoint),
};

}  // namespace

const ContextSpec* find_context(uint32_t prog_type) {
  for (const ContextSpec& context : kContexts) {
    if (context.prog_type == prog_type) {
      return &context;
    }
  }
  return nullptr;
}

}  // namespace bpftime
