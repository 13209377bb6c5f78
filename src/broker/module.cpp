#include "broker/module.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/unique_fd.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kMaxModuleBytes = 1ULL << 30;
constexpr uint64_t kMaxFunctionBytes = 1ULL << 20;  // what is scanned for jumps into a patch
constexpr uint64_t kNear = 160;

std::span<const uint8_t> as_code(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

// The executable segment of the file that holds `address`.
const ElfSegment* segment_of(const Module& module, uint64_t address) {
  for (const auto& s : module.image.segments()) {
    if (s.is_executable && s.address <= address && address - s.address < s.file_bytes) {
      return &s;
    }
  }
  return nullptr;
}

}  // namespace

Result<uint64_t> Module::bias(const Mapping& m) const {
  return m.begin - TRY(image.address_of(m.offset));
}

Result<FunctionPlace> place_of(const Module& module, uint64_t address) {
  const ElfSegment* const segment = segment_of(module, address);
  if (segment == nullptr) {
    return make_error(EINVAL, "the offset is not in executable code of the file");
  }
  const uint64_t segment_end = segment->address + segment->file_bytes;
  FunctionPlace place{};
  const auto symbol = module.image.function_at(address);
  place.begin = symbol ? symbol->address : address;
  place.name = symbol ? symbol->name : std::string_view();
  const auto next =
      std::upper_bound(module.starts.begin(), module.starts.end(), std::max(place.begin, address));
  uint64_t end = next == module.starts.end() ? segment_end : std::min(*next, segment_end);
  // Without a symbol the function's end is not known: a stretch of code is looked at.
  if (!symbol) {
    end = std::min(end, place.begin + 4096);
  }
  place.bytes_to_next = std::min(end - place.begin, kMaxFunctionBytes);
  place.bytes = symbol && symbol->size != 0 ? std::min(symbol->size, segment_end - place.begin)
                                            : place.bytes_to_next;
  place.bytes = std::min(place.bytes, kMaxFunctionBytes);
  const uint64_t shown =
      std::min(std::max(place.bytes, place.bytes_to_next) + 32, segment_end - place.begin);
  place.code = as_code(TRY(module.image.bytes_at(place.begin, shown)));
  return place;
}

std::vector<PaddingRange> padding_near(const Module& module, uint64_t address) {
  std::vector<PaddingRange> ranges;
  const ElfSegment* const segment = segment_of(module, address);
  if (segment == nullptr) {
    return ranges;
  }
  auto it = std::lower_bound(module.starts.begin(), module.starts.end(),
                             address > 4096 ? address - 4096 : 0);
  for (; it != module.starts.end() && *it < address + kNear; ++it) {
    const auto next = std::next(it);
    const uint64_t end = next == module.starts.end()
                             ? segment->address + segment->file_bytes
                             : std::min(*next, segment->address + segment->file_bytes);
    const auto symbol = module.image.function_at(*it);
    if (!symbol || symbol->address != *it || symbol->size == 0 || *it + symbol->size >= end) {
      continue;
    }
    const uint64_t gap_begin = *it + symbol->size;
    if (end < address - std::min(address, kNear) || gap_begin > address + kNear ||
        end - gap_begin > 4096) {
      continue;
    }
    const auto before = module.image.bytes_at(*it, symbol->size);
    const auto gap = module.image.bytes_at(gap_begin, end - gap_begin);
    if (before && gap) {
      const PaddingRange range =
          find_padding(as_code(*before), as_code(*gap), RemoteAddr{gap_begin});
      if (range.content.size() >= 5) {
        ranges.push_back(range);
      }
    }
  }
  return ranges;
}

namespace {

// Opens what is mapped, if it is the file named: nothing else is opened, not even to look at it.
Result<UniqueFd> open_if_mapped(const std::string& path, const Mapping& m, struct stat* st) {
  if (::stat(path.c_str(), st) != 0) {
    return make_error(errno, "the mapped file cannot be opened");
  }
  if (!S_ISREG(st->st_mode)) {
    return make_error(ENOENT, "the mapped file is no regular file");
  }
  // Not the device: in a container's overlay, or a subvolume, stat(2) and the mapping name different ones.
  if (st->st_ino != m.inode) {
    return make_error(ESTALE, "the mapped file was replaced");
  }
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    return make_error(errno, "the mapped file cannot be opened");
  }
  if (::fstat(fd.get(), st) != 0 || !S_ISREG(st->st_mode) || st->st_ino != m.inode) {
    return make_error(ESTALE, "the mapped file was replaced");
  }
  return fd;
}

// /proc/PID/maps names a file from our root directory or, where that does not lead to it, from the top of its mount
// namespace; the target's root may lie anywhere below either. Its own program can be opened even where it was deleted.
Result<UniqueFd> open_mapped(pid_t pid, const Mapping& m, struct stat* st) {
  const std::string process = "/proc/" + std::to_string(pid);
  auto opened = open_if_mapped(process + "/root" + m.path, m, st);
  for (size_t at = m.path.find('/', 1); !opened && at != std::string::npos;
       at = m.path.find('/', at + 1)) {
    if (auto below = open_if_mapped(process + "/root" + m.path.substr(at), m, st)) {
      opened = std::move(below);
    }
  }
  if (!opened) {
    if (auto program = open_if_mapped(process + "/exe", m, st)) {
      opened = std::move(program);
    }
  }
  return opened;
}

}  // namespace

Result<std::shared_ptr<const Module>> Modules::of_mapping(pid_t pid, const Mapping& m) {
  struct stat st{};
  const UniqueFd fd = TRY(open_mapped(pid, m, &st));
  const auto size = static_cast<uint64_t>(st.st_size);
  const int64_t mtime = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
  for (auto it = recent_.begin(); it != recent_.end(); ++it) {
    if ((*it)->device == st.st_dev && (*it)->inode == st.st_ino && (*it)->size == size &&
        (*it)->mtime_ns == mtime) {
      recent_.splice(recent_.begin(), recent_, it);
      return recent_.front();
    }
  }
  if (size > kMaxModuleBytes) {
    return make_error(EFBIG, "the mapped file is too large");
  }
  std::vector<std::byte> bytes(size);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        ::pread(fd.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n <= 0) {
      return make_error(EIO, "the mapped file cannot be read");
    }
    done += static_cast<size_t>(n);
  }
  ElfImage image = TRY(ElfImage::parse(bytes));
  std::vector<uint64_t> starts;
  starts.reserve(image.functions().size());
  for (const auto& f : image.functions()) {
    if (starts.empty() || starts.back() != f.address) {
      starts.push_back(f.address);
    }
  }
  auto module = std::make_shared<const Module>(Module{
      st.st_dev, st.st_ino, size, mtime, std::move(bytes), std::move(image), std::move(starts)});
  recent_.push_front(module);
  if (recent_.size() > kKept) {
    recent_.pop_back();
  }
  return module;
}

}  // namespace bpftime
