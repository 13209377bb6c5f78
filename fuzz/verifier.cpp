// Any bytes as a program, its types and the types of its maps: a verdict, whatever they are, and in bounds of time and
// memory; what is accepted is compiled too. Input: program type, options, length of the BTF (2 bytes), instructions' count (1), BTF, instructions, then
// func_info and line_info; the last byte is the attach type too.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "btf/btf.hpp"
#include "isa/program.hpp"
#include "jit_x64/compile.hpp"
#include "verifier/verifier.hpp"

using bpftime::Btf;
using bpftime::VerifierMap;

namespace {

// With what the verifier learned. What no engine runs is refused.
void compile(std::span<const bpf_insn> insns, const bpftime::ProgramFacts& facts,
             std::span<const VerifierMap> maps) {
  auto program = bpftime::decode(insns);
  if (!program) {
    return;
  }
  std::vector<bpftime::KnownArray> arrays;
  for (const VerifierMap& map : maps) {
    if (map.map_type == BPF_MAP_TYPE_ARRAY) {
      arrays.push_back({map.id, map.max_entries, 16});
    }
  }
  bpftime::CompileOptions options;
  options.operands = facts.operands;
  options.dead = &facts.dead;
  options.arrays = arrays;
  (void)bpftime::compile_x64(*program, options);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 5) {
    return 0;
  }
  const auto all = std::as_bytes(std::span(data, size));
  const size_t btf_bytes = std::min<size_t>(data[2] | data[3] << 8, size - 5);
  auto rest = all.subspan(5);
  std::optional<Btf> btf;
  if (auto parsed = Btf::parse(rest.first(btf_bytes))) {
    btf.emplace(std::move(parsed).value());
  }
  rest = rest.subspan(btf_bytes);
  std::vector<bpf_insn> insns(std::min<size_t>(data[4] + 1U, rest.size() / sizeof(bpf_insn)));
  if (insns.empty()) {
    return 0;
  }
  std::memcpy(insns.data(), rest.data(), insns.size() * sizeof(bpf_insn));
  rest = rest.subspan(insns.size() * sizeof(bpf_insn));

  bpftime::VerifierProgram program;
  program.insns = insns;
  program.prog_type = data[0] % 34;
  program.expected_attach_type = data[size - 1] % 64;
  program.btf = btf ? &*btf : nullptr;
  std::vector<bpftime::BtfFuncInfo> functions;
  if (btf) {
    const auto count = static_cast<uint32_t>(insns.size());
    const auto whole = rest.first(rest.size() / 8 * 8);
    if (auto infos = bpftime::read_func_info(*btf, whole, 8, count)) {
      functions = std::move(infos).value();
      program.functions = functions;
    }
  }
  constexpr uint32_t kKinds[] = {BPF_MAP_TYPE_ARRAY,      BPF_MAP_TYPE_HASH,
                                 BPF_MAP_TYPE_RINGBUF,    BPF_MAP_TYPE_PERF_EVENT_ARRAY,
                                 BPF_MAP_TYPE_PROG_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS,
                                 BPF_MAP_TYPE_QUEUE,      33};
  static constexpr std::byte kContent[16] = {std::byte{65}};
  for (uint32_t i = 0; i < std::size(kKinds); ++i) {
    VerifierMap map;
    map.id = i;
    map.name = "m";
    map.map_type = kKinds[i];
    map.key_size = kKinds[i] == BPF_MAP_TYPE_RINGBUF ? 0 : 4;
    map.value_size = kKinds[i] == BPF_MAP_TYPE_ARRAY || kKinds[i] == BPF_MAP_TYPE_HASH ? 16 : 4;
    map.max_entries = 4;
    if (i == 0 && (data[1] & 4) != 0) {
      map.map_flags = BPF_F_RDONLY_PROG;
      map.constants = kContent;
    }
    if (i == 1 && btf) {
      map.btf = &*btf;
      map.btf_value_type_id = data[1] >> 3;
      if (const auto value = btf->size_of(map.btf_value_type_id)) {
        map.value_size = std::max(*value, 1U);
      }
    }
    if (kKinds[i] == BPF_MAP_TYPE_ARRAY_OF_MAPS) {
      map.inner = std::make_shared<const VerifierMap>(program.maps[0]);
    }
    program.maps.push_back(map);
  }
  bpftime::VerifyOptions options;
  options.log_level = (data[1] & 2) != 0 ? 2 : 0;
  options.log_bytes = 4096;
  options.insn_limit = 3000;
  options.no_pointer_leaks = (data[1] & 1) != 0;
  const bpftime::Verdict verdict = bpftime::verify(program, options);
  if (verdict.log.size() > options.log_bytes + 4096 ||
      verdict.insns_processed > options.insn_limit + 1) {
    __builtin_trap();
  }
  if (verdict.accepted()) {
    compile(insns, verdict.facts, program.maps);
  }
  return 0;
}
