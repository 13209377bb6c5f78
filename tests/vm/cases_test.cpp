// The case files of tests/data/isa on every engine, and programs too large for a file.
#include <algorithm>
#include <cerrno>
#include <set>

#include "tests/vm/case_run.hpp"

namespace bpftime::testing {
namespace {

std::string first_word(const std::string& text) {
  std::istringstream words(text);
  std::string word;
  words >> word;
  return word;
}

int errno_of(const std::string& name) {
  return name == "EINVAL"       ? EINVAL
         : name == "E2BIG"      ? E2BIG
         : name == "EOPNOTSUPP" ? EOPNOTSUPP
                                : -1;
}

void check(const Case& test, const std::vector<bpf_insn>& insns, std::vector<std::byte> memory,
           Engine engine, const std::string& where) {
  Outcome outcome;
  const auto program = decode(std::span(insns));
  const auto fuel = test.sections.find("fuel");
  const int64_t budget = fuel != test.sections.end() ? std::stoll(fuel->second) : int64_t{1} << 40;
  const bool ends_early = test.sections.contains("ended");
  if (!program) {
    outcome.error = program.error().code;
    outcome.why = program.error().why;
  } else if (ends_early && engine == Engine::kJitNoFuel) {
    return;
  } else {
    outcome = run_on(engine, program.value(), memory, {}, budget);
  }
  if (const auto error = test.sections.find("error"); error != test.sections.end()) {
    EXPECT_EQ(outcome.error, errno_of(first_word(error->second))) << where;
    return;
  }
  ASSERT_EQ(outcome.error, 0) << where << ": " << outcome.why;
  EXPECT_EQ(outcome.ended, ends_early ? kHitOutOfFuel : kHitNormal) << where;
  EXPECT_EQ(outcome.value, ends_early ? 0 : std::stoull(test.sections.at("result"), nullptr, 16))
      << where;
}

TEST(Cases, EveryCaseGivesItsResultOnEveryEngine) {
  int cases = 0;
  int from_memory = 0;
  std::set<std::string> titles;
  for (const auto& entry : std::filesystem::directory_iterator(BPFTIME_CASES_DIR)) {
    if (entry.path().extension() != ".cases") {
      continue;
    }
    for (const Case& test : parse_cases(read_file(entry.path()))) {
      std::string message;
      const auto insns = program_of(test, &message);
      ASSERT_TRUE(insns) << entry.path() << ", " << test.title << ": " << message;
      EXPECT_TRUE(titles.insert(test.title).second) << test.title;
      const auto memory = test.sections.contains("mem") ? parse_hex(test.sections.at("mem"))
                                                        : std::vector<std::byte>{};
      const auto changed = operands_from_memory(insns.value(), memory);
      ++cases;
      for (const Engine engine : kEngines) {
        const std::string where = test.title + ", on " + name_of(engine);
        check(test, insns.value(), memory, engine, where);
        if (changed && !test.sections.contains("error")) {
          from_memory += engine == Engine::kJit ? 1 : 0;
          check(test, changed->insns, changed->memory, engine, where + ", operands from memory");
        }
      }
    }
  }
  EXPECT_GE(cases, 50);
  EXPECT_GE(from_memory, 30);
}

Outcome run_insns(Engine engine, const std::vector<bpf_insn>& insns) {
  const auto program = decode(std::span(insns));
  EXPECT_TRUE(program);
  if (!program) {
    return {};
  }
  return run_on(engine, program.value(), {});
}

TEST(Cases, SeventyThousandAndAMillionInstructionsRun) {
  for (const uint32_t count : {70'000U, kMaxInsns}) {
    std::vector<bpf_insn> insns = {mov_imm(0, 0)};
    while (insns.size() + 1 < count) {
      insns.push_back(alu64_imm(BPF_ADD, 0, 1));
    }
    insns.push_back(exit_insn());
    for (const Engine engine : kEngines) {
      EXPECT_EQ(run_insns(engine, insns).value, count - 2) << name_of(engine);
    }
  }
}

TEST(Cases, LongestJumpsAndGotolReach) {
  // jeq over 32767 instructions, gotol back over 200000, jne back over 32768.
  std::vector<bpf_insn> insns = {mov_imm(0, 1), jump_imm(BPF_JMP, BPF_JEQ, 0, 1, 32767)};
  insns.resize(insns.size() + 32767, mov_imm(0, 99));
  const auto target = static_cast<int32_t>(insns.size());
  insns.push_back(alu64_imm(BPF_ADD, 0, 1));  // reached twice
  insns.push_back(jump_imm(BPF_JMP, BPF_JNE, 0, 2, 1));
  const auto forward = static_cast<int32_t>(insns.size());
  insns.push_back(make_insn(kOpJa32, 0, 0, 0, 200'000));
  insns.push_back(exit_insn());
  insns.resize(static_cast<size_t>(forward) + 1 + 200'000, mov_imm(0, 99));
  insns.push_back(make_insn(kOpJa32, 0, 0, 0, target - static_cast<int32_t>(insns.size()) - 1));
  for (const Engine engine : kEngines) {
    EXPECT_EQ(run_insns(engine, insns).value, 3U) << name_of(engine);
  }
  insns = {mov_imm(0, 0), alu64_imm(BPF_ADD, 0, 1)};
  insns.resize(2 + 32766, alu64_imm(BPF_ADD, 1, 1));
  insns.push_back(jump_imm(BPF_JMP, BPF_JLT, 0, 5, -32768));
  insns.push_back(exit_insn());
  for (const Engine engine : kEngines) {
    EXPECT_EQ(run_insns(engine, insns).value, 5U) << name_of(engine);
  }
}

// Jumps of every length around the border between the short and the long form.
TEST(Cases, JumpsOfEveryLengthArrive) {
  for (int16_t length = 0; length < 80; ++length) {
    for (const int32_t imm : {1, 1000}) {
      std::vector<bpf_insn> insns = {
          mov_imm(0, 0), mov_imm(2, 3),
          jump_imm(BPF_JMP, BPF_JEQ, 2, 0, static_cast<int16_t>(length + 1))};
      insns.resize(insns.size() + static_cast<size_t>(length), alu64_imm(BPF_ADD, 0, imm));
      insns.push_back(alu64_imm(BPF_SUB, 2, 1));
      insns.push_back(jump_imm(BPF_JMP, BPF_JNE, 2, 0, static_cast<int16_t>(-length - 2)));
      insns.push_back(jump(static_cast<int16_t>(length)));
      insns.resize(insns.size() + static_cast<size_t>(length), alu64_imm(BPF_ADD, 0, 7));
      insns.push_back(exit_insn());
      for (const Engine engine : kEngines) {
        ASSERT_EQ(run_insns(engine, insns).value, static_cast<uint64_t>(3 * length * imm))
            << length;
      }
    }
  }
}

TEST(Cases, FunctionsInAHugeProgramAreReached) {
  std::vector<bpf_insn> insns = {mov_imm(1, 5)};
  const auto call_at = static_cast<int32_t>(insns.size());
  insns.push_back(call_local(0));
  insns.push_back(exit_insn());
  insns.resize(300'000, mov_imm(0, 1));
  insns.push_back(exit_insn());
  insns[static_cast<size_t>(call_at)].imm = static_cast<int32_t>(insns.size()) - call_at - 1;
  insns.push_back(mov_reg(0, 1));
  insns.push_back(exit_insn());
  for (const Engine engine : kEngines) {
    EXPECT_EQ(run_insns(engine, insns).value, 5U) << name_of(engine);
  }
}

}  // namespace
}  // namespace bpftime::testing
