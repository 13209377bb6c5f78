// What a loader holds fds of: maps, programs, links, perf events, BTF. Home: broker, its one
// thread.
//
// References are as in the kernel (DESIGN D2), with shared_ptr as the count: an fd of a loader
// holds its object, a program holds its maps, a perf event and a link hold their program, a link
// holds its perf event. When the last one goes the object is destroyed; what is armed in targets is
// computed anew from the events that are left.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "abi/ids.hpp"
#include "abi/messages.hpp"
#include "base/unique_fd.hpp"
#include "btf/btf.hpp"
#include "spec/spec.hpp"
#include "vm/program.hpp"

namespace bpftime {

struct Object {
  ObjectKind kind;
  uint32_t pins = 0;           // names that keep it (pins.hpp)
  uint32_t id = 0;             // unique among its kind, never reused in a session
  uint64_t charged_bytes = 0;  // of the session's memory quota
  uint64_t* charge = nullptr;

  explicit Object(ObjectKind k) : kind(k) {}
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  // A descriptor for it (the other end's inode) was closed for the last time.
  virtual void reference_ended(uint64_t /*inode*/, bool /*is_last*/) {}
  virtual ~Object() {
    if (charge != nullptr) {
      *charge -= charged_bytes;
    }
  }
};

struct BtfObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kBtf;
  explicit BtfObject(Btf given) : Object(kKind), types(std::move(given)) {}
  Btf types;
};

struct MapObject;
struct ProgramObject;

struct ProgramKind {
  uint32_t type, expected_attach_type;
  bool operator==(const ProgramKind&) const = default;
};

// A perf event of PERF_COUNT_SW_BPF_OUTPUT: a buffer, once it stands in a PERF_EVENT_ARRAY and somebody has mapped it.
struct PerfOutputObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kPerfOutput;
  PerfOutputObject() : Object(kKind) {}
  uint32_t cpu = 0, wakeup_events = 0, watermark = 0;
  uint32_t data_bytes = 0;
  bool is_mapped = false;
  std::weak_ptr<MapObject> map;  // whose buffer it has; an event keeps it for life
  uint32_t buffer = 0;
};

struct MapObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kMap;
  MapObject() : Object(kKind) {}
  void reference_ended(uint64_t inode, bool is_last) override;
  void clear_programs();
  MapSpec spec{};
  std::string name;
  uint64_t map_extra = 0;
  uint64_t region_bytes = 0;
  UniqueFd region;
  UniqueFd sealed;  // of a frozen map that programs may not write: the copy that everybody uses now
  bool frozen = false;
  std::shared_ptr<BtfObject> btf;
  uint32_t btf_key_type_id = 0, btf_value_type_id = 0;
  // PERF_EVENT_ARRAY: what stands at each index, put there through which descriptor; and whose each buffer is.
  struct Slot {
    std::shared_ptr<PerfOutputObject> event;
    uint64_t by_inode;
  };
  std::map<uint32_t, Slot> slots;
  std::vector<std::weak_ptr<PerfOutputObject>> buffers;
  // PROG_ARRAY: what stands at each index, until the last descriptor goes; of which kind all of them are.
  std::map<uint32_t, std::shared_ptr<ProgramObject>> programs;
  std::optional<ProgramKind> callers;

  [[nodiscard]] int file_in_use() const { return sealed ? sealed.get() : region.get(); }
};

struct ProgramObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kProg;
  ProgramObject() : Object(kKind) {}
  uint32_t type = 0, expected_attach_type = 0;
  std::string name, license;  // the licence is recorded, never a reason to refuse (DESIGN D11)
  uint64_t tag = 0, load_time_ns = 0;
  uint32_t uid = 0, insn_count = 0;
  VerifierChoice verifier = VerifierChoice::kOurs;
  bool verified = false;  // by it
  CompiledProgram compiled{};
  UniqueFd code;
  std::vector<std::shared_ptr<MapObject>> maps;
  std::shared_ptr<BtfObject> btf;
  std::vector<std::byte> insns;  // with map ids where the loader's fds stood
  std::vector<std::byte> func_info, line_info;
};

// May the program stand in a PROG_ARRAY, or use it?
bool fits_in(const MapObject& array, const ProgramObject& program);

// Kernel v6.18 include/linux/license.h: license_is_gpl_compatible.
bool is_gpl_compatible(const std::string& license);

struct PerfEventObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kPerf;
  PerfEventObject() : Object(kKind) {}
  std::string path;
  UniqueFd file;  // O_PATH: keeps the inode number from being used for another file
  uint64_t device = 0, inode = 0, file_offset = 0;
  uint64_t semaphore_offset = 0;  // in the same file; 0 = none
  bool is_return = false, enabled = false, disarmed = false;
  pid_t pid = -1;  // process id; -1: every target
  std::shared_ptr<ProgramObject> program;
  LinkId attachment{};  // the name of (event, program) in targets: the link's id, or one of its own
  uint64_t cookie = 0;

  [[nodiscard]] bool is_armed() const { return program != nullptr && enabled && !disarmed; }
};

// BPF_ENABLE_STATS: while one lives, runs are counted and timed.
struct StatsObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kStats;
  StatsObject() : Object(kKind) {}
};

// What a link of several places has (BPF_LINK_TYPE_UPROBE_MULTI); in targets all of them go by the link's id.
struct UprobePlaces {
  struct Place {
    uint64_t offset, semaphore_offset, cookie;
  };
  std::string path;
  UniqueFd file;  // O_PATH, as a perf event's
  uint64_t device = 0, inode = 0;
  std::vector<Place> places;
  bool has_cookies = false, has_semaphores = false;
  bool is_return = false, is_session = false, disarmed = false;
  pid_t pid = -1;
};

struct LinkObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kLink;
  LinkObject() : Object(kKind) {}
  std::shared_ptr<ProgramObject> program;
  std::shared_ptr<PerfEventObject> event;
  std::unique_ptr<UprobePlaces> uprobes;  // or these
  ~LinkObject() override {
    if (event != nullptr && event->attachment == LinkId{id}) {
      event->program.reset();  // the event goes on without a program, as in the kernel
    }
  }
};

}  // namespace bpftime
