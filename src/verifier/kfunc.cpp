// Functions of the kernel by their BTF, and open-coded iterators.
#include <cerrno>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {

bool Engine::is_iterator_next(const bpf_insn& insn) const {
  if (insn.code != kOpCall || insn.src_reg != kCallKfunc || program_.kernel_btf == nullptr) {
    return false;
  }
  auto func = program_.kernel_btf->type(static_cast<uint32_t>(insn.imm));
  return func && func->kind == BtfKind::kFunc && func->name == "bpf_iter_num_next";
}

bool Engine::check_kfunc(const bpf_insn& insn) {
  if (program_.kernel_btf == nullptr) {
    return refuse(EINVAL, "calling kernel function is not supported without kernel BTF");
  }
  auto func = program_.kernel_btf->type(static_cast<uint32_t>(insn.imm));
  if (!func || func->kind != BtfKind::kFunc) {
    return refuse(EINVAL, "kernel btf_id %d is not a function", insn.imm);
  }
  return refuse(EACCES, "calling kernel function %.*s is not allowed",
                static_cast<int>(func->name.size()), func->name.data());
}

}  // namespace bpftime
