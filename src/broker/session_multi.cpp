// LINK_CREATE of uprobe_multi and uprobe.session links: one program at several places of a file. Kernel v6.18
// kernel/trace/bpf_trace.c: bpf_uprobe_multi_link_attach.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <map>

#include "abi/thread_block.hpp"
#include "broker/bpf_call.hpp"
#include "spec/newer.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kMostPlacesOfAll = 4ULL * kMostUprobePlaces;

// An array of `count` words that the attr points to; empty where it has none. Errors: EFAULT.
Result<std::vector<uint64_t>> words_of(const Request& request, size_t tag, uint64_t pointer,
                                       uint32_t count) {
  std::vector<uint64_t> words;
  if (pointer == 0) {
    return words;
  }
  const RequestPayload* given = request.payload(static_cast<uint32_t>(tag));
  if (given == nullptr || given->bytes.size() != uint64_t{count} * sizeof(uint64_t)) {
    return make_error(EFAULT, "offsets or cookies cannot be read");
  }
  words.resize(count);
  std::memcpy(words.data(), given->bytes.data(), given->bytes.size());
  return words;
}

// As d_path() names it.
std::string path_of(int fd) {
  char target[PATH_MAX];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t n = ::readlink(link.c_str(), target, sizeof(target));
  return n > 0 ? std::string(target, static_cast<size_t>(n)) : std::string();
}

Result<pid_t> named_process(uint32_t pid) {
  if (pid == 0) {
    return pid_t{-1};
  }
  const auto process = static_cast<pid_t>(pid);
  if (TRY(process_of(process)) != process) {
    return make_error(ESRCH, "not a process, but a thread");
  }
  if (::kill(process, 0) != 0) {
    return make_error(errno == EPERM ? EACCES : ESRCH, "no such process, or not ours to probe");
  }
  return process;
}

Result<void> check_attr(const UprobeMultiCreate& create) {
  if (create.flags != 0 || (create.multi_flags & ~kUprobeMultiReturn) != 0) {
    return make_error(EINVAL, "unknown flags");
  }
  if (create.path == 0 || create.offsets == 0 || create.count == 0 || create.pid > INT32_MAX) {
    return make_error(EINVAL, "no path, no offsets, or no such process");
  }
  if (create.count > kMostUprobePlaces) {
    return make_error(E2BIG, "too many places");
  }
  return {};
}

// Path, file and places. Errors: EBADF not a regular file, EFAULT, EINVAL.
Result<std::unique_ptr<UprobePlaces>> places_of(const Request& request,
                                                const UprobeMultiCreate& create) {
  auto all = std::make_unique<UprobePlaces>();
  struct stat st{};
  if (request.fds.empty() || ::fstat(request.fds[0].get(), &st) != 0 || !S_ISREG(st.st_mode)) {
    return make_error(EBADF, "not a regular file");
  }
  all->file.reset(::fcntl(request.fds[0].get(), F_DUPFD_CLOEXEC, 3));
  if (!all->file) {
    return make_error(errno, "cannot keep the file");
  }
  all->path = path_of(all->file.get());
  all->device = st.st_dev;
  all->inode = st.st_ino;
  all->pid = TRY(named_process(create.pid));
  all->is_return = (create.multi_flags & kUprobeMultiReturn) != 0;
  all->is_session = create.attach_type == kTraceUprobeSession;
  const auto offsets =
      TRY(words_of(request, offsetof(UprobeMultiCreate, offsets), create.offsets, create.count));
  const auto semaphores = TRY(words_of(request, offsetof(UprobeMultiCreate, ref_ctr_offsets),
                                       create.ref_ctr_offsets, create.count));
  const auto cookies =
      TRY(words_of(request, offsetof(UprobeMultiCreate, cookies), create.cookies, create.count));
  for (uint32_t i = 0; i < create.count; i++) {
    const UprobePlaces::Place place{offsets[i], semaphores.empty() ? 0 : semaphores[i],
                                    cookies.empty() ? 0 : cookies[i]};
    if (place.offset >= static_cast<uint64_t>(st.st_size)) {
      return make_error(EINVAL, "offset outside of the file");
    }
    if (place.semaphore_offset % sizeof(uint16_t) != 0) {
      return make_error(EINVAL, "a semaphore at an odd offset");
    }
    all->places.push_back(place);
  }
  return all;
}

}  // namespace

// Kernel v6.18 kernel/events/uprobes.c: probes of one place have one semaphore.
Result<void> Session::check_semaphores(uint64_t device, uint64_t inode,
                                       std::span<const UprobePlaces::Place> places) const {
  std::map<uint64_t, uint64_t> known;
  for (const auto& event : objects_.all<PerfEventObject>()) {
    if (event->device == device && event->inode == inode) {
      known.emplace(event->file_offset, event->semaphore_offset);
    }
  }
  for (const auto& link : objects_.all<LinkObject>()) {
    if (link->uprobes != nullptr && link->uprobes->device == device &&
        link->uprobes->inode == inode) {
      for (const auto& place : link->uprobes->places) {
        known.emplace(place.offset, place.semaphore_offset);
      }
    }
  }
  for (const auto& place : places) {
    if (known.emplace(place.offset, place.semaphore_offset).first->second !=
        place.semaphore_offset) {
      return make_error(EINVAL, "probes of one place have one semaphore");
    }
  }
  return {};
}

// Errors: E2BIG more sessions at one place than a thread can keep apart; the kernel knows no bound.
Result<void> Session::check_sessions(const UprobePlaces& all) {
  std::map<uint64_t, uint32_t> sessions;
  for (const auto& place : all.places) {
    sessions[place.offset]++;
  }
  for (const auto& link : objects_.all<LinkObject>()) {
    if (link->uprobes == nullptr || !link->uprobes->is_session ||
        link->uprobes->device != all.device || link->uprobes->inode != all.inode) {
      continue;
    }
    for (const auto& place : link->uprobes->places) {
      if (const auto here = sessions.find(place.offset); here != sessions.end()) {
        here->second++;
      }
    }
  }
  for (const auto& [offset, count] : sessions) {
    if (count > kSessionsOfCall) {
      log("more than " + std::to_string(kSessionsOfCall) + " sessions at one place of " + all.path);
      return make_error(E2BIG, "too many sessions at one place");
    }
  }
  return {};
}

Result<Reply> Session::link_create_multi(const BpfCall& call,
                                         const std::shared_ptr<ProgramObject>& program) {
  UprobeMultiCreate create;
  std::memcpy(&create, &call.attr, sizeof(create));
  TRY(check_attr(create));
  auto link = std::make_shared<LinkObject>();
  link->program = program;
  auto all = TRY(places_of(call.request, create));
  TRY(check_semaphores(all->device, all->inode, all->places));
  if (all->is_session) {
    TRY(check_sessions(*all));
  }
  uint64_t count = all->places.size();
  for (const auto& other : objects_.all<LinkObject>()) {
    count += other->uprobes != nullptr ? other->uprobes->places.size() : 0;
  }
  if (count > kMostPlacesOfAll) {
    return make_error(ENOMEM, "too many places");
  }
  link->uprobes = std::move(all);
  objects_.name(link);
  auto armed = arm(call.caller, LinkId{link->id}, link->uprobes->pid,
                   link->uprobes->path + " (" + std::to_string(create.count) + " places)");
  auto reply = armed ? give(call.caller, link) : Result<Reply>(armed.error());
  if (!reply) {
    sync_soon();
  }
  return reply;
}

}  // namespace bpftime
