// What object_test reads: every kind of relocation once.
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct task_struct {
  int pid;
} __attribute__((preserve_access_index));
struct no_such_struct {
  int x;
} __attribute__((preserve_access_index));

struct value {
  struct bpf_spin_lock lock;
  int count;
};
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16);
  __type(key, int);
  __type(value, struct value);
} counts SEC(".maps");

struct inner {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, int);
  __type(value, long);
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 4);
  __type(key, int);
  __array(values, struct inner);
} outer SEC(".maps");

const volatile int threshold = 7;
long total = 1;

static __attribute__((noinline)) int twice(int x) { return x * 2 + threshold; }

SEC("uprobe")
int count_it(void* ctx) {
  int key = 1;
  struct value* value = bpf_map_lookup_elem(&counts, &key);
  total += twice(key);
  bpf_map_lookup_elem(&outer, &key);
  return value != 0;
}

SEC("?raw_tp/sys_enter")
int by_core(void* ctx) {
  struct task_struct* task = (void*)bpf_get_current_task();
  return BPF_CORE_READ(task, pid);
}

SEC("nonsense/of/ours")
int unknown_section(void* ctx) { return 0; }

SEC("tracepoint/x/y")
int never_there(struct no_such_struct* ctx) { return ctx->x; }

char LICENSE[] SEC("license") = "Dual MIT/GPL";
