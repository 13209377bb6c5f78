// A forked child of a target: a target of its own before its first hit goes on, or its code is restored.
#include "broker/targets_impl.hpp"

#include <sys/socket.h>

#include <cstddef>
#include <string>
#include <utility>

#include "broker/takeout.hpp"

namespace bpftime {

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
  if (!identity || !pidfd || generation_in_child != parent->generation || !parent->follows) {
    // Not followed, or forked before the last change: its code is restored, as far as it has our bytes.
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
  t->tail_tables = parent->tail_tables;
  t->walks_stacks = parent->walks_stacks;
  t->code_seen = parent->code_seen;
  t->build_ids_at = parent->build_ids_at;
  t->build_ids_bytes = parent->build_ids_bytes;
  t->retired = parent->retired;
  t->looks = parent->looks;
  t->mappings = parent->mappings;
  t->journal_count = parent->journal_count;
  t->code_range_count = parent->code_range_count;
  t->generation = parent->generation;
  t->journal = parent->journal;
  t->armed = parent->armed;
  t->knows_threads = parent->knows_threads;
  t->owns_signals = parent->owns_signals;
  t->listens = parent->listens;
  t->has_fsgsbase = parent->has_fsgsbase;
  t->libc_restorer = parent->libc_restorer;
  // Its table is empty: every list is made anew, with counts of its own.
  t->places = parent->places;
  t->semaphores = parent->semaphores;
  t->semaphore_count = parent->semaphore_count;
  t->free_semaphores = parent->free_semaphores;
  for (auto& [address, site] : t->sites) {
    site.entry = ListHere{};
    site.on_return = ListHere{};
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
      if (link.applies_to(child)) {
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

}  // namespace bpftime
