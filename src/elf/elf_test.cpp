#include "elf/elf.hpp"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

namespace bpftime {
namespace {

std::vector<std::byte> read_file(const char* path) {
  std::vector<std::byte> bytes;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info = {};
  if (fd >= 0 && fstat(fd, &info) == 0) {
    bytes.resize(static_cast<size_t>(info.st_size));
    EXPECT_EQ(read(fd, bytes.data(), bytes.size()), info.st_size);
  }
  close(fd);
  return bytes;
}

std::vector<std::byte> own_libc(uint64_t* base) {
  Dl_info info = {};
  EXPECT_NE(dladdr(reinterpret_cast<void*>(&getenv), &info), 0);
  *base = reinterpret_cast<uint64_t>(info.dli_fbase);
  return read_file(info.dli_fname);
}

// A small image in memory: one load segment over everything, a symbol table with the given symbols.
struct Built {
  std::vector<std::byte> bytes;
  template <class T>
  uint64_t put(const T& value) {
    const uint64_t at = bytes.size();
    bytes.resize(at + sizeof(T));
    std::memcpy(bytes.data() + at, &value, sizeof(T));
    return at;
  }
  template <class T>
  T* at(uint64_t offset) {
    return reinterpret_cast<T*>(bytes.data() + offset);
  }
};
struct TestSymbol {
  const char* name;
  uint64_t address, size;
  uint8_t type = STT_FUNC, bind = STB_GLOBAL;
};
Built build(std::vector<TestSymbol> symbols) {
  Built built;
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_DYN;
  header.e_machine = EM_X86_64;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  header.e_phoff = sizeof(Elf64_Ehdr);
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 3;
  built.put(header);
  built.put(Elf64_Phdr{});
  Elf64_Shdr symtab = {}, strtab = {};
  std::string names(1, '\0');
  symtab.sh_type = SHT_SYMTAB;
  symtab.sh_entsize = sizeof(Elf64_Sym);
  symtab.sh_link = 2;
  symtab.sh_offset = built.put(Elf64_Sym{});
  for (const TestSymbol& s : symbols) {
    Elf64_Sym symbol = {};
    symbol.st_name = static_cast<uint32_t>(names.size());
    names += std::string(s.name) + '\0';
    symbol.st_info = static_cast<uint8_t>(ELF64_ST_INFO(s.bind, s.type));
    symbol.st_shndx = 1;
    symbol.st_value = s.address;
    symbol.st_size = s.size;
    built.put(symbol);
  }
  symtab.sh_size = built.bytes.size() - symtab.sh_offset;
  strtab.sh_type = SHT_STRTAB;
  strtab.sh_offset = built.bytes.size();
  strtab.sh_size = names.size();
  for (const char c : names) {
    built.put(c);
  }
  const uint64_t sections = built.put(Elf64_Shdr{});
  built.put(symtab);
  built.put(strtab);
  built.at<Elf64_Ehdr>(0)->e_shoff = sections;
  auto* load = built.at<Elf64_Phdr>(sizeof(Elf64_Ehdr));
  load->p_type = PT_LOAD;
  load->p_flags = PF_R | PF_X;
  load->p_filesz = built.bytes.size();
  load->p_memsz = 0x10000;
  load->p_vaddr = 0x1000;
  return built;
}

TEST(Elf, OwnLibcSymbolsAgreeWithTheDynamicLinker) {
  uint64_t base = 0;
  const auto bytes = own_libc(&base);
  auto image = ElfImage::parse(bytes);
  void* const libc =
      dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);  // a sanitizer's malloc may stand before libc's
  ASSERT_TRUE(image);
  EXPECT_TRUE(image->is_position_independent());
  EXPECT_TRUE(image->has_dynamic());
  EXPECT_GE(image->build_id().size(), 16U);
  for (const char* name : {"malloc", "free", "getenv", "dlopen"}) {
    auto symbol = image->find_symbol(name);
    ASSERT_TRUE(symbol) << name;
    EXPECT_EQ(symbol->address + base, reinterpret_cast<uint64_t>(dlsym(libc, name)));
    EXPECT_TRUE(symbol->is_function);
    EXPECT_FALSE(symbol->is_ifunc);
    auto around = image->function_at(symbol->address + 3);
    ASSERT_TRUE(around);
    EXPECT_EQ(around->address, symbol->address);
    EXPECT_EQ(around->size, symbol->size);
    auto offset = image->offset_of(symbol->address);
    ASSERT_TRUE(offset);
    auto back = image->address_of(*offset);
    ASSERT_TRUE(back);
    EXPECT_EQ(*back, symbol->address);
    auto code = image->bytes_at(symbol->address, 8);
    ASSERT_TRUE(code);
    EXPECT_EQ(std::memcmp(code->data(), reinterpret_cast<void*>(base + symbol->address), 8), 0);
  }
  auto strlen_symbol = image->find_symbol("strlen");
  ASSERT_TRUE(strlen_symbol);
  EXPECT_TRUE(strlen_symbol->is_ifunc);
  EXPECT_TRUE(std::is_sorted(image->functions().begin(), image->functions().end(),
                             [](auto& a, auto& b) { return a.address < b.address; }));
  EXPECT_GT(image->functions().size(), 1000U);
}

TEST(Elf, OwnProgramHasInterpreterAndEntry) {
  const auto bytes = read_file("/proc/self/exe");
  auto image = ElfImage::parse(bytes);
  ASSERT_TRUE(image);
  EXPECT_NE(image->interpreter().find("ld-linux"), std::string_view::npos);
  EXPECT_NE(image->entry(), 0U);
  auto relocs = image->relative_relocations();
  ASSERT_FALSE(relocs);
  EXPECT_EQ(relocs.error().code, EOPNOTSUPP);
}

TEST(Elf, FunctionOfSizeZeroReachesToTheNext) {
  const Built built = build({{"a", 0x1100, 0}, {"b", 0x1180, 0x10}, {"c", 0x1300, 0}});
  auto image = ElfImage::parse(built.bytes);
  ASSERT_TRUE(image);
  EXPECT_EQ(image->function_at(0x117f)->name, "a");
  EXPECT_EQ(image->function_at(0x1180)->name, "b");
  EXPECT_EQ(image->function_at(0x118f)->name, "b");
  EXPECT_EQ(image->function_at(0x10fff)->name, "c");
  ASSERT_FALSE(image->function_at(0x11000));
  ASSERT_FALSE(image->function_at(0x10ff));
}

TEST(Elf, InnermostFunctionWinsAndGlobalNameBeforeLocal) {
  const Built built = build({{"outer", 0x1100, 0x100},
                             {"inner", 0x1120, 0x10},
                             {"local", 0x1200, 8, STT_FUNC, STB_LOCAL},
                             {"world", 0x1200, 8}});
  auto image = ElfImage::parse(built.bytes);
  ASSERT_TRUE(image);
  EXPECT_EQ(image->function_at(0x1125)->name, "inner");
  EXPECT_EQ(image->function_at(0x1131)->name, "outer");
  EXPECT_EQ(image->function_at(0x1204)->name, "world");
}

TEST(Elf, NotAnElfFailsWithEnoexec) {
  const std::vector<std::byte> nothing, text(100, std::byte{'x'});
  EXPECT_EQ(ElfImage::parse(nothing).error().code, ENOEXEC);
  EXPECT_EQ(ElfImage::parse(text).error().code, ENOEXEC);
  Built built = build({});
  built.at<Elf64_Ehdr>(0)->e_machine = EM_AARCH64;
  EXPECT_EQ(ElfImage::parse(built.bytes).error().code, ENOEXEC);
}

TEST(Elf, TablesOutsideTheFileFailWithEinval) {
  Built built = build({{"a", 0x1100, 8}});
  built.at<Elf64_Ehdr>(0)->e_shoff = UINT64_MAX - 8;
  EXPECT_EQ(ElfImage::parse(built.bytes).error().code, EINVAL);
  built = build({{"a", 0x1100, 8}});
  built.at<Elf64_Ehdr>(0)->e_phoff = UINT64_MAX - 8;
  EXPECT_EQ(ElfImage::parse(built.bytes).error().code, EINVAL);
  built = build({{"a", 0x1100, 8}});
  const uint64_t sections = built.at<Elf64_Ehdr>(0)->e_shoff;
  built.at<Elf64_Shdr>(sections + sizeof(Elf64_Shdr))->sh_size = UINT64_MAX;
  EXPECT_EQ(ElfImage::parse(built.bytes).error().code, EINVAL);
  built = build({{"a", 0x1100, 8}});
  built.at<Elf64_Phdr>(sizeof(Elf64_Ehdr))->p_filesz = 1 << 20;
  EXPECT_EQ(ElfImage::parse(built.bytes).error().code, EINVAL);
}

TEST(Elf, NameOutsideTheStringTableIsLeftOut) {
  Built built = build({{"a", 0x1100, 8}, {"b", 0x1200, 8}});
  built.at<Elf64_Sym>(sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr))[1].st_name = 0x7fffffff;
  auto image = ElfImage::parse(built.bytes);
  ASSERT_TRUE(image);
  ASSERT_EQ(image->symbols().size(), 1U);
  EXPECT_EQ(image->symbols()[0].name, "b");
}

TEST(Elf, EveryPrefixOfAnImageIsReadWithoutHarm) {
  const Built built = build({{"a", 0x1100, 0}, {"b", 0x1180, 0x10}});
  for (size_t n = 0; n <= built.bytes.size(); ++n) {
    const std::vector<std::byte> part(built.bytes.begin(),
                                      built.bytes.begin() + static_cast<long>(n));
    EXPECT_EQ(ElfImage::parse(part).has_value(), n == built.bytes.size()) << n;
  }
}

}  // namespace
}  // namespace bpftime
