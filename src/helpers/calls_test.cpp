// Stacks, callbacks and what belongs to the probed function.
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/mman.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <vector>

#include "helpers/helpers.hpp"
#include "helpers/testing/hit.hpp"
#include "maps/testing/test_map.hpp"

extern "C" {
void bpftime_say_printk(bpftime::ProbeHit*, const char*, uint32_t) {}
bool bpftime_say_wake(bpftime::ThreadBlock*, uint32_t) { return true; }
}

namespace bpftime {
namespace {

using testing::address;
using testing::call;
using testing::TestHit;

uint64_t address(HelperFn f) { return reinterpret_cast<uint64_t>(f); }

constexpr uint32_t kGetStack = 67;
constexpr uint32_t kGetStackId = 27;

// A chain of frames: each {next rbp, return address}; and the registers at its top.
struct Frames : TestHit {
  uint64_t words[64] = {};
  uint64_t regs[21] = {};
  Site site = {};
  HitCounts counts = {};
  std::vector<std::byte> list_memory =
      std::vector<std::byte>(sizeof(AttachedList) + sizeof(Attached));
  explicit Frames(uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
      words[2 * i] = i + 1 < count ? address(&words[2 * i + 2]) : 0;
      words[2 * i + 1] = 0x1000 + i;
    }
    regs[16] = 0xabc;
    regs[4] = address(words);
    hit.regs = regs;
  }
  // As if the hit were at the first instruction of the probed function, or at its return.
  void stand_at(bool is_return, uint64_t* top) {
    auto* const list = reinterpret_cast<AttachedList*>(list_memory.data());
    list->count = 1;
    list->items[0].counts = &counts;
    site.reserved = 1;
    (is_return ? site.on_return : site.on_entry).store(list);
    hit.site = &site;
    hit.attached = &list->items[0];
    regs[19] = address(top);
  }
  std::vector<uint64_t> stack(uint64_t flags = 0, uint32_t most = 20) {
    std::vector<uint64_t> ips(most, ~0ULL);
    const int64_t bytes =
        call(*this, kGetStack, 0UL, address(ips.data()), most * 8UL, BPF_F_USER_STACK | flags);
    EXPECT_EQ(bytes % 8, 0);
    for (size_t i = static_cast<size_t>(bytes) / 8; i < most; i++) {
      EXPECT_EQ(ips[i], 0U);
    }
    ips.resize(static_cast<size_t>(bytes) / 8);
    return ips;
  }
};

TEST(GetStack, FollowsFramePointers) {
  Frames t(3);
  EXPECT_EQ(t.stack(), (std::vector<uint64_t>{0xabc, 0x1000, 0x1001, 0x1002}));
  EXPECT_EQ(t.stack(2), (std::vector<uint64_t>{0x1001, 0x1002}));
  EXPECT_EQ(t.stack(0, 2), (std::vector<uint64_t>{0xabc, 0x1000}));
  EXPECT_EQ(t.stack(1, 2), (std::vector<uint64_t>{0x1000, 0x1001}));
}

TEST(GetStack, AtAFunctionsBeginTheCallerIsOnTop) {
  Frames t(1);
  uint64_t top = 0x777;
  t.stand_at(false, &top);
  EXPECT_EQ(t.stack(), (std::vector<uint64_t>{0xabc, 0x777, 0x1000}));
  Frames at_return(1);
  at_return.stand_at(true, &top);
  EXPECT_EQ(at_return.stack(), (std::vector<uint64_t>{0xabc, 0x1000}));
}

TEST(GetStack, EndsAtFramesThatCannotBeRead) {
  for (const uint64_t bad : {uint64_t{0}, uint64_t{8}, uint64_t{0x30000}, ~uint64_t{7}}) {
    Frames t(2);
    t.words[2] = bad;
    EXPECT_EQ(t.stack(), (std::vector<uint64_t>{0xabc, 0x1000, 0x1001}));
  }
  Frames round(2);
  round.words[2] = address(round.words);  // for ever
  EXPECT_EQ(round.stack(0, 20).size(), 20U);
}

TEST(GetStack, SeesThroughOpenReturnProbes) {
  Frames t(3);
  auto state = std::make_unique<AgentState>();
  state->agent_base = 0x500000;
  state->agent_bytes = 0x1000;
  std::vector<ReturnEntry> entries(kReturnEntries);
  entries[200].slot = address(&t.words[3]);
  entries[200].return_address = 0x4242;
  t.thread.entries = entries.data();
  t.hit.state = state.get();
  t.words[3] = 0x500123;  // the agent's return point
  EXPECT_EQ(t.stack(), (std::vector<uint64_t>{0xabc, 0x1000, 0x4242, 0x1002}));
}

TEST(GetStack, BadFlagsAndSizesZeroTheRoom) {
  Frames t(2);
  for (const auto& [size, flags] : std::vector<std::pair<uint64_t, uint64_t>>{
           {16, BPF_F_USER_STACK | 1 << 20}, {12, BPF_F_USER_STACK}, {16, BPF_F_USER_BUILD_ID}}) {
    char room[17];
    std::memset(room, 'x', sizeof(room));
    EXPECT_EQ(call(t, kGetStack, 0UL, address(room), size, flags), -EINVAL);
    for (uint64_t i = 0; i < sizeof(room); i++) {
      EXPECT_EQ(room[i], i < size ? 0 : 'x');
    }
  }
  uint64_t kernel[2] = {1, 1};
  EXPECT_EQ(call(t, kGetStack, 0UL, address(kernel), 16UL, 0UL), -EFAULT);
  EXPECT_EQ(kernel[0], 0U);
}

TEST(GetStack, BuildIdModeGivesAddresses) {
  Frames t(1);
  bpf_stack_build_id frames[3];
  EXPECT_EQ(call(t, kGetStack, 0UL, address(frames), sizeof(frames),
                 BPF_F_USER_STACK | BPF_F_USER_BUILD_ID),
            64);
  EXPECT_EQ(frames[0].status, BPF_STACK_BUILD_ID_IP);
  EXPECT_EQ(frames[0].ip, 0xabcU);
  EXPECT_EQ(frames[1].ip, 0x1000U);
  EXPECT_EQ(frames[2].status, BPF_STACK_BUILD_ID_EMPTY);
}

TEST(GetStackId, IsTheSameForTheSameStack) {
  const testing::TestMap map(MapSpec{BPF_MAP_TYPE_STACK_TRACE, 0, 4, 32, 1024, 1, 0});
  Frames t(8);
  const auto id = [&](uint64_t flags) {
    return call(t, kGetStackId, 0UL, address(&map.map), BPF_F_USER_STACK | flags);
  };
  const int64_t first = id(0);
  ASSERT_GE(first, 0);
  EXPECT_EQ(id(0), first);
  EXPECT_NE(id(1), first);
  EXPECT_EQ(id(9), -EFAULT);
  EXPECT_EQ(id(1 << 20), -EINVAL);
  EXPECT_EQ(call(t, kGetStackId, 0UL, address(&map.map), 0UL), -EFAULT);
  uint64_t value[4];
  const auto key = static_cast<uint32_t>(first);
  ASSERT_EQ(map_sys_lookup(map.map, &key, value), 0);
  EXPECT_EQ(value[0], 0xabcU);
  EXPECT_EQ(value[3], 0x1002U);  // as deep as a value goes
}

uint64_t count_calls(uint64_t /*i*/, uint64_t context, uint64_t, uint64_t, uint64_t, Hit* /*hit*/) {
  ++*reinterpret_cast<uint64_t*>(context);
  return 0;
}

TEST(Loop, SpendsTheHitsBudget) {
  TestHit t;
  uint64_t calls = 0;
  t.hit.fuel = 5;
  EXPECT_EQ(call(t, 181, 100UL, address(count_calls), address(&calls), 0UL), 5);
  EXPECT_EQ(calls, 5U);
  EXPECT_EQ(t.hit.ended, static_cast<uint32_t>(kHitOutOfFuel));
  TestHit all;
  calls = 0;
  EXPECT_EQ(call(all, 181, 8UL << 20, address(count_calls), address(&calls), 0UL), 8 << 20);
  EXPECT_EQ(all.hit.ended, static_cast<uint32_t>(kHitNormal));
}

uint64_t count_elements(uint64_t, uint64_t, uint64_t, uint64_t context, uint64_t, Hit* /*hit*/) {
  ++*reinterpret_cast<uint64_t*>(context);
  return 0;
}

TEST(ForEachMapElem, SpendsTheHitsBudget) {
  const testing::TestMap map(testing::array_spec(8, 100));
  TestHit t;
  uint64_t calls = 0;
  t.hit.fuel = 7;
  EXPECT_EQ(call(t, 164, address(&map.map), address(count_elements), address(&calls), 0UL), 7);
  EXPECT_EQ(calls, 7U);
  EXPECT_EQ(t.hit.ended, static_cast<uint32_t>(kHitOutOfFuel));
}

TEST(ProbeWriteUser, WritesWhatCanBeWritten) {
  TestHit t;
  char to[8] = "before";
  EXPECT_EQ(call(t, 36, address(to), address("after"), 6UL), 0);
  EXPECT_STREQ(to, "after");
  EXPECT_EQ(call(t, 36, 0x30000UL, address("after"), 6UL), -EFAULT);
  void* const fixed = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_EQ(call(t, 36, address(fixed), address("after"), 6UL), -EFAULT);
  ::munmap(fixed, 4096);
}

TEST(GetFunc, ArgumentsAndTheReturnValueWhereThereIsOne) {
  Frames t(1);
  uint64_t top = 0;
  for (uint32_t i = 0; i < 21; i++) {
    t.regs[i] = 100 + i;
  }
  t.stand_at(false, &top);
  uint64_t value = 0;
  const uint64_t expected[] = {114, 113, 112, 111, 109, 108};
  for (uint64_t n = 0; n < 6; n++) {
    EXPECT_EQ(call(t, 183, 0UL, n, address(&value)), 0);
    EXPECT_EQ(value, expected[n]);
  }
  EXPECT_EQ(call(t, 183, 0UL, 6UL, address(&value)), -EINVAL);
  EXPECT_EQ(call(t, 184, 0UL, address(&value)), -EOPNOTSUPP);
  EXPECT_EQ(call(t, 185), 6);
  Frames back(1);
  back.regs[10] = 99;
  back.stand_at(true, &top);
  EXPECT_EQ(call(back, 184, 0UL, address(&value)), 0);
  EXPECT_EQ(value, 99U);
}

volatile std::sig_atomic_t g_signals = 0;
TEST(SendSignal, ToTheProcessAndToTheThread) {
  TestHit t;
  const auto before = std::signal(SIGUSR1, [](int) { g_signals = g_signals + 1; });
  EXPECT_EQ(call(t, 109, SIGUSR1), 0);
  EXPECT_EQ(call(t, 117, SIGUSR1), 0);
  EXPECT_EQ(g_signals, 2);
  EXPECT_EQ(call(t, 117, 1000), -EINVAL);
  std::signal(SIGUSR1, before);
}

TEST(Strtol, Limits) {
  TestHit t;
  int64_t number = 0;
  const auto parse = [&](const std::string& text, uint32_t id = 105) {
    return call(t, id, address(text.data()), text.size(), 10UL, address(&number));
  };
  EXPECT_EQ(parse("9223372036854775807"), 19);
  EXPECT_EQ(number, INT64_MAX);
  EXPECT_EQ(parse("9223372036854775808"), -ERANGE);
  EXPECT_EQ(parse("-9223372036854775808"), 20);
  EXPECT_EQ(number, INT64_MIN);
  EXPECT_EQ(parse("-9223372036854775809"), -ERANGE);
  EXPECT_EQ(parse("18446744073709551615", 106), 20);
  EXPECT_EQ(number, -1);
  EXPECT_EQ(parse("18446744073709551616", 106), -ERANGE);
  EXPECT_EQ(call(t, 105, address("1"), 1UL, 7UL, address(&number)), -EINVAL);
}

}  // namespace
}  // namespace bpftime
