#include "inject/remote_call.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <thread>

#include "inject/process_maps.hpp"
#include "inject/remote_memory.hpp"
#include "target_process.hpp"

namespace bpftime {
namespace {

size_t count_fds(pid_t pid) {
  size_t count = 0;
  for (int fd = 0; fd < 2000; ++fd) {
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    struct stat info;
    count += lstat(path, &info) == 0;
  }
  return count;
}

bool same_registers(const Registers& a, const Registers& b) {
  return memcmp(&a, &b, sizeof a) == 0;
}

TEST(RemoteThread, SystemCallsLeaveEveryRegisterAndTheMask) {
  TargetProcess target("inject_target", "spin", 2);
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  for (const pid_t tid : process->threads()) {
    const Registers before = *process->registers(tid);
    const uint64_t mask = *process->signal_mask(tid);
    {
      auto thread = RemoteThread::begin(*process, tid, deadline_in_ms(kPatience));
      ASSERT_TRUE(thread) << thread.error().why;
      EXPECT_EQ(*thread->syscall(SYS_getpid), static_cast<uint64_t>(target.pid()));
      EXPECT_EQ(*thread->syscall(SYS_gettid), static_cast<uint64_t>(tid));
      EXPECT_EQ(thread->syscall(SYS_close, 999).error().code, EBADF);
    }
    Registers after;
    ASSERT_EQ(ptrace(PTRACE_GETREGS, tid, nullptr, &after), 0);
    EXPECT_TRUE(same_registers(before, after));
    EXPECT_EQ(*process->signal_mask(tid), mask);
  }
  process->release();
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteThread, ThreadsInSystemCallsSeeNothing) {
  TargetProcess target("inject_target", "wait");
  for (int i = 0; i < 60; ++i) {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    for (const pid_t tid : process->threads()) {
      auto thread = RemoteThread::begin(*process, tid, deadline_in_ms(kPatience));
      ASSERT_TRUE(thread) << thread.error().why;
      EXPECT_EQ(*thread->syscall(SYS_gettid), static_cast<uint64_t>(tid));
      EXPECT_TRUE(thread->finish());
    }
    process->release();
    usleep(3000);
  }
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteThread, NoQueuedSignalIsLost) {
  TargetProcess target("inject_target", "signals", 2);
  long sent = 0;
  std::atomic<bool> enough{false};
  std::thread sender([&] {
    while (!enough && sent < 4000) {
      union sigval value;
      value.sival_int = 4711;
      sent += sigqueue(target.pid(), SIGRTMIN + static_cast<int>(sent % 20), value) == 0;
      if (sent % 16 == 0) {
        usleep(50);
      }
    }
  });
  for (int i = 0; i < 50; ++i) {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process) << process.error().why;
    for (const pid_t tid : process->threads()) {  // also those with a signal in our hands
      auto thread = RemoteThread::begin(*process, tid, deadline_in_ms(kPatience));
      ASSERT_TRUE(thread) << thread.error().why;
      EXPECT_EQ(*thread->syscall(SYS_gettid), static_cast<uint64_t>(tid));
    }
  }
  enough = true;
  sender.join();
  EXPECT_EQ(target.finish(), 0) << target.output();
  EXPECT_EQ(target.said("signals"), sent);
}

TEST(RemoteThread, SigstoppedTargetWorksForUsAndStaysStopped) {
  TargetProcess target("inject_target", "spin", 2);
  kill(target.pid(), SIGSTOP);
  ASSERT_TRUE(comes_to_state(target.pid(), 'T'));
  for (int i = 0; i < 10; ++i) {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
    ASSERT_TRUE(thread);
    EXPECT_EQ(*thread->syscall(SYS_getpid), static_cast<uint64_t>(target.pid()));
  }
  EXPECT_TRUE(comes_to_state(target.pid(), 'T'));
  kill(target.pid(), SIGCONT);
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteThread, SigstopInTheMiddleIsKept) {
  TargetProcess target("inject_target", "spin", 2);
  {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
    ASSERT_TRUE(thread);
    kill(target.pid(), SIGSTOP);
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(*thread->syscall(SYS_getpid), static_cast<uint64_t>(target.pid()));
    }
  }
  EXPECT_TRUE(comes_to_state(target.pid(), 'T'));
  kill(target.pid(), SIGCONT);
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteThread, KilledInTheMiddleIsEsrch) {
  TargetProcess target("inject_target", "spin", 2);
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  {
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
    ASSERT_TRUE(thread);
    ASSERT_TRUE(thread->syscall(SYS_getpid));
    kill(target.pid(), SIGKILL);
    Result<uint64_t> result = 0UL;
    for (int i = 0; i < 3 && result; ++i) {
      result = thread->syscall(SYS_getpid);
    }
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ESRCH);
  }
  process->release();
  const pid_t pid = target.pid();
  target.finish();
  EXPECT_EQ(kill(pid, 0), -1);
}

