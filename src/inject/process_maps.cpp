#include "inject/process_maps.hpp"

#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>

#include "inject/process.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLowest = 1 << 20;  // vm.mmap_min_addr is at most 64 KB everywhere
constexpr uint64_t kGrowth = 1 << 30;  // left free above a mapping where there is plenty
constexpr uint64_t kStackGrowth =
    128 << 20;  // Kernel v6.12 mm/util.c: MIN_GAP between mappings and stack
constexpr uint64_t kHighest = 0x7ffffffff000ULL;  // x86-64 user space, 4-level page tables

// One number followed by `stop`; advances `line`. Kernel v6.12 fs/proc/task_mmu.c: show_map_vma.
template <class T>
bool take(std::string_view& line, int base, char stop, T* value) {
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), *value, base);
  const auto used = static_cast<size_t>(end - line.data());
  if (error != std::errc() || used >= line.size() || line[used] != stop) {
    return false;
  }
  line.remove_prefix(used + 1);
  return true;
}

bool parse_line(std::string_view line, Mapping* out) {
  unsigned device_major = 0, device_minor = 0;
  if (!take(line, 16, '-', &out->begin) || !take(line, 16, ' ', &out->end) ||
      out->end <= out->begin || line.size() < 5 || line[4] != ' ') {
    return false;
  }
  out->prot = (line[0] == 'r' ? PROT_READ : 0) | (line[1] == 'w' ? PROT_WRITE : 0) |
              (line[2] == 'x' ? PROT_EXEC : 0);
  out->is_shared = line[3] == 's';
  line.remove_prefix(5);
  if (!take(line, 16, ' ', &out->offset) || !take(line, 16, ':', &device_major) ||
      !take(line, 16, ' ', &device_minor)) {
    return false;
  }
  out->device = makedev(device_major, device_minor);
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), out->inode, 10);
  if (error != std::errc()) {
    return false;
  }
  line.remove_prefix(static_cast<size_t>(end - line.data()));
  const size_t path = line.find_first_not_of(' ');
  out->path = path == std::string_view::npos ? "" : std::string(line.substr(path));
  return true;
}

}  // namespace

Result<std::vector<Mapping>> parse_maps(std::string_view text) {
  std::vector<Mapping> maps;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    Mapping mapping = {};
    if (!parse_line(line, &mapping)) {
      return make_error(EINVAL, "unreadable line in /proc/PID/maps");
    }
    maps.push_back(std::move(mapping));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return maps;
}

Result<std::vector<Mapping>> read_maps(pid_t pid) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/maps", pid);
  auto text = read_text_file(path);
  if (!text) {
    return text.error().code == EACCES
               ? make_error(EACCES,
                            "its memory may not be read (another user's rights, or not dumpable)")
               : make_error(text.error().code == ENOENT ? ESRCH : text.error().code,
                            "cannot read /proc/PID/maps");
  }
  if (text->empty()) {
    // A main thread that has ended has no memory any more; the others have.
    const auto threads = read_threads(pid);
    for (size_t i = 0; threads && text->empty() && i < threads->size(); ++i) {
      std::snprintf(path, sizeof path, "/proc/%d/task/%d/maps", pid, (*threads)[i]);
      if (auto other = read_text_file(path)) {
        text = std::move(other);
      }
    }
  }
  if (text->empty()) {
    return make_error(ESRCH, "the process has no memory (ended, or a kernel thread)");
  }
  return parse_maps(*text);
}

Result<uint64_t> find_hole(std::span<const Mapping> maps, uint64_t near, uint64_t bytes,
                           uint64_t reach) {
  bytes = (bytes + kPage - 1) & ~(kPage - 1);
  if (bytes == 0 || bytes > reach) {
    return make_error(EINVAL, "hole of an impossible size");
  }
  uint64_t best = 0, best_distance = UINT64_MAX;
  bool best_is_below = false;
  // Below `near` first: heaps (brk) grow upwards from what is mapped.
  const auto consider = [&](uint64_t begin, uint64_t end, bool below_stack) {  // a free range
    if (end - begin > 2 * kGrowth) {
      begin += kGrowth;
    }
    if (below_stack) {
      end -= std::min(end - begin, kStackGrowth);
    }
    begin = std::max(begin + kPage, kLowest);
    end = std::min(end - kPage, kHighest);
    if (begin >= end || end - begin < bytes) {
      return;
    }
    const uint64_t last = end - bytes;
    const uint64_t at = std::clamp(near & ~(kPage - 1), begin, last);
    const uint64_t distance = at + bytes <= near ? near - at : at + bytes - near;
    const bool is_below = at + bytes <= near;
    if (distance <= reach &&
        (is_below > best_is_below || (is_below == best_is_below && distance < best_distance))) {
      best = at;
      best_distance = distance;
      best_is_below = is_below;
    }
  };
  uint64_t free_from = 0;
  for (const Mapping& mapping : maps) {
    if (mapping.begin > free_from + 2 * kPage) {
      consider(free_from, mapping.begin, mapping.path == "[stack]");
    }
    free_from = std::max(free_from, mapping.end);
  }
  if (free_from < kHighest) {
    consider(free_from, kHighest, false);
  }
  if (best_distance == UINT64_MAX) {
    return make_error(ENOMEM, "no free address range within reach");
  }
  return best;
}

const Mapping* mapping_at(std::span<const Mapping> maps, uint64_t address) {
  for (const Mapping& mapping : maps) {
    if (mapping.contains(address)) {
      return &mapping;
    }
  }
  return nullptr;
}

std::vector<Mapping> mappings_of_file(std::span<const Mapping> maps, dev_t device, ino_t inode) {
  std::vector<Mapping> found;
  for (const Mapping& mapping : maps) {
    if (mapping.inode == inode && mapping.device == device && inode != 0) {
      found.push_back(mapping);
    }
  }
  return found;
}

std::vector<Mapping> mappings_of_memfd(std::span<const Mapping> maps, std::string_view name) {
  const std::string path = "/memfd:" + std::string(name) + " (deleted)";
  std::vector<Mapping> found;
  for (const Mapping& mapping : maps) {
    if (mapping.path == path) {
      found.push_back(mapping);
    }
  }
  return found;
}

}  // namespace bpftime
