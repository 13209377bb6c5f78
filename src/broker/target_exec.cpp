// A target that is about to exec is followed into its next program, if that concerns any link (DESIGN D8).
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "broker/targets_impl.hpp"

namespace bpftime {
namespace {

// What a path names to a process, as it would find it. HOSTILE: any path.
UniqueFd open_as(pid_t pid, const std::string& path) {
  const bool is_absolute = path[0] == '/';
  const std::string from = "/proc/" + std::to_string(pid) + (is_absolute ? "/root" : "/cwd");
  const UniqueFd directory(::open(from.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = is_absolute ? RESOLVE_IN_ROOT : 0;
  return UniqueFd(
      static_cast<int>(::syscall(SYS_openat2, directory.get(), path.c_str(), &how, sizeof(how))));
}

// A program there that gives no rights: who is traced would not get them.
bool is_plain_program(pid_t pid, const std::string& path) {
  const UniqueFd file = path.empty() ? UniqueFd() : open_as(pid, path);
  struct stat st{};
  if (!file || ::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0) {
    return false;
  }
  const std::string name = "/proc/self/fd/" + std::to_string(file.get());
  return (st.st_mode & (S_ISUID | S_ISGID)) == 0 &&
         ::getxattr(name.c_str(), "security.capability", nullptr, 0) <= 0;
}

std::string read_path(pid_t pid, const AgentMessage& message) {
  uint64_t at = 0;
  if (message.text_bytes != sizeof(at)) {
    return "";
  }
  std::memcpy(&at, message.text, sizeof(at));
  std::array<char, 4096> text{};
  const size_t bytes =
      read_memory_part(pid, RemoteAddr{at}, std::as_writable_bytes(std::span(text)));
  const size_t length = ::strnlen(text.data(), bytes);
  return length < bytes ? std::string(text.data(), length) : "";
}

}  // namespace

// `sender` waits for our answer: the target itself, or its vfork child, which speaks on its channel.
void Targets::Impl::about_to_exec(TargetProcess* t, pid_t sender, const AgentMessage& message) {
  if (!t->follows || sender <= 0 || starting.contains(sender)) {
    return;
  }
  const auto links = host->wanted_links();
  const bool is_wanted = std::any_of(
      links.begin(), links.end(), [&](const WantedLink& link) { return link.applies_to(sender); });
  if (!is_wanted || !is_plain_program(sender, read_path(sender, message))) {
    return;
  }
  const auto held = attach_at_exec(sender, true, Why::kFollowed);
  if (!held) {
    host->log("process " + std::to_string(sender) +
              " is not followed into its next program: " + held.error().why);
  }
}

// It has not exec'ed yet, or could not: it is needed as it is.
void Targets::Impl::let_go_before_exec(pid_t pid) {
  const auto it = starting.find(pid);
  if (it != starting.end() && it->second.why == Why::kFollowed) {
    const auto state = it->second.held.step();
    if (!state || *state == HeldState::kBeforeExec) {
      starting.erase(it);
    }
  }
}

}  // namespace bpftime
