/* NOEXIST, EXIST, ANY, unknown flags; delete of what is not there. (issue: an update that says 0 whatever happened) */
#include "parity.h"

int main(void) {
  int fd = map_create(BPF_MAP_TYPE_HASH, 4, 8, 8, 0);
  uint32_t key = 1;
  uint64_t value = 10, got = 0;
  CHECK(fd >= 0, 1);
  CHECK(lookup(fd, &key, &got), -ENOENT);
  CHECK(update(fd, &key, &value, BPF_EXIST), -ENOENT);
  CHECK(erase(fd, &key), -ENOENT);
  CHECK(update(fd, &key, &value, BPF_NOEXIST), 0);
  value = 11;
  CHECK(update(fd, &key, &value, BPF_NOEXIST), -EEXIST);
  CHECK(lookup(fd, &key, &got), 0);
  CHECK(got, 10);
  CHECK(update(fd, &key, &value, BPF_EXIST), 0);
  CHECK(lookup(fd, &key, &got), 0);
  CHECK(got, 11);
  value = 12;
  CHECK(update(fd, &key, &value, BPF_ANY), 0);
  CHECK(lookup(fd, &key, &got), 0);
  CHECK(got, 12);
  CHECK(update(fd, &key, &value, 3), -EINVAL);
  CHECK(update(fd, &key, &value, BPF_F_LOCK), -EINVAL);
  CHECK(element(BPF_MAP_LOOKUP_ELEM, fd, &key, &got, BPF_F_LOCK), -EINVAL);
  CHECK(element(BPF_MAP_LOOKUP_ELEM, fd, &key, &got, 1), -EINVAL);
  CHECK(erase(fd, &key), 0);
  CHECK(erase(fd, &key), -ENOENT);
  CHECK(lookup(fd, &key, &got), -ENOENT);
  return done("maps_hash_flags");
}
