// The log: lines as tools know them (docs/verifier.md), then our explanation.
#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "isa/opcode.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

std::string vformat(const char* format, va_list args) {
  char buffer[512];
  std::vsnprintf(buffer, sizeof buffer, format, args);
  return buffer;
}

__attribute__((format(printf, 1, 2))) std::string text(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string s = vformat(format, args);
  va_end(args);
  return s;
}

std::string number(int64_t v) {
  if (v == INT64_MIN) {
    return "0x8000000000000000";
  }
  if (v == INT64_MAX) {
    return "0x7fffffffffffffff";
  }
  return v >= -65536 && v <= 65536 ? std::to_string(v)
                                   : text("0x%" PRIx64, static_cast<uint64_t>(v));
}
std::string number_unsigned(uint64_t v) {
  return v <= 65536 ? std::to_string(v) : text("0x%" PRIx64, v);
}

}  // namespace

void Engine::log_text(const std::string& what) {
  if (verdict_.log.size() < options_.log_bytes) {
    verdict_.log += what;
  }
}

void Engine::log(const char* format, ...) {
  if (!wants_log()) {
    return;
  }
  va_list args;
  va_start(args, format);
  log_text(vformat(format, args));
  va_end(args);
}

bool Engine::refuse(int error, const char* format, ...) {
  va_list args;
  va_start(args, format);
  verdict_.message = vformat(format, args);
  va_end(args);
  verdict_.error = error;
  if (wants_log()) {
    if (!verdict_.log.empty() && verdict_.log.back() != '\n') {
      verdict_.log += '\n';
    }
    verdict_.log += verdict_.message + "\n";
  }
  return false;
}

bool Engine::too_complex(const char* why) {
  verdict_.too_complex = true;
  return refuse(E2BIG, "too complex: %s", why);
}

const char* Engine::kind_name(const Reg& r) const {
  const bool may_be_null = r.or_null();
  switch (r.kind) {
    case RegKind::kNone:
      return "?";
    case RegKind::kScalar:
      return "scalar";
    case RegKind::kCtx:
      return "ctx";
    case RegKind::kMap:
      return "map_ptr";
    case RegKind::kMapValue:
      return may_be_null ? "map_value_or_null" : "map_value";
    case RegKind::kMapKey:
      return "map_key";
    case RegKind::kStack:
      return "fp";
    case RegKind::kPacket:
      return "pkt";
    case RegKind::kPacketMeta:
      return "pkt_meta";
    case RegKind::kPacketEnd:
      return "pkt_end";
    case RegKind::kMem:
      return (r.flags & kRingbufRecord) != 0 ? (may_be_null ? "ringbuf_mem_or_null" : "ringbuf_mem")
             : (r.flags & kUntrusted) != 0   ? "rdonly_untrusted_mem"
             : (r.flags & kBuffer) != 0      ? (may_be_null ? "buf_or_null" : "buf")
                                             : (may_be_null ? "mem_or_null" : "mem");
    case RegKind::kBtf:
      return (r.flags & kUntrusted) != 0
                 ? (may_be_null ? "untrusted_ptr_or_null_" : "untrusted_ptr_")
             : (r.flags & kRcu) != 0     ? (may_be_null ? "rcu_ptr_or_null_" : "rcu_ptr_")
             : (r.flags & kTrusted) != 0 ? (may_be_null ? "trusted_ptr_or_null_" : "trusted_ptr_")
                                         : (may_be_null ? "ptr_or_null_" : "ptr_");
    case RegKind::kFunction:
      return "func";
    case RegKind::kDynptr:
      return "dynptr_ptr";
    case RegKind::kArena:
      return "arena";
    case RegKind::kSocket:
      switch (static_cast<SocketKind>(r.object)) {
        case SocketKind::kSock:
          break;
        case SocketKind::kSockCommon:
          return may_be_null ? "sock_common_or_null" : "sock_common";
        case SocketKind::kTcpSock:
          return may_be_null ? "tcp_sock_or_null" : "tcp_sock";
        case SocketKind::kXdpSock:
          return may_be_null ? "xdp_sock_or_null" : "xdp_sock";
      }
      return may_be_null ? "sock_or_null" : "sock";
    case RegKind::kFlowKeys:
      return "flow_keys";
    case RegKind::kTraceBuffer:
      return "tp_buffer";
  }
  return "?";
}