// Whatever its thread was doing for us: killed, we leave it to take itself back to where it was.
TEST(RemoteThread, OurDeathInTheMiddleLeavesItWhole) {
  for (const char* mode : {"wait", "malloc", "idle"}) {
    TargetProcess target("inject_target", mode, 2);
    const auto region = [&] {  // what is mapped there for us, far from everything else
      const auto maps = read_maps(target.pid());
      return std::any_of(maps->begin(), maps->end(), [](const Mapping& m) {
        return m.begin >> 40 >= 1 && m.begin >> 40 < 0x50;
      });
    };
    for (int round = 0; round < 20; ++round) {
      const pid_t tracer = fork();
      if (tracer == 0) {
        auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
        const auto threads = process->threads();
        const pid_t tid = threads[static_cast<size_t>(round) % threads.size()];
        auto thread = RemoteThread::begin(*process, tid, deadline_in_ms(kPatience));
        if (!thread->scratch()) {
          _exit(1);
        }
        for (int i = 0; i < round; ++i) {
          if (*thread->syscall(SYS_gettid) != static_cast<uint64_t>(tid)) {
            _exit(2);
          }
        }
        usleep(static_cast<unsigned>(round) * 10);
        kill(getpid(), SIGKILL);
      }
      int status = 0;
      waitpid(tracer, &status, 0);
      EXPECT_TRUE(WIFSIGNALED(status)) << WEXITSTATUS(status);
      // Every thread is in its own code again, with its own signal mask.
      ASSERT_TRUE(comes_true([&] {
        auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
        EXPECT_TRUE(process) << process.error().why;
        return process && std::ranges::all_of(process->threads(), [&](pid_t tid) {
                 return *process->signal_mask(tid) == 0;
               });
      })) << mode
          << " round " << round;
    }
    EXPECT_FALSE(region()) << mode;
    EXPECT_EQ(target.finish(), 0) << mode << target.output();
  }
}

TEST(RemoteThread, GsBaseIsSetAndKept) {
  TargetProcess target("inject_target", "spin", 1);
  for (const uint64_t base : {0x12345000UL, 0UL}) {
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    for (const pid_t tid : process->threads()) {
      Registers registers = *process->registers(tid);
      EXPECT_EQ(registers.gs_base, base == 0 ? 0x12345000UL : 0UL);
      registers.gs_base = base;
      ASSERT_TRUE(process->set_registers(tid, registers));
      auto thread = RemoteThread::begin(*process, tid, deadline_in_ms(kPatience));
      ASSERT_TRUE(thread);
      ASSERT_TRUE(thread->syscall(SYS_getpid));
    }
  }
  EXPECT_EQ(target.finish(), 0) << target.output();
}

void allow_everything_by_filter() {
  const sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_filter load = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  const sock_filter is_mmap = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1);
  const sock_filter killing = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  sock_filter code[] = {load, is_mmap, killing, allow};
  const sock_fprog program = {4, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    _exit(9);
  }
}

