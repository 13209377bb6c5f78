// How a place is chosen: decode whole instructions from the site until a 5-byte jump fits over
// them; where the function ends before that, over the padding behind it; where that fails, a 2-byte
// jump into padding nearby that holds the 5-byte one. Only the bytes of the jump itself change: of
// a displaced instruction that reaches further the tail stays as it is, so only offsets inside the
// jump need moving, or may not be jumped to.
//
// Instruction formats: Intel SDM 2A §2 and the pages of the instructions named.
#include "patchplan/plan.hpp"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "abi/trampoline.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kJumpBytes = 5, kShortJumpBytes = 2;

struct Instruction {
  ZydisDecodedInstruction insn;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  uint64_t address;
  std::span<const uint8_t> bytes;
  [[nodiscard]] uint64_t end() const { return address + insn.length; }
};

const ZydisDecoder& decoder() {
  static const ZydisDecoder decoder = [] {
    ZydisDecoder made;
    ZydisDecoderInit(&made, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return made;
  }();
  return decoder;
}

bool decode(std::span<const uint8_t> code, uint64_t address, Instruction* out) {
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder(), code.data(), code.size(), &out->insn,
                                           out->operands))) {
    return false;
  }
  out->address = address;
  out->bytes = code.first(out->insn.length);
  return true;
}

bool is_relative_branch(const Instruction& i) { return i.insn.raw.imm[0].is_relative != 0; }

uint64_t branch_target(const Instruction& i) {
  return i.end() + static_cast<uint64_t>(i.insn.raw.imm[0].value.s);
}

bool is_rip_relative(const Instruction& i) {
  return (i.insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0 && i.insn.raw.modrm.mod == 0 &&
         i.insn.raw.modrm.rm == 5;
}

bool is_indirect_jump(const Instruction& i) {
  return i.insn.mnemonic == ZYDIS_MNEMONIC_JMP && !is_relative_branch(i);
}

// Control never passes to the next instruction.
bool ends_control(const Instruction& i) {
  switch (i.insn.mnemonic) {
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_HLT:
      return true;
    default:
      return false;
  }
}

// After it, the kernel may have set ip back by the instruction's length (restarted system calls).
bool enters_kernel(const Instruction& i) {
  return i.insn.mnemonic == ZYDIS_MNEMONIC_SYSCALL || i.insn.mnemonic == ZYDIS_MNEMONIC_SYSENTER ||
         i.insn.mnemonic == ZYDIS_MNEMONIC_INT;
}

bool fits_int32(int64_t value) { return value == static_cast<int32_t>(value); }

// Length of one nop, int3 or zero byte pair at the front of `bytes`; 0: something else.
size_t padding_unit(std::span<const uint8_t> bytes) {
  if (bytes.empty()) {
    return 0;
  }
  if (bytes[0] == 0xcc || bytes[0] == 0x90 || bytes[0] == 0x00) {
    return 1;
  }
  Instruction i;
  if (!decode(bytes, 0, &i)) {
    return 0;
  }
  if (i.insn.mnemonic == ZYDIS_MNEMONIC_NOP) {
    return i.insn.length;
  }
  // lea 0(%rsi),%rsi and its like, which old assemblers pad with.
  if (i.insn.mnemonic == ZYDIS_MNEMONIC_LEA && i.operands[1].mem.disp.value == 0 &&
      i.operands[1].mem.index == ZYDIS_REGISTER_NONE &&
      i.operands[0].reg.value == i.operands[1].mem.base && i.operands[0].size == 64) {
    return i.insn.length;
  }
  if (i.insn.mnemonic == ZYDIS_MNEMONIC_XCHG && i.insn.length == 2 && bytes[0] == 0x66 &&
      bytes[1] == 0x90) {
    return 2;
  }
  return 0;
}

bool is_all_padding(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const size_t unit = padding_unit(bytes);
    if (unit == 0) {
      return false;
    }
    bytes = bytes.subspan(unit);
  }
  return true;
}

