// Targets::Impl: what Targets consists of; each part has a file of its own (target_*.cpp). Home: broker, these files
// only.
#pragma once
#include <sys/types.h>

#include <cerrno>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "broker/agent_file.hpp"
#include "broker/agent_message.hpp"
#include "broker/lane_table.hpp"
#include "broker/module.hpp"
#include "broker/target.hpp"
#include "broker/target_process.hpp"
#include "inject/hold.hpp"
#include "inject/process_maps.hpp"
#include "inject/remote_call.hpp"
#include "patchplan/plan.hpp"

namespace bpftime {

inline constexpr uint64_t kTakeOutMs = 4000;  // until every thread has left what is to be unmapped

// Times a stop: begun before the first thread is stopped.
struct StopWatch {
  uint64_t begin = monotonic_ns();
  [[nodiscard]] uint64_t elapsed() const { return monotonic_ns() - begin; }
};

inline uint64_t page_up(uint64_t n) { return (n + 4095) & ~4095ULL; }

struct Change;
enum class Patience : uint8_t;  // broker/takeout.hpp

// Its links are not placed because of `error`.
void note_why_not(TargetProcess* t, const std::vector<WantedLink>& links, const Error& error);

// A hole, which `maps` then shows as taken.
Result<uint64_t> reserve(std::vector<Mapping>* maps, uint64_t near, uint64_t bytes,
                         uint64_t reach = ~0ULL >> 2);
void insert_mapping(std::vector<Mapping>* maps, const Mapping& m);  // keeps their order

class Targets::Impl {
 public:
  Impl(EventLoop* event_loop, TargetHost* target_host, Config target_config);

  EventLoop* loop;
  TargetHost* host;
  Config config;
  UniqueFd arena_file, agent_fd;
  AgentFile agent;
  Error agent_error{};
  Modules modules;
  struct LookedAt {
    std::shared_ptr<const Module> module;
    uint64_t begin = 0, bytes = 0;
    FunctionFacts facts;
  } looked_at;  // facts_of()
  uint32_t next_owner = 0;
  uint64_t alive_inode = 0;  // of our alive page: how our agents are told from another session's
  std::map<pid_t, std::unique_ptr<TargetProcess>> targets;
  enum class Why : uint8_t { kStarted, kFollowed };
  struct Starting {
    HeldProcess held;
    uint64_t give_up_ns;
    bool follows;
    Why why;
  };
  std::map<pid_t, Starting> starting;
  UniqueFd child_signals;  // SIGCHLD: something that we follow has stopped

  // Processes whose agent could not be unmapped yet; looked at again and again. Their records know no site any more.
  struct Asleep {
    std::unique_ptr<TargetProcess> t;
    bool is_restored;  // its code is; else that could not be seen to
  };
  std::map<pid_t, Asleep> asleep;
  bool is_looking = false;
  void put_to_sleep(std::unique_ptr<TargetProcess> t, bool is_restored);
  void look_at_asleep_later();
  bool is_done_with(const Asleep& one, Patience patience);
  // Its agent is there as it was left: the record goes on. Null: it is not, or there is none.
  std::unique_ptr<TargetProcess> woken(pid_t pid);

  static uint64_t deadline() { return deadline_in_ms(kTargetDeadlineMs); }
  // After an error: threads that did not stop in time are let go as soon as they do.
  void watch_late();
  bool watches_late = false;

  Result<std::unique_ptr<TargetProcess>> new_record(pid_t pid);
  Result<void> attach(pid_t pid);
  Result<void> begin_with(std::unique_ptr<TargetProcess> t);  // adopts it, or lets it go again
  Result<void> look_at(TargetProcess* t);
  void clear_unfinished(pid_t pid);
  Result<void> set_up(TargetProcess* t, RemoteThread& thread);
  // A process that somebody has stopped already.
  struct Held {
    StoppedProcess* process;  // all its threads
    RemoteThread* worker;     // one of them, which works for us until it is finished; null: none
  };
  // `held` null: sync() stops the process itself.
  Result<void> adopt(std::unique_ptr<TargetProcess> t, Held* held);
  // `only`: the one link that has changed; null: anything may have.
  Result<void> sync(TargetProcess* t, Held* held = nullptr, const LinkId* only = nullptr);
  Result<void> detach(pid_t pid);
  void forget(pid_t pid, const char* how);
  void channel_ready(pid_t pid, uint32_t events);
  void child_forked(TargetProcess* parent, const AgentMessage& message, pid_t child, UniqueFd fd);
  Result<void> attach_at_exec(pid_t pid, bool follows, Why why);
  void about_to_exec(TargetProcess* t, pid_t sender, const AgentMessage& message);
  void let_go_before_exec(pid_t pid);
  void step_starting(pid_t pid);
  void look_at_starting();

