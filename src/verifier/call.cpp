// Calls: helpers by their prototypes, functions of the program, callbacks, references and locks.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "isa/opcode.hpp"
#include "spec/newer.hpp"
#include "spec/spec.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

constexpr int64_t kMostErrno = 4095;
constexpr uint64_t kMostLoops = 8U << 20;
constexpr uint64_t kMostProcessors = 8192;

// Which structure a helper's kKernelStruct argument is. nullptr: none that we know.
const char* expected_struct(uint32_t helper) {
  switch (helper) {
    case 111:
      return "sk_buff";
    case 116:
      return "tcp_sock";
    case 121:
      return "xdp_buff";
    case 126:
    case 127:
    case 150:
      return "seq_file";
    case 141:
    case 156:
    case 157:
    case 175:
    case 180:
    case 191:
      return "task_struct";
    case 145:
    case 146:
    case 161:
      return "inode";
    case 147:
      return "path";
    case 159:
      return "linux_binprm";
    case 162:
    case 193:
      return "file";
    case 210:
    case 211:
      return "cgroup";
    default:
      return nullptr;
  }
}

bool is_storage_get(uint32_t helper) {
  return helper == 107 || helper == 145 || helper == 156 || helper == 210;
}

bool one_of(uint32_t value, std::initializer_list<uint32_t> list) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

// Kernel behaviour: which maps a helper takes, and which helpers a map.
bool Engine::check_map_use(uint32_t helper, const VerifierMap& m, const char* name) {
  bool ok = true;
  switch (m.map_type) {
    case BPF_MAP_TYPE_PROG_ARRAY:
      ok = helper == 12;
      break;
    case BPF_MAP_TYPE_PERF_EVENT_ARRAY:
      ok = one_of(helper, {22, 25, 55, 111, 121});
      break;
    case BPF_MAP_TYPE_RINGBUF:
      ok = one_of(helper, {130, 131, 134, 198});
      break;
    case BPF_MAP_TYPE_USER_RINGBUF:
      ok = helper == 209;
      break;
    case BPF_MAP_TYPE_STACK_TRACE:
      ok = helper == 27;
      break;
    case BPF_MAP_TYPE_CGROUP_ARRAY:
      ok = one_of(helper, {33, 37});
      break;
    case BPF_MAP_TYPE_CGROUP_STORAGE:
    case BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE:
      ok = helper == 81;
      break;
    case BPF_MAP_TYPE_DEVMAP:
    case BPF_MAP_TYPE_DEVMAP_HASH:
    case BPF_MAP_TYPE_XSKMAP:
      ok = one_of(helper, {1, 51});
      break;
    case BPF_MAP_TYPE_CPUMAP:
      ok = helper == 51;
      break;
    case BPF_MAP_TYPE_ARRAY_OF_MAPS:
    case BPF_MAP_TYPE_HASH_OF_MAPS:
      ok = helper == 1;
      break;
    case BPF_MAP_TYPE_SOCKMAP:
      ok = one_of(helper, {1, 2, 3, 52, 53, 60, 82});
      break;
    case BPF_MAP_TYPE_SOCKHASH:
      ok = one_of(helper, {1, 2, 3, 70, 71, 72, 82});
      break;
    case BPF_MAP_TYPE_REUSEPORT_SOCKARRAY:
      ok = helper == 82;
      break;
    case BPF_MAP_TYPE_QUEUE:
    case BPF_MAP_TYPE_STACK:
      ok = one_of(helper, {87, 88, 89});
      break;
    case BPF_MAP_TYPE_BLOOM_FILTER:
      ok = one_of(helper, {87, 89});
      break;
    case BPF_MAP_TYPE_SK_STORAGE:
      ok = one_of(helper, {107, 108});
      break;
    case BPF_MAP_TYPE_INODE_STORAGE:
      ok = one_of(helper, {145, 146});
      break;
    case BPF_MAP_TYPE_TASK_STORAGE:
      ok = one_of(helper, {156, 157});
      break;
    case kMapCgrpStorage:
      ok = one_of(helper, {210, 211});
      break;
    case kMapArena:
      ok = false;
      break;
    case BPF_MAP_TYPE_STRUCT_OPS:
      ok = false;
      break;
    default: {  // arrays, hashes, LPM tries
      ok = one_of(helper, {1, 2, 3, 164, 169, 195});
      const bool is_lpm = m.map_type == BPF_MAP_TYPE_LPM_TRIE;
      if (helper == 164 || helper == 169) {
        ok = !is_lpm;
      }
      if (helper == 195) {
        ok = m.map_type == BPF_MAP_TYPE_PERCPU_ARRAY || m.map_type == BPF_MAP_TYPE_PERCPU_HASH ||
             m.map_type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
      }
      break;
    }
  }
  if (!ok) {
    return refuse(EINVAL, "cannot pass map_type %u into func bpf_%s#%u", m.map_type, name, helper);
  }
  // What programs may not do with the whole map.
  if ((m.map_flags & BPF_F_RDONLY_PROG) != 0 && one_of(helper, {2, 3, 87, 88})) {
    return refuse(EACCES, "write into map forbidden");
  }
  return true;
}

