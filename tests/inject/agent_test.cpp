#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "elf/elf.hpp"
#include "inject/bring_agent.hpp"
#include "inject/process_maps.hpp"
#include "inject/remote_call.hpp"
#include "target_process.hpp"

namespace bpftime {
namespace {

struct Descriptor {
  uint64_t magic, add, text, counter, bss_end;
};

// Is the image really there and working? Calls into it from a stopped thread.
testing::AssertionResult works(pid_t pid, const AgentImage& agent,
                               const std::vector<std::byte>& file) {
  const auto elf = ElfImage::parse(file);
  const auto symbol = elf->find_symbol("test_agent_descriptor");
  if (!symbol) {
    return testing::AssertionFailure() << "no descriptor in the file";
  }
  auto process = StoppedProcess::stop(pid, deadline_in_ms(kPatience));
  if (!process) {
    return testing::AssertionFailure() << process.error().why;
  }
  auto descriptor = process->read_value<Descriptor>(RemoteAddr{raw(agent.base) + symbol->address});
  if (!descriptor || descriptor->magic != 0x1122334455667788) {
    return testing::AssertionFailure() << "descriptor not there";
  }
  auto text = process->read_value<std::array<char, 19>>(RemoteAddr{descriptor->text});
  if (!text || std::string(text->data()) != "bpftime test agent") {
    return testing::AssertionFailure() << "read-only data not there";
  }
  auto bss = process->read_value<uint64_t>(RemoteAddr{descriptor->bss_end});
  auto counter = process->read_value<uint64_t>(RemoteAddr{descriptor->counter});
  if (!bss || !counter || *counter != 41 + *bss / 5) {
    return testing::AssertionFailure() << "data or bss wrong";
  }
  auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
  if (!thread) {
    return testing::AssertionFailure() << thread.error().why;
  }
  auto sum = thread->call(RemoteAddr{descriptor->add}, {5, 7});
  if (!sum || *sum != 12 + ((*counter + 1) << 32)) {
    return testing::AssertionFailure() << "its function does not work";
  }
  return testing::AssertionSuccess();
}

size_t traces_left(pid_t pid) {
  const auto maps = read_maps(pid);
  size_t count = 0;
  for (const Mapping& mapping : *maps) {
    count += mapping.path.find("bpftime") != std::string::npos;
  }
  for (int fd = 3; fd < 1024; ++fd) {
    char path[64], to[256];
    std::snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    const ssize_t length = readlink(path, to, sizeof to - 1);
    if (length > 0) {
      to[length] = 0;
      count += strstr(to, "bpftime-agent") != nullptr;
    }
  }
  return count;
}

bool has_writable_code(pid_t pid) {
  const auto maps = read_maps(pid);
  return std::any_of(maps->begin(), maps->end(), [](const Mapping& mapping) {
    return (mapping.prot & (PROT_WRITE | PROT_EXEC)) == (PROT_WRITE | PROT_EXEC);
  });
}

testing::AssertionResult comes_and_goes(TargetProcess& target, AgentWish wish, AgentWay way) {
  const auto file = file_bytes(TEST_AGENT);
  const size_t maps_before = read_maps(target.pid())->size();
  auto agent = bring_agent(target.pid(), file, wish, deadline_in_ms(kPatience));
  if (!agent) {
    return testing::AssertionFailure() << agent.error().code << " " << agent.error().why;
  }
  if (agent->way != way) {
    return testing::AssertionFailure() << "came the other way";
  }
  if (has_writable_code(target.pid())) {
    return testing::AssertionFailure() << "writable code";
  }
  for (int i = 0; i < 2; ++i) {
    if (auto working = works(target.pid(), *agent, file); !working) {
      return working;
    }
  }
  auto gone = unload_agent(target.pid(), *agent, deadline_in_ms(kPatience));
  if (!gone) {
    return testing::AssertionFailure() << "unload: " << gone.error().why;
  }
  if (traces_left(target.pid()) != 0) {
    return testing::AssertionFailure() << "something is left";
  }
  (void)maps_before;
  return testing::AssertionSuccess();
}

TEST(BringAgent, ByDlopenFromAWaitingThread) {
  TargetProcess target("inject_target", "idle");
  EXPECT_TRUE(comes_and_goes(target, AgentWish::kAny, AgentWay::kDlopen));
  EXPECT_TRUE(comes_and_goes(target, AgentWish::kDlopenOnly, AgentWay::kDlopen));
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(BringAgent, ByDlopenAmongWaitersThatSeeNothing) {
  TargetProcess target("inject_target", "wait");
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(comes_and_goes(target, AgentWish::kAny, AgentWay::kDlopen));
  }
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(BringAgent, ByMappingWhereNoThreadWaits) {
  TargetProcess target("inject_target", "malloc-busy", 2);
  EXPECT_TRUE(comes_and_goes(target, AgentWish::kAny, AgentWay::kMapped));
  const auto file = file_bytes(TEST_AGENT);
  EXPECT_EQ(
      bring_agent(target.pid(), file, AgentWish::kDlopenOnly, deadline_in_ms(300)).error().code,
      EAGAIN);
  EXPECT_EQ(target.finish(), 0) << target.output();
}

// Never asleep where it could be found waiting: it is led to its next wait. (On a machine where it gets no CPU it may
// not come to one in time, and says so.)
TEST(BringAgent, ByDlopenIntoABusyServerThatNeverSleeps) {
  TargetProcess target("inject_target", "serve-busy", 2);
  const auto file = file_bytes(TEST_AGENT);
  int came = 0;
  for (int tries = 0; came < 8 && tries < 40; ++tries) {
    auto agent = bring_agent(target.pid(), file, AgentWish::kDlopenOnly, deadline_in_ms(kPatience));
    if (!agent) {
      ASSERT_EQ(agent.error().code, EAGAIN) << agent.error().why;
      continue;
    }
    came++;
    EXPECT_EQ(agent->way, AgentWay::kDlopen);
    ASSERT_TRUE(works(target.pid(), *agent, file));
    auto gone = unload_agent(target.pid(), *agent, deadline_in_ms(kPatience));
    for (int again = 0; !gone && gone.error().code == EAGAIN && again < 40; ++again) {
      gone = unload_agent(target.pid(), *agent, deadline_in_ms(kPatience));
    }
    ASSERT_TRUE(gone) << gone.error().why;
    ASSERT_EQ(traces_left(target.pid()), 0U);
  }
  EXPECT_EQ(came, 8);
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(BringAgent, ByDlopenFromSigsuspend) {
  TargetProcess target("inject_target", "sigsuspend");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(comes_and_goes(target, AgentWish::kAny, AgentWay::kDlopen)) << i;
  }
  EXPECT_EQ(target.finish(), 0) << target.output();
}

// bash at its prompt, a server in recv: they wait for somebody else, with no lock of libc.
TEST(BringAgent, ByDlopenFromAThreadThatReadsAPipe) {
  TargetProcess target("inject_target", "spin", 1);
  EXPECT_TRUE(comes_and_goes(target, AgentWish::kAny, AgentWay::kDlopen));
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(BringAgent, IntoEveryKindOfProgram) {
  for (const char* build :
       {"inject_target", "inject_target_static", "inject_target_musl", "inject_target_stripped"}) {
    TargetProcess target(build, "idle");
    ASSERT_TRUE(target.is_ready()) << build;
    EXPECT_TRUE(comes_and_goes(target, AgentWish::kMappedOnly, AgentWay::kMapped)) << build;
    const bool is_static = strstr(build, "static") != nullptr || strstr(build, "musl") != nullptr;
    EXPECT_TRUE(
        comes_and_goes(target, AgentWish::kAny, is_static ? AgentWay::kMapped : AgentWay::kDlopen))
        << build;
    EXPECT_EQ(target.finish(), 0) << build << target.output();
  }
}

TEST(BringAgent, NobodyIntoOwnProcesses) {
  EXPECT_EQ(as_nobody([] {
              TargetProcess target("inject_target", "idle");
              const auto a = comes_and_goes(target, AgentWish::kAny, AgentWay::kDlopen);
              const auto b = comes_and_goes(target, AgentWish::kMappedOnly, AgentWay::kMapped);
              if (!a || !b) {
                std::printf("%s; %s\n", a.message(), b.message());
                fflush(stdout);
                return 1;
              }
              return target.finish();
            }),
            0);
}

TEST(BringAgent, IntoAProcessThatBecameNobody) {
  if (getuid() != 0) {
    return;  // needs root to make one; NobodyIntoOwnProcesses is the rest
  }
  TargetProcess target("inject_target", "idle", 1, [] {
    if (setgid(65534) != 0 || setuid(65534) != 0) {
      _exit(9);
    }
  });
  ASSERT_TRUE(target.is_ready());
  EXPECT_TRUE(comes_and_goes(target, AgentWish::kAny, AgentWay::kDlopen));
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(BringAgent, IntoAChrootWithoutProc) {
  if (getuid() != 0) {
    return;  // chroot needs root
  }
  char root[] = "/tmp/inject-test-XXXXXX";
  ASSERT_NE(mkdtemp(root), nullptr);
  ASSERT_EQ(chmod(root, 0755), 0);
  const auto program = file_bytes(std::string(TARGET_DIRECTORY) + "/inject_target_static");
  const std::string copy = std::string(root) + "/target";
  const int fd = open(copy.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
  ASSERT_EQ(write(fd, program.data(), program.size()), static_cast<ssize_t>(program.size()));
  close(fd);
  {
    TargetProcess target(
        "target", "idle", 1,
        [&] {
          if (chroot(root) != 0 || chdir("/") != 0 || setuid(65534) != 0) {
            _exit(9);
          }
        },
        "/target");
    ASSERT_TRUE(target.is_ready());
    EXPECT_TRUE(comes_and_goes(target, AgentWish::kAny, AgentWay::kMapped));
    EXPECT_EQ(target.finish(), 0) << target.output();
  }
  unlink(copy.c_str());
  rmdir(root);
}

// A program with a libc loader whose /proc is away by the time we come: dlopen fails, the mapping
// works.
TEST(BringAgent, DlopenWithoutProcFallsBackToMapping) {
  if (getuid() != 0) {
    return;
  }
  char root[] = "/tmp/inject-test-XXXXXX";
  ASSERT_NE(mkdtemp(root), nullptr);
  ASSERT_EQ(chmod(root, 0755), 0);
  const std::string tree = root;
  const auto program = file_bytes(std::string(TARGET_DIRECTORY) + "/inject_target");
  const auto put = [&](const std::string& path, const std::vector<std::byte>& bytes) {
    const int fd = open((tree + path).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    EXPECT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    close(fd);
  };
  std::string libc_path, loader_path;
  const auto own_maps = read_maps(getpid());
  for (const Mapping& mapping : *own_maps) {
    if (mapping.path.find("libc.so.6") != std::string::npos) {
      libc_path = mapping.path;
    }
    if (mapping.path.find("ld-linux") != std::string::npos) {
      loader_path = mapping.path;
    }
  }
  for (const char* directory : {"/lib64", "/lib", "/lib/x86_64-linux-gnu"}) {
    mkdir((tree + directory).c_str(), 0755);
  }
  put("/target", program);
  put("/lib64/ld-linux-x86-64.so.2", file_bytes(loader_path));
  put("/lib/x86_64-linux-gnu/libc.so.6", file_bytes(libc_path));
  {
    TargetProcess target(
        "target", "idle", 1,
        [&] {
          if (chroot(root) != 0 || chdir("/") != 0) {
            _exit(9);
          }
        },
        "/target");
    ASSERT_TRUE(target.is_ready());
    EXPECT_TRUE(comes_and_goes(target, AgentWish::kAny, AgentWay::kMapped));
    EXPECT_EQ(target.finish(), 0) << target.output();
  }
  for (const char* path :
       {"/target", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"}) {
    unlink((tree + path).c_str());
  }
  for (const char* directory : {"/lib/x86_64-linux-gnu", "/lib", "/lib64", ""}) {
    rmdir((tree + directory).c_str());
  }
}

TEST(BringAgent, OtherImagesAreRefusedBeforeAnythingIsTouched) {
  TargetProcess target("inject_target", "idle");
  const auto program = file_bytes(std::string(TARGET_DIRECTORY) + "/inject_target");
  EXPECT_EQ(
      bring_agent(target.pid(), program, AgentWish::kAny, deadline_in_ms(kPatience)).error().code,
      EOPNOTSUPP);
  const std::vector<std::byte> text(100, std::byte{'x'});
  EXPECT_EQ(
      bring_agent(target.pid(), text, AgentWish::kAny, deadline_in_ms(kPatience)).error().code,
      ENOEXEC);
  const auto agent = file_bytes(TEST_AGENT);
  EXPECT_EQ(bring_agent(0x3ffffff, agent, AgentWish::kAny, deadline_in_ms(100)).error().code,
            ESRCH);
  EXPECT_EQ(target.finish(), 0);
}

TEST(BringAgent, ThousandRoundsLeaveAllocatingThreadsWhole) {
  TargetProcess target("inject_target", "malloc", 2);
  const auto file = file_bytes(TEST_AGENT);
  std::vector<uint64_t> times;
  for (int i = 0; i < 1000; ++i) {
    auto agent = bring_agent(target.pid(), file, AgentWish::kMappedOnly, deadline_in_ms(kPatience));
    ASSERT_TRUE(agent) << i << " " << agent.error().why;
    times.push_back(agent->stopped_ns);
    ASSERT_TRUE(unload_agent(target.pid(), *agent, deadline_in_ms(kPatience)));
  }
  std::sort(times.begin(), times.end());
  std::printf("mapped: thread held min %.0f us, median %.0f us\n",
              static_cast<double>(times[0]) / 1e3, static_cast<double>(times[500]) / 1e3);
  EXPECT_EQ(traces_left(target.pid()), 0U);
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(BringAgent, HundredDlopensLeaveWaitersWhole) {
  TargetProcess target("inject_target", "wait");
  const auto file = file_bytes(TEST_AGENT);
  std::vector<uint64_t> times;
  for (int i = 0; i < 100; ++i) {
    auto agent = bring_agent(target.pid(), file, AgentWish::kDlopenOnly, deadline_in_ms(kPatience));
    ASSERT_TRUE(agent) << i << " " << agent.error().why;
    times.push_back(agent->stopped_ns);
    ASSERT_TRUE(unload_agent(target.pid(), *agent, deadline_in_ms(kPatience)));
  }
  std::sort(times.begin(), times.end());
  std::printf("dlopen: thread held min %.0f us, median %.0f us\n",
              static_cast<double>(times[0]) / 1e3, static_cast<double>(times[50]) / 1e3);
  EXPECT_EQ(traces_left(target.pid()), 0U);
  EXPECT_EQ(target.finish(), 0) << target.output();
}

}  // namespace
}  // namespace bpftime
