// A map of the session as a command sees it: its shape, its region (mapped for reading), the types of its keys and
// values. Got as a loader gets it, by bpf(2). Home: bpftime(1).
#pragma once
#include <linux/bpf.h>

#include <cstddef>
#include <optional>
#include <string>

#include "btf/btf.hpp"
#include "cli/broker.hpp"
#include "maps/map_ops.hpp"

namespace bpftime::cli {

class LoadedMap {
 public:
  // By id, or by name (which names the first map that has it). Errors: ENOENT; EOPNOTSUPP a kind without elements.
  static Result<LoadedMap> find(Channel* broker, const std::string& id_or_name);
  LoadedMap(LoadedMap&& other) noexcept;
  LoadedMap(const LoadedMap&) = delete;
  LoadedMap& operator=(const LoadedMap&) = delete;
  ~LoadedMap();

  [[nodiscard]] const bpf_map_info& info() const { return info_; }
  [[nodiscard]] const MapView& view() const { return view_; }
  [[nodiscard]] const std::optional<Btf>& types() const { return types_; }
  // What LOOKUP_ELEM gives: for per-CPU kinds one value a lane, each padded to 8.
  [[nodiscard]] size_t value_bytes() const;

 private:
  LoadedMap() = default;
  bpf_map_info info_{};
  MapView view_{};
  std::optional<Btf> types_;
  void* base_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace bpftime::cli
