// Numbers that the system's linux/bpf.h (6.1 in Debian 12) does not have yet, as Linux 6.18's BTF
// shows them. Home: pure *.
#pragma once
#include <cstdint>

namespace bpftime {

inline constexpr uint32_t kMapCgrpStorage = 32;         // enum bpf_map_type, 6.2
inline constexpr uint32_t kMapArena = 33;               // 6.9
inline constexpr uint32_t kCmdTokenCreate = 36;         // enum bpf_cmd, 6.9
inline constexpr uint32_t kCmdProgStreamReadByFd = 37;  // 6.17
inline constexpr uint32_t kProgNetfilter = 32;          // enum bpf_prog_type, 6.4

// BPF_MAP_CREATE's map_flags
inline constexpr uint32_t kMapFlagVtypeBtfObjFd = 1U << 15;  // 6.9
inline constexpr uint32_t kMapFlagTokenFd = 1U << 16;        // 6.9

// enum bpf_attach_type, enum bpf_link_type
inline constexpr uint32_t kTraceKprobeMulti = 42;   // 5.18
inline constexpr uint32_t kNetfilterAttach = 45;    // BPF_NETFILTER, 6.4
inline constexpr uint32_t kTraceUprobeMulti = 48;   // 6.6
inline constexpr uint32_t kCgroupUnixConnect = 49;  // 6.7, as the next four
inline constexpr uint32_t kCgroupUnixSendmsg = 50;
inline constexpr uint32_t kCgroupUnixRecvmsg = 51;
inline constexpr uint32_t kCgroupUnixGetpeername = 52;
inline constexpr uint32_t kCgroupUnixGetsockname = 53;
inline constexpr uint32_t kTraceKprobeSession = 56;  // 6.10
inline constexpr uint32_t kTraceUprobeSession = 57;  // 6.13
inline constexpr uint32_t kLinkUprobeMulti = 12;     // 6.6
constexpr bool is_uprobe_multi(uint32_t attach_type) {
  return attach_type == kTraceUprobeMulti || attach_type == kTraceUprobeSession;
}

// union bpf_attr: link_create.uprobe_multi
struct UprobeMultiCreate {
  uint32_t prog_fd, target_fd, attach_type, flags;
  uint64_t path, offsets, ref_ctr_offsets, cookies;  // pointers; the last two may be null
  uint32_t count, multi_flags, pid, padding;
};
static_assert(sizeof(UprobeMultiCreate) == 64);
inline constexpr uint32_t kUprobeMultiReturn = 1;       // BPF_F_UPROBE_MULTI_RETURN
inline constexpr uint32_t kMostUprobePlaces = 1 << 20;  // kernel: MAX_UPROBE_MULTI_CNT

// struct bpf_link_info: uprobe_multi
struct UprobeMultiInfo {
  uint32_t type, id, prog_id, reserved;
  uint64_t path, offsets, ref_ctr_offsets, cookies;  // rooms of the caller's
  uint32_t path_bytes, count, flags, pid;
};
static_assert(sizeof(UprobeMultiInfo) == 64);

// union bpf_attr: OBJ_PIN, OBJ_GET; path_fd: 6.5
inline constexpr uint32_t kPathFd = 1U << 14;  // BPF_F_PATH_FD
inline constexpr uint32_t kPathFdAt = 16;      // int32_t path_fd
inline constexpr uint32_t kObjPinEnd = 20;

// sizeof(union bpf_attr); bytes beyond must be zero, else E2BIG.
inline constexpr uint32_t kBpfAttrBytes = 168;
// End of the last field that BPF_MAP_CREATE knows (excl_prog_hash_size); bytes beyond must be zero,
// else EINVAL.
inline constexpr uint32_t kMapCreateEnd = 92;

// struct bpf_link_info as far as links of uprobes go. perf_event part: 6.6; ref_ctr_offset: 6.16.
inline constexpr uint32_t kPerfEventUprobe = 1;  // enum bpf_perf_event_type
inline constexpr uint32_t kPerfEventUretprobe = 2;
struct LinkInfo {
  uint32_t type, id, prog_id, padding;
  uint32_t perf_event_type, reserved;
  struct {
    uint64_t file_name;  // room of the caller's
    uint32_t name_bytes, offset;
    uint64_t cookie, ref_ctr_offset;
  } uprobe;
  uint64_t rest;
};
static_assert(sizeof(LinkInfo) == 64);

}  // namespace bpftime
