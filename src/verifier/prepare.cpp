// Before the first path: what the maps are, where functions begin, that every instruction can be
// reached, and which registers live where.
#include <algorithm>
#include <cerrno>
#include <functional>

#include "isa/opcode.hpp"
#include "spec/spec.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

constexpr uint16_t kCallArguments = 0x3e;  // r1..r5
constexpr uint16_t kCallClobbers = 0x3f;   // r0..r5

constexpr uint32_t kMapsOfSleepers[] = {BPF_MAP_TYPE_HASH,
                                        BPF_MAP_TYPE_ARRAY,
                                        BPF_MAP_TYPE_PERCPU_HASH,
                                        BPF_MAP_TYPE_PERCPU_ARRAY,
                                        BPF_MAP_TYPE_LRU_HASH,
                                        BPF_MAP_TYPE_LRU_PERCPU_HASH,
                                        BPF_MAP_TYPE_ARRAY_OF_MAPS,
                                        BPF_MAP_TYPE_HASH_OF_MAPS,
                                        BPF_MAP_TYPE_QUEUE,
                                        BPF_MAP_TYPE_STACK,
                                        BPF_MAP_TYPE_SK_STORAGE,
                                        BPF_MAP_TYPE_RINGBUF,
                                        BPF_MAP_TYPE_INODE_STORAGE,
                                        BPF_MAP_TYPE_TASK_STORAGE,
                                        BPF_MAP_TYPE_USER_RINGBUF,
                                        kMapCgrpStorage,
                                        kMapArena};

struct UseDef {
  uint16_t use = 0, def = 0;
};

uint16_t bit_of(int reg) { return static_cast<uint16_t>(1U << reg); }

UseDef use_def(const bpf_insn& insn) {
  const uint16_t dst = bit_of(insn.dst_reg);
  const uint16_t src = bit_of(insn.src_reg);
  UseDef r;
  switch (insn_class(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64: {
      const uint8_t op = insn_op(insn.code);
      const bool reads_src = insn_has_reg(insn.code) && op != BPF_END && op != BPF_NEG;
      r.def = dst;
      r.use = static_cast<uint16_t>((op == BPF_MOV ? 0 : dst) | (reads_src ? src : 0));
      break;
    }
    case BPF_LD:
      if (insn.code == kOpLddw) {
        r.def = dst;
      } else {
        r.use = static_cast<uint16_t>(bit_of(6) | (insn_mode(insn.code) == BPF_IND ? src : 0));
        r.def = kCallClobbers;
      }
      break;
    case BPF_LDX:
      r = {src, dst};
      break;
    case BPF_ST:
      r.use = dst;
      break;
    case BPF_STX:
      if (is_atomic(insn.code) && insn.imm == kLoadAcquire) {
        r = {src, dst};
        break;
      }
      r.use = static_cast<uint16_t>(dst | src);
      if (is_atomic(insn.code)) {
        if (insn.imm == BPF_CMPXCHG) {
          r.use |= bit_of(0);
          r.def = bit_of(0);
        } else if ((insn.imm & BPF_FETCH) != 0 && insn.imm != kStoreRelease) {
          r.def = src;
        }
      }
      break;
    default:
      if (insn.code == kOpExit) {
        r.use = bit_of(0);
      } else if (insn.code == kOpCall) {
        r = {kCallArguments, kCallClobbers};
      } else if (!is_unconditional_jump(insn.code) && insn.code != kOpMayGoto) {
        r.use = static_cast<uint16_t>(dst | (insn_has_reg(insn.code) ? src : 0));
      }
      break;
  }
  return r;
}

}  // namespace

uint32_t Engine::function_at(uint32_t begin) const {
  const auto& starts = code_.function_starts;
  return static_cast<uint32_t>(std::lower_bound(starts.begin(), starts.end(), begin) -
                               starts.begin());
}

void Engine::successors(uint32_t insn, std::vector<uint32_t>* to) const {
  to->clear();
  const bpf_insn& i = code_.insns[insn];
  if (i.code == kOpExit) {
    return;
  }
  if (is_jump(i.code)) {
    to->push_back(static_cast<uint32_t>(jump_target(i, insn)));
    if (is_unconditional_jump(i.code)) {
      return;
    }
  }
  to->push_back(insn + (i.code == kOpLddw ? 2 : 1));
}

uint32_t Engine::map_index(const VerifierMap* map) {
  for (size_t i = 0; i < maps_.size(); ++i) {
    if (maps_[i] == map) {
      return static_cast<uint32_t>(i);
    }
  }
  maps_.push_back(map);
  map_fields_.emplace_back();
  return static_cast<uint32_t>(maps_.size() - 1);
}