 private:
  void raise_semaphores(TargetProcess* t, const WantedLink& link, const std::vector<Mapping>& maps);
  void lower_semaphores(TargetProcess* t, uint32_t link);
  void settle_semaphores(TargetProcess* t, const LinkId* only);
  void want(TargetProcess* t, const WantedLink& link, const std::vector<Mapping>& maps,
            std::map<uint64_t, WantedPlace>* wanted);
  std::map<uint64_t, WantedPlace> wanted_of(TargetProcess* t, const std::vector<Mapping>& maps);
  std::map<uint64_t, WantedPlace> wanted_of_link(TargetProcess* t, const std::vector<Mapping>& maps,
                                                 LinkId id);
  void add_internal(TargetProcess* t, const std::vector<Mapping>& maps,
                    std::map<uint64_t, WantedPlace>* wanted);
  bool add_internal_at(TargetProcess* t, const Mapping& m, const char* name, InternalProbe internal,
                       std::map<uint64_t, WantedPlace>* wanted);
  Result<uint64_t> take_slot(TargetProcess* t, std::vector<Mapping>* maps, uint64_t near,
                             std::vector<uint64_t>* new_rooms);
  const FunctionFacts& facts_of(const std::shared_ptr<const Module>& module,
                                const FunctionPlace& place);
  Result<Plan> plan_site(TargetProcess* t, std::vector<Mapping>* maps, uint64_t address,
                         const WantedPlace& wanted, uint32_t index,
                         std::vector<uint64_t>* new_rooms);
  Result<void> bring_mappings(TargetProcess* t, std::vector<Mapping>* maps,
                              const std::set<uint32_t>& programs,
                              const std::vector<uint64_t>& new_rooms, RemoteThread& thread);
  // The steps of sync() (target_sync.cpp) ...
  static constexpr int kPlanAnew = ERESTART;
  Result<void> sync_once(TargetProcess* t, Held* held, const LinkId* only);
  void forget_unmapped(TargetProcess* t, const std::vector<Mapping>& seen);
  void find_gone(TargetProcess* t, bool all, Change* change);
  Result<void> plan_fresh(TargetProcess* t, Change* change);
  Result<bool> plan_place(TargetProcess* t, uint64_t address, WantedPlace* w, Change* change);
  Result<uint32_t> take_site_index(TargetProcess* t);
  void find_changed(TargetProcess* t, Change* change);
  Result<void> bring_missing(TargetProcess* t, Held* held, Change* change);
  // ... and with all threads stopped (target_change.cpp).
  Result<void> apply(TargetProcess* t, StoppedProcess& all, Change* change);
  Result<void> write_unseen(TargetProcess* t, StoppedProcess& all, Change* change);
  void restore(TargetProcess* t, StoppedProcess& all, const SiteHere& site);
  Result<void> empty_record(TargetProcess* t, StoppedProcess& all, const SiteHere& site);
  Result<void> take_away(TargetProcess* t, StoppedProcess& all, uint64_t address);
  Result<void> publish_lists(TargetProcess* t, StoppedProcess& all, const Change& change);
  Result<void> patch(TargetProcess* t, StoppedProcess& all, uint64_t address,
                     const WantedPlace& wanted);
  static void retire_list(TargetProcess* t, const ListHere& list);
  static void retire_trampoline(TargetProcess* t, const SiteHere& site, uint32_t index);
  static void retire_site(TargetProcess* t, const SiteHere& site);
  void reclaim(TargetProcess* t, StoppedProcess& all);

  Result<ListHere> make_list(TargetProcess* t, const std::vector<WantedLink>& links,
                             InternalProbe internal, bool at_return, StoppedProcess& process);
  Result<void> note_intents(TargetProcess* t, std::span<const MappedRange> ranges,
                            StoppedProcess& process);
  Result<void> note_mappings(TargetProcess* t, std::span<const MappedRange> ranges,
                             StoppedProcess& process);
  Result<uint64_t> journal_entry(TargetProcess* t, const Patch& patch, StoppedProcess& process);
  Result<void> discover_threads(TargetProcess* t, StoppedProcess& process);
  void settle_signals(TargetProcess* t, StoppedProcess& all);
  void later(TargetProcess* t, int ms, void (Impl::*what)(TargetProcess*));
  void stop_listening(TargetProcess* t);
  void try_again_to_give_back(TargetProcess* t);
  Result<TailTable> make_tail_table(TargetProcess* t, uint32_t entries, StoppedProcess& process);
  void add_called_programs(Change* change);
  bool tables_are_right(const TargetProcess* t);
  Result<void> settle_tables(TargetProcess* t, StoppedProcess& all);
  bool build_ids_are_right(const TargetProcess* t, const Change& change);
  Result<void> settle_build_ids(TargetProcess* t, const Change& change, StoppedProcess& all);
  Result<void> own_signals(TargetProcess* t, RemoteThread& thread);
  Result<void> unregister(TargetProcess* t);
  Result<void> listen_to(TargetProcess* t);
  Result<void> renew_channel(TargetProcess* t);
};

}  // namespace bpftime
