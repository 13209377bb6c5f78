// What an agent says: one datagram of its channel, read and checked. Home: broker, its one thread.
// The sender is whoever holds the descriptor: nothing in a datagram is believed but what the kernel adds.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "abi/agent.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace bpftime {

// A datagram's bytes as a message: our magic, `text_bytes` within what came, `comm` ended by a zero, the rest of
// `text` zero. Nothing when it is not one. `says` may still be any number.
std::optional<AgentMessage> parse_agent_message(std::span<const std::byte> datagram);

struct HeardFromAgent {
  std::optional<AgentMessage> message;  // nothing: not one of ours, to be passed over
  pid_t sender = 0;                     // as the kernel says (SCM_CREDENTIALS); 0 = it does not
  std::vector<UniqueFd> fds;            // at most twelve; the kernel drops those beyond
};
// The next datagram; does not wait. Errors: EAGAIN (none is there), ECONNRESET (none will come), recvmsg's.
Result<HeardFromAgent> hear_agent(int channel);

}  // namespace bpftime
