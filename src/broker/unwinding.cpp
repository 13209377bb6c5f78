#include "broker/unwinding.hpp"

#include <elf.h>

#include <cstring>
#include <string_view>

namespace bpftime {
namespace {

template <typename T>
bool read_at(std::span<const std::byte> bytes, uint64_t at, T* value) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) {
    return false;
  }
  std::memcpy(value, bytes.data() + at, sizeof(T));
  return true;
}

bool holds_go_note(std::span<const std::byte> notes, uint64_t align) {
  const auto padded = [align](uint64_t n) { return (n + align - 1) / align * align; };
  Elf64_Nhdr note;
  for (uint64_t at = 0; read_at(notes, at, &note);
       at += sizeof(note) + padded(note.n_namesz) + padded(note.n_descsz)) {
    char name[4];
    if (note.n_namesz == sizeof(name) && read_at(notes, at + sizeof(note), &name) &&
        std::memcmp(name, "Go\0", sizeof(name)) == 0) {
      return true;
    }
  }
  return false;
}

}  // namespace

bool maps_nongnu_libunwind(std::span<const Mapping> maps) {
  for (const Mapping& m : maps) {
    const std::string_view path = m.path;
    const std::string_view name = path.substr(path.rfind('/') + 1);  // npos + 1 = 0
    if (name.starts_with("libunwind.so.8") || name.starts_with("libunwind-x86_64.so")) {
      return true;
    }
  }
  return false;
}

bool is_go_image(std::span<const std::byte> bytes) {
  Elf64_Ehdr header;
  if (!read_at(bytes, 0, &header) || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return false;
  }
  for (uint64_t i = 0; i < header.e_phnum; i++) {
    Elf64_Phdr segment;
    if (header.e_phoff > bytes.size() ||
        !read_at(bytes, header.e_phoff + i * sizeof(segment), &segment)) {
      return false;
    }
    if (segment.p_type == PT_NOTE && segment.p_offset <= bytes.size() &&
        segment.p_filesz <= bytes.size() - segment.p_offset &&
        holds_go_note(bytes.subspan(segment.p_offset, segment.p_filesz),
                      segment.p_align == 8 ? 8 : 4)) {
      return true;
    }
  }
  return false;
}

}  // namespace bpftime
