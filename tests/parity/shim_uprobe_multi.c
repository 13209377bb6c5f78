// uprobe_multi links: several places of a file by one link, cookies, semaphores, at the return, pid, errors, info. Numbers
// of Linux 6.6 that the system's header does not have are stated here.
#include "shim_hits.h"

enum { kLinkUprobeMulti = 12, kReturn = 1, kPlaces = 3 };

struct MultiInfo {  // struct bpf_link_info
  uint32_t type, id, prog_id, padding;
  uint64_t path, offsets, ref_ctr_offsets, cookies;
  uint32_t path_size, count, flags, pid;
};
_Static_assert(sizeof(struct MultiInfo) == 64, "as in 6.18");

#define PLACE(name, factor)                            \
  __attribute__((noinline, noclone)) int name(int a) { \
    sink += a * (factor);                              \
    sink ^= a + 17;                                    \
    return sink + (factor);                            \
  }
PLACE(first, 3)
PLACE(second, 5)
PLACE(third, 7)
static int (*volatile functions[kPlaces])(int) = {first, second, third};
static uint16_t semaphores[kPlaces] __attribute__((section(".semaphores"))) = {0, 0, 0};

enum { kHits, kCookie, kIp, kPid, kReturned };
static uint64_t offsets[kPlaces], semaphore_offsets[kPlaces];
static const uint64_t cookies[kPlaces] = {0x11, 0x2222222222222222, 0x33};

static uint64_t hits_of(int which, int calls) {
  clear_words();
  for (int i = 0; i < calls; i++) {
    functions[which](i);
  }
  return word(kHits);
}

static int load(unsigned attach_type) {
  const struct bpf_insn insns[] = {
      MOV_REG(6, 1),
      LOAD_VALUE(7, counters, 0),
      MOV_IMM(1, 1),
      ATOMIC_ADD(7, 1, 8 * kHits),
      MOV_REG(1, 6),
      CALL(174),  // bpf_get_attach_cookie
      STORE(7, 0, 8 * kCookie),
      MOV_REG(1, 6),
      CALL(173),  // bpf_get_func_ip
      STORE(7, 0, 8 * kIp),
      CALL(14),  // bpf_get_current_pid_tgid
      SHIFT_RIGHT(0, 32),
      STORE(7, 0, 8 * kPid),
      LOAD(1, 6, 80),  // pt_regs: ax
      STORE(7, 1, 8 * kReturned),
      MOV_IMM(0, 0),
      EXIT(),
  };
  return PROG_LOAD_FOR(attach_type, insns);
}

static struct MultiAttr attr_of(int prog) {
  return multi_attr(prog, kUprobeMulti, offsets, cookies, kPlaces);
}
#define WITH(change)                       \
  ({                                       \
    struct MultiAttr attr = attr_of(prog); \
    change;                                \
    link_multi(&attr);                     \
  })

static void entry(int prog) {
  const int link = (int)IS_OK("link", WITH((void)0));
  for (int i = 0; i < kPlaces; i++) {
    IS_TRUE("hits_each", hits_of(i, 10) == 10);
    IS_TRUE("cookie_each", word(kCookie) == cookies[i]);
    IS_TRUE("ip_each", word(kIp) == (uintptr_t)functions[i]);
    IS_TRUE("pid", word(kPid) == (uint64_t)getpid());
  }
  const int copy = dup(link);
  close(link);
  IS_TRUE("copy_keeps_the_link", hits_of(1, 4) == 4);
  close(copy);
  IS_TRUE("last_close_detaches", hits_of(0, 4) + hits_of(1, 4) + hits_of(2, 4) == 0);
}

static void at_return(int prog) {
  const int link = (int)IS_OK("return_link", WITH(attr.multi_flags = kReturn; attr.cnt = 2));
  clear_words();
  const int value = functions[1](4);
  IS_TRUE("return_hit", word(kHits) == 1);
  IS_TRUE("return_value", (int)word(kReturned) == value);
  IS_TRUE("return_cookie", word(kCookie) == cookies[1]);
  IS_TRUE("return_ip", word(kIp) == (uintptr_t)functions[1]);
  IS_TRUE("not_the_third", hits_of(2, 3) == 0);
  close(link);
}

