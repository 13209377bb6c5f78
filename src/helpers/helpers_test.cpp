#include "helpers/helpers.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <string>

#include "helpers/testing/hit.hpp"
#include "maps/perf_buffer.hpp"
#include "maps/ring_buffer.hpp"
#include "maps/testing/ring_reader.hpp"
#include "maps/testing/test_map.hpp"
#include "spec/spec.hpp"

namespace {
std::string& printed() {
  static std::string text;
  return text;
}
}  // namespace

extern "C" void bpftime_say_printk(bpftime::ProbeHit* /*hit*/, const char* text,
                                   uint32_t text_bytes) {
  printed().assign(text, text_bytes);
}
namespace {
uint32_t g_woken_map = 0;
}
bool g_broker_hears = true;
extern "C" bool bpftime_say_wake(bpftime::ThreadBlock* /*thread*/, uint32_t map_id) {
  g_woken_map = map_id;
  return g_broker_hears;
}

namespace bpftime {
namespace {

using testing::address;
using testing::call;
using testing::TestHit;

// A page that can be read and one behind it that cannot.
struct Pages {
  char* base = static_cast<char*>(
      ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  Pages() { ::mprotect(base + 4096, 4096, PROT_NONE); }
  ~Pages() { ::munmap(base, 8192); }
  [[nodiscard]] char* end() const { return base + 4096; }
};

TEST(Helpers, TableAndSpecNameTheSameHelpers) {
  ASSERT_EQ(kHelperCount, helper_spec_count());
  for (uint32_t i = 0; i < kHelperCount; i++) {
    EXPECT_EQ(kHelpers[i].id, helper_spec_at(i).id);
  }
  EXPECT_EQ(find_helper_function(999), nullptr);
}

struct RingMap : testing::TestMap {
  explicit RingMap(uint32_t bytes) : TestMap(MapSpec{BPF_MAP_TYPE_RINGBUF, 0, 0, 0, bytes, 1, 0}) {
    map.map_id = 42;
  }
};
std::vector<std::string> read_all(const testing::TestMap& t) {
  std::vector<std::string> all;
  testing::RingReader(t.base(), t.base() + 4096, t.map.spec.max_entries)
      .read([&](const char* at, uint32_t size) { all.emplace_back(at, size); });
  return all;
}

TEST(Helpers, RingBufferRecordsAreReservedAndCommitted) {
  TestHit t;
  const RingMap ring(4096);
  const uint64_t map = address(&ring.map);
  EXPECT_EQ(call(t, 130, map, address("output"), 6, 0), 0);
  EXPECT_EQ(call(t, 130, map, address("output"), 6, 4), -EINVAL);
  EXPECT_EQ(call(t, 130, map, address("output"), 4096, 0), -EAGAIN);
  EXPECT_EQ(call(t, 131, map, 8, 1), 0);  // flags
  const int64_t a = call(t, 131, map, 8, 0);
  const int64_t b = call(t, 131, map, 8, 0);
  const int64_t c = call(t, 131, map, 8, 0);
  std::memcpy(reinterpret_cast<void*>(a), "record a", 8);
  std::memcpy(reinterpret_cast<void*>(c), "record c", 8);
  EXPECT_EQ(call(t, 134, map, BPF_RB_AVAIL_DATA), 16 + 3 * 16);
  call(t, 132, c, 0);
  call(t, 133, b, 0);
  call(t, 132, a, 0);
  call(t, 132, a, 0);            // once more: nothing
  call(t, 133, address(&t), 0);  // never a record
  EXPECT_EQ(read_all(ring), (std::vector<std::string>{"output", "record a", "record c"}));
  EXPECT_EQ(t.thread.open_record_count, 0U);
}

TEST(Helpers, OpenRecordsAreBoundedAndDiscardedTogether) {
  TestHit t;
  const RingMap ring(4096);
  for (uint32_t i = 0; i < kOpenRecords; i++) {
    EXPECT_NE(call(t, 131, address(&ring.map), 8, 0), 0);
  }
  EXPECT_EQ(call(t, 131, address(&ring.map), 8, 0), 0);
  EXPECT_EQ(ring_dropped(ring.map), 1U);
  EXPECT_TRUE(read_all(ring).empty());
  discard_open_records(t.thread, OwnerId{1});
  call(t, 130, address(&ring.map), address("next"), 4, 0);
  EXPECT_EQ(read_all(ring), std::vector<std::string>{"next"});
}

TEST(Helpers, TheBrokerIsToldWhoWaitsUntilItHasHeard) {
  TestHit t;
  const RingMap ring(4096);
  ring_wake_words(ring.map).wants_byte = 1;
  g_broker_hears = false;
  g_woken_map = 0;
  call(t, 130, address(&ring.map), address("a"), 1, 0);
  EXPECT_EQ(g_woken_map, 42U);
  EXPECT_EQ(ring_wake_words(ring.map).wants_byte, kByteOwed);
  g_broker_hears = true;
  g_woken_map = 0;
  call(t, 130, address(&ring.map), address("b"), 1, 0);  // though the reader has not caught up
  EXPECT_EQ(g_woken_map, 42U);
  EXPECT_EQ(ring_wake_words(ring.map).wants_byte, 0U);
}

TEST(Helpers, PerfEventOutputGoesToTheCpusBuffer) {
  TestHit t;
  testing::TestMap perf(MapSpec{BPF_MAP_TYPE_PERF_EVENT_ARRAY, 0, 4, 4, 2, 2, 0});
  ASSERT_TRUE(perf_prepare(perf.map, 0, {7, 1, 4096, 1, 0}));
  perf_set_slot(perf.map, 1, 0);
  t.hit.cpu = 1;
  const uint64_t map = address(&perf.map);
  EXPECT_EQ(call(t, 25, 0, map, BPF_F_CURRENT_CPU, address("hello"), 5), 0);
  EXPECT_EQ(call(t, 25, 0, map, 1, address("hello"), 5), 0);
  EXPECT_EQ(call(t, 25, 0, map, 0, address("hello"), 5), -ENOENT);
  std::string seen;
  testing::PerfReader(perf.base() + perf_buffer_offset(perf.map, 0))
      .read([&](const char* at, uint32_t) { seen.append(at, 5); }, [](uint64_t, uint64_t) {});
  EXPECT_EQ(seen, "hellohello");
}

TEST(Helpers, MapsAreReachedThroughTheirView) {
  TestHit t;
  const testing::TestMap map(testing::hash_spec(8, 8, 4));
  const uint64_t m = address(&map.map);
  uint64_t key = 3;
  uint64_t value = 30;
  EXPECT_EQ(call(t, 1, m, address(&key)), 0);
  EXPECT_EQ(call(t, 2, m, address(&key), address(&value), BPF_EXIST), -ENOENT);
  EXPECT_EQ(call(t, 2, m, address(&key), address(&value), BPF_ANY), 0);
  EXPECT_EQ(call(t, 2, m, address(&key), address(&value), BPF_NOEXIST), -EEXIST);
  const auto* const found = reinterpret_cast<const uint64_t*>(call(t, 1, m, address(&key)));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(*found, 30U);
  EXPECT_EQ(call(t, 3, m, address(&key)), 0);
  EXPECT_EQ(call(t, 3, m, address(&key)), -ENOENT);
  EXPECT_NE(t.thread.robust_head, nullptr);
}

TEST(ProbeRead, CopiesEverySizeAtEveryOffset) {
  TestHit t;
  const Pages pages;
  for (int i = 0; i < 4096; i++) {
    pages.base[i] = static_cast<char>(i * 7 + 1);
  }
  for (uint64_t size = 0; size <= 70; size++) {
    for (uint64_t offset = 0; offset < 9; offset++) {
      std::string to(size + 2, '#');
      ASSERT_EQ(call(t, 112, address(to.data()), size, address(pages.base + offset)), 0);
      ASSERT_EQ(to.substr(0, size), std::string(pages.base + offset, size));
      ASSERT_EQ(to.substr(size), "##");
    }
  }
  std::string large(2000, '#');
  ASSERT_EQ(call(t, 113, address(large.data()), 2000, address(pages.base + 3)), 0);
  EXPECT_EQ(large, std::string(pages.base + 3, 2000));
}

TEST(ProbeRead, ABadAddressIsEfaultAndZeroes) {
  TestHit t;
  const Pages pages;
  const uint64_t bad[] = {0,
                          8,
                          4095,
                          address(pages.end()),
                          0x800000000000,
                          0xffff888000000000,
                          ~0ULL - 4,
                          0x7ffffffffff8};
  for (const uint32_t id : {4U, 112U, 113U, 45U, 114U, 115U}) {
    for (const uint64_t from : bad) {
      std::string to(16, '#');
      EXPECT_EQ(call(t, id, address(to.data()), 16, from), -EFAULT) << id << " " << from;
      EXPECT_EQ(to, std::string(16, '\0'));
    }
  }
}

TEST(ProbeRead, AcrossIntoAnUnreadablePageIsEfault) {
  TestHit t;
  const Pages pages;
  std::string to(16, '#');
  EXPECT_EQ(call(t, 112, address(to.data()), 16, address(pages.end() - 8)), -EFAULT);
  EXPECT_EQ(to, std::string(16, '\0'));
  EXPECT_EQ(call(t, 112, address(to.data()), 8, address(pages.end() - 8)), 0);
}

TEST(ProbeRead, AcrossTwoReadablePages) {
  TestHit t;
  const Pages pages;
  ::mprotect(pages.base + 4096, 4096, PROT_READ | PROT_WRITE);
  std::memcpy(pages.end() - 5, "hello world", 12);
  char to[12] = {};
  EXPECT_EQ(call(t, 112, address(to), 12, address(pages.end() - 5)), 0);
  EXPECT_STREQ(to, "hello world");
  std::memset(to, '#', sizeof to);
  EXPECT_EQ(call(t, 114, address(to), 12, address(pages.end() - 5)), 12);
  EXPECT_STREQ(to, "hello world");
}

TEST(ProbeRead, WithSigsegvBlockedNothingIsCachedAndBadIsEfault) {
  TestHit t;
  const Pages pages;
  std::strcpy(pages.base, "text");
  sigset_t block;
  sigset_t before;
  sigemptyset(&block);
  sigaddset(&block, SIGSEGV);
  ASSERT_EQ(::sigprocmask(SIG_BLOCK, &block, &before), 0);
  char to[16];
  EXPECT_EQ(call(t, 112, address(to), 5, address(pages.base)), 0);
  EXPECT_STREQ(to, "text");
  EXPECT_EQ(call(t, 114, address(to), 16, address(pages.base)), 5);
  EXPECT_EQ(call(t, 112, address(to), 5, address(pages.end())), -EFAULT);
  ::mprotect(pages.base, 4096, PROT_NONE);
  EXPECT_EQ(call(t, 112, address(to), 5, address(pages.base)), -EFAULT);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
}

TEST(ProbeRead, ErrnoStaysAsItIs) {
  TestHit t;
  errno = 1234;
  char to[8];
  EXPECT_EQ(call(t, 112, address(to), 8, 8), -EFAULT);
  EXPECT_EQ(errno, 1234);
}

TEST(ProbeReadStr, GivesTheLengthWithTheNul) {
  TestHit t;
  const char text[] = "hello";
  char to[16];
  std::memset(to, '#', sizeof to);
  EXPECT_EQ(call(t, 45, address(to), 16, address(text)), 6);
  EXPECT_STREQ(to, "hello");
  EXPECT_EQ(to[6], '#');
  EXPECT_EQ(call(t, 45, address(to), 6, address(text)), 6);
  EXPECT_STREQ(to, "hello");
  EXPECT_EQ(call(t, 45, address(to), 5, address(text)), 5);
  EXPECT_STREQ(to, "hell");
  EXPECT_EQ(call(t, 45, address(to), 1, address(text)), 1);
  EXPECT_STREQ(to, "");
  EXPECT_EQ(call(t, 45, address(to), 0, address(text)), 0);
  EXPECT_EQ(call(t, 45, address(to), 16, address("")), 1);
}

TEST(ProbeReadStr, AStringThatEndsAtTheEndOfAPageIsRead) {
  TestHit t;
  const Pages pages;
  std::memcpy(pages.end() - 4, "abc", 4);
  char to[64];
  EXPECT_EQ(call(t, 114, address(to), 64, address(pages.end() - 4)), 4);
  EXPECT_STREQ(to, "abc");
  std::memcpy(pages.end() - 4, "abcd", 4);
  EXPECT_EQ(call(t, 114, address(to), 64, address(pages.end() - 4)), -EFAULT);
  EXPECT_EQ(call(t, 114, address(to), 4, address(pages.end() - 4)), 4);
  EXPECT_STREQ(to, "abc");
}

TEST(Process, PidAndTidAndIds) {
  TestHit t;
  EXPECT_EQ(static_cast<uint64_t>(call(t, 14)),
            static_cast<uint64_t>(::getpid()) << 32 | static_cast<uint32_t>(::gettid()));
  EXPECT_EQ(static_cast<uint64_t>(call(t, 15)),
            static_cast<uint64_t>(::getgid()) << 32 | static_cast<uint32_t>(::getuid()));
}

TEST(Process, UidAndGidAreNotMixedUp) {
  if (::getuid() != 0) {
    GTEST_SKIP() << "needs root to take two different ids";
  }
  const pid_t child = ::fork();
  if (child == 0) {
    TestHit t;
    if (::setgid(77) != 0 || ::setuid(66) != 0) {
      ::_exit(1);
    }
    ::_exit(static_cast<uint64_t>(call(t, 15)) == (77ULL << 32 | 66) ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(Process, CommIsTheThreadsNameAlsoAfterARename) {
  TestHit t;
  char before[16];
  ::prctl(PR_GET_NAME, before);
  for (const char* name : {"first", "a-much-longer-name", "x"}) {
    ::prctl(PR_SET_NAME, name);
    char to[20];
    std::memset(to, '#', sizeof to);
    EXPECT_EQ(call(t, 16, address(to), 16), 0);
    EXPECT_EQ(std::string(to), std::string(name).substr(0, 15));
    for (size_t i = std::strlen(to); i < 16; i++) {
      EXPECT_EQ(to[i], 0);
    }
    EXPECT_EQ(to[16], '#');
    EXPECT_EQ(call(t, 16, address(to), 4), 0);
    EXPECT_EQ(std::string(to), std::string(name).substr(0, 3));
    EXPECT_EQ(call(t, 16, address(to), 0), -EINVAL);
  }
  ::prctl(PR_SET_NAME, before);
}

TEST(Process, ClocksAreTheKernels) {
  TestHit t;
  for (const bool vdso : {false, true}) {
    t.process.vdso_clock_gettime =
        vdso ? +[](int clock,
                   void* time) { return ::clock_gettime(clock, static_cast<timespec*>(time)); }
             : nullptr;
    for (const auto& [id, clock] : {std::pair<uint32_t, int>{5, CLOCK_MONOTONIC},
                                    {125, CLOCK_BOOTTIME},
                                    {160, CLOCK_MONOTONIC_COARSE}}) {
      timespec before = {};
      timespec after = {};
      ::clock_gettime(clock, &before);
      const int64_t now = call(t, id);
      ::clock_gettime(clock, &after);
      EXPECT_GE(now, before.tv_sec * 1'000'000'000 + before.tv_nsec);
      EXPECT_LE(now, after.tv_sec * 1'000'000'000 + after.tv_nsec);
    }
  }
}

TEST(Process, RandomNumbersDiffer) {
  TestHit a;
  TestHit b;
  int same = 0;
  for (int i = 0; i < 100; i++) {
    const int64_t x = call(a, 7);
    EXPECT_LE(static_cast<uint64_t>(x), 0xffffffffU);
    same += x == call(b, 7) ? 1 : 0;
  }
  EXPECT_LT(same, 5);
}

TEST(Process, ProcessorIsOneOfThemAndTheSameForTheWholeHit) {
  TestHit t;
  const int64_t cpu = call(t, 8);
  EXPECT_LT(cpu, ::sysconf(_SC_NPROCESSORS_CONF));
  EXPECT_EQ(call(t, 8), cpu);
  t.hit.cpu = 17;  // a lane
  EXPECT_EQ(call(t, 8), 17);
}

TEST(Process, FunctionIpAndCookie) {
  TestHit t;
  EXPECT_EQ(call(t, 173), 0);
  Site site = {};
  site.address = 0x1234;
  t.hit.site = &site;
  EXPECT_EQ(call(t, 173), 0x1234);
  EXPECT_EQ(call(t, 174), 0);
  Attached attached = {};
  attached.cookie = 99;
  t.hit.attached = &attached;
  EXPECT_EQ(call(t, 174), 99);
}

int64_t print(TestHit& t, const char* format, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) {
  printed() = "(nothing)";
  return call(t, 6, address(format), std::strlen(format) + 1, a, b, c);
}

TEST(TracePrintk, FormatsWhatTheKernelFormats) {
  TestHit t;
  const char name[] = "nginx";
  const struct {
    const char* format;
    uint64_t args[3];
    const char* text;
  } cases[] = {
      {"plain\n", {}, "plain\n"},
      {"%d %i %u", {static_cast<uint64_t>(-1), 2, static_cast<uint64_t>(-1)}, "-1 2 4294967295"},
      {"%x %X", {255, 255}, "ff FF"},
      {"%ld %lu %lx",
       {static_cast<uint64_t>(-5), ~0ULL, ~0ULL},
       "-5 18446744073709551615 ffffffffffffffff"},
      {"%lld %llu %llx",
       {1ULL << 40, 1ULL << 40, 1ULL << 40},
       "1099511627776 1099511627776 10000000000"},
      {"%llX %li", {0xabcULL << 32, static_cast<uint64_t>(-7)}, "ABC00000000 -7"},
      {"%d", {1ULL << 32 | 7}, "7"},
      {"[%5d] [%-5d] [%05d]", {42, 42, 42}, "[   42] [42   ] [00042]"},
      {"[%+d] [% d] [%+05d]", {42, 42, 42}, "[+42] [ 42] [+0042]"},
      {"%s!", {address(name)}, "nginx!"},
      {"[%8s] [%-8s]", {address(name), address(name)}, "[   nginx] [nginx   ]"},
      {"%pks %pus", {address(name), address(name)}, "nginx nginx"},
      {"%s", {8}, ""},
      {"%c%c", {'o', 'k'}, "ok"},
      {"100%%", {}, "100%"},
      {"%p", {0xabcd}, "000000000000abcd"},
      {"%px.", {0xabcd}, "000000000000abcd."},
      {"%pK", {0xabcd}, "000000000000abcd"},
      {"%pS %ps %pB", {0xabcd, 0, 1}, "0xabcd 0x0 0x1"},
      {"caf\xc3\xa9", {}, "caf\xc3\xa9"},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(print(t, one.format, one.args[0], one.args[1], one.args[2]),
              static_cast<int64_t>(std::strlen(one.text)))
        << one.format;
    EXPECT_EQ(printed(), one.text) << one.format;
  }
  const unsigned char v4[] = {127, 0, 0, 1};
  const unsigned char v6[16] = {0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  print(t, "%pI4 %pi4 %pI6", address(v4), address(v4), address(v6));
  EXPECT_EQ(printed(), "127.0.0.1 127.000.000.001 2001:0db8:0000:0000:0000:0000:0000:0001");
}

TEST(TracePrintk, RefusesWhatTheKernelRefuses) {
  TestHit t;
  for (const char* format :
       {"%", "%y", "%f", "%hd", "%n", "%lld %lld %lld %lld", "%ls", "%sx", "%5", "%l", "%pZ",
        "%pI5", "%pk", "\x01", "%lc", "%#x", "%.3d", "%zu"}) {
    EXPECT_EQ(print(t, format), -EINVAL) << format;
    EXPECT_EQ(printed(), "(nothing)");
  }
  EXPECT_EQ(call(t, 6, address("no nul"), 3), -EINVAL);
  EXPECT_EQ(call(t, 6, address(""), 0), -EINVAL);
}

TEST(TracePrintk, LongTextIsCut) {
  TestHit t;
  const std::string format = std::string(900, 'a') + "%300d";
  EXPECT_EQ(print(t, format.c_str(), 1), 1200);
  EXPECT_LT(printed().size(), 976U);
  EXPECT_EQ(printed().substr(0, 900), std::string(900, 'a'));
}

TEST(TraceVprintk, TakesTwelveArgumentsAndNoMore) {
  TestHit t;
  const uint64_t args[13] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};
  const char format[] = "%d %d %d %d %d %d %d %d %d %d %d %d";
  EXPECT_GT(call(t, 177, address(format), sizeof format, address(args), 96), 0);
  EXPECT_EQ(printed(), "1 2 3 4 5 6 7 8 9 10 11 12");
  EXPECT_EQ(call(t, 177, address(format), sizeof format, address(args), 88), -EINVAL);
  EXPECT_EQ(call(t, 177, address(format), sizeof format, address(args), 104), -EINVAL);
  EXPECT_EQ(call(t, 177, address(format), sizeof format, address(args), 95), -EINVAL);
  EXPECT_EQ(call(t, 177, address(format), sizeof format, 0, 96), -EINVAL);
  EXPECT_EQ(call(t, 177, address("none"), 5, 0, 0), 4);
}

}  // namespace
}  // namespace bpftime