// Writes code that will stand at a known address.
class Emitter {
 public:
  explicit Emitter(uint64_t base) : base_(base) {}
  [[nodiscard]] uint64_t here() const { return base_ + bytes_.size(); }
  void byte(unsigned value) { bytes_.push_back(static_cast<uint8_t>(value)); }
  void copy(std::span<const uint8_t> from) {
    bytes_.insert(bytes_.end(), from.begin(), from.end());
  }
  void word32(uint64_t value) {
    for (int i = 0; i < 4; i++) {
      byte(static_cast<uint8_t>(value >> (8 * i)));
    }
  }
  void word64(uint64_t value) {
    word32(value);
    word32(value >> 32);
  }
  void pad_to(uint64_t offset, unsigned filler) {
    while (bytes_.size() < offset) {
      byte(filler);
    }
  }
  // jmp rel32, else jmp *0(%rip) with the address behind it
  void jump(uint64_t target) {
    const auto distance = static_cast<int64_t>(target - (here() + 5));
    if (fits_int32(distance)) {
      byte(0xe9);
      word32(static_cast<uint64_t>(distance));
    } else {
      byte(0xff);
      byte(0x25);
      word32(0);
      word64(target);
    }
  }
  // 6 bytes: `nop` and the near form, or the form through the trampoline's word of the thunk
  void reach_thunk(unsigned near_opcode, unsigned far_modrm, uint64_t thunk) {
    const auto distance = static_cast<int64_t>(thunk - (here() + 6));
    if (fits_int32(distance)) {
      byte(0x90);
      byte(near_opcode);
      word32(static_cast<uint64_t>(distance));
    } else {
      byte(0xff);
      byte(far_modrm);
      word32(base_ + kTrampolineThunk - (here() + 4));
    }
  }
  // push of a 64-bit constant; flags and registers stay
  void push_constant(uint64_t value) {
    byte(0x68);
    word32(value);
    if (!fits_int32(static_cast<int64_t>(value))) {
      byte(0xc7);  // movl $high, 4(%rsp)
      byte(0x44);
      byte(0x24);
      byte(0x04);
      word32(value >> 32);
    }
  }
  std::vector<uint8_t>& bytes() { return bytes_; }

 private:
  uint64_t base_;
  std::vector<uint8_t> bytes_;
};

// The copy of one instruction that has a rip-relative operand; `bytes` may be changed by the caller
// already.
Result<void> copy_rip_relative(const Instruction& i, std::vector<uint8_t> bytes, Emitter& out) {
  if (i.insn.address_width != 64 || i.insn.raw.disp.size != 32) {
    return make_error(EOPNOTSUPP, "an operand relative to eip");
  }
  const uint64_t target = i.end() + static_cast<uint64_t>(i.insn.raw.disp.value);
  const auto distance = static_cast<int64_t>(target - (out.here() + bytes.size()));
  if (fits_int32(distance)) {
    const auto value = static_cast<uint32_t>(distance);
    std::memcpy(bytes.data() + i.insn.raw.disp.offset, &value, 4);
    out.copy(bytes);
    return {};
  }
  const bool is_lea = i.insn.mnemonic == ZYDIS_MNEMONIC_LEA;
  const bool is_load = i.insn.mnemonic == ZYDIS_MNEMONIC_MOV && i.insn.opcode == 0x8b;
  if ((is_lea || is_load) && i.insn.operand_width >= 32 &&
      (i.insn.attributes & ZYDIS_ATTRIB_HAS_SEGMENT) == 0) {
    const auto reg = static_cast<unsigned>(i.insn.raw.modrm.reg | (i.insn.raw.rex.R << 3));
    if (is_lea && i.insn.operand_width == 32) {
      out.byte(reg >= 8 ? 0x41 : 0x40);
      out.byte(0xb8 | (reg & 7));  // mov $imm32, r32
      out.word32(target);
      return {};
    }
    out.byte(0x48 | (reg >= 8 ? 1 : 0));
    out.byte(0xb8 | (reg & 7));  // movabs $imm64, r64
    out.word64(target);
    if (is_load) {
      // mov (r), r; rsp and r12 as base need a SIB byte, rbp and r13 a displacement: give all both
      // forms' bytes
      out.byte((i.insn.operand_width == 64 ? 0x48 : 0x40) | (reg >= 8 ? 5 : 0));
      out.byte(0x8b);
      out.byte(0x40 | ((reg & 7) << 3) | (reg & 7));
      if ((reg & 7) == 4) {
        out.byte(0x24);
      }
      out.byte(0);
    }
    return {};
  }
  return make_error(EOPNOTSUPP, "an operand that the trampoline cannot reach");
}

