// uprobe.session links: one program at entry and return of a call, its cookie for that call, and whether the return side runs.
// Numbers of Linux 6.13 are stated here; the two kfuncs are found in the kernel's BTF.
#include <linux/btf.h>

#include "shim_hits.h"

enum { kPseudoKfunc = 2 };

// Calls itself n times.
__attribute__((noinline, noclone)) int down(int n) {
  static int (*volatile next)(int) = down;
  sink += n;
  const int below = n > 0 ? next(n - 1) : 0;
  return below + n;
}
static int (*volatile call_down)(int) = down;

static volatile int caught;
__attribute__((noinline, noclone)) int other(int n) {
  sink -= n;
  caught++;
  return n * 2;
}
static int (*volatile call_other)(int) = other;

enum { kEntries, kReturns, kCookies, kAtReturn, kWrong, kLinkCookie };

static char* read_btf(void) {
  const int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
  size_t size = 0, room = 1 << 20;
  char* bytes = malloc(room);
  ssize_t n = 0;
  while (fd >= 0 && bytes != NULL && (n = read(fd, bytes + size, room - size)) > 0) {
    size += (size_t)n;
    if (size == room) {
      bytes = realloc(bytes, room *= 2);
    }
  }
  close(fd);
  return size >= sizeof(struct btf_header) ? bytes : NULL;
}

static int kfunc(const char* wanted) {
  static char* btf;
  if (btf == NULL && (btf = read_btf()) == NULL) {
    return -1;
  }
  const struct btf_header* head = (const void*)btf;
  const char* at = btf + head->hdr_len + head->type_off;
  const char* end = at + head->type_len;
  const char* names = btf + head->hdr_len + head->str_off;
  for (int id = 1; at < end; id++) {
    const struct btf_type* type = (const void*)at;
    const unsigned kind = BTF_INFO_KIND(type->info), count = BTF_INFO_VLEN(type->info);
    if (kind == BTF_KIND_FUNC && strcmp(names + type->name_off, wanted) == 0) {
      return id;
    }
    at += sizeof(*type);
    switch (kind) {
      case BTF_KIND_INT:
      case BTF_KIND_VAR:
      case BTF_KIND_DECL_TAG:
        at += 4;
        break;
      case BTF_KIND_ARRAY:
        at += sizeof(struct btf_array);
        break;
      case BTF_KIND_STRUCT:
      case BTF_KIND_UNION:
      case BTF_KIND_DATASEC:
      case 19:  // BTF_KIND_ENUM64
        at += count * 12;
        break;
      case BTF_KIND_ENUM:
      case BTF_KIND_FUNC_PROTO:
        at += count * 8;
        break;
      default:
        break;
    }
  }
  return -1;
}

#define CALL_KFUNC(id) INSN(BPF_JMP | BPF_CALL, 0, kPseudoKfunc, 0, id)
#define JUMP_IF(op, d, i, o) INSN(BPF_JMP | (op) | BPF_K, d, 0, o, i)

// At entry: the cookie becomes the argument; odd ones are not followed to their return.
static int load(unsigned attach_type) {
  const struct bpf_insn insns[] = {
      MOV_REG(6, 1),
      LOAD_VALUE(9, counters, 0),
      CALL_KFUNC(kfunc("bpf_session_is_return")),
      MOV_REG(8, 0),
      INSN(BPF_ALU64 | BPF_AND | BPF_K, 8, 0, 0, 0xff),
      CALL_KFUNC(kfunc("bpf_session_cookie")),
      MOV_REG(7, 0),
      JUMP_IF(BPF_JNE, 8, 0, 11),
      MOV_IMM(1, 1),
      ATOMIC_ADD(9, 1, 8 * kEntries),
      LOAD(2, 7, 0),
      JUMP_IF(BPF_JEQ, 2, 0, 1),
      ATOMIC_ADD(9, 1, 8 * kWrong),  // a cookie begins as 0
      LOAD(1, 6, 112),               // pt_regs: di
      ADD_IMM(1, 1000),
      STORE(7, 1, 0),
      MOV_REG(0, 1),
      INSN(BPF_ALU64 | BPF_AND | BPF_K, 0, 0, 0, 1),
      EXIT(),
      MOV_IMM(1, 1),
      ATOMIC_ADD(9, 1, 8 * kReturns),
      LOAD(1, 7, 0),
      ATOMIC_ADD(9, 1, 8 * kCookies),
      LOAD(1, 6, 80),  // pt_regs: ax
      ATOMIC_ADD(9, 1, 8 * kAtReturn),
      MOV_REG(1, 6),
      CALL(174),  // bpf_get_attach_cookie
      STORE(9, 0, 8 * kLinkCookie),
      MOV_IMM(0, 0),
      EXIT(),
  };
  return PROG_LOAD_FOR(attach_type, insns);
}

static uint64_t offsets[2];
static long attach(int prog, unsigned type, unsigned count, uint64_t cookie) {
  const uint64_t cookies[2] = {cookie, cookie};
  const struct MultiAttr attr = multi_attr(prog, type, offsets, cookies, count);
  return link_multi(&attr);
}

