// Queues and stacks from a program: push, pop, peek, with their flags; and the id of the cgroup.
#include "shim_hits.h"

enum { kPush, kPushFull, kPushOver, kPeek, kPeeked, kPop, kPopped, kPopEmpty, kCgroup };

static int load(int queue) {
  const struct bpf_insn insns[] = {
      LOAD_VALUE(9, counters, 0),
#define STEP(helper, flags, into)                                                      \
  LOAD_MAP(1, queue), MOV_REG(2, 10), ADD_IMM(2, -8), MOV_IMM(3, flags), CALL(helper), \
      STORE(9, 0, 8 * (into))
      STORE_IMM(10, -8, 11),
      STEP(87, 0, kPush),
      STORE_IMM(10, -8, 22),
      STEP(87, 0, kPush),
      STORE_IMM(10, -8, 33),
      STEP(87, 0, kPushFull),
      STEP(87, BPF_EXIST, kPushOver),
      STORE_IMM(10, -8, 0),
      STEP(89, 0, kPeek),
      LOAD(1, 10, -8),
      STORE(9, 1, 8 * kPeeked),
      STEP(88, 0, kPop),
      LOAD(1, 10, -8),
      STORE(9, 1, 8 * kPopped),
      STEP(88, 0, kPop),
      STORE_IMM(10, -8, 77),
      STEP(88, 0, kPopEmpty),
      CALL(80),
      STORE(9, 0, 8 * kCgroup),
      MOV_IMM(0, 0),
      EXIT(),
  };
  return PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns);
}

static void run(unsigned type) {
  clear_words();
  const int queue = map_create(type, 0, 8, 2, 0, "queue");
  const int prog = (int)IS_OK("load", load(queue));
  const int link = (int)IS_OK("link", link_probed(prog, 0));
  call_probed(1);
  IS_TRUE("push", word(kPush) == 0);
  IS_TRUE("push_full", (int64_t)word(kPushFull) == -E2BIG);
  IS_TRUE("push_over", word(kPushOver) == 0);
  const bool is_queue = type == BPF_MAP_TYPE_QUEUE;
  IS_TRUE("peek", word(kPeek) == 0 && word(kPeeked) == (is_queue ? 22 : 33));
  IS_TRUE("pop", word(kPop) == 0 && word(kPopped) == word(kPeeked));
  IS_TRUE("pop_empty", (int64_t)word(kPopEmpty) == -ENOENT);
  uint64_t value = 5;
  IS_OK("push_by_hand", map_element(BPF_MAP_UPDATE_ELEM, queue, NULL, &value, 0));
  call_probed(1);
  IS_TRUE("sees_what_the_loader_pushed", word(kPeeked) == (is_queue ? 11 : 33));
  IS_TRUE("cgroup", word(kCgroup) != 0);
  close(link);
  close(prog);
  close(queue);
}

int main(void) {
  if (!find_probed() || !make_counters()) {
    return 1;
  }
  run(BPF_MAP_TYPE_QUEUE);
  run(BPF_MAP_TYPE_STACK);
  return done();
}
