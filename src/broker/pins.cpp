#include "broker/pins.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>
#include <vector>

namespace bpftime {
namespace {

constexpr std::string_view kKernelsRoot = "/sys/fs/bpf";
constexpr size_t kMostPins = 4096;

// Kernel v6.18 kernel/bpf/inode.c: bpf_lookup: names with a dot are kept for later.
Result<void> check_names(std::string_view names) {
  if (names.empty() || names.find('.') != std::string_view::npos) {
    return make_error(EPERM, "no name, or one with a dot");
  }
  return {};
}

}  // namespace

Pins::Pins(EventLoop* loop, std::string directory, std::function<void(Gone)> on_removed)
    : loop_(loop), directory_(std::move(directory)), on_removed_(std::move(on_removed)) {
  clear();
}

Pins::~Pins() { clear(); }

void Pins::clear() {
  if (notify_) {
    loop_->remove(notify_.get());
    notify_.reset();
  }
  for (auto& [file, pin] : pins_) {
    pin.object->pins--;
  }
  pins_.clear();
  std::error_code ignored;
  if (!directory_.empty()) {
    std::filesystem::remove_all(directory_, ignored);
  }
}

Result<std::string> Pins::file_of(std::string_view given) const {
  if (directory_.empty()) {
    return make_error(EPERM, "this session has no pins");
  }
  const std::string path = std::filesystem::path(given).lexically_normal();
  for (const std::string_view root : {kKernelsRoot, std::string_view(directory_)}) {
    if (path.size() > root.size() && path.starts_with(root) && path[root.size()] == '/') {
      const auto names = std::string_view(path).substr(root.size() + 1);
      TRY(check_names(names));
      return directory_ + "/" + std::string(names);
    }
  }
  return make_error(EPERM, "not a path for pins");
}

bool Pins::is_there(const std::string& file, uint64_t inode) const {
  struct stat st{};
  return ::lstat(file.c_str(), &st) == 0 && st.st_ino == inode;
}

Result<void> Pins::watch(const std::string& file) {
  if (!notify_) {
    notify_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!notify_) {
      return make_error(errno, "inotify");
    }
    TRY(loop_->add(notify_.get(), EPOLLIN, [this](uint32_t) {
      char events[4096];
      while (::read(notify_.get(), events, sizeof(events)) > 0) {
      }
      look();
    }));
  }
  const std::string parent = file.substr(0, file.rfind('/'));
  return ::inotify_add_watch(notify_.get(), parent.c_str(),
                             IN_DELETE | IN_MOVED_FROM | IN_MOVE_SELF) < 0
             ? Result<void>(make_error(errno, "inotify_add_watch"))
             : Result<void>{};
}

Result<void> Pins::add(std::string_view path, const std::shared_ptr<Object>& object) {
  const std::string file = TRY(file_of(path));
  look();
  if (pins_.size() >= kMostPins) {
    return make_error(ENOSPC, "too many pins");
  }
  if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) {
    return make_error(errno, "cannot make the directory of pins");
  }
  const UniqueFd made(::open(file.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  struct stat st{};
  if (!made || ::fstat(made.get(), &st) != 0) {
    return make_error(errno, "cannot make the pin");
  }
  if (auto watched = watch(file); !watched) {
    ::unlink(file.c_str());
    return watched;
  }
  object->pins++;
  pins_[file] = {object, st.st_ino};
  return {};
}

Result<std::shared_ptr<Object>> Pins::find(std::string_view path) {
  const auto file = file_of(path);
  look();
  if (file) {
    if (const auto pin = pins_.find(*file); pin != pins_.end()) {
      return pin->second.object;
    }
  }
  struct stat st{};
  const bool exists = ::stat(file ? file->c_str() : std::string(path).c_str(), &st) == 0;
  return make_error(exists ? EACCES : ENOENT, "no pin there");
}

void Pins::look() {
  Gone gone;
  for (auto it = pins_.begin(); it != pins_.end();) {
    if (is_there(it->first, it->second.inode)) {
      ++it;
    } else {
      gone.push_back(std::move(it->second.object));
      it = pins_.erase(it);
    }
  }
  for (const auto& object : gone) {
    object->pins--;
  }
  if (!gone.empty()) {
    on_removed_(std::move(gone));
  }
}

}  // namespace bpftime
