// Packets of a hostile loader: each is parsed and given to a session with fake targets, as a Server would. The input is
// a row of [u16 kind, u16 size, bytes]; bytes are a packet's body. An ObjectRef whose inode is small names the n-th fd
// that the session gave away, so that objects are reached, too; an inode of 255 closes the oldest one.
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../tests/broker/fake_targets.hpp"

namespace {

constexpr size_t kMostPackets = 32;

struct Given {
  std::vector<bpftime::UniqueFd> fds;
};

void name_objects(bpftime::Request* request, Given* given) {
  for (auto& ref : request->refs) {
    if (ref.inode == 255 && !given->fds.empty()) {
      given->fds.erase(given->fds.begin());
    }
    if (ref.inode != 0 && ref.inode <= given->fds.size()) {
      const auto real = bpftime::ref_to(given->fds[ref.inode - 1].get());
      ref.device = real.device;
      ref.inode = real.inode;
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bpftime::Session::Config config{2, 8, {}, {}};
  config.limits.map_bytes = 1 << 20;
  config.limits.total_bytes = 8 << 20;
  bpftime::Bench bench(std::move(config));
  Given given;
  for (size_t packets = 0; size >= 4 && packets < kMostPackets; packets++) {
    uint16_t kind = 0;
    uint16_t bytes = 0;
    std::memcpy(&kind, data, 2);
    std::memcpy(&bytes, data + 2, 2);
    data += 4;
    size -= 4;
    const size_t take = bytes < size ? bytes : size;
    bpftime::Received packet{};
    packet.header.kind = static_cast<bpftime::MessageKind>(kind);
    const auto body = std::as_bytes(std::span(data, take));
    packet.body.assign(body.begin(), body.end());
    data += take;
    size -= take;
    if (packet.header.kind == bpftime::MessageKind::kPerfOpen) {
      packet.fds.emplace_back(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
    }
    auto request = bpftime::parse_request(std::move(packet));
    if (!request) {
      continue;
    }
    name_objects(&*request, &given);
    bpftime::Reply reply = bench.ask(std::move(request).value());
    if (reply.value == INT64_MIN) {
      __builtin_trap();  // not answered
    }
    if (reply.fd && given.fds.size() < 200) {
      given.fds.push_back(std::move(reply.fd));
    }
    if (packets % 8 == 7) {
      bench.settle(0);
    }
  }
  return 0;
}
