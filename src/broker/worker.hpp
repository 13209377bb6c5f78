// Worker processes: children of the broker that do what may crash or take too long. Home: broker.
#pragma once
#include <sys/types.h>

#include <functional>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "broker/event_loop.hpp"

namespace bpftime {

inline constexpr int kWorkerChannel = 3;

// ---- In the child. On failure it ends.
// Nothing of the broker's stays open but `channel`, as kWorkerChannel: a loader's HUP must not wait for a worker. No
// core is written, and no more time taken than that.
void isolate_worker(int channel, unsigned cpu_seconds);

// ---- In the broker
struct StartedWorker {
  pid_t pid;
  UniqueFd channel;  // in the loop
};
// A child that does work(ends[1]), which does not return; it ends with the broker, and at SIGTERM. What it says comes
// from ends[0]: then readable(ends[0]) is called. Both are taken over.
Result<StartedWorker> start_worker(EventLoop* loop, const int (&ends)[2],
                                   const std::function<void(int channel)>& work,
                                   const std::function<void(int channel)>& readable);
// It has said what it had to say, or never will.
void end_worker(pid_t pid);

}  // namespace bpftime
