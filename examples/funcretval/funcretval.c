// funcretval: which values a function returns, and how often. `funcretval [-p PID] [-d SECONDS] PATH FUNCTION`; without
// -d until Ctrl-C or the end of its input. The most frequent come first.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "funcretval.skel.h"

static volatile sig_atomic_t stop;
static void on_signal(int number) {
  (void)number;
  stop = 1;
}

struct row {
  long value;
  unsigned long long count;
};

static int by_count(const void* a, const void* b) {
  const struct row* x = a;
  const struct row* y = b;
  if (x->count != y->count) {
    return x->count < y->count ? 1 : -1;
  }
  return x->value < y->value ? -1 : x->value > y->value;
}

static int print_values(int map) {
  size_t count = 0, room = 0;
  struct row* rows = NULL;
  long key = 0, next = 0;
  for (bool first = true; bpf_map_get_next_key(map, first ? NULL : &key, &next) == 0;
       first = false) {
    key = next;
    if (count == room) {
      room = room == 0 ? 64 : room * 2;
      struct row* larger = realloc(rows, room * sizeof(*rows));
      if (larger == NULL) {
        free(rows);
        return 1;
      }
      rows = larger;
    }
    rows[count].value = key;
    if (bpf_map_lookup_elem(map, &key, &rows[count].count) == 0) {
      count++;
    }
  }
  if (count != 0) {
    qsort(rows, count, sizeof(*rows), by_count);
  }
  printf("%20s %12s\n", "VALUE", "COUNT");
  for (size_t i = 0; i < count; i++) {
    printf("%20ld %12llu\n", rows[i].value, rows[i].count);
  }
  free(rows);
  return 0;
}

int main(int argc, char** argv) {
  int pid = -1, seconds = -1, option;
  while ((option = getopt(argc, argv, "p:d:")) != -1) {
    if (option == 'p') {
      pid = atoi(optarg);
    } else if (option == 'd') {
      seconds = atoi(optarg);
    } else {
      return 2;
    }
  }
  if (argc - optind != 2) {
    fprintf(stderr, "usage: funcretval [-p PID] [-d SECONDS] PATH FUNCTION\n");
    return 2;
  }
  struct funcretval_bpf* skeleton = funcretval_bpf__open_and_load();
  if (skeleton == NULL) {
    fprintf(stderr, "funcretval: load failed: %s\n", strerror(errno));
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, at, .func_name = argv[optind + 1], .retprobe = true);
  struct bpf_link* link =
      bpf_program__attach_uprobe_opts(skeleton->progs.on_return, pid, argv[optind], 0, &at);
  if (link == NULL) {
    fprintf(stderr, "funcretval: attach: %s\n", strerror(errno));
    funcretval_bpf__destroy(skeleton);
    return 1;
  }
  const struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  printf("tracing %s of %s\n", argv[optind + 1], argv[optind]);
  fflush(stdout);
  struct pollfd input = {.fd = 0, .events = POLLIN};
  if (!stop) {
    poll(&input, seconds < 0 ? 1 : 0, seconds < 0 ? -1 : seconds * 1000);
  }
  bpf_link__destroy(link);
  const int status = print_values(bpf_map__fd(skeleton->maps.values));
  if (skeleton->bss->lost != 0) {
    printf("%llu more\n", (unsigned long long)skeleton->bss->lost);
  }
  funcretval_bpf__destroy(skeleton);
  return status;
}
