// bpftime prog|map|link|target list.
#include <cerrno>
#include <cstdio>

#include <linux/bpf.h>
#include <unistd.h>

#include "cli/commands.hpp"

namespace bpftime::cli {

int run_list(const Surroundings& here, const Invocation& invocation) {
  auto broker = reach_broker(here, Role::kCommand, false);
  if (!broker) {
    if (broker.error().code != ENOENT) {
      return complain("list", broker.error(), "", 0);
    }
    std::puts(invocation.json ? "[]" : "no broker runs: nothing is loaded, nothing is attached");
    return 0;
  }
  std::string why;
  UniqueFd statistics;  // as long as it is open, hits are counted and timed
  if (invocation.seconds > 0) {
    Request request;
    request.kind = MessageKind::kBpf;
    request.command = BPF_ENABLE_STATS;
    request.attr.resize(kAttrBytes);  // BPF_STATS_RUN_TIME is 0
    auto enabled = call_broker(&*broker, std::move(request));
    if (!enabled) {
      return complain("list --for", enabled.error(), "", 0);
    }
    statistics = std::move(enabled->fd);
    ::usleep(static_cast<useconds_t>(invocation.seconds * 1e6));
  }
  const auto listing = static_cast<int64_t>(invocation.listing);
  auto reply = ask(&*broker, MessageKind::kList, {listing, 0, 0, invocation.json ? 1 : 0}, &why);
  if (!reply) {
    return complain("list", reply.error(), why, 0);
  }
  std::fwrite(reply->output.data(), 1, reply->output.size(), stdout);
  return 0;
}

}  // namespace bpftime::cli
