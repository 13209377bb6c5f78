// Which of a target's threads have been outside of everything of ours since when: told look by look, each of which is
// at one moment at which all its threads are stopped. Home: broker.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "broker/inside.hpp"

namespace bpftime {

struct SeenThread {
  uint64_t outside =
      0;  // the last look at which it was, or behind which it must have been; 0: none
  std::optional<uint64_t>
      hits;  // at the last look it was inside, and would leave before it began many more
};
using SeenThreads = std::map<pid_t, SeenThread>;

// What is known after look number `look` (1, 2, ...) that found `threads`, some of them inside; `before` is what was
// known after the look before it. A thread that is inside at both, but has begun other hits between, has been outside
// between.
SeenThreads seen_by_look(uint64_t look, const std::vector<pid_t>& threads,
                         const std::vector<ThreadInside>& inside, const SeenThreads& before);

}  // namespace bpftime
