// How a target is made as the session wants it: sync() compares what is patched with what is wanted, prepares
// mappings, trampolines and lists from outside while the target runs, then stops all its threads once, moves
// instruction pointers, writes table and code, and lets go (DESIGN D7; docs/decisions/0001).
#include "broker/target.hpp"

#include <elf.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include "broker/agent_message.hpp"
#include "broker/arena.hpp"
#include "broker/module.hpp"
#include "broker/takeout.hpp"
#include "broker/unwinding.hpp"
#include "abi/trampoline.hpp"
#include "inject/bring_agent.hpp"
#include "inject/hold.hpp"
#include "inject/process_maps.hpp"
#include "inject/remote_call.hpp"
#include "inject/remote_memory.hpp"
#include "maps/map_view.hpp"
#include "patchplan/plan.hpp"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

namespace bpftime {
namespace {

constexpr uint64_t kRoomBytes = 64 << 10;
constexpr uint64_t kSlotBytes = kMaxTrampolineBytes;
constexpr int kPlanAnew = ERESTART;    // of sync_once
constexpr uint64_t kTakeOutMs = 4000;  // until every thread has left what is to be unmapped
constexpr uint64_t kStartMs = 10000;   // from `bpftime start` to the program's entry point
constexpr int kLookAtStartingMs = 5;
constexpr int kLookAtLateMs = 20;
constexpr uint32_t kMaxChannelsLost =
    16;  // a target that closes our descriptor again and again is let be
constexpr size_t kRetiredAtOnce =
    64;  // looking whether they can be used again costs a walk of all stacks
constexpr uint64_t kTableBytes = uint64_t{kMaxSites} * sizeof(Site);
constexpr uint64_t kHwcap2Fsgsbase = 2;  // AT_HWCAP2 bit, asm/hwcap2.h

// Times a stop: begun before the first thread is stopped.
struct StopWatch {
  uint64_t begin = monotonic_ns();
  [[nodiscard]] uint64_t elapsed() const { return monotonic_ns() - begin; }
};

uint64_t page_up(uint64_t n) { return (n + 4095) & ~4095ULL; }

// The agent's descriptor, as offsets from its image's base: read from our own copy of the file.
struct AgentFile {
  std::vector<std::byte> bytes;
  uint64_t state, entry_thunk, return_thunk, return_point, inside_thunk, entry_thunk_hashed,
      return_thunk_hashed, inside_thunk_hashed, fault_handler, signal_restorer, on_libraries,
      on_sigaction, nobody;
  std::unordered_map<uint32_t, uint64_t> helpers;  // id -> offset

  static Result<AgentFile> parse(std::vector<std::byte> bytes);
};

Result<AgentFile> AgentFile::parse(std::vector<std::byte> file_bytes) {
  AgentFile file{};
  file.bytes = std::move(file_bytes);
  const ElfImage image = TRY(ElfImage::parse(file.bytes));
  std::unordered_map<uint64_t, uint64_t> words;
  for (const auto& reloc : TRY(image.relative_relocations())) {
    words[reloc.offset] = static_cast<uint64_t>(reloc.addend);
  }
  const ElfSymbol symbol = TRY(image.find_symbol("bpftime_agent_descriptor"));
  const auto raw_descriptor = TRY(image.bytes_at(symbol.address, 8));
  uint32_t magic_version[2];
  std::memcpy(magic_version, raw_descriptor.data(), 8);
  if (magic_version[0] != kAgentMagic || magic_version[1] != kAgentVersion) {
    return make_error(EINVAL, "the agent file is of another version");
  }
  const auto field = [&](size_t offset) -> uint64_t {
    const auto it = words.find(symbol.address + offset);
    return it == words.end() ? 0 : it->second;
  };
  file.state = field(offsetof(AgentDescriptor, state));
  file.entry_thunk = field(offsetof(AgentDescriptor, entry_thunk));
  file.return_thunk = field(offsetof(AgentDescriptor, return_thunk));
  file.return_point = field(offsetof(AgentDescriptor, return_point));
  file.inside_thunk = field(offsetof(AgentDescriptor, inside_thunk));
  file.entry_thunk_hashed = field(offsetof(AgentDescriptor, entry_thunk_hashed));
  file.return_thunk_hashed = field(offsetof(AgentDescriptor, return_thunk_hashed));
  file.inside_thunk_hashed = field(offsetof(AgentDescriptor, inside_thunk_hashed));
  file.fault_handler = field(offsetof(AgentDescriptor, fault_handler));
  file.signal_restorer = field(offsetof(AgentDescriptor, signal_restorer));
  file.on_libraries = field(offsetof(AgentDescriptor, on_libraries));
  file.on_sigaction = field(offsetof(AgentDescriptor, on_sigaction));
  file.nobody = field(offsetof(AgentDescriptor, nobody));
  const uint64_t table = field(offsetof(AgentDescriptor, helpers));
  const auto count_bytes =
      TRY(image.bytes_at(field(offsetof(AgentDescriptor, helper_count)), sizeof(uint32_t)));
  uint32_t count = 0;
  std::memcpy(&count, count_bytes.data(), sizeof(count));
  for (uint32_t i = 0; i < count; i++) {
    const uint64_t entry = table + i * sizeof(HelperEntry);
    const auto id_bytes = TRY(image.bytes_at(entry, sizeof(uint64_t)));
    uint64_t id = 0;
    std::memcpy(&id, id_bytes.data(), sizeof(id));
    file.helpers[static_cast<uint32_t>(id)] = words[entry + offsetof(HelperEntry, function)];
  }
  if (file.state == 0 || file.entry_thunk == 0 || file.return_thunk == 0 || file.nobody == 0) {
    return make_error(EINVAL, "the agent file has an incomplete descriptor");
  }
  return file;
}

struct ProgramHere {
  uint64_t code, bytes, slots, slots_bytes;
  uint64_t range;  // address of its first CodeRange
};
struct MapHere {
  uint64_t base, bytes;
  MapView view;      // as the target sees it
  uint64_t view_at;  // where the view lies in the arena
};
struct List {
  uint64_t at = 0, bytes = 0;
  std::vector<WantedLink> links;
};
// Places where the agent itself listens.
enum class Internal : uint8_t {
  kNone,
  kLibraries,  // ld.so's _dl_debug_state: a library came
  kSigaction,  // libc's sigaction: answered from the shadow table (DESIGN D10)
};
struct SiteHere {
  uint32_t index = 0;
  bool with_return = false;
  Internal internal = Internal::kNone;
  Patch patch{}, hole{};
  List entry, on_return;
};
struct Room {
  uint64_t base, used;
  std::vector<uint64_t> free;
  bool is_mapped = false;
};
struct Retired {  // freed when no thread is inside a hit
  enum { kHeap, kSlot } kind;
  uint64_t at, bytes;
};
// What one place should be.
struct Wanted {
  const Mapping* mapping = nullptr;
  uint64_t file_offset = 0;
  Internal internal = Internal::kNone;
  std::vector<WantedLink> entry, on_return;
};

bool same_links(const std::vector<WantedLink>& a, const std::vector<WantedLink>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const WantedLink& x, const WantedLink& y) {
                      return x.id == y.id && x.program == y.program && x.cookie == y.cookie;
                    });
}

// What libc gives the kernel as sa_restorer: mov $15, %rax; syscall (rt_sigreturn; sigaction(2)).
std::optional<uint64_t> restorer_in(const Module& module, uint64_t bias) {
  constexpr std::array<uint8_t, 9> kRestorer = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
  const auto pattern = std::as_bytes(std::span(kRestorer));
  for (const ElfSegment& segment : module.image.segments()) {
    const auto bytes = segment.is_executable
                           ? module.image.bytes_at(segment.address, segment.file_bytes)
                           : Result<std::span<const std::byte>>(std::span<const std::byte>());
    if (!bytes) {
      continue;
    }
    const auto at = std::search(bytes->begin(), bytes->end(),
                                std::boyer_moore_horspool_searcher(pattern.begin(), pattern.end()));
    if (at != bytes->end()) {
      return bias + segment.address + static_cast<uint64_t>(at - bytes->begin());
    }
  }
  return std::nullopt;
}

std::string hex(uint64_t n) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(n));
  return text;
}

}  // namespace

// ---- One process ---------------------------------------------------------------------------------------------

struct TargetProcess {
  pid_t pid = 0;
  ProcessIdentity identity{};
  UniqueFd pidfd, channel;
  uint32_t owner = 0;
  std::string exe;
  AgentImage image{};
  bool unwinder_knows_image = false;
  uint64_t arena = 0, table = 0, alive = 0;
  bool is_hashed = false;  // gs is not ours: thunks that do not read it
  int remote_channel_fd = -1;
  uint64_t remote_channel_inode = 0;
  RemoteHeap heap;
  uint32_t next_site = 1;
  std::vector<uint32_t> free_sites;
  std::map<uint64_t, SiteHere> sites;  // by address
  std::vector<Room> rooms;
  std::map<uint32_t, ProgramHere> programs;
  std::map<uint32_t, MapHere> maps;
  std::map<uint32_t, uint64_t> counts;  // link -> HitCounts
  std::vector<Retired> retired;
  std::vector<MappedRange> mappings;
  uint64_t journal_count = 0, code_range_count = 0, generation = 0;
  std::map<std::pair<uint64_t, std::array<uint8_t, 16>>, uint64_t>
      journal;  // (address, after) -> index
  bool armed = false, owns_signals = false;
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
};

class Targets::Impl {
 public:
  Impl(EventLoop* event_loop, TargetHost* target_host, Config target_config)
      : loop(event_loop), host(target_host), config(std::move(target_config)) {
    arena_file.reset(::memfd_create(kArenaName, MFD_CLOEXEC));
    if (arena_file && ::ftruncate(arena_file.get(), static_cast<off_t>(kArenaBytes)) != 0) {
      arena_file.reset();
    }
    auto parsed = AgentFile::parse(std::move(config.agent_file));
    if (parsed) {
      agent = std::move(*parsed);
      if (auto shared = share_agent(agent.bytes)) {
        agent_fd = std::move(*shared);
      }
    } else {
      agent_error = parsed.error();
    }
    next_owner = config.first_owner;
    struct stat st{};
    if (::fstat(config.alive_fd, &st) == 0) {
      alive_inode = st.st_ino;
    }
  }

