/* Keys and values of any size come back whole. */
#include "parity.h"

int main(void) {
  static const uint32_t key_sizes[] = {1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 64, 511};
  static const uint32_t value_sizes[] = {1, 3, 4, 8, 13, 512, 7720};
  static uint8_t key[512], value[7720], got[7720];
  for (unsigned k = 0; k < sizeof key_sizes / 4; k++) {
    for (unsigned v = 0; v < sizeof value_sizes / 4; v++) {
      int fd = map_create(BPF_MAP_TYPE_HASH, key_sizes[k], value_sizes[v], 20, 0);
      CHECK(fd >= 0, 1);
      for (int i = 0; i < 20; i++) {
        memset(key, 0x55, sizeof key);
        key[key_sizes[k] - 1] = (uint8_t)i;
        memset(value, i + 1, sizeof value);
        CHECK(update(fd, key, value, BPF_NOEXIST), 0);
      }
      for (int i = 0; i < 20; i++) {
        key[key_sizes[k] - 1] = (uint8_t)i;
        memset(value, i + 1, sizeof value);
        memset(got, 0, sizeof got);
        CHECK(lookup(fd, key, got), 0);
        CHECK(memcmp(got, value, value_sizes[v]), 0);
        CHECK(value_sizes[v] == sizeof got || got[value_sizes[v]] == 0, 1);
      }
      close(fd);
    }
  }
  return done("maps_hash_sizes");
}
