#include "agent/say.hpp"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "base/raw_syscall.hpp"

namespace bpftime {
namespace {

uint64_t addr(const void* p) { return reinterpret_cast<uint64_t>(p); }

uint64_t now_ns() {
  timespec t{};
  raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, addr(&t));
  return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

// `bytes` of the message are sent: its text is a tail that may be left away.
bool send(int channel, const AgentMessage* message, size_t bytes, int fd) {
  iovec iov{const_cast<AgentMessage*>(message), bytes};
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    *reinterpret_cast<int*>(CMSG_DATA(c)) = fd;
  }
  return !is_syscall_error(raw_syscall(SYS_sendmsg, static_cast<uint64_t>(channel), addr(&header),
                                       MSG_NOSIGNAL | MSG_DONTWAIT));
}

void fill(AgentMessage* message, AgentSays says) {
  // The text is not cleared: only the bytes in use are sent.
  message->magic = kAgentMagic;
  message->says = says;
  message->pid = static_cast<uint32_t>(raw_syscall(SYS_getpid));
  message->tid = static_cast<uint32_t>(raw_syscall(SYS_gettid));
  message->value = 0;
  message->code = 0;
  message->text_bytes = 0;
  message->time_ns = now_ns();
  raw_syscall(SYS_prctl, PR_GET_NAME, addr(message->comm));
}

// Waits until `channel` yields the 8-byte word `expected`, for at most kAgentWaitMs.
bool wait_for_word(int channel, uint64_t expected) {
  const uint64_t end = now_ns() + static_cast<uint64_t>(kAgentWaitMs) * 1000000;
  for (;;) {
    const uint64_t now = now_ns();
    if (now >= end) {
      return false;
    }
    pollfd p{channel, POLLIN, 0};
    const long n = raw_syscall(SYS_poll, addr(&p), 1, (end - now) / 1000000 + 1);
    if (n == 1) {
      uint64_t word = 0;
      const long got = raw_syscall(SYS_recvfrom, static_cast<uint64_t>(channel), addr(&word),
                                   sizeof(word), MSG_DONTWAIT, 0, 0);
      if (got == 0 || (got < 0 && got != -EAGAIN && got != -EINTR)) {
        return false;  // the broker is gone
      }
      if (got == sizeof(word) && word == expected) {
        return true;  // another word is the late answer to an earlier question
      }
    } else if (n != 0 && n != -EINTR) {
      return false;
    }
  }
}

}  // namespace

bool channel_is_ours(const AgentState* state) {
  struct stat st{};
  return state->channel >= 0 &&
         raw_syscall(SYS_fstat, static_cast<uint64_t>(state->channel), addr(&st)) == 0 &&
         st.st_ino == state->channel_inode && (st.st_mode & S_IFMT) == S_IFSOCK;
}

void say_printk(const AgentState* state, uint32_t tid, const char* text, size_t bytes) {
  if (!channel_is_ours(state)) {
    return;
  }
  AgentMessage message;  // NOLINT(cppcoreguidelines-pro-type-member-init): filled below
  fill(&message, AgentSays::kPrintk);
  message.tid = tid;
  if (bytes > sizeof(message.text)) {
    bytes = sizeof(message.text);
  }
  __builtin_memcpy(message.text, text, bytes);
  message.text_bytes = static_cast<uint32_t>(bytes);
  unsigned cpu = 0;
  raw_syscall(SYS_getcpu, addr(&cpu));
  message.code = cpu;
  send(state->channel, &message, offsetof(AgentMessage, text) + bytes, -1);
}

void say_disarmed(const AgentState* state, uint32_t link, uint32_t why) {
  if (!channel_is_ours(state)) {
    return;
  }
  AgentMessage message;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  fill(&message, AgentSays::kDisarmed);
  message.value = link;
  message.code = why;
  send(state->channel, &message, offsetof(AgentMessage, text), -1);
}

bool say_wake(const AgentState* state, uint32_t tid, uint32_t map) {
  if (!channel_is_ours(state)) {
    return false;
  }
  // Only the head is sent, and the broker believes none of the rest: two system calls, not five.
  AgentMessage message;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  __builtin_memset(&message, 0, offsetof(AgentMessage, text));
  message.magic = kAgentMagic;
  message.says = AgentSays::kWake;
  message.pid = state->tgid;
  message.tid = tid;
  message.value = map;
  return send(state->channel, &message, offsetof(AgentMessage, text), -1);
}

namespace {
// `bytes` of `text` go with it.
void say_and_wait(AgentState* state, AgentSays says, const void* text, uint32_t bytes) {
  if (!channel_is_ours(state)) {
    return;
  }
  AgentMessage message;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  fill(&message, says);
  message.value = message.time_ns;
  message.text_bytes = bytes;
  __builtin_memcpy(message.text, text, bytes);
  if (send(state->channel, &message, offsetof(AgentMessage, text) + bytes, -1)) {
    wait_for_word(state->channel, message.value);
  }
}
}  // namespace

void say_libraries_and_wait(AgentState* state) {
  say_and_wait(state, AgentSays::kLibraries, nullptr, 0);
}

void say_exec_and_wait(AgentState* state, uint64_t path) {
  say_and_wait(state, AgentSays::kExec, &path, sizeof(path));
}

void say_forked_and_wait(AgentState* state) {
  const auto self = static_cast<uint32_t>(raw_syscall(SYS_getpid));
  uint32_t seen = state->fork_lock.load(std::memory_order_relaxed);
  if (seen == self || !state->fork_lock.compare_exchange_strong(seen, self)) {
    return;  // asked already, or another thread of this child is asking
  }
  if (!channel_is_ours(state)) {
    return;
  }
  int pair[2] = {-1, -1};
  if (raw_syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, addr(pair)) != 0) {
    return;
  }
  AgentMessage message;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  fill(&message, AgentSays::kForked);
  message.value = message.time_ns;
  // Where the child's own end will stand: as high as the inherited one, which it replaces.
  if (send(state->channel, &message, offsetof(AgentMessage, text), pair[1])) {
    raw_syscall(SYS_close, static_cast<uint64_t>(pair[1]));
    if (wait_for_word(pair[0], message.value)) {
      // The broker has written table and state; the channel's number is ours to put right.
      raw_syscall(SYS_dup3, static_cast<uint64_t>(pair[0]), static_cast<uint64_t>(state->channel),
                  O_CLOEXEC);
      struct stat st{};
      raw_syscall(SYS_fstat, static_cast<uint64_t>(state->channel), addr(&st));
      state->channel_inode = st.st_ino;
    } else {
      state->channel_inode = 0;  // never speak on the parent's channel again
    }
  } else {
    raw_syscall(SYS_close, static_cast<uint64_t>(pair[1]));
  }
  raw_syscall(SYS_close, static_cast<uint64_t>(pair[0]));
}

}  // namespace bpftime
