// Ring buffers and perf buffers through libbpf's readers, through one of our own, and through every way to wait; prints
// what is the same on the kernel (as root) and on bpftime (as anybody). "ok events" at its end.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "events.h"
#include "events.skel.h"

static volatile int sink;
__attribute__((noinline, noclone)) int probed_by_events(int n) {
  sink += n;
  sink ^= 7;
  return sink + 42;
}
static int (*volatile call_probed)(int) = probed_by_events;

static struct events_bpf* skeleton;
static struct events_bpf__bss* bss;
static int ring_fd, perf_fd;

static long hit(unsigned operation, unsigned size, unsigned long long flags,
                unsigned long long number) {
  bss->ask = (struct ask){operation, size, flags, number};
  bss->result = -4242;
  call_probed(1);
  return bss->result;
}
static void fill(unsigned long long number, unsigned size) {
  for (unsigned i = 0; i < size; i++) {
    bss->data[i] = (unsigned char)(number * 131 + i * 7 + 1);
  }
}
static unsigned size_of(unsigned long long number) { return (unsigned)(number * 1237 % 4096 + 1); }

struct seen {
  unsigned long long count, wrong, lost, bytes;
};

static void check_sample(struct seen* seen, const unsigned char* data, size_t size, bool padded) {
  const size_t want = size_of(seen->count);
  seen->wrong += size != (padded ? (want + 4 + 7) / 8 * 8 - 4 : want);
  for (size_t i = 0; i < want && i < size; i++) {
    seen->wrong += data[i] != (unsigned char)(seen->count * 131 + i * 7 + 1);
  }
  seen->count++;
  seen->bytes += size;
}
static int on_ring_sample(void* context, void* data, size_t size) {
  check_sample(context, data, size, false);
  return 0;
}

// ---- RINGBUF

static void ring_by_libbpf(void) {
  struct seen seen = {0};
  struct ring_buffer* reader = ring_buffer__new(ring_fd, on_ring_sample, &seen, NULL);
  if (reader == NULL) {
    printf("ring_buffer__new %d\n", errno);
    return;
  }
  int failed = 0;
  unsigned long long written = 0, bytes = 0;
  while (bytes < 100ULL * RING_BYTES) {
    fill(written, size_of(written));
    if (hit(kRingOutput, size_of(written), 0, 0) != 0) {
      failed++;
      ring_buffer__poll(reader, -1);
      continue;
    }
    bytes += size_of(written++);
  }
  ring_buffer__poll(reader, 0);
  printf("ring libbpf: written %llu, seen %llu, wrong %llu, bytes %llu, full %s\n", written,
         seen.count, seen.wrong, seen.bytes, failed > 0 ? "sometimes" : "never");
  printf("ring libbpf: poll of an empty one %d\n", ring_buffer__poll(reader, 0));
  ring_buffer__free(reader);
}

struct ring {
  unsigned long* consumer;
  const unsigned long* producer;
  const char* data;
};
static struct ring map_ring(void) {
  struct ring r;
  r.consumer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, 0);
  r.producer = mmap(NULL, 4096 + 2 * RING_BYTES, PROT_READ, MAP_SHARED, ring_fd, 4096);
  r.data = (const char*)r.producer + 4096;
  return r;
}
static int drain(struct ring* r) {
  int count = 0;
  while (*(volatile unsigned long*)r->consumer != *(volatile const unsigned long*)r->producer) {
    const unsigned length = __atomic_load_n(
        (const unsigned*)(r->data + (*r->consumer & (RING_BYTES - 1))), __ATOMIC_ACQUIRE);
    if (length & BPF_RINGBUF_BUSY_BIT) {
      break;
    }
    const unsigned size = length & ~(unsigned)BPF_RINGBUF_DISCARD_BIT;
    __atomic_store_n(r->consumer, *r->consumer + ((size + 8UL + 7) & ~7UL), __ATOMIC_RELEASE);
    count++;
  }
  return count;
}

