// Two passes over the lines: the first turns each into an instruction and notes labels, the second
// fills in distances.
#include "isa/testing/assembler.hpp"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>

#include "isa/encode.hpp"

namespace bpftime::testing {
namespace {

struct Pending {
  uint32_t insn;
  std::string label;
  bool is_imm;  // the distance goes to imm, else to off
  int line;
};

struct Name {
  std::string_view text;
  uint8_t value;
};
constexpr Name kAluOps[] = {{"add", BPF_ADD}, {"sub", BPF_SUB}, {"mul", BPF_MUL},
                            {"div", BPF_DIV}, {"or", BPF_OR},   {"and", BPF_AND},
                            {"lsh", BPF_LSH}, {"rsh", BPF_RSH}, {"mod", BPF_MOD},
                            {"xor", BPF_XOR}, {"mov", BPF_MOV}, {"arsh", BPF_ARSH}};
constexpr Name kJumpOps[] = {{"jeq", BPF_JEQ},   {"jne", BPF_JNE},   {"jgt", BPF_JGT},
                             {"jge", BPF_JGE},   {"jlt", BPF_JLT},   {"jle", BPF_JLE},
                             {"jset", BPF_JSET}, {"jsgt", BPF_JSGT}, {"jsge", BPF_JSGE},
                             {"jslt", BPF_JSLT}, {"jsle", BPF_JSLE}};
constexpr Name kSizes[] = {{"b", BPF_B}, {"h", BPF_H}, {"w", BPF_W}, {"dw", BPF_DW}};

template <size_t N>
std::optional<uint8_t> find(const Name (&names)[N], std::string_view text) {
  for (const Name& name : names) {
    if (name.text == text) {
      return name.value;
    }
  }
  return std::nullopt;
}

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) {
    return {};
  }
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) {
    return false;
  }
  text.remove_prefix(prefix.size());
  return true;
}

// Digits with an optional sign and 0x; `is_hex` and `is_negative` tell how it was written.
struct Number {
  uint64_t magnitude;
  bool is_hex, is_negative;
  [[nodiscard]] uint64_t value() const { return is_negative ? 0 - magnitude : magnitude; }
};
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  if (take_prefix(text, "-")) {
    number.is_negative = true;
  } else {
    take_prefix(text, "+");
  }
  number.is_hex = take_prefix(text, "0x") || take_prefix(text, "0X");
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(),
                                            number.magnitude, number.is_hex ? 16 : 10);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return number;
}
// A 32-bit immediate: decimal in int32's range, hexadecimal up to 32 bits (a bit pattern).
std::optional<int32_t> parse_imm(std::string_view text) {
  const auto number = parse_number(text);
  if (!number) {
    return std::nullopt;
  }
  if (number->is_hex && !number->is_negative) {
    if (number->magnitude > UINT32_MAX) {
      return std::nullopt;
    }
    return static_cast<int32_t>(static_cast<uint32_t>(number->magnitude));
  }
  if (number->magnitude > (number->is_negative ? 0x80000000ULL : 0x7fffffffULL)) {
    return std::nullopt;
  }
  return static_cast<int32_t>(static_cast<uint32_t>(number->value()));
}
std::optional<uint8_t> parse_reg(std::string_view text) {
  if (!take_prefix(text, "%r") || text.empty() || text.size() > 2) {
    return std::nullopt;
  }
  const auto number = parse_number(text);
  if (!number || number->magnitude > 10 || text[0] == '+' || text[0] == '-') {
    return std::nullopt;
  }
  return static_cast<uint8_t>(number->magnitude);
}

struct Memory {
  uint8_t reg;
  int16_t off;
};
std::optional<Memory> parse_memory(std::string_view text) {
  if (!take_prefix(text, "[") || !text.ends_with(']')) {
    return std::nullopt;
  }
  text = trim(text.substr(0, text.size() - 1));
  const size_t sign = text.find_first_of("+-");
  const auto reg = parse_reg(trim(text.substr(0, sign)));
  if (!reg) {
    return std::nullopt;
  }
  if (sign == std::string_view::npos) {
    return Memory{*reg, 0};
  }
  const auto off = parse_number(text.substr(sign));
  if (!off || off->magnitude > (off->is_negative ? 0x8000ULL : 0x7fffULL)) {
    return std::nullopt;
  }
  return Memory{*reg, static_cast<int16_t>(off->value())};
}

