// What a target should be: the session's links, and the places where the agent itself listens, as addresses in it.
#include "broker/targets_impl.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <utility>

namespace bpftime {
namespace {
// What libc gives the kernel as sa_restorer: mov $15, %rax; syscall (rt_sigreturn; sigaction(2)).
std::optional<uint64_t> restorer_in(const Module& module, uint64_t bias) {
  constexpr std::array<uint8_t, 9> kRestorer = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
  const auto pattern = std::as_bytes(std::span(kRestorer));
  for (const ElfSegment& segment : module.image.segments()) {
    const auto bytes = segment.is_executable
                           ? module.image.bytes_at(segment.address, segment.file_bytes)
                           : Result<std::span<const std::byte>>(std::span<const std::byte>());
    if (!bytes) {
      continue;
    }
    const auto at = std::search(bytes->begin(), bytes->end(),
                                std::boyer_moore_horspool_searcher(pattern.begin(), pattern.end()));
    if (at != bytes->end()) {
      return bias + segment.address + static_cast<uint64_t>(at - bytes->begin());
    }
  }
  return std::nullopt;
}

}  // namespace

void Targets::Impl::want(TargetProcess* t, const WantedLink& link, const std::vector<Mapping>& maps,
                         std::map<uint64_t, WantedPlace>* wanted) {
  bool mapped = false;
  for (const Mapping& m : maps) {
    if ((m.prot & PROT_EXEC) != 0 && m.inode == link.inode && m.device == link.device &&
        m.offset <= link.file_offset && link.file_offset - m.offset < m.end - m.begin) {
      WantedPlace& w = (*wanted)[m.begin + (link.file_offset - m.offset)];
      w.mapping = &m;
      w.file_offset = link.file_offset;
      if (!link.is_return) {
        w.entry.push_back(link);
      }
      if (link.is_return || link.is_session) {
        w.on_return.push_back(link);
      }
      mapped = true;
    }
  }
  if (!mapped) {
    t->why_not[raw(link.id)] = {0, "the file is not mapped here"};
  }
}

// Everything.
std::map<uint64_t, WantedPlace> Targets::Impl::wanted_of(TargetProcess* t,
                                                         const std::vector<Mapping>& maps) {
  std::map<uint64_t, WantedPlace> wanted;
  t->why_not.clear();
  for (const WantedLink& link : host->wanted_links()) {
    if (link.applies_to(t->pid)) {
      t->listens = true;
      want(t, link, maps, &wanted);
    }
  }
  if (t->listens) {
    add_internal(t, maps, &wanted);
  }
  return wanted;
}

// Only the places that one link touches, or touched: what else is there stays.
std::map<uint64_t, WantedPlace> Targets::Impl::wanted_of_link(TargetProcess* t,
                                                              const std::vector<Mapping>& maps,
                                                              LinkId id) {
  std::map<uint64_t, WantedPlace> wanted;
  t->why_not.erase(raw(id));
  for (const WantedLink& link : host->wanted_links_of(id)) {
    if (link.applies_to(t->pid)) {
      want(t, link, maps, &wanted);
    }
  }
  if (const auto places = t->places.find(raw(id)); places != t->places.end()) {
    for (const uint64_t address : places->second) {
      wanted.try_emplace(address);
    }
  }
  for (auto& [address, w] : wanted) {
    const auto site = t->sites.find(address);
    if (site == t->sites.end()) {
      continue;
    }
    w.internal = site->second.internal;
    w.mapping = mapping_at(maps, address);
    for (const auto& [from, to] : {std::pair(&site->second.entry.links, &w.entry),
                                   std::pair(&site->second.on_return.links, &w.on_return)}) {
      std::vector<WantedLink> merged;
      std::remove_copy_if(from->begin(), from->end(), std::back_inserter(merged),
                          [&](const WantedLink& l) { return l.id == id; });
      merged.insert(merged.end(), to->begin(), to->end());
      std::stable_sort(merged.begin(), merged.end(), [](const WantedLink& x, const WantedLink& y) {
        return raw(x.id) < raw(y.id);
      });
      *to = std::move(merged);
    }
  }
  return wanted;
}

// The first mapping of a libc (ld-musl is one, and the loader too) that has the place.
bool Targets::Impl::add_internal_at(TargetProcess* t, const Mapping& m, const char* name,
                                    InternalProbe internal,
                                    std::map<uint64_t, WantedPlace>* wanted) {
  const auto module = modules.of_mapping(t->pid, m);
  if (!module) {
    return false;
  }
  const auto symbol = (*module)->image.find_symbol(name);
  const auto bias = (*module)->bias(m);
  if (!symbol || !bias || !m.contains(*bias + symbol->address)) {
    return false;
  }
  if (internal == InternalProbe::kSigaction && t->libc_restorer == 0) {
    const auto restorer = restorer_in(**module, *bias);
    if (!restorer) {
      return false;
    }
    t->libc_restorer = *restorer;
  }
  const uint64_t address = *bias + symbol->address;
  WantedPlace& w = (*wanted)[address];
  w.mapping = &m;
  w.file_offset = address - m.begin + m.offset;
  w.internal = internal;
  return true;
}

// Where ld.so tells debuggers of a changed link map, where libc sets a signal's action, and where it execs; a static
// program has none.
void Targets::Impl::add_internal(TargetProcess* t, const std::vector<Mapping>& maps,
                                 std::map<uint64_t, WantedPlace>* wanted) {
  struct {
    const char* name;
    InternalProbe internal;
    bool in_loader, is_found;
  } places[] = {{"_dl_debug_state", InternalProbe::kLibraries, true, false},
                {"sigaction", InternalProbe::kSigaction, false, false},
                {"execve", InternalProbe::kExec, false, !t->follows}};
  for (const Mapping& m : maps) {
    const auto has = [&](const char* text) { return m.path.find(text) != std::string::npos; };
    const bool is_musl = has("/ld-musl");
    const bool is_loader = is_musl || has("/ld-linux");
    const bool is_libc = is_musl || has("/libc.so.6") || has("/libc-2.");
    if ((m.prot & PROT_EXEC) == 0 || (!is_loader && !is_libc)) {
      continue;
    }
    for (auto& place : places) {
      if (!place.is_found && (place.in_loader ? is_loader : is_libc)) {
        place.is_found = add_internal_at(t, m, place.name, place.internal, wanted);
      }
    }
  }
}

}  // namespace bpftime
