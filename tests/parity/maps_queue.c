/* QUEUE and STACK: order, fullness, BPF_EXIST, empty ones, sizes and flags, and the commands that they do not have. */
#include "parity.h"

static int take(int fd, void* value) {
  return element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, NULL, value, 0);
}
static int push(int fd, uint64_t value, uint64_t flags) { return update(fd, NULL, &value, flags); }

static void in_order(uint32_t type) {
  const int fd = map_create(type, 0, 8, 3, 0);
  CHECK(fd >= 0, 1);
  const int is_queue = type == BPF_MAP_TYPE_QUEUE;
  uint64_t value = 7;
  CHECK(lookup(fd, NULL, &value), -ENOENT);
  CHECK(take(fd, &value), -ENOENT);
  CHECK(value, 7);
  for (uint64_t i = 1; i <= 3; i++) {
    CHECK(push(fd, i, BPF_ANY), 0);
  }
  CHECK(push(fd, 4, BPF_ANY), -E2BIG);
  CHECK(push(fd, 4, BPF_NOEXIST), -EINVAL);
  CHECK(push(fd, 4, 4), -EINVAL);
  CHECK(push(fd, 4, BPF_EXIST), 0); /* the oldest goes */
  CHECK(lookup(fd, NULL, &value), 0);
  CHECK(value, is_queue ? 2 : 4);
  for (uint64_t i = 0; i < 3; i++) {
    CHECK(take(fd, &value), 0);
    CHECK(value, is_queue ? 2 + i : 4 - i);
  }
  CHECK(take(fd, &value), -ENOENT);
  for (uint64_t i = 0; i < 100; i++) { /* many times around */
    CHECK(push(fd, i, 0), 0);
    CHECK(push(fd, i + 1000, 0), 0);
    CHECK(take(fd, &value), 0);
    CHECK(value, is_queue ? i : i + 1000);
    CHECK(take(fd, &value), 0);
  }
  close(fd);
}

static void refusals(uint32_t type) {
  const int fd = map_create(type, 0, 5, 2, 0);
  CHECK(fd >= 0, 1);
  uint64_t key = 0, next = 0, value = 0;
  CHECK(next_key(fd, NULL, &next), -EINVAL);
  CHECK(erase(fd, NULL), -EINVAL);
  CHECK(lookup(fd, &key, &value), -EINVAL);
  CHECK(update(fd, &key, &value, 0), -EINVAL);
  CHECK(erase(fd, &key), -EINVAL);
  CHECK(element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, NULL, &value, BPF_F_LOCK), -EINVAL);
  CHECK(element(BPF_MAP_LOOKUP_ELEM, fd, NULL, &value, BPF_F_LOCK), -EINVAL);
  CHECK(element(BPF_MAP_LOOKUP_ELEM, fd, NULL, &value, 1), -EINVAL);
  CHECK(element(BPF_MAP_UPDATE_ELEM, fd, NULL, &value, BPF_F_LOCK), -EINVAL);
  CHECK(update(fd, NULL, (void*)8, 0), -EFAULT);
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  uint32_t place = 0;
  attr.batch.map_fd = (uint32_t)fd;
  attr.batch.count = 1;
  attr.batch.keys = (uint64_t)(uintptr_t)&key;
  attr.batch.values = (uint64_t)(uintptr_t)&value;
  attr.batch.out_batch = (uint64_t)(uintptr_t)&place;
  CHECK(bpf(BPF_MAP_LOOKUP_BATCH, &attr), -524);
  CHECK(bpf(BPF_MAP_DELETE_BATCH, &attr), -524);
  memset(&value, 0xff, sizeof value);
  CHECK(update(fd, NULL, "abcde", 0), 0);
  CHECK(lookup(fd, NULL, &value), 0);
  CHECK(memcmp(&value, "abcde\xff\xff\xff", 8), 0);
  close(fd);
  CHECK(map_create(type, 4, 8, 2, 0), -EINVAL);
  CHECK(map_create(type, 0, 0, 2, 0), -EINVAL);
  CHECK(map_create(type, 0, 8, 0, 0), -EINVAL);
  CHECK(map_create(type, 0, 8, 2, BPF_F_NO_PREALLOC), -EINVAL);
  CHECK(map_create(type, 0, 8, 2, BPF_F_MMAPABLE), -EINVAL);
  CHECK(map_create(type, 0, 1 << 23, 2, 0), -E2BIG);
  const int read_only = map_create(type, 0, 8, 2, BPF_F_RDONLY);
  CHECK(read_only >= 0, 1);
  CHECK(update(read_only, NULL, &value, 0), -EPERM);
  CHECK(take(read_only, &value), -EPERM);
  CHECK(lookup(read_only, NULL, &value), -ENOENT);
  close(read_only);
  const int write_only = map_create(type, 0, 8, 2, BPF_F_WRONLY);
  CHECK(write_only >= 0, 1);
  CHECK(push(write_only, 1, 0), 0);
  CHECK(lookup(write_only, NULL, &value), -EPERM);
  CHECK(take(write_only, &value), -EPERM);
  close(write_only);
}

int main(void) {
  in_order(BPF_MAP_TYPE_QUEUE);
  in_order(BPF_MAP_TYPE_STACK);
  refusals(BPF_MAP_TYPE_QUEUE);
  refusals(BPF_MAP_TYPE_STACK);
  return done("maps_queue");
}