class Assembler {
 public:
  Result<std::vector<bpf_insn>> run(std::string_view text, std::string* message) {
    while (!text.empty()) {
      const size_t end = text.find('\n');
      std::string_view line = text.substr(0, end);
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
      ++line_;
      line = trim(line.substr(0, line.find('#')));
      while (!line.empty()) {
        const size_t colon = line.find(':');
        if (colon == std::string_view::npos) {
          break;
        }
        labels_[std::string(trim(line.substr(0, colon)))] = position();
        line = trim(line.substr(colon + 1));
      }
      if (!line.empty()) {
        if (const char* why = assemble_line(line); why != nullptr) {
          return fail(line_, why, message);
        }
      }
    }
    for (const Pending& pending : pending_) {
      auto label = labels_.find(pending.label);
      if (label == labels_.end() && pending.label == "exit" && last_exit_) {
        label = labels_.emplace("exit", *last_exit_).first;
      }
      if (label == labels_.end()) {
        return fail(pending.line, "unknown label", message);
      }
      const int64_t distance = int64_t{label->second} - pending.insn - 1;
      bpf_insn& insn = insns_[pending.insn];
      if (pending.is_imm) {
        insn.imm = static_cast<int32_t>(distance);
      } else if (distance < INT16_MIN || distance > INT16_MAX) {
        return fail(pending.line, "jump is too far for 16 bits", message);
      } else {
        insn.off = static_cast<int16_t>(distance);
      }
    }
    return std::move(insns_);
  }

 private:
  static Error fail(int line, const char* why, std::string* message) {
    if (message != nullptr) {
      *message = "line " + std::to_string(line) + ": " + why;
    }
    return make_error(EINVAL, why);
  }
  [[nodiscard]] uint32_t position() const { return static_cast<uint32_t>(insns_.size()); }
  void emit(const bpf_insn& insn) { insns_.push_back(insn); }

  bool distance(std::string_view text, bool is_imm, bpf_insn& insn) {
    if (text.empty()) {
      return false;
    }
    if (text[0] == '+' || text[0] == '-') {
      const auto number = parse_number(text);
      if (!number || number->magnitude > (is_imm ? 0x7fffffffULL : 0x7fffULL)) {
        return false;
      }
      const auto value = static_cast<int32_t>(number->value());
      if (is_imm) {
        insn.imm = value;
      } else {
        insn.off = static_cast<int16_t>(value);
      }
      return true;
    }
    pending_.push_back({position(), std::string(text), is_imm, line_});
    return true;
  }

  // What is wrong with the line, or nullptr.
  const char* assemble_line(std::string_view line) {
    const size_t space = line.find_first_of(" \t");
    std::string_view mnemonic = line.substr(0, space);
    std::string_view rest =
        space == std::string_view::npos ? std::string_view() : trim(line.substr(space));
    if (mnemonic == "lock") {
      return lock(rest);
    }
    std::vector<std::string_view> args;
    while (!rest.empty()) {
      const size_t comma = rest.find(',');
      args.push_back(trim(rest.substr(0, comma)));
      rest = comma == std::string_view::npos ? std::string_view() : trim(rest.substr(comma + 1));
    }
    if (mnemonic == "exit") {
      if (!args.empty()) {
        return "invalid number of operands";
      }
      last_exit_ = position();
      emit(exit_insn());
      return nullptr;
    }
    if (mnemonic == "call" && args.size() == 1) {
      return call(args[0]);
    }
    if (mnemonic == "raw" && args.size() == 1) {
      const auto word = parse_number(args[0]);
      if (!word) {
        return "invalid word";
      }
      bpf_insn insn;
      std::memcpy(&insn, &word->magnitude, sizeof insn);
      emit(insn);
      return nullptr;
    }
    if ((mnemonic == "ja" || mnemonic == "ja32" || mnemonic == "may_goto") && args.size() == 1) {
      const uint8_t code = mnemonic == "ja" ? kOpJa : mnemonic == "ja32" ? kOpJa32 : kOpMayGoto;
      bpf_insn insn = make_insn(code, 0, 0, 0, 0);
      if (!distance(args[0], code == kOpJa32, insn)) {
        return "invalid offset";
      }
      emit(insn);
      return nullptr;
    }
    if (mnemonic == "lddw" && args.size() == 2) {
      return lddw(args[0], args[1]);
    }
    if (args.size() == 3) {
      return conditional(mnemonic, args[0], args[1], args[2]);
    }
    if (args.size() == 1) {
      return unary(mnemonic, args[0]);
    }
    if (args.size() != 2) {
      return "invalid number of operands";
    }
    if (mnemonic.starts_with("ld") || mnemonic.starts_with("st")) {
      return memory(mnemonic, args[0], args[1]);
    }
    return binary(mnemonic, args[0], args[1]);
  }

