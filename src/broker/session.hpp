// Session: owns every object of every loader, answers bpf(2) and perf_event_open(2), and says what
// should be armed where. Home: broker, its one thread. Every Request is hostile: what it holds is
// checked here and nowhere else.
//
// Invariants:
//  1. What is armed = the perf events that live, are enabled and have a program (wanted_links()).
//  Nothing else
//     remembers it: whatever ends an object marks the session, and targets are made so before the
//     loop sleeps.
//  2. A request is answered once. ENABLE, SET_BPF and LINK_CREATE answer when every target is as
//  they want it.
//  3. Memory is counted before it is taken (Limits).
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "broker/compile.hpp"
#include "broker/object.hpp"
#include "broker/object_table.hpp"
#include "broker/pins.hpp"
#include "broker/printk.hpp"
#include "broker/target_control.hpp"
#include "broker/test_run.hpp"
#include "ipc/channel.hpp"

struct perf_event_attr;

namespace bpftime {

struct SessionStatus;  // status_text.hpp

// Owners of test runs; targets' stay below.
inline constexpr uint32_t kFirstTestOwner = 1U << 31;

// Who asks. `key` names the connection.
struct Caller {
  uint64_t key = 0;
  pid_t pid = 0;
  uid_t uid = 0;
  OwnerId owner{};
  bool no_attach = false;   // kOptionNoAttach
  bool unverified = false;  // kOptionUnverified
  VerifierChoice verifier = VerifierChoice::kOurs;
};

class Session : public TargetHost {
 public:
  struct Limits {
    uint64_t map_bytes = 8ULL << 30;     // one map; ENOMEM beyond
    uint64_t total_bytes = 64ULL << 30;  // all regions, sparse
    uint64_t btf_bytes = 256ULL << 20;   // all BTF
    uint64_t code_bytes = 1ULL << 30;    // all compiled code
    size_t references = 65'536;          // fds of all loaders; ENFILE beyond
    size_t references_of_one = 16'384;   // fds a connection may have asked for; EMFILE beyond
    size_t pending_of_one =
        8;  // PROG_LOADs of one connection that are being compiled; EAGAIN beyond
  };
  struct Config {
    uint32_t cpu_count = 1;
    uint32_t uprobe_type = 8;  // PMU number of uprobes
    Limits limits;
    std::function<void(const std::string&)> log;  // one line, without "bpftime:"
    const LaneTable* lanes = nullptr;             // for test runs
    std::string pins{};                           // directory of pins; empty: there are none
  };
  using Answer = std::function<void(Reply&&)>;

  Session(EventLoop* loop, Config config, std::unique_ptr<ProgramCompiler> compiler);
  ~Session() override;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Before the first request.
  void set_targets(std::unique_ptr<TargetControl> targets) { targets_ = std::move(targets); }
  // Calls `answer` once: at once, or later from the loop.
  void handle(const Caller& caller, Request&& request, Answer answer);
  // Nothing here needs the broker.
  [[nodiscard]] bool is_unused() const;
  // Detaches every target and ends every object.
  void shut_down();
  [[nodiscard]] TargetControl& targets() { return *targets_; }
  [[nodiscard]] const ObjectTable& objects() const { return objects_; }
  [[nodiscard]] PrintkLog& printk() { return printk_; }
  void on_change(std::function<void()> callback) { on_change_ = std::move(callback); }

  // TargetHost
  Result<MapForTarget> map_for_target(MapId id) override;
  Result<ProgramForTarget> program_for_target(ProgId id) override;
  std::vector<WantedLink> wanted_links() override;
  std::vector<WantedLink> wanted_links_of(LinkId id) override;
  std::map<uint32_t, ProgId> called_programs(MapId id) override;
  void target_said_printk(pid_t pid, const AgentMessage& message) override;
  void target_said_wake(MapId id) override;
  void link_disarmed(LinkId id, pid_t pid, HitEnd why) override;
  void target_gone(OwnerId owner, pid_t pid) override;
  void log(const std::string& line) override;