Result<void> copy_call(const Instruction& i, Emitter& out) {
  if (is_relative_branch(i)) {
    out.push_constant(i.end());
    out.jump(branch_target(i));
    return {};
  }
  // FF /2 becomes FF /4: jump to the same operand
  if (i.insn.opcode != 0xff || i.insn.raw.modrm.reg != 2) {
    return make_error(EOPNOTSUPP, "a far call");
  }
  const ZydisDecodedOperand& to = i.operands[0];
  if ((to.type == ZYDIS_OPERAND_TYPE_MEMORY &&
       (to.mem.base == ZYDIS_REGISTER_RSP || to.mem.base == ZYDIS_REGISTER_ESP)) ||
      (to.type == ZYDIS_OPERAND_TYPE_REGISTER && to.reg.value == ZYDIS_REGISTER_RSP)) {
    return make_error(EOPNOTSUPP, "a call through the stack");
  }
  out.push_constant(i.end());
  std::vector<uint8_t> bytes(i.bytes.begin(), i.bytes.end());
  bytes[i.insn.raw.modrm.offset] =
      static_cast<uint8_t>((bytes[i.insn.raw.modrm.offset] & ~0x38U) | (4U << 3));
  if (is_rip_relative(i)) {
    return copy_rip_relative(i, std::move(bytes), out);
  }
  out.copy(bytes);
  return {};
}

Result<void> copy_instruction(const Instruction& i, Emitter& out) {
  // Intel ignores the prefix here, AMD takes a 16-bit offset (AMD64 APM vol. 3, jmp near).
  if (is_relative_branch(i) && (i.insn.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0 &&
      i.insn.raw.rex.W == 0 && i.insn.raw.imm[0].size > 8) {
    return make_error(EOPNOTSUPP, "a branch that processors read differently");
  }
  if (i.insn.meta.category == ZYDIS_CATEGORY_CALL) {
    return copy_call(i, out);
  }
  if (!is_relative_branch(i)) {
    if (is_rip_relative(i)) {
      return copy_rip_relative(i, {i.bytes.begin(), i.bytes.end()}, out);
    }
    out.copy(i.bytes);
    return {};
  }
  const uint64_t target = branch_target(i);
  switch (i.insn.mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
      out.jump(target);
      return {};
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ: {
      // the same instruction over a jump that skips the jump to the target
      std::vector<uint8_t> bytes(i.bytes.begin(), i.bytes.end());
      bytes[i.insn.raw.imm[0].offset] = 2;
      out.copy(bytes);
      out.byte(0xeb);
      const size_t skip_at = out.bytes().size();
      out.byte(0);
      out.jump(target);
      out.bytes()[skip_at] = static_cast<uint8_t>(out.bytes().size() - skip_at - 1);
      return {};
    }
    default:
      break;
  }
  if (i.insn.meta.category != ZYDIS_CATEGORY_COND_BR ||
      (i.insn.opcode & 0xf0) != (i.insn.opcode_map == ZYDIS_OPCODE_MAP_0F ? 0x80 : 0x70)) {
    return make_error(EOPNOTSUPP, "a relative instruction of an unusual kind");
  }
  const unsigned condition = i.insn.opcode & 0x0f;
  const auto distance = static_cast<int64_t>(target - (out.here() + 6));
  if (fits_int32(distance)) {
    out.byte(0x0f);
    out.byte(0x80 | condition);
    out.word32(static_cast<uint64_t>(distance));
    return {};
  }
  out.byte(0x70 | (condition ^ 1));  // the opposite condition skips the far jump
  const size_t skip_at = out.bytes().size();
  out.byte(0);
  out.jump(target);
  out.bytes()[skip_at] = static_cast<uint8_t>(out.bytes().size() - skip_at - 1);
  return {};
}

bool touches_rbx(const ZydisDecodedOperand& operand) {
  const auto is_rbx = [](ZydisRegister reg) {
    return reg != ZYDIS_REGISTER_NONE &&
           ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg) == ZYDIS_REGISTER_RBX;
  };
  if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) {
    return is_rbx(operand.reg.value);
  }
  return operand.type == ZYDIS_OPERAND_TYPE_MEMORY &&
         (is_rbx(operand.mem.base) || is_rbx(operand.mem.index));
}

