// Functions that a helper calls back.
#include <cerrno>

#include "verifier/engine.hpp"

namespace bpftime {
void Engine::set_callback_arguments(const Prototype& proto, const CallArgs& args,
                                    const Frame& caller, Frame* callee) {
  auto& to = callee->regs;
  const auto map_arguments = [&] {
    const auto index = static_cast<uint32_t>(args.map);
    to[1] = Reg::pointer(RegKind::kMap, index, args.map_uid != 0 ? kMapUid : 0);
    to[1].owner = args.map_uid;
    to[2] = Reg::pointer(RegKind::kMapKey, index);
    to[3] = Reg::pointer(RegKind::kMapValue, index, args.map_uid != 0 ? kMapUid : 0);
    to[3].owner = fields_of(index).empty() ? 0 : new_id();
  };
  callee->return_min = 0;
  callee->return_max = 1;
  switch (proto.id) {
    case 164:
      map_arguments();
      to[4] = caller.regs[3];
      break;
    case 170:
      map_arguments();
      callee->return_max = 0;
      break;
    case 180: {
      const Btf* btf = program_.kernel_btf;
      if (btf != nullptr) {
        auto task = btf->find("task_struct", BtfKind::kStruct);
        auto vma = btf->find("vm_area_struct", BtfKind::kStruct);
        to[1] =
            task ? Reg::pointer(RegKind::kBtf, task->id, kKernelBtf | kTrusted) : Reg::unknown();
        to[2] = vma ? Reg::pointer(RegKind::kBtf, vma->id, kKernelBtf | kTrusted) : Reg::unknown();
      } else {
        to[1] = to[2] = Reg::unknown();
      }
      to[3] = caller.regs[4];
      break;
    }
    case 181:
      to[1] = Reg::unknown();
      to[2] = caller.regs[3];
      break;
    case 209:
      to[1] = Reg::pointer(RegKind::kDynptr);
      to[1].id = new_id();
      to[2] = caller.regs[3];
      break;
    default:
      break;
  }
}

// The branch in which `callee` runs once more, in the midst of the call; the current path goes on after the last time.
bool Engine::push_callback_now(uint32_t begin, Frame callee) {
  verdict_.facts.has_callbacks = true;
  verdict_.facts.most_back_edges = UINT32_MAX;
  if (cur().frames.size() >= kMaxCallFrames) {
    return refuse(E2BIG, "the call stack of %zu frames is too deep", cur().frames.size() + 1);
  }
  callee.function = function_at(begin);
  callee.call_insn = cur().insn;
  callee.kind = FrameKind::kCallback;
  callee.regs[10] = Reg::pointer(RegKind::kStack);
  callee.regs[10].frame = static_cast<uint8_t>(cur().frames.size());
  functions_[callee.function].runs_as_callback = true;
  State* branch = nullptr;
  if (!push_branch(begin, &branch)) {
    return false;
  }
  ++branch->top().callback_depth;
  ++branch->callback_unroll;
  branch->frames.push_back(std::move(callee));
  cur().top().callback_depth = 0;
  return true;
}

// A run of `callee` by itself, some time or other.
bool Engine::push_callback_later(uint32_t begin, Frame callee) {
  verdict_.facts.has_callbacks = true;
  verdict_.facts.most_back_edges = UINT32_MAX;
  callee.function = function_at(begin);
  callee.kind = FrameKind::kAsync;
  callee.regs[10] = Reg::pointer(RegKind::kStack);
  callee.entry = ++last_entry_;
  functions_[callee.function].runs_as_callback = true;
  functions_[callee.function].runs_later = true;
  auto state = std::make_unique<State>();
  state->frames.push_back(std::move(callee));
  state->insn = begin;
  state->trace_node = cur().trace_node;
  if (!count_memory(*state, 1)) {
    return too_complex("the states of this program take too much memory");
  }
  pending_.push_back({std::move(state), verdict_.log.size(), cur().insn});
  return true;
}

bool Engine::push_callback(const Prototype& proto, const CallArgs& args) {
  Frame callee;
  set_callback_arguments(proto, args, cur().top(), &callee);
  if ((proto.effects & kCallsBackLater) != 0) {
    return push_callback_later(args.function, std::move(callee));
  }
  if (proto.id == 181) {
    if (!mark_precise(1)) {
      return false;
    }
    // As many rounds as the first argument says are enough.
    if (cur().frames.size() < kMaxCallFrames &&
        cur().top().callback_depth >= reg(1).num.range.umax) {
      cur().top().callback_depth = 0;
      return true;
    }
  }
  return push_callback_now(args.function, std::move(callee));
}

}  // namespace bpftime
