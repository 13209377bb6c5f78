// A BPF object file (x.bpf.o) as a plain value: what a loader would hand to bpf(2) for it, with all
// relocations done, CO-RE included. Home: edge (tools); needs no privilege and loads nothing into
// the kernel. libbpf does the reading: this is the one room that knows it.
#pragma once
#include <linux/bpf.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace bpftime {

struct ObjectMap {
  std::string name;
  uint32_t map_type = 0, map_flags = 0, key_size = 0, value_size = 0, max_entries = 0;
  uint64_t map_extra = 0;
  uint32_t btf_key_type_id = 0, btf_value_type_id = 0;
  int32_t inner = -1;  // of a map of maps: what its values look like, an index into maps
  std::vector<std::byte> content;  // global data: the one value; else empty
  bool is_frozen = false;
};

struct ObjectProgram {
  std::string name, section;
  // Why libbpf could not make the program (no such kernel type, ...); then nothing below is set.
  std::string problem;
  // In map loads (BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE) imm is an index into maps.
  std::vector<bpf_insn> insns;
  uint32_t prog_type = 0, expected_attach_type = 0, attach_btf_id = 0, prog_flags = 0;
  uint32_t kern_version = 0;
  std::vector<bpf_func_info> functions;
  std::vector<bpf_line_info> lines;
};

struct BpfObject {
  std::string license;
  std::vector<ObjectMap> maps;
  std::vector<ObjectProgram> programs;
  std::vector<std::byte> btf;  // empty: none
};

// Programs that are marked not to be loaded by themselves ("?section") are there too. One call at a
// time in a process. *log, when given, gets what libbpf had to say.
// Errors: as libbpf's (EINVAL, ENOENT, ENOMEM, its own LIBBPF_ERRNO__* become EINVAL).
Result<BpfObject> read_object(std::span<const std::byte> elf, std::string* log = nullptr);

}  // namespace bpftime