void Engine::clobber_caller_saved() {
  for (int r = 0; r <= 5; ++r) {
    reg(r) = Reg{};
  }
}

void Engine::drop_packet_pointers() {
  each_reg(&cur(), [](Reg& r) {
    if (r.kind == RegKind::kPacket || r.kind == RegKind::kPacketMeta ||
        r.kind == RegKind::kPacketEnd ||
        (r.kind == RegKind::kMem && (r.flags & kSlice) != 0 && (r.flags & kPerCpu) != 0)) {
      r = Reg{};
    }
  });
}

uint32_t Engine::acquire(RefKind kind, uint32_t helper) {
  const uint32_t id = new_id();
  Ref ref;
  ref.id = id;
  ref.kind = kind;
  ref.insn = cur().insn;
  ref.helper = helper;
  cur().refs.push_back(ref);
  return id;
}

bool Engine::release_reference(uint32_t id) {
  auto& refs = cur().refs;
  const auto it = std::find_if(refs.begin(), refs.end(), [id](const Ref& r) { return r.id == id; });
  if (it == refs.end()) {
    return refuse(EINVAL, "release of a reference that is not held");
  }
  refs.erase(it);
  each_reg(&cur(), [this, id](Reg& r) {
    if (r.ref == id) {
      r = leaks_forbidden() ? Reg{} : Reg::unknown();
    }
  });
  return true;
}

bool Engine::check_no_references(const char* where) {
  for (const Ref& ref : cur().refs) {
    if (ref.kind == RefKind::kLock || ref.kind == RefKind::kResLock) {
      return refuse(EINVAL, "%s cannot be used inside bpf_spin_lock-ed region", where);
    }
    return refuse(EINVAL, "Unreleased reference id=%u alloc_insn=%u: %s would lose it", ref.id,
                  ref.insn, where);
  }
  if (cur().rcu_depth != 0) {
    return refuse(EINVAL, "%s cannot be used inside bpf_rcu_read_lock-ed region", where);
  }
  if (cur().preempt_depth != 0) {
    return refuse(EINVAL, "%s cannot be used inside bpf_preempt_disable-ed region", where);
  }
  return true;
}

bool Engine::check_lock(bool is_unlock, const Reg& r, int regno) {
  verdict_.reg = regno;
  if (r.kind != RegKind::kMapValue || r.or_null()) {
    return refuse(EINVAL, "R%d does not point to a value with a bpf_spin_lock", regno);
  }
  if (!r.num.is_constant()) {
    return refuse(
        EINVAL, "R%d doesn't have constant offset. bpf_spin_lock has to be at the constant offset",
        regno);
  }
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  bool found = false;
  for (const BtfField& field : fields_of(r.object)) {
    found |= field.kind == BtfFieldKind::kSpinLock && at == int64_t{field.offset};
  }
  if (!found) {
    return refuse(EINVAL, "off %lld doesn't point to 'struct bpf_spin_lock'",
                  static_cast<long long>(at));
  }
  auto& refs = cur().refs;
  const auto held = std::find_if(refs.begin(), refs.end(),
                                 [](const Ref& ref) { return ref.kind == RefKind::kLock; });
  // A lock is named by its map and, where the map has many values, by the lookup.
  const uint32_t identity = r.owner;
  if (!is_unlock) {
    if (held != refs.end()) {
      return refuse(EINVAL, "Locking two bpf_spin_locks are not allowed");
    }
    Ref ref;
    ref.id = new_id();
    ref.kind = RefKind::kLock;
    ref.insn = cur().insn;
    ref.owner = identity;
    ref.helper = r.object;
    refs.push_back(ref);
  } else {
    if (held == refs.end()) {
      return refuse(EINVAL, "bpf_spin_unlock without taking a lock");
    }
    if (held->owner != identity || held->helper != r.object) {
      return refuse(EINVAL, "bpf_spin_unlock of different lock");
    }
    refs.erase(held);
  }
  verdict_.reg = -1;
  return true;
}

void Engine::drop_slices(uint32_t id) {
  if (id == 0) {
    return;
  }
  each_reg(&cur(), [id](Reg& r) {
    if ((r.flags & kSlice) != 0 && r.owner == id) {
      r = Reg{};
    }
  });
}

