#include "bpfcall/shim_session.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/raw_syscall.hpp"
#include "bpfcall/shim_objects.hpp"

namespace bpftime::shim {
namespace {

constexpr int kAnswerMs = 60'000;
constexpr int kFirstHighFd = 1000;

struct State {
  std::atomic<uint32_t> lock;    // 0 free, 1 taken, 2 taken and awaited
  std::atomic<uint32_t> active;  // 1: channel, welcome and objects are valid
  int32_t channel;
  uint32_t said;  // no broker: said so
  uint64_t channel_device, channel_inode;
  uint64_t serial;
  Welcome welcome;
  ObjectState objects;
};

constinit std::atomic<State*> g_state = nullptr;
constinit std::atomic<const char*> g_session = nullptr;  // "" = none
// Not wiped: what a child inherits and must close.
constinit std::atomic<int> g_inherited_channel = -1;
constinit std::atomic<uint64_t> g_inherited_inode = 0;

uint64_t inode_of(int fd, uint64_t* device) {
  struct stat st{};
  if (raw_syscall(SYS_fstat, static_cast<uint64_t>(fd), reinterpret_cast<uint64_t>(&st)) != 0) {
    return 0;
  }
  if (device != nullptr) {
    *device = st.st_dev;
  }
  return st.st_ino;
}

void raw_close(int fd) { raw_syscall(SYS_close, static_cast<uint64_t>(fd)); }

// A child holds its parent's connection open until it closes it: the broker would not see the parent end.
void close_inherited_channel() {
  const int fd = g_inherited_channel.exchange(-1);
  if (fd >= 0 && inode_of(fd, nullptr) == g_inherited_inode.load()) {
    raw_close(fd);
  }
}

State* state() {
  State* s = g_state.load(std::memory_order_acquire);
  if (s != nullptr) [[likely]] {
    return s;
  }
  s = static_cast<State*>(wiped_memory(sizeof(State)));
  if (s == nullptr) {
    return nullptr;
  }
  State* first = nullptr;
  if (!g_state.compare_exchange_strong(first, s, std::memory_order_acq_rel)) {
    return first;  // another thread was quicker; a page is lost
  }
  ::pthread_atfork(nullptr, nullptr, close_inherited_channel);
  return s;
}

const char* session() {
  const char* path = g_session.load(std::memory_order_acquire);
  if (path == nullptr) {
    const char* value = ::getenv("BPFTIME_SESSION");
    const char* copy = value != nullptr && *value != '\0' ? ::strdup(value) : "";
    path = copy != nullptr ? copy : "";
    const char* first = nullptr;
    if (!g_session.compare_exchange_strong(first, path, std::memory_order_acq_rel)) {
      path = first;
    }
  }
  return path;
}

// Away from the small numbers that programs expect to get, and from those they close wholesale.
int high_copy(int fd) {
  for (int from = kFirstHighFd; from > 8; from /= 2) {
    const long copy = raw_syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_DUPFD_CLOEXEC,
                                  static_cast<uint64_t>(from));
    if (copy >= 0) {
      return static_cast<int>(copy);
    }
  }
  return -1;
}

bool channel_is_ours(const State& s) {
  uint64_t device = 0;
  return s.channel >= 0 && inode_of(s.channel, &device) == s.channel_inode &&
         device == s.channel_device;
}

void adopt_channel(State* s, int fd) {
  s->channel = fd;
  s->channel_inode = inode_of(fd, &s->channel_device);
  g_inherited_inode.store(s->channel_inode);
  g_inherited_channel.store(fd);
}

void drop_channel(State* s) {
  if (channel_is_ours(*s)) {
    raw_close(s->channel);
  }
  g_inherited_channel.store(-1);
  s->channel = -1;
}

Result<Reply> ask_locked(State* s, Request* request) {
  request->serial = ++s->serial;
  return call(s->channel, *request, kAnswerMs);
}

Result<void> connect_locked(State* s) {
  close_inherited_channel();
  UniqueFd low = TRY(connect_to(std::string(session()) + "/" + kSocketName));
  const int high = high_copy(low.get());
  adopt_channel(s, high >= 0 ? high : low.release());
  Request hello;
  hello.kind = MessageKind::kHello;
  hello.args[0] = static_cast<int64_t>(Role::kLoader);
  auto reply = ask_locked(s, &hello);
  if (!reply || reply->value < 0 || reply->output.size() < sizeof(Welcome)) {
    drop_channel(s);
    return reply ? make_error(EPROTO, "the broker does not speak as expected") : reply.error();
  }
  std::memcpy(&s->welcome, reply->output.data(), sizeof(Welcome));
  return {};
}

// Preconditions: the Lock is held.
Result<void> make_active(State* s) {
  if (channel_is_ours(*s)) {
    return {};
  }
  if (s->channel >= 0) {
    drop_channel(s);  // somebody closed it under us
  }
  TRY(connect_locked(s));
  if (s->active.load() == 0) {
    TRY(prepare_objects(&s->objects));
    s->active.store(1, std::memory_order_release);
  }
  return {};
}

void futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
  raw_syscall(SYS_futex, reinterpret_cast<uint64_t>(word),
              static_cast<uint64_t>(operation | FUTEX_PRIVATE_FLAG), value);
}

}  // namespace

