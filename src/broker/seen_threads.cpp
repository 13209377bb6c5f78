#include "broker/seen_threads.hpp"

#include <algorithm>

namespace bpftime {
namespace {
constexpr uint64_t kHitsApart = 8;  // a hit counts itself twice at most
}  // namespace

SeenThreads seen_by_look(uint64_t look, const std::vector<pid_t>& threads,
                         const std::vector<ThreadInside>& inside, const SeenThreads& before) {
  SeenThreads seen;
  for (const pid_t tid : threads) {
    seen[tid] = {look, std::nullopt};
  }
  for (const ThreadInside& i : inside) {
    for (auto& [tid, now] : seen) {
      if (tid != i.tid && i.tid != 0) {
        continue;
      }
      const auto found = before.find(tid);
      const SeenThread then = found == before.end() ? SeenThread{} : found->second;
      const bool has_left = i.hits && then.hits && *i.hits >= *then.hits + kHitsApart;
      const bool is_counted = now.outside == look || now.hits;  // by all that is said of it
      now = {std::min(now.outside, has_left ? look - 1 : then.outside),
             is_counted ? i.hits : std::nullopt};
    }
  }
  return seen;
}

}  // namespace bpftime
