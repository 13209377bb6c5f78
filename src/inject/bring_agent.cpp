#include "inject/bring_agent.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "abi/agent.hpp"
#include "elf/elf.hpp"
#include "inject/loaded_library.hpp"
#include "inject/process_maps.hpp"
#include "inject/remote_call.hpp"
#include "inject/remote_memory.hpp"
#include "inject/wait_point.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kPage = 4096;
constexpr unsigned kNoexecSeal = 8, kExec = 16;  // MFD_NOEXEC_SEAL, MFD_EXEC: Linux 6.3

uint64_t page_down(uint64_t value) { return value & ~(kPage - 1); }
uint64_t page_up(uint64_t value) { return (value + kPage - 1) & ~(kPage - 1); }

using Loader = AgentEntrance::Loader;

Result<Loader> find_loader(pid_t pid) {
  const std::vector<Mapping> maps = TRY(read_maps(pid));
  const auto first_mapping = [&](std::string_view stem) -> const Mapping* {
    for (const Mapping& mapping : maps) {
      const size_t slash = mapping.path.rfind('/');
      if (mapping.offset == 0 && slash != std::string::npos &&
          mapping.path.compare(slash + 1, stem.size(), stem) == 0) {
        return &mapping;
      }
    }
    return nullptr;
  };
  Loader loader = {};
  bool found = false;
  for (const char* stem : {"libc.so.6", "libc-2.", "libdl.so.2", "libdl-2."}) {
    const Mapping* first = first_mapping(stem);
    if (first == nullptr || (found && raw(loader.errno_location) != 0)) {
      continue;
    }
    const LoadedLibrary library = TRY(LoadedLibrary::open(pid, first->begin));
    const auto address = [&](const char* name) -> uint64_t {
      const auto found_at = library.find(name);
      return found_at ? *found_at : 0;
    };
    if (const uint64_t at = address("__errno_location")) {
      loader.errno_location = RemoteAddr{at};
    }
    if (const uint64_t at = address("dlopen"); at != 0 && address("dlclose") != 0) {
      loader.dlopen = RemoteAddr{at};
      loader.dlclose = RemoteAddr{address("dlclose")};
      loader.extra_flags = 0;
      found = true;
    } else if (!found && address("__libc_dlopen_mode") != 0 && address("__libc_dlclose") != 0) {
      // glibc before 2.34 without libdl; 0x80000000 is its __RTLD_DLOPEN
      loader.dlopen = RemoteAddr{address("__libc_dlopen_mode")};
      loader.dlclose = RemoteAddr{address("__libc_dlclose")};
      loader.extra_flags = 0x80000000;
      found = true;
    }
  }
  if (!found || raw(loader.errno_location) == 0) {
    return make_error(ENOENT, "no C library with dlopen in the process");
  }
  return loader;
}

// The path under which the target sees our file, or "": another pid namespace, no /proc in its root.
std::string shared_path(pid_t pid, int fd) {
  struct stat ours{}, theirs{};
  if (fd < 0 || ::fstat(fd, &ours) != 0) {
    return "";
  }
  const std::string path = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd);
  const std::string seen = "/proc/" + std::to_string(pid) + "/root" + path;
  const bool is_there = ::stat(seen.c_str(), &theirs) == 0 && theirs.st_ino == ours.st_ino &&
                        theirs.st_dev == ours.st_dev;
  const auto maps = read_maps(pid);
  // The loader knows a file by its inode: an image left behind by an earlier attach would be taken for the new one.
  const bool is_loaded = !maps || std::any_of(maps->begin(), maps->end(), [&](const Mapping& m) {
    return m.inode == ours.st_ino && m.device == ours.st_dev;
  });
  return is_there && !is_loaded ? path : "";
}