bool Engine::check_program_type() {
  context_ = find_context(program_.prog_type, program_.expected_attach_type);
  if (context_ == nullptr && !is_program_type(BPF_PROG_TYPE_TRACING) &&
      !is_program_type(BPF_PROG_TYPE_SYSCALL)) {
    return refuse(EINVAL, "programs of this type are not supported");
  }
  const bool is_sleepable = (program_.prog_flags & BPF_F_SLEEPABLE) != 0;
  if (is_sleepable && !may_be_sleepable(program_.prog_type, program_.expected_attach_type)) {
    return refuse(EINVAL, "programs of this type cannot be sleepable");
  }
  if (!is_sleepable && must_be_sleepable(program_.prog_type)) {
    return refuse(EINVAL, "programs of this type must be sleepable");
  }
  return true;
}

// Maps that programs of some types may not have, for their kind or their values.
bool Engine::check_map_fits(uint32_t index) {
  const bool is_tracing = !is_program_type(BPF_PROG_TYPE_TRACING) &&
                          (kTracingPrograms & program_type_bit(program_.prog_type)) != 0;
  if ((program_.prog_flags & BPF_F_SLEEPABLE) != 0 &&
      std::find(std::begin(kMapsOfSleepers), std::end(kMapsOfSleepers), map(index).map_type) ==
          std::end(kMapsOfSleepers)) {
    return refuse(EINVAL,
                  "sleepable programs can only use arrays, hashes, ring buffers and storages");
  }
  for (const BtfField& field : fields_of(index)) {
    const char* what =
        field.kind == BtfFieldKind::kSpinLock || field.kind == BtfFieldKind::kResSpinLock
            ? "bpf_spin_lock"
        : field.kind == BtfFieldKind::kTimer     ? "bpf_timer"
        : field.kind == BtfFieldKind::kWorkqueue ? "bpf_wq"
        : field.kind == BtfFieldKind::kListHead || field.kind == BtfFieldKind::kTreeRoot
            ? "bpf_{list_head,rb_root}"
            : nullptr;
    if (what != nullptr && is_tracing) {
      return refuse(EINVAL, "tracing progs cannot use %s yet", what);
    }
    if (field.kind == BtfFieldKind::kSpinLock &&
        program_.prog_type == BPF_PROG_TYPE_SOCKET_FILTER) {
      return refuse(EINVAL, "socket filter progs cannot use bpf_spin_lock yet");
    }
  }
  return true;
}

bool Engine::find_maps() {
  for (const VerifierMap& map : program_.maps) {
    map_index(&map);
  }
  for (uint32_t i = 0; i < code_.insns.size(); ++i) {
    const bpf_insn& insn = code_.insns[i];
    if (insn.code != kOpLddw) {
      continue;
    }
    if (insn.src_reg == kLoadMapFd || insn.src_reg == kLoadMapValue ||
        insn.src_reg == kLoadMapIndex || insn.src_reg == kLoadMapIndexValue) {
      for (size_t m = 0; m < program_.maps.size(); ++m) {
        if (program_.maps[m].id == static_cast<uint32_t>(insn.imm)) {
          facts_[i].map = static_cast<int32_t>(m);
        }
      }
      verdict_.insn = i;
      if (facts_[i].map < 0) {
        return refuse(EBADF, "map %d is not one of the program's", insn.imm);
      }
      const VerifierMap& map = *maps_[static_cast<size_t>(facts_[i].map)];
      if (!check_map_fits(static_cast<uint32_t>(facts_[i].map))) {
        return false;
      }
      if (insn.src_reg == kLoadMapValue || insn.src_reg == kLoadMapIndexValue) {
        const auto offset = static_cast<uint32_t>(code_.insns[i + 1].imm);
        const bool is_arena = map.map_type == 33;
        if (!is_arena && map.map_type != BPF_MAP_TYPE_ARRAY) {
          return refuse(EINVAL, "no direct value access support for this map type");
        }
        if (offset >= kMostOffset) {
          return refuse(EINVAL, "direct value offset of %u is not allowed", offset);
        }
        if (!is_arena && map.max_entries != 1) {
          return refuse(kKernelEnotsupp,
                        "invalid access to map value pointer, max_entries is not 1");
        }
        if (!is_arena && offset >= map.value_size) {
          return refuse(EINVAL, "invalid access to map value pointer, value_size=%u off=%u",
                        map.value_size, offset);
        }
      }
    }
    ++i;
  }
  return true;
}

