// What `bpftime status` says of targets.
#include "broker/targets_impl.hpp"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <utility>

namespace bpftime {
namespace {

// Private memory of the process in mappings that overlap any of `ranges`, by /proc/PID/smaps.
uint64_t private_kb(pid_t pid, std::vector<MappedRange> ranges) {
  // Sorted, and merged where they touch, so that each line costs one search whatever the target made us believe.
  std::sort(ranges.begin(), ranges.end(),
            [](const MappedRange& a, const MappedRange& b) { return a.begin < b.begin; });
  std::vector<MappedRange> merged;
  for (const MappedRange& range : ranges) {
    if (range.bytes == 0 || range.begin + range.bytes < range.begin) {
      continue;
    }
    if (!merged.empty() && range.begin <= merged.back().begin + merged.back().bytes) {
      const uint64_t end =
          std::max(merged.back().begin + merged.back().bytes, range.begin + range.bytes);
      merged.back().bytes = end - merged.back().begin;
    } else {
      merged.push_back(range);
    }
  }
  const auto text = read_text_file(("/proc/" + std::to_string(pid) + "/smaps").c_str());
  if (!text) {
    return 0;
  }
  uint64_t sum = 0;
  bool ours = false;
  size_t at = 0;
  while (at < text->size()) {
    size_t end = text->find('\n', at);
    end = end == std::string::npos ? text->size() : end;
    const std::string line = text->substr(at, end - at);
    at = end + 1;
    unsigned long long first = 0, last = 0, kb = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &first, &last) == 2) {
      const auto after = std::partition_point(merged.begin(), merged.end(),
                                              [&](const MappedRange& m) { return m.begin < last; });
      ours = after != merged.begin() && first < std::prev(after)->begin + std::prev(after)->bytes;
    } else if (ours && (std::sscanf(line.c_str(), "Private_Clean: %llu", &kb) == 1 ||
                        std::sscanf(line.c_str(), "Private_Dirty: %llu", &kb) == 1)) {
      sum += kb;
    }
  }
  return sum;
}

}  // namespace

std::map<LinkId, RunTotals> Targets::runs() {
  std::map<LinkId, RunTotals> all;
  for (const auto& [pid, t] : impl_->targets) {
    for (const auto& [link, at] : t->counts) {
      uint64_t words[sizeof(HitCounts) / 8] = {};
      if (read_memory(pid, RemoteAddr{at}, std::as_writable_bytes(std::span(words)))) {
        RunTotals& totals = all[LinkId{link}];
        totals.count += words[offsetof(HitCounts, run) / 8];
        totals.ns += words[offsetof(HitCounts, ns) / 8];
        totals.missed += words[offsetof(HitCounts, missed) / 8];
      }
    }
  }
  return all;
}

std::vector<TargetStatus> Targets::status() {
  std::vector<TargetStatus> all;
  for (const auto& [pid, t] : impl_->targets) {
    TargetStatus s{};
    s.pid = pid;
    s.owner = t->owner;
    s.exe = t->exe;
    s.way = t->image.way == AgentWay::kDlopen ? "dlopen" : "mapped";
    s.sites = static_cast<uint32_t>(t->sites.size());
    for (const WantedLink& link : impl_->host->wanted_links()) {
      if (!link.applies_to(pid) || (!s.links.empty() && s.links.back().link == raw(link.id))) {
        continue;  // the places of one link follow each other
      }
      TargetStatus::LinkState state{};
      state.link = raw(link.id);
      const auto why = t->why_not.find(state.link);
      state.placed = t->is_placed(state.link);
      state.why_not = why == t->why_not.end() ? "" : why->second.why;
      if (const auto at = t->counts.find(state.link); at != t->counts.end()) {
        uint64_t words[sizeof(HitCounts) / 8] = {};
        if (read_memory(pid, RemoteAddr{at->second}, std::as_writable_bytes(std::span(words)))) {
          state.run = words[offsetof(HitCounts, run) / 8];
          state.ns = words[offsetof(HitCounts, ns) / 8];
          state.missed = words[offsetof(HitCounts, missed) / 8];
          state.faulted = words[offsetof(HitCounts, faulted) / 8];
          state.out_of_fuel = words[offsetof(HitCounts, out_of_fuel) / 8];
        }
      }
      s.links.push_back(state);
    }
    uint64_t block = 0;
    (void)read_memory(pid, RemoteAddr{t->arena + offsetof(AgentState, blocks)},
                      std::as_writable_bytes(std::span(&block, 1)));
    std::vector<MappedRange> ranges = t->mappings;
    std::erase_if(ranges, [&t = t](const MappedRange& r) {
      return std::any_of(t->maps.begin(), t->maps.end(),
                         [&](const auto& m) { return m.second.base == r.begin; });
    });
    ranges.push_back({raw(t->image.base), t->image.bytes});
    ranges.push_back({t->arena, kArenaBytes});
    const uint64_t first_block = block;
    for (int i = 0; block != 0 && i < 65536 && (i == 0 || block != first_block); i++) {
      alignas(ThreadBlock) std::byte bytes[sizeof(ThreadBlock)];
      if (!read_memory(pid, RemoteAddr{block}, bytes)) {
        break;
      }
      const auto* head = reinterpret_cast<const ThreadBlock*>(bytes);
      ranges.push_back({block, head->block_bytes});
      s.missed += head->missed;
      block = reinterpret_cast<uint64_t>(head->next_block);
    }
    s.stopped_us = t->stopped_ns / 1000;
    s.private_kb = private_kb(pid, ranges);
    all.push_back(std::move(s));
  }
  return all;
}

}  // namespace bpftime
