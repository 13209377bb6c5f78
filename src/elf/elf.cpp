#include "elf/elf.hpp"

#include <elf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <tuple>

namespace bpftime {
namespace {

using Bytes = std::span<const std::byte>;

// The only way to the bytes: null when the range is not wholly inside.
std::optional<Bytes> slice(Bytes bytes, uint64_t offset, uint64_t count) {
  if (offset > bytes.size() || count > bytes.size() - offset) {
    return std::nullopt;
  }
  return bytes.subspan(offset, count);
}

template <class T>
std::optional<T> load(Bytes bytes, uint64_t offset) {
  const auto part = slice(bytes, offset, sizeof(T));
  if (!part) {
    return std::nullopt;
  }
  T value;
  std::memcpy(&value, part->data(), sizeof(T));
  return value;
}

// The zero-terminated string at `offset` of a string table; null when it does not end inside.
std::optional<std::string_view> text_at(Bytes table, uint64_t offset) {
  if (offset >= table.size()) {
    return std::nullopt;
  }
  const Bytes rest = table.subspan(offset);
  const void* end = std::memchr(rest.data(), 0, rest.size());
  if (end == nullptr) {
    return std::nullopt;
  }
  const auto* begin = reinterpret_cast<const char*>(rest.data());
  return std::string_view(begin, static_cast<size_t>(static_cast<const char*>(end) - begin));
}

// gABI chapter 5, note section: name and descriptor padded to 4 bytes (8 where the segment is
// aligned to 8).
Bytes find_build_id(Bytes notes, uint64_t align) {
  const uint64_t pad = align == 8 ? 7 : 3;
  uint64_t at = 0;
  while (const auto head = load<Elf64_Nhdr>(notes, at)) {
    const uint64_t name_at = at + sizeof(Elf64_Nhdr);
    const uint64_t desc_at = (name_at + head->n_namesz + pad) & ~pad;
    const auto name = slice(notes, name_at, head->n_namesz);
    const auto desc = slice(notes, desc_at, head->n_descsz);
    if (!name || !desc) {
      break;
    }
    if (head->n_type == NT_GNU_BUILD_ID && name->size() == 4 &&
        std::memcmp(name->data(), "GNU", 4) == 0) {
      return *desc;
    }
    at = (desc_at + head->n_descsz + pad) & ~pad;
  }
  return {};
}

bool by_address(const ElfSymbol& a, const ElfSymbol& b) {
  return std::tie(a.address, a.size, a.name) < std::tie(b.address, b.size, b.name);
}

void append_symbols(Bytes table, Bytes strings, std::vector<ElfSymbol>& out) {
  const uint64_t count = table.size() / sizeof(Elf64_Sym);
  out.reserve(out.size() + count);
  for (uint64_t i = 1; i < count; ++i) {
    const Elf64_Sym symbol = *load<Elf64_Sym>(table, i * sizeof(Elf64_Sym));
    const unsigned type = ELF64_ST_TYPE(symbol.st_info);
    const unsigned bind = ELF64_ST_BIND(symbol.st_info);
    if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx == SHN_ABS || type == STT_SECTION ||
        type == STT_FILE || type == STT_TLS) {
      continue;
    }
    const auto name = text_at(strings, symbol.st_name);
    if (!name || name->empty()) {
      continue;  // one bad symbol does not make the others useless
    }
    out.push_back({.name = *name,
                   .address = symbol.st_value,
                   .size = symbol.st_size,
                   .is_function = type == STT_FUNC || type == STT_GNU_IFUNC,
                   .is_ifunc = type == STT_GNU_IFUNC,
                   .is_global = bind != STB_LOCAL});
  }
}

}  // namespace

