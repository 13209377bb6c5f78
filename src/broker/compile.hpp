// Judging and compiling as a service to the session. Home: broker, its one thread. The real one works in a
// process of its own with caps (DESIGN D5): whatever a program does to the compiler costs that one
// request.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "broker/event_loop.hpp"
#include "broker/judge.hpp"
#include "isa/program.hpp"
#include "vm/program.hpp"

namespace bpftime {

// What became of a task. Without code when it was refused and not let through, or when the engine
// could not do it (`compile_error`, an errno).
struct ProgramAnswer {
  Judgement judgement;
  int32_t compile_error = 0;
  CompiledProgram compiled{};
};

class ProgramCompiler {
 public:
  using Done = std::function<void(Result<ProgramAnswer>)>;
  virtual ~ProgramCompiler() = default;
  // Calls `done` exactly once, at once or from the loop; never after the compiler's destruction.
  virtual void compile(std::shared_ptr<const ProgramTask> task, Done done) = 0;
};

// In this process, at once. For tests and fuzzing.
class InlineCompiler : public ProgramCompiler {
 public:
  void compile(std::shared_ptr<const ProgramTask> task, Done done) override;
};

// One forked worker a program, `kAtOnce` of them; the others wait.
// Errors that `done` sees: ENOMEM when the worker died; ETIMEDOUT; EPROTO.
class WorkerCompiler : public ProgramCompiler {
 public:
  struct Limits {
    uint64_t judge_bytes = 512ULL << 20;  // more than the broker has itself
    uint32_t judge_seconds = 10;
    uint64_t address_space_bytes = 4ULL << 30;
    uint64_t result_bytes = 64ULL << 20;
    uint32_t cpu_seconds = 20;
    int deadline_ms = 30'000;
    uint32_t at_once = 4;
    uint32_t nap_for_tests_ms = 0;  // the worker sleeps first
    bool crash_for_tests = false;
  };
  WorkerCompiler(EventLoop* loop, Limits limits) : loop_(loop), limits_(limits) {}
  ~WorkerCompiler() override;
  WorkerCompiler(const WorkerCompiler&) = delete;
  WorkerCompiler& operator=(const WorkerCompiler&) = delete;
  void compile(std::shared_ptr<const ProgramTask> task, Done done) override;

 private:
  struct Worker {
    pid_t pid;
    UniqueFd pipe;
    std::vector<std::byte> bytes;
    uint64_t timer;
    Done done;
  };
  struct Waiting {
    std::shared_ptr<const ProgramTask> task;
    Done done;
  };
  Result<void> start(const ProgramTask& task, Done* done);
  void start_waiting();
  void readable(int fd);
  void finish(int fd, bool timed_out);

  EventLoop* loop_;
  Limits limits_;
  std::map<int, Worker> workers_;
  std::list<Waiting> waiting_;
};

// May a run jump back more often than the budget lets it, which it shares with the programs that it goes on in by tail
// calls? Then the code counts.
bool may_use_up_budget(const Judgement& judgement);

// The bytes that a worker sends. parse_answer() believes nothing: it may be a worker that was
// overwritten. Errors: EPROTO malformed.
std::vector<std::byte> serialize(const ProgramAnswer& answer);
Result<ProgramAnswer> parse_answer(std::span<const std::byte> bytes);

}  // namespace bpftime
