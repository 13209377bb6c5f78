/* The batch commands and LOOKUP_AND_DELETE on hashes, arrays and their per-CPU kinds. */
#include "parity.h"

enum { kEntries = 1000, kNotSupported = 524 };

static uint32_t keys[4096];
static uint64_t* values; /* as bpf(2) gives them */
static uint32_t lanes, stride;

static int batch(int command, int fd, void* in, void* out, uint32_t* count, uint64_t elem_flags,
                 uint64_t flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.batch.map_fd = fd;
  attr.batch.in_batch = (uint64_t)(uintptr_t)in;
  attr.batch.out_batch = (uint64_t)(uintptr_t)out;
  attr.batch.keys = (uint64_t)(uintptr_t)keys;
  attr.batch.values = (uint64_t)(uintptr_t)values;
  attr.batch.count = *count;
  attr.batch.elem_flags = elem_flags;
  attr.batch.flags = flags;
  int result = syscall(SYS_bpf, command, &attr, sizeof(attr)) < 0 ? -errno : 0;
  *count = attr.batch.count;
  return result;
}

static void fill(int fd, uint32_t entries) {
  for (uint32_t i = 0; i < entries; i++) {
    keys[i] = i;
    for (uint32_t lane = 0; lane < lanes; lane++) {
      values[i * (uint64_t)stride + lane] = i * 3 + lane;
    }
  }
  uint32_t count = entries;
  CHECK(batch(BPF_MAP_UPDATE_BATCH, fd, NULL, NULL, &count, 0, 0), 0);
  CHECK(count, entries);
}

/* Reads all in pieces of `piece`; each key once, with its values. How the last call ends differs between kinds. */
static void read_all(int fd, int command, uint32_t piece, uint32_t entries) {
  static uint8_t seen[kEntries];
  memset(seen, 0, sizeof(seen));
  uint64_t place = 0;
  void* in = NULL;
  uint32_t total = 0;
  for (int calls = 0; calls < 3000; calls++) {
    uint32_t count = piece;
    int result = batch(command, fd, in, &place, &count, 0, 0);
    if (result == -ENOSPC) { /* a piece that is smaller than what a place holds */
      piece *= 2;
      continue;
    }
    CHECK(result == 0 || result == -ENOENT, 1);
    for (uint32_t i = 0; i < count; i++) {
      CHECK(keys[i] < entries, 1);
      CHECK(seen[keys[i]], 0);
      seen[keys[i]] = 1;
      for (uint32_t lane = 0; lane < lanes; lane++) {
        CHECK(values[i * (uint64_t)stride + lane], keys[i] * 3 + lane);
      }
    }
    total += count;
    in = &place;
    if (result == -ENOENT) {
      break;
    }
  }
  CHECK(total, entries);
}

static void take_one(int type, int fd) {
  uint32_t key = 5;
  memset(values, 0xff, 8 * stride);
  int result = element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, &key, values, 0);
  if (type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY) {
    CHECK(result, -kNotSupported);
    return;
  }
  CHECK(result, 0);
  for (uint32_t lane = 0; lane < lanes; lane++) {
    CHECK(values[lane], key * 3 + lane);
  }
  CHECK(element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, &key, values, 0), -ENOENT);
  CHECK(lookup(fd, &key, values), -ENOENT);
  CHECK(element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, &key, values, BPF_NOEXIST), -EINVAL);
  for (uint32_t lane = 0; lane < lanes; lane++) {
    values[lane] = key * 3 + lane;
  }
  CHECK(update(fd, &key, values, BPF_NOEXIST), 0);
}

