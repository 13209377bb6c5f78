// Makes programs that are valid, end, stay in bounds, and whose outcome does not depend on where
// anything lies in memory: so every engine must come to the same value, the same fuel and the same
// memory. Bytes in, program out: the bytes are random numbers in the differential test and the
// fuzzer's input in fuzz/vm_engines.cpp.
//
// Conventions: the frame's [r10-8] holds the input's address, [r10-32, r10-16) loop counters,
// [r10-104, r10-40) scratch that is written first. A register is made a base just before an access
// and a scalar just after it, so each register is a base at times and no address gets into a value.
// After a call r1..r5 are written before they are read.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "isa/encode.hpp"

namespace bpftime::testing {

inline constexpr uint32_t kInputBytes = 128;
inline constexpr int32_t kMixHelper = 1000;

struct GeneratorOptions {
  bool for_kernel =
      false;  // what the verifier takes: no input, no zero divisors, aligned, result in 32 bits
  bool has_helper = true;
  uint32_t max_units = 60;
};

class ByteSource {
 public:
  explicit ByteSource(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  uint32_t byte() { return at_ < bytes_.size() ? bytes_[at_++] : 0; }
  uint32_t below(uint32_t limit) {
    const uint32_t value = limit > 256 ? byte() << 8 | byte() : byte();
    return value % limit;
  }
  [[nodiscard]] bool is_empty() const { return at_ >= bytes_.size(); }
  uint64_t value() {  // an edge or anything
    constexpr uint64_t kEdges[] = {0,          1,          2,          31,         32,
                                   63,         64,         0x7f,       0x80,       0xff,
                                   0x7fff,     0x8000,     0xffff,     0x7fffffff, 0x80000000,
                                   0xffffffff, 1ULL << 32, 1ULL << 63, ~0ULL >> 1, ~0ULL};
    if (byte() % 2 == 0) {
      return kEdges[below(std::size(kEdges))];
    }
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) {
      value = value << 8 | byte();
    }
    return value;
  }

 private:
  std::span<const uint8_t> bytes_;
  size_t at_ = 0;
};

class Generator {
 public:
  Generator(ByteSource& source, const GeneratorOptions& options)
      : source_(source), options_(options) {}

  std::vector<bpf_insn> run() {
    functions_ = 1 + source_.below(4);
    std::vector<uint32_t> starts;
    for (uint32_t f = 0; f < functions_; ++f) {
      starts.push_back(size());
      function(f);
    }
    for (const auto& [at, callee] : calls_) {
      insns_[at].imm = static_cast<int32_t>(starts[callee]) - static_cast<int32_t>(at) - 1;
    }
    return std::move(insns_);
  }

 private:
  [[nodiscard]] uint32_t size() const { return static_cast<uint32_t>(insns_.size()); }
  void emit(const bpf_insn& insn) { insns_.push_back(insn); }
  uint8_t reg() { return static_cast<uint8_t>(source_.below(10)); }
  int32_t imm() { return static_cast<int32_t>(static_cast<uint32_t>(source_.value())); }
  void scalar(uint8_t to) {
    const uint64_t value = source_.value();
    if (source_.byte() % 2 == 0) {
      emit(mov_imm(to, static_cast<int32_t>(static_cast<uint32_t>(value))));
    } else {
      emit(lddw_first(to, kLoadImm, value));
      emit(lddw_second(value));
    }
  }

