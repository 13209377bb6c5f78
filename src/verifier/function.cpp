// Calls of the program's own functions.
#include <cerrno>

#include "verifier/engine.hpp"

namespace bpftime {
// A tail call in a function: either it fails and the function goes on, or its caller gets what
// another program returned, and packets may have changed.
bool Engine::leave_by_tail_call() {
  if (!push_branch(cur().insn)) {
    return false;
  }
  drop_packet_pointers();
  reg(0) = Reg::unknown();
  now().ends_function = true;
  bool ended = false;
  return check_exit(&ended);
}

bool Engine::check_global_call(uint32_t index) {
  const FunctionFacts& callee = functions_[index];
  auto func = program_.btf->type(callee.type);
  auto proto = func ? program_.btf->type(func->target) : Result<BtfType>(func.error());
  if (!proto || proto->kind != BtfKind::kFuncProto) {
    return refuse(EINVAL, "function %s has no prototype", callee.name.c_str());
  }
  for (const Ref& ref : cur().refs) {
    if (ref.kind == RefKind::kLock) {
      return refuse(EINVAL, "global function calls are not allowed while holding a lock");
    }
  }
  if (callee.may_throw && !check_no_references("a function that may throw")) {
    return false;
  }
  // What the function itself will assume: the same reading of its types gives it.
  Frame wanted;
  {
    auto saved = std::move(current_);
    current_ = std::make_unique<State>();
    current_->frames.resize(1);
    const bool ok = set_arguments(index, false);
    wanted = cur().top();
    current_ = std::move(saved);
    if (!ok) {
      return false;
    }
  }
  for (int r = 1; r <= 5; ++r) {
    const Reg& want = wanted.regs[static_cast<size_t>(r)];
    if (want.kind != RegKind::kNone && (!check_readable(r) || !check_passed(r, want))) {
      return false;
    }
  }
  verdict_.reg = -1;
  if (callee.changes_packet) {
    drop_packet_pointers();
  }
  clobber_caller_saved();
  if (proto->target != 0) {
    reg(0) = Reg::unknown();
  }
  verdict_.facts.most_back_edges = UINT32_MAX;
  ++cur().insn;
  return true;
}

bool Engine::check_local_call(const bpf_insn& insn) {
  const uint32_t at = cur().insn;
  const auto target = static_cast<uint32_t>(int64_t{at} + 1 + insn.imm);
  const uint32_t index = function_at(target);
  if (functions_[index].is_global) {
    facts_[target].is_prune_point = true;
    return check_global_call(index);
  }
  if (cur().frames.size() >= kMaxCallFrames) {
    return refuse(E2BIG, "the call stack of %zu frames is too deep", cur().frames.size() + 1);
  }
  Frame callee;
  callee.function = index;
  callee.call_insn = at;
  for (size_t r = 1; r <= 5; ++r) {
    callee.regs[r] = cur().top().regs[r];
    callee.regs[r].precise = false;
  }
  callee.regs[10] = Reg::pointer(RegKind::kStack);
  callee.regs[10].frame = static_cast<uint8_t>(cur().frames.size());
  clobber_caller_saved();
  cur().frames.push_back(std::move(callee));
  cur().insn = target;
  return true;
}

}  // namespace bpftime
