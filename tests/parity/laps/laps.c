// libbpf's own readers of ring buffers and perf buffers over a thousand laps: records of 1 to 4,096 bytes from many processes.
// What the programs were told is there arrives, whole, once, and of each producer in its order. The same on the kernel
// (as root) and on us.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "laps.h"
#include "laps.skel.h"

enum { kLaps = 1000, kPerfPages = 16, kPageBytes = 4096 };

static char fill_of(unsigned producer, unsigned size) {
  return (char)(producer * 31 + size * 7 + 1);
}

static unsigned long sink;
__attribute__((noinline, noclone)) unsigned long produce_in_laps(unsigned producer,
                                                                 const void* data, unsigned size) {
  __asm__ volatile("" : "+r"(producer), "+r"(data), "+r"(size));
  sink += size;
  return sink ^ producer;
}

// Makes records of all sizes until it is told to stop. `go`: nobody begins before all is attached.
static pid_t start_producer(unsigned producer, const int* go, const volatile int* stop) {
  const pid_t pid = fork();
  if (pid != 0) {
    return pid;
  }
  char byte;
  close(go[1]);
  (void)!read(go[0], &byte, 1);
  static char record[kMostBytes];
  for (unsigned long long n = 0; *stop == 0; n++) {
    const unsigned size = 1 + (unsigned)(n * 2654435761ULL % kMostBytes);
    memset(record, fill_of(producer, size), size);
    const struct record_head head = {producer, size, n};
    if (size >= kHeadBytes) {
      memcpy(record, &head, kHeadBytes);
    }
    produce_in_laps(producer, record, size);
    if (n % 4 == 3) {
      usleep(100);  // the reader is to have its turn
    }
  }
  _exit(0);
}

struct seen {
  const char* name;
  unsigned long long records, bytes, small, wrong, out_of_order, lost;
  // By producer and CPU: the number that comes next at the earliest. (Perf buffers have no order across CPUs.)
  unsigned long long next[kProducers][256];
};

static void look(struct seen* seen, unsigned cpu, const char* data, unsigned size) {
  seen->records++;
  seen->bytes += size;
  if (size < kHeadBytes) {
    seen->small++;
    bool is_right = false;
    for (unsigned producer = 0; producer < kProducers; producer++) {
      is_right = is_right || data[0] == fill_of(producer, size);
    }
    for (unsigned i = 1; i < size; i++) {
      is_right = is_right && data[i] == data[0];
    }
    seen->wrong += !is_right;
    return;
  }
  struct record_head head;
  memcpy(&head, data, kHeadBytes);
  if (head.producer >= kProducers || head.size != size) {
    seen->wrong++;
    return;
  }
  for (unsigned i = kHeadBytes; i < size; i++) {
    if (data[i] != fill_of(head.producer, size)) {
      seen->wrong++;
      return;
    }
  }
  unsigned long long* next = &seen->next[head.producer][cpu % 256];
  seen->out_of_order += head.number < *next;
  *next = head.number + 1;
}

static struct seen ring_seen = {.name = "ring"}, perf_seen = {.name = "perf"};
static int on_record(void* context, void* data, size_t size) {
  (void)context;
  look(&ring_seen, 0, data, (unsigned)size);
  return 0;
}
// The kernel pads a sample to a multiple of 8 with the length before it: `size` may be up to 7 more than was given.
static void on_sample(void* context, int cpu, void* data, __u32 size) {
  (void)context;
  struct record_head head;
  if (size >= kHeadBytes) {
    memcpy(&head, data, kHeadBytes);
    if (head.producer < kProducers && head.size <= size && size - head.size < 8) {
      size = head.size;
      look(&perf_seen, (unsigned)cpu, data, size);
      return;
    }
  }
  // Shorter than a head and padded: its length is where its bytes end to be what they should be.
  for (unsigned shorter = size; shorter > 0 && shorter + 8 > size; shorter--) {
    for (unsigned producer = 0; producer < kProducers && shorter < kHeadBytes; producer++) {
      const char* bytes = data;
      unsigned same = 0;
      while (same < shorter && bytes[same] == fill_of(producer, shorter)) {
        same++;
      }
      if (same == shorter) {
        look(&perf_seen, (unsigned)cpu, data, shorter);
        return;
      }
    }
  }
  perf_seen.records++;
  perf_seen.wrong++;
}
static void on_lost(void* context, int cpu, __u64 count) {
  (void)context;
  (void)cpu;
  perf_seen.lost += count;
}

