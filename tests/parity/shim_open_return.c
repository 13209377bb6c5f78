// A return probe that goes while a call is open: the call returns as it should and counts nowhere, also when many other
// probes have come since, which may lie where it was.
#include <pthread.h>
#include <sched.h>

#include "shim_hits.h"

enum { kOthers = 300, kRounds = 40 };

MANY_FUNCTIONS(others, 300);  // that nobody calls meanwhile

static __attribute__((noinline, noclone)) int waits(int fd) {
  char byte = 0;
  return read(fd, &byte, 1) == 1 ? byte : -1;
}
static int (*volatile call_waits)(int) = waits;

static void* wait_in_thread(void* fd) { return (void*)(intptr_t)call_waits((int)(intptr_t)fd); }

static int link_at(const void* function, bool is_return, int prog) {
  uint64_t at = 0;
  if (!place_of(function, path, sizeof(path), &at)) {
    exit(1);
  }
  const int event = (int)uprobe_open(path, at, is_return, getpid(), -1);
  const int link = (int)link_create(prog, event, 0);
  close(event);
  return link;
}

static int link_others(int prog) {
  static uint64_t offsets[kOthers];
  if (!place_of(others, path, sizeof(path), &offsets[0])) {
    exit(1);
  }
  for (int i = 1; i < kOthers; i++) {
    offsets[i] = offsets[0] + (uint64_t)i * kFunctionBytes;
  }
  struct MultiAttr attr = multi_attr(prog, kUprobeMulti, offsets, NULL, kOthers);
  attr.multi_flags = 1;  // BPF_F_UPROBE_MULTI_RETURN
  return (int)link_multi(&attr);
}

int main(void) {
  alarm(120);
  int pipe_ends[2];
  if (!find_probed() || !make_counters() || pipe(pipe_ends) != 0) {
    return 2;
  }
  const int prog = load_counter(0);
  // All the while something is probed, so that what was taken away is not all unmapped, but used again.
  const int keeper = (int)IS_OK("link_keeper", link_at((const void*)(uintptr_t)main, false, prog));
  const void* const function = (const void*)(uintptr_t)call_waits;
  const int on_entry = (int)IS_OK("link_entry", link_at(function, false, prog));
  const int on_return = (int)IS_OK("link_return", link_at(function, true, prog));
  pthread_t thread;
  if (pthread_create(&thread, NULL, wait_in_thread, (void*)(intptr_t)pipe_ends[0]) != 0) {
    return 2;
  }
  while (word(0) == 0) {
    sched_yield();
  }
  close(on_return);
  close(on_entry);
  for (int round = 0; round < kRounds; round++) {
    close(link_probed(prog, 0));
  }
  const int multi = load_counter(kUprobeMulti);
  const int link = (int)IS_OK("link_others", link_others(multi));
  clear_words();
  const char byte = 42;
  (void)!write(pipe_ends[1], &byte, 1);
  void* result = NULL;
  pthread_join(thread, &result);
  IS_TRUE("returns_what_it_should", (intptr_t)result == 42);
  IS_TRUE("counts_nowhere", word(0) == 0);
  const int wrong = call_many(others, kOthers);
  IS_TRUE("others_count_each", word(0) == kOthers && wrong == 0);
  close(link);
  close(keeper);
  return done();
}
