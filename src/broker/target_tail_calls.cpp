// What programs of a target may call at their end: for each PROG_ARRAY that is mapped there a table in the arena, kept as
// the session's array is.
#include <algorithm>
#include <vector>

#include "broker/target_change.hpp"
#include "broker/targets_impl.hpp"

namespace bpftime {

// A table without programs, for a map of `entries`. Errors: ENOSPC.
Result<TailTable> Targets::Impl::make_tail_table(TargetProcess* t, uint32_t entries,
                                                 StoppedProcess& process) {
  TailTable table;
  const uint64_t bytes = uint64_t{entries} * sizeof(uint64_t);
  table.at = bytes <= kArenaBytes ? t->heap.allocate(bytes) : 0;
  if (table.at == 0) {
    return make_error(ENOSPC, "the arena is full");
  }
  constexpr uint64_t kAtOnce = 64 << 10;
  const std::vector<std::byte> zeros(std::min(bytes, kAtOnce));
  for (uint64_t done = 0; done < bytes; done += zeros.size()) {
    TRY(process.write(RemoteAddr{table.at + done},
                      std::span(zeros).first(std::min<uint64_t>(zeros.size(), bytes - done))));
  }
  return table;
}

// The programs of a change, and those that they may come to call.
void Targets::Impl::add_called_programs(Change* change) {
  std::vector<uint32_t> todo(change->programs.begin(), change->programs.end());
  while (!todo.empty()) {
    const auto program = host->program_for_target(ProgId{todo.back()});
    todo.pop_back();
    if (!program || (program->compiled->facts & kMakesTailCalls) == 0) {
      continue;
    }
    for (const Slot& slot : program->compiled->slots) {
      if (slot.kind != SlotKind::kMap) {
        continue;
      }
      for (const auto& [index, called] : host->called_programs(MapId{slot.id})) {
        if (change->programs.insert(raw(called)).second) {
          todo.push_back(raw(called));
        }
      }
    }
  }
}

bool Targets::Impl::tables_are_right(const TargetProcess* t) {
  return std::all_of(t->tail_tables.begin(), t->tail_tables.end(), [&](const auto& entry) {
    return entry.second.programs == host->called_programs(MapId{entry.first});
  });
}

// Preconditions: all threads are stopped. A program that is not here yet is left for the next sync().
Result<void> Targets::Impl::settle_tables(TargetProcess* t, StoppedProcess& all) {
  for (auto& [map, table] : t->tail_tables) {
    const auto wanted = host->called_programs(MapId{map});
    const auto put = [&](uint32_t index, uint64_t target) {
      return all.write_value(RemoteAddr{table.at + index * sizeof(uint64_t)}, target);
    };
    for (const auto& [index, program] : table.programs) {
      if (!wanted.contains(index)) {
        TRY(put(index, 0));
      }
    }
    std::erase_if(table.programs, [&](const auto& entry) { return !wanted.contains(entry.first); });
    for (const auto& [index, program] : wanted) {
      const auto here = t->programs.find(raw(program));
      const auto old = table.programs.find(index);
      if (here == t->programs.end() || (old != table.programs.end() && old->second == program)) {
        continue;
      }
      ProgramHere& called = here->second;
      if (called.tail_target == 0) {
        called.tail_target = t->heap.allocate(sizeof(TailTarget));
        if (called.tail_target == 0) {
          return make_error(ENOSPC, "the arena is full");
        }
        const uint64_t words[3] = {called.code, called.slots, called.range};
        static_assert(sizeof(words) == sizeof(TailTarget));
        TRY(all.write(RemoteAddr{called.tail_target}, std::as_bytes(std::span(words))));
      }
      TRY(put(index, called.tail_target));
      table.programs[index] = program;
    }
  }
  return {};
}

}  // namespace bpftime
