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
#include <string.h>
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

// A time of CLOCK_MONOTONIC in seconds of the epoch.
static time_t wall_second(unsigned long long monotonic_ns) {
  static bool is_known;
  static long long offset_ns;
  if (!is_known) {
    struct timespec wall, monotonic;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    offset_ns = (wall.tv_sec - monotonic.tv_sec) * 1000000000LL + wall.tv_nsec - monotonic.tv_nsec;
    is_known = true;
  }
  return (time_t)(((long long)monotonic_ns + offset_ns) / 1000000000);
}

// What a line begins with, the same for many lines in a row.
struct heading {
  time_t second;
  unsigned pid;
  char comm[sizeof(((struct event*)0)->comm)];
  char text[64];
  size_t length;
};

static const struct heading* heading_of(const struct event* event) {
  static struct heading headings[2];  // by direction
  struct heading* heading = &headings[event->direction == kWrite];
  const time_t second = wall_second(event->end_ns);
  if (second != heading->second || event->pid != heading->pid ||
      memcmp(event->comm, heading->comm, sizeof(event->comm)) != 0) {
    struct tm parts;
    char time_text[16];
    strftime(time_text, sizeof(time_text), "%H:%M:%S", localtime_r(&second, &parts));
    heading->second = second;
    heading->pid = event->pid;
    memcpy(heading->comm, event->comm, sizeof(event->comm));
    heading->length =
        (size_t)snprintf(heading->text, sizeof(heading->text), "%s %u %.16s %s ", time_text,
                         event->pid, event->comm, event->direction == kRead ? "READ" : "WRITE");
  }
  return heading;
}

static char* put(char* to, const char* text, size_t length) {
  memcpy(to, text, length);
  return to + length;
}

static char* put_number(char* to, unsigned number) {
  char digits[10];
  size_t first = sizeof(digits);
  do {
    digits[--first] = (char)('0' + number % 10);
    number /= 10;
  } while (number != 0);
  return put(to, digits + first, sizeof(digits) - first);
}

static char* put_text(char* to, const char* data, unsigned bytes) {
  for (unsigned i = 0; i < bytes; i++) {
    const struct escape* escape = &escapes[(unsigned char)data[i]];
    memcpy(to, escape->text, sizeof(escape->text));  // what is too much is written over
    to += escape->length;
  }
  return to;
}

// Tens of thousands a second on a busy server, each of which costs the server: no printf.
static int print_event(void* context, void* data, size_t size) {
  static char line[sizeof(((struct heading*)0)->text) + 4 * kMostBytes + 32];
  (void)context;
  const struct event* event = data;
  if (size < offsetof(struct event, data) + event->copied) {
    return 0;
  }
  const struct heading* heading = heading_of(event);
  char* end = put(line, heading->text, heading->length);
  end = put_number(end, event->bytes);
  end = put(end, " \"", 2);
  end = put_text(end, event->data, event->copied);
  end = event->copied < event->bytes ? put(end, "\"...\n", 5) : put(end, "\"\n", 2);
  fwrite_unlocked(line, 1, (size_t)(end - line), stdout);
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
  static char room[1 << 16];
  setvbuf(stdout, room, _IOFBF, sizeof(room));  // watch() flushes
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