TEST(RemoteThread, SeccompFilterIsSuspendedByRootAndRespectedByOthers) {
  if (getuid() == 0) {
    TargetProcess target("inject_target", "idle", 1, allow_everything_by_filter);
    ASSERT_TRUE(target.is_ready());
    auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
    ASSERT_TRUE(process);
    {
      auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
      ASSERT_TRUE(thread) << thread.error().why;
      auto name = thread->scratch();
      ASSERT_TRUE(name);
      auto fd = thread->syscall(SYS_memfd_create, raw(*name), 0);
      ASSERT_TRUE(fd);
      ASSERT_TRUE(thread->syscall(SYS_close, *fd));
    }
    process->release();
    EXPECT_EQ(target.finish(), 0) << target.output();
  }
  EXPECT_EQ(as_nobody([] {
              TargetProcess target("inject_target", "idle", 1, allow_everything_by_filter);
              auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
              if (!process) {
                return 1;
              }
              {
                auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
                if (thread || thread.error().code != EACCES) {
                  return 2;
                }
              }
              process->release();
              return target.finish();
            }),
            0);
}

uint64_t in_target(const TargetProcess& target, const char* symbol) {
  // Same libc file here and there: the distance from its base is the same.
  Dl_info info = {};
  void* here = dlsym(RTLD_DEFAULT, symbol);
  EXPECT_NE(dladdr(here, &info), 0);
  const auto maps = read_maps(target.pid());
  for (const Mapping& mapping : *maps) {
    if (mapping.offset == 0 && mapping.path.find("libc.so.6") != std::string::npos) {
      return mapping.begin +
             (reinterpret_cast<uint64_t>(here) - reinterpret_cast<uint64_t>(info.dli_fbase));
    }
  }
  return 0;
}

