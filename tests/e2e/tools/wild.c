// wild PID PATH OFFSET WHAT: attaches a program that no verifier would let pass; then answers each line of standard
// input with "hits N", the runs that came to the program's first instructions.
//   loop     goes round for ever            read, write   through a pointer to nowhere
//   jump     reads at its context + 2^46    key           map_lookup_elem with a key at 8
//   update   map_update_elem of a hash with a value at 8  string        probe_read_user_str of a bad address: no fault
//   deep     a frame pointer far below its stack
#include <stdlib.h>

#include "raw_loader.h"

enum { kMax = 64 };
static struct bpf_insn code[kMax];
static int count;

static void put(int op, int dst, int src, int off, int imm) {
  code[count++] =
      (struct bpf_insn){.code = op, .dst_reg = dst, .src_reg = src, .off = off, .imm = imm};
}
static void put64(int dst, int src, unsigned long imm) {
  put(BPF_LD | BPF_DW | BPF_IMM, dst, src, 0, (int)imm);
  put(0, 0, 0, 0, (int)(imm >> 32));
}

int main(int argc, char** argv) {
  if (argc != 5) {
    return 2;
  }
  const char* what = argv[4];
  int map = make_map(), hash;
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_type = BPF_MAP_TYPE_HASH;
  attr.key_size = attr.value_size = 8;
  attr.max_entries = 16;
  hash = (int)sys_bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
  if (map < 0 || hash < 0) {
    fprintf(stderr, "wild: map: %s\n", strerror(errno));
    return 1;
  }
  put(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0);
  put64(1, BPF_PSEUDO_MAP_VALUE, (unsigned)map);
  put(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 1);
  put(BPF_STX | BPF_DW | BPF_ATOMIC, 1, 2, 0, BPF_ADD);
  if (strcmp(what, "loop") == 0) {
    put(BPF_JMP | BPF_JA, 0, 0, -1, 0);
  } else if (strcmp(what, "read") == 0 || strcmp(what, "write") == 0) {
    put64(1, 0, 0x123456789000UL);
    if (what[0] == 'r') {
      put(BPF_LDX | BPF_DW | BPF_MEM, 0, 1, 0, 0);
    } else {
      put(BPF_STX | BPF_DW | BPF_MEM, 1, 2, 0, 0);
    }
  } else if (strcmp(what, "jump") == 0) {
    put64(1, 0, 1UL << 46);
    put(BPF_ALU64 | BPF_ADD | BPF_X, 1, 6, 0, 0);
    put(BPF_LDX | BPF_DW | BPF_MEM, 0, 1, 0, 0);
  } else if (strcmp(what, "key") == 0) {
    put64(1, BPF_PSEUDO_MAP_FD, (unsigned)hash);
    put(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 8);
    put(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem);
  } else if (strcmp(what, "update") == 0) {
    put(BPF_ST | BPF_DW | BPF_MEM, 10, 0, -8, 7);
    put64(1, BPF_PSEUDO_MAP_FD, (unsigned)hash);
    put(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0);
    put(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -8);
    put(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 8);
    put(BPF_ALU64 | BPF_MOV | BPF_K, 4, 0, 0, 0);
    put(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_update_elem);
  } else if (strcmp(what, "string") == 0) {
    put(BPF_ALU64 | BPF_MOV | BPF_X, 1, 10, 0, 0);
    put(BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, -64);
    put(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 64);
    put64(3, 0, 0x123456789000UL);
    put(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_user_str);
  } else if (strcmp(what, "deep") == 0) {
    put64(1, 0, 1UL << 30);
    put(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0);
    put(BPF_ALU64 | BPF_SUB | BPF_X, 2, 1, 0, 0);
    put(BPF_STX | BPF_DW | BPF_MEM, 2, 1, 0, 0);
  } else {
    return 2;
  }
  put(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
  put(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
  memset(&attr, 0, sizeof(attr));
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = (unsigned long)code;
  attr.insn_cnt = (unsigned)count;
  attr.license = (unsigned long)"GPL";
  strcpy(attr.prog_name, "wild");
  const int program = (int)sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
  if (program < 0 || attach(program, argv[2], strtoul(argv[3], NULL, 0), atoi(argv[1]), 0) < 0) {
    fprintf(stderr, "wild: %s: %s\n", program < 0 ? "load" : "attach", strerror(errno));
    return 1;
  }
  printf("attached\n");
  fflush(stdout);
  char line[16];
  while (fgets(line, sizeof(line), stdin) != NULL) {
    printf("hits %llu\n", read_map(map));
    fflush(stdout);
  }
  return 0;
}
