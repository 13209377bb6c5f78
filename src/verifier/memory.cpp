// Loads, stores and atomics: what the base register points to decides.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "isa/opcode.hpp"
#include "spec/map_struct.hpp"
#include "spec/newer.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

void narrow(Reg* r, int size, bool is_signed) {
  if (size < 8 && r->is_scalar()) {
    r->num = is_signed ? r->num.sign_extended(static_cast<unsigned>(size) * 8)
                       : r->num.zero_extended(static_cast<unsigned>(size) * 8);
  }
}

}  // namespace

const std::vector<BtfField>& Engine::fields_of(uint32_t index) {
  auto& cached = map_fields_[index];
  if (cached == nullptr) {
    cached = std::make_unique<std::vector<BtfField>>();
    const VerifierMap& m = map(index);
    if (m.btf != nullptr && m.btf_value_type_id != 0) {
      auto fields = find_fields(*m.btf, m.btf_value_type_id);
      if (fields) {
        *cached = std::move(fields).value();
      }
    }
  }
  return *cached;
}

// off + num + size within [0, region].
bool Engine::check_region(const Reg& base, int regno, int64_t off, int64_t size, int64_t region,
                          bool zero_allowed, const char* what) {
  verdict_.reg = regno;
  const int64_t fixed = off + base.off;
  if (base.num.range.smin < 0 &&
      (base.num.range.smin == INT64_MIN || fixed + base.num.range.smin < 0)) {
    return refuse(
        EACCES,
        "R%d min value is negative, either use unsigned index or do a if (index >=0) check: "
        "invalid access to %s",
        regno, what);
  }
  const int64_t lowest = fixed + base.num.range.smin;
  if (lowest < 0 || (size == 0 && !zero_allowed) || lowest + size > region) {
    return refuse(EACCES,
                  "invalid access to %s, size of it %lld, off=%lld size=%lld: R%d is outside", what,
                  static_cast<long long>(region), static_cast<long long>(lowest),
                  static_cast<long long>(size), regno);
  }
  if (base.num.range.umax >= static_cast<uint64_t>(kMostOffset)) {
    return refuse(EACCES, "R%d unbounded memory access, make sure to bounds check any such access",
                  regno);
  }
  const int64_t highest = fixed + static_cast<int64_t>(base.num.range.umax);
  if (highest < 0 || highest + size > region) {
    return refuse(EACCES,
                  "invalid access to %s, size of it %lld, off=%lld size=%lld: R%d max value is "
                  "outside of the allowed memory range",
                  what, static_cast<long long>(region), static_cast<long long>(highest),
                  static_cast<long long>(size), regno);
  }
  verdict_.reg = -1;
  return true;
}

// How long the bytes of an iterator's element are is known when it is attached: what a program asks of them has to be.
bool Engine::check_memory_offset(const Reg& base, int regno) {
  return (base.flags & kBuffer) == 0 || base.num.is_constant() ||
         refuse(EACCES, "R%d invalid variable buffer offset", regno);
}

bool Engine::check_packet(const Reg& base, int regno, int64_t off, int64_t size) {
  verdict_.reg = regno;
  if (base.num.range.smin < 0) {
    return refuse(
        EACCES, "R%d min value is negative, either use unsigned index or do a if (index >=0) check",
        regno);
  }
  const int64_t fixed = off + base.off;
  if (base.size == 0 || fixed < 0 || fixed + size > base.size) {
    return refuse(EACCES,
                  "invalid access to packet, off=%lld size=%lld, R%d(id=%u,off=%d,r=%u): "
                  "R%d offset is outside of the packet",
                  static_cast<long long>(fixed), static_cast<long long>(size), regno, base.id,
                  base.off, base.size, regno);
  }
  verdict_.reg = -1;
  return true;
}

