// PROG_TEST_RUN: runs a program once, without a probe, in a process of its own with caps (DESIGN D5): whatever it does
// costs that one request. Home: broker, its one thread. Kernel v6.18 net/bpf/test_run.c: bpf_prog_test_run_raw_tp.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "broker/agent_message.hpp"
#include "broker/event_loop.hpp"
#include "broker/lane_table.hpp"
#include "broker/object.hpp"

namespace bpftime {

struct TestRun {
  std::shared_ptr<ProgramObject> program;
  std::vector<std::byte> context;
  uint64_t repeat = 1;
  int cpu = -1;  // >= 0: there
  OwnerId owner{};
  pid_t caller = 0;  // whom the program takes itself to run in
};

class TestRunner {
 public:
  using Done = std::function<void(Result<uint32_t> returned)>;
  // What the program says meanwhile: printk, readers to wake.
  using Said = std::function<void(const AgentMessage&)>;

  // `lanes` may be null: then per-CPU data cannot be had.
  TestRunner(EventLoop* loop, const LaneTable* lanes, Said said)
      : loop_(loop), lanes_(lanes), said_(std::move(said)) {}
  ~TestRunner();
  TestRunner(const TestRunner&) = delete;
  TestRunner& operator=(const TestRunner&) = delete;

  // Calls `done` once, from the loop, unless the result is an error.
  // Errors of `done`: EFAULT the program faulted, ETIMEDOUT, ENOSPC it used up its budget.
  Result<void> start(const TestRun& run, Done done);

 private:
  struct Worker {
    pid_t pid;
    UniqueFd channel;
    uint64_t timer;
    Done done;
  };
  void readable(int fd);
  void finish(int fd, Result<uint32_t> result);

  EventLoop* loop_;
  const LaneTable* lanes_;
  Said said_;
  std::map<int, Worker> workers_;
};

}  // namespace bpftime
