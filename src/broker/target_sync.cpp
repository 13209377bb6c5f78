// How a target is made as the session wants it: sync() compares what is patched with what is wanted, prepares
// mappings, trampolines and lists from outside while the target runs, then stops all its threads once (target_change.cpp)
// and lets go (DESIGN D7; docs/decisions/0001).
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "broker/takeout.hpp"
#include "broker/target_change.hpp"
#include "broker/targets_impl.hpp"

namespace bpftime {
namespace {

bool same_links(const std::vector<WantedLink>& a, const std::vector<WantedLink>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const WantedLink& x, const WantedLink& y) {
                      return x.id == y.id && x.program == y.program && x.cookie == y.cookie &&
                             x.is_timed == y.is_timed && x.is_return == y.is_return;
                    });
}

const char* what_is_lost(InternalProbe internal) {
  switch (internal) {
    case InternalProbe::kLibraries:
      return ": libraries loaded later will not be probed: ";
    case InternalProbe::kSigaction:
      return ": its own sigaction() is not answered for: ";
    default:
      return ": it will not be followed into another program: ";
  }
}

bool is_wanted(const WantedPlace& w) {
  return !w.entry.empty() || !w.on_return.empty() || w.internal != InternalProbe::kNone;
}

}  // namespace

void note_why_not(TargetProcess* t, const std::vector<WantedLink>& links, const Error& error) {
  for (const WantedLink& link : links) {
    t->why_not[raw(link.id)] = {error.code, error.why};
  }
}

Result<void> Targets::Impl::sync(TargetProcess* t, Held* held, const LinkId* only) {
  for (int tries = 0;; tries++) {
    auto synced = sync_once(t, held, only);
    std::erase_if(t->rooms, [](const TrampolineRoom& room) { return !room.is_mapped; });
    if (!synced) {
      watch_late();
    }
    // EEXIST: the target mapped something itself where we had seen a hole.
    if (synced || (synced.error().code != EEXIST && synced.error().code != kPlanAnew) ||
        tries == 4) {
      settle_semaphores(t, only);
      return synced;
    }
  }
}

Result<void> Targets::Impl::sync_once(TargetProcess* t, Held* held, const LinkId* only) {
  Change change;
  change.seen = TRY(read_maps(t->pid));
  change.maps = change.seen;
  if (!t->armed || t->sites.empty()) {
    only = nullptr;  // the places where the agent itself listens come with the first probe
  }
  change.wanted =
      only != nullptr ? wanted_of_link(t, change.seen, *only) : wanted_of(t, change.seen);
  forget_unmapped(t, change.seen);
  find_gone(t, only == nullptr, &change);
  TRY(plan_fresh(t, &change));
  find_changed(t, &change);
  add_called_programs(&change);
  if (change.gone.empty() && change.changed.empty() && t->armed && tables_are_right(t) &&
      build_ids_are_right(t, change)) {
    return {};
  }
  let_go_before_exec(t->pid);
  TRY(bring_missing(t, held, &change));

  const StopWatch watch;
  {
    std::optional<StoppedProcess> stopped;
    if (held == nullptr) {
      stopped.emplace(TRY(StoppedProcess::stop(t->pid, deadline())));
    }
    StoppedProcess& all = held != nullptr ? *held->process : *stopped;
    TRY(settle_tables(t, all));
    TRY(settle_build_ids(t, change, all));
    TRY(apply(t, all, &change));
  }
  t->stopped_ns = std::max(t->stopped_ns, watch.elapsed());
  return {};
}

// Sites whose module was unmapped: there is nothing to restore.
void Targets::Impl::forget_unmapped(TargetProcess* t, const std::vector<Mapping>& seen) {
  for (auto it = t->sites.begin(); it != t->sites.end();) {
    const Mapping* const m = mapping_at(seen, it->first);
    if (m == nullptr || (m->prot & PROT_EXEC) == 0) {
      retire_site(t, it->second);
      for (auto& [_, addresses] : t->places) {
        addresses.erase(it->first);
      }
      it = t->sites.erase(it);
    } else {
      ++it;
    }
  }
}

// `all`: what is not among the wanted places is not wanted; else they are those that may have changed.
void Targets::Impl::find_gone(TargetProcess* t, bool all, Change* change) {
  if (all) {
    for (const auto& [address, site] : t->sites) {
      if (!change->wanted.contains(address)) {
        change->gone.push_back(address);
      }
    }
  }
  for (auto it = change->wanted.begin(); it != change->wanted.end();) {
    if (is_wanted(it->second)) {
      ++it;
      continue;
    }
    if (t->sites.contains(it->first)) {
      change->gone.push_back(it->first);
    }
    it = change->wanted.erase(it);
  }
}

