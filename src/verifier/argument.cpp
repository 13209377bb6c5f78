// Arguments of helpers, each as its prototype says.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "spec/spec.hpp"
#include "spec/format.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

// Which structure a helper's kKernelStruct argument is. nullptr: none that we know.
const char* expected_struct(uint32_t helper) {
  switch (helper) {
    case 111:
      return "sk_buff";
    case 116:
      return "tcp_sock";
    case 121:
    case 188:
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

// Is `type` a structure of this name, or does its first member, at whatever depth, have one?
bool begins_with(const Btf& btf, uint32_t type, std::string_view name) {
  for (int depth = 0; depth < 16; ++depth) {
    auto here = btf.resolve(type);
    if (!here || here->kind != BtfKind::kStruct) {
      return false;
    }
    if (here->name == name) {
      return true;
    }
    const auto members = btf.members(*here);
    if (members.empty() || members.front().bit_offset != 0) {
      return false;
    }
    type = members.front().type;
  }
  return false;
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
      ok = one_of(helper, {1, 52, 53, 60, 82}) ||
           (one_of(helper, {2, 3}) && may_change_sockets(helper));
      break;
    case BPF_MAP_TYPE_SOCKHASH:
      ok = one_of(helper, {1, 70, 71, 72, 82}) ||
           (one_of(helper, {2, 3}) && may_change_sockets(helper));
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

// snprintf: R3 is a constant string, R4 and R5 are the numbers that it prints.
bool Engine::check_format() {
  const uint64_t bytes = reg(5).num.bits.value;  // as many as are there for sure
  const Reg& text = reg(3);
  const int64_t at = text.off + static_cast<int64_t>(text.num.bits.value);
  const auto* begin = reinterpret_cast<const char*>(map(text.object).constants.data());
  if (bytes % sizeof(uint64_t) != 0 || !is_format_right(begin + at, bytes / sizeof(uint64_t))) {
    return refuse(EINVAL, "Invalid format string, or not its %llu bytes of numbers",
                  static_cast<unsigned long long>(bytes));
  }
  return true;
}

// May this program put sockets into maps and take them out (helpers 2, 3)?
bool Engine::may_change_sockets(uint32_t helper) const {
  static constexpr uint64_t kTypes =
      program_type_bit(BPF_PROG_TYPE_SOCKET_FILTER) | program_type_bit(BPF_PROG_TYPE_SCHED_CLS) |
      program_type_bit(BPF_PROG_TYPE_SCHED_ACT) | program_type_bit(BPF_PROG_TYPE_XDP) |
      program_type_bit(BPF_PROG_TYPE_SK_REUSEPORT) |
      program_type_bit(BPF_PROG_TYPE_FLOW_DISSECTOR) | program_type_bit(BPF_PROG_TYPE_SK_LOOKUP);
  return (kTypes & program_type_bit(program_.prog_type)) != 0 ||
         (is_program_type(BPF_PROG_TYPE_SOCK_OPS) && helper == 3) ||
         (is_program_type(BPF_PROG_TYPE_TRACING) &&
          program_.expected_attach_type == BPF_TRACE_ITER);
}

bool Engine::wrong_argument(int regno, const char* expected) {
  return refuse(EACCES, "R%d type=%s expected=%s", regno, kind_name(reg(regno)), expected);
}

// A map's key or value may lie anywhere but in a structure of the kernel's.
bool Engine::check_not_a_structure(int regno) {
  const Reg& r = reg(regno);
  if (r.kind == RegKind::kBtf && (r.flags & kAllocated) == 0) {
    return wrong_argument(regno, "fp, pkt, map_key, map_value, mem");
  }
  return true;
}

// The map, and what the call takes of its elements.
bool Engine::check_map_argument(int regno, const ParamSpec& spec, const Prototype& proto,
                                CallArgs* args) {
  const Reg r = reg(regno);
  bool ok = true;
  switch (spec.kind) {
    case Param::kMap:
      if (r.kind != RegKind::kMap || r.off != 0 || r.or_null()) {
        return wrong_argument(regno, "map_ptr");
      }
      args->map = static_cast<int32_t>(r.object);
      args->map_uid = r.owner;
      ok = check_map_use(proto.id, map(r.object), proto.name);
      break;
    case Param::kKey:
      ok = check_not_a_structure(regno) &&
           check_helper_memory(regno, map(static_cast<uint32_t>(args->map)).key_size, false, false);
      break;
    case Param::kValue:
    case Param::kValueOut: {
      const VerifierMap& m = map(static_cast<uint32_t>(args->map));
      if (m.map_type == BPF_MAP_TYPE_SOCKMAP || m.map_type == BPF_MAP_TYPE_SOCKHASH) {
        ok = check_socket_argument(regno, {Param::kSocketCommon, 0, 0}, args);
        break;
      }
      ok = check_not_a_structure(regno) &&
           check_helper_memory(regno, m.value_size, spec.kind == Param::kValueOut, false);
      break;
    }
    case Param::kStackPtr:
      if (is_storage_get(proto.id)) {
        ok = check_not_a_structure(regno) &&
             check_helper_memory(regno, map(static_cast<uint32_t>(args->map)).value_size, false,
                                 false);
        break;
      }
      if (r.kind != RegKind::kStack) {
        return wrong_argument(regno, "fp or null");
      }
      break;
    default:
      break;
  }
  return ok;
}

// Memory, its size, numbers and strings.
bool Engine::check_memory_argument(int regno, const ParamSpec& spec, const Prototype& proto,
                                   int index, CallArgs* args) {
  const Reg r = reg(regno);
  const ParamSpec& next = index < 4 ? proto.args[index + 1] : ParamSpec{};
  const bool has_size = next.kind == Param::kSize || next.kind == Param::kSizeOrZero;
  bool ok = true;
  switch (spec.kind) {
    case Param::kRead:
    case Param::kWrite:
    case Param::kReadWrite:
      if (r.or_null()) {
        return wrong_argument(regno, "fp, pkt, map_key, map_value, mem: it may be null");
      }
      if (r.is_scalar() && !((spec.flags & kMayBeNull) != 0 && r.is_zero())) {
        return wrong_argument(regno, "fp, pkt, pkt_meta, map_key, map_value, mem");
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
    default:
      break;
  }
  return ok;
}

// A field of a map value that helpers alone touch.
bool Engine::check_field_argument(int regno, const ParamSpec& spec, const Prototype& proto,
                                  CallArgs* args) {
  const Reg r = reg(regno);
  bool ok = true;
  switch (spec.kind) {
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
      const std::vector<BtfField>* fields = fields_behind(r);
      if (fields == nullptr || !r.num.is_constant()) {
        return wrong_argument(regno, "map_value with a kptr");
      }
      args->field = field_at(*fields, at);
      if (args->field == nullptr || !args->field->is_kptr() ||
          args->field->kind == BtfFieldKind::kKptrUntrusted) {
        return refuse(EACCES, "off=%lld doesn't point to kptr", static_cast<long long>(at));
      }
      args->field_types = r.kind == RegKind::kMapValue ? map(r.object).btf : program_.btf;
      break;
    }
    default:
      break;
  }
  return ok;
}

bool Engine::check_record_argument(int regno, CallArgs* args) {
  const Reg r = reg(regno);
  if (r.kind != RegKind::kMem || (r.flags & kRingbufRecord) == 0 || r.or_null()) {
    return wrong_argument(regno, "ringbuf_mem");
  }
  if (r.off != 0 || !r.num.is_constant() || r.num.bits.value != 0) {
    return refuse(EINVAL, "R%d must have zero offset when passed to release func", regno);
  }
  if (r.ref == 0) {
    return refuse(EINVAL, "R%d must be referenced when passed to release function", regno);
  }
  args->ref = r.ref;
  args->release_reg = regno;
  return true;
}

bool Engine::check_socket_argument(int regno, const ParamSpec& spec, CallArgs* args) {
  const Reg r = reg(regno);
  // In tracing programs the storage of a socket is asked for by any pointer of the kernel's, null too.
  const bool may_be_null =
      (spec.flags & kMayBeNull) != 0 ||
      (is_traced() && r.kind == RegKind::kBtf && (spec.flags & kMayBeNullTraced) != 0);
  if ((r.or_null() && !may_be_null) || (r.kind != RegKind::kSocket && r.kind != RegKind::kBtf) ||
      (r.flags & kUntrusted) != 0 || ((r.flags & kRcu) != 0 && !is_traced())) {
    return wrong_argument(regno, "sock");
  }
  if (r.kind == RegKind::kBtf && (spec.flags & kNotByType) != 0) {
    return wrong_argument(regno, "sock");
  }
  if (r.kind == RegKind::kBtf) {
    if ((r.flags & kKernelBtf) == 0 || r.off != 0 || program_.kernel_btf == nullptr ||
        !begins_with(*program_.kernel_btf, r.object, "sock_common")) {
      return wrong_argument(regno, "sock");
    }
  } else if (spec.kind == Param::kSocket && (spec.flags & kReleases) == 0 &&
             r.object == static_cast<uint32_t>(SocketKind::kSockCommon)) {
    return wrong_argument(regno, "a full sock");
  }
  args->ref = r.ref;
  if ((spec.flags & kReleases) != 0) {
    if (r.ref == 0) {
      return refuse(EINVAL, "R%d must be referenced when passed to release function", regno);
    }
    args->release_reg = regno;
  }
  return true;
}

// What is exchanged into a kptr.
bool Engine::check_exchanged(int regno, CallArgs* args) {
  const Reg r = reg(regno);
  if (r.kind != RegKind::kBtf || r.or_null() || r.ref == 0 || args->field == nullptr) {
    return refuse(EINVAL, "R%d must be referenced when passed to release function", regno);
  }
  const Btf& types = *args->field_types;
  bool fits = false;
  if (!is_kptr_of_kernel(*args->field, types)) {
    fits = fits_kptr(r, *args->field, types);
  } else if ((r.flags & kKernelBtf) != 0 && args->field->kind == BtfFieldKind::kKptr) {
    auto held = program_.kernel_btf->type(r.object);
    auto wanted = types.resolve(args->field->pointee);
    fits = held && wanted && held->name == wanted->name;
  }
  if (!fits || r.off != 0 || !r.num.is_constant() || r.num.bits.value != 0) {
    return wrong_argument(regno, "a pointer of the kptr's type");
  }
  args->ref = r.ref;
  args->release_reg = regno;
  return true;
}

bool Engine::check_struct_argument(int regno, const Prototype& proto) {
  const Reg r = reg(regno);
  const char* name = expected_struct(proto.id);
  if (r.kind != RegKind::kBtf || r.or_null() || (r.flags & kKernelBtf) == 0 ||
      (r.flags & kUntrusted) != 0 || !r.num.is_constant() || r.num.bits.value != 0 ||
      name == nullptr) {
    return wrong_argument(regno, "trusted_ptr_");
  }
  BtfType wanted;
  wanted.kind = BtfKind::kStruct;
  wanted.name = name;
  auto type = program_.kernel_btf->type(r.object);
  return (type && is_struct_at(*type, r.off, wanted, false)) || wrong_argument(regno, name);
}

bool Engine::may_take_packet(const Reg& r, const Prototype& proto) const {
  const bool is_packet = r.kind == RegKind::kPacket || r.kind == RegKind::kPacketMeta;
  return !is_packet || may_use_packet(kHelpersTakePacket) ||
         ((proto.effects & kTakesPackets) != 0 && may_use_packet(kHelpersReadPacket));
}

bool Engine::check_argument(int regno, const ParamSpec& spec, const Prototype& proto, int index,
                            CallArgs* args) {
  if (spec.kind == Param::kNone) {
    return true;
  }
  if (!check_readable(regno)) {
    return false;
  }
  verdict_.reg = regno;
  if (spec.kind != Param::kAny && !may_take_packet(reg(regno), proto)) {
    return refuse(EACCES, "helper access to the packet is not allowed");
  }
  const int null_flags = kMayBeNull | (is_traced() ? kMayBeNullTraced : 0);
  if ((spec.flags & null_flags) != 0 && reg(regno).is_zero() && spec.kind != Param::kRead &&
      spec.kind != Param::kWrite) {
    verdict_.reg = -1;
    return mark_precise(regno);
  }
  if (!check_argument_kind(regno, spec, proto, index, args)) {
    return false;
  }
  verdict_.reg = -1;
  return true;
}

bool Engine::check_argument_kind(int regno, const ParamSpec& spec, const Prototype& proto,
                                 int index, CallArgs* args) {
  const Reg r = reg(regno);
  switch (spec.kind) {
    case Param::kAny:
      if (r.is_pointer() && leaks_forbidden()) {
        return refuse(EACCES, "R%d leaks addr into helper function", regno);
      }
      break;
    case Param::kCtx:
      if (r.kind != RegKind::kCtx) {
        return wrong_argument(regno, "ctx");
      }
      if (r.off != 0 || !r.num.is_constant() || r.num.bits.value != 0) {
        return refuse(EACCES, "dereference of modified ctx ptr R%d off=%d disallowed", regno,
                      r.off);
      }
      break;
    case Param::kMap:
    case Param::kKey:
    case Param::kValue:
    case Param::kValueOut:
    case Param::kStackPtr:
      return check_map_argument(regno, spec, proto, args);
    case Param::kRead:
    case Param::kWrite:
    case Param::kReadWrite:
    case Param::kFixedRead:
    case Param::kFixedWrite:
    case Param::kSize:
    case Param::kSizeOrZero:
    case Param::kAllocSize:
    case Param::kConstString:
      return check_memory_argument(regno, spec, proto, index, args);
    case Param::kSpinLock:
    case Param::kTimer:
    case Param::kKptrField:
      return check_field_argument(regno, spec, proto, args);
    case Param::kDynptr:
    case Param::kDynptrOut:
      return check_dynptr_argument(regno, spec, proto, args);
    case Param::kRecord:
      return check_record_argument(regno, args);
    case Param::kSocket:
    case Param::kSocketCommon:
      return check_socket_argument(regno, spec, args);
    case Param::kKernelStruct:
      return proto.id == 194 ? check_exchanged(regno, args) : check_struct_argument(regno, proto);
    case Param::kFunction:
      if (r.kind != RegKind::kFunction || r.off != 0) {
        return wrong_argument(regno, "func");
      }
      args->function = r.object;
      args->has_function = true;
      break;
    case Param::kPerCpuVar:
      if ((r.kind != RegKind::kBtf && r.kind != RegKind::kMem) || r.or_null() ||
          (r.flags & (kPerCpu | kSlice)) != kPerCpu) {
        return wrong_argument(regno, "percpu_ptr_");
      }
      if (r.kind == RegKind::kBtf && (r.flags & kKernelBtf) == 0 && (r.flags & kRcu) == 0) {
        return wrong_argument(regno, "percpu_rcu_ptr_");
      }
      break;
    case Param::kNone:
      break;
  }
  return true;
}

}  // namespace bpftime