// Whether any path gets there or not. (A loader writes 0 where it found none; that may stand in dead code.)
bool Engine::check_kfuncs_exist() {
  for (uint32_t i = 0; i < code_.insns.size(); ++i) {
    const bpf_insn& insn = code_.insns[i];
    if (insn.code == kOpCall && insn.src_reg == kCallKfunc) {
      verdict_.insn = i;
      if (program_.kernel_btf == nullptr) {
        return refuse(EINVAL, "calling kernel function is not supported without kernel BTF");
      }
      if (insn.off != 0) {
        return refuse(EINVAL, "kernel functions of modules are not supported: offset %d", insn.off);
      }
      const auto number = static_cast<uint32_t>(insn.imm);
      auto func = program_.kernel_btf->type(number);
      if (number != 0 && (!func || func->kind != BtfKind::kFunc)) {
        return refuse(EINVAL, "kernel btf_id %d is not a function", insn.imm);
      }
    }
    i += insn.code == kOpLddw ? 1 : 0;
  }
  return true;
}

bool Engine::find_functions() {
  const auto& starts = code_.function_starts;
  if (!program_.functions.empty() && program_.functions.size() != starts.size()) {
    return refuse(EINVAL, "%zu functions are described, the program has %zu",
                  program_.functions.size(), starts.size());
  }
  functions_.resize(starts.size());
  for (size_t f = 0; f < starts.size(); ++f) {
    FunctionFacts& function = functions_[f];
    function.begin = starts[f];
    function.end =
        f + 1 < starts.size() ? starts[f + 1] : static_cast<uint32_t>(code_.insns.size());
    for (uint32_t i = function.begin; i < function.end; ++i) {
      facts_[i].function = static_cast<uint32_t>(f);
    }
    for (const BtfFuncInfo& info : program_.functions) {
      if (info.insn != function.begin || program_.btf == nullptr) {
        continue;
      }
      auto type = program_.btf->type(info.type);
      if (type && type->kind == BtfKind::kFunc) {
        function.type = type->id;
        function.name = std::string(type->name);
        function.is_global = f != 0 && type->count == 1;  // BTF_FUNC_GLOBAL
      }
    }
  }
  for (uint32_t i = 0; i < code_.insns.size(); ++i) {
    const bpf_insn& insn = code_.insns[i];
    FunctionFacts& function = functions_[facts_[i].function];
    const bool is_reference = insn.code == kOpLddw && insn.src_reg == kLoadFunction;
    if (is_reference || (insn.code == kOpCall && insn.src_reg == kCallLocal)) {
      const uint32_t callee = function_at(static_cast<uint32_t>(int64_t{i} + 1 + insn.imm));
      if (is_reference) {
        functions_[callee].is_referenced = true;
        function.callbacks.push_back(callee);
      } else {
        functions_[callee].is_called = true;
        function.callees.push_back(callee);
      }
    } else if (insn.code == kOpCall && insn.src_reg == kCallHelper) {
      if (const Prototype* proto = find_prototype(static_cast<uint32_t>(insn.imm))) {
        // Another program may change it too.
        function.changes_packet |= (proto->effects & kChangesPacket) != 0 || proto->id == 12;
        facts_[i].calls_callback = (proto->effects & kCallsBack) != 0;
      }
    } else if (is_iterator_next(insn)) {
      facts_[i].is_iterator_next = true;
    } else if (const KfuncSpec* spec = kfunc_of(insn); spec != nullptr) {
      function.may_throw |= spec->rule == KfuncRule::kThrow;
      facts_[i].calls_callback = spec->rule == KfuncRule::kTreeAdd;
    }
    i += insn.code == kOpLddw ? 1 : 0;
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (FunctionFacts& function : functions_) {
      for (const uint32_t callee : function.callees) {
        if (functions_[callee].changes_packet && !function.changes_packet) {
          function.changes_packet = true;
          changed = true;
        }
        if (functions_[callee].may_throw && !function.may_throw) {
          function.may_throw = true;
          changed = true;
        }
      }
    }
  }
  return true;
}

