#include "broker/takeout.hpp"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "broker/arena.hpp"
#include "broker/arena_reader.hpp"
#include "broker/inside.hpp"
#include "inject/bring_agent.hpp"
#include "inject/remote_call.hpp"
#include "inject/remote_memory.hpp"

namespace bpftime {
namespace {

// Takes the lists from all sites. A table that cannot be read is its target's own doing.
void empty_sites(StoppedProcess& process, const AgentState& state) {
  using Words = std::array<uint64_t, sizeof(Site) / sizeof(uint64_t)>;  // on_entry, on_return, ...
  auto sites = read_array<Words>(process, address(state.table), state.site_count, kMaxSites);
  if (!sites || sites->size() < 2) {
    return;
  }
  for (size_t i = 1; i < sites->size(); i++) {  // 0 is the table's guard
    (*sites)[i][0] = (*sites)[i][1] = 0;
  }
  (void)process.write(RemoteAddr{address(state.table + 1)},
                      std::as_bytes(std::span(*sites).subspan(1)));
}

}  // namespace

Result<StoppedProcess> borrow_any(pid_t pid, uint64_t deadline_ns) {
  Error error = make_error(ESRCH, "no thread of the process can be held");
  const std::vector<pid_t> threads = TRY(read_threads(pid));
  for (const pid_t tid : threads) {
    auto process = StoppedProcess::borrow(pid, tid, deadline_ns);
    if (process) {
      return std::move(*process);
    }
    error = process.error();
    if (error.code != ESRCH) {
      break;
    }
  }
  return error;
}

std::optional<uint64_t> find_arena(pid_t pid) {
  const auto maps = read_maps(pid);
  if (!maps) {
    return std::nullopt;
  }
  for (const Mapping& m : mappings_of_memfd(*maps, kArenaName)) {
    if (m.offset == 0) {
      return m.begin;
    }
  }
  return std::nullopt;
}

Result<uint32_t> restore_code(StoppedProcess& process, uint64_t arena) {
  auto state = std::make_unique<AgentState>();
  TRY(read_state(process, arena, state.get()));
  const auto journal = TRY(read_array<JournalEntry>(process, arena + kJournalOffset,
                                                    state->journal_count.load(), kMaxJournal));
  uint32_t restored = 0;
  for (auto it = journal.rbegin(); it != journal.rend(); ++it) {
    if (it->bytes == 0 || it->bytes > sizeof(it->after)) {
      continue;
    }
    const auto bytes = [&](const uint8_t* p) {
      return std::as_bytes(std::span<const uint8_t>(p, it->bytes));
    };
    if (process.write_code(RemoteAddr{it->address}, bytes(it->after), bytes(it->before))) {
      restored++;
    }  // else: restored before, or that code is not mapped any more
  }
  return restored;
}

namespace {

// Not what others raised: one step each.
Result<void> lower_semaphores(StoppedProcess& process, uint64_t arena, const AgentState& state) {
  const auto raised = TRY(read_array<uint64_t>(process, arena + kSemaphoresOffset,
                                               state.semaphore_count.load(), kMaxSemaphores));
  for (const uint64_t at : raised) {
    const auto value =
        at == 0 ? Result<uint16_t>(uint16_t{0}) : process.read_value<uint16_t>(RemoteAddr{at});
    if (value && *value != 0) {
      (void)process.write_value(RemoteAddr{at}, static_cast<uint16_t>(*value - 1));
    }
  }
  return process.write_value(RemoteAddr{arena + offsetof(AgentState, semaphore_count)},
                             uint64_t{0});
}

}  // namespace

namespace {

AgentImage image_of(const AgentState& state) {
  return AgentImage{RemoteAddr{state.agent_base}, state.agent_bytes,
                    static_cast<AgentWay>(state.image_way), state.image_handle, 0};
}

}  // namespace

Result<void> give_signals_back(StoppedProcess& process, uint64_t arena, uint64_t deadline_ns) {
  auto read = std::make_unique<AgentState>();
  TRY(read_state(process, arena, read.get()));
  const AgentState& state = *read;
  if (state.signals_owned == 0) {
    return {};
  }
  RemoteThread thread = TRY(RemoteThread::begin(process, 0, deadline_ns));
  for (int signal = 1; signal <= 31; signal++) {
    if ((state.signals_owned >> signal & 1) != 0) {
      const auto now = TRY(remote_sigaction(thread, signal, nullptr));
      if (now.handler >= state.agent_base && now.handler < state.agent_base + state.agent_bytes) {
        const KernelSigaction old{state.old_actions[signal][0], state.old_actions[signal][1],
                                  state.old_actions[signal][2], state.old_actions[signal][3]};
        TRY(remote_sigaction(thread, signal, &old));
      }
    }
  }
  TRY(thread.finish());
  return process.write_value(RemoteAddr{arena + offsetof(AgentState, signals_owned)}, 0U);
}

namespace {

// Nothing in the process points into the agent any more. All threads are stopped and none is inside.
Result<void> let_go_of_agent(StoppedProcess& process, uint64_t arena, const AgentState& state,
                             uint64_t deadline_ns) {
  if (state.gs_was_set != 0) {
    for (const pid_t tid : process.threads()) {
      Registers regs = TRY(process.registers(tid));
      if (regs.gs_base != 0) {
        regs.gs_base = 0;
        TRY(process.set_registers(tid, regs));
      }
    }
  }
  return give_signals_back(process, arena, deadline_ns);
}

}  // namespace

std::vector<MappedRange> mappings_not_on_record(pid_t pid, uint64_t arena) {
  std::vector<MappedRange> found;
  uint64_t count = 0;
  const auto maps = read_maps(pid);
  if (!maps || !read_memory(pid, RemoteAddr{arena + kIntentsOffset},
                            std::as_writable_bytes(std::span(&count, 1)))) {
    return found;
  }
  std::vector<MappedRange> intents(std::min(count, kMaxIntents));
  if (intents.empty() || !read_memory(pid, RemoteAddr{arena + kIntentsOffset + sizeof(MappedRange)},
                                      bytes_of(&intents))) {
    return found;
  }
  for (const MappedRange& range : intents) {
    const Mapping* const m = mapping_at(*maps, range.begin);
    // Anonymous memory that has grown together with a neighbour's is not told apart any more, and stays.
    if (m != nullptr && m->begin == range.begin && m->end - m->begin == range.bytes &&
        (m->path.empty() || m->path.starts_with("/memfd:bpftime-"))) {
      found.push_back(range);
    }
  }
  return found;
}

namespace {

// Channel, blocks, mappings and in the end the arena itself. One thread is held.
Result<void> unmap_rest(StoppedProcess& process, uint64_t arena, uint64_t deadline_ns) {
  auto state = std::make_unique<AgentState>();
  TRY(read_state(process, arena, state.get()));
  const auto ranges = TRY(read_array<MappedRange>(process, arena + kMappingsOffset,
                                                  state->mapping_count.load(), kMaxMappings));
  const auto blocks = TRY(thread_blocks(process, *state));
  RemoteThread thread = TRY(RemoteThread::begin(process, 0, deadline_ns));
  RemoteCalls calls;
  if (state->channel >= 0) {
    struct stat st{};
    const std::string path =
        "/proc/" + std::to_string(process.pid()) + "/fd/" + std::to_string(state->channel);
    if (::stat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode) &&
        st.st_ino == state->channel_inode) {
      calls.add(SYS_close, {static_cast<uint64_t>(state->channel)});
    }
  }
  // Neighbours go at once: the blocks of a thousand threads mostly lie side by side.
  std::vector<std::pair<uint64_t, uint64_t>> all;  // [begin, end)
  for (const BlockHead& b : blocks) {
    all.emplace_back(b.at, b.at + b.block_bytes);
  }
  for (const MappedRange& r : ranges) {
    all.emplace_back(r.begin, r.begin + r.bytes);
  }
  for (const MappedRange& r : mappings_not_on_record(process.pid(), arena)) {
    all.emplace_back(r.begin, r.begin + r.bytes);
  }
  std::sort(all.begin(), all.end());
  for (size_t i = 0; i < all.size();) {
    const uint64_t begin = all[i].first;
    uint64_t end = all[i].second;
    for (i++; i < all.size() && all[i].first == end; i++) {
      end = all[i].second;
    }
    if (begin < end) {
      calls.add(SYS_munmap, {begin, end - begin});
    }
  }
  calls.add(SYS_munmap, {arena, kArenaBytes});
  TRY(thread.run(calls));
  return thread.finish();
}

// Hits pass through from here on, also in a thread that is about to enter a trampoline, or will return through us: no
// site has programs, and no child asks for a broker.
Result<void> switch_off(StoppedProcess& process, uint64_t arena, const AgentState& state) {
  TRY(process.write_value(RemoteAddr{arena + offsetof(AgentState, alive)}, uint64_t{0}));
  TRY(restore_code(process, arena));
  empty_sites(process, state);
  return lower_semaphores(process, arena, state);
}

// The loader is called by one waiting thread while the others run: one of them may hold its lock. None can come in any
// more, so nothing is stopped again until one waits. Null when the image is gone.
Result<const char*> unload(pid_t pid, uint64_t arena, const AgentState& state,
                           uint64_t deadline_ns) {
  while (state.agent_bytes != 0) {
    const auto unloaded = unload_agent(pid, image_of(state), deadline_ns);
    if (unloaded) {
      // On record at once: it must not be unloaded twice.
      TRY(write_memory(pid, RemoteAddr{arena + offsetof(AgentState, agent_bytes)}, uint64_t{0}));
      break;
    }
    if (unloaded.error().code == ESRCH) {
      return unloaded.error();
    }
    if (monotonic_ns() > deadline_ns) {
      return "no thread waits where the loader may be called";
    }
  }
  return nullptr;
}

// One look: who is inside. When nobody is, nothing in the process leads to the agent any more.
Result<std::vector<ThreadInside>> let_go_if_outside(pid_t pid, uint64_t arena, AgentState* state,
                                                    bool* is_off, uint64_t deadline_ns) {
  StoppedProcess process = TRY(StoppedProcess::stop(pid, deadline_ns));
  TRY(read_state(process, arena, state));
  if (!*is_off) {
    TRY(switch_off(process, arena, *state));
    *is_off = true;
  }
  auto inside = TRY(threads_inside(process, arena, false));
  if (inside.empty()) {
    TRY(let_go_of_agent(process, arena, *state, deadline_ns));
  }
  return inside;
}

using Calls = std::set<std::pair<pid_t, uint64_t>>;  // thread, ReturnEntry::sequence

Calls waiting_calls(const std::vector<ThreadInside>& inside) {
  Calls calls;
  for (const ThreadInside& i : inside) {
    if (i.waits_in) {
      calls.emplace(i.tid, *i.waits_in);
    }
  }
  return calls;
}

}  // namespace

