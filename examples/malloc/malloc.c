// malloc [-p PID] [-d SECONDS] [-b BYTES] [-j]: who calls malloc how often, every second.
// An ordinary libbpf tool. It runs on the kernel as root, and under `bpftime load` as anybody.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "malloc.skel.h"

enum { kMostRows = 10240 };

struct row {
  uint32_t pid;
  uint64_t calls;
};

struct options {
  int pid;           // -1: every process
  unsigned seconds;  // 0: until interrupted
  uint64_t smallest_bytes;
  bool json;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

// The libc that `pid` has mapped (0: this process). False when it has none, or none that we may
// see.
static bool find_libc(int pid, char* path, size_t path_bytes) {
  char name[64];
  if (pid > 0) {
    snprintf(name, sizeof(name), "/proc/%d/maps", pid);
  } else {
    snprintf(name, sizeof(name), "/proc/self/maps");
  }
  FILE* maps = fopen(name, "re");
  if (maps == NULL) {
    return false;
  }
  bool found = false;
  char line[PATH_MAX + 128];
  while (!found && fgets(line, sizeof(line), maps) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    const char* file = strchr(line, '/');
    if (file == NULL) {
      continue;
    }
    const char* base = strrchr(file, '/') + 1;
    if (strcmp(base, "libc.so.6") == 0 || strncmp(base, "libc-2.", 7) == 0 ||
        strncmp(base, "ld-musl-", 8) == 0) {
      found = (size_t)snprintf(path, path_bytes, "%s", file) < path_bytes;
    }
  }
  fclose(maps);
  return found;
}

static void read_comm(uint32_t pid, char* comm, size_t comm_bytes) {
  char name[64];
  snprintf(name, sizeof(name), "/proc/%u/comm", pid);
  snprintf(comm, comm_bytes, "?");
  FILE* file = fopen(name, "re");
  if (file == NULL) {
    return;
  }
  if (fgets(comm, (int)comm_bytes, file) != NULL) {
    comm[strcspn(comm, "\n")] = '\0';
  }
  fclose(file);
}

static int by_calls(const void* a, const void* b) {
  const uint64_t left = ((const struct row*)a)->calls;
  const uint64_t right = ((const struct row*)b)->calls;
  return left < right ? 1 : left > right ? -1 : 0;
}

static size_t read_rows(int map, struct row* rows) {
  size_t count = 0;
  uint32_t key = 0;
  uint32_t next = 0;
  int error = bpf_map_get_next_key(map, NULL, &next);
  while (error == 0 && count < kMostRows) {
    key = next;
    uint64_t calls = 0;
    if (bpf_map_lookup_elem(map, &key, &calls) == 0) {
      rows[count].pid = key;
      rows[count].calls = calls;
      count++;
    }
    error = bpf_map_get_next_key(map, &key, &next);
  }
  qsort(rows, count, sizeof(rows[0]), by_calls);
  return count;
}

static void print_json_string(const char* text) {
  putchar('"');
  for (const unsigned char* p = (const unsigned char*)text; *p != '\0'; p++) {
    if (*p == '"' || *p == '\\') {
      printf("\\%c", *p);
    } else if (*p < 0x20 || *p >= 0x7f) {
      printf("\\u%04x", *p);
    } else {
      putchar(*p);
    }
  }
  putchar('"');
}

static void print_rows(const struct options* options, unsigned second, uint64_t total,
                       const struct row* rows, size_t count) {
  if (options->json) {
    printf("{\"second\":%u,\"total\":%" PRIu64 ",\"processes\":[", second, total);
  } else {
    printf("second %u: %" PRIu64 " calls\n%10s %16s %14s\n", second, total, "PID", "COMM", "CALLS");
  }
  for (size_t i = 0; i < count; i++) {
    char comm[32];
    read_comm(rows[i].pid, comm, sizeof(comm));
    if (options->json) {
      printf("%s{\"pid\":%u,\"comm\":", i == 0 ? "" : ",", rows[i].pid);
      print_json_string(comm);
      printf(",\"calls\":%" PRIu64 "}", rows[i].calls);
    } else {
      printf("%10u %16s %14" PRIu64 "\n", rows[i].pid, comm, rows[i].calls);
    }
  }
  printf(options->json ? "]}\n" : "\n");
  fflush(stdout);
}

static bool parse_number(const char* text, uint64_t most, uint64_t* number) {
  char* end = NULL;
  errno = 0;
  *number = strtoull(text, &end, 10);
  return errno == 0 && end != text && *end == '\0' && text[0] != '-' && *number <= most;
}

static void usage(void) {
  fprintf(stderr,
          "usage: malloc [-p PID] [-d SECONDS] [-b BYTES] [-j]\n"
          "  -p PID      count in this process only\n"
          "  -d SECONDS  stop after so long (else at Ctrl-C)\n"
          "  -b BYTES    count only calls that ask for so much or more\n"
          "  -j          one JSON object a second\n");
}

static bool parse_options(int argc, char** argv, struct options* options) {
  *options = (struct options){.pid = -1};
  int option = 0;
  while ((option = getopt(argc, argv, "p:d:b:jh")) != -1) {
    uint64_t number = 0;
    switch (option) {
      case 'p':
        if (!parse_number(optarg, INT_MAX, &number) || number == 0) {
          return false;
        }
        options->pid = (int)number;
        break;
      case 'd':
        if (!parse_number(optarg, 1000000000, &number)) {
          return false;
        }
        options->seconds = (unsigned)number;
        break;
      case 'b':
        if (!parse_number(optarg, UINT64_MAX, &options->smallest_bytes)) {
          return false;
        }
        break;
      case 'j':
        options->json = true;
        break;
      default:
        return false;
    }
  }
  return optind == argc;
}

// Sleeps until `deadline`; false when a signal ended it.
static bool sleep_until(const struct timespec* deadline) {
  while (!interrupted) {
    const int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, deadline, NULL);
    if (error == 0) {
      return true;
    }
    if (error != EINTR) {
      return false;
    }
  }
  return false;
}

