// The instructions are gone through once to learn what the program uses (analyse), then twice to
// write code: the first round takes long forms for forward jumps, the second, knowing where
// everything lay at most, takes short ones where they reach. Code only shrinks between the rounds,
// so what was short enough stays short enough.
//
// A function:   push rbp; mov rbp, rsp; sub rsp, frame    (only with a frame: r10 or may_goto is
// used)
//               push what it uses of rbx, r13, r14, r15
// main also:    saves what any function uses, and r12; r12 = hit; hit->program_rsp = rsp; r11 =
// hit->fuel leave stub:   rsp = hit->program_rsp, pops what main pushed: reached from any depth,
// out of helpers' frames too
#include "jit_x64/compile.hpp"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <span>

#include "isa/opcode.hpp"
#include "jit_x64/emitter.hpp"
#include "jit_x64/flow.hpp"
#include "vm/slot_table.hpp"

namespace bpftime {
namespace {

using namespace x64;  // NOLINT(google-build-using-namespace): names of registers

constexpr std::array<Reg, 11> kRegOf = {kRax, kRdi, kRsi, kRdx, kRcx, kR8,
                                        kRbx, kR13, kR14, kR15, kRbp};
constexpr unsigned kHit = kR12;
constexpr unsigned kFuel = kR11;
constexpr unsigned kScratch = kR9;
constexpr unsigned kScratch2 = kR10;
constexpr std::array<Reg, 4> kSaved = {kRbx, kR13, kR14, kR15};  // r6..r9
constexpr int32_t kHitSlots = offsetof(Hit, slots);
constexpr int32_t kHitFuel = offsetof(Hit, fuel);
constexpr int32_t kHitEnded = offsetof(Hit, ended);
constexpr int32_t kHitRsp = offsetof(Hit, program_rsp);
constexpr int32_t kMayGotoLeft = -static_cast<int32_t>(kFrameBytes) - 8;  // from rbp

struct Function {
  uint32_t begin, end;
  uint8_t used_saved;  // bit n: r(6+n) is written
  bool uses_frame, has_may_goto, makes_calls, is_callback;
  uint32_t entry, callback_thunk;  // offsets of its code and of the thunk for helpers
};

// A read that was compiled inline.
struct InlineRead {
  std::array<uint32_t, 3> misses;  // displacements of the jumps to its slow way
  uint32_t loads_begin, loads_end, back;
};

struct Fixup {
  uint32_t at;      // position of the displacement
  uint32_t target;  // instruction
  bool is_short;
};

class Compiler {
 public:
  Compiler(const DecodedProgram& program, const CompileOptions& options)
      : insns_(program.insns),
        program_(program),
        options_(options),
        count_(static_cast<uint32_t>(program.insns.size())),
        out_(count_ * size_t{6} + 512),
        flow_(program.insns, options) {}

  Result<CompiledProgram> run() {
    const uint32_t depth = TRY(call_depth(program_));
    TRY(analyse());
    offset_of_.resize(count_ + 1);
    for (is_last_round_ = false;; is_last_round_ = true) {
      out_.clear();
      emit_all();
      if (out_.position() > INT32_MAX / 2) {
        return make_error(E2BIG, "program needs too much code");
      }
      if (is_last_round_) {
        break;
      }
    }
    for (const Fixup& fixup : fixups_) {
      const uint32_t target = offset_of_[fixup.target];
      if (fixup.is_short) {
        out_.patch8(fixup.at, static_cast<int32_t>(target - fixup.at - 1));
      } else {
        out_.patch32(fixup.at, static_cast<int32_t>(target - fixup.at - 4));
      }
    }
    CompiledProgram compiled{};
    const auto* bytes = reinterpret_cast<const std::byte*>(out_.data());
    compiled.code.assign(bytes, bytes + out_.position());
    compiled.slots = slots_.take();
    if (needs_hit_) {
      compiled.faults.push_back({body_begin_, body_end_, leave_stub_});
      append_fixups(&compiled);
    }
    uint32_t frame = 0;
    for (const Function& function : functions_) {
      const auto pushes = static_cast<uint32_t>(std::popcount(saved_by(function))) +
                          (pushes_rbp(function) ? 1 : 0) +
                          (is_main(function) && needs_hit_ ? 1 : 0);
      frame = std::max(frame, 8 + 8 * pushes + frame_bytes(function) +
                                  (function.is_callback ? 16U : 0U) + (reads_inline_ ? 8U : 0U));
    }
    compiled.facts = (calls_helpers_ || has_callbacks_ ? uint32_t{kCallsHelpers} : 0) |
                     (counts_fuel_ || has_callbacks_ ? uint32_t{kCountsFuel} : 0) |
                     (out_.touches_more() ? uint32_t{kTouchesMore} : 0) |
                     (reads_inline_ ? uint32_t{kReadsInline} : 0) |
                     (makes_tail_calls_ ? uint32_t{kMakesTailCalls} : 0);
    compiled.stack_bytes = frame * depth;
    return compiled;
  }

