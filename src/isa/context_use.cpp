// Forward over registers: which may hold the context's address. Joins are unions, so each
// instruction is looked at as often as its set grows, eleven times at most.
#include "isa/context_use.hpp"

#include "isa/opcode.hpp"

namespace bpftime {
namespace {

using RegisterSet = uint16_t;
constexpr RegisterSet bit(unsigned reg) { return static_cast<RegisterSet>(1U << reg); }
constexpr RegisterSet kArguments = 0x3e;  // r1 to r5
constexpr RegisterSet kVisited = 1U << 15;

class Walk {
 public:
  explicit Walk(const DecodedProgram& program)
      : program_(program), in_(program.insns.size() + 1, 0) {}

  uint32_t run() {
    reach(0, bit(1));
    while (!work_.empty() && (used_ & kContextEscapes) == 0) {
      const uint32_t at = work_.back();
      work_.pop_back();
      step(at);
    }
    return used_;
  }

 private:
  void reach(uint32_t at, RegisterSet holds) {
    const auto grown = static_cast<RegisterSet>(in_[at] | holds | kVisited);
    if (grown != in_[at]) {
      in_[at] = grown;
      work_.push_back(at);
    }
  }
  void read(int32_t offset, uint32_t bytes) {
    if (offset < 0 || offset + static_cast<int32_t>(bytes) > 31 * 8) {
      used_ |= kContextEscapes;
      return;
    }
    for (auto word = static_cast<uint32_t>(offset) / 8;
         word <= (static_cast<uint32_t>(offset) + bytes - 1) / 8; word++) {
      used_ |= 1U << word;
    }
  }

  void step(uint32_t at) {
    const bpf_insn& insn = program_.insns[at];
    RegisterSet holds = in_[at] & static_cast<RegisterSet>(~kVisited);
    const bool dst_holds = (holds & bit(insn.dst_reg)) != 0;
    const bool src_holds = (holds & bit(insn.src_reg)) != 0;
    const auto forget_dst = [&] { holds &= static_cast<RegisterSet>(~bit(insn.dst_reg)); };
    switch (insn_class(insn.code)) {
      case BPF_LD:
        forget_dst();
        reach(at + 2, holds);
        return;
      case BPF_LDX:
        if (src_holds) {
          read(insn.off, access_bytes(insn.code));
        }
        forget_dst();
        break;
      case BPF_ST:
        used_ |= dst_holds ? kContextEscapes : 0;
        break;
      case BPF_STX:
        used_ |= dst_holds || src_holds ? kContextEscapes : 0;
        break;  // an atomic one may change a register: never to the context
      case BPF_ALU:
      case BPF_ALU64: {
        const bool is_move = insn_op(insn.code) == BPF_MOV;
        const bool reads_src = insn_has_reg(insn.code);
        if (is_move && (!reads_src || !src_holds)) {
          forget_dst();
        } else if (is_move && insn_class(insn.code) == BPF_ALU64 && insn.off == 0) {
          holds |= bit(insn.dst_reg);
        } else if (dst_holds || (reads_src && src_holds)) {
          used_ |= kContextEscapes;
        }
        break;
      }
      default:  // BPF_JMP, BPF_JMP32
        step_jump(at, insn, holds);
        return;
    }
    reach(at + 1, holds);
  }

  void step_jump(uint32_t at, const bpf_insn& insn, RegisterSet holds) {
    if (insn.code == kOpExit) {
      return;
    }
    if (insn.code == kOpCall) {
      if (insn.src_reg == kCallLocal) {
        // Its own r6 to r9 are new; whether it returns the context: only r0 could, and then it escapes below.
        reach(static_cast<uint32_t>(int64_t{at} + 1 + insn.imm), holds & kArguments);
        holds &= static_cast<RegisterSet>(~(kArguments | bit(0)));
        holds |= (in_[at] & kArguments) != 0 ? bit(0) : RegisterSet{0};
      } else {
        used_ |= (holds & kArguments) != 0 ? kContextEscapes : 0;
        holds &= static_cast<RegisterSet>(~(kArguments | bit(0)));
      }
      reach(at + 1, holds);
      return;
    }
    if (!is_unconditional_jump(insn.code)) {
      reach(at + 1, holds);
    }
    reach(static_cast<uint32_t>(jump_target(insn, at)), holds);
  }

  const DecodedProgram& program_;
  std::vector<RegisterSet> in_;
  std::vector<uint32_t> work_;
  uint32_t used_ = 0;
};

}  // namespace

uint32_t context_use(const DecodedProgram& program) { return Walk(program).run(); }

}  // namespace bpftime
