// TargetProcess: the broker's record of one process that has an agent: what lies where in it, and what is patched.
// Home: broker, its one thread. Addresses are the target's.
#pragma once
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "abi/agent.hpp"
#include "abi/patch.hpp"
#include "abi/trampoline.hpp"
#include "base/unique_fd.hpp"
#include "broker/agent_file.hpp"
#include "broker/arena.hpp"
#include "broker/seen_threads.hpp"
#include "broker/target.hpp"
#include "inject/bring_agent.hpp"
#include "inject/process.hpp"
#include "inject/process_maps.hpp"
#include "maps/map_view.hpp"

namespace bpftime {

inline constexpr uint64_t kRoomBytes = 64 << 10;
inline constexpr uint64_t kSlotBytes = kMaxTrampolineBytes;
inline constexpr uint64_t kTableBytes = uint64_t{kMaxSites} * sizeof(Site);

struct ProgramHere {
  uint64_t code, bytes, slots;
  uint64_t slots_block, slots_bytes;         // what was allocated
  uint64_t range;                            // address of its first CodeRange
  uint32_t flags_at_entry, flags_at_return;  // ListFlags of a list with it alone
  bool makes_tail_calls = false;
  uint64_t tail_target = 0;  // its TailTarget; 0: nobody has called it yet
};
// Of a PROG_ARRAY.
struct TailTable {
  uint64_t at = 0;                      // TailTarget*[max_entries]
  std::map<uint32_t, ProgId> programs;  // what stands there, by index
};
struct MapHere {
  uint64_t base, bytes;
  MapView view;      // as the target sees it
  uint64_t view_at;  // where the view lies in the arena
};
struct ListHere {
  uint64_t at = 0, bytes = 0;
  std::vector<WantedLink> links;
};
struct SiteHere {
  uint32_t index = 0;
  bool with_return = false, is_function_begin = false;
  InternalProbe internal = InternalProbe::kNone;
  Patch patch{}, hole{};
  ListHere entry, on_return;
};
struct TrampolineRoom {
  uint64_t base, used;
  std::vector<uint64_t> free;
  bool is_mapped = false;
};
// No longer in use: free when no thread can hold it any more (target_retired.cpp).
struct Retired {
  enum { kHeap, kSlot } kind;
  uint64_t at, bytes;
  uint32_t site_index;  // whose record is free with it; 0: none
  uint64_t since;       // the look that comes next
};
// What one place should be.
struct WantedPlace {
  const Mapping* mapping = nullptr;
  uint64_t file_offset = 0;
  InternalProbe internal = InternalProbe::kNone;
  std::vector<WantedLink> entry, on_return;
};

struct RaisedSemaphore {
  uint64_t address, index;  // where it lies; its number in the arena
};

struct TargetProcess {
  pid_t pid = 0;
  ProcessIdentity identity{};
  UniqueFd pidfd, channel;
  uint32_t owner = 0;
  std::string exe;
  AgentImage image{};
  bool unwinder_knows_image = false;
  bool follows = true;  // forked children, and the program that it execs
  uint64_t arena = 0, table = 0, alive = 0;
  bool is_hashed = false;  // gs is not ours: thunks that do not read it
  int remote_channel_fd = -1;
  uint64_t remote_channel_inode = 0;
  RemoteHeap heap;
  uint32_t next_site = 1;
  std::vector<uint32_t> free_sites;
  std::map<uint64_t, SiteHere> sites;  // by address
  std::vector<TrampolineRoom> rooms;
  std::map<uint32_t, ProgramHere> programs;
  std::map<uint32_t, MapHere> maps;
  std::map<uint32_t, TailTable> tail_tables;  // by map
  bool walks_stacks = false;                  // one of its programs does
  std::vector<Mapping> code_seen;             // what its table of build ids was made from
  uint64_t build_ids_at = 0, build_ids_bytes = 0;
  std::map<uint32_t, uint64_t> counts;  // link -> HitCounts
  std::vector<Retired> retired;
  uint64_t looks = 0;                // for threads inside
  std::map<pid_t, SeenThread> seen;  // by the last one
  size_t left_by_look = 0;           // of the retired
  std::vector<MappedRange> mappings;
  uint64_t journal_count = 0, code_range_count = 0, generation = 0;
  std::map<std::pair<uint64_t, std::array<uint8_t, 16>>, uint64_t>
      journal;  // (address, after) -> index
  bool armed = false, owns_signals = false;
  bool knows_threads = false;  // how they are known is in the arena
  bool listens = false;  // the agent's own probes are wanted: a link is here, or was a moment ago
  uint32_t channels_lost = 0;
  uint64_t libc_restorer = 0;  // 0: not found yet
  uint64_t stopped_ns = 0;     // longest so far
  // Read before anything is stopped.
  ProcessStatus status{};
  bool has_fsgsbase = false;
  uint64_t vdso_clock_gettime = 0;
  std::optional<int64_t> rseq_offset;
  struct WhyNot {
    int code;  // 0: not an error (its file is not mapped)
    const char* why;
  };
  std::map<uint32_t, WhyNot> why_not;             // link -> reason it is not placed
  std::map<uint32_t, std::set<uint64_t>> places;  // link -> sites it stands in
  [[nodiscard]] bool is_placed(uint32_t link) const { return places.contains(link); }
  std::map<uint32_t, std::vector<RaisedSemaphore>> semaphores;  // by link
  uint64_t semaphore_count = 0;                                 // in the arena
  std::vector<uint64_t> free_semaphores;
};

}  // namespace bpftime
