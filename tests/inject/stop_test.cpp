#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdio>
#include <thread>

#include "inject/process_maps.hpp"
#include "inject/stopped_process.hpp"
#include "target_process.hpp"

namespace bpftime {
namespace {

TEST(StoppedProcess, AllThreadsAreStoppedAndGoOn) {
  TargetProcess target("inject_target", "spin", 64);
  ASSERT_TRUE(target.is_ready());
  std::vector<uint64_t> times;
  for (int i = 0; i < 50; ++i) {
    const uint64_t begun = monotonic_ns();
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    times.push_back(monotonic_ns() - begun);
    ASSERT_TRUE(process) << process.error().why;
    ASSERT_EQ(process->threads().size(), 65U);
    EXPECT_EQ(process->threads()[0], target.pid());
    for (const pid_t tid : process->threads()) {
      auto registers = process->registers(tid);
      ASSERT_TRUE(registers);
      EXPECT_NE(registers->fs_base, 0U);
    }
  }
  std::sort(times.begin(), times.end());
  std::printf("stop 65 threads: min %.0f us, median %.0f us\n", static_cast<double>(times[0]) / 1e3,
              static_cast<double>(times[25]) / 1e3);
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(StoppedProcess, AThreadThatGetsItsTurnLateIsWaitedFor) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  const auto share = [&](int nice_by) {
    sched_setaffinity(0, sizeof one, &one);
    EXPECT_NE(nice(nice_by), -100);
  };
  TargetProcess last("inject_target", "spin", 1, [&] { share(19); });
  TargetProcess first("inject_target", "spin", 3, [&] { share(0); });
  ASSERT_TRUE(last.is_ready() && first.is_ready());
  for (int i = 0; i < 5; ++i) {
    auto process = StoppedProcess::stop(last.pid(), deadline_in_ms(1));
    ASSERT_TRUE(process) << process.error().why;
  }
}

TEST(StoppedProcess, InterruptedSystemCallsGoOnUnseen) {
  TargetProcess target("inject_target", "wait");
  ASSERT_TRUE(target.is_ready());
  for (int i = 0; i < 400; ++i) {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process) << process.error().why;
    process->release();
    usleep(2000 + static_cast<unsigned>(i) * 20);
  }
  EXPECT_EQ(target.finish(), 0) << target.output();
  EXPECT_GT(target.said("counted"), 50);
}

TEST(StoppedProcess, StoppedBySigstopStaysStopped) {
  TargetProcess target("inject_target", "spin", 3);
  kill(target.pid(), SIGSTOP);
  EXPECT_TRUE(comes_to_state(target.pid(), 'T'));
  for (int i = 0; i < 20; ++i) {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process) << process.error().why;
    ASSERT_EQ(process->threads().size(), 4U);
  }
  EXPECT_TRUE(comes_to_state(target.pid(), 'T'));
  kill(target.pid(), SIGCONT);
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(StoppedProcess, SigstopArrivingWhileStoppedIsKept) {
  TargetProcess target("inject_target", "spin", 3);
  {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    kill(target.pid(), SIGSTOP);
  }
  EXPECT_TRUE(comes_to_state(target.pid(), 'T'));
  {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    kill(target.pid(), SIGCONT);
  }
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(StoppedProcess, NoQueuedSignalIsLost) {
  TargetProcess target("inject_target", "signals", 4);
  long sent = 0;
  std::atomic<bool> enough{false};
  std::thread sender([&] {
    while (!enough && sent < 4000) {  // (a queue of many thousands takes the kernel minutes)
      union sigval value;
      value.sival_int = 4711;
      if (sigqueue(target.pid(), SIGRTMIN + static_cast<int>(sent % 20), value) == 0) {
        ++sent;
      }
      if (sent % 16 == 0) {
        usleep(200);
      }
    }
  });
  for (int i = 0; i < 150; ++i) {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process) << process.error().why;
  }
  enough = true;
  sender.join();
  // What is still queued is delivered before the target reads the end of its input in user space.
  EXPECT_EQ(target.finish(), 0) << target.output();
  EXPECT_EQ(target.said("signals"), sent);
  EXPECT_GT(sent, 100);
}

TEST(StoppedProcess, ThreadsThatComeAndGoAreAllStopped) {
  TargetProcess target("inject_target", "churn", 4);
  for (int i = 0; i < 500; ++i) {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process) << process.error().why;
    auto listed = read_threads(target.pid());
    ASSERT_TRUE(listed);
    for (const pid_t tid : *listed) {
      auto status = read_thread_status(target.pid(), tid);
      if (status) {
        EXPECT_TRUE(status->state == 't' || status->is_zombie() || status->state == 'T')
            << status->state;
      }
    }
  }
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(StoppedProcess, MainThreadThatHasExitedIsNoObstacle) {
  TargetProcess target("inject_target", "dead-main");
  EXPECT_TRUE(comes_to_state(target.pid(), 'Z'));
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process) << process.error().why;
  ASSERT_EQ(process->threads().size(), 1U);
  EXPECT_NE(process->threads()[0], target.pid());
}

