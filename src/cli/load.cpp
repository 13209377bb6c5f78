// bpftime load: becomes the tool, with our shim in front of its libc. The broker is told which
// process that is, so that it stays for it and knows its options.
#include <elf.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cli/commands.hpp"

namespace bpftime::cli {
namespace {

bool is_directory(const std::string& file) {
  struct stat st{};
  return ::stat(file.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

// The file that a shell would take; empty = none.
std::string search_path(const std::string& word) {
  const char* path = std::getenv("PATH");
  std::string rest = path == nullptr ? "/usr/local/bin:/bin:/usr/bin" : path;
  while (!rest.empty()) {
    const size_t colon = rest.find(':');
    const std::string file = rest.substr(0, colon) + "/" + word;
    if (::access(file.c_str(), X_OK) == 0 && !is_directory(file)) {
      return file;
    }
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
  }
  return "";
}

}  // namespace

int find_program(const std::string& word, std::string* file) {
  *file = word.find('/') == std::string::npos ? search_path(word) : word;
  if (file->empty() || ::access(file->c_str(), F_OK) != 0) {
    complain(word, "no such command", "give a command that exists");
    return kExitNotFound;
  }
  if (::access(file->c_str(), X_OK) != 0 || is_directory(*file)) {
    complain(word, "cannot be run", "give a command that can be run");
    return kExitNotRun;
  }
  return 0;
}

bool is_static(const std::string& file) {
  UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  Elf64_Ehdr head{};
  if (!fd || ::pread(fd.get(), &head, sizeof(head), 0) != sizeof(head) ||
      std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64 ||
      head.e_phentsize != sizeof(Elf64_Phdr)) {
    return false;
  }
  for (int i = 0; i < head.e_phnum; i++) {
    Elf64_Phdr segment{};
    if (::pread(fd.get(), &segment, sizeof(segment),
                static_cast<off_t>(head.e_phoff + static_cast<uint64_t>(i) * sizeof(segment))) !=
        sizeof(segment)) {
      return false;
    }
    if (segment.p_type == PT_INTERP) {
      return false;
    }
  }
  return true;
}

bool gives_rights(const std::string& file) {
  struct stat st{};
  struct statvfs place{};
  if (::geteuid() == 0 || ::stat(file.c_str(), &st) != 0 ||
      ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ||
      (::statvfs(file.c_str(), &place) == 0 && (place.f_flag & ST_NOSUID) != 0)) {
    return false;
  }
  return ((st.st_mode & S_ISUID) != 0 && st.st_uid != ::geteuid()) ||
         ((st.st_mode & S_ISGID) != 0 && (st.st_mode & S_IXGRP) != 0 && st.st_gid != ::getegid()) ||
         ::getxattr(file.c_str(), "security.capability", nullptr, 0) > 0;
}

int run_command(const std::vector<std::string>& words) {
  std::vector<char*> argv;
  for (const auto& word : words) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  const int code = errno;
  complain(words[0], std::strerror(code),
           code == ENOENT ? "give a command that exists" : "give a command that can be run");
  return code == ENOENT ? kExitNotFound : kExitNotRun;
}

int announce(Channel* broker, const Surroundings& here, const std::string& command) {
  const uint64_t options = (here.attach ? 0 : kOptionNoAttach) |
                           (here.unverified ? kOptionUnverified : 0) | option_of(here.verifier);
  std::string why;
  const auto told = ask(broker, MessageKind::kOptions, static_cast<int64_t>(options), &why);
  if (told) {
    return 0;
  }
  if (here.verifier == VerifierChoice::kOurs) {
    return complain(command, told.error(), why, 0);
  }
  return complain(
      command + " --verifier",
      std::string("the broker may not ask the running kernel: ") + std::strerror(told.error().code),
      "do it as root on a kernel with eBPF, or leave --verifier out");
}

int run_load(const Surroundings& here, const std::vector<std::string>& words) {
  std::string program;
  if (const int failed = find_program(words[0], &program); failed != 0) {
    return failed;
  }
  if (gives_rights(program)) {
    complain(words[0], "is set-user-id, so its bpf(2) calls go to the kernel",
             "run bpftime load as root, or a copy of it");
    return kExitNotRun;
  }
  if (is_static(program)) {
    complain(words[0], "is statically linked, so its bpf(2) calls go to the kernel",
             "use a dynamically linked build");
    return kExitNotRun;
  }
  char shim[4096];
  if (::realpath(here.shim_file().c_str(), shim) == nullptr) {
    return complain("load", "no shim at " + here.shim_file(), "install bpftime whole");
  }
  if (std::strpbrk(shim, ": ") != nullptr) {
    return complain("load", std::string("the loader takes no path with a space or colon: ") + shim,
                    "install bpftime elsewhere");
  }
  std::string directory;
  {
    auto broker = reach_broker(here, Role::kCommand, true);
    if (!broker) {
      return complain("load", broker.error(), "", 0);
    }
    if (const int failed = announce(&*broker, here, "load"); failed != 0) {
      return failed;
    }
    directory = broker->directory;
  }
  const char* before = std::getenv("LD_PRELOAD");
  const std::string preload =
      before == nullptr || *before == 0 ? std::string(shim) : std::string(before) + ":" + shim;
  ::setenv("LD_PRELOAD", preload.c_str(), 1);
  ::setenv("BPFTIME_SESSION", directory.c_str(), 1);
  if (here.unverified) {
    std::fputs("bpftime: programs that the verifier refuses load too: only what you trust\n",
               stderr);
  }
  return run_command(words);
}

}  // namespace bpftime::cli
