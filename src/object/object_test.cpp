#include "object/object.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>

#include "btf/fields.hpp"

namespace bpftime {
namespace {

std::string sample() {
  std::ifstream file(BPFTIME_SAMPLE_OBJECT, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}
const ObjectProgram& program(const BpfObject& object, std::string_view name) {
  const auto at = std::find_if(object.programs.begin(), object.programs.end(),
                               [&](const ObjectProgram& p) { return p.name == name; });
  EXPECT_NE(at, object.programs.end()) << name;
  return *at;
}
const ObjectMap& map_of(const BpfObject& object, const bpf_insn& insn) {
  return object.maps.at(static_cast<size_t>(insn.imm));
}

TEST(Object, ProgramsHaveTheirFinalInstructionsMapsAndTypes) {
  const auto object = read_object(bytes_of(sample()));
  ASSERT_TRUE(object.has_value()) << object.error().why;
  EXPECT_EQ(object->license, "Dual MIT/GPL");
  const ObjectProgram& count_it = program(*object, "count_it");
  EXPECT_EQ(count_it.problem, "");
  EXPECT_EQ(count_it.prog_type, uint32_t{BPF_PROG_TYPE_KPROBE});
  EXPECT_EQ(count_it.functions.size(), 2U);  // the function that it calls was appended
  EXPECT_FALSE(count_it.lines.empty());
  std::vector<std::string> loads;
  for (const bpf_insn& insn : count_it.insns) {
    if (insn.code == (BPF_LD | BPF_IMM | BPF_DW)) {
      loads.push_back(map_of(*object, insn).name);
    }
  }
  EXPECT_EQ(std::count(loads.begin(), loads.end(), "counts"), 1);
  EXPECT_EQ(std::count(loads.begin(), loads.end(), "outer"), 1);
}

TEST(Object, GlobalDataIsThereAndReadOnlyDataIsFrozen) {
  const auto object = read_object(bytes_of(sample()));
  ASSERT_TRUE(object.has_value());
  int seen = 0;
  for (const ObjectMap& map : object->maps) {
    if (map.name.ends_with(".rodata")) {
      ++seen;
      EXPECT_TRUE(map.is_frozen);
      ASSERT_EQ(map.content.size(), 4U);
      EXPECT_EQ(map.content[0], std::byte{7});
    } else if (map.name.ends_with(".data")) {
      ++seen;
      EXPECT_FALSE(map.is_frozen);
      EXPECT_EQ(map.content.size(), 8U);
    } else if (map.name == "outer") {
      ++seen;
      ASSERT_GE(map.inner, 0);
      EXPECT_EQ(object->maps[static_cast<size_t>(map.inner)].value_size, 8U);
    } else if (map.name == "counts") {
      ++seen;
      const auto btf = Btf::parse(object->btf);
      ASSERT_TRUE(btf.has_value());
      const auto fields = find_fields(*btf, map.btf_value_type_id);
      ASSERT_TRUE(fields.has_value());
      ASSERT_EQ(fields->size(), 1U);
      EXPECT_EQ((*fields)[0].kind, BtfFieldKind::kSpinLock);
    }
  }
  EXPECT_EQ(seen, 4);
}

TEST(Object, WhatCannotBeMadeSaysWhyAndTheRestIsThere) {
  std::string log;
  const auto object = read_object(bytes_of(sample()), &log);
  ASSERT_TRUE(object.has_value()) << log;
  EXPECT_EQ(object->programs.size(), 4U);
  const ObjectProgram& unknown = program(*object, "unknown_section");
  EXPECT_TRUE(unknown.insns.empty());
  EXPECT_NE(unknown.problem.find("section name"), std::string::npos) << unknown.problem;
  // Not loaded by itself, and here all the same; relocated against this kernel.
  EXPECT_EQ(program(*object, "by_core").problem, "");
  EXPECT_FALSE(program(*object, "by_core").insns.empty());
  // libbpf puts a call that no kernel has where CO-RE found nothing; that is for a verifier.
  EXPECT_FALSE(program(*object, "never_there").insns.empty());
}

TEST(Object, NeedsNoPrivilegeAndLeavesNoDescriptor) {
  const auto descriptors = [] {
    int count = 0;
    for (int fd = 0; fd < 1024; ++fd) {
      count += ::lseek(fd, 0, SEEK_CUR) >= 0 || errno != EBADF ? 1 : 0;
    }
    return count;
  };
  const std::string elf = sample();
  ASSERT_TRUE(read_object(bytes_of(elf)).has_value());
  const int before = descriptors();
  if (::geteuid() == 0) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  EXPECT_TRUE(read_object(bytes_of(elf)).has_value());
  if (::getuid() == 0) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  EXPECT_EQ(descriptors(), before);
}

TEST(Object, BytesThatAreNoObjectAreAnError) {
  const std::string elf = sample();
  EXPECT_FALSE(read_object({}).has_value());
  EXPECT_FALSE(read_object(bytes_of("nothing of the kind")).has_value());
  EXPECT_FALSE(read_object(bytes_of(elf).first(elf.size() / 2)).has_value());
  EXPECT_TRUE(read_object(bytes_of(elf)).has_value());
}

}  // namespace
}  // namespace bpftime
