// PROG_ARRAY and bpf_tail_call: what is called, what happens where nothing is, 33 in a row, programs that do not fit, and
// commands on the array.
#include "shim_hits.h"

enum { kFirst, kSecond, kSaw, kAfter, kLoops, kCookie };
static int programs;

static void hit(void) {
  clear_words();
  call_probed(41);
}

#define COUNT(n) MOV_IMM(1, 1), ATOMIC_ADD(9, 1, 8 * (n))
#define TAIL_CALL(index) MOV_REG(1, 6), LOAD_MAP(2, programs), MOV_IMM(3, index), CALL(12)

// Calls the program at `index`; comes behind it only where there is none.
static int load_first(int index) {
  const struct bpf_insn insns[] = {
      MOV_REG(6, 1), LOAD_VALUE(9, counters, 0),
      COUNT(kFirst), TAIL_CALL(index),
      COUNT(kAfter), MOV_IMM(0, 0),
      EXIT(),
  };
  return PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns);
}
// Notes its context's first argument and the cookie.
static int load_second(void) {
  const struct bpf_insn insns[] = {
      MOV_REG(6, 1),   LOAD_VALUE(9, counters, 0), COUNT(kSecond),
      LOAD(1, 6, 112), STORE(9, 1, 8 * kSaw),      MOV_REG(1, 6),
      CALL(174),       STORE(9, 0, 8 * kCookie),   MOV_IMM(0, 7),
      EXIT(),
  };
  return PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns);
}
// Calls itself.
static int load_loop(int index) {
  const struct bpf_insn insns[] = {
      MOV_REG(6, 1), LOAD_VALUE(9, counters, 0),
      COUNT(kLoops), TAIL_CALL(index),
      COUNT(kAfter), MOV_IMM(0, 0),
      EXIT(),
  };
  return PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns);
}
// In a function, without BTF that says what it returns.
static int load_in_function(int index) {
  const struct bpf_insn insns[] = {
      MOV_REG(6, 1),
      LOAD_VALUE(9, counters, 0),
      COUNT(kFirst),
      MOV_REG(1, 6),
      INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 5),
      LOAD_VALUE(9, counters, 0),
      STORE(9, 0, 8 * kAfter),
      MOV_IMM(0, 0),
      EXIT(),
      MOV_REG(6, 1),
      TAIL_CALL(index),
      MOV_IMM(0, 99),
      EXIT(),
  };
  return PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns);
}

static long set(uint32_t index, int prog, uint64_t flags) {
  return map_element(BPF_MAP_UPDATE_ELEM, programs, &index, &prog, flags);
}
static long clear(uint32_t index) {
  return map_element(BPF_MAP_DELETE_ELEM, programs, &index, NULL, 0);
}

static int attach(int prog) { return (int)IS_OK("attach", link_probed(prog, 0x77)); }

static void calls(void) {
  const int first = (int)IS_OK("load_first", load_first(1));
  const int second = (int)IS_OK("load_second", load_second());
  const int link = attach(first);
  hit();
  IS_TRUE("nothing_there", word(kFirst) == 1 && word(kAfter) == 1 && word(kSecond) == 0);
  IS_OK("set", set(1, second, 0));
  hit();
  IS_TRUE("called", word(kFirst) == 1 && word(kSecond) == 1 && word(kAfter) == 0);
  IS_TRUE("context", word(kSaw) == 41);
  IS_TRUE("cookie", word(kCookie) == 0x77);
  close(second);
  hit();
  IS_TRUE("the_array_keeps_it", word(kSecond) == 1);
  const int other = load_loop(3);
  IS_OK("another", set(1, other, 0));
  hit();
  IS_TRUE("called_the_other", word(kSecond) == 0 && word(kLoops) == 1 && word(kAfter) == 1);
  close(other);
  IS_OK("clear", clear(1));
  hit();
  IS_TRUE("nothing_again", word(kFirst) == 1 && word(kAfter) == 1 && word(kLoops) == 0);
  close(link);
  close(first);

  const int far = (int)IS_OK("load_far", load_first(4));
  const int far_link = attach(far);
  hit();
  IS_TRUE("index_out_of_range", word(kAfter) == 1);
  close(far_link);
  close(far);
}

static void in_a_row(void) {
  const int loop = (int)IS_OK("load_loop", load_loop(0));
  IS_OK("set_loop", set(0, loop, 0));
  const int link = attach(loop);
  hit();
  IS_TRUE("33_in_a_row", word(kLoops) == 34 && word(kAfter) == 1);
  hit();
  IS_TRUE("33_at_each_hit", word(kLoops) == 34);
  close(link);
  close(loop);
  IS_OK("clear_loop", clear(0));
}

