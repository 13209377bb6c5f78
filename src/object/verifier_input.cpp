#include "object/verifier_input.hpp"

#include <cerrno>
#include <fstream>
#include <iterator>

namespace bpftime {
Result<Btf> read_kernel_btf() {
  std::ifstream file("/sys/kernel/btf/vmlinux", std::ios::binary);
  if (!file) {
    return make_error(ENOENT, "the kernel shows no types");
  }
  const std::string data((std::istreambuf_iterator<char>(file)), {});
  return Btf::parse(std::as_bytes(std::span(data)));
}

Result<VerifierInput> VerifierInput::make(const BpfObject& object, const Btf* kernel_btf) {
  VerifierInput input;
  input.kernel_btf_ = kernel_btf;
  if (!object.btf.empty()) {
    input.btf_ = std::make_unique<const Btf>(TRY(Btf::parse(object.btf)));
  }
  for (size_t i = 0; i < object.maps.size(); ++i) {
    input.maps_.push_back(input.map_of(object, i, true));
  }
  return input;
}

VerifierMap VerifierInput::map_of(const BpfObject& object, size_t index, bool may_nest) const {
  const ObjectMap& from = object.maps[index];
  VerifierMap map;
  map.id = static_cast<uint32_t>(index);
  map.name = from.name;
  map.map_type = from.map_type;
  map.map_flags = from.map_flags;
  map.key_size = from.key_size;
  map.value_size = from.value_size;
  map.max_entries = from.max_entries;
  map.map_extra = from.map_extra;
  if (from.is_frozen && (from.map_flags & BPF_F_RDONLY_PROG) != 0) {
    map.constants = from.content;
  }
  if (btf_ != nullptr && from.btf_value_type_id != 0) {
    map.btf = btf_.get();
    map.btf_key_type_id = from.btf_key_type_id;
    map.btf_value_type_id = from.btf_value_type_id;
  }
  if (from.inner >= 0 && may_nest) {
    map.inner =
        std::make_shared<const VerifierMap>(map_of(object, static_cast<size_t>(from.inner), false));
  }
  return map;
}

Result<VerifierProgram> VerifierInput::program(const ObjectProgram& of) {
  VerifierProgram program;
  program.insns = of.insns;
  program.prog_type = of.prog_type;
  program.expected_attach_type = of.expected_attach_type;
  program.attach_btf_id = of.attach_btf_id;
  program.prog_flags = of.prog_flags;
  program.maps = maps_;
  program.btf = btf_.get();
  program.kernel_btf = kernel_btf_;
  if (btf_ != nullptr && !of.functions.empty()) {
    const auto insns = static_cast<uint32_t>(of.insns.size());
    const auto functions = std::as_bytes(std::span(of.functions));
    const auto lines = std::as_bytes(std::span(of.lines));
    auto infos = TRY(read_func_info(*btf_, functions, sizeof(bpf_func_info), insns));
    program.functions = functions_.emplace_back(std::move(infos));
    auto places = TRY(read_line_info(*btf_, lines, sizeof(bpf_line_info), insns));
    program.lines = lines_.emplace_back(std::move(places));
  }
  return program;
}

}  // namespace bpftime