  EventLoop* loop;
  TargetHost* host;
  Config config;
  UniqueFd arena_file, agent_fd;
  AgentFile agent;
  Error agent_error{};
  Modules modules;
  uint32_t next_owner = 0;
  uint64_t alive_inode = 0;  // of our alive page: how our agents are told from another session's
  std::map<pid_t, std::unique_ptr<TargetProcess>> targets;
  struct Starting {
    HeldProcess held;
    uint64_t give_up_ns;
  };
  std::map<pid_t, Starting> starting;
  UniqueFd child_signals;  // SIGCHLD: something that we follow has stopped

  // Processes whose code is restored and whose agent could not be unmapped yet; looked at again and again.
  std::vector<ProcessIdentity> asleep;
  bool is_waking = false;
  void wake_up_later();

  static uint64_t deadline() { return deadline_in_ms(kTargetDeadlineMs); }
  // After an error: threads that did not stop in time are let go as soon as they do.
  void watch_late() {
    if (!watches_late && let_late_threads_go() != 0) {
      watches_late = true;
      loop->after(kLookAtLateMs, [this] {
        watches_late = false;
        watch_late();
      });
    }
  }
  bool watches_late = false;

  Result<std::unique_ptr<TargetProcess>> new_record(pid_t pid);
  Result<void> attach(pid_t pid);
  Result<void> look_at(TargetProcess* t);
  void clear_unfinished(pid_t pid);
  Result<void> set_up(TargetProcess* t, StoppedProcess& process);
  // `held`: all threads of the process, when somebody has stopped it already; else sync() stops it itself.
  Result<void> adopt(std::unique_ptr<TargetProcess> t, StoppedProcess* held);
  // `only`: the one link that has changed; null: anything may have.
  Result<void> sync(TargetProcess* t, StoppedProcess* held = nullptr, const LinkId* only = nullptr);
  Result<void> sync_once(TargetProcess* t, StoppedProcess* held, const LinkId* only);
  Result<void> detach(pid_t pid);
  void forget(pid_t pid, const char* how);
  void channel_ready(pid_t pid, uint32_t events);
  void child_forked(TargetProcess* parent, const AgentMessage& message, pid_t child, UniqueFd fd);
  Result<void> attach_at_exec(pid_t pid);
  void step_starting(pid_t pid);
  void look_at_starting();

 private:
  void want(TargetProcess* t, const WantedLink& link, const std::vector<Mapping>& maps,
            std::map<uint64_t, Wanted>* wanted);
  std::map<uint64_t, Wanted> wanted_of(TargetProcess* t, const std::vector<Mapping>& maps);
  std::map<uint64_t, Wanted> wanted_of_link(TargetProcess* t, const std::vector<Mapping>& maps,
                                            LinkId id);
  void add_internal(TargetProcess* t, const std::vector<Mapping>& maps,
                    std::map<uint64_t, Wanted>* wanted);
  Result<uint64_t> take_slot(TargetProcess* t, std::vector<Mapping>* maps, uint64_t near,
                             std::vector<uint64_t>* new_rooms);
  Result<Plan> plan_site(TargetProcess* t, std::vector<Mapping>* maps, uint64_t address,
                         const Wanted& wanted, uint32_t index, std::vector<uint64_t>* new_rooms);
  Result<void> bring_mappings(TargetProcess* t, std::vector<Mapping>* maps,
                              const std::set<uint32_t>& programs,
                              const std::vector<uint64_t>& new_rooms, StoppedProcess& process);
  Result<List> make_list(TargetProcess* t, const std::vector<WantedLink>& links, Internal internal,
                         StoppedProcess& process);
  Result<void> note_mapping(TargetProcess* t, uint64_t begin, uint64_t bytes,
                            StoppedProcess& process);
  Result<uint64_t> journal_entry(TargetProcess* t, const Patch& patch, StoppedProcess& process);
  Result<void> discover_threads(TargetProcess* t, StoppedProcess& process);
  Result<void> own_signals(TargetProcess* t, RemoteThread& thread);
  Result<void> unregister(TargetProcess* t);
  Result<void> listen_to(TargetProcess* t);
  Result<void> renew_channel(TargetProcess* t);
};

namespace {
// A hole, which `maps` then shows as taken.
Result<uint64_t> reserve(std::vector<Mapping>* maps, uint64_t near, uint64_t bytes,
                         uint64_t reach = ~0ULL >> 2) {
  Mapping m{};
  m.begin = TRY(find_hole(*maps, near, bytes, reach));
  m.end = m.begin + bytes;
  maps->insert(
      std::upper_bound(maps->begin(), maps->end(), m,
                       [](const Mapping& a, const Mapping& b) { return a.begin < b.begin; }),
      m);
  return m.begin;
}

}  // namespace

// ---- Bringing the agent in -------------------------------------------------------------------------------------

namespace {
// A thread that works for us cannot do so while its process is stopped by a signal.
Result<void> check_runs(const ProcessStatus& status) {
  if (status.state == 'T') {
    return make_error(EBUSY, "the process is stopped by a signal: let it run (SIGCONT) first");
  }
  return {};
}
}  // namespace

// What is known of a process before anything in it is touched.
Result<std::unique_ptr<TargetProcess>> Targets::Impl::new_record(pid_t pid) {
  auto t = std::make_unique<TargetProcess>();
  t->pid = pid;
  t->identity = TRY(identify(pid));
  t->pidfd = TRY(open_pidfd(pid));
  if (auto exe = read_executable(pid)) {
    t->exe = *exe;
  }
  TRY(look_at(t.get()));
  return t;
}

Result<void> Targets::Impl::attach(pid_t pid) {
  if (agent_error.code != 0) {
    return agent_error;
  }
  if (const auto it = targets.find(pid); it != targets.end()) {
    return sync(it->second.get());
  }
  auto t = TRY(new_record(pid));
  TRY(check_runs(t->status));
  if (t->status.tracer == 0) {
    clear_unfinished(pid);
  }
  if (const auto arena = find_arena(pid)) {
    const auto other = owner_of_arena(pid, *arena);
    if (other && other->is_alive && other->alive_inode != alive_inode) {
      return make_error(EBUSY, "another session has its agent in this process");
    }
    // Left by an earlier broker, or a child that forked before its parent was let go.
    (void)take_out(pid, deadline());
  }
  t->image = TRY(bring_agent(pid, {agent.bytes, agent_fd.get()}, AgentWish::kAny, deadline()));
  {
    const StopWatch process_stopped;
    StoppedProcess process = TRY(borrow_any(pid, deadline()));
    TRY(set_up(t.get(), process));
    t->stopped_ns = std::max(t->image.stopped_ns, process_stopped.elapsed());
  }
  const auto adopted = adopt(std::move(t), nullptr);
  if (!adopted) {
    (void)detach(pid);
    watch_late();
  }
  return adopted;
}

// What an attach leaves behind that was cut short (its broker killed) before the arena said what there is: images
// and mappings, known by their names. Descriptors that it had open there stay.
void Targets::Impl::clear_unfinished(pid_t pid) {
  const auto maps = read_maps(pid);
  if (!maps) {
    return;
  }
  std::vector<MappedRange> ranges;
  bool has_arena = false;
  for (const Mapping& m : mappings_of_memfd(*maps, kArenaName)) {
    uint32_t magic = 0;
    (void)read_memory(pid, RemoteAddr{m.begin}, std::as_writable_bytes(std::span(&magic, 1)));
    if (magic == 0) {
      ranges.push_back({m.begin, m.end - m.begin});
    } else {
      has_arena = true;
    }
  }
  if (has_arena && ranges.empty()) {
    return;
  }
  if (!has_arena) {
    for (const Mapping& m : mappings_of_memfd(*maps, kAliveName)) {
      ranges.push_back({m.begin, m.end - m.begin});
    }
    for (const AgentImage& image : find_agent_images(pid, {agent.bytes, agent_fd.get()})) {
      const auto unloaded = unload_agent(pid, image, deadline());
      host->log("process " + std::to_string(pid) + ": an agent left by an unfinished attach " +
                (unloaded ? "is unloaded" : "stays: " + std::string(unloaded.error().why)));
    }
  }
  if (ranges.empty()) {
    return;
  }
  const auto unmapped = [&]() -> Result<void> {
    StoppedProcess process = TRY(borrow_any(pid, deadline()));
    RemoteThread thread = TRY(RemoteThread::begin(process, 0, deadline()));
    for (const MappedRange& r : ranges) {
      TRY(remote_unmap(thread, RemoteAddr{r.begin}, r.bytes));
    }
    return thread.finish();
  }();
  host->log("process " + std::to_string(pid) + ": mappings left by an unfinished attach " +
            (unmapped ? "are gone" : "stay: " + std::string(unmapped.error().why)));
}

// What must be known of a process, read while it runs.
Result<void> Targets::Impl::look_at(TargetProcess* t) {
  t->status = TRY(read_status(t->pid));
  if (const auto auxv = read_auxv(t->pid)) {
    for (const auto& [key, value] : *auxv) {
      t->has_fsgsbase = t->has_fsgsbase || (key == AT_HWCAP2 && (value & kHwcap2Fsgsbase) != 0);
    }
  }
  // __vdso_clock_gettime and struct rseq are found by their symbols; without them helpers ask the kernel.
  const std::vector<Mapping> maps = TRY(read_maps(t->pid));
  for (const Mapping& m : maps) {
    if (m.path == "[vdso]") {
      std::vector<std::byte> bytes(m.end - m.begin);
      if (read_memory(t->pid, RemoteAddr{m.begin}, bytes)) {
        if (const auto image = ElfImage::parse(bytes)) {
          if (const auto symbol = image->find_symbol("__vdso_clock_gettime")) {
            t->vdso_clock_gettime = m.begin + symbol->address;
          }
        }
      }
    }
    if (m.offset == 0 && m.path.find("ld-linux-x86-64") != std::string::npos) {
      if (const auto module = modules.of_mapping(t->pid, m)) {
        const auto offset = (*module)->image.find_symbol("__rseq_offset");
        const auto size = (*module)->image.find_symbol("__rseq_size");
        const auto bias = (*module)->bias(m);
        int64_t rseq_offset = 0;
        uint32_t rseq_size = 0;
        if (offset && size && bias &&
            read_memory(t->pid, RemoteAddr{*bias + offset->address},
                        std::as_writable_bytes(std::span(&rseq_offset, 1))) &&
            read_memory(t->pid, RemoteAddr{*bias + size->address},
                        std::as_writable_bytes(std::span(&rseq_size, 1))) &&
            rseq_size != 0) {
          t->rseq_offset = rseq_offset;
        }
      }
    }
  }
  // What will be probed is parsed before anything stops, too.
  for (const WantedLink& link : host->wanted_links()) {
    for (const Mapping& m : maps) {
      if ((m.prot & PROT_EXEC) != 0 && m.inode == link.inode && m.device == link.device) {
        (void)modules.of_mapping(t->pid, m);
        break;
      }
    }
  }
  return {};
}

