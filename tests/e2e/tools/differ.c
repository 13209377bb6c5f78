// differ: what docs/parity.md lists as different from the kernel, one line each: "NAME RESULT". Run on both by
// tests/e2e/test_differences.py, so that a difference that goes away is seen too.
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "raw_loader.h"

static void say(const char* name, long result) {
  printf("%s %ld\n", name, result < 0 ? -errno : result);
}

__attribute__((noinline, noclone)) int probed_here(int a) {
  volatile int one = 1;
  return a * 3 + one;
}

static unsigned long offset_of_probed(char* path) {
  FILE* maps = fopen("/proc/self/maps", "re");
  char line[4352];
  unsigned long begin, end, offset, found = 0;
  while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
    if (sscanf(line, "%lx-%lx %*s %lx", &begin, &end, &offset) == 3 &&
        (unsigned long)probed_here >= begin && (unsigned long)probed_here < end) {
      found = (unsigned long)probed_here - begin + offset;
      sscanf(line, "%*s %*s %*s %*s %*s %4095s", path);
    }
  }
  fclose(maps);
  return found;
}

// A uprobe.session link (Linux 6.13) that names one place `count` times.
static long link_sessions(const char* path, unsigned long offset, unsigned count) {
  const struct bpf_insn nothing[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
                                     {.code = BPF_JMP | BPF_EXIT}};
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = (unsigned long)nothing;
  attr.insn_cnt = 2;
  attr.license = (unsigned long)"GPL";
  attr.expected_attach_type = 57;  // BPF_TRACE_UPROBE_SESSION
  const long program = sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
  unsigned long offsets[64];
  for (unsigned i = 0; i < count; i++) {
    offsets[i] = offset;
  }
  const struct {
    uint32_t prog_fd, target_fd, attach_type, flags;
    uint64_t path, offsets, ref_ctr_offsets, cookies;
    uint32_t cnt, multi_flags, pid, padding;
  } create = {(uint32_t)program,      0, 57, 0,     (unsigned long)path,
              (unsigned long)offsets, 0, 0,  count, 0,
              (uint32_t)getpid(),     0};
  memset(&attr, 0, sizeof(attr));
  memcpy(&attr, &create, sizeof(create));
  const long link = program < 0 ? -1 : sys_bpf(BPF_LINK_CREATE, &attr, sizeof(create));
  close((int)program);
  close((int)link);
  return link;
}

