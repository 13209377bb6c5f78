// Files of /sys and tracefs that a loader reads and that this machine lacks, hides, or knows wrongly. Home: shim *.
// The real file comes first, but for the two that only we can answer: the possible CPUs (lanes of per-CPU maps,
// DESIGN D4) and trace_pipe. What is served is a memfd with the text, or the broker's fd.
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "bpfcall/shim_next.hpp"
#include "bpfcall/shim_pins.hpp"
#include "bpfcall/shim_session.hpp"
#include "spec/kernel_types.hpp"

using bpftime::raw_syscall;
using bpftime::shim::Next;
namespace shim = bpftime::shim;

namespace {

enum class When : uint8_t { kMissing, kAlways };
enum class What : uint8_t { kUprobeType, kText, kKernelTypes, kPossibleCpus, kTracePipe };
struct Served {
  const char* path;
  When when;
  What what;
  const char* text;
};
constexpr char kUprobeDirectory[] = "/sys/bus/event_source/devices/uprobe";
constexpr Served kServed[] = {
    {"/sys/bus/event_source/devices/uprobe/type", When::kMissing, What::kUprobeType, nullptr},
    {"/sys/bus/event_source/devices/uprobe/format/retprobe", When::kMissing, What::kText,
     "config:0\n"},
    {"/sys/bus/event_source/devices/uprobe/format/ref_ctr_offset", When::kMissing, What::kText,
     "config:32-63\n"},
    {"/sys/kernel/debug/tracing/uprobe_events", When::kMissing, What::kText, ""},
    {"/sys/kernel/tracing/uprobe_events", When::kMissing, What::kText, ""},
    {"/sys/kernel/btf/vmlinux", When::kMissing, What::kKernelTypes, nullptr},
    {"/sys/devices/system/cpu/possible", When::kAlways, What::kPossibleCpus, nullptr},
    {"/sys/kernel/debug/tracing/trace_pipe", When::kAlways, What::kTracePipe, nullptr},
    {"/sys/kernel/tracing/trace_pipe", When::kAlways, What::kTracePipe, nullptr},
};

// Cheap for every other path, and before anything else.
const Served* find_served(const char* path, When when) {
  // SAFETY: a caller's string; libc would read it as well. A null path is the kernel's business.
  if (path == nullptr || std::strncmp(path, "/sys/", 5) != 0) {
    return nullptr;
  }
  for (const Served& served : kServed) {
    if (served.when == when && std::strcmp(path, served.path) == 0) {
      return &served;
    }
  }
  return nullptr;
}

bool is_hidden(int error) { return error == ENOENT || error == EACCES || error == EPERM; }

int memory_file(const void* bytes, size_t size) {
  const long fd =
      raw_syscall(SYS_memfd_create, reinterpret_cast<uint64_t>("bpftime-file"), MFD_CLOEXEC);
  if (fd >= 0 && size != 0) {
    const auto file = static_cast<uint64_t>(fd);
    raw_syscall(SYS_pwrite64, file, reinterpret_cast<uint64_t>(bytes), size, 0);
  }
  return static_cast<int>(fd);
}
int text_file(const char* text) { return memory_file(text, std::strlen(text)); }

int trace_pipe() {
  bpftime::Request request;
  request.kind = bpftime::MessageKind::kTracePipe;
  auto reply = shim::ask(&request);
  if (!reply) {
    return -reply.error().code;
  }
  if (reply->value < 0 || !reply->fd) {
    return reply->value < 0 ? static_cast<int>(reply->value) : -EIO;
  }
  return reply->fd.release();
}

// An fd, or -errno; -ENOSYS: let the kernel answer.
int open_served(const Served& served, int flags) {
  if (!shim::has_session()) {
    return -ENOSYS;
  }
  // Whoever only counts CPUs need not be a loader: no word about a missing broker.
  const auto loudness =
      served.what == What::kTracePipe ? shim::Loudness::kSayWhy : shim::Loudness::kQuiet;
  const bool needs_broker = served.what != What::kText && served.what != What::kKernelTypes;
  if (needs_broker && !shim::activate(loudness)) {
    return -ENOSYS;
  }
  int fd = -1;
  char text[32];
  switch (served.what) {
    case What::kText:
      fd = text_file(served.text);
      break;
    case What::kKernelTypes: {
      const auto types = bpftime::kernel_types();
      fd = memory_file(types.data(), types.size());
      break;
    }
    case What::kUprobeType:
      ::snprintf(text, sizeof(text), "%u\n", shim::welcome().uprobe_type);
      fd = text_file(text);
      break;
    case What::kPossibleCpus: {
      const uint32_t count = shim::welcome().cpu_count;
      if (count <= 1) {
        ::snprintf(text, sizeof(text), "0\n");
      } else {
        ::snprintf(text, sizeof(text), "0-%u\n", count - 1);
      }
      fd = text_file(text);
      break;
    }
    case What::kTracePipe:
      fd = trace_pipe();
      break;
  }
  if (fd >= 0) {
    if ((flags & O_NONBLOCK) != 0) {
      raw_syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_SETFL, O_NONBLOCK);
    }
    if ((flags & O_CLOEXEC) == 0) {
      raw_syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_SETFD, 0);
    }
  }
  return fd;
}