bool Engine::check_map_value(const Reg& base, int regno, int64_t off, int64_t size,
                             bool is_helper) {
  const VerifierMap& m = map(base.object);
  if (!check_region(base, regno, off, size, m.value_size, is_helper, "map value")) {
    return false;
  }
  const int64_t lowest = off + base.off + base.num.range.smin;
  const int64_t highest = off + base.off + static_cast<int64_t>(base.num.range.umax) + size;
  for (const BtfField& field : fields_of(base.object)) {
    if (lowest >= int64_t{field.offset} + field.size_bytes || highest <= int64_t{field.offset}) {
      continue;
    }
    const bool is_kptr = field.is_kptr();
    if (is_kptr && !is_helper) {
      if (size != 8 || !base.num.is_constant() || lowest != field.offset) {
        return refuse(EACCES, "kptr access size must be BPF_DW, at its own offset");
      }
      continue;
    }
    verdict_.reg = regno;
    return refuse(EACCES, "%s cannot be accessed directly by load/store",
                  is_kptr                                 ? "kptr"
                  : field.kind == BtfFieldKind::kSpinLock ? "bpf_spin_lock"
                  : field.kind == BtfFieldKind::kTimer    ? "bpf_timer"
                                                          : "a special field");
  }
  return true;
}

bool Engine::check_alignment(const Reg& base, int regno, int64_t off, int size) {
  // The network header is aligned, two bytes after where packets begin.
  const bool is_packet = base.kind == RegKind::kPacket || base.kind == RegKind::kPacketMeta;
  const auto fixed = static_cast<uint64_t>(off + base.off + (is_packet ? 2 : 0));
  const uint64_t low = static_cast<uint64_t>(size) - 1;
  // The lower bits of the sum are known when those of the variable part are.
  const bool is_aligned =
      (base.num.bits.mask & low) == 0 && ((base.num.bits.value + fixed) & low) == 0;
  if (!is_aligned) {
    verdict_.reg = regno;
    return refuse(EACCES, "misaligned %s access off %lld size %d", kind_name(base),
                  static_cast<long long>(fixed), size);
  }
  return true;
}

bool Engine::check_context(const Reg& base, int regno, int64_t off, int size, bool is_write,
                           Reg* out) {
  verdict_.reg = regno;
  if (!base.num.is_constant()) {
    return refuse(EACCES, "variable ctx access var_off is prohibited (R%d)", regno);
  }
  const int64_t at = off + base.off + static_cast<int64_t>(base.num.bits.value);
  if (base.off != 0 && !is_program_type(BPF_PROG_TYPE_SYSCALL)) {
    return refuse(EACCES, "dereference of modified ctx ptr R%d off=%d disallowed", regno, base.off);
  }
  if (context_ == nullptr) {
    if (is_program_type(BPF_PROG_TYPE_TRACING) && !is_write) {
      return check_tracing_context(at, size, out);
    }
    if (is_program_type(BPF_PROG_TYPE_SYSCALL) && at >= 0 && at + size <= 0xffff &&
        at % size == 0) {
      *out = Reg::unknown();
      return true;
    }
    return refuse(EACCES, "invalid bpf_context access off=%lld size=%d", static_cast<long long>(at),
                  size);
  }
  const ContextField* field = find_field(context_->fields, at, size, is_write);
  if (field == nullptr) {
    return refuse(EACCES, "invalid bpf_context access off=%lld size=%d", static_cast<long long>(at),
                  size);
  }
  verdict_.reg = -1;
  note_context_use(at, size, is_write);
  *out = reg_of_field(*field);
  return true;
}

void Engine::note_context_use(int64_t at, int size, bool is_write) {
  if (is_write) {
    verdict_.facts.writes_context = true;
  } else if (at + size > 512) {
    verdict_.facts.reads_unknown_context = true;
  } else {
    for (int64_t word = at / 8; word <= (at + size - 1) / 8; ++word) {
      verdict_.facts.context_words |= 1ULL << word;
    }
  }
}

