// calls: counts calls of one function.
//   calls [-p PID] [-e | -r] [-k] [-i | -d SECONDS] PATH FUNCTION
// -e entries only, -r returns only; -k prints a line to trace_pipe at each entry; -i answers each line of standard
// input with the counts instead of printing them every second.
// Knows nothing of bpftime: as root it runs on the kernel.
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "calls.skel.h"

struct counts {
  __u64 entries, returns, arguments, results;
};

static volatile sig_atomic_t stop;
static void on_signal(int signo) {
  (void)signo;
  stop = 1;
}

static int print_counts(int map) {
  __u32 zero = 0;
  struct counts c;
  if (bpf_map_lookup_elem(map, &zero, &c) != 0) {
    fprintf(stderr, "calls: lookup: %s\n", strerror(errno));
    return 1;
  }
  printf("entries=%llu returns=%llu arguments=%llu results=%llu\n", c.entries, c.returns,
         c.arguments, c.results);
  fflush(stdout);
  return 0;
}

int main(int argc, char** argv) {
  int pid = -1, seconds = 0, option;
  bool entries = true, returns = true, ask = false, print = false;
  while ((option = getopt(argc, argv, "p:erkid:")) != -1) {
    switch (option) {
      case 'p':
        pid = atoi(optarg);
        break;
      case 'e':
        returns = false;
        break;
      case 'r':
        entries = false;
        break;
      case 'k':
        print = true;
        break;
      case 'i':
        ask = true;
        break;
      case 'd':
        seconds = atoi(optarg);
        break;
      default:
        return 2;
    }
  }
  if (argc - optind != 2) {
    fprintf(stderr, "usage: calls [-p PID] [-e | -r] [-k] [-i | -d SECONDS] PATH FUNCTION\n");
    return 2;
  }
  struct calls_bpf* skeleton = calls_bpf__open();
  if (skeleton == NULL) {
    return 1;
  }
  skeleton->rodata->print_each = print;
  if (calls_bpf__load(skeleton) != 0) {
    fprintf(stderr, "calls: load failed\n");
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, at, .func_name = argv[optind + 1]);
  struct bpf_link* links[2] = {NULL, NULL};
  if (entries) {
    links[0] = bpf_program__attach_uprobe_opts(skeleton->progs.on_entry, pid, argv[optind], 0, &at);
  }
  at.retprobe = true;
  if (returns) {
    links[1] =
        bpf_program__attach_uprobe_opts(skeleton->progs.on_return, pid, argv[optind], 0, &at);
  }
  if ((entries && links[0] == NULL) || (returns && links[1] == NULL)) {
    fprintf(stderr, "calls: attach: %s\n", strerror(errno));
    return 1;
  }
  printf("attached\n");
  fflush(stdout);
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  int map = bpf_map__fd(skeleton->maps.counts), status = 0;
  char line[64];
  if (ask) {
    while (!stop && status == 0 && fgets(line, sizeof(line), stdin) != NULL) {
      status = print_counts(map);
    }
  } else {
    for (int i = 0; !stop && status == 0 && (seconds == 0 || i < seconds); i++) {
      sleep(1);
      status = print_counts(map);
    }
  }
  bpf_link__destroy(links[0]);
  bpf_link__destroy(links[1]);
  calls_bpf__destroy(skeleton);
  return status;
}
