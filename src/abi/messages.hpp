// What loaders and the command line say to the broker, and its answers. Home: pure *.
// One message is one SOCK_SEQPACKET packet: MessageHeader, then the body of its kind, fds beside it.
// HOSTILE in both directions: sizes are checked against the packet, counts against the k...Max below.
// A request:  RequestHead, attr bytes (padded to 8), ObjectRef[ref_count], Payload[payload_count], payload bytes
//             (each padded to 8), or, when flags has kPayloadInFd, the payload bytes in the first fd (a memfd).
// A reply:    ReplyHead, output bytes (or, with kPayloadInFd, in the last fd); an object's fd comes first.
//
// kBpf: attr is always kAttrBytes long (what the caller did not give is zero); its pointers mean nothing here.
//   refs      every fd of the attr, and of a program's LDDW instructions, that the caller has open. No ref for an fd
//             number: it is not open, EBADF. A ref with inode 0, or that names nothing of ours: open, but a foreign
//             file: the errno of the kernel for that place (EINVAL mostly, EBADF for a perf event).
//   payloads  tag = offset of the pointer in union bpf_attr. PROG_LOAD: insns, license (without its NUL), log_buf as
//             room. BTF_LOAD: btf, btf_log_buf as room. OBJ_GET_INFO_BY_FD: info as input (the caller's bytes) and
//             the room is its size. PROG_TEST_RUN: data_in, ctx_in; data_out, ctx_out as room.
//             RAW_TRACEPOINT_OPEN: name.
//             LINK_CREATE of uprobe_multi links: the file comes as the first fd, O_PATH, as for kPerfOpen; payloads: offsets,
//             ref_ctr_offsets, cookies where there are any.
//   reply     value and fd as bpf(2) returns; output by command: PROG_LOAD and BTF_LOAD, where a log is wanted, a
//             LogOutput and the log text with its NUL (also beside an error; at most the room); OBJ_GET_INFO_BY_FD an InfoOutput and what it announces;
//             *_GET_NEXT_ID a uint32_t; PROG_TEST_RUN a TestRunOutput and what it announces; TASK_FD_QUERY a
//             TaskFdOutput and the name (also beside ENOSPC).
//   MAP_UPDATE_ELEM and MAP_DELETE_ELEM of a PERF_EVENT_ARRAY: args[0] = the key, args[1] = the fd in the value, refs also
//   that one. Other element commands are answered over the region.
// kPerfOpen: attr = perf_event_attr as far as the caller gave it (its `size` is the true one), args[0] > 0 or -1.
//   The file of a uprobe is opened by the caller, in its own root and mount namespace, with O_PATH: the first fd that
//   is no payload file (an output event has none). Payload kPathTag = the path as given, for messages. Reply: the event's fd.
// kPerfIoctl: refs = the event's fd, then the program's when there is one. An event may be named that is no event
//   (ENOTTY), a program that is none (EINVAL).
#pragma once
#include <cstdint>

