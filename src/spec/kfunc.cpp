#include "spec/kfunc.hpp"

#include <linux/bpf.h>

#include <algorithm>
#include <iterator>

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
constexpr uint64_t kKprobe = bit(BPF_PROG_TYPE_KPROBE);

constexpr uint16_t kGet = kKfAcquire | kKfRetNull, kGetRcu = kGet | kKfRcu, kPut = kKfRelease,
                   kNew = kKfIterNew, kNext = kKfIterNext | kKfRetNull, kEnd = kKfIterDestroy;
constexpr KfuncRule kPlain = KfuncRule::kNone;

// By name. A row is: name, flags, rule, program types.
constexpr KfuncSpec kFunctions[] = {
    {"bpf_cgroup_acquire", kGetRcu, kPlain, kMost},
    {"bpf_cgroup_ancestor", kGetRcu, kPlain, kMost},
    {"bpf_cgroup_from_id", kGet, kPlain, kMost},
    {"bpf_cgroup_release", kPut, kPlain, kMost},
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
    {"bpf_cpumask_release", kPut, kPlain, kMasks},
    {"bpf_cpumask_set_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_setall", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_subset", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_test_and_clear_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_test_and_set_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_test_cpu", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_weight", kKfRcu, kPlain, kMasks},
    {"bpf_cpumask_xor", kKfRcu, kPlain, kMasks},
    {"bpf_iter_num_destroy", kEnd | kKfUnderLock, kPlain, kEvery},
    {"bpf_iter_num_new", kNew | kKfUnderLock, kPlain, kEvery},
    {"bpf_iter_num_next", kNext | kKfUnderLock, kPlain, kEvery},
    {"bpf_list_back", kKfRetNull | kKfUnderLock, KfuncRule::kListLook, kMost},
    {"bpf_list_front", kKfRetNull | kKfUnderLock, KfuncRule::kListLook, kMost},
    {"bpf_list_pop_back", kGet | kKfUnderLock, KfuncRule::kListPop, kMost},
    {"bpf_list_pop_front", kGet | kKfUnderLock, KfuncRule::kListPop, kMost},
    {"bpf_list_push_back_impl", kKfUnderLock, KfuncRule::kListPush, kMost},
    {"bpf_list_push_front_impl", kKfUnderLock, KfuncRule::kListPush, kMost},
    {"bpf_obj_drop_impl", kPut, kPlain, kMost},
    {"bpf_obj_new_impl", kGet, KfuncRule::kObjectNew, kMost},
    {"bpf_percpu_obj_drop_impl", kPut, KfuncRule::kPerCpuDrop, kMost},
    {"bpf_percpu_obj_new_impl", kGet, KfuncRule::kPerCpuNew, kMost},
    {"bpf_preempt_disable", 0, KfuncRule::kPreemptDisable, kEvery},
    {"bpf_preempt_enable", 0, KfuncRule::kPreemptEnable, kEvery},
    {"bpf_rbtree_add_impl", kKfUnderLock, KfuncRule::kTreeAdd, kMost},
    {"bpf_rbtree_first", kKfRetNull | kKfUnderLock, KfuncRule::kTreeLook, kMost},
    {"bpf_rbtree_left", kKfRetNull | kKfUnderLock, KfuncRule::kTreeStep, kMost},
    {"bpf_rbtree_remove", kGet | kKfUnderLock, KfuncRule::kTreeRemove, kMost},
    {"bpf_rbtree_right", kKfRetNull | kKfUnderLock, KfuncRule::kTreeStep, kMost},
    {"bpf_rbtree_root", kKfRetNull | kKfUnderLock, KfuncRule::kTreeLook, kMost},
    {"bpf_rcu_read_lock", 0, KfuncRule::kRcuLock, kEvery},
    {"bpf_rcu_read_unlock", 0, KfuncRule::kRcuUnlock, kEvery},
    {"bpf_refcount_acquire_impl", kGetRcu | kKfUnderLock, KfuncRule::kObjectShare, kMost},
    {"bpf_session_cookie", 0, KfuncRule::kSessionCookie, kKprobe},
    {"bpf_session_is_return", 0, KfuncRule::kSession, kKprobe},
    {"bpf_task_acquire", kGetRcu, kPlain, kMost},
    {"bpf_task_from_pid", kGet, kPlain, kMost},
    {"bpf_task_from_vpid", kGet, kPlain, kMost},
    {"bpf_task_get_cgroup1", kGetRcu, kPlain, kMost},
    {"bpf_task_release", kPut, kPlain, kMost},
    {"bpf_task_under_cgroup", kKfRcu, kPlain, kMost},
    {"bpf_throw", 0, KfuncRule::kThrow, kMost},
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
