/* get_next_key visits every key once; NULL and unknown keys mean the first; ENOENT at the end; deleting while going. */
#include "parity.h"

static unsigned count(int fd, uint32_t entries) {
  uint32_t key, next;
  unsigned n = 0;
  uint8_t* seen = calloc(entries, 1);
  void* from = NULL;
  while (next_key(fd, from, &next) == 0) {
    CHECK(next < entries, 1);
    CHECK(seen[next], 0);
    seen[next] = 1;
    n++;
    key = next;
    from = &key;
  }
  CHECK(next_key(fd, from, &next), -ENOENT);
  free(seen);
  return n;
}

int main(void) {
  for (uint32_t entries = 1; entries < 130; entries++) {
    int fd = map_create(BPF_MAP_TYPE_HASH, 4, 4, entries, 0);
    uint32_t next, first, unknown = 0xffffffff;
    CHECK(fd >= 0, 1);
    CHECK(next_key(fd, NULL, &next), -ENOENT);
    CHECK(next_key(fd, &unknown, &next), -ENOENT);
    for (uint32_t key = 0; key < entries; key++) {
      CHECK(update(fd, &key, &key, BPF_ANY), 0);
      CHECK(count(fd, entries), key + 1);
    }
    CHECK(next_key(fd, NULL, &first), 0);
    CHECK(next_key(fd, &unknown, &next), 0);
    CHECK(next, first);
    /* As bpftrace's clear(): take the first until there is none. */
    for (uint32_t left = entries; left > 0; left--) {
      CHECK(next_key(fd, NULL, &next), 0);
      CHECK(erase(fd, &next), 0);
    }
    CHECK(next_key(fd, NULL, &next), -ENOENT);
    close(fd);
  }
  return done("maps_hash_iterate");
}
