// Queues and stacks from a program: push, pop, peek, with their flags; and the id of the cgroup.
#include "shim_parity.h"

static volatile int sink;
__attribute__((noinline, noclone)) int probed(int a) {
  sink += a * 3;
  sink ^= a + 17;
  return sink + a;
}
static int (*volatile call_probed)(int) = probed;

enum { kPush, kPushFull, kPushOver, kPeek, kPeeked, kPop, kPopped, kPopEmpty, kCgroup, kWords };

static int load(int results, int queue) {
  const struct bpf_insn insns[] = {
      LOAD_VALUE(9, results, 0),
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

static char path[4096];
static uint64_t offset;

static void run(unsigned type) {
  uint64_t got[kWords] = {0};
  uint32_t key = 0;
  const int results = map_create(BPF_MAP_TYPE_ARRAY, 4, sizeof(got), 1, 0, "results");
  const int queue = map_create(type, 0, 8, 2, 0, "queue");
  const int prog = (int)IS_OK("load", load(results, queue));
  const int event = (int)uprobe_open(path, offset, false, getpid(), -1);
  const int link = (int)IS_OK("link", link_create(prog, event, 0));
  call_probed(1);
  map_lookup(results, &key, got);
  IS_TRUE("push", got[kPush] == 0);
  IS_TRUE("push_full", (int64_t)got[kPushFull] == -E2BIG);
  IS_TRUE("push_over", got[kPushOver] == 0);
  const bool is_queue = type == BPF_MAP_TYPE_QUEUE;
  IS_TRUE("peek", got[kPeek] == 0 && got[kPeeked] == (is_queue ? 22 : 33));
  IS_TRUE("pop", got[kPop] == 0 && got[kPopped] == got[kPeeked]);
  IS_TRUE("pop_empty", (int64_t)got[kPopEmpty] == -ENOENT);
  uint64_t value = 5;
  IS_OK("push_by_hand", map_element(BPF_MAP_UPDATE_ELEM, queue, NULL, &value, 0));
  call_probed(1);
  map_lookup(results, &key, got);
  IS_TRUE("sees_what_the_loader_pushed", got[kPeeked] == (is_queue ? 11 : 33));
  IS_TRUE("cgroup", got[kCgroup] != 0);
  close(link);
  close(event);
  close(prog);
  close(queue);
  close(results);
}

int main(void) {
  if (!place_of((const void*)(uintptr_t)call_probed, path, sizeof(path), &offset)) {
    return 1;
  }
  run(BPF_MAP_TYPE_QUEUE);
  run(BPF_MAP_TYPE_STACK);
  return done();
}
