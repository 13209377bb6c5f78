// Counts entries to and returns from a function, and sums first arguments and results.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct counts {
  __u64 entries, returns, arguments, results;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct counts);
} counts SEC(".maps");

const volatile int print_each = 0;

SEC("uprobe")
int on_entry(struct pt_regs* ctx) {
  __u32 zero = 0;
  struct counts* c = bpf_map_lookup_elem(&counts, &zero);
  if (c == 0) {
    return 0;
  }
  __sync_fetch_and_add(&c->entries, 1);
  __sync_fetch_and_add(&c->arguments, PT_REGS_PARM1(ctx));
  if (print_each) {
    bpf_printk("entry arg=%d", (int)PT_REGS_PARM1(ctx));
  }
  return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs* ctx) {
  __u32 zero = 0;
  struct counts* c = bpf_map_lookup_elem(&counts, &zero);
  if (c == 0) {
    return 0;
  }
  __sync_fetch_and_add(&c->returns, 1);
  __sync_fetch_and_add(&c->results, PT_REGS_RC(ctx));
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
