#include "broker/unwinding.hpp"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace bpftime {
namespace {

Mapping mapping(const char* path) {
  Mapping m = {};
  m.path = path;
  return m;
}

TEST(Unwinding, NongnuLibunwindIsKnownByItsFileAndLlvmsIsNotIt) {
  for (const char* path :
       {"/usr/lib/x86_64-linux-gnu/libunwind.so.8.0.1", "/opt/libunwind.so.8",
        "/usr/lib/x86_64-linux-gnu/libunwind-x86_64.so.8.0.1", "libunwind.so.8 (deleted)"}) {
    EXPECT_TRUE(maps_nongnu_libunwind(std::vector{mapping("/bin/true"), mapping(path)})) << path;
  }
  for (const char* path :
       {"", "[stack]", "/usr/lib/llvm-19/lib/libunwind.so.1", "/lib/libunwind.so.1.0",
        "/srv/libunwind.so.8/tool", "/lib/libgcc_s.so.1"}) {
    EXPECT_FALSE(maps_nongnu_libunwind(std::vector{mapping(path)})) << path;
  }
}

// An image with one PT_NOTE of two notes: GNU's, then one of `name`.
std::vector<std::byte> image(const char (&name)[4], uint64_t bytes_of_notes = 0) {
  struct {
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    Elf64_Nhdr gnu;
    char gnu_name[4], gnu_desc[8];
    Elf64_Nhdr second;
    char second_name[4], second_desc[4];
  } all = {};
  all.header.e_phoff = sizeof(all.header);
  all.header.e_phentsize = sizeof(all.segment);
  all.header.e_phnum = 1;
  all.segment.p_type = PT_NOTE;
  all.segment.p_offset = sizeof(all.header) + sizeof(all.segment);
  all.segment.p_filesz = bytes_of_notes != 0 ? bytes_of_notes : sizeof(all) - all.segment.p_offset;
  all.segment.p_align = 4;
  all.gnu = {4, 7, NT_GNU_BUILD_ID};
  std::memcpy(all.gnu_name, "GNU", 4);
  all.second = {4, 4, 4};
  std::memcpy(all.second_name, name, 4);
  const auto* const begin = reinterpret_cast<const std::byte*>(&all);
  return {begin, begin + sizeof(all)};
}

TEST(Unwinding, AGoImageIsKnownByItsNote) {
  EXPECT_TRUE(is_go_image(image("Go\0")));
  EXPECT_FALSE(is_go_image(image("Rs\0")));
}

TEST(Unwinding, BrokenImagesAreReadWithinTheirBytes) {
  const auto good = image("Go\0");
  for (size_t bytes = 0; bytes < good.size() - 8; bytes++) {
    const std::vector<std::byte> cut(good.begin(), good.begin() + static_cast<long>(bytes));
    EXPECT_FALSE(is_go_image(cut)) << bytes;
  }
  EXPECT_FALSE(is_go_image(image("Go\0", UINT64_MAX)));
  auto far = good;
  const uint64_t offset = UINT64_MAX - 8;
  std::memcpy(far.data() + offsetof(Elf64_Ehdr, e_phoff), &offset, sizeof(offset));
  EXPECT_FALSE(is_go_image(far));
}

}  // namespace
}  // namespace bpftime
