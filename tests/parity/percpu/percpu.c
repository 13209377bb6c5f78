// 64 threads in 8 processes, all inside a probed function all the time: whatever way a program counts hits in per-CPU
// data, the sum over all CPUs is the number of calls. "ok percpu" at its end. Runs on the kernel (as root) and on us.
//   percpu [CALLS]   calls by each thread
//   percpu killed    they call for ever and are killed in the midst of it; prints "killed", ends at the end of input
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "percpu.skel.h"

enum { kProcesses = 8, kThreads = 8, kKeys = 5 };
static unsigned long calls = 5000;

static volatile unsigned long sink;
__attribute__((noinline, noclone)) void probed_by_percpu(unsigned long n) { sink = n; }
static void (*volatile call_probed)(unsigned long) = probed_by_percpu;

static void* call(void* unused) {
  for (unsigned long i = 0; i < calls; i++) {
    call_probed(i);
  }
  return unused;
}

// Waits for the end of its input, then calls, then ends.
static pid_t start_process(int wait_for, const int* ends) {
  const pid_t pid = fork();
  if (pid != 0) {
    return pid;
  }
  close(ends[1]);
  char byte;
  while (read(wait_for, &byte, 1) > 0) {
  }
  pthread_t threads[kThreads];
  for (int i = 0; i < kThreads; i++) {
    pthread_create(&threads[i], NULL, call, NULL);
  }
  for (int i = 0; i < kThreads; i++) {
    pthread_join(threads[i], NULL);
  }
  _exit(0);
}

static struct percpu_bpf* skeleton;
static int cpus;

struct count {
  __u64 plain;
  __u32 half, padding[3];  // rounded up to 8 bytes
};

static bool is_right = true;
static void expect(const char* what, __u64 is, __u64 want) {
  printf("%s %s\n", what, is == want ? "exact" : "WRONG");
  if (is != want) {
    fprintf(stderr, "percpu: %s: %llu, not %llu\n", what, is, want);
    is_right = false;
  }
}

static void expect_hash(const char* what, struct bpf_map* map, const void* keys, size_t key_size,
                        __u64 want) {
  struct count* values = calloc((size_t)cpus, sizeof(*values));
  __u64 plain = 0, half = 0;
  for (int key = 0; key < kKeys; key++) {
    if (bpf_map_lookup_elem(bpf_map__fd(map), (const char*)keys + (size_t)key * key_size, values) !=
        0) {
      fprintf(stderr, "percpu: %s: %s\n", what, strerror(errno));
      is_right = false;
      continue;
    }
    for (int cpu = 0; cpu < cpus; cpu++) {
      plain += values[cpu].plain;
      half += values[cpu].half;
    }
  }
  free(values);
  expect(what, plain, want);
  expect("  its second field", half, 2 * want);
}

static __u64 array_sum(__u32 key) {
  __u64* values = calloc((size_t)cpus, sizeof(*values));
  __u64 sum = 0;
  if (bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.percpu_array), &key, values) != 0) {
    fprintf(stderr, "percpu: %s\n", strerror(errno));
    is_right = false;
  }
  for (int cpu = 0; cpu < cpus; cpu++) {
    sum += values[cpu];
  }
  free(values);
  return sum;
}

int main(int argc, char** argv) {
  const bool are_killed = argc > 1 && strcmp(argv[1], "killed") == 0;
  if (argc > 1) {
    calls = are_killed ? ~0UL : strtoul(argv[1], NULL, 10);
  }
  int ends[2];
  pid_t processes[kProcesses];
  if (pipe(ends) != 0) {
    return 1;
  }
  for (int i = 0; i < kProcesses; i++) {
    processes[i] = start_process(ends[0], ends);
  }
  skeleton = percpu_bpf__open_and_load();
  if (skeleton == NULL) {
    fprintf(stderr, "percpu: load: %s\n", strerror(errno));
    return 1;
  }
  cpus = libbpf_num_possible_cpus();
  struct bpf_link* links[kProcesses];
  for (int i = 0; i < kProcesses; i++) {
    LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = "probed_by_percpu");
    links[i] = bpf_program__attach_uprobe_opts(skeleton->progs.on_call, processes[i],
                                               "/proc/self/exe", 0, &options);
    if (links[i] == NULL) {
      fprintf(stderr, "percpu: attach: %s\n", strerror(errno));
      return 1;
    }
  }
  close(ends[1]);
  if (are_killed) {
    while (array_sum(0) < 100000) {
    }
    for (int i = 0; i < kProcesses; i++) {
      kill(processes[i], SIGKILL);
      waitpid(processes[i], NULL, 0);
    }
    printf("killed\n");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return 0;
  }
  for (int i = 0; i < kProcesses; i++) {
    int status = -1;
    if (waitpid(processes[i], &status, 0) < 0 || status != 0) {
      fprintf(stderr, "percpu: a process ended with %d\n", status);
      is_right = false;
    }
  }
  const __u64 all = (__u64)kProcesses * kThreads * calls;
  expect("plain adds in a per-CPU array", array_sum(0), all);
  expect("updates of a per-CPU array", array_sum(2), all);
  expect("lookups of this CPU's that gave another", array_sum(1), 0);
  __u64 by_cpu = 0;
  for (__u32 cpu = 0; cpu < 4096; cpu++) {
    __u64 value = 0;
    bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.by_cpu), &cpu, &value);
    if (value != 0 && cpu >= (__u32)cpus) {
      fprintf(stderr, "percpu: CPU %u is not possible\n", cpu);
      is_right = false;
    }
    by_cpu += value;
  }
  expect("plain adds in an array by CPU", by_cpu, all);
  const __u32 by_u32[kKeys] = {0, 1, 2, 3, 4};
  const __u64 by_u64[kKeys] = {0, 1, 2, 3, 4};
  const __u64 by_wide[kKeys][2] = {{0, 7}, {1, 7}, {2, 7}, {3, 7}, {4, 7}};
  expect_hash("plain adds by u32", skeleton->maps.by_u32, by_u32, sizeof(by_u32[0]), all);
  expect_hash("plain adds by u64", skeleton->maps.by_u64, by_u64, sizeof(by_u64[0]), all);
  expect_hash("plain adds by 16 bytes", skeleton->maps.by_wide, by_wide, sizeof(by_wide[0]), all);
  for (int i = 0; i < kProcesses; i++) {
    bpf_link__destroy(links[i]);
  }
  percpu_bpf__destroy(skeleton);
  if (!is_right) {
    return 1;
  }
  printf("ok percpu\n");
  return 0;
}