// A file descriptor of the target for our file, or for a memfd of its own holding the same; its number there.
Result<int> put_file(RemoteThread& thread, const AgentSource& source, const std::string& path) {
  StoppedProcess& process = thread.process();
  const std::span<const std::byte> file = source.bytes;
  const RemoteAddr name = TRY(thread.scratch());
  if (!path.empty()) {
    TRY(process.write(name, std::as_bytes(std::span(path.c_str(), path.size() + 1))));
    const auto opened = thread.syscall(SYS_openat, static_cast<uint64_t>(AT_FDCWD), raw(name),
                                       O_RDONLY | O_CLOEXEC);
    if (opened) {
      return static_cast<int>(*opened);
    }
  }
  TRY(process.write(name, std::as_bytes(std::span(kAgentName))));
  // facts: MFD_NOEXEC_SEAL is allowed under every vm.memfd_noexec and maps executable all the same.
  auto fd = thread.syscall(SYS_memfd_create, raw(name), MFD_CLOEXEC | kNoexecSeal);
  if (!fd && fd.error().code == EINVAL) {
    fd = thread.syscall(SYS_memfd_create, raw(name), MFD_CLOEXEC);
  }
  const int remote_fd = static_cast<int>(TRY(std::move(fd)));
  UniqueFd ours;
  if (auto taken = take_fd(process.pid(), remote_fd)) {
    ours = std::move(*taken);
  } else {
    char fd_path[64];
    std::snprintf(fd_path, sizeof fd_path, "/proc/%d/fd/%d", process.pid(), remote_fd);
    ours.reset(open(fd_path, O_RDWR | O_CLOEXEC));
  }
  size_t done = 0;
  while (ours && done < file.size()) {
    const ssize_t put =
        pwrite(ours.get(), file.data() + done, file.size() - done, static_cast<off_t>(done));
    if (put <= 0) {
      break;
    }
    done += static_cast<size_t>(put);
  }
  if (done != file.size()) {
    (void)remote_close(thread, remote_fd);
    return make_error(ENOSPC, "cannot write the agent's file into the target");
  }
  return remote_fd;
}

uint64_t image_bytes(const ElfImage& image) {
  return page_up(image.high_address()) - page_down(image.low_address());
}

// dlopens `path` (as the target sees it), a file with this inode.
Result<AgentImage> bring_by_dlopen(RemoteThread& thread, const Loader& loader,
                                   const std::string& path, ino_t inode, const ElfImage& image) {
  StoppedProcess& process = thread.process();
  const RemoteAddr scratch = TRY(thread.scratch());
  const RemoteAddr errno_at{TRY(thread.call(loader.errno_location, {}))};
  const int saved_errno = TRY(process.read_value<int>(errno_at));
  TRY(process.write(scratch, std::as_bytes(std::span(path.c_str(), path.size() + 1))));
  const auto handle =
      thread.call(loader.dlopen, {raw(scratch), (RTLD_NOW | RTLD_LOCAL) | loader.extra_flags});
  TRY(process.write_value(errno_at, saved_errno));
  if (!handle) {
    return handle.error();
  }
  if (*handle == 0) {
    return make_error(ENOENT, "the process's dlopen refuses the agent (no /proc there?)");
  }
  // The new mappings of our memfd: the lowest is the first segment. (Other agents may lie there, from elsewhere.)
  const auto maps = TRY(read_maps(process.pid()));
  for (const Mapping& mapping : mappings_of_memfd(maps, kAgentName)) {
    if (mapping.inode == inode && mapping.offset == 0) {
      return AgentImage{.base = RemoteAddr{mapping.begin - page_down(image.low_address())},
                        .bytes = image_bytes(image),
                        .way = AgentWay::kDlopen,
                        .handle = *handle,
                        .stopped_ns = 0};
    }
  }
  return make_error(ENOENT, "the agent is not where dlopen should have put it");
}

