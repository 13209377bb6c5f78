// Times each command's own function. Which command it is says the probe's cookie.
// clang-format off: bpf_helpers.h needs the types of linux/bpf.h before it
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
// clang-format on

#include "redis-latency.h"

struct call {
  __u32 thread, command;  // a transaction's function calls those of its commands
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 10240);
  __type(key, struct call);
  __type(value, __u64);
} begins SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, kMostCommands);
  __type(key, __u32);
  __type(value, struct latency);
} latencies SEC(".maps");

static __always_inline struct call this_call(void* ctx) {
  const struct call call = {.thread = (__u32)bpf_get_current_pid_tgid(),
                            .command = (__u32)bpf_get_attach_cookie(ctx)};
  return call;
}

static __always_inline __u32 log2_of(__u64 value) {
  __u32 log = 0;
  for (__u32 step = 32; step != 0; step >>= 1) {
    if (value >> step != 0) {
      value >>= step;
      log += step;
    }
  }
  return log;
}

SEC("uprobe")
int on_entry(struct pt_regs* ctx) {
  const struct call call = this_call(ctx);
  const __u64 now = bpf_ktime_get_ns();
  bpf_map_update_elem(&begins, &call, &now, BPF_ANY);
  return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs* ctx) {
  const struct call call = this_call(ctx);
  const __u64* begin = bpf_map_lookup_elem(&begins, &call);
  struct latency* latency = bpf_map_lookup_elem(&latencies, &call.command);
  if (begin == 0 || latency == 0) {
    return 0;  // it began before the probes were there
  }
  const __u64 took_ns = bpf_ktime_get_ns() - *begin;
  bpf_map_delete_elem(&begins, &call);
  __u32 slot = log2_of(took_ns);
  if (slot >= kSlots) {
    slot = kSlots - 1;
  }
  __sync_fetch_and_add(&latency->count, 1);
  __sync_fetch_and_add(&latency->total_ns, took_ns);
  __sync_fetch_and_add(&latency->slots[slot], 1);
  return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