namespace {
// How often this thread holds the lock: an allocator of the loader's may unmap memory, through us, while we allocate.
__attribute__((tls_model("initial-exec"))) thread_local constinit uint32_t t_held = 0;
}  // namespace

Lock::Lock() {
  if (t_held != 0) {
    t_held++;  // signals are blocked already: nothing can run on top of this thread
    return;
  }
  ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &saved_cancel_);
  const uint64_t all = ~0ULL;
  raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<uint64_t>(&all),
              reinterpret_cast<uint64_t>(&saved_signals_), sizeof(all));
  t_held = 1;
  State* s = state();
  if (s == nullptr) {
    return;
  }
  uint32_t seen = 0;
  if (s->lock.compare_exchange_strong(seen, 1, std::memory_order_acquire)) {
    return;
  }
  while (s->lock.exchange(2, std::memory_order_acquire) != 0) {
    futex(&s->lock, FUTEX_WAIT, 2);
  }
}

Lock::~Lock() {
  if (--t_held != 0) {
    return;
  }
  State* s = state();
  if (s != nullptr && s->lock.exchange(0, std::memory_order_release) == 2) {
    futex(&s->lock, FUTEX_WAKE, 1);
  }
  raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<uint64_t>(&saved_signals_), 0,
              sizeof(saved_signals_));
  ::pthread_setcancelstate(saved_cancel_, nullptr);
}

bool has_session() { return *session() != '\0'; }
const char* session_dir() { return session(); }

bool is_active() {
  const State* s = g_state.load(std::memory_order_acquire);
  return s != nullptr && s->active.load(std::memory_order_acquire) != 0;
}

bool activate(Loudness loudness) {
  if (is_active()) {
    return true;
  }
  State* s = state();
  if (s == nullptr) {
    return false;
  }
  const Lock lock;
  const auto made = make_active(s);
  if (!made && loudness == Loudness::kSayWhy && s->said == 0) {
    s->said = 1;
    say("no broker answers in this session; start it with `bpftime load`", made.error().code);
  }
  return made.has_value();
}

const Welcome& welcome() { return state()->welcome; }
ObjectState* object_state() { return &state()->objects; }

Result<Reply> ask(Request* request) {
  State* s = state();
  if (s == nullptr) {
    return make_error(ENOMEM, "no memory");
  }
  const Lock lock;
  const auto made = make_active(s);
  if (!made) {
    if (s->said == 0) {
      s->said = 1;
      say("the broker is gone", made.error().code);
    }
    return make_error(ENOSYS, "no broker");
  }
  auto reply = ask_locked(s, request);
  if (!reply) {
    // An answer that comes later would be taken for the answer to another question.
    const int code = reply.error().code;
    if (code != E2BIG && code != EMSGSIZE) {
      drop_channel(s);
    }
    if (code == EAGAIN) {
      return make_error(ETIMEDOUT, "the broker does not answer");
    }
    if (code == EPIPE || code == EPROTO) {
      return make_error(EIO, "the broker went away");
    }
  }
  return reply;
}

bool is_channel(int fd) {
  const State* s = g_state.load(std::memory_order_acquire);
  return s != nullptr && fd >= 0 && s->active.load(std::memory_order_acquire) != 0 &&
         s->channel == fd;
}

int channel_fd() {
  const State* s = g_state.load(std::memory_order_acquire);
  return s != nullptr && s->active.load(std::memory_order_acquire) != 0 ? s->channel : -1;
}

void move_channel_away_from(int fd) {
  const Lock lock;
  State* s = state();
  if (s == nullptr || s->channel != fd || !channel_is_ours(*s)) {
    return;
  }
  const long copy = raw_syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_DUPFD_CLOEXEC,
                                static_cast<uint64_t>(fd) + 1);
  const int other = copy >= 0 ? static_cast<int>(copy) : high_copy(fd);
  if (other >= 0) {
    raw_close(fd);
    adopt_channel(s, other);
  }
}

void* wiped_memory(uint64_t bytes) {
  const long address =
      raw_syscall(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, static_cast<uint64_t>(-1), 0);
  if (is_syscall_error(address)) {
    return nullptr;
  }
  raw_syscall(SYS_madvise, static_cast<uint64_t>(address), bytes, MADV_WIPEONFORK);
  return reinterpret_cast<void*>(address);
}

void say(const char* why, int error) {
  char line[256];
  const char* name = ::strerrordesc_np(error);
  const int n = ::snprintf(line, sizeof(line), "bpftime: %s (%s)\n", why,
                           name != nullptr ? name : "unknown error");
  if (n > 0) {
    raw_syscall(SYS_write, 2, reinterpret_cast<uint64_t>(line), static_cast<uint64_t>(n));
  }
}

}  // namespace bpftime::shim
