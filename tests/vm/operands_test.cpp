// Every operation with every pair of registers and edge values, on every engine, against C++; the
// registers that an operation does not name must keep their values (rcx in shifts, rax and rdx in
// division, r12 and r13 as bases).
#include <gtest/gtest.h>

#include <bit>
#include <memory>

#include "isa/encode.hpp"
#include "tests/vm/engines.hpp"

namespace bpftime::testing {
namespace {

constexpr uint64_t kValues[] = {0,
                                1,
                                2,
                                31,
                                32,
                                33,
                                63,
                                64,
                                65,
                                0x7f,
                                0x8000,
                                0x7fffffff,
                                0x80000000,
                                0xffffffff,
                                0x100000000,
                                0x123456789abcdef0,
                                0x7fffffffffffffff,
                                0x8000000000000000,
                                0xffffffff80000000,
                                0xffffffffffffffff};
constexpr int32_t kImms[] = {
    0,    1,    2,   3,   7,     8,     31,      32,         33,        63,        64, 65, 127, 128,
    -128, -129, 255, 256, 65535, 65536, 1000003, 0x40000000, INT32_MAX, INT32_MIN, -1, -2, -7};

// A program that is ready on all engines.
class Loaded {
 public:
  explicit Loaded(const std::vector<bpf_insn>& insns) {
    DecodeProblem problem;
    auto program = decode(std::span(insns), &problem);
    EXPECT_TRUE(program) << problem.insn << problem.why;
    if (!program) {
      return;
    }
    auto interpreter = Interpreter::prepare(program.value());
    EXPECT_TRUE(interpreter);
    interpreter_.emplace(std::move(interpreter).value());
    for (const bool has_bmi2 : {false, true}) {
      CompileOptions options;
      options.has_bmi2 = has_bmi2 && host_has_bmi2();
      auto compiled = compile_x64(program.value(), options);
      EXPECT_TRUE(compiled);
      auto code = CodeMapping::map(compiled.value().code);
      EXPECT_TRUE(code);
      codes_.push_back(std::move(code).value());
    }
  }
  static constexpr int kEngineCount = 3;
  uint64_t run(int engine, std::span<uint64_t> memory) const {
    Hit hit{nullptr, 1000, kHitNormal, 0, 0};
    if (engine == 0) {
      const uint64_t args[] = {reinterpret_cast<uint64_t>(memory.data())};
      const MemoryRange range{args[0], memory.size_bytes(), true};
      const auto value = interpreter_->run(args, std::span(&range, 1), &hit);
      EXPECT_TRUE(value);
      return value ? value.value() : 0;
    }
    return call_code(codes_[static_cast<size_t>(engine - 1)].begin(), memory.data(), &hit, 0);
  }

