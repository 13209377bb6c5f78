#include "ipc/channel.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include <gtest/gtest.h>

namespace bpftime {
namespace {

struct Pair {
  UniqueFd a, b;
  Pair() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    a.reset(fds[0]);
    b.reset(fds[1]);
  }
};

std::vector<std::byte> some_bytes(size_t n) {
  std::vector<std::byte> v(n);
  for (size_t i = 0; i < n; i++) {
    v[i] = static_cast<std::byte>(i * 7 + n);
  }
  return v;
}

void round_trip(size_t payload_bytes) {
  Pair pair;
  Request request;
  request.kind = MessageKind::kBpf;
  request.command = 5;
  request.serial = 9;
  request.args[2] = -3;
  request.attr = some_bytes(37);
  request.refs = {{4, 0, 1, 77}, {9, 0, 1, 78}};
  request.payloads.push_back({8, 0, 0, some_bytes(payload_bytes)});
  request.payloads.push_back({24, kOutputWanted, 4096, {}});
  request.payloads.push_back({kPathTag, 0, 0, some_bytes(3)});
  ASSERT_TRUE(send_request(pair.a.get(), request, 1000));
  auto packet = receive_packet(pair.b.get(), 1000);
  ASSERT_TRUE(packet);
  auto got = parse_request(std::move(*packet));
  ASSERT_TRUE(got) << got.error().why;
  EXPECT_EQ(got->attr, request.attr);
  EXPECT_EQ(got->args[2], -3);
  EXPECT_EQ(got->ref(9)->inode, 78U);
  EXPECT_EQ(got->payload(8)->bytes, some_bytes(payload_bytes));
  EXPECT_EQ(got->payload(24)->size_bytes, 4096U);
  EXPECT_EQ(got->payload(kPathTag)->bytes, some_bytes(3));
  Reply reply;
  reply.value = 42;
  reply.output = some_bytes(payload_bytes);
  ASSERT_TRUE(send_reply(pair.b.get(), got->serial, reply, 1000));
  auto answer = receive_reply(pair.a.get(), 9, 1000);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->value, 42);
  EXPECT_EQ(answer->output, some_bytes(payload_bytes));
}

TEST(Channel, SmallRequestAndReplyGoThroughInline) { round_trip(100); }
TEST(Channel, LargeRequestAndReplyGoThroughAFile) { round_trip(8 << 20); }

TEST(Channel, EveryTruncationOfARequestIsAnErrorAndNothingElse) {
  Pair pair;
  Request request;
  request.kind = MessageKind::kBpf;
  request.attr = some_bytes(16);
  request.refs = {{4, 0, 1, 77}};
  request.payloads.push_back({8, 0, 0, some_bytes(16)});
  ASSERT_TRUE(send_request(pair.a.get(), request, 1000));
  auto whole = receive_packet(pair.b.get(), 1000);
  ASSERT_TRUE(whole);
  for (size_t n = 0; n < whole->body.size(); n++) {
    Received cut;
    cut.header = whole->header;
    cut.body.assign(whole->body.begin(), whole->body.begin() + static_cast<ptrdiff_t>(n));
    auto r = parse_request(std::move(cut));
    ASSERT_FALSE(r) << n;
    EXPECT_EQ(r.error().code, EPROTO);
  }
}

TEST(Channel, AHeaderThatLiesAboutItsSizeFailsWithEproto) {
  Pair pair;
  MessageHeader header{99, MessageKind::kBpf, kMessageVersion, 1};
  ASSERT_EQ(::send(pair.a.get(), &header, sizeof(header), 0), ssize_t{sizeof(header)});
  auto r = receive_packet(pair.b.get(), 1000);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, EPROTO);
}

TEST(Channel, APeerThatIsGoneIsEpipe) {
  Pair pair;
  pair.a.reset();
  auto r = receive_packet(pair.b.get(), 1000);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, EPIPE);
  EXPECT_FALSE(send_packet(pair.b.get(), MessageKind::kReply, 1, {}, {}, 1000));
}

}  // namespace
}  // namespace bpftime