// What a load of a context's field gives.
Reg Engine::reg_of_field(const ContextField& field) {
  const auto socket = [this](SocketKind kind, bool may_be_null) {
    Reg r = Reg::pointer(RegKind::kSocket, static_cast<uint32_t>(kind), may_be_null ? kOrNull : 0);
    r.id = may_be_null ? new_id() : 0;
    return r;
  };
  switch (field.kind) {
    case FieldKind::kNumber:
      break;
    case FieldKind::kPacket:
      return Reg::pointer(RegKind::kPacket);
    case FieldKind::kPacketMeta:
      return Reg::pointer(RegKind::kPacketMeta);
    case FieldKind::kPacketEnd:
      return Reg::pointer(RegKind::kPacketEnd);
    case FieldKind::kSocket:
      return socket(SocketKind::kSock, false);
    case FieldKind::kSocketOrNull:
      return socket(SocketKind::kSock, true);
    case FieldKind::kSocketCommonOrNull:
      return socket(SocketKind::kSockCommon, true);
    case FieldKind::kFlowKeys:
      return Reg::pointer(RegKind::kFlowKeys);
    case FieldKind::kTraceBuffer:
      return Reg::pointer(RegKind::kTraceBuffer);
    case FieldKind::kStruct: {
      const auto type = program_.kernel_btf != nullptr
                            ? program_.kernel_btf->find(field.type, BtfKind::kStruct)
                            : Result<BtfType>(make_error(ENOENT, ""));
      return type ? reg_of_btf_pointer(type->id, true, kTrusted) : Reg::unknown();
    }
  }
  return Reg::unknown();
}

// A load from a frozen map that nobody may write is a constant.
bool Engine::read_constant(const Reg& base, int64_t off, int size, bool is_signed, Reg* out) {
  const VerifierMap& m = map(base.object);
  if (m.constants.empty() || (m.map_flags & BPF_F_RDONLY_PROG) == 0 || !base.num.is_constant()) {
    return false;
  }
  const int64_t at = off + base.off + static_cast<int64_t>(base.num.bits.value);
  if (at < 0 || at + size > static_cast<int64_t>(m.constants.size())) {
    return false;
  }
  uint64_t value = 0;
  std::memcpy(&value, m.constants.data() + at, static_cast<size_t>(size));
  *out = Reg::scalar(Scalar::constant(value));
  narrow(out, size, is_signed);
  return true;
}

bool Engine::access_stack(const Access& a, const Reg& base, Reg* out) {
  const int64_t lowest = a.off + base.off + base.num.range.smin;
  const int64_t highest = a.off + base.off + base.num.range.smax;
  const int size = a.size;
  if (base.num.range.smin <= -kMostOffset || base.num.range.smax >= kMostOffset ||
      lowest < -kMostStack || highest + size > 0) {
    return refuse(EACCES, "invalid %s stack R%d off=%lld size=%d",
                  a.is_write ? "write to" : "read from", a.regno, static_cast<long long>(lowest),
                  size);
  }
  verdict_.reg = -1;
  if (a.is_write) {
    static const Reg kAnything = Reg::unknown();
    const Reg& what = a.value != nullptr ? *a.value : kAnything;
    return base.num.is_constant() ? stack_write(base.frame, base, lowest, size, what, a.value_reg)
                                  : stack_write_variable(base, a.off, size, what, a.value_reg);
  }
  if (!base.num.is_constant() && leaks_forbidden()) {
    return refuse(EACCES, "R%d variable stack access prohibited in strict mode", a.regno);
  }
  note_stack_depth(base.frame, lowest);
  return stack_read(base, a.off, size, a.is_signed, out);
}

// The kernel pointer that lies just there. nullptr: none does.
const BtfField* Engine::kptr_at(const Access& a, const Reg& base) {
  if (!base.num.is_constant()) {
    return nullptr;
  }
  const int64_t at = a.off + base.off + static_cast<int64_t>(base.num.bits.value);
  for (const BtfField& field : fields_of(base.object)) {
    if (at == int64_t{field.offset} && field.is_kptr()) {
      return &field;
    }
  }
  return nullptr;
}