bool Engine::make_dynptr(int regno, DynptrKind kind, bool read_only, uint32_t ref) {
  const Reg r = reg(regno);
  verdict_.reg = regno;
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  if (r.kind != RegKind::kStack || !r.num.is_constant() || at % 8 != 0 || at < -kMostStack ||
      at + 16 > 0) {
    return refuse(EINVAL, "R%d: a dynptr lies at a constant, aligned place in the stack", regno);
  }
  const auto upper = static_cast<int>((-(at + 8) - 1) / 8);
  const int lower = upper + 1;
  note_stack_depth(r.frame, at);
  Frame& frame = cur().frames[r.frame];
  slot_at(r.frame, lower);
  if (!drop_special_slot(&frame, upper) || !drop_special_slot(&frame, lower)) {
    return false;
  }
  const uint32_t id = new_id();
  for (const int slot : {upper, lower}) {
    StackSlot& s = slot_at(r.frame, slot);
    s = StackSlot{};
    s.bytes.fill(ByteKind::kDynptr);
    s.is_first = slot == lower;
    s.dynptr = kind;
    s.dynptr_read_only = read_only;
    s.reg.id = id;
    s.reg.ref = ref;
    touch_stack(r.frame, slot, true);
  }
  verdict_.reg = -1;
  return true;
}

bool Engine::check_dynptr_argument(int regno, const ParamSpec& spec, const Prototype& proto,
                                   CallArgs* args) {
  const Reg r = reg(regno);
  verdict_.reg = regno;
  if (r.kind == RegKind::kDynptr) {
    if (spec.kind == Param::kDynptrOut || (spec.flags & kReleases) != 0) {
      return refuse(EINVAL, "R%d is a dynptr of the kernel's", regno);
    }
    args->dynptr = r;
    args->dynptr_kind = DynptrKind::kLocal;
    return true;
  }
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  if (r.kind != RegKind::kStack || r.or_null() || !r.num.is_constant() || at % 8 != 0 ||
      at < -kMostStack || at + 16 > 0) {
    return refuse(EINVAL, "arg#%d expected pointer to stack or const struct bpf_dynptr", regno - 1);
  }
  if (spec.kind == Param::kDynptrOut) {
    return true;  // made when the call is through
  }
  const auto upper = static_cast<int>((-(at + 8) - 1) / 8);
  const int lower = upper + 1;
  StackSlot& low = slot_at(r.frame, lower);
  StackSlot& high = slot_at(r.frame, upper);
  touch_stack(r.frame, lower, false);
  touch_stack(r.frame, upper, false);
  if (low.bytes[0] != ByteKind::kDynptr || high.bytes[0] != ByteKind::kDynptr || !low.is_first ||
      low.reg.id != high.reg.id) {
    return refuse(EINVAL, "Expected an initialized dynptr as arg #%d", regno - 1);
  }
  if ((spec.flags & kReleases) != 0) {
    if (low.dynptr != DynptrKind::kRingbuf) {
      return refuse(EINVAL, "arg %d is an unacquired reference", regno);
    }
    args->ref = low.reg.ref;
    args->release_reg = regno;
  }
  if (proto.id == 202 && low.dynptr_read_only) {
    return refuse(EINVAL, "cannot pass read-only dynptr as arg #%d", regno - 1);
  }
  args->dynptr = low.reg;
  args->dynptr_kind = low.dynptr;
  args->dynptr_read_only = low.dynptr_read_only;
  verdict_.reg = -1;
  return true;
}

bool Engine::check_constant_string(int regno) {
  const Reg r = reg(regno);
  verdict_.reg = regno;
  if (r.kind != RegKind::kMapValue || r.or_null()) {
    return refuse(EACCES, "R%d type=%s expected=map_value", regno, kind_name(r));
  }
  const VerifierMap& m = map(r.object);
  if ((m.map_flags & BPF_F_RDONLY_PROG) == 0 || m.constants.empty()) {
    return refuse(EACCES, "R%d does not point to a readonly map", regno);
  }
  if (!r.num.is_constant()) {
    return refuse(EACCES, "R%d is not a constant address", regno);
  }
  const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
  if (at < 0 || at >= static_cast<int64_t>(m.constants.size()) ||
      std::memchr(m.constants.data() + at, 0, m.constants.size() - static_cast<size_t>(at)) ==
          nullptr) {
    return refuse(EINVAL, "string is not zero-terminated");
  }
  verdict_.reg = -1;
  return true;
}

