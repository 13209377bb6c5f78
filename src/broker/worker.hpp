// Worker processes: children of the broker that do what may crash or take too long. Home: broker.
#pragma once
#include <sys/types.h>

namespace bpftime {

inline constexpr int kWorkerChannel = 3;

// ---- In the child, in this order. On failure it ends.
// It ends with the broker, and at SIGTERM.
void begin_worker(pid_t broker);
// Nothing of the broker's stays open but `channel`, as kWorkerChannel: a loader's HUP must not wait for a worker. No
// core is written, and no more time taken than that.
void isolate_worker(int channel, unsigned cpu_seconds);

// ---- In the broker. It has said what it had to say, or never will.
void end_worker(pid_t pid);

}  // namespace bpftime
