// The case files of tests/data/verifier: our verdict and reason, and the running kernel's verdict.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "kernel/kernel_verifier.hpp"
#include "object/verifier_input.hpp"
#include "tests/verifier/verifier_case.hpp"

namespace bpftime::testing {
namespace {

struct NamedCase {
  std::string where;
  VerifierCase test;
};

const std::vector<NamedCase>& all_cases() {
  static const auto* cases = [] {
    auto* list = new std::vector<NamedCase>;
    std::set<std::string> titles;
    for (const auto& entry : std::filesystem::directory_iterator(BPFTIME_VERIFIER_CASES)) {
      if (entry.path().extension() != ".cases") {
        continue;
      }
      std::ifstream file(entry.path());
      const std::string text((std::istreambuf_iterator<char>(file)), {});
      for (const Case& one : parse_cases(text)) {
        std::string message;
        auto test = read_verifier_case(one, &message);
        EXPECT_TRUE(test.has_value()) << entry.path() << ": " << message;
        if (test) {
          EXPECT_TRUE(titles.insert(test->title).second) << "twice: " << test->title;
          list->push_back(
              {entry.path().filename().string() + ": " + test->title, std::move(test).value()});
        }
      }
    }
    return list;
  }();
  return *cases;
}

TEST(VerifierCases, EachHasTheVerdictAndReasonThatItsFileSays) {
  const auto kernel_btf = read_kernel_btf();
  for (const auto& [where, test] : all_cases()) {
    auto input = VerifierInput::make(test.object, kernel_btf ? &*kernel_btf : nullptr);
    ASSERT_TRUE(input.has_value()) << where << ": " << input.error().why;
    const auto subject = input->program(test.program());
    ASSERT_TRUE(subject.has_value()) << where << ": " << subject.error().why;
    VerifyOptions options;
    options.no_pointer_leaks = test.no_pointer_leaks;
    const Verdict verdict = verify(*subject, options);
    EXPECT_EQ(verdict.accepted(), test.accept) << where << ": " << verdict.message;
    if (!verdict.accepted()) {
      EXPECT_NE(verdict.message.find(test.reason), std::string::npos)
          << where << ": \"" << verdict.message << "\" has no \"" << test.reason << '"';
    }
    // Pruning saves time and changes no verdict.
    VerifyOptions plain = options;
    plain.prune = false;
    plain.insn_limit = 20'000;
    const Verdict unpruned = verify(*subject, plain);
    if (!unpruned.too_complex) {
      EXPECT_EQ(unpruned.accepted(), verdict.accepted()) << where << ": without pruning";
    }
  }
}

TEST(VerifierCases, TheRunningKernelSaysTheSameOrAPolicyDoes) {
  if (!KernelVerifier::available()) {
    GTEST_SKIP() << "may not load programs here";
  }
  for (const auto& [where, test] : all_cases()) {
    auto input = VerifierInput::make(test.object, nullptr);
    ASSERT_TRUE(input.has_value()) << where << ": " << input.error().why;
    const auto subject = input->program(test.program());
    ASSERT_TRUE(subject.has_value()) << where << ": " << subject.error().why;
    std::string log;
    auto kernel = KernelVerifier::make(input->maps(), input->btf(), &log);
    ASSERT_TRUE(kernel.has_value()) << where << ": " << log;
    KernelQuestion question{.log_level = 0, .no_pointer_leaks = test.no_pointer_leaks};
    const bool accepts = kernel->ask(*subject, question).accepted();
    question.log_level = 1;
    EXPECT_EQ(accepts, test.kernel_accepts)
        << where << ": " << kernel->ask(*subject, question).message;
  }
}

}  // namespace
}  // namespace bpftime::testing
