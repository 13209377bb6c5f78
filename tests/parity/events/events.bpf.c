// clang-format off: bpf_helpers.h needs the types of linux/bpf.h before it
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
// clang-format on
#include "events.h"

struct ask ask;
long result;
unsigned char data[MOST_BYTES * 2];

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, RING_BYTES);
} ring SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
  __uint(key_size, 4);
  __uint(value_size, 4);
} perf SEC(".maps");

SEC("uprobe")
int on_hit(struct pt_regs* regs) {
  const unsigned size = ask.size & (MOST_BYTES * 2 - 1);
  switch (ask.operation) {
    case kRingOutput:
      result = size <= MOST_BYTES ? bpf_ringbuf_output(&ring, data, size, ask.flags) : -1;
      break;
    case kRingReserve:
    case kRingDiscard: {
      unsigned long long* const sample = bpf_ringbuf_reserve(&ring, 64, 0);
      result = sample != NULL;
      if (sample == NULL) {
        break;
      }
      for (int i = 0; i < 8; i++) {
        sample[i] = ask.number + i;
      }
      if (ask.operation == kRingDiscard) {
        bpf_ringbuf_discard(sample, ask.flags);
      } else {
        bpf_ringbuf_submit(sample, ask.flags);
      }
      break;
    }
    case kRingQuery:
      result = bpf_ringbuf_query(&ring, size);
      break;
    case kPerfOutput:
      result = size <= MOST_BYTES ? bpf_perf_event_output(regs, &perf, ask.flags, data, size) : -1;
      break;
  }
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
