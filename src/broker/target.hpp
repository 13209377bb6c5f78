// Targets: every process that has an agent. Home: broker, its one thread.
// The session says what should be (Wanted); Targets makes each process so: brings agents in, maps code and map
// regions, patches and unpatches, follows forks and loaded libraries, and takes everything away again.
// Calls block the loop while a target is stopped: bounded by kTargetDeadlineMs.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/agent.hpp"
#include "abi/ids.hpp"
#include "base/result.hpp"
#include "broker/event_loop.hpp"
#include "spec/spec.hpp"
#include "vm/program.hpp"

namespace bpftime {

class LaneTable;

inline constexpr int kTargetDeadlineMs = 2000;

// A map as a target needs it. region_fd stays the session's.
struct MapForTarget {
  MapId id;
  MapSpec spec;
  int region_fd;  // the shared file; of a frozen map its sealed copy
  uint64_t region_bytes;
  bool read_only;  // frozen: mapped without PROT_WRITE
};
// A compiled program. code_fd: memfd named kCodeName, sealed, code at offset 0.
struct ProgramForTarget {
  ProgId id;
  const CompiledProgram* compiled;
  int code_fd;
};
// One link that is armed now, at one place of its file.
struct WantedLink {
  LinkId id;
  ProgId program;
  uint64_t device, inode;  // of the file, as fstat gives
  uint64_t file_offset;
  bool is_return;
  pid_t pid;  // > 0: this process only; -1: every target
  uint64_t cookie;
  uint64_t semaphore_offset = 0;  // in the same file; 0 = none
  bool is_timed = false;          // runs are counted and timed: BPF_ENABLE_STATS
  bool is_session = false;        // at the return too; `is_return`: there alone
  [[nodiscard]] bool applies_to(pid_t process) const { return pid <= 0 || pid == process; }
};

// What Targets asks of and tells the session.
class TargetHost {
 public:
  virtual ~TargetHost() = default;
  virtual Result<MapForTarget> map_for_target(MapId id) = 0;
  virtual Result<ProgramForTarget> program_for_target(ProgId id) = 0;
  virtual std::vector<WantedLink> wanted_links() = 0;
  // Those of one, if it is armed now.
  virtual std::vector<WantedLink> wanted_links_of(LinkId id) {
    std::vector<WantedLink> links = wanted_links();
    std::erase_if(links, [id](const WantedLink& link) { return link.id != id; });
    return links;
  }
  // What stands in a PROG_ARRAY, by index; nothing for other maps.
  virtual std::map<uint32_t, ProgId> called_programs(MapId) { return {}; }
  virtual void target_said_printk(pid_t pid, const AgentMessage& message) = 0;
  // Somebody waits on a descriptor for what was written to the map. HOSTILE: any map may be named.
  virtual void target_said_wake(MapId) {}
  virtual void link_disarmed(LinkId id, pid_t pid, HitEnd why) = 0;  // budget or fault
  virtual void target_gone(OwnerId owner, pid_t pid) = 0;            // ended, exec'ed or detached
  virtual void log(const std::string& line) = 0;                     // without "bpftime:"
};

struct TargetStatus {
  pid_t pid;
  uint32_t owner;
  std::string exe;
  std::string way;  // "dlopen" or "mapped"
  uint32_t sites;
  struct LinkState {
    uint32_t link;
    bool placed;
    std::string why_not;  // refusal, or "file not mapped"
    uint64_t run, ns;     // while statistics were on
    uint64_t missed, faulted, out_of_fuel;
  };
  std::vector<LinkState> links;
  uint64_t missed;      // nested hits and full return tables, all threads
  uint64_t stopped_us;  // longest time from the first thread stopped to the last let go
  uint64_t private_kb;  // private memory that we cause in it, map regions not counted
};

struct RunTotals {
  uint64_t count = 0, ns = 0;  // while statistics were on
  uint64_t missed = 0;
};

class Targets {
 public:
  struct Config {
    std::vector<std::byte> agent_file;  // ELF bytes of bpftime-agent.so
    int alive_fd = -1;                  // AlivePage file, sealed against new writers
    uint32_t alive_expected = 0;
    LaneTable* lanes = nullptr;  // outlives the Targets
    uint32_t first_owner = 1000;
  };
  Targets(EventLoop* loop, TargetHost* host, Config config);
  ~Targets();  // detaches all

  // Brings the agent into a live process and arms what applies. Attaching twice is no error.
  // Errors: ESRCH, EPERM (+ why), EBUSY (traced by a debugger), ETIMEDOUT, ENOTSUP (not x86-64 ...).
  Result<void> attach(pid_t pid);
  // For `start`: seizes pid, returns at once; when it execs, the agent comes in at its entry point. `follows`: its
  // children, and what it execs then, are targets too.
  Result<void> attach_at_exec(pid_t pid, bool follows);
  // Restores the bytes, unmaps what can be unmapped. Errors: ESRCH not a target.
  Result<void> detach(pid_t pid);
  void detach_all();
  // Makes every target as host->wanted_links() says now. When `concerning` is not null only that link has changed,
  // and the answer is the first error that kept it from being placed in a target that it names by pid.
  Result<void> sync(const LinkId* concerning);

  [[nodiscard]] bool has(pid_t pid) const;
  [[nodiscard]] size_t count() const;
  [[nodiscard]] std::vector<TargetStatus> status();
  // Runs that were counted and that were missed, of all targets that there are now, by link.
  [[nodiscard]] std::map<LinkId, RunTotals> runs();
  // Restores the code of processes that an earlier broker of this user left behind (docs/decisions/0001).
  // Returns how many.
  uint32_t recover_orphans();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bpftime
