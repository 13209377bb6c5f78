// redis-latency [-p PID] [-d SECONDS] [-e SERVER] [COMMAND...]: how long redis-server works on each command: count,
// average and histogram, the most frequent first. Until Ctrl-C, or for SECONDS. SERVER is its file; without COMMANDs
// those are timed that are most used.
// An ordinary libbpf tool: it runs on the kernel as root, and under `bpftime load` as anybody.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "redis-latency.h"
#include "redis-latency.skel.h"

static char* most_used[] = {"ping", "get",  "set",  "del",    "exists", "expire", "incr",
                            "mget", "mset", "hget", "hset",   "lpush",  "rpush",  "lpop",
                            "rpop", "sadd", "spop", "lrange", "zadd",   "eval",   "exec"};

struct row {
  const char* command;
  struct latency latency;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

// The function of GET is getCommand.
static bool attach(struct redis_latency_bpf* skeleton, int pid, const char* server,
                   const char* command, unsigned cookie) {
  char function[64];
  snprintf(function, sizeof(function), "%sCommand", command);
  LIBBPF_OPTS(bpf_uprobe_opts, at, .func_name = function, .bpf_cookie = cookie);
  if (bpf_program__attach_uprobe_opts(skeleton->progs.on_entry, pid, server, 0, &at) == NULL) {
    return false;
  }
  at.retprobe = true;
  return bpf_program__attach_uprobe_opts(skeleton->progs.on_return, pid, server, 0, &at) != NULL;
}

static int by_count(const void* a, const void* b) {
  const struct row* x = a;
  const struct row* y = b;
  if (x->latency.count != y->latency.count) {
    return x->latency.count < y->latency.count ? 1 : -1;
  }
  return strcmp(x->command, y->command);
}

static void print_row(const struct row* row) {
  const struct latency* latency = &row->latency;
  printf("%s: %llu calls, %.1f us on average\n", row->command, latency->count,
         (double)latency->total_ns / (double)latency->count / 1e3);
  unsigned long long most = 0;
  for (int slot = 0; slot < kSlots; slot++) {
    most = latency->slots[slot] > most ? latency->slots[slot] : most;
  }
  for (int slot = 0; slot < kSlots; slot++) {
    if (latency->slots[slot] != 0) {
      static const char kBar[] = "****************************************";
      printf("  %10llu ns.. %10llu %.*s\n", slot == 0 ? 0 : 1ULL << slot, latency->slots[slot],
             (int)(latency->slots[slot] * (sizeof(kBar) - 1) / most), kBar);
    }
  }
}

static void print_latencies(int map, char** commands, unsigned count) {
  static struct row rows[kMostCommands];
  for (unsigned i = 0; i < count; i++) {
    rows[i].command = commands[i];
    bpf_map_lookup_elem(map, &i, &rows[i].latency);
  }
  qsort(rows, count, sizeof(rows[0]), by_count);
  for (unsigned i = 0; i < count && rows[i].latency.count != 0; i++) {
    print_row(&rows[i]);
  }
}

static int trace(int pid, const char* server, char** commands, unsigned count, unsigned seconds) {
  struct redis_latency_bpf* skeleton = redis_latency_bpf__open_and_load();
  if (skeleton == NULL) {
    fprintf(stderr, "redis-latency: load: %s\n", strerror(errno));
    return 1;
  }
  for (unsigned i = 0; i < count; i++) {
    if (!attach(skeleton, pid, server, commands[i], i)) {
      fprintf(stderr, "redis-latency: %s of %s: %s\n", commands[i], server, strerror(errno));
      redis_latency_bpf__destroy(skeleton);
      return 1;
    }
  }
  printf("Timing %u commands of %s\n", count, server);
  fflush(stdout);
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  const struct timespec length = {.tv_sec = seconds};
  if (!interrupted) {
    pselect(0, NULL, NULL, NULL, seconds == 0 ? NULL : &length, &before);
  }
  print_latencies(bpf_map__fd(skeleton->maps.latencies), commands, count);
  redis_latency_bpf__destroy(skeleton);
  return 0;
}

int main(int argc, char** argv) {
  int pid = -1, option;
  unsigned seconds = 0;
  const char* server = "/usr/bin/redis-server";
  while ((option = getopt(argc, argv, "p:d:e:")) != -1) {
    if (option == 'p') {
      pid = atoi(optarg);
    } else if (option == 'd') {
      seconds = (unsigned)atoi(optarg);
    } else if (option == 'e') {
      server = optarg;
    } else {
      fprintf(stderr, "usage: redis-latency [-p PID] [-d SECONDS] [-e SERVER] [COMMAND...]\n");
      return 2;
    }
  }
  char** commands = argc > optind ? argv + optind : most_used;
  const int count = argc > optind ? argc - optind : (int)(sizeof(most_used) / sizeof(most_used[0]));
  if (count > kMostCommands) {
    fprintf(stderr, "redis-latency: at most %d commands\n", kMostCommands);
    return 2;
  }
  const struct sigaction action = {.sa_handler = on_interrupt};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  return trace(pid, server, commands, (unsigned)count, seconds);
}