// True for push %rbx, mov %rbx,(anything), xchg with it.
bool saves_rbx(const Instruction& i) {
  switch (i.insn.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_XCHG:
      return i.operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER ||
             i.insn.mnemonic == ZYDIS_MNEMONIC_XCHG;
    case ZYDIS_MNEMONIC_MOV:
      return i.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
             i.operands[1].reg.value == ZYDIS_REGISTER_RBX && !touches_rbx(i.operands[0]);
    default:
      return false;
  }
}

struct Displaced {
  std::vector<Instruction> instructions;
  bool over_padding = false;  // bytes behind the function's last instruction are overwritten too
  bool comes_back = true;     // the last one can pass control on
};

// Whole instructions that a jump of `need` bytes at the site would overwrite, or why not.
Result<Displaced> displace(const PlanInput& input, const FunctionFacts& facts, uint32_t need) {
  const uint64_t begin = raw(input.function_begin), site = raw(input.site);
  const uint64_t offset = site - begin;
  Displaced result;
  uint64_t covered = 0;
  while (covered < need) {
    const uint64_t at = offset + covered;
    if (at >= input.function_bytes && !result.instructions.empty() &&
        ends_control(result.instructions.back())) {
      // The function is over, nothing runs through what follows.
      if (offset + need > input.bytes_to_next_function || offset + need > input.code.size()) {
        return make_error(EOPNOTSUPP, "the function is too short and the next one follows at once");
      }
      const auto rest = input.code.subspan(
          at, std::min(input.bytes_to_next_function, uint64_t{input.code.size()}) - at);
      uint64_t padded = 0;
      while (covered + padded < need) {
        const size_t unit = padding_unit(rest.subspan(padded));
        if (unit == 0) {
          return make_error(EOPNOTSUPP, "the function is too short and no padding follows it");
        }
        padded += unit;
      }
      result.over_padding = true;
      covered = need;
      break;
    }
    const uint64_t limit = std::min(input.bytes_to_next_function, uint64_t{input.code.size()});
    if (at >= limit) {
      return make_error(EOPNOTSUPP, "the function is too short and runs into the next one");
    }
    Instruction i;
    if (!decode(input.code.first(limit).subspan(at), begin + at, &i)) {
      return make_error(EILSEQ, "no instruction at the probed address");
    }
    if (i.insn.meta.category == ZYDIS_CATEGORY_CALL && covered + i.insn.length < need) {
      return make_error(EOPNOTSUPP, "a call would return into the overwritten bytes");
    }
    if (at >= input.function_bytes) {
      result.over_padding = true;
    }
    result.instructions.push_back(i);
    covered += i.insn.length;
  }
  result.comes_back = !ends_control(result.instructions.back());

  const auto next = std::upper_bound(facts.targets.begin(), facts.targets.end(), offset);
  if ((next != facts.targets.end() && *next < offset + need) ||
      std::any_of(input.jump_targets.begin(), input.jump_targets.end(), [&](RemoteAddr target) {
        return raw(target) > site && raw(target) < site + need;
      })) {
    return make_error(EOPNOTSUPP, "something jumps into the bytes behind the probed instruction");
  }
  if (facts.has_indirect_jump && site != begin && result.instructions[0].insn.length < need) {
    return make_error(EOPNOTSUPP, "a jump table may lead behind the probed instruction");
  }
  return result;
}

bool in_reach(uint64_t from_end, uint64_t to) {
  return fits_int32(static_cast<int64_t>(to - from_end));
}

void put_jump(uint8_t* at, uint64_t from_end, uint64_t to) {
  const auto distance = static_cast<uint32_t>(to - from_end);
  at[0] = 0xe9;
  std::memcpy(at + 1, &distance, 4);
}