static void commands(void) {
  const int second = load_second();
  uint32_t key = 1, value = 0, next = 0;
  IS_ERROR("lookup_nothing", ENOENT, map_lookup(programs, &key, &value));
  IS_ERROR("delete_nothing", ENOENT, clear(1));
  IS_ERROR("delete_far", E2BIG, clear(4));
  IS_ERROR("set_far", E2BIG, set(4, second, 0));
  IS_ERROR("set_noexist", EINVAL, set(1, second, BPF_NOEXIST));
  IS_ERROR("set_exist", EINVAL, set(1, second, BPF_EXIST));
  IS_ERROR("set_no_fd", EBADF, set(1, -1, 0));
  IS_ERROR("set_a_map", EINVAL, set(1, counters, 0));
  IS_OK("set", set(1, second, 0));
  IS_OK("set_again", set(1, second, 0));
  IS_OK("lookup", map_lookup(programs, &key, &value));
  struct bpf_prog_info info;
  memset(&info, 0, sizeof(info));
  uint32_t bytes = sizeof(info);
  info_of(second, &info, &bytes);
  IS_TRUE("lookup_gives_the_id", value == info.id && value != 0);
  key = 4;
  IS_ERROR("lookup_far", ENOENT, map_lookup(programs, &key, &value));
  key = 3;
  IS_ERROR("next_of_the_last", ENOENT, map_element(BPF_MAP_GET_NEXT_KEY, programs, &key, &next, 0));
  IS_OK("first", map_element(BPF_MAP_GET_NEXT_KEY, programs, NULL, &next, 0));
  IS_TRUE("first_is_0", next == 0);
  key = 1;
  IS_ERROR("take", 524, map_element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, programs, &key, &value, 0));
  const int foreign = trivial_program(BPF_PROG_TYPE_TRACEPOINT);
  IS_ERROR("another_type", EINVAL, set(2, foreign, 0));
  close(foreign);
  const int socket_filter = trivial_program(BPF_PROG_TYPE_SOCKET_FILTER);
  IS_ERROR("a_socket_filter", EINVAL, set(2, socket_filter, 0));
  close(socket_filter);
  IS_OK("clear", clear(1));
  close(second);
  const struct bpf_insn insns[] = {MOV_REG(6, 1), TAIL_CALL(0), MOV_IMM(0, 0), EXIT()};
  IS_ERROR("in_a_function", EINVAL, load_in_function(0));
  IS_ERROR("used_by_another_type", EINVAL, PROG_LOAD(BPF_PROG_TYPE_TRACEPOINT, insns));
  IS_ERROR("value_of_8", EINVAL, map_create(BPF_MAP_TYPE_PROG_ARRAY, 4, 8, 4, 0, NULL));
  IS_ERROR("key_of_8", EINVAL, map_create(BPF_MAP_TYPE_PROG_ARRAY, 8, 4, 4, 0, NULL));
  IS_ERROR("no_entries", EINVAL, map_create(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 0, 0, NULL));
  IS_ERROR("read_only_for_programs", EINVAL,
           map_create(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, BPF_F_RDONLY_PROG, NULL));
  const int fresh = (int)IS_OK("fresh", map_create(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1, 0, NULL));
  const int tracepoint = trivial_program(BPF_PROG_TYPE_TRACEPOINT);
  uint32_t zero = 0;
  IS_OK("the_first_one_decides", map_element(BPF_MAP_UPDATE_ELEM, fresh, &zero, &tracepoint, 0));
  const int kprobe = trivial_program(BPF_PROG_TYPE_KPROBE);
  IS_ERROR("the_next_has_to_fit", EINVAL,
           map_element(BPF_MAP_UPDATE_ELEM, fresh, &zero, &kprobe, 0));
  close(kprobe);
  close(tracepoint);
  close(fresh);
}

static void hit_in_child(void) { call_probed(41); }
static void let_child_hit(const struct Child* child) {
  clear_words();
  let_hit(child);
}