  void function(uint32_t index) {
    current_ = index;
    callees_left_ = 2;
    if (!options_.for_kernel) {
      emit(store(BPF_DW, 10, -8, 1));
    }
    for (int16_t off = -104; off < -40; off = static_cast<int16_t>(off + 8)) {
      emit(store_imm(BPF_DW, 10, off, off * 0x01010101));
    }
    const bool keeps_args = index != 0;
    for (uint8_t r = 0; r < 10; ++r) {
      if (!keeps_args || r < 2 || r > 5) {
        scalar(r);
      }
    }
    depth_ = 0;
    units_left_ = 1 + source_.below(options_.max_units);
    block();
    if (options_.for_kernel &&
        index + 1 < functions_) {  // the verifier refuses functions that nothing calls
      calls_.emplace_back(size(), index + 1);
      emit(call_local(0));
      for (uint8_t r = 1; r <= 5; ++r) {
        scalar(r);
      }
    }
    // Everything the function did ends up in r0.
    for (uint8_t r = 1; r < 10; ++r) {
      emit(alu64_imm(BPF_MUL, 0, 0x01000193));
      emit(alu64_reg(BPF_XOR, 0, r));
    }
    for (int16_t off = -104; off < -40; off = static_cast<int16_t>(off + 8)) {
      emit(load(BPF_DW, 1, 10, off));
      emit(alu64_imm(BPF_MUL, 0, 0x01000193));
      emit(alu64_reg(BPF_ADD, 0, 1));
    }
    if (options_.for_kernel && index == 0) {
      emit(mov_reg(1, 0));
      emit(alu64_imm(BPF_RSH, 1, 32));
      emit(alu64_reg(BPF_XOR, 0, 1));
      emit(alu32_reg(BPF_MOV, 0, 0));
    }
    emit(exit_insn());
  }

  void block() {
    while (units_left_ > 0) {
      --units_left_;
      unit();
      if (depth_ > 0 && source_.below(4) == 0) {
        return;
      }
    }
  }

  void unit() {
    switch (source_.below(16)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
        alu();
        break;
      case 5:
        unary();
        break;
      case 6:
        pattern();
        break;
      case 7:
      case 8:
        memory();
        break;
      case 9:
        atomic_unit();
        break;
      case 10:
      case 11:
        branch();
        break;
      case 12:
        loop();
        break;
      case 13:
        call();
        break;
      default:
        scalar(reg());
        break;
    }
  }

  void alu() {
    constexpr uint8_t kOps[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR,  BPF_AND,
                                BPF_LSH, BPF_RSH, BPF_MOD, BPF_XOR, BPF_MOV, BPF_ARSH};
    const uint8_t op = kOps[source_.below(std::size(kOps))];
    const uint32_t kind = source_.byte();
    const bool is64 = (kind & 1) != 0;
    const bool is_division = op == BPF_DIV || op == BPF_MOD;
    const int16_t off = is_division && (kind & 2) != 0 ? 1 : 0;
    const uint8_t dst = reg();
    if ((kind & 4) != 0) {
      const uint8_t src = reg();
      emit(is64 ? alu64_reg(op, dst, src, off) : alu32_reg(op, dst, src, off));
      return;
    }
    int32_t operand = imm();
    if (options_.for_kernel && is_division && operand == 0) {
      operand = 7;
    }
    if (options_.for_kernel && (op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH)) {
      operand &= is64 ? 63 : 31;
    }
    emit(is64 ? alu64_imm(op, dst, operand, off) : alu32_imm(op, dst, operand, off));
  }

  void unary() {
    const uint8_t dst = reg();
    const uint8_t src = reg();
    constexpr int32_t kBits[] = {16, 32, 64};
    const int32_t bits = kBits[source_.below(3)];
    switch (source_.below(6)) {
      case 0:
        emit(make_insn(BPF_ALU64 | BPF_NEG, dst, 0, 0, 0));
        break;
      case 1:
        emit(make_insn(BPF_ALU | BPF_NEG, dst, 0, 0, 0));
        break;
      case 2:
        emit(make_insn(BPF_ALU | BPF_END | BPF_TO_BE, dst, 0, 0, bits));
        break;
      case 3:
        emit(make_insn(source_.byte() % 2 == 0 ? BPF_ALU | BPF_END : BPF_ALU64 | BPF_END, dst, 0, 0,
                       bits));
        break;
      case 4:
        emit(make_insn(BPF_ALU64 | BPF_X | BPF_MOV, dst, src,
                       static_cast<int16_t>(8 << source_.below(3)), 0));
        break;
      default:
        emit(make_insn(BPF_ALU | BPF_X | BPF_MOV, dst, src,
                       static_cast<int16_t>(8 << source_.below(2)), 0));
        break;
    }
  }

