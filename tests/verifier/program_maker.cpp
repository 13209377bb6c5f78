#include "tests/verifier/program_maker.hpp"

#include <linux/bpf.h>

#include <algorithm>
#include <array>
#include <utility>

#include "isa/encode.hpp"
#include "tests/verifier/stage.hpp"

namespace bpftime::testing {
namespace {

// splitmix64: small, and the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e37'79b9'7f4a'7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11ebULL;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(next() % n); }
  bool one_in(uint32_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

enum class Holds : uint8_t { kNothing, kNumber, kValue, kRecord, kContext, kPacket, kPacketEnd };

constexpr uint8_t kJumps[] = {BPF_JEQ,  BPF_JNE,  BPF_JGT,  BPF_JGE,  BPF_JLT, BPF_JLE,
                              BPF_JSET, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE};
constexpr uint8_t kOps[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR,  BPF_AND,
                            BPF_LSH, BPF_RSH, BPF_MOD, BPF_XOR, BPF_MOV, BPF_ARSH};
constexpr uint8_t kSizes[] = {BPF_B, BPF_H, BPF_W, BPF_DW};
constexpr uint32_t kErr = 200;  // one in so many choices is a mistake

uint32_t bytes_of(uint8_t size) {
  return size == BPF_B ? 1 : size == BPF_H ? 2 : size == BPF_W ? 4 : 8;
}

class Maker {
 public:
  Maker(uint64_t seed, Flavour flavour)
      : random_(seed * kFlavours + static_cast<uint64_t>(flavour)), flavour_(flavour) {}

  RandomProgram make() {
    begin();
    const uint32_t units = 3 + random_.below(10);
    for (uint32_t i = 0; i < units; ++i) {
      unit(0);
    }
    give_back();
    put(mov_imm(0, 0));
    put(exit_insn());
    for (const uint32_t jump : to_end_) {  // `out`: nothing may be held here
      out_[jump].off = static_cast<int16_t>(out_.size() - 2 - jump - 1);
    }
    for (size_t i = 0; i < calls_.size(); ++i) {
      function(calls_[i]);
    }
    RandomProgram program;
    program.insns = std::move(out_);
    program.prog_type = flavour_ == Flavour::kPackets ? BPF_PROG_TYPE_XDP : BPF_PROG_TYPE_KPROBE;
    return program;
  }

 private:
  void put(const bpf_insn& insn) { out_.push_back(insn); }
  void put_map(uint8_t reg, uint32_t map) {
    put(make_insn(kOpLddw, reg, BPF_PSEUDO_MAP_FD, 0, static_cast<int32_t>(map)));
    put(make_insn(0, 0, 0, 0, 0));
  }
  uint32_t here() const { return static_cast<uint32_t>(out_.size()); }
  void land(uint32_t jump) { out_[jump].off = static_cast<int16_t>(here() - jump - 1); }

  int32_t constant() {
    switch (random_.below(8)) {
      case 0:
        return static_cast<int32_t>(random_.next());
      case 1: {
        constexpr int32_t kEdges[] = {INT32_MIN, INT32_MAX, -1, 0,    1,      31,
                                      32,        63,        64, 0xff, 0x7fff, 0x8000};
        return kEdges[random_.below(std::size(kEdges))];
      }
      case 2:
        return -static_cast<int32_t>(random_.below(64));
      default:
        return static_cast<int32_t>(random_.below(40));
    }
  }

  // A register that holds `what`; `otherwise` when none does (a mistake, sometimes on purpose).
  int find(Holds what) {
    const uint32_t from = random_.below(10);
    for (uint32_t i = 0; i < 10; ++i) {
      if (holds_[(from + i) % 10] == what) {
        return static_cast<int>((from + i) % 10);
      }
    }
    return -1;
  }
  uint8_t number() {
    const Holds counter = std::exchange(holds_[8], loop_depth_ != 0 ? Holds::kNothing : holds_[8]);
    const int reg =
        random_.one_in(kErr) ? static_cast<int>(random_.below(10)) : find(Holds::kNumber);
    holds_[8] = counter;
    if (reg >= 0) {
      return static_cast<uint8_t>(reg);
    }
    const auto fresh = static_cast<uint8_t>(random_.below(6));
    put(mov_imm(fresh, constant()));
    holds_[fresh] = Holds::kNumber;
    return fresh;
  }
  // Any register but those that hold what is still needed.
  uint8_t free_register() {
    for (uint32_t tries = 0; tries < 20; ++tries) {
      const uint32_t reg = random_.below(loop_depth_ != 0 ? 8 : 9);
      if (holds_[reg] == Holds::kNothing || holds_[reg] == Holds::kNumber) {
        return static_cast<uint8_t>(reg);
      }
    }
    return 0;
  }
  void clobber() {
    for (uint32_t reg = 1; reg <= 5; ++reg) {
      holds_[reg] = Holds::kNothing;
    }
  }
  void jump_out(const bpf_insn& insn) {
    to_end_.push_back(here());
    put(insn);
  }

  void begin() {
    holds_.fill(Holds::kNothing);
    put(mov_reg(9, 1));
    holds_[9] = holds_[1] = Holds::kContext;
    for (int16_t at = -8; at >= -64; at = static_cast<int16_t>(at - 8)) {
      if (!random_.one_in(4)) {
        put(store_imm(BPF_DW, 10, at, constant()));
        slots_[static_cast<size_t>(-at / 8 - 1)] = Holds::kNumber;
      }
    }
    if (flavour_ == Flavour::kPackets) {
      put(load(BPF_W, 7, 9, 0));
      put(load(BPF_W, 8, 9, 4));
      holds_[7] = Holds::kPacket;
      holds_[8] = Holds::kPacketEnd;
    } else if (flavour_ != Flavour::kHeld || random_.one_in(2)) {
      look_up(7);
    }
    unknown();
  }

  void look_up(uint8_t into) {
    const bool is_array = random_.one_in(2);
    put(store_imm(BPF_DW, 10, -72, 0));
    put_map(1, is_array ? kArrayMap : kHashMap);
    put(mov_reg(2, 10));
    put(alu64_imm(BPF_ADD, 2, -72));
    put(call_helper(BPF_FUNC_map_lookup_elem));
    clobber();
    holds_[0] = Holds::kNothing;
    if (held_ >= 0 || in_function_ ||
        loop_depth_ != 0) {  // no jump to the end from here: used in a branch of its own
      put(jump_imm(BPF_JMP, BPF_JEQ, 0, 0, 2));
      put(load(BPF_DW, into, 0, static_cast<int16_t>(random_.below(4) * 8)));
      put(jump(1));
      put(mov_imm(into, constant()));
      holds_[into] = Holds::kNumber;
      return;
    }
    if (!random_.one_in(kErr)) {
      jump_out(jump_imm(BPF_JMP, BPF_JEQ, 0, 0, 0));
    }
    put(mov_reg(into, 0));
    holds_[into] = Holds::kValue;
    holds_[0] = Holds::kValue;
  }

  // A number of which nothing is known.
  void unknown() {
    switch (random_.below(4)) {
      case 0:
        if (const int value = find(Holds::kValue); value >= 0) {
          const uint8_t to = free_register(), size = kSizes[random_.below(4)];
          const auto at = static_cast<int16_t>(random_.below(32 / bytes_of(size)) * bytes_of(size));
          put(random_.one_in(4) && size != BPF_DW
                  ? load_signed(size, to, static_cast<uint8_t>(value), at)
                  : load(size, to, static_cast<uint8_t>(value), at));
          holds_[to] = Holds::kNumber;
          return;
        }
        [[fallthrough]];
      case 1:
        if (flavour_ != Flavour::kPackets && holds_[9] == Holds::kContext) {
          const uint8_t to = free_register();
          put(load(BPF_DW, to, 9, static_cast<int16_t>(random_.below(21) * 8)));
          holds_[to] = Holds::kNumber;
          return;
        }
        [[fallthrough]];
      default:
        if (held_ >= 0 && held_ < 6) {
          return;
        }
        put(call_helper(random_.one_in(2) ? BPF_FUNC_ktime_get_ns : BPF_FUNC_get_prandom_u32));
        clobber();
        holds_[0] = Holds::kNumber;
        if (random_.one_in(2)) {
          const auto keep = static_cast<uint8_t>(6 + random_.below(loop_depth_ != 0 ? 2 : 3));
          if (holds_[keep] == Holds::kNothing || holds_[keep] == Holds::kNumber) {
            put(mov_reg(keep, 0));
            holds_[keep] = Holds::kNumber;
          }
        }
    }
  }

  void arithmetic() {
    const uint8_t dst = number();
    const uint8_t op = kOps[random_.below(std::size(kOps))];
    const bool is_64 = random_.below(3) != 0;
    const bool is_shift = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
    const bool is_div = op == BPF_DIV || op == BPF_MOD;
    holds_[dst] = Holds::kNumber;
    if (random_.one_in(12)) {
      if (random_.one_in(3)) {
        put(make_insn(BPF_ALU64 | BPF_NEG, dst, 0, 0, 0));
      } else if (random_.one_in(2)) {
        constexpr int32_t kBits[] = {16, 32, 64};
        const uint8_t code = random_.one_in(2) ? uint8_t{BPF_ALU | BPF_END | BPF_TO_BE}
                                               : uint8_t{BPF_ALU64 | BPF_END};
        put(make_insn(code, dst, 0, 0, kBits[random_.below(3)]));
      } else {
        const uint8_t src = number();
        constexpr int16_t kBits[] = {8, 16, 32};
        put(is_64 ? alu64_reg(BPF_MOV, dst, src, kBits[random_.below(3)])
                  : alu32_reg(BPF_MOV, dst, src, kBits[random_.below(2)]));
      }
      return;
    }
    const int16_t off = is_div && random_.one_in(3) ? 1 : 0;
    if (random_.one_in(2)) {
      const uint8_t src = number();
      put(is_64 ? alu64_reg(op, dst, src, off) : alu32_reg(op, dst, src, off));
      return;
    }
    int32_t imm = constant();
    if (is_shift) {
      imm = static_cast<int32_t>(random_.below(is_64 ? 64 : 32));
    } else if (is_div && imm == 0) {
      imm = 3;
    }
    put(is_64 ? alu64_imm(op, dst, imm, off) : alu32_imm(op, dst, imm, off));
  }

  bpf_insn comparison() {
    const uint8_t kind = random_.below(3) == 0 ? BPF_JMP32 : BPF_JMP;
    const uint8_t op = kJumps[random_.below(std::size(kJumps))];
    const uint8_t dst = number();
    if (random_.one_in(3)) {
      // Compared with itself a number tells us more than it does the kernel: not what layer C is for.
      if (const uint8_t src = number(); src != dst) {
        return jump_reg(kind, op, dst, src, 0);
      }
    }
    return jump_imm(kind, op, dst, constant(), 0);
  }

  void branch(uint32_t depth) {
    const bpf_insn test = comparison();
    const uint32_t jump_at = here();
    put(test);
    const auto before = holds_;
    const auto slots_before = slots_;
    body(depth + 1, 1 + random_.below(3));
    if (random_.one_in(2)) {
      const uint32_t over = here();
      put(jump(0));
      land(jump_at);
      const auto after = holds_;
      const auto slots_after = slots_;
      holds_ = before;
      slots_ = slots_before;
      body(depth + 1, 1 + random_.below(3));
      land(over);
      meet(after, slots_after);
    } else {
      land(jump_at);
      meet(before, slots_before);
    }
  }
  void meet(const std::array<Holds, 10>& holds, const std::array<Holds, 8>& slots) {
    for (size_t i = 0; i < holds.size(); ++i) {
      holds_[i] = holds[i] == holds_[i] || random_.one_in(kErr * 4) ? holds_[i] : Holds::kNothing;
    }
    for (size_t i = 0; i < slots.size(); ++i) {
      slots_[i] = slots[i] == slots_[i] ? slots_[i] : Holds::kNothing;
    }
  }
  void body(uint32_t depth, uint32_t units) {
    for (uint32_t i = 0; i < units; ++i) {
      unit(depth);
    }
  }

  // A number becomes an offset into something of `size` bytes, after a check that lets through
  // just what fits, or one too many when a mistake is wanted.
  void bounded_access() {
    const Holds what =
        flavour_ == Flavour::kHeld && random_.one_in(2) ? Holds::kRecord : Holds::kValue;
    int base = find(what);
    const bool on_stack = base < 0 || random_.one_in(6);
    const uint32_t room = on_stack ? 64 : what == Holds::kRecord ? 16 : kValueBytes;
    const uint8_t offset = number();
    if (base == offset) {
      return;
    }
    // Of the stack the kernel wants aligned accesses, even where the machine does not.
    const uint8_t size =
        on_stack && !random_.one_in(30) ? uint8_t{BPF_B} : kSizes[random_.below(4)];
    const uint32_t bytes = bytes_of(size);
    const auto first = static_cast<int16_t>(random_.below(room - bytes + 1));
    const uint32_t last =
        room - bytes - static_cast<uint32_t>(first) + (random_.one_in(25) ? 1 : 0);
    auto copy = static_cast<uint8_t>(random_.below(6));
    if (copy == offset || copy == base || holds_[copy] == Holds::kRecord) {
      copy = offset;
    }
    std::vector<uint32_t> skips;
    const auto skip = [&](const bpf_insn& insn) {
      skips.push_back(here());
      put(insn);
    };
    switch (random_.below(8)) {
      case 0: {
        uint32_t mask = 1;
        while (mask * 2 + 1 <= last) {
          mask = mask * 2 + 1;
        }
        put(random_.one_in(2) ? alu64_imm(BPF_AND, offset, static_cast<int32_t>(mask))
                              : alu32_imm(BPF_AND, offset, static_cast<int32_t>(mask)));
        break;
      }
      case 1:
        put(alu32_reg(BPF_MOV, offset, offset));
        skip(jump_imm(BPF_JMP, BPF_JGT, offset, static_cast<int32_t>(last), 0));
        break;
      case 2:
        skip(jump_imm(BPF_JMP32, BPF_JGT, offset, static_cast<int32_t>(last), 0));
        if (!random_.one_in(25)) {
          put(alu32_reg(BPF_MOV, offset, offset));
        }
        break;
      case 3:
        skip(jump_imm(BPF_JMP, BPF_JSGT, offset, static_cast<int32_t>(last), 0));
        if (!random_.one_in(25)) {
          skip(jump_imm(BPF_JMP, BPF_JSLT, offset, 0, 0));
        }
        break;
      case 4:  // through a linked copy
        if (copy != offset) {
          put(mov_reg(copy, offset));
          const int32_t delta = random_.one_in(2) ? 0 : constant();
          if (delta != 0) {
            put(alu64_imm(BPF_ADD, copy, delta));
            if (random_.one_in(4)) {
              put(alu64_imm(BPF_ADD, copy, constant()));
            }
          }
          skip(jump_imm(BPF_JMP, BPF_JGT, copy, static_cast<int32_t>(last), 0));
          holds_[copy] = Holds::kNumber;
          if (delta != 0 && !random_.one_in(8)) {
            skip(jump_imm(BPF_JMP, BPF_JGT, offset, static_cast<int32_t>(last), 0));
          }
          break;
        }
        [[fallthrough]];
      case 5: {  // through the stack
        put(store(BPF_DW, 10, -80, offset));
        const uint8_t back = random_.one_in(3) ? BPF_W : BPF_DW;
        put(load(back, offset, 10, -80));
        skip(jump_imm(BPF_JMP, BPF_JGT, offset, static_cast<int32_t>(last), 0));
        if (random_.one_in(2)) {
          put(load(random_.one_in(25) ? BPF_DW : back, offset, 10, -80));
        }
        break;
      }
      case 6: {  // modulo
        put(alu64_imm(BPF_MOD, offset, static_cast<int32_t>(last + 1)));
        break;
      }
      default:
        skip(jump_imm(BPF_JMP, BPF_JGE, offset, static_cast<int32_t>(last + 1), 0));
        break;
    }
    if (random_.one_in(15) && loop_depth_ == 0) {
      arithmetic();
    }
    holds_[offset] = Holds::kNumber;
    // The pointer is made in a register that holds nothing of worth.
    uint8_t pointer = copy != offset ? copy : static_cast<uint8_t>(random_.below(6));
    if (pointer == offset || pointer == base || holds_[pointer] == Holds::kRecord) {
      for (const uint32_t at : skips) {
        land(at);
      }
      return;
    }
    if (on_stack) {
      put(mov_reg(pointer, 10));
      put(alu64_imm(BPF_ADD, pointer, -64));
    } else {
      put(mov_reg(pointer, static_cast<uint8_t>(base)));
    }
    put(alu64_reg(random_.one_in(60) ? BPF_SUB : BPF_ADD, pointer, offset));
    if (random_.one_in(4)) {
      put(alu64_imm(BPF_ADD, pointer, first));
      access(size, pointer, 0, on_stack, false);
    } else {
      access(size, pointer, first, on_stack, false);
    }
    holds_[pointer] = Holds::kNothing;
    for (const uint32_t at : skips) {
      land(at);
    }
    if (on_stack) {
      slots_.fill(Holds::kNothing);
    }
  }

  void access(uint8_t size, uint8_t pointer, int16_t at, bool is_stack, bool is_aligned) {
    const uint32_t way = random_.below(is_stack || !is_aligned ? 3 : 4);
    if (way == 0) {
      put(load(size, pointer, pointer, at));
    } else if (way == 1) {
      put(store_imm(size, pointer, at, constant()));
    } else if (way == 2 || (size != BPF_W && size != BPF_DW)) {
      const int source = find(Holds::kNumber);
      if (source >= 0 && source != pointer) {
        put(store(size, pointer, at, static_cast<uint8_t>(source)));
      }
    } else {
      atomic_on(size, pointer, at);
    }
  }

  void atomic_on(uint8_t size, uint8_t pointer, int16_t at) {
    constexpr int32_t kAtomics[] = {
        BPF_ADD, BPF_ADD | BPF_FETCH, BPF_OR | BPF_FETCH, BPF_AND | BPF_FETCH,
        BPF_XOR, BPF_XOR | BPF_FETCH, BPF_XCHG,           BPF_CMPXCHG};
    const int source = find(Holds::kNumber);
    const int32_t op = kAtomics[random_.below(std::size(kAtomics))];
    if (source < 0 || source == pointer || (op == BPF_CMPXCHG && holds_[0] != Holds::kNumber)) {
      return;
    }
    put(atomic(size, op, pointer, at, static_cast<uint8_t>(source)));
  }

  // Numbers and pointers go to the stack and come back, whole, in part, or overwritten in part.
  void stack_traffic() {
    const auto slot = random_.below(8);
    const auto at = static_cast<int16_t>(-8 * static_cast<int32_t>(slot + 1));
    switch (random_.below(6)) {
      case 0: {
        const uint8_t from = number();
        put(store(BPF_DW, 10, at, from));
        slots_[slot] = Holds::kNumber;
        break;
      }
      case 1: {
        const int from = find(Holds::kValue);
        if (from >= 0) {
          put(store(BPF_DW, 10, at, static_cast<uint8_t>(from)));
          slots_[slot] = Holds::kValue;
        }
        break;
      }
      case 2: {
        const uint8_t size = kSizes[random_.below(4)];
        const auto inner = static_cast<int16_t>(random_.below(8 / bytes_of(size)) * bytes_of(size));
        if (random_.one_in(2)) {
          put(store(size, 10, static_cast<int16_t>(at + inner), number()));
        } else {
          put(store_imm(size, 10, static_cast<int16_t>(at + inner), constant()));
        }
        slots_[slot] =
            size == BPF_DW || slots_[slot] == Holds::kNumber ? Holds::kNumber : Holds::kNothing;
        break;
      }
      case 3: {
        const uint8_t to = free_register(), size = kSizes[random_.below(4)];
        const auto inner = static_cast<int16_t>(random_.below(8 / bytes_of(size)) * bytes_of(size));
        put(random_.one_in(5) && size != BPF_DW
                ? load_signed(size, to, 10, static_cast<int16_t>(at + inner))
                : load(size, to, 10, static_cast<int16_t>(at + inner)));
        holds_[to] =
            slots_[slot] == Holds::kValue && size == BPF_DW ? Holds::kValue : Holds::kNumber;
        break;
      }
      case 4: {
        const uint8_t to = free_register();
        if (slots_[slot] != Holds::kNothing) {
          put(load(BPF_DW, to, 10, at));
          holds_[to] = slots_[slot];
        }
        break;
      }
      default:
        if (slots_[slot] == Holds::kNumber) {
          atomic_on(random_.one_in(3) ? BPF_W : BPF_DW, 10, at);
        }
    }
  }

  void helper() {
    if (held_ >= 0 && held_ < 6) {
      return;
    }
    switch (random_.below(4)) {
      case 0:
        put(mov_reg(1, 10));
        put(alu64_imm(BPF_ADD, 1, -64));
        put(mov_imm(2, static_cast<int32_t>(random_.below(9) * 8)));
        put(mov_imm(3, 0));
        put(call_helper(BPF_FUNC_probe_read_kernel));
        clobber();
        holds_[0] = Holds::kNumber;
        slots_.fill(Holds::kNothing);
        break;
      case 1:
        look_up(static_cast<uint8_t>(6 + random_.below(2)));
        break;
      default:
        unknown();
    }
  }

  // ---- Records ----

  void record() {
    if (held_ < 0) {
      put_map(1, kRingMap);
      put(mov_imm(2, 16));
      put(mov_imm(3, 0));
      put(call_helper(BPF_FUNC_ringbuf_reserve));
      clobber();
      holds_[0] = Holds::kNothing;
      if (!random_.one_in(kErr)) {
        jump_out(jump_imm(BPF_JMP, BPF_JEQ, 0, 0, 0));
      }
      held_ = 6;
      put(mov_reg(6, 0));
      holds_[6] = Holds::kRecord;
      return;
    }
    const uint8_t size = kSizes[random_.below(4)];
    const uint32_t room = 16 - bytes_of(size) + (random_.one_in(40) ? 1 : 0);
    const auto at = static_cast<int16_t>(random_.below(room + 1));
    access(size, 6, at, false, at % static_cast<int16_t>(bytes_of(size)) == 0);
    if (random_.one_in(2)) {
      give_back();
    }
  }
  void give_back() {
    if (held_ < 0 || random_.one_in(kErr)) {
      return;
    }
    put(mov_reg(1, static_cast<uint8_t>(held_)));
    put(mov_imm(2, 0));
    put(call_helper(random_.one_in(2) ? BPF_FUNC_ringbuf_submit : BPF_FUNC_ringbuf_discard));
    clobber();
    holds_[0] = Holds::kNothing;
    if (!random_.one_in(kErr)) {
      holds_[6] = Holds::kNothing;
    }
    held_ = -1;
  }

  // ---- Loops and functions ----

  void loop(uint32_t depth) {
    if (loop_depth_ != 0 || held_ >= 0) {
      return;
    }
    const uint8_t counter = 8;
    if (holds_[counter] != Holds::kNothing && holds_[counter] != Holds::kNumber) {
      return;
    }
    const auto before = holds_;
    // Two such loops can keep the kernel busy for seconds.
    const bool may = random_.one_in(3) && !has_may_goto_;
    has_may_goto_ = has_may_goto_ || may;
    const uint32_t trips = 1 + random_.below(6);
    put(mov_imm(counter, 0));
    holds_[counter] = Holds::kNumber;
    const uint32_t top = here();
    uint32_t leave = here();
    put(may ? make_insn(BPF_JMP | 0xe0, 0, 0, 0, 0)
            : jump_imm(random_.one_in(3) ? BPF_JMP32 : BPF_JMP,
                       random_.one_in(3) ? BPF_JSGE : BPF_JGE, counter, static_cast<int32_t>(trips),
                       0));
    ++loop_depth_;
    body(depth + 1, 1 + random_.below(3));
    --loop_depth_;
    for (uint8_t reg = 0; reg < 10; ++reg) {
      if (before[reg] == Holds::kNumber && holds_[reg] != Holds::kNumber && reg != counter) {
        put(mov_imm(reg, constant()));
        holds_[reg] = Holds::kNumber;
      } else if (holds_[reg] != before[reg] && reg != counter) {
        holds_[reg] = Holds::kNothing;
      }
    }
    if (holds_[counter] == Holds::kNumber) {
      put(random_.one_in(3) ? alu32_imm(BPF_ADD, counter, 1) : alu64_imm(BPF_ADD, counter, 1));
    }
    put(jump(static_cast<int16_t>(static_cast<int32_t>(top) - static_cast<int32_t>(here()) - 1)));
    land(leave);
  }

  void call(uint32_t depth) {
    if (in_function_ || depth > 1 || (held_ >= 0 && held_ < 6)) {
      return;
    }
    put(mov_reg(1, number()));
    const int value = find(Holds::kValue);
    if (value >= 0 && random_.one_in(2)) {
      put(mov_reg(2, static_cast<uint8_t>(value)));
    } else {
      put(mov_reg(2, 10));
      put(alu64_imm(BPF_ADD, 2, -64));
    }
    calls_.push_back(here());
    put(call_local(0));
    clobber();
    holds_[0] = Holds::kNumber;
  }
  void function(uint32_t call_at) {
    out_[call_at].imm = static_cast<int32_t>(here() - call_at - 1);
    holds_.fill(Holds::kNothing);
    slots_.fill(Holds::kNothing);
    in_function_ = true;
    held_ = -1;
    holds_[1] = Holds::kNumber;
    holds_[2] = Holds::kValue;  // either way 32 bytes are there
    if (random_.one_in(2)) {
      put(mov_reg(7, 2));
      holds_[7] = Holds::kValue;
    }
    body(1, 1 + random_.below(4));
    put(mov_reg(0, number()));
    put(exit_insn());
  }

  // ---- Packets ----

  void packet() {
    const uint8_t size = kSizes[random_.below(4)];
    const uint32_t bytes = bytes_of(size);
    const uint32_t checked = bytes + random_.below(40);
    put(mov_reg(1, 7));
    uint8_t from = 7;
    holds_[1] = Holds::kNothing;
    if (random_.one_in(3)) {  // at a variable offset
      const uint8_t offset = number();
      if (offset != 1) {
        put(alu64_imm(BPF_AND, offset, random_.one_in(2) ? 15 : 0x7ff));
        holds_[offset] = Holds::kNumber;
        put(alu64_reg(BPF_ADD, 1, offset));
        put(mov_reg(2, 1));
        holds_[2] = Holds::kNothing;
        from = 2;
      }
    }
    put(alu64_imm(BPF_ADD, 1, static_cast<int32_t>(checked)));
    const uint32_t skip = here();
    switch (random_.below(4)) {
      case 0:
        put(jump_reg(BPF_JMP, BPF_JGT, 1, 8, 0));
        break;
      case 1:
        put(jump_reg(BPF_JMP, BPF_JLT, 8, 1, 0));
        break;
      case 2:
        put(jump_reg(BPF_JMP, BPF_JGE, 1, 8, 0));
        break;
      default:
        put(jump_reg(BPF_JMP, BPF_JLE, 8, 1, 0));
        break;
    }
    const auto at = static_cast<int16_t>(checked - bytes -
                                         random_.below(static_cast<uint32_t>(checked - bytes + 1)) +
                                         (random_.one_in(30) ? 1 : 0));
    if (random_.one_in(2)) {
      put(load(size, 0, from, at));
      land(skip);
      holds_[0] = Holds::kNothing;
    } else {
      put(store_imm(size, from, at, constant()));
      land(skip);
    }
  }

  void unit(uint32_t depth) {
    if (out_.size() > 150) {
      return;
    }
    const uint32_t pick = random_.below(100);
    if (flavour_ == Flavour::kPackets && pick < 30) {
      packet();
    } else if (pick < 25) {
      arithmetic();
    } else if (pick < 40) {
      if (depth < 3) {
        branch(depth);
      }
    } else if (pick < 60) {
      bounded_access();
    } else if (pick < 65) {
      unknown();
    } else if (flavour_ == Flavour::kNumbers) {
      arithmetic();
    } else if (pick < 82) {
      stack_traffic();
    } else if (pick < 87) {
      helper();
    } else if (flavour_ == Flavour::kHeld && depth == 0) {
      record();
    } else if (flavour_ == Flavour::kControl) {
      random_.one_in(2) ? loop(depth) : call(depth);
    } else {
      bounded_access();
    }
  }

  Random random_;
  Flavour flavour_;
  std::vector<bpf_insn> out_;
  std::array<Holds, 10> holds_{};
  std::array<Holds, 8> slots_{};
  std::vector<uint32_t> to_end_, calls_;
  int held_ = -1;
  uint32_t loop_depth_ = 0;
  bool in_function_ = false, has_may_goto_ = false;
};

}  // namespace

RandomProgram make_program(uint64_t seed, Flavour flavour) { return Maker(seed, flavour).make(); }

}  // namespace bpftime::testing
