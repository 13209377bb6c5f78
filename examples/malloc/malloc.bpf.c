// Counts calls of malloc by process. Only uapi headers and libbpf's helpers: no CO-RE, no kernel
// types.
// clang-format off: bpf_helpers.h needs the types of linux/bpf.h before it
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
// clang-format on

// Set before loading; frozen by libbpf.
const volatile __u64 smallest_bytes = 0;

__u64 total_calls = 0;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 10240);
  __type(key, __u32);
  __type(value, __u64);
} calls_by_pid SEC(".maps");

SEC("uprobe")
int count_malloc(struct pt_regs* regs) {
  if (PT_REGS_PARM1(regs) < smallest_bytes) {
    return 0;
  }
  __u32 pid = bpf_get_current_pid_tgid() >> 32;
  __u64* calls = bpf_map_lookup_elem(&calls_by_pid, &pid);
  if (calls == 0) {
    // Two threads may come here at once: the one that is too late counts below like everyone else.
    __u64 zero = 0;
    bpf_map_update_elem(&calls_by_pid, &pid, &zero, BPF_NOEXIST);
    calls = bpf_map_lookup_elem(&calls_by_pid, &pid);
    if (calls == 0) {
      return 0;  // the map is full
    }
  }
  __sync_fetch_and_add(calls, 1);
  __sync_fetch_and_add(&total_calls, 1);
  return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
