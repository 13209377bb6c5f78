// The way to the broker: where its session is, starting it, asking it. Home: bpftime(1).
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>

#include "abi/messages.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "ipc/channel.hpp"

namespace bpftime::cli {

// What main knows of the surroundings; read once (DESIGN D13).
struct Surroundings {
  std::string bin_dir;      // where this program lies
  std::string runtime_dir;  // $XDG_RUNTIME_DIR, may be empty
  std::string home;         // $HOME
  uid_t uid = 0;            // whose session
  gid_t gid = 0;
  bool is_sudo = false;  // root for another user: uid is still root's own
  uid_t sudo_uid = 0;
  gid_t sudo_gid = 0;
  std::string sudo_runtime_dir;
  std::string session;
  std::string idle_ms;
  bool attach = true;
  bool unverified = false;
  VerifierChoice verifier = VerifierChoice::kOurs;

  [[nodiscard]] std::string broker_file() const { return bin_dir + "/bpftimed"; }
  [[nodiscard]] std::string shim_file() const { return library("libbpftime-shim.so"); }
  [[nodiscard]] std::string agent_file() const { return library("bpftime-agent.so"); }
  // In lib/bpftime where installed, in lib where built.
  [[nodiscard]] std::string library(const std::string& name) const;
};

// The same, with the session of the user who called sudo when `pid` is one of that user's processes
// (DESIGN D1).
Surroundings for_process(const Surroundings& here, pid_t pid);

struct Channel {
  UniqueFd fd;
  Welcome welcome{};
  uint64_t serial = 1;
  std::string directory;
};

// Errors: ENOENT when none runs and `start` is false; those of starting it, which were printed.
Result<Channel> reach_broker(const Surroundings& here, Role role, bool start);

// A request of the command line and its answer. -errno in the reply becomes an Error; *why gets the
// broker's words.
Result<Reply> ask(Channel* channel, MessageKind kind, const int64_t (&args)[4], std::string* why);
inline Result<Reply> ask(Channel* channel, MessageKind kind, int64_t arg, std::string* why) {
  return ask(channel, kind, {arg, 0, 0, 0}, why);
}

// Any request; -errno in the reply becomes an Error.
Result<Reply> call_broker(Channel* channel, Request request);

// `bpftime: what: why; what to do`. Returns kExitFailed.
int complain(const std::string& what, const std::string& why, const std::string& to_do);
// The same for an errno, with what helps against it. `pid` 0 = no process concerned.
int complain(const std::string& what, const Error& error, const std::string& why, pid_t pid);

}  // namespace bpftime::cli
