// SPDX-License-Identifier: MIT
// Records of 1 to 4,096 bytes, copied from the producer's memory, into a ring buffer and into perf buffers.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "laps.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, kRingBytes);
} ring SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
  __uint(key_size, 4);
  __uint(value_size, 4);
} perf SEC(".maps");
struct room {
  char bytes[2 * kMostBytes];
};
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, struct room);
} rooms SEC(".maps");
// By producer: records that were taken, and those that found no room.
struct counts {
  __u64 ring, ring_full, perf, perf_full, unread;
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, kProducers);
  __type(key, __u32);
  __type(value, struct counts);
} told SEC(".maps");

static struct room* fetch(__u32 which, const void* from, __u32 size) {
  struct room* room = bpf_map_lookup_elem(&rooms, &which);
  if (room == NULL || bpf_probe_read_user(room->bytes, size, from) != 0) {
    return NULL;
  }
  return room;
}

SEC("uprobe")
int to_ring(struct pt_regs* ctx) {
  __u32 producer = (__u32)PT_REGS_PARM1(ctx);
  __u32 size = ((__u32)PT_REGS_PARM3(ctx) - 1) & (kMostBytes - 1);
  struct counts* counts = bpf_map_lookup_elem(&told, &producer);
  if (counts == NULL) {
    return 0;
  }
  struct room* room = fetch(0, (const void*)PT_REGS_PARM2(ctx), size + 1);
  if (room == NULL) {
    __sync_fetch_and_add(&counts->unread, 1);
    return 0;
  }
  if (bpf_ringbuf_output(&ring, room->bytes, size + 1, 0) == 0) {
    __sync_fetch_and_add(&counts->ring, 1);
  } else {
    __sync_fetch_and_add(&counts->ring_full, 1);
  }
  return 0;
}

SEC("uprobe")
int to_perf(struct pt_regs* ctx) {
  __u32 producer = (__u32)PT_REGS_PARM1(ctx);
  __u32 size = ((__u32)PT_REGS_PARM3(ctx) - 1) & (kMostBytes - 1);
  struct counts* counts = bpf_map_lookup_elem(&told, &producer);
  if (counts == NULL) {
    return 0;
  }
  struct room* room = fetch(1, (const void*)PT_REGS_PARM2(ctx), size + 1);
  if (room == NULL) {
    __sync_fetch_and_add(&counts->unread, 1);
    return 0;
  }
  if (bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, room->bytes, size + 1) == 0) {
    __sync_fetch_and_add(&counts->perf, 1);
  } else {
    __sync_fetch_and_add(&counts->perf_full, 1);
  }
  return 0;
}
