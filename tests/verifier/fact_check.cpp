#include "tests/verifier/fact_check.hpp"

#include <cstring>

namespace bpftime::testing {
namespace {

uint8_t place_of(const Region& region) {
  switch (region.kind) {
    case Region::Kind::kStack:
      return kToStack;
    case Region::Kind::kContext:
      return kToContext;
    case Region::Kind::kValue:
      return kToMapValue;
    case Region::Kind::kRecord:
      return kToRecord;
    case Region::Kind::kPacket:
      return kToPacket;
  }
  return 0;
}

const Region* region_at(const Machine& machine, uint64_t address) {
  for (const Region& region : machine.regions()) {
    if (region.is_alive && address >= region.base && address < region.end()) {
      return &region;
    }
  }
  return nullptr;
}

std::string wrong(uint64_t value, const OperandFacts& known) {
  return "relied on a number from " + std::to_string(known.lowest) + " to " +
         std::to_string(known.highest) + ", it is " + std::to_string(value);
}

}  // namespace

std::string FactCheck::access(const bpf_insn& insn, const OperandFacts& known,
                              const Machine& machine) const {
  const bool is_load = insn_class(insn.code) == BPF_LDX ||
                       (insn_mode(insn.code) == BPF_ATOMIC && insn.imm == kLoadAcquire);
  const uint64_t address = machine.frames().back().regs[is_load ? insn.src_reg : insn.dst_reg] +
                           static_cast<uint64_t>(int64_t{insn.off});
  const Region* region = region_at(machine, address);
  if (region == nullptr) {
    return "";  // the machine says so itself
  }
  if ((known.points_to & place_of(*region)) == 0) {
    return "points into " + std::to_string(place_of(*region)) + ", relied on " +
           std::to_string(known.points_to);
  }
  // Regions begin anywhere in the machine; what counts is the place in them.
  const uint64_t in_region = address - region->base;
  if (region->kind == Region::Kind::kContext && is_load && !facts_.reads_unknown_context) {
    const uint64_t words = facts_.context_words >> (in_region / 8);
    const bool is_across = in_region / 8 != (in_region + access_bytes(insn.code) - 1) / 8;
    if ((words & 1) == 0 || (is_across && (words & 2) == 0)) {
      return "byte " + std::to_string(in_region) + " of the context was said not to be read";
    }
  }
  if (in_region % (1U << known.alignment) != 0) {
    return "byte " + std::to_string(in_region) + " is not at a multiple of " +
           std::to_string(1U << known.alignment);
  }
  return "";
}

std::string FactCheck::call(const bpf_insn& insn, const OperandFacts& known,
                            const Machine& machine) const {
  const auto& regs = machine.frames().back().regs;
  if (insn.src_reg != kCallHelper) {
    return "";
  }
  if (known.map != UINT32_MAX && regs[1] != Machine::map_address(known.map)) {
    return "r1 is not map " + std::to_string(known.map);
  }
  if (insn.imm == BPF_FUNC_map_lookup_elem && known.highest != UINT64_MAX) {
    const Region* region = region_at(machine, regs[2]);
    uint32_t index = 0;
    if (region != nullptr && region->end() - regs[2] >= sizeof(index)) {
      std::memcpy(&index, region->bytes.data() + (regs[2] - region->base), sizeof(index));
      return index < known.lowest || index > known.highest ? wrong(index, known) : "";
    }
  }
  return "";
}

std::string FactCheck::before(const Machine& machine) const {
  const uint32_t at = machine.insn();
  const bpf_insn& insn = insns_[at];
  const OperandFacts& known = facts_.operands[at];
  if (facts_.dead[at]) {
    return "dead code runs";
  }
  const uint8_t insn_group = insn_class(insn.code);
  if (insn_group == BPF_LDX || insn_group == BPF_ST || insn_group == BPF_STX) {
    return access(insn, known, machine);
  }
  if (insn.code == kOpCall) {
    return call(insn, known, machine);
  }
  if (is_alu_class(insn.code) && (insn_op(insn.code) == BPF_DIV || insn_op(insn.code) == BPF_MOD) &&
      insn_has_reg(insn.code)) {
    const uint64_t whole = machine.frames().back().regs[insn.src_reg];
    const uint64_t divisor = insn_group == BPF_ALU ? static_cast<uint32_t>(whole) : whole;
    return divisor < known.lowest || divisor > known.highest ? wrong(divisor, known) : "";
  }
  return "";
}

std::string FactCheck::after(uint32_t at, const Machine& machine) const {
  const bpf_insn& insn = insns_[at];
  if (!is_jump_class(insn.code) || insn.code == kOpCall || insn.code == kOpExit) {
    return "";
  }
  const auto target = static_cast<uint32_t>(jump_target(insn, at));
  const bool jumped = machine.insn() == target;
  const bool may = (facts_.operands[at].ways & (jumped ? kJumps : kGoesOn)) != 0;
  return may || target == at + 1 ? ""
         : jumped                ? "a jump that never jumps did"
                                 : "a jump that always jumps did not";
}

}  // namespace bpftime::testing