int main(void) {
  char path[4096];
  const unsigned long offset = offset_of_probed(path);
  const int map = make_map();
  const int program = load_program(map, "differ");
  if (map < 0 || program < 0) {
    printf("load: %s\n", strerror(errno));
    return 1;
  }
  union bpf_attr attr;

  // A program run without a probe: a kprobe program cannot on the kernel; a socket filter can.
  struct bpf_insn two[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 7},
                           {.code = BPF_JMP | BPF_EXIT}};
  memset(&attr, 0, sizeof(attr));
  attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  attr.insns = (unsigned long)two;
  attr.insn_cnt = 2;
  attr.license = (unsigned long)"GPL";
  const int filter = (int)sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
  char data[64] = {0};
  memset(&attr, 0, sizeof(attr));
  attr.test.prog_fd = filter;
  attr.test.data_in = (unsigned long)data;
  attr.test.data_size_in = sizeof(data);
  say("prog_test_run", sys_bpf(BPF_PROG_TEST_RUN, &attr, sizeof(attr)));

  // Other events are the kernel's own: the same answer through libc as by the instruction itself.
  struct perf_event_attr event_attr;
  memset(&event_attr, 0, sizeof(event_attr));
  event_attr.size = sizeof(event_attr);
  event_attr.type = PERF_TYPE_SOFTWARE;
  event_attr.config = PERF_COUNT_SW_TASK_CLOCK;
  event_attr.exclude_kernel = 1;
  const int through_libc = (int)syscall(SYS_perf_event_open, &event_attr, 0, -1, -1, 0);
  const int libc_error = through_libc < 0 ? errno : 0;
  register long r10 __asm__("r10") = -1;
  register long r8 __asm__("r8") = 0;
  long direct = SYS_perf_event_open;
  __asm__ volatile("syscall"
                   : "+a"(direct)
                   : "D"(&event_attr), "S"(0), "d"(-1L), "r"(r10), "r"(r8)
                   : "rcx", "r11", "memory");
  say("software_event_is_the_kernels", direct < 0 ? -direct == libc_error : through_libc >= 0);

  // After DISABLE.
  const int event = attach(program, path, offset, getpid(), 0);
  if (event < 0) {
    printf("attach: %s\n", strerror(errno));
    return 1;
  }
  probed_here(1);
  say("hits_enabled", (long)read_map(map));
  ioctl(event, PERF_EVENT_IOC_DISABLE, 0);
  probed_here(1);
  say("hits_after_disable", (long)read_map(map));

  // The program's maps and instructions, through pointers in its info.
  struct bpf_prog_info info;
  unsigned ids[4] = {0};
  memset(&info, 0, sizeof(info));
  info.nr_map_ids = 4;
  info.map_ids = (unsigned long)ids;
  memset(&attr, 0, sizeof(attr));
  attr.info.bpf_fd = program;
  attr.info.info = (unsigned long)&info;
  attr.info.info_len = sizeof(info);
  say("prog_info", sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
  say("prog_info_nr_map_ids", info.nr_map_ids);
  say("prog_info_map_ids_filled", ids[0] != 0);
  say("prog_info_xlated_given", info.xlated_prog_len != 0);

  // Commands that are not there yet.
  memset(&attr, 0, sizeof(attr));
  attr.pathname = (unsigned long)"/sys/fs/bpf/bpftime-differ";
  attr.bpf_fd = map;
  const long pinned = sys_bpf(BPF_OBJ_PIN, &attr, sizeof(attr));
  if (pinned == 0) {
    unlink("/sys/fs/bpf/bpftime-differ");
  }
  say("obj_pin_on_no_bpffs", pinned < 0);
  memset(&attr, 0, sizeof(attr));
  attr.map_type = BPF_MAP_TYPE_LPM_TRIE;
  attr.key_size = 8;
  attr.value_size = 8;
  attr.max_entries = 1;
  attr.map_flags = BPF_F_NO_PREALLOC;
  say("lpm_trie", sys_bpf(BPF_MAP_CREATE, &attr, sizeof(attr)) >= 0);
  memset(&attr, 0, sizeof(attr));
  attr.map_type = BPF_MAP_TYPE_LRU_HASH;
  attr.key_size = 4;
  attr.value_size = 8;
  attr.max_entries = 1;
  say("lru_hash", sys_bpf(BPF_MAP_CREATE, &attr, sizeof(attr)) >= 0);

  // A loop that never ends: the kernel refuses to load it, we end the hit that runs it.
  struct bpf_insn loop[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
                            {.code = BPF_JMP | BPF_JA, .off = -1},
                            {.code = BPF_JMP | BPF_EXIT}};
  memset(&attr, 0, sizeof(attr));
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = (unsigned long)loop;
  attr.insn_cnt = 3;
  attr.license = (unsigned long)"GPL";
  say("endless_loop_loads", sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr)) >= 0);
  // GPL-only helpers for a program without the licence.
  struct bpf_insn call[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 1, .src_reg = 10},
                            {.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 1, .imm = -8},
                            {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 8},
                            {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = 0},
                            {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_probe_read_user},
                            {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
                            {.code = BPF_JMP | BPF_EXIT}};
  attr.insns = (unsigned long)call;
  attr.insn_cnt = 7;
  attr.license = (unsigned long)"Proprietary";
  say("gpl_helper_without_gpl_loads", sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr)) >= 0);
  say("sessions_33_at_a_place", link_sessions(path, offset, 33) >= 0);
  say("sessions_32_at_a_place", link_sessions(path, offset, 32) >= 0);
  printf("ok differ\n");
  return 0;
}
