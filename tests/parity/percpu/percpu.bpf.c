// Counts each hit in every way that per-CPU data allows, always by a plain add.
// clang-format off: bpf_helpers.h needs the types of linux/bpf.h before it
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
// clang-format on

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 3);
  __type(key, __u32);
  __type(value, __u64);
} percpu_array SEC(".maps");

#define PERCPU_HASH(name, key_type)         \
  struct {                                  \
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH); \
    __uint(max_entries, 16);                \
    __type(key, key_type);                  \
    __type(value, struct count);            \
  } name SEC(".maps")
struct count {
  __u64 plain;
  __u32 half, padding[2];  // 20 bytes: padded to 24 in bpf(2)
};
PERCPU_HASH(by_u32, __u32);
PERCPU_HASH(by_u64, __u64);
struct wide {
  __u64 low, high;
};
PERCPU_HASH(by_wide, struct wide);

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4096);
  __type(key, __u32);
  __type(value, __u64);
} by_cpu SEC(".maps");

#define COUNT(map, key)                                     \
  do {                                                      \
    struct count* there = bpf_map_lookup_elem(&map, &key);  \
    if (there == 0) {                                       \
      struct count none = {};                               \
      bpf_map_update_elem(&map, &key, &none, BPF_NOEXIST);  \
      there = bpf_map_lookup_elem(&map, &key);              \
    }                                                       \
    if (there != 0) {                                       \
      there->plain += 1;                                    \
      there->half += 2;                                     \
    }                                                       \
  } while (0)

SEC("uprobe")
int on_call(struct pt_regs* regs) {
  __u32 first = 0, second = 2, cpu = bpf_get_smp_processor_id();
  __u64* sum = bpf_map_lookup_elem(&percpu_array, &first);
  if (sum != 0) {
    *sum += 1;
  }
  // Read, and written back by the helper.
  sum = bpf_map_lookup_elem(&percpu_array, &second);
  if (sum != 0) {
    __u64 more = *sum + 1;
    bpf_map_update_elem(&percpu_array, &second, &more, BPF_EXIST);
  }
  __u64* mine = bpf_map_lookup_percpu_elem(&percpu_array, &first, cpu);
  sum = bpf_map_lookup_elem(&percpu_array, &first);
  __u32 other = 1;
  if (mine != sum && (sum = bpf_map_lookup_elem(&percpu_array, &other)) != 0) {
    *sum += 1;  // never
  }
  sum = bpf_map_lookup_elem(&by_cpu, &cpu);
  if (sum != 0) {
    *sum += 1;
  }
  __u32 key = PT_REGS_PARM1(regs) % 5;
  __u64 key8 = key;
  struct wide key16 = {.low = key, .high = 7};
  COUNT(by_u32, key);
  COUNT(by_u64, key8);
  COUNT(by_wide, key16);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
