// BPF_OBJ_GET_INFO_BY_FD and the walks through ids.
#include "shim_parity.h"

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

// What the pointers inside a program's info name.
static void program_arrays(void) {
  const int first = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, NULL);
  const int second = map_create(BPF_MAP_TYPE_HASH, 4, 8, 1, 0, NULL);
  const struct bpf_insn insns[] = {LOAD_MAP(1, first), LOAD_MAP(1, second), MOV_IMM(0, 0), EXIT()};
  const int prog = PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns);
  struct bpf_map_info map_info;
  struct bpf_prog_info info;
  uint32_t bytes = sizeof(map_info);
  memset(&map_info, 0, sizeof(map_info));
  info_of(first, &map_info, &bytes);
  memset(&info, 0, sizeof(info));
  bytes = sizeof(info);
  IS_OK("prog_counts", info_of(prog, &info, &bytes));
  IS_TRUE("prog_nr_map_ids", info.nr_map_ids == 2);
  IS_TRUE("prog_xlated_len", info.xlated_prog_len == sizeof(insns));
  IS_TRUE("prog_record_sizes", info.func_info_rec_size == 8 && info.line_info_rec_size == 16 &&
                                   info.jited_line_info_rec_size == 8 && info.nr_func_info == 0);
  IS_TRUE("prog_gpl", info.gpl_compatible == 1);
  // SHA-256 (Linux 6.18) of the instructions with the maps' fds taken out.
  const uint8_t tag[8] = {0xe7, 0x77, 0xca, 0x79, 0x49, 0x64, 0x32, 0x40};
  IS_TRUE("prog_tag", memcmp(info.tag, tag, 8) == 0);
  const int twin = PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns);
  struct bpf_prog_info other;
  memset(&other, 0, sizeof(other));
  bytes = sizeof(other);
  info_of(twin, &other, &bytes);
  IS_TRUE("same_tag", memcmp(info.tag, other.tag, 8) == 0);
  close(twin);

  uint32_t ids[3] = {0, 77, 77};
  struct bpf_insn dump[sizeof(insns) / sizeof(insns[0])];
  uint64_t tags[2] = {0, 0};
  memset(&info, 0, sizeof(info));
  info.nr_map_ids = 1;
  info.map_ids = (uintptr_t)ids;
  info.xlated_prog_len = sizeof(dump);
  info.xlated_prog_insns = (uintptr_t)dump;
  info.nr_prog_tags = 2;
  info.prog_tags = (uintptr_t)tags;
  bytes = sizeof(info);
  IS_OK("prog_arrays", info_of(prog, &info, &bytes));
  IS_TRUE("prog_map_ids_cut", info.nr_map_ids == 2 && ids[0] == map_info.id && ids[1] == 77);
  IS_TRUE("prog_xlated_names_map_ids",
          dump[0].imm == (int)map_info.id && dump[0].src_reg == BPF_PSEUDO_MAP_FD);
  IS_TRUE("prog_xlated_ends", dump[5].code == (BPF_JMP | BPF_EXIT));
  IS_TRUE("prog_tags", info.nr_prog_tags == 1 && memcmp(tags, tag, 8) == 0);
  memset(&info, 0, sizeof(info));
  info.nr_map_ids = 2;
  info.map_ids = 8;
  bytes = sizeof(info);
  IS_ERROR("prog_map_ids_nowhere", EFAULT, info_of(prog, &info, &bytes));
  memset(&info, 0, sizeof(info));
  info.nr_line_info = 1;
  info.line_info_rec_size = 12;
  bytes = sizeof(info);
  IS_ERROR("prog_record_size_other", EINVAL, info_of(prog, &info, &bytes));
  close(first);
  close(second);
  close(prog);
}

struct link_info {  // as of Linux 6.16; of an older kernel's the end is zero
  uint32_t type, id, prog_id, padding, event_type, reserved;
  uint64_t file_name;
  uint32_t name_len, offset;
  uint64_t cookie, ref_ctr_offset, rest;
};