TEST(StoppedProcess, KilledInTheMiddleIsEsrchAndItsParentSeesItsEnd) {
  for (int i = 0; i < 20; ++i) {
    TargetProcess target("inject_target", "spin", 3);
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    kill(target.pid(), SIGKILL);
    process->release();
    EXPECT_EQ(target.finish(), 128 + SIGKILL);
    EXPECT_EQ(StoppedProcess::stop(target.pid(), deadline_in_ms(100)).error().code, ESRCH);
  }
}

TEST(StoppedProcess, KilledWhileStoppingNeverHangs) {
  for (int i = 0; i < 60; ++i) {
    TargetProcess target("inject_target", "churn", 4);
    std::thread killer([&] {
      usleep(static_cast<unsigned>(i) * 10);
      kill(target.pid(), SIGKILL);
    });
    for (int round = 0; round < 50; ++round) {
      auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
      if (!process) {
        EXPECT_EQ(process.error().code, ESRCH) << process.error().why;
        break;
      }
    }
    killer.join();
    // (Its parent and its tracer are the same process here: either may have taken note of its end.)
    const pid_t pid = target.pid();
    target.finish();
    EXPECT_EQ(kill(pid, 0), -1);
  }
}

// The parent of a vfork waits uninterruptibly: it cannot be stopped in time, and must not stay
// stopped afterwards.
TEST(StoppedProcess, ThreadThatDoesNotComeIsEtimedoutAndLetGoLater) {
  TargetProcess target("inject_target", "vfork");
  EXPECT_TRUE(comes_to_state(target.pid(), 'D'));
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(50));
  ASSERT_FALSE(process);
  EXPECT_EQ(process.error().code, ETIMEDOUT);
  EXPECT_EQ(let_late_threads_go(), 1U);
  std::thread ending([&] { EXPECT_EQ(target.finish(), 0) << target.output(); });
  EXPECT_TRUE(comes_true([] { return let_late_threads_go() == 0; }));
  ending.join();
}