Result<ElfImage> ElfImage::parse(std::span<const std::byte> bytes) {
  const auto header = load<Elf64_Ehdr>(bytes, 0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) {
    return make_error(ENOEXEC, "not an ELF file");
  }
  if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
      header->e_machine != EM_X86_64) {
    return make_error(ENOEXEC, "not a 64-bit x86-64 ELF file");
  }
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN) {
    return make_error(ENOEXEC, "neither a program nor a shared library");
  }
  if (header->e_phnum != 0 && header->e_phentsize != sizeof(Elf64_Phdr)) {
    return make_error(EINVAL, "program headers of an unknown size");
  }

  ElfImage image;
  image.bytes_ = bytes;
  image.is_dyn_ = header->e_type == ET_DYN;
  image.entry_ = header->e_entry;
  for (unsigned i = 0; i < header->e_phnum; ++i) {
    if (header->e_phoff > bytes.size()) {
      return make_error(EINVAL, "program headers outside the file");
    }
    const auto program = load<Elf64_Phdr>(bytes, header->e_phoff + i * sizeof(Elf64_Phdr));
    if (!program) {
      return make_error(EINVAL, "program headers outside the file");
    }
    const auto part = slice(bytes, program->p_offset, program->p_filesz);
    switch (program->p_type) {
      case PT_LOAD:
        if (program->p_filesz > program->p_memsz ||
            program->p_vaddr > UINT64_MAX - program->p_memsz) {
          return make_error(EINVAL, "segment larger than its memory");
        }
        if (!part) {
          return make_error(EINVAL, "segment outside the file");
        }
        image.segments_.push_back({.address = program->p_vaddr,
                                   .memory_bytes = program->p_memsz,
                                   .file_offset = program->p_offset,
                                   .file_bytes = program->p_filesz,
                                   .align = program->p_align,
                                   .is_readable = (program->p_flags & PF_R) != 0,
                                   .is_writable = (program->p_flags & PF_W) != 0,
                                   .is_executable = (program->p_flags & PF_X) != 0});
        break;
      case PT_INTERP:
        if (!part || part->empty()) {
          return make_error(EINVAL, "interpreter name outside the file");
        }
        if (const auto name = text_at(*part, 0)) {
          image.interpreter_ = *name;
        } else {
          return make_error(EINVAL, "interpreter name without end");
        }
        break;
      case PT_DYNAMIC:
        if (!part) {
          return make_error(EINVAL, "dynamic section outside the file");
        }
        image.dynamic_offset_ = program->p_offset;
        image.dynamic_bytes_ = program->p_filesz;
        break;
      case PT_TLS:
        image.has_tls_ = true;
        break;
      case PT_NOTE:
        if (part && image.build_id_.empty()) {
          image.build_id_ = find_build_id(*part, program->p_align);
        }
        break;
      default:
        break;
    }
  }

  // Symbols come through the section headers, as strip(1) and debuggers do it; a file without them
  // has none.
  if (header->e_shoff != 0 && header->e_shnum != 0) {
    if (header->e_shentsize != sizeof(Elf64_Shdr) ||
        !slice(bytes, header->e_shoff, uint64_t{header->e_shnum} * sizeof(Elf64_Shdr))) {
      return make_error(EINVAL, "section headers outside the file");
    }
    const auto section = [&](uint64_t i) {
      return *load<Elf64_Shdr>(bytes, header->e_shoff + i * sizeof(Elf64_Shdr));
    };
    for (const uint32_t wanted : {SHT_SYMTAB, SHT_DYNSYM}) {
      for (unsigned i = 0; i < header->e_shnum; ++i) {
        const Elf64_Shdr table = section(i);
        if (table.sh_type != wanted) {
          continue;
        }
        if (table.sh_entsize != sizeof(Elf64_Sym) || table.sh_link >= header->e_shnum) {
          return make_error(EINVAL, "symbol table of an unknown form");
        }
        const Elf64_Shdr names = section(table.sh_link);
        const auto symbols = slice(bytes, table.sh_offset, table.sh_size);
        const auto strings = slice(bytes, names.sh_offset, names.sh_size);
        if (!symbols || !strings || names.sh_type != SHT_STRTAB) {
          return make_error(EINVAL, "symbol table outside the file");
        }
        append_symbols(*symbols, *strings, image.symbols_);
      }
    }
  }
  for (const ElfSymbol& symbol : image.symbols_) {
    if (symbol.is_function) {
      image.functions_.push_back(symbol);
    }
  }
  std::sort(image.functions_.begin(), image.functions_.end(), by_address);
  image.functions_.erase(std::unique(image.functions_.begin(), image.functions_.end(),
                                     [](const ElfSymbol& a, const ElfSymbol& b) {
                                       return a.address == b.address && a.name == b.name;
                                     }),
                         image.functions_.end());
  return image;
}

uint64_t ElfImage::low_address() const {
  uint64_t low = segments_.empty() ? 0 : UINT64_MAX;
  for (const ElfSegment& segment : segments_) {
    low = std::min(low, segment.address);
  }
  return low;
}

uint64_t ElfImage::high_address() const {
  uint64_t high = 0;
  for (const ElfSegment& segment : segments_) {
    high = std::max(high, segment.address + segment.memory_bytes);
  }
  return high;
}

Result<uint64_t> ElfImage::offset_of(uint64_t address) const {
  for (const ElfSegment& segment : segments_) {
    if (address >= segment.address && address - segment.address < segment.file_bytes) {
      return segment.file_offset + (address - segment.address);
    }
  }
  return make_error(ENOENT, "address not in the file");
}

Result<uint64_t> ElfImage::address_of(uint64_t file_offset) const {
  // Pages at segment borders appear in two segments: the executable one is meant, as with uprobes.
  for (const bool executable : {true, false}) {
    for (const ElfSegment& segment : segments_) {
      if (segment.is_executable == executable && file_offset >= segment.file_offset &&
          file_offset - segment.file_offset < segment.file_bytes) {
        return segment.address + (file_offset - segment.file_offset);
      }
    }
  }
  return make_error(ENOENT, "file offset in no segment");
}