bool Engine::access_map_value(const Access& a, const Reg& base, Reg* out) {
  const bool is_write = a.is_write;
  const VerifierMap& m = map(base.object);
  if ((m.map_flags & (is_write ? BPF_F_RDONLY_PROG : BPF_F_WRONLY_PROG)) != 0) {
    return refuse(EACCES, "%s into map forbidden, value_size=%u off=%lld size=%d",
                  is_write ? "write" : "read", m.value_size, static_cast<long long>(a.off), a.size);
  }
  if (!check_map_value(base, a.regno, a.off, a.size, false)) {
    return false;
  }
  if (const BtfField* field = kptr_at(a, base); field != nullptr) {
    if (is_write) {
      const bool is_null = a.value != nullptr && a.value->is_zero();
      if (!is_null || field->kind != BtfFieldKind::kKptrUntrusted) {
        return refuse(EACCES, "storing into a kptr is not supported but for a zero");
      }
      return a.value_reg < 0 || mark_precise(a.value_reg);
    }
    *out = load_kptr(*field, *m.btf);
    return true;
  }
  if (!is_write && !read_constant(base, a.off, a.size, a.is_signed, out)) {
    *out = Reg::unknown();
    narrow(out, a.size, a.is_signed);
  }
  return true;
}

// The map itself, as the kernel keeps it.
bool Engine::access_map(const Access& a, const Reg& base, Reg* out) {
  const char* name = map_struct(map(base.object).map_type);
  auto type = name != nullptr && program_.kernel_btf != nullptr
                  ? program_.kernel_btf->find(name, BtfKind::kStruct)
                  : Result<BtfType>(make_error(ENOENT, ""));
  if (!type || leaks_forbidden()) {
    return refuse(EACCES, "R%d invalid mem access 'map_ptr'", a.regno);
  }
  Reg structure = Reg::pointer(RegKind::kBtf, type->id, kKernelBtf);
  structure.off = base.off;
  return check_btf_access(structure, a.regno, a.off, a.size, a.is_write, out);
}

bool Engine::access_packet(const Access& a, const Reg& base) {
  if (a.is_write && !may_use_packet(kWritesPacket)) {
    return refuse(EACCES, "cannot write into packet");
  }
  return check_no_leak(a, "packet") && check_packet(base, a.regno, a.off, a.size);
}

bool Engine::access_socket(const Access& a, const Reg& base) {
  if (a.is_write) {
    return refuse(EACCES, "R%d cannot write into socket", a.regno);
  }
  const auto fields = socket_fields(static_cast<SocketKind>(base.object));
  if (!base.num.is_constant() || find_field(fields, a.off + base.off, a.size, false) == nullptr) {
    return refuse(EACCES, "R%d invalid socket access off=%lld size=%d", a.regno,
                  static_cast<long long>(a.off + base.off), a.size);
  }
  return true;
}

// Structures that a context leads to, at a known offset.
bool Engine::access_beside_context(const Access& a, const Reg& base) {
  const int64_t most =
      base.kind == RegKind::kFlowKeys ? int64_t{sizeof(bpf_flow_keys)} : kMostOffset;
  if (!base.num.is_constant()) {
    return refuse(EACCES, "R%d invalid variable buffer offset", a.regno);
  }
  return check_no_leak(a, kind_name(base)) &&
         check_region(base, a.regno, a.off, a.size, most, false, kind_name(base));
}

bool Engine::check_no_leak(const Access& a, const char* where) {
  if (a.is_write && a.value != nullptr && a.value->is_pointer() && leaks_forbidden()) {
    return refuse(EACCES, "R%d leaks addr into %s", a.value_reg, where);
  }
  return true;
}

