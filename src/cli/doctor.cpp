// bpftime doctor [PID]: what this machine, or a process, allows, and what that means. Each line:
// ok, note or bad.
#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cli/commands.hpp"

namespace bpftime::cli {
namespace {

class Findings {
 public:
  void ok(const std::string& text) { std::printf("ok    %s\n", text.c_str()); }
  void note(const std::string& text) { std::printf("note  %s\n", text.c_str()); }
  void bad(const std::string& text) {
    std::printf("bad   %s\n", text.c_str());
    any_bad_ = true;
  }
  [[nodiscard]] bool any_bad() const { return any_bad_; }

 private:
  bool any_bad_ = false;
};

std::string read_text(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  char buffer[4096];
  ssize_t n = 0;
  while (file && text.size() < (4U << 20) && (n = ::read(file.get(), buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

// The value behind "Name:" in a /proc/PID/status; empty = no such line.
std::string field(const std::string& text, const std::string& name) {
  const size_t at = ("\n" + text).find("\n" + name + ":");
  if (at == std::string::npos) {
    return "";
  }
  const size_t begin = text.find_first_not_of(" \t", at + name.size() + 1);
  return begin == std::string::npos ? "" : text.substr(begin, text.find('\n', begin) - begin);
}

void look_at_kernel(Findings* findings) {
  utsname name{};
  ::uname(&name);
  int major = 0;
  int minor = 0;
  std::sscanf(name.release, "%d.%d", &major, &minor);
  const std::string kernel = std::string("Linux ") + name.release + " " + name.machine;
  if (std::strcmp(name.machine, "x86_64") != 0) {
    findings->bad(kernel + ": only x86-64 is supported");
  } else if (major < 5 || (major == 5 && minor < 4)) {
    findings->bad(kernel + ": older than 5.4, the oldest supported");
  } else {
    findings->ok(kernel);
  }
  constexpr unsigned long kHwcap2FsGsBase = 1UL << 1;  // asm/hwcap2.h: HWCAP2_FSGSBASE
  if ((::getauxval(AT_HWCAP2) & kHwcap2FsGsBase) != 0) {
    findings->ok("FSGSBASE: thread state is found in a few instructions");
  } else {
    findings->note("no FSGSBASE: thread state is found by a system call at a thread's first hit");
  }
  const std::string scope = read_text("/proc/sys/kernel/yama/ptrace_scope");
  switch (scope.empty() ? '0' : scope[0]) {
    case '0':
      findings->ok("ptrace: any process of yours can be attached");
      break;
    case '1':
      findings->note(
          "ptrace_scope 1: start works; attach to a running process needs root, or 0 in "
          "/proc/sys/kernel/yama/ptrace_scope");
      break;
    case '2':
      findings->note("ptrace_scope 2: only root can attach or start");
      break;
    default:
      findings->bad("ptrace_scope 3: nobody can attach until the next boot");
      break;
  }
  const std::string noexec = read_text("/proc/sys/vm/memfd_noexec");
  if (!noexec.empty() && noexec[0] == '2') {
    findings->note(
        "memfd_noexec 2: code files are sealed unexecutable, which suffices for mapping them");
  }
  UniqueFd code(::memfd_create("bpftime-doctor", MFD_CLOEXEC | 0x0008U /* MFD_NOEXEC_SEAL */));
  if (!code) {
    code.reset(::memfd_create("bpftime-doctor", MFD_CLOEXEC));
  }
  void* page = code && ::ftruncate(code.get(), 4096) == 0
                   ? ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, code.get(), 0)
                   : MAP_FAILED;
  if (page == MAP_FAILED) {
    findings->bad(std::string("memory files cannot be mapped executable: ") + std::strerror(errno));
  } else {
    findings->ok("memory files can be mapped executable");
    ::munmap(page, 4096);
  }
  const std::string userns = read_text("/proc/sys/kernel/unprivileged_userns_clone");
  if (!userns.empty() && userns[0] == '0') {
    findings->note("unprivileged user namespaces are off: nothing here needs them");
  }
}

void look_at_installation(const Surroundings& here, Findings* findings) {
  const auto file = [&](const std::string& path, const char* what, const char* needed) {
    if (::access(path.c_str(), R_OK) == 0) {
      findings->ok(std::string(what) + ": " + path);
    } else {
      findings->bad(std::string(what) + " missing: " + path + "; " + needed);
    }
  };
  file(here.broker_file(), "broker", "nothing works without it");
  file(here.shim_file(), "shim", "load does not work without it");
  file(here.agent_file(), "agent", "attach and start do not work without it");
  auto directory = session_directory(here.runtime_dir, here.uid, here.session);
  if (!directory) {
    findings->bad(std::string("session directory: ") + directory.error().why);
    return;
  }
  findings->ok("session directory: " + *directory);
  if (auto broker = reach_broker(here, Role::kCommand, false)) {
    findings->ok("broker runs, pid " + std::to_string(broker->welcome.broker_pid));
  } else if (broker.error().code == ENOENT) {
    findings->ok("no broker runs; the first load, attach or start begins one");
  } else {
    findings->bad(std::string("broker: ") + broker.error().why);
  }
  if (here.is_sudo) {
    findings->note("sudo: processes of user " + std::to_string(here.sudo_uid) +
                   " are attached in that user's session");
  }
}

void look_at_file(pid_t pid, Findings* findings) {
  const std::string exe = "/proc/" + std::to_string(pid) + "/exe";
  UniqueFd fd(::open(exe.c_str(), O_RDONLY | O_CLOEXEC));
  Elf64_Ehdr head{};
  if (!fd || ::pread(fd.get(), &head, sizeof(head), 0) != sizeof(head)) {
    findings->note("its program cannot be read");
    return;
  }
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != EM_X86_64) {
    findings->bad("not a 64-bit x86 program: cannot be a target");
    return;
  }
  bool has_interpreter = false;
  std::string interpreter(256, 0);
  for (int i = 0; i < head.e_phnum && head.e_phentsize == sizeof(Elf64_Phdr); i++) {
    Elf64_Phdr segment{};
    if (::pread(fd.get(), &segment, sizeof(segment),
                static_cast<off_t>(head.e_phoff + static_cast<uint64_t>(i) * sizeof(segment))) !=
        sizeof(segment)) {
      break;
    }
    if (segment.p_type == PT_INTERP) {
      has_interpreter = true;
      const ssize_t n = ::pread(fd.get(), interpreter.data(), interpreter.size() - 1,
                                static_cast<off_t>(segment.p_offset));
      interpreter.resize(n > 0 ? ::strnlen(interpreter.c_str(), static_cast<size_t>(n)) : 0);
    }
  }
  // A Go program names its build in a section of this name.
  std::string sections;
  if (head.e_shnum != 0 && head.e_shentsize == sizeof(Elf64_Shdr)) {
    Elf64_Shdr names{};
    if (::pread(fd.get(), &names, sizeof(names),
                static_cast<off_t>(head.e_shoff + uint64_t{head.e_shstrndx} * sizeof(names))) ==
            sizeof(names) &&
        names.sh_size < (1U << 20)) {
      sections.resize(names.sh_size);
      const ssize_t n =
          ::pread(fd.get(), sections.data(), sections.size(), static_cast<off_t>(names.sh_offset));
      sections.resize(n > 0 ? static_cast<size_t>(n) : 0);
    }
  }
  if (sections.find(".gopclntab") != std::string::npos) {
    findings->note(
        "a Go program: entry probes work; goroutine stacks move, so return probes are unsafe "
        "there");
  }
  if (!has_interpreter) {
    findings->note(
        "statically linked: the agent is mapped without its loader; gdb and perf do not know it");
  } else if (interpreter.find("musl") != std::string::npos) {
    findings->note(
        "runs on musl: the agent is mapped without its loader; gdb and perf do not know it");
  } else {
    findings->ok("dynamically linked, loader " + interpreter);
  }
}

void look_at_process(const Surroundings& here, pid_t pid, Findings* findings) {
  const std::string proc = "/proc/" + std::to_string(pid);
  const std::string status = read_text(proc + "/status");
  if (status.empty()) {
    findings->bad("no process " + std::to_string(pid));
    return;
  }
  findings->ok("process " + std::to_string(pid) + " " + field(status, "Name") + ", " +
               field(status, "Threads") + " threads");
  if (field(status, "State").compare(0, 1, "Z") == 0) {
    findings->bad(field(status, "Threads") == "1"
                      ? "it has ended already (zombie)"
                      : "its main thread has ended before the others: cannot be a target yet");
    return;
  }
  if (field(status, "Kthread") == "1" || ::access((proc + "/exe").c_str(), F_OK) != 0) {
    if (errno == ENOENT) {
      findings->bad("a kernel thread: cannot be a target");
      return;
    }
  }
  uid_t uids[4] = {};
  std::sscanf(field(status, "Uid").c_str(), "%u %u %u %u", &uids[0], &uids[1], &uids[2], &uids[3]);
  const bool root = here.uid == 0;
  if (!root && (uids[0] != here.uid || uids[1] != here.uid || uids[2] != here.uid)) {
    findings->bad(uids[0] != here.uid
                      ? "belongs to user " + std::to_string(uids[0]) + ": only root reaches it"
                      : "has another user's rights (set-user-id): only root reaches it");
  } else {
    findings->ok("user " + std::to_string(uids[0]) + " may be reached by you");
  }
  const std::string tracer = field(status, "TracerPid");
  if (!tracer.empty() && tracer != "0") {
    findings->bad("traced by process " + tracer + " (a debugger?): only one tracer is possible");
  }
  // The kernel gives the files of an undumpable process to root (proc(5)).
  struct stat st{};
  if (::stat((proc + "/environ").c_str(), &st) == 0 && st.st_uid != uids[1] && !root) {
    findings->bad("not dumpable (it changed its user, or asked for it): only root reaches it");
  }
  UniqueFd memory(::open((proc + "/mem").c_str(), O_RDWR | O_CLOEXEC));
  if (memory) {
    findings->ok("its memory can be read and written");
  } else {
    findings->bad(std::string("its memory cannot be opened: ") + std::strerror(errno) +
                  (errno == EACCES || errno == EPERM ? "; try as its owner or as root" : ""));
  }
  const std::string seccomp = field(status, "Seccomp");
  if (seccomp == "1") {
    findings->bad("strict seccomp: system calls that the agent's way in needs would kill it");
  } else if (seccomp == "2") {
    findings->note("a seccomp filter (" + field(status, "Seccomp_filters") +
                   "): attach works if it lets mmap and recvmsg through");
  }
  const std::string nested = field(status, "NSpid");
  if (nested.find_first_of(" \t") != std::string::npos) {
    findings->note("in a pid namespace of its own: programs see its own numbers");
  }
  look_at_file(pid, findings);
  const std::string maps = read_text(proc + "/maps");
  if (maps.find("bpftime-arena") != std::string::npos) {
    findings->ok("has our agent");
  }
}

}  // namespace

int run_doctor(const Surroundings& here, const Invocation& invocation) {
  Findings findings;
  look_at_kernel(&findings);
  look_at_installation(here, &findings);
  if (invocation.pid != 0) {
    look_at_process(here, static_cast<pid_t>(invocation.pid), &findings);
  }
  return findings.any_bad() ? kExitFailed : 0;
}

}  // namespace bpftime::cli
