#include "broker/target_control.hpp"

#include <cerrno>
#include <utility>

namespace bpftime {
namespace {

class RealTargets : public TargetControl {
 public:
  RealTargets(EventLoop* loop, TargetHost* host, Targets::Config config)
      : has_agent_(!config.agent_file.empty()), targets_(loop, host, std::move(config)) {}
  Result<void> attach(pid_t pid) override {
    TRY(need_agent());
    return targets_.attach(pid);
  }
  Result<void> attach_at_exec(pid_t pid, bool follows) override {
    TRY(need_agent());
    return targets_.attach_at_exec(pid, follows);
  }
  Result<void> detach(pid_t pid) override { return targets_.detach(pid); }
  void detach_all() override { targets_.detach_all(); }
  Result<void> sync(const LinkId* concerning) override { return targets_.sync(concerning); }
  [[nodiscard]] bool has(pid_t pid) const override { return targets_.has(pid); }
  [[nodiscard]] size_t count() const override { return targets_.count(); }
  [[nodiscard]] std::vector<TargetStatus> status() override { return targets_.status(); }
  [[nodiscard]] std::map<LinkId, RunTotals> runs() override { return targets_.runs(); }
  uint32_t recover_orphans() override { return targets_.recover_orphans(); }

 private:
  [[nodiscard]] Result<void> need_agent() const {
    if (!has_agent_) {
      return make_error(ENOPKG, "the agent is not installed");
    }
    return {};
  }
  bool has_agent_;
  Targets targets_;
};

}  // namespace

std::unique_ptr<TargetControl> make_targets(EventLoop* loop, TargetHost* host,
                                            Targets::Config config) {
  return std::make_unique<RealTargets>(loop, host, std::move(config));
}

}  // namespace bpftime
