#include "spec/trust.hpp"

#include <linux/bpf.h>

#include <algorithm>
#include <iterator>

namespace bpftime {
namespace {

struct FieldRow {
  std::string_view structure, field;
  FieldTrust trust;
};
constexpr FieldRow kFields[] = {
    {"bpf_iter__task", "meta", FieldTrust::kTrusted},
    {"bpf_iter__task", "task", FieldTrust::kTrusted},
    {"bpf_iter_meta", "seq", FieldTrust::kTrusted},
    {"cgroup", "kn", FieldTrust::kRcu},
    {"cgroup_subsys_state", "cgroup", FieldTrust::kRcu},
    {"css_set", "dfl_cgrp", FieldTrust::kRcu},
    {"dentry", "d_inode", FieldTrust::kTrustedOrNull},
    {"file", "f_inode", FieldTrust::kTrusted},
    {"linux_binprm", "file", FieldTrust::kTrusted},
    {"mm_struct", "exe_file", FieldTrust::kRcuOrNull},
    {"request_sock", "sk", FieldTrust::kRcuOrNull},
    {"sk_buff", "sk", FieldTrust::kRcuOrNull},
    {"socket", "sk", FieldTrust::kTrustedOrNull},
    {"task_struct", "cgroups", FieldTrust::kRcu},
    {"task_struct", "cpus_ptr", FieldTrust::kRcu},
    {"task_struct", "group_leader", FieldTrust::kRcu},
    {"task_struct", "real_parent", FieldTrust::kRcu},
    {"vm_area_struct", "vm_file", FieldTrust::kTrustedOrNull},
    {"vm_area_struct", "vm_mm", FieldTrust::kTrustedOrNull},
};

struct IterRow {
  std::string_view target;
  uint32_t index;
  IterArgument argument;
};
// What is not here is trusted.
constexpr IterRow kIters[] = {
    {"bpf_iter_bpf_link", 1, IterArgument::kOrNull},
    {"bpf_iter_bpf_map", 1, IterArgument::kTrustedOrNull},
    {"bpf_iter_bpf_map_elem", 2, IterArgument::kReadOnlyBytesOrNull},
    {"bpf_iter_bpf_map_elem", 3, IterArgument::kBytesOrNull},
    {"bpf_iter_bpf_prog", 1, IterArgument::kOrNull},
    {"bpf_iter_bpf_sk_storage_map", 2, IterArgument::kOrNull},
    {"bpf_iter_bpf_sk_storage_map", 3, IterArgument::kBytesOrNull},
    {"bpf_iter_cgroup", 1, IterArgument::kTrustedOrNull},
    {"bpf_iter_dmabuf", 1, IterArgument::kOrNull},
    {"bpf_iter_ipv6_route", 1, IterArgument::kOrNull},
    {"bpf_iter_kmem_cache", 1, IterArgument::kTrustedOrNull},
    {"bpf_iter_ksym", 1, IterArgument::kOrNull},
    {"bpf_iter_netlink", 1, IterArgument::kOrNull},
    {"bpf_iter_sockmap", 2, IterArgument::kReadOnlyBytesOrNull},
    {"bpf_iter_sockmap", 3, IterArgument::kOrNull},
    {"bpf_iter_task", 1, IterArgument::kTrustedOrNull},
    {"bpf_iter_task_file", 1, IterArgument::kOrNull},
    {"bpf_iter_task_file", 3, IterArgument::kOrNull},
    {"bpf_iter_task_vma", 1, IterArgument::kOrNull},
    {"bpf_iter_task_vma", 2, IterArgument::kOrNull},
    {"bpf_iter_tcp", 1, IterArgument::kTrustedOrNull},
    {"bpf_iter_udp", 1, IterArgument::kTrustedOrNull},
    {"bpf_iter_unix", 1, IterArgument::kOrNull},
};

struct TracepointRow {
  std::string_view tracepoint;
  uint16_t nullable;  // bit = argument
};
constexpr TracepointRow kTracepoints[] = {
    {"break_lease_block", 2},
    {"break_lease_noblock", 2},
    {"break_lease_unblock", 2},
    {"ext4_mballoc_discard", 2},
    {"ext4_mballoc_free", 2},
    {"fcntl_setlk", 2},
    {"fib_table_lookup", 4},
    {"flock_lock_inode", 2},
    {"folio_wait_writeback", 2},
    {"generic_delete_lease", 2},
    {"hugetlbfs_alloc_inode", 2},
    {"kfree_skb", 8},
    {"locks_remove_posix", 2},
    {"mm_collapse_huge_page_isolate", 1},
    {"mm_khugepaged_collapse_file", 2},
    {"mm_khugepaged_scan_file", 2},
    {"mm_khugepaged_scan_pmd", 2},
    {"mm_page_alloc", 1},
    {"mm_page_alloc_zone_locked", 1},
    {"mm_page_pcpu_drain", 1},
    {"posix_lock_inode", 2},
    {"qdisc_dequeue", 8},
    {"sched_pi_setprio", 2},
    {"sched_stick_numa", 4},
    {"sched_swap_numa", 4},
    {"tcp_send_reset", 3},
    {"tcp_sendmsg_locked", 4},
    {"time_out_leases", 2},
    {"tmigr_update_events", 1},
    {"writeback_dirty_folio", 2},
    {"xfs_blockgc_flush_all", 1},
    {"xfs_blockgc_free_space", 2},
    {"xfs_blockgc_start", 1},
    {"xfs_blockgc_stop", 1},
    {"xfs_blockgc_worker", 1},
    {"xfs_btree_overlapped_query_range", 4},
    {"xfs_btree_updkeys", 4},
    {"xfs_defer_add_item", 1},
    {"xfs_defer_cancel_item", 1},
    {"xfs_defer_cancel_list", 1},
    {"xfs_defer_create_intent", 1},
    {"xfs_defer_finish_item", 1},
    {"xfs_defer_isolate_paused", 1},
    {"xfs_defer_item_pause", 1},
    {"xfs_defer_item_unpause", 1},
    {"xfs_defer_pending_abort", 1},
    {"xfs_defer_pending_finish", 1},
    {"xfs_defer_relog_intent", 1},
    {"xfs_fs_sync_fs", 1},
    {"xfs_inodegc_flush", 1},
    {"xfs_inodegc_push", 1},
    {"xfs_inodegc_queue", 1},
    {"xfs_inodegc_start", 1},
    {"xfs_inodegc_stop", 1},
    {"xfs_inodegc_throttle", 1},
    {"xfs_ioc_free_eofblocks", 2},
    {"xfs_map_blocks_alloc", 16},
    {"xfs_map_blocks_found", 16},
};
static_assert(std::is_sorted(std::begin(kTracepoints), std::end(kTracepoints),
                             [](const TracepointRow& a, const TracepointRow& b) {
                               return a.tracepoint < b.tracepoint;
                             }));

constexpr std::string_view kFreedAfterRcu[] = {"bpf_cpumask", "bpf_crypto_ctx", "cgroup",
                                               "prog_test_ref_kfunc", "task_struct"};

}  // namespace

std::string_view writable_field(uint32_t prog_type, std::string_view structure) {
  const bool is_packet = prog_type == BPF_PROG_TYPE_SCHED_CLS || prog_type == BPF_PROG_TYPE_XDP;
  const bool is_connection = structure == "nf_conn" || structure == "nf_conn___init";
  return is_packet && is_connection ? "mark" : "";
}

bool is_freed_after_rcu(std::string_view structure) {
  return std::find(std::begin(kFreedAfterRcu), std::end(kFreedAfterRcu), structure) !=
         std::end(kFreedAfterRcu);
}

FieldTrust field_trust(std::string_view structure, std::string_view field) {
  for (const FieldRow& row : kFields) {
    if (row.structure == structure && row.field == field) {
      return row.trust;
    }
  }
  return FieldTrust::kNone;
}

IterArgument iter_argument(std::string_view target, uint32_t index) {
  for (const IterRow& row : kIters) {
    if (row.target == target && row.index == index) {
      return row.argument;
    }
  }
  return IterArgument::kTrusted;
}

bool gives_socket_options(std::string_view target) {
  return target == "bpf_iter_tcp" || target == "bpf_iter_unix";
}

bool is_nullable_argument(std::string_view tracepoint, uint32_t index) {
  const auto* at = std::lower_bound(
      std::begin(kTracepoints), std::end(kTracepoints), tracepoint,
      [](const TracepointRow& row, std::string_view wanted) { return row.tracepoint < wanted; });
  return at != std::end(kTracepoints) && at->tracepoint == tracepoint &&
         (at->nullable >> index & 1) != 0;
}

}  // namespace bpftime
