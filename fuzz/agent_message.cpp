// Datagrams of a hostile agent, as they come from its channel: any bytes, with and without descriptors. What is taken
// for a message must be safe to use as the broker uses it.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "broker/agent_message.hpp"
#include "broker/printk.hpp"

namespace {

void send_with_files(int to, const uint8_t* data, size_t size, uint32_t files) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 8)] = {};
  int fds[8];
  for (uint32_t i = 0; i < files; i++) {
    fds[i] = to;
  }
  iovec iov{const_cast<uint8_t*>(data), size};
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  if (files != 0) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(sizeof(int) * files);
    cmsghdr* const c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * files);
    std::memcpy(CMSG_DATA(c), fds, sizeof(int) * files);
  }
  (void)!::sendmsg(to, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  if (size < 2 || size > 4096) {
    return 0;
  }
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    __builtin_trap();  // descriptors leak
  }
  const UniqueFd here(pair[0]);
  const UniqueFd there(pair[1]);
  const int on = (data[0] >> 3) & 1;
  ::setsockopt(here.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
  send_with_files(there.get(), data + 2, size - 2, data[0] & 7U);
  auto heard = hear_agent(here.get());
  if (!heard) {
    return 0;
  }
  if (heard->fds.size() > 12 || (on != 0 && heard->sender != ::getpid())) {
    __builtin_trap();
  }
  if (heard->message) {
    const std::string line = printk_line(*heard->message);
    for (const char c : line) {
      if (c == 0x1b || c == 0) {
        __builtin_trap();
      }
    }
  }
  return hear_agent(here.get()) ? __builtin_trap(), 0 : 0;
}