TEST(RemoteThread, FunctionsAreCalledWithArgumentsAndAlignedStack) {
  TargetProcess target("inject_target", "idle");
  ASSERT_TRUE(comes_to_wait_in(target.pid(), SYS_poll));
  const uint64_t labs_at = in_target(target, "labs"), getpid_at = in_target(target, "getppid");
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  {
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
    ASSERT_TRUE(thread);
    auto labs_result = thread->call(RemoteAddr{labs_at}, {static_cast<uint64_t>(-0x123456789abcL)});
    ASSERT_TRUE(labs_result) << labs_result.error().why;
    EXPECT_EQ(*labs_result, 0x123456789abcU);
    auto parent = thread->call(RemoteAddr{getpid_at}, {});  // makes a system call itself
    ASSERT_TRUE(parent);
    EXPECT_EQ(*parent, static_cast<uint64_t>(getpid()));
  }
  process->release();
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteThread, FaultingFunctionIsEfaultAndTheThreadGoesOn) {
  TargetProcess target("inject_target", "idle");
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  {
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
    ASSERT_TRUE(thread);
    EXPECT_EQ(thread->call(RemoteAddr{0x10}, {}).error().code, EFAULT);
  }
  process->release();
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteThread, FunctionThatNeverReturnsIsCalledOff) {
  TargetProcess target("inject_target", "idle");
  const uint64_t pause_at = in_target(target, "pause");
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  {
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(500));
    ASSERT_TRUE(thread);
    EXPECT_EQ(thread->call(RemoteAddr{pause_at}, {}).error().code, ETIMEDOUT);
  }
  process->release();
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteThread, CallsInOneGoAreMadeInOrderAndMayUseWhatOneBeforeHasWritten) {
  TargetProcess target("inject_target", "malloc", 2);
  const size_t fds_before = count_fds(target.pid());
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  {
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
    ASSERT_TRUE(thread);
    const RemoteAddr scratch = *thread->scratch();
    RemoteCalls calls;
    calls.add(SYS_pipe2, {raw(scratch), 0});
    calls.add(SYS_write, {RemoteCalls::Arg::at(RemoteAddr{raw(scratch) + 4}), raw(scratch), 8});
    calls.add(SYS_close, {999});
    calls.add(SYS_read, {RemoteCalls::Arg::at(scratch), raw(scratch) + 64, 8});
    for (int i = 0; i < 100; ++i) {  // more than there is room for at once
      calls.add(SYS_getpid, {});
    }
    calls.add(SYS_close, {RemoteCalls::Arg::at(scratch)});
    calls.add(SYS_close, {RemoteCalls::Arg::at(RemoteAddr{raw(scratch) + 4})});
    const auto results = thread->run(calls);
    ASSERT_TRUE(results) << results.error().why;
    ASSERT_EQ(results->size(), calls.size());
    EXPECT_EQ((*results)[1], 8U);
    EXPECT_EQ(RemoteThread::check_result((*results)[2]).error().code, EBADF);
    EXPECT_EQ((*results)[3], 8U);
    EXPECT_EQ((*results)[103], static_cast<uint64_t>(target.pid()));
    EXPECT_EQ((*results)[105], 0U);
    EXPECT_EQ(*process->read_value<uint64_t>(scratch),
              *process->read_value<uint64_t>(RemoteAddr{raw(scratch) + 64}));
    EXPECT_TRUE(thread->run(RemoteCalls())->empty());
  }
  EXPECT_EQ(count_fds(target.pid()), fds_before);
  process->release();
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteMemory, MappingsMadeInOneGoAreAllThereOrNone) {
  TargetProcess target("inject_target", "malloc", 2);
  const size_t fds_before = count_fds(target.pid());
  const auto maps_before = read_maps(target.pid());
  const UniqueFd file(memfd_create("bpftime-code", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 4096), 0);
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  {
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
    ASSERT_TRUE(thread);
    auto channel = remote_channel(*thread);
    ASSERT_TRUE(channel) << channel.error().why;
    const uint64_t hole = *find_hole(*maps_before, (*maps_before)[0].begin, 1 << 20);
    const auto mapping = [&](uint64_t page, int fd) {
      return RemoteMapping{RemoteAddr{hole + page * 4096},    4096, PROT_READ | PROT_WRITE,
                           fd < 0 ? MAP_PRIVATE : MAP_SHARED, fd,   fd < 0 ? MADV_WIPEONFORK : 0};
    };
    const RemoteMapping taken[] = {mapping(0, file.get()), mapping(1, -1), mapping(0, file.get())};
    EXPECT_EQ(remote_map(*thread, *channel, taken).error().code, EEXIST);
    EXPECT_EQ(process->read_value<char>(RemoteAddr{hole}).error().code, EFAULT);
    EXPECT_EQ(process->read_value<char>(RemoteAddr{hole + 4096}).error().code, EFAULT);
    const RemoteMapping good[] = {mapping(0, file.get()), mapping(1, -1), mapping(2, file.get())};
    ASSERT_TRUE(remote_map(*thread, *channel, good));
    ASSERT_TRUE(process->write_value<uint64_t>(RemoteAddr{hole}, 4711));
    EXPECT_EQ(*process->read_value<uint64_t>(RemoteAddr{hole + 8192}), 4711U);
    ASSERT_TRUE(remote_unmap(*thread, RemoteAddr{hole}, 3 * 4096));
    ASSERT_TRUE(remote_close(*thread, channel->remote_fd));
  }
  EXPECT_EQ(read_maps(target.pid())->size(), maps_before->size());
  EXPECT_EQ(count_fds(target.pid()), fds_before);
  process->release();
  EXPECT_EQ(target.finish(), 0) << target.output();
}

