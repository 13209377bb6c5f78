// The session's place in the file system: one broker a directory. Home: broker's main.
//   lock         held with flock(2) for life; says the pid, for people
//   broker.sock  where loaders and commands connect
//   broker.log   what happened, bounded
#pragma once
#include <cstdint>
#include <string>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace bpftime {

class Place {
 public:
  // Errors: EALREADY another broker lives here; EPERM not our directory.
  static Result<Place> take(const std::string& directory);
  Place(Place&&) = default;
  Place& operator=(Place&&) = delete;
  ~Place();  // removes socket and lock, when they are its own

  [[nodiscard]] int listener() const { return listener_.get(); }
  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  Place() = default;
  std::string directory_;
  UniqueFd lock_, listener_;
};

// Appends lines to a file that never grows beyond `max_bytes`: the older half is kept as FILE.old.
// Of equal or many lines a second at most `kLinesASecond` are written, and the rest counted.
class LogFile {
 public:
  static constexpr uint32_t kLinesASecond = 50;
  LogFile(std::string path, uint64_t max_bytes) : path_(std::move(path)), max_bytes_(max_bytes) {}
  void write(const std::string& line);

 private:
  bool admit(int64_t now_s);
  std::string path_;
  uint64_t max_bytes_;
  UniqueFd file_;
  int64_t second_ = 0;
  uint32_t in_second_ = 0, dropped_ = 0;
};

}  // namespace bpftime