// "smin=smin32=0,smax=umax=...": equal bounds are written together.
std::string Engine::describe_num(const Scalar& num, bool) const {
  struct Bound {
    const char* name;
    bool is_known;
    bool is_signed;
    uint64_t value;
  };
  const Bound bounds[] = {
      {"smin", num.range.smin != INT64_MIN, true, static_cast<uint64_t>(num.range.smin)},
      {"smax", num.range.smax != INT64_MAX, true, static_cast<uint64_t>(num.range.smax)},
      {"umin", num.range.umin != 0, false, num.range.umin},
      {"umax", num.range.umax != UINT64_MAX, false, num.range.umax},
      {"smin32", num.low.smin != INT32_MIN && num.low.smin != num.range.smin, true,
       static_cast<uint64_t>(num.low.smin)},
      {"smax32", num.low.smax != INT32_MAX && num.low.smax != num.range.smax, true,
       static_cast<uint64_t>(num.low.smax)},
      {"umin32", num.low.umin != 0 && num.low.umin != num.range.umin, false, num.low.umin},
      {"umax32", num.low.umax != UINT32_MAX && num.low.umax != num.range.umax, false, num.low.umax},
  };
  std::string out;
  bool done[8] = {};
  for (size_t i = 0; i < 8; ++i) {
    if (!bounds[i].is_known || done[i]) {
      continue;
    }
    out += out.empty() ? "" : ",";
    for (size_t j = i; j < 8; ++j) {
      if (!done[j] && bounds[j].is_known && bounds[j].value == bounds[i].value) {
        out += bounds[j].name;
        out += '=';
        done[j] = true;
      }
    }
    out += bounds[i].is_signed ? number(static_cast<int64_t>(bounds[i].value))
                               : number_unsigned(bounds[i].value);
  }
  if (num.bits.mask != UINT64_MAX) {
    out += text("%svar_off=(0x%" PRIx64 "; 0x%" PRIx64 ")", out.empty() ? "" : ",", num.bits.value,
                num.bits.mask);
  }
  return out;
}

std::string Engine::describe(const Reg& r) const {
  if (r.kind == RegKind::kNone) {
    return "?";
  }
  std::string out = r.precise ? "P" : "";
  if (r.is_scalar()) {
    if (r.num.is_constant()) {
      return out + number(static_cast<int64_t>(r.num.bits.value));
    }
    std::string inside;
    if (r.id != 0) {
      inside = text("id=%u", r.id);
      if (r.has_delta) {
        inside += text("%+d", r.delta);
      }
    }
    const std::string bounds = describe_num(r.num, false);
    if (!bounds.empty()) {
      inside += (inside.empty() ? "" : ",") + bounds;
    }
    return out + "scalar(" + inside + ")";
  }
  if (r.kind == RegKind::kStack) {
    out += r.frame != cur_depth_for_log_ ? text("fp[%u]", r.frame) : "fp";
    out += r.num.is_constant() ? text("%d", r.off) : "";
    if (r.num.is_constant()) {
      return out;
    }
  } else {
    out += kind_name(r);
  }
  std::string inside;
  const auto add = [&inside](const std::string& what) {
    inside += (inside.empty() ? "" : ",") + what;
  };
  if (r.kind == RegKind::kBtf) {
    const Btf* btf = (r.flags & kKernelBtf) != 0 ? program_.kernel_btf : program_.btf;
    auto type = btf != nullptr ? btf->type(r.object) : Result<BtfType>(make_error(EINVAL, ""));
    if (type) {
      out += std::string(type->name);
    }
  }
  if (r.id != 0 && (r.or_null() || r.kind == RegKind::kPacket || r.kind == RegKind::kPacketMeta)) {
    add(text("id=%u", r.id));
  }
  if (r.ref != 0) {
    add(text("ref_obj_id=%u", r.ref));
  }
  if (r.kind == RegKind::kMap || r.kind == RegKind::kMapValue || r.kind == RegKind::kMapKey) {
    const VerifierMap& m = map(r.object);
    if (!m.name.empty()) {
      add("map=" + m.name);
    }
    add(text("ks=%u,vs=%u", m.key_size, m.value_size));
  }
  if (r.kind == RegKind::kMem) {
    add(text("sz=%u", r.size));
  }
  if (r.off != 0) {
    add(text("off=%d", r.off));
  }
  if (r.kind == RegKind::kPacket || r.kind == RegKind::kPacketMeta) {
    add(text("r=%u", r.size));
  }
  if (!r.num.is_constant()) {
    add(describe_num(r.num, false));
  } else if (r.num.bits.value != 0) {
    add("imm=" + number(static_cast<int64_t>(r.num.bits.value)));
  }
  if (r.kind == RegKind::kCtx && inside.empty()) {
    return out + "()";
  }
  return out + "(" + inside + ")";
}

