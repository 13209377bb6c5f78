#include "helpers/all.hpp"
#include "helpers/helpers.hpp"
#include "spec/spec.hpp"

namespace bpftime {

// In the order of spec's table; helpers_test compares the two.
// clang-format off: one a line
constinit const Helper kHelpers[] = {
    {1, helper::map_lookup_elem},
    {2, helper::map_update_elem},
    {3, helper::map_delete_elem},
    {4, helper::probe_read},
    {5, helper::ktime_get_ns},
    {6, helper::trace_printk},
    {7, helper::get_prandom_u32},
    {8, helper::get_smp_processor_id},
    {12, helper::tail_call},
    {14, helper::get_current_pid_tgid},
    {15, helper::get_current_uid_gid},
    {16, helper::get_current_comm},
    {25, helper::perf_event_output},
    {27, helper::get_stackid},
    {35, helper::get_current_task},
    {36, helper::probe_write_user},
    {37, helper::current_task_under_cgroup},
    {45, helper::probe_read_str},
    {67, helper::get_stack},
    {80, helper::get_current_cgroup_id},
    {87, helper::map_push_elem},
    {88, helper::map_pop_elem},
    {89, helper::map_peek_elem},
    {105, helper::strtol},
    {106, helper::strtoul},
    {109, helper::send_signal},
    {112, helper::probe_read},
    {113, helper::probe_read},
    {114, helper::probe_read_str},
    {115, helper::probe_read_str},
    {117, helper::send_signal_thread},
    {120, helper::get_ns_current_pid_tgid},
    {125, helper::ktime_get_boot_ns},
    {130, helper::ringbuf_output},
    {131, helper::ringbuf_reserve},
    {132, helper::ringbuf_submit},
    {133, helper::ringbuf_discard},
    {134, helper::ringbuf_query},
    {158, helper::get_current_task},
    {160, helper::ktime_get_coarse_ns},
    {164, helper::for_each_map_elem},
    {165, helper::snprintf},
    {173, helper::get_func_ip},
    {174, helper::get_attach_cookie},
    {177, helper::trace_vprintk},
    {181, helper::loop},
    {182, helper::strncmp},
    {183, helper::get_func_arg},
    {184, helper::get_func_ret},
    {185, helper::get_func_arg_cnt},
    {195, helper::map_lookup_percpu_elem},
    {208, helper::ktime_get_tai_ns},
    {kKfuncSessionIsReturn, helper::session_is_return},
    {kKfuncSessionCookie, helper::session_cookie},
};
// clang-format on
constinit const uint32_t kHelperCount = sizeof kHelpers / sizeof kHelpers[0];

HelperFn find_helper_function(uint32_t id) {
  for (const Helper& one : kHelpers) {
    if (one.id == id) {
      return one.function;
    }
  }
  return nullptr;
}

}  // namespace bpftime
