#include "broker/event_loop.hpp"

#include <sys/epoll.h>
#include <time.h>

#include <cerrno>

namespace bpftime {
namespace {
uint64_t now_ms() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000 + static_cast<uint64_t>(t.tv_nsec) / 1000000;
}
}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  auto loop = std::make_unique<EventLoop>();
  loop->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_) {
    return make_error(errno, "epoll_create1");
  }
  return loop;
}

Result<void> EventLoop::add(int fd, uint32_t events, std::function<void(uint32_t)> callback) {
  epoll_event e{};
  e.events = events;
  e.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &e) != 0) {
    return make_error(errno, "epoll_ctl");
  }
  callbacks_[fd] = std::make_shared<std::function<void(uint32_t)>>(std::move(callback));
  return {};
}

void EventLoop::remove(int fd) {
  if (callbacks_.erase(fd) != 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  }
}

uint64_t EventLoop::after(int ms, std::function<void()> callback) {
  const uint64_t id = next_timer_++;
  timers_[{now_ms() + static_cast<uint64_t>(ms), id}] = std::move(callback);
  return id;
}

void EventLoop::cancel(uint64_t timer) {
  for (auto it = timers_.begin(); it != timers_.end(); ++it) {
    if (it->first.second == timer) {
      timers_.erase(it);
      return;
    }
  }
}

void EventLoop::run() {
  running_ = true;
  while (running_) {
    int wait = -1;
    if (!timers_.empty()) {
      const uint64_t now = now_ms();
      const uint64_t due = timers_.begin()->first.first;
      wait = due <= now ? 0 : static_cast<int>(due - now);
    }
    epoll_event events[32];
    const int n = ::epoll_wait(epoll_.get(), events, 32, wait);
    // A callback may have replaced the owner of an fd: each event is looked up by the callback it was for.
    std::shared_ptr<std::function<void(uint32_t)>> found[32];
    for (int i = 0; i < n; i++) {
      const auto it = callbacks_.find(events[i].data.fd);
      found[i] = it == callbacks_.end() ? nullptr : it->second;
    }
    for (int i = 0; i < n && running_; i++) {
      const auto it = callbacks_.find(events[i].data.fd);
      if (found[i] != nullptr && it != callbacks_.end() && it->second == found[i]) {
        (*found[i])(events[i].events);
      }
    }
    while (running_ && !timers_.empty() && timers_.begin()->first.first <= now_ms()) {
      auto callback = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      callback();
    }
  }
}

}  // namespace bpftime