TEST(RemoteMemory, MappingsAndDescriptorsComeAndGo) {
  TargetProcess target("inject_target", "malloc", 2);
  const size_t fds_before = count_fds(target.pid());
  const auto maps_before = read_maps(target.pid());
  auto process = StoppedProcess::stop(target.pid(), deadline_in_ms(kPatience));
  ASSERT_TRUE(process);
  std::vector<uint64_t> times;
  {
    auto thread = RemoteThread::begin(*process, 0, deadline_in_ms(kPatience));
    ASSERT_TRUE(thread);
    const uint64_t hole = *find_hole(*maps_before, (*maps_before)[0].begin, 1 << 20);
    ASSERT_TRUE(remote_map_anonymous(*thread, RemoteAddr{hole}, 1 << 20, PROT_READ | PROT_WRITE));
    EXPECT_EQ(remote_map_anonymous(*thread, RemoteAddr{hole}, 4096, PROT_READ).error().code,
              EEXIST);
    ASSERT_TRUE(process->write_value<uint64_t>(RemoteAddr{hole + 8}, 99));
    ASSERT_TRUE(remote_protect(*thread, RemoteAddr{hole}, 1 << 20, PROT_READ));
    EXPECT_EQ(*process->read_value<uint64_t>(RemoteAddr{hole + 8}), 99U);
    ASSERT_TRUE(remote_madvise(*thread, RemoteAddr{hole}, 1 << 20, MADV_DONTNEED));
    EXPECT_EQ(*process->read_value<uint64_t>(RemoteAddr{hole + 8}), 0U);
    ASSERT_TRUE(remote_unmap(*thread, RemoteAddr{hole}, 1 << 20));

    auto channel = remote_channel(*thread);
    ASSERT_TRUE(channel) << channel.error().why;
    EXPECT_GE(channel->remote_fd, 48);  // a table of descriptors has 64 places at least
    EXPECT_LE(channel->remote_fd, 1024);
    EXPECT_NE(channel->remote_inode, 0U);
    std::vector<UniqueFd> ours;
    std::vector<int> numbers;
    for (uint64_t i = 0; i < 20; ++i) {
      ours.emplace_back(memfd_create("bpftime-code", MFD_CLOEXEC));
      ASSERT_EQ(ftruncate(ours.back().get(), 4096), 0);
      ASSERT_EQ(pwrite(ours.back().get(), &i, 8, 0), 8);
      numbers.push_back(ours.back().get());
    }
    const uint64_t begun = monotonic_ns();
    auto there = send_fds(*thread, *channel, numbers);
    ASSERT_TRUE(there) << there.error().why;
    ASSERT_EQ(there->size(), 20U);
    for (uint64_t i = 0; i < 20; ++i) {
      ASSERT_TRUE(
          remote_map_fd(*thread, RemoteAddr{hole}, 4096, PROT_READ, MAP_SHARED, (*there)[i], 0));
      EXPECT_EQ(*process->read_value<uint64_t>(RemoteAddr{hole}), i);
      ASSERT_TRUE(remote_unmap(*thread, RemoteAddr{hole}, 4096));
      ASSERT_TRUE(remote_close(*thread, (*there)[i]));
    }
    std::printf("62 remote system calls: %.0f us\n",
                static_cast<double>(monotonic_ns() - begun) / 1e3);
    EXPECT_EQ(send(channel->ours.get(), "x", 1, MSG_NOSIGNAL), 1);
    ASSERT_TRUE(remote_close(*thread, channel->remote_fd));
    EXPECT_EQ(send(channel->ours.get(), "x", 1, MSG_NOSIGNAL), -1);

    auto action = remote_sigaction(*thread, SIGUSR1, nullptr);
    ASSERT_TRUE(action);
    EXPECT_EQ(action->handler, 0U);
    const KernelSigaction ignore = {1, 0, 0, 0};
    ASSERT_TRUE(remote_sigaction(*thread, SIGUSR1, &ignore));
    EXPECT_EQ(remote_sigaction(*thread, SIGUSR1, nullptr)->handler, 1U);
    ASSERT_TRUE(remote_sigaction(*thread, SIGUSR1, &*action));
  }
  EXPECT_EQ(read_maps(target.pid())->size(), maps_before->size());
  EXPECT_EQ(count_fds(target.pid()), fds_before);
  process->release();
  EXPECT_EQ(target.finish(), 0) << target.output();
}

}  // namespace
}  // namespace bpftime
