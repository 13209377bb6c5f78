// PROG_TEST_RUN of a raw tracepoint program, which is how bpftrace runs BEGIN and END.
#include "shim_parity.h"

static long run(int prog, const void* context, unsigned context_bytes, unsigned flags, unsigned cpu,
                union bpf_attr* attr) {
  memset(attr, 0, sizeof(*attr));
  attr->test.prog_fd = (unsigned)prog;
  attr->test.ctx_in = (uintptr_t)context;
  attr->test.ctx_size_in = context_bytes;
  attr->test.flags = flags;
  attr->test.cpu = cpu;
  attr->test.retval = 77;
  return sys_bpf(BPF_PROG_TEST_RUN, attr, 80);
}

int main(void) {
  alarm(60);
  union bpf_attr attr;
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 24, 1, 0, "seen");
  const struct bpf_insn insns[] = {
      MOV_REG(6, 1),  LOAD_VALUE(7, map, 0), LOAD(1, 6, 0),  // the first argument of the tracepoint
      STORE(7, 1, 0),
      CALL(14),  // bpf_get_current_pid_tgid
      STORE(7, 0, 8), MOV_IMM(1, 1),         ATOMIC_ADD(7, 1, 16), MOV_IMM(0, 42), EXIT(),
  };
  const int prog = (int)IS_OK("program", PROG_LOAD(BPF_PROG_TYPE_RAW_TRACEPOINT, insns));
  const uint64_t arguments[2] = {0x1122334455667788, 2};
  IS_OK("run", run(prog, arguments, sizeof(arguments), 0, 0, &attr));
  IS_TRUE("retval", attr.test.retval == 42);
  uint64_t seen[3] = {0};
  uint32_t key = 0;
  map_lookup(map, &key, seen);
  IS_TRUE("context", seen[0] == arguments[0]);
  IS_TRUE("runs_in_the_caller", seen[1] >> 32 == (uint64_t)getpid());
  IS_TRUE("ran_once", seen[2] == 1);
  IS_OK("run_on_a_cpu", run(prog, arguments, sizeof(arguments), BPF_F_TEST_RUN_ON_CPU, 0, &attr));
  map_lookup(map, &key, seen);
  IS_TRUE("ran_twice", seen[2] == 2);

  char large[256] = {0};
  IS_ERROR("context_too_large", EINVAL, run(prog, large, 104, 0, 0, &attr));
  IS_ERROR("context_without_size", EINVAL, run(prog, large, 0, 0, 0, &attr));
  IS_ERROR("context_nowhere", EFAULT, run(prog, (void*)8, 16, 0, 0, &attr));
  IS_ERROR("cpu_without_flag", EINVAL, run(prog, arguments, sizeof(arguments), 0, 1, &attr));
  IS_ERROR("no_such_cpu", ENXIO,
           run(prog, arguments, sizeof(arguments), BPF_F_TEST_RUN_ON_CPU, 100000, &attr));
  attr.test.flags = 0;
  attr.test.cpu = 0;
  attr.test.repeat = 2;
  IS_ERROR("repeat", EINVAL, sys_bpf(BPF_PROG_TEST_RUN, &attr, 80));
  IS_ERROR("not_open", EBADF, run(-1, NULL, 0, 0, 0, &attr));
  IS_ERROR("not_a_program", EINVAL, run(map, NULL, 0, 0, 0, &attr));
  const int probe = trivial_program(BPF_PROG_TYPE_KPROBE);
  IS_ERROR("of_a_kprobe", 524, run(probe, NULL, 0, 0, 0, &attr));

  // A link of an event can be neither detached nor given another program.
  char path[4096];
  uint64_t offset = 0;
  place_of((void*)done, path, sizeof(path), &offset);
  const int event = (int)uprobe_open(path, offset, false, getpid(), -1);
  const int link = (int)IS_OK("link", link_create(probe, event, 0));
  memset(&attr, 0, sizeof(attr));
  attr.link_detach.link_fd = (unsigned)link;
  IS_ERROR("link_detach", EOPNOTSUPP, sys_bpf(BPF_LINK_DETACH, &attr, 4));
  attr.link_detach.link_fd = (unsigned)probe;
  IS_ERROR("link_detach_of_a_program", EINVAL, sys_bpf(BPF_LINK_DETACH, &attr, 4));
  memset(&attr, 0, sizeof(attr));
  attr.link_update.link_fd = (unsigned)link;
  attr.link_update.new_prog_fd = (unsigned)probe;
  IS_ERROR("link_update", EINVAL, sys_bpf(BPF_LINK_UPDATE, &attr, 16));
  attr.link_update.link_fd = (unsigned)-1;
  IS_ERROR("link_update_of_nothing", EBADF, sys_bpf(BPF_LINK_UPDATE, &attr, 16));
  close(link);
  close(event);
  return done();
}
