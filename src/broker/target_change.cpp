// The change itself, all threads stopped: instruction pointers are moved, table and code written.
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <span>
#include <string>

#include "broker/target_change.hpp"
#include "broker/targets_impl.hpp"

namespace bpftime {
namespace {

std::string hex(uint64_t n) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(n));
  return text;
}

uint64_t record_of(const TargetProcess& t, const SiteHere& site) {
  return t.table + site.index * sizeof(Site);
}

// From now on its links do not stand there.
void leave(TargetProcess* t, const SiteHere& site, uint64_t address) {
  for (const ListHere* list : {&site.entry, &site.on_return}) {
    for (const WantedLink& link : list->links) {
      if (const auto places = t->places.find(raw(link.id)); places != t->places.end()) {
        places->second.erase(address);
        if (places->second.empty()) {
          t->places.erase(places);
        }
      }
    }
  }
}

}  // namespace

// What fails before anything that runs was touched fails as a whole.
Result<void> Targets::Impl::apply(TargetProcess* t, StoppedProcess& all, Change* change) {
  TRY(write_unseen(t, all, change));
  for (const uint64_t address : change->gone) {
    TRY(take_away(t, all, address));
  }
  for (const auto& [address, site] : change->fresh) {
    if (const auto old = t->sites.find(address); old != t->sites.end()) {
      restore(t, all, old->second);
      retire_trampoline(t, old->second, 0);  // its record goes on
    }
  }
  TRY(publish_lists(t, all, *change));
  for (const auto& [address, site] : change->fresh) {
    TRY(patch(t, all, address, change->wanted.at(address)));
  }
  TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, site_count)}, t->next_site));
  t->generation++;
  TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, generation)}, t->generation));
  if (!t->armed) {
    TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, alive)}, t->alive));
    t->armed = true;
  }
  reclaim(t, all);
  if (t->owns_signals) {
    settle_signals(t, all);
  }
  return {};
}

// Trampolines, journal and lists, which nothing leads to yet.
Result<void> Targets::Impl::write_unseen(TargetProcess* t, StoppedProcess& all, Change* change) {
  for (const auto& [address, plan] : change->plans) {
    TRY(all.write(plan.patch.trampoline, std::as_bytes(std::span(plan.trampoline))));
    TRY(journal_entry(t, plan.patch, all));
    if (plan.hole.site_bytes != 0) {
      TRY(journal_entry(t, plan.hole, all));
    }
  }
  for (const uint64_t address : change->changed) {
    const WantedPlace& w = change->wanted.at(address);
    change->lists[address] = {TRY(make_list(t, w.entry, w.internal, false, all)),
                              TRY(make_list(t, w.on_return, InternalProbe::kNone, true, all))};
  }
  if (!t->knows_threads) {
    const bool assumed = t->is_hashed;
    TRY(discover_threads(t, all));
    if (t->is_hashed != assumed) {
      // The trampolines lead to thunks that would look for threads where they are not.
      for (const auto& [address, site] : change->fresh) {
        retire_trampoline(t, site, t->sites.contains(address) ? 0 : site.index);
      }
      return make_error(kPlanAnew, "threads are known otherwise than was thought");
    }
    t->knows_threads = true;
  }
  if (t->libc_restorer != 0) {
    TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, libc_restorer)},
                        t->libc_restorer));
  }
  return {};
}

void Targets::Impl::restore(TargetProcess* t, StoppedProcess& all, const SiteHere& site) {
  for (const Patch* patch : {&site.patch, &site.hole}) {
    if (patch->site_bytes != 0 && !all.restore_patches({patch, 1})) {
      host->log("process " + std::to_string(t->pid) + ": the code at " + hex(raw(patch->site)) +
                " is no longer as we left it; it stays as it is");
    }
  }
}

Result<void> Targets::Impl::empty_record(TargetProcess* t, StoppedProcess& all,
                                         const SiteHere& site) {
  const uint64_t null_pointers[2] = {0, 0};
  return all.write(RemoteAddr{record_of(*t, site)}, std::as_bytes(std::span(null_pointers)));
}

Result<void> Targets::Impl::take_away(TargetProcess* t, StoppedProcess& all, uint64_t address) {
  const SiteHere& site = t->sites.at(address);
  restore(t, all, site);
  leave(t, site, address);
  TRY(empty_record(t, all, site));
  retire_site(t, site);
  t->sites.erase(address);
  return {};
}

Result<void> Targets::Impl::publish_lists(TargetProcess* t, StoppedProcess& all,
                                          const Change& change) {
  for (const auto& [address, pair] : change.lists) {
    if (const auto old = t->sites.find(address); old != t->sites.end()) {
      retire_list(t, old->second.entry);
      retire_list(t, old->second.on_return);
      leave(t, old->second, address);
    }
    if (const auto f = change.fresh.find(address); f != change.fresh.end()) {
      t->sites[address] = f->second;
    }
    SiteHere& site = t->sites.at(address);
    site.internal = change.wanted.at(address).internal;
    site.entry = pair.first;
    site.on_return = pair.second;
    for (const ListHere* list : {&site.entry, &site.on_return}) {
      for (const WantedLink& link : list->links) {
        t->places[raw(link.id)].insert(address);
      }
    }
    const uint64_t record[4] = {site.entry.at, site.on_return.at, address, site.is_function_begin};
    TRY(all.write(RemoteAddr{record_of(*t, site)}, std::as_bytes(std::span(record))));
  }
  return {};
}

// One place at a time: one whose code is not as in its file costs only itself.
Result<void> Targets::Impl::patch(TargetProcess* t, StoppedProcess& all, uint64_t address,
                                  const WantedPlace& wanted) {
  const SiteHere& site = t->sites.at(address);
  Result<void> written{};
  for (const Patch* patch : {&site.hole, &site.patch}) {
    if (patch->site_bytes != 0 && written) {
      const auto moved = all.move_ips({patch, 1});
      written = moved ? all.write_patches({patch, 1}) : Result<void>(moved.error());
    }
  }
  if (written) {
    return {};
  }
  note_why_not(t, wanted.entry, written.error());
  note_why_not(t, wanted.on_return, written.error());
  leave(t, site, address);
  TRY(empty_record(t, all, site));
  retire_site(t, site);
  t->sites.erase(address);
  return {};
}

}  // namespace bpftime
