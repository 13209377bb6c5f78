// How a target is made as the session wants it: sync() compares what is patched with what is wanted, prepares
// mappings, trampolines and lists from outside while the target runs, then stops all its threads once, moves
// instruction pointers, writes table and code, and lets go (DESIGN D7; docs/decisions/0001).
#include "broker/targets_impl.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include "broker/takeout.hpp"

namespace bpftime {
namespace {

constexpr int kPlanAnew = ERESTART;  // of sync_once
constexpr size_t kRetiredAtOnce =
    64;  // looking whether they can be used again costs a walk of all stacks

bool same_links(const std::vector<WantedLink>& a, const std::vector<WantedLink>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const WantedLink& x, const WantedLink& y) {
                      return x.id == y.id && x.program == y.program && x.cookie == y.cookie &&
                             x.is_timed == y.is_timed;
                    });
}

std::string hex(uint64_t n) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(n));
  return text;
}

}  // namespace

// A list in the arena; not yet published.
Result<ListHere> Targets::Impl::make_list(TargetProcess* t, const std::vector<WantedLink>& links,
                                          InternalProbe internal, bool at_return,
                                          StoppedProcess& process) {
  ListHere list;
  list.links = links;
  const size_t count = links.size() + (internal != InternalProbe::kNone ? 1 : 0);
  if (count == 0) {
    return list;
  }
  std::vector<std::byte> bytes(sizeof(AttachedList) + count * sizeof(Attached));
  AttachedList head{};
  head.count = static_cast<uint32_t>(count);
  head.alive = reinterpret_cast<const AlivePage*>(t->alive);
  head.alive_expected = config.alive_expected;
  head.state = reinterpret_cast<AgentState*>(t->arena);
  if (count == 1 && internal == InternalProbe::kNone && !links[0].is_timed) {
    const ProgramHere& program = t->programs.at(raw(links[0].program));
    head.flags = at_return ? program.flags_at_return : program.flags_at_entry;
  }
  std::memcpy(bytes.data(), &head, sizeof(head));
  const auto counts_of = [&](uint32_t link) -> Result<uint64_t> {
    uint64_t& at = t->counts[link];
    if (at == 0) {
      at = t->heap.allocate(sizeof(HitCounts));
      if (at == 0) {
        return make_error(ENOSPC, "the arena is full");
      }
      const std::array<std::byte, sizeof(HitCounts)> zero{};
      TRY(process.write(RemoteAddr{at}, zero));
    }
    return at;
  };
  size_t i = 0;
  const auto put = [&](const Attached& item) {
    std::memcpy(bytes.data() + sizeof(AttachedList) + i * sizeof(Attached), &item, sizeof(item));
    i++;
  };
  if (internal != InternalProbe::kNone) {
    Attached item{};
    item.program = reinterpret_cast<decltype(item.program)>(
        raw(t->image.base) +
        (internal == InternalProbe::kLibraries ? agent.on_libraries : agent.on_sigaction));
    item.counts = reinterpret_cast<HitCounts*>(TRY(counts_of(0)));
    item.flags = kAttachedInternal;
    put(item);
  }
  for (const WantedLink& link : links) {
    const ProgramHere& program = t->programs.at(raw(link.program));
    Attached item{};
    item.program = reinterpret_cast<decltype(item.program)>(program.code);
    item.slots = reinterpret_cast<const uint64_t*>(program.slots);
    if (link.is_timed) {
      item.program = reinterpret_cast<decltype(item.program)>(raw(t->image.base) + agent.run_timed);
      item.flags = kAttachedCounted;
    }
    item.counts = reinterpret_cast<HitCounts*>(TRY(counts_of(raw(link.id))));
    if (head.flags != 0) {
      item.flags |= kAttachedAlone;
    }
    item.cookie = link.cookie;
    item.link = raw(link.id);
    item.code = reinterpret_cast<const CodeRange*>(program.range);
    put(item);
  }
  list.bytes = bytes.size();
  list.at = t->heap.allocate(list.bytes);
  if (list.at == 0) {
    return make_error(ENOSPC, "the arena is full");
  }
  TRY(process.write(RemoteAddr{list.at}, bytes));
  return list;
}

