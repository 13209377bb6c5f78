// An fd is the reference: dup, SCM_RIGHTS, close, exit do what they do in the kernel (DESIGN D2).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/fake_targets.hpp"

namespace bpftime {
namespace {

void send_fd(int channel, int fd) {
  char byte = 0;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec iov{&byte, 1};
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof(control);
  cmsghdr* c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(c), &fd, sizeof(int));
  ASSERT_EQ(::sendmsg(channel, &m, MSG_NOSIGNAL), 1);
}

TEST(ObjectLifetime, LastCloseOfALinkDisarms) {
  Bench bench;
  const int program = bench.program();
  const int event = bench.event(-1, false);
  const int link = Bench::keep(bench.ask(requests::link_create(program, event, 7)));
  ASSERT_GE(link, 0);
  ASSERT_EQ(bench.record->armed.size(), 1U);
  EXPECT_EQ(bench.record->armed[0].cookie, 7U);
  ::close(program);  // the link holds it
  bench.settle();
  EXPECT_EQ(bench.record->armed.size(), 1U);
  ::close(link);
  bench.settle();
  EXPECT_TRUE(bench.record->armed.empty());
  ::close(event);
  bench.settle();
  EXPECT_TRUE(bench.session->is_unused());
}

TEST(ObjectLifetime, LinkKeepsTheEventArmedAfterTheEventsFdIsClosed) {
  Bench bench;
  const int program = bench.program();
  const int event = bench.event(-1, false);
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  ::close(event);
  bench.settle();
  EXPECT_EQ(bench.session->wanted_links().size(), 1U);
  ::close(link);
  bench.settle();
  EXPECT_TRUE(bench.session->wanted_links().empty());
  ::close(program);
}

TEST(ObjectLifetime, LastCloseOfAnEventDisarmsItsProgram) {
  Bench bench;
  const int program = bench.program();
  const int event = bench.event();
  ASSERT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_SET_BPF, event, program)).value, 0);
  EXPECT_TRUE(bench.session->wanted_links().empty());  // not enabled yet
  ASSERT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_ENABLE, event)).value, 0);
  EXPECT_EQ(bench.record->armed.size(), 1U);
  const int copy = ::dup(event);
  ::close(event);
  bench.settle();
  EXPECT_EQ(bench.record->armed.size(), 1U);
  ::close(copy);
  bench.settle();
  EXPECT_TRUE(bench.record->armed.empty());
  ::close(program);
}

TEST(ObjectLifetime, AnFdInFlightIsStillAReference) {
  Bench bench;
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const int map = bench.map();
  send_fd(pair[0], map);
  ::close(map);
  bench.settle();
  EXPECT_EQ(bench.session->objects().reference_count(), 1U);
  ::close(pair[0]);
  ::close(pair[1]);
  bench.settle();
  EXPECT_EQ(bench.session->objects().reference_count(), 0U);
}

TEST(ObjectLifetime, AnEndSentIntoItsOwnPairIsNoWayToLiveForEver) {
  Bench bench;
  const int map = bench.map();
  send_fd(map, map);
  ::close(map);
  bench.settle();
  EXPECT_EQ(bench.session->objects().reference_count(), 0U);
}

TEST(ObjectLifetime, AnyByteEndsTheReferenceAndTheFdNamesNothingAnyMore) {
  Bench bench;
  const int map = bench.map();
  ASSERT_EQ(::send(map, "x", 1, MSG_NOSIGNAL), 1);
  bench.settle();
  EXPECT_EQ(bench.session->objects().reference_count(), 0U);
  Request request;
  request.kind = MessageKind::kMapRegion;
  request.refs.push_back(ref_to(map));
  EXPECT_EQ(bench.ask(std::move(request)).value, -EINVAL);
  ::close(map);
}

TEST(ObjectLifetime, AKilledLoadersObjectsGoAndItsChildsStay) {
  Bench bench;
  const int map = bench.map();
  int hold[2];
  ASSERT_EQ(::pipe(hold), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(hold[1]);
    char byte;
    ::_exit(::read(hold[0], &byte, 1) < 0 ? 1 : 0);
  }
  ::close(map);
  bench.settle();
  EXPECT_EQ(bench.session->objects().reference_count(), 1U);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  bench.settle();
  EXPECT_EQ(bench.session->objects().reference_count(), 0U);
  ::close(hold[0]);
  ::close(hold[1]);
}

TEST(ObjectLifetime, ManyLinksEndingTogetherStopTargetsOnce) {
  Bench bench;
  const int program = bench.program();
  std::vector<int> fds;
  for (int i = 0; i < 100; i++) {
    const int event = bench.event(-1, false);
    fds.push_back(event);
    fds.push_back(Bench::keep(bench.ask(requests::link_create(program, event))));
    ASSERT_GE(fds.back(), 0);
  }
  const int syncs = bench.record->syncs;
  for (const int fd : fds) {
    ::close(fd);
  }
  for (int rounds = 0; rounds < 1000 && !bench.record->armed.empty(); rounds++) {
    bench.settle();  // ending two hundred takes longer than one round of the loop may
  }
  EXPECT_TRUE(bench.record->armed.empty());
  EXPECT_LE(bench.record->syncs, syncs + 2);
  ::close(program);
}

TEST(ObjectLifetime, AProgramKeepsItsMaps) {
  Bench bench;
  const int map = bench.map();
  Request load = requests::prog_load(
      BPF_PROG_TYPE_KPROBE,
      {insn(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, map), insn(0, 0, 0, 0, 0),
       insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0), insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)});
  load.refs.push_back(ref_to(map));
  const int program = Bench::keep(bench.ask(std::move(load)));
  ASSERT_GE(program, 0);
  ::close(map);
  bench.settle();
  EXPECT_TRUE(bench.session->map_for_target(MapId{1}).has_value());
  ::close(program);
  bench.settle();
  EXPECT_FALSE(bench.session->map_for_target(MapId{1}).has_value());
}

}  // namespace
}  // namespace bpftime
