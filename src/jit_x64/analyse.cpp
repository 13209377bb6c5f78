// What the program uses: registers that are saved, frames, the hit, slots; and which calls of helpers are compiled inline.
#include <cerrno>

#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {
namespace {

void writes(Function* function, uint8_t reg) {
  if (reg >= 6 && reg <= 9) {
    function->used_saved = static_cast<uint8_t>(function->used_saved | 1U << (reg - 6));
  }
}

bool reads_memory(int32_t helper) {
  return helper == BPF_FUNC_probe_read || helper == BPF_FUNC_probe_read_user ||
         helper == BPF_FUNC_probe_read_kernel;
}

// It goes on behind it, and leaves r2 alone.
bool keeps_r2(const bpf_insn& insn) {
  switch (insn_class(insn.code)) {
    case BPF_ST:
      return true;
    case BPF_STX:
      return insn_mode(insn.code) == BPF_MEM;
    case BPF_ALU:
    case BPF_ALU64:
    case BPF_LDX:
    case BPF_LD:
      return insn.dst_reg != 2;
    default:
      return false;
  }
}

}  // namespace

Result<void> Compiler::analyse() {
  const auto& starts = program_.function_starts;
  functions_.resize(starts.size());
  is_target_.assign(count_ + 1, 0);
  for (size_t f = 0; f < starts.size(); ++f) {
    functions_[f].begin = starts[f];
    functions_[f].end = f + 1 < starts.size() ? starts[f + 1] : count_;
    is_target_[starts[f]] = 1;
  }
  for (Function& function : functions_) {
    for (uint32_t i = function.begin; i < function.end; ++i) {
      const char* unsupported = flow_.needs_code(i) ? analyse_insn(&function, i) : nullptr;
      if (unsupported != nullptr) {
        return make_error(EOPNOTSUPP, unsupported);
      }
    }
    function.uses_frame = function.uses_frame || function.has_may_goto;
    any_frame_ = any_frame_ || function.uses_frame;
    all_saved_ = static_cast<uint8_t>(all_saved_ | function.used_saved);
  }
  needs_hit_ = needs_hit_ || counts_fuel_;
  if (has_callbacks_) {
    all_saved_ = 15;  // a helper that is left for good may have changed any of them
  }
  for (Function& function : functions_) {
    lay_out_frame(&function);
  }
  find_inline_calls();
  return {};
}

// Why it is not compiled; null: it is.
const char* Compiler::analyse_insn(Function* function, uint32_t i) {
  const bpf_insn& insn = insns_[i];
  if (insn.dst_reg == kFramePointer || insn.src_reg == kFramePointer) {
    function->uses_frame = true;
  }
  switch (insn_class(insn.code)) {
    case BPF_JMP:
    case BPF_JMP32:
      if (insn.code == kOpCall) {
        return analyse_call(function, i);
      }
      if (insn.code != kOpExit) {
        analyse_jump(function, i);
      }
      return nullptr;
    case BPF_LD:
      if (insn.code != kOpLddw) {
        return nullptr;  // the second half of one
      }
      writes(function, insn.dst_reg);
      return analyse_load_constant(i);
    case BPF_STX:
      needs_hit_ = true;
      if (is_atomic(insn.code) && insn.imm == kLoadAcquire) {
        writes(function, insn.dst_reg);
      } else if (is_atomic(insn.code) && (insn.imm & BPF_FETCH) != 0) {
        writes(function, insn.src_reg);
      }
      return nullptr;
    case BPF_ST:
      needs_hit_ = true;
      return nullptr;
    case BPF_LDX:
      needs_hit_ = true;
      writes(function, insn.dst_reg);
      return nullptr;
    default:
      if (insn_op(insn.code) == BPF_MOV && insn_has_reg(insn.code) && insn.off == 1) {
        return "arena address casts are not supported yet";
      }
      writes(function, insn.dst_reg);
      return nullptr;
  }
}

const char* Compiler::analyse_load_constant(uint32_t i) {
  const bpf_insn& insn = insns_[i];
  const auto id = static_cast<uint32_t>(insn.imm);
  switch (insn.src_reg) {
    case kLoadImm:
      return nullptr;
    case kLoadMapFd:
      slots_.intern(SlotKind::kMap, id, 0);
      break;
    case kLoadMapValue:
      slots_.intern(SlotKind::kMapValue, id, static_cast<uint32_t>(insns_[i + 1].imm));
      break;
    case kLoadFunction:
      functions_[function_named_by(i)].is_callback = true;
      has_callbacks_ = true;
      break;
    default:
      return "unresolved or unsupported 64-bit load";
  }
  needs_hit_ = true;
  return nullptr;
}

const char* Compiler::analyse_call(Function* function, uint32_t i) {
  const bpf_insn& insn = insns_[i];
  function->makes_calls = true;
  if (insn.src_reg == kCallKfunc) {
    return "calls of kernel functions are not supported";
  }
  if (insn.src_reg == kCallHelper) {
    needs_hit_ = true;
    helper_calls_.push_back(i);
    makes_tail_calls_ = makes_tail_calls_ || insn.imm == BPF_FUNC_tail_call;
  }
  return nullptr;
}

void Compiler::analyse_jump(Function* function, uint32_t i) {
  const auto target = static_cast<uint32_t>(jump_target(insns_[i], i));
  is_target_[target] = 1;
  if (target <= i && options_.count_fuel) {
    counts_fuel_ = true;
  }
  if (insns_[i].code == kOpMayGoto) {
    function->has_may_goto = true;
  }
}

// Once all targets of jumps are known.
void Compiler::find_inline_calls() {
  for (const uint32_t i : helper_calls_) {
    if (const KnownArray* array = flow_.looked_up(i); array != nullptr) {
      slots_.intern(SlotKind::kMapValue, array->map, first_byte_looked_up(i));
    } else if (inline_read_bytes(i) != 0) {
      slots_.intern(SlotKind::kReadAside, 0, 0);
      reads_inline_ = true;
    } else {
      slots_.intern(SlotKind::kHelper, static_cast<uint32_t>(insns_[i].imm), 0);
      calls_helpers_ = true;
    }
  }
}

// Bytes that the call at `i` reads, when it is a read to be compiled inline; else 0.
uint32_t Compiler::inline_read_bytes(uint32_t i) const {
  if (options_.read_cache == nullptr || !reads_memory(insns_[i].imm)) {
    return 0;
  }
  const OperandFacts* known = flow_.known(i);
  if (known == nullptr) {
    return size_set_before(i);
  }
  const bool is_small = known->lowest == known->highest && known->highest <= kLargestInlineRead;
  return is_small ? static_cast<uint32_t>(known->highest) : 0;
}

// The size (r2) of the read at `i`, when what sets it lies before in one run, and sets a small constant; else 0.
uint32_t Compiler::size_set_before(uint32_t i) const {
  while (is_target_[i] == 0) {  // a function's first instruction is one
    i--;
    const bpf_insn& insn = insns_[i];
    if (keeps_r2(insn)) {
      continue;
    }
    const bool is_constant =
        insn.code == (BPF_ALU | BPF_MOV | BPF_K) || insn.code == (BPF_ALU64 | BPF_MOV | BPF_K);
    return is_constant && insn.imm > 0 && insn.imm <= static_cast<int32_t>(kLargestInlineRead)
               ? static_cast<uint32_t>(insn.imm)
               : 0;
  }
  return 0;
}

}  // namespace bpftime::x64