// Channel, arena, table, alive page: everything but sites. One thread is held.
Result<void> Targets::Impl::set_up(TargetProcess* t, StoppedProcess& process) {
  t->unwinder_knows_image = t->image.way == AgentWay::kDlopen;
  RemoteThread thread = TRY(RemoteThread::begin(process, 0, deadline()));
  RemoteChannel channel = TRY(remote_channel(thread));
  const auto fds =
      TRY(send_fds(thread, channel, std::array<int, 2>{arena_file.get(), config.alive_fd}));
  // The thread's scratch memory is among the mappings by now.
  std::vector<Mapping> maps = TRY(read_maps(t->pid));
  const uint64_t near = raw(t->image.base);
  t->arena = TRY(reserve(&maps, near, kArenaBytes));
  t->alive = TRY(reserve(&maps, near, 4096));
  t->table = TRY(reserve(&maps, near, kTableBytes));
  TRY(remote_map_fd(thread, RemoteAddr{t->arena}, kArenaBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_NORESERVE, fds[0], 0));
  TRY(remote_map_fd(thread, RemoteAddr{t->alive}, 4096, PROT_READ, MAP_SHARED, fds[1], 0));
  TRY(remote_map_anonymous(thread, RemoteAddr{t->table}, kTableBytes, PROT_READ | PROT_WRITE,
                           MAP_NORESERVE));
  TRY(remote_madvise(thread, RemoteAddr{t->table}, kTableBytes, MADV_WIPEONFORK));
  for (const int fd : fds) {
    TRY(remote_close(thread, fd));
  }
  TRY(thread.finish());
  t->heap = RemoteHeap(t->arena + kHeapOffset, t->arena + kArenaBytes);
  t->channel = std::move(channel.ours);
  t->remote_channel_fd = channel.remote_fd;
  t->remote_channel_inode = channel.remote_inode;
  t->owner = next_owner++;

  auto state = std::make_unique<AgentState>();
  std::memset(static_cast<void*>(state.get()), 0, sizeof(AgentState));
  state->magic = kAgentMagic;
  state->version = kAgentVersion;
  state->agent_base = raw(t->image.base);
  state->agent_bytes = t->image.bytes;
  state->arena_bytes = kArenaBytes;
  state->table = reinterpret_cast<Site*>(t->table);
  state->table_sites = kMaxSites;
  state->alive_expected = config.alive_expected;
  state->tgid = static_cast<uint32_t>(t->status.inner_tgid);
  state->owner = t->owner;
  state->channel = channel.remote_fd;
  state->channel_inode = channel.remote_inode;
  state->image_way = static_cast<uint32_t>(t->image.way);
  state->image_handle = t->image.handle;
  state->mappings = t->arena + kMappingsOffset;
  state->journal = t->arena + kJournalOffset;
  state->code_ranges = t->arena + kCodeRangesOffset;
  state->process.owner = t->owner;
  state->process.tgid = static_cast<uint32_t>(t->status.inner_tgid);
  state->process.cpu_count = static_cast<uint32_t>(::sysconf(_SC_NPROCESSORS_CONF));
  state->process.vdso_clock_gettime = reinterpret_cast<int (*)(int, void*)>(t->vdso_clock_gettime);
  if (t->rseq_offset) {
    state->process.rseq_offset = state->rseq_offset = *t->rseq_offset;
    state->process.rseq_offset_valid = state->rseq_offset_valid = 1;
  }
  TRY(process.write(RemoteAddr{t->arena},
                    {reinterpret_cast<const std::byte*>(state.get()), sizeof(AgentState)}));
  TRY(process.write_value(RemoteAddr{t->table}, kTableGuard));
  TRY(note_mapping(t, t->alive, 4096, process));
  TRY(note_mapping(t, t->table, kTableBytes, process));
  TRY(process.write_value(RemoteAddr{raw(t->image.base) + agent.state}, t->arena));
  return {};
}

Result<void> Targets::Impl::adopt(std::unique_ptr<TargetProcess> owned, StoppedProcess* held) {
  TargetProcess* const t = owned.get();
  const pid_t pid = t->pid;
  targets[pid] = std::move(owned);
  TRY(loop->add(t->pidfd.get(), EPOLLIN, [this, pid](uint32_t) { forget(pid, "ended"); }));
  TRY(listen_to(t));
  return sync(t, held);
}

// ---- What it should be -----------------------------------------------------------------------------------------

void Targets::Impl::want(TargetProcess* t, const WantedLink& link, const std::vector<Mapping>& maps,
                         std::map<uint64_t, Wanted>* wanted) {
  bool mapped = false;
  for (const Mapping& m : maps) {
    if ((m.prot & PROT_EXEC) != 0 && m.inode == link.inode && m.device == link.device &&
        m.offset <= link.file_offset && link.file_offset - m.offset < m.end - m.begin) {
      Wanted& w = (*wanted)[m.begin + (link.file_offset - m.offset)];
      w.mapping = &m;
      w.file_offset = link.file_offset;
      (link.is_return ? w.on_return : w.entry).push_back(link);
      mapped = true;
    }
  }
  if (!mapped) {
    t->why_not[raw(link.id)] = {0, "the file is not mapped here"};
  }
}

// Everything.
std::map<uint64_t, Wanted> Targets::Impl::wanted_of(TargetProcess* t,
                                                    const std::vector<Mapping>& maps) {
  std::map<uint64_t, Wanted> wanted;
  t->why_not.clear();
  bool any = false;
  for (const WantedLink& link : host->wanted_links()) {
    if (link.pid <= 0 || link.pid == t->pid) {
      any = true;
      want(t, link, maps, &wanted);
    }
  }
  if (any) {
    add_internal(t, maps, &wanted);
  }
  return wanted;
}

// Only the places that one link touches, or touched: what else is there stays.
std::map<uint64_t, Wanted> Targets::Impl::wanted_of_link(TargetProcess* t,
                                                         const std::vector<Mapping>& maps,
                                                         LinkId id) {
  std::map<uint64_t, Wanted> wanted;
  t->why_not.erase(raw(id));
  if (const auto link = host->wanted_link(id); link && (link->pid <= 0 || link->pid == t->pid)) {
    want(t, *link, maps, &wanted);
  }
  if (const auto places = t->places.find(raw(id)); places != t->places.end()) {
    for (const uint64_t address : places->second) {
      wanted.try_emplace(address);
    }
  }
  for (auto& [address, w] : wanted) {
    const auto site = t->sites.find(address);
    if (site == t->sites.end()) {
      continue;
    }
    w.internal = site->second.internal;
    w.mapping = mapping_at(maps, address);
    for (const auto& [from, to] : {std::pair(&site->second.entry.links, &w.entry),
                                   std::pair(&site->second.on_return.links, &w.on_return)}) {
      std::vector<WantedLink> merged;
      std::remove_copy_if(from->begin(), from->end(), std::back_inserter(merged),
                          [&](const WantedLink& l) { return l.id == id; });
      merged.insert(merged.end(), to->begin(), to->end());
      std::sort(merged.begin(), merged.end(),
                [](const WantedLink& x, const WantedLink& y) { return raw(x.id) < raw(y.id); });
      *to = std::move(merged);
    }
  }
  return wanted;
}

// Where ld.so tells debuggers of a changed link map, and where libc sets a signal's action; a static program has none.
void Targets::Impl::add_internal(TargetProcess* t, const std::vector<Mapping>& maps,
                                 std::map<uint64_t, Wanted>* wanted) {
  const auto has = [](const Mapping& m, const char* text) {
    return m.path.find(text) != std::string::npos;
  };
  bool found_loader = false, found_libc = false;
  const auto add = [&](const Mapping& m, const char* name, Internal internal) {
    const auto module = modules.of_mapping(t->pid, m);
    if (!module) {
      return false;
    }
    const auto symbol = (*module)->image.find_symbol(name);
    const auto bias = (*module)->bias(m);
    if (!symbol || !bias) {
      return false;
    }
    const uint64_t address = *bias + symbol->address;
    if (address < m.begin || address >= m.end) {
      return false;
    }
    if (internal == Internal::kSigaction && t->libc_restorer == 0) {
      const auto restorer = restorer_in(**module, *bias);
      if (!restorer) {
        return false;
      }
      t->libc_restorer = *restorer;
    }
    Wanted& w = (*wanted)[address];
    w.mapping = &m;
    w.file_offset = address - m.begin + m.offset;
    w.internal = internal;
    return true;
  };
  for (const Mapping& m : maps) {
    if ((m.prot & PROT_EXEC) == 0) {
      continue;
    }
    const bool is_musl = has(m, "/ld-musl");
    if (!found_loader && (is_musl || has(m, "/ld-linux"))) {
      found_loader = add(m, "_dl_debug_state", Internal::kLibraries);
    }
    if (!found_libc && (is_musl || has(m, "/libc.so.6") || has(m, "/libc-2."))) {
      found_libc = add(m, "sigaction", Internal::kSigaction);
    }
  }
}

// ---- Preparing -----------------------------------------------------------------------------------------------------

// A trampoline's place within reach of `near`; a new room, when one is needed, is mapped later (new_rooms).
Result<uint64_t> Targets::Impl::take_slot(TargetProcess* t, std::vector<Mapping>* maps,
                                          uint64_t near, std::vector<uint64_t>* new_rooms) {
  for (Room& room : t->rooms) {
    const uint64_t low = std::min(room.base, near);
    const uint64_t high = std::max(room.base + kRoomBytes, near);
    if (high - low > kReachBytes) {
      continue;
    }
    if (!room.free.empty()) {
      const uint64_t at = room.free.back();
      room.free.pop_back();
      return at;
    }
    if (room.used + kSlotBytes <= kRoomBytes) {
      const uint64_t at = room.base + room.used;
      room.used += kSlotBytes;
      return at;
    }
  }
  const uint64_t base = TRY(reserve(maps, near, kRoomBytes, kReachBytes));
  t->rooms.push_back(Room{base, kSlotBytes, {}, false});
  new_rooms->push_back(base);
  return base;
}

