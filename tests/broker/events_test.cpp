// Output events, their places in arrays, and waking who waits, as the session does it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "broker/fake_targets.hpp"
#include "maps/perf_buffer.hpp"
#include "maps/ring_buffer.hpp"

namespace bpftime {
namespace {
int open_output_event(Bench& bench, uint32_t cpu = 0) {
  perf_event_attr attr{};
  attr.type = PERF_TYPE_SOFTWARE;
  attr.config = PERF_COUNT_SW_BPF_OUTPUT;
  attr.size = sizeof(attr);
  attr.sample_type = PERF_SAMPLE_RAW;
  attr.wakeup_events = 1;
  Request request;
  request.kind = MessageKind::kPerfOpen;
  const auto bytes = std::as_bytes(std::span(&attr, 1));
  request.attr.assign(bytes.begin(), bytes.end());
  request.args[0] = -1;
  request.args[1] = cpu;
  request.args[2] = -1;
  return Bench::keep(bench.ask(std::move(request)));
}

int64_t slot_command(Bench& bench, uint32_t command, int map, uint32_t key, int event = -1) {
  bpf_attr attr = requests::zero_attr();
  attr.map_fd = static_cast<uint32_t>(map);
  Request request = requests::bpf(command, attr);
  request.args[0] = key;
  request.args[1] = event;
  request.refs.push_back(ref_to(map));
  if (event >= 0) {
    request.refs.push_back(ref_to(event));
  }
  return bench.ask(std::move(request)).value;
}

MapRegionReply event_region(Bench& bench, int event, int64_t data_bytes) {
  Request request;
  request.kind = MessageKind::kMapRegion;
  request.args[0] = data_bytes;
  request.refs.push_back(ref_to(event));
  const Reply reply = bench.ask(std::move(request));
  MapRegionReply about{};
  if (reply.value == 0) {
    std::memcpy(&about, reply.output.data(), sizeof(about));
  } else {
    about.reserved = static_cast<uint32_t>(-reply.value);
  }
  return about;
}

bool is_readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & POLLIN) != 0;
}

// What a target would have mapped.
struct Mapped {
  Mapped(Bench& bench, uint32_t id) {
    const auto map = bench.session->map_for_target(MapId{id});
    bytes = map->region_bytes;
    base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map->region_fd, 0);
    view = *open_region(static_cast<std::byte*>(base), bytes, map->spec);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() { ::munmap(base, bytes); }
  int output(const char* text) const {
    LockContext who;
    who.tid = static_cast<uint32_t>(::gettid());
    Wake wake = Wake::kNothing;
    return perf_output(view, who, 0, 0, text, std::strlen(text), &wake);
  }
  uint64_t bytes;
  void* base;
  MapView view;
};

TEST(BpfEvents, AnEventLeavesTheArrayWithTheDescriptorItCameBy) {
  for (const uint32_t flags : {0U, static_cast<uint32_t>(BPF_F_PRESERVE_ELEMS)}) {
    Bench bench;
    const int map =
        Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2, flags)));
    ASSERT_GE(map, 0);
    bpf_attr attr = requests::zero_attr();
    attr.map_id = 1;
    const int other = Bench::keep(bench.ask(requests::bpf(BPF_MAP_GET_FD_BY_ID, attr)));
    const int event = open_output_event(bench);
    ASSERT_GE(event, 0);
    ASSERT_EQ(event_region(bench, event, 8192).buffer, 0U);
    ASSERT_EQ(slot_command(bench, BPF_MAP_UPDATE_ELEM, other, 0, event), 0);
    ASSERT_EQ(event_region(bench, event, 8192).buffer, 1U);
    const Mapped target(bench, 1);
    EXPECT_EQ(target.output("one"), 0);
    ::close(event);
    bench.settle();
    EXPECT_EQ(target.output("two"), 0);  // the array holds it
    ::close(other);
    bench.settle();
    EXPECT_EQ(target.output("three"), flags == 0 ? -ENOENT : 0);
    ::close(map);
  }
}

