// Instructions as text. The syntax is that of the kernel's verifier log (v6.18
// kernel/bpf/disasm.c).
#include <cinttypes>
#include <cstdarg>
#include <cstdio>

#include "isa/opcode.hpp"
#include "isa/program.hpp"

namespace bpftime {
namespace {

__attribute__((format(printf, 1, 2))) std::string format(const char* text, ...) {
  char buffer[160];
  va_list args;
  va_start(args, text);
  std::vsnprintf(buffer, sizeof buffer, text, args);
  va_end(args);
  return buffer;
}

const char* operator_of(const bpf_insn& insn) {
  const bool is_signed = insn.off == 1;
  switch (insn_op(insn.code)) {
    case BPF_ADD:
      return "+=";
    case BPF_SUB:
      return "-=";
    case BPF_MUL:
      return "*=";
    case BPF_DIV:
      return is_signed ? "s/=" : "/=";
    case BPF_OR:
      return "|=";
    case BPF_AND:
      return "&=";
    case BPF_LSH:
      return "<<=";
    case BPF_RSH:
      return ">>=";
    case BPF_MOD:
      return is_signed ? "s%=" : "%=";
    case BPF_XOR:
      return "^=";
    case BPF_ARSH:
      return "s>>=";
    default:
      return "=";
  }
}

const char* condition_of(uint8_t code) {
  switch (insn_op(code)) {
    case BPF_JEQ:
      return "==";
    case BPF_JGT:
      return ">";
    case BPF_JGE:
      return ">=";
    case BPF_JSET:
      return "&";
    case BPF_JNE:
      return "!=";
    case BPF_JSGT:
      return "s>";
    case BPF_JSGE:
      return "s>=";
    case BPF_JLT:
      return "<";
    case BPF_JLE:
      return "<=";
    case BPF_JSLT:
      return "s<";
    default:
      return "s<=";
  }
}

const char* access_type(uint8_t code) {
  switch (insn_size(code)) {
    case BPF_B:
      return "u8";
    case BPF_H:
      return "u16";
    case BPF_W:
      return "u32";
    default:
      return "u64";
  }
}

std::string print_alu(const bpf_insn& insn) {
  const bool is64 = insn_class(insn.code) == BPF_ALU64;
  const char r = is64 ? 'r' : 'w';
  const unsigned dst = insn.dst_reg;
  const unsigned src = insn.src_reg;
  switch (insn_op(insn.code)) {
    case BPF_NEG:
      return format("%c%u = -%c%u", r, dst, r, dst);
    case BPF_END: {
      const char* kind = is64 ? "bswap" : insn_has_reg(insn.code) ? "be" : "le";
      return format("r%u = %s%d r%u", dst, kind, insn.imm, dst);
    }
    case BPF_MOV:
      if (insn_has_reg(insn.code) && is64 && insn.off == 1) {
        return format("r%u = addr_space_cast(r%u, %d, %d)", dst, src, insn.imm >> 16,
                      insn.imm & 0xffff);
      }
      if (insn_has_reg(insn.code) && insn.off != 0) {
        return format("%c%u = (s%d)%c%u", r, dst, insn.off, r, src);
      }
      break;
    default:
      break;
  }
  if (insn_has_reg(insn.code)) {
    return format("%c%u %s %c%u", r, dst, operator_of(insn), r, src);
  }
  return format("%c%u %s %d", r, dst, operator_of(insn), insn.imm);
}

std::string print_atomic(const bpf_insn& insn) {
  const char* type = access_type(insn.code);
  const bool is64 = insn_size(insn.code) == BPF_DW;
  const unsigned dst = insn.dst_reg;
  const unsigned src = insn.src_reg;
  const char* width = is64 ? "64" : "";
  switch (insn.imm) {
    case kLoadAcquire:
      return format("r%u = load_acquire((%s *)(r%u %+d))", dst, type, src, insn.off);
    case kStoreRelease:
      return format("store_release((%s *)(r%u %+d), r%u)", type, dst, insn.off, src);
    case BPF_XCHG:
      return format("r%u = atomic%s_xchg((%s *)(r%u %+d), r%u)", src, width, type, dst, insn.off,
                    src);
    case BPF_CMPXCHG:
      return format("r0 = atomic%s_cmpxchg((%s *)(r%u %+d), r0, r%u)", width, type, dst, insn.off,
                    src);
    default:
      break;
  }
  const int op = insn.imm & 0xf0;
  if ((insn.imm & BPF_FETCH) != 0) {
    const char* name = op == BPF_ADD ? "add" : op == BPF_AND ? "and" : op == BPF_OR ? "or" : "xor";
    return format("r%u = atomic%s_fetch_%s((%s *)(r%u %+d), r%u)", src, width, name, type, dst,
                  insn.off, src);
  }
  const char* sign = op == BPF_ADD ? "+=" : op == BPF_AND ? "&=" : op == BPF_OR ? "|=" : "^=";
  return format("lock *(%s *)(r%u %+d) %s r%u", type, dst, insn.off, sign, src);
}

std::string print_jump(const bpf_insn& insn) {
  const char r = insn_class(insn.code) == BPF_JMP ? 'r' : 'w';
  const unsigned dst = insn.dst_reg;
  const unsigned src = insn.src_reg;
  switch (insn.code) {
    case kOpExit:
      return "exit";
    case kOpCall:
      if (insn.src_reg == kCallLocal) {
        return format("call pc%+d", insn.imm);
      }
      return insn.src_reg == kCallKfunc ? format("call kernel-function#%d", insn.imm)
                                        : format("call helper#%d", insn.imm);
    case kOpJa:
      return format("goto pc%+d", insn.off);
    case kOpJa32:
      return format("gotol pc%+d", insn.imm);
    case kOpMayGoto:
      return format("may_goto pc%+d", insn.off);
    default:
      break;
  }
  if (insn_has_reg(insn.code)) {
    return format("if %c%u %s %c%u goto pc%+d", r, dst, condition_of(insn.code), r, src, insn.off);
  }
  return format("if %c%u %s 0x%x goto pc%+d", r, dst, condition_of(insn.code),
                static_cast<unsigned>(insn.imm), insn.off);
}

std::string print_lddw(const bpf_insn& insn, const bpf_insn* second) {
  const unsigned dst = insn.dst_reg;
  const int high = second != nullptr ? second->imm : 0;
  switch (insn.src_reg) {
    case kLoadMapFd:
      return format("r%u = map[%d]", dst, insn.imm);
    case kLoadMapValue:
      return format("r%u = map[%d][0]%+d", dst, insn.imm, high);
    case kLoadBtfId:
      return format("r%u = btf_id[%d]", dst, insn.imm);
    case kLoadFunction:
      return format("r%u = func pc%+d", dst, insn.imm);
    case kLoadMapIndex:
      return format("r%u = map_idx[%d]", dst, insn.imm);
    case kLoadMapIndexValue:
      return format("r%u = map_idx[%d][0]%+d", dst, insn.imm, high);
    default:
      return format("r%u = 0x%" PRIx64 " ll", dst,
                    static_cast<uint64_t>(static_cast<uint32_t>(insn.imm)) |
                        static_cast<uint64_t>(static_cast<uint32_t>(high)) << 32);
  }
}

std::string print_body(const bpf_insn& insn, const bpf_insn* second) {
  const char* type = access_type(insn.code);
  const unsigned dst = insn.dst_reg;
  const unsigned src = insn.src_reg;
  switch (insn_class(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      return print_alu(insn);
    case BPF_JMP:
    case BPF_JMP32:
      return print_jump(insn);
    case BPF_LD:
      return insn_mode(insn.code) == BPF_ABS ? format("r0 = *(%s *)skb[%d]", type, insn.imm)
             : insn_mode(insn.code) == BPF_IND
                 ? format("r0 = *(%s *)skb[r%u + %d]", type, src, insn.imm)
                 : print_lddw(insn, second);
    case BPF_LDX:
      return format("r%u = *(%c%s *)(r%u %+d)", dst, insn_mode(insn.code) == kModeMemSx ? 's' : 'u',
                    type + 1, src, insn.off);
    case BPF_ST:
      return format("*(%s *)(r%u %+d) = %d", type, dst, insn.off, insn.imm);
    default:
      return is_atomic(insn.code) ? print_atomic(insn)
                                  : format("*(%s *)(r%u %+d) = r%u", type, dst, insn.off, src);
  }
}

}  // namespace

std::string print(const bpf_insn& insn, const bpf_insn* second, uint32_t index) {
  return format("%u: (%02x) ", index, insn.code) + print_body(insn, second);
}

std::string print(const DecodedProgram& program) {
  std::string text;
  for (uint32_t i = 0; i < program.insns.size(); ++i) {
    const bpf_insn& insn = program.insns[i];
    const bool is_wide = insn.code == kOpLddw;
    text += print(insn, is_wide ? &program.insns[i + 1] : nullptr, i);
    text += '\n';
    i += is_wide ? 1 : 0;
  }
  return text;
}

}  // namespace bpftime
