// Packets from a peer that is not what it should be: as a request, and as the reply to one.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "ipc/channel.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  if (size < 1 || size > kMaxPacketBytes) {
    return 0;
  }
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    return 0;
  }
  const UniqueFd here(pair[0]);
  const UniqueFd there(pair[1]);
  const bool as_reply = (data[0] & 1) != 0;
  const bool with_file = (data[0] & 2) != 0;
  const auto* bytes = reinterpret_cast<const std::byte*>(data + 1);
  const std::span<const std::byte> body(bytes, size - 1);
  if ((data[0] & 4) != 0) {
    (void)!::send(there.get(), body.data(), body.size(), MSG_DONTWAIT);  // the header too
  } else {
    const int file = with_file ? ::open("/proc/self/status", O_RDONLY | O_CLOEXEC) : -1;
    const UniqueFd owned(file);
    (void)send_packet(there.get(), as_reply ? MessageKind::kReply : MessageKind::kBpf, 1, body,
                      file >= 0 ? std::span(&file, 1) : std::span<const int>(), 0)
        .has_value();
  }
  if (as_reply) {
    (void)receive_reply(here.get(), 1, 0).has_value();
    return 0;
  }
  auto packet = receive_packet(here.get(), 0);
  if (packet) {
    auto request = parse_request(std::move(*packet));
    if (request) {
      // What was read can be said again.
      (void)send_request(there.get(), *request, 0).has_value();
      (void)request->ref(0);
      (void)request->payload(0);
    }
  }
  return 0;
}
