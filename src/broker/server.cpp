#include "broker/server.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "kernel/kernel_verifier.hpp"

namespace bpftime {
namespace {

constexpr int kFirstUseMs = 3000;  // at least so long whoever started us may take to come
constexpr size_t kMaxAnnounced = 4096;
constexpr int kMaxAncestors = 64;
constexpr size_t kMaxUnanswered = 16;
constexpr int kPauseMs = 100;

// 0 = none, or not known.
pid_t parent_of(pid_t pid) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/status", pid);
  UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  char text[2048];
  const ssize_t n = file ? ::read(file.get(), text, sizeof(text) - 1) : -1;
  if (n <= 0) {
    return 0;
  }
  text[n] = 0;
  const char* line = std::strstr(text, "\nPPid:");
  return line == nullptr ? 0 : static_cast<pid_t>(std::strtol(line + 6, nullptr, 10));
}

}  // namespace

Server::Server(EventLoop* loop, Session* session, Config config)
    : loop_(loop), session_(session), config_(config) {
  session_->on_change([this] { look_for_idleness(); });
}

Server::~Server() {
  session_->on_change(nullptr);
  if (listener_ >= 0 && pause_timer_ == 0) {
    loop_->remove(listener_);
  }
  for (auto& [fd, connection] : connections_) {
    loop_->remove(fd);
  }
  for (auto& [pid, announced] : announced_) {
    loop_->remove(announced.pidfd.get());
  }
  for (const uint64_t timer : {idle_timer_, pause_timer_}) {
    if (timer != 0) {
      loop_->cancel(timer);
    }
  }
}

Result<void> Server::serve(int listener) {
  TRY(loop_->add(listener, EPOLLIN, [this, listener](uint32_t) { accept_all(listener); }));
  listener_ = listener;
  look_for_idleness();
  return {};
}

void Server::accept_all(int listener) {
  for (int i = 0; i < 64; i++) {
    UniqueFd channel(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!channel) {
      if (errno == EMFILE || errno == ENFILE) {
        // Whoever waits is still there later; until then the loop must not spin.
        session_->log("no fd left for a connection");
        if (pause_timer_ == 0 && listener_ >= 0) {
          loop_->remove(listener_);
          pause_timer_ = loop_->after(kPauseMs, [this] {
            pause_timer_ = 0;
            auto again =
                loop_->add(listener_, EPOLLIN, [this](uint32_t) { accept_all(listener_); });
            if (!again) {
              session_->log("no connections any more: epoll refuses");
            }
          });
        }
      }
      return;
    }
    auto adopted = adopt(std::move(channel));
    if (!adopted) {
      session_->log(std::string("connection refused: ") + adopted.error().why);
    }
  }
}