Result<TakenOut> take_out(pid_t pid, uint64_t deadline_ns, int least_looks, Patience patience) {
  const auto arena = find_arena(pid);
  if (!arena) {
    return make_error(ENOENT, "this process has no agent");
  }
  // A thread that is inside needs a CPU to get out, which each look takes from all of them: where many threads share few
  // CPUs, one of them runs only when the interval is long enough for all. And so do we: some looks there must be.
  constexpr int kLongestPauseMs = 256;
  auto state = std::make_unique<AgentState>();
  bool is_off = false;
  Calls since_first_look;  // that have waited
  for (int looks = 1, pause_ms = 1;; looks++, pause_ms = std::min(2 * pause_ms, kLongestPauseMs)) {
    const auto inside = TRY(let_go_if_outside(pid, *arena, state.get(), &is_off, deadline_ns));
    if (inside.empty()) {
      break;
    }
    const Calls waiting = waiting_calls(inside);
    if (looks == 1) {
      since_first_look = waiting;
    }
    std::erase_if(since_first_look, [&](const auto& call) { return !waiting.contains(call); });
    const bool is_hopeless = patience == Patience::kNotForWaitingCalls && !since_first_look.empty();
    if ((monotonic_ns() > deadline_ns || is_hopeless) && looks >= least_looks) {
      return TakenOut{inside.front().why};
    }
    ::poll(nullptr, 0, pause_ms);
  }
  if (const char* const why = TRY(unload(pid, *arena, *state, deadline_ns))) {
    return TakenOut{why};
  }
  StoppedProcess process = TRY(borrow_any(pid, deadline_ns));
  TRY(unmap_rest(process, *arena, deadline_ns));
  return TakenOut{nullptr};
}

