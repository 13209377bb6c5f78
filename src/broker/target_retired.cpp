// When what is no longer in use in a target may be used again. A thread that is inside a hit, or in a trampoline, may
// still hold what was taken away; seen outside once, it never comes back to it. So each look notes who is outside, and
// a piece is free when every thread has been seen outside since it was retired. (Of many threads on few CPUs some are
// always inside: no look would find them all outside at once.)
#include <algorithm>
#include <utility>

#include "broker/inside.hpp"
#include "broker/targets_impl.hpp"

namespace bpftime {
namespace {
constexpr size_t kRetiredAtOnce = 64;  // a look is a walk of all stacks
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
  if (t->retired.size() < std::max(kRetiredAtOnce, t->look_again_at)) {
    return;
  }
  t->looks++;
  const auto inside = threads_inside(all, t->arena, true);
  const auto held = trampolines_held(all, t->arena);
  if (!inside || !held) {
    return;
  }
  const auto room_of = [t](uint64_t at) {
    return std::find_if(t->rooms.begin(), t->rooms.end(), [at](const TrampolineRoom& room) {
      return at >= room.base && at < room.base + kRoomBytes;
    });
  };
  std::set<uint64_t> slots = *held;  // of these somebody needs the site
  std::map<pid_t, uint64_t> outside;
  for (const pid_t tid : all.threads()) {
    outside[tid] = t->looks;
  }
  for (const ThreadInside& i : *inside) {
    // In a trampoline, outside of the thunks, a thread holds nothing else.
    if (const auto room = room_of(i.at); room != t->rooms.end()) {
      slots.insert(i.at - (i.at - room->base) % kSlotBytes);
      continue;
    }
    for (auto& [tid, since] : outside) {
      if (tid == i.tid || i.tid == 0) {
        const auto before = t->seen_outside.find(tid);
        since = before == t->seen_outside.end() ? 0 : before->second;
      }
    }
  }
  uint64_t all_outside = t->looks;
  for (const auto& [tid, since] : outside) {
    all_outside = std::min(all_outside, since);
  }
  t->seen_outside = std::move(outside);
  std::erase_if(t->retired, [&](const Retired& r) {
    if (r.since > all_outside || (r.kind == Retired::kSlot && slots.contains(r.at))) {
      return false;
    }
    if (r.kind == Retired::kHeap) {
      t->heap.release(r.at, r.bytes);
    } else if (const auto room = room_of(r.at); room != t->rooms.end()) {
      room->free.push_back(r.at);
    }
    if (r.site_index != 0) {
      t->free_sites.push_back(r.site_index);
    }
    return true;
  });
  t->look_again_at = 2 * t->retired.size();
}

}  // namespace bpftime