static void links(void) {
  char path[4096];
  uint64_t offset = 0;
  IS_TRUE("place", place_of((void*)done, path, sizeof(path), &offset));
  const int event = (int)uprobe_open(path, offset, true, getpid(), -1);
  const int prog = trivial_program(BPF_PROG_TYPE_KPROBE);
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.task_fd_query.pid = (unsigned)getpid();
  attr.task_fd_query.fd = (unsigned)event;
  IS_ERROR("query_without_program", ENOENT, sys_bpf(BPF_TASK_FD_QUERY, &attr, 48));
  const int link = (int)link_create(prog, event, 0x1234);
  struct link_info info;
  uint32_t bytes = sizeof(info);
  memset(&info, 0, sizeof(info));
  IS_OK("link_info", info_of(link, &info, &bytes));
  IS_TRUE("link_info_fields", info.type == 7 && info.id != 0 && info.prog_id != 0 &&
                                  info.event_type == 2 && info.offset == offset &&
                                  info.cookie == 0x1234);
  IS_TRUE("link_name_length", info.name_len == strlen(path) + 1);
  IS_TRUE("link_walk", walk_finds(BPF_LINK_GET_NEXT_ID, info.id));
  char name[4096] = "";
  memset(&info, 0, sizeof(info));
  info.file_name = (uintptr_t)name;
  info.name_len = sizeof(name);
  bytes = sizeof(info);
  IS_OK("link_name", info_of(link, &info, &bytes));
  IS_TRUE("link_name_is_the_path", strcmp(name, path) == 0);
  memset(&info, 0, sizeof(info));
  info.file_name = (uintptr_t)name;
  info.name_len = 3;
  bytes = sizeof(info);
  IS_ERROR("link_name_cut", ENOSPC, info_of(link, &info, &bytes));
  memset(&info, 0, sizeof(info));
  info.name_len = 3;
  bytes = sizeof(info);
  IS_ERROR("link_name_nowhere", EINVAL, info_of(link, &info, &bytes));

  // The same seen through the process's fd table.
  memset(name, 0, sizeof(name));
  attr.task_fd_query.buf = (uintptr_t)name;
  attr.task_fd_query.buf_len = sizeof(name);
  IS_OK("query", sys_bpf(BPF_TASK_FD_QUERY, &attr, 48));
  IS_TRUE("query_fields", attr.task_fd_query.fd_type == BPF_FD_TYPE_URETPROBE &&
                              attr.task_fd_query.probe_offset == offset &&
                              attr.task_fd_query.buf_len == strlen(path) &&
                              strcmp(name, path) == 0);
  attr.task_fd_query.buf_len = 4;
  IS_ERROR("query_cut", ENOSPC, sys_bpf(BPF_TASK_FD_QUERY, &attr, 48));
  IS_TRUE("query_cut_ends", strlen(name) == 3 && attr.task_fd_query.buf_len == strlen(path));
  attr.task_fd_query.fd = 0;
  IS_ERROR("query_a_file", 524, sys_bpf(BPF_TASK_FD_QUERY, &attr, 48));
  attr.task_fd_query.fd = 12345;
  IS_ERROR("query_nothing", EBADF, sys_bpf(BPF_TASK_FD_QUERY, &attr, 48));
  attr.task_fd_query.pid = 0x3fffffff;
  IS_ERROR("query_nobody", ENOENT, sys_bpf(BPF_TASK_FD_QUERY, &attr, 48));
  attr.task_fd_query.flags = 1;
  IS_ERROR("query_flags", EINVAL, sys_bpf(BPF_TASK_FD_QUERY, &attr, 48));
  close(link);
  close(event);
  close(prog);
}

static void types(void) {
  const struct {
    uint16_t magic;
    uint8_t version, flags;
    uint32_t hdr_len, type_off, type_len, str_off, str_len;
    uint32_t name, info, size, int_data;
    char strings[8];
  } __attribute__((packed)) data = {0xeb9f, 1, 0, 24, 0, 16, 16, 5, 1, 1u << 24, 4, 32, "\0int"};
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.btf = (uintptr_t)&data;
  attr.btf_size = 24 + 16 + 5;
  const int btf = (int)IS_OK("btf", sys_bpf(BPF_BTF_LOAD, &attr, 28));
  char copy[64] = "";
  char name[8] = "xxxxxxx";
  struct bpf_btf_info info;
  memset(&info, 0, sizeof(info));
  info.btf = (uintptr_t)copy;
  info.btf_size = sizeof(copy);
  info.name = (uintptr_t)name;
  info.name_len = sizeof(name);
  uint32_t bytes = sizeof(info);
  IS_OK("btf_info", info_of(btf, &info, &bytes));
  IS_TRUE("btf_bytes", info.btf_size == 45 && memcmp(copy, &data, 45) == 0);
  IS_TRUE("btf_name", name[0] == '\0' && info.name_len == 0 && info.kernel_btf == 0);
  IS_TRUE("btf_walk", walk_finds(BPF_BTF_GET_NEXT_ID, info.id));
  memset(&attr, 0, sizeof(attr));
  attr.btf_id = info.id;
  const int other = (int)IS_OK("btf_get_fd_by_id", sys_bpf(BPF_BTF_GET_FD_BY_ID, &attr, 12));
  close(other);
  close(btf);
}

int main(void) {
  maps();
  programs();
  program_arrays();
  links();
  types();
  return done();
}
