// /proc/PID/maps as values, and where in an address space there is room. Home: edge, broker.
// The text comes from the kernel, its paths from a target: a path is never opened through this.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace bpftime {

struct Mapping {
  uint64_t begin, end, offset;
  int prot;  // PROT_READ | PROT_WRITE | PROT_EXEC
  bool is_shared;
  dev_t device;
  ino_t inode;
  std::string path;  // as printed: "[stack]", "/memfd:NAME (deleted)", "" for anonymous memory
  [[nodiscard]] bool contains(uint64_t address) const { return begin <= address && address < end; }
};

// rel32 reaches 2 GB; what is placed must be reached from all of it.
inline constexpr uint64_t kReachBytes = 1900ULL << 20;

Result<std::vector<Mapping>> parse_maps(std::string_view text);  // EINVAL
Result<std::vector<Mapping>> read_maps(pid_t pid);               // ESRCH, EACCES

// A free, page aligned range of `bytes` that lies wholly within `reach` of every byte of [near,
// near+1), as close as possible, one free page left on both sides (stack growth, guard pages).
// ENOMEM.
Result<uint64_t> find_hole(std::span<const Mapping> maps, uint64_t near, uint64_t bytes,
                           uint64_t reach = kReachBytes);

const Mapping* mapping_at(std::span<const Mapping> maps, uint64_t address);  // null: nothing there
std::vector<Mapping> mappings_of_file(std::span<const Mapping> maps, dev_t device, ino_t inode);
// Mappings of a memfd created with this name ("/memfd:NAME (deleted)"), lowest first.
std::vector<Mapping> mappings_of_memfd(std::span<const Mapping> maps, std::string_view name);

}  // namespace bpftime
