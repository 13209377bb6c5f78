// sslsniff [-p PID] [-d SECONDS] [-l LIBSSL]: the plain text that goes through OpenSSL, one line a call:
//   TIME  PID COMM  READ|WRITE  BYTES  TEXT (with escapes, as in C)
// Until Ctrl-C, or for SECONDS. An ordinary libbpf tool: it runs on the kernel as root, and under `bpftime load` as
// anybody.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "sslsniff.h"
#include "sslsniff.skel.h"

static const char kLibssl[] = "libssl.so.3";
enum { kLookEveryMs = 50 };

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

// The escaped form of each byte, made once: a busy server's text is millions of them a second.
struct escape {
  char text[4];
  unsigned char length;
};
static struct escape escapes[256];

static void make_escapes(void) {
  for (int byte = 0; byte < 256; byte++) {
    char text[8];
    const char* named = byte == '\n'   ? "\\n"
                        : byte == '\r' ? "\\r"
                        : byte == '\t' ? "\\t"
                        : byte == '"'  ? "\\\""
                        : byte == '\\' ? "\\\\"
                                       : NULL;
    const int length = named != NULL                ? snprintf(text, sizeof(text), "%s", named)
                       : byte >= ' ' && byte <= '~' ? snprintf(text, sizeof(text), "%c", byte)
                                                    : snprintf(text, sizeof(text), "\\%03o", byte);
    for (int i = 0; i < length; i++) {
      escapes[byte].text[i] = text[i];
    }
    escapes[byte].length = (unsigned char)length;
  }
}

static void print_text(const char* data, unsigned bytes) {
  static char text[4 * kMostBytes];
  size_t used = 0;
  for (unsigned i = 0; i < bytes; i++) {
    const struct escape* escape = &escapes[(unsigned char)data[i]];
    for (unsigned char k = 0; k < escape->length; k++) {
      text[used++] = escape->text[k];
    }
  }
  fwrite(text, 1, used, stdout);
}

// "HH:MM:SS" of a time of CLOCK_MONOTONIC.
static const char* wall_time(unsigned long long monotonic_ns) {
  static char text[16];
  static time_t shown = -1;
  static long long offset_ns;
  if (shown == -1) {
    struct timespec wall, monotonic;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    offset_ns = (wall.tv_sec - monotonic.tv_sec) * 1000000000LL + wall.tv_nsec - monotonic.tv_nsec;
  }
  const time_t second = (time_t)(((long long)monotonic_ns + offset_ns) / 1000000000);
  if (second != shown) {
    struct tm parts;
    strftime(text, sizeof(text), "%H:%M:%S", localtime_r(&second, &parts));
    shown = second;
  }
  return text;
}

static int print_event(void* context, void* data, size_t size) {
  (void)context;
  const struct event* event = data;
  if (size < offsetof(struct event, data) + event->copied) {
    return 0;
  }
  printf("%s %u %s %s %u \"", wall_time(event->end_ns), event->pid, event->comm,
         event->direction == kRead ? "READ" : "WRITE", event->bytes);
  print_text(event->data, event->copied);
  fputs(event->copied < event->bytes ? "\"...\n" : "\"\n", stdout);
  return 0;
}

static bool attach_pair(struct bpf_program* on_call, struct bpf_program* on_return, int pid,
                        const char* library, const char* function) {
  LIBBPF_OPTS(bpf_uprobe_opts, at, .func_name = function);
  if (bpf_program__attach_uprobe_opts(on_call, pid, library, 0, &at) == NULL) {
    return false;
  }
  at.retprobe = true;
  return bpf_program__attach_uprobe_opts(on_return, pid, library, 0, &at) != NULL;
}

static bool attach_all(struct sslsniff_bpf* skeleton, int pid, const char* library) {
  return attach_pair(skeleton->progs.on_call, skeleton->progs.on_read, pid, library, "SSL_read") &&
         attach_pair(skeleton->progs.on_call, skeleton->progs.on_write, pid, library,
                     "SSL_write") &&
         attach_pair(skeleton->progs.on_call_ex, skeleton->progs.on_read, pid, library,
                     "SSL_read_ex") &&
         attach_pair(skeleton->progs.on_call_ex, skeleton->progs.on_write, pid, library,
                     "SSL_write_ex");
}

static int watch(struct sslsniff_bpf* skeleton, unsigned seconds) {
  struct ring_buffer* events =
      ring_buffer__new(bpf_map__fd(skeleton->maps.events), print_event, NULL, NULL);
  if (events == NULL) {
    fprintf(stderr, "sslsniff: ring buffer: %s\n", strerror(errno));
    return 1;
  }
  const time_t end = time(NULL) + seconds;
  int status = 0;
  while (!interrupted && status >= 0 && (seconds == 0 || time(NULL) < end)) {
    status = ring_buffer__poll(events, kLookEveryMs);
    if (status == 0 || status == -EINTR) {
      status = ring_buffer__consume(events);  // a few records wake nobody
    }
    fflush(stdout);
  }
  ring_buffer__consume(events);
  fflush(stdout);
  ring_buffer__free(events);
  return status < 0 ? 1 : 0;
}

int main(int argc, char** argv) {
  int pid = -1, option;
  unsigned seconds = 0;
  const char* library = kLibssl;
  while ((option = getopt(argc, argv, "p:d:l:")) != -1) {
    if (option == 'p') {
      pid = atoi(optarg);
    } else if (option == 'd') {
      seconds = (unsigned)atoi(optarg);
    } else if (option == 'l') {
      library = optarg;
    } else {
      fprintf(stderr, "usage: sslsniff [-p PID] [-d SECONDS] [-l LIBSSL]\n");
      return 2;
    }
  }
  make_escapes();
  struct sslsniff_bpf* skeleton = sslsniff_bpf__open_and_load();
  if (skeleton == NULL) {
    fprintf(stderr, "sslsniff: load: %s\n", strerror(errno));
    return 1;
  }
  if (!attach_all(skeleton, pid, library)) {
    fprintf(stderr, "sslsniff: attach to %s: %s\n", library, strerror(errno));
    sslsniff_bpf__destroy(skeleton);
    return 1;
  }
  // stdio gives up what an interrupted write(2) did not take.
  const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  puts("TIME PID COMM CALL BYTES TEXT");
  fflush(stdout);
  const int status = watch(skeleton, seconds);
  if (skeleton->bss->lost != 0) {
    fprintf(stderr, "sslsniff: %llu calls not shown: the buffer was full\n",
            (unsigned long long)skeleton->bss->lost);
  }
  sslsniff_bpf__destroy(skeleton);
  return status;
}
