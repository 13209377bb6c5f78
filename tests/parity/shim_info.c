// BPF_OBJ_GET_INFO_BY_FD and the walks through ids.
#include "shim_parity.h"

static long info_of(int fd, void* info, uint32_t* bytes) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.info.bpf_fd = (unsigned)fd;
  attr.info.info_len = *bytes;
  attr.info.info = (uintptr_t)info;
  const long result = sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, 16);
  *bytes = attr.info.info_len;
  return result;
}

static bool walk_finds(int next_command, uint32_t id) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  for (int i = 0; i < 100000; i++) {
    if (sys_bpf(next_command, &attr, 12) != 0) {
      return false;
    }
    if (attr.next_id == id) {
      return true;
    }
    attr.start_id = attr.next_id;
  }
  return false;
}

static void maps(void) {
  const int map = map_create(BPF_MAP_TYPE_HASH, 4, 24, 100, 0, "info_map");
  struct bpf_map_info info;
  memset(&info, 0, sizeof(info));
  uint32_t bytes = sizeof(info);
  IS_OK("map_info", info_of(map, &info, &bytes));
  IS_TRUE("map_info_length", bytes <= sizeof(info) && bytes >= 80);
  IS_TRUE("map_info_shape", info.type == BPF_MAP_TYPE_HASH && info.key_size == 4 &&
                                info.value_size == 24 && info.max_entries == 100 &&
                                info.map_flags == 0);
  IS_TRUE("map_info_name", strcmp(info.name, "info_map") == 0);
  IS_TRUE("map_info_id", info.id != 0 && walk_finds(BPF_MAP_GET_NEXT_ID, info.id));
  struct bpf_map_info part;
  memset(&part, 0xee, sizeof(part));
  bytes = 16;
  memset(&part, 0, 16);
  IS_OK("map_info_short", info_of(map, &part, &bytes));
  IS_TRUE("map_info_short_is_cut",
          bytes == 16 && part.value_size == 24 && *((uint8_t*)&part + 20) == 0xee);
  char large[512];
  memset(large, 0, sizeof(large));
  bytes = sizeof(large);
  IS_OK("map_info_long", info_of(map, large, &bytes));
  IS_TRUE("map_info_long_length", bytes < sizeof(large) && bytes >= sizeof(info));
  large[511] = 1;
  bytes = sizeof(large);
  IS_ERROR("map_info_tail", E2BIG, info_of(map, large, &bytes));
  bytes = sizeof(info);
  IS_ERROR("info_of_nothing", EBADFD, info_of(-1, &info, &bytes));
  IS_ERROR("info_of_a_file", EINVAL, info_of(0, &info, &bytes));
  IS_ERROR("info_to_null", EFAULT, info_of(map, NULL, &bytes));
  close(map);
}

static void programs(void) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  const struct bpf_insn insns[] = {MOV_IMM(0, 0), EXIT()};
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = (uintptr_t)insns;
  attr.insn_cnt = 2;
  attr.license = (uintptr_t)"GPL";
  strcpy(attr.prog_name, "info_prog");
  const int prog = (int)IS_OK("prog", sys_bpf(BPF_PROG_LOAD, &attr, 128));
  struct bpf_prog_info info;
  memset(&info, 0, sizeof(info));
  uint32_t bytes = sizeof(info);
  IS_OK("prog_info", info_of(prog, &info, &bytes));
  IS_TRUE("prog_info_fields",
          info.type == BPF_PROG_TYPE_KPROBE && strcmp(info.name, "info_prog") == 0 && info.id != 0);
  IS_TRUE("prog_walk", walk_finds(BPF_PROG_GET_NEXT_ID, info.id));
  memset(&attr, 0, sizeof(attr));
  attr.prog_id = info.id;
  const int other = (int)IS_OK("prog_get_fd_by_id", sys_bpf(BPF_PROG_GET_FD_BY_ID, &attr, 12));
  close(other);
  close(prog);
  attr.prog_id = 0x7fffffff;
  IS_ERROR("no_such_prog", ENOENT, sys_bpf(BPF_PROG_GET_FD_BY_ID, &attr, 12));
  memset(&attr, 0, sizeof(attr));
  attr.start_id = 0x7fffffff;
  IS_ERROR("walk_from_no_id", EINVAL, sys_bpf(BPF_PROG_GET_NEXT_ID, &attr, 12));
  attr.start_id = 0x7ffffffe;
  IS_ERROR("prog_walk_ends", ENOENT, sys_bpf(BPF_PROG_GET_NEXT_ID, &attr, 12));
  IS_ERROR("map_walk_ends", ENOENT, sys_bpf(BPF_MAP_GET_NEXT_ID, &attr, 12));
  IS_ERROR("btf_walk_ends", ENOENT, sys_bpf(BPF_BTF_GET_NEXT_ID, &attr, 12));
  IS_ERROR("link_walk_ends", ENOENT, sys_bpf(BPF_LINK_GET_NEXT_ID, &attr, 12));
}

int main(void) {
  maps();
  programs();
  return done();
}