Result<Plan> Targets::Impl::plan_site(TargetProcess* t, std::vector<Mapping>* maps,
                                      uint64_t address, const Wanted& wanted, uint32_t index,
                                      std::vector<uint64_t>* new_rooms) {
  const Mapping mapping = *wanted.mapping;
  const auto module = TRY(modules.of_mapping(t->pid, mapping));
  const uint64_t bias = TRY(module->bias(mapping));
  const FunctionPlace place = TRY(place_of(*module, address - bias));
  PlanInput input{};
  input.wants_return = !wanted.on_return.empty();
  if (input.wants_return) {
    if (returns_twice(place.name)) {
      return make_error(EOPNOTSUPP, "this function may return twice");
    }
    if (is_go_image(module->bytes)) {
      return make_error(EOPNOTSUPP, "return probes do not fit Go's calling convention");
    }
    if (maps_nongnu_libunwind(*maps)) {
      return make_error(
          EOPNOTSUPP,
          "no return probes here: this process has loaded nongnu libunwind, which cannot walk past one");
    }
    if (!t->unwinder_knows_image) {
      return make_error(EOPNOTSUPP,
                        "no return probes here yet: the agent could not be loaded by the target's "
                        "own loader, so its unwinder does not know it");
    }
  }
  input.site = RemoteAddr{address};
  input.function_begin = RemoteAddr{place.begin + bias};
  input.code = place.code;
  input.function_bytes = place.bytes;
  input.bytes_to_next_function = place.bytes_to_next;
  const uint64_t slot = TRY(take_slot(t, maps, address, new_rooms));
  input.room = RemoteAddr{slot};
  input.site_record = RemoteAddr{t->table + index * sizeof(Site)};
  const uint64_t base = raw(t->image.base);
  const bool hashed = t->is_hashed;
  input.entry_thunk = RemoteAddr{base + (hashed ? agent.entry_thunk_hashed : agent.entry_thunk)};
  input.inside_thunk = RemoteAddr{base + (hashed ? agent.inside_thunk_hashed : agent.inside_thunk)};
  input.return_thunk = RemoteAddr{base + (hashed ? agent.return_thunk_hashed : agent.return_thunk)};
  input.site_index = index;
  auto plan = plan_patch(input);
  if (!plan && plan.error().code == EOPNOTSUPP) {
    // A short function: look for padding nearby that no other site uses.
    std::vector<PaddingRange> padding = padding_near(*module, address - bias);
    for (PaddingRange& range : padding) {
      range.begin = RemoteAddr{raw(range.begin) + bias};
      for (const auto& [_, site] : t->sites) {
        for (const Patch* taken : {&site.patch, &site.hole}) {
          const uint64_t begin = raw(taken->site);
          const uint64_t end = begin + taken->site_bytes;
          const uint64_t range_end = raw(range.begin) + range.content.size();
          if (taken->site_bytes == 0 || begin >= range_end || end <= raw(range.begin)) {
            continue;
          }
          // What is left behind it, or else before it.
          const uint64_t cut = std::min<uint64_t>(end - raw(range.begin), range.content.size());
          if (begin <= raw(range.begin) || range_end > end) {
            range.begin = RemoteAddr{raw(range.begin) + cut};
            range.content = range.content.subspan(cut);
          } else {
            range.content = range.content.first(begin - raw(range.begin));
          }
        }
      }
    }
    std::erase_if(padding, [](const PaddingRange& r) { return r.content.size() < 5; });
    input.padding = padding;
    plan = plan_patch(input);
  }
  if (!plan) {
    t->retired.push_back({Retired::kSlot, slot, kSlotBytes});
  }
  return plan;
}

Result<void> Targets::Impl::note_mapping(TargetProcess* t, uint64_t begin, uint64_t bytes,
                                         StoppedProcess& process) {
  if (t->mappings.size() >= kMaxMappings) {
    return make_error(ENOSPC, "too many mappings in one target");
  }
  t->mappings.push_back({begin, bytes});
  TRY(process.write_value(
      RemoteAddr{t->arena + kMappingsOffset + (t->mappings.size() - 1) * sizeof(MappedRange)},
      t->mappings.back()));
  return process.write_value(RemoteAddr{t->arena + offsetof(AgentState, mapping_count)},
                             uint64_t{t->mappings.size()});
}

// Maps rooms, and code and map regions of programs that are not here yet. One thread of the target is held.
Result<void> Targets::Impl::bring_mappings(TargetProcess* t, std::vector<Mapping>* maps,
                                           const std::set<uint32_t>& programs,
                                           const std::vector<uint64_t>& new_rooms,
                                           StoppedProcess& process) {
  struct Region {
    int fd;
    uint64_t bytes, at;
    int prot;
  };
  std::vector<Region> regions;
  const bool any_missing = std::any_of(programs.begin(), programs.end(),
                                       [&](uint32_t id) { return !t->programs.contains(id); });
  if (!any_missing && new_rooms.empty() && t->owns_signals) {
    return {};
  }
  RemoteThread thread = TRY(RemoteThread::begin(process, 0, deadline()));
  for (const uint64_t room : new_rooms) {
    TRY(remote_map_anonymous(thread, RemoteAddr{room}, kRoomBytes, PROT_READ | PROT_EXEC));
    TRY(note_mapping(t, room, kRoomBytes, process));
    for (Room& r : t->rooms) {
      r.is_mapped = r.is_mapped || r.base == room;
    }
  }
  // Looked at afresh, once the thread that works for us has mapped its scratch memory.
  (void)TRY(thread.scratch());
  *maps = TRY(read_maps(t->pid));
  const uint64_t near = raw(t->image.base);
  struct NewProgram {
    uint32_t id;
    ProgramForTarget program;
    uint64_t at;
  };
  std::vector<NewProgram> new_programs;
  std::vector<std::pair<MapForTarget, uint64_t>> new_maps;
  for (const uint32_t id : programs) {
    if (t->programs.contains(id)) {
      continue;
    }
    const ProgramForTarget program = TRY(host->program_for_target(ProgId{id}));
    const uint64_t bytes = page_up(program.compiled->code.size());
    const uint64_t at = TRY(reserve(maps, near, bytes));
    regions.push_back({program.code_fd, bytes, at, PROT_READ | PROT_EXEC});
    new_programs.push_back({id, program, at});
    for (const Slot& slot : program.compiled->slots) {
      if ((slot.kind != SlotKind::kMap && slot.kind != SlotKind::kMapValue) ||
          t->maps.contains(slot.id) ||
          std::any_of(new_maps.begin(), new_maps.end(),
                      [&](const auto& m) { return raw(m.first.id) == slot.id; })) {
        continue;
      }
      const MapForTarget map = TRY(host->map_for_target(MapId{slot.id}));
      const uint64_t map_at = TRY(reserve(maps, near, page_up(map.region_bytes)));
      regions.push_back({map.region_fd, page_up(map.region_bytes), map_at,
                         map.read_only ? PROT_READ : PROT_READ | PROT_WRITE});
      new_maps.emplace_back(map, map_at);
    }
  }
  RemoteChannel channel;
  channel.remote_fd = t->remote_channel_fd;
  channel.remote_inode = t->remote_channel_inode;
  channel.ours.reset(::fcntl(t->channel.get(), F_DUPFD_CLOEXEC, 0));
  for (size_t begin = 0; begin < regions.size(); begin += kMaxFdsAtOnce) {
    const size_t end = std::min(regions.size(), begin + kMaxFdsAtOnce);
    std::vector<int> fds;
    for (size_t i = begin; i < end; i++) {
      fds.push_back(regions[i].fd);
    }
    const auto remote = TRY(send_fds(thread, channel, fds));
    for (size_t i = begin; i < end; i++) {
      TRY(remote_map_fd(thread, RemoteAddr{regions[i].at}, regions[i].bytes, regions[i].prot,
                        MAP_SHARED, remote[i - begin], 0));
      TRY(note_mapping(t, regions[i].at, regions[i].bytes, process));
      TRY(remote_close(thread, remote[i - begin]));
    }
  }
  if (!t->owns_signals) {
    TRY(own_signals(t, thread));
  }
  TRY(thread.finish());

  for (const auto& [map, at] : new_maps) {
    // The view is made from our own mapping of the region, then moved to where the target has it.
    void* const here = ::mmap(nullptr, map.region_bytes, PROT_READ, MAP_SHARED, map.region_fd, 0);
    if (here == MAP_FAILED) {
      return make_error(ENOMEM, "no room to look at a map's region");
    }
    auto view = open_region(static_cast<std::byte*>(here), map.region_bytes, map.spec);
    ::munmap(here, map.region_bytes);
    MapHere m{};
    m.view = rebased(TRY(std::move(view)), at);
    m.view.map_id = raw(map.id);
    m.base = at;
    m.bytes = page_up(map.region_bytes);
    m.view_at = t->heap.allocate(sizeof(MapView));
    if (m.view_at == 0) {
      return make_error(ENOSPC, "the arena is full");
    }
    TRY(process.write_value(RemoteAddr{m.view_at}, m.view));
    t->maps[raw(map.id)] = m;
  }
  for (const auto& [id, program, at] : new_programs) {
    const CompiledProgram& compiled = *program.compiled;
    ProgramHere p{};
    p.code = at;
    p.bytes = page_up(compiled.code.size());
    std::vector<uint64_t> slots;
    for (const Slot& slot : compiled.slots) {
      uint64_t value = 0;
      switch (slot.kind) {
        case SlotKind::kHelper: {
          const auto helper = agent.helpers.find(slot.id);
          value = helper == agent.helpers.end() ? 0 : raw(t->image.base) + helper->second;
          break;
        }
        case SlotKind::kMap:
          value = t->maps.at(slot.id).view_at;
          break;
        case SlotKind::kMapValue:
          value = reinterpret_cast<uint64_t>(t->maps.at(slot.id).view.values) + slot.addend;
          break;
        case SlotKind::kFunction:
          value = at + slot.addend;
          break;
      }
      slots.push_back(value);
    }
    slots.push_back(0);
    p.slots_bytes = slots.size() * sizeof(uint64_t);
    p.slots = t->heap.allocate(p.slots_bytes);
    if (p.slots == 0 || t->code_range_count + compiled.faults.size() > kMaxCodeRanges) {
      return make_error(ENOSPC, "the arena is full");
    }
    TRY(process.write(RemoteAddr{p.slots}, std::as_bytes(std::span(slots))));
    p.range = t->arena + kCodeRangesOffset + t->code_range_count * sizeof(CodeRange);
    for (const FaultRange& fault : compiled.faults) {
      TRY(process.write_value(
          RemoteAddr{t->arena + kCodeRangesOffset + t->code_range_count * sizeof(CodeRange)},
          CodeRange{at + fault.code_begin, at + fault.code_end, at + fault.resume_at}));
      t->code_range_count++;
    }
    TRY(process.write_value(RemoteAddr{t->arena + offsetof(AgentState, code_range_count)},
                            t->code_range_count));
    t->programs[id] = p;
  }
  return {};
}

