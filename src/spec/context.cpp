#include "spec/context.hpp"

#include <linux/bpf.h>

#include "spec/newer.hpp"

namespace bpftime {
namespace {

constexpr uint8_t kR = kRead, kRW = kRead | kWrite, kRN = kRead | kNarrowRead, kRNW = kRN | kWrite,
                  kRNWN = kRNW | kNarrowWrite, kRF = kRN | kOnlyFirst;
constexpr FieldKind kPkt = FieldKind::kPacket, kMeta = FieldKind::kPacketMeta,
                    kEnd = FieldKind::kPacketEnd, kSk = FieldKind::kSocket,
                    kSkOrNull = FieldKind::kSocketOrNull,
                    kSkcOrNull = FieldKind::kSocketCommonOrNull;

// struct pt_regs, 21 words.
constexpr ContextField kKprobe[] = {{0, 168, 8, kRN}};
// What lies behind the 8 bytes of struct trace_entry, up to PERF_MAX_TRACE_SIZE.
constexpr ContextField kTracepoint[] = {{8, 8192, 8, kRN}};
// Twelve arguments (MAX_BPF_FUNC_ARGS).
constexpr ContextField kRawTracepoint[] = {{0, 96, 8, kRN}};
constexpr ContextField kRawTracepointWritable[] = {{0, 8, 8, kR, FieldKind::kTraceBuffer},
                                                   {1, 2, 1, kR},
                                                   {2, 4, 2, kRN},
                                                   {4, 8, 4, kRN},
                                                   {8, 96, 8, kRN}};
// struct bpf_perf_event_data: pt_regs, sample_period, addr.
constexpr ContextField kPerfEvent[] = {{0, 168, 8, kR}, {168, 184, 8, kRN}};
// struct xdp_md: data 0, data_end 4, data_meta 8, ingress_ifindex 12, rx_queue_index 16,
// egress_ifindex 20.
constexpr ContextField kXdp[] = {
    {0, 4, 4, kR, kPkt}, {4, 8, 4, kR, kEnd}, {8, 12, 4, kR, kMeta}, {12, 20, 4, kR}};
constexpr ContextField kXdpDevmap[] = {
    {0, 4, 4, kR, kPkt}, {4, 8, 4, kR, kEnd}, {8, 12, 4, kR, kMeta}, {12, 24, 4, kR}};

// struct __sk_buff: len 0, pkt_type 4, mark 8, queue_mapping 12, protocol 16, vlan_* 20,
// priority 32, ingress_ifindex 36, ifindex 40, tc_index 44, cb 48..68, hash 68, tc_classid 72,
// data 76, data_end 80, napi_id 84, family 88, remote_ip4 92 .. local_ip6 ..132, ports 132,
// data_meta 140, flow_keys 144, tstamp 152, wire_len 160, gso_segs 164, sk 168, gso_size 176,
// tstamp_type 180, hwtstamp 184.
constexpr ContextField kSocketFilter[] = {{0, 48, 4, kRN},    {48, 68, 8, kRNWN},
                                          {68, 72, 4, kRN},   {84, 88, 4, kRN},
                                          {164, 168, 4, kRN}, {168, 176, 8, kR, kSkcOrNull},
                                          {176, 180, 4, kRN}};
constexpr ContextField kSched[] = {{0, 8, 4, kRN},           {8, 16, 4, kRNW},
                                   {16, 32, 4, kRN},         {32, 36, 4, kRNW},
                                   {36, 44, 4, kRN},         {44, 48, 4, kRNW},
                                   {48, 68, 8, kRNWN},       {68, 72, 4, kRN},
                                   {72, 76, 4, kRNW},        {76, 80, 4, kR, kPkt},
                                   {80, 84, 4, kR, kEnd},    {84, 88, 4, kRN},
                                   {140, 144, 4, kR, kMeta}, {152, 160, 8, kRW},
                                   {160, 168, 4, kRN},       {168, 176, 8, kR, kSkcOrNull},
                                   {176, 181, 4, kRN},       {184, 192, 8, kR}};
constexpr ContextField kCgroupSkb[] = {
    {0, 8, 4, kRN},     {8, 12, 4, kRNW},      {12, 32, 4, kRN},
    {32, 36, 4, kRNW},  {36, 48, 4, kRN},      {48, 68, 8, kRNWN},
    {68, 72, 4, kRN},   {76, 80, 4, kR, kPkt}, {80, 84, 4, kR, kEnd},
    {84, 92, 4, kRN},   {92, 132, 4, kR},      {132, 140, 4, kRN},
    {152, 160, 8, kRW}, {164, 168, 4, kRN},    {168, 176, 8, kR, kSkcOrNull},
    {176, 180, 4, kRN}, {184, 192, 8, kR}};
constexpr ContextField kLwt[] = {
    {0, 8, 4, kRN},        {8, 12, 4, kRNW},   {12, 32, 4, kRN},   {32, 36, 4, kRNW},
    {36, 48, 4, kRN},      {48, 68, 8, kRNWN}, {68, 72, 4, kRN},   {76, 80, 4, kR, kPkt},
    {80, 84, 4, kR, kEnd}, {84, 88, 4, kRN},   {164, 168, 4, kRN}, {168, 176, 8, kR, kSkcOrNull},
    {176, 180, 4, kRN}};
constexpr ContextField kSkSkb[] = {{0, 8, 4, kRN},        {12, 32, 4, kRN},
                                   {32, 36, 4, kRNW},     {36, 44, 4, kRN},
                                   {44, 48, 4, kRNW},     {48, 68, 8, kRN},
                                   {68, 72, 4, kRN},      {76, 80, 4, kR, kPkt},
                                   {80, 84, 4, kR, kEnd}, {84, 92, 4, kRN},
                                   {92, 132, 4, kR},      {132, 140, 4, kRN},
                                   {164, 168, 4, kRN},    {168, 176, 8, kR, kSkcOrNull},
                                   {176, 180, 4, kRN}};
constexpr ContextField kFlowDissector[] = {
    {76, 80, 4, kR, kPkt}, {80, 84, 4, kR, kEnd}, {144, 152, 8, kR, FieldKind::kFlowKeys}};

// struct bpf_sock: bound_dev_if 0, family 4, type 8, protocol 12, mark 16, priority 20, src_ip4 24,
// src_ip6 28, src_port 44, dst_port 48 (16 bits), dst_ip4 52, dst_ip6 56, state 72,
// rx_queue_mapping 76.
constexpr ContextField kCgroupSock[] = {{0, 4, 4, kRW},  {4, 16, 4, kRF},  {16, 24, 4, kRW},
                                        {48, 52, 4, kR}, {48, 50, 2, kRN}, {52, 72, 4, kRN},
                                        {72, 80, 4, kRF}};
constexpr ContextField kCgroupSockBound4[] = {{4, 16, 4, kRF}, {24, 28, 4, kRN}, {44, 48, 4, kRF},
                                              {48, 52, 4, kR}, {48, 50, 2, kRN}, {52, 72, 4, kRN},
                                              {72, 80, 4, kRF}};
constexpr ContextField kCgroupSockBound6[] = {{4, 16, 4, kRF}, {28, 44, 4, kRN}, {44, 48, 4, kRF},
                                              {48, 52, 4, kR}, {48, 50, 2, kRN}, {52, 72, 4, kRN},
                                              {72, 80, 4, kRF}};
constexpr ContextField kSock[] = {{0, 4, 4, kR},    {4, 16, 4, kRF},  {16, 24, 4, kR},
                                  {24, 44, 4, kRN}, {44, 48, 4, kRF}, {48, 52, 4, kR},
                                  {48, 50, 2, kRN}, {52, 72, 4, kRN}, {72, 80, 4, kRF}};
constexpr ContextField kSockCommon[] = {{0, 4, 4, kR},    {4, 8, 4, kRF},  {24, 44, 4, kRN},
                                        {44, 48, 4, kRF}, {48, 52, 4, kR}, {48, 50, 2, kRN},
                                        {52, 72, 4, kRN}, {72, 80, 4, kRF}};
// bytes_received 80, bytes_acked 88: 64 bits.
constexpr ContextField kTcpSock[] = {{0, 80, 4, kR}, {80, 96, 8, kR}, {96, 112, 4, kR}};
constexpr ContextField kXdpSock[] = {{0, 4, 4, kR}};

// struct bpf_sock_addr: user_family 0, user_ip4 4, user_ip6 8, user_port 24, family 28, type 32,
// protocol 36, msg_src_ip4 40, msg_src_ip6 44, sk 64.
constexpr ContextField kSockAddr4[] = {
    {0, 4, 4, kR}, {4, 8, 4, kRNW}, {24, 28, 4, kRNW}, {28, 40, 4, kR}, {64, 72, 8, kR, kSk}};
constexpr ContextField kSockAddr4Send[] = {{0, 4, 4, kR},     {4, 8, 4, kRNW},
                                           {24, 28, 4, kRNW}, {28, 40, 4, kR},
                                           {40, 44, 4, kRNW}, {64, 72, 8, kR, kSk}};
constexpr ContextField kSockAddr6[] = {{0, 4, 4, kR},     {8, 24, 4, kRNW}, {8, 24, 8, kRW},
                                       {24, 28, 4, kRNW}, {28, 40, 4, kR},  {64, 72, 8, kR, kSk}};
constexpr ContextField kSockAddr6Send[] = {
    {0, 4, 4, kR},   {8, 24, 4, kRNW},  {8, 24, 8, kRW},  {24, 28, 4, kRNW},
    {28, 40, 4, kR}, {44, 60, 4, kRNW}, {48, 56, 8, kRW}, {64, 72, 8, kR, kSk}};
constexpr ContextField kSockAddrUnix[] = {
    {0, 4, 4, kR}, {24, 28, 4, kRNW}, {28, 40, 4, kR}, {64, 72, 8, kR, kSk}};

// struct bpf_sock_ops: op 0, reply 4, args, addresses, state and figures 8.., sk_txhash 164,
// bytes_* 168, sk 184, skb_data 192, skb_data_end 200, skb_len 208, skb_tcp_flags 212,
// skb_hwtstamp 216.
constexpr ContextField kSockOps[] = {
    {0, 4, 4, kR},           {4, 8, 4, kRW},          {8, 164, 4, kR},
    {164, 168, 4, kRW},      {168, 184, 8, kR},       {184, 192, 8, kR, kSkOrNull},
    {192, 200, 8, kR, kPkt}, {200, 208, 8, kR, kEnd}, {208, 212, 4, kR},
    {212, 216, 4, kRF},      {216, 224, 8, kR}};
// struct sk_msg_md: data 0, data_end 8, family 16 .. size 68, sk 72.
constexpr ContextField kSkMsg[] = {
    {0, 8, 8, kR, kPkt}, {8, 16, 8, kR, kEnd}, {16, 72, 4, kR}, {72, 80, 8, kR, kSk}};
// struct sk_reuseport_md: data 0, data_end 8, len 16, eth_protocol 20 (16 bits), ip_protocol 24,
// bind_inany 28, hash 32, sk 40, migrating_sk 48.
constexpr ContextField kSkReuseport[] = {
    {0, 8, 8, kR, kPkt}, {8, 16, 8, kR, kEnd}, {16, 20, 4, kRN},
    {20, 24, 4, kR},     {20, 24, 2, kR},      {24, 32, 4, kRN},
    {32, 36, 4, kR},     {40, 48, 8, kR, kSk}, {48, 56, 8, kR, kSkcOrNull}};
// struct bpf_sk_lookup: sk 0, family 8 .. ingress_ifindex 64.
constexpr ContextField kSkLookup[] = {{0, 8, 8, kR, kSkOrNull}, {8, 68, 4, kRN}};
// struct bpf_cgroup_dev_ctx: access_type 0, major 4, minor 8.
constexpr ContextField kCgroupDevice[] = {{0, 4, 4, kRN}, {4, 12, 4, kR}};
// struct bpf_sysctl: write 0, file_pos 4.
constexpr ContextField kCgroupSysctl[] = {{0, 4, 4, kRN}, {4, 8, 4, kRNW}};
// struct bpf_sockopt: sk 0, optval 8, optval_end 16, level 24, optname 28, optlen 32, retval 36.
constexpr ContextField kGetSockopt[] = {{0, 8, 8, kR, kSk},
                                        {8, 16, 8, kR, kPkt},
                                        {16, 24, 8, kR, kEnd},
                                        {24, 32, 4, kR},
                                        {32, 40, 4, kRW}};
constexpr ContextField kSetSockopt[] = {
    {0, 8, 8, kR, kSk}, {8, 16, 8, kR, kPkt}, {16, 24, 8, kR, kEnd}, {24, 36, 4, kRW}};
// struct bpf_nf_ctx
constexpr ContextField kNetfilter[] = {{0, 8, 8, kR, FieldKind::kStruct, "nf_hook_state"},
                                       {8, 16, 8, kR, FieldKind::kStruct, "sk_buff"}};

template <class... Types>
constexpr uint64_t on(Types... types) {
  return ((1ULL << types) | ...);
}
constexpr uint64_t kAny = kAnyAttachType;
constexpr uint8_t kSees = kHelpersReadPacket, kChanges = kWritesPacket | kHelpersReadPacket;
constexpr uint32_t kTypeSockAddr = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
constexpr uint64_t kUnixAddresses = on(kCgroupUnixConnect, kCgroupUnixSendmsg, kCgroupUnixRecvmsg,
                                       kCgroupUnixGetpeername, kCgroupUnixGetsockname);

constexpr ContextSpec kContexts[] = {
    {BPF_PROG_TYPE_SOCKET_FILTER, kAny, kSocketFilter, kLoadsPacketBytes},
    {BPF_PROG_TYPE_KPROBE, kAny, kKprobe, 0},
    {BPF_PROG_TYPE_SCHED_CLS, kAny, kSched, kChanges | kLoadsPacketBytes},
    {BPF_PROG_TYPE_SCHED_ACT, kAny, kSched, kChanges | kLoadsPacketBytes},
    {BPF_PROG_TYPE_TRACEPOINT, kAny, kTracepoint, 0},
    {BPF_PROG_TYPE_XDP, kAny & ~on(BPF_XDP_DEVMAP), kXdp, kChanges},
    {BPF_PROG_TYPE_XDP, on(BPF_XDP_DEVMAP), kXdpDevmap, kChanges},
    {BPF_PROG_TYPE_PERF_EVENT, kAny, kPerfEvent, 0},
    {BPF_PROG_TYPE_CGROUP_SKB, on(BPF_CGROUP_INET_INGRESS, BPF_CGROUP_INET_EGRESS), kCgroupSkb,
     kSees},
    // 0 counts as BPF_CGROUP_INET_SOCK_CREATE
    {BPF_PROG_TYPE_CGROUP_SOCK, on(0, BPF_CGROUP_INET_SOCK_CREATE, BPF_CGROUP_INET_SOCK_RELEASE),
     kCgroupSock, 0},
    {BPF_PROG_TYPE_CGROUP_SOCK, on(BPF_CGROUP_INET4_POST_BIND), kCgroupSockBound4, 0},
    {BPF_PROG_TYPE_CGROUP_SOCK, on(BPF_CGROUP_INET6_POST_BIND), kCgroupSockBound6, 0},
    {BPF_PROG_TYPE_LWT_IN, kAny, kLwt, kSees},
    {BPF_PROG_TYPE_LWT_OUT, kAny, kLwt, kSees},
    {BPF_PROG_TYPE_LWT_XMIT, kAny, kLwt, kChanges},
    {BPF_PROG_TYPE_SOCK_OPS, kAny, kSockOps, 0},
    {BPF_PROG_TYPE_SK_SKB, kAny, kSkSkb, kChanges},
    {BPF_PROG_TYPE_CGROUP_DEVICE, kAny, kCgroupDevice, 0},
    {BPF_PROG_TYPE_SK_MSG, kAny, kSkMsg, kChanges},
    {BPF_PROG_TYPE_RAW_TRACEPOINT, kAny, kRawTracepoint, 0},
    {kTypeSockAddr,
     on(BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_UDP4_RECVMSG,
        BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET4_GETSOCKNAME),
     kSockAddr4, 0},
    {kTypeSockAddr, on(BPF_CGROUP_UDP4_SENDMSG), kSockAddr4Send, 0},
    {kTypeSockAddr,
     on(BPF_CGROUP_INET6_BIND, BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_UDP6_RECVMSG,
        BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_INET6_GETSOCKNAME),
     kSockAddr6, 0},
    {kTypeSockAddr, on(BPF_CGROUP_UDP6_SENDMSG), kSockAddr6Send, 0},
    {kTypeSockAddr, kUnixAddresses, kSockAddrUnix, 0},
    {BPF_PROG_TYPE_LWT_SEG6LOCAL, kAny, kLwt, kSees},
    // 0 counts as BPF_SK_REUSEPORT_SELECT
    {BPF_PROG_TYPE_SK_REUSEPORT, on(0, BPF_SK_REUSEPORT_SELECT, BPF_SK_REUSEPORT_SELECT_OR_MIGRATE),
     kSkReuseport, kSees},
    {BPF_PROG_TYPE_FLOW_DISSECTOR, kAny, kFlowDissector, kSees},
    {BPF_PROG_TYPE_CGROUP_SYSCTL, kAny, kCgroupSysctl, 0},
    {BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, kAny, kRawTracepointWritable, 0},
    {BPF_PROG_TYPE_CGROUP_SOCKOPT, on(BPF_CGROUP_GETSOCKOPT), kGetSockopt,
     kWritesPacket | kHelpersTakePacket},
    {BPF_PROG_TYPE_CGROUP_SOCKOPT, on(BPF_CGROUP_SETSOCKOPT), kSetSockopt,
     kWritesPacket | kHelpersTakePacket},
    {BPF_PROG_TYPE_SK_LOOKUP, on(BPF_SK_LOOKUP), kSkLookup, 0},
    {kProgNetfilter, on(kNetfilterAttach), kNetfilter, 0},
};

constexpr ReturnSpec kReturns[] = {
    {BPF_PROG_TYPE_KPROBE, on(kTraceKprobeSession, kTraceUprobeSession), 0, 1},
    {BPF_PROG_TYPE_CGROUP_SKB, on(BPF_CGROUP_INET_INGRESS), 0, 1},
    {BPF_PROG_TYPE_CGROUP_SKB, on(BPF_CGROUP_INET_EGRESS), 0, 3},
    {BPF_PROG_TYPE_CGROUP_SOCK, kAny, 0, 1},
    {BPF_PROG_TYPE_SOCK_OPS, kAny, 0, 1},
    {BPF_PROG_TYPE_CGROUP_DEVICE, kAny, 0, 1},
    {kTypeSockAddr, on(BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET6_BIND), 0, 3},
    {kTypeSockAddr,
     on(BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_UDP4_SENDMSG,
        BPF_CGROUP_UDP6_SENDMSG, kCgroupUnixConnect, kCgroupUnixSendmsg),
     0, 1},
    {kTypeSockAddr, kAny, 1, 1},
    {BPF_PROG_TYPE_CGROUP_SYSCTL, kAny, 0, 1},
    {BPF_PROG_TYPE_CGROUP_SOCKOPT, kAny, 0, 1},
    {BPF_PROG_TYPE_TRACING, on(BPF_TRACE_FENTRY, BPF_TRACE_FEXIT), 0, 0},
    {BPF_PROG_TYPE_TRACING, on(BPF_TRACE_ITER), 0, 1},
    {BPF_PROG_TYPE_SK_LOOKUP, kAny, 0, 1},
    {kProgNetfilter, kAny, 0, 1},
};

struct SleepRow {
  uint32_t prog_type;
  uint64_t attach_types;
};
constexpr SleepRow kSleepers[] = {
    {BPF_PROG_TYPE_KPROBE, kAny},
    {BPF_PROG_TYPE_TRACING,
     on(BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_MODIFY_RETURN, BPF_TRACE_ITER)},
    {BPF_PROG_TYPE_STRUCT_OPS, kAny},
    {BPF_PROG_TYPE_LSM, kAny},
    {BPF_PROG_TYPE_SYSCALL, kAny},
};

template <class Row>
const Row* find_row(std::span<const Row> rows, uint32_t prog_type, uint32_t attach_type) {
  for (const Row& row : rows) {
    const bool fits =
        attach_type < 64 ? (row.attach_types >> attach_type & 1) != 0 : row.attach_types >> 63 != 0;
    if (row.prog_type == prog_type && fits) {
      return &row;
    }
  }
  return nullptr;
}

}  // namespace

const ContextSpec* find_context(uint32_t prog_type, uint32_t attach_type) {
  return find_row<ContextSpec>(kContexts, prog_type, attach_type);
}

const ReturnSpec* find_return(uint32_t prog_type, uint32_t attach_type) {
  return find_row<ReturnSpec>(kReturns, prog_type, attach_type);
}

bool may_be_sleepable(uint32_t prog_type, uint32_t attach_type) {
  return find_row<SleepRow>(kSleepers, prog_type, attach_type) != nullptr;
}

bool must_be_sleepable(uint32_t prog_type) { return prog_type == BPF_PROG_TYPE_SYSCALL; }

const ContextField* find_field(std::span<const ContextField> fields, int64_t at, int size,
                               bool is_write) {
  const uint8_t narrow = is_write ? kNarrowWrite : kNarrowRead;
  for (const ContextField& field : fields) {
    if (at < field.begin || at + size > field.end || at % size != 0 ||
        (field.flags & (is_write ? kWrite : kRead)) == 0) {
      continue;
    }
    const int64_t in_granule = (at - field.begin) % field.granule;
    const bool is_whole = size == field.granule && in_granule == 0;
    const bool is_piece = size < field.granule && in_granule + size <= field.granule &&
                          (field.flags & narrow) != 0 &&
                          ((field.flags & kOnlyFirst) == 0 || in_granule == 0);
    if (is_whole || is_piece) {
      return &field;
    }
  }
  return nullptr;
}

std::span<const ContextField> socket_fields(SocketKind kind) {
  switch (kind) {
    case SocketKind::kSock:
      return kSock;
    case SocketKind::kSockCommon:
      return kSockCommon;
    case SocketKind::kTcpSock:
      return kTcpSock;
    case SocketKind::kXdpSock:
      return kXdpSock;
  }
  return {};
}

}  // namespace bpftime