// Where a pointer's bytes are just bytes: a number comes out unless *out becomes something else.
bool Engine::access_bytes_of(const Access& a, const Reg& base, Reg* out) {
  const auto refuse_write = [&] {
    return refuse(EACCES, "R%d cannot write into %s", a.regno, kind_name(base));
  };
  if ((base.flags & (kPerCpu | kSlice)) == kPerCpu) {
    return refuse(EACCES, "R%d is one address a CPU: use bpf_this_cpu_ptr", a.regno);
  }
  switch (base.kind) {
    case RegKind::kMapKey:
      return a.is_write ? refuse_write()
                        : check_region(base, a.regno, a.off, a.size, map(base.object).key_size,
                                       false, "map key");
    case RegKind::kMem:
      if (a.is_write && (base.flags & kReadOnly) != 0) {
        return refuse_write();
      }
      if ((base.flags & kUntrusted) != 0) {
        return true;  // may lie anywhere; a load that faults gives 0
      }
      return check_no_leak(a, "mem") && check_memory_offset(base, a.regno) &&
             check_region(base, a.regno, a.off, a.size, base.size, false, "memory");
    case RegKind::kCtx:
      return check_no_leak(a, "ctx") &&
             check_context(base, a.regno, a.off, a.size, a.is_write, out);
    case RegKind::kPacket:
    case RegKind::kPacketMeta:
      return access_packet(a, base);
    case RegKind::kBtf:
      if ((base.flags & kAllocated) != 0) {
        return access_object(a, base, out);
      }
      return check_btf_access(base, a.regno, a.off, a.size, a.is_write, out);
    case RegKind::kSocket:
      return access_socket(a, base);
    case RegKind::kFlowKeys:
    case RegKind::kTraceBuffer:
      return access_beside_context(a, base);
    case RegKind::kArena:
      return true;
    case RegKind::kMap:
      return access_map(a, base, out);
    default:
      return refuse(EACCES, "R%d invalid mem access '%s'", a.regno, kind_name(base));
  }
}

// What an access to these kinds becomes in the kernel depends on the kind: it has to be one.
bool Engine::check_same_kind(const Reg& base) {
  const auto is_rewritten = [](const AccessKind& a) {
    return a.kind == RegKind::kCtx || a.kind == RegKind::kSocket || a.kind == RegKind::kBtf;
  };
  const AccessKind now = {base.kind, base.kind == RegKind::kSocket ? base.object : 0};
  AccessKind& before = facts_[cur().insn].access;
  if (before.kind == RegKind::kNone) {
    before = now;
  }
  if ((now.kind != before.kind || now.socket != before.socket) &&
      (is_rewritten(now) || is_rewritten(before))) {
    return refuse(EINVAL, "same insn cannot be used with different pointers");
  }
  return true;
}

bool Engine::check_access(const Access& a, Reg* out) {
  const Reg base = reg(a.regno);
  return access_through(a, base, out) && check_same_kind(base);
}

bool Engine::access_through(const Access& a, const Reg& base, Reg* out) {
  verdict_.reg = a.regno;
  if (base.or_null()) {
    return refuse(EACCES, "R%d invalid mem access '%s'", a.regno, kind_name(base));
  }
  const bool is_strict = (program_.prog_flags & BPF_F_STRICT_ALIGNMENT) != 0;
  if ((is_strict || base.kind == RegKind::kStack) && base.kind != RegKind::kScalar &&
      !check_alignment(base, a.regno, a.off, a.size)) {
    return false;
  }
  if (base.kind == RegKind::kStack) {
    return access_stack(a, base, out);
  }
  if (base.kind == RegKind::kMapValue) {
    return check_no_leak(a, "map") && access_map_value(a, base, out);
  }
  Reg result = Reg::unknown();
  if (!access_bytes_of(a, base, &result)) {
    return false;
  }
  verdict_.reg = -1;
  if (!a.is_write) {
    narrow(&result, a.size, a.is_signed);
    *out = result;
  }
  return true;
}

bool Engine::check_load(const bpf_insn& insn) {
  const int size = static_cast<int>(access_bytes(insn.code));
  if (!check_readable(insn.src_reg)) {
    return false;
  }
  const bool is_signed = insn_mode(insn.code) == kModeMemSx;
  Reg out;
  if (!check_access({insn.src_reg, insn.off, size, false, nullptr, -1, is_signed}, &out)) {
    return false;
  }
  if (is_signed && out.is_pointer()) {
    return refuse(EACCES, "a sign-extending load of a pointer");
  }
  reg(insn.dst_reg) = out;
  return true;
}