// Before a patch is written, what it will overwrite is on record in the target itself.
Result<uint64_t> Targets::Impl::journal_entry(TargetProcess* t, const Patch& patch,
                                              StoppedProcess& process) {
  std::array<uint8_t, 16> after{};
  std::memcpy(after.data(), patch.after, after.size());
  const auto key = std::make_pair(raw(patch.site), after);
  if (const auto it = t->journal.find(key); it != t->journal.end()) {
    return it->second;
  }
  if (t->journal_count >= kMaxJournal) {
    return make_error(ENOSPC, "the journal of patches is full");
  }
  JournalEntry entry{};
  entry.address = raw(patch.site);
  entry.bytes = patch.site_bytes;
  std::memcpy(entry.before, patch.before, sizeof(entry.before));
  std::memcpy(entry.after, patch.after, sizeof(entry.after));
  const uint64_t index = t->journal_count++;
  t->journal[key] = index;
  TRY(process.write_value(RemoteAddr{t->arena + kJournalOffset + index * sizeof(JournalEntry)},
                          entry));
  TRY(process.write_value(RemoteAddr{t->arena + offsetof(AgentState, journal_count)},
                          t->journal_count));
  return index;
}

// First arming, all threads stopped: how a thread is known, and its gs base.
Result<void> Targets::Impl::discover_threads(TargetProcess* t, StoppedProcess& process) {
  // In a pid namespace tids are small numbers, which stand elsewhere in a TCB too: only known places count there
  // (struct pthread of musl 1.2 and of glibc 2.31 to 2.41).
  constexpr uint32_t kMuslTid = 0x30;
  constexpr uint32_t kGlibcTid = 0x2d0;
  const bool in_namespace = t->status.inner_tgid != t->pid;
  bool gs_is_free = true;
  bool self_pointer = true;
  std::set<uint32_t> tid_offsets;
  bool first = true;
  std::vector<std::pair<pid_t, Registers>> threads;
  for (const pid_t tid : process.threads()) {
    const Registers regs = TRY(process.registers(tid));
    threads.emplace_back(tid, regs);
    gs_is_free = gs_is_free && regs.gs_base == 0;
    const auto self = process.read_value<uint64_t>(RemoteAddr{regs.fs_base});
    if (regs.fs_base == 0 || !self || *self != regs.fs_base) {
      self_pointer = false;
      continue;
    }
    const pid_t inner_tid = in_namespace ? TRY(read_thread_status(t->pid, tid)).inner_tid : tid;
    std::set<uint32_t> offsets;
    std::vector<uint32_t> tcb(0x800 / sizeof(uint32_t));
    if (process.read(RemoteAddr{regs.fs_base}, std::as_writable_bytes(std::span(tcb)))) {
      for (uint32_t i = 0; i < tcb.size(); i++) {
        if (tcb[i] == static_cast<uint32_t>(inner_tid) &&
            (!in_namespace || i * 4 == kMuslTid || i * 4 == kGlibcTid)) {
          offsets.insert(i * 4);
        }
      }
    }
    if (first) {
      tid_offsets = offsets;
      first = false;
    } else {
      std::erase_if(tid_offsets, [&](uint32_t o) { return !offsets.contains(o); });
    }
  }
  gs_is_free = gs_is_free && self_pointer;
  const uint32_t tid_offset = self_pointer && !tid_offsets.empty() ? *tid_offsets.begin() : 0;
  const auto put = [&](size_t offset, uint32_t value) {
    return process.write_value(RemoteAddr{t->arena + offset}, value);
  };
  TRY(put(offsetof(AgentState, tcb_tid_offset), tid_offset));
  TRY(put(offsetof(AgentState, fs_self_pointer), self_pointer ? 1 : 0));
  TRY(put(offsetof(AgentState, use_gs), gs_is_free ? 1 : 0));
  t->is_hashed = !gs_is_free;
  TRY(put(offsetof(AgentState, no_fsgsbase), t->has_fsgsbase ? 0 : 1));
  TRY(put(offsetof(AgentState, gs_was_set), gs_is_free ? 1 : 0));
  if (gs_is_free) {
    for (auto& [tid, regs] : threads) {
      regs.gs_base = raw(t->image.base) + agent.nobody;
      TRY(process.set_registers(tid, regs));
    }
  }
  return {};
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
  std::vector<Mapping> maps = TRY(read_maps(t->pid));
  const std::vector<Mapping> seen = maps;
  if (!t->armed || t->sites.empty()) {
    only = nullptr;  // the places where the agent itself listens come with the first probe
  }
  std::map<uint64_t, WantedPlace> wanted =
      only != nullptr ? wanted_of_link(t, seen, *only) : wanted_of(t, seen);

  // Sites whose module was unmapped are forgotten: there is nothing to restore.
  for (auto it = t->sites.begin(); it != t->sites.end();) {
    const Mapping* const m = mapping_at(seen, it->first);
    if (m == nullptr || (m->prot & PROT_EXEC) == 0) {
      t->retired.push_back({Retired::kSlot, raw(it->second.patch.trampoline), kSlotBytes});
      t->free_sites.push_back(it->second.index);
      for (auto& [_, addresses] : t->places) {
        addresses.erase(it->first);
      }
      it = t->sites.erase(it);
    } else {
      ++it;
    }
  }

  std::vector<Patch> to_restore, to_write;
  std::vector<uint64_t> gone, new_rooms;
  std::map<uint64_t, Plan> plans;
  std::set<uint32_t> programs;
  if (only == nullptr) {
    for (const auto& [address, site] : t->sites) {
      if (!wanted.contains(address)) {
        gone.push_back(address);
      }
    }
  }
  for (auto it = wanted.begin(); it != wanted.end();) {
    if (it->second.entry.empty() && it->second.on_return.empty() &&
        it->second.internal == InternalProbe::kNone) {
      if (t->sites.contains(it->first)) {
        gone.push_back(it->first);
      }
      it = wanted.erase(it);
    } else {
      ++it;
    }
  }
  std::map<uint64_t, SiteHere> fresh;
  for (auto it = wanted.begin(); it != wanted.end();) {
    const uint64_t address = it->first;
    WantedPlace& w = it->second;
    const auto existing = t->sites.find(address);
    const bool wants_return = !w.on_return.empty();
    if (existing == t->sites.end() || (wants_return && !existing->second.with_return)) {
      uint32_t index = 0;
      if (existing != t->sites.end()) {
        index = existing->second.index;
      } else if (!t->free_sites.empty()) {
        index = t->free_sites.back();
        t->free_sites.pop_back();
      } else if (t->next_site < kMaxSites) {
        index = t->next_site++;
      } else {
        return make_error(ENOSPC, "too many probes in one target");
      }
      auto plan = plan_site(t, &maps, address, w, index, &new_rooms);
      if (!plan && wants_return && (!w.entry.empty() || existing != t->sites.end())) {
        // The entry links go on without the return links.
        for (const WantedLink& link : w.on_return) {
          t->why_not[raw(link.id)] = {plan.error().code, plan.error().why};
        }
        w.on_return.clear();
        if (existing == t->sites.end()) {
          plan = plan_site(t, &maps, address, w, index, &new_rooms);
        } else {
          ++it;
          continue;
        }
      }
      if (!plan) {
        for (const auto* links : {&w.entry, &w.on_return}) {
          for (const WantedLink& link : *links) {
            t->why_not[raw(link.id)] = {plan.error().code, plan.error().why};
          }
        }
        if (w.internal != InternalProbe::kNone) {
          host->log("process " + std::to_string(t->pid) +
                    (w.internal == InternalProbe::kLibraries
                         ? ": libraries loaded later will not be probed: "
                         : ": its own sigaction() is not answered for: ") +
                    plan.error().why);
        }
        if (existing == t->sites.end()) {
          t->free_sites.push_back(index);
        }
        it = wanted.erase(it);
        continue;
      }
      SiteHere site;
      site.index = index;
      site.with_return = !w.on_return.empty();
      site.patch = plan->patch;
      site.hole = plan->hole;
      site.is_function_begin = plan->is_function_begin;
      fresh[address] = site;
      plans.emplace(address, std::move(*plan));
    }
    for (const auto* links : {&w.entry, &w.on_return}) {
      for (const WantedLink& link : *links) {
        programs.insert(raw(link.program));
      }
    }
    ++it;
  }
  // Which lists change?
  std::vector<uint64_t> changed;
  for (const auto& [address, w] : wanted) {
    const auto it = t->sites.find(address);
    if (it == t->sites.end() || fresh.contains(address) ||
        !same_links(it->second.entry.links, w.entry) ||
        !same_links(it->second.on_return.links, w.on_return) ||
        (w.internal != InternalProbe::kNone && it->second.entry.at == 0)) {
      changed.push_back(address);
    }
  }
  if (gone.empty() && changed.empty() && t->armed) {
    return {};
  }

  // Mappings, if any are missing, by one held thread while the others run.
  const bool brings_mappings = !t->owns_signals || !new_rooms.empty() ||
                               std::any_of(programs.begin(), programs.end(),
                                           [&](uint32_t id) { return !t->programs.contains(id); });
  if (brings_mappings) {
    const StopWatch watch;
    {
      std::optional<StoppedProcess> borrowed;
      if (held == nullptr) {
        borrowed.emplace(TRY(borrow_any(t->pid, deadline())));
      }
      if (held != nullptr && held->worker != nullptr) {
        TRY(bring_mappings(t, &maps, programs, new_rooms, *std::exchange(held->worker, nullptr)));
      } else {
        RemoteThread thread =
            TRY(RemoteThread::begin(held != nullptr ? *held->process : *borrowed, 0, deadline()));
        TRY(bring_mappings(t, &maps, programs, new_rooms, thread));
      }
    }
    t->stopped_ns = std::max(t->stopped_ns, watch.elapsed());
  }
  if (held != nullptr && held->worker != nullptr) {
    TRY(std::exchange(held->worker, nullptr)->finish());
  }

  // All threads stopped: the change itself.
  const StopWatch watch;
  std::optional<StoppedProcess> stopped;
  if (held == nullptr) {
    stopped.emplace(TRY(StoppedProcess::stop(t->pid, deadline())));
  }
  StoppedProcess& all = held != nullptr ? *held->process : *stopped;
  std::map<uint64_t, std::pair<ListHere, ListHere>> lists;
  for (const auto& [address, plan] : plans) {
    TRY(all.write(plan.patch.trampoline, std::as_bytes(std::span(plan.trampoline))));
    TRY(journal_entry(t, plan.patch, all));
    if (plan.hole.site_bytes != 0) {
      TRY(journal_entry(t, plan.hole, all));
    }
  }
  for (const uint64_t address : changed) {
    const WantedPlace& w = wanted.at(address);
    lists[address] = {TRY(make_list(t, w.entry, w.internal, false, all)),
                      TRY(make_list(t, w.on_return, InternalProbe::kNone, true, all))};
  }
  if (!t->armed) {
    const bool assumed = t->is_hashed;
    TRY(discover_threads(t, all));
    if (t->is_hashed != assumed) {
      // The trampolines lead to thunks that would look for threads where they are not.
      for (const auto& [address, site] : fresh) {
        t->retired.push_back({Retired::kSlot, raw(site.patch.trampoline), kSlotBytes});
        if (!t->sites.contains(address)) {
          t->free_sites.push_back(site.index);
        }
      }
      return make_error(kPlanAnew, "threads are known otherwise than was thought");
    }
  }
  if (t->libc_restorer != 0) {
    TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, libc_restorer)},
                        t->libc_restorer));
  }
  const auto site_at = [&](uint32_t index) { return t->table + index * sizeof(Site); };
  const auto restore = [&](const SiteHere& site) {
    for (const Patch* patch : {&site.patch, &site.hole}) {
      if (patch->site_bytes != 0 && !all.restore_patches({patch, 1})) {
        host->log("process " + std::to_string(t->pid) + ": the code at " + hex(raw(patch->site)) +
                  " is no longer as we left it; it stays as it is");
      }
    }
  };
  const auto retire = [&](const ListHere& list) {
    if (list.at != 0) {
      t->retired.push_back({Retired::kHeap, list.at, list.bytes});
    }
  };
  const auto leave = [&](const SiteHere& site, uint64_t address) {
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
  };
  for (const uint64_t address : gone) {
    const SiteHere& site = t->sites.at(address);
    restore(site);
    leave(site, address);
    const uint64_t null_pointers[2] = {0, 0};
    TRY(all.write(RemoteAddr{site_at(site.index)}, std::as_bytes(std::span(null_pointers))));
    retire(site.entry);
    retire(site.on_return);
    t->retired.push_back({Retired::kSlot, raw(site.patch.trampoline), kSlotBytes});
    t->free_sites.push_back(site.index);
    t->sites.erase(address);
  }
  for (const auto& [address, site] : fresh) {
    if (const auto old = t->sites.find(address); old != t->sites.end()) {
      restore(old->second);
      t->retired.push_back({Retired::kSlot, raw(old->second.patch.trampoline), kSlotBytes});
    }
  }
  for (const auto& [address, pair] : lists) {
    auto it = t->sites.find(address);
    if (it != t->sites.end()) {
      retire(it->second.entry);
      retire(it->second.on_return);
      leave(it->second, address);
    }
    if (const auto f = fresh.find(address); f != fresh.end()) {
      t->sites[address] = f->second;
    }
    SiteHere& site = t->sites.at(address);
    site.internal = wanted.at(address).internal;
    site.entry = pair.first;
    site.on_return = pair.second;
    for (const ListHere* list : {&site.entry, &site.on_return}) {
      for (const WantedLink& link : list->links) {
        t->places[raw(link.id)].insert(address);
      }
    }
    const uint64_t record[4] = {site.entry.at, site.on_return.at, address, site.is_function_begin};
    TRY(all.write(RemoteAddr{site_at(site.index)}, std::as_bytes(std::span(record))));
  }
  for (const auto& [address, site] : fresh) {
    // One at a time: a place whose code is not as in its file costs only itself.
    Result<void> written{};
    for (const Patch* patch : {&site.hole, &site.patch}) {
      if (patch->site_bytes != 0 && written) {
        const auto moved = all.move_ips({patch, 1});
        written = moved ? all.write_patches({patch, 1}) : Result<void>(moved.error());
      }
    }
    if (!written) {
      const WantedPlace& w = wanted.at(address);
      for (const auto* links : {&w.entry, &w.on_return}) {
        for (const WantedLink& link : *links) {
          t->why_not[raw(link.id)] = {written.error().code, written.error().why};
        }
      }
      SiteHere& failed = t->sites.at(address);
      leave(failed, address);
      retire(failed.entry);
      retire(failed.on_return);
      t->free_sites.push_back(failed.index);
      const uint64_t null_pointers[2] = {0, 0};
      TRY(all.write(RemoteAddr{site_at(failed.index)}, std::as_bytes(std::span(null_pointers))));
      t->sites.erase(address);
    }
  }
  TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, site_count)}, t->next_site));
  t->generation++;
  TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, generation)}, t->generation));
  if (!t->armed) {
    TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, alive)}, t->alive));
    t->armed = true;
  }
  if (t->retired.size() > kRetiredAtOnce) {
    const auto inside = who_is_inside(all, t->arena, true);
    if (inside && *inside == nullptr) {
      for (const Retired& r : t->retired) {
        if (r.kind == Retired::kHeap) {
          t->heap.release(r.at, r.bytes);
          continue;
        }
        for (TrampolineRoom& room : t->rooms) {
          if (r.at >= room.base && r.at < room.base + kRoomBytes) {
            room.free.push_back(r.at);
          }
        }
      }
      t->retired.clear();
    }
  }
  if (t->owns_signals && t->sites.empty()) {
    give_signals_back_when_idle(t, all);
  }
  stopped.reset();
  t->stopped_ns = std::max(t->stopped_ns, watch.elapsed());
  return {};
}

// After the last probe (DESIGN D10); a thread that is still inside a program may need them, then later.
void Targets::Impl::give_signals_back_when_idle(TargetProcess* t, StoppedProcess& all) {
  constexpr int kLookAgainMs = 20;
  const auto inside = who_is_inside(all, t->arena, true);
  if (inside && *inside == nullptr && give_signals_back(all, t->arena, deadline())) {
    t->owns_signals = false;
    return;
  }
  loop->after(kLookAgainMs, [this, pid = t->pid, owner = t->owner] {
    const auto it = targets.find(pid);
    if (it == targets.end() || it->second->owner != owner || !it->second->owns_signals ||
        !it->second->sites.empty()) {
      return;
    }
    auto stopped = StoppedProcess::stop(pid, deadline());
    if (stopped) {
      give_signals_back_when_idle(it->second.get(), *stopped);
    } else {
      watch_late();
    }
  });
}

}  // namespace bpftime
