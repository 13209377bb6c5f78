// What one thread of a target does for us while the others run: trampoline rooms, programs' code, map regions.
#include "broker/targets_impl.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "inject/remote_memory.hpp"

namespace bpftime {
namespace {

// The kind of hits (docs/decisions/0003) of a list with this program alone; `words` of its context are
// there where registers that a callee keeps are not saved.
uint32_t list_flags(const CompiledProgram& program, uint32_t words) {
  if ((program.facts & (kCountsFuel | kMakesTailCalls)) != 0 ||
      (program.context_use & ~words) != 0) {
    return 0;
  }
  if ((program.facts & kCallsHelpers) != 0 || program.stack_bytes > kPlainStackBytes) {
    return kListSimple;
  }
  const bool is_few =
      (program.facts & kTouchesMore) == 0 && (program.context_use & kMoreWords) == 0;
  const bool reads = (program.facts & kReadsInline) != 0;
  return kListPlain | (is_few ? kListFew : 0U) | (reads ? kListReads : 0U);
}

}  // namespace

// On record in the target itself, for whoever takes them away.
Result<void> Targets::Impl::note_mappings(TargetProcess* t, std::span<const MappedRange> ranges,
                                          StoppedProcess& process) {
  if (t->mappings.size() + ranges.size() > kMaxMappings) {
    return make_error(ENOSPC, "too many mappings in one target");
  }
  const uint64_t at = t->arena + kMappingsOffset + t->mappings.size() * sizeof(MappedRange);
  t->mappings.insert(t->mappings.end(), ranges.begin(), ranges.end());
  TRY(process.write(RemoteAddr{at}, std::as_bytes(ranges)));
  return process.write_value(RemoteAddr{t->arena + offsetof(AgentState, mapping_count)},
                             uint64_t{t->mappings.size()});
}

Result<void> Targets::Impl::note_intents(TargetProcess* t, std::span<const MappedRange> ranges,
                                         StoppedProcess& process) {
  const std::span<const MappedRange> kept = ranges.first(std::min(ranges.size(), kMaxIntents));
  const RemoteAddr at{t->arena + kIntentsOffset};
  TRY(process.write(RemoteAddr{raw(at) + sizeof(MappedRange)}, std::as_bytes(kept)));
  return process.write_value(at, uint64_t{kept.size()});
}

// Maps rooms, and code and map regions of programs that are not here yet; `thread` works for us, the others may run.
Result<void> Targets::Impl::bring_mappings(TargetProcess* t, std::vector<Mapping>* maps,
                                           const std::set<uint32_t>& programs,
                                           const std::vector<uint64_t>& new_rooms,
                                           RemoteThread& thread) {
  StoppedProcess& process = thread.process();
  std::vector<RemoteMapping> wanted;
  for (const uint64_t room : new_rooms) {
    wanted.push_back({RemoteAddr{room}, kRoomBytes, PROT_READ | PROT_EXEC, MAP_PRIVATE});
  }
  // Looked at afresh, once the thread that works for us has mapped its scratch memory.
  (void)TRY(thread.scratch());
  *maps = TRY(read_maps(t->pid));
  const uint64_t near = raw(t->image.base);
  for (const uint64_t room : new_rooms) {
    Mapping taken{};
    taken.begin = room;
    taken.end = room + kRoomBytes;
    insert_mapping(maps, taken);
  }
  struct NewProgram {
    uint32_t id;
    ProgramForTarget program;
    uint64_t at;
  };
  std::vector<NewProgram> new_programs;
  std::vector<std::pair<MapForTarget, uint64_t>> new_maps;
  for (const uint32_t id : programs) {
    if (t->programs.contains(id)) {
      continue;
    }
    const ProgramForTarget program = TRY(host->program_for_target(ProgId{id}));
    const uint64_t bytes = page_up(program.compiled->code.size());
    const uint64_t at = TRY(reserve(maps, near, bytes));
    wanted.push_back({RemoteAddr{at}, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, program.code_fd});
    new_programs.push_back({id, program, at});
    for (const Slot& slot : program.compiled->slots) {
      if ((slot.kind != SlotKind::kMap && slot.kind != SlotKind::kMapValue) ||
          t->maps.contains(slot.id) ||
          std::any_of(new_maps.begin(), new_maps.end(),
                      [&](const auto& m) { return raw(m.first.id) == slot.id; })) {
        continue;
      }
      const MapForTarget map = TRY(host->map_for_target(MapId{slot.id}));
      const uint64_t map_at = TRY(reserve(maps, near, page_up(map.region_bytes)));
      wanted.push_back({RemoteAddr{map_at}, page_up(map.region_bytes),
                        map.read_only ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED,
                        map.region_fd});
      new_maps.emplace_back(map, map_at);
    }
  }
  RemoteChannel channel;
  channel.remote_fd = t->remote_channel_fd;
  channel.remote_inode = t->remote_channel_inode;
  channel.ours.reset(::fcntl(t->channel.get(), F_DUPFD_CLOEXEC, 0));
  std::vector<MappedRange> ranges;
  for (const RemoteMapping& m : wanted) {
    ranges.push_back({raw(m.at), m.bytes});
  }
  TRY(note_intents(t, ranges, process));
  const auto mapped = remote_map(thread, channel, wanted);
  if (!mapped) {
    (void)note_intents(t, {}, process);
    return mapped;
  }
  TRY(note_mappings(t, ranges, process));
  TRY(note_intents(t, {}, process));
  for (TrampolineRoom& r : t->rooms) {
    r.is_mapped = true;
  }
  if (!t->owns_signals) {
    TRY(own_signals(t, thread));
  }
  TRY(thread.finish());

  for (const auto& [map, at] : new_maps) {
    // The view is made from our own mapping of the region, then moved to where the target has it.
    void* const here = ::mmap(nullptr, map.region_bytes, PROT_READ, MAP_SHARED, map.region_fd, 0);
    if (here == MAP_FAILED) {
      return make_error(ENOMEM, "no room to look at a map's region");
    }
    auto view = open_region(static_cast<std::byte*>(here), map.region_bytes, map.spec);
    ::munmap(here, map.region_bytes);
    MapHere m{};
    m.view = rebased(TRY(std::move(view)), at);
    m.view.map_id = raw(map.id);
    m.base = at;
    m.bytes = page_up(map.region_bytes);
    if (map.spec.map_type == BPF_MAP_TYPE_PROG_ARRAY) {
      TailTable table = TRY(make_tail_table(t, map.spec.max_entries, process));
      m.view.used = reinterpret_cast<std::byte*>(table.at);
      t->tail_tables[raw(map.id)] = std::move(table);
    }
    m.view_at = t->heap.allocate(sizeof(MapView));
    if (m.view_at == 0) {
      return make_error(ENOSPC, "the arena is full");
    }
    TRY(process.write_value(RemoteAddr{m.view_at}, m.view));
    t->maps[raw(map.id)] = m;
  }
  for (const auto& [id, program, at] : new_programs) {
    const CompiledProgram& compiled = *program.compiled;
    ProgramHere p{};
    p.code = at;
    p.bytes = page_up(compiled.code.size());
    p.flags_at_entry = list_flags(compiled, kPlainEntryWords);
    p.flags_at_return = list_flags(compiled, kPlainReturnWords);
    p.makes_tail_calls = (compiled.facts & kMakesTailCalls) != 0;
    std::vector<uint64_t> slots{
        at};  // the program itself before the first, for AgentDescriptor::run_timed
    for (const Slot& slot : compiled.slots) {
      uint64_t value = 0;
      switch (slot.kind) {
        case SlotKind::kHelper: {
          t->walks_stacks =
              t->walks_stacks || slot.id == BPF_FUNC_get_stack || slot.id == BPF_FUNC_get_stackid;
          const auto helper = agent.helpers.find(slot.id);
          value = helper == agent.helpers.end() ? 0 : raw(t->image.base) + helper->second;
          break;
        }
        case SlotKind::kMap:
          value = t->maps.at(slot.id).view_at;
          break;
        case SlotKind::kMapValue:
          value = reinterpret_cast<uint64_t>(t->maps.at(slot.id).view.values) + slot.addend;
          break;
        case SlotKind::kFunction:
          value = at + slot.addend;
          break;
        case SlotKind::kReadAside:
          value = raw(t->image.base) + agent.read_aside;
          break;
      }
      slots.push_back(value);
    }
    slots.push_back(0);
    p.slots_bytes = slots.size() * sizeof(uint64_t);
    p.slots_block = t->heap.allocate(p.slots_bytes);
    p.slots = p.slots_block + sizeof(uint64_t);
    if (p.slots_block == 0 || t->code_range_count + compiled.faults.size() > kMaxCodeRanges) {
      return make_error(ENOSPC, "the arena is full");
    }
    TRY(process.write(RemoteAddr{p.slots_block}, std::as_bytes(std::span(slots))));
    p.range = t->arena + kCodeRangesOffset + t->code_range_count * sizeof(CodeRange);
    for (const FaultRange& fault : compiled.faults) {
      TRY(process.write_value(
          RemoteAddr{t->arena + kCodeRangesOffset + t->code_range_count * sizeof(CodeRange)},
          CodeRange{at + fault.code_begin, at + fault.code_end, at + fault.resume_at,
                    at + fault.reads_at, fault.read_count}));
      t->code_range_count++;
    }
    TRY(process.write_value(RemoteAddr{t->arena + offsetof(AgentState, code_range_count)},
                            t->code_range_count));
    t->programs[id] = p;
  }
  return {};
}

}  // namespace bpftime