Result<AgentImage> bring_by_mapping(RemoteThread& thread, int remote_fd, const ElfImage& image) {
  StoppedProcess& process = thread.process();
  const std::vector<ElfRelativeReloc> relocs = TRY(image.relative_relocations());
  const uint64_t low = page_down(image.low_address()), bytes = image_bytes(image);
  const uint64_t begin = TRY(thread.syscall(
      SYS_mmap, 0, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ~uint64_t{0}, 0));
  const uint64_t base = begin - low;
  const auto map_segments = [&]() -> Result<void> {
    for (const ElfSegment& segment : image.segments()) {
      const int prot = (segment.is_readable ? PROT_READ : 0) |
                       (segment.is_writable ? PROT_WRITE : 0) |
                       (segment.is_executable ? PROT_EXEC : 0);
      const uint64_t at = page_down(segment.address);
      const uint64_t file_end = segment.address + segment.file_bytes;
      const uint64_t memory_end = page_up(segment.address + segment.memory_bytes);
      uint64_t mapped_end = at;
      if (segment.file_bytes != 0) {
        mapped_end = page_up(file_end);
        TRY(thread.syscall(SYS_mmap, base + at, mapped_end - at, static_cast<uint64_t>(prot),
                           MAP_PRIVATE | MAP_FIXED, static_cast<uint64_t>(remote_fd),
                           segment.file_offset - (segment.address - at)));
      }
      if (mapped_end < memory_end) {
        TRY(thread.syscall(SYS_mmap, base + mapped_end, memory_end - mapped_end,
                           static_cast<uint64_t>(prot), MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS,
                           ~uint64_t{0}, 0));
      }
      if (segment.is_writable && segment.memory_bytes > segment.file_bytes &&
          mapped_end > file_end) {
        const std::vector<std::byte> zeroes(mapped_end -
                                            file_end);  // gABI: .bss starts inside a page
        TRY(process.write(RemoteAddr{base + file_end}, zeroes));
      }
    }
    for (const ElfRelativeReloc& reloc : relocs) {
      TRY(process.write_value(RemoteAddr{base + reloc.offset},
                              base + static_cast<uint64_t>(reloc.addend)));
    }
    return {};
  };
  const auto mapped = map_segments();
  if (!mapped) {
    (void)remote_unmap(thread, RemoteAddr{begin}, bytes);
    return mapped.error();
  }
  return AgentImage{.base = RemoteAddr{base},
                    .bytes = bytes,
                    .way = AgentWay::kMapped,
                    .handle = 0,
                    .stopped_ns = 0};
}

// What the image must be, checked before anything is touched.
Result<ElfImage> check_agent(std::span<const std::byte> file) {
  ElfImage image = TRY(ElfImage::parse(file));
  if (!image.is_position_independent() || image.has_tls() || image.segments().empty() ||
      page_down(image.low_address()) != 0 ||
      image.high_address() - image.low_address() > (64 << 20)) {
    return make_error(EOPNOTSUPP,
                      "not an agent: fixed address, thread-local storage, or no segment");
  }
  for (const ElfSegment& segment : image.segments()) {
    if (segment.is_writable && segment.is_executable) {
      return make_error(EOPNOTSUPP, "not an agent: a segment is writable and executable");
    }
    if (segment.file_bytes != 0 && (segment.address - segment.file_offset) % kPage != 0) {
      return make_error(EINVAL, "not an agent: a segment cannot be mapped");
    }
  }
  (void)TRY(image.relative_relocations());
  return image;
}

}  // namespace