static bool is_right = true;
static void expect(const char* what, bool holds) {
  printf("%s %s\n", what, holds ? "ok" : "WRONG");
  is_right = is_right && holds;
}
static void report(const struct seen* seen, unsigned long long told, unsigned long long full) {
  fprintf(stderr, "laps: %s: %llu records, %llu bytes, %llu told, %llu found no room, %llu lost\n",
          seen->name, seen->records, seen->bytes, told, full, seen->lost);
  expect("every record is whole", seen->wrong == 0);
  expect("each producer's in order", seen->out_of_order == 0);
  expect("small ones among them", seen->small > 0);
  expect("as many as were told", seen->records == told);
}

int main(void) {
  int go[2];
  pid_t producers[kProducers];
  int* stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (pipe(go) != 0 || stop == MAP_FAILED) {
    return 1;
  }
  for (unsigned i = 0; i < kProducers; i++) {
    producers[i] = start_producer(i, go, stop);
  }
  struct laps_bpf* skeleton = laps_bpf__open_and_load();
  if (skeleton == NULL) {
    fprintf(stderr, "laps: load: %s\n", strerror(errno));
    return 1;
  }
  struct ring_buffer* ring =
      ring_buffer__new(bpf_map__fd(skeleton->maps.ring), on_record, NULL, NULL);
  struct perf_buffer* perf = perf_buffer__new(bpf_map__fd(skeleton->maps.perf), kPerfPages,
                                              on_sample, on_lost, NULL, NULL);
  if (ring == NULL || perf == NULL) {
    fprintf(stderr, "laps: buffers: %s\n", strerror(errno));
    return 1;
  }
  struct bpf_link* links[2 * kProducers];
  for (int i = 0; i < 2 * kProducers; i++) {
    LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = "produce_in_laps");
    struct bpf_program* program = i % 2 == 0 ? skeleton->progs.to_ring : skeleton->progs.to_perf;
    links[i] =
        bpf_program__attach_uprobe_opts(program, producers[i / 2], "/proc/self/exe", 0, &options);
    if (links[i] == NULL) {
      fprintf(stderr, "laps: attach: %s\n", strerror(errno));
      return 1;
    }
  }
  close(go[1]);
  const unsigned long long enough = (unsigned long long)kLaps * kRingBytes;
  while (ring_seen.bytes < enough || perf_seen.bytes < enough) {
    if (ring_buffer__poll(ring, 0) < 0 || perf_buffer__poll(perf, 0) < 0) {
      fprintf(stderr, "laps: poll: %s\n", strerror(errno));
      return 1;
    }
  }
  *(volatile int*)stop = 1;
  for (int i = 0; i < kProducers; i++) {
    int status = -1;
    while (waitpid(producers[i], &status, WNOHANG) == 0) {
      ring_buffer__consume(ring);
      perf_buffer__consume(perf);
    }
    expect("a producer ends well", status == 0);
  }
  while (ring_buffer__consume(ring) > 0) {
  }
  perf_buffer__consume(perf);
  unsigned long long ring_told = 0, ring_full = 0, perf_told = 0, perf_full = 0, unread = 0;
  for (__u32 i = 0; i < kProducers; i++) {
    struct {
      __u64 ring, ring_full, perf, perf_full, unread;
    } counts;
    bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.told), &i, &counts);
    ring_told += counts.ring;
    ring_full += counts.ring_full;
    perf_told += counts.perf;
    perf_full += counts.perf_full;
    unread += counts.unread;
  }
  report(&ring_seen, ring_told, ring_full);
  report(&perf_seen, perf_told, perf_full);
  expect("every record could be read", unread == 0);
  for (int i = 0; i < 2 * kProducers; i++) {
    bpf_link__destroy(links[i]);
  }
  perf_buffer__free(perf);
  ring_buffer__free(ring);
  laps_bpf__destroy(skeleton);
  if (is_right) {
    printf("ok laps\n");
  }
  return is_right ? 0 : 1;
}