// A list in the arena; not yet published.
Result<List> Targets::Impl::make_list(TargetProcess* t, const std::vector<WantedLink>& links,
                                      Internal internal, StoppedProcess& process) {
  List list;
  list.links = links;
  const size_t count = links.size() + (internal != Internal::kNone ? 1 : 0);
  if (count == 0) {
    return list;
  }
  std::vector<std::byte> bytes(sizeof(AttachedList) + count * sizeof(Attached));
  const AttachedList head{static_cast<uint32_t>(count), 0};
  std::memcpy(bytes.data(), &head, sizeof(head));
  const auto counts_of = [&](uint32_t link) -> Result<uint64_t> {
    uint64_t& at = t->counts[link];
    if (at == 0) {
      at = t->heap.allocate(sizeof(HitCounts));
      if (at == 0) {
        return make_error(ENOSPC, "the arena is full");
      }
      const std::array<std::byte, sizeof(HitCounts)> zero{};
      TRY(process.write(RemoteAddr{at}, zero));
    }
    return at;
  };
  size_t i = 0;
  const auto put = [&](const Attached& item) {
    std::memcpy(bytes.data() + sizeof(AttachedList) + i * sizeof(Attached), &item, sizeof(item));
    i++;
  };
  if (internal != Internal::kNone) {
    Attached item{};
    item.program = reinterpret_cast<decltype(item.program)>(
        raw(t->image.base) +
        (internal == Internal::kLibraries ? agent.on_libraries : agent.on_sigaction));
    item.counts = reinterpret_cast<HitCounts*>(TRY(counts_of(0)));
    item.flags = kAttachedInternal;
    put(item);
  }
  for (const WantedLink& link : links) {
    const ProgramHere& program = t->programs.at(raw(link.program));
    Attached item{};
    item.program = reinterpret_cast<decltype(item.program)>(program.code);
    item.slots = reinterpret_cast<const uint64_t*>(program.slots);
    item.counts = reinterpret_cast<HitCounts*>(TRY(counts_of(raw(link.id))));
    item.cookie = link.cookie;
    item.link = raw(link.id);
    item.code = reinterpret_cast<const CodeRange*>(program.range);
    put(item);
  }
  list.bytes = bytes.size();
  list.at = t->heap.allocate(list.bytes);
  if (list.at == 0) {
    return make_error(ENOSPC, "the arena is full");
  }
  TRY(process.write(RemoteAddr{list.at}, bytes));
  return list;
}

// Before a patch is written, what it will overwrite is on record in the target itself.
Result<uint64_t> Targets::Impl::journal_entry(TargetProcess* t, const Patch& patch,
                                              StoppedProcess& process) {
  std::array<uint8_t, 16> after{};
  std::memcpy(after.data(), patch.after, after.size());
  const auto key = std::make_pair(raw(patch.site), after);
  if (const auto it = t->journal.find(key); it != t->journal.end()) {
    return it->second;
  }
  if (t->journal_count >= kMaxJournal) {
    return make_error(ENOSPC, "the journal of patches is full");
  }
  JournalEntry entry{};
  entry.address = raw(patch.site);
  entry.bytes = patch.site_bytes;
  std::memcpy(entry.before, patch.before, sizeof(entry.before));
  std::memcpy(entry.after, patch.after, sizeof(entry.after));
  const uint64_t index = t->journal_count++;
  t->journal[key] = index;
  TRY(process.write_value(RemoteAddr{t->arena + kJournalOffset + index * sizeof(JournalEntry)},
                          entry));
  TRY(process.write_value(RemoteAddr{t->arena + offsetof(AgentState, journal_count)},
                          t->journal_count));
  return index;
}

// First arming, all threads stopped: how a thread is known, and its gs base.
Result<void> Targets::Impl::discover_threads(TargetProcess* t, StoppedProcess& process) {
  // In a pid namespace tids are small numbers, which stand elsewhere in a TCB too: only known places count there
  // (struct pthread of musl 1.2 and of glibc 2.31 to 2.41).
  constexpr uint32_t kMuslTid = 0x30;
  constexpr uint32_t kGlibcTid = 0x2d0;
  const bool in_namespace = t->status.inner_tgid != t->pid;
  bool gs_is_free = true;
  bool self_pointer = true;
  std::set<uint32_t> tid_offsets;
  bool first = true;
  std::vector<std::pair<pid_t, Registers>> threads;
  for (const pid_t tid : process.threads()) {
    const Registers regs = TRY(process.registers(tid));
    threads.emplace_back(tid, regs);
    gs_is_free = gs_is_free && regs.gs_base == 0;
    const auto self = process.read_value<uint64_t>(RemoteAddr{regs.fs_base});
    if (regs.fs_base == 0 || !self || *self != regs.fs_base) {
      self_pointer = false;
      continue;
    }
    const pid_t inner_tid = in_namespace ? TRY(read_thread_status(t->pid, tid)).inner_tid : tid;
    std::set<uint32_t> offsets;
    std::vector<uint32_t> tcb(0x800 / sizeof(uint32_t));
    if (process.read(RemoteAddr{regs.fs_base}, std::as_writable_bytes(std::span(tcb)))) {
      for (uint32_t i = 0; i < tcb.size(); i++) {
        if (tcb[i] == static_cast<uint32_t>(inner_tid) &&
            (!in_namespace || i * 4 == kMuslTid || i * 4 == kGlibcTid)) {
          offsets.insert(i * 4);
        }
      }
    }
    if (first) {
      tid_offsets = offsets;
      first = false;
    } else {
      std::erase_if(tid_offsets, [&](uint32_t o) { return !offsets.contains(o); });
    }
  }
  gs_is_free = gs_is_free && self_pointer;
  const uint32_t tid_offset = self_pointer && !tid_offsets.empty() ? *tid_offsets.begin() : 0;
  const auto put = [&](size_t offset, uint32_t value) {
    return process.write_value(RemoteAddr{t->arena + offset}, value);
  };
  TRY(put(offsetof(AgentState, tcb_tid_offset), tid_offset));
  TRY(put(offsetof(AgentState, fs_self_pointer), self_pointer ? 1 : 0));
  TRY(put(offsetof(AgentState, use_gs), gs_is_free ? 1 : 0));
  t->is_hashed = !gs_is_free;
  TRY(put(offsetof(AgentState, no_fsgsbase), t->has_fsgsbase ? 0 : 1));
  TRY(put(offsetof(AgentState, gs_was_set), gs_is_free ? 1 : 0));
  if (gs_is_free) {
    for (auto& [tid, regs] : threads) {
      regs.gs_base = raw(t->image.base) + agent.nobody;
      TRY(process.set_registers(tid, regs));
    }
  }
  return {};
}

// Faults in programs and in checked reads come to the agent; everything else goes on to the target's own actions.
// Other threads run meanwhile: the action that ours replaced is what counts, should it be another than the one seen.
Result<void> Targets::Impl::own_signals(TargetProcess* t, RemoteThread& thread) {
  StoppedProcess& process = thread.process();
  constexpr uint64_t kRestorer = 0x04000000;  // SA_RESTORER, asm/signal.h
  KernelSigaction ours{};
  ours.handler = raw(t->image.base) + agent.fault_handler;
  ours.flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | kRestorer;
  ours.restorer = raw(t->image.base) + agent.signal_restorer;
  uint32_t owned = 0;
  for (const int signal : {SIGSEGV, SIGBUS}) {
    const auto note = [&](const KernelSigaction& old) {
      const uint64_t words[4] = {old.handler, old.flags, old.restorer, old.mask};
      return process.write(
          RemoteAddr{t->arena + offsetof(AgentState, old_actions) + signal * sizeof(words)},
          std::as_bytes(std::span(words)));
    };
    const KernelSigaction seen = TRY(remote_sigaction(thread, signal, nullptr));
    TRY(note(seen));
    owned |= 1U << signal;
    TRY(process.write_value(RemoteAddr{t->arena + offsetof(AgentState, signals_owned)}, owned));
    const KernelSigaction old = TRY(remote_sigaction(thread, signal, &ours));
    if (old.handler != ours.handler && std::memcmp(&old, &seen, sizeof(old)) != 0) {
      TRY(note(old));
    }
  }
  t->owns_signals = true;
  return {};
}

// ---- Making it so ----------------------------------------------------------------------------------------------------

Result<void> Targets::Impl::sync(TargetProcess* t, StoppedProcess* held, const LinkId* only) {
  for (int tries = 0;; tries++) {
    auto synced = sync_once(t, held, only);
    std::erase_if(t->rooms, [](const Room& room) { return !room.is_mapped; });
    if (!synced) {
      watch_late();
    }
    // EEXIST: the target mapped something itself where we had seen a hole.
    if (synced || (synced.error().code != EEXIST && synced.error().code != kPlanAnew) ||
        tries == 4) {
      return synced;
    }
  }
}

