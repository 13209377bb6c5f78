#include "jit_x64/flow.hpp"

#include <algorithm>

#include "isa/opcode.hpp"

namespace bpftime {
namespace {

const std::vector<bool> kNothingDead;

constexpr uint16_t kArguments = 0x3e;  // r1 to r5
constexpr uint16_t kClobbered = 0x3f;
constexpr uint16_t kAll = 0x7ff;

}  // namespace

Flow::Flow(std::span<const bpf_insn> insns, const CompileOptions& options)
    : insns_(insns),
      operands_(options.operands),
      arrays_(options.arrays),
      dead_(options.dead != nullptr ? *options.dead : kNothingDead) {
  if (!operands_.empty()) {
    find_live();
    find_needless();
  }
}

const KnownArray* Flow::looked_up(uint32_t i) const {
  const bpf_insn& insn = insns_[i];
  if (operands_.empty() || insn.code != kOpCall || insn.src_reg != kCallHelper ||
      insn.imm != BPF_FUNC_map_lookup_elem) {
    return nullptr;
  }
  const auto array = std::find_if(arrays_.begin(), arrays_.end(),
                                  [&](const KnownArray& a) { return a.map == operands_[i].map; });
  return array == arrays_.end() ? nullptr : &*array;
}

bool Flow::has_known_index(uint32_t i) const {
  const OperandFacts& known = operands_[i];
  return known.lowest == known.highest && known.highest < looked_up(i)->element_count;
}

// Whether it may be left out where nobody reads its register.
bool Flow::is_without_effect(uint32_t i) const {
  const bpf_insn& insn = insns_[i];
  if (is_alu_class(insn.code) || insn.code == kOpLddw) {
    return true;
  }
  const uint8_t points_to = operands_[i].points_to;
  return insn_class(insn.code) == BPF_LDX && points_to != 0 && (points_to & kToOther) == 0;
}

uint16_t Flow::live_after(uint32_t i) {
  if (live_.empty()) {
    find_live();
  }
  const bpf_insn& insn = insns_[i];
  if (insn.code == kOpExit) {
    return 0;
  }
  uint16_t live = 0;
  const bool jumps_only = is_unconditional_jump(insn.code) || ways(i) == kJumps;
  if (!jumps_only) {
    live = live_[i + (insn.code == kOpLddw ? 2 : 1)];
  }
  if (is_jump(insn.code) && (ways(i) == 0 || (ways(i) & kJumps) != 0)) {
    live = static_cast<uint16_t>(live | live_[static_cast<size_t>(jump_target(insn, i))]);
  }
  return live;
}

// Going backwards until nothing changes.
void Flow::find_live() {
  constexpr size_t kLargest = 100'000;  // larger programs do without
  constexpr int kRounds = 12;
  live_.assign(insns_.size() + 1, 0);
  bool changes = insns_.size() <= kLargest;
  for (int round = 0; changes && round < kRounds; ++round) {
    changes = false;
    for (auto i = static_cast<uint32_t>(insns_.size()); i-- > 0;) {
      uint16_t uses = 0;
      uint16_t defines = 0;
      if (insns_[i].code != 0 && !is_dead(i)) {
        uses_and_definitions(i, &uses, &defines);
      }
      const uint16_t after = insns_[i].code == 0 ? uint16_t{0} : live_after(i);
      if (!operands_.empty() && is_without_effect(i) && (after & defines) == 0) {
        uses = 0;
      }
      const auto live = static_cast<uint16_t>(uses | (after & ~defines));
      if (live != live_[i]) {
        live_[i] = live;
        changes = true;
      }
    }
  }
  if (changes || insns_.size() > kLargest) {
    live_.assign(insns_.size() + 1, kAll);
  }
}

void Flow::find_needless() {
  needless_.assign(insns_.size(), 0);
  for (uint32_t i = 0; i < insns_.size(); ++i) {
    const bpf_insn& insn = insns_[i];
    uint16_t uses = 0;
    uint16_t defines = 0;
    uses_and_definitions(i, &uses, &defines);
    const bool never_jumps = is_jump(insn.code) && ways(i) == kGoesOn;
    const bool is_unread = is_without_effect(i) && (live_after(i) & defines) == 0;
    const bool is_needless = is_dead(i) || never_jumps || is_unread;
    needless_[i] = is_needless ? 1 : 0;
    if (insn.code == kOpLddw) {
      needless_[++i] = is_needless ? 1 : 0;
    }
  }
}

void Flow::uses_and_definitions(uint32_t i, uint16_t* uses, uint16_t* defines) const {
  const bpf_insn& insn = insns_[i];
  const auto dst = static_cast<uint16_t>(1U << insn.dst_reg);
  const auto src = static_cast<uint16_t>(1U << insn.src_reg);
  const bool has_reg = insn_has_reg(insn.code);
  switch (insn_class(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      *defines = dst;
      if (insn_op(insn.code) == BPF_END || insn_op(insn.code) == BPF_NEG) {
        *uses = dst;
      } else {
        *uses =
            static_cast<uint16_t>((insn_op(insn.code) == BPF_MOV ? 0 : dst) | (has_reg ? src : 0));
      }
      break;
    case BPF_LD:
      *defines = insn.code == kOpLddw ? dst : 0;
      break;
    case BPF_LDX:
      *uses = src;
      *defines = dst;
      break;
    case BPF_ST:
      *uses = dst;
      break;
    case BPF_STX:
      *uses = dst | src;
      if (insn_mode(insn.code) == BPF_ATOMIC) {
        if (insn.imm == kLoadAcquire) {
          *uses = src;
          *defines = dst;
        } else if (insn.imm == BPF_CMPXCHG) {
          *uses = static_cast<uint16_t>(*uses | 1U);
        }
      }
      break;
    default:
      if (insn.code == kOpExit) {
        *uses = 1;
      } else if (insn.code == kOpCall) {
        *uses = looked_up(i) == nullptr ? kArguments : has_known_index(i) ? 0 : 1U << 2;
        *defines = kClobbered;
      } else if (!is_unconditional_jump(insn.code) && insn.code != kOpMayGoto &&
                 (ways(i) == 0 || ways(i) == (kGoesOn | kJumps))) {
        *uses = static_cast<uint16_t>(dst | (has_reg ? src : 0));
      }
      break;
  }
}

}  // namespace bpftime