bool Engine::check_store(const bpf_insn& insn) {
  const int size = static_cast<int>(access_bytes(insn.code));
  if (!check_readable(insn.dst_reg)) {
    return false;
  }
  Reg value;
  int value_reg = -1;
  if (insn_class(insn.code) == BPF_STX) {
    if (!check_readable(insn.src_reg)) {
      return false;
    }
    value_reg = insn.src_reg;
    value = reg(value_reg);
  } else {
    value = Reg::scalar(Scalar::constant(static_cast<uint64_t>(int64_t{insn.imm})));
    if (reg(insn.dst_reg).kind == RegKind::kCtx && is_program_type(BPF_PROG_TYPE_KPROBE)) {
      return refuse(EACCES, "BPF_ST stores into R%d ctx is not allowed", insn.dst_reg);
    }
  }
  return check_access({insn.dst_reg, insn.off, size, true, &value, value_reg, false}, nullptr);
}

bool Engine::check_atomic(const bpf_insn& insn) {
  const int size = static_cast<int>(access_bytes(insn.code));
  if (insn.imm == kLoadAcquire || insn.imm == kStoreRelease) {
    const bool is_load = insn.imm == kLoadAcquire;
    const int base = is_load ? insn.src_reg : insn.dst_reg;
    if (!check_readable(base) || (!is_load && !check_readable(insn.src_reg))) {
      return false;
    }
    const RegKind kind = reg(base).kind;
    if (kind == RegKind::kCtx || kind == RegKind::kPacket || kind == RegKind::kPacketMeta ||
        kind == RegKind::kSocket || kind == RegKind::kFlowKeys || !reg(base).is_pointer()) {
      verdict_.reg = base;
      return refuse(EACCES, "BPF_ATOMIC %s R%d %s is not allowed",
                    is_load ? "loads from" : "stores into", base, kind_name(reg(base)));
    }
    if (!check_alignment(reg(base), base, insn.off, size)) {
      return false;
    }
    if (is_load) {
      Reg out;
      if (!check_access({base, insn.off, size, false, nullptr, -1, false}, &out)) {
        return false;
      }
      reg(insn.dst_reg) = out;
      return true;
    }
    const Reg value = reg(insn.src_reg);
    return check_access({base, insn.off, size, true, &value, insn.src_reg, false}, nullptr);
  }
  if (!check_readable(insn.src_reg) || !check_readable(insn.dst_reg)) {
    return false;
  }
  if ((insn.imm & BPF_FETCH) != 0 && insn.imm != BPF_CMPXCHG && insn.src_reg == insn.dst_reg) {
    verdict_.reg = insn.dst_reg;
    return refuse(EACCES, "R%d is the address and takes what was there", insn.dst_reg);
  }
  if (insn.imm == BPF_CMPXCHG) {
    if (!check_readable(0)) {
      return false;
    }
    if (reg(0).is_pointer() && leaks_forbidden()) {
      return refuse(EACCES, "R0 leaks addr into mem");
    }
  }
  if (reg(insn.src_reg).is_pointer() && leaks_forbidden()) {
    return refuse(EACCES, "R%d leaks addr into mem", insn.src_reg);
  }
  const Reg base = reg(insn.dst_reg);
  switch (base.kind) {
    case RegKind::kStack:
    case RegKind::kMapValue:
    case RegKind::kMem:
    case RegKind::kTraceBuffer:
    case RegKind::kArena:
    case RegKind::kBtf:
      break;
    default:
      verdict_.reg = insn.dst_reg;
      return refuse(EACCES, "BPF_ATOMIC stores into R%d %s is not allowed", insn.dst_reg,
                    kind_name(base));
  }
  if (base.kind != RegKind::kArena && !check_alignment(base, insn.dst_reg, insn.off, size)) {
    return false;
  }
  // Read, then written with what nobody knows.
  Reg old;
  if (!check_access({insn.dst_reg, insn.off, size, false, nullptr, -1, false}, &old)) {
    return false;
  }
  if (old.is_pointer()) {
    if (leaks_forbidden()) {
      return refuse(EACCES, "an atomic operation on a spilled pointer");
    }
  }
  Reg unknown = Reg::unknown();
  if (!check_access({insn.dst_reg, insn.off, size, true, &unknown, -1, false}, nullptr)) {
    return false;
  }
  if ((insn.imm & BPF_FETCH) != 0) {
    old.id = old.is_scalar() ? 0 : old.id;
    old.has_delta = false;
    old.delta = 0;
    reg(insn.imm == BPF_CMPXCHG ? 0 : insn.src_reg) = old;
  }
  return true;
}

