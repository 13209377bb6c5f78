// For the parity programs shim_*.c: the same binary runs on the kernel as root and under the shim as anybody.
// Each prints "ok NAME" a case, or "FAILED NAME ..." and exits 1 at the end. Raw calls only, no libbpf.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

static inline void check(bool good, const char* name, long got, int error) {
  if (good) {
    printf("ok %s\n", name);
  } else {
    printf("FAILED %s: %ld, errno %d (%s)\n", name, got, error, strerror(error));
    failures++;
  }
  fflush(stdout);
}
// call: an expression with bpf(2)'s kind of result.
#define IS_OK(name, call)                      \
  ({                                           \
    errno = 0;                                 \
    const long result_ = (long)(call);         \
    check(result_ >= 0, name, result_, errno); \
    result_;                                   \
  })
#define IS_ERROR(name, code, call)                                 \
  do {                                                             \
    errno = 0;                                                     \
    const long result_ = (long)(call);                             \
    check(result_ == -1 && errno == (code), name, result_, errno); \
  } while (0)
#define IS_TRUE(name, condition) check((condition), name, 0, errno)
// Waits up to a minute for what takes effect soon, not at once, and what nothing tells of: the kernel defers it (RCU).
#define COMES_TRUE(condition)                                       \
  ({                                                                \
    bool holds_ = false;                                            \
    for (int n_ = 0; !(holds_ = (condition)) && n_ < 60000; n_++) { \
      usleep(1000);                                                 \
    }                                                               \
    holds_;                                                         \
  })

static inline int done(void) { return failures == 0 ? 0 : 1; }

static inline long sys_bpf(int command, const void* attr, size_t bytes) {
  return syscall(SYS_bpf, command, attr, bytes);
}

// ---- Maps ----
static inline int map_create(unsigned type, unsigned key, unsigned value, unsigned entries,
                             unsigned flags, const char* name) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_type = type;
  attr.key_size = key;
  attr.value_size = value;
  attr.max_entries = entries;
  attr.map_flags = flags;
  if (name != NULL) {
    strncpy(attr.map_name, name, sizeof(attr.map_name) - 1);
  }
  return (int)sys_bpf(BPF_MAP_CREATE, &attr, 72);
}
static inline long map_element(int command, int map, const void* key, const void* value,
                               uint64_t flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_fd = (unsigned)map;
  attr.key = (uintptr_t)key;
  attr.value = (uintptr_t)value;
  attr.flags = flags;
  return sys_bpf(command, &attr, 32);
}
static inline long map_lookup(int map, const void* key, void* value) {
  return map_element(BPF_MAP_LOOKUP_ELEM, map, key, value, 0);
}
static inline long map_update(int map, const void* key, const void* value) {
  return map_element(BPF_MAP_UPDATE_ELEM, map, key, value, BPF_ANY);
}

