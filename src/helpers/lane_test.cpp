#include "helpers/lane.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "helpers/testing/hit.hpp"

extern "C" {
void bpftime_say_printk(bpftime::ProbeHit*, const char*, uint32_t) {}
uint32_t bpftime_take_cpu_lane(const bpftime::ProcessInfo* process);
}

namespace bpftime {
namespace {

uint32_t cpus() { return static_cast<uint32_t>(::sysconf(_SC_NPROCESSORS_CONF)); }

template <class T>
T* shared_memory(size_t count) {
  void* const memory =
      ::mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<T*>(memory);
}

// A hit with lanes of its own or others'.
struct LaneHit : testing::TestHit {
  HitCounts counts = {};
  Attached attached = {};
  explicit LaneHit(LaneWord* lanes, bool has_rseq = true, uint32_t owner = 7) {
    process.owner = owner;
    process.rseq_offset = __rseq_offset;
    process.rseq_offset_valid = has_rseq && __rseq_size != 0 ? 1 : 0;
    process.lanes = lanes;
    process.lane_count = lane_count(cpus());
    process.cpu_lanes = cpus();
    attached.counts = &counts;
    hit.attached = &attached;
  }
  void end() {
    if ((hit.reserved & kHitHasLane) != 0) {
      give_back_lane(hit);
    }
    hit.reserved = 0;
    hit.cpu = kNoCpu;
  }
};

// Holds the thread on one CPU, so that which lane is its own is known.
struct OnOneCpu {
  cpu_set_t before;
  uint32_t cpu;
  OnOneCpu() {
    ::sched_getaffinity(0, sizeof(before), &before);
    cpu = static_cast<uint32_t>(::sched_getcpu());
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ::sched_setaffinity(0, sizeof(one), &one);
  }
  ~OnOneCpu() { ::sched_setaffinity(0, sizeof(before), &before); }
};

TEST(Lane, IsTheCpusUntilTheEndOfTheRun) {
  ASSERT_NE(__rseq_size, 0U) << "this libc has registered rseq";
  std::vector<LaneWord> lanes(lane_count(cpus()));
  const OnOneCpu here;
  LaneHit hit(lanes.data());
  EXPECT_EQ(lane_of(hit.hit), here.cpu);
  EXPECT_EQ(lanes[here.cpu].owner, 7U);
  EXPECT_EQ(lane_of(hit.hit), here.cpu);
  hit.end();
  EXPECT_EQ(lanes[here.cpu].owner, 0U);
  EXPECT_EQ(hit.counts.missed, 0U);
}

// The kernel must not find our descriptor once this code may be gone.
TEST(Lane, LeavesNoRestartableSequenceBehind) {
  std::vector<LaneWord> lanes(lane_count(cpus()));
  const OnOneCpu here;
  LaneHit hit(lanes.data());
  for (int i = 0; i < 2; i++) {  // taken, then found taken
    (void)take_lane(hit.hit);
    uint64_t sequence = 1;
    __asm__ volatile("mov %%fs:8(%1), %0" : "=r"(sequence) : "r"(__rseq_offset));
    EXPECT_EQ(sequence, 0U);
  }
}

// Interrupted at each instruction in turn, the thread is never sent back into the sequence, always
// to where it begins anew.
std::vector<uint64_t> g_interrupted_at;
void stepped(int, siginfo_t*, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  g_interrupted_at.push_back(static_cast<uint64_t>(registers[REG_RIP]));
  if (g_interrupted_at.size() == 200) {
    registers[REG_EFL] &= ~0x100;
  }
}
TEST(Lane, AnInterruptionSendsTheThreadBackToTheBeginning) {
  std::vector<LaneWord> lanes(lane_count(cpus()));
  const OnOneCpu here;
  LaneHit hit(lanes.data());
  g_interrupted_at.reserve(1000);
  struct sigaction action = {};
  struct sigaction before = {};
  action.sa_sigaction = stepped;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(::sigaction(SIGTRAP, &action, &before), 0);
  __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
  const uint32_t lane = bpftime_take_cpu_lane(&hit.process);  // never ends while it is stepped
  __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
  ::sigaction(SIGTRAP, &before, nullptr);
  EXPECT_EQ(lane, here.cpu);
  EXPECT_EQ(g_interrupted_at.size(), 200U);
  int times_sent_back = 0;
  for (const uint64_t at : g_interrupted_at) {
    const auto* const signature = reinterpret_cast<const unsigned char*>(at) - 4;
    times_sent_back += std::memcmp(signature, "\x53\x30\x05\x53", 4) == 0 ? 1 : 0;
  }
  EXPECT_GT(times_sent_back, 10);
}

TEST(Lane, SpillsWhenTheCpusIsTaken) {
  std::vector<LaneWord> lanes(lane_count(cpus()));
  const OnOneCpu here;
  lanes[here.cpu].owner = 99;
  LaneHit hit(lanes.data());
  const uint32_t lane = lane_of(hit.hit);
  EXPECT_GE(lane, cpus());
  EXPECT_LT(lane, lane_count(cpus()));
  EXPECT_EQ(lanes[lane].owner, 7U);
  hit.end();
  EXPECT_EQ(lanes[lane].owner, 0U);
  EXPECT_EQ(lanes[here.cpu].owner, 99U);
}

TEST(Lane, WithoutRseqOnlySpillLanesAreTaken) {
  std::vector<LaneWord> lanes(lane_count(cpus()));
  std::vector<std::unique_ptr<LaneHit>> hits;
  for (uint32_t i = cpus(); i < lanes.size(); i++) {
    hits.push_back(std::make_unique<LaneHit>(lanes.data(), false));
    EXPECT_GE(lane_of(hits.back()->hit), cpus());
  }
  for (uint32_t lane = 0; lane < lanes.size(); lane++) {
    EXPECT_EQ(lanes[lane].owner, lane < cpus() ? 0U : 7U);
  }
  LaneHit late(lanes.data(), false);
  EXPECT_EQ(lane_of(late.hit), kNoCpu);
}

TEST(Lane, WhatIsOnlyForCpusIsSharedByThoseInSpillLanes) {
  std::vector<LaneWord> lanes(lane_count(cpus()));
  const OnOneCpu here;
  LaneHit hit(lanes.data());
  EXPECT_EQ(cpu_of(hit.hit), here.cpu);
  EXPECT_EQ(hit.hit.cpu, kNoCpu);  // nothing taken
  lanes[here.cpu].owner = 99;
  const uint32_t lane = lane_of(hit.hit);
  EXPECT_GE(lane, cpus());
  EXPECT_EQ(cpu_of(hit.hit), lane % cpus());
  hit.end();
}

TEST(Lane, ARunThatFindsNoneIsMissedOnce) {
  std::vector<LaneWord> lanes(lane_count(cpus()));
  for (LaneWord& lane : lanes) {
    lane.owner = 99;  // a hostile target's
  }
  LaneHit hit(lanes.data());
  EXPECT_EQ(lane_of(hit.hit), kNoCpu);
  EXPECT_EQ(lane_of(hit.hit), kNoCpu);
  EXPECT_EQ(hit.counts.missed, 1U);
  hit.end();
  EXPECT_EQ(lane_of(hit.hit), kNoCpu);
  EXPECT_EQ(hit.counts.missed, 2U);
  LaneHit without(nullptr);
  EXPECT_EQ(lane_of(without.hit), kNoCpu);
}

// Plain adds by more threads than CPUs, in two processes: every one of them counts.
TEST(Lane, PlainAddsAreExactAcrossThreadsAndProcesses) {
  const uint32_t count = lane_count(cpus());
  auto* const lanes = shared_memory<LaneWord>(count);
  auto* const sums = shared_memory<uint64_t>(count);
  auto* const missed = shared_memory<std::atomic<uint64_t>>(1);
  ASSERT_TRUE(lanes != nullptr && sums != nullptr && missed != nullptr);
  constexpr uint32_t kProcesses = 2;
  constexpr uint32_t kThreads = 8;
  constexpr uint64_t kAdds = 500'000;
  std::vector<pid_t> children;
  for (uint32_t p = 0; p < kProcesses; p++) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      std::vector<std::thread> threads;
      for (uint32_t t = 0; t < kThreads; t++) {
        // One thread in each process knows of no rseq.
        threads.emplace_back([=] {
          LaneHit hit(lanes, t != 0, 1000 + p);
          for (uint64_t i = 0; i < kAdds; i++) {
            const uint32_t lane = lane_of(hit.hit);
            if (lane != kNoCpu) {
              auto* const sum = reinterpret_cast<volatile uint64_t*>(&sums[lane]);
              *sum = *sum + 1;
            }
            hit.end();
          }
          *missed += hit.counts.missed;
        });
      }
      for (std::thread& thread : threads) {
        thread.join();
      }
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  uint64_t sum = 0;
  for (uint32_t lane = 0; lane < count; lane++) {
    sum += sums[lane];
    EXPECT_EQ(lanes[lane].owner, 0U);
  }
  EXPECT_EQ(*missed, 0U);
  EXPECT_EQ(sum, kProcesses * kThreads * kAdds);
}

}  // namespace
}  // namespace bpftime
