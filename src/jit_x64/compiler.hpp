// The inside of compile_x64(): one Compiler a call. Home: pure; only this room includes it.
//
// Parts, each a file of member functions: compile (rounds, the whole), analyse (what the program uses), frame (functions'
// beginnings and ends), alu, division, melt (sequences that become one machine instruction), memory, call (functions,
// helpers, lookups in arrays), read (reads of user memory), jump.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "isa/opcode.hpp"
#include "isa/program.hpp"
#include "jit_x64/compile.hpp"
#include "jit_x64/emitter.hpp"
#include "jit_x64/flow.hpp"
#include "vm/program.hpp"
#include "vm/slot_table.hpp"

namespace bpftime::x64 {

// Registers as compile.hpp tells them.
inline constexpr std::array<Reg, 11> kRegOf = {kRax, kRdi, kRsi, kRdx, kRcx, kR8,
                                               kRbx, kR13, kR14, kR15, kRbp};
inline constexpr unsigned kHit = kR12;
inline constexpr unsigned kFuel = kR11;
inline constexpr unsigned kScratch = kR9;
inline constexpr unsigned kScratch2 = kR10;
inline constexpr int32_t kHitSlots = offsetof(Hit, slots);
inline constexpr int32_t kHitFuel = offsetof(Hit, fuel);
inline constexpr int32_t kHitEnded = offsetof(Hit, ended);
inline constexpr int32_t kHitRsp = offsetof(Hit, program_rsp);
inline constexpr int32_t kMayGotoLeft = -static_cast<int32_t>(kFrameBytes) - 8;  // from rbp

inline constexpr uint8_t kByteLoad = BPF_LDX | BPF_MEM | BPF_B;
constexpr bool is_alu64(const bpf_insn& insn) { return insn_class(insn.code) == BPF_ALU64; }
// A constant operand as an unsigned number of the instruction's width.
constexpr uint64_t alu_constant(const bpf_insn& insn) {
  return is_alu64(insn) ? static_cast<uint64_t>(int64_t{insn.imm})
                        : static_cast<uint32_t>(insn.imm);
}
constexpr Group2 group2_of(uint8_t code) {
  return insn_op(code) == BPF_LSH ? kShl : insn_op(code) == BPF_RSH ? kShr : kSar;
}

struct Function {
  uint32_t begin, end;
  uint8_t used_saved;  // bit n: r(6+n) is written
  bool uses_frame, has_may_goto, makes_calls, is_callback;
  uint32_t pushed_bytes, frame_bytes;  // what the prologue pushes, and what `sub rsp` takes
  uint32_t entry, callback_thunk;      // offsets of its code and of the thunk for helpers
};

// A read that was compiled inline.
struct InlineRead {
  std::array<uint32_t, 3> misses;  // displacements of the jumps to its slow way
  uint32_t loads_begin, loads_end, back;
};

struct Fixup {
  uint32_t at;      // position of the displacement
  uint32_t target;  // instruction or function
  bool is_short;
};

class Compiler {
 public:
  Compiler(const DecodedProgram& program, const CompileOptions& options);
  Result<CompiledProgram> run();

 private:
  // compile
  void patch_jumps_and_calls();
  [[nodiscard]] uint32_t facts() const;
  void emit_all();
  void emit_function(const Function& function);
  // Writes the code of instruction i, and of those after it that melt with it; returns how many it took.
  uint32_t emit_insn(const Function& function, uint32_t i);

  // analyse
  Result<void> analyse();
  const char* analyse_insn(Function* function, uint32_t i);
  const char* analyse_load_constant(uint32_t i);
  const char* analyse_call(Function* function, uint32_t i);
  void analyse_jump(Function* function, uint32_t i);
  void find_inline_calls();
  [[nodiscard]] uint32_t inline_read_bytes(uint32_t i) const;
  [[nodiscard]] uint32_t size_set_before(uint32_t i) const;

  // frame
  [[nodiscard]] bool is_main(const Function& function) const {
    return &function == functions_.data();
  }
  [[nodiscard]] uint8_t saved_by(const Function& function) const {
    return is_main(function) ? all_saved_ : function.used_saved;
  }
  [[nodiscard]] bool pushes_rbp(const Function& function) const;
  void lay_out_frame(Function* function) const;
  [[nodiscard]] uint32_t stack_bytes() const;
  void emit_prologue(const Function& function);
  void emit_pops(const Function& function);
  void emit_exit(const Function& function);
  void emit_callback_thunk(Function* function);
  void emit_leave_stub();

