// Lists and trees of objects that the program allocated. The head or root lies in a map's value or in an object, beside
// the lock that protects it and that is held at each call. What was put in is the list's: the program's references stop
// owning it and die with the lock's release. Source: docs.kernel.org/bpf/graph_ds_impl.html.
#include <algorithm>
#include <cerrno>

#include "verifier/engine.hpp"

namespace bpftime {
namespace {

const char* name_of(KfuncParam param) {
  switch (param) {
    case KfuncParam::kListHead:
      return "bpf_list_head";
    case KfuncParam::kListNode:
      return "bpf_list_node";
    case KfuncParam::kTreeRoot:
      return "bpf_rb_root";
    default:
      return "bpf_rb_node";
  }
}

BtfFieldKind kind_of(KfuncParam param) {
  switch (param) {
    case KfuncParam::kListHead:
      return BtfFieldKind::kListHead;
    case KfuncParam::kListNode:
      return BtfFieldKind::kListNode;
    case KfuncParam::kTreeRoot:
      return BtfFieldKind::kTreeRoot;
    default:
      return BtfFieldKind::kTreeNode;
  }
}

}  // namespace

// Is this call made while a tree looks where a new node belongs?
bool Engine::in_tree_callback() const {
  const auto& frames = current_->frames;
  return std::any_of(frames.begin(), frames.end(), [this](const Frame& frame) {
    const KfuncSpec* spec =
        frame.kind == FrameKind::kCallback ? kfunc_of(code_.insns[frame.call_insn]) : nullptr;
    return spec != nullptr && spec->rule == KfuncRule::kTreeAdd;
  });
}

// A lock is named by the map and, where it has many values, by the lookup; or by the reference that owns the object.
Ref Engine::lock_beside(const Reg& r) {
  Ref lock;
  lock.kind = RefKind::kLock;
  lock.helper = r.kind == RegKind::kMapValue ? r.object : UINT32_MAX;
  lock.owner = r.kind == RegKind::kMapValue ? r.owner : r.ref;
  return lock;
}

bool Engine::check_graph_argument(int regno, KfuncParam param, KfuncCall* call) {
  const Reg r = reg(regno);
  const char* const what = name_of(param);
  const bool is_root = param == KfuncParam::kListHead || param == KfuncParam::kTreeRoot;
  const bool is_sought = call->spec->rule == KfuncRule::kTreeRemove ||
                         call->spec->rule == KfuncRule::kTreeStep;  // it is in the tree already
  Reg owned = r;
  if (!is_root && is_sought && (r.flags & kNonOwning) != 0) {
    owned.flags &= static_cast<uint16_t>(~(kNonOwning | kRcu));
    owned.ref = UINT32_MAX;
  }
  const std::vector<BtfField>* fields = fields_behind(owned);
  if (fields == nullptr || (!is_root && r.kind != RegKind::kBtf)) {
    return refuse(EINVAL, "arg#%d expected pointer to %sallocated object", regno - 1,
                  is_root ? "map value or " : "");
  }
  if (!r.num.is_constant()) {
    return refuse(EINVAL, "R%d doesn't have constant offset. %s has to be at the constant offset",
                  regno, what);
  }
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  const BtfField* field = field_at(*fields, at);
  if (field == nullptr || field->kind != kind_of(param)) {
    return refuse(EINVAL, "%s not found at offset=%lld", what, static_cast<long long>(at));
  }
  if (is_root) {
    call->root = field;
    return check_root(r, what);
  }
  if (call->root == nullptr || call->root->pointee != r.object ||
      int64_t{call->root->node_offset} != at) {
    return refuse(EINVAL, "arg#%d is not the %s that the other argument contains", regno - 1, what);
  }
  call->object = r;
  return true;
}

// Its nodes are objects that this program knows, and its lock is held.
bool Engine::check_root(const Reg& r, const char* what) {
  if (r.kind == RegKind::kMapValue && !is_own_types(map(r.object).btf)) {
    return refuse(EINVAL, "%s contains objects of types that are not the program's", what);
  }
  const Ref wanted = lock_beside(r);
  const auto& refs = cur().refs;
  const bool is_held = std::any_of(refs.begin(), refs.end(), [&](const Ref& ref) {
    return ref.kind == wanted.kind && ref.helper == wanted.helper && ref.owner == wanted.owner;
  });
  return is_held || refuse(EINVAL, "the bpf_spin_lock beside it must be held for %s", what);
}

// The branch in which less() compares the new node with one of the tree, or with itself for all that is known.
bool Engine::push_less(const KfuncCall& call) {
  Frame callee;
  Reg node = Reg::pointer(RegKind::kBtf, call.root->pointee,
                          static_cast<uint16_t>(kAllocated | non_owning(call.root->pointee)));
  node.off = static_cast<int32_t>(call.root->node_offset);
  callee.regs[1] = callee.regs[2] = node;
  callee.return_min = 0;
  callee.return_max = 1;
  return push_callback_now(call.args.function, std::move(callee));
}

bool Engine::run_graph_rule(KfuncCall* call) {
  const KfuncRule rule = call->spec->rule;
  if (rule != KfuncRule::kListLook && rule != KfuncRule::kTreeLook && in_tree_callback()) {
    return refuse(EINVAL, "%.*s not allowed in rbtree cb",
                  static_cast<int>(call->spec->name.size()), call->spec->name.data());
  }
  switch (rule) {
    case KfuncRule::kTreeAdd:
      return push_less(*call) && disown(call->object.ref);
    case KfuncRule::kListPush:
      return disown(call->object.ref);
    case KfuncRule::kListPop:
    case KfuncRule::kTreeRemove:
      give_object(call->root->pointee, call->root->node_offset, kOrNull, call);
      return true;
    case KfuncRule::kListLook:
    case KfuncRule::kTreeLook:
    case KfuncRule::kTreeStep:
      call->result = Reg::pointer(
          RegKind::kBtf, call->root->pointee,
          static_cast<uint16_t>(kAllocated | kOrNull | non_owning(call->root->pointee)));
      call->result.off = static_cast<int32_t>(call->root->node_offset);
      call->result.id = new_id();
      return true;
    default:
      return refuse(EFAULT, "a kernel function with a rule that nobody knows");
  }
}

}  // namespace bpftime