// Writes the trampoline and the moves for what `patch` overwrites.
Result<void> write_trampoline(const PlanInput& input, const Displaced& displaced, Plan& plan) {
  const uint64_t room = raw(input.room), site = raw(input.site);
  Emitter out(room);
  out.word64(raw(input.site_record));
  if (input.wants_return) {
    const uint64_t thunk = raw(input.return_thunk);
    out.word64(thunk);
    out.copy(std::initializer_list<uint8_t>{0x41, 0x53});        // push %r11
    out.copy(std::initializer_list<uint8_t>{0x4c, 0x8d, 0x1d});  // lea room(%rip), %r11
    out.word32(room - (out.here() + 4));
    out.reach_thunk(0xe9, 0x25, thunk);
    out.pad_to(kReturnCopy, 0xcc);
  } else if (input.site == input.function_begin) {
    out.word64(raw(input.entry_thunk));
    out.reach_thunk(0xe8, 0x15, raw(input.entry_thunk));
  } else {
    out.word64(raw(input.inside_thunk));
    out.copy(std::initializer_list<uint8_t>{0x48, 0x8d, 0x64, 0x24, 0x80});  // lea -128(%rsp)
    out.reach_thunk(0xe8, 0x15, raw(input.inside_thunk));
    out.copy(std::initializer_list<uint8_t>{0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0});  // lea 128(
  }
  Patch& patch = plan.patch;
  const auto add_move = [&patch](uint64_t offset, uint64_t resume_at) {
    patch.moves[patch.move_count++] = IpMove{offset, resume_at};
  };
  for (const Instruction& i : displaced.instructions) {
    const uint64_t offset = i.address - site;
    if (offset > 0 && offset < patch.site_bytes) {
      add_move(offset, out.here());
    }
    TRY(copy_instruction(i, out));
    // A thread that waits in the kernel stands behind the instruction, and may be set back to it.
    if (enters_kernel(i) && offset < patch.site_bytes && i.end() - site >= patch.site_bytes) {
      add_move(i.end() - site, out.here());
    }
  }
  if (displaced.comes_back) {
    out.jump(displaced.instructions.back().end());
  }
  if (out.bytes().size() > kMaxTrampolineBytes) {
    return make_error(EOPNOTSUPP, "the displaced instructions need too much room");
  }
  plan.trampoline = std::move(out.bytes());
  return {};
}

}  // namespace

const char* means_name(Means means) {
  switch (means) {
    case Means::kJump5:
      return "jump5";
    case Means::kPaddingJump:
      return "padding_jump";
  }
  return "?";
}

FunctionFacts function_facts(std::span<const uint8_t> function) {
  FunctionFacts facts;
  bool rbx_seen = false;
  uint64_t at = 0;
  while (at < function.size()) {
    Instruction i;
    if (!decode(function.subspan(at), at, &i)) {
      at++;  // data between code (hand-written assembler): find the next instruction
      continue;
    }
    if (is_relative_branch(i)) {
      facts.targets.push_back(branch_target(i));
    } else if (is_indirect_jump(i)) {
      facts.has_indirect_jump = true;
    }
    if (!rbx_seen) {
      for (uint32_t n = 0; n < i.insn.operand_count; n++) {
        if (touches_rbx(i.operands[n])) {
          rbx_seen = true;
          facts.takes_rbx = !saves_rbx(i);
          break;
        }
      }
    }
    at += i.insn.length;
  }
  std::sort(facts.targets.begin(), facts.targets.end());
  return facts;
}