int as_libc(int fd) { return static_cast<int>(shim::finish(fd)); }

// `real` opens the file as libc would.
template <class Open>
int open_with(const char* path, int flags, Open real) {
  const Served* always = find_served(path, When::kAlways);
  if (always != nullptr) {
    const int fd = open_served(*always, flags);
    if (fd != -ENOSYS) {
      return as_libc(fd);
    }
  }
  const int fd = real();
  if (fd >= 0 || !is_hidden(errno)) {
    return fd;
  }
  const Served* missing = find_served(path, When::kMissing);
  if (missing == nullptr) {
    return fd;
  }
  const int error = errno;
  const int served = open_served(*missing, flags);
  if (served >= 0) {
    return served;
  }
  errno = error;
  return -1;
}

// fopen(3)'s letters: only what concerns a served file.
int flags_of(const char* mode) {
  return mode != nullptr && std::strchr(mode, 'e') != nullptr ? O_CLOEXEC : 0;
}

FILE* stream_of(int fd, const char* mode) {
  if (fd < 0) {
    return nullptr;
  }
  FILE* stream = ::fdopen(fd, mode);
  if (stream == nullptr) {
    raw_syscall(SYS_close, static_cast<uint64_t>(fd));
  }
  return stream;
}

template <class Fopen>
FILE* fopen_with(const char* path, const char* mode, Fopen real) {
  const Served* always = find_served(path, When::kAlways);
  if (always != nullptr) {
    const int fd = open_served(*always, flags_of(mode));
    if (fd != -ENOSYS) {
      return stream_of(as_libc(fd), mode);
    }
  }
  FILE* stream = real();
  if (stream != nullptr || !is_hidden(errno)) {
    return stream;
  }
  const Served* missing = find_served(path, When::kMissing);
  if (missing == nullptr) {
    return nullptr;
  }
  const int error = errno;
  const int fd = open_served(*missing, flags_of(mode));
  if (fd < 0) {
    errno = error;
    return nullptr;
  }
  return stream_of(fd, mode);
}

template <class Access>
int access_with(const char* path, Access real) {
  const int result = real();
  if (result == 0 || !is_hidden(errno) || path == nullptr) {
    return result;
  }
  const bool is_served = find_served(path, When::kMissing) != nullptr ||
                         find_served(path, When::kAlways) != nullptr ||
                         std::strcmp(path, kUprobeDirectory) == 0;
  const int error = errno;
  if (is_served && shim::has_session()) {
    return 0;
  }
  errno = error;
  return result;
}

// A directory of pins; -ENOSYS: it is none. A pin itself cannot be opened (kernel: bpffs_obj_open).
int open_pins(const char* path, int flags) {
  char room[PATH_MAX];
  const char* const place = shim::pin_place(path, room);
  if (place == path || (flags & O_CREAT) != 0) {
    return -ENOSYS;
  }
  const int how = (flags & O_PATH) != 0 ? flags : flags | O_DIRECTORY;
  const long fd = raw_syscall(SYS_openat, static_cast<uint64_t>(AT_FDCWD),
                              reinterpret_cast<uint64_t>(place), static_cast<uint64_t>(how), 0);
  return fd == -ENOTDIR && how != flags ? -EIO : static_cast<int>(fd);
}