std::string Engine::describe_slot(const StackSlot& slot) const {
  if (slot.is_full_spill()) {
    return describe(slot.reg);
  }
  std::string out;
  if (slot.is_spill()) {
    out = describe(slot.reg);
  }
  if (slot.bytes[0] == ByteKind::kDynptr) {
    return text("dynptr(id=%u%s)", slot.reg.id, slot.dynptr_read_only ? ",rdonly" : "");
  }
  if (slot.bytes[0] == ByteKind::kIterator) {
    return text("iter(state=%s,depth=%u)",
                slot.iterator == IteratorState::kActive ? "active" : "drained",
                slot.iterator_depth);
  }
  std::string bytes;
  for (size_t b = 8; b-- > 0;) {
    switch (slot.bytes[b]) {
      case ByteKind::kInvalid:
        bytes += '?';
        break;
      case ByteKind::kMisc:
        bytes += 'm';
        break;
      case ByteKind::kZero:
        bytes += '0';
        break;
      case ByteKind::kSpill:
        bytes += 'r';
        break;
      default:
        bytes += 'd';
        break;
    }
  }
  return slot.is_spill() ? bytes.substr(0, bytes.find('r')) + out : bytes;
}

// `all`: every register that has a value; else what changed since the last time.
void Engine::log_state(const State& state, bool all) {
  const Frame& frame = state.top();
  cur_depth_for_log_ = state.depth();
  std::string out;
  if (all && state.depth() != 0) {
    out += text(" frame%u:", state.depth());
  }
  const Frame* before = !all && logged_ != nullptr && logged_->frames.size() == state.frames.size()
                            ? &logged_->frames.back()
                            : nullptr;
  for (size_t r = 0; r < 11; ++r) {
    const Reg& now = frame.regs[r];
    if (now.kind == RegKind::kNone) {
      continue;
    }
    const std::string shown = describe(now);
    if (before != nullptr && before->regs[r].kind != RegKind::kNone &&
        describe(before->regs[r]) == shown) {
      continue;
    }
    out += text(" R%zu=", r) + shown;
  }
  for (size_t s = 0; s < frame.slots.size(); ++s) {
    const StackSlot& now = frame.slots[s];
    if (std::all_of(now.bytes.begin(), now.bytes.end(),
                    [](ByteKind b) { return b == ByteKind::kInvalid; })) {
      continue;
    }
    const std::string shown = describe_slot(now);
    if (before != nullptr && s < before->slots.size() && describe_slot(before->slots[s]) == shown) {
      continue;
    }
    out += text(" fp-%zu=", (s + 1) * 8) + shown;
  }
  if (all) {
    for (const Ref& ref : state.refs) {
      out += text(" refs=%u", ref.id);
    }
    log_text(out + "\n");
  } else if (!out.empty()) {
    log_text("        ;" + out);
  }
  logged_ = std::make_unique<State>();
  logged_->frames = state.frames;
}

void Engine::log_insn(uint32_t at) {
  for (size_t i = 0; i < program_.lines.size(); ++i) {
    const BtfLineInfo& line = program_.lines[i];
    if (line.insn > at) {
      break;
    }
    const bool is_last = i + 1 == program_.lines.size() || program_.lines[i + 1].insn > at;
    if (is_last && prev_line_ != i) {
      prev_line_ = i;
      std::string_view source = line.text;
      while (!source.empty() && (source.front() == ' ' || source.front() == '\t')) {
        source.remove_prefix(1);
      }
      const std::string_view file = line.file.substr(
          line.file.rfind('/') == std::string_view::npos ? 0 : line.file.rfind('/') + 1);
      log_text(text("; %.*s @ %.*s:%u\n", static_cast<int>(std::min<size_t>(source.size(), 200)),
                    source.data(), static_cast<int>(file.size()), file.data(), line.line));
    }
  }
  const bpf_insn& insn = code_.insns[at];
  const bpf_insn* second = insn.code == kOpLddw ? &code_.insns[at + 1] : nullptr;
  std::string line;
  if (insn.code == kOpCall && insn.src_reg == kCallHelper) {
    const Prototype* proto = find_prototype(static_cast<uint32_t>(insn.imm));
    line =
        text("%u: (85) call bpf_%s#%d", at, proto != nullptr ? proto->name : "unknown", insn.imm);
  } else {
    line = print(insn, second, at);
  }
  log_text(line);
}

