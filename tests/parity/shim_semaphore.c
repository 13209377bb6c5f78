// The semaphore (reference counter) beside a uprobe: a u16 in the file's data that tells the process that somebody listens.
#include "shim_hits.h"

// In the data of this program, not in its zeros: a semaphore has a place in the file.
static volatile uint16_t semaphore[4] __attribute__((aligned(8))) = {0x1000, 5, 0x3000, 0x4000};

static long open_with(uint64_t semaphore_offset) {
  struct perf_event_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.type = uprobe_type();
  attr.size = sizeof(attr);
  attr.config = semaphore_offset << 32;
  attr.config1 = (uintptr_t)path;
  attr.config2 = offset;
  return syscall(SYS_perf_event_open, &attr, getpid(), -1, -1, PERF_FLAG_FD_CLOEXEC);
}

int main(void) {
  alarm(60);
  uint64_t counter = 0;
  if (!find_probed() || !place_of((void*)(uintptr_t)&semaphore[1], path, sizeof(path), &counter)) {
    return 2;
  }
  const int prog = trivial_program(BPF_PROG_TYPE_KPROBE);
  IS_ERROR("odd_offset", EINVAL, open_with(counter + 1));
  const int event = (int)IS_OK("event", open_with(counter));
  const int link = (int)IS_OK("link", link_create(prog, event, 0));
  IS_TRUE("raised", semaphore[1] == 6);
  const int other = (int)IS_OK("second_event", open_with(counter));
  const int other_link = (int)IS_OK("second_link", link_create(prog, other, 0));
  IS_TRUE("raised_for_each_or_for_all", semaphore[1] == 6 || semaphore[1] == 7);
  call_probed(1);
  IS_ERROR("another_semaphore_at_this_place", EINVAL, open_with(counter + 2));
  close(other_link);
  close(other);
  IS_TRUE("one_left", semaphore[1] == 6);
  close(link);
  close(event);
  IS_TRUE("lowered", semaphore[1] == 5);
  IS_TRUE("neighbours", semaphore[0] == 0x1000 && semaphore[2] == 0x3000);
  close(prog);
  return done();
}
