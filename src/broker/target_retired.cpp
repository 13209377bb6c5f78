// When what is no longer in use in a target may be used again. A thread that is inside a hit, or in a trampoline, may
// still hold what was taken away; seen outside once, it never comes back to it. So each look notes who is outside, and
// a piece is free when every thread has been outside since it was retired: seen there, or inside twice with other hits
// begun between. (Of many threads on few CPUs some are always inside: no look would find them all outside at once.)
#include <algorithm>
#include <utility>

#include "broker/inside.hpp"
#include "broker/seen_threads.hpp"
#include "broker/targets_impl.hpp"

namespace bpftime {
namespace {
constexpr size_t kRetiredBetweenLooks = 64;  // a look is a walk of all stacks
}  // namespace

void Targets::Impl::retire_list(TargetProcess* t, const ListHere& list) {
  if (list.at != 0) {
    t->retired.push_back({Retired::kHeap, list.at, list.bytes, 0, t->looks + 1});
  }
}

// The record names the trampoline's site to whoever returns through it: both are free at once. 0: it stays in use.
void Targets::Impl::retire_trampoline(TargetProcess* t, const SiteHere& site, uint32_t index) {
  t->retired.push_back(
      {Retired::kSlot, raw(site.patch.trampoline), kSlotBytes, index, t->looks + 1});
}

void Targets::Impl::retire_site(TargetProcess* t, const SiteHere& site) {
  retire_list(t, site.entry);
  retire_list(t, site.on_return);
  retire_trampoline(t, site, site.index);
}

void Targets::Impl::reclaim(TargetProcess* t, StoppedProcess& all) {
  if (t->retired.size() < t->left_by_look + kRetiredBetweenLooks) {
    return;
  }
  t->looks++;
  t->left_by_look = t->retired.size();
  const auto inside = threads_inside(all, t->arena, true);
  const auto held = trampolines_held(all, t->arena);
  if (!inside || !held) {
    return;
  }
  t->seen = seen_by_look(t->looks, all.threads(), *inside, t->seen);
  uint64_t all_outside = t->looks;
  for (const auto& [tid, seen] : t->seen) {
    all_outside = std::min(all_outside, seen.outside);
  }
  std::erase_if(t->retired, [&](const Retired& r) {
    if (r.since > all_outside || (r.kind == Retired::kSlot && held->contains(r.at))) {
      return false;
    }
    if (r.kind == Retired::kHeap) {
      t->heap.release(r.at, r.bytes);
    } else {
      const auto room = std::find_if(t->rooms.begin(), t->rooms.end(), [&](const auto& one) {
        return r.at >= one.base && r.at < one.base + kRoomBytes;
      });
      if (room != t->rooms.end()) {
        room->free.push_back(r.at);
      }
    }
    if (r.site_index != 0) {
      t->free_sites.push_back(r.site_index);
    }
    return true;
  });
  t->left_by_look = t->retired.size();
}

}  // namespace bpftime
