// Helpers, by file. Home: injected *, helpers only; the prototypes stand in spec. The sixth
// argument is a ProbeHit*.
#pragma once
#include "helpers/helpers.hpp"

#define BPFTIME_HELPER(name) \
  uint64_t name(uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, Hit* hit)

namespace bpftime::helper {

BPFTIME_HELPER(map_lookup_elem);
BPFTIME_HELPER(map_lookup_percpu_elem);
BPFTIME_HELPER(map_update_elem);
BPFTIME_HELPER(map_delete_elem);
BPFTIME_HELPER(map_push_elem);
BPFTIME_HELPER(map_pop_elem);
BPFTIME_HELPER(map_peek_elem);
BPFTIME_HELPER(tail_call);
BPFTIME_HELPER(probe_read);
BPFTIME_HELPER(probe_read_str);
BPFTIME_HELPER(ktime_get_ns);
BPFTIME_HELPER(ktime_get_boot_ns);
BPFTIME_HELPER(ktime_get_coarse_ns);
BPFTIME_HELPER(trace_printk);
BPFTIME_HELPER(trace_vprintk);
BPFTIME_HELPER(get_prandom_u32);
BPFTIME_HELPER(get_smp_processor_id);
BPFTIME_HELPER(get_current_pid_tgid);
BPFTIME_HELPER(get_current_uid_gid);
BPFTIME_HELPER(get_current_cgroup_id);
BPFTIME_HELPER(get_current_comm);
BPFTIME_HELPER(current_task_under_cgroup);
BPFTIME_HELPER(get_stackid);
BPFTIME_HELPER(get_current_task);
BPFTIME_HELPER(probe_write_user);
BPFTIME_HELPER(get_stack);
BPFTIME_HELPER(strtol);
BPFTIME_HELPER(strtoul);
BPFTIME_HELPER(send_signal);
BPFTIME_HELPER(send_signal_thread);
BPFTIME_HELPER(get_ns_current_pid_tgid);
BPFTIME_HELPER(for_each_map_elem);
BPFTIME_HELPER(snprintf);
BPFTIME_HELPER(loop);
BPFTIME_HELPER(strncmp);
BPFTIME_HELPER(get_func_arg);
BPFTIME_HELPER(get_func_ret);
BPFTIME_HELPER(get_func_arg_cnt);
BPFTIME_HELPER(ktime_get_tai_ns);
BPFTIME_HELPER(get_func_ip);
BPFTIME_HELPER(get_attach_cookie);
BPFTIME_HELPER(session_is_return);
BPFTIME_HELPER(session_cookie);
BPFTIME_HELPER(perf_event_output);
BPFTIME_HELPER(ringbuf_output);
BPFTIME_HELPER(ringbuf_reserve);
BPFTIME_HELPER(ringbuf_submit);
BPFTIME_HELPER(ringbuf_discard);
BPFTIME_HELPER(ringbuf_query);

inline ProbeHit& probe(Hit* hit) { return *static_cast<ProbeHit*>(hit); }

}  // namespace bpftime::helper
