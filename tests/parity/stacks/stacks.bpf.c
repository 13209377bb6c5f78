// Stacks, callbacks, text and numbers; what each helper gave is left in .bss for the tool to print.
// clang-format off: bpf_helpers.h needs the types of linux/bpf.h before it
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
// clang-format on
#include "results.h"

struct results results;

struct {
  __uint(type, BPF_MAP_TYPE_STACK_TRACE);
  __uint(max_entries, 128);
  __uint(key_size, 4);
  __uint(value_size, kFrames * 8);
} stacks SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u64);
} hash SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 5);
  __type(key, __u32);
  __type(value, __u64);
} array SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 3);
  __type(key, __u32);
  __type(value, __u64);
} percpu SEC(".maps");

struct sum {
  long total, stop_after;
};
static long add_index(__u32 i, void* context) {
  struct sum* sum = context;
  sum->total += i;
  return sum->stop_after != 0 && i + 1 == sum->stop_after;
}
static long add_value(void* map, __u32* key, __u64* value, void* context) {
  struct sum* sum = context;
  sum->total += *value + *key;
  return sum->stop_after != 0 && --sum->stop_after == 0;
}

static const char texts[kTexts][16] = {"42",   "-17 rest", "0x1f",     "010", "  \n99", "abc",
                                       "",     "-",        "+5",       "0x",  "08",     "7fffffffffff"};

SEC("uprobe")
int on_call(struct pt_regs* regs) {
  struct question question = {};
  results.runs++;
  bpf_probe_read_user(&question, sizeof(question), (void*)PT_REGS_PARM1(regs));

  results.stack_bytes = bpf_get_stack(regs, results.stack, sizeof(results.stack), BPF_F_USER_STACK);
  results.skipped_bytes =
      bpf_get_stack(regs, results.skipped, sizeof(results.skipped), BPF_F_USER_STACK | 2);
  __u64 few[2];
  results.bad_flags = bpf_get_stack(regs, few, sizeof(few), BPF_F_USER_STACK | 1 << 20);
  results.id = bpf_get_stackid(regs, &stacks, BPF_F_USER_STACK);
  results.same_id = bpf_get_stackid(regs, &stacks, BPF_F_USER_STACK | BPF_F_REUSE_STACKID);
  results.fast_id = bpf_get_stackid(regs, &stacks, BPF_F_USER_STACK | BPF_F_FAST_STACK_CMP);
  results.bad_id_flags = bpf_get_stackid(regs, &stacks, BPF_F_USER_STACK | 1 << 20);
  results.skipped_id = bpf_get_stackid(regs, &stacks, BPF_F_USER_STACK | 1);
  results.deep_skip = bpf_get_stackid(regs, &stacks, BPF_F_USER_STACK | 120);
  results.task = bpf_get_current_task();
  results.task_again = (__u64)bpf_get_current_task_btf();

  struct sum sum = {};
  results.loops = bpf_loop(kLoops, add_index, &sum, 0);
  results.loop_sum = sum.total;
  sum.stop_after = 4;
  results.stopped_loops = bpf_loop(kLoops, add_index, &sum, 0);
  results.bad_loops = bpf_loop(kLoops, add_index, &sum, 1);
  results.too_many_loops = bpf_loop((8 << 20) + 1, add_index, &sum, 0);

  for (__u32 key = 0; key < 40; key++) {
    __u64 value = key * 10;
    bpf_map_update_elem(&hash, &key, &value, BPF_ANY);
  }
  sum = (struct sum){};
  results.hash_met = bpf_for_each_map_elem(&hash, add_value, &sum, 0);
  results.hash_sum = sum.total;
  sum = (struct sum){};
  results.array_met = bpf_for_each_map_elem(&array, add_value, &sum, 0);
  results.array_sum = sum.total;
  sum = (struct sum){.stop_after = 7};
  results.stopped_met = bpf_for_each_map_elem(&hash, add_value, &sum, 0);
  results.bad_each = bpf_for_each_map_elem(&hash, add_value, &sum, 1);
  __u32 second = 1;
  __u64* mine = bpf_map_lookup_elem(&percpu, &second);
  if (mine != 0) {
    *mine = 1000;
  }
  sum = (struct sum){};
  results.percpu_met = bpf_for_each_map_elem(&percpu, add_value, &sum, 0);
  results.percpu_sum = sum.total;

  static const char format[] = "%d and %llx, %s";
  static const char word[] = "word";
  volatile __u64 args_now[3];
  args_now[0] = (__u64)-7;
  args_now[1] = 0xabcdef;
  args_now[2] = (__u64)word;
  __u64* args = (__u64*)args_now;
  results.text_length =
      bpf_snprintf(results.text, sizeof(results.text), format, args, 24);
  results.cut_length = bpf_snprintf(results.cut, sizeof(results.cut), format, args, 24);
  results.no_text_length = bpf_snprintf(0, 0, format, args, 24);

#pragma unroll
  for (int i = 0; i < kTexts; i++) {
    char text[16];
    __builtin_memcpy(text, texts[i], sizeof(text));
    results.number_result[i] = bpf_strtol(text, sizeof(text), i == 11 ? 16 : 0, &results.number[i]);
    results.unsigned_result[i] = bpf_strtoul(text, sizeof(text), 10, &results.unsigned_number[i]);
  }
  char same[] = "equal";
  results.compared[0] = bpf_strncmp(same, sizeof(same), "equal");
  results.compared[1] = bpf_strncmp(same, sizeof(same), "equam") < 0;
  results.compared[2] = bpf_strncmp(same, sizeof(same), "eq") > 0;
  results.compared[3] = bpf_strncmp(same, 2, "eq but longer");
  results.compared[4] = bpf_strncmp(same, sizeof(same), "equal and more") < 0;

  struct bpf_pidns_info ns = {};
  results.ns_result = bpf_get_ns_current_pid_tgid(question.pid_namespace_device,
                                                  question.pid_namespace_inode, &ns, sizeof(ns));
  results.ns_pid = ns.pid;
  results.ns_tgid = ns.tgid;
  results.wrong_ns_result = bpf_get_ns_current_pid_tgid(
      question.pid_namespace_device, question.pid_namespace_inode + 1, &ns, sizeof(ns));
  results.wrong_size_result = bpf_get_ns_current_pid_tgid(question.pid_namespace_device,
                                                          question.pid_namespace_inode, &ns, 4);
  // Last: without frames of the kernel these differ (docs/parity.md).
  results.kernel_bytes = bpf_get_stack(regs, few, sizeof(few), 0) > 0;
  results.kernel_id = bpf_get_stackid(regs, &stacks, 0) >= 0;
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
