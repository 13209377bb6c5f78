// The walk over the paths: depth first, one state at a time. At prune points the state is compared
// with those stored there before; loops are walked round by round until a state repeats.
#include <algorithm>
#include <cerrno>

#include "isa/opcode.hpp"
#include "spec/spec.hpp"
#include "verifier/engine.hpp"
#include "verifier/trace.hpp"

namespace bpftime {
namespace {

bool same_calls(const State& a, const State& b) {
  if (a.frames.size() != b.frames.size()) {
    return false;
  }
  for (size_t f = 0; f < a.frames.size(); ++f) {
    if (a.frames[f].function != b.frames[f].function ||
        (f != 0 && a.frames[f].call_insn != b.frames[f].call_insn) ||
        a.frames[f].kind != b.frames[f].kind) {
      return false;
    }
  }
  return true;
}

bool same_iterator_depths(const State& a, const State& b) {
  for (size_t f = 0; f < a.frames.size(); ++f) {
    const auto& x = a.frames[f].slots;
    const auto& y = b.frames[f].slots;
    for (size_t s = 0; s < std::min(x.size(), y.size()); ++s) {
      if (x[s].bytes[0] == ByteKind::kIterator && x[s].is_first &&
          x[s].iterator_depth != y[s].iterator_depth) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

bool Engine::count_memory(const State& state, int sign) {
  uint64_t bytes = sizeof(State) + state.steps.size() * sizeof(Step);
  for (const Frame& frame : state.frames) {
    bytes += sizeof(Frame) + frame.slots.size() * sizeof(StackSlot);
  }
  memory_ = sign > 0 ? memory_ + bytes : memory_ - std::min(memory_, bytes);
  return memory_ <= options_.memory_bytes;
}

bool Engine::push_branch(uint32_t insn, State** branch) {
  if (pending_.size() >= options_.pending_limit) {
    return too_complex("too many branches are waiting to be walked");
  }
  auto copy = std::make_unique<State>(cur());
  copy->insn = insn;
  copy->branches = 1;
  if (copy->parent != nullptr) {
    ++copy->parent->branches;
  }
  if (!count_memory(*copy, 1)) {
    return too_complex("the states of this program take too much memory");
  }
  if (branch != nullptr) {
    *branch = copy.get();
  }
  pending_.push_back({std::move(copy), verdict_.log.size(), cur().insn});
  return true;
}

bool Engine::pop_branch() {
  if (pending_.empty()) {
    current_.reset();
    return false;
  }
  if ((options_.log_level & kLogStates) == 0 && wants_log()) {
    verdict_.log.resize(std::min(verdict_.log.size(), pending_.back().log_at));
  }
  const uint32_t from = pending_.back().from;
  current_ = std::move(pending_.back().state);
  pending_.pop_back();
  count_memory(*current_, -1);
  if (wants_log()) {
    log("\nfrom %u to %u:", from, current_->insn);
    logged_.reset();
    log_state(*current_, true);
  }
  return true;
}

// The current path has come to its end. `remaining`: back edges that may follow all the same.
void Engine::end_path(uint64_t remaining) {
  State* state = current_.get();
  state->remaining = remaining;
  --state->branches;
  for (;;) {
    State* parent = state->parent;
    const uint64_t total =
        state->remaining >= UINT32_MAX ? UINT32_MAX : state->back_edges + state->remaining;
    if (parent == nullptr) {
      verdict_.facts.most_back_edges = static_cast<uint32_t>(std::min<uint64_t>(
          UINT32_MAX, std::max<uint64_t>(verdict_.facts.most_back_edges, total)));
      return;
    }
    parent->remaining =
        std::max(parent->remaining, total >= UINT32_MAX ? UINT32_MAX : total - parent->back_edges);
    if (--parent->branches != 0) {
      return;
    }
    loop_done(parent);
    state = parent;
  }
}

State* Engine::loop_in_progress(const State& state) const {
  State* entry = state.loop_entry;
  for (int i = 0; entry != nullptr && i < 64; ++i) {
    if (entry->branches != 0) {
      return entry;
    }
    if (entry->loop_entry == entry) {
      return nullptr;
    }
    entry = entry->loop_entry;
  }
  return entry;
}

// The current path is cut off at `target`, which is under way (an ancestor).
void Engine::note_loop(State* target, State* current) {
  const uint32_t target_rank = target->rank;
  for (State* s = current->parent; s != nullptr; s = s->parent) {
    State* known = loop_in_progress(*s);
    if (known == nullptr || known->rank > target_rank) {
      s->loop_entry = target;
    }
    if (s == target) {
      break;
    }
  }
}

// Marks that came late reach every path that was cut off at a loop's head. Once a loop is done, its
// states are compared by their marks (visited()), so its own cuts are settled now, whatever other
// loops are still under way.
void Engine::loop_done(State* entry) {
  State* outer = loop_in_progress(*entry);
  if (back_edges_.empty() || (outer != nullptr && outer != entry)) {
    return;
  }
  const auto first =
      std::partition(back_edges_.begin(), back_edges_.end(), [this](const BackEdge& edge) {
        return edge.target->branches != 0 || loop_in_progress(*edge.target) != nullptr;
      });
  const std::span<BackEdge> settled(first, back_edges_.end());
  if (settled.empty()) {
    return;
  }
  // A round marks at least one more scalar or is the last; a few rounds are the rule.
  bool is_settled = false;
  for (uint64_t before = 0, round = 0; round < 64 && !is_settled; ++round) {
    for (BackEdge& edge : settled) {
      propagate_precision(*edge.target, edge.source.get());
    }
    const uint64_t after = count_marks(settled);
    is_settled = after == before;
    before = after;
  }
  if (!is_settled) {
    for (BackEdge& edge : settled) {
      mark_all_precise(edge.source->parent);
    }
  }
  back_edges_.erase(first, back_edges_.end());
}

// How many numbers are marked on the ways of these cut paths.
uint64_t Engine::count_marks(std::span<const BackEdge> edges) {
  uint64_t marks = 0;
  for (const BackEdge& edge : edges) {
    for (State* s = edge.source->parent; s != nullptr; s = s->parent) {
      each_reg(s, [&marks](Reg& r) { marks += r.precise ? 1 : 0; });
      if (s == edge.target) {
        break;
      }
    }
  }
  return marks;
}

void Engine::store_state() {
  auto stored = std::make_unique<State>(cur());
  stored->branches = 1;
  stored->insn = cur().insn;
  stored->parent = cur().parent;
  stored->rank = cur().parent != nullptr ? cur().parent->rank + 1 : 1;
  stored->steps = std::move(cur().steps);
  each_reg(stored.get(), [](Reg& r) { r.precise = false; });
  each_reg(&cur(), [](Reg& r) { r.precise = false; });
  cur().steps.clear();
  cur().parent = stored.get();
  cur().branches = 1;
  cur().loop_entry = nullptr;
  stored->loop_entry = nullptr;
  stored->hits = stored->misses = 0;
  stored->remaining = 0;
  stored->trace_own = UINT32_MAX;
  count_memory(*stored, 1);
  stored_[cur().insn].push_back(stored.get());
  all_states_.push_back(std::move(stored));
  insns_since_ = jumps_since_ = 0;
  ++verdict_.total_states;
  ++live_states_;
  verdict_.peak_states = std::max(verdict_.peak_states, live_states_);
  verdict_.max_states_per_insn =
      std::max(verdict_.max_states_per_insn, static_cast<uint32_t>(stored_[cur().insn].size()));
}

// The current path has come to `old`, which it went through, again: *covered when a loop that something else bounds may
// stop here. False: it is endless.
bool Engine::meet_on_path(State* old, bool* covered) {
  const uint32_t at = cur().insn;
  bool may_repeat = false;
  if (facts_[at].is_iterator_next) {
    // Sure to end only while the iterator that is asked goes on.
    const StackSlot* slot = iterator_in(reg(1));
    may_repeat = slot != nullptr && slot->iterator == IteratorState::kActive;
    *covered =
        may_repeat && slot->iterator_depth > 0 && covers(old, &cur(), Exactness::kRangeWithin);
  } else if (code_.insns[at].code == kOpMayGoto) {
    may_repeat = old->may_goto_depth != cur().may_goto_depth;
    *covered = may_repeat && covers(old, &cur(), Exactness::kRangeWithin);
  } else if (facts_[at].calls_callback) {
    may_repeat = true;
    *covered = old->callback_unroll != cur().callback_unroll &&
               covers(old, &cur(), Exactness::kRangeWithin);
  }
  if (!may_repeat && same_iterator_depths(*old, cur()) &&
      old->may_goto_depth == cur().may_goto_depth &&
      old->callback_unroll == cur().callback_unroll && covers(old, &cur(), Exactness::kExact)) {
    return refuse(EINVAL, "infinite loop detected at insn %u", at);
  }
  return true;
}

// The current path ends here: `old` covers it. `in_progress`: the loop that is not done yet, or null.
void Engine::prune_at(State* old, State* in_progress) {
  ++old->hits;
  if (in_progress != nullptr) {
    note_loop(in_progress, &cur());
    auto source = std::make_unique<State>(cur());
    back_edges_.push_back({old, std::move(source)});
  }
  pruned_remaining_ = in_progress != nullptr ? UINT32_MAX : old->remaining;
  propagate_precision(*old, &cur());
  if (options_.trace != nullptr) {
    options_.trace->pruned(cur(), *old);
  }
  if ((options_.log_level & kLogStates) != 0) {
    log("%u: safe\n", cur().insn);
  }
}

// Nobody compares with it any longer. Its shell stays, since others name it as their parent; nobody walks through it
// again.
void Engine::forget_state(State* old) {
  --live_states_;
  if (old->branches != 0 || !back_edges_.empty()) {
    return;  // still a parent of paths under way
  }
  count_memory(*old, -1);
  if (options_.trace != nullptr) {
    forget_dead(old);
    options_.trace->keep_marks(*old);
  }
  old->frames.clear();
  old->frames.shrink_to_fit();
  old->steps.clear();
  old->steps.shrink_to_fit();
}

int Engine::visited() {
  const uint32_t at = cur().insn;
  const InsnFacts& facts = facts_[at];
  const bool force = facts.is_checkpoint || cur().steps.size() > 40 ||
                     (program_.prog_flags & BPF_F_TEST_STATE_FREQ) != 0;
  bool add = force || (jumps_since_ >= 2 && insns_since_ >= 8);
  auto& list = stored_[at];
  update_stack_liveness();
  for (size_t i = 0; i < list.size();) {
    State* old = list[i];
    const bool is_on_path = old->branches != 0;
    // Something else bounds this loop, or it is none: another run of the same callback.
    if (!same_calls(*old, cur()) || (is_on_path && old->frames[0].entry != cur().frames[0].entry)) {
      ++i;
      continue;
    }
    bool hit = false;
    State* in_progress = nullptr;
    if (is_on_path) {
      if (!meet_on_path(old, &hit)) {
        return -1;
      }
      in_progress = old;
      add = add && (hit || force || jumps_since_ >= 20 || insns_since_ >= 100);
    } else if (options_.prune) {
      in_progress = loop_in_progress(*old);
      hit = covers(old, &cur(),
                   in_progress != nullptr ? Exactness::kRangeWithin : Exactness::kNotExact);
    }
    if (hit) {
      prune_at(old, in_progress);
      return 1;
    }
    // Only where a state is stored in its place: a look that stores nothing says little of it.
    old->misses += add ? 1 : 0;
    // Entries that never help are dropped, so that lists stay short.
    const uint32_t patience = facts.is_checkpoint && old->branches != 0 ? 64 : 3;
    if (old->misses > old->hits * patience + patience) {
      list[i] = list.back();
      list.pop_back();
      forget_state(old);
    } else {
      ++i;
    }
  }
  if (add) {
    store_state();
  }
  if (memory_ > options_.memory_bytes) {
    too_complex("the states of this program take too much memory");
    return -1;
  }
  return 0;
}

// The stored state on the current path that was taken at `insn`, in the same frames.
State* Engine::older_at(const State& state, uint32_t insn) {
  for (State* s = state.parent; s != nullptr; s = s->parent) {
    if (s->insn == insn && same_calls(*s, state)) {
      return s;
    }
  }
  return nullptr;
}

// Numbers that changed from one round to the next and that nothing relied on become unknown, so
// that rounds come to resemble each other.
void Engine::widen_against(State* state, const State& older) {
  const auto widen = [](Reg* now, const Reg& was) {
    if (now->is_scalar() && was.is_scalar() && !was.precise && !now->precise &&
        !was.num.includes(now->num)) {
      *now = Reg::unknown();
    } else if (now->is_scalar() && was.is_scalar() && !was.precise && was.id != now->id) {
      now->id = 0;
      now->has_delta = false;
      now->delta = 0;
    }
  };
  for (size_t f = 0; f < state->frames.size() && f < older.frames.size(); ++f) {
    for (size_t r = 0; r < 10; ++r) {
      widen(&state->frames[f].regs[r], older.frames[f].regs[r]);
    }
    auto& slots = state->frames[f].slots;
    for (size_t s = 0; s < slots.size() && s < older.frames[f].slots.size(); ++s) {
      if (slots[s].is_full_spill() && older.frames[f].slots[s].is_full_spill()) {
        widen(&slots[s].reg, older.frames[f].slots[s].reg);
      }
    }
  }
}

// ---- Which stack slots matter ----

// A read or a full write of a slot of frame `frame`, by the instruction under way. In the frame of a
// caller it counts for the call.
void Engine::touch_stack(uint8_t frame, int slot, bool is_write) {
  if (options_.trace != nullptr) {
    options_.trace->touched(cur(), frame, slot, is_write);
  }
  const bool is_own = frame == cur().depth();
  const uint32_t at = is_own ? cur().insn : cur().frames[frame + 1U].call_insn;
  InsnFacts& facts = facts_[at];
  if (is_write) {
    if (is_own) {
      written_ |= 1ULL << slot;
    }
    return;
  }
  if ((facts.stack_reads >> slot & 1) == 0) {
    facts.stack_reads |= 1ULL << slot;
    stack_dirty_.push_back(at);
  }
}

void Engine::update_stack_liveness() {
  while (!stack_dirty_.empty()) {
    const uint32_t at = stack_dirty_.back();
    stack_dirty_.pop_back();
    InsnFacts& facts = facts_[at];
    uint64_t out = 0;
    const bpf_insn& insn = code_.insns[at];
    if (insn.code != kOpExit) {
      if (is_jump(insn.code)) {
        out |= facts_[static_cast<size_t>(jump_target(insn, at))].stack_live;
      }
      if (!is_unconditional_jump(insn.code)) {
        out |= facts_[at + (insn.code == kOpLddw ? 2 : 1)].stack_live;
      }
    }
    const uint64_t in = facts.stack_reads | (out & ~facts.stack_writes);
    if (in != facts.stack_live) {
      facts.stack_live |= in;
      for (const uint32_t p : predecessors_[at]) {
        stack_dirty_.push_back(p);
      }
    }
  }
}

// ---- The walk ----

bool Engine::check_exit(bool* ended) {
  State& state = cur();
  if (state.frames.size() > 1) {
    Frame callee = std::move(state.frames.back());
    Frame& caller = state.frames[state.frames.size() - 2];
    if (callee.kind == FrameKind::kCallback) {
      if (!callee.regs[0].is_scalar()) {
        state.frames.back() = std::move(callee);
        return refuse(EACCES, "R0 of a callback is not a number");
      }
      state.frames.back() = callee;
      if (!mark_precise(0)) {
        return false;
      }
      const Scalar& num = callee.regs[0].num;
      if (num.range.smin < callee.return_min || num.range.smax > callee.return_max) {
        return refuse(EINVAL, "At callback return R0 may be outside of [%lld, %lld]",
                      static_cast<long long>(callee.return_min),
                      static_cast<long long>(callee.return_max));
      }
      state.steps.back().returns_callback = true;
      const uint32_t call = callee.call_insn;
      state.frames.pop_back();
      // The call is made again; what nobody relies on and differs from the round before is forgotten.
      if (const State* older = older_at(state, call)) {
        widen_against(&state, *older);
      }
      state.insn = call;
      return true;
    }
    if (callee.kind == FrameKind::kAsync) {
      state.frames.back() = std::move(callee);
      return refuse(EFAULT, "an asynchronous callback has a caller");
    }
    if (callee.regs[0].kind == RegKind::kStack) {
      state.frames.back() = std::move(callee);
      return refuse(EINVAL, "cannot return stack pointer to the caller");
    }
    const uint32_t next = callee.call_insn + 1;
    Reg result = callee.regs[0];
    if (callee.regs[0].kind == RegKind::kNone) {
      result = Reg{};
    }
    caller.regs[0] = result;
    state.frames.pop_back();
    state.insn = next;
    return true;
  }
  if (!check_no_references("BPF_EXIT instruction in main prog")) {
    return false;
  }
  const Reg& r0 = state.top().regs[0];
  const bool is_async = state.top().kind == FrameKind::kAsync;
  const bool catches = exception_callback_ != 0 && explored_function_ == exception_callback_;
  bool is_void = false;
  if (is_global_check_ && !is_async && functions_[explored_function_].type != 0) {
    auto func = program_.btf->type(functions_[explored_function_].type);
    auto proto = func ? program_.btf->type(func->target) : Result<BtfType>(func.error());
    is_void = proto && proto->target == 0;
  }
  if (!is_void) {
    if (!check_readable(0)) {
      return false;
    }
    const bool is_for_caller = is_global_check_ && !catches;
    if (r0.is_pointer() && (leaks_forbidden() || is_for_caller || is_async)) {
      return refuse(is_for_caller ? EINVAL : EACCES, "R0 leaks addr as return value");
    }
  }
  *ended = true;
  return (is_global_check_ && !catches && !is_async) || check_program_result(0);
}

// Register `n` holds what the program, or the asynchronous callback, gives back.
bool Engine::check_program_result(int n) {
  const Frame& frame = cur().frames[0];
  int64_t lowest = INT64_MIN;
  int64_t highest = INT64_MAX;
  if (frame.kind == FrameKind::kAsync) {
    lowest = frame.return_min;
    highest = frame.return_max;
  } else if (const ReturnSpec* spec =
                 find_return(program_.prog_type, program_.expected_attach_type);
             spec != nullptr) {
    lowest = spec->min;
    highest = spec->max;
  }
  if (lowest == INT64_MIN && highest == INT64_MAX) {
    return true;
  }
  verdict_.reg = n;
  if (!reg(n).is_scalar()) {
    return refuse(EINVAL, "At program exit the register R%d is not a known value (%s)", n,
                  kind_name(reg(n)));
  }
  if (!mark_precise(n)) {
    return false;
  }
  if (reg(n).num.range.smin < lowest || reg(n).num.range.smax > highest) {
    return refuse(EINVAL, "At program exit the register R%d may be outside of [%lld, %lld]", n,
                  static_cast<long long>(lowest), static_cast<long long>(highest));
  }
  verdict_.reg = -1;
  return true;
}

bool Engine::execute(bool* ended) {
  State& state = cur();
  const uint32_t at = state.insn;
  const bpf_insn insn = code_.insns[at];
  if (writes_frame_pointer(insn)) {
    return refuse(EACCES, "frame pointer is read only");
  }
  switch (insn_class(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      if (!check_alu(insn)) {
        return false;
      }
      break;
    case BPF_LDX:
      if (!check_load(insn)) {
        return false;
      }
      break;
    case BPF_ST:
    case BPF_STX:
      if (is_atomic(insn.code) ? !check_atomic(insn) : !check_store(insn)) {
        return false;
      }
      break;
    case BPF_LD: {
      if (is_packet_load(insn.code)) {
        return check_packet_load(insn);
      }
      Reg& dst = reg(insn.dst_reg);
      const bpf_insn& second = code_.insns[at + 1];
      switch (insn.src_reg) {
        case kLoadImm:
          dst = Reg::scalar(Scalar::constant(lddw_value(insn, second)));
          break;
        case kLoadFunction: {
          const auto begin = static_cast<uint32_t>(int64_t{at} + 1 + insn.imm);
          const FunctionFacts& function = functions_[function_at(begin)];
          if (function.type == 0 || function.is_global) {
            return refuse(EINVAL, function.is_global ? "callback function not static"
                                                     : "missing btf func_info of a callback");
          }
          dst = Reg::pointer(RegKind::kFunction, begin);
          break;
        }
        case kLoadBtfId:
          if (!load_kernel_variable(static_cast<uint32_t>(insn.imm), &dst)) {
            return false;
          }
          break;
        default: {
          const auto index = static_cast<uint32_t>(facts_[at].map);
          const bool is_value = insn.src_reg == kLoadMapValue || insn.src_reg == kLoadMapIndexValue;
          if (is_value && map(index).map_type == 33) {
            dst = Reg::unknown();
            dst.kind = RegKind::kArena;
          } else if (is_value) {
            dst = Reg::pointer(RegKind::kMapValue, index);
            dst.off = second.imm;
          } else {
            dst = Reg::pointer(RegKind::kMap, index);
          }
          break;
        }
      }
      state.insn = at + 2;
      return true;
    }
    default:
      ++jumps_since_;
      if (insn.code == kOpExit) {
        return check_exit(ended);
      }
      if (insn.code == kOpCall) {
        return is_throw(insn) ? check_throw(insn, ended) : check_call(insn);
      }
      return check_jump(insn);
  }
  state.insn = at + 1;
  return true;
}

// Whether it is taken or not: engines count it either way.
bool Engine::jumps_back(uint32_t at) const {
  const bpf_insn& insn = code_.insns[at];
  return is_jump_class(insn.code) && insn.code != kOpExit && insn.code != kOpCall &&
         jump_target(insn, at) <= at;
}

bool Engine::explore() {
  for (;;) {
    const uint32_t at = cur().insn;
    verdict_.insn = at;
    if (++verdict_.insns_processed > options_.insn_limit) {
      log("BPF program is too large. Processed %llu insn\n",
          static_cast<unsigned long long>(verdict_.insns_processed));
      return too_complex("too many instructions processed");
    }
    if ((verdict_.insns_processed & 0x3ff) == 0 && options_.should_stop && options_.should_stop()) {
      return too_complex("the time that a program may take is over");
    }
    ++insns_since_;
    bool ended = false;
    if (facts_[at].is_prune_point) {
      pruned_remaining_ = 0;
      const int seen = visited();
      if (seen < 0) {
        return false;
      }
      ended = seen != 0;
    }
    if (!ended) {
      is_first_visit_ = !facts_[at].seen;
      facts_[at].seen = true;
      Step step;
      step.insn = at;
      step.depth = cur().depth();
      cur().steps.push_back(step);
      if (wants_log()) {
        log_insn(at);
      }
      if (options_.trace != nullptr) {
        options_.trace->before(&cur());
      }
      written_ = 0;
      cur().back_edges += jumps_back(at) ? 1 : 0;
      const size_t waiting = pending_.size();
      if (!learn_before(at) || !execute(&ended)) {
        return false;
      }
      learn_ways(at, pending_.size() != waiting);
      if ((facts_[at].stack_writes & ~written_) != 0) {
        facts_[at].stack_writes &= written_;
        stack_dirty_.push_back(at);
      }
      if (wants_log()) {
        log_change();
      }
      prev_insn_ = at;
    }
    if (ended) {
      end_path(facts_[at].is_prune_point ? pruned_remaining_ : 0);
      if (!pop_branch()) {
        if (options_.trace != nullptr) {
          for (const auto& state : all_states_) {
            forget_dead(state.get());
            options_.trace->keep_marks(*state);
          }
        }
        return true;
      }
    }
  }
}

bool Engine::explore_function(uint32_t function) {
  for (auto& list : stored_) {
    list.clear();
  }
  all_states_.clear();
  back_edges_.clear();
  pending_.clear();
  memory_ = 0;
  live_states_ = 0;
  insns_since_ = jumps_since_ = 0;
  current_ = std::make_unique<State>();
  cur().frames.resize(1);
  cur().top().function = function;
  cur().insn = functions_[function].begin;
  cur().in_sleepable = (program_.prog_flags & BPF_F_SLEEPABLE) != 0;
  explored_function_ = function;
  is_global_check_ = function != 0;
  Reg fp = Reg::pointer(RegKind::kStack);
  reg(10) = fp;
  verdict_.insn = cur().insn;
  if (!set_arguments(function, function == 0)) {
    return false;
  }
  logged_.reset();
  if (wants_log()) {
    log("func#%u @%u\n", function, functions_[function].begin);
    log("%u:", cur().insn);
    log_state(cur(), true);
  }
  return explore();
}

// Frames that lie on the stack together: callers, what they call, callbacks that run meanwhile. Where the
// kernel gives each function a stack of its own, so do we.
bool Engine::check_stack_depth() {
  std::vector<uint32_t> total(functions_.size(), 0);
  for (size_t round = 0; round < functions_.size(); ++round) {
    for (uint32_t f = 0; f < functions_.size(); ++f) {
      uint32_t deepest = 0;
      for (const uint32_t callee : functions_[f].callees) {
        deepest = std::max(deepest, total[callee]);
      }
      for (const uint32_t callback : functions_[f].callbacks) {
        deepest = std::max(deepest, functions_[callback].runs_later ? 0 : total[callback]);
      }
      total[f] = ((functions_[f].stack_bytes + 15) & ~15U) + deepest;
    }
  }
  const bool has_own_stacks = (kTracingPrograms & program_type_bit(program_.prog_type)) != 0;
  for (uint32_t f = 0; f < functions_.size(); ++f) {
    if (f != 0 && f != exception_callback_ && !functions_[f].runs_later) {
      continue;
    }
    verdict_.facts.stack_bytes = std::max(verdict_.facts.stack_bytes, total[f]);
    if (!has_own_stacks && total[f] > kMostStack) {
      verdict_.insn = functions_[f].begin;
      return refuse(EACCES, "combined stack size of the calls is %u. Too large", total[f]);
    }
  }
  return true;
}

Verdict Engine::run() {
  bool ok = prepare() && explore_function(0);
  for (uint32_t f = 1; ok && f < functions_.size(); ++f) {
    if (functions_[f].is_global) {
      bool is_reached = f == exception_callback_;
      for (uint32_t i = 0; i < code_.insns.size(); ++i) {
        const bpf_insn& insn = code_.insns[i];
        is_reached |= facts_[i].seen && insn.code == kOpCall && insn.src_reg == kCallLocal &&
                      int64_t{i} + 1 + insn.imm == functions_[f].begin;
      }
      // A function that only dead code calls is not looked at, as in the kernel. Functions called
      // from other global functions come up in a later round.
      if (is_reached && !facts_[functions_[f].begin].seen) {
        ok = explore_function(f);
        f = 0;
      }
    }
  }
  ok = ok && check_exceptions() && check_stack_depth();
  if (ok) {
    verdict_.facts.dead.resize(facts_.size());
    for (size_t i = 0; i < facts_.size(); ++i) {
      const bool is_second =
          i > 0 && code_.insns[i - 1].code == kOpLddw && code_.insns[i].code == 0;
      verdict_.facts.dead[i] = !facts_[is_second ? i - 1 : i].seen;
    }
    for (uint32_t id = 0; id < 256; ++id) {
      if ((helper_bits_[id / 64] >> (id % 64) & 1) != 0) {
        verdict_.facts.helpers.push_back(id);
      }
    }
  }
  if (!ok && wants_log()) {
    explain();
  }
  if (options_.log_level != 0) {
    if ((options_.log_level & kLogBrief) != 0 && (options_.log_level & kLogStates) == 0 && ok) {
      verdict_.log.clear();
    }
    char line[160];
    std::snprintf(line, sizeof line,
                  "processed %llu insns (limit %u) max_states_per_insn %u total_states %u "
                  "peak_states %u mark_read 0\n",
                  static_cast<unsigned long long>(verdict_.insns_processed), options_.insn_limit,
                  verdict_.max_states_per_insn, verdict_.total_states, verdict_.peak_states);
    if ((options_.log_level & kLogStats) != 0) {
      char stats[64];
      std::snprintf(stats, sizeof stats, "stack depth %u",
                    functions_.empty() ? 0 : functions_[0].stack_bytes);
      verdict_.log += stats;
      for (size_t f = 1; f < functions_.size(); ++f) {
        std::snprintf(stats, sizeof stats, "+%u", functions_[f].stack_bytes);
        verdict_.log += stats;
      }
      verdict_.log += '\n';
    }
    verdict_.log += line;
  }
  return std::move(verdict_);
}

}  // namespace bpftime