static void check_kind(int type) {
  const int is_hash = type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH;
  const int is_per_cpu = type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY;
  lanes = is_per_cpu ? possible_cpus() : 1;
  stride = lanes;
  int fd = map_create(type, 4, 8, kEntries, 0);
  CHECK(fd >= 0, 1);
  uint64_t place = 0;
  uint32_t count = 10;
  if (is_hash) { /* nothing there */
    CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, NULL, &place, &count, 0, 0), -ENOENT);
    CHECK(count, 0);
  }
  fill(fd, kEntries);
  take_one(type, fd);
  for (uint32_t piece = 8; piece <= 4096; piece *= 4) {
    read_all(fd, BPF_MAP_LOOKUP_BATCH, piece, kEntries);
  }
  /* Nothing wanted, nothing looked at. */
  count = 0;
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, NULL, NULL, &count, 0, 0), 0);
  CHECK(batch(BPF_MAP_UPDATE_BATCH, fd, NULL, NULL, &count, 0, 0), 0);
  /* Flags. */
  count = 10;
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, NULL, &place, &count, BPF_NOEXIST, 0), -EINVAL);
  CHECK(count, 10);
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, NULL, &place, &count, BPF_F_LOCK, 0), -EINVAL);
  CHECK(batch(BPF_MAP_UPDATE_BATCH, fd, NULL, &place, &count, BPF_NOEXIST, 0), -EINVAL);
  CHECK(batch(BPF_MAP_UPDATE_BATCH, fd, NULL, &place, &count, BPF_F_LOCK, 0), -EINVAL);
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, NULL, &place, &count, 0, 1), is_hash ? -EINVAL : 0);
  /* A place behind the end. */
  uint32_t behind = 0xfffffff0;
  count = 10;
  if (is_hash) {
    CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, &behind, &place, &count, 0, 0), -ENOENT);
    CHECK(count, 0);
  }
  /* Addresses that are none. */
  count = 10;
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, (void*)8, &place, &count, 0, 0), -EFAULT);
  count = 10;
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, NULL, (void*)8, &count, 0, 0), -EFAULT);
  /* An update that goes wrong in the middle says how far it came. */
  keys[0] = 1;
  keys[1] = kEntries + 7;
  keys[2] = 2;
  count = 3;
  CHECK(batch(BPF_MAP_UPDATE_BATCH, fd, NULL, NULL, &count, 0, 0), -E2BIG);
  CHECK(count, 1);
  fill(fd, kEntries);
  if (!is_hash) {
    count = 3;
    CHECK(batch(BPF_MAP_DELETE_BATCH, fd, NULL, NULL, &count, 0, 0), -kNotSupported);
    CHECK(batch(BPF_MAP_LOOKUP_AND_DELETE_BATCH, fd, NULL, &place, &count, 0, 0), -kNotSupported);
    CHECK(count, 3);
    close(fd);
    return;
  }
  keys[0] = 3;
  keys[1] = 4;
  keys[2] = kEntries + 9;
  keys[3] = 5;
  count = 4;
  CHECK(batch(BPF_MAP_DELETE_BATCH, fd, NULL, NULL, &count, 0, 0), -ENOENT);
  CHECK(count, 2);
  CHECK(lookup(fd, &keys[1], values), -ENOENT);
  CHECK(lookup(fd, &keys[3], values), 0);
  fill(fd, kEntries);
  read_all(fd, BPF_MAP_LOOKUP_AND_DELETE_BATCH, 64, kEntries);
  count = 10;
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, fd, NULL, &place, &count, 0, 0), -ENOENT);
  fill(fd, kEntries);
  read_all(fd, BPF_MAP_LOOKUP_AND_DELETE_BATCH, 4096, kEntries);
  uint32_t none = 0;
  CHECK(next_key(fd, NULL, &none), -ENOENT);
  close(fd);
}

int main(void) {
  values = calloc(4096 * (uint64_t)possible_cpus(), sizeof(*values));
  check_kind(BPF_MAP_TYPE_HASH);
  check_kind(BPF_MAP_TYPE_ARRAY);
  check_kind(BPF_MAP_TYPE_PERCPU_HASH);
  check_kind(BPF_MAP_TYPE_PERCPU_ARRAY);
  uint32_t count = 1;
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, -1, NULL, NULL, &count, 0, 0), -EBADF);
  int read_only = map_create(BPF_MAP_TYPE_HASH, 4, 8, 4, BPF_F_RDONLY);
  CHECK(batch(BPF_MAP_UPDATE_BATCH, read_only, NULL, NULL, &count, 0, 0), -EPERM);
  CHECK(batch(BPF_MAP_LOOKUP_AND_DELETE_BATCH, read_only, NULL, NULL, &count, 0, 0), -EPERM);
  int write_only = map_create(BPF_MAP_TYPE_HASH, 4, 8, 4, BPF_F_WRONLY);
  CHECK(batch(BPF_MAP_LOOKUP_BATCH, write_only, NULL, NULL, &count, 0, 0), -EPERM);
  uint32_t key = 1;
  CHECK(element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, write_only, &key, values, 0), -EPERM);
  free(values);
  return done("maps_batch");
}
