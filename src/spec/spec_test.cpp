#include "spec/spec.hpp"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "spec/newer.hpp"

namespace bpftime {
namespace {

struct Attr {
  unsigned char bytes[176] = {};
  void put(uint32_t offset, uint64_t value, uint32_t size = 4) {
    std::memcpy(bytes + offset, &value, size);
  }
};

Attr map_attr(uint32_t type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags) {
  Attr attr;
  attr.put(0, type);
  attr.put(4, key);
  attr.put(8, value);
  attr.put(12, entries);
  attr.put(16, flags);
  return attr;
}

int ours(const Attr& attr, uint32_t bytes) {
  const auto spec = check_map_spec(attr.bytes, bytes, 2);
  return spec ? 0 : spec.error().code;
}

// What this machine's kernel answers; -1 = it does not let us ask.
int kernels(const Attr& attr, uint32_t bytes) {
  Attr copy = attr;
  const long fd = ::syscall(SYS_bpf, BPF_MAP_CREATE, copy.bytes, bytes);
  if (fd >= 0) {
    ::close(static_cast<int>(fd));
    return 0;
  }
  return errno == EPERM ? -1 : errno;
}

struct Case {
  const char* name;
  Attr attr;
  int expected;
  uint32_t bytes = 120;
};

std::vector<Case> cases() {
  constexpr uint32_t kHash = BPF_MAP_TYPE_HASH;
  constexpr uint32_t kArray = BPF_MAP_TYPE_ARRAY;
  constexpr uint32_t kPercpuHash = BPF_MAP_TYPE_PERCPU_HASH;
  constexpr uint32_t kPercpuArray = BPF_MAP_TYPE_PERCPU_ARRAY;
  constexpr uint32_t kRing = BPF_MAP_TYPE_RINGBUF;
  constexpr uint32_t kPerf = BPF_MAP_TYPE_PERF_EVENT_ARRAY;
  constexpr uint32_t kStacks = BPF_MAP_TYPE_STACK_TRACE;
  std::vector<Case> all = {
      {"hash", map_attr(kHash, 4, 8, 1, 0), 0},
      {"hash without key", map_attr(kHash, 0, 8, 1, 0), EINVAL},
      {"hash without value", map_attr(kHash, 4, 0, 1, 0), EINVAL},
      {"hash without entries", map_attr(kHash, 4, 8, 0, 0), EINVAL},
      {"hash, no prealloc", map_attr(kHash, 4, 8, 1, BPF_F_NO_PREALLOC), 0},
      {"hash, zero seed", map_attr(kHash, 4, 8, 1, BPF_F_ZERO_SEED), 0},
      {"hash, both prog flags", map_attr(kHash, 4, 8, 1, 0x180), EINVAL},
      {"hash, both user flags", map_attr(kHash, 4, 8, 1, 0x18), EINVAL},
      {"hash, largest value", map_attr(kHash, 4, 4194248, 1, 1), 0},
      {"hash, value too large", map_attr(kHash, 4, 4194252, 1, 1), E2BIG},
      {"hash, key too large", map_attr(kHash, 1 << 22, 8, 1, 1), E2BIG},
      {"hash, key of 4000", map_attr(kHash, 4000, 8, 1, 0), 0},
      {"hash, entries too many", map_attr(kHash, 4, 8, 0x80000000, 1), E2BIG},
      {"hash, entries too many 2", map_attr(kHash, 4, 8, 0xffffffff, 0), E2BIG},
      {"hash, key 1 value 1", map_attr(kHash, 1, 1, 3, 0), 0},
      {"array", map_attr(kArray, 4, 8, 1, 0), 0},
      {"array with 8-byte key", map_attr(kArray, 8, 8, 1, 0), EINVAL},
      {"array without key", map_attr(kArray, 0, 8, 1, 0), EINVAL},
      {"array without value", map_attr(kArray, 4, 0, 1, 0), EINVAL},
      {"array without entries", map_attr(kArray, 4, 8, 0, 0), EINVAL},
      {"array, mmapable", map_attr(kArray, 4, 8, 1, BPF_F_MMAPABLE), 0},
      {"array, mmapable rdonly", map_attr(kArray, 4, 8, 1, 0x480), 0},
      {"array, no prealloc", map_attr(kArray, 4, 8, 1, BPF_F_NO_PREALLOC), EINVAL},
      {"array, value over 2 GB", map_attr(kArray, 4, 0x80000000, 1, 0), E2BIG},
      {"per-CPU hash", map_attr(kPercpuHash, 4, 8, 1, 0), 0},
      {"per-CPU hash without value", map_attr(kPercpuHash, 4, 0, 1, 0), EINVAL},
      {"per-CPU hash, largest value", map_attr(kPercpuHash, 4, 32 << 10, 1, 1), 0},
      {"per-CPU hash, value too large", map_attr(kPercpuHash, 4, (32 << 10) + 1, 1, 1), E2BIG},
      {"per-CPU hash, entries too many", map_attr(kPercpuHash, 4, 8, 0x80000000, 1), E2BIG},
      {"per-CPU array", map_attr(kPercpuArray, 4, 8, 1, 0), 0},
      {"per-CPU array with 8-byte key", map_attr(kPercpuArray, 8, 8, 1, 0), EINVAL},
      {"per-CPU array without entries", map_attr(kPercpuArray, 4, 8, 0, 0), EINVAL},
      {"per-CPU array, largest value", map_attr(kPercpuArray, 4, 32 << 10, 1, 0), 0},
      {"per-CPU array, value too large", map_attr(kPercpuArray, 4, (32 << 10) + 1, 1, 0), E2BIG},
      {"ring buffer", map_attr(kRing, 0, 0, 4096, 0), 0},
      {"ring buffer with a key", map_attr(kRing, 4, 0, 4096, 0), EINVAL},
      {"ring buffer with a value", map_attr(kRing, 0, 4, 4096, 0), EINVAL},
      {"ring buffer, three pages", map_attr(kRing, 0, 0, 12288, 0), EINVAL},
      {"ring buffer, half a page", map_attr(kRing, 0, 0, 2048, 0), EINVAL},
      {"ring buffer of nothing", map_attr(kRing, 0, 0, 0, 0), EINVAL},
      {"perf event array", map_attr(kPerf, 4, 4, 3, 0), 0},
      {"perf event array, value of 8", map_attr(kPerf, 4, 8, 3, 0), EINVAL},
      {"perf event array, key of 8", map_attr(kPerf, 8, 4, 3, 0), EINVAL},
      {"perf event array of nothing", map_attr(kPerf, 4, 4, 0, 0), EINVAL},
      {"stacks", map_attr(kStacks, 4, 8, 1, 0), 0},
      {"stacks, 127 frames", map_attr(kStacks, 4, 8 * 127, 1, 0), 0},
      {"stacks, 128 frames", map_attr(kStacks, 4, 8 * 128, 1, 0), EINVAL},
      {"stacks of 12 bytes", map_attr(kStacks, 4, 12, 1, 0), EINVAL},
      {"stacks with a key of 8", map_attr(kStacks, 8, 8, 1, 0), EINVAL},
      {"stacks without entries", map_attr(kStacks, 4, 8, 0, 0), EINVAL},
      {"stacks by build id", map_attr(kStacks, 4, 32 * 127, 1, BPF_F_STACK_BUILD_ID), 0},
      {"stacks by build id, 40 bytes", map_attr(kStacks, 4, 40, 1, BPF_F_STACK_BUILD_ID), EINVAL},
      {"stacks, too many", map_attr(kStacks, 4, 8, 0x80000001, 0), E2BIG},
      {"type 0", map_attr(0, 4, 8, 1, 0), EINVAL},
      {"type 34", map_attr(34, 4, 8, 1, 0), EINVAL},
      {"short attr", map_attr(kArray, 4, 8, 1, 0), 0, 16},
      {"too short attr", map_attr(kArray, 4, 8, 1, 0), EINVAL, 12},
  };
  for (uint32_t bit = 0; bit < 32; bit++) {
    // A flag more, in each kind.
    const uint32_t flag = 1U << bit;
    const uint32_t hash_flags = BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY |
                                BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG | BPF_F_ZERO_SEED;
    const uint32_t array_flags = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG |
                                 BPF_F_WRONLY_PROG | BPF_F_MMAPABLE | BPF_F_INNER_MAP;
    all.push_back({"hash with one flag", map_attr(kHash, 4, 8, 1, flag),
                   (hash_flags & flag) != 0 ? 0 : EINVAL});
    const uint32_t perf_flags =
        BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_PRESERVE_ELEMS;
    all.push_back({"ring buffer with one flag", map_attr(kRing, 0, 0, 4096, flag),
                   (BPF_F_NUMA_NODE & flag) != 0 ? 0 : EINVAL});
    all.push_back({"perf event array with one flag", map_attr(kPerf, 4, 4, 3, flag),
                   (perf_flags & flag) != 0 ? 0 : EINVAL});
    all.push_back({"array with one flag", map_attr(kArray, 4, 8, 1, flag),
                   (array_flags & flag) != 0 ? 0 : EINVAL});
  }
  for (uint32_t bit = 0; bit < 32; bit++) {
    const uint32_t flag = 1U << bit;
    const uint32_t array_flags =
        BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;
    const uint32_t hash_flags = array_flags | BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED;
    all.push_back({"per-CPU hash with one flag", map_attr(kPercpuHash, 4, 8, 1, flag),
                   (hash_flags & flag) != 0 ? 0 : EINVAL});
    all.push_back({"per-CPU array with one flag", map_attr(kPercpuArray, 4, 8, 1, flag),
                   (array_flags & flag) != 0 ? 0 : EINVAL});
  }
  for (const char* name : {"a.b_C9", "aaaaaaaaaaaaaaa", "ab c", "a-b", "aaaaaaaaaaaaaaaa"}) {
    Case one = {name, map_attr(kArray, 4, 8, 1, 0), 0};
    std::memcpy(one.attr.bytes + 28, name, std::min<size_t>(16, std::strlen(name)));
    one.expected = std::strlen(name) > 15 || std::strpbrk(name, " -") != nullptr ? EINVAL : 0;
    all.push_back(one);
  }
  const auto with = [&](const char* name, uint32_t offset, uint64_t value, int expected,
                        uint32_t bytes) {
    Case one = {name, map_attr(kArray, 4, 8, 1, 0), expected, bytes};
    one.attr.put(offset, value);
    all.push_back(one);
  };
  with("map_extra", 64, 5, EINVAL, 120);
  with("ifindex", 44, 7, EINVAL, 120);
  with("vmlinux value type", 60, 7, EINVAL, 120);
  with("numa node without its flag", 24, 7, 0, 120);
  with("inner_map_fd is ignored", 20, 7, 0, 120);
  with("beyond the known fields", 92, 1, EINVAL, 120);
  with("far beyond the known fields", 164, 1, EINVAL, 168);
  with("beyond the union", 168, 1, E2BIG, 176);
  return all;
}

TEST(MapSpec, ErrnosAreTheOnesOfTheTable) {
  for (const Case& one : cases()) {
    EXPECT_EQ(ours(one.attr, one.bytes), one.expected) << one.name;
  }
}

TEST(MapSpec, TheRunningKernelAgreesWithTheTable) {
  for (const Case& one : cases()) {
    const int theirs = kernels(one.attr, one.bytes);
    if (theirs != -1) {  // as nobody the kernel says EPERM to all of it
      EXPECT_EQ(theirs, one.expected)
          << one.name << " flags " << *reinterpret_cast<const uint32_t*>(one.attr.bytes + 16);
    }
  }
}

TEST(MapSpec, CarriesTheShape) {
  const Attr attr = map_attr(BPF_MAP_TYPE_HASH, 5, 9, 77, BPF_F_NO_PREALLOC);
  const auto spec = check_map_spec(attr.bytes, 120, 64);
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->map_type, static_cast<uint32_t>(BPF_MAP_TYPE_HASH));
  EXPECT_EQ(spec->key_size, 5U);
  EXPECT_EQ(spec->value_size, 9U);
  EXPECT_EQ(spec->max_entries, 77U);
  EXPECT_EQ(spec->map_flags, static_cast<uint32_t>(BPF_F_NO_PREALLOC));
  EXPECT_EQ(spec->cpu_count, 1U);
  const auto per_cpu =
      check_map_spec(map_attr(BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 1, 0).bytes, 120, 64);
  ASSERT_TRUE(per_cpu);
  EXPECT_EQ(per_cpu->cpu_count, 64U);
}

TEST(Tables, KnowTheirNumbers) {
  ASSERT_NE(find_helper(1), nullptr);
  EXPECT_STREQ(find_helper(1)->name, "map_lookup_elem");
  EXPECT_STREQ(find_helper(BPF_FUNC_get_attach_cookie)->name, "get_attach_cookie");
  EXPECT_STREQ(find_helper(BPF_FUNC_trace_vprintk)->name, "trace_vprintk");
  EXPECT_STREQ(find_helper(BPF_FUNC_ktime_get_coarse_ns)->name, "ktime_get_coarse_ns");
  EXPECT_EQ(find_helper(0), nullptr);
  EXPECT_EQ(find_helper(2001000000), nullptr);
  EXPECT_STREQ(command_name(BPF_PROG_BIND_MAP), "BPF_PROG_BIND_MAP");
  EXPECT_STREQ(command_name(BPF_LINK_CREATE), "BPF_LINK_CREATE");
  EXPECT_EQ(command_name(1000), nullptr);
  EXPECT_STREQ(program_type_name(BPF_PROG_TYPE_KPROBE), "kprobe");
  EXPECT_STREQ(program_type_name(BPF_PROG_TYPE_SYSCALL), "syscall");
  EXPECT_STREQ(find_map_kind(BPF_MAP_TYPE_RINGBUF)->name, "ringbuf");
  EXPECT_STREQ(find_map_kind(kMapArena)->name, "arena");
  EXPECT_EQ(find_map_kind(34), nullptr);
}

TEST(Tables, HelperIdsRise) {
  for (uint32_t i = 1; i < helper_spec_count(); i++) {
    EXPECT_GT(helper_spec_at(i).id, helper_spec_at(i - 1).id);
  }
}

}  // namespace
}  // namespace bpftime
