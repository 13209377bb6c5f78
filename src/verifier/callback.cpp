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

// The branch in which the callback runs once more; the current path goes on after the last time.
bool Engine::push_callback(const Prototype& proto, const CallArgs& args) {
  verdict_.facts.has_callbacks = true;
  verdict_.facts.most_back_edges = UINT32_MAX;
  const uint32_t function = function_at(args.function);
  const bool is_later = (proto.effects & kCallsBackLater) != 0;
  if (!is_later && cur().frames.size() >= kMaxCallFrames) {
    return refuse(E2BIG, "the call stack of %zu frames is too deep", cur().frames.size() + 1);
  }
  Frame callee;
  callee.function = function;
  functions_[function].runs_as_callback = true;
  callee.call_insn = cur().insn;
  callee.kind = is_later ? FrameKind::kAsync : FrameKind::kCallback;
  set_callback_arguments(proto, args, cur().top(), &callee);
  callee.regs[10] = Reg::pointer(RegKind::kStack);
  if (is_later) {
    auto state = std::make_unique<State>();
    callee.call_insn = 0;
    callee.entry = ++last_entry_;
    functions_[function].runs_later = true;
    state->frames.push_back(std::move(callee));
    state->insn = args.function;
    state->trace_node = cur().trace_node;
    if (!count_memory(*state, 1)) {
      return too_complex("the states of this program take too much memory");
    }
    pending_.push_back({std::move(state), verdict_.log.size(), cur().insn});
    return true;
  }
  callee.regs[10].frame = static_cast<uint8_t>(cur().frames.size());
  if (proto.id == 181) {
    if (!mark_precise(1)) {
      return false;
    }
    // As many rounds as the first argument says are enough.
    if (cur().top().callback_depth >= reg(1).num.range.umax) {
      cur().top().callback_depth = 0;
      return true;
    }
  }
  State* branch = nullptr;
  if (!push_branch(args.function, &branch)) {
    return false;
  }
  ++branch->top().callback_depth;
  ++branch->callback_unroll;
  branch->frames.push_back(std::move(callee));
  cur().top().callback_depth = 0;
  return true;
}

}  // namespace bpftime