Result<UniqueFd> share_agent(std::span<const std::byte> file) {
  UniqueFd fd(::memfd_create(kAgentName, MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoexecSeal));
  if (!fd) {
    fd.reset(::memfd_create(kAgentName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  }
  size_t done = 0;
  while (fd && done < file.size()) {
    const ssize_t put = ::write(fd.get(), file.data() + done, file.size() - done);
    if (put <= 0) {
      break;
    }
    done += static_cast<size_t>(put);
  }
  if (!fd || done != file.size() ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) !=
          0) {
    return make_error(errno != 0 ? errno : EIO, "cannot make a file of the agent");
  }
  return fd;
}

Result<AgentImage> bring_agent(RemoteThread& thread, const AgentEntrance& way) {
  const ElfImage image = TRY(check_agent(way.file.bytes));
  struct stat info = {};
  if (way.loader && !way.path.empty() && ::fstat(way.file.fd, &info) == 0) {
    auto brought = bring_by_dlopen(thread, *way.loader, way.path, info.st_ino, image);
    if (brought || brought.error().code != ENOENT) {
      return brought;
    }
  }
  const int remote_fd = TRY(put_file(thread, way.file, way.path));
  const std::string number = std::to_string(remote_fd);
  const std::string ours = "/proc/" + std::to_string(thread.process().pid()) + "/fd/" + number;
  Result<AgentImage> brought = make_error(ENOENT, "no loader");
  if (way.loader && ::stat(ours.c_str(), &info) == 0) {
    brought = bring_by_dlopen(thread, *way.loader, "/proc/self/fd/" + number, info.st_ino, image);
  }
  if (!brought && way.may_map && brought.error().code == ENOENT) {
    brought = bring_by_mapping(thread, remote_fd, image);
  }
  (void)remote_close(thread, remote_fd);
  return brought;
}

Result<AgentEntrance> find_entrance(StoppedProcess& process, const AgentSource& file,
                                    AgentWish wish, bool is_fresh) {
  (void)TRY(check_agent(file.bytes));
  AgentEntrance way(file);
  way.may_map = wish != AgentWish::kDlopenOnly;
  bool may_dlopen = wish != AgentWish::kMappedOnly;
  if (may_dlopen && !is_fresh) {
    // Others that are held may hold the locks that dlopen needs.
    const std::vector<pid_t> threads = process.threads();
    may_dlopen = threads.size() == 1 && stands_in_wait(process, threads[0]);
    way.tid = may_dlopen ? threads[0] : 0;
    if (!may_dlopen && wish == AgentWish::kDlopenOnly) {
      return make_error(EAGAIN, "dlopen is not safe in a process stopped anywhere");
    }
  }
  if (may_dlopen) {
    if (auto found = find_loader(process.pid())) {
      way.loader = *found;
    } else if (wish == AgentWish::kDlopenOnly) {
      return make_error(ENOENT, found.error().why);
    }
  }
  way.path = shared_path(process.pid(), file.fd);
  return way;
}

Result<AgentEntrance> open_entrance(pid_t pid, const AgentSource& file, AgentWish wish,
                                    uint64_t deadline_ns) {
  (void)TRY(check_agent(file.bytes));
  AgentEntrance way(file);
  way.may_map = wish != AgentWish::kDlopenOnly;
  way.path = shared_path(pid, file.fd);
  RemoteThread::look_before(pid);
  if (wish != AgentWish::kMappedOnly) {
    auto loader = find_loader(pid);
    if (!loader && (wish == AgentWish::kDlopenOnly || loader.error().code == ESRCH)) {
      return loader.error();
    }
    if (loader) {
      auto waiting = borrow_waiting(pid, deadline_ns);
      if (waiting) {
        way.loader = *loader;
        way.process = std::move(waiting->process);
        way.tid = waiting->tid;
        way.stopped_since_ns = waiting->stopped_since_ns;
        return way;
      }
      if (waiting.error().code != EAGAIN || wish == AgentWish::kDlopenOnly) {
        return waiting.error();
      }
    }
  }
  // Any thread will do: one that still runs code.
  Error last = make_error(ESRCH, "the process has ended");
  for (const pid_t tid : TRY(read_threads(pid))) {
    way.stopped_since_ns = monotonic_ns();
    auto process = StoppedProcess::borrow(pid, tid, deadline_ns);
    if (process) {
      way.tid = tid;
      way.process = std::move(*process);
      return way;
    }
    last = process.error();
    if (last.code != ESRCH) {
      break;
    }
  }
  return last;
}

Result<AgentImage> bring_agent(StoppedProcess& process, const AgentSource& file, AgentWish wish,
                               bool is_fresh, uint64_t deadline_ns) {
  const uint64_t begun = monotonic_ns();
  const AgentEntrance way = TRY(find_entrance(process, file, wish, is_fresh));
  RemoteThread thread = TRY(RemoteThread::begin(process, way.tid, deadline_ns));
  AgentImage agent = TRY(bring_agent(thread, way));
  TRY(thread.finish());
  agent.stopped_ns = monotonic_ns() - begun;
  return agent;
}

Result<AgentImage> bring_agent(pid_t pid, const AgentSource& file, AgentWish wish,
                               uint64_t deadline_ns) {
  AgentEntrance way = TRY(open_entrance(pid, file, wish, deadline_ns));
  RemoteThread thread = TRY(RemoteThread::begin(*way.process, way.tid, deadline_ns));
  AgentImage agent = TRY(bring_agent(thread, way));
  TRY(thread.finish());
  way.process->release();
  agent.stopped_ns = monotonic_ns() - way.stopped_since_ns;
  return agent;
}

namespace {

// The loader's entry for the image at `base`: struct link_map {l_addr, l_name, l_ld, l_next, ...}, which is what dlopen
// returns (glibc, musl). 0: the loader does not know it.
uint64_t link_map_of(pid_t pid, const std::vector<Mapping>& maps, uint64_t base) {
  constexpr int kMostLibraries = 65536;
  for (const Mapping& m : maps) {
    if (m.offset != 0 || (m.path.find("/ld-linux") == std::string::npos &&
                          m.path.find("/ld-musl") == std::string::npos)) {
      continue;
    }
    const auto library = LoadedLibrary::open(pid, m.begin);
    const auto debug = library ? library->find("_r_debug") : Result<uint64_t>(library.error());
    uint64_t at = 0;
    if (!debug || !read_memory(pid, RemoteAddr{*debug + offsetof(r_debug, r_map)},
                               std::as_writable_bytes(std::span(&at, 1)))) {
      continue;
    }
    for (int i = 0; at != 0 && i < kMostLibraries; ++i) {
      uint64_t entry[4] = {};
      if (!read_memory(pid, RemoteAddr{at}, std::as_writable_bytes(std::span(entry)))) {
        break;
      }
      if (entry[0] == base) {
        return at;
      }
      at = entry[3];
    }
  }
  return 0;
}

}  // namespace

std::vector<AgentImage> find_agent_images(pid_t pid, const AgentSource& file) {
  std::vector<AgentImage> images;
  const auto image = check_agent(file.bytes);
  const auto maps = read_maps(pid);
  if (!image || !maps) {
    return images;
  }
  for (const Mapping& m : mappings_of_memfd(*maps, kAgentName)) {
    if (m.offset == 0) {
      const uint64_t base = m.begin - page_down(image->low_address());
      const uint64_t handle = link_map_of(pid, *maps, base);
      images.push_back({RemoteAddr{base}, image_bytes(*image),
                        handle != 0 ? AgentWay::kDlopen : AgentWay::kMapped, handle, 0});
    }
  }
  return images;
}

namespace {

Result<void> unload(StoppedProcess& process, pid_t tid, const AgentImage& image,
                    uint64_t deadline_ns) {
  if (image.way == AgentWay::kMapped) {
    RemoteThread thread = TRY(RemoteThread::begin(process, tid, deadline_ns));
    TRY(remote_unmap(thread, image.base, image.bytes));
    return thread.finish();
  }
  const Loader loader = TRY(find_loader(process.pid()));
  RemoteThread thread = TRY(RemoteThread::begin(process, tid, deadline_ns));
  const RemoteAddr errno_at{TRY(thread.call(loader.errno_location, {}))};
  const int saved_errno = TRY(process.read_value<int>(errno_at));
  const uint64_t result = TRY(thread.call(loader.dlclose, {image.handle}));
  TRY(process.write_value(errno_at, saved_errno));
  TRY(thread.finish());
  if (result != 0) {
    return make_error(EINVAL, "the process's dlclose does not know the agent");
  }
  return {};
}

}  // namespace

Result<void> unload_agent(StoppedProcess& process, const AgentImage& image, uint64_t deadline_ns) {
  pid_t tid = 0;
  if (image.way == AgentWay::kDlopen) {
    const std::vector<pid_t> threads = process.threads();
    if (threads.size() != 1 || !stands_in_wait(process, threads[0])) {
      return make_error(EAGAIN, "dlclose is not safe in a process stopped anywhere");
    }
    tid = threads[0];
  }
  return unload(process, tid, image, deadline_ns);
}

Result<void> unload_agent(pid_t pid, const AgentImage& image, uint64_t deadline_ns) {
  if (image.way == AgentWay::kDlopen) {
    WaitingThread waiting = TRY(borrow_waiting(pid, deadline_ns));
    return unload(waiting.process, waiting.tid, image, deadline_ns);
  }
  Error last = make_error(ESRCH, "the process has ended");
  for (const pid_t tid : TRY(read_threads(pid))) {
    auto process = StoppedProcess::borrow(pid, tid, deadline_ns);
    if (process) {
      return unload(*process, tid, image, deadline_ns);
    }
    last = process.error();
    if (last.code != ESRCH) {
      break;
    }
  }
  return last;
}

}  // namespace bpftime