static void without_and_twice(int prog) {
  const int plain = (int)IS_OK("no_cookies", WITH(attr.cookies = 0; attr.cnt = 1));
  IS_TRUE("cookie_is_0", hits_of(0, 3) == 3 && word(kCookie) == 0);
  const uint64_t same[2] = {offsets[0], offsets[0]};
  const int twice = (int)IS_OK("a_place_twice", WITH(attr.offsets = (uintptr_t)same; attr.cnt = 2));
  IS_TRUE("runs_for_each", hits_of(0, 3) == 9);
  close(plain);
  IS_TRUE("the_other_goes_on", hits_of(0, 3) == 6);
  close(twice);
  IS_TRUE("gone", hits_of(0, 3) == 0);
}

static void semaphore(int prog) {
  const int link =
      (int)IS_OK("semaphores", WITH(attr.ref_ctr_offsets = (uintptr_t)semaphore_offsets));
  IS_TRUE("raised",
          ((volatile uint16_t*)semaphores)[0] == 1 && ((volatile uint16_t*)semaphores)[2] == 1);
  close(link);
  IS_TRUE("hits_behind", hits_of(0, 2) == 0);  // and after that it is detached for certain
  IS_TRUE("lowered",
          ((volatile uint16_t*)semaphores)[0] == 0 && ((volatile uint16_t*)semaphores)[2] == 0);
}