  // alu. All return how many instructions they took, where they return something.
  static constexpr unsigned reg(unsigned bpf_reg) { return kRegOf[bpf_reg]; }
  uint32_t emit_alu(const Function& function, uint32_t i);
  uint32_t emit_mov(const Function& function, uint32_t i);
  uint32_t emit_shift(const Function& function, uint32_t i);
  void emit_shift_imm(bool is64, Group2 kind, unsigned dst, unsigned count);
  void emit_shift_reg(bool is64, Group2 kind, unsigned dst, unsigned src);
  void emit_group1(const bpf_insn& insn, Group1 kind);
  void emit_and(const bpf_insn& insn);
  void emit_multiplication(const bpf_insn& insn);
  void emit_endian(const bpf_insn& insn);
  void emit_zero_extend(unsigned dst, unsigned src, unsigned bits);
  void emit_sign_extend(bool wide, unsigned dst, unsigned src, unsigned bits);

  // division
  void emit_division(const bpf_insn& insn, const OperandFacts* divisor);
  bool emit_easy_division(const bpf_insn& insn);
  void emit_division_by_zero(const bpf_insn& insn);
  void emit_signed_division_by_one(const bpf_insn& insn, bool is_minus);
  void emit_divide(const bpf_insn& insn);

  // melt. 0: nothing melted, nothing was written.
  // True when `next` may be melted into the instruction before it: it is there, and nothing jumps to it.
  [[nodiscard]] bool melts(const Function& function, uint32_t next) const {
    return next < function.end && is_target_[next] == 0;
  }
  [[nodiscard]] std::span<const bpf_insn> meltable(const Function& function, uint32_t i,
                                                   uint32_t most) const;
  uint32_t emit_move(const Function& function, uint32_t i);
  uint32_t emit_move_and_next(const Function& function, uint32_t i);
  uint32_t emit_rotation(const Function& function, uint32_t i);
  uint32_t emit_joined_load(const Function& function, uint32_t i);
  uint32_t emit_shift_pair(const Function& function, uint32_t i, unsigned dst, unsigned src);

  // memory
  void emit_load_constant(uint32_t i);
  void emit_load_slot(unsigned dst, uint32_t slot);
  void emit_load(const bpf_insn& insn);
  void emit_load_sized(uint8_t size, unsigned dst, unsigned base, int32_t disp);
  void emit_store(const bpf_insn& insn);
  void emit_store_sized(uint8_t size, unsigned base, int32_t disp, unsigned src);
  void emit_store_imm(const bpf_insn& insn);
  void emit_atomic(const bpf_insn& insn);
  void emit_fetch_loop(const bpf_insn& insn);

  // call
  [[nodiscard]] uint32_t function_named_by(uint32_t i) const;
  [[nodiscard]] uint64_t first_byte_looked_up(uint32_t i) const;
  void emit_call(uint32_t i);
  void emit_lookup(uint32_t i);
  void emit_slot_call(uint32_t slot);

  // read
  void emit_read(uint32_t bytes);
  void emit_read_hit_check(uint32_t bytes, InlineRead* read);
  void emit_read_aside(const InlineRead& read);
  void append_fixups(CompiledProgram* compiled) const;

  // jump
  static constexpr int kAlways = -1;
  void emit_branch(uint32_t i);
  void emit_may_goto(uint32_t i, uint32_t target);
  void emit_compare(const bpf_insn& insn);
  void emit_jump(int condition, uint32_t from, uint32_t target);
  [[nodiscard]] uint32_t first_with_code(uint32_t i) const;

  const std::vector<bpf_insn>& insns_;
  const DecodedProgram& program_;
  const CompileOptions options_;
  const uint32_t count_;
  Emitter out_;
  SlotTable slots_;
  std::vector<Function> functions_;
  std::vector<uint8_t> is_target_;      // of jumps, and the first ones of functions
  std::vector<uint32_t> helper_calls_;  // that need code
  std::vector<uint32_t> offset_of_;     // code of each instruction; [count_] = the fuel stub
  // Of the last round. Forward jumps, whose target is an instruction; and what names a function.
  std::vector<Fixup> fixups_, call_fixups_, thunk_fixups_;
  std::vector<InlineRead> reads_;
  std::vector<ReadFixup> read_fixups_;  // in `code`
  std::vector<uint32_t> leave_fixups_;  // displacements to the leave stub
  Flow flow_;
  uint32_t old_offset_ = 0;  // where the instruction at hand lay in the round before
  bool is_last_round_ = false;
  bool needs_hit_ = false;    // anything that reads the hit, or may fault
  bool counts_fuel_ = false;  // asked for, and there is a backward jump
  bool has_callbacks_ = false;
  bool calls_helpers_ = false;
  bool reads_inline_ = false;
  bool makes_tail_calls_ = false;
  bool any_frame_ = false;
  uint8_t all_saved_ = 0;
  uint32_t body_begin_ = 0, body_end_ = 0, leave_stub_ = 0;
};

}  // namespace bpftime::x64
