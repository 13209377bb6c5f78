// Runs every helper at a probe of its own process and prints what they gave, so that the output on the kernel (as root)
// and on bpftime (as anybody) is the same: no pids, no times, no addresses. "ok helpers" at its end.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "results.h"
// results.h first: the skeleton names its types
#include "helpers.skel.h"

static volatile int sink;
__attribute__((noinline, noclone)) int probed_by_helpers(const struct addresses* at) {
  sink += at->text[0];
  sink ^= 7;
  return sink + 42;
}
static int (*volatile call_probed)(const struct addresses*) = probed_by_helpers;

static __u64 now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (__u64)t.tv_sec * 1000000000ULL + (__u64)t.tv_nsec;
}

static void say(const char* what, bool good) { printf("%s %s\n", what, good ? "right" : "WRONG"); }

static void print_reads(const struct results* r) {
  for (int i = 0; i < 21; i++) {
    // A user's address is ERANGE for the kernel's probe_read_kernel; here all memory is the user's (docs/parity.md).
    printf("read %d: %ld", i, i == 13 || i == 14 ? -(r->read[i] < 0) : r->read[i]);
    // What stands behind a string's NUL is nobody's business: the kernel copies whole words.
    const bool is_string =
        (i >= 3 && i <= 9) || i == 11 || i == 14 || i == 16 || i == 18 || i == 20;
    for (int n = 0; n < (is_string && r->read[i] > 0 ? r->read[i] : 16); n++) {
      printf(" %02x", (unsigned char)r->bytes[i][n]);
    }
    printf("\n");
  }
}

// Our lines of the trace, without what stands before them; in order.
static int print_trace(int pipe, int want) {
  char text[65536];
  size_t have = 0;
  int printed = 0;
  const __u64 end = now(CLOCK_MONOTONIC) + 5000000000ULL;
  while (printed < want && now(CLOCK_MONOTONIC) < end) {
    struct pollfd polled = {.fd = pipe, .events = POLLIN};
    poll(&polled, 1, 100);
    const ssize_t n = read(pipe, text + have, sizeof(text) - 1 - have);
    if (n <= 0) {
      continue;
    }
    have += (size_t)n;
    text[have] = 0;
    char *line = text, *stop;
    while ((stop = strchr(line, '\n')) != NULL) {
      *stop = 0;
      const char* at = strstr(line, "bpf_trace_printk: helpers:");
      if (at != NULL) {
        printf("trace %s\n", at);
        printed++;
      }
      line = stop + 1;
    }
    have = strlen(line);
    memmove(text, line, have + 1);
  }
  return printed;
}

