/* ARRAY: always there, never deleted. */
#include "parity.h"

int main(void) {
  int fd = map_create(BPF_MAP_TYPE_ARRAY, 4, 12, 5, 0);
  uint32_t key = 0, next = 0;
  uint8_t value[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, got[12] = {9}, zero[12] = {0};
  CHECK(fd >= 0, 1);
  CHECK(lookup(fd, &key, got), 0);
  CHECK(memcmp(got, zero, 12), 0);
  key = 4;
  CHECK(update(fd, &key, value, BPF_ANY), 0);
  CHECK(lookup(fd, &key, got), 0);
  CHECK(memcmp(got, value, 12), 0);
  CHECK(update(fd, &key, value, BPF_EXIST), 0);
  CHECK(update(fd, &key, value, BPF_NOEXIST), -EEXIST);
  CHECK(update(fd, &key, value, 3), -EINVAL);
  CHECK(update(fd, &key, value, BPF_F_LOCK), -EINVAL);
  CHECK(element(BPF_MAP_LOOKUP_ELEM, fd, &key, got, BPF_F_LOCK), -EINVAL);
  CHECK(erase(fd, &key), -EINVAL);
  key = 5;
  CHECK(lookup(fd, &key, got), -ENOENT);
  CHECK(update(fd, &key, value, BPF_ANY), -E2BIG);
  CHECK(update(fd, &key, value, BPF_NOEXIST), -E2BIG);
  CHECK(erase(fd, &key), -EINVAL);
  CHECK(next_key(fd, NULL, &next), 0);
  for (uint32_t i = 0; i < 4; i++) {
    CHECK(next, i);
    key = next;
    CHECK(next_key(fd, &key, &next), 0);
  }
  CHECK(next, 4);
  key = 4;
  CHECK(next_key(fd, &key, &next), -ENOENT);
  key = 1000;
  CHECK(next_key(fd, &key, &next), 0);
  CHECK(next, 0);
  return done("maps_array");
}
