// What lies in a target's arena for its sites: lists of what runs there, and the journal of what was overwritten.
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "broker/targets_impl.hpp"

namespace bpftime {

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
  if (count == 1 && internal == InternalProbe::kNone && !links[0].is_timed &&
      !links[0].is_session) {
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
    item.program =
        reinterpret_cast<decltype(item.program)>(raw(t->image.base) + agent.program_at(internal));
    item.counts = reinterpret_cast<HitCounts*>(TRY(counts_of(0)));
    item.flags = kAttachedInternal;
    put(item);
  }
  for (const WantedLink& link : links) {
    const ProgramHere& program = t->programs.at(raw(link.program));
    Attached item{};
    item.program = reinterpret_cast<decltype(item.program)>(program.code);
    item.slots = reinterpret_cast<const uint64_t*>(program.slots);
    if (program.makes_tail_calls) {
      item.program =
          reinterpret_cast<decltype(item.program)>(raw(t->image.base) + agent.run_tail_calls);
    }
    if (link.is_timed) {
      item.program = reinterpret_cast<decltype(item.program)>(raw(t->image.base) + agent.run_timed);
      item.flags = kAttachedCounted;
    }
    item.counts = reinterpret_cast<HitCounts*>(TRY(counts_of(raw(link.id))));
    if (link.is_session) {
      item.flags |= kAttachedSession | (link.is_return ? kAttachedReturnOnly : 0);
      if (!link.is_timed) {
        item.program =
            reinterpret_cast<decltype(item.program)>(raw(t->image.base) + agent.run_session);
      }
    }
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

}  // namespace bpftime