 private:
  struct BpfCall;  // bpf_call.hpp
  // Each answers one command; the errno of an Error becomes the reply's value.
  Result<Reply> answer(const Caller& caller, const Request& request);
  Result<Reply> bpf(const Caller& caller, const Request& request);
  Result<Reply> map_create(const BpfCall& call);
  Result<Reply> map_freeze(const BpfCall& call);
  Result<Reply> slot_command(const BpfCall& call);
  Result<Reply> program_slot(const BpfCall& call, const std::shared_ptr<MapObject>& map);
  Result<Reply> btf_load(const BpfCall& call);
  Result<Reply> link_create(const BpfCall& call);
  Result<Reply> link_create_multi(const BpfCall& call,
                                  const std::shared_ptr<ProgramObject>& program);
  [[nodiscard]] Result<void> check_sessions(const UprobePlaces& all);
  Result<void> check_semaphores(uint64_t device, uint64_t inode,
                                std::span<const UprobePlaces::Place> places) const;
  Result<Reply> obj_pin(const BpfCall& call);
  Result<Reply> obj_get(const BpfCall& call);
  Result<Reply> link_update(const BpfCall& call);
  Result<Reply> link_detach(const BpfCall& call);
  Result<Reply> prog_bind_map(const BpfCall& call);
  Result<Reply> object_info(const BpfCall& call);
  Result<Reply> enable_stats(const BpfCall& call);
  Result<Reply> task_fd_query(const BpfCall& call);
  Result<Reply> next_id(const BpfCall& call, ObjectKind kind);
  Result<Reply> fd_by_id(const BpfCall& call, ObjectKind kind);
  void prog_load(const Caller& caller, Request&& request, Answer answer);
  void prog_test_run(const Caller& caller, const Request& request, const Answer& answer);
  Result<Reply> map_region(const Request& request);
  Result<Reply> event_region(const std::shared_ptr<PerfOutputObject>& event, int64_t data_bytes);
  Result<Reply> region_reply(const MapObject& map, uint32_t buffer);
  Result<Reply> make_readable(const Request& request);
  Result<Reply> open_output(const Caller& caller, const perf_event_attr& attr, int64_t pid,
                            int64_t cpu);
  // What a process that is gone left open or locked in buffers, and readers that it did not wake any more.
  void sweep_buffers(OwnerId dead);
  Result<Reply> perf_open(const Caller& caller, const Request& request);
  Result<Reply> perf_ioctl(const Caller& caller, const Request& request);
  Result<Reply> attach_command(const Request& request);
  Result<Reply> detach_command(const Request& request);
  Result<Reply> start_command(const Caller& caller, const Request& request);
  Result<Reply> status_command(const Request& request);
  Result<Reply> list_command(const Request& request);
  [[nodiscard]] SessionStatus status();
  Result<Reply> log_command(const Request& request);

  // The object behind a caller's fd. Errors: EBADF not open; `foreign` when it is no T of ours.
  template <class T>
  Result<std::shared_ptr<T>> object_of(const Request& request, int fd, int foreign) const {
    const ObjectRef* ref = request.ref(fd);
    if (fd < 0 || ref == nullptr) {
      return make_error(9 /*EBADF*/, "no such fd");
    }
    return object_of<T>(*ref, foreign);
  }
  template <class T>
  Result<std::shared_ptr<T>> object_of(const ObjectRef& ref, int foreign) const {
    auto object = ref.inode == 0 ? nullptr : objects_.find(ref.device, ref.inode);
    if (object == nullptr || object->kind != T::kKind) {
      return make_error(foreign, "fd is of another kind");
    }
    return std::static_pointer_cast<T>(object);
  }
  Result<Reply> give(const Caller& caller, const std::shared_ptr<Object>& object);
  // Takes `bytes` from a quota for the object's life. Errors: ENOMEM.
  Result<void> charge(Object* object, uint64_t* used, uint64_t limit, uint64_t bytes);
  // Brings a link into the target that it names (pid > 0), or into all, and waits for it.
  Result<void> arm(const Caller& caller, LinkId link, pid_t pid, const std::string& place);
  Result<void> arm(const Caller& caller, const PerfEventObject& event);  // no-op unless armed
  Result<void> set_program(const Caller& caller, const std::shared_ptr<PerfEventObject>& event,
                           const std::shared_ptr<ProgramObject>& program, LinkId link,
                           uint64_t cookie);
  void objects_changed();
  [[nodiscard]] RunTotals runs_of(uint32_t program);
  void want(const PerfEventObject& event, std::vector<WantedLink>* links) const;
  void want(const LinkObject& link, std::vector<WantedLink>* links) const;
  [[nodiscard]] bool is_timed() const { return objects_.next_id(ObjectKind::kStats, 0) != 0; }
  void sync_soon();
  // Takes the agent out of processes that it came into only for a probe which is gone.
  void leave_unneeded_targets();

  EventLoop* loop_;
  Config config_;
  uint64_t map_bytes_ = 0, btf_bytes_ = 0, code_bytes_ = 0;
  std::function<void()> on_change_;
  PrintkLog printk_;
  std::unique_ptr<TargetControl> targets_;
  ObjectTable objects_;
  Pins pins_;
  std::map<uint64_t, size_t> pending_;  // by Caller::key
  std::unique_ptr<ProgramCompiler> compiler_;
  TestRunner test_runner_;
  uint32_t next_test_owner_ = kFirstTestOwner;
  uint64_t sync_timer_ = 0;
  std::set<pid_t> asked_for_;   // attached or started by a command
  std::set<pid_t> for_probes_;  // attached because a probe names them
  bool shutting_down_ = false;
};

// Records that a buffer had no room for.
uint64_t dropped_of(const MapObject& map);

// A process's id for a thread's. Errors: ESRCH.
Result<pid_t> process_of(pid_t thread);

}  // namespace bpftime