// Every instruction can be reached; prune points are where paths meet.
bool Engine::check_flow() {
  const size_t count = code_.insns.size();
  std::vector<bool> reached(count);
  std::vector<uint32_t> todo;
  std::vector<uint32_t> next;
  std::vector<uint32_t> starts = code_.function_starts;
  predecessors_.resize(count);
  // A function that nobody calls is unreachable, as in the kernel.
  todo.push_back(0);
  if (exception_callback_ != 0) {
    todo.push_back(functions_[exception_callback_].begin);
  }
  while (!todo.empty()) {
    const uint32_t at = todo.back();
    todo.pop_back();
    if (reached[at]) {
      continue;
    }
    reached[at] = true;
    const bpf_insn& insn = code_.insns[at];
    if (insn.code == kOpLddw) {
      reached[at + 1] = true;
    }
    if ((insn.code == kOpCall && insn.src_reg == kCallLocal) ||
        (insn.code == kOpLddw && insn.src_reg == kLoadFunction)) {
      const auto callee = static_cast<uint32_t>(int64_t{at} + 1 + insn.imm);
      facts_[callee].is_prune_point = true;
      todo.push_back(callee);
      if (insn.code == kOpCall) {
        facts_[at].is_prune_point = true;
        if (at + 1 < count) {
          facts_[at + 1].is_prune_point = true;
        }
      }
    }
    successors(at, &next);
    for (const uint32_t to : next) {
      predecessors_[to].push_back(at);
      todo.push_back(to);
    }
    if (is_jump(insn.code)) {
      facts_[static_cast<size_t>(jump_target(insn, at))].is_prune_point = true;
      if (!is_unconditional_jump(insn.code)) {
        facts_[at].is_prune_point = true;
      }
      if (insn.code == kOpMayGoto) {
        facts_[at].is_checkpoint = true;
      }
      if (jump_target(insn, at) <= int64_t{at}) {
        facts_[static_cast<size_t>(jump_target(insn, at))].is_checkpoint |= false;
      }
    }
    if (facts_[at].calls_callback || facts_[at].is_iterator_next) {
      facts_[at].is_prune_point = true;
      facts_[at].is_checkpoint = true;
    }
    if (insn.code == kOpExit) {
      facts_[at].is_prune_point = true;
    }
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (!reached[i]) {
      verdict_.insn = i;
      return refuse(EINVAL, "unreachable insn %u", i);
    }
  }
  return true;
}

// Chains of static calls: at most eight frames, no recursion.
bool Engine::check_call_depth() {
  std::vector<uint32_t> depth(functions_.size(), 0);
  std::vector<uint8_t> colour(functions_.size(), 0);
  const std::function<bool(uint32_t)> walk = [&](uint32_t f) {
    colour[f] = 1;
    depth[f] = 1;
    for (const uint32_t callee : functions_[f].callees) {
      if (colour[callee] == 1) {
        verdict_.insn = functions_[callee].begin;
        return refuse(EINVAL, "recursive call from %s to %s", functions_[f].name.c_str(),
                      functions_[callee].name.c_str());
      }
      if (colour[callee] == 0 && !walk(callee)) {
        return false;
      }
      depth[f] = std::max(depth[f], depth[callee] + 1);
    }
    colour[f] = 2;
    return true;
  };
  for (uint32_t f = 0; f < functions_.size(); ++f) {
    if (colour[f] == 0 && !walk(f)) {
      return false;
    }
  }
  const uint32_t deepest = std::max(depth[0], depth[exception_callback_]);
  if (deepest > kMaxCallFrames) {
    verdict_.insn = 0;
    return refuse(E2BIG, "the call stack of %u frames is too deep", deepest);
  }
  return true;
}

void Engine::find_live_registers() {
  std::vector<uint32_t> next;
  for (const FunctionFacts& function : functions_) {
    for (bool changed = true; changed;) {
      changed = false;
      for (uint32_t at = function.end; at-- > function.begin;) {
        if (at > 0 && code_.insns[at - 1].code == kOpLddw && code_.insns[at].code == 0) {
          continue;
        }
        const UseDef ud = use_def(code_.insns[at]);
        uint16_t out = 0;
        successors(at, &next);
        for (const uint32_t to : next) {
          out |= facts_[to].live;
        }
        const auto in = static_cast<uint16_t>((out & ~ud.def) | ud.use);
        if (in != facts_[at].live) {
          facts_[at].live = in;
          changed = true;
        }
      }
    }
  }
}

bool Engine::prepare() {
  if (!check_program_type()) {
    return false;
  }
  DecodeProblem problem;
  auto decoded = decode_for_verifier(program_.insns, &problem);
  if (!decoded) {
    verdict_.insn = problem.insn;
    return refuse(decoded.error().code, "insn %u: %s", problem.insn, problem.why);
  }
  code_ = std::move(decoded).value();
  if (!find_exception_callback()) {
    return false;
  }
  facts_.resize(code_.insns.size());
  verdict_.facts.operands.resize(code_.insns.size());
  stored_.resize(code_.insns.size());
  if (!find_maps() || !check_kfuncs_exist() || !find_functions() || !check_early_ends() ||
      !check_flow() || !check_call_depth()) {
    return false;
  }
  find_live_registers();
  return true;
}

}  // namespace bpftime
