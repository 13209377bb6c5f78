// Loads of packet bytes by number (LD_ABS, LD_IND), which socket filters have from the days before
// eBPF: where there is no such byte, the function ends and gives 0.
#include <cerrno>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {

bool Engine::check_packet_load(const bpf_insn& insn) {
  if (!may_use_packet(kLoadsPacketBytes)) {
    return refuse(EINVAL, "BPF_LD_[ABS|IND] instructions not allowed for this program type");
  }
  if (!check_readable(6) || !check_no_references("BPF_LD_[ABS|IND]")) {
    return false;
  }
  const Reg& context = reg(6);
  verdict_.reg = 6;
  if (context.kind != RegKind::kCtx) {
    return refuse(EINVAL, "at the time of BPF_LD_ABS|IND R6 is not the context");
  }
  if (context.off != 0 || !context.num.is_constant() || context.num.bits.value != 0) {
    return refuse(EACCES, "dereference of modified ctx ptr R6 off=%d disallowed", context.off);
  }
  if (insn_mode(insn.code) == BPF_IND) {
    if (!check_readable(insn.src_reg)) {
      return false;
    }
    verdict_.reg = insn.src_reg;
    if (reg(insn.src_reg).is_pointer() && leaks_forbidden()) {
      return refuse(EACCES, "R%d leaks addr as a place in the packet", insn.src_reg);
    }
  }
  verdict_.reg = -1;
  verdict_.facts.passes_context = true;
  clobber_caller_saved();
  reg(0) = Reg::unknown();
  ++cur().insn;
  if (cur().frames.size() == 1) {
    return true;
  }
  if (cur().top().kind == FrameKind::kCallback) {
    return refuse(EINVAL, "BPF_LD_[ABS|IND] may not end a callback");
  }
  if (!push_branch(cur().insn)) {
    return false;
  }
  reg(0) = Reg::scalar(Scalar::constant(0));
  now().ends_function = true;
  bool ended = false;
  return check_exit(&ended);
}

// What may end a function early gives its caller a number: the function must be one that does.
bool Engine::check_early_ends() {
  for (size_t f = 1; f < functions_.size(); ++f) {
    const FunctionFacts& function = functions_[f];
    for (uint32_t i = function.begin; i < function.end; ++i) {
      const bpf_insn& insn = code_.insns[i];
      const bool is_tail_call =
          insn.code == kOpCall && insn.src_reg == kCallHelper && insn.imm == BPF_FUNC_tail_call;
      if (is_tail_call || is_packet_load(insn.code)) {
        verdict_.insn = i;
        if (!gives_number(function)) {
          return refuse(EINVAL,
                        "%s is only allowed in functions whose BTF says that they give a number",
                        is_tail_call ? "tail_call" : "BPF_LD_[ABS|IND]");
        }
      }
      i += insn.code == kOpLddw ? 1 : 0;
    }
  }
  return true;
}

bool Engine::gives_number(const FunctionFacts& function) const {
  if (function.type == 0 || program_.btf == nullptr) {
    return false;
  }
  auto func = program_.btf->type(function.type);
  auto proto = func ? program_.btf->type(func->target) : Result<BtfType>(func.error());
  if (!proto || proto->kind != BtfKind::kFuncProto || proto->target == 0) {
    return false;
  }
  const auto result = program_.btf->resolve(proto->target);
  return result && result->is_number();
}

}  // namespace bpftime