// ---- Programs ----
#define INSN(c, d, s, o, i) \
  ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV_IMM(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define MOV_REG(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define ADD_IMM(d, i) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define SHIFT_RIGHT(d, i) INSN(BPF_ALU64 | BPF_RSH | BPF_K, d, 0, 0, i)
#define CALL(helper) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, helper)
#define EXIT() INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define STORE_IMM(d, o, i) INSN(BPF_ST | BPF_MEM | BPF_DW, d, 0, o, i)
#define STORE(d, s, o) INSN(BPF_STX | BPF_MEM | BPF_DW, d, s, o, 0)
#define LOAD(d, s, o) INSN(BPF_LDX | BPF_MEM | BPF_DW, d, s, o, 0)
#define ATOMIC_ADD(d, s, o) INSN(BPF_STX | 0xc0 | BPF_DW, d, s, o, BPF_ADD)  // 0xc0: BPF_ATOMIC
#define LOAD_MAP(d, fd) \
  INSN(BPF_LD | BPF_IMM | BPF_DW, d, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)
#define LOAD_VALUE(d, fd, o) \
  INSN(BPF_LD | BPF_IMM | BPF_DW, d, BPF_PSEUDO_MAP_VALUE, 0, fd), INSN(0, 0, 0, 0, o)

static inline union bpf_attr prog_attr(unsigned type, const struct bpf_insn* insns, size_t count) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.prog_type = type;
  attr.insns = (uintptr_t)insns;
  attr.insn_cnt = (unsigned)count;
  attr.license = (uintptr_t)"GPL";
  return attr;
}
static inline int prog_load_log(unsigned type, const struct bpf_insn* insns, size_t count,
                                unsigned attr_bytes, char* log, unsigned log_bytes) {
  union bpf_attr attr = prog_attr(type, insns, count);
  if (log != NULL) {
    attr.log_level = 1;
    attr.log_buf = (uintptr_t)log;
    attr.log_size = log_bytes;
  }
  return (int)sys_bpf(BPF_PROG_LOAD, &attr, attr_bytes);
}
// A kprobe program that says beforehand how it will be attached.
static inline int prog_load_for(unsigned attach_type, const struct bpf_insn* insns, size_t count) {
  union bpf_attr attr = prog_attr(BPF_PROG_TYPE_KPROBE, insns, count);
  attr.expected_attach_type = attach_type;
  return (int)sys_bpf(BPF_PROG_LOAD, &attr, 128);
}
#define PROG_LOAD(type, insns) \
  prog_load_log(type, insns, sizeof(insns) / sizeof((insns)[0]), 128, NULL, 0)
#define PROG_LOAD_FOR(attach_type, insns) \
  prog_load_for(attach_type, insns, sizeof(insns) / sizeof((insns)[0]))

// Of a map, program or link; *bytes: the room, then what was written.
static inline long info_of(int fd, void* info, uint32_t* bytes) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.info.bpf_fd = (unsigned)fd;
  attr.info.info_len = *bytes;
  attr.info.info = (uintptr_t)info;
  const long result = sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, 16);
  *bytes = attr.info.info_len;
  return result;
}

static inline int trivial_program(unsigned type) {
  const struct bpf_insn insns[] = {MOV_IMM(0, 0), EXIT()};
  return PROG_LOAD(type, insns);
}

// ---- Links and events ----
static inline long link_create(int prog, int target, uint64_t cookie) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.link_create.prog_fd = (unsigned)prog;
  attr.link_create.target_fd = (unsigned)target;
  attr.link_create.attach_type = BPF_PERF_EVENT;
  attr.link_create.perf_event.bpf_cookie = cookie;
  return sys_bpf(BPF_LINK_CREATE, &attr, 48);
}

static inline unsigned uprobe_type(void) {
  unsigned type = 0;
  FILE* file = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
  if (file != NULL) {
    if (fscanf(file, "%u", &type) != 1) {
      type = 0;
    }
    fclose(file);
  }
  return type;
}

static inline long uprobe_open(const char* path, uint64_t offset, bool is_return, pid_t pid,
                               int cpu) {
  struct perf_event_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.type = uprobe_type();
  attr.size = sizeof(attr);
  attr.config = is_return ? 1 : 0;
  attr.config1 = (uintptr_t)path;
  attr.config2 = offset;
  return syscall(SYS_perf_event_open, &attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

// File and offset of an address of this program.
static inline bool place_of(const void* address, char* path, size_t path_bytes, uint64_t* offset) {
  FILE* maps = fopen("/proc/self/maps", "re");
  char line[4600];
  bool found = false;
  while (maps != NULL && !found && fgets(line, sizeof(line), maps) != NULL) {
    unsigned long begin = 0, end = 0, file_offset = 0;
    int at = 0;
    if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %n", &begin, &end, &file_offset, &at) >= 3 &&
        (uintptr_t)address >= begin && (uintptr_t)address < end) {
      line[strcspn(line, "\n")] = '\0';
      snprintf(path, path_bytes, "%s", line + at);
      *offset = (uintptr_t)address - begin + file_offset;
      found = true;
    }
  }
  if (maps != NULL) {
    fclose(maps);
  }
  return found;
}