  const char* call(std::string_view target) {
    if (const auto reg = parse_reg(target)) {
      emit(make_insn(kOpCall | BPF_X, *reg, 0, 0, 0));
      return nullptr;
    }
    bpf_insn insn = make_insn(kOpCall, 0, kCallHelper, 0, 0);
    if (take_prefix(target, "local ")) {
      insn.src_reg = kCallLocal;
      if (!distance(trim(target), true, insn)) {
        return "invalid function";
      }
      emit(insn);
      return nullptr;
    }
    if (take_prefix(target, "kfunc ")) {
      insn.src_reg = kCallKfunc;
    }
    const auto id = parse_imm(trim(target));
    if (!id) {
      return "invalid helper number";
    }
    insn.imm = *id;
    emit(insn);
    return nullptr;
  }

  const char* lddw(std::string_view dst_text, std::string_view value) {
    const auto dst = parse_reg(dst_text);
    if (!dst) {
      return "invalid register";
    }
    bpf_insn first = make_insn(kOpLddw, *dst, kLoadImm, 0, 0);
    bpf_insn second{};
    if (take_prefix(value, "func ")) {
      first.src_reg = kLoadFunction;
      if (!distance(trim(value), true, first)) {
        return "invalid function";
      }
    } else if (take_prefix(value, "mapvalue ")) {
      first.src_reg = kLoadMapValue;
      const size_t plus = value.find('+');
      const auto id = parse_imm(trim(value.substr(0, plus)));
      const auto off = plus == std::string_view::npos ? std::optional<int32_t>(0)
                                                      : parse_imm(value.substr(plus + 1));
      if (!id || !off) {
        return "invalid map value";
      }
      first.imm = *id;
      second.imm = *off;
    } else if (take_prefix(value, "map ")) {
      first.src_reg = kLoadMapFd;
      const auto id = parse_imm(trim(value));
      if (!id) {
        return "invalid map";
      }
      first.imm = *id;
    } else {
      const auto number = parse_number(value);
      if (!number) {
        return "invalid immediate";
      }
      first.imm = lddw_first(0, kLoadImm, number->value()).imm;
      second = lddw_second(number->value());
    }
    emit(first);
    emit(second);
    return nullptr;
  }

  const char* lock(std::string_view rest) {
    const size_t bracket = rest.find('[');
    if (bracket == std::string_view::npos) {
      return "Invalid number of operands for lock";
    }
    std::string_view words = trim(rest.substr(0, bracket));
    std::string_view operands = rest.substr(bracket);
    const size_t comma = operands.find(',');
    if (comma == std::string_view::npos) {
      return "Invalid number of operands for lock";
    }
    int32_t op = 0;
    if (take_prefix(words, "fetch ")) {
      op = BPF_FETCH;
      words = trim(words);
    }
    const bool is32 = words.ends_with("32");
    if (is32) {
      words.remove_suffix(2);
    }
    if (words == "xchg") {
      op = BPF_XCHG;
    } else if (words == "cmpxchg") {
      op = BPF_CMPXCHG;
    } else if (words == "add" || words == "or" || words == "and" || words == "xor") {
      op |= *find(kAluOps, words);
    } else {
      return "Invalid mnemonic";
    }
    const auto where = parse_memory(trim(operands.substr(0, comma)));
    const auto src = parse_reg(trim(operands.substr(comma + 1)));
    if (!where || !src) {
      return "Invalid operand";
    }
    emit(atomic(is32 ? BPF_W : BPF_DW, op, where->reg, where->off, *src));
    return nullptr;
  }

