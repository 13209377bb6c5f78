#include "broker/lane_table.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "broker/memfd.hpp"

namespace bpftime {

Result<LaneTable> LaneTable::create(uint32_t cpus) {
  LaneTable table;
  table.cpus_ = cpus;
  table.bytes_ = (uint64_t{lane_count(cpus)} * sizeof(LaneWord) + 4095) & ~4095ULL;
  table.file_ = TRY(make_memfd(kLanesName, table.bytes_));
  TRY(seal_size(table.file_.get()));
  void* const words =
      ::mmap(nullptr, table.bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, table.file_.get(), 0);
  if (words == MAP_FAILED) {
    return make_error(errno, "mmap of the lanes");
  }
  // SAFETY: zero bytes are free lanes; the mapping has lane_count() of them.
  table.words_ = static_cast<LaneWord*>(words);
  return table;
}

LaneTable::LaneTable(LaneTable&& other) noexcept
    : file_(std::move(other.file_)),
      words_(std::exchange(other.words_, nullptr)),
      bytes_(other.bytes_),
      cpus_(other.cpus_) {}

LaneTable::~LaneTable() {
  if (words_ != nullptr) {
    ::munmap(words_, bytes_);
  }
}

uint32_t LaneTable::free_of(OwnerId owner) {
  uint32_t freed = 0;
  for (uint32_t lane = 0; lane < count(); lane++) {
    uint32_t held = raw(owner);
    freed += held != 0 && words_[lane].owner.compare_exchange_strong(held, 0) ? 1 : 0;
  }
  return freed;
}

}  // namespace bpftime