Result<void> Targets::Impl::sync_once(TargetProcess* t, StoppedProcess* held, const LinkId* only) {
  std::vector<Mapping> maps = TRY(read_maps(t->pid));
  const std::vector<Mapping> seen = maps;
  if (!t->armed) {
    only = nullptr;
  }
  std::map<uint64_t, Wanted> wanted =
      only != nullptr ? wanted_of_link(t, seen, *only) : wanted_of(t, seen);

  // Sites whose module was unmapped are forgotten: there is nothing to restore.
  for (auto it = t->sites.begin(); it != t->sites.end();) {
    const Mapping* const m = mapping_at(seen, it->first);
    if (m == nullptr || (m->prot & PROT_EXEC) == 0) {
      t->retired.push_back({Retired::kSlot, raw(it->second.patch.trampoline), kSlotBytes});
      t->free_sites.push_back(it->second.index);
      for (auto& [_, addresses] : t->places) {
        addresses.erase(it->first);
      }
      it = t->sites.erase(it);
    } else {
      ++it;
    }
  }

  std::vector<Patch> to_restore, to_write;
  std::vector<uint64_t> gone, new_rooms;
  std::map<uint64_t, Plan> plans;
  std::set<uint32_t> programs;
  if (only == nullptr) {
    for (const auto& [address, site] : t->sites) {
      if (!wanted.contains(address)) {
        gone.push_back(address);
      }
    }
  }
  for (auto it = wanted.begin(); it != wanted.end();) {
    if (it->second.entry.empty() && it->second.on_return.empty() &&
        it->second.internal == Internal::kNone) {
      if (t->sites.contains(it->first)) {
        gone.push_back(it->first);
      }
      it = wanted.erase(it);
    } else {
      ++it;
    }
  }
  std::map<uint64_t, SiteHere> fresh;
  for (auto it = wanted.begin(); it != wanted.end();) {
    const uint64_t address = it->first;
    Wanted& w = it->second;
    const auto existing = t->sites.find(address);
    const bool wants_return = !w.on_return.empty();
    if (existing == t->sites.end() || (wants_return && !existing->second.with_return)) {
      uint32_t index = 0;
      if (existing != t->sites.end()) {
        index = existing->second.index;
      } else if (!t->free_sites.empty()) {
        index = t->free_sites.back();
        t->free_sites.pop_back();
      } else if (t->next_site < kMaxSites) {
        index = t->next_site++;
      } else {
        return make_error(ENOSPC, "too many probes in one target");
      }
      auto plan = plan_site(t, &maps, address, w, index, &new_rooms);
      if (!plan && wants_return && (!w.entry.empty() || existing != t->sites.end())) {
        // The entry links go on without the return links.
        for (const WantedLink& link : w.on_return) {
          t->why_not[raw(link.id)] = {plan.error().code, plan.error().why};
        }
        w.on_return.clear();
        if (existing == t->sites.end()) {
          plan = plan_site(t, &maps, address, w, index, &new_rooms);
        } else {
          ++it;
          continue;
        }
      }
      if (!plan) {
        for (const auto* links : {&w.entry, &w.on_return}) {
          for (const WantedLink& link : *links) {
            t->why_not[raw(link.id)] = {plan.error().code, plan.error().why};
          }
        }
        if (w.internal != Internal::kNone) {
          host->log("process " + std::to_string(t->pid) +
                    (w.internal == Internal::kLibraries
                         ? ": libraries loaded later will not be probed: "
                         : ": its own sigaction() is not answered for: ") +
                    plan.error().why);
        }
        if (existing == t->sites.end()) {
          t->free_sites.push_back(index);
        }
        it = wanted.erase(it);
        continue;
      }
      SiteHere site;
      site.index = index;
      site.with_return = !w.on_return.empty();
      site.patch = plan->patch;
      site.hole = plan->hole;
      fresh[address] = site;
      plans.emplace(address, std::move(*plan));
    }
    for (const auto* links : {&w.entry, &w.on_return}) {
      for (const WantedLink& link : *links) {
        programs.insert(raw(link.program));
      }
    }
    ++it;
  }
  // Which lists change?
  std::vector<uint64_t> changed;
  for (const auto& [address, w] : wanted) {
    const auto it = t->sites.find(address);
    if (it == t->sites.end() || fresh.contains(address) ||
        !same_links(it->second.entry.links, w.entry) ||
        !same_links(it->second.on_return.links, w.on_return) ||
        (w.internal != Internal::kNone && it->second.entry.at == 0)) {
      changed.push_back(address);
    }
  }
  if (gone.empty() && changed.empty() && t->armed) {
    return {};
  }

  // Mappings, if any are missing, by one held thread while the others run.
  const bool brings_mappings = !t->owns_signals || !new_rooms.empty() ||
                               std::any_of(programs.begin(), programs.end(),
                                           [&](uint32_t id) { return !t->programs.contains(id); });
  if (brings_mappings) {
    if (held == nullptr) {
      const ProcessStatus now = TRY(read_status(t->pid));
      TRY(check_runs(now));
    }
    const StopWatch watch;
    {
      std::optional<StoppedProcess> borrowed;
      if (held == nullptr) {
        borrowed.emplace(TRY(borrow_any(t->pid, deadline())));
      }
      TRY(bring_mappings(t, &maps, programs, new_rooms, held != nullptr ? *held : *borrowed));
    }
    t->stopped_ns = std::max(t->stopped_ns, watch.elapsed());
  }

  // All threads stopped: the change itself.
  const StopWatch watch;
  std::optional<StoppedProcess> stopped;
  if (held == nullptr) {
    stopped.emplace(TRY(StoppedProcess::stop(t->pid, deadline())));
  }
  StoppedProcess& all = held != nullptr ? *held : *stopped;
  std::map<uint64_t, std::pair<List, List>> lists;
  for (const auto& [address, plan] : plans) {
    TRY(all.write(plan.patch.trampoline, std::as_bytes(std::span(plan.trampoline))));
    TRY(journal_entry(t, plan.patch, all));
    if (plan.hole.site_bytes != 0) {
      TRY(journal_entry(t, plan.hole, all));
    }
  }
  for (const uint64_t address : changed) {
    const Wanted& w = wanted.at(address);
    lists[address] = {TRY(make_list(t, w.entry, w.internal, all)),
                      TRY(make_list(t, w.on_return, Internal::kNone, all))};
  }
  if (!t->armed) {
    const bool assumed = t->is_hashed;
    TRY(discover_threads(t, all));
    if (t->is_hashed != assumed) {
      // The trampolines lead to thunks that would look for threads where they are not.
      for (const auto& [address, site] : fresh) {
        t->retired.push_back({Retired::kSlot, raw(site.patch.trampoline), kSlotBytes});
        if (!t->sites.contains(address)) {
          t->free_sites.push_back(site.index);
        }
      }
      return make_error(kPlanAnew, "threads are known otherwise than was thought");
    }
  }
  if (t->libc_restorer != 0) {
    TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, libc_restorer)},
                        t->libc_restorer));
  }
  const auto site_at = [&](uint32_t index) { return t->table + index * sizeof(Site); };
  const auto restore = [&](const SiteHere& site) {
    for (const Patch* patch : {&site.patch, &site.hole}) {
      if (patch->site_bytes != 0 && !all.restore_patches({patch, 1})) {
        host->log("process " + std::to_string(t->pid) + ": the code at " + hex(raw(patch->site)) +
                  " is no longer as we left it; it stays as it is");
      }
    }
  };
  const auto retire = [&](const List& list) {
    if (list.at != 0) {
      t->retired.push_back({Retired::kHeap, list.at, list.bytes});
    }
  };
  const auto leave = [&](const SiteHere& site, uint64_t address) {
    for (const List* list : {&site.entry, &site.on_return}) {
      for (const WantedLink& link : list->links) {
        if (const auto places = t->places.find(raw(link.id)); places != t->places.end()) {
          places->second.erase(address);
          if (places->second.empty()) {
            t->places.erase(places);
          }
        }
      }
    }
  };
  for (const uint64_t address : gone) {
    const SiteHere& site = t->sites.at(address);
    restore(site);
    leave(site, address);
    const uint64_t null_pointers[2] = {0, 0};
    TRY(all.write(RemoteAddr{site_at(site.index)}, std::as_bytes(std::span(null_pointers))));
    retire(site.entry);
    retire(site.on_return);
    t->retired.push_back({Retired::kSlot, raw(site.patch.trampoline), kSlotBytes});
    t->free_sites.push_back(site.index);
    t->sites.erase(address);
  }
  for (const auto& [address, site] : fresh) {
    if (const auto old = t->sites.find(address); old != t->sites.end()) {
      restore(old->second);
      t->retired.push_back({Retired::kSlot, raw(old->second.patch.trampoline), kSlotBytes});
    }
  }
  for (const auto& [address, pair] : lists) {
    auto it = t->sites.find(address);
    if (it != t->sites.end()) {
      retire(it->second.entry);
      retire(it->second.on_return);
      leave(it->second, address);
    }
    if (const auto f = fresh.find(address); f != fresh.end()) {
      t->sites[address] = f->second;
    }
    SiteHere& site = t->sites.at(address);
    site.internal = wanted.at(address).internal;
    site.entry = pair.first;
    site.on_return = pair.second;
    for (const List* list : {&site.entry, &site.on_return}) {
      for (const WantedLink& link : list->links) {
        t->places[raw(link.id)].insert(address);
      }
    }
    const uint64_t record[3] = {site.entry.at, site.on_return.at, address};
    TRY(all.write(RemoteAddr{site_at(site.index)}, std::as_bytes(std::span(record))));
  }
  for (const auto& [address, site] : fresh) {
    // One at a time: a place whose code is not as in its file costs only itself.
    Result<void> written{};
    for (const Patch* patch : {&site.hole, &site.patch}) {
      if (patch->site_bytes != 0 && written) {
        const auto moved = all.move_ips({patch, 1});
        written = moved ? all.write_patches({patch, 1}) : Result<void>(moved.error());
      }
    }
    if (!written) {
      const Wanted& w = wanted.at(address);
      for (const auto* links : {&w.entry, &w.on_return}) {
        for (const WantedLink& link : *links) {
          t->why_not[raw(link.id)] = {written.error().code, written.error().why};
        }
      }
      SiteHere& failed = t->sites.at(address);
      leave(failed, address);
      retire(failed.entry);
      retire(failed.on_return);
      t->free_sites.push_back(failed.index);
      const uint64_t null_pointers[2] = {0, 0};
      TRY(all.write(RemoteAddr{site_at(failed.index)}, std::as_bytes(std::span(null_pointers))));
      t->sites.erase(address);
    }
  }
  t->generation++;
  TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, generation)}, t->generation));
  if (!t->armed) {
    TRY(all.write_value(RemoteAddr{t->arena + offsetof(AgentState, alive)}, t->alive));
    t->armed = true;
  }
  if (t->retired.size() > kRetiredAtOnce) {
    const auto inside = who_is_inside(all, t->arena, true);
    if (inside && *inside == nullptr) {
      for (const Retired& r : t->retired) {
        if (r.kind == Retired::kHeap) {
          t->heap.release(r.at, r.bytes);
          continue;
        }
        for (Room& room : t->rooms) {
          if (r.at >= room.base && r.at < room.base + kRoomBytes) {
            room.free.push_back(r.at);
          }
        }
      }
      t->retired.clear();
    }
  }
  stopped.reset();
  t->stopped_ns = std::max(t->stopped_ns, watch.elapsed());
  return {};
}