  const char* conditional(std::string_view mnemonic, std::string_view left, std::string_view right,
                          std::string_view target) {
    uint8_t jump_class = BPF_JMP;
    if (mnemonic.ends_with("32")) {
      jump_class = BPF_JMP32;
      mnemonic.remove_suffix(2);
    }
    const auto op = find(kJumpOps, mnemonic);
    if (!op) {
      return "Invalid mnemonic";
    }
    const auto dst = parse_reg(left);
    if (!dst) {
      return "Invalid register";
    }
    bpf_insn insn{};
    if (const auto src = parse_reg(right)) {
      insn = jump_reg(jump_class, *op, *dst, *src, 0);
    } else if (const auto imm = parse_imm(right)) {
      insn = jump_imm(jump_class, *op, *dst, *imm, 0);
    } else {
      return "Invalid operand";
    }
    if (!distance(target, false, insn)) {
      return "Invalid offset";
    }
    emit(insn);
    return nullptr;
  }

  const char* unary(std::string_view mnemonic, std::string_view operand) {
    const auto dst = parse_reg(operand);
    if (!dst) {
      return "Invalid register";
    }
    if (mnemonic == "neg" || mnemonic == "neg32" || mnemonic == "neg64") {
      const uint8_t alu_class = mnemonic == "neg32" ? BPF_ALU : BPF_ALU64;
      emit(make_insn(static_cast<uint8_t>(alu_class | BPF_NEG), *dst, 0, 0, 0));
      return nullptr;
    }
    uint8_t code = 0;
    if (take_prefix(mnemonic, "be")) {
      code = BPF_ALU | BPF_END | BPF_TO_BE;
    } else if (take_prefix(mnemonic, "le")) {
      code = BPF_ALU | BPF_END | BPF_TO_LE;
    } else if (take_prefix(mnemonic, "bswap") || take_prefix(mnemonic, "swap")) {
      code = BPF_ALU64 | BPF_END;
    } else {
      return "Invalid mnemonic";
    }
    const auto bits = parse_number(mnemonic);
    if (!bits || (bits->magnitude != 16 && bits->magnitude != 32 && bits->magnitude != 64)) {
      return "Invalid mnemonic";
    }
    emit(make_insn(code, *dst, 0, 0, static_cast<int32_t>(bits->magnitude)));
    return nullptr;
  }

  const char* binary(std::string_view mnemonic, std::string_view left, std::string_view right) {
    const auto dst = parse_reg(left);
    const auto src = parse_reg(right);
    if (!dst) {
      return "Invalid register";
    }
    if (take_prefix(mnemonic, "movsx")) {
      struct SignExtension {
        std::string_view name;
        int16_t bits;
        uint8_t alu_class;
      };
      constexpr SignExtension kKinds[] = {{"832", 8, BPF_ALU},
                                          {"1632", 16, BPF_ALU},
                                          {"864", 8, BPF_ALU64},
                                          {"1664", 16, BPF_ALU64},
                                          {"3264", 32, BPF_ALU64}};
      for (const SignExtension& kind : kKinds) {
        if (mnemonic == kind.name && src) {
          emit(make_insn(static_cast<uint8_t>(kind.alu_class | BPF_X | BPF_MOV), *dst, *src,
                         kind.bits, 0));
          return nullptr;
        }
      }
      return "Invalid mnemonic";
    }
    uint8_t alu_class = BPF_ALU64;
    if (mnemonic.ends_with("32")) {
      alu_class = BPF_ALU;
      mnemonic.remove_suffix(2);
    } else if (mnemonic.ends_with("64")) {
      mnemonic.remove_suffix(2);
    }
    const bool is_signed = mnemonic == "sdiv" || mnemonic == "smod";
    const auto op = find(kAluOps, is_signed ? mnemonic.substr(1) : mnemonic);
    if (!op) {
      return "Invalid mnemonic";
    }
    const int16_t off = is_signed ? 1 : 0;
    if (src) {
      emit(make_insn(static_cast<uint8_t>(alu_class | BPF_X | *op), *dst, *src, off, 0));
      return nullptr;
    }
    const auto imm = parse_imm(right);
    if (!imm) {
      return "Invalid immediate";
    }
    emit(make_insn(static_cast<uint8_t>(alu_class | BPF_K | *op), *dst, 0, off, *imm));
    return nullptr;
  }