static int run(const struct options* options, struct malloc_bpf* skeleton) {
  struct row* rows = calloc(kMostRows, sizeof(rows[0]));
  if (rows == NULL) {
    return 1;
  }
  struct timespec deadline;
  clock_gettime(CLOCK_MONOTONIC, &deadline);
  const int map = bpf_map__fd(skeleton->maps.calls_by_pid);
  for (unsigned second = 1; !interrupted; second++) {
    deadline.tv_sec++;
    const bool slept = sleep_until(&deadline);
    const size_t count = read_rows(map, rows);
    print_rows(options, second, skeleton->bss->total_calls, rows, count);
    if (!slept || second == options->seconds) {
      break;
    }
  }
  free(rows);
  return 0;
}

int main(int argc, char** argv) {
  struct options options;
  if (!parse_options(argc, argv, &options)) {
    usage();
    return 2;
  }
  struct sigaction action = {.sa_handler = on_interrupt};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);

  char libc_path[PATH_MAX];
  if (!find_libc(options.pid > 0 ? options.pid : 0, libc_path, sizeof(libc_path)) &&
      !find_libc(0, libc_path, sizeof(libc_path))) {
    fprintf(stderr, "malloc: no libc found\n");
    return 1;
  }
  struct malloc_bpf* skeleton = malloc_bpf__open();
  if (skeleton == NULL) {
    fprintf(stderr, "malloc: cannot open the BPF object: %s\n", strerror(errno));
    return 1;
  }
  skeleton->rodata->smallest_bytes = options.smallest_bytes;
  int error = malloc_bpf__load(skeleton);
  if (error != 0) {
    fprintf(stderr, "malloc: cannot load the BPF program: %s\n", strerror(-error));
    malloc_bpf__destroy(skeleton);
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, uprobe, .func_name = "malloc");
  skeleton->links.count_malloc = bpf_program__attach_uprobe_opts(
      skeleton->progs.count_malloc, options.pid, libc_path, 0, &uprobe);
  if (skeleton->links.count_malloc == NULL) {
    fprintf(stderr, "malloc: cannot attach to malloc in %s: %s\n", libc_path, strerror(errno));
    malloc_bpf__destroy(skeleton);
    return 1;
  }
  error = run(&options, skeleton);
  malloc_bpf__destroy(skeleton);
  return error;
}
