#include "ipc/channel.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace bpftime {
namespace {

constexpr uint64_t pad8(uint64_t n) { return (n + 7) & ~7ULL; }

Result<void> wait_for(int channel, short events, int deadline_ms) {
  for (;;) {
    pollfd p{channel, events, 0};
    const int n = ::poll(&p, 1, deadline_ms);
    if (n > 0) {
      return {};
    }
    if (n == 0) {
      return make_error(EAGAIN, "no answer in time");
    }
    if (errno != EINTR) {
      return make_error(errno, "poll on a channel");
    }
  }
}

template <class T>
void append(std::vector<std::byte>* to, const T& value) {
  const auto* p = reinterpret_cast<const std::byte*>(&value);
  to->insert(to->end(), p, p + sizeof(T));
}
void append_padded(std::vector<std::byte>* to, std::span<const std::byte> bytes) {
  to->insert(to->end(), bytes.begin(), bytes.end());
  to->resize(pad8(to->size()));
}

// Reads forward through bytes that came from elsewhere.
struct Reader {
  std::span<const std::byte> rest;
  template <class T>
  Result<T> take() {
    static_assert(std::is_trivially_copyable_v<T>);
    if (rest.size() < sizeof(T)) {
      return make_error(EPROTO, "message too short");
    }
    T value;
    std::memcpy(&value, rest.data(), sizeof(T));
    rest = rest.subspan(sizeof(T));
    return value;
  }
  Result<std::vector<std::byte>> take_padded(uint64_t n) {
    if (n > rest.size() || pad8(n) > rest.size()) {
      return make_error(EPROTO, "message too short");
    }
    std::vector<std::byte> out(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(n));
    rest = rest.subspan(pad8(n));
    return out;
  }
};

Result<UniqueFd> bytes_in_memfd(std::span<const std::byte> bytes) {
  UniqueFd fd(::memfd_create("bpftime-payload", MFD_CLOEXEC));
  if (!fd) {
    return make_error(errno, "memfd_create");
  }
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        ::pwrite(fd.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n <= 0) {
      return make_error(n < 0 ? errno : EIO, "write to memfd");
    }
    done += static_cast<size_t>(n);
  }
  return fd;
}

// Copies a foreign file once. A file that shrinks meanwhile is an error, not a SIGBUS (pread, no mmap).
Result<std::vector<std::byte>> bytes_of_fd(int fd, uint64_t size) {
  if (size > kMaxPayloadBytes) {
    return make_error(E2BIG, "payload too large");
  }
  struct stat st{};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) < size) {
    return make_error(EPROTO, "payload file is not as announced");
  }
  std::vector<std::byte> bytes(size);
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::pread(fd, bytes.data() + done, size - done, static_cast<off_t>(done));
    if (n <= 0) {
      return make_error(EPROTO, "payload file shrank");
    }
    done += static_cast<size_t>(n);
  }
  return bytes;
}

}  // namespace

Result<void> send_packet(int channel, MessageKind kind, uint64_t serial,
                         std::span<const std::byte> body, std::span<const int> fds,
                         int deadline_ms) {
  if (body.size() > kMaxPacketBytes - sizeof(MessageHeader) || fds.size() > kMaxFds) {
    return make_error(EMSGSIZE, "packet too large");
  }
  MessageHeader header{static_cast<uint32_t>(sizeof(MessageHeader) + body.size()), kind,
                       kMessageVersion, serial};
  iovec iov[2] = {{&header, sizeof(header)}, {const_cast<std::byte*>(body.data()), body.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)] = {};
  msghdr m{};
  m.msg_iov = iov;
  m.msg_iovlen = 2;
  if (!fds.empty()) {
    m.msg_control = control;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
  }
  for (;;) {
    const ssize_t n = ::sendmsg(channel, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      return {};
    }
    if (errno == EAGAIN) {
      TRY(wait_for(channel, POLLOUT, deadline_ms));
    } else if (errno != EINTR) {
      return make_error(errno == ECONNRESET ? EPIPE : errno, "send");
    }
  }
}

