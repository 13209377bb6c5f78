// bpftime(1): everything that comes from outside (flags, files, environment) enters here, once.
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
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

Surroundings look_around(const Config& config) {
  Surroundings here;
  here.bin_dir = own_directory();
  here.uid = ::geteuid();
  here.gid = ::getegid();
  here.home = environment("HOME");
  here.runtime_dir = environment("XDG_RUNTIME_DIR");
  struct stat st{};
  // Kept by su and the like, although it is another user's.
  if (!here.runtime_dir.empty() &&
      (::stat(here.runtime_dir.c_str(), &st) != 0 || st.st_uid != here.uid)) {
    here.runtime_dir.clear();
  }
  const std::string sudo_uid = environment("SUDO_UID");
  if (here.uid == 0 && !sudo_uid.empty() && sudo_uid != "0") {
    here.is_sudo = true;
    here.sudo_uid = static_cast<uid_t>(std::strtoul(sudo_uid.c_str(), nullptr, 10));
    here.sudo_gid = static_cast<gid_t>(std::strtoul(environment("SUDO_GID").c_str(), nullptr, 10));
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
      return run_start(here, invocation.words, invocation.show_printk);
    case Command::kAttach:
      return run_attach(here, invocation);
    case Command::kDetach:
      return run_detach(here, invocation);
    case Command::kTrace:
      return run_trace(here, invocation);
    case Command::kStatus:
      return run_status(here, invocation);
    case Command::kLog:
      return run_log(here, invocation);
    case Command::kShutdown:
      return run_shutdown(here);
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
  return run(look_around(config), config, invocation);
}

}  // namespace bpftime::cli

int main(int argc, char** argv) { return bpftime::cli::main_of_cli(argc, argv); }