 private:
  std::optional<Interpreter> interpreter_;
  std::vector<CodeMapping> codes_;
};

constexpr size_t kIn = 0;    // memory[0..9]: r0..r9 before
constexpr size_t kOut = 10;  // memory[10..19]: after; memory[20]: taken or not
constexpr size_t kWords = 24;

// Loads r0..r9 from memory, runs `body`, stores r0..r9 back. r1 is loaded last and kept in the
// frame meanwhile.
std::vector<bpf_insn> framed(const std::vector<bpf_insn>& body) {
  std::vector<bpf_insn> insns = {store(BPF_DW, 10, -8, 1), store_imm(BPF_DW, 10, -96, 0)};
  constexpr uint8_t kOrder[] = {0, 2, 3, 4, 5, 6, 7, 8, 9, 1};
  for (const uint8_t reg : kOrder) {
    insns.push_back(load(BPF_DW, reg, 1, static_cast<int16_t>(reg * 8)));
  }
  insns.insert(insns.end(), body.begin(), body.end());
  for (uint8_t reg = 0; reg < 10; ++reg) {
    insns.push_back(store(BPF_DW, 10, static_cast<int16_t>(-16 - reg * 8), reg));
  }
  insns.push_back(load(BPF_DW, 1, 10, -8));
  for (uint8_t reg = 0; reg < 10; ++reg) {
    insns.push_back(load(BPF_DW, 2, 10, static_cast<int16_t>(-16 - reg * 8)));
    insns.push_back(store(BPF_DW, 1, static_cast<int16_t>((kOut + reg) * 8), 2));
  }
  insns.push_back(exit_insn());
  return insns;
}

uint64_t canary(size_t reg) { return 0xc0ffee0000000000ULL + reg * 0x0123456789ULL; }

struct Op {
  const char* name;
  uint8_t code;
  int16_t off;
  uint64_t (*wide)(uint64_t, uint64_t);
  uint32_t (*narrow)(uint32_t, uint32_t);
};
constexpr Op kOps[] = {
    {"add", BPF_ADD, 0, [](uint64_t a, uint64_t b) { return a + b; },
     [](uint32_t a, uint32_t b) { return a + b; }},
    {"sub", BPF_SUB, 0, [](uint64_t a, uint64_t b) { return a - b; },
     [](uint32_t a, uint32_t b) { return a - b; }},
    {"mul", BPF_MUL, 0, [](uint64_t a, uint64_t b) { return a * b; },
     [](uint32_t a, uint32_t b) { return a * b; }},
    {"or", BPF_OR, 0, [](uint64_t a, uint64_t b) { return a | b; },
     [](uint32_t a, uint32_t b) { return a | b; }},
    {"and", BPF_AND, 0, [](uint64_t a, uint64_t b) { return a & b; },
     [](uint32_t a, uint32_t b) { return a & b; }},
    {"xor", BPF_XOR, 0, [](uint64_t a, uint64_t b) { return a ^ b; },
     [](uint32_t a, uint32_t b) { return a ^ b; }},
    {"mov", BPF_MOV, 0, [](uint64_t, uint64_t b) { return b; },
     [](uint32_t, uint32_t b) { return b; }},
    {"lsh", BPF_LSH, 0, [](uint64_t a, uint64_t b) { return a << (b & 63); },
     [](uint32_t a, uint32_t b) { return a << (b & 31); }},
    {"rsh", BPF_RSH, 0, [](uint64_t a, uint64_t b) { return a >> (b & 63); },
     [](uint32_t a, uint32_t b) { return a >> (b & 31); }},
    {"arsh", BPF_ARSH, 0,
     [](uint64_t a, uint64_t b) {
       return static_cast<uint64_t>(static_cast<int64_t>(a) >> (b & 63));
     },
     [](uint32_t a, uint32_t b) {
       return static_cast<uint32_t>(static_cast<int32_t>(a) >> (b & 31));
     }},
    {"div", BPF_DIV, 0, [](uint64_t a, uint64_t b) { return b == 0 ? 0 : a / b; },
     [](uint32_t a, uint32_t b) { return b == 0 ? 0 : a / b; }},
    {"mod", BPF_MOD, 0, [](uint64_t a, uint64_t b) { return b == 0 ? a : a % b; },
     [](uint32_t a, uint32_t b) { return b == 0 ? a : a % b; }},
    {"sdiv", BPF_DIV, 1,
     [](uint64_t a, uint64_t b) {
       return b == 0 ? 0
              : b + 1 == 0
                  ? 0 - a
                  : static_cast<uint64_t>(static_cast<int64_t>(a) / static_cast<int64_t>(b));
     },
     [](uint32_t a, uint32_t b) {
       return b == 0 ? 0
              : b + 1 == 0
                  ? 0 - a
                  : static_cast<uint32_t>(static_cast<int32_t>(a) / static_cast<int32_t>(b));
     }},
    {"smod", BPF_MOD, 1,
     [](uint64_t a, uint64_t b) {
       return b == 0 ? a
              : b + 1 == 0
                  ? 0
                  : static_cast<uint64_t>(static_cast<int64_t>(a) % static_cast<int64_t>(b));
     },
     [](uint32_t a, uint32_t b) {
       return b == 0 ? a
              : b + 1 == 0
                  ? 0
                  : static_cast<uint32_t>(static_cast<int32_t>(a) % static_cast<int32_t>(b));
     }},
};

// Runs with the given register values on all engines; `expected` are the registers afterwards.
bool check(const Loaded& loaded, const uint64_t (&before)[10], const uint64_t (&expected)[10],
           const std::string& what) {
  for (int engine = 0; engine < Loaded::kEngineCount; ++engine) {
    uint64_t memory[kWords] = {};
    std::memcpy(&memory[kIn], before, sizeof before);
    loaded.run(engine, memory);
    if (std::memcmp(&memory[kOut], expected, sizeof expected) != 0) {
      for (size_t reg = 0; reg < 10; ++reg) {
        EXPECT_EQ(memory[kOut + reg], expected[reg])
            << what << ", r" << reg << ", engine " << engine << ", before " << before[reg];
      }
      return false;
    }
  }
  return true;
}

void fill(uint64_t (&regs)[10]) {
  for (size_t reg = 0; reg < 10; ++reg) {
    regs[reg] = canary(reg);
  }
}

TEST(Operands, AluRegisterFormsGiveWhatCppGives) {
  for (const Op& op : kOps) {
    for (const bool is64 : {true, false}) {
      for (uint8_t dst = 0; dst < 10; ++dst) {
        for (uint8_t src = 0; src < 10; ++src) {
          const uint8_t code = static_cast<uint8_t>((is64 ? BPF_ALU64 : BPF_ALU) | BPF_X | op.code);
          const Loaded loaded(framed({make_insn(code, dst, src, op.off, 0)}));
          const std::string what = std::string(op.name) + (is64 ? "64 r" : "32 r") +
                                   std::to_string(dst) + ", r" + std::to_string(src);
          // All pairs for some register pairs, a diagonal for the rest.
          const bool is_thorough = dst % 3 == 0 || src == 4 || dst == 4;
          for (size_t i = 0; i < std::size(kValues); ++i) {
            for (size_t j = 0; j < std::size(kValues); ++j) {
              if (!is_thorough && (i + j) % 5 != 0) {
                continue;
              }
              uint64_t before[10];
              fill(before);
              before[dst] = kValues[i];
              before[src] = kValues[j];  // the same register: the value is j's
              uint64_t expected[10];
              std::memcpy(expected, before, sizeof before);
              expected[dst] = is64 ? op.wide(before[dst], before[src])
                                   : op.narrow(static_cast<uint32_t>(before[dst]),
                                               static_cast<uint32_t>(before[src]));
              ASSERT_TRUE(check(loaded, before, expected, what));
            }
          }
        }
      }
    }
  }
}

TEST(Operands, AluImmediateFormsGiveWhatCppGives) {
  for (const Op& op : kOps) {
    for (const bool is64 : {true, false}) {
      for (uint8_t dst = 0; dst < 10; ++dst) {
        for (const int32_t imm : kImms) {
          const uint8_t code = static_cast<uint8_t>((is64 ? BPF_ALU64 : BPF_ALU) | BPF_K | op.code);
          const Loaded loaded(framed({make_insn(code, dst, 0, op.off, imm)}));
          const std::string what = std::string(op.name) + (is64 ? "64 r" : "32 r") +
                                   std::to_string(dst) + ", " + std::to_string(imm);
          for (const uint64_t value : kValues) {
            uint64_t before[10];
            fill(before);
            before[dst] = value;
            uint64_t expected[10];
            std::memcpy(expected, before, sizeof before);
            expected[dst] =
                is64 ? op.wide(value, static_cast<uint64_t>(int64_t{imm}))
                     : op.narrow(static_cast<uint32_t>(value), static_cast<uint32_t>(imm));
            ASSERT_TRUE(check(loaded, before, expected, what));
          }
        }
      }
    }
  }
}

TEST(Operands, UnaryFormsGiveWhatCppGives) {
  struct Unary {
    bpf_insn insn;
    uint64_t (*result)(uint64_t);
  };
  const auto swap = [](uint8_t code, int32_t bits) { return make_insn(code, 0, 0, 0, bits); };
  const auto extend = [](uint8_t alu_class, int16_t bits) {
    return make_insn(static_cast<uint8_t>(alu_class | BPF_X | BPF_MOV), 0, 0, bits, 0);
  };
  const Unary kUnary[] = {
      {make_insn(BPF_ALU64 | BPF_NEG, 0, 0, 0, 0), [](uint64_t a) { return 0 - a; }},
      {make_insn(BPF_ALU | BPF_NEG, 0, 0, 0, 0),
       [](uint64_t a) { return uint64_t{0U - static_cast<uint32_t>(a)}; }},
      {swap(0xd4, 16), [](uint64_t a) { return a & 0xffff; }},
      {swap(0xd4, 32), [](uint64_t a) { return a & 0xffffffff; }},
      {swap(0xd4, 64), [](uint64_t a) { return a; }},
      {swap(0xdc, 16),
       [](uint64_t a) { return uint64_t{__builtin_bswap16(static_cast<uint16_t>(a))}; }},
      {swap(0xdc, 32),
       [](uint64_t a) { return uint64_t{__builtin_bswap32(static_cast<uint32_t>(a))}; }},
      {swap(0xdc, 64), [](uint64_t a) { return uint64_t{__builtin_bswap64(a)}; }},
      {swap(0xd7, 16),
       [](uint64_t a) { return uint64_t{__builtin_bswap16(static_cast<uint16_t>(a))}; }},
      {swap(0xd7, 32),
       [](uint64_t a) { return uint64_t{__builtin_bswap32(static_cast<uint32_t>(a))}; }},
      {swap(0xd7, 64), [](uint64_t a) { return uint64_t{__builtin_bswap64(a)}; }},
      {extend(BPF_ALU64, 8),
       [](uint64_t a) { return static_cast<uint64_t>(int64_t{static_cast<int8_t>(a)}); }},
      {extend(BPF_ALU64, 16),
       [](uint64_t a) { return static_cast<uint64_t>(int64_t{static_cast<int16_t>(a)}); }},
      {extend(BPF_ALU64, 32),
       [](uint64_t a) { return static_cast<uint64_t>(int64_t{static_cast<int32_t>(a)}); }},
      {extend(BPF_ALU, 8),
       [](uint64_t a) { return uint64_t{static_cast<uint32_t>(int32_t{static_cast<int8_t>(a)})}; }},
      {extend(BPF_ALU, 16),
       [](uint64_t a) {
         return uint64_t{static_cast<uint32_t>(int32_t{static_cast<int16_t>(a)})};
       }},
  };
  for (const Unary& unary : kUnary) {
    const bool is_move = insn_op(unary.insn.code) == BPF_MOV;
    for (uint8_t dst = 0; dst < 10; ++dst) {
      for (uint8_t src = 0; src < 10; ++src) {
        if (!is_move && src != dst) {
          continue;
        }
        bpf_insn insn = unary.insn;
        insn.dst_reg = dst & 0xf;
        insn.src_reg = is_move ? src & 0xf : 0;
        const Loaded loaded(framed({insn}));
        for (const uint64_t value : kValues) {
          uint64_t before[10];
          fill(before);
          before[src] = value;
          uint64_t expected[10];
          std::memcpy(expected, before, sizeof before);
          expected[dst] = unary.result(value);
          ASSERT_TRUE(check(loaded, before, expected, print(insn, nullptr, 0)));
        }
      }
    }
  }
}

// What compile_x64 makes one instruction of: the pairs must give what they give apart.
TEST(Operands, PairsThatMeltGiveWhatTheyGiveApart) {
  std::vector<std::vector<bpf_insn>> pairs;
  for (uint8_t d = 0; d < 10; ++d) {
    for (uint8_t s = 0; s < 10; ++s) {
      for (const int32_t imm : {8, -8, 1000, -1000, INT32_MIN, INT32_MAX}) {
        pairs.push_back({mov_reg(d, s), alu64_imm(BPF_ADD, d, imm)});
      }
      for (const uint8_t x : {uint8_t{0}, uint8_t{4}, uint8_t{7}, d, s}) {
        pairs.push_back({mov_reg(d, s), alu64_reg(BPF_ADD, d, x)});
        pairs.push_back({mov_reg(d, s), alu64_reg(BPF_LSH, d, x)});
        pairs.push_back({mov_reg(d, s), alu64_reg(BPF_RSH, d, x)});
        pairs.push_back({mov_reg(d, s), alu64_reg(BPF_ARSH, d, x)});
      }
      pairs.push_back({mov_reg(d, s), alu64_imm(BPF_AND, d, 0xff)});
      pairs.push_back({mov_reg(d, s), alu64_imm(BPF_AND, d, 0xffff)});
      for (const int32_t k : {32, 48, 56, 16}) {
        pairs.push_back({mov_reg(d, s), alu64_imm(BPF_LSH, d, k), alu64_imm(BPF_RSH, d, k)});
        pairs.push_back({mov_reg(d, s), alu64_imm(BPF_LSH, d, k), alu64_imm(BPF_ARSH, d, k)});
        if (d == s) {
          pairs.push_back({alu64_imm(BPF_LSH, d, k), alu64_imm(BPF_RSH, d, k)});
          pairs.push_back({alu64_imm(BPF_LSH, d, k), alu64_imm(BPF_ARSH, d, k)});
        }
      }
    }
  }
  // Rotations in all their forms, with the part forgotten and not.
  for (const bool is64 : {true, false}) {
    const int32_t width = is64 ? 64 : 32;
    const auto alu_reg = [&](uint8_t op, uint8_t dst, uint8_t src) {
      return is64 ? alu64_reg(op, dst, src) : alu32_reg(op, dst, src);
    };
    const auto alu_imm = [&](uint8_t op, uint8_t dst, int32_t imm) {
      return is64 ? alu64_imm(op, dst, imm) : alu32_imm(op, dst, imm);
    };
    for (const int32_t k : {1, 16}) {
      for (uint8_t d = 0; d < 10; ++d) {
        for (uint8_t s = d % 3; s < 10; s = static_cast<uint8_t>(s + 3)) {
          const auto t = static_cast<uint8_t>((d + s + 1) % 10);
          for (int form = 0; form < 16; ++form) {
            const uint8_t one = (form & 1) != 0 ? BPF_LSH : BPF_RSH;
            const uint8_t two = (form & 1) != 0 ? BPF_RSH : BPF_LSH;
            std::vector<bpf_insn> insns = {alu_reg(BPF_MOV, t, s), alu_imm(one, t, k)};
            uint8_t second = s;
            if ((form & 2) != 0) {
              insns.push_back(alu_reg(BPF_MOV, d, s));
              second = d;
            }
            insns.push_back(alu_imm(two, second, width - k));
            const uint8_t to = (form & 4) != 0 ? t : second;
            const uint8_t part = (form & 4) != 0 ? second : t;
            insns.push_back(alu_reg(BPF_OR, to, part));
            if ((form & 8) != 0) {
              insns.push_back(mov_imm(part, 5));
            }
            pairs.push_back(insns);
          }
        }
      }
    }
  }
  for (const auto& pair : pairs) {
    const Loaded loaded(framed(pair));
    for (const uint64_t value : kValues) {
      uint64_t before[10];
      fill(before);
      for (const bpf_insn& insn : pair) {
        before[insn.src_reg] ^= value;
      }
      uint64_t memory[kWords] = {};
      std::memcpy(&memory[kIn], before, sizeof before);
      loaded.run(0, memory);
      uint64_t expected[10];
      std::memcpy(expected, &memory[kOut], sizeof expected);
      std::string what;
      for (const bpf_insn& insn : pair) {
        what += print(insn, nullptr, 0) + "; ";
      }
      ASSERT_TRUE(check(loaded, before, expected, what));
    }
  }
}

struct JumpOp {
  const char* name;
  uint8_t code;
  bool (*wide)(uint64_t, uint64_t);
};
constexpr JumpOp kJumpOps[] = {
    {"jeq", BPF_JEQ, [](uint64_t a, uint64_t b) { return a == b; }},
    {"jne", BPF_JNE, [](uint64_t a, uint64_t b) { return a != b; }},
    {"jgt", BPF_JGT, [](uint64_t a, uint64_t b) { return a > b; }},
    {"jge", BPF_JGE, [](uint64_t a, uint64_t b) { return a >= b; }},
    {"jlt", BPF_JLT, [](uint64_t a, uint64_t b) { return a < b; }},
    {"jle", BPF_JLE, [](uint64_t a, uint64_t b) { return a <= b; }},
    {"jset", BPF_JSET, [](uint64_t a, uint64_t b) { return (a & b) != 0; }},
    {"jsgt", BPF_JSGT,
     [](uint64_t a, uint64_t b) { return static_cast<int64_t>(a) > static_cast<int64_t>(b); }},
    {"jsge", BPF_JSGE,
     [](uint64_t a, uint64_t b) { return static_cast<int64_t>(a) >= static_cast<int64_t>(b); }},
    {"jslt", BPF_JSLT,
     [](uint64_t a, uint64_t b) { return static_cast<int64_t>(a) < static_cast<int64_t>(b); }},
    {"jsle", BPF_JSLE,
     [](uint64_t a, uint64_t b) { return static_cast<int64_t>(a) <= static_cast<int64_t>(b); }},
};
// The 32-bit form of a comparison is the 64-bit one of both halves: sign-extended where it is
// signed.
bool narrow(const JumpOp& op, uint64_t a, uint64_t b) {
  const auto low = [&](uint64_t value) {
    return static_cast<uint64_t>(int64_t{static_cast<int32_t>(value)});
  };
  return op.wide(low(a), low(b));
}

TEST(Operands, JumpsGoWhereCppSays) {
  for (const JumpOp& op : kJumpOps) {
    for (const uint8_t jump_class : {uint8_t{BPF_JMP}, uint8_t{BPF_JMP32}}) {
      for (uint8_t dst = 0; dst < 10; ++dst) {
        for (size_t other = 0; other < 10 + std::size(kImms); ++other) {
          const bool has_reg = other < 10;
          const auto src = static_cast<uint8_t>(has_reg ? other : 0);
          const int32_t imm = has_reg ? 0 : kImms[other - 10];
          const bpf_insn jump = has_reg ? jump_reg(jump_class, op.code, dst, src, 1)
                                        : jump_imm(jump_class, op.code, dst, imm, 1);
          std::vector<bpf_insn> insns =
              framed({store_imm(BPF_DW, 10, -96, 1), jump, store_imm(BPF_DW, 10, -96, 0)});
          insns.pop_back();
          insns.push_back(load(BPF_DW, 0, 10, -96));
          insns.push_back(exit_insn());
          const Loaded loaded(insns);
          for (const uint64_t a : kValues) {
            for (size_t j = 0; j < std::size(kValues); j += has_reg ? 1 : std::size(kValues)) {
              uint64_t memory[kWords] = {};
              for (size_t reg = 0; reg < 10; ++reg) {
                memory[reg] = canary(reg);
              }
              memory[dst] = a;
              if (has_reg) {
                memory[src] = kValues[j];
              }
              const uint64_t left = memory[dst];
              const uint64_t right = has_reg ? memory[src] : static_cast<uint64_t>(int64_t{imm});
              const bool expected =
                  jump_class == BPF_JMP ? op.wide(left, right) : narrow(op, left, right);
              for (int engine = 0; engine < Loaded::kEngineCount; ++engine) {
                ASSERT_EQ(loaded.run(engine, memory), expected ? 1U : 0U)
                    << op.name << " " << std::hex << left << " " << right << " engine " << engine;
              }
            }
          }
        }
      }
    }
  }
}

TEST(Operands, LoadsAndStoresReachTheirBytesWithEveryRegister) {
  constexpr uint8_t kSizes[] = {BPF_B, BPF_H, BPF_W, BPF_DW};
  constexpr int16_t kOffsets[] = {0, 1, 127, 128, -128, -129, 32767, -32768};
  for (const uint8_t size : kSizes) {
    for (uint8_t base = 0; base < 10; ++base) {
      for (uint8_t value = 0; value < 10; ++value) {
        for (const int16_t off : kOffsets) {
          for (int kind = 0; kind < 6; ++kind) {
            // memory: a window of 80 KB around the middle; base = middle - off, so the access is at
            // the middle.
            static uint64_t window[10240];
            uint64_t* middle = &window[5120];
            const uint64_t initial = 0x8182838485868788ULL;
            const uint64_t given = 0xf1e2d3c4b5a69788ULL;
            bpf_insn insn{};
            const uint32_t bytes = 1U << (size == BPF_B   ? 0
                                          : size == BPF_H ? 1
                                          : size == BPF_W ? 2
                                                          : 3);
            const uint64_t mask = bytes == 8 ? ~0ULL : (1ULL << bytes * 8) - 1;
            uint64_t loaded_value = 0;
            uint64_t stored = initial;
            bool is_load = false;
            switch (kind) {
              case 0:
                insn = load(size, value, base, off);
                loaded_value = initial & mask;
                is_load = true;
                break;
              case 1:
                if (size == BPF_DW) {
                  continue;
                }
                insn = load_signed(size, value, base, off);
                loaded_value = static_cast<uint64_t>(
                    static_cast<int64_t>(initial << (64 - bytes * 8)) >> (64 - bytes * 8));
                is_load = true;
                break;
              case 2:
                insn = atomic(size, kLoadAcquire, value, off, base);
                loaded_value = initial & mask;
                is_load = true;
                break;
              case 3:
                insn = store(size, base, off, value);
                break;
              case 4:
                insn = atomic(size, kStoreRelease, base, off, value);
                break;
              default:
                insn = store_imm(size, base, off, -0x12345678);
                break;
            }
            const std::vector<bpf_insn> insns = framed({insn});
            if (kind == 5 && value != 0) {
              continue;
            }
            const Loaded program(insns);
            for (int engine = 0; engine < Loaded::kEngineCount; ++engine) {
              *middle = initial;
              // The registers' home is at the window's start, so that one range covers all.
              for (size_t reg = 0; reg < 10; ++reg) {
                window[reg] = canary(reg);
              }
              window[value] = given;
              window[base] =
                  reinterpret_cast<uint64_t>(middle) - static_cast<uint64_t>(int64_t{off});
              const uint64_t source =
                  kind == 5 ? static_cast<uint64_t>(int64_t{-0x12345678}) : window[value];
              program.run(engine, std::span(window));
              if (is_load) {
                ASSERT_EQ(window[kOut + value], loaded_value) << print(insn, nullptr, 0) << engine;
                ASSERT_EQ(*middle, initial);
              } else {
                stored = (initial & ~mask) | (source & mask);
                ASSERT_EQ(*middle, stored) << print(insn, nullptr, 0) << engine;
              }
              for (uint8_t reg = 0; reg < 10; ++reg) {
                if (reg != base && reg != value) {
                  ASSERT_EQ(window[kOut + reg], canary(reg)) << print(insn, nullptr, 0) << engine;
                }
              }
            }
          }
        }
      }
    }
  }
}

TEST(Operands, AtomicsChangeMemoryAndRegistersAsTheyShould) {
  constexpr uint8_t kSizes[] = {BPF_W, BPF_DW};
  for (const uint8_t size : kSizes) {
    for (const int32_t kind :
         {BPF_ADD, BPF_OR, BPF_AND, BPF_XOR, BPF_ADD | BPF_FETCH, BPF_OR | BPF_FETCH,
          BPF_AND | BPF_FETCH, BPF_XOR | BPF_FETCH, BPF_XCHG, BPF_CMPXCHG}) {
      for (uint8_t base = 0; base < 10; ++base) {
        for (uint8_t src = 0; src < 10; ++src) {
          const bpf_insn insn = atomic(size, kind, base, 8, src);
          const Loaded loaded(framed({insn}));
          for (const uint64_t old :
               {0x0ULL, 0x1122334455667788ULL, 0xffffffffffffffffULL, 0x80000000ULL}) {
            for (const bool is_equal : {true, false}) {
              for (int engine = 0; engine < Loaded::kEngineCount; ++engine) {
                alignas(16) uint64_t memory[kWords] = {};
                for (size_t reg = 0; reg < 10; ++reg) {
                  memory[reg] = canary(reg);
                }
                uint64_t* cell = &memory[22];
                *cell = old;
                memory[src] = 0x8877665544332211ULL;
                if (kind == BPF_CMPXCHG && is_equal) {
                  memory[0] = size == BPF_W ? (old & 0xffffffff) | 0xabcd00000000 : old;
                }
                memory[base] = reinterpret_cast<uint64_t>(cell) - 8;
                uint64_t expected[10];
                std::memcpy(expected, memory, sizeof expected);
                const uint64_t mask = size == BPF_W ? 0xffffffff : ~0ULL;
                const uint64_t operand = memory[src] & mask;
                const uint64_t seen = old & mask;
                uint64_t now = seen;
                switch (kind & ~BPF_FETCH) {
                  case BPF_ADD:
                    now = seen + operand;
                    break;
                  case BPF_OR:
                    now = seen | operand;
                    break;
                  case BPF_AND:
                    now = seen & operand;
                    break;
                  case BPF_XOR:
                    now = seen ^ operand;
                    break;
                  case BPF_XCHG & ~BPF_FETCH:
                    now = operand;
                    break;
                  default:
                    now = (memory[0] & mask) == seen ? operand : seen;
                    break;
                }
                if (kind == BPF_CMPXCHG) {
                  expected[0] = seen;
                } else if ((kind & BPF_FETCH) != 0) {
                  expected[src] = seen;
                }
                loaded.run(engine, memory);
                ASSERT_EQ(*cell, (old & ~mask) | (now & mask))
                    << print(insn, nullptr, 0) << " engine " << engine;
                for (size_t reg = 0; reg < 10; ++reg) {
                  ASSERT_EQ(memory[kOut + reg], expected[reg])
                      << print(insn, nullptr, 0) << " r" << reg << " engine " << engine;
                }
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace bpftime::testing