Result<Received> receive_packet(int channel, int deadline_ms) {
  std::vector<std::byte> buffer(kMaxPacketBytes);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 64)];
  iovec iov{buffer.data(), buffer.size()};
  msghdr m{};
  ssize_t n = 0;
  for (;;) {
    m = msghdr{};
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof(control);
    n = ::recvmsg(channel, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n >= 0) {
      break;
    }
    if (errno == EAGAIN) {
      TRY(wait_for(channel, POLLIN, deadline_ms));
    } else if (errno != EINTR) {
      return make_error(errno == ECONNRESET ? EPIPE : errno, "receive");
    }
  }
  Received received{};
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
      const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; i++) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
        received.fds.emplace_back(fd);
      }
    }
  }
  if (n == 0) {
    return make_error(EPIPE, "peer closed the channel");
  }
  if (static_cast<size_t>(n) < sizeof(MessageHeader) ||
      (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || received.fds.size() > kMaxFds) {
    return make_error(EPROTO, "malformed packet");
  }
  std::memcpy(&received.header, buffer.data(), sizeof(MessageHeader));
  if (received.header.size_bytes != static_cast<size_t>(n)) {
    return make_error(EPROTO, "packet size differs from its header");
  }
  if (received.header.version != kMessageVersion) {
    return make_error(EPROTO, "other version of the protocol");
  }
  received.body.assign(buffer.begin() + sizeof(MessageHeader), buffer.begin() + n);
  return received;
}

const RequestPayload* Request::payload(uint32_t tag) const {
  for (const auto& p : payloads) {
    if (p.tag == tag) {
      return &p;
    }
  }
  return nullptr;
}

const ObjectRef* Request::ref(int fd) const {
  for (const auto& r : refs) {
    if (r.fd == fd) {
      return &r;
    }
  }
  return nullptr;
}

Result<void> send_request(int channel, const Request& request, int deadline_ms) {
  if (request.refs.size() > kMaxRefs || request.payloads.size() > kMaxPayloads) {
    return make_error(E2BIG, "too many references or payloads");
  }
  RequestHead head{};
  head.command = request.command;
  head.attr_bytes = static_cast<uint32_t>(request.attr.size());
  std::memcpy(head.args, request.args, sizeof(head.args));
  head.ref_count = static_cast<uint32_t>(request.refs.size());
  head.payload_count = static_cast<uint32_t>(request.payloads.size());
  std::vector<std::byte> data;
  for (const auto& p : request.payloads) {
    if ((p.flags & kOutputWanted) == 0) {
      append_padded(&data, p.bytes);
    }
  }
  UniqueFd file;
  if (data.size() > kMaxInlinePayload) {
    head.flags |= kPayloadInFd;
    file = TRY(bytes_in_memfd(data));
  }
  std::vector<std::byte> body;
  append(&body, head);
  append_padded(&body, request.attr);
  for (const auto& r : request.refs) {
    append(&body, r);
  }
  for (const auto& p : request.payloads) {
    append(&body,
           Payload{p.tag, p.flags, (p.flags & kOutputWanted) != 0 ? p.size_bytes : p.bytes.size()});
  }
  std::vector<int> fds;
  if (file) {
    fds.push_back(file.get());
  } else {
    body.insert(body.end(), data.begin(), data.end());
  }
  for (const auto& fd : request.fds) {
    fds.push_back(fd.get());
  }
  return send_packet(channel, request.kind, request.serial, body, fds, deadline_ms);
}

Result<Request> parse_request(Received&& packet) {
  Reader in{packet.body};
  const RequestHead head = TRY(in.take<RequestHead>());
  if (head.ref_count > kMaxRefs || head.payload_count > kMaxPayloads ||
      head.attr_bytes > kMaxPacketBytes) {
    return make_error(EPROTO, "counts out of range");
  }
  Request request;
  request.kind = packet.header.kind;
  request.serial = packet.header.serial;
  request.command = head.command;
  std::memcpy(request.args, head.args, sizeof(head.args));
  request.attr = TRY(in.take_padded(head.attr_bytes));
  for (uint32_t i = 0; i < head.ref_count; i++) {
    request.refs.push_back(TRY(in.take<ObjectRef>()));
  }
  uint64_t total = 0;
  for (uint32_t i = 0; i < head.payload_count; i++) {
    const Payload p = TRY(in.take<Payload>());
    if (p.size_bytes > kMaxPayloadBytes) {
      return make_error(EPROTO, "payload too large");
    }
    if ((p.flags & kOutputWanted) == 0) {
      total += pad8(p.size_bytes);
    }
    request.payloads.push_back(RequestPayload{p.tag, p.flags, p.size_bytes, {}});
  }
  std::vector<std::byte> from_file;
  Reader data = in;
  size_t first_fd = 0;
  if ((head.flags & kPayloadInFd) != 0) {
    if (packet.fds.empty()) {
      return make_error(EPROTO, "payload file missing");
    }
    from_file = TRY(bytes_of_fd(packet.fds[0].get(), total));
    data.rest = from_file;
    first_fd = 1;
  }
  for (auto& p : request.payloads) {
    if ((p.flags & kOutputWanted) == 0) {
      p.bytes = TRY(data.take_padded(p.size_bytes));
    }
  }
  for (size_t i = first_fd; i < packet.fds.size(); i++) {
    request.fds.push_back(std::move(packet.fds[i]));
  }
  return request;
}

