// The shim's connection to the broker, and the state that a fork must not share. Home: shim *, any thread.
// Nothing here happens before the process's first bpf(2), perf_event_open(2) or look at a file that only we have.
//
// Invariants:
// 1. State lies in one mapping with MADV_WIPEONFORK: a child finds zeros, and connects for itself.
// 2. Whoever holds the Lock has every signal blocked and cannot be cancelled, so nothing runs on top of it.
// 3. The channel stands on a high fd number and is checked by inode before each use: a loader that closes fds it
//    did not open costs a new connection, nothing else.
#pragma once
#include <cstdint>

#include "bpfcall/answer.hpp"

namespace bpftime::shim {

// True when BPFTIME_SESSION named a broker's directory at the first call; read once.
bool has_session();
// That directory, or "".
const char* session_dir();
// True once this process (not its parent) has a connection. No system call.
bool is_active();

// Connects when needed. False: no broker; said once on stderr.
enum class Loudness : uint8_t { kSayWhy, kQuiet };
bool activate(Loudness loudness);
// Preconditions: activate() was true.
const Welcome& welcome();

// One round trip. Errors: ENOSYS no broker, EIO the broker went away meanwhile, ETIMEDOUT.
Result<Reply> ask(Request* request);

// Held while the state (objects, channel) changes. Nests within one thread.
class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  uint64_t saved_signals_ = 0;
  int saved_cancel_ = 0;
};

// For calls that are about fd numbers.
bool is_channel(int fd);
void move_channel_away_from(int fd);  // before dup2 lands on it
int channel_fd();                     // -1 = none; for close_range

// Zero-filled memory that a forked child finds zeroed again; lives as long as the process.
void* wiped_memory(uint64_t bytes);

// Part of the wiped state, for shim_objects.cpp. Valid after activate().
struct ObjectState;
ObjectState* object_state();

// "bpftime: why (name)" on stderr, in one write.
void say(const char* why, int error);

}  // namespace bpftime::shim
