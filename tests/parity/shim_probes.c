// What libbpf 1.1 asks at start, in its order, and what its newer versions ask.
#include "shim_parity.h"

// BTF blobs as in linux/btf.h: header, types, strings.
struct btf_blob {
  uint16_t magic;
  uint8_t version, flags;
  uint32_t header_bytes, type_offset, type_bytes, string_offset, string_bytes;
  uint8_t data[256];
};
static size_t make_btf(struct btf_blob* blob, const uint32_t* types, size_t type_bytes,
                       const char* strings, size_t string_bytes) {
  memset(blob, 0, sizeof(*blob));
  blob->magic = 0xeb9f;
  blob->version = 1;
  blob->header_bytes = 24;
  blob->type_bytes = (uint32_t)type_bytes;
  blob->string_offset = (uint32_t)type_bytes;
  blob->string_bytes = (uint32_t)string_bytes;
  memcpy(blob->data, types, type_bytes);
  memcpy(blob->data + type_bytes, strings, string_bytes);
  return 24 + type_bytes + string_bytes;
}
static long load_btf(const void* bytes, size_t size) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.btf = (uintptr_t)bytes;
  attr.btf_size = (unsigned)size;
  return sys_bpf(BPF_BTF_LOAD, &attr, 28);
}
#define KIND(kind, flag, count) \
  ((uint32_t)(flag) << 31 | (uint32_t)(kind) << 24 | (uint32_t)(count))
#define INT(name, bytes) (name), KIND(1, 0, 0), (bytes), 0x01000000 | (bytes) * 8
#define BTF_CASE(title, strings, ...)                                                              \
  do {                                                                                             \
    const uint32_t types[] = {__VA_ARGS__};                                                        \
    struct btf_blob blob;                                                                          \
    close((int)IS_OK(                                                                              \
        title, load_btf(&blob, make_btf(&blob, types, sizeof(types), strings, sizeof(strings))))); \
  } while (0)

static void btf(void) {
  static const char kStrings[] = "\0int\0x\0a\0tag";  // int 1, x 5, a 7, tag 9
  BTF_CASE("btf_int", kStrings, INT(1, 4));
  BTF_CASE("btf_func", kStrings, INT(1, 4), 0, KIND(13, 0, 1), 1, 7, 1, 5, KIND(12, 0, 0), 2);
  BTF_CASE("btf_func_global", kStrings, INT(1, 4), 0, KIND(13, 0, 1), 1, 7, 1, 5, KIND(12, 0, 1),
           2);
  BTF_CASE("btf_datasec", kStrings, INT(1, 4), 5, KIND(14, 0, 0), 1, 0, 7, KIND(15, 0, 1), 4, 2, 0,
           4);
  BTF_CASE("btf_float", kStrings, 1, KIND(16, 0, 0), 4);
  BTF_CASE("btf_decl_tag", kStrings, INT(1, 4), 5, KIND(14, 0, 0), 1, 1, 9, KIND(17, 0, 0), 2,
           0xffffffff);
  BTF_CASE("btf_type_tag", kStrings, INT(1, 4), 9, KIND(18, 0, 0), 1, 0, KIND(2, 0, 0), 2);
  BTF_CASE("btf_enum64", kStrings, 7, KIND(19, 0, 1), 8, 5, 0, 0);

  struct btf_blob blob;
  const uint32_t types[] = {INT(1, 4)};
  const size_t size = make_btf(&blob, types, sizeof(types), kStrings, sizeof(kStrings));
  IS_ERROR("btf_cut", EINVAL, load_btf(&blob, size - 1));
  IS_ERROR("btf_null", EFAULT, load_btf(NULL, size));
  IS_ERROR("btf_empty", EINVAL, load_btf(&blob, 0));
  IS_ERROR("btf_too_large", E2BIG, load_btf(&blob, (16 << 20) + 1));
  blob.magic = 0x1234;
  IS_ERROR("btf_bad_magic", EINVAL, load_btf(&blob, size));
}

