/* 600 keys, 300 deleted: the other 300 are found. */
#include "parity.h"

int main(void) {
  int fd = map_create(BPF_MAP_TYPE_HASH, 8, 8, 1024, 0);
  uint64_t x = 88172645463325252ULL, keys[600], got;
  CHECK(fd >= 0, 1);
  for (int i = 0; i < 600; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    keys[i] = x;
    CHECK(update(fd, &keys[i], &x, BPF_NOEXIST), 0);
  }
  for (int i = 0; i < 300; i++) {
    CHECK(erase(fd, &keys[i]), 0);
  }
  for (int i = 0; i < 600; i++) {
    CHECK(lookup(fd, &keys[i], &got), i < 300 ? -ENOENT : 0);
    if (i >= 300) {
      CHECK(got, keys[i]);
    }
  }
  return done("maps_hash_delete");
}
