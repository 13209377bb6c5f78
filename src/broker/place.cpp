#include "broker/place.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "abi/messages.hpp"
#include "ipc/channel.hpp"

namespace bpftime {
namespace {

constexpr char kLockName[] = "lock";

// A lock file may be unlinked by the broker that leaves while we wait for it: what we hold must be
// what is there.
Result<UniqueFd> take_lock(const std::string& path) {
  for (int tries = 0; tries < 10; tries++) {
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) {
      return make_error(errno, "cannot open the lock file");
    }
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      return make_error(errno == EWOULDBLOCK ? EALREADY : errno, "another broker lives here");
    }
    struct stat ours{};
    struct stat there{};
    if (::fstat(fd.get(), &ours) == 0 && ::stat(path.c_str(), &there) == 0 &&
        ours.st_ino == there.st_ino && ours.st_dev == there.st_dev) {
      return fd;
    }
  }
  return make_error(EAGAIN, "the lock file keeps changing");
}

}  // namespace

Result<Place> Place::take(const std::string& directory) {
  struct stat st{};
  if (::lstat(directory.c_str(), &st) != 0) {
    return make_error(errno, "no session directory");
  }
  if (!S_ISDIR(st.st_mode) || st.st_uid != ::geteuid() || (st.st_mode & 0077) != 0) {
    return make_error(EPERM, "the session directory is not ours alone");
  }
  Place place;
  place.lock_ = TRY(take_lock(directory + "/" + kLockName));
  place.directory_ = directory;
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(place.lock_.get(), 0) != 0 ||
      ::write(place.lock_.get(), pid.data(), pid.size()) < 0) {
    return make_error(errno, "cannot write the lock file");
  }
  const std::string socket_path = directory + "/" + kSocketName;
  // Only the holder of the lock comes here: a socket that is there belongs to a dead broker.
  if (::unlink(socket_path.c_str()) != 0 && errno != ENOENT) {
    return make_error(errno, "cannot remove a dead broker's socket");
  }
  place.listener_ = TRY(listen_at(socket_path));
  return place;
}

Place::~Place() {
  if (!lock_) {
    return;
  }
  ::unlink((directory_ + "/" + kSocketName).c_str());
  ::unlink((directory_ + "/" + kLockName).c_str());
}

bool LogFile::admit(int64_t now_s) {
  if (now_s != second_) {
    second_ = now_s;
    in_second_ = 0;
  }
  if (++in_second_ > kLinesASecond) {
    dropped_++;
    return false;
  }
  return true;
}

void LogFile::write(const std::string& line) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  if (!admit(now.tv_sec)) {
    return;
  }
  if (!file_) {
    file_.reset(
        ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  }
  struct stat st{};
  if (file_ && ::fstat(file_.get(), &st) == 0 &&
      static_cast<uint64_t>(st.st_size) > max_bytes_ / 2) {
    ::rename(path_.c_str(), (path_ + ".old").c_str());
    file_.reset(
        ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  }
  tm parts{};
  ::localtime_r(&now.tv_sec, &parts);
  char stamp[128];
  std::snprintf(stamp, sizeof(stamp), "%04d-%02d-%02d %02d:%02d:%02d.%03ld ", parts.tm_year + 1900,
                parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                now.tv_nsec / 1000000);
  std::string text = stamp;
  if (dropped_ != 0) {
    text += "(" + std::to_string(dropped_) + " lines left out) ";
    dropped_ = 0;
  }
  for (const char c : line.substr(0, 1000)) {
    text += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  text += '\n';
  if (file_ && ::write(file_.get(), text.data(), text.size()) < 0) {
    file_.reset();
  }
}

}  // namespace bpftime
