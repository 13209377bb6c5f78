// Which threads of a target are in something of ours, or will come back to it. Home: broker. All its threads must be
// stopped.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "base/result.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {

struct ThreadInside {
  pid_t tid;    // 0: not known which (its tids are numbered otherwise)
  uint64_t at;  // its ip; 0: its way back leads there
  const char* why;
  // It has begun so many. None: a frame leads back that stays whatever it begins.
  std::optional<uint64_t> hits;
  // ReturnEntry::sequence of a call in which it waits, in the kernel, that will return through the agent.
  std::optional<uint64_t> waits_in;
};
// A thread may be there more than once. `hits_only`: open return probes do not count (for re-using lists, not for
// unmapping).
Result<std::vector<ThreadInside>> threads_inside(StoppedProcess& process, uint64_t arena,
                                                 bool hits_only);

// Trampolines that an open return probe names: it finds its site through them.
Result<std::set<uint64_t>> trampolines_held(StoppedProcess& process, uint64_t arena);

}  // namespace bpftime
