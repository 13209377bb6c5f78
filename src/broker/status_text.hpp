// `bpftime status` and the listings, for people and for programs. Home: broker; pure.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "abi/messages.hpp"
#include "broker/target.hpp"
#include "spec/spec.hpp"

namespace bpftime {

struct SessionStatus {
  struct Map {
    uint32_t id;
    MapSpec spec;
    std::string name;
    uint64_t region_bytes;
    bool frozen;
    uint64_t dropped = 0;  // records of a buffer that found no room
  };
  struct Program {
    uint32_t id, type;
    std::string name, license;
    uint32_t insns;
    uint64_t code_bytes;
    const char* verifier;  // that accepted it: "ours", "kernel", "both"; null: none
    std::vector<uint32_t> maps;
  };
  struct Probe {
    uint32_t link, program;
    std::string path;
    uint64_t offset;
    bool is_return;
    int32_t pid;
    bool enabled, disarmed;
    uint64_t cookie;
    bool is_session = false;
    uint32_t places = 1;  // offset and cookie: of the first
  };
  int32_t broker_pid = 0;
  std::vector<Map> maps;
  std::vector<Program> programs;
  std::vector<Probe> probes;
  std::vector<TargetStatus> targets;
};

// What one link did in all targets together.
struct LinkTotals {
  uint32_t targets = 0, placed = 0;
  uint64_t run = 0, ns = 0;  // while statistics were on
  uint64_t missed = 0, faulted = 0, out_of_fuel = 0;
  std::string why_not;  // of one target where it is not placed
};
LinkTotals totals_of(const SessionStatus& status, uint32_t link);

std::string status_text(const SessionStatus& status);
std::string list_text(Listing what, const SessionStatus& status);
// status_json.cpp: the one file that includes nlohmann
std::string status_json(const SessionStatus& status);
std::string list_json(Listing what, const SessionStatus& status);  // an array

}  // namespace bpftime