int main(void) {
  const struct bpf_insn coarse[] = {CALL(160), EXIT()};
  IS_OK("ktime_get_coarse_ns", PROG_LOAD(BPF_PROG_TYPE_SOCKET_FILTER, coarse));
  IS_OK("trivial_program", trivial_program(BPF_PROG_TYPE_SOCKET_FILTER));
  btf();

  IS_OK("mmapable_array", map_create(BPF_MAP_TYPE_ARRAY, 4, 4, 1, BPF_F_MMAPABLE, "libbpf_mmap"));

  const int global =
      (int)IS_OK("libbpf_global", map_create(BPF_MAP_TYPE_ARRAY, 4, 32, 1, 0, "libbpf_global"));
  const struct bpf_insn value[] = {LOAD_VALUE(1, global, 16), STORE_IMM(1, 0, 42), MOV_IMM(0, 0),
                                   EXIT()};
  IS_OK("global_data", PROG_LOAD(BPF_PROG_TYPE_SOCKET_FILTER, value));
  char log[4096] = "";
  const struct bpf_insn beyond[] = {LOAD_VALUE(1, global, 1 << 30), STORE_IMM(1, 0, 42),
                                    MOV_IMM(0, 0), EXIT()};
  IS_ERROR("value_offset_out_of_range", EINVAL,
           prog_load_log(BPF_PROG_TYPE_SOCKET_FILTER, beyond, 5, 128, log, sizeof(log)));
  IS_TRUE("value_offset_log", strstr(log, "invalid access to map value pointer") != NULL ||
                                  strstr(log, "direct value offset of") != NULL);

  const struct bpf_insn probe_read[] = {MOV_REG(1, 10), ADD_IMM(1, -8), MOV_IMM(2, 8),
                                        MOV_IMM(3, 0),  CALL(113),      EXIT()};
  IS_OK("probe_read_kernel", PROG_LOAD(BPF_PROG_TYPE_TRACEPOINT, probe_read));

  const int bound = map_create(BPF_MAP_TYPE_ARRAY, 4, 32, 1, 0, "libbpf_det_bind");
  const int prog = trivial_program(BPF_PROG_TYPE_SOCKET_FILTER);
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.prog_bind_map.prog_fd = (unsigned)prog;
  attr.prog_bind_map.map_fd = (unsigned)bound;
  IS_OK("prog_bind_map", sys_bpf(BPF_PROG_BIND_MAP, &attr, 12));
  IS_OK("prog_bind_map_again", sys_bpf(BPF_PROG_BIND_MAP, &attr, 12));
  attr.prog_bind_map.flags = 1;
  IS_ERROR("prog_bind_map_flags", EINVAL, sys_bpf(BPF_PROG_BIND_MAP, &attr, 12));
  attr.prog_bind_map.flags = 0;
  attr.prog_bind_map.map_fd = (unsigned)prog;
  IS_ERROR("prog_bind_map_not_a_map", EINVAL, sys_bpf(BPF_PROG_BIND_MAP, &attr, 12));

  const int tracing = trivial_program(BPF_PROG_TYPE_TRACEPOINT);
  IS_ERROR("perf_link_probe", EBADF, link_create(tracing, -1, 0));
  IS_ERROR("perf_link_to_no_event", EBADF, link_create(tracing, 0, 0));
  IS_ERROR("link_of_no_program", EINVAL, link_create(bound, -1, 0));
  IS_ERROR("link_of_nothing", EBADF, link_create(-1, -1, 0));

  // kprobe.multi and uprobe.multi: tools stay on perf events when these fail.
  memset(&attr, 0, sizeof(attr));
  attr.link_create.prog_fd = (unsigned)tracing;
  attr.link_create.attach_type = 42;  // BPF_TRACE_KPROBE_MULTI
  IS_TRUE("no_kprobe_multi", sys_bpf(BPF_LINK_CREATE, &attr, 48) == -1 && errno != EBADF);

  const struct bpf_insn cookie[] = {CALL(174), EXIT()};
  IS_OK("attach_cookie", PROG_LOAD(BPF_PROG_TYPE_TRACEPOINT, cookie));
  const struct bpf_insn unknown[] = {CALL(0x7fff), EXIT()};
  log[0] = '\0';
  IS_ERROR("unknown_helper", EINVAL,
           prog_load_log(BPF_PROG_TYPE_KPROBE, unknown, 2, 128, log, sizeof(log)));
  IS_TRUE("unknown_helper_log",
          strstr(log, "invalid func ") != NULL || strstr(log, "unknown func ") != NULL);
  const struct bpf_insn dead[] = {MOV_IMM(0, 0), EXIT(), CALL(2001000000), EXIT()};
  const int dead_code = PROG_LOAD(BPF_PROG_TYPE_KPROBE, dead);
  IS_TRUE("unreachable_code_is_judged", dead_code >= 0 || errno == EINVAL);
  return done();
}