static void ring_by_hand(void) {
  struct ring r = map_ring();
  drain(&r);
  const unsigned long begin = *r.consumer;
  printf("ring reserve %ld, discard %ld, reserve %ld\n", hit(kRingReserve, 0, 0, 100),
         hit(kRingDiscard, 0, 0, 200), hit(kRingReserve, 0, 0, 300));
  printf("ring produced %lu\n", *r.producer - begin);
  for (int i = 0; i < 3; i++) {
    const unsigned* head =
        (const unsigned*)(r.data + ((begin + 72UL * (unsigned)i) & (RING_BYTES - 1)));
    printf("ring head %x, page %d, first %llu\n", head[0],
           head[1] == 3 + (((begin + 72UL * (unsigned)i) & (RING_BYTES - 1)) >> 12),
           *(const unsigned long long*)(head + 2));
  }
  for (unsigned what = 0; what < 5; what++) {
    const long got = hit(kRingQuery, what, 0, 0);
    printf("ring query %u: %ld\n", what, what >= 2 && what < 4 ? got - (long)begin : got);
  }
  printf("ring flags 4: %ld, too large: %ld\n", hit(kRingOutput, 8, 4, 0),
         hit(kRingOutput, 0, 0, 0));
  drain(&r);
  int taken = 0;
  while (hit(kRingReserve, 0, 0, 1) == 1) {
    taken++;
  }
  printf("ring takes %d, then output %ld\n", taken, hit(kRingOutput, 64, 0, 0));
  printf("ring drained %d\n", drain(&r));

  // Readiness in passing.
  struct pollfd p = {.fd = ring_fd, .events = POLLIN};
  printf("poll empty %d\n", poll(&p, 1, 0));
  hit(kRingReserve, 0, 0, 1);
  int n = poll(&p, 1, 0);
  printf("poll one %d %x\n", n, (unsigned)p.revents);
  printf("poll again %d\n", poll(&p, 1, 0));
  hit(kRingReserve, 0, BPF_RB_NO_WAKEUP, 1);
  drain(&r);
  printf("poll drained %d\n", poll(&p, 1, 0));
  hit(kRingReserve, 0, BPF_RB_NO_WAKEUP, 1);
  printf("poll without a wake-up %d\n", poll(&p, 1, 0));
  drain(&r);

  char* bad;
#define TRY_MAP(name, length, protection, flags, offset)                                   \
  bad = mmap(NULL, length, protection, flags, ring_fd, offset);                            \
  printf("ring mmap " name ": %s\n", bad == MAP_FAILED ? strerrorname_np(errno) : "made"); \
  if (bad != MAP_FAILED)                                                                   \
  munmap(bad, length)
  TRY_MAP("writable producer page", 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 4096);
  TRY_MAP("writable, two pages", 8192, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
  TRY_MAP("private", 4096, PROT_READ, MAP_PRIVATE, 0);
  TRY_MAP("everything for reading", 8192 + 2 * RING_BYTES, PROT_READ, MAP_SHARED, 0);
  TRY_MAP("too long", 12288 + 2 * RING_BYTES, PROT_READ, MAP_SHARED, 0);
  TRY_MAP("behind the end", 4096, PROT_READ, MAP_SHARED, 8192 + 2 * RING_BYTES);
  TRY_MAP("crooked", 4096, PROT_READ, MAP_SHARED, 100);
#undef TRY_MAP
  printf("ring mprotect %s\n",
         mprotect((void*)(unsigned long)r.producer, 4096, PROT_READ | PROT_WRITE) == 0
             ? "made"
             : strerrorname_np(errno));
  __u64 any = 0;
  printf("ring elements: lookup %d, without a key %d, update %d, delete %d, next %d\n",
         bpf_map_lookup_elem(ring_fd, &any, &any), bpf_map_lookup_elem(ring_fd, NULL, &any),
         bpf_map_update_elem(ring_fd, NULL, &any, 0), bpf_map_delete_elem(ring_fd, NULL),
         bpf_map_get_next_key(ring_fd, NULL, &any));
  munmap(r.consumer, 4096);
  munmap((void*)(unsigned long)r.producer, 4096 + 2 * RING_BYTES);
}

// ---- Waiting: another thread hits the probe once this one sleeps.

// Three times in a row, since it may have had to wait for something else on the way.
static void await_sleep(const char* path) {
  for (int sleeping = 0; sleeping < 3;) {
    char text[512];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    const char* state = strrchr(text, ')');
    sleeping = state != NULL && state[2] == 'S' ? sleeping + 1 : 0;
    sched_yield();
  }
}
struct later {
  pid_t tid;
  unsigned operation;
  bool by_signal;
};
static void* hit_later(void* argument) {
  const struct later* later = argument;
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/task/%d/stat", later->tid);
  await_sleep(path);
  if (later->by_signal) {
    syscall(SYS_tgkill, getpid(), later->tid, SIGUSR1);
  } else {
    hit(later->operation, 64, later->operation == kPerfOutput ? BPF_F_CURRENT_CPU : 0, 7);
  }
  return NULL;
}
static struct later g_later;
static pthread_t start_later(unsigned operation, bool by_signal) {
  g_later = (struct later){(pid_t)syscall(SYS_gettid), operation, by_signal};
  pthread_t thread;
  pthread_create(&thread, NULL, hit_later, &g_later);
  return thread;
}

static void wait_every_way(const char* what, int fd, unsigned operation, void (*empty)(void)) {
  const struct timespec minute = {60, 0};
  int pipes[2];
  if (pipe(pipes) != 0) {
    return;
  }
  for (int way = 0; way < 11; way++) {
    static const char* const kWays[] = {"epoll_wait",
                                        "epoll_pwait",
                                        "epoll_wait beside a pipe",
                                        "poll",
                                        "ppoll",
                                        "poll beside a pipe",
                                        "select",
                                        "pselect",
                                        "epoll_wait inside epoll",
                                        "edge",
                                        "epoll_wait in a child"};
    empty();
    const int epoll = epoll_create1(EPOLL_CLOEXEC), outer = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0xabcdef};
    if (way == 9) {
      event.events |= EPOLLET;
    }
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    struct epoll_event got = {0};
    struct pollfd polled[2] = {{fd, POLLIN, 0}, {pipes[0], POLLIN, 0}};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    sigset_t none;
    sigemptyset(&none);
    if (way == 2) {
      struct epoll_event other = {.events = EPOLLIN, .data.u64 = 1};
      epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &other);
    }
    if (way == 8) {
      struct epoll_event inner = {.events = EPOLLIN, .data.u64 = 0xabcdef};
      epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &inner);
    }
    if (way == 10) {
      fflush(stdout);
      const pid_t child = fork();
      if (child == 0) {
        const int n = epoll_wait(epoll, &got, 1, 60000);
        _exit(n == 1 && got.data.u64 == 0xabcdef ? 0 : 1);
      }
      g_later = (struct later){child, operation, false};
      char path[64];
      snprintf(path, sizeof(path), "/proc/%d/stat", child);
      await_sleep(path);
      hit(operation, 64, operation == kPerfOutput ? BPF_F_CURRENT_CPU : 0, 7);
      int status = 0;
      waitpid(child, &status, 0);
      printf("%s %s: %d\n", what, kWays[way], status == 0);
      close(epoll);
      close(outer);
      continue;
    }
    const pthread_t thread = start_later(operation, false);
    int n = 0;
    switch (way) {
      case 1:
        n = epoll_pwait(epoll, &got, 1, 60000, &none);
        break;
      case 3:
        n = poll(polled, 1, -1);
        break;
      case 4:
        n = ppoll(polled, 1, &minute, &none);
        break;
      case 5:
        n = poll(polled, 2, 60000);
        break;
      case 6: {
        struct timeval timeout = {60, 0};
        n = select(fd + 1, &set, NULL, NULL, &timeout);
        break;
      }
      case 7:
        n = pselect(fd + 1, &set, NULL, NULL, &minute, &none);
        break;
      case 8:
        n = epoll_wait(outer, &got, 1, 60000);
        break;
      default:
        n = epoll_wait(epoll, &got, 1, -1);
        break;
    }
    pthread_join(thread, NULL);
    printf("%s %s: %d", what, kWays[way], n);
    if (way == 3 || way == 4 || way == 5) {
      printf(" revents %x %x\n", (unsigned)polled[0].revents,
             way == 5 ? (unsigned)polled[1].revents : 0);
    } else if (way == 6 || way == 7) {
      printf(" set %d\n", FD_ISSET(fd, &set) != 0);
    } else {
      printf(" events %x data %llx\n", got.events, (unsigned long long)got.data.u64);
    }
    empty();
    close(epoll);
    close(outer);
  }
  // A signal ends a wait, also with SA_RESTART; and a time does.
  empty();
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN}, got;
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  pthread_t thread = start_later(0, true);
  int n = epoll_wait(epoll, &got, 1, -1);
  printf("%s epoll_wait and a signal: %d %s\n", what, n, strerrorname_np(errno));
  pthread_join(thread, NULL);
  thread = start_later(0, true);
  struct pollfd polled = {fd, POLLIN, 0};
  n = poll(&polled, 1, -1);
  printf("%s poll and a signal: %d %s\n", what, n, strerrorname_np(errno));
  pthread_join(thread, NULL);
  printf("%s epoll_wait for 20 ms: %d\n", what, epoll_wait(epoll, &got, 1, 20));
  close(epoll);
  close(pipes[0]);
  close(pipes[1]);
}
static void ignore_signal(int number) { (void)number; }

