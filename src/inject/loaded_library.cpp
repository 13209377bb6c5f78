#include "inject/loaded_library.hpp"

#include <elf.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "inject/stopped_process.hpp"

namespace bpftime {
namespace {

constexpr unsigned kProgramHeadersAtMost = 64, kDynamicAtMost = 128, kChainAtMost = 4096;

template <class T>
Result<T> load(pid_t pid, uint64_t at) {
  T value{};
  TRY(read_memory(pid, RemoteAddr{at}, std::as_writable_bytes(std::span<T, 1>(&value, 1))));
  return value;
}

}  // namespace

Result<LoadedLibrary> LoadedLibrary::open(pid_t pid, uint64_t begin) {
  const auto header = TRY(load<Elf64_Ehdr>(pid, begin));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_machine != EM_X86_64 || header.e_phentsize != sizeof(Elf64_Phdr) ||
      header.e_phnum > kProgramHeadersAtMost) {
    return make_error(ENOEXEC, "no ELF image there");
  }
  std::vector<Elf64_Phdr> programs(header.e_phnum);
  TRY(read_memory(pid, RemoteAddr{begin + header.e_phoff},
                  std::as_writable_bytes(std::span(programs))));
  LoadedLibrary library;
  library.pid_ = pid;
  uint64_t low = UINT64_MAX, dynamic_at = 0, dynamic_bytes = 0;
  for (const Elf64_Phdr& program : programs) {
    if (program.p_type == PT_LOAD && program.p_vaddr < low) {
      low = program.p_vaddr;
    }
    if (program.p_type == PT_DYNAMIC) {
      dynamic_at = program.p_vaddr;
      dynamic_bytes = program.p_memsz;
    }
  }
  if (low == UINT64_MAX || dynamic_bytes == 0) {
    return make_error(ENOENT, "image without a dynamic section");
  }
  library.bias_ = begin - (low & ~uint64_t{4095});
  std::vector<Elf64_Dyn> entries(
      std::min<uint64_t>(dynamic_bytes / sizeof(Elf64_Dyn), kDynamicAtMost));
  TRY(read_memory(pid, RemoteAddr{library.bias_ + dynamic_at},
                  std::as_writable_bytes(std::span(entries))));
  uint64_t hash = 0;
  // glibc writes addresses over these values when it loads; others leave them relative to the
  // image.
  const auto address = [&](uint64_t value) {
    return value < library.bias_ ? library.bias_ + value : value;
  };
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag == DT_NULL) {
      break;
    }
    if (entry.d_tag == DT_SYMTAB) {
      library.symbols_ = address(entry.d_un.d_ptr);
    } else if (entry.d_tag == DT_STRTAB) {
      library.strings_ = address(entry.d_un.d_ptr);
    } else if (entry.d_tag == DT_GNU_HASH) {
      hash = address(entry.d_un.d_ptr);
    }
  }
  if (library.symbols_ == 0 || library.strings_ == 0 || hash == 0) {
    return make_error(ENOENT, "image without a GNU hash table");
  }
  struct HashHeader {
    uint32_t bucket_count, first_symbol, bloom_words, bloom_shift;
  };
  const auto table = TRY(load<HashHeader>(pid, hash));
  if (table.bucket_count == 0) {
    return make_error(ENOENT, "empty hash table");
  }
  library.bucket_count_ = table.bucket_count;
  library.first_symbol_ = table.first_symbol;
  library.buckets_ = hash + sizeof(HashHeader) + uint64_t{table.bloom_words} * 8;
  library.chains_ = library.buckets_ + uint64_t{table.bucket_count} * 4;
  return library;
}

Result<uint64_t> LoadedLibrary::find(std::string_view name) const {
  uint32_t hash = 5381;  // the dl_new_hash of the GNU hash section
  for (const char c : name) {
    hash = hash * 33 + static_cast<unsigned char>(c);
  }
  const auto first = TRY(load<uint32_t>(pid_, buckets_ + uint64_t{hash % bucket_count_} * 4));
  if (first < first_symbol_) {
    return make_error(ENOENT, "no such symbol");
  }
  std::vector<char> text(name.size() + 1);
  for (uint32_t i = 0; i < kChainAtMost; ++i) {
    const uint64_t index = uint64_t{first} + i;
    const auto link = TRY(load<uint32_t>(pid_, chains_ + (index - first_symbol_) * 4));
    if ((link | 1) == (hash | 1)) {
      const auto symbol = TRY(load<Elf64_Sym>(pid_, symbols_ + index * sizeof(Elf64_Sym)));
      const unsigned type = ELF64_ST_TYPE(symbol.st_info);
      TRY(read_memory(pid_, RemoteAddr{strings_ + symbol.st_name},
                      std::as_writable_bytes(std::span(text))));
      if (text.back() == 0 && name == text.data() && symbol.st_shndx != SHN_UNDEF &&
          type != STT_GNU_IFUNC && type != STT_TLS) {
        return bias_ + symbol.st_value;
      }
    }
    if ((link & 1) != 0) {
      break;
    }
  }
  return make_error(ENOENT, "no such symbol");
}

}  // namespace bpftime