TEST(StoppedProcess, TracedByAnotherFailsWithEbusy) {
  TargetProcess target("inject_target", "idle");
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t tracer = fork();
  if (tracer == 0) {
    const bool ok = ptrace(PTRACE_SEIZE, target.pid(), nullptr, nullptr) == 0;
    (void)!write(ready[1], ok ? "y" : "n", 1);
    pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_FALSE(process);
  EXPECT_EQ(process.error().code, EBUSY);
  EXPECT_EQ(read_status(target.pid())->tracer, tracer);
  kill(tracer, SIGKILL);
  waitpid(tracer, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
  EXPECT_EQ(target.finish(), 0);
}

TEST(StoppedProcess, OfAnotherUserFailsWithEperm) {
  if (getuid() != 0) {
    EXPECT_EQ(StoppedProcess::stop(1, deadline_in_ms(kPatience)).error().code, EPERM);
    return;
  }
  TargetProcess target("inject_target", "idle");
  EXPECT_EQ(as_nobody([&] {
              auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
              return process ? 0 : process.error().code;
            }),
            EPERM);
}

TEST(StoppedProcess, NobodyStopsOwnProcesses) {
  EXPECT_EQ(as_nobody([&] {
              TargetProcess target("inject_target", "spin", 4);
              for (int i = 0; i < 10; ++i) {
                auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
                if (!process || process->threads().size() != 5) {
                  return 1;
                }
              }
              return target.finish();
            }),
            0);
}

TEST(StoppedProcess, WriteCodeReachesTextAndComparesFirst) {
  TargetProcess target("inject_target", "spin", 1);
  auto maps = read_maps(target.pid());
  ASSERT_TRUE(maps);
  uint64_t code = 0;
  for (const Mapping& mapping : *maps) {
    if (mapping.prot == (PROT_READ | PROT_EXEC) &&
        mapping.path.find("inject_target") != std::string::npos) {
      code = mapping.begin;
    }
  }
  ASSERT_NE(code, 0U);
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  const auto before = process->read_value<std::array<std::byte, 5>>(RemoteAddr{code});
  ASSERT_TRUE(before);
  std::array<std::byte, 5> after{};
  std::array<std::byte, 5> wrong = *before;
  wrong[4] ^= std::byte{1};
  EXPECT_EQ(process->write_code(RemoteAddr{code}, wrong, after).error().code, ESTALE);
  EXPECT_TRUE(process->write_code(RemoteAddr{code}, *before, after));
  EXPECT_EQ(*(process->read_value<std::array<std::byte, 5>>(RemoteAddr{code})), after);
  EXPECT_TRUE(process->write_code(RemoteAddr{code}, after, *before));
  EXPECT_EQ(process->read_value<uint64_t>(RemoteAddr{8}).error().code, EFAULT);
  EXPECT_EQ(process->write_value<uint64_t>(RemoteAddr{8}, 1).error().code, EFAULT);
  process->release();
  EXPECT_EQ(target.finish(), 0);
}

Patch patch_at(uint64_t site) {
  Patch patch = {};
  patch.site = RemoteAddr{site};
  patch.site_bytes = 5;
  patch.move_count = 4;
  for (uint32_t i = 0; i < 4; ++i) {
    patch.moves[i] = {i + 1, 0x700000 + i + 1};
  }
  return patch;
}

TEST(StoppedProcess, MoveIpsMovesOnlyThoseStrictlyInside) {
  TargetProcess target("inject_target", "spin", 1);
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  const pid_t tid = process->threads()[1];
  const Registers original = *process->registers(tid);
  const uint64_t ip = original.rip;
  for (uint64_t offset = 0; offset < 7; ++offset) {
    const Patch patch = patch_at(ip - offset);
    auto moved = process->move_ips(std::span(&patch, 1));
    ASSERT_TRUE(moved);
    const bool inside = offset >= 1 && offset <= 4;
    EXPECT_EQ(*moved, inside ? 1U : 0U);
    EXPECT_EQ(process->registers(tid)->rip, inside ? 0x700000 + offset : ip);
    auto back = process->move_ips_back(std::span(&patch, 1));
    ASSERT_TRUE(back);
    EXPECT_EQ(process->registers(tid)->rip, ip);
  }
  Patch patch = patch_at(ip - 3);
  patch.move_count = 2;
  EXPECT_EQ(process->move_ips(std::span(&patch, 1)).error().code, EFAULT);
  EXPECT_EQ(process->registers(tid)->rip, ip);
  process->release();
  EXPECT_EQ(target.finish(), 0);
}

TEST(StoppedProcess, MoveIpsFollowsACallToBeRestarted) {
  TargetProcess target("inject_target", "idle");
  ASSERT_TRUE(comes_to_wait_in(target.pid(), SYS_poll));
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  const Registers original = *process->registers(target.pid());
  ASSERT_EQ(original.orig_rax, static_cast<unsigned long>(SYS_poll));
  // The displaced bytes end with the `syscall`: its ip stands just behind them, but goes back into
  // them.
  Patch patch = patch_at(original.rip - 5);
  EXPECT_EQ(*process->move_ips(std::span(&patch, 1)), 1U);
  EXPECT_EQ(process->registers(target.pid())->rip, 0x700003U + 2);
  EXPECT_EQ(*process->move_ips_back(std::span(&patch, 1)), 1U);
  EXPECT_EQ(process->registers(target.pid())->rip, original.rip);
  process->release();
  EXPECT_EQ(target.finish(), 0);
}

TEST(ProcessStatus, TellsHowAThreadIsNumberedInItsPidNamespace) {
  int pipes[2];
  ASSERT_EQ(pipe2(pipes, O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) {
    const pid_t inner =
        unshare(CLONE_NEWPID | (geteuid() == 0 ? 0 : CLONE_NEWUSER)) == 0 ? fork() : -1;
    if (inner == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) {
        pause();
      }
    }
    const bool said = write(pipes[1], &inner, sizeof(inner)) == sizeof(inner);
    waitpid(inner, nullptr, 0);
    _exit(said ? 0 : 1);
  }
  pid_t inner = -1;
  ASSERT_EQ(read(pipes[0], &inner, sizeof(inner)), static_cast<ssize_t>(sizeof(inner)));
  ASSERT_GT(inner, 0);
  const auto status = read_thread_status(inner, inner);
  kill(inner, SIGKILL);
  waitpid(child, nullptr, 0);
  close(pipes[0]);
  close(pipes[1]);
  ASSERT_TRUE(status);
  EXPECT_EQ(status->inner_tid, 1);
  EXPECT_EQ(status->inner_tgid, 1);
  EXPECT_EQ(read_thread_status(getpid(), gettid())->inner_tid, gettid());
}

}  // namespace
}  // namespace bpftime
