// Semaphores of USDT probes (ref_ctr_offset): a u16 in the probed file's data that says how many are listening. It is
// raised where the file is mapped writable and private, once a link, while the link is placed; what is raised stands in
// the arena too, for whoever takes the agent out. Kernel v6.18 kernel/events/uprobes.c: valid_ref_ctr_vma,
// update_ref_ctr.
#include "broker/targets_impl.hpp"

#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace bpftime {
namespace {

Result<void> write_memory(pid_t pid, uint64_t to, std::span<const std::byte> bytes) {
  const iovec here{const_cast<std::byte*>(bytes.data()), bytes.size()};
  const iovec there{reinterpret_cast<void*>(to), bytes.size()};
  if (::process_vm_writev(pid, &here, 1, &there, 1, 0) != static_cast<ssize_t>(bytes.size())) {
    return make_error(errno, "memory of the target cannot be written");
  }
  return {};
}

template <class T>
Result<void> write_one(pid_t pid, uint64_t to, T value) {
  return write_memory(pid, to, std::as_bytes(std::span(&value, 1)));
}

// Nobody else counts just now, but for the kernel's own uprobes.
bool add_to(pid_t pid, uint64_t address, int step) {
  uint16_t value = 0;
  if (!read_memory(pid, RemoteAddr{address}, std::as_writable_bytes(std::span(&value, 1))) ||
      (step < 0 && value == 0)) {
    return false;
  }
  value = static_cast<uint16_t>(value + step);
  return write_one(pid, address, value).has_value();
}

std::vector<uint64_t> places_of(const WantedLink& link, const std::vector<Mapping>& maps) {
  std::vector<uint64_t> addresses;
  for (const Mapping& m : maps) {
    const uint64_t at = link.semaphore_offset;
    if (m.inode == link.inode && m.device == link.device && (m.prot & PROT_WRITE) != 0 &&
        !m.is_shared && m.offset <= at && at + sizeof(uint16_t) <= m.offset + (m.end - m.begin)) {
      addresses.push_back(m.begin + (at - m.offset));
    }
  }
  return addresses;
}

}  // namespace

void Targets::Impl::raise_semaphores(TargetProcess* t, const WantedLink& link,
                                     const std::vector<Mapping>& maps) {
  std::vector<RaisedSemaphore>& raised = t->semaphores[raw(link.id)];
  for (const uint64_t address : places_of(link, maps)) {
    if (std::any_of(raised.begin(), raised.end(),
                    [&](const RaisedSemaphore& one) { return one.address == address; })) {
      continue;
    }
    uint64_t index = t->semaphore_count;
    if (!t->free_semaphores.empty()) {
      index = t->free_semaphores.back();
    } else if (index >= kMaxSemaphores) {
      host->log("process " + std::to_string(t->pid) + ": too many semaphores");
      return;
    }
    if (!add_to(t->pid, address, 1)) {
      continue;
    }
    (void)write_one(t->pid, t->arena + kSemaphoresOffset + index * sizeof(uint64_t), address);
    if (index == t->semaphore_count) {
      t->semaphore_count++;
      (void)write_one(t->pid, t->arena + offsetof(AgentState, semaphore_count), t->semaphore_count);
    } else {
      t->free_semaphores.pop_back();
    }
    raised.push_back({address, index});
  }
}

void Targets::Impl::lower_semaphores(TargetProcess* t, uint32_t link) {
  const auto it = t->semaphores.find(link);
  if (it == t->semaphores.end()) {
    return;
  }
  for (const RaisedSemaphore& one : it->second) {
    (void)write_one(t->pid, t->arena + kSemaphoresOffset + one.index * sizeof(uint64_t),
                    uint64_t{0});
    add_to(t->pid, one.address, -1);  // false: not mapped any more
    t->free_semaphores.push_back(one.index);
  }
  t->semaphores.erase(it);
}

// After sync(): `only` as there.
void Targets::Impl::settle_semaphores(TargetProcess* t, const LinkId* only) {
  std::vector<WantedLink> wanted =
      only != nullptr ? host->wanted_links_of(*only) : host->wanted_links();
  std::erase_if(wanted, [t](const WantedLink& link) {
    return link.semaphore_offset == 0 || !link.applies_to(t->pid) ||
           !t->places.contains(raw(link.id));
  });
  std::vector<uint32_t> gone;
  for (const auto& [link, _] : t->semaphores) {
    const bool is_asked = only == nullptr || raw(*only) == link;
    if (is_asked && std::none_of(wanted.begin(), wanted.end(), [link = link](const WantedLink& w) {
          return raw(w.id) == link;
        })) {
      gone.push_back(link);
    }
  }
  for (const uint32_t link : gone) {
    lower_semaphores(t, link);
  }
  if (wanted.empty()) {
    return;
  }
  const auto maps = read_maps(t->pid);
  for (const WantedLink& link : wanted) {
    if (maps) {
      raise_semaphores(t, link, *maps);
    }
  }
}

}  // namespace bpftime
