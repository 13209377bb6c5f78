// One message a packet, fds beside it, over SOCK_SEQPACKET. Home: shim, broker and cli; uses libc, sets errno.
// The receiver believes nothing: a packet whose size field, version or fd count is wrong is EPROTO, and every fd
// that came with it is closed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "abi/messages.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace bpftime {

// A packet as it came: `body` follows the header.
struct Received {
  MessageHeader header;
  std::vector<std::byte> body;
  std::vector<UniqueFd> fds;
};

// Errors: EPIPE peer gone; EAGAIN when `deadline_ms` passed (-1 = wait for ever); EMSGSIZE.
Result<void> send_packet(int channel, MessageKind kind, uint64_t serial,
                         std::span<const std::byte> body, std::span<const int> fds,
                         int deadline_ms);
// Errors: EPIPE at end of stream; EAGAIN; EPROTO malformed.
Result<Received> receive_packet(int channel, int deadline_ms);

// ---- Building and reading requests and replies -----------------------------------------------------------
struct RequestPayload {
  uint32_t tag = 0, flags = 0;
  uint64_t size_bytes = 0;  // kOutputWanted: room; else bytes.size()
  std::vector<std::byte> bytes;
};
struct Request {
  MessageKind kind = MessageKind::kHello;
  uint32_t command = 0;
  int64_t args[4] = {};
  std::vector<std::byte> attr;
  std::vector<ObjectRef> refs;
  std::vector<RequestPayload> payloads;
  std::vector<UniqueFd> fds;  // received only
  uint64_t serial = 0;

  [[nodiscard]] const RequestPayload* payload(uint32_t tag) const;
  [[nodiscard]] const ObjectRef* ref(int fd) const;  // by the caller's fd number
};
struct Reply {
  int64_t value = 0;
  ObjectKind object = ObjectKind::kNone;
  uint32_t object_id = 0;
  UniqueFd fd;  // the object's, or a region's
  std::vector<std::byte> output;
};

Result<void> send_request(int channel, const Request& request, int deadline_ms);
Result<Request> parse_request(Received&& packet);  // Errors: EPROTO
Result<void> send_reply(int channel, uint64_t serial, const Reply& reply, int deadline_ms);
Result<Reply> receive_reply(int channel, uint64_t serial, int deadline_ms);
// Sends and waits for the answer; serial numbers are the caller's business (one call at a time a channel).
Result<Reply> call(int channel, const Request& request, int deadline_ms);

// The session's directory: $XDG_RUNTIME_DIR/bpftime/<session>, else /tmp/bpftime-<uid>/<session>; made with 0700
// and checked to be the caller's own. Errors: EPERM somebody else's; others of mkdir.
Result<std::string> session_directory(const std::string& runtime_dir, uint32_t uid,
                                      const std::string& session);
// Errors: ENOENT or ECONNREFUSED when no broker listens there.
Result<UniqueFd> connect_to(const std::string& socket_path);
Result<UniqueFd> listen_at(const std::string& socket_path);

}  // namespace bpftime
