// disputed WHO: loads a program that the verifiers WHO accept: both; ours (Linux 6.18 walks a branch that
// contradicts what is known of both operands together); kernel (it does not see where a fetched number came from: row
// atomic-fetch of docs/verifier.md); neither.
// Says "loaded", or the errno and the log, and keeps the program until its standard input ends.
#include "raw_loader.h"

enum { kMax = 64 };
static struct bpf_insn code[kMax];
static int count;
static char log_text[1 << 20];

static void put(int op, int dst, int src, int off, int imm) {
  code[count++] =
      (struct bpf_insn){.code = op, .dst_reg = dst, .src_reg = src, .off = off, .imm = imm};
}

static void put_map(int dst, int kind, int map) {
  put(BPF_LD | BPF_DW | BPF_IMM, dst, kind, 0, map);
  put(0, 0, 0, 0, 0);
}

static void call(int helper) { put(BPF_JMP | BPF_CALL, 0, 0, 0, helper); }

// Two numbers without a bit in common: nobody goes where r0 is no pointer.
static void put_disjoint(void) {
  call(BPF_FUNC_get_prandom_u32);
  put(BPF_ALU64 | BPF_MOV | BPF_X, 6, 0, 0, 0);
  put(BPF_ALU64 | BPF_AND | BPF_K, 6, 0, 0, 6);
  call(BPF_FUNC_get_prandom_u32);
  put(BPF_ALU64 | BPF_AND | BPF_K, 0, 0, 0, 9);
  put(BPF_JMP | BPF_JSET | BPF_X, 0, 6, 1, 0);
  put(BPF_JMP | BPF_JA, 0, 0, 1, 0);
  put(BPF_LDX | BPF_MEM | BPF_DW, 0, 0, 0, 0);
}

// An access out of bounds on one path: tests/data/verifier/soundness.cases has it too.
static void put_fetched(int map) {
  put(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 0);
  put_map(1, BPF_PSEUDO_MAP_FD, map);
  put(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0);
  put(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -4);
  call(BPF_FUNC_map_lookup_elem);
  put(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 13, 0);
  put(BPF_ALU64 | BPF_MOV | BPF_X, 9, 0, 0, 0);
  call(BPF_FUNC_get_prandom_u32);
  put(BPF_ALU64 | BPF_MOV | BPF_X, 6, 0, 0, 0);
  call(BPF_FUNC_ktime_get_ns);
  put(BPF_ALU64 | BPF_MOV | BPF_X, 7, 0, 0, 0);
  put(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -16, 3);
  put(BPF_JMP | BPF_JGT | BPF_K, 6, 0, 1, 100);
  put(BPF_JMP | BPF_JA, 0, 0, 1, 0);
  put(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -16, 30);
  put(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, 0);
  put(BPF_STX | BPF_ATOMIC | BPF_DW, 10, 1, -16, BPF_ADD | BPF_FETCH);
  put(BPF_ALU64 | BPF_ADD | BPF_X, 9, 1, 0, 0);
  put(BPF_LDX | BPF_MEM | BPF_B, 1, 9, 0, 0);
}

int main(int argc, char** argv) {
  const char* who = argc == 2 ? argv[1] : "";
  const int map = make_map();
  if (map < 0) {
    perror("disputed: map");
    return 1;
  }
  if (strcmp(who, "both") == 0) {
    put_map(1, BPF_PSEUDO_MAP_VALUE, map);
    put(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 1);
    put(BPF_STX | BPF_ATOMIC | BPF_DW, 1, 2, 0, BPF_ADD);
  } else if (strcmp(who, "ours") == 0) {
    put_disjoint();
  } else if (strcmp(who, "kernel") == 0) {
    put_fetched(map);
  } else if (strcmp(who, "neither") == 0) {
    put(BPF_LDX | BPF_MEM | BPF_DW, 0, 10, -8 * 100, 0);
  } else {
    return 2;
  }
  put(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
  put(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = (unsigned long)code;
  attr.insn_cnt = (unsigned)count;
  attr.license = (unsigned long)"GPL";
  attr.prog_flags =
      BPF_F_TEST_STATE_FREQ;  // a state wherever paths may meet: there the kernel errs
  attr.log_level = 1;
  attr.log_buf = (unsigned long)log_text;
  attr.log_size = sizeof(log_text);
  strcpy(attr.prog_name, "disputed");
  const int program = (int)sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
  if (program < 0) {
    printf("refused %d\n%s", errno, log_text);
    return 1;
  }
  printf("loaded\n");
  fflush(stdout);
  char line[16];
  while (fgets(line, sizeof(line), stdin) != NULL) {
  }
  return 0;
}
