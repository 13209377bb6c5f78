// We and a thread that works for us run in turns, never at once: while it lives, both are scheduled for that. Home: edge,
// this room.
#pragma once
#include <sched.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <utility>

namespace bpftime {

class Turns {
 public:
  Turns() = default;
  Turns(pid_t pid, pid_t tid) : tid_(tid) {
    shorten_slice();
    go_where_it_runs(pid);
  }
  ~Turns() { end(); }
  Turns(Turns&& other) noexcept
      : tid_(other.tid_),
        slice_ns_(std::exchange(other.slice_ns_, 0)),
        our_cpus_(std::move(other.our_cpus_)),
        shares_cpu_(other.shares_cpu_) {}
  Turns& operator=(Turns&& other) noexcept {
    end();
    tid_ = other.tid_;
    slice_ns_ = std::exchange(other.slice_ns_, 0);
    our_cpus_ = std::move(other.our_cpus_);
    shares_cpu_ = other.shares_cpu_;
    return *this;
  }

  // The thread runs only while we sleep.
  [[nodiscard]] bool shares_cpu() const { return shares_cpu_; }
  // Both as they were before.
  void end();

 private:
  void shorten_slice();
  void go_where_it_runs(pid_t pid);
  pid_t tid_ = 0;
  uint64_t slice_ns_ = 0;                // its time slice before; 0: not changed
  std::unique_ptr<cpu_set_t> our_cpus_;  // the CPUs of our own thread before; null: not changed
  bool shares_cpu_ = false;
};

}  // namespace bpftime