void Engine::log_change() {
  if (current_ != nullptr) {
    log_state(cur(), false);
  }
  log_text("\n");
}

// What, where, why, how to mend it.
void Engine::explain() {
  if (verdict_.insn >= code_.insns.size()) {
    return;
  }
  std::string out = "\nwhat: " + verdict_.message + "\n";
  for (size_t i = program_.lines.size(); i-- > 0;) {
    const BtfLineInfo& line = program_.lines[i];
    if (line.insn <= verdict_.insn) {
      std::string_view source = line.text;
      while (!source.empty() && (source.front() == ' ' || source.front() == '\t')) {
        source.remove_prefix(1);
      }
      out += text("where: instruction %u, %.*s:%u: %.*s\n", verdict_.insn,
                  static_cast<int>(line.file.size()), line.file.data(), line.line,
                  static_cast<int>(std::min<size_t>(source.size(), 200)), source.data());
      break;
    }
    if (i == 0) {
      out += text("where: instruction %u\n", verdict_.insn);
    }
  }
  if (program_.lines.empty()) {
    out += text("where: instruction %u\n", verdict_.insn);
  }
  if (verdict_.reg >= 0 && verdict_.reg <= 10 && current_ != nullptr &&
      verdict_.reg < static_cast<int>(cur().top().regs.size())) {
    out += text("why: R%d is %s\n", verdict_.reg, describe(reg(verdict_.reg)).c_str());
    // Backwards along the path: who set it.
    PreciseSet set;
    set.regs.resize(cur().frames.size());
    set.slots.resize(cur().frames.size());
    set.regs.back() = static_cast<uint16_t>(1U << verdict_.reg);
    uint8_t depth = cur().depth();
    bool give_up = false;
    int shown = 0;
    for (const State* state = current_.get(); state != nullptr && shown < 8 && !give_up;
         state = state->parent) {
      for (size_t i = state->steps.size(); i-- > 0 && shown < 8 && !give_up && !set.empty();) {
        const Step& step = state->steps[i];
        if (state == current_.get() && i + 1 == state->steps.size()) {
          continue;  // the one that failed
        }
        const PreciseSet before = set;
        step_back(step, &set, &give_up, &depth);
        const bool changed = before.regs != set.regs || before.slots != set.slots;
        const bool sets_it = step.depth < before.regs.size() &&
                             insn_class(code_.insns[step.insn].code) != BPF_JMP &&
                             insn_class(code_.insns[step.insn].code) != BPF_JMP32 &&
                             (before.regs[step.depth] >> code_.insns[step.insn].dst_reg & 1) != 0;
        if (changed || sets_it) {
          const bpf_insn& insn = code_.insns[step.insn];
          out +=
              "     " +
              print(insn, insn.code == kOpLddw ? &code_.insns[step.insn + 1] : nullptr, step.insn) +
              "\n";
          ++shown;
        }
      }
      depth = state->parent != nullptr ? state->parent->depth() : depth;
    }
  }
  static constexpr std::pair<const char*, const char*> kHints[] = {
      {"!read_ok", "give the register a value on every path before it is read"},
      {"_or_null", "test the pointer against NULL before it is used"},
      {"may be null", "test the pointer against NULL before it is used"},
      {"null-check", "test the pointer against NULL before arithmetic"},
      {"min value is negative", "make the index unsigned, or test that it is not below zero"},
      {"outside of the allowed", "test the index against the size before the access"},
      {"unbounded memory", "bound the size: size &= MAX - 1, or if (size > MAX) return"},
      {"outside of the packet", "compare the pointer plus the access size with data_end first"},
      {"Unreleased reference",
       "release what was acquired (submit or discard the record) on every path"},
      {"infinite loop", "let the loop have a counter with a known bound"},
      {"too complex",
       "make the program smaller: fewer branches in loops, functions that are not static"},
      {"combined stack", "keep large buffers in a per-CPU map instead of the stack"},
      {"cannot use helper", "this program type does not have the helper"},
      {"invalid func", "there is no helper of this number"},
      {"unreachable insn", "remove the code that nothing jumps to"},
      {"spin_lock", "unlock on every path, and call nothing while the lock is held"},
      {"zero-sized", "the size may be 0 here: test it first"},
      {"misaligned", "align the access to its size"},
  };
  for (const auto& [part, hint] : kHints) {
    if (verdict_.message.find(part) != std::string::npos) {
      out += std::string("mend: ") + hint + "\n";
      break;
    }
  }
  log_text(out + "\n");
}

}  // namespace bpftime
