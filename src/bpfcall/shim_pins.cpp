// mkdir, rmdir, unlink, chdir and statfs of /sys/fs/bpf, as tools that pin call them: they go to the session's own directory of pins
// (docs/decisions/0006-pins.md); so does open, in shim_files.cpp. Home: shim *.
#include "bpfcall/shim_pins.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "bpfcall/shim_next.hpp"
#include "bpfcall/shim_session.hpp"

using bpftime::raw_syscall;
using bpftime::shim::finish;
namespace shim = bpftime::shim;

namespace {

constexpr char kRoot[] = "/sys/fs/bpf";
constexpr size_t kRootLength = sizeof(kRoot) - 1;

bool is_pin_path(const char* path) {
  // SAFETY: a caller's string; libc would read it as well. A null path is the kernel's business.
  return path != nullptr && std::strncmp(path, kRoot, kRootLength) == 0 &&
         (path[kRootLength] == '/' || path[kRootLength] == '\0') && shim::has_session();
}

uint64_t word(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

std::string directory_of_pins() { return std::string(shim::session_dir()) + "/pins"; }

}  // namespace

namespace bpftime::shim {

const char* pin_place(const char* path, char (&room)[PATH_MAX]) {
  if (!is_pin_path(path)) {
    return path;
  }
  const int length = std::snprintf(room, sizeof(room), "%s/pins", session_dir());
  if (length <= 0 || static_cast<size_t>(length) + std::strlen(path) >= sizeof(room)) {
    return path;
  }
  raw_syscall(SYS_mkdir, word(room), 0700);  // else it comes with the first pin
  std::strcpy(room + length, path + kRootLength);
  return room;
}

Result<std::string> directory_name(int fd) {
  char link[32] = "/proc/self/cwd";
  if (fd != AT_FDCWD) {
    struct stat about{};
    const long result = raw_syscall(SYS_fstat, static_cast<uint64_t>(fd), word(&about));
    if (result != 0 || !S_ISDIR(about.st_mode)) {
      return make_error(result != 0 ? EBADF : ENOTDIR, "paths begin at a directory");
    }
    std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  }
  char name[PATH_MAX];
  const long length = raw_syscall(SYS_readlink, word(link), word(name), sizeof(name));
  if (length <= 0) {
    return make_error(ENOENT, "a directory without a name");
  }
  std::string path(name, static_cast<size_t>(length));
  const std::string ours = directory_of_pins();
  if (has_session() && path.starts_with(ours) &&
      (path.size() == ours.size() || path[ours.size()] == '/')) {
    path.replace(0, ours.size(), kRoot);
  }
  return path;
}

}  // namespace bpftime::shim

namespace {
// A call on one path.
int call_at(long number, const char* path, uint64_t argument = 0) {
  char room[PATH_MAX];
  return static_cast<int>(finish(raw_syscall(number, word(shim::pin_place(path, room)), argument)));
}
}  // namespace

BPFTIME_EXPORT int unlink(const char* path) noexcept { return call_at(SYS_unlink, path); }
BPFTIME_EXPORT int rmdir(const char* path) noexcept { return call_at(SYS_rmdir, path); }
BPFTIME_EXPORT int chdir(const char* path) noexcept { return call_at(SYS_chdir, path); }
BPFTIME_EXPORT int mkdir(const char* path, mode_t mode) noexcept {
  return call_at(SYS_mkdir, path, mode);
}
BPFTIME_EXPORT int statfs(const char* path, struct statfs* to) noexcept {
  char room[PATH_MAX];
  const char* const place = shim::pin_place(path, room);
  const bool is_ours = place != path;
  const long result = raw_syscall(SYS_statfs, word(place), word(to));
  if (result == 0 && is_ours) {
    to->f_type = BPF_FS_MAGIC;
  }
  return static_cast<int>(finish(result));
}
BPFTIME_EXPORT int statfs64(const char* path, struct statfs64* to) noexcept {
  return statfs(path, reinterpret_cast<struct statfs*>(to));  // one layout on x86-64
}
