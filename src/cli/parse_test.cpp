#include <gtest/gtest.h>

#include "cli/invocation.hpp"

namespace bpftime::cli {
namespace {

struct Parsed {
  Invocation invocation;
  int exit_status = -1;
  bool go_on = false;
};
Parsed parsed(std::vector<const char*> words) {
  Parsed result;
  words.insert(words.begin(), "bpftime");
  result.go_on = parse(static_cast<int>(words.size()), const_cast<char**>(words.data()),
                       &result.invocation, &result.exit_status);
  return result;
}
using Words = std::vector<std::string>;

TEST(Parse, LoadKeepsTheCommandsWordsVerbatim) {
  const auto p =
      parsed({"load", "--no-attach", "bpftrace", "-e", "--no-attach", "--", "status", "-h"});
  ASSERT_TRUE(p.go_on);
  EXPECT_EQ(p.invocation.command, Command::kLoad);
  EXPECT_TRUE(p.invocation.no_attach);
  EXPECT_EQ(p.invocation.words, (Words{"bpftrace", "-e", "--no-attach", "--", "status", "-h"}));
}

TEST(Parse, ACommandMayBeCalledAsOneOfOurs) {
  const auto p = parsed({"load", "status", "--json"});
  ASSERT_TRUE(p.go_on);
  EXPECT_EQ(p.invocation.command, Command::kLoad);
  EXPECT_EQ(p.invocation.words, (Words{"status", "--json"}));
}

TEST(Parse, TraceKeepsTheDashes) {
  const auto p = parsed({"trace", "./malloc", "-v", "--", "ls", "-R"});
  ASSERT_TRUE(p.go_on);
  EXPECT_EQ(p.invocation.words, (Words{"./malloc", "-v", "--", "ls", "-R"}));
  const auto q = parsed({"trace", "--pid", "42", "./malloc"});
  ASSERT_TRUE(q.go_on);
  EXPECT_EQ(q.invocation.pid, 42);
  EXPECT_EQ(q.invocation.words, (Words{"./malloc"}));
}

TEST(Parse, SessionMayStandBeforeOrBehindTheCommand) {
  EXPECT_EQ(parsed({"--session", "a", "status"}).invocation.session, "a");
  EXPECT_EQ(parsed({"status", "--session", "a", "--json"}).invocation.session, "a");
  EXPECT_EQ(parsed({"load", "--session", "a", "x"}).invocation.session, "a");
}

TEST(Parse, WrongCommandLinesAreUsageErrors) {
  for (const auto& words : std::vector<std::vector<const char*>>{{},
                                                                 {"fly"},
                                                                 {"load"},
                                                                 {"load", "--fly", "x"},
                                                                 {"attach"},
                                                                 {"attach", "x"},
                                                                 {"status", "--fly"}}) {
    const auto p = parsed(words);
    EXPECT_FALSE(p.go_on);
    EXPECT_EQ(p.exit_status, kExitUsage);
  }
}

TEST(Parse, HelpIsNoError) {
  const auto p = parsed({"--help"});
  EXPECT_FALSE(p.go_on);
  EXPECT_EQ(p.exit_status, 0);
}

}  // namespace
}  // namespace bpftime::cli