bool Engine::check_argument(int regno, const ParamSpec& spec, const Prototype& proto, int index,
                            CallArgs* args) {
  if (spec.kind == Param::kNone) {
    return true;
  }
  if (!check_readable(regno)) {
    return false;
  }
  const Reg r = reg(regno);
  verdict_.reg = regno;
  const auto wrong = [&](const char* expected) {
    return refuse(EACCES, "R%d type=%s expected=%s", regno, kind_name(r), expected);
  };
  if ((spec.flags & kMayBeNull) != 0 && r.is_zero() && spec.kind != Param::kRead &&
      spec.kind != Param::kWrite) {
    verdict_.reg = -1;
    return mark_precise(regno);
  }
  const ParamSpec& next = index < 4 ? proto.args[index + 1] : ParamSpec{};
  const bool has_size = next.kind == Param::kSize || next.kind == Param::kSizeOrZero;
  bool ok = true;
  switch (spec.kind) {
    case Param::kAny:
      if (r.is_pointer() && leaks_forbidden()) {
        return refuse(EACCES, "R%d leaks addr into helper function", regno);
      }
      break;
    case Param::kCtx:
      if (r.kind != RegKind::kCtx) {
        return wrong("ctx");
      }
      if (r.off != 0 || !r.num.is_constant() || r.num.bits.value != 0) {
        return refuse(EACCES, "dereference of modified ctx ptr R%d off=%d disallowed", regno,
                      r.off);
      }
      verdict_.facts.passes_context = true;
      break;
    case Param::kMap:
      if (r.kind != RegKind::kMap || r.off != 0 || r.or_null()) {
        return wrong("map_ptr");
      }
      args->map = static_cast<int32_t>(r.object);
      args->map_uid = r.owner;
      ok = check_map_use(proto.id, map(r.object), proto.name);
      break;
    case Param::kKey:
      ok = check_helper_memory(regno, map(static_cast<uint32_t>(args->map)).key_size, false, false);
      break;
    case Param::kValue:
    case Param::kValueOut: {
      const VerifierMap& m = map(static_cast<uint32_t>(args->map));
      if (m.map_type == BPF_MAP_TYPE_SOCKMAP || m.map_type == BPF_MAP_TYPE_SOCKHASH) {
        if (r.kind != RegKind::kSocket && r.kind != RegKind::kBtf) {
          return wrong("sock");
        }
        break;
      }
      ok = check_helper_memory(regno, m.value_size, spec.kind == Param::kValueOut, false);
      break;
    }
    case Param::kRead:
    case Param::kWrite:
    case Param::kReadWrite:
      if (r.or_null()) {
        return wrong("fp, pkt, map_key, map_value, mem: it may be null");
      }
      if (r.is_scalar() && !((spec.flags & kMayBeNull) != 0 && r.is_zero())) {
        return wrong("fp, pkt, pkt_meta, map_key, map_value, mem");
      }
      if (!has_size) {
        return refuse(EFAULT, "a prototype without a size");
      }
      break;  // checked with its size
    case Param::kFixedRead:
      ok = check_helper_memory(regno, spec.bytes, false, false);
      break;
    case Param::kFixedWrite:
      ok = (r.kind == RegKind::kScalar ||
            check_alignment(r, regno, 0, spec.bytes == 12 ? 4 : spec.bytes)) &&
           check_helper_memory(regno, spec.bytes, true, false);
      break;
    case Param::kSize:
    case Param::kSizeOrZero: {
      const Param before = proto.args[index - 1].kind;
      const bool is_write = before == Param::kWrite || before == Param::kReadWrite;
      ok = check_size_argument(regno, is_write, spec.kind == Param::kSizeOrZero, args);
      break;
    }
    case Param::kAllocSize:
      if (!r.is_scalar() || !r.num.is_constant()) {
        return refuse(EACCES, "R%d is not a known constant", regno);
      }
      // Where it is too much, the helper gives null.
      args->alloc_size = std::min<uint64_t>(r.num.bits.value, INT32_MAX);
      ok = mark_precise(regno);
      break;
    case Param::kConstString:
      ok = check_constant_string(regno);
      break;
    case Param::kFunction:
      if (r.kind != RegKind::kFunction || r.off != 0) {
        return wrong("func");
      }
      args->function = r.object;
      args->has_function = true;
      break;
    case Param::kStackPtr:
      if (is_storage_get(proto.id)) {
        ok = check_helper_memory(regno, map(static_cast<uint32_t>(args->map)).value_size, false,
                                 false);
        break;
      }
      if (r.kind != RegKind::kStack) {
        return wrong("fp or null");
      }
      break;
    case Param::kSpinLock:
      ok = check_lock(proto.id == 94, r, regno);
      break;
    case Param::kTimer: {
      const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
      if (r.kind != RegKind::kMapValue || r.or_null() || !r.num.is_constant()) {
        return refuse(
            EINVAL, "R%d doesn't have constant offset. bpf_timer has to be at the constant offset",
            regno);
      }
      bool found = false;
      for (const BtfField& field : fields_of(r.object)) {
        found |= field.kind == BtfFieldKind::kTimer && at == int64_t{field.offset};
      }
      if (!found) {
        return refuse(EINVAL, "off %lld doesn't point to 'struct bpf_timer'",
                      static_cast<long long>(at));
      }
      args->map = static_cast<int32_t>(r.object);
      args->map_uid = (r.flags & kMapUid) != 0 ? r.owner : 0;
      break;
    }
    case Param::kKptrField: {
      const int64_t at = r.off + static_cast<int64_t>(r.num.bits.value);
      if (r.kind != RegKind::kMapValue || r.or_null() || !r.num.is_constant()) {
        return wrong("map_value with a kptr");
      }
      for (const BtfField& field : fields_of(r.object)) {
        if (field.kind == BtfFieldKind::kKptr && at == int64_t{field.offset}) {
          args->field = &field;
        }
      }
      if (args->field == nullptr) {
        return refuse(EACCES, "off=%lld doesn't point to kptr", static_cast<long long>(at));
      }
      args->map = static_cast<int32_t>(r.object);
      break;
    }
    case Param::kDynptr:
    case Param::kDynptrOut:
      ok = check_dynptr_argument(regno, spec, proto, args);
      break;
    case Param::kRecord:
      if (r.kind != RegKind::kMem || (r.flags & kRingbufRecord) == 0 || r.or_null()) {
        return wrong("ringbuf_mem");
      }
      if (r.off != 0 || !r.num.is_constant() || r.num.bits.value != 0) {
        return refuse(EINVAL, "R%d must have zero offset when passed to release func", regno);
      }
      if (r.ref == 0) {
        return refuse(EINVAL, "R%d must be referenced when passed to release function", regno);
      }
      args->ref = r.ref;
      args->release_reg = regno;
      break;
    case Param::kSocket:
    case Param::kSocketCommon:
      if (r.or_null() || (r.kind != RegKind::kSocket && r.kind != RegKind::kBtf) ||
          (r.flags & kUntrusted) != 0) {
        return wrong("sock");
      }
      if (r.kind == RegKind::kBtf) {
        auto type = program_.kernel_btf != nullptr ? program_.kernel_btf->type(r.object)
                                                   : Result<BtfType>(make_error(EINVAL, ""));
        static constexpr std::string_view kSockets[] = {"sock",         "sock_common", "tcp_sock",
                                                        "request_sock", "udp_sock",    "unix_sock",
                                                        "inet_sock",    "tcp6_sock",   "udp6_sock"};
        if (!type || (r.flags & kKernelBtf) == 0 ||
            std::find(std::begin(kSockets), std::end(kSockets), type->name) == std::end(kSockets)) {
          return wrong("sock");
        }
      } else if (spec.kind == Param::kSocket && (spec.flags & kReleases) == 0 &&
                 r.object == static_cast<uint32_t>(SocketKind::kSockCommon)) {
        return wrong("a full sock");
      }
      if ((spec.flags & kReleases) != 0) {
        if (r.ref == 0) {
          return refuse(EINVAL, "R%d must be referenced when passed to release function", regno);
        }
        args->ref = r.ref;
        args->release_reg = regno;
      }
      break;
    case Param::kKernelStruct: {
      if (proto.id == 194) {  // what is exchanged into a kptr
        if (r.kind != RegKind::kBtf || r.or_null() || r.ref == 0 || args->field == nullptr) {
          return refuse(EINVAL, "R%d must be referenced when passed to release function", regno);
        }
        const Btf* from = (r.flags & kKernelBtf) != 0 ? program_.kernel_btf : program_.btf;
        const VerifierMap& m = map(static_cast<uint32_t>(args->map));
        auto held = from->type(r.object);
        auto wanted = m.btf->resolve(args->field->pointee);
        if (!held || !wanted || held->name != wanted->name || r.off != 0) {
          return wrong("a pointer of the kptr's type");
        }
        args->ref = r.ref;
        args->release_reg = regno;
        break;
      }
      const char* name = expected_struct(proto.id);
      if (r.kind != RegKind::kBtf || r.or_null() || (r.flags & kKernelBtf) == 0 ||
          (r.flags & (kTrusted | kRcu)) == 0 || r.off != 0 || name == nullptr) {
        return wrong("trusted_ptr_");
      }
      auto type = program_.kernel_btf->type(r.object);
      if (!type || type->name != name) {
        return wrong(name);
      }
      break;
    }
    case Param::kPerCpuVar:
      if (r.kind != RegKind::kBtf && r.kind != RegKind::kMem) {
        return wrong("percpu_ptr_");
      }
      break;
    case Param::kNone:
      break;
  }
  if (ok) {
    verdict_.reg = -1;
  }
  return ok;
}

