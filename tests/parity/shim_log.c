// The verifier's log in a buffer that is large enough, too small, or not there.
#include "shim_parity.h"

enum { kTrueSizeAt = 140, kAttrBytes = 144 }; /* log_true_size: since Linux 6.4 */

static char attr[kAttrBytes];
static char text[1 << 16];

static uint32_t true_size(void) {
  uint32_t size;
  memcpy(&size, attr + kTrueSizeAt, sizeof(size));
  return size;
}

/* `good`: return 0; else without a value. */
static long load(bool good, uint32_t level, char* buffer, uint32_t size, size_t attr_bytes) {
  static const struct bpf_insn kGood[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0},
                                          {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  union bpf_attr load;
  memset(&load, 0, sizeof(load));
  load.prog_type = BPF_PROG_TYPE_KPROBE;
  load.insns = (uintptr_t)(good ? kGood : kGood + 1);
  load.insn_cnt = good ? 2 : 1;
  load.license = (uintptr_t)"GPL";
  load.log_level = level;
  load.log_buf = (uintptr_t)buffer;
  load.log_size = size;
  memset(attr, 0, sizeof(attr));
  memcpy(attr, &load, sizeof(load) < kTrueSizeAt ? sizeof(load) : kTrueSizeAt);
  memset(text, 'x', sizeof(text));
  const long fd = sys_bpf(BPF_PROG_LOAD, attr, attr_bytes);
  if (fd >= 0) {
    close((int)fd);
    return 0;
  }
  return fd;
}

int main(void) {
  IS_OK("room_enough", load(true, 2, text, sizeof(text), kAttrBytes));
  const uint32_t whole = true_size();
  IS_TRUE("true_size", whole == strlen(text) + 1 && strstr(text, "processed 2 insns") != NULL);
  static char first[1 << 16];
  strcpy(first, text);

  IS_OK("room_exact", load(true, 2, text, whole, kAttrBytes));
  IS_TRUE("room_exact_text", strcmp(text, first) == 0 && text[whole] == 'x');
  IS_ERROR("one_too_small", ENOSPC, load(true, 2, text, whole - 1, kAttrBytes));
  IS_TRUE("one_too_small_true_size", true_size() == whole);
  IS_TRUE("its_last_bytes", strcmp(text, first + 1) == 0);
  IS_ERROR("much_too_small", ENOSPC, load(true, 2, text, 8, kAttrBytes));
  IS_TRUE("much_too_small_text",
          strcmp(text, first + whole - 8) == 0 && text[8] == 'x' && true_size() == whole);
  IS_ERROR("too_small_fixed", ENOSPC, load(true, 2 | 8, text, 8, kAttrBytes));
  IS_TRUE("its_first_bytes", strncmp(text, first, 7) == 0 && text[7] == 0 && true_size() == whole);

  IS_ERROR("rejected", EACCES, load(false, 1, text, sizeof(text), kAttrBytes));
  IS_TRUE("rejected_text", strstr(text, "R0 !read_ok") != NULL && true_size() == strlen(text) + 1);
  IS_ERROR("rejected_too_small", ENOSPC, load(false, 1, text, 16, kAttrBytes));
  IS_TRUE("rejected_true_size", true_size() > 16);

  IS_OK("no_buffer", load(true, 2, NULL, 0, kAttrBytes));
  IS_TRUE("no_buffer_true_size", true_size() == whole);
  IS_OK("no_level", load(true, 0, NULL, 0, kAttrBytes));
  IS_TRUE("no_level_no_size", true_size() == 0);
  IS_OK("attr_without_it", load(true, 2, text, sizeof(text), kTrueSizeAt));
  IS_TRUE("attr_without_it_untouched", true_size() == 0);
  IS_ERROR("buffer_without_size", EINVAL, load(true, 1, text, 0, kAttrBytes));
  IS_ERROR("size_without_buffer", EINVAL, load(true, 1, NULL, 16, kAttrBytes));
  return done();
}
