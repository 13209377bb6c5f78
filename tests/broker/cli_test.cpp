// bpftime(1) as its users see it: exit statuses, one line for each failure, a broker that comes and
// goes by itself.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Outcome {
  int status = -1;  // exit status; 128 + signal
  std::string out, err;
};

std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A user with a runtime directory of its own, so that no other broker is met.
class User {
 public:
  User() {
    char name[] = "/tmp/bpftime-cli-XXXXXX";
    home_ = ::mkdtemp(name);
    ::mkdir((home_ + "/run").c_str(), 0700);
    ::mkdir((home_ + "/.config").c_str(), 0700);
    ::mkdir((home_ + "/.config/bpftime").c_str(), 0700);
  }
  ~User() {
    run({"shutdown"});
    (void)!std::system(("rm -rf " + home_).c_str());
  }
  User(const User&) = delete;
  User& operator=(const User&) = delete;

  Outcome run(std::vector<std::string> words,
              const std::vector<std::string>& environment = {}) const {
    words.insert(words.begin(), BPFTIME_FILE);
    return run_file(std::move(words), environment);
  }
  [[nodiscard]] Outcome run_file(std::vector<std::string> words,
                                 const std::vector<std::string>& environment = {}) const {
    static std::atomic<int> count = 0;
    const std::string base = home_ + "/" + std::to_string(count++);
    const pid_t child = ::fork();
    if (child == 0) {
      ::setenv("HOME", home_.c_str(), 1);
      ::setenv("XDG_RUNTIME_DIR", (home_ + "/run").c_str(), 1);
      for (const char* name : {"XDG_CONFIG_HOME", "SUDO_UID", "LD_PRELOAD"}) {
        ::unsetenv(name);
      }
      for (const auto& setting : environment) {
        ::putenv(const_cast<char*>(setting.c_str()));
      }
      ::dup2(::open((base + ".out").c_str(), O_WRONLY | O_CREAT, 0600), 1);
      ::dup2(::open((base + ".err").c_str(), O_WRONLY | O_CREAT, 0600), 2);
      std::vector<char*> argv;
      for (auto& word : words) {
        argv.push_back(word.data());
      }
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(99);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    Outcome outcome;
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.out = contents(base + ".out");
    outcome.err = contents(base + ".err");
    return outcome;
  }
  [[nodiscard]] std::string directory(const std::string& session = "default") const {
    return home_ + "/run/bpftime/" + session;
  }
  [[nodiscard]] pid_t broker() const {
    return static_cast<pid_t>(std::atoi(contents(directory() + "/lock").c_str()));
  }
  void configure(const std::string& text) const {
    std::ofstream(home_ + "/.config/bpftime/config") << text;
  }

 private:
  std::string home_;
};

// `bpftime: what: why; what to do`
void expect_one_line(const Outcome& outcome) {
  EXPECT_EQ(outcome.err.rfind("bpftime: ", 0), 0U) << outcome.err;
  EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << outcome.err;
  EXPECT_NE(outcome.err.find("; "), std::string::npos) << outcome.err;
}

TEST(Cli, WithoutABrokerThereIsNothingAndNothingIsStarted) {
  const User user;
  EXPECT_EQ(user.run({"status"}).status, 0);
  EXPECT_EQ(user.run({"status", "--json"}).out.find("{\"broker_pid\": 0"), 0U);
  EXPECT_EQ(user.run({"detach"}).status, 0);
  EXPECT_EQ(user.run({"log"}).out, "");
  EXPECT_EQ(user.run({"shutdown"}).status, 0);
  EXPECT_EQ(user.broker(), 0);
}

TEST(Cli, EachFailureIsOneLine) {
  const User user;
  Outcome outcome = user.run({"attach", "1073741823"});
  EXPECT_EQ(outcome.status, 1);
  expect_one_line(outcome);
  outcome = user.run({"detach", "1073741823"});
  EXPECT_EQ(outcome.status, 1);
  expect_one_line(outcome);
  outcome = user.run({"load", "no-such-command"});
  EXPECT_EQ(outcome.status, 127);
  expect_one_line(outcome);
  outcome = user.run({"trace", "true"});
  EXPECT_EQ(outcome.status, 2);
  expect_one_line(outcome);
  outcome = user.run({"fly"});
  EXPECT_EQ(outcome.status, 2);
  expect_one_line(outcome);
  outcome = user.run({"--session", "../x", "status"});
  EXPECT_EQ(outcome.status, 2);
  expect_one_line(outcome);
}

TEST(Cli, WhatIsNoCommandIsNotFoundOrNotRun) {
  const User user;
  for (const char* how : {"load", "start"}) {
    for (const auto& [command, status] : std::vector<std::pair<std::string, int>>{
             {"nosuch", 127}, {"/nosuch", 127}, {"/tmp", 126}, {"/etc/passwd", 126}}) {
      // A directory of PATH that may not be searched is no reason to say anything else.
      const auto outcome = user.run({how, command}, {"PATH=/root/nosuch:/usr/bin"});
      EXPECT_EQ(outcome.status, status) << how << " " << command;
      expect_one_line(outcome);
    }
    EXPECT_EQ(user.run({how, "--", "true"}).status, 0);
  }
  const auto outcome = user.run({"nosuch"});
  EXPECT_EQ(outcome.status, 2);
  expect_one_line(outcome);
  EXPECT_EQ(user.run({"help"}).status, 0);
}

TEST(Cli, LoadBecomesTheCommand) {
  const User user;
  const Outcome outcome =
      user.run({"load", "sh", "-c",
                "echo $LD_PRELOAD; echo $BPFTIME_SESSION; ls /proc/self/fd | wc -l; exit 7"});
  EXPECT_EQ(outcome.status, 7);
  EXPECT_NE(outcome.out.find("libbpftime-shim.so\n"), std::string::npos);
  EXPECT_NE(outcome.out.find(user.directory() + "\n"), std::string::npos);
  const Outcome plain = user.run_file({"/bin/sh", "-c", "ls /proc/self/fd | wc -l"});
  EXPECT_NE(outcome.out.find("\n" + plain.out), std::string::npos)
      << "an fd of ours is left: " << outcome.out;
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(user.run({"load", "sh", "-c", "kill -TERM $$"}).status, 128 + SIGTERM);
}

TEST(Cli, LoadKeepsAPreloadThatIsThere) {
  const User user;
  const Outcome outcome =
      user.run({"load", "sh", "-c", "echo $LD_PRELOAD"}, {"LD_PRELOAD=libm.so.6"});
  EXPECT_EQ(outcome.out.find("libm.so.6:"), 0U);
}

TEST(Cli, LaterConfigurationWins) {
  const User user;
  user.configure("session = from-file\nidle_ms = 50\n");
  Outcome outcome = user.run({"config"});
  EXPECT_NE(outcome.out.find("session = from-file  # "), std::string::npos);
  EXPECT_NE(outcome.out.find("attach = yes  # default"), std::string::npos);
  outcome = user.run({"config", "--session", "from-flag"});
  EXPECT_NE(outcome.out.find("session = from-flag  # flag"), std::string::npos);
  EXPECT_EQ(user.run({"load", "sh", "-c", "echo $BPFTIME_SESSION"}).out,
            user.directory("from-file") + "\n");
  user.configure("speed = 9\n");
  outcome = user.run({"status"});
  EXPECT_EQ(outcome.status, 2);
  expect_one_line(outcome);
}

TEST(Cli, ManyStartersMakeOneBroker) {
  const User user;
  std::vector<std::thread> starters;
  std::vector<int> statuses(8, -1);
  for (size_t i = 0; i < statuses.size(); i++) {
    starters.emplace_back([&, i] { statuses[i] = user.run({"load", "sleep", "1"}).status; });
  }
  for (auto& starter : starters) {
    starter.join();
  }
  for (const int status : statuses) {
    EXPECT_EQ(status, 0);
  }
  const std::string log = contents(user.directory() + "/broker.log");
  EXPECT_EQ(log.find("broker started"), log.rfind("broker started")) << log;
}

TEST(Cli, AKilledBrokerIsReplaced) {
  const User user;
  ASSERT_EQ(user.run({"load", "true"}).status, 0);
  const pid_t first = user.broker();
  ASSERT_GT(first, 1);
  ::kill(first, SIGKILL);
  ASSERT_EQ(user.run({"load", "true"}).status, 0);
  EXPECT_NE(user.broker(), first);
}

TEST(Cli, TheBrokerHoldsNothingOfWhoStartedIt) {
  const User user;
  ASSERT_EQ(user.run({"load", "true"}).status, 0);
  const std::string proc = "/proc/" + std::to_string(user.broker());
  char link[4096];
  for (int fd = 0; fd < 3; fd++) {
    const ssize_t n =
        ::readlink((proc + "/fd/" + std::to_string(fd)).c_str(), link, sizeof(link) - 1);
    ASSERT_GT(n, 0);
    EXPECT_EQ(std::string(link, static_cast<size_t>(n)), "/dev/null");
  }
  const ssize_t n = ::readlink((proc + "/cwd").c_str(), link, sizeof(link) - 1);
  EXPECT_EQ(std::string(link, static_cast<size_t>(n)), "/");
}

TEST(Cli, ShutdownWaitsForTheEnd) {
  const User user;
  ASSERT_EQ(user.run({"load", "true"}).status, 0);
  const std::string stat = "/proc/" + std::to_string(user.broker()) + "/stat";
  EXPECT_EQ(user.run({"shutdown"}).status, 0);
  const std::string after = contents(stat);  // whoever inherited it may not have waited for it yet
  EXPECT_TRUE(after.empty() || after.find(") Z ") != std::string::npos) << after;
  EXPECT_NE(::access((user.directory() + "/broker.sock").c_str(), F_OK), 0);
}

TEST(Cli, TheBrokerLeavesCleanlyAtSigterm) {
  const User user;
  ASSERT_EQ(user.run({"load", "true"}).status, 0);
  const pid_t broker = user.broker();
  const int life = static_cast<int>(::syscall(SYS_pidfd_open, broker, 0));
  ASSERT_EQ(::kill(broker, SIGTERM), 0);
  pollfd polled{life, POLLIN, 0};
  EXPECT_EQ(::poll(&polled, 1, 10'000), 1);
  ::close(life);
  EXPECT_NE(::access((user.directory() + "/broker.sock").c_str(), F_OK), 0);
  EXPECT_NE(::access((user.directory() + "/lock").c_str(), F_OK), 0);
}

TEST(Cli, DoctorNamesWhatItSees) {
  const User user;
  const Outcome outcome = user.run({"doctor", std::to_string(::getpid())});
  EXPECT_NE(outcome.out.find("Linux "), std::string::npos);
  EXPECT_NE(outcome.out.find("process " + std::to_string(::getpid())), std::string::npos);
  EXPECT_EQ(user.run({"doctor", "1073741823"}).status, 1);
}

}  // namespace
