// TargetControl: what the session asks of Targets. Home: broker, its one thread. An interface, so
// that sessions are tested without a process to patch.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "broker/target.hpp"

namespace bpftime {

class TargetControl {
 public:
  virtual ~TargetControl() = default;
  virtual Result<void> attach(pid_t pid) = 0;
  virtual Result<void> attach_at_exec(pid_t pid, bool follows) = 0;
  virtual Result<void> detach(pid_t pid) = 0;
  virtual void detach_all() = 0;
  virtual Result<void> sync(const LinkId* concerning) = 0;
  [[nodiscard]] virtual bool has(pid_t pid) const = 0;
  [[nodiscard]] virtual size_t count() const = 0;
  [[nodiscard]] virtual std::vector<TargetStatus> status() = 0;
  [[nodiscard]] virtual std::map<LinkId, RunTotals> runs() { return {}; }
  virtual uint32_t recover_orphans() = 0;
};

// The real ones.
std::unique_ptr<TargetControl> make_targets(EventLoop* loop, TargetHost* host,
                                            Targets::Config config);

}  // namespace bpftime
