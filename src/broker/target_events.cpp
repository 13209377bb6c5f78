// What agents say on their channels.
#include "broker/targets_impl.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <utility>

#include "broker/takeout.hpp"
#include "inject/remote_memory.hpp"

namespace bpftime {
namespace {
constexpr uint32_t kMaxChannelsLost =
    16;  // a target that closes our descriptor again and again is let be

}  // namespace

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
      case AgentSays::kWake:
        host->target_said_wake(MapId{static_cast<uint32_t>(message.value)});
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
      case AgentSays::kExec: {
        about_to_exec(t, heard->sender, message);
        const uint64_t word = message.value;
        (void)::send(t->channel.get(), &word, sizeof(word), MSG_NOSIGNAL | MSG_DONTWAIT);
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

}  // namespace bpftime