bool Engine::set_return(const Prototype& proto, const CallArgs& args) {
  Reg r;
  switch (proto.gives) {
    case Gives::kNothing:
      // The kernel lets nothing be read; a helper of ours leaves a number of no meaning there.
      break;
    case Gives::kNumber:
      r = Reg::unknown();
      if ((proto.effects & kAtMostSize) != 0) {
        r.num = Scalar::between_signed(-kMostErrno, std::max<int64_t>(args.size_max, 0));
      } else if (proto.id == 8) {
        r.num = Scalar::between(0, kMostProcessors - 1);
      }
      break;
    case Gives::kMapValueOrNull:
    case Gives::kMapValue: {
      const auto index = static_cast<uint32_t>(args.map);
      const VerifierMap& m = map(index);
      const bool may_be_null = proto.gives == Gives::kMapValueOrNull;
      const bool is_nested =
          m.map_type == BPF_MAP_TYPE_ARRAY_OF_MAPS || m.map_type == BPF_MAP_TYPE_HASH_OF_MAPS;
      if (is_nested && m.inner == nullptr) {
        return refuse(EINVAL, "the inner map of a map is not known");
      }
      if (m.map_type == BPF_MAP_TYPE_SOCKMAP || m.map_type == BPF_MAP_TYPE_SOCKHASH) {
        r = Reg::pointer(RegKind::kSocket, static_cast<uint32_t>(SocketKind::kSock), kOrNull);
        r.ref = r.id = acquire(RefKind::kPointer, proto.id);
        break;
      }
      if (m.map_type == BPF_MAP_TYPE_XSKMAP) {
        r = Reg::pointer(RegKind::kSocket, static_cast<uint32_t>(SocketKind::kXdpSock), kOrNull);
        r.id = new_id();
        break;
      }
      r = Reg::pointer(RegKind::kMapValue, index, may_be_null ? kOrNull : 0);
      if (may_be_null) {
        r.id = new_id();
      }
      if (args.map_uid != 0) {
        r.flags |= kMapUid;
      }
      break;
    }
    case Gives::kMemoryOrNull:
      r = Reg::pointer(RegKind::kMem, 0, kOrNull | kRingbufRecord);
      r.size = static_cast<uint32_t>(args.alloc_size);
      r.ref = r.id = acquire(RefKind::kPointer, proto.id);
      break;
    case Gives::kSliceOrNull:
      r = Reg::pointer(RegKind::kMem, 0, kOrNull | kSlice);
      if (args.dynptr_read_only) {
        r.flags |= kReadOnly;
      }
      r.size = static_cast<uint32_t>(args.alloc_size);
      r.owner = args.dynptr.id;
      r.ref = args.dynptr.ref;
      r.id = new_id();
      break;
    case Gives::kSocketOrNull:
    case Gives::kSocketCommonOrNull:
    case Gives::kTcpSocketOrNull: {
      const SocketKind kind = proto.gives == Gives::kSocketOrNull         ? SocketKind::kSock
                              : proto.gives == Gives::kSocketCommonOrNull ? SocketKind::kSockCommon
                                                                          : SocketKind::kTcpSock;
      r = Reg::pointer(RegKind::kSocket, static_cast<uint32_t>(kind), kOrNull);
      if ((proto.effects & kAcquires) != 0) {
        r.ref = r.id = acquire(RefKind::kPointer, proto.id);
      } else {
        r.id = new_id();
        r.ref = args.ref;
      }
      break;
    }
    case Gives::kKernelStruct:
    case Gives::kKernelStructOrNull: {
      r = Reg::unknown();
      auto type = program_.kernel_btf != nullptr
                      ? program_.kernel_btf->find(proto.kernel_struct, BtfKind::kStruct)
                      : Result<BtfType>(make_error(ENOENT, ""));
      if (type) {
        r = Reg::pointer(RegKind::kBtf, type->id, kKernelBtf | kTrusted);
        if (proto.gives == Gives::kKernelStructOrNull) {
          r.flags |= kOrNull;
          r.id = new_id();
        }
      }
      break;
    }
    case Gives::kPerCpu:
    case Gives::kPerCpuOrNull: {
      const Reg& var = args.dynptr;
      r = var.kind == RegKind::kBtf || var.kind == RegKind::kMem ? var : Reg::unknown();
      r.flags &= static_cast<uint16_t>(~kTrusted);
      if (proto.gives == Gives::kPerCpuOrNull && r.is_pointer()) {
        r.flags |= kOrNull;
        r.id = new_id();
      }
      break;
    }
    case Gives::kKptrOrNull:
      if (args.field != nullptr) {
        r = Reg::pointer(RegKind::kBtf, args.field->pointee, kOrNull | kTrusted);
        const VerifierMap& m = map(static_cast<uint32_t>(args.map));
        auto wanted = m.btf->resolve(args.field->pointee);
        auto kernel = wanted && program_.kernel_btf != nullptr
                          ? program_.kernel_btf->find(wanted->name, BtfKind::kStruct)
                          : Result<BtfType>(make_error(ENOENT, ""));
        if (kernel) {
          r.object = kernel->id;
          r.flags |= kKernelBtf;
        }
        r.ref = r.id = acquire(RefKind::kPointer, proto.id);
      }
      break;
  }
  reg(0) = r;
  return true;
}

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

