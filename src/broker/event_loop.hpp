// EventLoop: epoll, timers, one thread. Home: broker. Callbacks may add and remove fds, also their own; a callback of
// an fd removed in the same round is not run.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace bpftime {

class EventLoop {
 public:
  static Result<std::unique_ptr<EventLoop>> create();
  // `events` as for epoll (EPOLLIN...); fd stays the caller's, who calls remove() before closing it.
  Result<void> add(int fd, uint32_t events, std::function<void(uint32_t events)> callback);
  void remove(int fd);
  // Runs `callback` once after `ms`. Returns a number for cancel().
  uint64_t after(int ms, std::function<void()> callback);
  void cancel(uint64_t timer);
  void run();  // until stop()
  void stop() { running_ = false; }

 private:
  UniqueFd epoll_;
  std::map<int, std::shared_ptr<std::function<void(uint32_t)>>> callbacks_;
  std::map<std::pair<uint64_t, uint64_t>, std::function<void()>> timers_;  // (due, id)
  uint64_t next_timer_ = 1;
  bool running_ = false;
};

}  // namespace bpftime