  // Sequences that compilers write, and that an engine may melt together.
  void pattern() {
    const uint8_t d = reg();
    const uint8_t s = reg();
    const uint8_t x = reg();
    constexpr int32_t kShifts[] = {8, 16, 24, 32, 48, 56};
    const int32_t k = kShifts[source_.below(6)];
    switch (source_.below(9)) {
      case 0:
        emit(mov_reg(d, s));
        emit(alu64_imm(BPF_ADD, d, imm()));
        break;
      case 1:
        emit(mov_reg(d, s));
        emit(alu64_reg(BPF_ADD, d, x));
        break;
      case 2:
        emit(alu64_imm(BPF_LSH, d, k));
        emit(alu64_imm(BPF_RSH, d, k));
        break;
      case 3:
        emit(alu64_imm(BPF_LSH, d, k));
        emit(alu64_imm(BPF_ARSH, d, k));
        break;
      case 4:
        emit(mov_reg(d, s));
        emit(alu64_imm(BPF_LSH, d, k));
        emit(alu64_imm(source_.byte() % 2 == 0 ? BPF_RSH : BPF_ARSH, d, k));
        break;
      case 5:
        emit(mov_reg(d, s));
        emit(alu64_imm(BPF_AND, d, source_.byte() % 2 == 0 ? 0xff : 0xffff));
        break;
      case 6:
        rotation(d, s, x);
        break;
      case 7:
        joined_load();
        break;
      default:  // a choice
        emit(jump_reg(source_.byte() % 2 == 0 ? BPF_JMP : BPF_JMP32, BPF_JGT, x, s, 1));
        emit(mov_reg(d, s));
        break;
    }
  }

  // Rotations as compilers write them, and bytes put together; the parts are forgotten afterwards,
  // or not.
  void rotation(uint8_t d, uint8_t s, uint8_t t) {
    const bool is64 = source_.byte() % 2 == 0;
    const int32_t width = is64 ? 64 : 32;
    const int32_t k = 1 + static_cast<int32_t>(source_.below(static_cast<uint32_t>(width) - 1));
    const uint32_t kind = source_.byte();
    const uint8_t one = (kind & 1) != 0 ? BPF_LSH : BPF_RSH;
    const uint8_t two = (kind & 1) != 0 ? BPF_RSH : BPF_LSH;
    const auto imm_form = [&](uint8_t op, uint8_t r, int32_t value) {
      emit(is64 ? alu64_imm(op, r, value) : alu32_imm(op, r, value));
    };
    const auto reg_form = [&](uint8_t op, uint8_t r, uint8_t from) {
      emit(is64 ? alu64_reg(op, r, from) : alu32_reg(op, r, from));
    };
    reg_form(BPF_MOV, t, s);
    imm_form(one, t, k);
    uint8_t second = s;
    if ((kind & 2) != 0) {
      reg_form(BPF_MOV, d, s);
      second = d;
    }
    imm_form(two, second, (kind & 0x70) == 0 ? k : width - k);
    const bool joins_first = (kind & 4) != 0;
    reg_form(BPF_OR, joins_first ? t : second, joins_first ? second : t);
    if ((kind & 8) != 0) {
      scalar(joins_first ? second : t);
    }
  }
  void joined_load() {
    const uint8_t sum = reg();
    const uint8_t part = reg();
    const uint8_t part2 = reg();
    const uint32_t kind = source_.byte();
    with_base(options_.for_kernel ? 8 : 4, options_.for_kernel, 11, [&](uint8_t base, int16_t off) {
      if (base != 10 && (base == sum || base == part || base == part2)) {
        scalar(base);
        return;
      }
      const auto next = [&](int32_t by) { return static_cast<int16_t>(off + by); };
      if ((kind & 1) != 0) {
        emit(load(BPF_B, part, base, off));
        emit(load(BPF_B, sum, base, next(1)));
      } else {
        emit(load(BPF_B, sum, base, next(1)));
        emit(load(BPF_B, part, base, off));
      }
      emit(alu64_imm(BPF_LSH, sum, (kind & 0xc0) == 0 ? 16 : 8));
      emit(alu64_reg(BPF_OR, sum, part));
      if ((kind & 2) != 0) {
        emit(load(BPF_B, part2, base, next(2)));
        emit(alu32_imm(BPF_LSH, part2, 16));
        emit(alu64_reg(BPF_OR, sum, part2));
        emit(load(BPF_B, part, base, next(3)));
        emit(alu64_imm(BPF_LSH, part, 24));
        emit(alu32_reg(BPF_OR, sum, part));
      }
      if ((kind & 4) != 0 && part != sum) {
        scalar(part);
      }
      if ((kind & 8) != 0 && part2 != sum) {
        scalar(part2);
      }
      forget(base, sum);
    });
  }

