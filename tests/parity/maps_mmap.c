/* BPF_F_MMAPABLE: the mapping and the map are the same bytes; a frozen map cannot be written or mapped for writing. */
#include <sys/mman.h>

#include "parity.h"

int main(void) {
  int fd = map_create(BPF_MAP_TYPE_ARRAY, 4, 7732, 1, BPF_F_MMAPABLE);
  uint32_t key = 0;
  static uint8_t value[7732];
  union bpf_attr attr;
  uint8_t* memory;
  CHECK(fd >= 0, 1);
  memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(memory != MAP_FAILED, 1);
  memory[7731] = 42;
  CHECK(lookup(fd, &key, value), 0);
  CHECK(value[7731], 42);
  value[0] = 7;
  CHECK(update(fd, &key, value, BPF_ANY), 0);
  CHECK(memory[0], 7);
  memset(&attr, 0, sizeof attr);
  attr.map_fd = (uint32_t)fd;
  CHECK(bpf(BPF_MAP_FREEZE, &attr), -EBUSY); /* a writable mapping is there */
  CHECK(munmap(memory, 8192), 0);
  CHECK(bpf(BPF_MAP_FREEZE, &attr), 0);
  CHECK(bpf(BPF_MAP_FREEZE, &attr), -EPERM);
  CHECK(update(fd, &key, value, BPF_ANY), -EPERM);
  CHECK(lookup(fd, &key, value), 0);
  CHECK(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED, 1);
  CHECK(errno, EPERM);
  memory = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(memory != MAP_FAILED, 1);
  CHECK(memory[7731], 42);
  return done("maps_mmap");
}
