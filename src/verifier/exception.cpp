// Exceptions: bpf_throw ends the program at once, from whatever depth of calls. Its number is the program's result, or
// the argument of the exception callback: a global function that a declaration tag of the main function names.
// Source: comments on bpf_throw in Linux v6.12 tools/testing/selftests/bpf/bpf_experimental.h.
#include <algorithm>
#include <cerrno>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

constexpr std::string_view kCallbackTag = "exception_callback:";
constexpr int32_t kTailCall = 12;

}  // namespace

bool Engine::is_throw(const bpf_insn& insn) const {
  const KfuncSpec* spec = kfunc_of(insn);
  return spec != nullptr && spec->rule == KfuncRule::kThrow;
}

// Nothing calls it, so it is no function to decode(): what that promises of functions is checked here.
bool Engine::add_exception_callback(uint32_t begin) {
  const auto& insns = code_.insns;
  auto& starts = code_.function_starts;
  verdict_.insn = begin;
  if (begin == 0 || begin >= insns.size() || insns[begin].code == 0) {
    return refuse(EINVAL, "the exception callback begins at no instruction");
  }
  const bpf_insn& last = insns[begin - 1];
  if (last.code != kOpExit && !is_unconditional_jump(last.code)) {
    return refuse(EINVAL, "last insn is not an exit or jmp");
  }
  for (uint32_t i = 0; i < insns.size(); ++i) {
    if (is_jump(insns[i].code) && (i < begin) != (jump_target(insns[i], i) < int64_t{begin})) {
      verdict_.insn = i;
      return refuse(EINVAL, "insn %u: jump out of range", i);
    }
    i += insns[i].code == kOpLddw ? 1 : 0;
  }
  const auto at = std::lower_bound(starts.begin(), starts.end(), begin);
  if (at == starts.end() || *at != begin) {
    if (starts.size() >= kMaxFunctions) {
      return refuse(E2BIG, "too many subprograms");
    }
    starts.insert(at, begin);
  }
  exception_callback_ = function_at(begin);
  return true;
}

bool Engine::find_exception_callback() {
  if (program_.btf == nullptr || program_.functions.empty()) {
    return true;
  }
  const Btf& btf = *program_.btf;
  const uint32_t main_type = program_.functions[0].type;
  std::string_view name;
  for (uint32_t id = 1; id <= btf.type_count(); ++id) {
    auto type = btf.type(id);
    if (!type || type->kind != BtfKind::kDeclTag || type->target != main_type ||
        !type->name.starts_with(kCallbackTag) || btf.tag_component(*type) != -1) {
      continue;
    }
    if (!name.empty()) {
      return refuse(EINVAL, "multiple exception callback tags for main subprog");
    }
    name = type->name.substr(kCallbackTag.size());
    if (name.empty()) {
      return refuse(EINVAL, "an exception callback without a name");
    }
  }
  if (name.empty()) {
    return true;
  }
  auto function = btf.find(name, BtfKind::kFunc);
  if (!function || function->count != 1) {  // BTF_FUNC_GLOBAL
    return refuse(EINVAL, "the exception callback is no global function");
  }
  for (const BtfFuncInfo& info : program_.functions) {
    if (info.type == function->id) {
      return add_exception_callback(info.insn);
    }
  }
  return refuse(EINVAL, "exception callback type id not found in func_info");
}

// bpf_throw: the path ends here, with all that any frame of it holds.
bool Engine::check_throw(const bpf_insn& insn, bool* ended) {
  if (!check_kfunc_allowed(*kfunc_of(insn))) {
    return false;
  }
  if (!check_readable(1)) {
    return false;
  }
  verdict_.reg = 1;
  if (!reg(1).is_scalar()) {
    return refuse(EINVAL, "R1 is not a scalar");
  }
  verdict_.reg = -1;
  if (!check_no_references("bpf_throw")) {
    return false;
  }
  verdict_.facts.most_back_edges = UINT32_MAX;
  *ended = true;
  return exception_callback_ != 0 || check_program_result(1);
}

// What the kernel checks of functions as a whole, dead code included, once it is known which of them are called back.
bool Engine::check_exceptions() {
  std::vector<uint8_t> is_called_back(functions_.size());
  std::vector<uint32_t> todo;
  for (uint32_t f = 0; f < functions_.size(); ++f) {
    if (functions_[f].runs_as_callback || (f != 0 && f == exception_callback_)) {
      todo.push_back(f);
    }
  }
  while (!todo.empty()) {
    const uint32_t f = todo.back();
    todo.pop_back();
    if (is_called_back[f] == 0) {
      is_called_back[f] = 1;
      todo.insert(todo.end(), functions_[f].callees.begin(), functions_[f].callees.end());
    }
  }
  for (uint32_t i = 0; i < code_.insns.size(); ++i) {
    const bpf_insn& insn = code_.insns[i];
    const uint32_t function = facts_[i].function;
    verdict_.insn = i;
    if (is_called_back[function] != 0 && is_throw(insn)) {
      return refuse(EINVAL, "bpf_throw (insn %u) cannot be called from callback subprog %u", i,
                    function);
    }
    if (exception_callback_ != 0 && insn.code == kOpCall && insn.src_reg == kCallLocal &&
        function_at(static_cast<uint32_t>(int64_t{i} + 1 + insn.imm)) == exception_callback_) {
      return refuse(EINVAL, "insn %u: the exception callback cannot be called directly", i);
    }
    i += insn.code == kOpLddw ? 1 : 0;
  }
  return exception_callback_ == 0 || check_callback_of_exceptions();
}

// Its type, and that no tail call leaves it.
bool Engine::check_callback_of_exceptions() {
  const FunctionFacts& callback = functions_[exception_callback_];
  verdict_.insn = callback.begin;
  auto func = program_.btf->type(callback.type);
  auto proto = func ? program_.btf->type(func->target) : Result<BtfType>(func.error());
  const auto is_number = [&](uint32_t id) {
    auto type = program_.btf->resolve(id);
    return type && type->is_number();
  };
  const auto parameters = proto ? program_.btf->parameters(*proto) : std::vector<BtfParameter>();
  if (parameters.size() != 1 || !is_number(parameters[0].type)) {
    return refuse(EINVAL, "exception cb only supports single integer argument");
  }
  std::vector<uint8_t> seen(functions_.size());
  std::vector<uint32_t> todo = {exception_callback_};
  while (!todo.empty()) {
    const FunctionFacts& function = functions_[todo.back()];
    const bool is_new = seen[todo.back()] == 0;
    seen[todo.back()] = 1;
    todo.pop_back();
    if (!is_new) {
      continue;
    }
    for (uint32_t i = function.begin; i < function.end; ++i) {
      const bpf_insn& insn = code_.insns[i];
      if (insn.code == kOpCall && insn.src_reg == kCallHelper && insn.imm == kTailCall) {
        verdict_.insn = i;
        return refuse(EINVAL, "cannot tail call within exception cb");
      }
      i += insn.code == kOpLddw ? 1 : 0;
    }
    todo.insert(todo.end(), function.callees.begin(), function.callees.end());
  }
  return true;
}

}  // namespace bpftime
