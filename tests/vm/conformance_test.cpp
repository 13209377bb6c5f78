// Needs the vectors of github.com/Alan-Jowett/bpf_conformance in BPFTIME_CONFORMANCE_DIR; skipped
// where there is no such folder. They are read where they lie, on every engine: as they are, and
// with every constant operand loaded from memory.
#include <algorithm>
#include <cerrno>

#include "tests/vm/case_run.hpp"

namespace bpftime::testing {
namespace {

// Helpers by the numbers that the vectors call: 5 returns something.
uint64_t any_helper(uint64_t r1, uint64_t, uint64_t, uint64_t, uint64_t, Hit*) { return r1; }

std::vector<std::filesystem::path> case_files(const char* folder) {
  std::vector<std::filesystem::path> files;
  const auto root = std::filesystem::path(BPFTIME_CONFORMANCE_DIR) / folder;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
    if (entry.path().extension() == ".data") {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

#define NEEDS_VECTORS()                                      \
  if (!std::filesystem::exists(BPFTIME_CONFORMANCE_DIR)) {   \
    GTEST_SKIP() << "no folder " << BPFTIME_CONFORMANCE_DIR; \
  }

Outcome run_bytes(Engine engine, const std::vector<bpf_insn>& insns,
                  const std::vector<std::byte>& memory) {
  const auto program = decode(std::span(insns));
  if (!program) {
    Outcome outcome;
    outcome.error = program.error().code;
    outcome.why = program.error().why;
    return outcome;
  }
  std::vector<std::byte> copy = memory;
  Host host;
  host.helpers = {{5, any_helper}};
  return run_on(engine, program.value(), copy, host);
}

TEST(Conformance, EveryVectorGivesItsResultOnEveryEngine) {
  NEEDS_VECTORS();
  const auto files = case_files("tests");
  ASSERT_EQ(files.size(), 313U);
  for (const Engine engine : kEngines) {
    int passed = 0;
    for (const auto& file : files) {
      if (file.filename() == "callx.data") {
        continue;  // never was an instruction of the kernel's
      }
      const Case test = parse_cases(read_file(file)).front();
      std::string message;
      const auto insns = program_of(test, &message);
      ASSERT_TRUE(insns) << file << ": " << message;
      const auto memory = test.sections.contains("mem") ? parse_hex(test.sections.at("mem"))
                                                        : std::vector<std::byte>{};
      const uint64_t expected = std::stoull(test.sections.at("result"), nullptr, 16);
      const Outcome outcome = run_bytes(engine, insns.value(), memory);
      EXPECT_EQ(outcome.error, 0) << file << " " << outcome.why;
      EXPECT_EQ(outcome.value, expected) << file << " on " << name_of(engine);
      passed += outcome.error == 0 && outcome.value == expected ? 1 : 0;
    }
    EXPECT_EQ(passed, 312) << name_of(engine);
  }
}

TEST(Conformance, EveryVectorGivesItsResultWithOperandsFromMemory) {
  NEEDS_VECTORS();
  int transformed = 0;
  for (const auto& file : case_files("tests")) {
    if (file.filename() == "mem-len.data" || file.filename() == "callx.data") {
      continue;  // its result is the size of the memory
    }
    const Case test = parse_cases(read_file(file)).front();
    const auto insns = program_of(test);
    ASSERT_TRUE(insns) << file;
    const auto memory = test.sections.contains("mem") ? parse_hex(test.sections.at("mem"))
                                                      : std::vector<std::byte>{};
    const auto changed = operands_from_memory(insns.value(), memory);
    if (!changed) {
      continue;
    }
    ++transformed;
    for (const Engine engine : kEngines) {
      const Outcome outcome = run_bytes(engine, changed->insns, changed->memory);
      EXPECT_EQ(outcome.error, 0) << file << " " << outcome.why;
      EXPECT_EQ(outcome.value, std::stoull(test.sections.at("result"), nullptr, 16))
          << file << " on " << name_of(engine);
    }
  }
  EXPECT_GE(transformed, 290);
}

TEST(Conformance, CallxIsRefused) {
  NEEDS_VECTORS();
  const Case test =
      parse_cases(read_file(std::filesystem::path(BPFTIME_CONFORMANCE_DIR) / "tests/callx.data"))
          .front();
  const auto insns = program_of(test);
  ASSERT_TRUE(insns);
  EXPECT_EQ(run_bytes(Engine::kInterpreter, insns.value(), {}).error, EINVAL);
}

TEST(Conformance, NegativeVectorsAreRefusedByAssemblerOrDecoder) {
  NEEDS_VECTORS();
  const auto files = case_files("negative");
  ASSERT_EQ(files.size(), 60U);
  for (const auto& file : files) {
    if (file.filename() == "incorrect_return_value_high_bits.data" ||
        file.filename() == "error.data") {
      continue;  // these two test how the suite's runner compares
    }
    const Case test = parse_cases(read_file(file)).front();
    const auto insns = program_of(test);
    EXPECT_TRUE(!insns || !decode(std::span(insns.value()))) << file;
  }
}

}  // namespace
}  // namespace bpftime::testing