 private:
  // ---- analysis
  // ----------------------------------------------------------------------------------------------------
  Result<void> analyse() {
    const auto& starts = program_.function_starts;
    functions_.resize(starts.size());
    for (size_t f = 0; f < starts.size(); ++f) {
      functions_[f] = Function{};
      functions_[f].begin = starts[f];
      functions_[f].end = f + 1 < starts.size() ? starts[f + 1] : count_;
    }
    is_target_.assign(count_ + 1, 0);
    for (Function& function : functions_) {
      is_target_[function.begin] = 1;
      for (uint32_t i = function.begin; i < function.end; ++i) {
        const bpf_insn& insn = insns_[i];
        if (!flow_.needs_code(i)) {
          continue;
        }
        if (insn.dst_reg == 10 || insn.src_reg == 10) {
          function.uses_frame = true;
        }
        switch (insn_class(insn.code)) {
          case BPF_JMP:
          case BPF_JMP32:
            if (insn.code == kOpCall) {
              function.makes_calls = true;
              if (insn.src_reg == kCallKfunc) {
                return make_error(EOPNOTSUPP, "calls of kernel functions are not supported");
              }
              if (insn.src_reg == kCallHelper) {
                needs_hit_ = true;
                makes_tail_calls_ = makes_tail_calls_ || insn.imm == BPF_FUNC_tail_call;
              }
            } else if (insn.code != kOpExit) {
              const auto target = static_cast<uint32_t>(jump_target(insn, i));
              is_target_[target] = 1;
              if (target <= i && options_.count_fuel) {
                counts_fuel_ = true;
              }
              if (insn.code == kOpMayGoto) {
                function.has_may_goto = true;
              }
            }
            break;
          case BPF_LD: {
            writes(function, insn.dst_reg);
            const uint64_t high = static_cast<uint32_t>(insns_[i + 1].imm);
            switch (insn.src_reg) {
              case kLoadImm:
                break;
              case kLoadMapFd:
                slots_.intern(SlotKind::kMap, static_cast<uint32_t>(insn.imm), 0);
                needs_hit_ = true;
                break;
              case kLoadMapValue:
                slots_.intern(SlotKind::kMapValue, static_cast<uint32_t>(insn.imm), high);
                needs_hit_ = true;
                break;
              case kLoadFunction:
                functions_[function_of(program_, static_cast<uint32_t>(int64_t{i} + 1 + insn.imm))]
                    .is_callback = true;
                has_callbacks_ = true;
                needs_hit_ = true;
                break;
              default:
                return make_error(EOPNOTSUPP, "unresolved or unsupported 64-bit load");
            }
            ++i;
            break;
          }
          case BPF_STX:
            needs_hit_ = true;
            if (insn_mode(insn.code) == BPF_ATOMIC) {
              if (insn.imm == kLoadAcquire) {
                writes(function, insn.dst_reg);
              } else if ((insn.imm & BPF_FETCH) != 0) {
                writes(function, insn.src_reg);
              }
            }
            break;
          case BPF_ST:
            needs_hit_ = true;
            break;
          case BPF_LDX:
            needs_hit_ = true;
            writes(function, insn.dst_reg);
            break;
          default:
            if (insn_op(insn.code) == BPF_MOV && insn_has_reg(insn.code) && insn.off == 1) {
              return make_error(EOPNOTSUPP, "arena address casts are not supported yet");
            }
            writes(function, insn.dst_reg);
            break;
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
    find_reads();
    return {};
  }
  // Which calls of helpers are compiled inline; once all targets of jumps are known.
  void find_reads() {
    for (const Function& function : functions_) {
      for (uint32_t i = function.begin; i < function.end; i += insns_[i].code == kOpLddw ? 2 : 1) {
        const bpf_insn& insn = insns_[i];
        if (insn.code != kOpCall || insn.src_reg != kCallHelper || !flow_.needs_code(i)) {
          continue;
        }
        if (flow_.looked_up(i) != nullptr) {
          slots_.intern(SlotKind::kMapValue, flow_.looked_up(i)->map, first_byte_looked_up(i));
        } else if (inline_read_bytes(function, i) != 0) {
          slots_.intern(SlotKind::kReadAside, 0, 0);
          reads_inline_ = true;
        } else {
          slots_.intern(SlotKind::kHelper, static_cast<uint32_t>(insn.imm), 0);
          calls_helpers_ = true;
        }
      }
    }
  }
  // Where in its array a lookup begins: at the element, when the index is known.
  [[nodiscard]] uint64_t first_byte_looked_up(uint32_t i) {
    return has_known_index(i) ? flow_.known(i)->lowest * flow_.looked_up(i)->stride : 0;
  }
  [[nodiscard]] bool has_known_index(uint32_t i) const {
    const OperandFacts& known = *flow_.known(i);
    return known.lowest == known.highest && known.highest < flow_.looked_up(i)->element_count;
  }

  // Bytes that the call at `i` reads, when it is a read to be compiled inline; else 0. The size (r2) is known from the
  // verifier, or when the instruction that set it lies before in one run, and sets a constant.
  [[nodiscard]] uint32_t inline_read_bytes(const Function& function, uint32_t i) const {
    const int32_t helper = insns_[i].imm;
    if (options_.read_cache == nullptr ||
        (helper != BPF_FUNC_probe_read && helper != BPF_FUNC_probe_read_user &&
         helper != BPF_FUNC_probe_read_kernel)) {
      return 0;
    }
    if (const OperandFacts* known = flow_.known(i); known != nullptr) {
      const bool is_small = known->lowest == known->highest && known->highest <= kLargestInlineRead;
      return is_small ? static_cast<uint32_t>(known->highest) : 0;
    }
    while (i > function.begin && is_target_[i] == 0) {
      i--;
      const bpf_insn& insn = insns_[i];
      const bool is_alu = insn_class(insn.code) == BPF_ALU || insn_class(insn.code) == BPF_ALU64;
      if (is_alu && insn.dst_reg == 2) {
        const bool is_constant = insn_op(insn.code) == BPF_MOV && !insn_has_reg(insn.code);
        return is_constant && insn.imm > 0 && insn.imm <= static_cast<int32_t>(kLargestInlineRead)
                   ? static_cast<uint32_t>(insn.imm)
                   : 0;
      }
      const bool is_easy = is_alu || insn.code == 0 || insn.code == kOpLddw ||
                           insn_class(insn.code) == BPF_ST || insn_class(insn.code) == BPF_LDX ||
                           (insn_class(insn.code) == BPF_STX && insn_mode(insn.code) == BPF_MEM);
      if (!is_easy || (insn.dst_reg == 2 && insn_class(insn.code) != BPF_ST &&
                       insn_class(insn.code) != BPF_STX)) {
        return 0;
      }
    }
    return 0;
  }
  static void writes(Function& function, uint8_t reg) {
    if (reg >= 6 && reg <= 9) {
      function.used_saved = static_cast<uint8_t>(function.used_saved | 1U << (reg - 6));
    }
  }

  // ---- frames
  // ------------------------------------------------------------------------------------------------------
  [[nodiscard]] bool is_main(const Function& function) const {
    return &function == functions_.data();
  }
  [[nodiscard]] uint8_t saved_by(const Function& function) const {
    return is_main(function) ? all_saved_ : function.used_saved;
  }
  [[nodiscard]] bool pushes_rbp(const Function& function) const {
    return function.uses_frame ||
           (is_main(function) && needs_hit_ && (any_frame_ || has_callbacks_));
  }
  // What `sub rsp` takes: the eBPF frame, the may_goto counter, and what aligns rsp for calls.
  [[nodiscard]] uint32_t frame_bytes(const Function& function) const {
    uint32_t bytes = 0;
    if (function.uses_frame) {
      const bool is_known =
          options_.frame_bytes != 0 && functions_.size() == 1 && !function.has_may_goto;
      bytes = is_known ? std::min((options_.frame_bytes + 7) & ~7U, kFrameBytes)
                       : kFrameBytes + (function.has_may_goto ? 8 : 0);
    }
    const auto pushes = static_cast<uint32_t>(std::popcount(saved_by(function))) +
                        (pushes_rbp(function) ? 1 : 0) + (is_main(function) && needs_hit_ ? 1 : 0);
    const bool is_aligned = (8 + pushes * 8 + bytes) % 16 == 0;
    if (!is_aligned && (function.makes_calls || has_callbacks_)) {
      bytes += 8;
    }
    return bytes;
  }

  void emit_prologue(const Function& function) {
    if (pushes_rbp(function)) {
      out_.push(kRbp);
      out_.mov(true, kRbp, kRsp);
    }
    if (const uint32_t bytes = frame_bytes(function); bytes != 0) {
      out_.group1_imm(true, kSub, kRsp, static_cast<int32_t>(bytes));
    }
    for (uint32_t n = 0; n < 4; ++n) {
      if ((saved_by(function) >> n & 1) != 0) {
        out_.push(kSaved[n]);
      }
    }
    if (is_main(function)) {
      if (needs_hit_) {
        out_.push(kHit);
        out_.mov(true, kHit, kRsi);
        out_.store64(kHit, kHitRsp, kRsp);
        if (counts_fuel_) {
          out_.load64(kFuel, kHit, kHitFuel);
        }
      }
      if (options_.takes_length) {
        out_.mov(true, kRsi, kRdx);
      }
      body_begin_ = out_.position();
    }
    if (function.has_may_goto) {
      out_.op_rm(true, 0xc7, 0, kRbp, kMayGotoLeft);
      out_.word32(kMayGotoRounds);
    }
  }

  void emit_pops(const Function& function) {
    if (is_main(function) && needs_hit_) {
      out_.pop(kHit);
    }
    for (uint32_t n = 4; n-- > 0;) {
      if ((saved_by(function) >> n & 1) != 0) {
        out_.pop(kSaved[n]);
      }
    }
    if (const uint32_t bytes = frame_bytes(function); bytes != 0) {
      out_.group1_imm(true, kAdd, kRsp, static_cast<int32_t>(bytes));
    }
    if (pushes_rbp(function)) {
      out_.pop(kRbp);
    }
    out_.ret();
  }

  void emit_exit(const Function& function) {
    if (is_main(function) && counts_fuel_) {
      out_.store64(kHit, kHitFuel, kFuel);
    }
    emit_pops(function);
  }

  // ---- the whole
  // ---------------------------------------------------------------------------------------------------
  void emit_all() {
    fixups_.clear();
    reads_.clear();
    for (Function& function : functions_) {
      out_.make_room();
      if (function.is_callback) {
        // A HelperFn: the hit comes in r9. The helper that calls may use r12 for itself; fuel is in
        // the hit meanwhile.
        function.callback_thunk = out_.position();
        out_.push(kHit);
        out_.mov(true, kHit, kR9);
        if (counts_fuel_) {
          out_.load64(kFuel, kHit, kHitFuel);
        }
        out_.byte(0xe8);
        const uint32_t distance = out_.position();
        out_.word32(0);
        if (counts_fuel_) {
          out_.store64(kHit, kHitFuel, kFuel);
        }
        out_.pop(kHit);
        out_.ret();
        out_.patch32(distance, static_cast<int32_t>(out_.position() - distance - 4));
      }
      function.entry = out_.position();
      if (!flow_.is_reached(function.begin)) {
        std::fill(offset_of_.begin() + function.begin, offset_of_.begin() + function.end,
                  function.entry);
        continue;
      }
      emit_prologue(function);
      for (uint32_t i = function.begin; i < function.end;) {
        out_.make_room();
        old_offset_ = offset_of_[i];
        offset_of_[i] = out_.position();
        const uint32_t taken = flow_.needs_code(i) ? emit_insn(function, i) : 1;
        for (uint32_t skipped = i + 1; skipped < i + taken; ++skipped) {
          offset_of_[skipped] = out_.position();
        }
        i += taken;
      }
    }
    for (const InlineRead& read : reads_) {
      out_.make_room();
      emit_read_aside(read);
    }
    out_.make_room();
    body_end_ = out_.position();
    offset_of_[count_] = body_end_;  // jumps to the fuel stub go there
    if (needs_hit_) {
      if (counts_fuel_) {
        out_.op_rm(false, 0xc7, 0, kHit, kHitEnded);
        out_.word32(kHitOutOfFuel);
        out_.store64(kHit, kHitFuel, kFuel);
        out_.mov(true, kRdi, kHit);
      }
      leave_stub_ = out_.position();
      out_.load64(kRsp, kRdi, kHitRsp);
      out_.mov_imm(kRax, 0);
      emit_pops(functions_[0]);
      for (const uint32_t at : leave_fixups_) {
        out_.patch32(at, static_cast<int32_t>(leave_stub_ - at - 4));
      }
    }
    leave_fixups_.clear();
    if (is_last_round_) {
      for (const Fixup& call : call_fixups_) {
        out_.patch32(call.at, static_cast<int32_t>(functions_[call.target].entry - call.at - 4));
      }
      for (const Fixup& thunk : thunk_fixups_) {
        out_.patch32(thunk.at,
                     static_cast<int32_t>(functions_[thunk.target].callback_thunk - thunk.at - 4));
      }
    }
    call_fixups_.clear();
    thunk_fixups_.clear();
  }

  // ---- jumps
  // -------------------------------------------------------------------------------------------------------
  // `condition` kAlways: jmp. `from` is the instruction that jumps, `target` where to (count_ = the
  // fuel stub).
  static constexpr int kAlways = -1;
  void emit_jump(int condition, uint32_t from, uint32_t target) {
    bool is_short = false;
    const uint32_t here = out_.position();
    if (target <= from) {
      is_short = int64_t{offset_of_[target]} - (int64_t{here} + 2) >= -128;
    } else if (is_last_round_) {
      // Both positions are of the round before, and nothing has grown since.
      is_short = int64_t{offset_of_[target]} - old_offset_ <= 127;
    }
    if (condition == kAlways) {
      out_.byte(is_short ? 0xeb : 0xe9);
    } else if (is_short) {
      out_.byte(0x70U | static_cast<unsigned>(condition));
    } else {
      out_.byte(0x0f);
      out_.byte(0x80U | static_cast<unsigned>(condition));
    }
    const uint32_t at = out_.position();
    if (target <= from) {
      const uint32_t to = offset_of_[target];
      if (is_short) {
        out_.byte(to - at - 1);
      } else {
        out_.word32(static_cast<int32_t>(to - at - 4));
      }
      return;
    }
    if (is_last_round_) {
      fixups_.push_back({at, target, is_short});
    }
    if (is_short) {
      out_.byte(0);
    } else {
      out_.word32(0);
    }
  }

  // ---- instructions
  // ------------------------------------------------------------------------------------------------
  static constexpr unsigned reg(unsigned bpf_reg) { return kRegOf[bpf_reg]; }

  // True when `next` may be melted into the instruction before it: it is there, and nothing jumps
  // to it.
  [[nodiscard]] bool melts(const Function& function, uint32_t next) const {
    return next < function.end && is_target_[next] == 0;
  }

  // Writes the code of instruction i, and of those after it that melt with it; returns how many it
  // took.
  uint32_t emit_insn(const Function& function, uint32_t i) {
    const bpf_insn& insn = insns_[i];
    switch (insn_class(insn.code)) {
      case BPF_ALU:
      case BPF_ALU64:
        return emit_alu(function, i);
      case BPF_LD:
        emit_lddw(i);
        return 2;
      case BPF_LDX:
        if (insn.code == (BPF_LDX | BPF_MEM | BPF_B)) {
          if (const uint32_t taken = emit_joined_load(function, i); taken != 0) {
            return taken;
          }
        }
        emit_load(insn);
        return 1;
      case BPF_ST:
        emit_store_imm(insn);
        return 1;
      case BPF_STX:
        if (insn_mode(insn.code) == BPF_ATOMIC) {
          emit_atomic(insn);
        } else {
          emit_store(insn);
        }
        return 1;
      default:
        if (insn.code == kOpExit) {
          emit_exit(function);
        } else if (insn.code == kOpCall) {
          emit_call(function, i);
        } else {
          emit_branch(insn, i);
        }
        return 1;
    }
  }

  // ---- sequences that compilers write for one machine instruction
  // True when instructions i + 1 ... i + count - 1 are there and nothing jumps to them.
  [[nodiscard]] bool melts_all(const Function& function, uint32_t i, uint32_t count) const {
    if (function.end - i < count) {
      return false;
    }
    for (uint32_t k = 1; k < count; ++k) {
      if (is_target_[i + k] != 0) {
        return false;
      }
    }
    return true;
  }

  // mov t, s; shift t one way; [mov d, s;] shift d the other way; or d, t: a rotation, when t is
  // not read any more. Returns how many instructions it took, 0 for none.
  uint32_t emit_rotation(const Function& function, uint32_t i) {
    const bpf_insn& first = insns_[i];
    const uint8_t alu_class = insn_class(first.code);
    const int32_t width = alu_class == BPF_ALU64 ? 64 : 32;
    if (first.off != 0 || first.src_reg == first.dst_reg || !melts_all(function, i, 4)) {
      return 0;
    }
    const bpf_insn* at = &insns_[i + 1];
    const auto is_shift = [&](const bpf_insn& insn) {
      return (insn.code == (alu_class | BPF_LSH | BPF_K) ||
              insn.code == (alu_class | BPF_RSH | BPF_K)) &&
             insn.imm > 0 && insn.imm < width;
    };
    if (!is_shift(at[0]) || at[0].dst_reg != first.dst_reg) {
      return 0;
    }
    const bool has_copy = at[1].code == (alu_class | BPF_MOV | BPF_X);
    if (has_copy &&
        (at[1].off != 0 || at[1].src_reg != first.src_reg || at[1].dst_reg == first.dst_reg ||
         at[1].dst_reg == first.src_reg || !melts_all(function, i, 5))) {
      return 0;
    }
    const bpf_insn& other = has_copy ? at[2] : at[1];
    const bpf_insn& join = has_copy ? at[3] : at[2];
    const uint8_t second = has_copy ? at[1].dst_reg : first.src_reg;
    if (!is_shift(other) || other.dst_reg != second || other.code == at[0].code ||
        other.imm + at[0].imm != width || join.code != (alu_class | BPF_OR | BPF_X)) {
      return 0;
    }
    const bool joins_second = join.dst_reg == second && join.src_reg == first.dst_reg;
    const bool joins_first = join.dst_reg == first.dst_reg && join.src_reg == second;
    if (!joins_second && !joins_first) {
      return 0;
    }
    const uint32_t taken = has_copy ? 5 : 4;
    if ((flow_.live_after(i + taken - 1) >> join.src_reg & 1) != 0) {
      return 0;
    }
    const bool is64 = alu_class == BPF_ALU64;
    if (join.dst_reg != first.src_reg) {
      out_.mov(is64, reg(join.dst_reg), reg(first.src_reg));
    }
    const int32_t left = insn_op(at[0].code) == BPF_LSH ? at[0].imm : other.imm;
    out_.shift_imm(is64, kRol, reg(join.dst_reg), static_cast<unsigned>(left));
    return taken;
  }

  // Bytes loaded one by one and put together, lowest first: one load of 2 or 4 bytes, when the
  // parts are not read any more.
  uint32_t emit_joined_load(const Function& function, uint32_t i) {
    constexpr uint8_t kByteLoad = BPF_LDX | BPF_MEM | BPF_B;
    if (!melts_all(function, i, 4) || insns_[i + 1].code != kByteLoad) {
      return 0;
    }
    const bpf_insn* at = &insns_[i];
    const uint8_t base = at[0].src_reg;
    if (at[1].src_reg != base || at[0].dst_reg == base || at[0].dst_reg == at[1].dst_reg) {
      return 0;
    }
    const bool is_low_first = at[1].off == at[0].off + 1;
    if (!is_low_first && at[0].off != at[1].off + 1) {
      return 0;
    }
    const bpf_insn& low = is_low_first ? at[0] : at[1];
    const uint8_t sum = (is_low_first ? at[1] : at[0]).dst_reg;
    const auto joins = [&](const bpf_insn& shift, const bpf_insn& join, uint8_t part, int32_t bits,
                           bool shifts_sum) {
      return is_alu(shift, BPF_LSH | BPF_K) && shift.dst_reg == (shifts_sum ? sum : part) &&
             shift.imm == bits && is_alu(join, BPF_OR | BPF_X) && join.dst_reg == sum &&
             join.src_reg == part;
    };
    if (!joins(at[2], at[3], low.dst_reg, 8, true)) {
      return 0;
    }
    uint32_t parts = 1U << low.dst_reg;
    uint32_t wide_parts = parts;
    bool is_wide = base != sum && base != low.dst_reg && melts_all(function, i, 10);
    for (int k = 0; k < 2 && is_wide; ++k) {
      const bpf_insn* next = &at[4 + 3 * k];
      is_wide = next[0].code == kByteLoad && next[0].src_reg == base &&
                next[0].off == low.off + 2 + k && next[0].dst_reg != sum &&
                (k == 1 || next[0].dst_reg != base) &&
                joins(next[1], next[2], next[0].dst_reg, 16 + 8 * k, false);
      wide_parts |= 1U << next[0].dst_reg;
    }
    if (is_wide && (flow_.live_after(i + 9) & wide_parts) == 0) {
      out_.op_rm(false, 0x8b, reg(sum), reg(base), low.off);
      return 10;
    }
    if ((flow_.live_after(i + 3) & parts) != 0) {
      return 0;
    }
    out_.op_rm(false, 0x0fb7, reg(sum), reg(base), low.off);
    return 4;
  }
  static bool is_alu(const bpf_insn& insn, int op) {
    return insn.code == (BPF_ALU | op) || insn.code == (BPF_ALU64 | op);
  }

  // A move and what follows it on the same register, as one instruction where x86 has one.
  uint32_t emit_move(const Function& function, uint32_t i) {
    const bpf_insn& insn = insns_[i];
    const unsigned dst = reg(insn.dst_reg);
    const unsigned src = reg(insn.src_reg);
    const bool is64 = insn_class(insn.code) == BPF_ALU64;
    if (const uint32_t taken = emit_rotation(function, i); taken != 0) {
      return taken;
    }
    if (is64 && melts(function, i + 1) && insns_[i + 1].dst_reg == insn.dst_reg &&
        insn.dst_reg != insn.src_reg) {
      const bpf_insn& next = insns_[i + 1];
      switch (next.code) {
        case BPF_ALU64 | BPF_ADD | BPF_K:
          out_.lea(true, dst, src, next.imm);
          return 2;
        case BPF_ALU64 | BPF_ADD | BPF_X: {
          const unsigned other = next.src_reg == insn.dst_reg ? src : reg(next.src_reg);
          out_.lea(true, dst, src, other, 0, 0);
          return 2;
        }
        case BPF_ALU64 | BPF_AND | BPF_K:
          if (next.imm == 0xff || next.imm == 0xffff) {
            emit_zero_extend(dst, src, next.imm == 0xff ? 8 : 16);
            return 2;
          }
          break;
        case BPF_ALU64 | BPF_LSH | BPF_K:
          if (const uint32_t taken = emit_shift_pair(function, i + 1, dst, src); taken != 0) {
            return 1 + taken;
          }
          break;
        case BPF_ALU64 | BPF_LSH | BPF_X:
        case BPF_ALU64 | BPF_RSH | BPF_X:
        case BPF_ALU64 | BPF_ARSH | BPF_X:
          if (options_.has_bmi2 && next.src_reg != insn.dst_reg) {
            out_.shift_bmi2(true, group2_of(next.code), dst, src, reg(next.src_reg));
            return 2;
          }
          break;
        default:
          break;
      }
    }
    if (!is64 || dst != src) {
      out_.mov(is64, dst, src);
    }
    return 1;
  }

  // lsh k; rsh k or arsh k, as an extension of `src` into `dst`; 0 when it is not one.
  uint32_t emit_shift_pair(const Function& function, uint32_t i, unsigned dst, unsigned src) {
    const bpf_insn& left = insns_[i];
    if (left.imm != 32 && left.imm != 48 && left.imm != 56) {
      return 0;
    }
    if (!melts(function, i + 1)) {
      return 0;
    }
    const bpf_insn& right = insns_[i + 1];
    if (right.dst_reg != left.dst_reg || right.imm != left.imm) {
      return 0;
    }
    if (right.code == (BPF_ALU64 | BPF_RSH | BPF_K)) {
      emit_zero_extend(dst, src, 64U - static_cast<unsigned>(left.imm));
      return 2;
    }
    if (right.code == (BPF_ALU64 | BPF_ARSH | BPF_K)) {
      emit_sign_extend(true, dst, src, 64U - static_cast<unsigned>(left.imm));
      return 2;
    }
    return 0;
  }

  void emit_zero_extend(unsigned dst, unsigned src, unsigned bits) {
    if (bits == 32) {
      out_.mov(false, dst, src);
    } else if (bits == 16) {
      out_.op_rr(false, 0x0fb7, dst, src);
    } else {
      out_.op_rr(false, 0x0fb6, dst, src, src >= kRsp);
    }
  }
  void emit_sign_extend(bool wide, unsigned dst, unsigned src, unsigned bits) {
    if (bits == 32) {
      out_.op_rr(true, 0x63, dst, src);
    } else if (bits == 16) {
      out_.op_rr(wide, 0x0fbf, dst, src);
    } else {
      out_.op_rr(wide, 0x0fbe, dst, src, src >= kRsp);
    }
  }

  static Group2 group2_of(uint8_t code) {
    return insn_op(code) == BPF_LSH ? kShl : insn_op(code) == BPF_RSH ? kShr : kSar;
  }

  uint32_t emit_alu(const Function& function, uint32_t i) {
    const bpf_insn& insn = insns_[i];
    const bool is64 = insn_class(insn.code) == BPF_ALU64;
    const bool has_reg = insn_has_reg(insn.code);
    const unsigned dst = reg(insn.dst_reg);
    const unsigned src = reg(insn.src_reg);
    switch (insn_op(insn.code)) {
      case BPF_MOV:
        if (!has_reg) {
          out_.mov_imm(dst, is64 ? static_cast<uint64_t>(int64_t{insn.imm})
                                 : static_cast<uint32_t>(insn.imm));
        } else if (insn.off != 0) {
          emit_sign_extend(is64, dst, src, static_cast<unsigned>(insn.off));
        } else {
          return emit_move(function, i);
        }
        return 1;
      case BPF_ADD:
        emit_group1(insn, kAdd);
        return 1;
      case BPF_SUB:
        emit_group1(insn, kSub);
        return 1;
      case BPF_OR:
        emit_group1(insn, kOr);
        return 1;
      case BPF_XOR:
        emit_group1(insn, kXor);
        return 1;
      case BPF_AND:
        if (!has_reg && (insn.imm == 0xff || insn.imm == 0xffff)) {
          emit_zero_extend(dst, dst, insn.imm == 0xff ? 8 : 16);
        } else if (!has_reg && insn.imm >= 0) {
          out_.group1_imm(false, kAnd, dst, insn.imm);  // the upper half becomes zero either way
        } else {
          emit_group1(insn, kAnd);
        }
        return 1;
      case BPF_MUL:
        if (has_reg) {
          out_.op_rr(is64, 0x0faf, dst, src);
        } else if (insn.imm > 0 && std::has_single_bit(static_cast<uint32_t>(insn.imm))) {
          emit_shift_imm(is64, kShl, dst,
                         static_cast<unsigned>(std::countr_zero(static_cast<uint32_t>(insn.imm))));
        } else if (insn.imm >= -128 && insn.imm <= 127) {
          out_.op_rr(is64, 0x6b, dst, dst);
          out_.byte(static_cast<unsigned>(insn.imm));
        } else {
          out_.op_rr(is64, 0x69, dst, dst);
          out_.word32(insn.imm);
        }
        return 1;
      case BPF_LSH:
        if (is64 && !has_reg) {
          if (const uint32_t taken = emit_shift_pair(function, i, dst, dst); taken != 0) {
            return taken;
          }
        }
        [[fallthrough]];
      case BPF_RSH:
      case BPF_ARSH:
        if (has_reg) {
          emit_shift_reg(is64, group2_of(insn.code), dst, src);
        } else {
          emit_shift_imm(is64, group2_of(insn.code), dst,
                         static_cast<unsigned>(insn.imm) & (is64 ? 63U : 31U));
        }
        return 1;
      case BPF_NEG:
        out_.op_rr(is64, 0xf7, 3, dst);
        return 1;
      case BPF_END:
        emit_endian(insn, dst);
        return 1;
      default:
        emit_division(insn, flow_.known(i));
        return 1;
    }
  }

  void emit_group1(const bpf_insn& insn, Group1 kind) {
    const bool is64 = insn_class(insn.code) == BPF_ALU64;
    const unsigned dst = reg(insn.dst_reg);
    if (insn_has_reg(insn.code)) {
      out_.group1_rr(is64, kind, dst, reg(insn.src_reg));
    } else if (insn.imm == 128 && (kind == kAdd || kind == kSub)) {
      out_.group1_imm(is64, kind == kAdd ? kSub : kAdd, dst, -128);
    } else {
      out_.group1_imm(is64, kind, dst, insn.imm);
    }
  }

  void emit_shift_imm(bool is64, Group2 kind, unsigned dst, unsigned count) {
    if (count != 0) {
      out_.shift_imm(is64, kind, dst, count);
    } else if (!is64) {
      out_.mov(false, dst, dst);
    }
  }

  void emit_shift_reg(bool is64, Group2 kind, unsigned dst, unsigned src) {
    if (src == kRcx) {
      out_.shift_cl(is64, kind, dst);
    } else if (options_.has_bmi2) {
      out_.shift_bmi2(is64, kind, dst, dst, src);
    } else if (dst == kRcx) {
      out_.mov(true, kScratch, kRcx);
      out_.mov(false, kRcx, src);
      out_.shift_cl(is64, kind, kScratch);
      out_.mov(true, kRcx, kScratch);
    } else {
      out_.mov(true, kScratch, kRcx);
      out_.mov(false, kRcx, src);
      out_.shift_cl(is64, kind, dst);
      out_.mov(true, kRcx, kScratch);
    }
    // A 32-bit shift by cl = 0 leaves flags alone but still writes, and so clears, the upper half
    // (SDM 1 §3.4.1.1).
  }

  void emit_endian(const bpf_insn& insn, unsigned dst) {
    const bool swaps = insn_class(insn.code) == BPF_ALU64 || insn_has_reg(insn.code);
    if (insn.imm == 16) {
      if (swaps) {
        out_.byte(0x66);
        out_.op_rr(false, 0xc1, kRor, dst);
        out_.byte(8);
      }
      emit_zero_extend(dst, dst, 16);
      return;
    }
    const bool is64 = insn.imm == 64;
    if (swaps) {
      out_.bswap(is64, dst);
      return;
    }
    if (!is64) {
      out_.mov(false, dst, dst);
    }
  }

  // Local jumps over a few bytes: the position of the displacement, and its filling.
  uint32_t jump_over(unsigned opcode) {
    out_.byte(opcode);
    out_.byte(0);
    return out_.position() - 1;
  }
  void land(uint32_t at) { out_.patch8(at, static_cast<int32_t>(out_.position() - at - 1)); }

  // Unsigned and signed division and remainder: x / 0 = 0, x % 0 = x, INT_MIN / -1 = INT_MIN,
  // INT_MIN % -1 = 0.
  void emit_division(const bpf_insn& insn, const OperandFacts* divisor_facts) {
    const bool is64 = insn_class(insn.code) == BPF_ALU64;
    const bool is_signed = insn.off == 1;
    const bool is_mod = insn_op(insn.code) == BPF_MOD;
    const bool has_reg = insn_has_reg(insn.code);
    const unsigned dst = reg(insn.dst_reg);
    const unsigned src = reg(insn.src_reg);
    if (!has_reg && emit_easy_division(insn, dst)) {
      return;
    }
    uint32_t to_end[3] = {};
    uint32_t ends = 0;
    const bool may_be_zero = divisor_facts == nullptr || divisor_facts->lowest == 0;
    const bool may_be_minus_one =
        is_signed && (divisor_facts == nullptr ||
                      divisor_facts->highest >= (is64 ? UINT64_MAX : uint64_t{UINT32_MAX}));
    if (has_reg && may_be_zero) {
      out_.test_rr(is64, src, src);
      const uint32_t not_zero = jump_over(0x75);
      if (!is_mod) {
        out_.mov_imm(dst, 0);
      } else if (!is64) {
        out_.mov(false, dst, dst);
      }
      to_end[ends++] = jump_over(0xeb);
      land(not_zero);
    }
    if (has_reg && may_be_minus_one) {
      out_.group1_imm(is64, kCmp, src, -1);
      const uint32_t not_minus_one = jump_over(0x75);
      if (is_mod) {
        out_.mov_imm(dst, 0);
      } else {
        out_.op_rr(is64, 0xf7, 3, dst);
      }
      to_end[ends++] = jump_over(0xeb);
      land(not_minus_one);
    }
    const bool saves_rax = dst != kRax || (has_reg && src == kRax);
    const bool saves_rdx = dst != kRdx || (has_reg && src == kRdx);
    if (saves_rax) {
      out_.mov(true, kScratch, kRax);
    }
    if (saves_rdx) {
      out_.mov(true, kScratch2, kRdx);
    }
    unsigned divisor = src;
    if (has_reg) {
      divisor = src == kRax ? kScratch : src == kRdx ? kScratch2 : src;
    }
    if (dst != kRax) {
      out_.mov(true, kRax, dst);
    }
    if (!has_reg) {  // dst's own register is free now, or the scratch that saves nothing
      divisor = dst == kRax ? kScratch : dst == kRdx ? kScratch2 : dst;
      out_.mov_imm(divisor, is64 ? static_cast<uint64_t>(int64_t{insn.imm})
                                 : static_cast<uint32_t>(insn.imm));
    }
    if (is_signed) {
      if (is64) {
        out_.byte(0x48);
      }
      out_.byte(0x99);  // cqo, cdq
      out_.op_rr(is64, 0xf7, 7, divisor);
    } else {
      out_.mov_imm(kRdx, 0);
      out_.op_rr(is64, 0xf7, 6, divisor);
    }
    const unsigned result = is_mod ? kRdx : kRax;
    if (dst != result) {
      out_.mov(true, dst, result);
    }
    if (dst != kRax && saves_rax) {
      out_.mov(true, kRax, kScratch);
    }
    if (dst != kRdx && saves_rdx) {
      out_.mov(true, kRdx, kScratch2);
    }
    while (ends > 0) {
      land(to_end[--ends]);
    }
  }

  // Division by a constant that needs no division. False when it needs one.
  bool emit_easy_division(const bpf_insn& insn, unsigned dst) {
    const bool is64 = insn_class(insn.code) == BPF_ALU64;
    const bool is_signed = insn.off == 1;
    const bool is_mod = insn_op(insn.code) == BPF_MOD;
    if (insn.imm == 0) {
      if (!is_mod) {
        out_.mov_imm(dst, 0);
      } else if (!is64) {
        out_.mov(false, dst, dst);
      }
      return true;
    }
    if (is_signed) {
      if (insn.imm != -1 && insn.imm != 1) {
        return false;
      }
      if (is_mod) {
        out_.mov_imm(dst, 0);
      } else if (insn.imm == -1) {
        out_.op_rr(is64, 0xf7, 3, dst);
      } else if (!is64) {
        out_.mov(false, dst, dst);
      }
      return true;
    }
    const uint64_t divisor =
        is64 ? static_cast<uint64_t>(int64_t{insn.imm}) : static_cast<uint32_t>(insn.imm);
    if (!std::has_single_bit(divisor)) {
      return false;
    }
    if (is_mod) {
      out_.group1_imm(false, kAnd, dst, static_cast<int32_t>(static_cast<uint32_t>(divisor - 1)));
    } else {
      emit_shift_imm(is64, kShr, dst, static_cast<unsigned>(std::countr_zero(divisor)));
    }
    return true;
  }

  void emit_lddw(uint32_t i) {
    const bpf_insn& insn = insns_[i];
    const unsigned dst = reg(insn.dst_reg);
    const uint64_t high = static_cast<uint32_t>(insns_[i + 1].imm);
    switch (insn.src_reg) {
      case kLoadMapFd:
      case kLoadMapValue: {
        const bool is_value = insn.src_reg == kLoadMapValue;
        const uint32_t slot = slots_.intern(is_value ? SlotKind::kMapValue : SlotKind::kMap,
                                            static_cast<uint32_t>(insn.imm), is_value ? high : 0);
        out_.load64(dst, kHit, kHitSlots);
        out_.load64(dst, dst, static_cast<int32_t>(slot * 8));
        break;
      }
      case kLoadFunction: {
        const uint32_t at = out_.lea_rip(dst);
        if (is_last_round_) {
          thunk_fixups_.push_back(
              {at, function_of(program_, static_cast<uint32_t>(int64_t{i} + 1 + insn.imm)), false});
        }
        break;
      }
      default:
        out_.mov_imm(dst, lddw_value(insn, insns_[i + 1]));
        break;
    }
  }

  void emit_load(const bpf_insn& insn) {
    const unsigned dst = reg(insn.dst_reg);
    const unsigned base = reg(insn.src_reg);
    const bool is_signed = insn_mode(insn.code) == kModeMemSx;
    switch (insn_size(insn.code)) {
      case BPF_B:
        out_.op_rm(is_signed, is_signed ? 0x0fbe : 0x0fb6, dst, base, insn.off);
        break;
      case BPF_H:
        out_.op_rm(is_signed, is_signed ? 0x0fbf : 0x0fb7, dst, base, insn.off);
        break;
      case BPF_W:
        out_.op_rm(is_signed, is_signed ? 0x63 : 0x8b, dst, base, insn.off);
        break;
      default:
        out_.op_rm(true, 0x8b, dst, base, insn.off);
        break;
    }
  }

  // Without sign; 1, 2 and 4 bytes become 8.
  void emit_load_sized(uint8_t size, unsigned dst, unsigned base, int32_t disp) {
    const unsigned opcode = size == BPF_B ? 0x0fb6 : size == BPF_H ? 0x0fb7 : 0x8b;
    out_.op_rm(size == BPF_DW, opcode, dst, base, disp);
  }
  void emit_store(const bpf_insn& insn) {
    emit_store_sized(insn_size(insn.code), reg(insn.dst_reg), insn.off, reg(insn.src_reg));
  }
  void emit_store_sized(uint8_t size, unsigned base, int32_t disp, unsigned src) {
    switch (size) {
      case BPF_B:
        out_.op_rm(false, 0x88, src, base, disp, src >= kRsp);
        break;
      case BPF_H:
        out_.byte(0x66);
        out_.op_rm(false, 0x89, src, base, disp);
        break;
      default:
        out_.op_rm(size == BPF_DW, 0x89, src, base, disp);
        break;
    }
  }

  void emit_store_imm(const bpf_insn& insn) {
    const unsigned base = reg(insn.dst_reg);
    switch (insn_size(insn.code)) {
      case BPF_B:
        out_.op_rm(false, 0xc6, 0, base, insn.off);
        out_.byte(static_cast<unsigned>(insn.imm));
        break;
      case BPF_H:
        out_.byte(0x66);
        out_.op_rm(false, 0xc7, 0, base, insn.off);
        out_.byte(static_cast<unsigned>(insn.imm));
        out_.byte(static_cast<unsigned>(insn.imm) >> 8);
        break;
      default:
        out_.op_rm(insn_size(insn.code) == BPF_DW, 0xc7, 0, base, insn.off);
        out_.word32(insn.imm);
        break;
    }
  }

  void emit_atomic(const bpf_insn& insn) {
    const bool is64 = insn_size(insn.code) == BPF_DW;
    unsigned base = reg(insn.dst_reg);
    unsigned src = reg(insn.src_reg);
    const int32_t disp = insn.off;
    constexpr unsigned kLock = 0xf0;
    switch (insn.imm) {
      case kLoadAcquire:  // x86 loads acquire and stores release (SDM 3A §9.2.2)
        emit_load(make_load(insn));
        return;
      case kStoreRelease:
        emit_store(insn);
        return;
      case BPF_ADD:
      case BPF_OR:
      case BPF_AND:
      case BPF_XOR: {
        const Group1 kind = insn.imm == BPF_ADD   ? kAdd
                            : insn.imm == BPF_OR  ? kOr
                            : insn.imm == BPF_AND ? kAnd
                                                  : kXor;
        out_.byte(kLock);
        out_.op_rm(is64, kind << 3 | 1U, src, base, disp);
        return;
      }
      case BPF_ADD | BPF_FETCH:
        out_.byte(kLock);
        out_.op_rm(is64, 0x0fc1, src, base, disp);
        return;
      case BPF_XCHG:
        out_.op_rm(is64, 0x87, src, base, disp);
        return;
      case BPF_CMPXCHG:
        out_.byte(kLock);
        out_.op_rm(is64, 0x0fb1, src, base, disp);
        if (!is64) {
          out_.mov(false, kRax, kRax);
        }
        return;
      default:
        break;
    }
    // fetch or, and, xor: a loop around cmpxchg, whose expected value is rax.
    const int op = insn.imm & 0xf0;
    const Group1 kind = op == BPF_OR ? kOr : op == BPF_AND ? kAnd : kXor;
    const bool keeps_rax = src != kRax;
    out_.mov(true, kScratch, kRax);
    if (base == kRax) {
      base = kScratch;
    }
    if (src == kRax) {
      src = kScratch;
    }
    out_.op_rm(is64, 0x8b, kRax, base, disp);
    const uint32_t again = out_.position();
    out_.mov(is64, kScratch2, kRax);
    out_.group1_rr(is64, kind, kScratch2, src);
    out_.byte(kLock);
    out_.op_rm(is64, 0x0fb1, kScratch2, base, disp);
    out_.byte(0x75);
    out_.byte(again - out_.position() - 1);
    if (keeps_rax) {
      out_.mov(is64, src, kRax);
      out_.mov(true, kRax, kScratch);
    } else if (!is64) {
      out_.mov(false, kRax, kRax);
    }
  }
  static bpf_insn make_load(bpf_insn insn) {
    insn.code = static_cast<uint8_t>(BPF_LDX | BPF_MEM | insn_size(insn.code));
    insn.imm = 0;
    return insn;
  }

  void emit_call(const Function& function, uint32_t i) {
    const bpf_insn& insn = insns_[i];
    if (insn.src_reg == kCallLocal) {
      out_.byte(0xe8);
      if (is_last_round_) {
        call_fixups_.push_back(
            {out_.position(),
             function_of(program_, static_cast<uint32_t>(int64_t{i} + 1 + insn.imm)), false});
      }
      out_.word32(0);
      return;
    }
    if (flow_.looked_up(i) != nullptr) {
      emit_lookup(i);
    } else if (const uint32_t bytes = inline_read_bytes(function, i); bytes != 0) {
      emit_read(bytes);
    } else {
      emit_slot_call(slots_.intern(SlotKind::kHelper, static_cast<uint32_t>(insn.imm), 0));
    }
  }
  // The address of an array's element: of a known one, or of the one that the four bytes at rsi (r2) tell. Changes rax and
  // rcx, what a helper may change.
  void emit_lookup(uint32_t i) {
    const KnownArray& array = *flow_.looked_up(i);
    const uint32_t slot = slots_.intern(SlotKind::kMapValue, array.map, first_byte_looked_up(i));
    const unsigned base = has_known_index(i) ? kRax : kRcx;
    out_.load64(base, kHit, kHitSlots);
    out_.load64(base, base, static_cast<int32_t>(slot * 8));
    if (has_known_index(i)) {
      return;
    }
    out_.op_rm(false, 0x8b, kRax, kRsi, 0);
    const bool may_be_beyond = flow_.known(i)->highest >= array.element_count;
    uint32_t beyond = 0;
    if (may_be_beyond) {
      out_.group1_imm(false, kCmp, kRax, static_cast<int32_t>(array.element_count));
      beyond = jump_over(0x70U | kAboveEqual);
    }
    if (array.stride == 8) {
      out_.lea(true, kRax, kRcx, kRax, 3, 0);
    } else {
      out_.op_rr(true, 0x69, kRax, kRax);
      out_.word32(static_cast<int32_t>(array.stride));
      out_.group1_rr(true, kAdd, kRax, kRcx);
    }
    if (may_be_beyond) {
      const uint32_t done = jump_over(0xeb);
      land(beyond);
      out_.mov_imm(kRax, 0);
      land(done);
    }
  }
  // With the hit as the sixth argument.
  void emit_slot_call(uint32_t slot) {
    if (counts_fuel_) {
      out_.store64(kHit, kHitFuel, kFuel);
    }
    out_.load64(kRax, kHit, kHitSlots);
    out_.mov(true, kR9, kHit);
    out_.op_rm(false, 0xff, 2, kRax, static_cast<int32_t>(slot * 8));
    if (counts_fuel_) {
      out_.load64(kFuel, kHit, kHitFuel);
    }
  }

  // ---- reads of user memory (docs/decisions/0005)
  uint32_t jump_if(Condition condition) {
    out_.byte(0x0f);
    out_.byte(0x80U | condition);
    out_.word32(0);
    return out_.position() - 4;
  }
  // rdi = to, rdx = from; rsi = bytes, for the slow way. Changes rax and rcx, what a helper may change. All is loaded
  // before anything is stored: where a load faults, the slow way finds the arguments, and does what the helper does.
  void emit_read(uint32_t bytes) {
    const ReadCache& cache = *options_.read_cache;
    InlineRead read{};
    out_.mov(true, kRax, kRdx);
    out_.group1_imm(true, kOr, kRax,
                    static_cast<int32_t>(cache.page_mark));  // the page's last byte
    out_.lea(true, kRcx, kRdx, static_cast<int32_t>(bytes) - 1);
    out_.group1_rr(true, kCmp, kRcx, kRax);
    read.misses[0] = jump_if(kAbove);
    out_.mov(false, kRcx, kRdx);
    out_.shift_imm(false, kShr, kRcx, 12);
    out_.group1_imm(false, kAnd, kRcx, static_cast<int32_t>(cache.page_count) - 1);
    out_.lea(true, kRcx, kHit, kRcx, 3, cache.pages);
    out_.op_rm(true, 0x3b, kRax, kRcx, 0);
    read.misses[1] = jump_if(kNotEqual);
    out_.load64(kRax, kHit, cache.hits);
    out_.shift_imm(true, kShr, kRax, cache.age_shift);
    out_.op_rm(true, 0x3b, kRax, kHit, cache.age);
    read.misses[2] = jump_if(kNotEqual);
    const uint8_t size = bytes >= 8 ? BPF_DW : bytes >= 4 ? BPF_W : bytes >= 2 ? BPF_H : BPF_B;
    const uint32_t part = bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1;
    const auto rest = static_cast<int32_t>(bytes - part);  // the parts overlap
    read.loads_begin = out_.position();
    emit_load_sized(size, kRax, kRdx, 0);
    if (rest != 0) {
      emit_load_sized(size, kRcx, kRdx, rest);
    }
    read.loads_end = out_.position();
    emit_store_sized(size, kRdi, 0, kRax);
    if (rest != 0) {
      emit_store_sized(size, kRdi, rest, kRcx);
    }
    out_.mov_imm(kRax, 0);
    read.back = out_.position();
    reads_.push_back(read);
  }
  void emit_read_aside(const InlineRead& read) {
    const uint32_t begin = out_.position();
    for (const uint32_t miss : read.misses) {
      out_.patch32(miss, static_cast<int32_t>(begin - miss - 4));
    }
    read_fixups_.push_back({read.loads_begin, read.loads_end, begin});
    leave_fixups_.push_back(out_.lea_rip(kRcx));
    emit_slot_call(slots_.intern(SlotKind::kReadAside, 0, 0));
    out_.byte(0xe9);
    out_.word32(static_cast<int32_t>(read.back - out_.position() - 4));
  }
  // Behind the code, for the fault handler.
  void append_fixups(CompiledProgram* compiled) const {
    if (reads_.empty()) {
      return;
    }
    FaultRange& body = compiled->faults.back();
    compiled->code.resize((compiled->code.size() + 3) / 4 * 4);
    body.reads_at = static_cast<uint32_t>(compiled->code.size());
    body.read_count = static_cast<uint32_t>(reads_.size());
    for (const ReadFixup& fixup : std::span(read_fixups_).last(reads_.size())) {
      const ReadFixup from_body = {fixup.begin - body_begin_, fixup.end - body_begin_,
                                   fixup.resume - body_begin_};
      const auto* const bytes = reinterpret_cast<const std::byte*>(&from_body);
      compiled->code.insert(compiled->code.end(), bytes, bytes + sizeof(from_body));
    }
  }

  [[nodiscard]] uint32_t first_with_code(uint32_t i) const {
    while (i < count_ && !flow_.needs_code(i)) {
      ++i;
    }
    return i;
  }

  void emit_branch(const bpf_insn& insn, uint32_t i) {
    const auto target = static_cast<uint32_t>(jump_target(insn, i));
    if (target <= i && counts_fuel_) {
      out_.op_rr(true, 0xff, 1, kFuel);  // dec, which melts with jl
      emit_jump(kLess, i, count_);
    }
    if (is_unconditional_jump(insn.code) || flow_.always_jumps(i)) {
      if (first_with_code(i + 1) != first_with_code(target)) {
        emit_jump(kAlways, i, target);
      }
      return;
    }
    if (insn.code == kOpMayGoto) {
      // At zero it jumps and stays at zero.
      out_.op_rm(true, 0x83, kSub, kRbp, kMayGotoLeft);
      out_.byte(1);
      out_.byte(0x70 | kAboveEqual);
      const uint32_t over = out_.position();
      out_.byte(0);
      out_.op_rm(true, 0xc7, 0, kRbp, kMayGotoLeft);
      out_.word32(0);
      emit_jump(kAlways, i, target);
      land(over);
      return;
    }
    const bool is64 = insn_class(insn.code) == BPF_JMP;
    const unsigned dst = reg(insn.dst_reg);
    const uint8_t op = insn_op(insn.code);
    if (insn_has_reg(insn.code)) {
      if (op == BPF_JSET) {
        out_.test_rr(is64, dst, reg(insn.src_reg));
      } else {
        out_.group1_rr(is64, kCmp, dst, reg(insn.src_reg));
      }
    } else if (op == BPF_JSET) {
      const bool is_narrow = !is64 || insn.imm >= 0;
      out_.op_rr(!is_narrow, 0xf7, 0, dst);
      out_.word32(insn.imm);
    } else if (insn.imm == 0) {
      out_.test_rr(is64, dst, dst);
    } else {
      out_.group1_imm(is64, kCmp, dst, insn.imm);
    }
    emit_jump(condition_of(op), i, target);
  }

  static Condition condition_of(uint8_t op) {
    switch (op) {
      case BPF_JEQ:
        return kEqual;
      case BPF_JGT:
        return kAbove;
      case BPF_JGE:
        return kAboveEqual;
      case BPF_JLT:
        return kBelow;
      case BPF_JLE:
        return kBelowEqual;
      case BPF_JSGT:
        return kGreater;
      case BPF_JSGE:
        return kGreaterEqual;
      case BPF_JSLT:
        return kLess;
      case BPF_JSLE:
        return kLessEqual;
      default:  // BPF_JNE, BPF_JSET
        return kNotEqual;
    }
  }

  const std::vector<bpf_insn>& insns_;
  const DecodedProgram& program_;
  const CompileOptions options_;
  const uint32_t count_;
  Emitter out_;
  SlotTable slots_;
  std::vector<Function> functions_;
  std::vector<uint8_t> is_target_;
  std::vector<uint32_t> offset_of_;  // code of each instruction; [count_] = the fuel stub
  std::vector<Fixup> fixups_;        // forward jumps; target is an instruction
  std::vector<Fixup> call_fixups_, thunk_fixups_;  // target is a function
  std::vector<InlineRead> reads_;
  std::vector<ReadFixup> read_fixups_;  // in `code`; those of the last round count
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

}  // namespace

Result<CompiledProgram> compile_x64(const DecodedProgram& program, const CompileOptions& options) {
  return Compiler(program, options).run();
}

bool host_has_bmi2() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b >> 8 & 1) != 0;
}

}  // namespace bpftime
