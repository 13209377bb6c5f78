// What a process says and hears through libssl, before it is encrypted and after. The buffer's address is known at the
// call, what is in it at the return.
// clang-format off: bpf_helpers.h needs the types of linux/bpf.h before it
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
// clang-format on

#include "sslsniff.h"

struct call {
  const void* buffer;
  const unsigned long* moved;  // where SSL_read_ex and SSL_write_ex say how many bytes, else null
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 10240);
  __type(key, __u64);
  __type(value, struct call);
} open_calls SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct event);
} scratch SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 16 << 20);
} events SEC(".maps");

__u64 lost = 0;

// A reader is woken when this much waits for it; it looks by itself from time to time.
static const __u64 kWakeBytes = 256 << 10;

static __always_inline int begin(const void* buffer, const void* moved) {
  const __u64 thread = bpf_get_current_pid_tgid();
  const struct call call = {.buffer = buffer, .moved = moved};
  bpf_map_update_elem(&open_calls, &thread, &call, BPF_ANY);
  return 0;
}

// How many bytes a call moved that answered `result`.
static __always_inline __u32 bytes_moved(const struct call* call, int result) {
  unsigned long bytes = 0;
  if (result <= 0) {
    return 0;
  }
  if (call->moved == 0) {
    return result;
  }
  bpf_probe_read_user(&bytes, sizeof(bytes), call->moved);
  return bytes;
}

static __always_inline void report(const void* buffer, __u32 bytes, enum direction direction) {
  const __u32 zero = 0;
  struct event* event = bpf_map_lookup_elem(&scratch, &zero);
  if (event == 0) {
    return;
  }
  const __u64 thread = bpf_get_current_pid_tgid();
  event->end_ns = bpf_ktime_get_ns();
  event->pid = thread >> 32;
  event->tid = (__u32)thread;
  event->bytes = bytes;
  event->direction = direction;
  bpf_get_current_comm(event->comm, sizeof(event->comm));
  __u32 copied = bytes < kMostBytes ? bytes : kMostBytes;
  if (bpf_probe_read_user(event->data, copied, buffer) != 0) {
    copied = 0;
  }
  event->copied = copied;
  const __u64 wake = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < kWakeBytes
                         ? BPF_RB_NO_WAKEUP
                         : BPF_RB_FORCE_WAKEUP;
  if (bpf_ringbuf_output(&events, event, __builtin_offsetof(struct event, data) + copied, wake) !=
      0) {
    __sync_fetch_and_add(&lost, 1);
  }
}

static __always_inline int end(int result, enum direction direction) {
  const __u64 thread = bpf_get_current_pid_tgid();
  struct call* open = bpf_map_lookup_elem(&open_calls, &thread);
  if (open == 0) {
    return 0;  // it was called before the probes were there
  }
  const struct call call = *open;
  bpf_map_delete_elem(&open_calls, &thread);
  const __u32 bytes = bytes_moved(&call, result);
  if (bytes != 0) {
    report(call.buffer, bytes, direction);
  }
  return 0;
}

SEC("uprobe")
int on_call(struct pt_regs* ctx) { return begin((const void*)PT_REGS_PARM2(ctx), 0); }

SEC("uprobe")
int on_call_ex(struct pt_regs* ctx) {
  return begin((const void*)PT_REGS_PARM2(ctx), (const void*)PT_REGS_PARM4(ctx));
}

SEC("uretprobe")
int on_read(struct pt_regs* ctx) { return end((int)PT_REGS_RC(ctx), kRead); }

SEC("uretprobe")
int on_write(struct pt_regs* ctx) { return end((int)PT_REGS_RC(ctx), kWrite); }

char LICENSE[] SEC("license") = "Dual MIT/GPL";
