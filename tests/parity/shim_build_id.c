// Stacks by build id: get_stack into a map, get_stackid in a map of them.
#include <elf.h>

#include "shim_hits.h"

extern const Elf64_Ehdr __ehdr_start;

// Of this program; its length.
static unsigned own_build_id(unsigned char* to) {
  const char* base = (const char*)&__ehdr_start;
  const Elf64_Phdr* headers = (const void*)(base + __ehdr_start.e_phoff);
  for (int i = 0; i < __ehdr_start.e_phnum; i++) {
    if (headers[i].p_type != PT_NOTE) {
      continue;
    }
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= headers[i].p_memsz;) {
      const Elf64_Nhdr* note = (const void*)(base + headers[i].p_vaddr + at);
      const char* name = (const char*)(note + 1);
      const char* value = name + ((note->n_namesz + 3U) & ~3U);
      if (note->n_type == NT_GNU_BUILD_ID && note->n_descsz <= 20 && memcmp(name, "GNU", 4) == 0) {
        memcpy(to, value, note->n_descsz);
        return note->n_descsz;
      }
      at += sizeof(*note) + ((note->n_namesz + 3U) & ~3U) + ((note->n_descsz + 3U) & ~3U);
    }
  }
  return 0;
}

enum { kFrames = 8, kBytes = kFrames * sizeof(struct bpf_stack_build_id) };
struct Result {
  int64_t written, id;
  struct bpf_stack_build_id frames[kFrames];
};

static void hit_in_child(void) { call_probed(1); }

int main(void) {
  unsigned char id[20] = {0};
  struct Result got;
  uint32_t key = 0;
  const int results = map_create(BPF_MAP_TYPE_ARRAY, 4, sizeof(got), 1, 0, "results");
  const int stacks =
      map_create(BPF_MAP_TYPE_STACK_TRACE, 4, kBytes, 64, BPF_F_STACK_BUILD_ID, "stacks");
  if (own_build_id(id) == 0 || results < 0 || stacks < 0 || !find_probed()) {
    return 1;
  }
  const struct bpf_insn insns[] = {
      MOV_REG(6, 1),
      LOAD_VALUE(7, results, 0),
      MOV_REG(2, 7),
      ADD_IMM(2, 16),
      MOV_IMM(3, kBytes),
      MOV_IMM(4, BPF_F_USER_STACK | BPF_F_USER_BUILD_ID),
      CALL(67),  // bpf_get_stack
      STORE(7, 0, 0),
      MOV_REG(1, 6),
      LOAD_MAP(2, stacks),
      MOV_IMM(3, BPF_F_USER_STACK),
      CALL(27),  // bpf_get_stackid
      STORE(7, 0, 8),
      MOV_IMM(0, 0),
      EXIT(),
  };
  const int prog = (int)IS_OK("load", PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns));
  const int link = (int)IS_OK("link", link_probed(prog, 0));
  call_probed(1);
  IS_OK("lookup", map_lookup(results, &key, &got));
  IS_TRUE("written", got.written >= (int64_t)sizeof(got.frames[0]) && got.written % 32 == 0);
  IS_TRUE("status", got.frames[0].status == BPF_STACK_BUILD_ID_VALID);
  IS_TRUE("build_id", memcmp(got.frames[0].build_id, id, sizeof(id)) == 0);
  IS_TRUE("offset", got.frames[0].offset == offset);
  struct bpf_stack_build_id frames[kFrames];
  const uint32_t stack = (uint32_t)got.id;
  IS_TRUE("id", got.id >= 0);
  IS_OK("lookup_stack", map_lookup(stacks, &stack, frames));
  IS_TRUE("same_frame", memcmp(&frames[0], &got.frames[0], sizeof(frames[0])) == 0);
  close(link);

  // A forked child has what its parent had.
  const int here = link_probed(prog, 0);
  const int everywhere = (int)IS_OK("link_everywhere", link_probed_everywhere(prog, 0));
  const struct Child child = start_child(hit_in_child);
  memset(&got, 0, sizeof(got));
  map_update(results, &key, &got);
  let_hit(&child);
  end_child(&child);
  IS_OK("lookup_childs", map_lookup(results, &key, &got));
  IS_TRUE("build_id_in_a_child", got.frames[0].status == BPF_STACK_BUILD_ID_VALID &&
                                     memcmp(got.frames[0].build_id, id, sizeof(id)) == 0 &&
                                     got.frames[0].offset == offset);
  IS_TRUE("id_in_a_child", got.id >= 0);
  close(everywhere);
  close(here);
  return done();
}
