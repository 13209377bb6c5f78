#include "spec/kfunc.hpp"

#include <linux/bpf.h>

#include <algorithm>
#include <iterator>

#include "spec/newer.hpp"
#include "spec/spec.hpp"

namespace bpftime {
namespace {

constexpr uint64_t bit(uint32_t type) { return program_type_bit(type); }

// Linux 6.18 registers its functions for groups of program types.
constexpr uint64_t kTc = bit(BPF_PROG_TYPE_SCHED_CLS);
constexpr uint64_t kXdp = bit(BPF_PROG_TYPE_XDP);
constexpr uint64_t kSyscall = bit(BPF_PROG_TYPE_SYSCALL);
constexpr uint64_t kOps = bit(BPF_PROG_TYPE_STRUCT_OPS);
constexpr uint64_t kTrace = bit(BPF_PROG_TYPE_TRACING) | bit(BPF_PROG_TYPE_TRACEPOINT) |
                            bit(BPF_PROG_TYPE_PERF_EVENT) | bit(BPF_PROG_TYPE_LSM);
constexpr uint64_t kCgroup = bit(BPF_PROG_TYPE_CGROUP_SKB) | bit(BPF_PROG_TYPE_CGROUP_SOCK) |
                             bit(BPF_PROG_TYPE_CGROUP_DEVICE) |
                             bit(BPF_PROG_TYPE_CGROUP_SOCK_ADDR) |
                             bit(BPF_PROG_TYPE_CGROUP_SOCKOPT) | bit(BPF_PROG_TYPE_CGROUP_SYSCTL) |
                             bit(BPF_PROG_TYPE_SOCK_OPS);
constexpr uint64_t kEvery = kAllProgramTypes;
constexpr uint64_t kMost = kTc | kXdp | kOps | kTrace | kSyscall | kCgroup;  // "generic"
constexpr uint64_t kMasks = kTrace | kOps | kSyscall;                        // cpumasks
constexpr uint64_t kSched = kTc | bit(BPF_PROG_TYPE_SCHED_ACT);
constexpr uint64_t kLsm = bit(BPF_PROG_TYPE_LSM);
constexpr uint64_t kTracing = bit(BPF_PROG_TYPE_TRACING);
constexpr uint64_t kConntrack = kTc | kXdp;
constexpr uint64_t kCrypt = kSched | kXdp;
constexpr uint64_t kSkb = kSched | kTrace | kCgroup | bit(BPF_PROG_TYPE_SOCKET_FILTER) |
                          bit(BPF_PROG_TYPE_SK_SKB) | bit(BPF_PROG_TYPE_LWT_IN) |
                          bit(BPF_PROG_TYPE_LWT_OUT) | bit(BPF_PROG_TYPE_LWT_XMIT) |
                          bit(BPF_PROG_TYPE_LWT_SEG6LOCAL) | bit(kProgNetfilter);
constexpr uint64_t kKprobe = bit(BPF_PROG_TYPE_KPROBE);

constexpr uint16_t kGet = kKfAcquire | kKfRetNull, kGetRcu = kGet | kKfRcu, kPut = kKfRelease,
                   kNew = kKfIterNew, kNext = kKfIterNext | kKfRetNull, kEnd = kKfIterDestroy;
constexpr KfuncRule kPlain = KfuncRule::kNone;

// By name. A row is: name, flags, rule, program types.
constexpr KfuncSpec kFunctions[] = {
    {"bpf_arena_alloc_pages", kKfTrustedArgs | kKfSleepable, kPlain, kEvery},
    {"bpf_arena_free_pages", kKfTrustedArgs | kKfSleepable, kPlain, kEvery},
    {"bpf_arena_reserve_pages", kKfTrustedArgs | kKfSleepable, kPlain, kEvery},
    {"bpf_cast_to_kern_ctx", 0, KfuncRule::kContextCast, kEvery},
    {"bpf_cgroup_acquire", kGetRcu, kPlain, kMost},
    {"bpf_cgroup_ancestor", kGetRcu, kPlain, kMost},
    {"bpf_cgroup_from_id", kGet, kPlain, kMost},
    {"bpf_cgroup_read_xattr", kKfRcu, kPlain, kEvery},
    {"bpf_cgroup_release", kPut, kPlain, kMost},
    {"bpf_copy_from_user_dynptr", kKfSleepable, KfuncRule::kDynptrWrite, kEvery},
    {"bpf_copy_from_user_str", kKfSleepable, kPlain, kEvery},
    {"bpf_copy_from_user_str_dynptr", kKfSleepable, KfuncRule::kDynptrWrite, kEvery},
    {"bpf_copy_from_user_task_dynptr", kKfSleepable | kKfTrustedArgs, KfuncRule::kDynptrWrite,
     kEvery},
    {"bpf_copy_from_user_task_str", kKfSleepable, kPlain, kEvery},
    {"bpf_copy_from_user_task_str_dynptr", kKfSleepable | kKfTrustedArgs, KfuncRule::kDynptrWrite,
     kEvery},
    {"bpf_cpumask_acquire", kKfAcquire | kKfTrustedArgs, kPlain, kMasks},
    {"bpf_cpumask_and", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_any_and_distribute", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_any_distribute", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_clear", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_clear_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_copy", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_create", kGet, kPlain, kMasks},
    {"bpf_cpumask_empty", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_equal", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_first", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_first_and", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_first_zero", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_full", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_intersects", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_or", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_populate", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_release", kPut, kPlain, kMasks},
    {"bpf_cpumask_set_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_setall", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_subset", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_test_and_clear_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_test_and_set_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_test_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_weight", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_xor", kKfRcu, kPlain, kMasks},
    {"bpf_crypto_ctx_acquire", kGetRcu, kPlain, kSyscall},
    {"bpf_crypto_ctx_create", kGet | kKfSleepable, kPlain, kSyscall},
    {"bpf_crypto_ctx_release", kPut, kPlain, kSyscall},
    {"bpf_crypto_decrypt", kKfRcu, kPlain, kCrypt},
    {"bpf_crypto_encrypt", kKfRcu, kPlain, kCrypt},
    {"bpf_ct_change_status", kKfTrustedArgs, kPlain, kConntrack},
    {"bpf_ct_change_timeout", kKfTrustedArgs, kPlain, kConntrack},
    {"bpf_ct_insert_entry", kGet | kPut, kPlain, kConntrack},
    {"bpf_ct_release", kPut, kPlain, kConntrack},
    {"bpf_ct_set_nat_info", kKfTrustedArgs, kPlain, kConntrack},
    {"bpf_ct_set_status", kKfTrustedArgs, kPlain, kConntrack},
    {"bpf_ct_set_timeout", kKfTrustedArgs, kPlain, kConntrack},
    {"bpf_dynptr_adjust", 0, kPlain, kEvery},
    {"bpf_dynptr_clone", 0, KfuncRule::kDynptrClone, kEvery},
    {"bpf_dynptr_copy", 0, KfuncRule::kDynptrWrite, kEvery},
    {"bpf_dynptr_from_skb", kKfTrustedArgs, KfuncRule::kDynptrFromSkb, kSkb},
    {"bpf_dynptr_from_skb_meta", kKfTrustedArgs, KfuncRule::kDynptrFromSkbMeta, kSched},
    {"bpf_dynptr_from_xdp", 0, KfuncRule::kDynptrFromXdp, kXdp},
    {"bpf_dynptr_is_null", 0, kPlain, kEvery},
    {"bpf_dynptr_is_rdonly", 0, kPlain, kEvery},
    {"bpf_dynptr_memset", 0, KfuncRule::kDynptrWrite, kEvery},
    {"bpf_dynptr_size", 0, kPlain, kEvery},
    {"bpf_dynptr_slice", kKfRetNull, KfuncRule::kDynptrSlice, kEvery},
    {"bpf_dynptr_slice_rdwr", kKfRetNull, KfuncRule::kDynptrSliceWrite, kEvery},
    {"bpf_get_dentry_xattr", kKfSleepable | kKfTrustedArgs, kPlain, kLsm},
    {"bpf_get_file_xattr", kKfSleepable | kKfTrustedArgs, kPlain, kLsm},
    {"bpf_get_kmem_cache", kKfRetNull, KfuncRule::kUntrusted, kEvery},
    {"bpf_get_task_exe_file", kGet | kKfTrustedArgs, kPlain, kLsm},
    {"bpf_iter_bits_destroy", kEnd, kPlain, kEvery},
    {"bpf_iter_bits_new", kNew, kPlain, kEvery},
    {"bpf_iter_bits_next", kNext, kPlain, kEvery},
    {"bpf_iter_css_destroy", kEnd, kPlain, kEvery},
    {"bpf_iter_css_new", kNew | kKfTrustedArgs | kKfRcuProtected, kPlain, kEvery},
    {"bpf_iter_css_next", kNext, kPlain, kEvery},
    {"bpf_iter_css_task_destroy", kEnd, kPlain, kEvery},
    {"bpf_iter_css_task_new", kNew | kKfTrustedArgs, KfuncRule::kCssTask, kEvery},
    {"bpf_iter_css_task_next", kNext, kPlain, kEvery},
    {"bpf_iter_dmabuf_destroy", kEnd | kKfSleepable, kPlain, kEvery},
    {"bpf_iter_dmabuf_new", kNew | kKfSleepable, kPlain, kEvery},
    {"bpf_iter_dmabuf_next", kNext | kKfSleepable, kPlain, kEvery},
    {"bpf_iter_kmem_cache_destroy", kEnd | kKfSleepable, kPlain, kEvery},
    {"bpf_iter_kmem_cache_new", kNew | kKfSleepable, kPlain, kEvery},
    {"bpf_iter_kmem_cache_next", kNext | kKfSleepable, kPlain, kEvery},
    {"bpf_iter_num_destroy", kEnd | kKfUnderLock, kPlain, kEvery},
    {"bpf_iter_num_new", kNew | kKfUnderLock, kPlain, kEvery},
    {"bpf_iter_num_next", kNext | kKfUnderLock, kPlain, kEvery},
    {"bpf_iter_task_destroy", kEnd, kPlain, kEvery},
    {"bpf_iter_task_new", kNew | kKfTrustedArgs | kKfRcuProtected, kPlain, kEvery},
    {"bpf_iter_task_next", kNext, kPlain, kEvery},
    {"bpf_iter_task_vma_destroy", kEnd, kPlain, kEvery},
    {"bpf_iter_task_vma_new", kNew | kKfRcu, kPlain, kEvery},
    {"bpf_iter_task_vma_next", kNext, kPlain, kEvery},
    {"bpf_key_put", kPut, kPlain, kMost},
    {"bpf_kfunc_call_memb_release", kPut, kPlain, kTc | kSyscall | kTrace},
    {"bpf_kfunc_call_test_release", kPut, kPlain, kTc | kSyscall | kTrace},
    {"bpf_list_back", kKfRetNull | kKfUnderLock, KfuncRule::kListLook, kMost},
    {"bpf_list_front", kKfRetNull | kKfUnderLock, KfuncRule::kListLook, kMost},
    {"bpf_list_pop_back", kGet | kKfUnderLock, KfuncRule::kListPop, kMost},
    {"bpf_list_pop_front", kGet | kKfUnderLock, KfuncRule::kListPop, kMost},
    {"bpf_list_push_back_impl", kKfUnderLock, KfuncRule::kListPush, kMost},
    {"bpf_list_push_front_impl", kKfUnderLock, KfuncRule::kListPush, kMost},
    {"bpf_local_irq_restore", 0, KfuncRule::kIrqRestore, kEvery},
    {"bpf_local_irq_save", 0, KfuncRule::kIrqSave, kEvery},
    {"bpf_lookup_system_key", kGet, kPlain, kMost},
    {"bpf_lookup_user_key", kGet | kKfSleepable, kPlain, kMost},
    {"bpf_map_sum_elem_count", kKfTrustedArgs, kPlain, kEvery},
    {"bpf_obj_drop_impl", kPut, kPlain, kMost},
    {"bpf_obj_new_impl", kGet, KfuncRule::kObjectNew, kMost},
    {"bpf_path_d_path", kKfTrustedArgs, kPlain, kLsm},
    {"bpf_percpu_obj_drop_impl", kPut, KfuncRule::kPerCpuDrop, kMost},
    {"bpf_percpu_obj_new_impl", kGet, KfuncRule::kPerCpuNew, kMost},
    {"bpf_preempt_disable", 0, KfuncRule::kPreemptDisable, kEvery},
    {"bpf_preempt_enable", 0, KfuncRule::kPreemptEnable, kEvery},
    {"bpf_probe_read_kernel_dynptr", 0, KfuncRule::kDynptrWrite, kEvery},
    {"bpf_probe_read_kernel_str_dynptr", 0, KfuncRule::kDynptrWrite, kEvery},
    {"bpf_probe_read_user_dynptr", 0, KfuncRule::kDynptrWrite, kEvery},
    {"bpf_probe_read_user_str_dynptr", 0, KfuncRule::kDynptrWrite, kEvery},
    {"bpf_put_file", kPut, kPlain, kLsm},
    {"bpf_rbtree_add_impl", kKfUnderLock, KfuncRule::kTreeAdd, kMost},
    {"bpf_rbtree_first", kKfRetNull | kKfUnderLock, KfuncRule::kTreeLook, kMost},
    {"bpf_rbtree_left", kKfRetNull | kKfUnderLock, KfuncRule::kTreeStep, kMost},
    {"bpf_rbtree_remove", kGet | kKfUnderLock, KfuncRule::kTreeRemove, kMost},
    {"bpf_rbtree_right", kKfRetNull | kKfUnderLock, KfuncRule::kTreeStep, kMost},
    {"bpf_rbtree_root", kKfRetNull | kKfUnderLock, KfuncRule::kTreeLook, kMost},
    {"bpf_rcu_read_lock", 0, KfuncRule::kRcuLock, kEvery},
    {"bpf_rcu_read_unlock", 0, KfuncRule::kRcuUnlock, kEvery},
    {"bpf_rdonly_cast", 0, KfuncRule::kReadOnlyCast, kEvery},
    {"bpf_refcount_acquire_impl", kGetRcu | kKfUnderLock, KfuncRule::kObjectShare, kMost},
    {"bpf_remove_dentry_xattr", kKfSleepable | kKfTrustedArgs, kPlain, kLsm},
    {"bpf_send_signal_task", kKfTrustedArgs, kPlain, kMost},
    {"bpf_session_cookie", 0, KfuncRule::kSessionCookie, kKprobe},
    {"bpf_session_is_return", 0, KfuncRule::kSession, kKprobe},
    {"bpf_set_dentry_xattr", kKfSleepable | kKfTrustedArgs, kPlain, kLsm},
    {"bpf_sk_assign_tcp_reqsk", kKfTrustedArgs, kPlain, kTc},
    {"bpf_skb_ct_alloc", kGet, kPlain, kConntrack},
    {"bpf_skb_ct_lookup", kGet, kPlain, kConntrack},
    {"bpf_sock_addr_set_sun_path", 0, kPlain, kCgroup},
    {"bpf_sock_destroy", kKfTrustedArgs, KfuncRule::kIterOnly, kTracing},
    {"bpf_sock_ops_enable_tx_tstamp", kKfTrustedArgs, kPlain, kCgroup},
    {"bpf_strcasecmp", 0, kPlain, kEvery},
    {"bpf_strchr", 0, kPlain, kEvery},
    {"bpf_strchrnul", 0, kPlain, kEvery},
    {"bpf_strcmp", 0, kPlain, kEvery},
    {"bpf_strcspn", 0, kPlain, kEvery},
    {"bpf_stream_vprintk_impl", kKfTrustedArgs, kPlain, kEvery},
    {"bpf_strlen", 0, kPlain, kEvery},
    {"bpf_strnchr", 0, kPlain, kEvery},
    {"bpf_strnlen", 0, kPlain, kEvery},
    {"bpf_strnstr", 0, kPlain, kEvery},
    {"bpf_strrchr", 0, kPlain, kEvery},
    {"bpf_strspn", 0, kPlain, kEvery},
    {"bpf_strstr", 0, kPlain, kEvery},
    {"bpf_task_acquire", kGetRcu, kPlain, kMost},
    {"bpf_task_from_pid", kGet, kPlain, kMost},
    {"bpf_task_from_vpid", kGet, kPlain, kMost},
    {"bpf_task_get_cgroup1", kGetRcu, kPlain, kMost},
    {"bpf_task_release", kPut, kPlain, kMost},
    {"bpf_task_under_cgroup", kKfRcu, kPlain, kMost},
    {"bpf_throw", 0, KfuncRule::kThrow, kMost},
    {"bpf_xdp_ct_alloc", kGet, kPlain, kConntrack},
    {"bpf_xdp_ct_lookup", kGet, kPlain, kConntrack},
    {"bpf_xdp_get_xfrm_state", kGet, kPlain, kXdp},
    {"bpf_xdp_pull_data", kKfChangesPacket, kPlain, kXdp},
    {"bpf_xdp_xfrm_state_release", kPut, kPlain, kXdp},
    {"css_rstat_flush", kKfSleepable, kPlain, kTrace},
    {"css_rstat_updated", 0, kPlain, kTrace},
};
static_assert(std::is_sorted(std::begin(kFunctions), std::end(kFunctions),
                             [](const KfuncSpec& a, const KfuncSpec& b) {
                               return a.name < b.name;
                             }));

}  // namespace

const KfuncSpec* find_kfunc_spec(std::string_view name) {
  const auto* at = std::lower_bound(
      std::begin(kFunctions), std::end(kFunctions), name,
      [](const KfuncSpec& spec, std::string_view wanted) { return spec.name < wanted; });
  return at != std::end(kFunctions) && at->name == name ? at : nullptr;
}
uint32_t kfunc_spec_count() { return static_cast<uint32_t>(std::size(kFunctions)); }
const KfuncSpec& kfunc_spec_at(uint32_t index) { return kFunctions[index]; }

}  // namespace bpftime