// ---- Letting go --------------------------------------------------------------------------------------------------------

Result<void> Targets::Impl::unregister(TargetProcess* t) {
  loop->remove(t->pidfd.get());
  loop->remove(t->channel.get());
  return {};
}

Result<void> Targets::Impl::detach(pid_t pid) {
  const auto it = targets.find(pid);
  if (it == targets.end()) {
    return make_error(ESRCH, "this process is not a target");
  }
  auto t = std::move(it->second);
  targets.erase(it);
  (void)unregister(t.get());
  const auto out = take_out(pid, deadline_in_ms(kTakeOutMs));
  if (!out) {
    watch_late();
    host->log("process " + std::to_string(pid) + ": not taken out: " + out.error().why);
  } else if (out->why_mapped != nullptr) {
    host->log("process " + std::to_string(pid) +
              ": code restored; the agent stays mapped, asleep: " + out->why_mapped);
    asleep.push_back(t->identity);
    wake_up_later();
  }
  host->target_gone(OwnerId{t->owner}, pid);
  // Children that forked and never hit a probe still have our bytes.
  for (const auto& child : processes_with_arena()) {
    if (!targets.contains(child.pid) && child.owner.alive_inode == alive_inode &&
        child.arena == t->arena && child.pid != pid) {
      (void)take_out(child.pid, deadline());
    }
  }
  if (!out) {
    return out.error();
  }
  return {};
}

void Targets::Impl::wake_up_later() {
  if (is_waking) {
    return;
  }
  is_waking = true;
  loop->after(500, [this] {
    is_waking = false;
    std::erase_if(asleep, [this](const ProcessIdentity& who) {
      const auto now = identify(who.pid);
      if (!now || *now != who || targets.contains(who.pid)) {
        return true;
      }
      const auto out = take_out(who.pid, deadline_in_ms(50));
      if (out && out->why_mapped == nullptr) {
        host->log("process " + std::to_string(who.pid) + ": the agent is unmapped now");
      }
      return !out || out->why_mapped == nullptr;
    });
    if (!asleep.empty()) {
      wake_up_later();
    }
  });
}

void Targets::Impl::forget(pid_t pid, const char* how) {
  const auto it = targets.find(pid);
  if (it == targets.end()) {
    return;
  }
  auto t = std::move(it->second);
  targets.erase(it);
  (void)unregister(t.get());
  host->log("process " + std::to_string(pid) + " " + how);
  host->target_gone(OwnerId{t->owner}, pid);
}

// ---- What targets say ------------------------------------------------------------------------------------------------

void Targets::Impl::channel_ready(pid_t pid, uint32_t events) {
  for (int packets = 0; packets < 256; packets++) {
    const auto it = targets.find(pid);
    if (it == targets.end()) {
      return;
    }
    TargetProcess* const t = it->second.get();
    auto heard = hear_agent(t->channel.get());
    if (!heard) {
      if (heard.error().code == EAGAIN && (events & (EPOLLRDHUP | EPOLLHUP)) == 0) {
        return;
      }
      break;
    }
    if (!heard->message) {
      continue;
    }
    const AgentMessage& message = *heard->message;
    switch (message.says) {
      case AgentSays::kPrintk:
        host->target_said_printk(heard->sender, message);
        break;
      case AgentSays::kDisarmed:
        if (t->counts.contains(static_cast<uint32_t>(message.value))) {
          host->link_disarmed(LinkId{static_cast<uint32_t>(message.value)}, pid,
                              static_cast<HitEnd>(message.code));
        }
        break;
      case AgentSays::kLibraries: {
        const auto synced = sync(t);
        if (!synced) {
          host->log("process " + std::to_string(pid) +
                    ": new libraries not probed: " + synced.error().why);
        }
        const uint64_t word = message.value;
        (void)::send(t->channel.get(), &word, sizeof(word), MSG_NOSIGNAL | MSG_DONTWAIT);
        if ((events & (EPOLLRDHUP | EPOLLHUP)) == 0) {
          return;  // one look a turn: a target that asks without end does not keep others waiting
        }
        break;
      }
      case AgentSays::kForked:
        if (heard->fds.size() == 1) {
          child_forked(t, message, heard->sender, std::move(heard->fds[0]));
        }
        break;
      default:
        break;
    }
  }
  if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) {
    // The agent's end is closed: the process ended (its pidfd says so), exec'ed, or closed our fd.
    const auto it = targets.find(pid);
    if (it == targets.end()) {
      return;
    }
    if (!find_arena(pid)) {
      const auto status = read_status(pid);
      forget(pid, status && !status->is_zombie() ? "runs another program now" : "ended");
      return;
    }
    // It closed our descriptor, but the agent is there.
    TargetProcess* const t = it->second.get();
    loop->remove(t->channel.get());
    const auto renewed = t->channels_lost++ < kMaxChannelsLost
                             ? renew_channel(t)
                             : Result<void>(make_error(EPIPE, "it closes the agent's channel"));
    if (!renewed) {
      host->log("process " + std::to_string(pid) +
                ": no programs can be added any more: " + renewed.error().why);
    }
  }
}

Result<void> Targets::Impl::renew_channel(TargetProcess* t) {
  StoppedProcess process = TRY(borrow_any(t->pid, deadline()));
  RemoteThread thread = TRY(RemoteThread::begin(process, 0, deadline()));
  RemoteChannel channel = TRY(remote_channel(thread));
  TRY(thread.finish());
  TRY(process.write_value(RemoteAddr{t->arena + offsetof(AgentState, channel)},
                          static_cast<int32_t>(channel.remote_fd)));
  TRY(process.write_value(RemoteAddr{t->arena + offsetof(AgentState, channel_inode)},
                          uint64_t{channel.remote_inode}));
  t->channel = std::move(channel.ours);
  t->remote_channel_fd = channel.remote_fd;
  t->remote_channel_inode = channel.remote_inode;
  return listen_to(t);
}

