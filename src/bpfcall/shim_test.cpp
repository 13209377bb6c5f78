// The shim in a process of its own, against a broker that believes everything.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "bpfcall/testing/fake_broker.hpp"

namespace bpftime {
namespace {

struct Outcome {
  int status;  // as of waitpid
  std::string output;
};

Outcome run_under_shim(const std::string& directory, const std::vector<std::string>& command) {
  int out[2];
  EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
  std::vector<std::string> environment = {"PATH=/usr/bin:/bin", "LD_PRELOAD=" SHIM_PATH};
  if (!directory.empty()) {
    environment.push_back("BPFTIME_SESSION=" + directory);
  }
  std::vector<char*> argv;
  std::vector<char*> envp;
  for (const auto& word : command) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  for (const auto& word : environment) {
    envp.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  ::posix_spawn_file_actions_adddup2(&actions, out[1], 2);
  pid_t pid = -1;
  EXPECT_EQ(::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), envp.data()), 0);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(out[1]);
  Outcome outcome{-1, ""};
  char chunk[512];
  for (ssize_t n = 0; (n = ::read(out[0], chunk, sizeof(chunk))) > 0;) {
    outcome.output.append(chunk, static_cast<size_t>(n));
  }
  ::close(out[0]);
  ::waitpid(pid, &outcome.status, 0);
  return outcome;
}

void passes(const char* name, FakeBroker* broker) {
  const Outcome outcome = run_under_shim(broker->directory(), {CLIENT_PATH, name});
  EXPECT_EQ(outcome.status, 0) << outcome.output;
}

TEST(Shim, MapElementsAreAnsweredInTheLoader) {
  FakeBroker broker;
  passes("elements", &broker);
  EXPECT_EQ(broker.count(MessageKind::kMapRegion), 1U);
  EXPECT_EQ(broker.count(MessageKind::kBpf, BPF_MAP_LOOKUP_ELEM), 0U);
}
// What the client checks by itself (bpfcall/testing/shim_client.c).
struct ClientCase {
  const char* name;
  const char* client;
};
class ShimClient : public ::testing::TestWithParam<ClientCase> {};
TEST_P(ShimClient, Passes) {
  FakeBroker broker;
  passes(GetParam().client, &broker);
}
INSTANTIATE_TEST_SUITE_P(
    Shim, ShimClient,
    ::testing::Values(ClientCase{"BadPointersAreEfaultAndNotACrash", "bad_pointers"},
                      ClientCase{"AttrTailsAreCheckedAsTheKernelDoes", "tails"},
                      ClientCase{"NumbersThatAreClosedOrReplacedAreForgotten", "numbers"},
                      ClientCase{"FrozenMapRefusesUpdatesWithEperm", "frozen"},
                      ClientCase{"MmapOfAnArrayIsItsValues", "mapped"},
                      ClientCase{"FilesOfSysAreServed", "files"},
                      ClientCase{"ManyThreadsAndASignalHandlerCallAtOnce", "threads"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Shim, AProgramWithLibbpfIsToldThatItIsRoot) {
  FakeBroker broker;
  passes("user", &broker);
  passes("user_of_a_loader", &broker);
}

TEST(Shim, ProgramIsSentWithItsMapsByIdentity) {
  FakeBroker broker;
  passes("programs", &broker);
  for (const auto& seen : broker.seen()) {
    if (seen.kind == MessageKind::kBpf && seen.command == BPF_PROG_LOAD) {
      ASSERT_GE(seen.refs.size(), 1U);
      EXPECT_NE(seen.refs.back().inode, 0U);
      ASSERT_EQ(seen.payloads.size(), 3U);
      EXPECT_EQ(seen.payloads[0].bytes.size(), 3U);  // license
      EXPECT_EQ(seen.payloads[1].bytes.size(), 4 * sizeof(bpf_insn));
      EXPECT_EQ(seen.attr.size(), kAttrBytes);
    }
    if (seen.kind == MessageKind::kPerfOpen) {
      EXPECT_EQ(seen.fd_count, 1U);  // the file
      EXPECT_NE(seen.args[0], 0);    // "this process" has become a pid
    }
  }
}

TEST(Shim, ForkedChildHasItsOwnConnectionAndOnlyIfItCalls) {
  FakeBroker broker;
  passes("forked", &broker);
  EXPECT_EQ(broker.hellos(), 2U);
}

TEST(Shim, DoesNothingInAProcessThatDoesNotCallBpf) {
  FakeBroker broker;
  passes("inert", &broker);
  EXPECT_EQ(broker.hellos(), 0U);
  const Outcome outcome =
      run_under_shim(broker.directory(), {"/bin/sh", "-c", "echo $(ls /dev/null)"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, "/dev/null\n");
  EXPECT_EQ(broker.hellos(), 0U);
}

TEST(Shim, WithoutABrokerFailsWithOneLine) {
  const Outcome outcome = run_under_shim("/nonexistent", {CLIENT_PATH, "elements"});
  EXPECT_NE(outcome.status, 0);
  size_t lines = 0;
  for (size_t at = 0; (at = outcome.output.find("bpftime:", at)) != std::string::npos; at++) {
    lines++;
  }
  EXPECT_EQ(lines, 1U) << outcome.output;
}

TEST(Shim, UnmodifiedLibbpfToolLoadsAttachesAndDetaches) {
  FakeBroker broker;
  const Outcome outcome = run_under_shim(broker.directory(), {TOOL_PATH, "-d", "1", "-j"});
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("{\"second\":1,\"total\":0,\"processes\":[]}"), std::string::npos)
      << outcome.output;
  EXPECT_EQ(broker.count(MessageKind::kPerfOpen), 1U);
  EXPECT_EQ(broker.hellos(), 1U);
}

TEST(Shim, LookupCostsLessThanTheKernels) {
  FakeBroker broker;
  const Outcome outcome = run_under_shim(broker.directory(), {CLIENT_PATH, "speed"});
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  RecordProperty("nanoseconds", outcome.output);
  EXPECT_LT(std::atof(outcome.output.c_str()), 250.0);
}

}  // namespace
}  // namespace bpftime