Result<void> Server::adopt(UniqueFd channel) {
  ucred peer{};
  socklen_t bytes = sizeof(peer);
  if (::getsockopt(channel.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
    return make_error(errno, "SO_PEERCRED");
  }
  if (peer.uid != config_.uid && peer.uid != 0) {
    return make_error(EPERM, "another user's");
  }
  if (connections_.size() >= config_.max_connections) {
    return make_error(EMFILE, "too many connections");
  }
  const int fd = channel.get();
  Connection connection;
  connection.channel = std::move(channel);
  connection.caller.key = next_key_++;
  connection.caller.pid = peer.pid;
  connection.caller.uid = peer.uid;
  const uint64_t key = connection.caller.key;
  TRY(loop_->add(fd, EPOLLIN | EPOLLRDHUP, [this, fd, key](uint32_t) { readable(fd, key); }));
  connections_[fd] = std::move(connection);
  look_for_idleness();
  return {};
}

void Server::readable(int fd, uint64_t key) {
  // A few packets a turn: one connection does not keep the others waiting.
  for (int i = 0; i < 4; i++) {
    const auto it = connections_.find(fd);
    if (it == connections_.end() || it->second.caller.key != key) {
      return;
    }
    auto packet = receive_packet(fd, 0);
    if (!packet) {
      if (packet.error().code != EAGAIN) {
        close_connection(fd, packet.error().code == EPIPE ? nullptr : packet.error().why);
      }
      return;
    }
    auto request = parse_request(std::move(packet).value());
    if (!request) {
      close_connection(fd, request.error().why);
      return;
    }
    if (++it->second.unanswered > kMaxUnanswered) {
      close_connection(fd, "asks without waiting for answers");
      return;
    }
    handle(fd, std::move(request).value());
  }
}

void Server::handle(int fd, Request&& request) {
  Connection& connection = connections_.at(fd);
  const uint64_t key = connection.caller.key;
  const uint64_t serial = request.serial;
  const auto reply_with = [&](Result<Reply> result) {
    Reply reply;
    if (result) {
      reply = std::move(result).value();
    } else {
      reply.value = -int64_t{result.error().code};
    }
    answer(fd, key, serial, reply);
  };
  switch (request.kind) {
    case MessageKind::kHello:
      reply_with(hello(&connection, request));
      return;
    case MessageKind::kOptions:
      reply_with(announce(connection, request));
      return;
    case MessageKind::kShutdown:
      session_->log("told to shut down");
      session_->shut_down();
      reply_with(Reply{});
      loop_->stop();
      return;
    case MessageKind::kReply:
      close_connection(fd, "answers instead of asking");
      return;
    default:
      break;
  }
  if (!connection.said_hello) {
    close_connection(fd, "no hello");
    return;
  }
  session_->handle(connection.caller, std::move(request),
                   [this, fd, key, serial](Reply&& reply) { answer(fd, key, serial, reply); });
}

void Server::answer(int fd, uint64_t key, uint64_t serial, const Reply& reply) {
  const auto it = connections_.find(fd);
  if (it == connections_.end() || it->second.caller.key != key) {
    return;  // gone while a program was compiled; what the reply holds ends with it
  }
  it->second.unanswered--;
  auto sent = send_reply(fd, serial, reply, 0);
  if (!sent) {
    close_connection(fd, sent.error().code == EPIPE ? nullptr : "does not read its answers");
  }
}

void Server::close_connection(int fd, const char* why) {
  const auto it = connections_.find(fd);
  if (it == connections_.end()) {
    return;
  }
  if (why != nullptr) {
    session_->log("connection of process " + std::to_string(it->second.caller.pid) +
                  " closed: " + why);
  }
  loop_->remove(fd);
  connections_.erase(it);
  look_for_idleness();
}

Result<Reply> Server::hello(Connection* connection, const Request& request) {
  if (request.args[0] != static_cast<int64_t>(Role::kLoader) &&
      request.args[0] != static_cast<int64_t>(Role::kCommand)) {
    return make_error(EPROTO, "no such role");
  }
  if (!connection->said_hello) {
    connection->said_hello = true;
    connection->caller.owner = OwnerId{next_owner_++};
    const uint64_t options = options_of(connection->caller.pid);
    connection->caller.no_attach = (options & kOptionNoAttach) != 0;
    connection->caller.unverified = (options & kOptionUnverified) != 0;
    connection->caller.verifier = verifier_of(options);
  }
  Welcome welcome{};
  welcome.owner = raw(connection->caller.owner);
  welcome.cpu_count = config_.cpu_count;
  welcome.broker_pid = static_cast<uint32_t>(::getpid());
  welcome.uprobe_type = config_.uprobe_type;
  Reply reply;
  const auto bytes = std::as_bytes(std::span(&welcome, 1));
  reply.output.assign(bytes.begin(), bytes.end());
  return reply;
}

Result<Reply> Server::announce(const Connection& connection, const Request& request) {
  const auto options = static_cast<uint64_t>(request.args[0]);
  const uint64_t kernel_bits = options & (kOptionVerifierKernel | kOptionVerifierBoth);
  if ((options & ~kKnownOptions) != 0 || (kernel_bits & (kernel_bits - 1)) != 0) {
    return make_error(EINVAL, "no such option");
  }
  if (kernel_bits != 0) {
    TRY(KernelVerifier::available());
  }
  if (announced_.size() >= kMaxAnnounced) {
    return make_error(ENOMEM, "too many loaders");
  }
  const pid_t pid = connection.caller.pid;
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) {
    return make_error(errno, "pidfd_open");
  }
  const auto old = announced_.find(pid);
  if (old != announced_.end()) {
    loop_->remove(old->second.pidfd.get());
    announced_.erase(old);
  }
  TRY(loop_->add(pidfd.get(), EPOLLIN, [this, pid](uint32_t) {
    const auto it = announced_.find(pid);
    if (it != announced_.end()) {
      loop_->remove(it->second.pidfd.get());
      announced_.erase(it);
      look_for_idleness();
    }
  }));
  announced_[pid] = Announced{std::move(pidfd), options};
  return Reply{};
}

uint64_t Server::options_of(pid_t pid) const {
  for (int i = 0; i < kMaxAncestors && pid > 1 && !announced_.empty(); i++) {
    const auto it = announced_.find(pid);
    if (it != announced_.end()) {
      return it->second.options;
    }
    pid = parent_of(pid);
  }
  return 0;
}

void Server::look_for_idleness() {
  const bool unused = connections_.empty() && announced_.empty() && session_->is_unused();
  if (!unused) {
    was_used_ = true;
    if (idle_timer_ != 0) {
      loop_->cancel(idle_timer_);
      idle_timer_ = 0;
    }
    return;
  }
  if (idle_timer_ == 0) {
    const int wait_ms = was_used_ ? config_.idle_ms : std::max(config_.idle_ms, kFirstUseMs);
    idle_timer_ = loop_->after(wait_ms, [this] {
      idle_timer_ = 0;
      // Somebody may be knocking, and a target's end may not have been told.
      if (listener_ >= 0) {
        accept_all(listener_);
      }
      if (connections_.empty() && announced_.empty() && session_->is_unused()) {
        session_->log("unused; leaving");
        loop_->stop();
      }
    });
  }
}

void Server::shut_down() {
  session_->shut_down();
  loop_->stop();
}

}  // namespace bpftime