Result<void> send_reply(int channel, uint64_t serial, const Reply& reply, int deadline_ms) {
  ReplyHead head{};
  head.value = reply.value;
  head.object = reply.object;
  head.object_id = reply.object_id;
  head.output_bytes = reply.output.size();
  std::vector<int> fds;
  if (reply.fd) {
    fds.push_back(reply.fd.get());
  }
  UniqueFd file;
  std::vector<std::byte> body;
  if (reply.output.size() > kMaxInlinePayload) {
    head.flags |= kPayloadInFd;
    file = TRY(bytes_in_memfd(reply.output));
    fds.push_back(file.get());
    append(&body, head);
  } else {
    append(&body, head);
    append_padded(&body, reply.output);
  }
  return send_packet(channel, MessageKind::kReply, serial, body, fds, deadline_ms);
}

Result<Reply> receive_reply(int channel, uint64_t serial, int deadline_ms) {
  Received packet = TRY(receive_packet(channel, deadline_ms));
  if (packet.header.kind != MessageKind::kReply || packet.header.serial != serial) {
    return make_error(EPROTO, "not the answer to this request");
  }
  Reader in{packet.body};
  const ReplyHead head = TRY(in.take<ReplyHead>());
  Reply reply;
  reply.value = head.value;
  reply.object = head.object;
  reply.object_id = head.object_id;
  size_t fd_count = packet.fds.size();
  if ((head.flags & kPayloadInFd) != 0) {
    if (fd_count == 0) {
      return make_error(EPROTO, "output file missing");
    }
    fd_count--;
    reply.output = TRY(bytes_of_fd(packet.fds[fd_count].get(), head.output_bytes));
  } else {
    reply.output = TRY(in.take_padded(head.output_bytes));
  }
  if (fd_count > 1) {
    return make_error(EPROTO, "too many fds");
  }
  if (fd_count == 1) {
    reply.fd = std::move(packet.fds[0]);
  }
  return reply;
}

Result<Reply> call(int channel, const Request& request, int deadline_ms) {
  TRY(send_request(channel, request, deadline_ms));
  return receive_reply(channel, request.serial, deadline_ms);
}

Result<std::string> session_directory(const std::string& runtime_dir, uint32_t uid,
                                      const std::string& session) {
  std::string base =
      runtime_dir.empty() ? "/tmp/bpftime-" + std::to_string(uid) : runtime_dir + "/bpftime";
  for (const std::string& dir : {base, base + "/" + session}) {
    if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) {
      return make_error(errno, "cannot make the session directory");
    }
    struct stat st{};
    if (::lstat(dir.c_str(), &st) != 0) {
      return make_error(errno, "cannot look at the session directory");
    }
    if (!S_ISDIR(st.st_mode) || st.st_uid != uid || (st.st_mode & 0077) != 0) {
      return make_error(EPERM, "the session directory is not ours alone");
    }
  }
  return base + "/" + session;
}

namespace {
Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return make_error(ENAMETOOLONG, "socket path too long");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}
}  // namespace

Result<UniqueFd> connect_to(const std::string& socket_path) {
  const sockaddr_un address = TRY(address_of(socket_path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) {
    return make_error(errno, "socket");
  }
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return make_error(errno, "no broker listens here");
  }
  return fd;
}

Result<UniqueFd> listen_at(const std::string& socket_path) {
  const sockaddr_un address = TRY(address_of(socket_path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) {
    return make_error(errno, "socket");
  }
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return make_error(errno, "bind");
  }
  if (::listen(fd.get(), 64) != 0) {
    return make_error(errno, "listen");
  }
  return fd;
}

}  // namespace bpftime