constinit Next<int (*)(const char*, int, ...)> g_next_open("open");
constinit Next<int (*)(int, const char*, int, ...)> g_next_openat("openat");
constinit Next<FILE* (*)(const char*, const char*)> g_next_fopen("fopen");
constinit Next<int (*)(const char*, int)> g_next_access("access");
constinit Next<int (*)(int, const char*, int, int)> g_next_faccessat("faccessat");

int open_any(const char* path, int flags, unsigned mode) {
  if (const int fd = open_pins(path, flags); fd != -ENOSYS) {
    return as_libc(fd);
  }
  return open_with(path, flags, [=] {
    const auto next = g_next_open.get();
    return next != nullptr
               ? next(path, flags, mode)
               : as_libc(static_cast<int>(raw_syscall(SYS_openat, static_cast<uint64_t>(AT_FDCWD),
                                                      reinterpret_cast<uint64_t>(path),
                                                      static_cast<uint64_t>(flags), mode)));
  });
}
int openat_any(int directory, const char* path, int flags, unsigned mode) {
  if (const int fd = open_pins(path, flags); fd != -ENOSYS) {
    return as_libc(fd);
  }
  return open_with(path, flags, [=] {
    const auto next = g_next_openat.get();
    return next != nullptr
               ? next(directory, path, flags, mode)
               : as_libc(static_cast<int>(raw_syscall(SYS_openat, static_cast<uint64_t>(directory),
                                                      reinterpret_cast<uint64_t>(path),
                                                      static_cast<uint64_t>(flags), mode)));
  });
}
FILE* fopen_any(const char* path, const char* mode) {
  return fopen_with(path, mode, [=]() -> FILE* {
    const auto next = g_next_fopen.get();
    if (next == nullptr) {
      errno = ENOSYS;
      return nullptr;
    }
    return next(path, mode);
  });
}

}  // namespace

// On x86-64 off_t has 64 bits: the ...64 names mean the same.
#define MODE_AFTER(last)                        \
  va_list list;                                 \
  va_start(list, last);                         \
  const unsigned mode = va_arg(list, unsigned); \
  va_end(list)

BPFTIME_EXPORT int open(const char* path, int flags, ...) {
  MODE_AFTER(flags);
  return open_any(path, flags, mode);
}
BPFTIME_EXPORT int open64(const char* path, int flags, ...) {
  MODE_AFTER(flags);
  return open_any(path, flags, mode);
}
BPFTIME_EXPORT int openat(int directory, const char* path, int flags, ...) {
  MODE_AFTER(flags);
  return openat_any(directory, path, flags, mode);
}
BPFTIME_EXPORT int openat64(int directory, const char* path, int flags, ...) {
  MODE_AFTER(flags);
  return openat_any(directory, path, flags, mode);
}
BPFTIME_EXPORT FILE* fopen(const char* path, const char* mode) { return fopen_any(path, mode); }
BPFTIME_EXPORT FILE* fopen64(const char* path, const char* mode) { return fopen_any(path, mode); }
BPFTIME_EXPORT int access(const char* path, int mode) noexcept {
  return access_with(path, [=] {
    const auto next = g_next_access.get();
    return next != nullptr
               ? next(path, mode)
               : as_libc(static_cast<int>(raw_syscall(SYS_access, reinterpret_cast<uint64_t>(path),
                                                      static_cast<uint64_t>(mode))));
  });
}
BPFTIME_EXPORT int faccessat(int directory, const char* path, int mode, int flags) noexcept {
  return access_with(path, [=] {
    const auto next = g_next_faccessat.get();
    return next != nullptr ? next(directory, path, mode, flags)
                           : as_libc(static_cast<int>(raw_syscall(
                                 SYS_faccessat, static_cast<uint64_t>(directory),
                                 reinterpret_cast<uint64_t>(path), static_cast<uint64_t>(mode))));
  });
}
