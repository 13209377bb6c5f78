// Planning one site: its trampoline's place and how its code is to be patched. Nothing in the target is touched.
#include "broker/targets_impl.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "broker/place.hpp"
#include "broker/unwinding.hpp"

namespace bpftime {

Result<uint64_t> reserve(std::vector<Mapping>* maps, uint64_t near, uint64_t bytes,
                         uint64_t reach) {
  Mapping m{};
  m.begin = TRY(find_hole(*maps, near, bytes, reach));
  m.end = m.begin + bytes;
  insert_mapping(maps, m);
  return m.begin;
}

void insert_mapping(std::vector<Mapping>* maps, const Mapping& m) {
  maps->insert(
      std::upper_bound(maps->begin(), maps->end(), m,
                       [](const Mapping& a, const Mapping& b) { return a.begin < b.begin; }),
      m);
}

// A trampoline's place within reach of `near`; a new room, when one is needed, is mapped later (new_rooms).
Result<uint64_t> Targets::Impl::take_slot(TargetProcess* t, std::vector<Mapping>* maps,
                                          uint64_t near, std::vector<uint64_t>* new_rooms) {
  for (TrampolineRoom& room : t->rooms) {
    const uint64_t low = std::min(room.base, near);
    const uint64_t high = std::max(room.base + kRoomBytes, near);
    if (high - low > kReachBytes) {
      continue;
    }
    if (!room.free.empty()) {
      const uint64_t at = room.free.back();
      room.free.pop_back();
      return at;
    }
    if (room.used + kSlotBytes <= kRoomBytes) {
      const uint64_t at = room.base + room.used;
      room.used += kSlotBytes;
      return at;
    }
  }
  const uint64_t base = TRY(reserve(maps, near, kRoomBytes, kReachBytes));
  t->rooms.push_back(TrampolineRoom{base, kSlotBytes, {}, false});
  new_rooms->push_back(base);
  return base;
}

// Of the function looked at last: places are planned in the order of their addresses.
const FunctionFacts& Targets::Impl::facts_of(const std::shared_ptr<const Module>& module,
                                             const FunctionPlace& place) {
  if (looked_at.module != module || looked_at.begin != place.begin ||
      looked_at.bytes != place.bytes) {
    looked_at =
        LookedAt{module, place.begin, place.bytes, function_facts(place.code.first(place.bytes))};
  }
  return looked_at.facts;
}

Result<Plan> Targets::Impl::plan_site(TargetProcess* t, std::vector<Mapping>* maps,
                                      uint64_t address, const WantedPlace& wanted, uint32_t index,
                                      std::vector<uint64_t>* new_rooms) {
  const Mapping mapping = *wanted.mapping;
  const auto module = TRY(modules.of_mapping(t->pid, mapping));
  const uint64_t bias = TRY(module->bias(mapping));
  const FunctionPlace place = TRY(place_of(*module, address - bias));
  PlanInput input{};
  input.wants_return = !wanted.on_return.empty();
  if (input.wants_return) {
    if (returns_twice(place.name)) {
      return make_error(EOPNOTSUPP, "this function may return twice");
    }
    if (is_go_image(module->bytes)) {
      return make_error(EOPNOTSUPP, "return probes do not fit Go's calling convention");
    }
    if (maps_nongnu_libunwind(*maps)) {
      return make_error(
          EOPNOTSUPP,
          "no return probes here: this process has loaded nongnu libunwind, which cannot walk past one");
    }
    if (!t->unwinder_knows_image) {
      return make_error(EOPNOTSUPP,
                        "no return probes here yet: the agent could not be loaded by the target's "
                        "own loader, so its unwinder does not know it");
    }
  }
  input.site = RemoteAddr{address};
  input.function_begin = RemoteAddr{place.begin + bias};
  input.code = place.code;
  input.function_bytes = place.bytes;
  input.bytes_to_next_function = place.bytes_to_next;
  const uint64_t slot = TRY(take_slot(t, maps, address, new_rooms));
  input.room = RemoteAddr{slot};
  input.site_record = RemoteAddr{t->table + index * sizeof(Site)};
  const uint64_t base = raw(t->image.base);
  const bool hashed = t->is_hashed;
  input.entry_thunk = RemoteAddr{base + (hashed ? agent.entry_thunk_hashed : agent.entry_thunk)};
  input.inside_thunk = RemoteAddr{base + (hashed ? agent.inside_thunk_hashed : agent.inside_thunk)};
  input.return_thunk = RemoteAddr{base + (hashed ? agent.return_thunk_hashed : agent.return_thunk)};
  input.site_index = index;
  const FunctionFacts& facts = facts_of(module, place);
  auto plan = plan_patch(input, facts);
  if (!plan && plan.error().code == EOPNOTSUPP) {
    // A short function: look for padding nearby that no other site uses.
    std::vector<PaddingRange> padding = padding_near(*module, address - bias);
    for (PaddingRange& range : padding) {
      range.begin = RemoteAddr{raw(range.begin) + bias};
      for (const auto& [_, site] : t->sites) {
        for (const Patch* taken : {&site.patch, &site.hole}) {
          const uint64_t begin = raw(taken->site);
          const uint64_t end = begin + taken->site_bytes;
          const uint64_t range_end = raw(range.begin) + range.content.size();
          if (taken->site_bytes == 0 || begin >= range_end || end <= raw(range.begin)) {
            continue;
          }
          // What is left behind it, or else before it.
          const uint64_t cut = std::min<uint64_t>(end - raw(range.begin), range.content.size());
          if (begin <= raw(range.begin) || range_end > end) {
            range.begin = RemoteAddr{raw(range.begin) + cut};
            range.content = range.content.subspan(cut);
          } else {
            range.content = range.content.first(begin - raw(range.begin));
          }
        }
      }
    }
    std::erase_if(padding, [](const PaddingRange& r) { return r.content.size() < 5; });
    input.padding = padding;
    plan = plan_patch(input, facts);
  }
  if (!plan) {
    for (TrampolineRoom& room : t->rooms) {  // nothing has been written there yet
      if (slot >= room.base && slot < room.base + kRoomBytes) {
        room.free.push_back(slot);
      }
    }
  }
  return plan;
}

}  // namespace bpftime
