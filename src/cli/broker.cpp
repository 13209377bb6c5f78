#include "cli/broker.hpp"

#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <vector>

#include "cli/invocation.hpp"

namespace bpftime::cli {
namespace {

constexpr int kAnswerMs = 60'000;

// Root in a user's directories: as that user, so that what is made there is the user's, and nothing that the user puts
// there leads root anywhere else.
class ActingAs {
 public:
  ActingAs(uid_t uid, gid_t gid) : uid_(uid), gid_(gid) {}
  Result<void> begin() {
    const int count = ::getgroups(0, nullptr);
    groups_.resize(count > 0 ? static_cast<size_t>(count) : 0);
    if (count < 0 || ::getgroups(count, groups_.data()) != count) {
      return make_error(errno, "getgroups");
    }
    const passwd* const user = ::getpwuid(uid_);  // NOLINT(concurrency-mt-unsafe): one thread
    const int joined = user != nullptr ? ::initgroups(user->pw_name, gid_) : ::setgroups(1, &gid_);
    if (joined != 0 || ::setegid(gid_) != 0 || ::seteuid(uid_) != 0) {
      return make_error(errno, "cannot act as the user who called sudo");
    }
    return {};
  }
  ~ActingAs() {
    if (::seteuid(0) != 0 || ::setegid(0) != 0 ||
        ::setgroups(groups_.size(), groups_.data()) != 0) {
      ::_exit(1);
    }
  }
  ActingAs(const ActingAs&) = delete;
  ActingAs& operator=(const ActingAs&) = delete;

 private:
  uid_t uid_;
  gid_t gid_;
  std::vector<gid_t> groups_;
};

// Runs bpftimed, which goes to the background and says by its exit status whether it serves.
Result<void> start_broker(const Surroundings& here, const std::string& directory) {
  const std::string file = here.broker_file();
  const pid_t child = ::fork();
  if (child < 0) {
    return make_error(errno, "fork");
  }
  if (child == 0) {
    // For good. The groups are that user's already.
    if (::getuid() == 0 && here.uid != 0 &&
        (::seteuid(0) != 0 || ::setresgid(here.gid, here.gid, here.gid) != 0 ||
         ::setresuid(here.uid, here.uid, here.uid) != 0)) {
      ::_exit(1);
    }
    ::execl(file.c_str(), "bpftimed", "--session-dir", directory.c_str(), "--idle-ms",
            here.idle_ms.c_str(), nullptr);
    std::fprintf(stderr, "bpftime: cannot run %s: %s; is bpftime installed whole?\n", file.c_str(),
                 std::strerror(errno));
    ::_exit(1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return make_error(ECONNREFUSED, "the broker did not start");
  }
  return {};
}

Result<void> greet(Channel* channel, Role role) {
  Request request;
  request.kind = MessageKind::kHello;
  request.serial = channel->serial++;
  request.args[0] = static_cast<int64_t>(role);
  const Reply reply = TRY(call(channel->fd.get(), request, kAnswerMs));
  if (reply.value != 0 || reply.output.size() < sizeof(Welcome)) {
    return make_error(EPROTO, "the broker is of another version");
  }
  std::memcpy(&channel->welcome, reply.output.data(), sizeof(Welcome));
  return {};
}

}  // namespace

std::string Surroundings::library(const std::string& name) const {
  const std::string installed = bin_dir + "/../lib/bpftime/" + name;
  return ::access(installed.c_str(), R_OK) == 0 ? installed : bin_dir + "/../lib/" + name;
}

Surroundings for_process(const Surroundings& here, pid_t pid) {
  // The kernel gives the files of a process that its user may not trace to root (proc(5)): by root's own broker then.
  struct stat st{};
  if (!here.is_sudo || ::stat(("/proc/" + std::to_string(pid) + "/environ").c_str(), &st) != 0 ||
      st.st_uid != here.sudo_uid) {
    return here;
  }
  Surroundings theirs = here;
  theirs.uid = here.sudo_uid;
  theirs.gid = here.sudo_gid;
  theirs.runtime_dir = here.sudo_runtime_dir;
  return theirs;
}

Result<Channel> reach_broker(const Surroundings& here, Role role, bool start) {
  Channel channel;
  std::optional<ActingAs> user;
  if (here.uid != ::geteuid()) {
    user.emplace(here.uid, here.gid);
    TRY(user->begin());
  }
  channel.directory = TRY(session_directory(here.runtime_dir, here.uid, here.session));
  const std::string socket = channel.directory + "/" + kSocketName;
  Error last = make_error(ENOENT, "no broker runs");
  // A broker may be leaving just when we come: then the next one is asked.
  for (int tries = 0; tries < 5; tries++) {
    auto fd = connect_to(socket);
    if (fd) {
      channel.fd = std::move(fd).value();
      auto greeted = greet(&channel, role);
      if (greeted) {
        return channel;
      }
      last = greeted.error();
      if (last.code != EPIPE) {
        return last;
      }
      continue;
    }
    last = fd.error();
    if (last.code != ENOENT && last.code != ECONNREFUSED) {
      return last;
    }
    if (!start) {
      return make_error(ENOENT, "no broker runs");
    }
    TRY(start_broker(here, channel.directory));
  }
  return last;
}

Result<Reply> ask(Channel* channel, MessageKind kind, const int64_t (&args)[4], std::string* why) {
  Request request;
  request.kind = kind;
  request.serial = channel->serial++;
  std::memcpy(request.args, args, sizeof(args));
  auto reply = call(channel->fd.get(), request, kAnswerMs);
  if (!reply) {
    *why = reply.error().code == EPIPE ? "the broker ended" : reply.error().why;
    return reply;
  }
  if (reply->value < 0) {
    const auto& text = reply->output;
    why->assign(reinterpret_cast<const char*>(text.data()), text.size());
    return make_error(static_cast<int>(-reply->value), "refused");
  }
  return reply;
}

Result<Reply> call_broker(Channel* channel, Request request) {
  request.serial = channel->serial++;
  Reply reply = TRY(call(channel->fd.get(), request, kAnswerMs));
  if (reply.value < 0) {
    return make_error(static_cast<int>(-reply.value), "refused");
  }
  return reply;
}

int complain(const std::string& what, const std::string& why, const std::string& to_do) {
  std::fprintf(stderr, "bpftime: %s: %s%s%s\n", what.c_str(), why.c_str(),
               to_do.empty() ? "" : "; ", to_do.c_str());
  return kExitFailed;
}

int complain(const std::string& what, const Error& error, const std::string& why, pid_t pid) {
  std::string reason = why.empty() ? error.why : why;
  std::string to_do;
  const std::string doctor =
      pid > 0 ? "see bpftime doctor " + std::to_string(pid) : "see bpftime doctor";
  switch (error.code) {
    case ESRCH:
      to_do = "see bpftime status for targets, ps for processes";
      break;
    case EPERM:
    case EACCES:
      to_do = doctor + ", or try as the owner of the process or as root";
      break;
    case EBUSY:
      to_do = "end the debugger or tracer of that process first";
      break;
    case ETIMEDOUT:
      to_do = "try again when the process is not stopped";
      break;
    case ENOENT:
    case ECONNREFUSED:
      to_do = "bpftime load or attach starts one";
      break;
    default:
      reason += std::string(" (") + std::strerror(error.code) + ")";
      to_do = doctor;
      break;
  }
  return complain(what, reason, to_do);
}

}  // namespace bpftime::cli
