// Any bytes as BTF and .BTF.ext: every reader over every type. The first four bytes say how many of
// the rest are BTF.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "btf/btf.hpp"
#include "btf/fields.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint32_t btf_bytes = 0;
  if (size < sizeof(btf_bytes)) {
    return 0;
  }
  std::memcpy(&btf_bytes, data, sizeof(btf_bytes));
  const auto all = std::as_bytes(std::span(data, size)).subspan(sizeof(btf_bytes));
  const auto head = all.first(std::min<size_t>(btf_bytes, all.size()));
  const auto rest = all.subspan(head.size());
  auto btf = bpftime::Btf::parse(head);
  if (!btf) {
    return 0;
  }
  for (uint32_t id = 0; id <= std::min(btf->type_count(), 2000U); ++id) {
    const auto type = btf->type(id);
    (void)btf->members(*type).size();
    (void)btf->parameters(*type).size();
    (void)btf->variables(*type).size();
    (void)btf->enumerators(*type).size();
    (void)btf->int_of(*type);
    (void)btf->tag_component(*type);
    (void)btf->var_linkage(*type);
    (void)btf->resolve(id);
    (void)btf->size_of(id);
    (void)btf->find_member(id, "a.b");
    (void)bpftime::find_fields(*btf, id);
  }
  (void)btf->find("bpf_timer", bpftime::BtfKind::kStruct);
  for (const uint32_t record_bytes : {0U, 8U, 12U, 16U, 20U}) {
    (void)bpftime::read_func_info(*btf, rest, record_bytes, 64);
    (void)bpftime::read_line_info(*btf, rest, record_bytes, 64);
  }
  (void)bpftime::read_btf_ext(*btf, rest);
  return 0;
}