static void one_session(int prog) {
  const int link = (int)IS_OK("link", attach(prog, kUprobeSession, 2, 77));
  clear_words();
  call_other(4);
  IS_TRUE("pair", word(kEntries) == 1 && word(kReturns) == 1);
  IS_TRUE("cookie_is_shared", word(kCookies) == 1004);
  IS_TRUE("return_value", word(kAtReturn) == 8);
  IS_TRUE("link_cookie", word(kLinkCookie) == 77);
  clear_words();
  call_other(5);
  IS_TRUE("entry_said_1", word(kEntries) == 1 && word(kReturns) == 0);
  clear_words();
  call_down(20);
  IS_TRUE("nested_entries", word(kEntries) == 21);
  IS_TRUE("nested_returns", word(kReturns) == 11);  // 0, 2, ... 20
  IS_TRUE("a_cookie_a_call", word(kCookies) == 11 * 1000 + 110);
  IS_TRUE("cookies_begin_at_0", word(kWrong) == 0);
  for (int i = 0; i < 1000; i++) {
    call_other(i);
    call_down(3);
  }
  IS_TRUE("again_and_again", word(kWrong) == 0 && word(kEntries) == 21 + 5000);
  close(link);
  clear_words();
  call_other(4);
  IS_TRUE("detached", word(kEntries) == 0 && word(kReturns) == 0);
}

static void two_sessions(int prog) {
  const int one = (int)IS_OK("one", attach(prog, kUprobeSession, 1, 1));
  const int two = (int)IS_OK("two", attach(prog, kUprobeSession, 1, 2));
  clear_words();
  call_down(2);
  IS_TRUE("both", word(kEntries) == 6 && word(kReturns) == 4 && word(kWrong) == 0);
  close(one);
  clear_words();
  call_down(2);
  IS_TRUE("the_other", word(kEntries) == 3 && word(kReturns) == 2);
  close(two);
}

static void many_sessions(int prog) {
  enum { kMany = 20 };
  int links[kMany];
  bool all = true;
  for (int i = 0; i < kMany; i++) {
    links[i] = (int)attach(prog, kUprobeSession, 1, 1);
    all = all && links[i] >= 0;
  }
  IS_TRUE("many", all);
  clear_words();
  call_down(2);
  IS_TRUE("many_run", word(kEntries) == 3 * kMany && word(kReturns) == 2 * kMany);
  IS_TRUE("many_cookies", word(kCookies) == kMany * 2002 && word(kWrong) == 0);
  for (int i = 0; i < kMany; i++) {
    close(links[i]);
  }
}

// With the flag for returns a session runs there alone, at each. It has no cookie then: the kernel gives address 0, so nothing here
// may use it.
static void at_returns_only(int session) {
  const struct bpf_insn insns[] = {
      LOAD_VALUE(9, counters, 0),
      CALL_KFUNC(kfunc("bpf_session_is_return")),
      INSN(BPF_ALU64 | BPF_AND | BPF_K, 0, 0, 0, 0xff),
      MOV_IMM(1, 1),
      JUMP_IF(BPF_JNE, 0, 0, 2),
      ATOMIC_ADD(9, 1, 8 * kEntries),
      JUMP_IF(BPF_JEQ, 0, 0, 1),
      ATOMIC_ADD(9, 1, 8 * kReturns),
      MOV_IMM(0, 1),
      EXIT(),
  };
  const int prog = (int)IS_OK("load_for_returns", PROG_LOAD_FOR(kUprobeSession, insns));
  struct MultiAttr attr = multi_attr(prog, kUprobeSession, offsets, NULL, 1);
  attr.multi_flags = 1;  // BPF_F_UPROBE_MULTI_RETURN
  const int link = (int)IS_OK("at_returns", link_multi(&attr));
  clear_words();
  call_down(3);
  IS_TRUE("returns_only", word(kEntries) == 0 && word(kReturns) == 4);
  const int both = (int)IS_OK("beside_a_session", attach(session, kUprobeSession, 1, 0));
  clear_words();
  call_down(2);
  IS_TRUE("each_its_own", word(kEntries) == 3 && word(kReturns) == 3 + 2 && word(kWrong) == 0);
  close(both);
  attr.multi_flags = 2;
  IS_ERROR("unknown_flag", EINVAL, link_multi(&attr));
  close(link);
  close(prog);
}

static void refusals(int prog) {
  IS_ERROR("session_as_multi", EINVAL, attach(prog, kUprobeMulti, 1, 0));
  const struct bpf_insn two[] = {MOV_IMM(0, 2), EXIT()};
  IS_ERROR("returns_2", EINVAL, PROG_LOAD_FOR(kUprobeSession, two));
  const int multi = (int)IS_OK("multi_returns_2", PROG_LOAD_FOR(kUprobeMulti, two));
  IS_ERROR("multi_as_session", EINVAL, attach(multi, kUprobeSession, 1, 0));
  close(multi);
  IS_ERROR("kfunc_of_sessions_only", EACCES, load(kUprobeMulti));
  const struct bpf_insn unknown[] = {CALL_KFUNC(kfunc("bpf_session_is_return") + 1), MOV_IMM(0, 0),
                                     EXIT()};
  IS_TRUE("no_function", PROG_LOAD_FOR(kUprobeSession, unknown) == -1);
}

int main(void) {
  const int prog = make_counters() ? (int)IS_OK("load", load(kUprobeSession)) : -1;
  if (prog < 0 || !place_of((const void*)(uintptr_t)call_down, path, sizeof(path), &offsets[0]) ||
      !place_of((const void*)(uintptr_t)call_other, path, sizeof(path), &offsets[1])) {
    return 1;
  }
  one_session(prog);
  two_sessions(prog);
  many_sessions(prog);
  at_returns_only(prog);
  refusals(prog);
  return done();
}
