// Every helper once, in one run; what each gave is left in .bss for the tool to print.
// clang-format off: bpf_helpers.h needs the types of linux/bpf.h before it
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
// clang-format on
#include "results.h"

const volatile __u64 from_rodata = 0;
__u64 from_data = 0x5eed;
struct results results;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4);
  __type(key, __u64);
  __type(value, __u64);
} hash SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u64);
} array SEC(".maps");

#define READ(index, helper, size, address)                                \
  do {                                                                    \
    __builtin_memset(results.bytes[index], '#', sizeof(results.bytes[0])); \
    results.read[index] = helper(results.bytes[index], size, address);     \
  } while (0)

SEC("uprobe")
int on_entry(struct pt_regs* regs) {
  const struct addresses* from = (void*)PT_REGS_PARM1(regs);
  struct addresses at = {};
  results.runs++;
  results.first_read = bpf_probe_read_user(&at, sizeof(at), from);
  results.pid_tgid = bpf_get_current_pid_tgid();
  results.uid_gid = bpf_get_current_uid_gid();
  results.comm_result = bpf_get_current_comm(results.comm, sizeof(results.comm));
  results.short_comm_result = bpf_get_current_comm(results.short_comm, sizeof(results.short_comm));
  results.ktime = bpf_ktime_get_ns();
  results.boot = bpf_ktime_get_boot_ns();
  results.random[0] = bpf_get_prandom_u32();
  results.random[1] = bpf_get_prandom_u32();
  results.random[2] = bpf_get_prandom_u32();
  results.cpu = bpf_get_smp_processor_id();
  results.func_ip = bpf_get_func_ip(regs);
  results.cookie = bpf_get_attach_cookie(regs);
  results.rodata = from_rodata;
  results.data = from_data;
  from_data++;

  READ(0, bpf_probe_read_user, 8, at.text);
  READ(1, bpf_probe_read_user, 16, at.nowhere);
  READ(2, bpf_probe_read_user, 16, at.page_end - 8);
  READ(3, bpf_probe_read_user_str, 16, at.text);
  READ(4, bpf_probe_read_user_str, 5, at.text);
  READ(5, bpf_probe_read_user_str, 16, at.nowhere);
  READ(6, bpf_probe_read_user_str, 16, at.empty);
  READ(7, bpf_probe_read_user_str, 16, at.page_end - 4);  // "abc" and its NUL end the page
  READ(8, bpf_probe_read_user_str, 16, at.no_nul_end - 3);  // goes on into nothing
  READ(9, bpf_probe_read_user_str, 1, at.text);
  READ(10, bpf_probe_read_user, 16, (void*)~7ULL);
  READ(11, bpf_probe_read_user_str, 16, (void*)0);
  READ(12, bpf_probe_read_user, 16, at.no_access);
  READ(13, bpf_probe_read_kernel, 16, (void*)0);
  READ(14, bpf_probe_read_kernel_str, 16, (void*)8);
  READ(15, bpf_probe_read_kernel, 8, &results.magic);
  READ(16, bpf_probe_read_kernel_str, 16, results.name);
  READ(17, bpf_probe_read, 8, at.text);
  READ(18, bpf_probe_read_str, 16, at.text);
  READ(19, bpf_probe_read, 8, at.nowhere);
  READ(20, bpf_probe_read_str, 8, at.nowhere);

  __u64 key = 1, value = 10, n = 0;
  results.map[n++] = bpf_map_lookup_elem(&hash, &key) != 0;
  results.map[n++] = bpf_map_update_elem(&hash, &key, &value, BPF_EXIST);
  results.map[n++] = bpf_map_update_elem(&hash, &key, &value, BPF_NOEXIST);
  results.map[n++] = bpf_map_update_elem(&hash, &key, &value, BPF_NOEXIST);
  value = 11;
  results.map[n++] = bpf_map_update_elem(&hash, &key, &value, BPF_EXIST);
  results.map[n++] = bpf_map_update_elem(&hash, &key, &value, 77);
  __u64* found = bpf_map_lookup_elem(&hash, &key);
  results.map[n++] = found != 0 ? *found : ~0ULL;
  for (__u64 k = 2; k < 7; k++) {  // the fifth does not fit
    results.map[n++] = bpf_map_update_elem(&hash, &k, &value, BPF_ANY);
  }
  results.map[n++] = bpf_map_delete_elem(&hash, &key);
  results.map[n++] = bpf_map_delete_elem(&hash, &key);
  __u32 index = 1, behind = 2;
  results.map[n++] = bpf_map_update_elem(&array, &index, &value, BPF_NOEXIST);
  results.map[n++] = bpf_map_update_elem(&array, &index, &value, BPF_EXIST);
  results.map[n++] = bpf_map_update_elem(&array, &behind, &value, BPF_ANY);
  results.map[n++] = bpf_map_delete_elem(&array, &index);
  results.map[n++] = bpf_map_lookup_elem(&array, &behind) != 0;
  found = bpf_map_lookup_elem(&array, &index);
  results.map[n++] = found != 0 ? *found : ~0ULL;

  static const char format[] = "helpers: %d %s %llx";
  results.printk[0] = bpf_trace_printk(format, sizeof(format), -5, at.text, 0xabcdefULL);
  static const char plain[] = "helpers: plain";
  results.printk[1] = bpf_trace_printk(plain, sizeof(plain));
  static const char wrong[] = "helpers: %f";
  results.printk[2] = bpf_trace_printk(wrong, sizeof(wrong), 1);
  results.printk[3] = bpf_printk("helpers: %u %x %lld %c %5d %%", 1, 255, -3LL, 'c', 42);
  return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs* regs) {
  results.returned = PT_REGS_RC(regs);
  results.return_func_ip = bpf_get_func_ip(regs);
  results.return_cookie = bpf_get_attach_cookie(regs);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