static struct ring g_ring;
static void empty_ring(void) { drain(&g_ring); }

// ---- PERF_EVENT_ARRAY

static void on_perf_sample(void* context, int cpu, void* data, __u32 size) {
  (void)cpu;
  check_sample(context, data, size, true);
}
static void on_perf_lost(void* context, int cpu, __u64 count) {
  (void)cpu;
  ((struct seen*)context)->lost += count;
}
static void stay_on(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

static void perf_by_libbpf(void) {
  struct seen seen = {0};
  printf("perf without a reader %ld\n", hit(kPerfOutput, 8, BPF_F_CURRENT_CPU, 0));
  struct perf_buffer* reader =
      perf_buffer__new(perf_fd, 4, on_perf_sample, on_perf_lost, &seen, NULL);
  if (reader == NULL) {
    printf("perf_buffer__new %d\n", errno);
    return;
  }
  printf("perf poll of an empty one %d\n", perf_buffer__poll(reader, 0));
  unsigned long long written = 0;
  for (unsigned long long bytes = 0; bytes < 100ULL * 16384; written++) {
    fill(written, size_of(written));
    if (hit(kPerfOutput, size_of(written), BPF_F_CURRENT_CPU, 0) != 0) {
      printf("perf output failed at %llu: %ld\n", written, bss->result);
      break;
    }
    bytes += size_of(written);
    perf_buffer__poll(reader, -1);
  }
  printf("perf libbpf: written %llu, seen %llu, wrong %llu, bytes %llu, lost %llu\n", written,
         seen.count, seen.wrong, seen.bytes, seen.lost);
  // Nobody reads; the rest is lost, and told of by the next that fits.
  int taken = 0;
  while (hit(kPerfOutput, 64, BPF_F_CURRENT_CPU, 0) == 0) {
    taken++;
  }
  printf("perf takes about %d, then %ld %ld\n", taken / 20, bss->result,
         hit(kPerfOutput, 64, BPF_F_CURRENT_CPU, 0));
  seen = (struct seen){0};
  printf("perf poll %d\n", perf_buffer__poll(reader, 0) > 0);
  printf("perf all of them %d, lost %llu\n", (int)seen.count == taken, seen.lost);
  hit(kPerfOutput, 64, BPF_F_CURRENT_CPU, 0);
  perf_buffer__poll(reader, 0);
  printf("perf one more %d, lost %llu\n", (int)seen.count == taken + 1, seen.lost);
  printf("perf index: own %ld, other %ld, none %ld, flags %ld\n", hit(kPerfOutput, 8, 0, 0),
         hit(kPerfOutput, 8, 1, 0), hit(kPerfOutput, 8, 4000, 0),
         hit(kPerfOutput, 8, 1ULL << 40, 0));
  perf_buffer__consume(reader);
  perf_buffer__free(reader);
  printf("perf after its reader %ld\n", hit(kPerfOutput, 8, BPF_F_CURRENT_CPU, 0));
}

static int open_output(int cpu, unsigned wakeup_events, bool by_bytes) {
  struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                 .size = sizeof(attr),
                                 .config = PERF_COUNT_SW_BPF_OUTPUT,
                                 .sample_type = PERF_SAMPLE_RAW,
                                 .sample_period = 1,
                                 .watermark = by_bytes,
                                 .wakeup_events = wakeup_events};
  return (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

static struct perf_event_mmap_page* g_page;
static int g_event;
static void empty_perf(void) {
  struct pollfd p = {g_event, POLLIN, 0};
  poll(&p, 1, 0);  // says what it had to say
  __atomic_store_n(&g_page->data_tail, __atomic_load_n(&g_page->data_head, __ATOMIC_ACQUIRE),
                   __ATOMIC_RELEASE);
}

static void perf_by_hand(void) {
  __u32 key = 0;
  const int event = open_output(0, 1, false);
  printf("perf event %s\n", event >= 0 ? "open" : strerrorname_np(errno));
  printf("perf event for no CPU: %s\n",
         open_output(9999, 1, false) < 0 ? strerrorname_np(errno) : "open");
#define TRY_MAP(name, length, protection, flags, offset)                                    \
  {                                                                                         \
    char* at = mmap(NULL, length, protection, flags, event, offset);                        \
    printf("perf mmap " name ": %s\n", at == MAP_FAILED ? strerrorname_np(errno) : "made"); \
  }
  TRY_MAP("three pages of data", 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
  TRY_MAP("private", 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
#undef TRY_MAP
  g_page = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0);
  printf("perf mmap %s, data at %llu, %llu bytes, head %llu\n",
         g_page == MAP_FAILED ? strerrorname_np(errno) : "made", g_page->data_offset,
         g_page->data_size, g_page->data_head);
  printf("perf enable %d\n", ioctl(event, PERF_EVENT_IOC_ENABLE, 0));
  __u32 value = (__u32)event;
#define SAY(what, call)                                                           \
  printf("perf " what ": %s\n", (call) == 0              ? "0"                    \
                                : strerrorname_np(errno) ? strerrorname_np(errno) \
                                                         : "524")
  SAY("update, flags", bpf_map_update_elem(perf_fd, &key, &value, BPF_NOEXIST));
  key = 4000;
  SAY("update, index", bpf_map_update_elem(perf_fd, &key, &value, 0));
  key = 0;
  value = 9999;
  SAY("update, closed fd", bpf_map_update_elem(perf_fd, &key, &value, 0));
  value = 0;
  SAY("update, a file", bpf_map_update_elem(perf_fd, &key, &value, 0));
  SAY("lookup", bpf_map_lookup_elem(perf_fd, &key, &value));
  SAY("delete of nothing", bpf_map_delete_elem(perf_fd, &key));
  value = (__u32)event;
  SAY("update", bpf_map_update_elem(perf_fd, &key, &value, 0));
  SAY("update again", bpf_map_update_elem(perf_fd, &key, &value, 0));
  printf("perf output %ld\n", hit(kPerfOutput, 13, BPF_F_CURRENT_CPU, 0));
  const struct perf_event_header* header = (const void*)((const char*)g_page + g_page->data_offset);
  printf("perf record type %u misc %u size %u raw %u, head %llu\n", header->type, header->misc,
         header->size, *(const __u32*)(header + 1), g_page->data_head);
  struct pollfd p = {event, POLLIN, 0};
  const int n = poll(&p, 1, 0);
  printf("perf poll %d %x\n", n, (unsigned)p.revents);
  printf("perf poll says it once %d\n", poll(&p, 1, 0));
  g_event = event;
  wait_every_way("perf", event, kPerfOutput, empty_perf);
  SAY("delete", bpf_map_delete_elem(perf_fd, &key));
  printf("perf output after it %ld\n", hit(kPerfOutput, 13, BPF_F_CURRENT_CPU, 0));
  SAY("back again", bpf_map_update_elem(perf_fd, &key, &value, 0));
  empty_perf();
  const unsigned long long before = g_page->data_head;
  hit(kPerfOutput, 13, BPF_F_CURRENT_CPU, 0);
  printf("perf the same memory %d\n", g_page->data_head == before + 32);
  SAY("delete", bpf_map_delete_elem(perf_fd, &key));
  munmap(g_page, 5 * 4096);
  close(event);

  for (int by_bytes = 0; by_bytes < 2; by_bytes++) {
    const int some = open_output(0, by_bytes ? 100 : 3, by_bytes);
    g_page = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, some, 0);
    value = (__u32)some;
    bpf_map_update_elem(perf_fd, &key, &value, 0);
    printf("perf %s:", by_bytes ? "by 100 bytes" : "by three events");
    for (int i = 0; i < 10; i++) {
      struct pollfd q = {some, POLLIN, 0};
      hit(kPerfOutput, 20, BPF_F_CURRENT_CPU, 0);
      printf(" %d", poll(&q, 1, 0));
    }
    printf("\n");
    bpf_map_delete_elem(perf_fd, &key);
    munmap(g_page, 5 * 4096);
    close(some);
  }
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  stay_on(0);
  struct sigaction action = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  skeleton = events_bpf__open_and_load();
  if (skeleton == NULL) {
    printf("load: %s\n", strerror(errno));
    return 1;
  }
  bss = skeleton->bss;
  LIBBPF_OPTS(bpf_uprobe_opts, entry, .func_name = "probed_by_events");
  skeleton->links.on_hit = bpf_program__attach_uprobe_opts(skeleton->progs.on_hit, getpid(),
                                                           "/proc/self/exe", 0, &entry);
  if (skeleton->links.on_hit == NULL) {
    printf("attach: %s\n", strerror(errno));
    return 1;
  }
  ring_fd = bpf_map__fd(skeleton->maps.ring);
  perf_fd = bpf_map__fd(skeleton->maps.perf);
  ring_by_libbpf();
  ring_by_hand();
  g_ring = map_ring();
  wait_every_way("ring", ring_fd, kRingReserve, empty_ring);
  perf_by_libbpf();
  perf_by_hand();
  events_bpf__destroy(skeleton);
  printf("ok events\n");
  return 0;
}