  uint8_t random_size() { return static_cast<uint8_t>(source_.below(4) << 3); }

  // Calls use(base, off) with a base register made for an access of `bytes`.
  template <class Use>
  void with_base(uint32_t bytes, bool is_aligned, uint8_t not_this, Use use) {
    uint8_t base = reg();
    if (base == not_this) {
      base = static_cast<uint8_t>((base + 1) % 10);
    }
    const bool is_input = !options_.for_kernel && source_.byte() % 2 == 0;
    const uint32_t room = (is_input ? kInputBytes : 64) - bytes;
    uint32_t at = source_.below(room + 1);
    if (is_aligned || options_.for_kernel) {
      at = at / bytes * bytes;
    }
    if (is_input) {
      emit(load(BPF_DW, base, 10, -8));
      const int32_t shift = source_.byte() % 3 == 0 ? imm() % 30000 : 0;
      if (shift != 0) {
        emit(alu64_imm(BPF_ADD, base, -shift));
      }
      use(base, static_cast<int16_t>(static_cast<int32_t>(at) + shift));
      return;
    }
    const int32_t off = static_cast<int32_t>(at) - 104;
    if (source_.byte() % 2 == 0) {
      use(10, static_cast<int16_t>(off));
      return;
    }
    emit(mov_reg(base, 10));
    emit(alu64_imm(BPF_ADD, base, off));
    use(base, 0);
  }
  void forget(uint8_t base, uint8_t loaded = 11) {
    if (base != 10 && base != loaded) {
      scalar(base);
    }
  }

  void memory() {
    const uint8_t size = random_size();
    const uint32_t bytes = access_bytes(size);
    const uint32_t kind = source_.below(6);
    const uint8_t other = reg();
    if (kind < 3) {  // loads may overwrite their base
      with_base(bytes, kind == 2, 11, [&](uint8_t base, int16_t off) {
        if (kind == 1 && size != BPF_DW) {
          emit(load_signed(size, other, base, off));
        } else if (kind == 2) {
          emit(atomic(size, kLoadAcquire, other, off, base));
        } else {
          emit(load(size, other, base, off));
        }
        forget(base, other);
      });
      return;
    }
    with_base(bytes, kind == 5, other, [&](uint8_t base, int16_t off) {
      if (kind == 3) {
        emit(store_imm(size, base, off, imm()));
      } else if (kind == 4) {
        emit(store(size, base, off, other));
      } else {
        emit(atomic(size, kStoreRelease, base, off, other));
      }
      forget(base);
    });
  }

  void atomic_unit() {
    constexpr int32_t kKinds[] = {BPF_ADD,
                                  BPF_OR,
                                  BPF_AND,
                                  BPF_XOR,
                                  BPF_ADD | BPF_FETCH,
                                  BPF_OR | BPF_FETCH,
                                  BPF_AND | BPF_FETCH,
                                  BPF_XOR | BPF_FETCH,
                                  BPF_XCHG,
                                  BPF_CMPXCHG};
    const int32_t kind = kKinds[source_.below(std::size(kKinds))];
    const uint8_t size = source_.byte() % 2 == 0 ? BPF_W : BPF_DW;
    const uint8_t src = reg();
    with_base(access_bytes(size), true, src, [&](uint8_t base, int16_t off) {
      // cmpxchg compares with r0: an address there must not decide.
      if (kind == BPF_CMPXCHG && base == 0) {
        emit(load(BPF_DW, 0, 10, -48));
        return;
      }
      emit(atomic(size, kind, base, off, src));
      forget(base);
    });
  }

