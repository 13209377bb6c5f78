// Pins: objects that have a name (BPF_OBJ_PIN) and live as long as it does. Home: broker, its one thread.
//
// Where the kernel has a file system of its own (bpffs) a session has a directory of ordinary files: "/sys/fs/bpf/NAME", and
// the directory's own path, name the empty file NAME in it. Who removes the file takes the pin away: the directory is
// watched, and a pin is looked at before it is used. docs/decisions/0006-pins.md.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "broker/event_loop.hpp"
#include "broker/object.hpp"

namespace bpftime {

inline constexpr char kPinsName[] = "pins";  // in the session's directory

class Pins {
 public:
  using Gone = std::vector<std::shared_ptr<Object>>;
  // Empties the directory, which is made at the first pin. `on_removed` is told what has lost a pin.
  Pins(EventLoop* loop, std::string directory, std::function<void(Gone)> on_removed);
  ~Pins();
  Pins(const Pins&) = delete;
  Pins& operator=(const Pins&) = delete;

  // Errors: EPERM not a path of ours, or a name with a dot; EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG as open(2).
  Result<void> add(std::string_view path, const std::shared_ptr<Object>& object);
  // Errors: ENOENT, EACCES there is something else.
  Result<std::shared_ptr<Object>> find(std::string_view path);
  [[nodiscard]] bool empty() const { return pins_.empty(); }
  void clear();
  void look();  // lets go of those whose file is gone, without waiting to be told

 private:
  struct Pin {
    std::shared_ptr<Object> object;
    uint64_t inode;
  };
  Result<std::string> file_of(std::string_view given) const;
  [[nodiscard]] bool is_there(const std::string& file, uint64_t inode) const;
  Result<void> watch(const std::string& file);

  EventLoop* loop_;
  std::string directory_;
  std::function<void(Gone)> on_removed_;
  UniqueFd notify_;
  std::map<std::string, Pin> pins_;  // by the file's path
};

}  // namespace bpftime