// ---- Memory handed to helpers ----

bool Engine::check_helper_memory(int regno, int64_t size, bool is_write, bool zero_allowed) {
  const Reg base = reg(regno);
  verdict_.reg = regno;
  if (base.or_null()) {
    return refuse(EACCES, "R%d may be null: null-check it before the call", regno);
  }
  switch (base.kind) {
    case RegKind::kStack:
      return stack_range(regno, base, size, is_write, is_write ? "write to" : "read from");
    case RegKind::kPacket:
    case RegKind::kPacketMeta:
      if (is_write && !may_use_packet(kWritesPacket)) {
        return refuse(EACCES, "helper access to the packet is not allowed");
      }
      return check_packet(base, regno, 0, size);
    case RegKind::kMapKey:
      if (is_write) {
        return refuse(EACCES, "R%d cannot write into map_key", regno);
      }
      return check_region(base, regno, 0, size, map(base.object).key_size, zero_allowed, "map key");
    case RegKind::kMapValue: {
      const VerifierMap& m = map(base.object);
      if ((m.map_flags & (is_write ? BPF_F_RDONLY_PROG : BPF_F_WRONLY_PROG)) != 0) {
        return refuse(EACCES, "%s into map forbidden, value_size=%u", is_write ? "write" : "read",
                      m.value_size);
      }
      return check_map_value(base, regno, 0, size, true);
    }
    case RegKind::kMem:
      if (is_write && (base.flags & kReadOnly) != 0) {
        return refuse(EACCES, "R%d cannot write into read-only memory", regno);
      }
      if ((base.flags & kUntrusted) != 0 || (base.flags & (kPerCpu | kSlice)) == kPerCpu) {
        break;
      }
      return check_memory_offset(base, regno) &&
             check_region(base, regno, 0, size, base.size, zero_allowed, "memory");
    case RegKind::kBtf:
      if (!is_trusted(base) || (base.flags & (kUntrusted | kAllocated | kPerCpu)) != 0 ||
          size > INT32_MAX) {
        break;
      }
      return check_btf_access(base, regno, 0, static_cast<int>(size), is_write, nullptr);
    case RegKind::kArena:
      return true;
    case RegKind::kScalar:
      if (zero_allowed && size == 0 && base.is_zero()) {
        return mark_precise(regno);
      }
      break;
    default:
      break;
  }
  return refuse(EACCES, "R%d type=%s expected=fp, pkt, map_key, map_value, mem", regno,
                kind_name(base));
}

// The size in register `size_reg` of the memory in the register before it.
bool Engine::check_size_argument(int size_reg, bool is_write, bool zero_allowed, CallArgs* args) {
  const Reg size = reg(size_reg);
  if (!size.is_scalar()) {
    verdict_.reg = size_reg;
    return refuse(EACCES, "R%d type=%s expected=scalar", size_reg, kind_name(size));
  }
  verdict_.reg = size_reg;
  if (size.num.range.smin < 0) {
    return refuse(EACCES, "R%d min value is negative, either use unsigned or 'var &= const'",
                  size_reg);
  }
  if (size.num.range.umin == 0 && !zero_allowed) {
    return refuse(EACCES, "R%d invalid zero-sized read: u64=[%llu,%llu]", size_reg,
                  static_cast<unsigned long long>(size.num.range.umin),
                  static_cast<unsigned long long>(size.num.range.umax));
  }
  if (size.num.range.umax >= kMostMemory) {
    return refuse(EACCES, "R%d unbounded memory access, use 'var &= const' or 'if (var < const)'",
                  size_reg);
  }
  verdict_.reg = -1;
  const auto most = static_cast<int64_t>(size.num.range.umax);
  args->size_min = size.num.range.umin;
  args->size_max = most;
  ++args->size_count;
  // Both the whole and an empty piece of it must be there.
  if (size.num.range.umin == 0 && !check_helper_memory(size_reg - 1, 0, false, true)) {
    return false;
  }
  return check_helper_memory(size_reg - 1, most, is_write, zero_allowed) && mark_precise(size_reg);
}

}  // namespace bpftime
