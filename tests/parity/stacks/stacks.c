// Runs the program at a probe five functions deep in itself and prints what the helpers gave: the same on the kernel
// (as root) and on bpftime, but for lines that begin with "kernel". "ok stacks" at its end.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "results.h"
// results.h first: the skeleton names its types
#include "stacks.skel.h"

static volatile int sink;
static int (*volatile call)(const struct question*, int);
#define KEEP __attribute__((noinline, noclone))
KEEP int probed_by_stacks(const struct question* question, int n) {
  sink += question->writable[0];
  return sink + n;
}
KEEP int level_one(const struct question* q, int n) { return call(q, n) + 1; }
KEEP int level_two(const struct question* q, int n) { return level_one(q, n + 1) * 3; }
KEEP int level_three(const struct question* q, int n) { return level_two(q, n + sink) - 1; }
KEEP int level_four(const struct question* q, int n) { return level_three(q, n ^ 5) + 7; }

static const char* name_of(__u64 address) {
  const struct {
    const char* name;
    void* begin;
  } functions[] = {{"probed", (void*)probed_by_stacks},
                   {"one", (void*)level_one},
                   {"two", (void*)level_two},
                   {"three", (void*)level_three},
                   {"four", (void*)level_four}};
  const char* name = "-";
  __u64 nearest = 64;
  for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
    const __u64 distance = address - (__u64)(unsigned long)functions[i].begin;
    if (distance < nearest) {
      nearest = distance;
      name = functions[i].name;
    }
  }
  return name;
}
static void print_stack(const char* what, const __u64* stack) {
  printf("%s:", what);
  for (int i = 0; i < 5; i++) {
    printf(" %s", name_of(stack[i]));
  }
  printf("\n");
}

int main(void) {
  char writable[16] = "before";
  struct stat ns;
  if (stat("/proc/self/ns/pid", &ns) != 0) {
    return 1;
  }
  const struct question question = {
      .pid_namespace_device = ns.st_dev, .pid_namespace_inode = ns.st_ino, .writable = writable};
  struct stacks_bpf* skeleton = stacks_bpf__open_and_load();
  if (skeleton == NULL) {
    fprintf(stderr, "stacks: load: %s\n", strerror(errno));
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = "probed_by_stacks");
  // Functions that return into a stub must not hide who called them.
  LIBBPF_OPTS(bpf_uprobe_opts, at_return, .func_name = "level_two", .retprobe = true);
  struct bpf_link* link = bpf_program__attach_uprobe_opts(skeleton->progs.on_call, getpid(),
                                                          "/proc/self/exe", 0, &options);
  if (link == NULL) {
    fprintf(stderr, "stacks: attach: %s\n", strerror(errno));
    return 1;
  }
  call = probed_by_stacks;
  level_four(&question, 1);
  const struct results* r = &skeleton->bss->results;
  printf("runs %llu\n", r->runs);
  print_stack("stack", r->stack);
  print_stack("skipped", r->skipped);
  printf("bytes %d %ld, flags %ld\n", r->stack_bytes >= 5 * 8,
         r->stack_bytes == sizeof(r->stack) ? 2 : (r->stack_bytes - r->skipped_bytes) / 8,
         r->bad_flags);
  printf("ids %d %d %d, flags %ld, skipped %d, all skipped %ld\n", r->id >= 0, r->id == r->same_id,
         r->id == r->fast_id, r->bad_id_flags, r->skipped_id >= 0 && r->skipped_id != r->id,
         r->deep_skip);
  const int map = bpf_map__fd(skeleton->maps.stacks);
  __u64 value[kFrames];
  __u32 key = (__u32)r->id, next = 0, none = 4096, ids = 0;
  printf("lookup %d", bpf_map_lookup_elem(map, &key, value));
  print_stack(", stack of the id", value);
  key = (__u32)r->skipped_id;
  bpf_map_lookup_elem(map, &key, value);
  print_stack("of the one with one skipped", value);
  for (__u32* from = NULL; bpf_map_get_next_key(map, from, &next) == 0; key = next, from = &key) {
    ids += next == (__u32)r->id || next == (__u32)r->skipped_id ? 1 : 0;
  }
  printf("ids met %u\n", ids);
  printf("lookup of none %d", bpf_map_lookup_elem(map, &none, value));
  printf(", update %d", bpf_map_update_elem(map, &key, value, 0));
  printf(", delete of none %d", bpf_map_delete_elem(map, &none));
  key = (__u32)r->id;
  printf(", delete %d", bpf_map_delete_elem(map, &key));
  printf(", again %d", bpf_map_delete_elem(map, &key));
  printf(", lookup %d\n", bpf_map_lookup_elem(map, &key, value));
  printf("task %d\n", r->task != 0 && r->task == r->task_again);
  printf("loop %ld %ld %ld %ld, sum %ld\n", r->loops, r->stopped_loops, r->bad_loops,
         r->too_many_loops, r->loop_sum);
  printf("hash met %ld sum %ld, array met %ld sum %ld, stopped %ld, flags %ld\n", r->hash_met,
         r->hash_sum, r->array_met, r->array_sum, r->stopped_met, r->bad_each);
  printf("per-CPU met %ld sum %ld\n", r->percpu_met, r->percpu_sum);
  printf("snprintf %ld \"%s\" %ld \"%s\" %ld\n", r->text_length, r->text, r->cut_length, r->cut,
         r->no_text_length);
  for (int i = 0; i < kTexts; i++) {
    printf("number %d: %ld %ld, unsigned %ld %lu\n", i, r->number_result[i], r->number[i],
           r->unsigned_result[i], r->unsigned_number[i]);
  }
  printf("strncmp %ld %ld %ld %ld %ld\n", r->compared[0], r->compared[1], r->compared[2],
         r->compared[3], r->compared[4]);
  printf("pid namespace %ld %d %d, wrong %ld, size %ld\n", r->ns_result,
         r->ns_pid == (__u32)syscall(SYS_gettid), r->ns_tgid == (__u32)getpid(), r->wrong_ns_result,
         r->wrong_size_result);
  printf("kernel stacks %ld %ld\n", r->kernel_bytes, r->kernel_id);
  struct bpf_link* returns = bpf_program__attach_uprobe_opts(skeleton->progs.on_call, getpid(),
                                                             "/proc/self/exe", 0, &at_return);
  level_four(&question, 1);
  printf("runs %llu\n", r->runs);
  bpf_link__destroy(link);
  bpf_link__destroy(returns);
  // The last run was at level_two's return: what is there is its caller.
  print_stack("at a return", r->stack);
  stacks_bpf__destroy(skeleton);
  printf("ok stacks\n");
  return 0;
}
