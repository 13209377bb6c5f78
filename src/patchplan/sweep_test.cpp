// Plans over every function of the C library and of libcrypto, and holds the share that is refused.
// Run with a file name to see the counts for another ELF file.
#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "patchplan/plan.hpp"

using namespace bpftime;

namespace {

struct Function {
  uint64_t begin, size;
  std::string name;
};

struct Image {
  std::vector<uint8_t> bytes;
  std::vector<Function> functions;  // by address, one per address
  struct Section {
    uint64_t begin, size, offset;
  };
  std::vector<Section> code;
  [[nodiscard]] std::span<const uint8_t> at(uint64_t address, uint64_t size) const {
    for (const Section& s : code) {
      if (address >= s.begin && address < s.begin + s.size) {
        const uint64_t most = s.begin + s.size - address;
        return {bytes.data() + s.offset + (address - s.begin), std::min(size, most)};
      }
    }
    return {};
  }
};

Image read_image(const char* path) {
  Image image;
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) {
    return image;
  }
  std::fseek(file, 0, SEEK_END);
  image.bytes.resize(static_cast<size_t>(std::ftell(file)));
  std::rewind(file);
  if (std::fread(image.bytes.data(), 1, image.bytes.size(), file) != image.bytes.size()) {
    image.bytes.clear();
  }
  std::fclose(file);
  Elf64_Ehdr header;
  std::memcpy(&header, image.bytes.data(), sizeof header);
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  std::memcpy(sections.data(), image.bytes.data() + header.e_shoff,
              sections.size() * sizeof(Elf64_Shdr));
  for (const Elf64_Shdr& s : sections) {
    if ((s.sh_flags & SHF_EXECINSTR) != 0 && s.sh_type == SHT_PROGBITS) {
      image.code.push_back({s.sh_addr, s.sh_size, s.sh_offset});
    }
  }
  std::map<uint64_t, Function> by_address;
  for (const Elf64_Shdr& s : sections) {
    if (s.sh_type != SHT_DYNSYM && s.sh_type != SHT_SYMTAB) {
      continue;
    }
    for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= s.sh_size; at += sizeof(Elf64_Sym)) {
      Elf64_Sym symbol;
      std::memcpy(&symbol, image.bytes.data() + s.sh_offset + at, sizeof symbol);
      const int type = ELF64_ST_TYPE(symbol.st_info);
      if ((type != STT_FUNC && type != STT_GNU_IFUNC) || symbol.st_shndx == SHN_UNDEF ||
          symbol.st_size == 0) {
        continue;
      }
      const char* name = reinterpret_cast<const char*>(image.bytes.data()) +
                         sections[s.sh_link].sh_offset + symbol.st_name;
      Function& f = by_address[symbol.st_value];
      if (f.size < symbol.st_size) {
        f = {symbol.st_value, symbol.st_size, name};
      }
    }
  }
  for (auto& [address, function] : by_address) {
    image.functions.push_back(function);
  }
  return image;
}

struct Counts {
  uint64_t functions = 0, refused = 0;
  std::map<std::string, uint64_t> means;
  std::map<std::string, std::vector<std::string>> refusals;
};

Counts sweep(const Image& image, bool wants_return) {
  Counts counts;
  std::vector<PaddingRange> holes;
  const auto& all = image.functions;
  const auto limit_of = [&](size_t i) {
    return i + 1 < all.size() ? all[i + 1].begin : UINT64_MAX;
  };
  for (size_t i = 0; i < all.size(); i++) {
    const uint64_t end = all[i].begin + all[i].size;
    const uint64_t aligned = std::min((end + 15) & ~uint64_t{15}, limit_of(i));
    if (aligned > end) {
      const PaddingRange range =
          find_padding(image.at(all[i].begin, all[i].size), image.at(end, aligned - end),
                       static_cast<RemoteAddr>(end));
      if (range.content.size() >= 5) {
        holes.push_back(range);
      }
    }
  }
  for (size_t i = 0; i < all.size(); i++) {
    const Function& f = all[i];
    if (wants_return && returns_twice(f.name)) {
      continue;
    }
    counts.functions++;
    PlanInput input;
    input.site = input.function_begin = static_cast<RemoteAddr>(f.begin);
    input.code = image.at(f.begin, f.size + 32);
    input.bytes_to_next_function = std::min<uint64_t>(limit_of(i) - f.begin, f.size + 32);
    input.function_bytes =
        std::min({f.size, uint64_t{input.code.size()}, input.bytes_to_next_function});
    input.room = static_cast<RemoteAddr>(0x40000000);
    input.entry_thunk = input.inside_thunk = input.return_thunk =
        static_cast<RemoteAddr>(0x50000000);
    input.wants_return = wants_return;
    const auto near =
        std::lower_bound(holes.begin(), holes.end(), f.begin - std::min<uint64_t>(f.begin, 200),
                         [](const PaddingRange& r, uint64_t at) { return raw(r.begin) < at; });
    const auto far =
        std::lower_bound(near, holes.end(), f.begin + 200,
                         [](const PaddingRange& r, uint64_t at) { return raw(r.begin) < at; });
    input.padding = {near, far};
    const Result<Plan> plan = plan_patch(input);
    if (plan) {
      counts.means[means_name(plan->means)]++;
    } else {
      counts.refused++;
      counts.refusals[plan.error().why].push_back(f.name);
    }
  }
  return counts;
}

void print(const char* path, const char* kind, const Counts& counts) {
  std::printf("%s, %s: %llu functions", path, kind,
              static_cast<unsigned long long>(counts.functions));
  for (const auto& [means, count] : counts.means) {
    std::printf(", %s %llu", means.c_str(), static_cast<unsigned long long>(count));
  }
  std::printf(", refused %llu (%.2f %%)\n", static_cast<unsigned long long>(counts.refused),
              100.0 * static_cast<double>(counts.refused) / static_cast<double>(counts.functions));
  for (const auto& [why, names] : counts.refusals) {
    std::printf("  %s: %zu:", why.c_str(), names.size());
    for (size_t i = 0; i < names.size() && i < 12; i++) {
      std::printf(" %s", names[i].c_str());
    }
    std::printf("\n");
  }
}

const char* find_file(std::initializer_list<const char*> paths) {
  for (const char* path : paths) {
    if (access(path, R_OK) == 0) {
      return path;
    }
  }
  return nullptr;
}

void check(const char* path, double most_refused_percent, double most_return_percent) {
  ASSERT_NE(path, nullptr);
  const Image image = read_image(path);
  ASSERT_GT(image.functions.size(), 1000u);
  const Counts entry = sweep(image, false);
  print(path, "entry", entry);
  EXPECT_LE(100.0 * static_cast<double>(entry.refused),
            most_refused_percent * static_cast<double>(entry.functions));
  const Counts with_return = sweep(image, true);
  print(path, "return", with_return);
  EXPECT_LE(100.0 * static_cast<double>(with_return.refused),
            most_return_percent * static_cast<double>(with_return.functions));
}

}  // namespace

TEST(Sweep, LibcFunctionsArePatchable) {
  check(find_file({"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"}),
        0.1, 0.1);
}

TEST(Sweep, LibcryptoFunctionsArePatchable) {
  check(find_file({"/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/lib64/libcrypto.so.3",
                   "/usr/lib/libcrypto.so.3"}),
        0.1, 0.1);
}
