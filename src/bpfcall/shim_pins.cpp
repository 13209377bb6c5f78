// mkdir, unlink and statfs of /sys/fs/bpf, as tools that pin call them: they go to the session's own directory of pins
// (docs/decisions/0006-pins.md). Home: shim *.
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <climits>
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

// `path` where the session has it, or as it is.
const char* place_of(const char* path, char (&room)[PATH_MAX]) {
  if (!is_pin_path(path)) {
    return path;
  }
  const int length =
      std::snprintf(room, sizeof(room), "%s/pins%s", shim::session_dir(), path + kRootLength);
  return length > 0 && static_cast<size_t>(length) < sizeof(room) ? room : path;
}

uint64_t word(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

}  // namespace

#define BPFTIME_EXPORT extern "C" __attribute__((visibility("default")))

BPFTIME_EXPORT int unlink(const char* path) noexcept {
  char room[PATH_MAX];
  return static_cast<int>(finish(raw_syscall(SYS_unlink, word(place_of(path, room)))));
}
BPFTIME_EXPORT int mkdir(const char* path, mode_t mode) noexcept {
  char room[PATH_MAX];
  const char* const place = place_of(path, room);
  if (place != path) {  // the directory of pins itself comes with the first of them
    char root[PATH_MAX];
    raw_syscall(SYS_mkdir, word(place_of(kRoot, root)), 0700);
  }
  return static_cast<int>(finish(raw_syscall(SYS_mkdir, word(place), mode)));
}
BPFTIME_EXPORT int statfs(const char* path, struct statfs* to) noexcept {
  char room[PATH_MAX];
  const char* place = place_of(path, room);
  const bool is_ours = place != path;
  if (is_ours && std::strcmp(path, kRoot) == 0) {
    place = shim::session_dir();  // there from the beginning
  }
  const long result = raw_syscall(SYS_statfs, word(place), word(to));
  if (result == 0 && is_ours) {
    to->f_type = BPF_FS_MAGIC;
  }
  return static_cast<int>(finish(result));
}
BPFTIME_EXPORT int statfs64(const char* path, struct statfs64* to) noexcept {
  return statfs(path, reinterpret_cast<struct statfs*>(to));  // one layout on x86-64
}
