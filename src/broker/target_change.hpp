// What one sync() changes in a target, from what is wanted to what is written. Home: broker, target_*.cpp only.
#pragma once
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "broker/target_process.hpp"
#include "inject/process_maps.hpp"
#include "patchplan/plan.hpp"

namespace bpftime {

struct Change {
  std::vector<Mapping> seen;               // what is mapped; WantedPlace::mapping points in here
  std::vector<Mapping> maps;               // and what is about to be
  std::map<uint64_t, WantedPlace> wanted;  // by address
  std::vector<uint64_t> gone;              // sites to be restored
  std::map<uint64_t, SiteHere> fresh;      // sites to be patched
  std::map<uint64_t, Plan> plans;          // of `fresh`
  std::vector<uint64_t> changed;           // places whose lists are new
  std::map<uint64_t, std::pair<ListHere, ListHere>> lists;  // of `changed`: at entry, on return
  std::vector<uint64_t> new_rooms;
  std::set<uint32_t> programs;
};

}  // namespace bpftime
