#include "broker/agent_message.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace bpftime {

std::optional<AgentMessage> parse_agent_message(std::span<const std::byte> datagram) {
  constexpr size_t kHead = offsetof(AgentMessage, text);
  AgentMessage message{};
  if (datagram.size() < kHead || datagram.size() > sizeof(message)) {
    return std::nullopt;
  }
  std::memcpy(&message, datagram.data(), datagram.size());
  if (message.magic != kAgentMagic || message.text_bytes > datagram.size() - kHead) {
    return std::nullopt;
  }
  message.comm[sizeof(message.comm) - 1] = 0;
  return message;
}

Result<HeardFromAgent> hear_agent(int channel) {
  std::byte bytes[sizeof(AgentMessage) + 1];  // one more: what is longer is seen to be
  iovec iov{bytes, sizeof(bytes)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4) + CMSG_SPACE(sizeof(ucred))];
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t n = 0;
  do {
    n = ::recvmsg(channel, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    return make_error(errno, "recvmsg");
  }
  HeardFromAgent heard;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET) {
      continue;
    }
    if (c->cmsg_type == SCM_RIGHTS) {
      const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; i++) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
        heard.fds.emplace_back(fd);
      }
    } else if (c->cmsg_type == SCM_CREDENTIALS) {
      ucred credentials{};
      std::memcpy(&credentials, CMSG_DATA(c), sizeof(credentials));
      heard.sender = credentials.pid;
    }
  }
  if (n == 0 && heard.fds.empty() && heard.sender == 0) {  // the end, not an empty packet
    return make_error(ECONNRESET, "the agent's end is closed");
  }
  heard.message = parse_agent_message({bytes, static_cast<size_t>(n)});
  return heard;
}

}  // namespace bpftime
