// The table of build ids of a target that has programs which walk stacks.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "abi/build_ids.hpp"
#include "broker/target_change.hpp"
#include "broker/targets_impl.hpp"

namespace bpftime {
namespace {

bool is_code(const Mapping& m) { return (m.prot & PROT_EXEC) != 0 && m.inode != 0; }

bool is_same(const Mapping& a, const Mapping& b) {
  return a.begin == b.begin && a.end == b.end && a.offset == b.offset && a.inode == b.inode &&
         a.device == b.device;
}

}  // namespace

// Files are looked at only where the mappings of code are others than last time.
bool Targets::Impl::build_ids_are_right(const TargetProcess* t, const Change& change) {
  if (!t->walks_stacks) {
    return true;
  }
  std::vector<Mapping> code;
  std::copy_if(change.seen.begin(), change.seen.end(), std::back_inserter(code), is_code);
  return std::equal(code.begin(), code.end(), t->code_seen.begin(), t->code_seen.end(), is_same);
}

// Preconditions: all threads are stopped.
Result<void> Targets::Impl::settle_build_ids(TargetProcess* t, const Change& change,
                                             StoppedProcess& all) {
  if (build_ids_are_right(t, change)) {
    return {};
  }
  t->code_seen.clear();
  std::copy_if(change.seen.begin(), change.seen.end(), std::back_inserter(t->code_seen), is_code);
  std::vector<BuildIdRow> rows;
  for (const Mapping& m : t->code_seen) {
    const auto module = modules.of_mapping(t->pid, m);
    const auto id = module ? (*module)->image.build_id() : std::span<const std::byte>();
    if (id.empty()) {
      continue;
    }
    BuildIdRow row{m.begin, m.end, m.offset, {}, 0};
    std::memcpy(row.id, id.data(), std::min<size_t>(id.size(), kBuildIdBytes));
    rows.push_back(row);
  }
  const BuildIdTable head{rows.size()};
  const uint64_t bytes = sizeof(head) + rows.size() * sizeof(BuildIdRow);
  const uint64_t at = t->heap.allocate(bytes);
  if (at == 0) {
    return make_error(ENOSPC, "the arena is full");
  }
  TRY(all.write_value(RemoteAddr{at}, head));
  TRY(all.write(RemoteAddr{at + sizeof(head)}, std::as_bytes(std::span(rows))));
  TRY(all.write_value(
      RemoteAddr{t->arena + offsetof(AgentState, process) + offsetof(ProcessInfo, build_ids)}, at));
  if (t->build_ids_at != 0) {
    t->retired.push_back({Retired::kHeap, t->build_ids_at, t->build_ids_bytes, 0, t->looks + 1});
  }
  t->build_ids_at = at;
  t->build_ids_bytes = bytes;
  return {};
}

}  // namespace bpftime
