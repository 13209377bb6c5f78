// What nobody should do: a map of 10 GB, 10,000 probes (also in one function), a buffer that nobody reads, a probed library that goes. The kernel can do
// all of it too (as root, within a minute).
#include <dlfcn.h>

#include "../../parity/shim_hits.h"

enum { kPlaces = 10000, kStep = kFunctionBytes };

MANY_FUNCTIONS(many, 10000);

// One function of 160 KB: eax = edi + kPlaces.
__asm__(
    "  .text\n  .p2align 4\n  .type one_large, @function\none_large:\n"
    "  mov %edi, %eax\n  .p2align 4\ninside_large:\n"
    "  .rept 10000\n  {disp32} lea 1(%rax), %eax\n  .p2align 4\n  .endr\n"
    "  ret\n  .size one_large, . - one_large\n");
extern int one_large(int n);
extern const char inside_large[];

static void huge_maps(void) {
  IS_ERROR("array_of_10_gb", ENOMEM,
           map_create(BPF_MAP_TYPE_ARRAY, 4, 1 << 20, 10 << 10, 0, "huge"));
  IS_ERROR("hash_of_10_gb", ENOMEM, map_create(BPF_MAP_TYPE_HASH, 4, 1 << 20, 10 << 10, 0, "huge"));
  IS_ERROR("queue_of_10_gb", ENOMEM,
           map_create(BPF_MAP_TYPE_QUEUE, 0, 1 << 20, 10 << 10, 0, "huge"));
  const int map =
      (int)IS_OK("and_then_a_small_one", map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "small"));
  close(map);
}

// At kPlaces places of this program from `first` on, kStep bytes each.
static int link_many(const char* name, int prog, const char* first) {
  static uint64_t offsets[kPlaces];
  if (!place_of(first, path, sizeof(path), &offsets[0])) {
    exit(1);
  }
  for (int i = 1; i < kPlaces; i++) {
    offsets[i] = offsets[0] + (uint64_t)i * kStep;
  }
  const struct MultiAttr attr = multi_attr(prog, kUprobeMulti, offsets, NULL, kPlaces);
  const int link = (int)IS_OK(name, link_multi(&attr));
  clear_words();
  return link;
}

static void many_probes(int prog) {
  const int link = link_many("10000_probes", prog, many);
  int wrong = call_many(many, kPlaces);
  IS_TRUE("each_hit_once", word(0) == kPlaces);
  IS_TRUE("each_right", wrong == 0);
  close(link);
  clear_words();
  wrong = call_many(many, kPlaces);
  IS_TRUE("none_left", word(0) == 0 && wrong == 0);
}

static void many_probes_in_one_function(int prog) {
  int (*volatile call)(int) = one_large;
  const int link = link_many("10000_probes_in_one", prog, inside_large);
  IS_TRUE("one_right", call(7) == 7 + kPlaces);
  IS_TRUE("one_hit_at_each", word(0) == kPlaces);
  close(link);
  clear_words();
  IS_TRUE("none_left_in_one", call(7) == 7 + kPlaces && word(0) == 0);
}

// What was told to be there is there, in order; what was not is nowhere.
static void unread_buffer(void) {
  enum { kCalls = 5000, kPage = 4096 };
  const int ring = (int)map_create(BPF_MAP_TYPE_RINGBUF, 0, 0, kPage, 0, "ring");
  const struct bpf_insn insns[] = {
      LOAD(7, 1, 112),  // pt_regs: di
      STORE(10, 7, -8),
      STORE(10, 7, -16),
      LOAD_MAP(1, ring),
      MOV_REG(2, 10),
      ADD_IMM(2, -16),
      MOV_IMM(3, 16),
      MOV_IMM(4, 0),
      CALL(130),  // bpf_ringbuf_output
      INSN(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 4, 0),
      LOAD_VALUE(1, counters, 0),
      MOV_IMM(2, 1),
      ATOMIC_ADD(1, 2, 0),
      MOV_IMM(0, 0),
      EXIT(),
  };
  const int prog = (int)IS_OK("load_writer", PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns));
  const int link = (int)IS_OK("link_writer", link_probed(prog, 0));
  clear_words();
  for (int i = 0; i < kCalls; i++) {
    call_probed(i);
  }
  const uint64_t promised = word(0);
  IS_TRUE("as_many_as_there_is_room_for", promised == (kPage - 1) / 24);
  uint64_t* consumer = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
  const char* producer = mmap(NULL, 3 * kPage, PROT_READ, MAP_SHARED, ring, kPage);
  const uint64_t end = *(const volatile uint64_t*)producer;
  uint64_t read = 0, good = 0;
  for (uint64_t at = *consumer; at < end; at += 24, read++) {
    const uint32_t* head = (const uint32_t*)(producer + kPage + at % kPage);
    const uint64_t* data = (const uint64_t*)(head + 2);
    good += (head[0] & ~(1U << 31)) == 16 && data[0] == read && data[1] == read;
  }
  IS_TRUE("all_that_was_promised", read == promised && good == promised);
  *(volatile uint64_t*)consumer = end;
  clear_words();
  call_probed(1);
  IS_TRUE("and_it_goes_on", word(0) == 1);
  close(link);
  close(prog);
  close(ring);
}

// A library that is unmapped while it is probed, and comes again.
static void library_goes(void) {
  const int prog = (int)load_counter(0);
  char path[4096];
  uint64_t offset = 0;
  int event = -1, link = -1;
  clear_words();
  for (int round = 0; round < 20; round++) {
    void* library = dlopen("libm.so.6", RTLD_NOW);
    double (*volatile cbrt_)(double) =
        library == NULL ? NULL : (double (*)(double))dlsym(library, "cbrt");
    if (cbrt_ == NULL) {
      exit(1);
    }
    if (round == 0) {
      place_of((const void*)(uintptr_t)cbrt_, path, sizeof(path), &offset);
      event = (int)uprobe_open(path, offset, false, getpid(), -1);
      link = (int)IS_OK("link_in_library", link_create(prog, event, 0));
    }
    const double three = cbrt_(27);
    if (three < 2.9 || three > 3.1) {
      IS_TRUE("right_result", false);
    }
    dlclose(library);
  }
  IS_TRUE("each_time", word(0) == 20);
  close(link);
  close(event);
  void* library = dlopen("libm.so.6", RTLD_NOW);
  double (*volatile cbrt_)(double) = (double (*)(double))dlsym(library, "cbrt");
  cbrt_(8);
  IS_TRUE("no_more", word(0) == 20);
  dlclose(library);
  close(prog);
}

int main(void) {
  if (!find_probed() || !make_counters()) {
    return 1;
  }
  huge_maps();
  unread_buffer();
  library_goes();
  const int prog = (int)IS_OK("load_counter", load_counter(kUprobeMulti));
  many_probes(prog);
  many_probes_in_one_function(prog);
  return done();
}
