#include "inject/process_maps.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "inject/process.hpp"

namespace bpftime {
namespace {

constexpr char kText[] =
    "55e0c0000000-55e0c0001000 r--p 00000000 fe:01 1234                       /usr/bin/a b\n"
    "55e0c0001000-55e0c0005000 r-xp 00001000 fe:01 1234                       /usr/bin/a b\n"
    "55e0c1000000-55e0c1021000 rw-p 00000000 00:00 0                          [heap]\n"
    "7f0000000000-7f0000001000 rw-s 00000000 00:01 77                         /memfd:bpftime-arena "
    "(deleted)\n"
    "7f0000001000-7f0000002000 ---p 00000000 00:00 0 \n"
    "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

TEST(ProcessMaps, EveryFieldIsRead) {
  auto maps = parse_maps(kText);
  ASSERT_TRUE(maps);
  ASSERT_EQ(maps->size(), 7U);
  const Mapping& code = (*maps)[1];
  EXPECT_EQ(code.begin, 0x55e0c0001000U);
  EXPECT_EQ(code.end, 0x55e0c0005000U);
  EXPECT_EQ(code.offset, 0x1000U);
  EXPECT_EQ(code.prot, PROT_READ | PROT_EXEC);
  EXPECT_FALSE(code.is_shared);
  EXPECT_EQ(code.device, makedev(0xfe, 1));
  EXPECT_EQ(code.inode, 1234U);
  EXPECT_EQ(code.path, "/usr/bin/a b");
  EXPECT_TRUE((*maps)[3].is_shared);
  EXPECT_EQ((*maps)[4].path, "");
  EXPECT_EQ(mappings_of_memfd(*maps, "bpftime-arena").size(), 1U);
  EXPECT_EQ(mappings_of_memfd(*maps, "bpftime").size(), 0U);
  EXPECT_EQ(mappings_of_file(*maps, makedev(0xfe, 1), 1234).size(), 2U);
  EXPECT_EQ(mapping_at(*maps, 0x55e0c0004fff), &code);
  EXPECT_EQ(mapping_at(*maps, 0x55e0c0005000), nullptr);
}

TEST(ProcessMaps, BrokenTextFailsWithEinval) {
  for (const char* text : {"x", "1-2", "2000-1000 r--p 0 00:00 0 \n", "1000-2000 r--", "-"}) {
    EXPECT_EQ(parse_maps(text).error().code, EINVAL) << text;
  }
}

TEST(ProcessMaps, HoleIsBelowAndLeavesHeapAndStackRoom) {
  auto maps = parse_maps(kText);
  ASSERT_TRUE(maps);
  const uint64_t near = 0x55e0c0001000;
  auto hole = find_hole(*maps, near, 64 << 20);
  ASSERT_TRUE(hole);
  EXPECT_LT(*hole + (64 << 20), 0x55e0c0000000U);
  EXPECT_GE(*hole + (65 << 20), 0x55e0c0000000U);
  // Nothing below: above the heap, but not right above it.
  auto low = parse_maps(
      "400000-500000 r-xp 00000000 fe:01 9    /a\n900000-a00000 rw-p 00000000 00:00 0 [heap]\n");
  ASSERT_TRUE(low);
  hole = find_hole(*low, 0x400000, 64 << 20);
  ASSERT_TRUE(hole);
  EXPECT_GE(*hole, 0xa00000U + (1U << 30));
  EXPECT_LE(*hole + (64 << 20), 0x400000U + kReachBytes);
}

TEST(ProcessMaps, NoRoomWithinReachFailsWithEnomem) {
  auto maps = parse_maps("100000-7fffffff0000 rw-p 00000000 00:00 0 \n");
  ASSERT_TRUE(maps);
  EXPECT_EQ(find_hole(*maps, 0x40000000, 1 << 20).error().code, ENOMEM);
}

TEST(ProcessMaps, OwnHoleCanBeMapped) {
  auto maps = read_maps(getpid());
  ASSERT_TRUE(maps);
  for (const Mapping& mapping : *maps) {
    if ((mapping.prot & PROT_EXEC) == 0 || mapping.path == "[vsyscall]") {
      continue;
    }
    auto hole = find_hole(*maps, mapping.begin, 1 << 20);
    ASSERT_TRUE(hole) << mapping.path;
    void* got = mmap(reinterpret_cast<void*>(*hole), 1 << 20, PROT_READ,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    EXPECT_EQ(reinterpret_cast<uint64_t>(got), *hole);
    EXPECT_LT(std::max(*hole, mapping.begin) - std::min(*hole, mapping.begin), kReachBytes);
    munmap(got, 1 << 20);
  }
}

TEST(Process, OwnFactsAreRead) {
  auto status = read_status(getpid());
  ASSERT_TRUE(status);
  EXPECT_EQ(status->tgid, getpid());
  EXPECT_EQ(status->parent, getppid());
  EXPECT_EQ(status->uid, getuid());
  EXPECT_EQ(status->tracer, 0);
  EXPECT_FALSE(status->is_zombie());
  auto identity = identify(getpid());
  ASSERT_TRUE(identity);
  EXPECT_NE(identity->start_time, 0U);
  EXPECT_EQ(read_threads(getpid())->size(), 1U);
  EXPECT_NE(read_executable(getpid())->find("process_maps_test"), std::string::npos);
  EXPECT_EQ(identify(0x3ffffff).error().code, ESRCH);
  EXPECT_EQ(read_maps(0x3ffffff).error().code, ESRCH);
}

}  // namespace
}  // namespace bpftime
