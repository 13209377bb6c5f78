// Bringing the agent in: what is known of a process, its agent, arena, table and channel.
#include "broker/targets_impl.hpp"

#include <elf.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "broker/cgroup.hpp"
#include "broker/takeout.hpp"
#include "inject/remote_memory.hpp"

namespace bpftime {

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

namespace {
constexpr uint64_t kHwcap2Fsgsbase = 2;  // AT_HWCAP2 bit, asm/hwcap2.h

}  // namespace

// What is known of a process before anything in it is touched.
Result<std::unique_ptr<TargetProcess>> Targets::Impl::new_record(pid_t pid) {
  auto t = std::make_unique<TargetProcess>();
  t->pid = pid;
  t->identity = TRY(identify(pid));
  // The memory of such a process is that of its other threads, and /proc/PID shows none.
  if (const auto status = read_status(pid);
      status && status->is_zombie() && status->thread_count > 1) {
    return make_error(EOPNOTSUPP, "its main thread has ended before the others");
  }
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
  if (auto t = woken(pid)) {
    return begin_with(std::move(t));
  }
  auto t = TRY(new_record(pid));
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
  {
    AgentEntrance way =
        TRY(open_entrance(pid, {agent.bytes, agent_fd.get()}, AgentWish::kAny, deadline()));
    RemoteThread thread = TRY(RemoteThread::begin(*way.process, way.tid, deadline()));
    const auto brought = [&]() -> Result<void> {
      t->image = TRY(bring_agent(thread, way));
      return set_up(t.get(), thread);
    }();
    const auto finished = thread.finish();
    way.process->release();
    if (!brought) {
      clear_unfinished(pid);
      return brought.error();
    }
    TRY(finished);
    t->stopped_ns = monotonic_ns() - way.stopped_since_ns;
  }
  return begin_with(std::move(t));
}

Result<void> Targets::Impl::begin_with(std::unique_ptr<TargetProcess> t) {
  const pid_t pid = t->pid;
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
      const auto others = mappings_not_on_record(pid, m.begin);
      ranges.insert(ranges.end(), others.begin(), others.end());
      ranges.push_back({m.begin, m.end - m.begin});
    } else {
      has_arena = true;
    }
  }
  for (const auto& [at, bytes] : RemoteThread::left_behind(pid)) {
    ranges.push_back({raw(at), bytes});
  }
  if (has_arena && ranges.empty()) {
    return;
  }
  if (!has_arena) {
    for (const char* name : {kAliveName, kLanesName}) {
      for (const Mapping& m : mappings_of_memfd(*maps, name)) {
        ranges.push_back({m.begin, m.end - m.begin});
      }
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
  std::sort(ranges.begin(), ranges.end(),
            [](const MappedRange& a, const MappedRange& b) { return a.begin < b.begin; });
  ranges.erase(std::unique(ranges.begin(), ranges.end(),
                           [](const auto& a, const auto& b) { return a.begin == b.begin; }),
               ranges.end());
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
  auto read = read_maps(t->pid);
  if (!read && read.error().code == EACCES) {
    return why_not_permitted(t->pid);
  }
  const std::vector<Mapping> maps = TRY(std::move(read));
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
Result<void> Targets::Impl::set_up(TargetProcess* t, RemoteThread& thread) {
  StoppedProcess& process = thread.process();
  t->unwinder_knows_image = t->image.way == AgentWay::kDlopen;
  RemoteChannel channel = TRY(remote_channel(thread));
  // The thread's scratch memory is among the mappings by now.
  std::vector<Mapping> maps = TRY(read_maps(t->pid));
  const uint64_t near = raw(t->image.base);
  t->arena = TRY(reserve(&maps, near, kArenaBytes));
  t->alive = TRY(reserve(&maps, near, 4096));
  t->table = TRY(reserve(&maps, near, kTableBytes));
  const uint64_t lanes = TRY(reserve(&maps, near, config.lanes->bytes()));
  const std::array<RemoteMapping, 4> mappings = {{
      {RemoteAddr{t->arena}, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
       arena_file.get()},
      {RemoteAddr{t->alive}, 4096, PROT_READ, MAP_SHARED, config.alive_fd},
      {RemoteAddr{lanes}, config.lanes->bytes(), PROT_READ | PROT_WRITE, MAP_SHARED,
       config.lanes->fd()},
      {RemoteAddr{t->table}, kTableBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, -1,
       MADV_WIPEONFORK},
  }};
  // Every arena is a private copy of this file; where ours has not been written yet it shows what is about to be mapped.
  const std::array<MappedRange, 4> intents = {{{mappings.size() - 1, 0},
                                               {t->alive, 4096},
                                               {lanes, config.lanes->bytes()},
                                               {t->table, kTableBytes}}};
  const uint64_t none = 0;
  (void)!::pwrite(arena_file.get(), intents.data(), sizeof(intents), kIntentsOffset);
  const auto mapped = remote_map(thread, channel, mappings);
  if (mapped) {  // its own copy from now on
    TRY(process.write(RemoteAddr{t->arena + kIntentsOffset}, std::as_bytes(std::span(intents))));
  }
  (void)!::pwrite(arena_file.get(), &none, sizeof(none), kIntentsOffset);
  if (!mapped) {
    (void)remote_close(thread, channel.remote_fd);
    return mapped;
  }
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
  state->process.cgroup_id = cgroup_id_of(t->pid);
  state->process.lanes = reinterpret_cast<LaneWord*>(lanes);
  state->process.lane_count = config.lanes->count();
  state->process.cpu_lanes = config.lanes->cpus();
  state->process.vdso_clock_gettime = reinterpret_cast<int (*)(int, void*)>(t->vdso_clock_gettime);
  if (t->rseq_offset) {
    state->process.rseq_offset = state->rseq_offset = *t->rseq_offset;
    state->process.rseq_offset_valid = state->rseq_offset_valid = 1;
  }
  TRY(process.write(RemoteAddr{t->arena},
                    {reinterpret_cast<const std::byte*>(state.get()), sizeof(AgentState)}));
  TRY(process.write_value(RemoteAddr{t->table}, kTableGuard));
  TRY(note_mappings(
      t,
      std::array<MappedRange, 3>{
          {{t->alive, 4096}, {t->table, kTableBytes}, {lanes, config.lanes->bytes()}}},
      process));
  TRY(note_intents(t, {}, process));
  TRY(process.write_value(RemoteAddr{raw(t->image.base) + agent.state}, t->arena));
  return {};
}

Result<void> Targets::Impl::adopt(std::unique_ptr<TargetProcess> owned, Held* held) {
  TargetProcess* const t = owned.get();
  const pid_t pid = t->pid;
  targets[pid] = std::move(owned);
  TRY(loop->add(t->pidfd.get(), EPOLLIN, [this, pid](uint32_t) { forget(pid, "ended"); }));
  TRY(listen_to(t));
  return sync(t, held);
}

}  // namespace bpftime
