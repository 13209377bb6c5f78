// The lanes of a session (abi/lanes.hpp): one file, mapped by all targets. Home: broker.
#pragma once
#include <cstdint>

#include "abi/ids.hpp"
#include "abi/lanes.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace bpftime {

class LaneTable {
 public:
  // Errors: those of memfd_create(2) and mmap(2).
  static Result<LaneTable> create(uint32_t cpus);
  LaneTable(LaneTable&& other) noexcept;
  LaneTable& operator=(LaneTable&&) = delete;
  ~LaneTable();

  [[nodiscard]] int fd() const { return file_.get(); }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] uint32_t cpus() const { return cpus_; }
  [[nodiscard]] uint32_t count() const { return lane_count(cpus_); }
  // Of a process that runs no hit any more; how many it had.
  uint32_t free_of(OwnerId owner);

 private:
  LaneTable() = default;
  UniqueFd file_;
  LaneWord* words_ = nullptr;
  uint64_t bytes_ = 0;
  uint32_t cpus_ = 0;
};

}  // namespace bpftime