Result<Plan> plan_patch(const PlanInput& input, const FunctionFacts& facts) {
  const uint64_t begin = raw(input.function_begin), site = raw(input.site), room = raw(input.room);
  if (site < begin || site - begin >= input.function_bytes ||
      input.function_bytes > input.code.size() ||
      input.bytes_to_next_function < input.function_bytes || room % kTrampolineAlign != 0) {
    return make_error(EINVAL, "the site is not in the function's bytes, or the room not aligned");
  }
  if (input.wants_return && input.site != input.function_begin) {
    return make_error(EINVAL, "a return probe belongs to a function's first instruction");
  }
  if (input.wants_return && facts.takes_rbx) {
    return make_error(EOPNOTSUPP, "the function does not keep rbx as the System V ABI says");
  }
  Plan plan{};
  plan.is_function_begin = input.site == input.function_begin;
  plan.means = Means::kJump5;
  Patch& patch = plan.patch;
  patch.site = input.site;
  patch.trampoline = input.room;
  patch.site_index = input.site_index;
  const uint64_t offset = site - begin;
  const uint64_t jump_to = room + kTrampolineEntry;

  Result<Displaced> displaced = displace(input, facts, kJumpBytes);
  if (displaced) {
    if (!in_reach(site + kJumpBytes, jump_to)) {
      return make_error(ERANGE, "the trampoline is further than 2 GB from the site");
    }
    if (displaced->over_padding) {
      plan.means = Means::kPaddingJump;
    }
    patch.site_bytes = kJumpBytes;
    put_jump(patch.after, site + kJumpBytes, jump_to);
  } else {
    if (displaced.error().code != EOPNOTSUPP) {
      return displaced.error();
    }
    const PaddingRange* found = nullptr;
    uint64_t hole = 0;
    for (const PaddingRange& range : input.padding) {
      // The nearest end of each range; any position of it that rel8 reaches will do.
      const int64_t low = static_cast<int64_t>(raw(range.begin) - (site + kShortJumpBytes));
      const int64_t high = low + static_cast<int64_t>(range.content.size()) - int64_t{kJumpBytes};
      const int64_t chosen = std::clamp(int64_t{0}, low, std::max(low, high));
      if (range.content.size() >= kJumpBytes && chosen >= -128 && chosen <= 127 &&
          in_reach(site + kShortJumpBytes + static_cast<uint64_t>(chosen) + kJumpBytes, jump_to)) {
        found = &range;
        hole = site + kShortJumpBytes + static_cast<uint64_t>(chosen);
        break;
      }
    }
    if (found == nullptr) {
      return displaced.error();
    }
    Result<Displaced> two = displace(input, facts, kShortJumpBytes);
    if (!two) {
      return two.error();
    }
    displaced = std::move(two);
    plan.means = Means::kPaddingJump;
    patch.site_bytes = kShortJumpBytes;
    patch.after[0] = 0xeb;
    patch.after[1] = static_cast<uint8_t>(hole - (site + kShortJumpBytes));
    plan.hole.site = static_cast<RemoteAddr>(hole);
    plan.hole.trampoline = input.room;
    plan.hole.site_index = input.site_index;
    plan.hole.site_bytes = kJumpBytes;
    put_jump(plan.hole.after, hole + kJumpBytes, jump_to);
    // `before` of the hole: what the caller said is there
    for (uint32_t n = 0; n < kJumpBytes; n++) {
      plan.hole.before[n] = found->content[hole - raw(found->begin) + n];
    }
  }
  std::memcpy(patch.before, input.code.data() + offset, patch.site_bytes);
  plan.displaced_bytes = static_cast<uint32_t>(displaced->instructions.back().end() - site);
  TRY(write_trampoline(input, *displaced, plan));
  patch.trampoline_bytes = static_cast<uint32_t>(plan.trampoline.size());
  plan.hole.trampoline_bytes = plan.hole.site_bytes != 0 ? patch.trampoline_bytes : 0;
  return plan;
}

Result<Plan> plan_patch(const PlanInput& input) {
  return plan_patch(
      input, function_facts(input.code.first(std::min(input.function_bytes, input.code.size()))));
}

bool returns_twice(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      // return a second time through the same frame
      "setjmp", "_setjmp", "__setjmp", "sigsetjmp", "__sigsetjmp", "savectx", "getcontext",
      "__getcontext", "vfork", "__vfork", "__libc_vfork",
      // leave this stack, to come back in another way or never by this frame
      "swapcontext", "__swapcontext", "setcontext", "__setcontext", "makecontext", "__makecontext",
      "__start_context", "clone", "__clone", "clone3", "__clone3", "__clone_internal",
      // read or replace their caller's frame
      "longjmp", "_longjmp", "siglongjmp", "__longjmp_chk", "__libc_longjmp", "__libc_siglongjmp",
      "____longjmp_chk", "__longjmp", "_Unwind_RaiseException", "_Unwind_Resume",
      "_Unwind_Resume_or_Rethrow", "_Unwind_ForcedUnwind", "_Unwind_Backtrace", "__unw_getcontext",
      "unw_getcontext", "_Ux86_64_getcontext", "_Ux86_64_setcontext", "__tls_get_addr_slow",
      "_dl_runtime_resolve", "_dl_tlsdesc_return", "_dl_tlsdesc_undefweak", "_dl_tlsdesc_dynamic",
      "_start", "__restore_rt", "_mcount", "mcount", "__fentry__"};
  name = name.substr(0, name.find('@'));
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

PaddingRange find_padding(std::span<const uint8_t> before, std::span<const uint8_t> gap,
                          RemoteAddr begin) {
  const PaddingRange nothing{begin, {}};
  if (gap.empty() || !is_all_padding(gap)) {
    return nothing;
  }
  uint64_t at = 0;
  bool ended = false;
  while (at < before.size()) {
    Instruction i;
    if (!decode(before.subspan(at), at, &i)) {
      return nothing;
    }
    ended = ends_control(i);
    at += i.insn.length;
  }
  return ended ? PaddingRange{begin, gap} : nothing;
}

}  // namespace bpftime