bool Engine::check_helper(const bpf_insn& insn) {
  const auto id = static_cast<uint32_t>(insn.imm);
  const Prototype* proto = find_prototype(id);
  if (proto == nullptr) {
    return refuse(EINVAL, "invalid func unknown#%d", insn.imm);
  }
  if (options_.has_helper && !options_.has_helper(id)) {
    return refuse(EINVAL, "unknown func bpf_%s#%u", proto->name, id);
  }
  if (!options_.no_helper_gate &&
      (proto->program_types & program_type_bit(program_.prog_type)) == 0) {
    return refuse(EINVAL, "program of this type cannot use helper bpf_%s#%u", proto->name, id);
  }
  if ((proto->effects & kSleeps) != 0) {
    if (!cur().in_sleepable) {
      return refuse(EINVAL, "helper call might sleep in a non-sleepable prog");
    }
    if (cur().rcu_depth != 0 || cur().preempt_depth != 0) {
      return refuse(EINVAL, "sleepable helper bpf_%s#%u in a region that may not sleep",
                    proto->name, id);
    }
    verdict_.facts.may_sleep = true;
  }
  for (const Ref& ref : cur().refs) {
    if (ref.kind == RefKind::kLock && id != 94) {
      return refuse(EINVAL, "function calls are not allowed while holding a lock");
    }
  }
  helper_bits_[id / 64] |= 1ULL << (id % 64);
  CallArgs args;
  for (int i = 0; i < 5; ++i) {
    if (!check_argument(i + 1, proto->args[i], *proto, i, &args)) {
      return false;
    }
  }
  if (id == 153 || id == 154) {
    args.dynptr = reg(1);
  }
  if (id == 169 && reg(2).object != reg(1).object) {
    return refuse(EINVAL, "timer pointer in R1 and map pointer in R2 doesn't match");
  }
  if (id == 169 && ((reg(1).flags & kMapUid) != 0 || (reg(2).flags & kMapUid) != 0)) {
    if (reg(1).owner != reg(2).owner) {
      return refuse(EINVAL, "timer pointer in R1 and map pointer in R2 doesn't match");
    }
  }
  if (id == 12) {
    verdict_.facts.has_tail_calls = true;
    if (!check_no_references("tail_call")) {
      return false;
    }
    if (cur().top().kind == FrameKind::kAsync) {
      return refuse(EINVAL, "tail_call is not allowed in an asynchronous callback");
    }
  }
  // An array element at a known index in range is always there.
  bool surely_there = false;
  if (id == 1 && reg(2).kind == RegKind::kStack && reg(2).num.is_constant()) {
    const VerifierMap& m = map(static_cast<uint32_t>(args.map));
    if ((m.map_type == BPF_MAP_TYPE_ARRAY || m.map_type == BPF_MAP_TYPE_PERCPU_ARRAY) &&
        args.map_uid == 0) {
      const int64_t at = reg(2).off + static_cast<int64_t>(reg(2).num.bits.value);
      const auto slot = static_cast<int>((-at - 1) / 8);
      const auto first = static_cast<size_t>(((at % 8) + 8) % 8);
      const StackSlot& s = slot_at(reg(2).frame, slot);
      if (first <= 4) {
        if (first == 0 && s.is_spill() && s.bytes[3] == ByteKind::kSpill &&
            s.bytes[4] != ByteKind::kSpill && s.reg.is_scalar() && s.reg.num.low_is_constant()) {
          const uint64_t key = s.reg.num.bits.value & UINT32_MAX;
          if (key < m.max_entries) {
            surely_there = true;
            if (!mark_slot_precise(reg(2).frame, slot)) {
              return false;
            }
          }
        } else if (std::all_of(s.bytes.begin() + static_cast<ptrdiff_t>(first),
                               s.bytes.begin() + static_cast<ptrdiff_t>(first) + 4,
                               [](ByteKind b) { return b == ByteKind::kZero; })) {
          surely_there = m.max_entries > 0;
        }
      }
    }
  }
  if (args.has_function && !push_callback(*proto, args)) {
    return false;
  }
  // Dynptrs that this call makes or ends.
  if (id == 197) {
    const Reg& data = reg(1);
    if (data.kind != RegKind::kMapValue && data.kind != RegKind::kMem) {
      return refuse(EINVAL, "Unsupported reg type %s for bpf_dynptr_from_mem data",
                    kind_name(data));
    }
    if (!make_dynptr(4, DynptrKind::kLocal, false, 0)) {
      return false;
    }
  } else if (id == 198) {
    const uint32_t ref = acquire(RefKind::kDynptr, id);
    if (!make_dynptr(4, DynptrKind::kRingbuf, false, ref)) {
      return false;
    }
  } else if (id == 199 || id == 200) {
    const uint32_t ref = args.ref;
    for (Frame& frame : cur().frames) {
      for (StackSlot& slot : frame.slots) {
        if (slot.bytes[0] == ByteKind::kDynptr && slot.reg.ref == ref) {
          drop_slices(slot.reg.id);
          slot = StackSlot{};
        }
      }
    }
  }
  if (args.ref != 0 && args.release_reg > 0) {
    if (!release_reference(args.ref)) {
      return false;
    }
  }
  if ((proto->effects & kChangesPacket) != 0) {
    drop_packet_pointers();
  }
  const CallArgs kept = args;
  clobber_caller_saved();
  if (!set_return(*proto, kept)) {
    return false;
  }
  if (surely_there) {
    reg(0).flags &= static_cast<uint16_t>(~kOrNull);
    const uint32_t given = reg(0).id;
    reg(0).id = 0;
    if (!fields_of(reg(0).object).empty()) {
      reg(0).owner = given;
    }
  }
  ++cur().insn;
  return id != 12 || cur().frames.size() == 1 || leave_by_tail_call();
}