Result<void> Targets::Impl::listen_to(TargetProcess* t) {
  const int on = 1;
  (void)::setsockopt(t->channel.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
  return loop->add(t->channel.get(), EPOLLIN | EPOLLRDHUP,
                   [this, pid = t->pid](uint32_t events) { channel_ready(pid, events); });
}

// A child's first hit. It waits for us: on return it is a target of its own, or its code is restored.
void Targets::Impl::child_forked(TargetProcess* parent, const AgentMessage& message, pid_t child,
                                 UniqueFd fd) {
  const uint64_t word = message.value;
  const auto answer = [&](int channel) {
    (void)::send(channel, &word, sizeof(word), MSG_NOSIGNAL | MSG_DONTWAIT);
  };
  if (child <= 0 || targets.contains(child) ||
      find_arena(child) != std::optional<uint64_t>(parent->arena)) {
    return;
  }
  const auto generation_in_child = [&]() -> uint64_t {
    uint64_t value = 0;
    (void)read_memory(child, RemoteAddr{parent->arena + offsetof(AgentState, generation)},
                      std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }();
  auto t = std::make_unique<TargetProcess>();
  auto identity = identify(child);
  auto pidfd = open_pidfd(child);
  if (!identity || !pidfd || generation_in_child != parent->generation) {
    // Forked before the last change: its code is restored, as far as it has our bytes.
    auto process = StoppedProcess::stop(child, deadline());
    if (process) {
      (void)restore_code(*process, parent->arena);
    }
    answer(fd.get());
    return;
  }
  t->pid = child;
  t->identity = *identity;
  t->pidfd = std::move(*pidfd);
  t->channel = std::move(fd);
  t->owner = next_owner++;
  t->exe = parent->exe;
  t->image = parent->image;
  t->unwinder_knows_image = parent->unwinder_knows_image;
  t->arena = parent->arena;
  t->table = parent->table;
  t->is_hashed = parent->is_hashed;
  t->alive = parent->alive;
  t->remote_channel_fd = parent->remote_channel_fd;
  t->heap = parent->heap;
  t->next_site = parent->next_site;
  t->free_sites = parent->free_sites;
  t->sites = parent->sites;
  t->rooms = parent->rooms;
  t->programs = parent->programs;
  t->maps = parent->maps;
  t->retired = parent->retired;
  t->mappings = parent->mappings;
  t->journal_count = parent->journal_count;
  t->code_range_count = parent->code_range_count;
  t->generation = parent->generation;
  t->journal = parent->journal;
  t->armed = parent->armed;
  t->owns_signals = parent->owns_signals;
  t->has_fsgsbase = parent->has_fsgsbase;
  t->libc_restorer = parent->libc_restorer;
  // Its table is empty: every list is made anew, with counts of its own.
  t->places = parent->places;
  for (auto& [address, site] : t->sites) {
    site.entry = List{};
    site.on_return = List{};
    site.entry.links.push_back(WantedLink{LinkId{~0U}, ProgId{}, 0, 0, 0, false, 0, 0});
  }
  const int channel = t->channel.get();
  TargetProcess* const raw_target = t.get();
  const auto status = read_status(child);
  if (status) {
    t->status = *status;
  }
  {
    auto process = StoppedProcess::stop(child, deadline());
    if (process) {
      const auto put = [&](size_t offset, uint32_t value) {
        (void)process->write_value(RemoteAddr{t->arena + offset}, value);
      };
      const uint32_t tgid = status ? static_cast<uint32_t>(status->inner_tgid) : 0;
      put(offsetof(AgentState, tgid), tgid);
      put(offsetof(AgentState, owner), t->owner);
      put(offsetof(AgentState, process) + offsetof(ProcessInfo, owner), t->owner);
      put(offsetof(AgentState, process) + offsetof(ProcessInfo, tgid), tgid);
      (void)process->write_value(RemoteAddr{t->table}, kTableGuard);
    }
  }
  host->log("process " + std::to_string(child) + " forked from target " +
            std::to_string(parent->pid));
  const bool any_here = [&] {
    for (const WantedLink& link : host->wanted_links()) {
      if (link.pid <= 0 || link.pid == child) {
        return true;
      }
    }
    return false;
  }();
  const auto adopted = adopt(std::move(t), nullptr);
  answer(channel);
  if (!adopted || !any_here) {
    // Nothing of what is traced concerns it: once it is out of this hit, it is let go.
    if (raw_target != nullptr) {
      loop->after(20, [this, child] { (void)detach(child); });
    }
  }
}

// ---- start -------------------------------------------------------------------------------------------------------------

Result<void> Targets::Impl::attach_at_exec(pid_t pid) {
  if (agent_error.code != 0) {
    return agent_error;
  }
  if (!child_signals) {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    ::pthread_sigmask(SIG_BLOCK, &child, nullptr);
    child_signals.reset(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
    TRY(loop->add(child_signals.get(), EPOLLIN, [this](uint32_t) {
      signalfd_siginfo info{};
      while (::read(child_signals.get(), &info, sizeof(info)) == sizeof(info)) {
      }
      std::vector<pid_t> pids;
      for (const auto& [started, _] : starting) {
        pids.push_back(started);
      }
      for (const pid_t started : pids) {
        step_starting(started);
      }
    }));
  }
  auto held = TRY(HeldProcess::seize(pid, deadline()));
  const bool is_first = starting.empty();
  starting.insert_or_assign(pid, Starting{std::move(held), deadline_in_ms(kStartMs)});
  if (is_first) {
    look_at_starting();
  }
  return {};
}

// SIGCHLD may have been consumed by work on another target.
void Targets::Impl::look_at_starting() {
  loop->after(kLookAtStartingMs, [this] {
    std::vector<pid_t> pids;
    for (const auto& [pid, _] : starting) {
      pids.push_back(pid);
    }
    for (const pid_t pid : pids) {
      step_starting(pid);
    }
    if (!starting.empty()) {
      look_at_starting();
    }
  });
}

void Targets::Impl::step_starting(pid_t pid) {
  const auto it = starting.find(pid);
  if (it == starting.end()) {
    return;
  }
  const auto state = it->second.held.step();
  if (!state || *state == HeldState::kGone || *state == HeldState::kNotFollowed ||
      monotonic_ns() > it->second.give_up_ns) {
    host->log("process " + std::to_string(pid) + " was not followed into its program" +
              (state ? "" : std::string(": ") + state.error().why));
    starting.erase(it);
    return;
  }
  if (*state != HeldState::kAtEntry) {
    return;
  }
  const auto attached = [&]() -> Result<void> {
    auto t = TRY(new_record(pid));
    StoppedProcess process = TRY(it->second.held.take(deadline()));
    t->image =
        TRY(bring_agent(process, {agent.bytes, agent_fd.get()}, AgentWish::kAny, true, deadline()));
    TRY(set_up(t.get(), process));
    return adopt(std::move(t), &process);
  }();
  starting.erase(pid);
  if (!attached) {
    watch_late();
    host->log("process " + std::to_string(pid) + ": agent not brought in: " + attached.error().why);
  }
}

// ---- Targets -----------------------------------------------------------------------------------------------------------

Targets::Targets(EventLoop* loop, TargetHost* host, Config config)
    : impl_(std::make_unique<Impl>(loop, host, std::move(config))) {}
Targets::~Targets() { detach_all(); }

Result<void> Targets::attach(pid_t pid) {
  auto attached = impl_->attach(pid);
  if (!attached) {
    impl_->watch_late();
  }
  return attached;
}

Result<void> Targets::attach_at_exec(pid_t pid) { return impl_->attach_at_exec(pid); }

Result<void> Targets::detach(pid_t pid) { return impl_->detach(pid); }

void Targets::detach_all() {
  while (!impl_->targets.empty()) {
    (void)impl_->detach(impl_->targets.begin()->first);
  }
  // Whoever is left asleep now stays so until another broker comes: one more try for each.
  for (const ProcessIdentity& who : std::exchange(impl_->asleep, {})) {
    const auto now = identify(who.pid);
    if (now && *now == who) {
      const auto out = take_out(who.pid, deadline_in_ms(kTakeOutMs));
      if (!out || out->why_mapped != nullptr) {
        impl_->asleep.push_back(who);
      }
    }
  }
}

Result<void> Targets::sync(const LinkId* concerning) {
  std::vector<pid_t> pids;
  for (const auto& [pid, _] : impl_->targets) {
    pids.push_back(pid);
  }
  std::optional<Error> error;
  pid_t named = -1;
  if (concerning != nullptr) {
    if (const auto link = impl_->host->wanted_link(*concerning)) {
      named = link->pid;
    }
  }
  for (const pid_t pid : pids) {
    const auto it = impl_->targets.find(pid);
    if (it == impl_->targets.end()) {
      continue;
    }
    TargetProcess* const t = it->second.get();
    const auto synced = impl_->sync(t, nullptr, concerning);
    if (!synced && synced.error().code != ESRCH) {
      impl_->host->log("process " + std::to_string(pid) + ": " + synced.error().why);
    }
    if (concerning != nullptr && !error && pid == named) {
      if (!synced) {
        error = synced.error();
      } else if (const auto why = t->why_not.find(raw(*concerning));
                 why != t->why_not.end() && why->second.code != 0) {
        error = make_error(why->second.code, why->second.why);
      }
    }
  }
  if (error) {
    return *error;
  }
  return {};
}

bool Targets::has(pid_t pid) const { return impl_->targets.contains(pid); }
size_t Targets::count() const { return impl_->targets.size() + impl_->starting.size(); }

namespace {

// Private memory of the process in mappings that overlap any of `ranges`, by /proc/PID/smaps.
uint64_t private_kb(pid_t pid, std::vector<MappedRange> ranges) {
  // Sorted, and merged where they touch, so that each line costs one search whatever the target made us believe.
  std::sort(ranges.begin(), ranges.end(),
            [](const MappedRange& a, const MappedRange& b) { return a.begin < b.begin; });
  std::vector<MappedRange> merged;
  for (const MappedRange& range : ranges) {
    if (range.bytes == 0 || range.begin + range.bytes < range.begin) {
      continue;
    }
    if (!merged.empty() && range.begin <= merged.back().begin + merged.back().bytes) {
      const uint64_t end =
          std::max(merged.back().begin + merged.back().bytes, range.begin + range.bytes);
      merged.back().bytes = end - merged.back().begin;
    } else {
      merged.push_back(range);
    }
  }
  const auto text = read_text_file(("/proc/" + std::to_string(pid) + "/smaps").c_str());
  if (!text) {
    return 0;
  }
  uint64_t sum = 0;
  bool ours = false;
  size_t at = 0;
  while (at < text->size()) {
    size_t end = text->find('\n', at);
    end = end == std::string::npos ? text->size() : end;
    const std::string line = text->substr(at, end - at);
    at = end + 1;
    unsigned long long first = 0, last = 0, kb = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &first, &last) == 2) {
      const auto after = std::partition_point(merged.begin(), merged.end(),
                                              [&](const MappedRange& m) { return m.begin < last; });
      ours = after != merged.begin() && first < std::prev(after)->begin + std::prev(after)->bytes;
    } else if (ours && (std::sscanf(line.c_str(), "Private_Clean: %llu", &kb) == 1 ||
                        std::sscanf(line.c_str(), "Private_Dirty: %llu", &kb) == 1)) {
      sum += kb;
    }
  }
  return sum;
}

}  // namespace

std::vector<TargetStatus> Targets::status() {
  std::vector<TargetStatus> all;
  for (const auto& [pid, t] : impl_->targets) {
    TargetStatus s{};
    s.pid = pid;
    s.owner = t->owner;
    s.exe = t->exe;
    s.way = t->image.way == AgentWay::kDlopen ? "dlopen" : "mapped";
    s.sites = static_cast<uint32_t>(t->sites.size());
    for (const WantedLink& link : impl_->host->wanted_links()) {
      if (link.pid > 0 && link.pid != pid) {
        continue;
      }
      TargetStatus::LinkState state{};
      state.link = raw(link.id);
      const auto why = t->why_not.find(state.link);
      state.placed = why == t->why_not.end();
      state.why_not = state.placed ? "" : why->second.why;
      if (const auto at = t->counts.find(state.link); at != t->counts.end()) {
        uint64_t words[sizeof(HitCounts) / 8] = {};
        if (read_memory(pid, RemoteAddr{at->second}, std::as_writable_bytes(std::span(words)))) {
          state.run = words[0];
          state.missed = words[1];
          state.faulted = words[2];
          state.out_of_fuel = words[3];
        }
      }
      s.links.push_back(state);
    }
    uint64_t block = 0;
    (void)read_memory(pid, RemoteAddr{t->arena + offsetof(AgentState, blocks)},
                      std::as_writable_bytes(std::span(&block, 1)));
    std::vector<MappedRange> ranges = t->mappings;
    std::erase_if(ranges, [&t = t](const MappedRange& r) {
      return std::any_of(t->maps.begin(), t->maps.end(),
                         [&](const auto& m) { return m.second.base == r.begin; });
    });
    ranges.push_back({raw(t->image.base), t->image.bytes});
    ranges.push_back({t->arena, kArenaBytes});
    const uint64_t first_block = block;
    for (int i = 0; block != 0 && i < 65536 && (i == 0 || block != first_block); i++) {
      alignas(ThreadBlock) std::byte bytes[sizeof(ThreadBlock)];
      if (!read_memory(pid, RemoteAddr{block}, bytes)) {
        break;
      }
      const auto* head = reinterpret_cast<const ThreadBlock*>(bytes);
      ranges.push_back({block, head->block_bytes});
      s.missed += head->missed;
      block = reinterpret_cast<uint64_t>(head->next_block);
    }
    s.stopped_us = t->stopped_ns / 1000;
    s.private_kb = private_kb(pid, ranges);
    all.push_back(std::move(s));
  }
  return all;
}

uint32_t Targets::recover_orphans() {
  uint32_t recovered = 0;
  for (const auto& orphan : processes_with_arena()) {
    if (!orphan.owner.is_alive && take_out(orphan.pid, Impl::deadline())) {
      impl_->host->log("process " + std::to_string(orphan.pid) +
                       ": code restored after an earlier broker");
      recovered++;
    }
  }
  return recovered;
}

}  // namespace bpftime
