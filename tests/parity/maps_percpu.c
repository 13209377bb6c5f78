/* PERCPU_HASH and PERCPU_ARRAY through bpf(2): all CPUs' values at once, each rounded up to 8 bytes. */
#include "parity.h"

static void check_kind(int type, uint32_t value_size) {
  const int is_array = type == BPF_MAP_TYPE_PERCPU_ARRAY;
  const uint32_t cpus = possible_cpus(), stride = (value_size + 7) / 8 * 8;
  const size_t bytes = (size_t)cpus * stride;
  uint8_t *in = malloc(bytes + 1), *out = malloc(bytes + 1);
  for (size_t i = 0; i < bytes; i++) {
    in[i] = i % stride < value_size ? (uint8_t)(i * 7 + 1) : 0;
  }
  int fd = map_create(type, 4, value_size, 3, 0);
  CHECK(fd >= 0, 1);
  uint32_t key = 1, behind = 3, next = 9;
  memset(out, 0xee, bytes + 1);
  CHECK(lookup(fd, &key, out), is_array ? 0 : -ENOENT);
  CHECK(lookup(fd, &behind, out), -ENOENT);
  CHECK(update(fd, &key, in, BPF_EXIST), is_array ? 0 : -ENOENT);
  CHECK(update(fd, &key, in, BPF_NOEXIST), is_array ? -EEXIST : 0);
  CHECK(update(fd, &key, in, BPF_NOEXIST), -EEXIST);
  CHECK(update(fd, &key, in, 77), -EINVAL);
  CHECK(element(BPF_MAP_LOOKUP_ELEM, fd, &key, out, BPF_F_LOCK), -EINVAL);
  memset(out, 0xee, bytes + 1);
  CHECK(lookup(fd, &key, out), 0);
  CHECK(memcmp(in, out, bytes), 0);
  CHECK(out[bytes], 0xee); /* and nothing behind it */
  memset(in, 0, bytes);
  CHECK(update(fd, &key, in, BPF_ANY), 0);
  CHECK(lookup(fd, &key, out), 0);
  CHECK(memcmp(in, out, bytes), 0);
  CHECK(lookup(fd, &key, (void*)8), -EFAULT);
  CHECK(update(fd, &key, (void*)8, BPF_ANY), -EFAULT);
  if (is_array) {
    CHECK(update(fd, &behind, in, BPF_ANY), -E2BIG);
    CHECK(erase(fd, &key), -EINVAL);
    CHECK(next_key(fd, &key, &next), 0);
    CHECK(next, 2);
  } else {
    CHECK(next_key(fd, NULL, &next), 0);
    CHECK(next, 1);
    CHECK(next_key(fd, &key, &next), -ENOENT);
    for (uint32_t more = 10; more < 12; more++) {
      CHECK(update(fd, &more, in, BPF_ANY), 0);
    }
    CHECK(update(fd, &behind, in, BPF_ANY), -E2BIG);
    CHECK(update(fd, &key, in, BPF_EXIST), 0);
    CHECK(erase(fd, &key), 0);
    CHECK(erase(fd, &key), -ENOENT);
    CHECK(update(fd, &behind, in, BPF_ANY), 0);
  }
  union bpf_attr attr;
  struct bpf_map_info info;
  memset(&attr, 0, sizeof(attr));
  memset(&info, 0, sizeof(info));
  attr.info.bpf_fd = fd;
  attr.info.info_len = sizeof(info);
  attr.info.info = (uint64_t)(uintptr_t)&info;
  CHECK(syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)), 0);
  CHECK(info.value_size, value_size);
  close(fd);
  free(in);
  free(out);
}

int main(void) {
  for (int i = 0; i < 4; i++) {
    const uint32_t sizes[] = {1, 8, 12, 10240};
    check_kind(BPF_MAP_TYPE_PERCPU_ARRAY, sizes[i]);
    check_kind(BPF_MAP_TYPE_PERCPU_HASH, sizes[i]);
  }
  return done("maps_percpu");
}