// A tail call in a function: either it fails and the function goes on, or its caller gets what
// another program returned, and packets may have changed.
bool Engine::leave_by_tail_call() {
  if (!push_branch(cur().insn)) {
    return false;
  }
  drop_packet_pointers();
  reg(0) = Reg::unknown();
  now().is_tail_call = true;
  bool ended = false;
  return check_exit(&ended);
}

bool Engine::check_global_call(uint32_t index) {
  const FunctionFacts& callee = functions_[index];
  auto func = program_.btf->type(callee.type);
  auto proto = func ? program_.btf->type(func->target) : Result<BtfType>(func.error());
  if (!proto || proto->kind != BtfKind::kFuncProto) {
    return refuse(EINVAL, "function %s has no prototype", callee.name.c_str());
  }
  for (const Ref& ref : cur().refs) {
    if (ref.kind == RefKind::kLock) {
      return refuse(EINVAL, "global function calls are not allowed while holding a lock");
    }
  }
  // What the function itself will assume: the same reading of its types gives it.
  Frame wanted;
  {
    auto saved = std::move(current_);
    current_ = std::make_unique<State>();
    current_->frames.resize(1);
    const bool ok = set_arguments(index, false);
    wanted = cur().top();
    current_ = std::move(saved);
    if (!ok) {
      return false;
    }
  }
  for (int r = 1; r <= 5; ++r) {
    const Reg& want = wanted.regs[static_cast<size_t>(r)];
    if (want.kind == RegKind::kNone) {
      continue;
    }
    if (!check_readable(r)) {
      return false;
    }
    const Reg have = reg(r);
    verdict_.reg = r;
    if (want.is_scalar()) {
      if (!have.is_scalar()) {
        return refuse(EINVAL, "R%d is not a scalar", r);
      }
    } else if (want.kind == RegKind::kCtx) {
      if (have.kind != RegKind::kCtx || have.off != 0) {
        return refuse(EINVAL, "arg#%d expects pointer to ctx", r - 1);
      }
      verdict_.facts.reads_unknown_context = true;
    } else if (want.kind == RegKind::kArena) {
      if (have.kind != RegKind::kArena && !have.is_scalar()) {
        return refuse(EINVAL, "R%d is not a pointer to arena or scalar", r);
      }
    } else {
      if (want.or_null() && have.is_zero()) {
        if (!mark_precise(r)) {
          return false;
        }
        continue;
      }
      if (!have.is_pointer() || (have.or_null() && !want.or_null())) {
        return refuse(EINVAL, "arg#%d expected a pointer to %u bytes", r - 1, want.size);
      }
      reg(r).flags &= static_cast<uint16_t>(~kOrNull);
      const bool ok = check_helper_memory(r, want.size, false, false) &&
                      check_helper_memory(r, want.size, true, false);
      reg(r).flags = have.flags;
      if (!ok) {
        return false;
      }
    }
  }
  verdict_.reg = -1;
  if (callee.changes_packet) {
    drop_packet_pointers();
  }
  clobber_caller_saved();
  if (proto->target != 0) {
    reg(0) = Reg::unknown();
  }
  verdict_.facts.most_back_edges = UINT32_MAX;
  ++cur().insn;
  return true;
}

