#include "inject/hold.hpp"

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "inject/bring_agent.hpp"
#include "inject/process_maps.hpp"
#include "inject/remote_call.hpp"
#include "target_process.hpp"

namespace bpftime {
namespace {

// A child that waits for our word, then runs `body` (which execs); its output is kept. A middle
// process is its parent, as the broker is not the parent of what it holds.
class Waiting {
 public:
  explicit Waiting(const std::function<void()>& body) {
    int go[2], out[2], pid_pipe[2], status[2];
    if (pipe2(go, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(pid_pipe, O_CLOEXEC) ||
        pipe2(status, O_CLOEXEC)) {
      abort();
    }
    middle_ = fork();
    if (middle_ == 0) {
      const pid_t child = fork();
      if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(go[1]);
        char c;
        if (read(go[0], &c, 1) != 1) {
          _exit(120);
        }
        dup2(out[1], 1);
        body();
        _exit(119);
      }
      (void)!write(pid_pipe[1], &child, sizeof child);
      close(out[1]);
      int result = 0;
      waitpid(child, &result, 0);
      (void)!write(status[1], &result, sizeof result);
      _exit(0);
    }
    close(out[1]);
    close(status[1]);
    EXPECT_EQ(read(pid_pipe[0], &pid_, sizeof pid_), static_cast<ssize_t>(sizeof pid_));
    close(pid_pipe[0]);
    close(pid_pipe[1]);
    close(go[0]);
    go_.reset(go[1]);
    out_.reset(out[0]);
    status_.reset(status[0]);
  }
  ~Waiting() {
    if (middle_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(middle_, nullptr, 0);
    }
  }
  pid_t pid() const { return pid_; }
  void go() { EXPECT_EQ(write(go_.get(), "g", 1), 1); }
  int finish() {
    char chunk[4096];
    ssize_t got;
    while ((got = read(out_.get(), chunk, sizeof chunk)) > 0) {
      output_.append(chunk, static_cast<size_t>(got));
    }
    int status = -1;
    EXPECT_EQ(read(status_.get(), &status, sizeof status), static_cast<ssize_t>(sizeof status));
    waitpid(middle_, nullptr, 0);
    middle_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  const std::string& output() const { return output_; }

 private:
  pid_t pid_ = 0, middle_ = 0;
  UniqueFd go_, out_, status_;
  std::string output_;
};

std::string program(const char* name) { return std::string(TARGET_DIRECTORY) + "/" + name; }
void run_fresh(const char* build = "inject_fresh") {
  execl(program(build).c_str(), "fresh", "one", "two", nullptr);
}

// Held and let run through its execs until it is in `state`.
Result<HeldProcess> follow(Waiting* child, HeldState state = HeldState::kAtEntry) {
  auto held = TRY(HeldProcess::seize(child->pid(), deadline_in_ms(kPatience)));
  child->go();
  if (TRY(held.wait(deadline_in_ms(kPatience))) != state) {
    return make_error(EPROTO, "it came into another state");
  }
  return held;
}

uint64_t entry_of(pid_t pid) {
  const auto auxv = read_auxv(pid);
  for (const auto& [key, value] : *auxv) {
    if (key == AT_ENTRY) {
      return value;
    }
  }
  return 0;
}

TEST(HeldProcess, StopsAtTheEntryPointOfEveryKindOfProgram) {
  for (const char* build : {"inject_fresh", "inject_fresh_static", "inject_fresh_musl"}) {
    Waiting child([&] { run_fresh(build); });
    auto held = HeldProcess::seize(child.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(held) << held.error().why;
    EXPECT_EQ(*held->step(), HeldState::kBeforeExec);
    child.go();
    const uint64_t begun = monotonic_ns();
    auto state = held->wait(deadline_in_ms(kPatience));
    ASSERT_TRUE(state) << state.error().why;
    ASSERT_EQ(*state, HeldState::kAtEntry) << build;
    auto process = held->take(deadline_in_ms(kPatience));
    ASSERT_TRUE(process) << process.error().why;
    std::printf("%s: at its entry after %.0f us\n", build,
                static_cast<double>(monotonic_ns() - begun) / 1e3);
    const Registers registers = *process->registers(child.pid());
    EXPECT_EQ(registers.rip, entry_of(child.pid()));
    EXPECT_EQ(*process->read_value<uint64_t>(RemoteAddr{registers.rsp}), 3U);  // argc
    // The byte is back: what stands there is what the file has.
    const auto maps = read_maps(child.pid());
    const Mapping* mapping = mapping_at(*maps, registers.rip);
    ASSERT_NE(mapping, nullptr);
    const auto file = file_bytes(program(build));
    EXPECT_EQ(*process->read_value<std::byte>(RemoteAddr{registers.rip}),
              file[registers.rip - mapping->begin + mapping->offset]);
    process->release();
    EXPECT_EQ(child.finish(), 7);
    EXPECT_EQ(child.output(), "trap blocked 0 ignored 0 default 1 args one two\n");
  }
}

TEST(HeldProcess, AgentComesInAtTheEntryPoint) {
  const auto agent_file = file_bytes(TEST_AGENT);
  for (const bool is_static : {false, true}) {
    Waiting child([&] { run_fresh(is_static ? "inject_fresh_static" : "inject_fresh"); });
    auto held = follow(&child);
    ASSERT_TRUE(held) << held.error().why;
    auto process = held->take(deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    const Registers before = *process->registers(child.pid());
    auto agent =
        bring_agent(*process, agent_file, AgentWish::kAny, true, deadline_in_ms(kPatience));
    ASSERT_TRUE(agent) << agent.error().why;
    EXPECT_EQ(agent->way, is_static ? AgentWay::kMapped : AgentWay::kDlopen);
    std::printf("agent into a fresh process: %.0f us\n",
                static_cast<double>(agent->stopped_ns) / 1e3);
    const Registers after = *process->registers(child.pid());
    EXPECT_EQ(memcmp(&before, &after, sizeof before), 0);
    process->release();
    EXPECT_EQ(child.finish(), 7);
    EXPECT_EQ(child.output(), "trap blocked 0 ignored 0 default 1 args one two\n");
  }
}

TEST(HeldProcess, BlockedAndIgnoredSigtrapAreInherited) {
  for (const bool also_ignored : {false, true}) {
    Waiting child([&] {
      sigset_t set;
      sigemptyset(&set);
      sigaddset(&set, SIGTRAP);
      sigprocmask(SIG_BLOCK, &set, nullptr);
      if (also_ignored) {
        signal(SIGTRAP, SIG_IGN);
      }
      run_fresh();
    });
    auto held = follow(&child);
    ASSERT_TRUE(held) << held.error().why;
    auto process = held->take(deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    process->release();
    EXPECT_EQ(child.finish(), 7);
    EXPECT_EQ(child.output(), also_ignored ? "trap blocked 1 ignored 1 default 0 args one two\n"
                                           : "trap blocked 1 ignored 0 default 1 args one two\n");
  }
}

TEST(HeldProcess, ScriptIsFollowedIntoItsInterpreter) {
  char path[] = "/tmp/inject-script-XXXXXX";
  const int fd = mkstemp(path);
  const char text[] = "#!/bin/sh\necho from a script $1\nexit 5\n";
  ASSERT_EQ(write(fd, text, sizeof text - 1), static_cast<ssize_t>(sizeof text - 1));
  fchmod(fd, 0755);
  close(fd);
  Waiting child([&] { execl(path, path, "x", nullptr); });
  auto held = follow(&child);
  ASSERT_TRUE(held) << held.error().why;
  {
    auto process = held->take(deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    EXPECT_NE(read_executable(child.pid())->find("sh"), std::string::npos);
  }
  EXPECT_EQ(child.finish(), 5);
  EXPECT_EQ(child.output(), "from a script x\n");
  unlink(path);
}

TEST(HeldProcess, FailedExecGoesOnAndASecondOneIsFollowed) {
  Waiting child([&] {
    execl("/nonexistent/program", "x", nullptr);
    run_fresh();
  });
  auto held = follow(&child);
  ASSERT_TRUE(held) << held.error().why;
  ASSERT_TRUE(held->take(deadline_in_ms(kPatience)));
  EXPECT_EQ(child.finish(), 7);
}

TEST(HeldProcess, ProcessThatEndsInsteadIsGone) {
  Waiting child([&] { _exit(3); });
  auto held = follow(&child, HeldState::kGone);
  ASSERT_TRUE(held) << held.error().why;
  EXPECT_EQ(child.finish(), 3);
}

TEST(HeldProcess, NoExecInTimeIsEtimedoutAndStillHeld) {
  Waiting child([&] { run_fresh(); });
  auto held = HeldProcess::seize(child.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(held);
  EXPECT_EQ(held->wait(deadline_in_ms(20)).error().code, ETIMEDOUT);
  child.go();
  EXPECT_EQ(*held->wait(deadline_in_ms(kPatience)), HeldState::kAtEntry);
}

TEST(HeldProcess, LetGoAnywhereTheProgramRunsAsIfNothingHadBeen) {
  for (int step = 0; step < 40; ++step) {
    Waiting child([&] { run_fresh(); });
    {
      auto held = HeldProcess::seize(child.pid(), deadline_in_ms(kPatience));
      ASSERT_TRUE(held);
      child.go();
      const uint64_t until = monotonic_ns() + static_cast<uint64_t>(step) * 30000;
      while (monotonic_ns() < until) {
        ASSERT_TRUE(held->step());
      }
    }
    EXPECT_EQ(child.finish(), 7) << step;
  }
}

TEST(HeldProcess, SignalsOnTheWayAreDelivered) {
  Waiting child([&] {
    signal(SIGUSR1, SIG_IGN);
    kill(getpid(), SIGUSR1);
    signal(SIGTERM, SIG_DFL);
    kill(getpid(), SIGTERM);
    run_fresh();
  });
  auto held = follow(&child, HeldState::kGone);
  ASSERT_TRUE(held) << held.error().why;
  EXPECT_EQ(child.finish(), 128 + SIGTERM);
}

TEST(HeldProcess, SetUserIdProgramIsNotFollowed) {
  const std::string copy = "/tmp/inject-setuid-" + std::to_string(getpid());
  const auto bytes = file_bytes(program("inject_fresh"));
  const int fd = open(copy.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
  ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  fchmod(fd, 04755);
  close(fd);
  Waiting child([&] { execl(copy.c_str(), "fresh", "one", "two", nullptr); });
  auto held = follow(&child, HeldState::kNotFollowed);
  ASSERT_TRUE(held) << held.error().why;
  EXPECT_EQ(child.finish(), 7);
  unlink(copy.c_str());
}

TEST(HeldProcess, NobodyHoldsOwnProcess) {
  EXPECT_EQ(as_nobody([] {
              Waiting child([&] { run_fresh(); });
              auto held = follow(&child);
              if (!held) {
                return 1;
              }
              auto process = held->take(deadline_in_ms(kPatience));
              if (!process) {
                return 2;
              }
              process->release();
              return child.finish() == 7 ? 0 : 3;
            }),
            0);
}

}  // namespace
}  // namespace bpftime
