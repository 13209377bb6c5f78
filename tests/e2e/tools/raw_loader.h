// The calls of a loader without any library: what the kernel's own interface asks for, and nothing else.
#pragma once
#include <errno.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static long sys_bpf(int command, union bpf_attr* attr, unsigned size) {
  return syscall(SYS_bpf, command, attr, size);
}

// r0 = 0; map value += 1
static inline int load_program(int map, const char* name) {
  struct bpf_insn code[] = {
      {.code = BPF_LD | BPF_DW | BPF_IMM,
       .dst_reg = 1,
       .src_reg = BPF_PSEUDO_MAP_VALUE,
       .imm = map},
      {0},
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 1},
      {.code = BPF_STX | BPF_DW | BPF_ATOMIC, .dst_reg = 1, .src_reg = 2, .imm = BPF_ADD},
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
      {.code = BPF_JMP | BPF_EXIT},
  };
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = (unsigned long)code;
  attr.insn_cnt = sizeof(code) / sizeof(code[0]);
  attr.license = (unsigned long)"GPL";
  strncpy(attr.prog_name, name, sizeof(attr.prog_name) - 1);
  return (int)sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
}

static inline int make_map(void) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_type = BPF_MAP_TYPE_ARRAY;
  attr.key_size = 4;
  attr.value_size = 8;
  attr.max_entries = 1;
  return (int)sys_bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
}

static inline unsigned long long read_map(int map) {
  unsigned key = 0;
  unsigned long long value = 0;
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_fd = map;
  attr.key = (unsigned long)&key;
  attr.value = (unsigned long)&value;
  return sys_bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr)) == 0 ? value : ~0ULL;
}

static inline int uprobe_type(void) {
  int type = 8;
  FILE* f = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
  if (f != NULL) {
    if (fscanf(f, "%d", &type) != 1) {
      type = 8;
    }
    fclose(f);
  }
  return type;
}

static inline int attach(int program, const char* path, unsigned long offset, int pid,
                         int is_return) {
  struct perf_event_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.size = sizeof(attr);
  attr.type = uprobe_type();
  attr.config = is_return;
  attr.config1 = (unsigned long)path;
  attr.config2 = offset;
  int event =
      (int)syscall(SYS_perf_event_open, &attr, pid, pid > 0 ? -1 : 0, -1, PERF_FLAG_FD_CLOEXEC);
  if (event < 0) {
    return -1;
  }
  if (ioctl(event, PERF_EVENT_IOC_SET_BPF, program) != 0 ||
      ioctl(event, PERF_EVENT_IOC_ENABLE, 0) != 0) {
    int saved = errno;
    close(event);
    errno = saved;
    return -1;
  }
  return event;
}
