// Sizes, tails and pointers of union bpf_attr.
#include "shim_parity.h"

static char* page_before_a_hole(void) {
  char* pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(pages + 4096, 4096);
  return pages;
}

static void tails(int map) {
  static char room[8192];
  uint32_t key = 0;
  uint64_t value = 0;
  union bpf_attr* attr = (union bpf_attr*)room;
  attr->map_fd = (unsigned)map;
  attr->key = (uintptr_t)&key;
  attr->value = (uintptr_t)&value;
  IS_OK("attr_of_a_page", sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 4096));
  IS_ERROR("attr_above_a_page", E2BIG, sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 4097));
  room[4095] = 1;
  IS_ERROR("tail_not_zero", E2BIG, sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 4096));
  IS_OK("tail_not_given", sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 4095));
  room[4095] = 0;
  room[36] = 1;
  IS_ERROR("field_of_other_commands", EINVAL, sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 40));
  IS_OK("field_of_other_commands_not_given", sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 32));
  room[36] = 0;
  attr->flags = 2;
  IS_ERROR("lookup_flags", EINVAL, sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 32));
  IS_OK("lookup_flags_not_given", sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 24));
  IS_ERROR("next_key_flags", EINVAL, sys_bpf(BPF_MAP_GET_NEXT_KEY, room, 32));
  attr->flags = 0;
  attr->value = 1;
  IS_ERROR("delete_with_a_value", EINVAL, sys_bpf(BPF_MAP_DELETE_ELEM, room, 32));
  IS_ERROR("attr_cut_before_the_key", EFAULT, sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 4));
  memset(room, 0, sizeof(room));
  IS_ERROR("no_attr", EINVAL, sys_bpf(BPF_MAP_LOOKUP_ELEM, room, 0));
  IS_ERROR("map_create_tail", E2BIG, (room[4000] = 1, sys_bpf(BPF_MAP_CREATE, room, 4096)));
}

static void pointers(int map) {
  uint32_t key = 0;
  uint64_t value = 7;
  IS_ERROR("attr_null", EFAULT, sys_bpf(BPF_MAP_LOOKUP_ELEM, NULL, 32));
  IS_ERROR("attr_kernel_address", EFAULT, sys_bpf(BPF_MAP_CREATE, (void*)0xffffffff81000000, 72));
  IS_ERROR("key_null", EFAULT, map_lookup(map, NULL, &value));
  IS_ERROR("key_bad", EFAULT, map_lookup(map, (void*)8, &value));
  IS_ERROR("value_null", EFAULT, map_lookup(map, &key, NULL));
  IS_ERROR("value_bad", EFAULT, map_lookup(map, &key, (void*)0x10));
  IS_ERROR("value_above_all", EFAULT, map_lookup(map, &key, (void*)-4));
  IS_ERROR("update_value_null", EFAULT, map_update(map, &key, NULL));
  IS_OK("next_key_of_null", map_element(BPF_MAP_GET_NEXT_KEY, map, NULL, &value, 0));
  IS_ERROR("next_key_to_null", EFAULT, map_element(BPF_MAP_GET_NEXT_KEY, map, NULL, NULL, 0));

  char* page = page_before_a_hole();
  IS_OK("value_ends_with_the_page", map_lookup(map, &key, page + 4088));
  IS_ERROR("value_ends_behind_the_page", EFAULT, map_lookup(map, &key, page + 4089));
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_fd = (unsigned)map;
  attr.key = (uintptr_t)&key;
  attr.value = (uintptr_t)&value;
  memcpy(page + 4096 - 32, &attr, 32);
  IS_OK("attr_ends_with_the_page", sys_bpf(BPF_MAP_LOOKUP_ELEM, page + 4096 - 32, 32));
  IS_ERROR("attr_ends_behind_the_page", EFAULT, sys_bpf(BPF_MAP_LOOKUP_ELEM, page + 4096 - 32, 33));
  mprotect(page, 4096, PROT_READ);
  IS_ERROR("value_read_only", EFAULT, map_lookup(map, &key, page));
  IS_OK("update_from_read_only", map_update(map, &key, page));
  munmap(page, 4096);
  IS_ERROR("update_from_what_is_gone", EFAULT, map_update(map, &key, page));
}

static void programs(void) {
  const struct bpf_insn insns[] = {MOV_IMM(0, 0), EXIT()};
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = (uintptr_t)insns;
  attr.insn_cnt = 2;
  attr.license = (uintptr_t)"GPL";
  static const unsigned kSizes[] = {48, 64, 116, 120, 128, 144};
  for (size_t i = 0; i < sizeof(kSizes) / sizeof(kSizes[0]); i++) {
    char name[64];
    snprintf(name, sizeof(name), "prog_load_size_%u", kSizes[i]);
    close((int)IS_OK(name, sys_bpf(BPF_PROG_LOAD, &attr, kSizes[i])));
  }
  attr.insn_cnt = 0;
  IS_ERROR("no_instructions", E2BIG, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.insn_cnt = ~0U;
  IS_ERROR("too_many_instructions", E2BIG, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.insn_cnt = 2;
  attr.insns = 0;
  IS_ERROR("instructions_null", EFAULT, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.insns = (uintptr_t)insns;
  attr.license = 0;
  IS_ERROR("license_null", EFAULT, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.license = (uintptr_t)"GPL";
  char log[4096];
  attr.log_buf = (uintptr_t)log;
  attr.log_size = sizeof(log);
  IS_ERROR("log_without_level", EINVAL, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.log_level = 1;
  IS_OK("log", sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.log_size = 0;
  IS_ERROR("log_without_size", EINVAL, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.log_buf = 0;
  attr.log_level = 0;
  attr.prog_flags = 1U << 31;
  IS_ERROR("unknown_prog_flags", EINVAL, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.prog_flags = 0;
  attr.prog_type = 10000;
  IS_ERROR("unknown_prog_type", EINVAL, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  memcpy(attr.prog_name, "with space", 10);
  IS_ERROR("bad_prog_name", EINVAL, sys_bpf(BPF_PROG_LOAD, &attr, 128));
  const struct bpf_insn falls_off[] = {MOV_IMM(0, 0), MOV_IMM(0, 0)};
  IS_ERROR("falls_off_the_end", EINVAL, PROG_LOAD(BPF_PROG_TYPE_KPROBE, falls_off));
  const struct bpf_insn jumps_out[] = {MOV_IMM(0, 0), INSN(BPF_JMP | BPF_JA, 0, 0, 5, 0), EXIT()};
  IS_ERROR("jumps_out", EINVAL, PROG_LOAD(BPF_PROG_TYPE_KPROBE, jumps_out));
  const struct bpf_insn no_map[] = {LOAD_MAP(1, 9999), MOV_IMM(0, 0), EXIT()};
  IS_ERROR("map_fd_not_open", EBADF, PROG_LOAD(BPF_PROG_TYPE_KPROBE, no_map));
  const struct bpf_insn not_a_map[] = {LOAD_MAP(1, 0), MOV_IMM(0, 0), EXIT()};
  IS_ERROR("map_fd_of_a_file", EINVAL, PROG_LOAD(BPF_PROG_TYPE_KPROBE, not_a_map));
}

int main(void) {
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0, "attr");
  IS_TRUE("map", map >= 0);
  tails(map);
  pointers(map);
  programs();
  IS_ERROR("unknown_command", EINVAL, sys_bpf(0x7777, "                ", 8));
  IS_ERROR("negative_command", EINVAL, sys_bpf(-1, "                ", 8));
  return done();
}
