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

TEST(Parse, DashesBeforeTheCommandAreNotItsWords) {
  EXPECT_EQ(parsed({"load", "--no-attach", "--", "ls", "--", "x"}).invocation.words,
            (Words{"ls", "--", "x"}));
  EXPECT_EQ(parsed({"--session", "load", "start", "--", "ls"}).invocation.words, (Words{"ls"}));
  EXPECT_EQ(parsed({"start", "--session", "--", "ls", "--"}).invocation.words, (Words{"ls", "--"}));
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
                                                                 {"attach", "--children"},
                                                                 {"status", "--fly"}}) {
    const auto p = parsed(words);
    EXPECT_FALSE(p.go_on);
    EXPECT_EQ(p.exit_status, kExitUsage);
  }
}

TEST(Parse, VerifierIsAChoiceAndNoneIsAnother) {
  const auto p = parsed({"load", "--verifier", "kernel", "--", "x"});
  ASSERT_TRUE(p.go_on);
  EXPECT_EQ(p.invocation.verifier, VerifierChoice::kKernel);
  EXPECT_EQ(p.invocation.words, (Words{"x"}));
  EXPECT_EQ(parsed({"trace", "--verifier=both", "x", "--", "y"}).invocation.verifier,
            VerifierChoice::kBoth);
  EXPECT_EQ(parsed({"verify", "--verifier", "ours", "x.bpf.o"}).invocation.verifier,
            VerifierChoice::kOurs);
  EXPECT_EQ(parsed({"load", "--verifier", "mine", "x"}).exit_status, kExitUsage);
  EXPECT_EQ(parsed({"load", "--unverified", "--verifier", "both", "x"}).exit_status, kExitUsage);
}

TEST(Parse, ObjectsHaveListsAndMapsElements) {
  auto p = parsed({"link", "list", "--json"});
  EXPECT_EQ(p.invocation.command, Command::kList);
  EXPECT_EQ(p.invocation.listing, Listing::kLinks);
  EXPECT_TRUE(p.invocation.json);
  p = parsed({"map", "get", "counts", "1", "ff"});
  EXPECT_EQ(p.invocation.command, Command::kMapGet);
  EXPECT_EQ(p.invocation.map, "counts");
  EXPECT_EQ(p.invocation.key, (Words{"1", "ff"}));
  EXPECT_FALSE(parsed({"map"}).go_on);
  EXPECT_FALSE(parsed({"map", "dump"}).go_on);
  EXPECT_FALSE(parsed({"prog", "dump", "1"}).go_on);
}

TEST(Parse, ProcessesAreChosenInSeveralWays) {
  const auto p = parsed(
      {"attach", "1", "2", "--name", "nginx", "--uid", "33", "--exe", "/bin/a", "--children"});
  ASSERT_TRUE(p.go_on);
  EXPECT_EQ(p.invocation.processes.pids, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(p.invocation.processes.names, Words{"nginx"});
  EXPECT_EQ(p.invocation.processes.users, Words{"33"});
  EXPECT_EQ(p.invocation.processes.exes, Words{"/bin/a"});
  EXPECT_TRUE(p.invocation.processes.children);
  EXPECT_TRUE(parsed({"detach"}).go_on);
}

TEST(Parse, VerifyTakesAFileAndWhatToSayOfIt) {
  const auto p = parsed({"verify", "a.bpf.o", "--program", "f", "--log-level", "2", "--json"});
  ASSERT_TRUE(p.go_on);
  EXPECT_EQ(p.invocation.command, Command::kVerify);
  EXPECT_EQ(p.invocation.object_file, "a.bpf.o");
  EXPECT_EQ(p.invocation.program, "f");
  EXPECT_EQ(p.invocation.log_level, 2U);
  EXPECT_TRUE(p.invocation.json);
  EXPECT_FALSE(parsed({"verify"}).go_on);
}

TEST(Parse, HelpIsNoError) {
  const auto p = parsed({"--help"});
  EXPECT_FALSE(p.go_on);
  EXPECT_EQ(p.exit_status, 0);
}

}  // namespace
}  // namespace bpftime::cli
