#include "spec/spec.hpp"

#include <cerrno>

#include "spec/newer.hpp"

namespace bpftime {
namespace {

constexpr MapKind kMapKinds[] = {
    {BPF_MAP_TYPE_HASH, "hash", false, true},
    {BPF_MAP_TYPE_ARRAY, "array", false, true},
    {BPF_MAP_TYPE_PROG_ARRAY, "prog_array", false, true},
    {BPF_MAP_TYPE_PERF_EVENT_ARRAY, "perf_event_array", false, true},
    {BPF_MAP_TYPE_PERCPU_HASH, "percpu_hash", true, true},
    {BPF_MAP_TYPE_PERCPU_ARRAY, "percpu_array", true, true},
    {BPF_MAP_TYPE_STACK_TRACE, "stack_trace", false, true},
    {BPF_MAP_TYPE_CGROUP_ARRAY, "cgroup_array", false, true},
    {BPF_MAP_TYPE_LRU_HASH, "lru_hash", false, false},
    {BPF_MAP_TYPE_LRU_PERCPU_HASH, "lru_percpu_hash", true, false},
    {BPF_MAP_TYPE_LPM_TRIE, "lpm_trie", false, false},
    {BPF_MAP_TYPE_ARRAY_OF_MAPS, "array_of_maps", false, false},
    {BPF_MAP_TYPE_HASH_OF_MAPS, "hash_of_maps", false, false},
    {BPF_MAP_TYPE_DEVMAP, "devmap", false, false},
    {BPF_MAP_TYPE_SOCKMAP, "sockmap", false, false},
    {BPF_MAP_TYPE_CPUMAP, "cpumap", false, false},
    {BPF_MAP_TYPE_XSKMAP, "xskmap", false, false},
    {BPF_MAP_TYPE_SOCKHASH, "sockhash", false, false},
    {BPF_MAP_TYPE_CGROUP_STORAGE, "cgroup_storage", false, false},
    {BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, "reuseport_sockarray", false, false},
    {BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, "percpu_cgroup_storage", true, false},
    {BPF_MAP_TYPE_QUEUE, "queue", false, true},
    {BPF_MAP_TYPE_STACK, "stack", false, true},
    {BPF_MAP_TYPE_SK_STORAGE, "sk_storage", false, false},
    {BPF_MAP_TYPE_DEVMAP_HASH, "devmap_hash", false, false},
    {BPF_MAP_TYPE_STRUCT_OPS, "struct_ops", false, false},
    {BPF_MAP_TYPE_RINGBUF, "ringbuf", false, true},
    {BPF_MAP_TYPE_INODE_STORAGE, "inode_storage", false, false},
    {BPF_MAP_TYPE_TASK_STORAGE, "task_storage", false, false},
    {BPF_MAP_TYPE_BLOOM_FILTER, "bloom_filter", false, false},
    {BPF_MAP_TYPE_USER_RINGBUF, "user_ringbuf", false, false},
    {kMapCgrpStorage, "cgrp_storage", false, false},
    {kMapArena, "arena", false, false},
};

// Short names, so that a row is a line.
constexpr ArgKind kN = ArgKind::kNone, kS = ArgKind::kScalar, kM = ArgKind::kMap,
                  kK = ArgKind::kKey, kV = ArgKind::kValue, kW = ArgKind::kWriteMem,
                  kR = ArgKind::kReadMem, kSize = ArgKind::kConstSize,
                  kSize0 = ArgKind::kConstSizeZero, kCtx = ArgKind::kCtx, kAny = ArgKind::kAnyPtr,
                  kFunc = ArgKind::kFunction, kString = ArgKind::kConstString,
                  kLongOut = ArgKind::kAnyPtr, kRef = ArgKind::kReference;
constexpr RetKind kRetScalar = RetKind::kScalar, kRetValue = RetKind::kMapValueOrNull,
                  kRetMem = RetKind::kMemOrNull, kRetVoid = RetKind::kVoid;

constexpr uint64_t kKprobe =
    program_type_bit(BPF_PROG_TYPE_KPROBE) | program_type_bit(BPF_PROG_TYPE_TRACING);
constexpr uint64_t kCookie = kKprobe | program_type_bit(BPF_PROG_TYPE_TRACEPOINT) |
                             program_type_bit(BPF_PROG_TYPE_PERF_EVENT) |
                             program_type_bit(BPF_PROG_TYPE_RAW_TRACEPOINT);

// kernel/bpf/helpers.c and kernel/trace/bpf_trace.c of 6.18: the *_proto structures.
constexpr HelperSpec kHelperSpecs[] = {
    {1, "map_lookup_elem", {kM, kK, kN, kN, kN}, kRetValue, kAllProgramTypes},
    {2, "map_update_elem", {kM, kK, kV, kS, kN}, kRetScalar, kAllProgramTypes},
    {3, "map_delete_elem", {kM, kK, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {4, "probe_read", {kW, kSize0, kS, kN, kN}, kRetScalar, kTracingPrograms},
    {5, "ktime_get_ns", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {6, "trace_printk", {kR, kSize, kS, kS, kS}, kRetScalar, kAllProgramTypes},
    {7, "get_prandom_u32", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {8, "get_smp_processor_id", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {12, "tail_call", {kCtx, kM, kS, kN, kN}, kRetVoid, kAllProgramTypes},
    {14, "get_current_pid_tgid", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {15, "get_current_uid_gid", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {16, "get_current_comm", {kW, kSize, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {25, "perf_event_output", {kCtx, kM, kS, kR, kSize0}, kRetScalar, kAllProgramTypes},
    {27, "get_stackid", {kCtx, kM, kS, kN, kN}, kRetScalar, kTracingPrograms},
    {35, "get_current_task", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {36, "probe_write_user", {kS, kR, kSize, kN, kN}, kRetScalar, kTracingPrograms},
    {37, "current_task_under_cgroup", {kM, kS, kN, kN, kN}, kRetScalar, kTracingPrograms},
    {45, "probe_read_str", {kW, kSize0, kS, kN, kN}, kRetScalar, kTracingPrograms},
    {67, "get_stack", {kCtx, kW, kSize0, kS, kN}, kRetScalar, kTracingPrograms},
    {80, "get_current_cgroup_id", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {87, "map_push_elem", {kM, kV, kS, kN, kN}, kRetScalar, kAllProgramTypes},
    {88, "map_pop_elem", {kM, kAny, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {89, "map_peek_elem", {kM, kAny, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {105, "strtol", {kR, kSize, kS, kLongOut, kN}, kRetScalar, kAllProgramTypes},
    {106, "strtoul", {kR, kSize, kS, kLongOut, kN}, kRetScalar, kAllProgramTypes},
    {109, "send_signal", {kS, kN, kN, kN, kN}, kRetScalar, kTracingPrograms},
    {112, "probe_read_user", {kW, kSize0, kS, kN, kN}, kRetScalar, kAllProgramTypes},
    {113, "probe_read_kernel", {kW, kSize0, kS, kN, kN}, kRetScalar, kAllProgramTypes},
    {114, "probe_read_user_str", {kW, kSize0, kS, kN, kN}, kRetScalar, kAllProgramTypes},
    {115, "probe_read_kernel_str", {kW, kSize0, kS, kN, kN}, kRetScalar, kAllProgramTypes},
    {117, "send_signal_thread", {kS, kN, kN, kN, kN}, kRetScalar, kTracingPrograms},
    {120, "get_ns_current_pid_tgid", {kS, kS, kW, kSize, kN}, kRetScalar, kAllProgramTypes},
    {125, "ktime_get_boot_ns", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {130, "ringbuf_output", {kM, kR, kSize0, kS, kN}, kRetScalar, kAllProgramTypes},
    {131, "ringbuf_reserve", {kM, kS, kS, kN, kN}, kRetMem, kAllProgramTypes},
    {132, "ringbuf_submit", {kRef, kS, kN, kN, kN}, kRetVoid, kAllProgramTypes},
    {133, "ringbuf_discard", {kRef, kS, kN, kN, kN}, kRetVoid, kAllProgramTypes},
    {134, "ringbuf_query", {kM, kS, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {158, "get_current_task_btf", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {160, "ktime_get_coarse_ns", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {164, "for_each_map_elem", {kM, kFunc, kAny, kS, kN}, kRetScalar, kAllProgramTypes},
    {165, "snprintf", {kW, kSize0, kString, kAny, kSize0}, kRetScalar, kAllProgramTypes},
    {173, "get_func_ip", {kCtx, kN, kN, kN, kN}, kRetScalar, kKprobe},
    {174, "get_attach_cookie", {kCtx, kN, kN, kN, kN}, kRetScalar, kCookie},
    {177, "trace_vprintk", {kR, kSize, kAny, kSize0, kN}, kRetScalar, kAllProgramTypes},
    {181, "loop", {kS, kFunc, kAny, kS, kN}, kRetScalar, kAllProgramTypes},
    {182, "strncmp", {kR, kSize, kString, kN, kN}, kRetScalar, kAllProgramTypes},
    {183, "get_func_arg", {kCtx, kS, kLongOut, kN, kN}, kRetScalar, kKprobe},
    {184, "get_func_ret", {kCtx, kLongOut, kN, kN, kN}, kRetScalar, kKprobe},
    {185, "get_func_arg_cnt", {kCtx, kN, kN, kN, kN}, kRetScalar, kKprobe},
    {195, "map_lookup_percpu_elem", {kM, kK, kS, kN, kN}, kRetValue, kAllProgramTypes},
    {208, "ktime_get_tai_ns", {kN, kN, kN, kN, kN}, kRetScalar, kAllProgramTypes},
    {kKfuncSessionIsReturn, "bpf_session_is_return", {kN, kN, kN, kN, kN}, kRetScalar, kKprobe},
    {kKfuncSessionCookie, "bpf_session_cookie", {kN, kN, kN, kN, kN}, kRetMem, kKprobe},
};

constexpr const char* kCommands[] = {
    "BPF_MAP_CREATE",        "BPF_MAP_LOOKUP_ELEM",
    "BPF_MAP_UPDATE_ELEM",   "BPF_MAP_DELETE_ELEM",
    "BPF_MAP_GET_NEXT_KEY",  "BPF_PROG_LOAD",
    "BPF_OBJ_PIN",           "BPF_OBJ_GET",
    "BPF_PROG_ATTACH",       "BPF_PROG_DETACH",
    "BPF_PROG_TEST_RUN",     "BPF_PROG_GET_NEXT_ID",
    "BPF_MAP_GET_NEXT_ID",   "BPF_PROG_GET_FD_BY_ID",
    "BPF_MAP_GET_FD_BY_ID",  "BPF_OBJ_GET_INFO_BY_FD",
    "BPF_PROG_QUERY",        "BPF_RAW_TRACEPOINT_OPEN",
    "BPF_BTF_LOAD",          "BPF_BTF_GET_FD_BY_ID",
    "BPF_TASK_FD_QUERY",     "BPF_MAP_LOOKUP_AND_DELETE_ELEM",
    "BPF_MAP_FREEZE",        "BPF_BTF_GET_NEXT_ID",
    "BPF_MAP_LOOKUP_BATCH",  "BPF_MAP_LOOKUP_AND_DELETE_BATCH",
    "BPF_MAP_UPDATE_BATCH",  "BPF_MAP_DELETE_BATCH",
    "BPF_LINK_CREATE",       "BPF_LINK_UPDATE",
    "BPF_LINK_GET_FD_BY_ID", "BPF_LINK_GET_NEXT_ID",
    "BPF_ENABLE_STATS",      "BPF_ITER_CREATE",
    "BPF_LINK_DETACH",       "BPF_PROG_BIND_MAP",
    "BPF_TOKEN_CREATE",      "BPF_PROG_STREAM_READ_BY_FD",
};
static_assert(sizeof kCommands / sizeof kCommands[0] == kCmdProgStreamReadByFd + 1);

constexpr const char* kProgramTypes[] = {
    "unspec",
    "socket_filter",
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "cgroup_skb",
    "cgroup_sock",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "sock_ops",
    "sk_skb",
    "cgroup_device",
    "sk_msg",
    "raw_tracepoint",
    "cgroup_sock_addr",
    "lwt_seg6local",
    "lirc_mode2",
    "sk_reuseport",
    "flow_dissector",
    "cgroup_sysctl",
    "raw_tracepoint_writable",
    "cgroup_sockopt",
    "tracing",
    "struct_ops",
    "ext",
    "lsm",
    "sk_lookup",
    "syscall",
    "netfilter",
};
static_assert(sizeof kProgramTypes / sizeof kProgramTypes[0] == kProgNetfilter + 1);

// Where BPF_MAP_CREATE's fields lie (union bpf_attr, first member).
struct MapCreate {
  uint32_t map_type, key_size, value_size, max_entries, map_flags, inner_map_fd, numa_node;
  char name[16];
  uint32_t ifindex, btf_fd, btf_key_type_id, btf_value_type_id, btf_vmlinux_value_type_id;
  uint64_t map_extra;
  int32_t value_type_btf_obj_fd, map_token_fd;
  uint64_t excl_prog_hash;
  uint32_t excl_prog_hash_size;
};
static_assert(offsetof(MapCreate, name) == 28 && offsetof(MapCreate, map_extra) == 64 &&
              offsetof(MapCreate, excl_prog_hash_size) + 4 == kMapCreateEnd);

constexpr uint32_t kAccessFlags =
    BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;
constexpr uint32_t kHashFlags = BPF_F_NO_PREALLOC | kAccessFlags | BPF_F_ZERO_SEED;
constexpr uint32_t kArrayFlags = kAccessFlags;
constexpr uint32_t kPageBytes = 4096;
constexpr uint64_t kLargestAllocation = 4ULL << 20;  // KMALLOC_MAX_SIZE
constexpr uint64_t kLargestPercpuValue = 32 << 10;   // PCPU_MIN_UNIT_SIZE
constexpr uint32_t kMostStackFrames = 127;           // sysctl_perf_event_max_stack
constexpr uint64_t kHashElement = 48;                // sizeof(struct htab_elem)
constexpr uint32_t kMostHashEntries = 1U << 28;  // U32_MAX / sizeof(struct bucket), a power of two
constexpr uint32_t kNumaNodes = 1024;

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.';
}

// kernel/bpf/syscall.c: bpf_obj_name_cpy
bool is_name(const char (&name)[16]) {
  for (const char c : name) {
    if (c == 0) {
      return true;
    }
    if (!is_name_char(c)) {
      return false;
    }
  }
  return false;
}

Result<void> check_sizes(const MapCreate& a) {
  if (a.max_entries == 0 || a.key_size == 0 || a.value_size == 0) {
    return make_error(EINVAL, "map without entries, key or value");
  }
  return {};
}

// mm/percpu.c: a value of each CPU comes in one piece.
Result<void> check_percpu_value(const MapCreate& a) {
  if ((uint64_t{a.value_size} + 7) / 8 * 8 > kLargestPercpuValue) {
    return make_error(E2BIG, "per-CPU value too large");
  }
  return {};
}

// kernel/bpf/hashtab.c: htab_map_alloc_check, htab_map_alloc
Result<void> check_hash(const MapCreate& a) {
  TRY(check_sizes(a));
  if (static_cast<uint64_t>(a.key_size) + a.value_size >= kLargestAllocation - kHashElement) {
    return make_error(E2BIG, "key and value too large");
  }
  if (a.map_type == BPF_MAP_TYPE_PERCPU_HASH) {
    TRY(check_percpu_value(a));
  }
  if (a.max_entries > kMostHashEntries) {
    return make_error(E2BIG, "too many entries");
  }
  return {};
}

// kernel/bpf/arraymap.c: array_map_alloc_check
Result<void> check_array(const MapCreate& a) {
  TRY(check_sizes(a));
  if (a.key_size != 4) {
    return make_error(EINVAL, "array with a key that is not 4 bytes");
  }
  if (a.value_size > 0x7fffffff) {
    return make_error(E2BIG, "value too large");
  }
  return a.map_type == BPF_MAP_TYPE_PERCPU_ARRAY ? check_percpu_value(a) : Result<void>{};
}

// kernel/bpf/arraymap.c: fd_array_map_alloc_check
Result<void> check_fd_array(const MapCreate& a) {
  TRY(check_sizes(a));
  if (a.value_size != sizeof(uint32_t)) {
    return make_error(EINVAL, "only file descriptors can be put into maps of this kind");
  }
  return check_array(a);
}

// kernel/bpf/ringbuf.c: ringbuf_map_alloc
Result<void> check_ring_buffer(const MapCreate& a) {
  if (a.key_size != 0 || a.value_size != 0 || a.max_entries == 0 ||
      (a.max_entries & (a.max_entries - 1)) != 0 || a.max_entries % kPageBytes != 0) {
    return make_error(EINVAL, "ring buffer: a power of two of pages, without key and value");
  }
  return {};
}

// kernel/bpf/stackmap.c: stack_map_alloc
Result<void> check_stack_trace(const MapCreate& a) {
  const uint32_t frame =
      (a.map_flags & BPF_F_STACK_BUILD_ID) != 0 ? sizeof(bpf_stack_build_id) : sizeof(uint64_t);
  if (a.max_entries == 0 || a.key_size != 4 || a.value_size < 8 || a.value_size % frame != 0 ||
      a.value_size / frame > kMostStackFrames) {
    return make_error(EINVAL, "a stack is 1 to 127 frames, its id has 4 bytes");
  }
  if (a.max_entries > 1U << 31) {
    return make_error(E2BIG, "too many entries");
  }
  return {};
}

// kernel/bpf/queue_stack_maps.c: queue_stack_map_alloc_check
Result<void> check_queue(const MapCreate& a) {
  if (a.key_size != 0 || a.value_size == 0 || a.max_entries == 0) {
    return make_error(EINVAL, "a queue has values and no keys");
  }
  if (a.value_size > kLargestAllocation) {
    return make_error(E2BIG, "value too large");
  }
  return {};
}

// What BPF_MAP_CREATE asks of a kind; for those that are supported.
struct MapRules {
  uint32_t map_type, flags;
  Result<void> (*check)(const MapCreate&);
};
constexpr MapRules kMapRules[] = {
    {BPF_MAP_TYPE_STACK_TRACE, BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_STACK_BUILD_ID,
     check_stack_trace},
    {BPF_MAP_TYPE_HASH, kHashFlags | BPF_F_NUMA_NODE, check_hash},
    {BPF_MAP_TYPE_ARRAY, kArrayFlags | BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_INNER_MAP,
     check_array},
    {BPF_MAP_TYPE_PERCPU_HASH, kHashFlags, check_hash},
    {BPF_MAP_TYPE_PERCPU_ARRAY, kArrayFlags, check_array},
    {BPF_MAP_TYPE_PROG_ARRAY, BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY, check_fd_array},
    {BPF_MAP_TYPE_CGROUP_ARRAY, BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY, check_fd_array},
    {BPF_MAP_TYPE_RINGBUF, BPF_F_NUMA_NODE, check_ring_buffer},
    {BPF_MAP_TYPE_QUEUE, kAccessFlags | BPF_F_NUMA_NODE, check_queue},
    {BPF_MAP_TYPE_STACK, kAccessFlags | BPF_F_NUMA_NODE, check_queue},
    {BPF_MAP_TYPE_PERF_EVENT_ARRAY,
     BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_PRESERVE_ELEMS, check_fd_array},
};

const MapRules* find_rules(uint32_t map_type) {
  for (const MapRules& rules : kMapRules) {
    if (rules.map_type == map_type) {
      return &rules;
    }
  }
  return nullptr;
}

}  // namespace

Result<MapSpec> check_map_spec(const void* attr, uint32_t attr_bytes, uint32_t cpu_count) {
  const auto* const bytes = static_cast<const unsigned char*>(attr);
  for (uint32_t i = kBpfAttrBytes; i < attr_bytes; i++) {
    if (bytes[i] != 0) {
      return make_error(E2BIG, "attr has fields that we do not know");
    }
  }
  for (uint32_t i = kMapCreateEnd; i < attr_bytes && i < kBpfAttrBytes; i++) {
    if (bytes[i] != 0) {
      return make_error(EINVAL, "attr has fields that BPF_MAP_CREATE does not have");
    }
  }
  MapCreate a = {};
  __builtin_memcpy(&a, bytes, attr_bytes < kMapCreateEnd ? attr_bytes : kMapCreateEnd);

  if (!is_name(a.name)) {
    return make_error(EINVAL, "map name: letters, digits, '_' and '.', at most 15");
  }
  if (a.btf_vmlinux_value_type_id != 0 || a.ifindex != 0) {
    return make_error(EINVAL, "struct_ops and offloaded maps are not for us");
  }
  if (a.excl_prog_hash != 0 || a.excl_prog_hash_size != 0) {
    return make_error(EINVAL, "exclusive maps are not supported");
  }
  if ((a.map_flags & (kMapFlagTokenFd | kMapFlagVtypeBtfObjFd)) != 0) {
    return make_error(EINVAL, "tokens are not supported");
  }
  if (a.map_extra != 0) {
    return make_error(EINVAL, "map_extra is for bloom filters and arenas");
  }
  if ((a.map_flags & BPF_F_NUMA_NODE) != 0 && a.numa_node >= kNumaNodes) {
    return make_error(EINVAL, "no such NUMA node");
  }
  const MapKind* const kind = find_map_kind(a.map_type);
  if (kind == nullptr) {
    return make_error(EINVAL, "no such map type");
  }
  const MapRules* const rules = kind->is_supported ? find_rules(a.map_type) : nullptr;
  if (rules == nullptr) {
    return make_error(EINVAL, "map type not supported yet");
  }
  const uint32_t both_prog = BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;
  const uint32_t both_user = BPF_F_RDONLY | BPF_F_WRONLY;
  if ((a.map_flags & both_prog) == both_prog || (a.map_flags & both_user) == both_user) {
    return make_error(EINVAL, "map may be neither read nor written");
  }
  if ((a.map_flags & ~rules->flags) != 0) {
    return make_error(EINVAL, "flags that the map type does not have");
  }
  TRY(rules->check(a));
  MapSpec spec = {};
  spec.map_type = a.map_type;
  spec.map_flags = a.map_flags;
  spec.key_size = a.key_size;
  spec.value_size = a.value_size;
  spec.max_entries = a.max_entries;
  // A perf event array has buffers for as many events.
  const bool counts_cpus = kind->is_per_cpu || a.map_type == BPF_MAP_TYPE_PERF_EVENT_ARRAY;
  spec.cpu_count = counts_cpus ? cpu_count : 1;
  spec.map_extra = a.map_extra;
  return spec;
}

const MapKind* find_map_kind(uint32_t map_type) {
  for (const MapKind& kind : kMapKinds) {
    if (kind.map_type == map_type) {
      return &kind;
    }
  }
  return nullptr;
}

const HelperSpec* find_helper(uint32_t id) {
  for (const HelperSpec& helper : kHelperSpecs) {
    if (helper.id == id) {
      return &helper;
    }
  }
  return nullptr;
}

const HelperSpec* find_kfunc(const char* name, size_t length) {
  for (const HelperSpec& helper : kHelperSpecs) {
    if (helper.id >= kKfuncSessionIsReturn && __builtin_strlen(helper.name) == length &&
        __builtin_memcmp(helper.name, name, length) == 0) {
      return &helper;
    }
  }
  return nullptr;
}

uint32_t helper_spec_count() { return sizeof kHelperSpecs / sizeof kHelperSpecs[0]; }
const HelperSpec& helper_spec_at(uint32_t index) { return kHelperSpecs[index]; }

const char* command_name(uint32_t command) {
  return command < sizeof kCommands / sizeof kCommands[0] ? kCommands[command] : nullptr;
}
const char* program_type_name(uint32_t type) {
  return type < sizeof kProgramTypes / sizeof kProgramTypes[0] ? kProgramTypes[type] : nullptr;
}

}  // namespace bpftime
