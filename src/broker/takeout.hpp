// Takes an agent out of a process, knowing only what lies in the process's own arena: for an orderly detach, for what
// a dead broker left behind, and for children that forked unseen. Home: broker.
// The arena is the process's own memory: scribbled over, it can only mislead us within that process, and every address
// and count is checked before use.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "abi/agent.hpp"
#include "base/result.hpp"
#include "inject/process_maps.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {

// Holds one thread of the process, the main one where it still runs.
Result<StoppedProcess> borrow_any(pid_t pid, uint64_t deadline_ns);

// Where a process's arena lies; nothing when it has none.
std::optional<uint64_t> find_arena(pid_t pid);

// Writes back every overwritten byte that is still as we left it. Returns how many places.
Result<uint32_t> restore_code(StoppedProcess& process, uint64_t arena);

// Mappings of ours that are not on record, since the broker that made them was killed just then: of what `arena` says
// was about to be mapped, that which lies there exactly so.
std::vector<MappedRange> mappings_not_on_record(pid_t pid, uint64_t arena);

// The signal actions that the agent owns are the target's own again. All threads are stopped and none is inside.
Result<void> give_signals_back(StoppedProcess& process, uint64_t arena, uint64_t deadline_ns);

struct TakenOut {
  // Null: nothing is left mapped. Else the bytes are back, but the agent stays mapped, asleep, because of this.
  const char* why_mapped;
};
// A call that is probed at its return may wait for hours, for a key to be pressed.
enum class Patience : uint8_t { kUntilDeadline, kNotForWaitingCalls };

inline constexpr int kTakeOutLooks = 9;  // a quarter of a second at least

// Restores, then unmaps if it can within the deadline. It gives up when it has looked so often that threads of a busy
// machine had their turn between two looks, too.
Result<TakenOut> take_out(pid_t pid, uint64_t deadline_ns, int least_looks = kTakeOutLooks,
                          Patience patience = Patience::kUntilDeadline);

// Whose agent it is, by the alive page that is mapped there (abi/agent.hpp).
struct ArenaOwner {
  uint64_t alive_inode;  // of the alive page's file: one a broker
  bool is_alive;         // that broker lives
};
// Errors: ESRCH, EPROTO (not an arena of this version).
Result<ArenaOwner> owner_of_arena(pid_t pid, uint64_t arena);

struct ProcessWithArena {
  pid_t pid;
  uint64_t arena;
  ArenaOwner owner;
};
// Live processes that have an arena and that we may look at.
std::vector<ProcessWithArena> processes_with_arena();

}  // namespace bpftime
