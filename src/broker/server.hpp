// Server: the connections of a session. Home: broker, its one thread.
// Whoever connects is believed in its uid and pid only, which the kernel says (SO_PEERCRED). A
// packet that is not well formed ends its connection and nothing else.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/unique_fd.hpp"
#include "broker/event_loop.hpp"
#include "broker/session.hpp"

namespace bpftime {

class Server {
 public:
  struct Config {
    uid_t uid = 0;       // whom the broker serves; root may connect too
    int idle_ms = 3000;  // after this long without any use, once it was used, the loop is stopped
    uint32_t cpu_count = 1;
    uint32_t uprobe_type = 8;
    size_t max_connections = 1024;
  };
  Server(EventLoop* loop, Session* session, Config config);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // `listener` stays the caller's. Errors: of epoll_ctl.
  Result<void> serve(int listener);
  // Takes over a connected socket; what accept gives, and what tests make with socketpair.
  Result<void> adopt(UniqueFd channel);
  [[nodiscard]] size_t connection_count() const { return connections_.size(); }
  // Detaches all and stops the loop.
  void shut_down();

 private:
  struct Connection {
    UniqueFd channel;
    Caller caller;
    bool said_hello = false;
    size_t unanswered = 0;
  };
  // A process that `bpftime load` became, and its children: what it wants, and that it may still
  // need us.
  struct Announced {
    UniqueFd pidfd;
    uint64_t options = 0;
  };
  void accept_all(int listener);
  void readable(int fd, uint64_t key);
  void handle(int fd, Request&& request);
  void answer(int fd, uint64_t key, uint64_t serial, const Reply& reply);
  void close_connection(int fd, const char* why);
  Result<Reply> hello(Connection* connection, const Request& request);
  Result<Reply> announce(const Connection& connection, const Request& request);
  [[nodiscard]] uint64_t options_of(pid_t pid) const;
  void look_for_idleness();

  EventLoop* loop_;
  Session* session_;
  Config config_;
  int listener_ = -1;
  std::map<int, Connection> connections_;
  std::map<pid_t, Announced> announced_;
  uint64_t next_key_ = 1;
  bool was_used_ = false;
  uint32_t next_owner_ = 1;  // of loaders; targets count from kFirstTargetOwner
  uint64_t idle_timer_ = 0, pause_timer_ = 0;
};

inline constexpr uint32_t kFirstTargetOwner = 1U << 30;

}  // namespace bpftime