int main(void) {
  const long page = sysconf(_SC_PAGESIZE);
  char* pages =
      mmap(NULL, 6 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(pages + page, (size_t)page, PROT_NONE);
  mprotect(pages + 3 * page, (size_t)page, PROT_NONE);
  mprotect(pages + 4 * page, (size_t)page, PROT_NONE);
  memcpy(pages + page - 4, "abc", 4);
  memset(pages + 2 * page, 'x', (size_t)page);
  static const char text[] = "hello, world";
  const struct addresses at = {.text = text,
                               .empty = "",
                               .nowhere = (char*)0x30000,
                               .page_end = pages + page,
                               .no_nul_end = pages + 3 * page,
                               .no_access = pages + 4 * page};
  int pipe = open("/sys/kernel/tracing/trace_pipe", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (pipe < 0) {
    pipe = open("/sys/kernel/debug/tracing/trace_pipe", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  }

  struct helpers_bpf* skeleton = helpers_bpf__open();
  if (skeleton == NULL) {
    return 1;
  }
  skeleton->rodata->from_rodata = 0x1234;
  skeleton->bss->results.magic = 0x1122334455667788;
  strcpy(skeleton->bss->results.name, "a name");
  if (helpers_bpf__load(skeleton) != 0) {
    printf("load: %s\n", strerror(errno));
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, entry, .func_name = "probed_by_helpers",
              .bpf_cookie = 0xfeedface12345678);
  LIBBPF_OPTS(bpf_uprobe_opts, at_return, .func_name = "probed_by_helpers", .retprobe = true,
              .bpf_cookie = 99);
  skeleton->links.on_entry = bpf_program__attach_uprobe_opts(skeleton->progs.on_entry, getpid(),
                                                             "/proc/self/exe", 0, &entry);
  skeleton->links.on_return = bpf_program__attach_uprobe_opts(skeleton->progs.on_return, getpid(),
                                                              "/proc/self/exe", 0, &at_return);
  if (skeleton->links.on_entry == NULL || skeleton->links.on_return == NULL) {
    printf("attach: %s\n", strerror(errno));
    return 1;
  }
  prctl(PR_SET_NAME, "first-name");
  const __u64 ktime = now(CLOCK_MONOTONIC), boot = now(CLOCK_BOOTTIME);
  const int result = call_probed(&at);
  const struct results* r = &skeleton->bss->results;  // .bss is shared with the program by mmap
  printf("runs %llu, reading its argument %ld\n", r->runs, r->first_read);
  say("pid_tgid", r->pid_tgid == ((__u64)getpid() << 32 | (__u64)syscall(SYS_gettid)));
  say("uid_gid", r->uid_gid == ((__u64)getgid() << 32 | getuid()));
  printf("comm %ld \"%s\", short %ld \"%.4s\"\n", r->comm_result, r->comm, r->short_comm_result,
         r->short_comm);
  say("ktime_get_ns", r->ktime >= ktime && r->ktime <= now(CLOCK_MONOTONIC));
  say("ktime_get_boot_ns", r->boot >= boot && r->boot <= now(CLOCK_BOOTTIME));
  say("get_prandom_u32", r->random[0] != r->random[1] || r->random[1] != r->random[2]);
  say("get_smp_processor_id", (long)r->cpu < libbpf_num_possible_cpus());
  say("get_func_ip", r->func_ip == (__u64)(unsigned long)probed_by_helpers);
  printf("cookies %llx %llx\n", r->cookie, r->return_cookie);
  say("get_func_ip at the return", r->return_func_ip == (__u64)(unsigned long)probed_by_helpers);
  say("returned", (int)r->returned == result);
  printf("rodata %llx, data %llx then %llx\n", r->rodata, r->data, skeleton->data->from_data);
  print_reads(r);
  for (int i = 0; i < 24; i++) {
    printf("map %d: %ld\n", i, r->map[i]);
  }
  printf("printk %ld %ld %ld %ld\n", r->printk[0], r->printk[1], r->printk[2], r->printk[3]);
  if (pipe >= 0) {  // not everybody's kernel has tracefs mounted
    printf("trace lines %d\n", print_trace(pipe, 3));
  }

  // What the loader writes the program sees, and a name that changes.
  skeleton->data->from_data = 7000;
  prctl(PR_SET_NAME, "second-name-that-is-too-long");
  call_probed(&at);
  printf("runs %llu, data %llu then %llu, comm \"%s\"\n", r->runs, r->data,
         skeleton->data->from_data, r->comm);

  // .rodata is frozen and cannot be written by anybody.
  const int rodata = bpf_map__fd(skeleton->maps.rodata);
  __u32 zero = 0;
  char value[4096];
  printf("rodata lookup %d\n", bpf_map_lookup_elem(rodata, &zero, value));
  printf("rodata update %d\n", bpf_map_update_elem(rodata, &zero, value, 0));
  const void* writable = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, rodata, 0);
  printf("rodata writable mapping %s\n", writable == MAP_FAILED ? strerror(errno) : "made");
  const void* readable = mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, rodata, 0);
  printf("rodata readable mapping %s\n", readable == MAP_FAILED ? strerror(errno) : "made");

  bpf_link__destroy(skeleton->links.on_entry);
  skeleton->links.on_entry = NULL;
  call_probed(&at);
  printf("runs after detach %llu\n", r->runs);
  helpers_bpf__destroy(skeleton);
  printf("ok helpers\n");
  return 0;
}
