// A function:  push rbp; mov rbp, rsp; sub rsp, frame (rbp only with a frame: r10 or may_goto is used);
//              push what it uses of rbx, r13, r14, r15
// main also:   saves what any function uses, and r12; r12 = hit; hit->program_rsp = rsp; r11 = hit->fuel
// leave stub:  rsp = hit->program_rsp, pops what main pushed: reached from any depth, out of helpers' frames too
#include <algorithm>
#include <bit>

#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {
namespace {

constexpr std::array<Reg, 4> kSaved = {kRbx, kR13, kR14, kR15};  // r6..r9

}  // namespace

bool Compiler::pushes_rbp(const Function& function) const {
  return function.uses_frame || (is_main(function) && needs_hit_ && (any_frame_ || has_callbacks_));
}

// The frame itself: that of eBPF, the may_goto counter, and what aligns rsp for calls.
void Compiler::lay_out_frame(Function* function) const {
  const auto saved = static_cast<uint32_t>(std::popcount(saved_by(*function)));
  function->pushed_bytes =
      8 * (saved + (pushes_rbp(*function) ? 1 : 0) + (is_main(*function) && needs_hit_ ? 1 : 0));
  uint32_t bytes = 0;
  if (function->uses_frame) {
    const bool is_known =
        options_.frame_bytes != 0 && functions_.size() == 1 && !function->has_may_goto;
    bytes = is_known ? std::min((options_.frame_bytes + 7) & ~7U, kFrameBytes)
                     : kFrameBytes + (function->has_may_goto ? 8 : 0);
  }
  const bool is_aligned = (8 + function->pushed_bytes + bytes) % 16 == 0;
  if (!is_aligned && (function->makes_calls || has_callbacks_)) {
    bytes += 8;
  }
  function->frame_bytes = bytes;
}

// The most that one function takes, its return address counted.
uint32_t Compiler::stack_bytes() const {
  uint32_t most = 0;
  for (const Function& function : functions_) {
    most = std::max(most, 8 + function.pushed_bytes + function.frame_bytes +
                              (function.is_callback ? 16U : 0U) + (reads_inline_ ? 8U : 0U));
  }
  return most;
}

void Compiler::emit_prologue(const Function& function) {
  if (pushes_rbp(function)) {
    out_.push(kRbp);
    out_.mov(true, kRbp, kRsp);
  }
  if (const uint32_t bytes = function.frame_bytes; bytes != 0) {
    out_.group1_imm(true, kSub, kRsp, static_cast<int32_t>(bytes));
  }
  for (uint32_t n = 0; n < kSaved.size(); ++n) {
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

void Compiler::emit_pops(const Function& function) {
  if (is_main(function) && needs_hit_) {
    out_.pop(kHit);
  }
  for (uint32_t n = kSaved.size(); n-- > 0;) {
    if ((saved_by(function) >> n & 1) != 0) {
      out_.pop(kSaved[n]);
    }
  }
  if (const uint32_t bytes = function.frame_bytes; bytes != 0) {
    out_.group1_imm(true, kAdd, kRsp, static_cast<int32_t>(bytes));
  }
  if (pushes_rbp(function)) {
    out_.pop(kRbp);
  }
  out_.ret();
}

void Compiler::emit_exit(const Function& function) {
  if (is_main(function) && counts_fuel_) {
    out_.store64(kHit, kHitFuel, kFuel);
  }
  emit_pops(function);
}

// A HelperFn in front of the function: the hit comes in r9. The helper that calls may use r12 for itself; fuel is in
// the hit meanwhile.
void Compiler::emit_callback_thunk(Function* function) {
  function->callback_thunk = out_.position();
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
  out_.point32(distance, out_.position());
}

// Two ways in: where the fuel ends, and where the program is left early with the hit in rdi.
void Compiler::emit_leave_stub() {
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
    out_.point32(at, leave_stub_);
  }
}

}  // namespace bpftime::x64