// Plans each place that is not patched, or not so; what cannot be is not wanted any more.
Result<void> Targets::Impl::plan_fresh(TargetProcess* t, Change* change) {
  for (auto it = change->wanted.begin(); it != change->wanted.end();) {
    const auto existing = t->sites.find(it->first);
    const bool is_fresh = existing == t->sites.end() ||
                          (!it->second.on_return.empty() && !existing->second.with_return);
    if (is_fresh && !TRY(plan_place(t, it->first, &it->second, change))) {
      it = change->wanted.erase(it);
      continue;
    }
    for (const auto* links : {&it->second.entry, &it->second.on_return}) {
      for (const WantedLink& link : *links) {
        change->programs.insert(raw(link.program));
      }
    }
    ++it;
  }
  return {};
}

// False: refused, and why is noted. Where only return links are refused, the entry links go on without them.
Result<bool> Targets::Impl::plan_place(TargetProcess* t, uint64_t address, WantedPlace* w,
                                       Change* change) {
  const auto existing = t->sites.find(address);
  const bool is_new = existing == t->sites.end();
  const uint32_t index = is_new ? TRY(take_site_index(t)) : existing->second.index;
  const auto plan_it = [&] {
    return plan_site(t, &change->maps, address, *w, index, &change->new_rooms);
  };
  auto plan = plan_it();
  if (!plan && !w->on_return.empty() && (!w->entry.empty() || !is_new)) {
    note_why_not(t, w->on_return, plan.error());
    w->on_return.clear();
    std::erase_if(w->entry, [](const WantedLink& link) { return link.is_session; });
    if (!is_new) {
      return true;
    }
    if (is_wanted(*w)) {
      plan = plan_it();
    }
  }
  if (!plan) {
    note_why_not(t, w->entry, plan.error());
    note_why_not(t, w->on_return, plan.error());
    if (w->internal != InternalProbe::kNone) {
      host->log("process " + std::to_string(t->pid) + what_is_lost(w->internal) + plan.error().why);
    }
    if (is_new) {
      t->free_sites.push_back(index);
    }
    return false;
  }
  SiteHere site;
  site.index = index;
  site.with_return = !w->on_return.empty();
  site.patch = plan->patch;
  site.hole = plan->hole;
  site.is_function_begin = plan->is_function_begin;
  change->fresh[address] = site;
  change->plans.emplace(address, std::move(*plan));
  return true;
}

Result<uint32_t> Targets::Impl::take_site_index(TargetProcess* t) {
  if (!t->free_sites.empty()) {
    const uint32_t index = t->free_sites.back();
    t->free_sites.pop_back();
    return index;
  }
  if (t->next_site >= kMaxSites) {
    return make_error(ENOSPC, "too many probes in one target");
  }
  return t->next_site++;
}

void Targets::Impl::find_changed(TargetProcess* t, Change* change) {
  for (const auto& [address, w] : change->wanted) {
    const auto it = t->sites.find(address);
    if (it == t->sites.end() || change->fresh.contains(address) ||
        !same_links(it->second.entry.links, w.entry) ||
        !same_links(it->second.on_return.links, w.on_return) ||
        (w.internal != InternalProbe::kNone && it->second.entry.at == 0)) {
      change->changed.push_back(address);
    }
  }
}

// Mappings and signal actions, if any are missing, by one held thread while the others run.
Result<void> Targets::Impl::bring_missing(TargetProcess* t, Held* held, Change* change) {
  const bool is_missing = !t->owns_signals || !change->new_rooms.empty() ||
                          std::any_of(change->programs.begin(), change->programs.end(),
                                      [&](uint32_t id) { return !t->programs.contains(id); });
  const auto bring = [&](RemoteThread& thread) {
    return bring_mappings(t, &change->maps, change->programs, change->new_rooms, thread);
  };
  if (held != nullptr && held->worker != nullptr) {
    RemoteThread& worker = *std::exchange(held->worker, nullptr);
    return is_missing ? bring(worker) : worker.finish();
  }
  if (!is_missing) {
    return {};
  }
  const StopWatch watch;
  {
    std::optional<StoppedProcess> borrowed;
    if (held == nullptr) {
      borrowed.emplace(TRY(borrow_any(t->pid, deadline())));
    }
    RemoteThread thread =
        TRY(RemoteThread::begin(held != nullptr ? *held->process : *borrowed, 0, deadline()));
    TRY(bring(thread));
  }
  t->stopped_ns = std::max(t->stopped_ns, watch.elapsed());
  return {};
}

}  // namespace bpftime
