// Counts the values that a function returns. The one field of the context that matters is found by CO-RE, as tools of
// the kernel's own headers (vmlinux.h) do it.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct pt_regs {
  unsigned long ax;
} __attribute__((preserve_access_index));

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16384);
  __type(key, long);
  __type(value, __u64);
} values SEC(".maps");

__u64 lost = 0;

SEC("uretprobe")
int on_return(struct pt_regs* ctx) {
  const long value = (long)ctx->ax;
  const __u64 zero = 0;
  __u64* count = bpf_map_lookup_elem(&values, &value);
  if (count == 0) {
    // Of two threads that come here at once one is too late, and counts below as well.
    bpf_map_update_elem(&values, &value, &zero, BPF_NOEXIST);
    count = bpf_map_lookup_elem(&values, &value);
  }
  if (count == 0) {
    __sync_fetch_and_add(&lost, 1);
    return 0;
  }
  __sync_fetch_and_add(count, 1);
  return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
