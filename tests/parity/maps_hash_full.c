/* Full at exactly max_entries; present keys can still change; a delete makes room for one. */
#include "parity.h"

int main(void) {
  static const uint32_t flags[] = {0, BPF_F_NO_PREALLOC};
  static const uint32_t sizes[] = {1, 8, 100, 1000};
  for (unsigned f = 0; f < 2; f++) {
    for (unsigned s = 0; s < 4; s++) {
      int fd = map_create(BPF_MAP_TYPE_HASH, 8, 8, sizes[s], flags[f]);
      CHECK(fd >= 0, 1);
      uint64_t key, value = 5, got = 0;
      for (key = 0; key < sizes[s]; key++) {
        CHECK(update(fd, &key, &value, BPF_ANY), 0);
      }
      CHECK(update(fd, &key, &value, BPF_ANY), -E2BIG);
      CHECK(update(fd, &key, &value, BPF_NOEXIST), -E2BIG);
      CHECK(update(fd, &key, &value, BPF_EXIST), -ENOENT);
      key = 0;
      value = 6;
      CHECK(update(fd, &key, &value, BPF_ANY), 0);
      CHECK(lookup(fd, &key, &got), 0);
      CHECK(got, 6);
      CHECK(erase(fd, &key), 0);
      key = 1000000;
      CHECK(update(fd, &key, &value, BPF_ANY), 0);
      key++;
      CHECK(update(fd, &key, &value, BPF_ANY), -E2BIG);
      close(fd);
    }
  }
  return done("maps_hash_full");
}
