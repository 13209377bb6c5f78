// bpftime(1): everything that comes from outside (flags, files, environment) enters here, once.
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cli/commands.hpp"

namespace bpftime::cli {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string own_directory() {
  char path[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (n <= 0) {
    return ".";
  }
  path[n] = 0;
  *std::strrchr(path, '/') = 0;
  return path;
}

bool belongs_to(const std::string& directory, uid_t uid) {
  struct stat st{};
  return !directory.empty() && ::stat(directory.c_str(), &st) == 0 && st.st_uid == uid;
}

// A user's or group's number; the last one means "leave it" to setuid(2) and its kin.
bool read_id(const std::string& text, uint32_t* id) {
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, *id);
  return read.ec == std::errc() && read.ptr == end && *id != UINT32_MAX;
}

Surroundings look_around(const Config& config) {
  Surroundings here;
  here.bin_dir = own_directory();
  here.uid = ::geteuid();
  here.gid = ::getegid();
  here.home = environment("HOME");
  const std::string runtime_dir = environment("XDG_RUNTIME_DIR");
  // su and the like keep it, although it is another user's.
  if (belongs_to(runtime_dir, here.uid)) {
    here.runtime_dir = runtime_dir;
  }
  here.is_sudo = here.uid == 0 && read_id(environment("SUDO_UID"), &here.sudo_uid) &&
                 read_id(environment("SUDO_GID"), &here.sudo_gid) && here.sudo_uid != 0;
  if (here.is_sudo) {
    const std::string usual = "/run/user/" + std::to_string(here.sudo_uid);
    if (belongs_to(runtime_dir, here.sudo_uid)) {
      here.sudo_runtime_dir = runtime_dir;
    } else if (belongs_to(usual, here.sudo_uid)) {
      here.sudo_runtime_dir = usual;
    }
  }
  here.session = config.session.value;
  here.idle_ms = config.idle_ms.value;
  here.attach = config.attach.value == "yes";
  return here;
}

int run(const Surroundings& here, const Config& config, const Invocation& invocation) {
  switch (invocation.command) {
    case Command::kLoad:
      return run_load(here, invocation.words);
    case Command::kStart:
      return run_start(here, invocation.words, {invocation.show_printk, invocation.no_follow});
    case Command::kAttach:
      return run_attach(here, invocation);
    case Command::kDetach:
      return run_detach(here, invocation);
    case Command::kTrace:
      return run_trace(here, invocation);
    case Command::kStatus:
      return run_status(here, invocation);
    case Command::kList:
      return run_list(here, invocation);
    case Command::kMapDump:
    case Command::kMapGet:
      return run_map(here, invocation);
    case Command::kLog:
      return run_log(here, invocation);
    case Command::kShutdown:
      return run_shutdown(here);
    case Command::kVerify:
      return run_verify(invocation);
    case Command::kVersion:
      return run_version();
    case Command::kDoctor:
      return run_doctor(here, invocation);
    case Command::kConfig:
      std::fputs(print_config(config).c_str(), stdout);
      return 0;
    case Command::kNone:
      break;
  }
  return kExitUsage;
}

}  // namespace

int main_of_cli(int argc, char** argv) {
  Invocation invocation;
  int exit_status = 0;
  if (!parse(argc, argv, &invocation, &exit_status)) {
    return exit_status;
  }
  Config config;
  std::string problem;
  const std::string home = environment("HOME");
  std::string user_config = environment("XDG_CONFIG_HOME");
  if (user_config.empty()) {
    user_config = home + "/.config";
  }
  if (!read_config("/etc/bpftime.conf", &config, &problem) ||
      !read_config(user_config + "/bpftime/config", &config, &problem)) {
    complain("configuration", problem, "correct that line");
    return kExitUsage;
  }
  if (!invocation.session.empty()) {
    if (!is_session_name(invocation.session)) {
      complain("--session " + invocation.session, "not a session name",
               "use letters, digits, _ . - (32 at most)");
      return kExitUsage;
    }
    config.session = {invocation.session, "flag"};
  }
  if (invocation.no_attach) {
    config.attach = {"no", "flag"};
  }
  if (invocation.unverified && config.unverified.value == "forbid") {
    complain("--unverified", "forbidden by " + config.unverified.from,
             "let the programs be such that the verifier accepts them");
    return kExitUsage;
  }
  Surroundings here = look_around(config);
  here.unverified = invocation.unverified;
  here.verifier = invocation.verifier;
  return run(here, config, invocation);
}

}  // namespace bpftime::cli

int main(int argc, char** argv) { return bpftime::cli::main_of_cli(argc, argv); }
