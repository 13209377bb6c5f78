// One function of the engine at a time, on states that a test makes. Home: tests.
#pragma once
#include <memory>
#include <vector>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
inline namespace verifier_inside {
namespace testing {

// An engine before the first instruction of `r0 = 0; exit`, where every register and slot counts as live.
class EngineProbe {
 public:
  explicit EngineProbe(bool no_pointer_leaks = false) {
    insns_.resize(2);
    insns_[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
    insns_[1].code = BPF_JMP | BPF_EXIT;
    program_.insns = insns_;
    program_.prog_type = BPF_PROG_TYPE_KPROBE;
    options_.no_pointer_leaks = no_pointer_leaks;
    engine_ = std::make_unique<Engine>(program_, options_);
    is_ready_ = engine_->prepare();
    engine_->current_ = std::make_unique<State>();
    state() = empty_state();
    for (InsnFacts& facts : engine_->facts_) {
      facts.live = 0x7ff;
      facts.stack_live = ~0ULL;
    }
  }

  static State empty_state() {
    State state;
    state.frames.resize(1);
    state.top().regs[10] = Reg::pointer(RegKind::kStack);
    state.steps.resize(1);
    return state;
  }

  [[nodiscard]] bool is_ready() const { return is_ready_; }
  State& state() { return *engine_->current_; }
  Reg& reg(int n) { return engine_->reg(n); }
  StackSlot& slot(int n) { return engine_->slot_at(0, n); }  // 0: fp-8
  [[nodiscard]] const std::string& message() const { return engine_->verdict_.message; }
  void slot_is_dead(int n) { engine_->facts_[0].stack_live &= ~(1ULL << n); }

  bool covers(State older, State newer, Exactness exact = Exactness::kNotExact) {
    return engine_->covers(&older, &newer, exact);
  }
  // Of a register, at a fixed place: off is that to the frame's end.
  bool write(int64_t off, int size, int from) {
    return engine_->stack_write(0, reg(10), off, size, reg(from), from);
  }
  bool write_somewhere(const Reg& pointer, int size, int from) {
    return engine_->stack_write_variable(pointer, 0, size, reg(from), from);
  }
  bool read(int64_t off, int size, int to) {
    Reg out;
    const bool ok = engine_->stack_read(reg(10), off, size, false, &out);
    reg(to) = out;
    return ok;
  }
  uint32_t acquire() { return engine_->acquire(RefKind::kPointer); }
  bool release(uint32_t ref) { return engine_->release_reference(ref); }
  bool holds_nothing() { return engine_->check_no_references("the end"); }
  void mark_null(uint32_t id, bool is_null) { engine_->mark_null(&state(), id, is_null); }

 private:
  std::vector<bpf_insn> insns_;
  VerifierProgram program_;
  VerifyOptions options_;
  std::unique_ptr<Engine> engine_;
  bool is_ready_ = false;
};

}  // namespace testing
}  // namespace verifier_inside
}  // namespace bpftime
