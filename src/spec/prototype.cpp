#include "spec/prototype.hpp"

#include <linux/bpf.h>

#include "spec/newer.hpp"
#include "spec/spec.hpp"

namespace bpftime {
namespace {

constexpr ParamSpec X{Param::kAny}, C{Param::kCtx}, M{Param::kMap}, K{Param::kKey},
    V{Param::kValue}, VO{Param::kValueOut}, R{Param::kRead}, W{Param::kWrite},
    RW{Param::kReadWrite}, S{Param::kSize}, Z{Param::kSizeOrZero}, A{Param::kAllocSize},
    STR{Param::kConstString}, F{Param::kFunction}, RN{Param::kRead, kMayBeNull},
    WN{Param::kWrite, kMayBeNull}, SKR{Param::kSocket, kReleases}, SKN{Param::kSocket, kMayBeNull},
    SC{Param::kSocketCommon}, SCN{Param::kSocketCommon, kMayBeNull},
    SCT{Param::kSocketCommon, kMayBeNullTraced}, SCP{Param::kSocketCommon, kNotByType},
    ST{Param::kKernelStruct}, STN{Param::kKernelStruct, kMayBeNull},
    CB{Param::kStackPtr, kMayBeNull}, LOCK{Param::kSpinLock}, TIMER{Param::kTimer},
    DYN{Param::kDynptr}, DYNO{Param::kDynptrOut}, DYNR{Param::kDynptr, kReleases},
    REC{Param::kRecord, kReleases}, PCV{Param::kPerCpuVar}, KF{Param::kKptrField},
    KX{Param::kKernelStruct, kMayBeNull | kReleases}, O8{Param::kFixedWrite, 0, 8},
    O4{Param::kFixedWrite, 0, 4}, F20{Param::kFixedRead, 0, 20};

constexpr uint64_t bit(uint32_t type) { return 1ULL << type; }
constexpr uint64_t kAll = kAllProgramTypes;
constexpr uint64_t kKprobes = bit(BPF_PROG_TYPE_KPROBE);
constexpr uint64_t kPerf = bit(BPF_PROG_TYPE_PERF_EVENT);
constexpr uint64_t kLsm = bit(BPF_PROG_TYPE_LSM);
constexpr uint64_t kSyscall = bit(BPF_PROG_TYPE_SYSCALL);
constexpr uint64_t kByBtf = bit(BPF_PROG_TYPE_TRACING) | kLsm;  // attach_btf_id names the place
constexpr uint64_t kTracing = kByBtf | kSyscall;
constexpr uint64_t kProbes = kKprobes | kPerf | bit(BPF_PROG_TYPE_TRACEPOINT) |
                             bit(BPF_PROG_TYPE_RAW_TRACEPOINT) |
                             bit(BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE);
constexpr uint64_t kTrace = kProbes | kTracing;
constexpr uint64_t kXdp = bit(BPF_PROG_TYPE_XDP);
constexpr uint64_t kCls = bit(BPF_PROG_TYPE_SCHED_CLS) | bit(BPF_PROG_TYPE_SCHED_ACT);
constexpr uint64_t kLwtXmit = bit(BPF_PROG_TYPE_LWT_XMIT);
constexpr uint64_t kSeg6 = bit(BPF_PROG_TYPE_LWT_SEG6LOCAL);
constexpr uint64_t kLwt = bit(BPF_PROG_TYPE_LWT_IN) | bit(BPF_PROG_TYPE_LWT_OUT) | kLwtXmit | kSeg6;
constexpr uint64_t kFilter = bit(BPF_PROG_TYPE_SOCKET_FILTER);
constexpr uint64_t kSkSkb = bit(BPF_PROG_TYPE_SK_SKB);
constexpr uint64_t kSkMsg = bit(BPF_PROG_TYPE_SK_MSG);
constexpr uint64_t kSockOps = bit(BPF_PROG_TYPE_SOCK_OPS);
constexpr uint64_t kSockAddr = bit(BPF_PROG_TYPE_CGROUP_SOCK_ADDR);
constexpr uint64_t kCgroupSock = bit(BPF_PROG_TYPE_CGROUP_SOCK);
constexpr uint64_t kCgroupSkb = bit(BPF_PROG_TYPE_CGROUP_SKB);
constexpr uint64_t kDevice = bit(BPF_PROG_TYPE_CGROUP_DEVICE);
constexpr uint64_t kSysctl = bit(BPF_PROG_TYPE_CGROUP_SYSCTL);
constexpr uint64_t kSockopt = bit(BPF_PROG_TYPE_CGROUP_SOCKOPT);
constexpr uint64_t kCgroup =
    kCgroupSkb | kCgroupSock | kDevice | kSockAddr | kSysctl | kSockopt | kSockOps;
constexpr uint64_t kReuse = bit(BPF_PROG_TYPE_SK_REUSEPORT);
constexpr uint64_t kSkLookup = bit(BPF_PROG_TYPE_SK_LOOKUP);
constexpr uint64_t kFlow = bit(BPF_PROG_TYPE_FLOW_DISSECTOR);
constexpr uint64_t kNetfilter = bit(kProgNetfilter);
constexpr uint64_t kLirc = bit(BPF_PROG_TYPE_LIRC_MODE2);
constexpr uint64_t kSkbs = kFilter | kCls | kCgroupSkb | kSkSkb;
constexpr uint64_t kLookups = kXdp | kCls | kSockAddr | kCgroupSkb | kSkSkb;
constexpr uint64_t kOwnSockets = kCls | kCgroupSkb | kSockOps | kSkMsg | kSockAddr | kSockopt;
constexpr uint64_t kCasts =
    kSkbs | kXdp | kLwt | kSockOps | kSkMsg | kSockAddr | kFlow | kSkLookup | kTracing;

constexpr Gives kNum = Gives::kNumber, kVal = Gives::kMapValueOrNull;

// By id. A row is: number, name, arguments, what it gives, effects, where it may be called.
constexpr Prototype kPrototypes[] = {
    {1, "map_lookup_elem", {M, K}, kVal, kTakesPackets, kAll, nullptr},
    {2, "map_update_elem", {M, K, V, X}, kNum, kTakesPackets, kAll, nullptr},
    {3, "map_delete_elem", {M, K}, kNum, kTakesPackets, kAll, nullptr},
    {4, "probe_read", {W, Z, X}, kNum, 0, kTrace, nullptr},
    {5, "ktime_get_ns", {}, kNum, 0, kAll, nullptr},
    {6, "trace_printk", {R, S}, kNum, 0, kAll, nullptr},
    {7, "get_prandom_u32", {}, kNum, 0, kAll, nullptr},
    {8, "get_smp_processor_id", {}, kNum, 0, kAll, nullptr},
    {9,
     "skb_store_bytes",
     {C, X, R, S, X},
     kNum,
     kChangesPacket,
     kCls | kSkSkb | kLwtXmit,
     nullptr},
    {10, "l3_csum_replace", {C, X, X, X, X}, kNum, kChangesPacket, kCls | kLwtXmit, nullptr},
    {11, "l4_csum_replace", {C, X, X, X, X}, kNum, kChangesPacket, kCls | kLwtXmit, nullptr},
    {12, "tail_call", {C, M, X}, Gives::kNothing, 0, kAll, nullptr},
    {13, "clone_redirect", {C, X, X}, kNum, kChangesPacket, kCls | kLwtXmit, nullptr},
    {14, "get_current_pid_tgid", {}, kNum, 0, kAll, nullptr},
    {15, "get_current_uid_gid", {}, kNum, 0, kAll, nullptr},
    {16, "get_current_comm", {W, S}, kNum, 0, kAll, nullptr},
    {17, "get_cgroup_classid", {}, kNum, 0, kAll, nullptr},
    {18, "skb_vlan_push", {C, X, X}, kNum, kChangesPacket, kCls, nullptr},
    {19, "skb_vlan_pop", {C}, kNum, kChangesPacket, kCls, nullptr},
    {20, "skb_get_tunnel_key", {C, W, S, X}, kNum, 0, kCls | kLwtXmit, nullptr},
    {21, "skb_set_tunnel_key", {C, R, S, X}, kNum, 0, kCls | kLwtXmit, nullptr},
    {22, "perf_event_read", {M, X}, kNum, 0, kAll, nullptr},
    {23, "redirect", {X, X}, kNum, 0, kXdp | kCls | kLwtXmit, nullptr},
    {24, "get_route_realm", {C}, kNum, 0, kCls | kLwt, nullptr},
    {25,
     "perf_event_output",
     {C, M, X, R, Z},
     kNum,
     0,
     kAll & ~(kReuse | kFlow | kNetfilter),
     nullptr},
    {26, "skb_load_bytes", {C, X, W, S}, kNum, 0, kSkbs | kLwt | kReuse | kFlow, nullptr},
    {27, "get_stackid", {C, M, X}, kNum, 0, kTrace, nullptr},
    {28, "csum_diff", {RN, Z, RN, Z, X}, kNum, kTakesPackets, kXdp | kCls | kLwt, nullptr},
    {29, "skb_get_tunnel_opt", {C, W, S}, kNum, 0, kCls | kLwtXmit, nullptr},
    {30, "skb_set_tunnel_opt", {C, R, S}, kNum, 0, kCls | kLwtXmit, nullptr},
    {31, "skb_change_proto", {C, X, X}, kNum, kChangesPacket, kCls, nullptr},
    {32, "skb_change_type", {C, X}, kNum, 0, kCls, nullptr},
    {33, "skb_under_cgroup", {C, M, X}, kNum, 0, kCls | kLwt, nullptr},
    {34, "get_hash_recalc", {C}, kNum, 0, kCls | kLwt, nullptr},
    {35, "get_current_task", {}, kNum, 0, kAll, nullptr},
    {36, "probe_write_user", {X, R, S}, kNum, 0, kTrace, nullptr},
    {37, "current_task_under_cgroup", {M, X}, kNum, 0, kAll, nullptr},
    {38, "skb_change_tail", {C, X, X}, kNum, kChangesPacket, kCls | kSkSkb | kLwtXmit, nullptr},
    {39, "skb_pull_data", {C, X}, kNum, kChangesPacket, kCls | kSkSkb | kLwt, nullptr},
    {40, "csum_update", {C, X}, kNum, 0, kCls | kLwtXmit, nullptr},
    {41, "set_hash_invalid", {C}, kNum, 0, kCls | kLwtXmit, nullptr},
    {42, "get_numa_node_id", {}, kNum, 0, kAll, nullptr},
    {43, "skb_change_head", {C, X, X}, kNum, kChangesPacket, kCls | kSkSkb | kLwtXmit, nullptr},
    {44, "xdp_adjust_head", {C, X}, kNum, kChangesPacket, kXdp, nullptr},
    {45, "probe_read_str", {W, Z, X}, kNum, kAtMostSize, kTrace, nullptr},
    {46,
     "get_socket_cookie",
     {C},
     kNum,
     0,
     kSkbs | kCgroupSock | kSockOps | kSockAddr | kReuse | kTracing,
     nullptr},
    {47, "get_socket_uid", {C}, kNum, 0, kSkbs, nullptr},
    {48, "set_hash", {C, X}, kNum, 0, kCls, nullptr},
    {49, "setsockopt", {C, X, X, R, S}, kNum, 0, kSockOps | kSockAddr | kSockopt, nullptr},
    {50, "skb_adjust_room", {C, X, X, X}, kNum, kChangesPacket, kCls | kSkSkb, nullptr},
    {51, "redirect_map", {M, X, X}, kNum, 0, kXdp, nullptr},
    {52, "sk_redirect_map", {C, M, X, X}, kNum, 0, kSkSkb, nullptr},
    {53, "sock_map_update", {C, M, K, X}, kNum, 0, kSockOps, nullptr},
    {54, "xdp_adjust_meta", {C, X}, kNum, kChangesPacket, kXdp, nullptr},
    {55, "perf_event_read_value", {M, X, W, S}, kNum, 0, kAll, nullptr},
    {56, "perf_prog_read_value", {C, W, S}, kNum, 0, kPerf, nullptr},
    {57, "getsockopt", {C, X, X, W, S}, kNum, 0, kSockOps | kSockAddr | kSockopt, nullptr},
    {58, "override_return", {C, X}, kNum, 0, kKprobes, nullptr},
    {59, "sock_ops_cb_flags_set", {C, X}, kNum, 0, kSockOps, nullptr},
    {60, "msg_redirect_map", {C, M, X, X}, kNum, 0, kSkMsg, nullptr},
    {61, "msg_apply_bytes", {C, X}, kNum, 0, kSkMsg, nullptr},
    {62, "msg_cork_bytes", {C, X}, kNum, 0, kSkMsg, nullptr},
    {63, "msg_pull_data", {C, X, X, X}, kNum, kChangesPacket, kSkMsg, nullptr},
    {64, "bind", {C, R, S}, kNum, 0, kSockAddr, nullptr},
    {65, "xdp_adjust_tail", {C, X}, kNum, kChangesPacket, kXdp, nullptr},
    {66, "skb_get_xfrm_state", {C, X, W, S, X}, kNum, 0, kCls, nullptr},
    {67, "get_stack", {C, W, Z, X}, kNum, kAtMostSize, kTrace, nullptr},
    {68,
     "skb_load_bytes_relative",
     {C, X, W, S, X},
     kNum,
     0,
     kFilter | kCls | kCgroupSkb | kReuse,
     nullptr},
    {69, "fib_lookup", {C, RW, S, X}, kNum, 0, kXdp | kCls, nullptr},
    {70, "sock_hash_update", {C, M, K, X}, kNum, 0, kSockOps, nullptr},
    {71, "msg_redirect_hash", {C, M, K, X}, kNum, 0, kSkMsg, nullptr},
    {72, "sk_redirect_hash", {C, M, K, X}, kNum, 0, kSkSkb, nullptr},
    {73,
     "lwt_push_encap",
     {C, X, R, S},
     kNum,
     kChangesPacket,
     bit(BPF_PROG_TYPE_LWT_IN) | kLwtXmit,
     nullptr},
    {74, "lwt_seg6_store_bytes", {C, X, R, S}, kNum, kChangesPacket, kSeg6, nullptr},
    {75, "lwt_seg6_adjust_srh", {C, X, X}, kNum, kChangesPacket, kSeg6, nullptr},
    {76, "lwt_seg6_action", {C, X, R, S}, kNum, kChangesPacket, kSeg6, nullptr},
    {77, "rc_repeat", {C}, kNum, 0, kLirc, nullptr},
    {78, "rc_keydown", {C, X, X, X}, kNum, 0, kLirc, nullptr},
    {79, "skb_cgroup_id", {C}, kNum, 0, kCls | kCgroupSkb, nullptr},
    {80, "get_current_cgroup_id", {}, kNum, 0, kAll, nullptr},
    {81, "get_local_storage", {M, X}, Gives::kMapValue, 0, kCgroup, nullptr},
    {82, "sk_select_reuseport", {C, M, K, X}, kNum, 0, kReuse, nullptr},
    {83, "skb_ancestor_cgroup_id", {C, X}, kNum, 0, kCls | kCgroupSkb, nullptr},
    {84,
     "sk_lookup_tcp",
     {C, R, Z, X, X},
     Gives::kSocketOrNull,
     kAcquires | kTakesPackets,
     kLookups,
     nullptr},
    {85,
     "sk_lookup_udp",
     {C, R, Z, X, X},
     Gives::kSocketOrNull,
     kAcquires | kTakesPackets,
     kLookups,
     nullptr},
    {86, "sk_release", {SKR}, kNum, 0, kLookups | kSkLookup, nullptr},
    {87, "map_push_elem", {M, V, X}, kNum, kTakesPackets, kAll, nullptr},
    {88, "map_pop_elem", {M, VO}, kNum, 0, kAll, nullptr},
    {89, "map_peek_elem", {M, VO}, kNum, 0, kAll, nullptr},
    {90, "msg_push_data", {C, X, X, X}, kNum, kChangesPacket, kSkMsg, nullptr},
    {91, "msg_pop_data", {C, X, X, X}, kNum, kChangesPacket, kSkMsg, nullptr},
    {92, "rc_pointer_rel", {C, X, X}, kNum, 0, kLirc, nullptr},
    {93, "spin_lock", {LOCK}, Gives::kNothing, 0, kAll, nullptr},
    {94, "spin_unlock", {LOCK}, Gives::kNothing, 0, kAll, nullptr},
    {95, "sk_fullsock", {SCP}, Gives::kSocketOrNull, kSameSocket, kCls | kCgroupSkb, nullptr},
    {96,
     "tcp_sock",
     {SCP},
     Gives::kTcpSocketOrNull,
     kSameSocket,
     kCls | kCgroupSkb | kSockOps | kSockopt,
     nullptr},
    {97, "skb_ecn_set_ce", {C}, kNum, kChangesPacket, kCls | kCgroupSkb, nullptr},
    {98, "get_listener_sock", {SCP}, Gives::kSocketOrNull, 0, kCls | kCgroupSkb, nullptr},
    {99,
     "skc_lookup_tcp",
     {C, R, Z, X, X},
     Gives::kSocketCommonOrNull,
     kAcquires | kTakesPackets,
     kLookups,
     nullptr},
    {100, "tcp_check_syncookie", {SC, R, S, R, S}, kNum, kTakesPackets, kXdp | kCls, nullptr},
    {101, "sysctl_get_name", {C, W, S, X}, kNum, 0, kSysctl, nullptr},
    {102, "sysctl_get_current_value", {C, W, S}, kNum, 0, kSysctl, nullptr},
    {103, "sysctl_get_new_value", {C, W, S}, kNum, 0, kSysctl, nullptr},
    {104, "sysctl_set_new_value", {C, R, S}, kNum, 0, kSysctl, nullptr},
    {105, "strtol", {R, S, X, O8}, kNum, 0, kAll, nullptr},
    {106, "strtoul", {R, S, X, O8}, kNum, 0, kAll, nullptr},
    {107, "sk_storage_get", {M, SCT, CB, X}, kVal, 0, kOwnSockets | kCgroupSock | kByBtf, nullptr},
    {108, "sk_storage_delete", {M, SCT}, kNum, 0, kOwnSockets | kByBtf, nullptr},
    {109, "send_signal", {X}, kNum, 0, kAll, nullptr},
    {110, "tcp_gen_syncookie", {SC, R, S, R, S}, kNum, kTakesPackets, kXdp | kCls, nullptr},
    {111, "skb_output", {ST, M, X, R, Z}, kNum, 0, kTracing, nullptr},
    {112, "probe_read_user", {W, Z, X}, kNum, 0, kAll, nullptr},
    {113, "probe_read_kernel", {W, Z, X}, kNum, 0, kAll, nullptr},
    {114, "probe_read_user_str", {W, Z, X}, kNum, kAtMostSize, kAll, nullptr},
    {115, "probe_read_kernel_str", {W, Z, X}, kNum, kAtMostSize, kAll, nullptr},
    {116, "tcp_send_ack", {ST, X}, kNum, 0, bit(BPF_PROG_TYPE_STRUCT_OPS), nullptr},
    {117, "send_signal_thread", {X}, kNum, 0, kAll, nullptr},
    {118, "jiffies64", {}, kNum, 0, kAll, nullptr},
    {119, "read_branch_records", {C, WN, Z, X}, kNum, 0, kPerf, nullptr},
    {120, "get_ns_current_pid_tgid", {X, X, W, S}, kNum, 0, kAll, nullptr},
    {121, "xdp_output", {ST, M, X, R, Z}, kNum, 0, kTracing, nullptr},
    {122,
     "get_netns_cookie",
     {{Param::kCtx, kMayBeNull}},
     kNum,
     0,
     kFilter | kCgroupSock | kOwnSockets,
     nullptr},
    {123, "get_current_ancestor_cgroup_id", {X}, kNum, 0, kAll, nullptr},
    {124, "sk_assign", {C, SC, X}, kNum, 0, kCls | kSkLookup, nullptr},
    {125, "ktime_get_boot_ns", {}, kNum, 0, kAll, nullptr},
    {126, "seq_printf", {ST, R, S, RN, Z}, kNum, 0, kByBtf, nullptr},
    {127, "seq_write", {ST, R, Z}, kNum, 0, kByBtf, nullptr},
    {128, "sk_cgroup_id", {SC}, kNum, 0, kCgroupSkb, nullptr},
    {129, "sk_ancestor_cgroup_id", {SC, X}, kNum, 0, kCgroupSkb, nullptr},
    {130, "ringbuf_output", {M, R, Z, X}, kNum, 0, kAll, nullptr},
    {131, "ringbuf_reserve", {M, A, X}, Gives::kMemoryOrNull, kAcquires, kAll, nullptr},
    {132, "ringbuf_submit", {REC, X}, Gives::kNothing, 0, kAll, nullptr},
    {133, "ringbuf_discard", {REC, X}, Gives::kNothing, 0, kAll, nullptr},
    {134, "ringbuf_query", {M, X}, kNum, 0, kAll, nullptr},
    {135, "csum_level", {C, X}, kNum, 0, kCls | kLwtXmit, nullptr},
    {136, "skc_to_tcp6_sock", {SC}, Gives::kKernelStructOrNull, kSameSocket, kCasts, "tcp6_sock"},
    {137, "skc_to_tcp_sock", {SC}, Gives::kKernelStructOrNull, kSameSocket, kCasts, "tcp_sock"},
    {138,
     "skc_to_tcp_timewait_sock",
     {SC},
     Gives::kKernelStructOrNull,
     kSameSocket,
     kCasts,
     "tcp_timewait_sock"},
    {139,
     "skc_to_tcp_request_sock",
     {SC},
     Gives::kKernelStructOrNull,
     kSameSocket,
     kCasts,
     "tcp_request_sock"},
    {140, "skc_to_udp6_sock", {SC}, Gives::kKernelStructOrNull, kSameSocket, kCasts, "udp6_sock"},
    {141, "get_task_stack", {ST, W, Z, X}, kNum, kAtMostSize, kAll, nullptr},
    {142, "load_hdr_opt", {C, W, S, X}, kNum, 0, kSockOps, nullptr},
    {143, "store_hdr_opt", {C, R, S, X}, kNum, 0, kSockOps, nullptr},
    {144, "reserve_hdr_opt", {C, X, X}, kNum, 0, kSockOps, nullptr},
    {145, "inode_storage_get", {M, STN, CB, X}, kVal, 0, kByBtf, nullptr},
    {146, "inode_storage_delete", {M, STN}, kNum, 0, kByBtf, nullptr},
    {147, "d_path", {ST, W, Z}, kNum, 0, kTracing, nullptr},
    {148, "copy_from_user", {W, Z, X}, kNum, kSleeps, kAll, nullptr},
    {149, "snprintf_btf", {W, S, R, S, X}, kNum, 0, kAll, nullptr},
    {150, "seq_printf_btf", {ST, R, Z, X}, kNum, 0, kByBtf, nullptr},
    {151, "skb_cgroup_classid", {C}, kNum, 0, kCls, nullptr},
    {152, "redirect_neigh", {X, RN, Z, X}, kNum, 0, kCls, nullptr},
    {153, "per_cpu_ptr", {PCV, X}, Gives::kPerCpuOrNull, 0, kAll, nullptr},
    {154, "this_cpu_ptr", {PCV}, Gives::kPerCpu, 0, kAll, nullptr},
    {155, "redirect_peer", {X, X}, kNum, 0, kCls, nullptr},
    {156, "task_storage_get", {M, STN, CB, X}, kVal, 0, kAll, nullptr},
    {157, "task_storage_delete", {M, STN}, kNum, 0, kAll, nullptr},
    {158, "get_current_task_btf", {}, Gives::kKernelStruct, 0, kAll, "task_struct"},
    {159, "bprm_opts_set", {ST, X}, kNum, 0, kLsm, nullptr},
    {160,
     "ktime_get_coarse_ns",
     {},
     kNum,
     0,
     kAll & ~(kProbes | kTracing | kDevice | kSockopt | kNetfilter),
     nullptr},
    {161, "ima_inode_hash", {ST, W, S}, kNum, kSleeps, kLsm, nullptr},
    {162, "sock_from_file", {ST}, Gives::kKernelStructOrNull, 0, kTracing, "socket"},
    {163, "check_mtu", {C, X, O4, X, X}, kNum, 0, kXdp | kCls, nullptr},
    {164, "for_each_map_elem", {M, F, CB, X}, kNum, kCallsBack, kAll, nullptr},
    {165, "snprintf", {WN, Z, STR, RN, Z}, kNum, 0, kAll, nullptr},
    {166, "sys_bpf", {X, R, S}, kNum, 0, kSyscall, nullptr},
    {167, "btf_find_by_name_kind", {R, S, X, X}, kNum, 0, kSyscall, nullptr},
    {168, "sys_close", {X}, kNum, 0, kSyscall, nullptr},
    {169, "timer_init", {TIMER, M, X}, kNum, 0, kAll, nullptr},
    {170, "timer_set_callback", {TIMER, F}, kNum, kCallsBackLater, kAll, nullptr},
    {171, "timer_start", {TIMER, X, X}, kNum, 0, kAll, nullptr},
    {172, "timer_cancel", {TIMER}, kNum, 0, kAll, nullptr},
    {173, "get_func_ip", {C}, kNum, 0, kKprobes | kByBtf, nullptr},
    {174, "get_attach_cookie", {C}, kNum, 0, kProbes | kByBtf, nullptr},
    {175, "task_pt_regs", {ST}, Gives::kKernelStruct, 0, kAll, "pt_regs"},
    {176, "get_branch_snapshot", {W, Z, X}, kNum, 0, kAll, nullptr},
    {177, "trace_vprintk", {R, S, RN, Z}, kNum, 0, kAll, nullptr},
    {178, "skc_to_unix_sock", {SC}, Gives::kKernelStructOrNull, 0, kCasts, "unix_sock"},
    {179, "kallsyms_lookup_name", {R, Z, X, O8}, kNum, 0, kSyscall, nullptr},
    {180, "find_vma", {ST, X, F, CB, X}, kNum, kCallsBack, kAll, nullptr},
    {181, "loop", {X, F, CB, X}, kNum, kCallsBack, kAll, nullptr},
    {182, "strncmp", {R, S, STR}, kNum, 0, kAll, nullptr},
    {183, "get_func_arg", {C, X, O8}, kNum, 0, kByBtf, nullptr},
    {184, "get_func_ret", {C, O8}, kNum, 0, kByBtf, nullptr},
    {185, "get_func_arg_cnt", {C}, kNum, 0, kByBtf, nullptr},
    {186,
     "get_retval",
     {},
     kNum,
     0,
     kCgroupSock | kDevice | kSockAddr | kSysctl | kSockopt | kLsm,
     nullptr},
    {187,
     "set_retval",
     {X},
     kNum,
     0,
     kCgroupSock | kDevice | kSockAddr | kSysctl | kSockopt | kLsm,
     nullptr},
    {188, "xdp_get_buff_len", {C}, kNum, 0, kXdp | kTracing, nullptr},
    {189, "xdp_load_bytes", {C, X, W, S}, kNum, 0, kXdp, nullptr},
    {190, "xdp_store_bytes", {C, X, R, S}, kNum, 0, kXdp, nullptr},
    {191, "copy_from_user_task", {W, Z, X, ST, X}, kNum, kSleeps, kAll, nullptr},
    {192, "skb_set_tstamp", {C, X, X}, kNum, 0, kCls, nullptr},
    {193, "ima_file_hash", {ST, W, S}, kNum, kSleeps, kLsm, nullptr},
    {194, "kptr_xchg", {KF, KX}, Gives::kKptrOrNull, 0, kAll, nullptr},
    {195, "map_lookup_percpu_elem", {M, K, X}, kVal, kTakesPackets, kAll, nullptr},
    {196, "skc_to_mptcp_sock", {SC}, Gives::kKernelStructOrNull, kSameSocket, kCasts, "mptcp_sock"},
    {197, "dynptr_from_mem", {RW, Z, X, DYNO}, kNum, 0, kAll, nullptr},
    {198, "ringbuf_reserve_dynptr", {M, X, X, DYNO}, kNum, 0, kAll, nullptr},
    {199, "ringbuf_submit_dynptr", {DYNR, X}, Gives::kNothing, 0, kAll, nullptr},
    {200, "ringbuf_discard_dynptr", {DYNR, X}, Gives::kNothing, 0, kAll, nullptr},
    {201, "dynptr_read", {W, Z, DYN, X, X}, kNum, 0, kAll, nullptr},
    {202, "dynptr_write", {DYN, X, R, Z, X}, kNum, 0, kAll, nullptr},
    {203, "dynptr_data", {DYN, X, A}, Gives::kSliceOrNull, 0, kAll, nullptr},
    {204, "tcp_raw_gen_syncookie_ipv4", {F20, R, Z}, kNum, kTakesPackets, kXdp | kCls, nullptr},
    {205,
     "tcp_raw_gen_syncookie_ipv6",
     {{Param::kFixedRead, 0, 40}, R, Z},
     kNum,
     kTakesPackets,
     kXdp | kCls,
     nullptr},
    {206, "tcp_raw_check_syncookie_ipv4", {F20, F20}, kNum, kTakesPackets, kXdp | kCls, nullptr},
    {207,
     "tcp_raw_check_syncookie_ipv6",
     {{Param::kFixedRead, 0, 40}, F20},
     kNum,
     kTakesPackets,
     kXdp | kCls,
     nullptr},
    {208, "ktime_get_tai_ns", {}, kNum, 0, kAll, nullptr},
    {209, "user_ringbuf_drain", {M, F, CB, X}, kNum, kCallsBack, kAll, nullptr},
    {210, "cgrp_storage_get", {M, STN, CB, X}, kVal, 0, kAll, nullptr},
    {211, "cgrp_storage_delete", {M, STN}, kNum, 0, kAll, nullptr},
};

constexpr uint64_t kTracingType = bit(BPF_PROG_TYPE_TRACING);
// Where programs of some types call another function by the same number.
constexpr Prototype kVariants[] = {
    {17, "get_cgroup_classid", {C}, kNum, 0, kCls | kLwt, nullptr},
    {46, "get_socket_cookie", {SCN}, kNum, 0, kReuse | kTracing, nullptr},
    {49, "setsockopt", {SC, X, X, R, S}, kNum, 0, kSockopt | kTracingType, nullptr},
    {57, "getsockopt", {SC, X, X, W, S}, kNum, 0, kSockopt | kTracingType, nullptr},
    {107, "sk_storage_get", {M, C, CB, X}, kVal, 0, kCgroupSock, nullptr},
    {124, "sk_assign", {C, SKN, X}, kNum, 0, kSkLookup, nullptr},
    {188, "xdp_get_buff_len", {ST}, kNum, 0, kTracing, nullptr},
};

// Helpers that a program of a type has only with some attach types.
struct AttachRow {
  uint32_t id;
  uint64_t program_types, attach_types;
};
template <class... Types>
constexpr uint64_t on(Types... types) {
  return ((1ULL << types) | ...);
}
constexpr uint64_t kConnects = on(BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT);
constexpr uint64_t kMayFail =
    kConnects | on(BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET6_BIND, BPF_CGROUP_UDP4_SENDMSG,
                   BPF_CGROUP_UDP6_SENDMSG, kCgroupUnixConnect, kCgroupUnixSendmsg);
constexpr uint64_t kCallTracing = on(BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_MODIFY_RETURN);
constexpr AttachRow kAttachRows[] = {
    {49, kSockopt, on(BPF_CGROUP_SETSOCKOPT)},
    {49, kTracingType, on(BPF_TRACE_ITER)},
    {57, kSockopt, on(BPF_CGROUP_SETSOCKOPT)},
    {57, kTracingType, on(BPF_TRACE_ITER)},
    {64, kSockAddr, kConnects},
    {126, kTracingType, on(BPF_TRACE_ITER)},
    {127, kTracingType, on(BPF_TRACE_ITER)},
    {147, kTracingType, kCallTracing | on(BPF_TRACE_ITER)},
    {150, kTracingType, on(BPF_TRACE_ITER)},
    {173, kTracingType, kCallTracing},
    {174, kTracingType, kCallTracing | on(BPF_TRACE_RAW_TP)},
    {183, kTracingType, kCallTracing},
    {184, kTracingType, kCallTracing},
    {185, kTracingType, kCallTracing},
    {186, kSockAddr, kMayFail},
    {186, kDevice, on(BPF_CGROUP_DEVICE)},
    {186, kSysctl, on(BPF_CGROUP_SYSCTL)},
    {187, kSockAddr, kMayFail},
    {187, kDevice, on(BPF_CGROUP_DEVICE)},
    {187, kSysctl, on(BPF_CGROUP_SYSCTL)},
};

}  // namespace

const Prototype* find_prototype(uint32_t id) {
  // The rows are numbered without a gap.
  static_assert(kPrototypes[0].id == 1 &&
                kPrototypes[sizeof kPrototypes / sizeof kPrototypes[0] - 1].id ==
                    sizeof kPrototypes / sizeof kPrototypes[0]);
  return id >= 1 && id <= prototype_count() ? &kPrototypes[id - 1] : nullptr;
}
const Prototype* find_prototype(uint32_t id, uint32_t prog_type) {
  for (const Prototype& variant : kVariants) {
    if (variant.id == id && (variant.program_types & program_type_bit(prog_type)) != 0) {
      return &variant;
    }
  }
  return find_prototype(id);
}

bool is_offered(const Prototype& helper, uint32_t prog_type, uint32_t attach_type) {
  const uint64_t type = program_type_bit(prog_type);
  for (const AttachRow& row : kAttachRows) {
    if (row.id == helper.id && (row.program_types & type) != 0) {
      return attach_type < 64 && (row.attach_types >> attach_type & 1) != 0;
    }
  }
  return (helper.program_types & type) != 0;
}

uint32_t prototype_count() { return sizeof kPrototypes / sizeof kPrototypes[0]; }
const Prototype& prototype_at(uint32_t index) { return kPrototypes[index]; }

}  // namespace bpftime