Result<ArenaOwner> owner_of_arena(pid_t pid, uint64_t arena) {
  struct {
    uint32_t magic, version;
  } head{};
  uint32_t expected = 0, word = 0;
  const auto read_at = [&](uint64_t at, auto* to) {
    return read_memory(pid, RemoteAddr{at}, std::as_writable_bytes(std::span(to, 1)));
  };
  TRY(read_at(arena, &head));
  if (head.magic != kAgentMagic || head.version != kAgentVersion) {
    return make_error(EPROTO, "the arena is of another version");
  }
  TRY(read_at(arena + offsetof(AgentState, alive_expected), &expected));
  const std::vector<Mapping> maps = TRY(read_maps(pid));
  const std::vector<Mapping> pages = mappings_of_memfd(maps, kAliveName);
  if (pages.empty()) {
    return ArenaOwner{0, false};
  }
  TRY(read_at(pages[0].begin, &word));
  return ArenaOwner{pages[0].inode, word == expected && expected != 0};
}

std::vector<ProcessWithArena> processes_with_arena() {
  std::vector<ProcessWithArena> found;
  DIR* const dir = ::opendir("/proc");
  if (dir == nullptr) {
    return found;
  }
  while (const dirent* entry = ::readdir(dir)) {  // NOLINT(concurrency-mt-unsafe): own DIR
    const pid_t pid = std::atoi(entry->d_name);
    if (pid <= 0 || pid == ::getpid()) {
      continue;
    }
    if (const auto arena = find_arena(pid)) {
      if (const auto owner = owner_of_arena(pid, *arena)) {
        found.push_back({pid, *arena, *owner});
      }
    }
  }
  ::closedir(dir);
  return found;
}

}  // namespace bpftime
