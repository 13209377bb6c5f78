/* Shared by the parity programs: plain C over bpf(2), so that the same binary runs on a kernel (as root) and under
 * bpftime. Each program checks one behaviour, prints "ok NAME", and exits non-zero at the first surprise. */
#ifndef PARITY_H
#define PARITY_H
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK(is, want)                                                                   \
  do {                                                                                    \
    long is_ = (long)(is), want_ = (long)(want);                                          \
    if (is_ != want_) {                                                                   \
      printf("FAILED %s:%d: %s is %ld, want %ld\n", __FILE__, __LINE__, #is, is_, want_); \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

/* 0 or a positive value, or -errno. */
static long bpf(int command, union bpf_attr* attr) {
  long result = syscall(SYS_bpf, command, attr, sizeof *attr);
  return result < 0 ? -errno : result;
}

static int map_create(uint32_t type, uint32_t key, uint32_t value, uint32_t entries,
                      uint32_t flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.map_type = type;
  attr.key_size = key;
  attr.value_size = value;
  attr.max_entries = entries;
  attr.map_flags = flags;
  return (int)bpf(BPF_MAP_CREATE, &attr);
}

static int element(int command, int fd, const void* key, const void* value, uint64_t flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.map_fd = (uint32_t)fd;
  attr.key = (uint64_t)(uintptr_t)key;
  attr.value = (uint64_t)(uintptr_t)value;
  attr.flags = flags;
  return (int)bpf(command, &attr);
}
static inline int update(int fd, const void* key, const void* value, uint64_t flags) {
  return element(BPF_MAP_UPDATE_ELEM, fd, key, value, flags);
}
static inline int lookup(int fd, const void* key, void* value) {
  return element(BPF_MAP_LOOKUP_ELEM, fd, key, value, 0);
}
static inline int erase(int fd, const void* key) {
  return element(BPF_MAP_DELETE_ELEM, fd, key, NULL, 0);
}
static inline int next_key(int fd, const void* key, void* next) {
  return element(BPF_MAP_GET_NEXT_KEY, fd, key, next, 0);
}

static inline uint32_t possible_cpus(void) {
  unsigned first = 0, last = 0;
  FILE* file = fopen("/sys/devices/system/cpu/possible", "re");
  int n = file == NULL ? 0 : fscanf(file, "%u-%u", &first, &last);
  if (file != NULL)
    fclose(file);
  return n == 2 ? last + 1 : 1;
}

static inline int done(const char* name) {
  printf("ok %s\n", name);
  return 0;
}
#endif