static void info(int prog) {
  const int link =
      (int)IS_OK("link_for_info", WITH(attr.ref_ctr_offsets = (uintptr_t)semaphore_offsets));
  struct MultiInfo about;
  memset(&about, 0, sizeof(about));
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.info.bpf_fd = (uint32_t)link;
  attr.info.info_len = sizeof(about);
  attr.info.info = (uintptr_t)&about;
  IS_OK("info", sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
  IS_TRUE("info_type", about.type == kLinkUprobeMulti && about.id != 0 && about.prog_id != 0);
  IS_TRUE("info_counts", about.count == kPlaces && about.flags == 0 &&
                             about.pid == (uint32_t)getpid() &&
                             about.path_size == strlen(path) + 1);
  char name[4096] = "";
  uint64_t got[3][kPlaces + 1];
  memset(got, 0, sizeof(got));
  memset(&about, 0, sizeof(about));
  about.path = (uintptr_t)name;
  about.path_size = sizeof(name);
  about.offsets = (uintptr_t)got[0];
  about.ref_ctr_offsets = (uintptr_t)got[1];
  about.cookies = (uintptr_t)got[2];
  about.count = kPlaces + 1;
  IS_OK("info_arrays", sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
  IS_TRUE("info_path", strcmp(name, path) == 0);
  IS_TRUE("info_offsets", memcmp(got[0], offsets, sizeof(offsets)) == 0 && got[0][kPlaces] == 0);
  IS_TRUE("info_semaphores", memcmp(got[1], semaphore_offsets, sizeof(semaphore_offsets)) == 0);
  IS_TRUE("info_cookies", memcmp(got[2], cookies, sizeof(cookies)) == 0);
  memset(got, 0, sizeof(got));
  about.count = 1;
  about.path = about.path_size = 0;
  IS_ERROR("info_short", ENOSPC, sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
  IS_TRUE("info_short_is_cut", got[0][0] == offsets[0] && got[0][1] == 0 && about.count == 1);
  about.count = 0;
  IS_ERROR("info_no_count", EINVAL, sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
  about.offsets = about.ref_ctr_offsets = about.cookies = 0;
  about.path = (uintptr_t)name;
  IS_ERROR("info_path_without_size", EINVAL, sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
  about.path_size = 4;
  IS_ERROR("info_path_short", ENAMETOOLONG, sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
  attr.info.info_len = 16;
  IS_OK("info_head", sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
  IS_ERROR("update", EINVAL, ({
             union bpf_attr update;
             memset(&update, 0, sizeof(update));
             update.link_update.link_fd = (uint32_t)link;
             update.link_update.new_prog_fd = (uint32_t)prog;
             sys_bpf(BPF_LINK_UPDATE, &update, sizeof(update));
           }));
  IS_ERROR("detach", EOPNOTSUPP, ({
             union bpf_attr detach;
             memset(&detach, 0, sizeof(detach));
             detach.link_detach.link_fd = (uint32_t)link;
             sys_bpf(BPF_LINK_DETACH, &detach, sizeof(detach));
           }));
  close(link);
}

static void errors(int prog) {
  const uint64_t far[1] = {1ULL << 40}, negative[1] = {1ULL << 63}, odd[kPlaces] = {1, 3, 5};
  IS_ERROR("no_path", EINVAL, WITH(attr.path = 0));
  IS_ERROR("no_offsets", EINVAL, WITH(attr.offsets = 0));
  IS_ERROR("no_places", EINVAL, WITH(attr.cnt = 0));
  IS_ERROR("too_many", E2BIG, WITH(attr.cnt = (1U << 20) + 1));
  IS_ERROR("flags", EINVAL, WITH(attr.flags = 1));
  IS_ERROR("multi_flags", EINVAL, WITH(attr.multi_flags = 2));
  IS_ERROR("negative_pid", EINVAL, WITH(attr.pid = UINT32_MAX));
  IS_ERROR("no_such_pid", ESRCH, WITH(attr.pid = 0x3ffffff));
  IS_ERROR("bad_path", EFAULT, WITH(attr.path = 8));
  IS_ERROR("no_such_file", ENOENT, WITH(attr.path = (uintptr_t)"/no/such/file"));
  IS_ERROR("a_directory", EBADF, WITH(attr.path = (uintptr_t)"/"));
  IS_ERROR("bad_offsets", EFAULT, WITH(attr.offsets = 8));
  IS_ERROR("bad_cookies", EFAULT, WITH(attr.cookies = 8));
  IS_ERROR("bad_semaphores", EFAULT, WITH(attr.ref_ctr_offsets = 8));
  IS_ERROR("far_offset", EINVAL, WITH(attr.offsets = (uintptr_t)far; attr.cnt = 1));
  IS_ERROR("negative_offset", EINVAL, WITH(attr.offsets = (uintptr_t)negative; attr.cnt = 1));
  close(
      (int)IS_OK("far_semaphore", WITH(attr.ref_ctr_offsets = (uintptr_t)negative; attr.cnt = 1)));
  IS_ERROR("odd_semaphore", EINVAL, WITH(attr.ref_ctr_offsets = (uintptr_t)odd));
  IS_ERROR("tail", E2BIG, ({
             struct {
               struct MultiAttr attr;
               char tail[128];
             } long_attr;
             memset(&long_attr, 0, sizeof(long_attr));
             long_attr.attr = attr_of(prog);
             long_attr.tail[sizeof(long_attr.tail) - 1] = 1;
             sys_bpf(BPF_LINK_CREATE, &long_attr, sizeof(long_attr));
           }));
  IS_ERROR("as_perf_event", EINVAL, WITH(attr.attach_type = BPF_PERF_EVENT));
  IS_TRUE("nothing_stays", hits_of(0, 3) == 0);

  const int other = load(0);
  IS_ERROR("program_without_the_type", EINVAL, ({
             struct MultiAttr attr = attr_of(other);
             link_multi(&attr);
           }));
  close(other);
  const int foreign = trivial_program(BPF_PROG_TYPE_SOCKET_FILTER);
  IS_ERROR("program_of_another_type", EINVAL, ({
             struct MultiAttr attr = attr_of(foreign);
             link_multi(&attr);
           }));
  close(foreign);
  IS_ERROR("no_program", EBADF, ({
             struct MultiAttr attr = attr_of(-1);
             link_multi(&attr);
           }));
}

static void hit_first(void) { functions[0](1); }

static void pid_filter(int prog) {
  const struct Child child = start_child(hit_first);
  const int link = (int)IS_OK("link_of_the_child", WITH(attr.pid = (uint32_t)child.pid));
  IS_TRUE("not_this_process", hits_of(0, 5) == 0);
  clear_words();
  let_hit(&child);
  IS_TRUE("that_process", word(kHits) == 1 && word(kPid) == (uint64_t)child.pid);
  close(link);
  end_child(&child);
}

int main(void) {
  const int prog = make_counters() ? load(kUprobeMulti) : -1;
  if (prog < 0) {
    perror("set-up");
    return 1;
  }
  char same[4096];
  for (int i = 0; i < kPlaces; i++) {
    if (!place_of((const void*)(uintptr_t)functions[i], path, sizeof(path), &offsets[i]) ||
        !place_of(&semaphores[i], same, sizeof(same), &semaphore_offsets[i])) {
      return 1;
    }
  }
  entry(prog);
  at_return(prog);
  without_and_twice(prog);
  semaphore(prog);
  info(prog);
  errors(prog);
  pid_filter(prog);
  return done();
}