  const char* memory(std::string_view mnemonic, std::string_view left, std::string_view right) {
    if (mnemonic.starts_with("ld")) {
      const auto dst = parse_reg(left);
      const auto where = parse_memory(right);
      if (!dst || !where) {
        return "Invalid operand";
      }
      if (take_prefix(mnemonic, "ldacq")) {
        if (const auto size = find(kSizes, mnemonic)) {
          emit(atomic(*size, kLoadAcquire, *dst, where->off, where->reg));
          return nullptr;
        }
      } else if (take_prefix(mnemonic, "ldxs")) {
        if (const auto size = find(kSizes, mnemonic); size && *size != BPF_DW) {
          emit(load_signed(*size, *dst, where->reg, where->off));
          return nullptr;
        }
      } else if (take_prefix(mnemonic, "ldx")) {
        if (const auto size = find(kSizes, mnemonic)) {
          emit(load(*size, *dst, where->reg, where->off));
          return nullptr;
        }
      }
      return "Invalid mnemonic";
    }
    const auto where = parse_memory(left);
    if (!where) {
      return "Invalid operand";
    }
    if (take_prefix(mnemonic, "strel") || mnemonic.starts_with("stx")) {
      const auto src = parse_reg(right);
      if (!src) {
        return "Invalid register";
      }
      const bool is_release = !mnemonic.starts_with("stx");
      take_prefix(mnemonic, "stx");
      const auto size = find(kSizes, mnemonic);
      if (!size) {
        return "Invalid mnemonic";
      }
      emit(is_release ? atomic(*size, kStoreRelease, where->reg, where->off, *src)
                      : store(*size, where->reg, where->off, *src));
      return nullptr;
    }
    take_prefix(mnemonic, "st");
    const auto size = find(kSizes, mnemonic);
    const auto imm = parse_imm(right);
    if (!size || !imm) {
      return "Invalid operand";
    }
    emit(store_imm(*size, where->reg, where->off, *imm));
    return nullptr;
  }

  std::vector<bpf_insn> insns_;
  std::map<std::string, uint32_t> labels_;
  std::vector<Pending> pending_;
  std::optional<uint32_t> last_exit_;
  int line_ = 0;
};

}  // namespace

Result<std::vector<bpf_insn>> assemble(std::string_view text, std::string* message) {
  return Assembler().run(text, message);
}

std::vector<Case> parse_cases(std::string_view text) {
  std::vector<Case> cases(1);
  std::string section;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.starts_with("=== ")) {
      if (!cases.back().sections.empty() && !cases.back().title.empty()) {
        cases.emplace_back();
      }
      cases.back().title = trim(line.substr(4));
      section.clear();
    } else if (line.starts_with("-- ")) {
      section = trim(line.substr(3));
      cases.back().sections[section];
    } else {
      std::string& body = cases.back().sections[section];
      body += line;
      body += '\n';
    }
  }
  return cases;
}

std::vector<std::byte> parse_hex(std::string_view text) {
  std::vector<std::byte> bytes;
  int high = -1;
  bool in_comment = false;
  for (const char c : text) {
    if (c == '\n') {
      in_comment = false;
    }
    in_comment = in_comment || c == '#';
    int digit = -1;
    if (!in_comment) {
      digit = c >= '0' && c <= '9'   ? c - '0'
              : c >= 'a' && c <= 'f' ? c - 'a' + 10
              : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                     : -1;
    }
    if (digit < 0) {
      continue;
    }
    if (high < 0) {
      high = digit;
    } else {
      bytes.push_back(static_cast<std::byte>(high << 4 | digit));
      high = -1;
    }
  }
  return bytes;
}

Result<std::vector<bpf_insn>> program_of(const Case& test, std::string* message) {
  const auto raw = test.sections.find("raw");
  if (raw == test.sections.end()) {
    const auto text = test.sections.find("asm");
    if (text == test.sections.end()) {
      return make_error(EINVAL, "a case without asm or raw");
    }
    return assemble(text->second, message);
  }
  std::vector<bpf_insn> insns;
  std::string_view rest = raw->second;
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    line = trim(line.substr(0, line.find('#')));
    if (line.empty()) {
      continue;
    }
    uint64_t word = 0;
    if (line.starts_with("0x")) {
      const auto number = parse_number(line);
      if (!number) {
        return make_error(EINVAL, "invalid raw word");
      }
      word = number->magnitude;
    } else {
      const std::vector<std::byte> bytes = parse_hex(line);
      if (bytes.size() != sizeof word) {
        return make_error(EINVAL, "a raw line is 8 bytes");
      }
      std::memcpy(&word, bytes.data(), sizeof word);
    }
    bpf_insn insn;
    std::memcpy(&insn, &word, sizeof insn);
    insns.push_back(insn);
  }
  return insns;
}

}  // namespace bpftime::testing