  void branch() {
    constexpr uint8_t kOps[] = {BPF_JEQ,  BPF_JNE,  BPF_JGT,  BPF_JGE,  BPF_JLT, BPF_JLE,
                                BPF_JSET, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE};
    if (depth_ >= 4) {
      return;
    }
    ++depth_;
    const uint8_t op = kOps[source_.below(std::size(kOps))];
    const uint8_t jump_class = source_.byte() % 2 == 0 ? BPF_JMP : BPF_JMP32;
    const uint32_t at = size();
    const uint8_t dst = reg();
    switch (source_.below(8)) {
      case 0:
        emit(make_insn(kOpMayGoto, 0, 0, 0, 0));
        break;
      case 1:
      case 2:
      case 3:
        emit(jump_imm(jump_class, op, dst, imm(), 0));
        break;
      default:
        emit(jump_reg(jump_class, op, dst, reg(), 0));
        break;
    }
    block();
    if (source_.byte() % 2 == 0) {  // an else
      const uint32_t over = size();
      emit(source_.byte() % 2 == 0 ? make_insn(kOpJa32, 0, 0, 0, 0) : jump(0));
      insns_[at].off = static_cast<int16_t>(size() - at - 1);
      block();
      const auto distance = static_cast<int32_t>(size() - over - 1);
      if (insns_[over].code == kOpJa32) {
        insns_[over].imm = distance;
      } else {
        insns_[over].off = static_cast<int16_t>(distance);
      }
    } else {
      insns_[at].off = static_cast<int16_t>(size() - at - 1);
    }
    --depth_;
  }

  void loop() {
    if (depth_ >= 2 || loops_ >= 2) {
      return;
    }
    ++depth_;
    ++loops_;
    const auto counter = static_cast<int16_t>(-16 - 8 * static_cast<int>(loops_));
    emit(store_imm(BPF_DW, 10, counter,
                   static_cast<int32_t>(1 + source_.below(options_.for_kernel ? 4 : 12))));
    const uint32_t begin = size();
    block();
    const uint8_t r = reg();
    emit(load(BPF_DW, r, 10, counter));
    emit(alu64_imm(BPF_SUB, r, 1));
    emit(store(BPF_DW, 10, counter, r));
    emit(jump_imm(
        BPF_JMP, BPF_JNE, r, 0,
        static_cast<int16_t>(static_cast<int32_t>(begin) - static_cast<int32_t>(size()) - 1)));
    --loops_;
    --depth_;
  }

  void call() {
    if (options_.has_helper && !options_.for_kernel && source_.byte() % 2 == 0) {
      emit(call_helper(kMixHelper));
    } else {
      // Only later functions, so that there is no recursion; few, so that there is no explosion.
      if (current_ + 1 >= functions_ || callees_left_ == 0 || loops_ > 0) {
        return;
      }
      --callees_left_;
      const uint32_t callee = current_ + 1 + source_.below(functions_ - current_ - 1);
      if (!options_.for_kernel) {
        emit(load(BPF_DW, 1, 10, -8));
      }
      calls_.emplace_back(size(), callee);
      emit(call_local(0));
    }
    for (uint8_t r = 1; r <= 5; ++r) {
      scalar(r);
    }
  }

  ByteSource& source_;
  const GeneratorOptions options_;
  std::vector<bpf_insn> insns_;
  std::vector<std::pair<uint32_t, uint32_t>> calls_;  // instruction, callee
  uint32_t functions_ = 1, current_ = 0, callees_left_ = 0;
  uint32_t units_left_ = 0, depth_ = 0, loops_ = 0;
};

}  // namespace bpftime::testing
