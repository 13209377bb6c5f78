// For the parity programs whose BPF programs run: a function to probe, counters to raise, links of several places, a child
// that hits when it is told to. Numbers that the system's header does not have yet are stated here.
#pragma once
#include "shim_parity.h"

// ---- A function to probe: long enough for a jump, called through a pointer ----
static volatile int sink;
static __attribute__((noinline, noclone)) int probed(int a) {
  sink += a * 3;
  sink ^= a + 17;
  return sink + a;
}
static int (*volatile call_probed)(int) = probed;

static char path[4096];  // of this program
static uint64_t offset;  // of probed in it
static inline bool find_probed(void) {
  return place_of((const void*)(uintptr_t)call_probed, path, sizeof(path), &offset);
}
// At probed's entry, in this process. The link alone keeps the event.
static inline int link_probed(int prog, uint64_t cookie) {
  const int event = (int)uprobe_open(path, offset, false, getpid(), -1);
  const int link = (int)link_create(prog, event, cookie);
  close(event);
  return link;
}
// The same in every process: a child that forks from this one is hit too.
static inline int link_probed_everywhere(int prog, uint64_t cookie) {
  const int event = (int)uprobe_open(path, offset, false, -1, 0);
  const int link = (int)link_create(prog, event, cookie);
  close(event);
  return link;
}

// ---- `count` functions one behind the other, kFunctionBytes each, with a symbol each: eax = 2 * edi + 1 ----
enum { kFunctionBytes = 16 };
#define MANY_FUNCTIONS(name, count)                                        \
  __asm__(                                                                 \
      "  .altmacro\n"                                                      \
      "  .macro one_of_" #name                                             \
      " number\n"                                                          \
      "  .type " #name "_\\number, @function\n" #name                      \
      "_\\number:\n  lea 1(%rdi,%rdi), %eax\n  nopl 0(%rax,%rax)\n  ret\n" \
      "  .size " #name "_\\number, . - " #name                             \
      "_\\number\n  .p2align 4, 0xcc\n  .endm\n"                           \
      "  .text\n  .p2align 4\n" #name                                      \
      ":\n  .set number, 0\n"                                              \
      "  .rept " #count "\n  one_of_" #name                                \
      " %number\n  .set number, number + 1\n"                              \
      "  .endr\n  .noaltmacro\n");                                         \
  extern const char name[]
// How many of the first `count` do not answer as they should.
static inline int call_many(const char* first, int count) {
  int wrong = 0;
  for (int i = 0; i < count; i++) {
    int (*volatile one)(int) = (int (*)(int))(uintptr_t)(first + (size_t)i * kFunctionBytes);
    wrong += one(i) != 2 * i + 1;
  }
  return wrong;
}

// ---- Counters: one value of words, which a program reaches with LOAD_VALUE(register, counters, 8 * n) ----
enum { kMostWords = 16 };
static int counters = -1;
static inline bool make_counters(void) {
  counters = map_create(BPF_MAP_TYPE_ARRAY, 4, sizeof(uint64_t) * kMostWords, 1, 0, "counters");
  return counters >= 0;
}
static inline uint64_t word(int n) {
  uint64_t words[kMostWords] = {0};
  uint32_t key = 0;
  map_lookup(counters, &key, words);
  return words[n];
}
static inline void clear_words(void) {
  const uint64_t words[kMostWords] = {0};
  uint32_t key = 0;
  map_update(counters, &key, words);
}
// Adds one to word 0.
static inline int load_counter(unsigned attach_type) {
  const struct bpf_insn insns[] = {LOAD_VALUE(1, counters, 0), MOV_IMM(2, 1), ATOMIC_ADD(1, 2, 0),
                                   MOV_IMM(0, 0), EXIT()};
  return PROG_LOAD_FOR(attach_type, insns);
}

// ---- Links of several places ----
enum { kUprobeMulti = 48, kUprobeSession = 57 };  // Linux 6.6, 6.13
struct MultiAttr {                                // union bpf_attr: link_create
  uint32_t prog_fd, target_fd, attach_type, flags;
  uint64_t path, offsets, ref_ctr_offsets, cookies;
  uint32_t cnt, multi_flags, pid, padding;
};
_Static_assert(sizeof(struct MultiAttr) == 64, "as in 6.18");

// At places of this program, in this process; without cookies when NULL.
static inline struct MultiAttr multi_attr(int prog, unsigned attach_type, const uint64_t* offsets,
                                          const uint64_t* cookies, uint32_t count) {
  struct MultiAttr attr;
  memset(&attr, 0, sizeof(attr));
  attr.prog_fd = (uint32_t)prog;
  attr.attach_type = attach_type;
  attr.path = (uintptr_t)path;
  attr.offsets = (uintptr_t)offsets;
  attr.cookies = (uintptr_t)cookies;
  attr.cnt = count;
  attr.pid = (uint32_t)getpid();
  return attr;
}
static inline long link_multi(const struct MultiAttr* attr) {
  return sys_bpf(BPF_LINK_CREATE, attr, sizeof(*attr));
}

// ---- A child that calls `hit` each time it is told to ----
struct Child {
  pid_t pid;
  int go, did;
};
static inline struct Child start_child(void (*hit)(void)) {
  int go[2], did[2];
  if (pipe(go) != 0 || pipe(did) != 0) {
    exit(1);
  }
  const pid_t pid = fork();
  if (pid == 0) {
    close(go[1]);
    char byte;
    while (read(go[0], &byte, 1) == 1) {
      hit();
      (void)!write(did[1], &byte, 1);
    }
    _exit(0);
  }
  close(go[0]);
  close(did[1]);
  return (struct Child){pid, go[1], did[0]};
}
static inline void let_hit(const struct Child* child) {
  char byte = 1;
  (void)!write(child->go, &byte, 1);
  (void)!read(child->did, &byte, 1);
}
static inline void end_child(const struct Child* child) {
  close(child->go);
  close(child->did);
  waitpid(child->pid, NULL, 0);
}
