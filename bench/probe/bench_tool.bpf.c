// The programs of the probe/* scenarios.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 8);
  __type(key, __u32);
  __type(value, __u64);
} array SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, __u64);
} hash SEC(".maps");

SEC("uprobe")
int empty(void* ctx) {
  (void)ctx;
  return 0;
}

SEC("uprobe")
int array_inc(void* ctx) {
  __u32 key = 0;
  __u64* value = bpf_map_lookup_elem(&array, &key);
  (void)ctx;
  if (value != 0) {
    __sync_fetch_and_add(value, 1);
  }
  return 0;
}

// FNV-1a over the first argument, twice.
SEC("uprobe")
int loop_16(struct pt_regs* ctx) {
  const __u64 number = PT_REGS_PARM1(ctx);
  __u64 hash = 0xcbf29ce484222325;
#pragma clang loop unroll(disable)
  for (int i = 0; i < 16; i++) {
    hash = (hash ^ (number >> (i % 8 * 8) & 0xff)) * 0x100000001b3;
  }
  return hash == 0;
}

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 8);
  __type(key, __u32);
  __type(value, __u64);
} percpu_array SEC(".maps");

SEC("uprobe")
int percpu_inc(void* ctx) {
  __u32 key = 0;
  __u64* value = bpf_map_lookup_elem(&percpu_array, &key);
  (void)ctx;
  if (value != 0) {
    *value += 1;
  }
  return 0;
}

struct {
  __uint(type, BPF_MAP_TYPE_STACK_TRACE);
  __uint(max_entries, 1024);
  __uint(key_size, 4);
  __uint(value_size, 16 * 8);
} stacks SEC(".maps");

SEC("uprobe")
int stack_16(void* ctx) {
  bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
  return 0;
}

SEC("uprobe")
int hash_inc(void* ctx) {
  __u32 key = 7;
  __u64* value = bpf_map_lookup_elem(&hash, &key);
  (void)ctx;
  if (value != 0) {
    __sync_fetch_and_add(value, 1);
  }
  return 0;
}

SEC("uprobe")
int read_user_16(struct pt_regs* ctx) {
  __u64 words[2];
  bpf_probe_read_user(words, sizeof(words), (const void*)PT_REGS_PARM2(ctx));
  return 0;
}

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4 << 20);
} ring SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
  __uint(key_size, 4);
  __uint(value_size, 4);
} perf SEC(".maps");

__u64 no_room;  // records: a figure with some is none

SEC("uprobe")
int ringbuf_64(void* ctx) {
  __u64 sample[8] = {};
  (void)ctx;
  if (bpf_ringbuf_output(&ring, sample, sizeof(sample), 0) != 0) {
    no_room++;
  }
  return 0;
}

SEC("uprobe")
int perfbuf_64(void* ctx) {
  __u64 sample[8] = {};
  if (bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, sample, sizeof(sample)) != 0) {
    no_room++;
  }
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
