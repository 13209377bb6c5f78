// bench_tool: attaches the programs of the probe/* scenarios to the functions of bench_target whose names end in a
// contender's name, or measures what a loader sees.
//   bench_tool attach PID PATH CONTENDER   all scenarios on <scenario>_<CONTENDER>; prints "attached"; ends at end of input
//   bench_tool first_hit PID PATH N        us from ENABLE's return to the first hit seen in a map, N times: one a line
//   bench_tool thousand PID PATH           ms to attach 1000 probes one by one to many_0 ... many_999
//   bench_tool map_lookup N REPEAT         ns a lookup of a hash element from the loader, REPEAT lines
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bench_tool.skel.h"

static struct bench_tool_bpf* skeleton;

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static struct bpf_link* attach(struct bpf_program* program, int pid, const char* path,
                               const char* function, bool is_return) {
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = function, .retprobe = is_return);
  struct bpf_link* link = bpf_program__attach_uprobe_opts(program, pid, path, 0, &options);
  if (link == NULL) {
    fprintf(stderr, "bench_tool: %s: %s\n", function, strerror(errno));
    exit(1);
  }
  return link;
}

static void attach_all(int pid, const char* path, const char* contender) {
  char name[128];
  const struct {
    const char* scenario;
    struct bpf_program* program;
    bool entry, is_return;
  } all[] = {
      {"uprobe_empty", skeleton->progs.empty, true, false},
      {"uretprobe_empty", skeleton->progs.empty, false, true},
      {"both_empty", skeleton->progs.empty, true, true},
      {"array_inc", skeleton->progs.array_inc, true, false},
      {"loop_16", skeleton->progs.loop_16, true, false},
      {"hash_inc", skeleton->progs.hash_inc, true, false},
      {"percpu_inc", skeleton->progs.percpu_inc, true, false},
      {"stack_16", skeleton->progs.stack_16, true, false},
      {"read_user_16", skeleton->progs.read_user_16, true, false},
      {"ringbuf_64", skeleton->progs.ringbuf_64, true, false},
      {"perfbuf_64", skeleton->progs.perfbuf_64, true, false},
  };
  for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
    snprintf(name, sizeof(name), "%s_%s", all[i].scenario, contender);
    if (all[i].entry) {
      attach(all[i].program, pid, path, name, false);
    }
    if (all[i].is_return) {
      attach(all[i].program, pid, path, name, true);
    }
  }
}

// Readers that are behind: once a millisecond they take all that there is.
static unsigned long* ring_reader;
static const unsigned long* ring_writer;
static struct perf_event_mmap_page* pages[1024];
static int page_count;

static void* read_behind(void* nothing) {
  for (;;) {
    usleep(1000);
    __atomic_store_n(ring_reader, __atomic_load_n(ring_writer, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
    for (int i = 0; i < page_count; i++) {
      __atomic_store_n(&pages[i]->data_tail,
                       __atomic_load_n(&pages[i]->data_head, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
    }
  }
  return nothing;
}

static void start_readers(void) {
  const int ring = bpf_map__fd(skeleton->maps.ring), perf = bpf_map__fd(skeleton->maps.perf);
  ring_reader = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
  ring_writer = mmap(NULL, 4096, PROT_READ, MAP_SHARED, ring, 4096);
  const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  for (int cpu = 0; cpu < cpus && cpu < 1024; cpu++) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                   .size = sizeof(attr),
                                   .config = PERF_COUNT_SW_BPF_OUTPUT,
                                   .sample_type = PERF_SAMPLE_RAW,
                                   .wakeup_events = 1};
    const int event = (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    pages[cpu] = mmap(NULL, (1 + 1024) * 4096UL, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0);
    if (event < 0 || pages[cpu] == MAP_FAILED ||
        bpf_map_update_elem(perf, &cpu, &event, BPF_ANY) != 0) {
      fprintf(stderr, "bench_tool: perf buffer: %s\n", strerror(errno));
      exit(1);
    }
    page_count++;
  }
  pthread_t thread;
  pthread_create(&thread, NULL, read_behind, NULL);
}

static unsigned long long array_value(void) {
  unsigned key = 0;
  unsigned long long value = 0;
  bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.array), &key, &value);
  return value;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    return 2;
  }
  skeleton = bench_tool_bpf__open_and_load();
  if (skeleton == NULL) {
    fprintf(stderr, "bench_tool: load: %s\n", strerror(errno));
    return 1;
  }
  unsigned key = 7;
  unsigned long long zero = 0, value = 0;
  bpf_map_update_elem(bpf_map__fd(skeleton->maps.hash), &key, &zero, BPF_ANY);
  if (strcmp(argv[1], "attach") == 0 && argc == 5) {
    start_readers();
    attach_all(atoi(argv[2]), argv[3], argv[4]);
    printf("attached\n");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.hash), &key, &value);
    printf("array %llu hash %llu\nno room %llu\n", array_value(), value, skeleton->bss->no_room);
  } else if (strcmp(argv[1], "first_hit") == 0 && argc == 5) {
    for (int i = 0; i < atoi(argv[4]); i++) {
      unsigned long long before = array_value();
      struct bpf_link* link =
          attach(skeleton->progs.array_inc, atoi(argv[2]), argv[3], "spun", false);
      double begin = now_ns();
      while (array_value() == before) {
      }
      printf("%.2f\n", (now_ns() - begin) / 1e3);
      fflush(stdout);
      bpf_link__destroy(link);
    }
  } else if (strcmp(argv[1], "thousand") == 0 && argc == 4) {
    char name[32];
    double begin = now_ns();
    for (int i = 0; i < 1000; i++) {
      snprintf(name, sizeof(name), "many_%d", i);
      attach(skeleton->progs.empty, atoi(argv[2]), argv[3], name, false);
    }
    printf("%.2f\n", (now_ns() - begin) / 1e6);
  } else if (strcmp(argv[1], "map_lookup") == 0) {
    int map = bpf_map__fd(skeleton->maps.hash), n = atoi(argv[2]);
    for (int r = 0; r < atoi(argv[3]); r++) {
      double begin = now_ns();
      for (int i = 0; i < n; i++) {
        bpf_map_lookup_elem(map, &key, &value);
      }
      printf("%.2f\n", (now_ns() - begin) / n);
    }
  } else {
    return 2;
  }
  bench_tool_bpf__destroy(skeleton);
  return 0;
}
