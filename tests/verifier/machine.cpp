#include "tests/verifier/machine.hpp"

#include <linux/bpf.h>

#include <algorithm>
#include <cstring>

#include "isa/opcode.hpp"
#include "isa/program.hpp"
#include "tests/verifier/stage.hpp"

namespace bpftime::testing {
namespace {

uint64_t sign_extend(uint64_t value, uint32_t bits) {
  return static_cast<uint64_t>(static_cast<int64_t>(value << (64 - bits)) >> (64 - bits));
}

uint64_t arithmetic(uint8_t op, bool is_64, bool is_signed, uint64_t a, uint64_t b) {
  if (!is_64) {
    a = static_cast<uint32_t>(a);
    b = static_cast<uint32_t>(b);
  }
  const uint64_t shift = b & (is_64 ? 63 : 31);
  uint64_t value = 0;
  switch (op) {
    case BPF_ADD:
      value = a + b;
      break;
    case BPF_SUB:
      value = a - b;
      break;
    case BPF_MUL:
      value = a * b;
      break;
    case BPF_DIV:
    case BPF_MOD: {
      const bool is_div = op == BPF_DIV;
      if (b == 0) {
        value = is_div ? 0 : a;
      } else if (is_signed) {
        const int64_t x = is_64 ? static_cast<int64_t>(a) : static_cast<int32_t>(a);
        const int64_t y = is_64 ? static_cast<int64_t>(b) : static_cast<int32_t>(b);
        const bool overflows = y == -1;  // the least number has no opposite
        value = is_div ? (overflows ? 0 - static_cast<uint64_t>(x) : static_cast<uint64_t>(x / y))
                       : (overflows ? 0 : static_cast<uint64_t>(x % y));
      } else {
        value = is_div ? a / b : a % b;
      }
      break;
    }
    case BPF_OR:
      value = a | b;
      break;
    case BPF_AND:
      value = a & b;
      break;
    case BPF_LSH:
      value = a << shift;
      break;
    case BPF_RSH:
      value = a >> shift;
      break;
    case BPF_NEG:
      value = 0 - a;
      break;
    case BPF_XOR:
      value = a ^ b;
      break;
    case BPF_ARSH:
      value = is_64
                  ? static_cast<uint64_t>(static_cast<int64_t>(a) >> shift)
                  : static_cast<uint64_t>(static_cast<uint32_t>(static_cast<int32_t>(a) >> shift));
      break;
    default:
      value = b;
      break;
  }
  return is_64 ? value : static_cast<uint32_t>(value);
}

bool compare(uint8_t op, bool is_64, uint64_t a, uint64_t b) {
  if (!is_64) {
    a = static_cast<uint32_t>(a);
    b = static_cast<uint32_t>(b);
  }
  const int64_t x = is_64 ? static_cast<int64_t>(a) : static_cast<int32_t>(a);
  const int64_t y = is_64 ? static_cast<int64_t>(b) : static_cast<int32_t>(b);
  switch (op) {
    case BPF_JEQ:
      return a == b;
    case BPF_JNE:
      return a != b;
    case BPF_JGT:
      return a > b;
    case BPF_JGE:
      return a >= b;
    case BPF_JLT:
      return a < b;
    case BPF_JLE:
      return a <= b;
    case BPF_JSET:
      return (a & b) != 0;
    case BPF_JSGT:
      return x > y;
    case BPF_JSGE:
      return x >= y;
    case BPF_JSLT:
      return x < y;
    default:
      return x <= y;
  }
}

}  // namespace

Machine::Machine(std::span<const bpf_insn> insns, uint32_t prog_type, uint64_t seed)
    : insns_(insns),
      prog_type_(prog_type),
      random_(seed),
      may_goto_left_(static_cast<uint32_t>(random_() % 6)) {
  push_frame(0);
  const uint32_t context = add_region(Region::Kind::kContext, 0, kContextBytes);
  add_region(Region::Kind::kValue, kArrayMap, kValueBytes);
  add_region(Region::Kind::kValue, kHashMap, kValueBytes);
  if (prog_type == BPF_PROG_TYPE_XDP) {
    // struct xdp_md: what a load of `data` and `data_end` gives is an address (see step()).
    add_region(Region::Kind::kPacket, 0, random_() % (kPacketBytes + 1));
  }
  r(1) = regions_[context].base;
}

uint32_t Machine::add_region(Region::Kind kind, uint32_t index, size_t bytes) {
  Region region;
  region.kind = kind;
  region.index = index;
  // Apart from each other by more than any offset reaches.
  region.base = 0xffff'c900'0000'0000ULL + (regions_.size() << 36) + (random_() % 0x1000) * 8;
  region.bytes.resize(bytes);
  for (uint8_t& byte : region.bytes) {  // small numbers often: they get through checks
    const uint64_t value = random_();
    byte = static_cast<uint8_t>((value & 0x300) == 0   ? value
                                : (value & 0x400) != 0 ? value & 7
                                                       : 0);
  }
  regions_.push_back(std::move(region));
  return static_cast<uint32_t>(regions_.size() - 1);
}

bool Machine::push_frame(uint32_t return_to) {
  if (frames_.size() == kMaxCallFrames) {
    return false;
  }
  CallFrame frame;
  for (uint64_t& reg : frame.regs) {
    reg = random_();
  }
  if (!frames_.empty()) {
    std::copy_n(frames_.back().regs.begin() + 1, 5, frame.regs.begin() + 1);
  }
  frame.stack = add_region(Region::Kind::kStack, static_cast<uint32_t>(frames_.size()), 512);
  frame.regs[10] = regions_[frame.stack].end();
  frame.return_to = return_to;
  frames_.push_back(frame);
  return true;
}

uint32_t Machine::held_records() const {
  uint32_t count = 0;
  for (const Region& region : regions_) {
    count += region.kind == Region::Kind::kRecord && region.is_alive ? 1 : 0;
  }
  return count;
}

Machine::Step Machine::fault(const std::string& what) {
  why_ = "instruction " + std::to_string(at_) + ": " + what;
  return Step::kFault;
}

uint8_t* Machine::memory(uint64_t address, uint32_t bytes, bool is_write) {
  for (Region& region : regions_) {
    if (address >= region.base && address < region.end()) {
      const bool fits = bytes <= region.end() - address && region.is_alive;
      const bool allowed = !is_write || region.kind != Region::Kind::kContext;
      return fits && allowed ? region.bytes.data() + (address - region.base) : nullptr;
    }
  }
  return nullptr;
}

uint64_t Machine::load(const uint8_t* from, uint32_t bytes) const {
  uint64_t value = 0;
  std::memcpy(&value, from, bytes);
  return value;
}

Machine::Step Machine::step() {
  if (at_ >= insns_.size()) {
    return fault("ran out of the program");
  }
  const bpf_insn& insn = insns_[at_];
  const uint8_t kind = BPF_CLASS(insn.code);
  const uint64_t imm = sign_extend(static_cast<uint32_t>(insn.imm), 32);
  uint32_t next = at_ + 1;
  switch (kind) {
    case BPF_ALU:
    case BPF_ALU64: {
      const bool is_64 = kind == BPF_ALU64;
      const uint8_t op = BPF_OP(insn.code);
      if (op == BPF_END) {
        const auto bits = static_cast<uint32_t>(insn.imm);
        uint64_t value = r(insn.dst_reg);
        if (is_64 || BPF_SRC(insn.code) == BPF_TO_BE) {
          value = __builtin_bswap64(value) >> (64 - bits);
        }
        r(insn.dst_reg) = bits == 64 ? value : value & ((1ULL << bits) - 1);
        break;
      }
      uint64_t operand = BPF_SRC(insn.code) == BPF_X ? r(insn.src_reg) : imm;
      bool is_signed = false;
      if (op == BPF_MOV && insn.off != 0) {
        operand = sign_extend(operand, static_cast<uint32_t>(insn.off));
      } else {
        is_signed = insn.off == 1;
      }
      r(insn.dst_reg) = arithmetic(op, is_64, is_signed, r(insn.dst_reg), operand);
      break;
    }
    case BPF_JMP:
    case BPF_JMP32: {
      const uint8_t op = BPF_OP(insn.code);
      const bool is_far = kind == BPF_JMP32 && op == BPF_JA;
      if (op != BPF_EXIT && op != BPF_CALL && (is_far ? insn.imm : insn.off) < 0) {
        ++back_jumps_;
      }
      if (op == BPF_JA) {
        next += static_cast<uint32_t>(kind == BPF_JMP ? insn.off : insn.imm);
      } else if (op == BPF_EXIT) {
        if (frames_.size() == 1) {
          return held_records() == 0 ? Step::kEnd : fault("a record was not given back");
        }
        const uint64_t value = r(0);
        next = frames_.back().return_to;
        regions_[frames_.back().stack].is_alive = false;
        frames_.pop_back();
        r(0) = value;
        for (uint32_t n = 1; n <= 5; ++n) {
          r(n) = random_();
        }
      } else if (op == BPF_CALL) {
        if (insn.src_reg == BPF_PSEUDO_CALL) {
          if (!push_frame(next)) {
            return fault("too many frames");
          }
          next += static_cast<uint32_t>(insn.imm);
        } else if (const Step result = call_helper(insn.imm); result != Step::kOn) {
          return result;
        }
      } else if (op == 0xe0) {  // may_goto
        if (may_goto_left_ == 0) {
          next += static_cast<uint32_t>(insn.off);
        } else {
          --may_goto_left_;
        }
      } else {
        const uint64_t operand = BPF_SRC(insn.code) == BPF_X ? r(insn.src_reg) : imm;
        if (compare(op, kind == BPF_JMP, r(insn.dst_reg), operand)) {
          next += static_cast<uint32_t>(insn.off);
        }
      }
      break;
    }
    case BPF_LD: {
      const uint64_t high = static_cast<uint32_t>(insns_[at_ + 1].imm);
      r(insn.dst_reg) = insn.src_reg == BPF_PSEUDO_MAP_FD
                            ? map_address(static_cast<uint32_t>(insn.imm))
                            : high << 32 | static_cast<uint32_t>(insn.imm);
      ++next;
      break;
    }
    case BPF_LDX: {
      const uint32_t bytes = access_bytes(insn.code);
      const uint64_t address = r(insn.src_reg) + static_cast<uint64_t>(int64_t{insn.off});
      const uint8_t* from = memory(address, bytes, false);
      if (from == nullptr) {
        return fault("reads outside of everything");
      }
      uint64_t value = load(from, bytes);
      if (BPF_MODE(insn.code) == 0x80) {
        value = sign_extend(value, bytes * 8);
      }
      if (prog_type_ == BPF_PROG_TYPE_XDP && address == regions_[1].base) {
        value = regions_.at(4).base;
      } else if (prog_type_ == BPF_PROG_TYPE_XDP && address == regions_[1].base + 4) {
        value = regions_.at(4).end();
      }
      r(insn.dst_reg) = value;
      break;
    }
    default: {
      if (kind == BPF_STX && BPF_MODE(insn.code) == BPF_ATOMIC) {
        if (const Step result = atomic(insn); result != Step::kOn) {
          return result;
        }
        break;
      }
      const uint32_t bytes = access_bytes(insn.code);
      uint8_t* to = memory(r(insn.dst_reg) + static_cast<uint64_t>(int64_t{insn.off}), bytes, true);
      if (to == nullptr) {
        return fault("writes outside of everything");
      }
      const uint64_t value = kind == BPF_ST ? imm : r(insn.src_reg);
      std::memcpy(to, &value, bytes);
      break;
    }
  }
  at_ = next;
  return Step::kOn;
}

Machine::Step Machine::atomic(const bpf_insn& insn) {
  const uint32_t bytes = access_bytes(insn.code);
  const uint64_t address = r(insn.dst_reg) + static_cast<uint64_t>(int64_t{insn.off});
  uint8_t* at = memory(address, bytes, true);
  if (at == nullptr || address % bytes != 0) {
    return fault("atomic access outside of everything, or not aligned");
  }
  const uint64_t old = load(at, bytes);
  const uint64_t operand = r(insn.src_reg);
  uint64_t value = operand;
  switch (insn.imm & ~1) {
    case BPF_ADD:
      value = old + operand;
      break;
    case BPF_OR:
      value = old | operand;
      break;
    case BPF_AND:
      value = old & operand;
      break;
    case BPF_XOR:
      value = old ^ operand;
      break;
    case BPF_CMPXCHG & ~1: {
      const uint64_t expected = bytes == 8 ? r(0) : static_cast<uint32_t>(r(0));
      value = old == expected ? operand : old;
      r(0) = old;
      std::memcpy(at, &value, bytes);
      return Step::kOn;
    }
    default:
      break;
  }
  std::memcpy(at, &value, bytes);
  if ((insn.imm & BPF_FETCH) != 0) {
    r(insn.src_reg) = old;
  }
  return Step::kOn;
}

void Machine::leave_out(uint64_t value) {
  const bpf_insn& insn = insns_[at_];
  if (!is_jump(insn.code)) {
    r(insn.dst_reg) = value;
  }
  at_ += insn.code == (BPF_LD | BPF_IMM | BPF_DW) ? 2 : 1;
}

Machine::Step Machine::call_helper(int32_t id) {
  uint64_t result = 0;
  const uint64_t a = r(1), b = r(2), c = r(3);
  switch (id) {
    case BPF_FUNC_map_lookup_elem: {
      const bool is_array = a == map_address(kArrayMap);
      if (!is_array && a != map_address(kHashMap)) {
        return fault("looks up in what is no map");
      }
      const uint8_t* key = memory(b, is_array ? 4 : 8, false);
      if (key == nullptr) {
        return fault("key outside of everything");
      }
      const bool found = is_array ? load(key, 4) == 0 : random_() % 3 != 0;
      result = found ? regions_[is_array ? 2 : 3].base : 0;
      break;
    }
    case BPF_FUNC_map_update_elem:
      if (memory(b, a == map_address(kArrayMap) ? 4 : 8, false) == nullptr ||
          memory(c, kValueBytes, false) == nullptr) {
        return fault("key or value outside of everything");
      }
      break;
    case BPF_FUNC_probe_read_kernel: {
      uint8_t* to = b == 0 ? nullptr : memory(a, static_cast<uint32_t>(b), true);
      if (b != 0 && (b > 512 || to == nullptr)) {
        return fault("probe_read_kernel writes outside of everything");
      }
      for (uint64_t i = 0; i < b; ++i) {
        to[i] = static_cast<uint8_t>(random_());
      }
      result = random_() % 4 == 0 ? static_cast<uint64_t>(-14) : 0;
      break;
    }
    case BPF_FUNC_ktime_get_ns:
      result = random_();
      result >>= random_() % 64;
      break;
    case BPF_FUNC_get_prandom_u32:
      result = static_cast<uint32_t>(random_()) >> (random_() % 32);
      break;
    case BPF_FUNC_ringbuf_reserve:
      if (a != map_address(kRingMap)) {
        return fault("reserves in what is no ring buffer");
      }
      result = random_() % 4 == 0 ? 0 : regions_[add_region(Region::Kind::kRecord, 0, b)].base;
      break;
    case BPF_FUNC_ringbuf_submit:
    case BPF_FUNC_ringbuf_discard: {
      bool found = false;
      for (Region& region : regions_) {
        if (region.kind == Region::Kind::kRecord && region.is_alive && region.base == a) {
          region.is_alive = false;
          found = true;
        }
      }
      if (!found) {
        return fault("submits what is no record");
      }
      result = random_();  // it returns nothing
      break;
    }
    default:
      return fault("calls a helper that the stage has not");
  }
  for (uint32_t n = 1; n <= 5; ++n) {
    r(n) = random_();
  }
  r(0) = result;
  return Step::kOn;
}

}  // namespace bpftime::testing