// A forked child calls what stands in the array, then and later.
static void in_a_child(void) {
  const int first = load_first(1);
  const int second = load_second();
  const int loop = load_loop(3);
  const int here = (int)IS_OK("link_here", link_probed(second, 0));
  const int everywhere = (int)IS_OK("link_everywhere", link_probed_everywhere(first, 0x77));
  IS_OK("set_before_the_fork", set(1, second, 0));
  hit();
  IS_TRUE("called_here", word(kFirst) == 1 && word(kSecond) == 2);
  const struct Child child = start_child(hit_in_child);
  let_child_hit(&child);
  IS_TRUE("called_in_a_child", word(kFirst) == 1 && word(kSecond) == 1 && word(kAfter) == 0);
  IS_TRUE("context_in_a_child", word(kSaw) == 41 && word(kCookie) == 0x77);
  IS_OK("clear_after_the_fork", clear(1));
  let_child_hit(&child);
  IS_TRUE("nothing_in_a_child", word(kSecond) == 0 && word(kAfter) == 1);
  IS_OK("set_after_the_fork", set(1, loop, 0));
  let_child_hit(&child);
  IS_TRUE("another_in_a_child", word(kSecond) == 0 && word(kLoops) == 1);
  end_child(&child);
  IS_OK("clear_again", clear(1));
  close(everywhere);
  close(here);
  close(first);
  close(second);
  close(loop);
}

// PROG_TEST_RUN's result, or -1.
static long test_run(int prog) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.test.prog_fd = (unsigned)prog;
  clear_words();
  return sys_bpf(BPF_PROG_TEST_RUN, &attr, 80) == 0 ? (long)attr.test.retval : -1;
}

// Raw tracepoint programs, which run without a tracepoint.
static void test_runs(void) {
  const int array = map_create(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 2, 0, "raw");
#define RAW_CALLER(word, index)                    \
  {MOV_REG(6, 1),      LOAD_VALUE(9, counters, 0), \
   COUNT(word),        MOV_REG(1, 6),              \
   LOAD_MAP(2, array), MOV_IMM(3, index),          \
   CALL(12),           COUNT(kAfter),              \
   MOV_IMM(0, 5),      EXIT()}
  const struct bpf_insn calls_0[] = RAW_CALLER(kFirst, 0);
  const struct bpf_insn calls_1[] = RAW_CALLER(kLoops, 1);
  const struct bpf_insn last[] = {LOAD_VALUE(9, counters, 0), COUNT(kSecond), MOV_IMM(0, 7),
                                  EXIT()};
  const int first = (int)IS_OK("load_raw", PROG_LOAD(BPF_PROG_TYPE_RAW_TRACEPOINT, calls_0));
  const int loop = (int)IS_OK("load_raw_loop", PROG_LOAD(BPF_PROG_TYPE_RAW_TRACEPOINT, calls_1));
  const int second = (int)IS_OK("load_raw_last", PROG_LOAD(BPF_PROG_TYPE_RAW_TRACEPOINT, last));
  IS_TRUE("test_run_calls_nothing", test_run(first) == 5 && word(kAfter) == 1);
  uint32_t index = 0;
  IS_OK("set_raw", map_element(BPF_MAP_UPDATE_ELEM, array, &index, &second, 0));
  IS_TRUE("test_run_calls", test_run(first) == 7 && word(kFirst) == 1 && word(kSecond) == 1);
  IS_TRUE("test_run_goes_no_further", word(kAfter) == 0);
  IS_OK("set_raw_again", map_element(BPF_MAP_UPDATE_ELEM, array, &index, &loop, 0));
  index = 1;
  IS_OK("set_raw_loop", map_element(BPF_MAP_UPDATE_ELEM, array, &index, &loop, 0));
  IS_TRUE("test_run_33_in_a_row", test_run(first) == 5 && word(kLoops) == 33 && word(kAfter) == 1);
  IS_TRUE("test_run_33_each_time", test_run(first) == 5 && word(kLoops) == 33);
  close(first);
  close(second);
  close(loop);
  close(array);
}

// The last descriptor's close empties the array, though a program goes on using it.
static void last_close(void) {
  const int first = load_first(1);
  const int second = load_second();
  const int link = attach(first);
  set(1, second, 0);
  hit();
  IS_TRUE("before_the_close", word(kSecond) == 1);
  close(programs);
  COMES_TRUE((hit(), word(kSecond) == 0));
  IS_TRUE("emptied", word(kSecond) == 0 && word(kFirst) == 1 && word(kAfter) == 1);
  close(link);
  close(first);
  close(second);
}

int main(void) {
  programs = map_create(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0, "programs");
  if (programs < 0 || !find_probed() || !make_counters()) {
    return 1;
  }
  calls();
  in_a_row();
  commands();
  in_a_child();
  test_runs();
  last_close();
  return done();
}