Result<std::span<const std::byte>> ElfImage::bytes_at(uint64_t address, uint64_t count) const {
  for (const ElfSegment& segment : segments_) {
    if (address >= segment.address && address - segment.address <= segment.file_bytes &&
        count <= segment.file_bytes - (address - segment.address)) {
      return bytes_.subspan(segment.file_offset + (address - segment.address), count);
    }
  }
  return make_error(EFAULT, "address range not in the file");
}

Result<ElfSymbol> ElfImage::find_symbol(std::string_view name) const {
  const ElfSymbol* found = nullptr;
  for (const ElfSymbol& symbol : symbols_) {
    if (symbol.name == name) {
      if (symbol.is_global) {
        return symbol;
      }
      if (found == nullptr) {
        found = &symbol;
      }
    }
  }
  if (found == nullptr) {
    return make_error(ENOENT, "no such symbol");
  }
  return *found;
}

Result<ElfSymbol> ElfImage::function_at(uint64_t address) const {
  const auto after = std::upper_bound(
      functions_.begin(), functions_.end(), address,
      [](uint64_t value, const ElfSymbol& symbol) { return value < symbol.address; });
  uint64_t last = after == functions_.end() ? UINT64_MAX : after->address;
  uint64_t next = last;  // the next higher address that starts a function
  const ElfSymbol* best = nullptr;
  // Backwards, the innermost start first; an enclosing function may begin before an inner one that
  // has ended, so a bounded number of predecessors is tried.
  int tries = 64;
  for (auto i = after; i != functions_.begin() && tries-- > 0;) {
    --i;
    if (best != nullptr && i->address != best->address) {
      break;
    }
    if (last > i->address) {
      next = last;
    }
    last = i->address;
    uint64_t size = i->size;
    if (size == 0) {
      for (const ElfSegment& segment : segments_) {
        if (i->address >= segment.address && i->address - segment.address < segment.memory_bytes) {
          size = std::min(next, segment.address + segment.memory_bytes) - i->address;
        }
      }
    }
    if (address - i->address < size && (best == nullptr || (!best->is_global && i->is_global))) {
      best = &*i;
    }
  }
  if (best == nullptr) {
    return make_error(ENOENT, "in no function");
  }
  return *best;
}

Result<std::vector<ElfRelativeReloc>> ElfImage::relative_relocations() const {
  uint64_t table = 0, table_bytes = 0, entry_bytes = sizeof(Elf64_Rela);
  const Bytes dynamic = bytes_.subspan(dynamic_offset_, dynamic_bytes_);
  for (uint64_t at = 0;; at += sizeof(Elf64_Dyn)) {
    const auto entry = load<Elf64_Dyn>(dynamic, at);
    if (!entry || entry->d_tag == DT_NULL) {
      break;
    }
    switch (entry->d_tag) {
      case DT_RELA:
        table = entry->d_un.d_ptr;
        break;
      case DT_RELASZ:
        table_bytes = entry->d_un.d_val;
        break;
      case DT_RELAENT:
        entry_bytes = entry->d_un.d_val;
        break;
      case DT_REL:
      case DT_JMPREL:
      case 36:  // DT_RELR
      case DT_TEXTREL:
      case DT_NEEDED:
        return make_error(EOPNOTSUPP, "the image needs a loader");
      default:
        break;
    }
  }
  std::vector<ElfRelativeReloc> relocs;
  if (table_bytes == 0) {
    return relocs;
  }
  if (entry_bytes != sizeof(Elf64_Rela) || table_bytes % sizeof(Elf64_Rela) != 0) {
    return make_error(EINVAL, "relocations of an unknown size");
  }
  const Bytes bytes = TRY(bytes_at(table, table_bytes));
  const uint64_t low = low_address(), high = high_address();
  relocs.reserve(bytes.size() / sizeof(Elf64_Rela));
  for (uint64_t at = 0; at < bytes.size(); at += sizeof(Elf64_Rela)) {
    const Elf64_Rela rela = *load<Elf64_Rela>(bytes, at);
    if (ELF64_R_TYPE(rela.r_info) == R_X86_64_NONE) {
      continue;
    }
    if (ELF64_R_TYPE(rela.r_info) != R_X86_64_RELATIVE) {
      return make_error(EOPNOTSUPP, "the image has relocations that need a loader");
    }
    if (rela.r_offset < low || high - low < 8 || rela.r_offset > high - 8) {
      return make_error(EINVAL, "relocation outside the image");
    }
    relocs.push_back({rela.r_offset, rela.r_addend});
  }
  return relocs;
}

}  // namespace bpftime
