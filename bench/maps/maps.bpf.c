// The kernel's side of bench_maps: 1000 operations a run, keys from an LCG, inside bpf_loop.
#include <linux/bpf.h>
// its types come first
#include <bpf/bpf_helpers.h>

#define SIZE 1024
struct key16 {
  __u64 low, high;
};
#define HASH(name, key_type)         \
  struct {                           \
    __uint(type, BPF_MAP_TYPE_HASH); \
    __uint(max_entries, SIZE);       \
    __type(key, key_type);           \
    __type(value, __u64);            \
  } name SEC(".maps")
HASH(hash4, __u32);
HASH(hash8, __u64);
HASH(hash16, struct key16);

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 20);
} ring SEC(".maps");

static __u32 state = 1;
static __u32 next(void) {
  state = state * 1664525 + 1013904223;
  return (state >> 8) % SIZE;
}

#define RUN(name, ...)                                  \
  static long step_##name(__u32 index, void* context) { \
    __VA_ARGS__;                                        \
    return 0;                                           \
  }                                                     \
  SEC("tc") int name(struct __sk_buff* context) {       \
    bpf_loop(1000, step_##name, 0, 0);                  \
    return 0;                                           \
  }

__u64 sum;
RUN(empty, sum += next())
#define OPS(size, key_init)                                                                    \
  RUN(lookup_##size, key_init; __u64* value = bpf_map_lookup_elem(&hash##size, &key);          \
      if (value) sum += *value)                                                                \
  RUN(update_##size, key_init; __u64 value = 1;                                                \
      bpf_map_update_elem(&hash##size, &key, &value, BPF_ANY))                                 \
  RUN(insert_delete_##size, key_init; __u64 value = 1; bpf_map_delete_elem(&hash##size, &key); \
      bpf_map_update_elem(&hash##size, &key, &value, BPF_ANY))
OPS(4, __u32 key = next())
OPS(8, __u64 key = next())
OPS(16, struct key16 key = {next()})

RUN(
    reserve_submit, __u64* sample = bpf_ringbuf_reserve(&ring, 64, 0); if (sample) {
      *sample = next();
      bpf_ringbuf_submit(sample, 0);
    })

char _license[] SEC("license") = "GPL";
