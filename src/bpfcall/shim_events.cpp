#include "bpfcall/shim_events.hpp"

#include <linux/futex.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/raw_syscall.hpp"
#include "bpfcall/shim_memory.hpp"
#include "bpfcall/shim_session.hpp"
#include "bpfcall/shim_signals.hpp"
#include "maps/perf_buffer.hpp"
#include "maps/ring_buffer.hpp"

namespace bpftime::shim {
namespace {

constexpr uint64_t kPage = 4096;

// ---- Numbers

constexpr uint32_t kNumbers = 1 << 20;
constinit std::atomic<uint64_t> g_waitable[kNumbers / 64] = {};
constinit std::atomic<uint32_t> g_waitable_noted{0};  // ever; 0: nothing here has any work

// ---- Epoll sets. Changed under the Lock.

struct Member {
  int fd;
  uint32_t events;
  uint64_t data;
};
struct EpollSet {
  int fd;
  uint32_t count;
  uint32_t waitables;        // of them
  bool is_in_use, is_whole;  // whole: every member is known
  Member members[1024];
};
constexpr uint32_t kSets = 32;
constinit EpollSet g_sets[kSets] = {};
constinit std::atomic<uint32_t> g_set_count{0};

// Preconditions: the Lock is held.
EpollSet* find_set(int fd) {
  for (EpollSet& set : g_sets) {
    if (set.is_in_use && set.fd == fd) {
      return &set;
    }
  }
  return nullptr;
}
void forget_set(EpollSet* set) {
  set->is_in_use = false;
  g_set_count.fetch_sub(1, std::memory_order_relaxed);
}
void remove_member(EpollSet* set, int fd) {
  for (uint32_t i = 0; i < set->count; i++) {
    if (set->members[i].fd == fd) {
      set->waitables -= is_waitable(fd) ? 1 : 0;
      set->members[i] = set->members[--set->count];
      return;
    }
  }
}

// ---- Mappings of events, so that they can be put on the map's memory once the event stands in one.

struct EventMapping {
  uint64_t device, inode, begin, bytes;
  uint64_t protection;
};
constexpr uint32_t kMappings = 4096;
constinit EventMapping g_mappings[kMappings] = {};
constinit std::atomic<uint32_t> g_mapping_end{0};

// ---- Buffers

bool is_ring(const MapUse& use) { return use->map.view.code == MapCode::kRingBuffer; }
// What only the kernel can say is left out: no buffer behind the number (an event in no map).
bool is_buffer(const MapUse& use) {
  return is_ring(use) || (use->map.view.code == MapCode::kPerfEventArray && use->buffer != 0);
}
WakeWords& wake_words(const MapUse& use) {
  return is_ring(use) ? ring_wake_words(use->map.view) : perf_wake_words(use->map.view);
}
bool is_readable(const MapUse& use, bool take) {
  return is_ring(use) ? ring_is_readable(use->map.view)
                      : perf_is_readable(use->map.view, use->buffer - 1, take);
}

MapUse buffer_of(int fd) {
  auto found = find_waitable(fd);
  return found && is_buffer(*found) ? std::move(*found) : MapUse(nullptr);
}

bool has_byte(int fd) {
  char byte = 0;
  return raw_syscall(SYS_recvfrom, static_cast<uint64_t>(fd), reinterpret_cast<uint64_t>(&byte), 1,
                     MSG_PEEK | MSG_DONTWAIT) > 0;
}
void take_bytes(int fd) {
  char bytes[256];
  while (raw_syscall(SYS_recvfrom, static_cast<uint64_t>(fd), reinterpret_cast<uint64_t>(bytes),
                     sizeof(bytes), MSG_DONTWAIT) == sizeof(bytes)) {
  }
}
void ask_for_byte(int fd) {
  Request request;
  request.kind = MessageKind::kMakeReadable;
  ObjectRef ref{};
  if (identify(fd, &ref)) {
    request.refs.push_back(ref);
    (void)ask(&request).has_value();
  }
}

// Makes the socket say what the buffer says, and asks for a byte when that changes.
void prepare(int fd) {
  const MapUse use = buffer_of(fd);
  if (!use) {
    return;
  }
  if (!is_ring(use) && is_readable(use, false) && perf_is_drained(use->map.view, use->buffer - 1)) {
    (void)is_readable(use, true);  // the reader has caught up: it has looked
  }
  if (!is_readable(use, false)) {
    take_bytes(fd);
    wake_words(use).wants_byte.store(kByteWanted, std::memory_order_seq_cst);
    if (!is_readable(use, false)) {
      return;
    }
  }
  if (!has_byte(fd)) {
    ask_for_byte(fd);
  }
}

uint64_t now_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

constexpr uint64_t kForEver = 1ULL << 62;
uint64_t deadline_of(int timeout_ms) {
  return timeout_ms < 0 ? kForEver : now_ns() + static_cast<uint64_t>(timeout_ms) * 1'000'000;
}

// Sleeps until `look` finds something, a signal handler ran (-EINTR) or the time has come (0).
template <class F>
int sleep_on(WakeWords& wake, int timeout_ms, F&& look) {
  if (timeout_ms == 0) {
    return look();
  }
  if (const int found = look(); found != 0) {
    return found;
  }
  const uint64_t deadline = deadline_of(timeout_ms);
  for (;;) {
    SignalsHeld signals(true);
    // First the word, then the look, then the sleep: a producer does it the other way round.
    wake.sleeping.store(1, std::memory_order_seq_cst);
    const uint32_t sequence = wake.sequence.load(std::memory_order_seq_cst);
    const int found = look();
    if (found != 0) {
      return found;
    }
    if (signals.is_handler_due()) {
      return -EINTR;
    }
    // With a deadline, so that a signal handler ends it whatever its SA_RESTART, as it ends epoll_wait and poll.
    const timespec until = {static_cast<time_t>(deadline / 1'000'000'000),
                            static_cast<long>(deadline % 1'000'000'000)};
    signals.let_go();
    const long result =
        raw_syscall(SYS_futex, reinterpret_cast<uint64_t>(&wake.sequence), FUTEX_WAIT_BITSET,
                    sequence, reinterpret_cast<uint64_t>(&until), 0, FUTEX_BITSET_MATCH_ANY);
    ::pthread_testcancel();
    if (result == -EINTR) {
      return -EINTR;
    }
    if (result == -ETIMEDOUT) {
      return look();
    }
  }
}

int finished(int result) {
  if (result < 0) {
    errno = -result;
    return -1;
  }
  return result;
}

// All of the same map, so that one word tells of them.
bool have_one_word(const std::vector<MapUse>& uses) {
  return !uses.empty() && std::all_of(uses.begin(), uses.end(), [&](const MapUse& use) {
    return use && use->map_id == uses[0]->map_id;
  });
}

constexpr uint32_t kPlainEvents = EPOLLIN | EPOLLRDNORM | EPOLLPRI | EPOLLERR | EPOLLHUP |
                                  EPOLLRDHUP | EPOLLWAKEUP | EPOLLEXCLUSIVE;

}  // namespace

// ---- Numbers

bool is_any_waitable() { return g_waitable_noted.load(std::memory_order_relaxed) != 0; }

void note_waitable(int fd) {
  if (fd >= 0 && static_cast<uint32_t>(fd) < kNumbers) {
    g_waitable[fd / 64].fetch_or(1ULL << (fd % 64), std::memory_order_relaxed);
    g_waitable_noted.store(1, std::memory_order_relaxed);
  }
}
bool is_waitable(int fd) {
  return fd >= 0 && static_cast<uint32_t>(fd) < kNumbers && is_any_waitable() &&
         (g_waitable[fd / 64].load(std::memory_order_relaxed) >> (fd % 64) & 1) != 0;
}
void forget_waitables(uint32_t first, uint32_t last) {
  if (g_set_count.load(std::memory_order_relaxed) != 0) {
    const Lock lock;
    for (EpollSet& set : g_sets) {
      if (!set.is_in_use) {
        continue;
      }
      if (static_cast<uint32_t>(set.fd) >= first && static_cast<uint32_t>(set.fd) <= last) {
        forget_set(&set);
        continue;
      }
      for (uint32_t i = set.count; i-- > 0;) {
        const int fd = set.members[i].fd;
        if (static_cast<uint32_t>(fd) >= first && static_cast<uint32_t>(fd) <= last) {
          remove_member(&set, fd);
        }
      }
    }
  }
  if (!is_any_waitable()) {
    return;
  }
  for (uint64_t fd = first; fd <= last && fd < kNumbers;) {
    std::atomic<uint64_t>& word = g_waitable[fd / 64];
    if (word.load(std::memory_order_relaxed) == 0) {
      fd = (fd / 64 + 1) * 64;
      continue;
    }
    word.fetch_and(~(1ULL << (fd % 64)), std::memory_order_relaxed);
    fd++;
  }
}

// ---- mmap(2)

namespace {

void note_event_mapping(const ObjectRef& ref, uint64_t begin, uint64_t bytes, uint64_t protection) {
  const Lock lock;
  const uint32_t end = g_mapping_end.load(std::memory_order_relaxed);
  for (uint32_t i = 0; i < kMappings; i++) {
    if (i >= end || g_mappings[i].bytes == 0) {
      g_mappings[i] = {ref.device, ref.inode, begin, bytes, protection};
      g_mapping_end.store(std::max(end, i + 1), std::memory_order_relaxed);
      return;
    }
  }
}

// A file that looks like the buffer of an event that is in no map: nobody writes it.
Result<UniqueFd> empty_buffer(uint64_t bytes) {
  UniqueFd file(::memfd_create("bpftime-perf", MFD_CLOEXEC));
  if (!file || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    return make_error(ENOMEM, "no memory for a perf buffer");
  }
  const uint64_t words[2] = {kPage, bytes - kPage};
  if (::pwrite(file.get(), words, sizeof(words), offsetof(perf_event_mmap_page, data_offset)) !=
      sizeof(words)) {
    return make_error(ENOMEM, "no memory for a perf buffer");
  }
  return file;
}

// Where the event's buffer lies in the file of its map.
Result<UniqueFd> buffer_file(int fd, const ObjectRef& ref, uint64_t* offset) {
  const MapUse use = buffer_of(fd);
  if (!use) {
    return make_error(ENODATA, "in no map");
  }
  *offset = perf_buffer_offset(use->map.view, use->buffer - 1);
  Region region = TRY(ask_for_region(ref));
  return std::move(region.file);
}

}  // namespace

bool mmap_event(int fd, uint64_t address, uint64_t length, uint64_t protection, uint64_t flags,
                uint64_t offset, long* result) {
  ObjectRef ref{};
  if (!is_waitable(fd) || !identify(fd, &ref) || ref.inode == 0) {
    return false;
  }
  {
    const auto found = find_waitable(fd);
    if (found && (*found)->buffer == 0) {
      return false;  // a ring buffer
    }
  }
  const auto map_it = [&]() -> Result<long> {
    const uint64_t type = flags & MAP_TYPE;
    if ((type != MAP_SHARED && type != MAP_SHARED_VALIDATE) || offset != 0 || length == 0) {
      return make_error(EINVAL, "not a mapping that an event has");
    }
    const uint64_t bytes = (length + kPage - 1) & ~(kPage - 1);
    const MapRegionReply shape = TRY(ask_for_event(ref, static_cast<int64_t>(bytes - kPage)));
    uint64_t at = 0;
    const UniqueFd file =
        shape.buffer == 0 ? TRY(empty_buffer(bytes)) : TRY(buffer_file(fd, ref, &at));
    const long mapped = raw_syscall(SYS_mmap, address, length, protection, flags,
                                    static_cast<uint64_t>(file.get()), at);
    if (!is_syscall_error(mapped)) {
      note_event_mapping(ref, static_cast<uint64_t>(mapped), bytes, protection);
    }
    return mapped;
  };
  const auto mapped = map_it();
  *result = mapped ? *mapped : -mapped.error().code;
  return true;
}

void forget_event_mappings(uint64_t begin, uint64_t bytes) {
  if (g_mapping_end.load(std::memory_order_relaxed) == 0) {
    return;
  }
  const Lock lock;
  for (EventMapping& mapping : g_mappings) {
    if (mapping.begin < begin + bytes && begin < mapping.begin + mapping.bytes) {
      mapping.bytes = 0;
    }
  }
}

namespace {

// The event has come to stand in a map: what is mapped of it becomes the map's memory, in one step each.
void move_mappings(int fd) {
  ObjectRef ref{};
  if (g_mapping_end.load(std::memory_order_relaxed) == 0 || !identify(fd, &ref)) {
    return;
  }
  uint64_t at = 0;
  const auto file = buffer_file(fd, ref, &at);
  if (!file) {
    return;
  }
  const Lock lock;
  for (const EventMapping& mapping : g_mappings) {
    if (mapping.bytes != 0 && mapping.device == ref.device && mapping.inode == ref.inode) {
      raw_syscall(SYS_mmap, mapping.begin, mapping.bytes, mapping.protection,
                  MAP_SHARED | MAP_FIXED, static_cast<uint64_t>(file->get()), at);
    }
  }
}

}  // namespace

long slot_command(const MapUse& map, const MapCall& call) {
  const CallerMemory memory = own_memory();
  if (!map->map.may_write) {
    return -EPERM;
  }
  uint32_t key = 0;
  int value = -1;
  const bool is_update = call.command == BPF_MAP_UPDATE_ELEM;
  if (!memory.read(memory.self, call.key, std::as_writable_bytes(std::span(&key, 1))) ||
      (is_update &&
       !memory.read(memory.self, call.value, std::as_writable_bytes(std::span(&value, 1))))) {
    return -EFAULT;
  }
  Request request;
  request.kind = MessageKind::kBpf;
  request.command = call.command;
  request.attr.resize(kAttrBytes);
  bpf_attr attr{};
  attr.map_fd = static_cast<uint32_t>(call.map_fd);
  attr.flags = call.flags;
  __builtin_memcpy(request.attr.data(), &attr, std::min(sizeof(attr), request.attr.size()));
  request.args[0] = key;
  request.args[1] = value;
  ObjectRef ref{};
  if (identify(call.map_fd, &ref)) {
    request.refs.push_back(ref);
  }
  if (is_update && value != call.map_fd && identify(value, &ref)) {
    request.refs.push_back(ref);
  }
  const auto reply = ask(&request);
  if (!reply) {
    return -reply.error().code;
  }
  if (is_update && reply->value >= 0) {
    note_waitable(value);
    move_mappings(value);
  }
  return static_cast<long>(reply->value);
}

// ---- Epoll sets

void note_epoll(int fd) {
  const Lock lock;
  EpollSet* set = find_set(fd);
  for (uint32_t i = 0; i < kSets && set == nullptr; i++) {
    if (!g_sets[i].is_in_use) {
      set = &g_sets[i];
      g_set_count.fetch_add(1, std::memory_order_relaxed);
    }
  }
  if (set != nullptr) {
    set->fd = fd;
    set->count = 0;
    set->waitables = 0;
    set->is_whole = true;
    set->is_in_use = true;
  }
}

void note_epoll_change(int epoll, int operation, int fd, const epoll_event* event) {
  if (g_set_count.load(std::memory_order_relaxed) == 0) {
    return;
  }
  {
    const Lock lock;
    EpollSet* const set = find_set(epoll);
    if (set == nullptr) {
      return;
    }
    remove_member(set, fd);
    if (operation == EPOLL_CTL_DEL || event == nullptr) {
      return;
    }
    if (set->count == sizeof(set->members) / sizeof(set->members[0])) {
      set->is_whole = false;
      return;
    }
    set->members[set->count++] = {fd, event->events, event->data.u64};
    set->waitables += is_waitable(fd) ? 1 : 0;
  }
  if (is_waitable(fd)) {
    // Somebody may be waiting on the set already: in the kernel, or asleep on the word of those it held.
    prepare(fd);
    const MapUse use = buffer_of(fd);
    if (use) {
      wake_all_readers(wake_words(use));
    }
  }
}

namespace {

// What is waited for; false when the set is not known whole.
bool members_of(int epoll, std::vector<Member>* members) {
  const Lock lock;
  const EpollSet* const set = find_set(epoll);
  if (set == nullptr) {
    return false;
  }
  members->assign(set->members, set->members + set->count);
  return set->is_whole;
}

void prepare_everything() {
  for (uint32_t word = 0; word < kNumbers / 64; word++) {
    for (uint64_t bits = g_waitable[word].load(std::memory_order_relaxed); bits != 0;
         bits &= bits - 1) {
      prepare(static_cast<int>(word * 64 + static_cast<uint32_t>(__builtin_ctzll(bits))));
    }
  }
}

constexpr int kMostNested = 5;  // kernel: EP_MAX_NESTS + 1

// A buffer's number, or an epoll set's that holds some, in others or by itself.
void prepare_for(int fd, int depth = 0) {
  if (is_waitable(fd)) {
    prepare(fd);
    return;
  }
  if (g_set_count.load(std::memory_order_relaxed) == 0 || depth == kMostNested) {
    return;
  }
  std::vector<Member> members;
  if (!members_of(fd, &members) && !members.empty()) {
    prepare_everything();  // it may hold any of them
    return;
  }
  for (const Member& member : members) {
    prepare_for(member.fd, depth + 1);
  }
}

}  // namespace

// ---- Waits

void before_wait(int epoll) {
  if (!is_any_waitable()) {
    return;
  }
  const int saved = errno;
  bool is_known = false;
  {
    const Lock lock;
    is_known = find_set(epoll) != nullptr;
  }
  if (is_known) {
    prepare_for(epoll);
  } else {
    prepare_everything();
  }
  errno = saved;
}

void before_wait(const pollfd* fds, nfds_t count) {
  if (!is_any_waitable()) {
    return;
  }
  const int saved = errno;
  for (nfds_t i = 0; i < count; i++) {
    prepare_for(fds[i].fd);
  }
  errno = saved;
}

void before_wait(int count, const fd_set* fds) {
  if (!is_any_waitable() || fds == nullptr) {
    return;
  }
  const int saved = errno;
  for (int fd = 0; fd < count && fd < FD_SETSIZE; fd++) {
    if (FD_ISSET(fd, fds)) {
      prepare_for(fd);
    }
  }
  errno = saved;
}

int wait_epoll(int epoll, epoll_event* events, int most, int timeout_ms,
               int (*next)(int, epoll_event*, int, int, const sigset_t*)) {
  if (!is_any_waitable() || most <= 0) {
    return next(epoll, events, most, timeout_ms, nullptr);
  }
  const int saved = errno;
  std::vector<Member> members;
  const bool is_whole = members_of(epoll, &members);
  std::vector<MapUse> uses;
  bool is_ours = is_whole && !members.empty();
  for (size_t i = 0; i < members.size() && is_ours; i++) {
    is_ours = is_waitable(members[i].fd) && (members[i].events & ~kPlainEvents) == 0 &&
              (members[i].events & (EPOLLIN | EPOLLRDNORM)) != 0;
    if (is_ours) {
      uses.push_back(buffer_of(members[i].fd));
    }
  }
  if (!is_ours || !have_one_word(uses)) {
    const SignalsHeld signals(true);
    before_wait(epoll);
    errno = saved;
    return next(epoll, events, most, timeout_ms, signals.mask_before());
  }
  static constinit std::atomic<uint32_t> turn{0};  // the one that was given last is looked at last
  const int result = sleep_on(wake_words(uses[0]), timeout_ms, [&] {
    int found = 0;
    const size_t first = turn.fetch_add(1, std::memory_order_relaxed) % uses.size();
    for (size_t i = 0; i < uses.size() && found < most; i++) {
      const size_t at = (first + i) % uses.size();
      if (is_readable(uses[at], true)) {
        events[found].events = members[at].events & (EPOLLIN | EPOLLRDNORM);
        events[found].data.u64 = members[at].data;
        found++;
      }
    }
    return found;
  });
  errno = saved;
  return finished(result);
}

int wait_poll(pollfd* fds, nfds_t count, int timeout_ms,
              int (*next)(pollfd*, nfds_t, int, const sigset_t*)) {
  if (!is_any_waitable() || count == 0 || count > 4096) {
    return next(fds, count, timeout_ms, nullptr);
  }
  const int saved = errno;
  std::vector<MapUse> uses;
  bool is_ours = true;
  for (nfds_t i = 0; i < count && is_ours; i++) {
    is_ours = is_waitable(fds[i].fd) && (fds[i].events & (POLLIN | POLLRDNORM)) != 0 &&
              (fds[i].events & ~(POLLIN | POLLRDNORM | POLLPRI | POLLERR | POLLHUP)) == 0;
    if (is_ours) {
      uses.push_back(buffer_of(fds[i].fd));
    }
  }
  if (!is_ours || !have_one_word(uses)) {
    const SignalsHeld signals(true);
    before_wait(fds, count);
    errno = saved;
    return next(fds, count, timeout_ms, signals.mask_before());
  }
  const int result = sleep_on(wake_words(uses[0]), timeout_ms, [&] {
    int found = 0;
    for (nfds_t i = 0; i < count; i++) {
      const bool ready = is_readable(uses[i], true);
      fds[i].revents = static_cast<short>(ready ? fds[i].events & (POLLIN | POLLRDNORM) : 0);
      found += ready ? 1 : 0;
    }
    return found;
  });
  errno = saved;
  return finished(result);
}

}  // namespace bpftime::shim
