#include "cli/config.hpp"

#include <gtest/gtest.h>

namespace bpftime::cli {
namespace {

TEST(Config, LaterFilesWinAndSayWhereAValueIsFrom) {
  Config config;
  std::string problem;
  ASSERT_TRUE(apply_config("# system\nsession = work\nidle_ms=10\n", "/etc/bpftime.conf", &config,
                           &problem));
  ASSERT_TRUE(
      apply_config("  session = mine # mine\n\nattach = no", "/home/config", &config, &problem));
  EXPECT_EQ(config.session.value, "mine");
  EXPECT_EQ(config.session.from, "/home/config");
  EXPECT_EQ(config.idle_ms.value, "10");
  EXPECT_EQ(config.idle_ms.from, "/etc/bpftime.conf");
  EXPECT_EQ(config.attach.value, "no");
  EXPECT_EQ(print_config(config),
            "session = mine  # /home/config\nattach = no  # /home/config\n"
            "unverified = allow  # default\nidle_ms = 10  # /etc/bpftime.conf\n");
}

TEST(Config, MissingFileIsNoProblem) {
  Config config;
  std::string problem;
  EXPECT_TRUE(read_config("/nonexistent/config", &config, &problem));
  EXPECT_EQ(config.session.from, "default");
}

TEST(Config, AWrongLineIsNamed) {
  Config config;
  std::string problem;
  EXPECT_FALSE(apply_config("session = a\nspeed = 9\n", "f", &config, &problem));
  EXPECT_EQ(problem, "f:2: unknown key speed");
  EXPECT_FALSE(apply_config("session = ../x\n", "f", &config, &problem));
  EXPECT_EQ(problem, "f:1: bad value for session: ../x");
  EXPECT_FALSE(apply_config("session\n", "f", &config, &problem));
  EXPECT_EQ(problem, "f:1: no `key = value`");
}

TEST(Config, SessionNamesAreFileNames) {
  EXPECT_TRUE(is_session_name("default"));
  EXPECT_FALSE(is_session_name(""));
  EXPECT_FALSE(is_session_name("."));
  EXPECT_FALSE(is_session_name("a/b"));
  EXPECT_FALSE(is_session_name(std::string(33, 'a')));
}

}  // namespace
}  // namespace bpftime::cli
