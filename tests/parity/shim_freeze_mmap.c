// MAP_FREEZE, and mmap of arrays.
#include "shim_parity.h"

static long freeze(int map) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_fd = (unsigned)map;
  return sys_bpf(BPF_MAP_FREEZE, &attr, 4);
}
static long map_at(int map, size_t bytes, int protection, int flags, long offset) {
  void* address = mmap(NULL, bytes, protection, flags, map, offset);
  return address == MAP_FAILED ? -1 : (long)((uintptr_t)address >> 1);  // never negative
}

static void freezing(void) {
  uint32_t key = 0;
  uint64_t value = 5;
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_RDONLY_PROG, "frozen");
  IS_OK("update_before", map_update(map, &key, &value));
  const int copy = dup(map);
  IS_OK("freeze", freeze(map));
  IS_ERROR("update_after", EPERM, map_update(map, &key, &value));
  IS_ERROR("update_through_a_copy", EPERM, map_update(copy, &key, &value));
  IS_ERROR("delete_after", EPERM, map_element(BPF_MAP_DELETE_ELEM, map, &key, NULL, 0));
  value = 0;
  IS_TRUE("lookup_after", map_lookup(map, &key, &value) == 0 && value == 5);
  IS_ERROR("freeze_again", EPERM, freeze(map));
  IS_ERROR("freeze_nothing", EBADF, freeze(-1));
  IS_ERROR("freeze_a_file", EINVAL, freeze(0));
  const int hash = map_create(BPF_MAP_TYPE_HASH, 4, 8, 4, 0, "frozen_hash");
  IS_OK("freeze_hash", freeze(hash));
  IS_ERROR("update_frozen_hash", EPERM, map_update(hash, &key, &value));
  close(hash);
  close(copy);
  close(map);
}

static void access_flags(void) {
  uint32_t key = 0;
  uint64_t value = 5;
  const int reader = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_RDONLY, "rdonly");
  IS_ERROR("update_of_rdonly", EPERM, map_update(reader, &key, &value));
  IS_OK("lookup_of_rdonly", map_lookup(reader, &key, &value));
  const int writer = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_WRONLY, "wronly");
  IS_OK("update_of_wronly", map_update(writer, &key, &value));
  IS_ERROR("lookup_of_wronly", EPERM, map_lookup(writer, &key, &value));
  close(reader);
  close(writer);
}

static void mapping(void) {
  uint32_t key = 3;
  uint64_t value = 0x0504030201;
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 5, 1000, BPF_F_MMAPABLE, "mapped");
  map_update(map, &key, &value);
  uint64_t* values = mmap(NULL, 8000, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
  IS_TRUE("mmap", values != MAP_FAILED && values[3] == 0x0504030201);
  values[4] = 77;
  key = 4;
  value = 0;
  IS_TRUE("store_is_seen", map_lookup(map, &key, &value) == 0 && value == 77);
  value = 78;
  map_update(map, &key, &value);
  IS_TRUE("update_is_seen", (values[4] & 0xff) == 78);
  IS_OK("second_page", map_at(map, 4096, PROT_READ, MAP_SHARED, 4096));
  IS_ERROR("behind_the_end", EINVAL, map_at(map, 4096, PROT_READ, MAP_SHARED, 8192));
  IS_ERROR("too_long", EINVAL, map_at(map, 8193, PROT_READ, MAP_SHARED, 0));
  IS_ERROR("too_long_from_the_second_page", EINVAL, map_at(map, 4097, PROT_READ, MAP_SHARED, 4096));
  IS_ERROR("private", EINVAL, map_at(map, 4096, PROT_READ, MAP_PRIVATE, 0));
  IS_ERROR("no_length", EINVAL, map_at(map, 0, PROT_READ, MAP_SHARED, 0));
  IS_ERROR("offset_within_a_page", EINVAL, map_at(map, 4096, PROT_READ, MAP_SHARED, 8));
  void* reserved = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  IS_TRUE("fixed", mmap(reserved, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, map, 0) ==
                           reserved &&
                       (((volatile uint64_t*)reserved)[4] & 0xff) == 78);
  close(map);
  IS_TRUE("outlives_the_fd", (((volatile uint64_t*)reserved)[4] & 0xff) == 78);
  munmap(reserved, 4096);
  munmap(values, 8000);

  const int plain = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0, "plain");
  IS_ERROR("not_mmapable", EINVAL, map_at(plain, 4096, PROT_READ, MAP_SHARED, 0));
  const int hash = map_create(BPF_MAP_TYPE_HASH, 4, 8, 4, 0, "hash");
  IS_ERROR("hash", 524, map_at(hash, 4096, PROT_READ, MAP_SHARED, 0));
  IS_ERROR("hash_mmapable", EINVAL, map_create(BPF_MAP_TYPE_HASH, 4, 8, 4, BPF_F_MMAPABLE, "hash"));
  close(plain);
  close(hash);
}

// As libbpf does with .rodata: contents, freeze, mapping for reading only.
static void rodata(void) {
  uint32_t key = 0;
  char value[5000] = "constant";
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, sizeof(value), 1,
                             BPF_F_MMAPABLE | BPF_F_RDONLY_PROG, ".rodata");
  map_update(map, &key, value);
  IS_ERROR("rodata_writable_mapping", EACCES,
           map_at(map, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, 0));
  IS_OK("rodata_freeze", freeze(map));
  IS_ERROR("rodata_writable_mapping_frozen", EPERM,
           map_at(map, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, 0));
  char* bytes = mmap(NULL, 8192, PROT_READ, MAP_SHARED, map, 0);
  IS_TRUE("rodata_mapping", bytes != MAP_FAILED && strcmp(bytes, "constant") == 0);
  IS_ERROR("rodata_stays_read_only", EACCES, mprotect(bytes, 8192, PROT_READ | PROT_WRITE));
  close(map);
}

int main(void) {
  freezing();
  access_flags();
  mapping();
  rodata();
  return done();
}