TEST(BpfEvents, SlotsAreCheckedAsTheKernelDoes) {
  Bench bench;
  const int map =
      Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2)));
  const int other =
      Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2)));
  const int event = open_output_event(bench);
  EXPECT_EQ(slot_command(bench, BPF_MAP_DELETE_ELEM, map, 0), -ENOENT);
  EXPECT_EQ(slot_command(bench, BPF_MAP_DELETE_ELEM, map, 2), -E2BIG);
  EXPECT_EQ(slot_command(bench, BPF_MAP_UPDATE_ELEM, map, 2, event), -E2BIG);
  EXPECT_EQ(slot_command(bench, BPF_MAP_UPDATE_ELEM, map, 0, other), -EBADF);
  EXPECT_EQ(slot_command(bench, BPF_MAP_UPDATE_ELEM, map, 0, event), 0);
  EXPECT_EQ(slot_command(bench, BPF_MAP_UPDATE_ELEM, map, 1, event), 0);
  EXPECT_EQ(slot_command(bench, BPF_MAP_UPDATE_ELEM, other, 0, event), -EBUSY);
  EXPECT_EQ(event_region(bench, event, 12288).reserved, static_cast<uint32_t>(EINVAL));
  EXPECT_EQ(event_region(bench, event, 4096).buffer, 1U);
  EXPECT_EQ(event_region(bench, event, 8192).reserved, static_cast<uint32_t>(EINVAL));
  for (const int fd : {map, other, event}) {
    ::close(fd);
  }
}

TEST(BpfEvents, AnEventsBufferIsFreeWhenItIsGone) {
  Bench bench;
  const int map =
      Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 1)));
  for (int i = 0; i < 20; i++) {
    const int event = open_output_event(bench);
    ASSERT_EQ(slot_command(bench, BPF_MAP_UPDATE_ELEM, map, 0, event), 0) << i;
    ::close(event);
    bench.settle();
  }
  ::close(map);
}

TEST(BpfEvents, WhoWaitsIsWokenByTargetsAndByTheirDeath) {
  Bench bench;
  const int ring = Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096)));
  const int perf =
      Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 1)));
  const int hash = bench.map(0);
  const int event = open_output_event(bench);
  ASSERT_EQ(slot_command(bench, BPF_MAP_UPDATE_ELEM, perf, 0, event), 0);
  event_region(bench, event, 4096);
  bench.session->target_said_wake(MapId{99});
  bench.session->target_said_wake(MapId{3});  // the hash
  bench.session->target_said_wake(MapId{2});
  EXPECT_FALSE(is_readable(ring) || is_readable(event) || is_readable(hash));
  bench.session->target_said_wake(MapId{1});
  EXPECT_TRUE(is_readable(ring));
  const Mapped target(bench, 2);
  EXPECT_EQ(target.output("one"), 0);
  bench.session->target_said_wake(MapId{2});
  EXPECT_TRUE(is_readable(event));
  EXPECT_FALSE(is_readable(perf));
  char byte = 0;
  EXPECT_EQ(::recv(event, &byte, 1, MSG_DONTWAIT), 1);

  const Mapped in_ring(bench, 1);
  LockContext dying;
  dying.owner = OwnerId{1234};
  dying.tid = 1;
  ASSERT_NE(ring_reserve(in_ring.view, dying, 8), nullptr);
  EXPECT_FALSE(ring_is_readable(in_ring.view));
  bench.session->target_gone(OwnerId{1234}, 1 << 30);
  EXPECT_TRUE(ring_is_readable(in_ring.view));  // a discarded record
  EXPECT_TRUE(is_readable(event));
  for (const int fd : {ring, perf, hash, event}) {
    ::close(fd);
  }
}

}  // namespace
}  // namespace bpftime