namespace bpftime {

inline constexpr uint16_t kMessageVersion = 1;
inline constexpr uint32_t kMaxPacketBytes = 64 << 10;
inline constexpr uint32_t kMaxInlinePayload = 32 << 10;
inline constexpr uint64_t kMaxPayloadBytes = 64ULL << 20;
inline constexpr uint32_t kMaxFds = 8;
inline constexpr uint32_t kMaxRefs = 256;
inline constexpr uint32_t kMaxPayloads = 16;
inline constexpr char kSocketName[] = "broker.sock";

enum class MessageKind : uint16_t {
  kHello = 1,  // args[0] = Role; reply: Welcome as output
  kReply = 2,
  // from a shim
  kBpf = 3,  // command = enum bpf_cmd; attr = union bpf_attr
  kPerfOpen =
      4,  // attr = perf_event_attr; args = pid, cpu, group_fd, flags; payload kPathTag = path string
  kPerfIoctl =
      5,  // command = ioctl number; args[0] = argument; refs: the event, and the program of SET_BPF
  // refs[0] = map, or an output event (PERF_COUNT_SW_BPF_OUTPUT), which is then that of the map it stands in;
  // args[0] = bytes of data that the caller maps of an event, -1 = none; reply: MapRegionReply, the region's fd
  kMapRegion = 6,
  kTracePipe = 7,  // reply: a readable fd that printk lines come out of
  kMakeReadable =
      8,  // refs[0] = a ring buffer or an output event: a byte is written into its socket
  // from the command line; command output is UTF-8 text for people or, with args[3] = 1, JSON
  kAttach = 20,  // args[0] = pid
  kDetach = 21,  // args[0] = pid, 0 = all
  kStart = 22,  // args[0] = pid that will exec at once, args[1] = kStartNoFollow; reply when it may
  kStatus = 23,  // reply: value = number of armed probes
  kLog = 24,     // args[0] = 1: follow; reply: a readable fd
  kShutdown = 25,
  kOptions = 26,  // args[0] = OptionBits for this loader connection's process tree
  kList = 27,     // args[0] = Listing
};

enum class Listing : uint32_t { kPrograms = 1, kMaps, kLinks, kTargets };

enum class Role : uint32_t { kLoader = 1, kCommand = 2 };
inline constexpr uint64_t kOptionNoAttach =
    1;  // a probe that names a pid does not bring the agent in
inline constexpr uint64_t kOptionUnverified = 2;  // what the verifier refuses loads all the same
// Not both of them. EPERM, ENOSYS and the like where the broker may not ask the running kernel.
inline constexpr uint64_t kOptionVerifierKernel = 4;  // the running kernel's verifier, not ours
inline constexpr uint64_t kOptionVerifierBoth = 8;    // it besides ours
inline constexpr uint64_t kKnownOptions =
    kOptionNoAttach | kOptionUnverified | kOptionVerifierKernel | kOptionVerifierBoth;
enum class VerifierChoice : uint8_t { kOurs, kKernel, kBoth };
constexpr VerifierChoice verifier_of(uint64_t options) {
  return (options & kOptionVerifierKernel) != 0 ? VerifierChoice::kKernel
         : (options & kOptionVerifierBoth) != 0 ? VerifierChoice::kBoth
                                                : VerifierChoice::kOurs;
}
constexpr uint64_t option_of(VerifierChoice choice) {
  return choice == VerifierChoice::kKernel ? kOptionVerifierKernel
         : choice == VerifierChoice::kBoth ? kOptionVerifierBoth
                                           : 0;
}
inline constexpr int64_t kStartNoFollow = 1;
inline constexpr uint32_t kPayloadInFd = 1;
// kPerfIoctl without refs and with this command: answered when nothing is armed any more that only fds kept which
// are closed by now. A shim asks after it closed a link or an event, where the kernel detaches within close(2).
inline constexpr uint32_t kSettle = 0;

struct MessageHeader {
  uint32_t size_bytes;  // of the whole packet
  MessageKind kind;
  uint16_t version;
  uint64_t serial;  // a reply repeats its request's
};
static_assert(sizeof(MessageHeader) == 16);

struct RequestHead {
  uint32_t command, attr_bytes;
  int64_t args[4];
  uint32_t ref_count, payload_count, flags, reserved;
};
static_assert(sizeof(RequestHead) == 56);

// An fd of the caller that stands in the attr (or in an instruction), named by what it is: the broker finds the
// object by (device, inode) of the socket end that it once gave away (DESIGN D2). inode 0 = not one of ours.
struct ObjectRef {
  int32_t fd;
  uint32_t reserved;
  uint64_t device, inode;
};
static_assert(sizeof(ObjectRef) == 24);

// Bytes that an attr pointer names. tag = offset of the pointer in the attr, or a k...Tag.
struct Payload {
  uint32_t tag, flags;
  uint64_t size_bytes;
};
static_assert(sizeof(Payload) == 16);
inline constexpr uint32_t kPathTag = 0x10000;
inline constexpr uint32_t kOutputWanted =
    1;  // Payload::flags: no bytes follow; this much room for output

inline constexpr uint32_t kAttrBytes = 256;  // more than any union bpf_attr so far

// First part of PROG_LOAD's and BTF_LOAD's output: the room that the whole log takes, with its NUL.
struct LogOutput {
  uint32_t true_bytes, reserved;
};
static_assert(sizeof(LogOutput) == 8);

// First part of PROG_TEST_RUN's output; data_bytes and ctx_bytes follow, each padded to 8.
struct TestRunOutput {
  uint32_t retval, duration_ns;
  uint32_t data_size, ctx_size;    // what goes to data_size_out, ctx_size_out
  uint32_t data_bytes, ctx_bytes;  // that follow here
};
static_assert(sizeof(TestRunOutput) == 24);

// First part of OBJ_GET_INFO_BY_FD's output. The info follows (its size becomes info_len), padded to 8, then `pieces`
// times an InfoPiece and its bytes, padded to 8: what pointers in the caller's info name. Written before the info.
struct InfoOutput {
  uint32_t info_bytes, pieces;
};
static_assert(sizeof(InfoOutput) == 8);
struct InfoPiece {
  uint64_t address, size_bytes;  // in the caller's memory
};
static_assert(sizeof(InfoPiece) == 16);

// First part of TASK_FD_QUERY's output; the name follows, without a NUL.
struct TaskFdOutput {
  uint32_t prog_id, fd_type;
  uint64_t probe_offset, probe_addr;
};
static_assert(sizeof(TaskFdOutput) == 24);

enum class ObjectKind : uint32_t {
  kNone = 0,
  kMap,
  kProg,
  kLink,
  kBtf,
  kPerf,
  kLog,
  kStats,
  kPerfOutput
};

struct ReplyHead {
  int64_t value;      // >= 0, or -errno
  ObjectKind object;  // kind of the fd that comes first, kNone when there is none
  uint32_t object_id;
  uint32_t flags;
  uint32_t reserved;
  uint64_t output_bytes;
};
static_assert(sizeof(ReplyHead) == 32);

struct Welcome {
  uint32_t owner;      // OwnerId of this process, for map locks
  uint32_t cpu_count;  // possible CPUs as loaders see them
  uint32_t broker_pid;
  uint32_t uprobe_type;  // PMU number that perf_event_open uses for uprobes
};

struct MapRegionReply {
  uint32_t map_id, map_type, map_flags, key_size, value_size, max_entries, cpu_count, frozen;
  uint64_t map_extra, region_bytes;
  // For an output event: number of its buffer in the map + 1; 0: it is in no map yet, and no region comes.
  uint32_t buffer, reserved;
};
static_assert(sizeof(MapRegionReply) == 56);

}  // namespace bpftime