bool Engine::check_local_call(const bpf_insn& insn) {
  const uint32_t at = cur().insn;
  const auto target = static_cast<uint32_t>(int64_t{at} + 1 + insn.imm);
  const uint32_t index = function_at(target);
  if (functions_[index].is_global) {
    facts_[target].is_prune_point = true;
    return check_global_call(index);
  }
  if (cur().frames.size() >= kMaxCallFrames) {
    return refuse(E2BIG, "the call stack of %zu frames is too deep", cur().frames.size() + 1);
  }
  Frame callee;
  callee.function = index;
  callee.call_insn = at;
  for (size_t r = 1; r <= 5; ++r) {
    callee.regs[r] = cur().top().regs[r];
    callee.regs[r].precise = false;
  }
  callee.regs[10] = Reg::pointer(RegKind::kStack);
  callee.regs[10].frame = static_cast<uint8_t>(cur().frames.size());
  clobber_caller_saved();
  cur().frames.push_back(std::move(callee));
  cur().insn = target;
  return true;
}

bool Engine::check_call(const bpf_insn& insn) {
  if (insn.src_reg == kCallLocal) {
    return check_local_call(insn);
  }
  return insn.src_reg == kCallKfunc ? check_kfunc(insn) : check_helper(insn);
}

}  // namespace bpftime
