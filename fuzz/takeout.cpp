// Taking the agent out of a process whose arena is hostile: state, journal, mappings, blocks as the input says. A child
// of ours is that process; it may die of it, the broker may not, nor hang, nor read beyond what it was given.
// Input: records of [u8 kind][u16 where][u64 what].
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "broker/arena.hpp"
#include "broker/inside.hpp"
#include "broker/takeout.hpp"
#include "inject/bring_agent.hpp"
#include "inject/stopped_process.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kImageBytes = 64 << 10;
constexpr uint64_t kUsedHeap = 64 << 10;

struct Place {
  std::byte* arena = nullptr;
  std::byte* image = nullptr;
  int file = -1;
  pid_t child = -1;
};

// Never returns to us: an inherited handler would report the child's end as ours.
[[noreturn]] void live_as_child() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM}) {
    ::signal(signal, SIG_DFL);
  }
  for (;;) {
    ::pause();
  }
}

void begin_child(Place* p) {
  p->child = ::fork();
  if (p->child == 0) {
    live_as_child();
  }
}

void end_child(Place* p) {
  ::kill(p->child, SIGKILL);
  ::waitpid(p->child, nullptr, 0);
  p->child = -1;
}

Place* place() {
  static Place p;
  if (p.arena == nullptr) {
    p.file = static_cast<int>(::memfd_create(kArenaName, MFD_CLOEXEC));
    if (p.file < 0 || ::ftruncate(p.file, kArenaBytes) != 0) {
      std::abort();
    }
    p.arena = static_cast<std::byte*>(
        ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, p.file, 0));
    p.image = static_cast<std::byte*>(
        ::mmap(nullptr, kImageBytes, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::prctl(PR_SET_DUMPABLE, 1);
  }
  if (p.child < 0) {
    begin_child(&p);
  }
  return &p;
}

uint64_t address(const void* at) { return reinterpret_cast<uint64_t>(at); }

// A number that the input names: as it is, or an address that means something there.
uint64_t value(const Place& p, uint8_t kind, uint64_t what) {
  switch (kind >> 4 & 7) {
    case 1:
      return address(p.arena) + kHeapOffset + what % kUsedHeap;
    case 2:
      return address(p.image) + what % kImageBytes;
    case 3:
      return address(p.arena) + what % kHeapOffset;
    case 4:
      return address(reinterpret_cast<const void*>(&::pause)) + what % 64;
    case 5:
      return what & 0xff;
    default:
      return what;
  }
}

}  // namespace
}  // namespace bpftime

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  Place* const p = place();
  // What the last input wrote goes.
  ::fallocate(p->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kHeapOffset + kUsedHeap);
  auto* const state = reinterpret_cast<AgentState*>(p->arena);
  state->magic = kAgentMagic;
  state->version = kAgentVersion;
  state->arena_bytes = kArenaBytes;
  state->agent_base = address(p->image);
  state->agent_bytes = kImageBytes;
  state->image_way = static_cast<uint32_t>(AgentWay::kMapped);
  state->channel = -1;
  for (size_t records = 0; size >= 11 && records < 256; records++, data += 11, size -= 11) {
    const uint8_t kind = data[0];
    uint16_t where = 0;
    uint64_t what = 0;
    std::memcpy(&where, data + 1, 2);
    std::memcpy(&what, data + 3, 8);
    what = value(*p, kind, what);
    uint64_t at = 0;
    switch (kind & 3) {
      case 0:
        at = where % (sizeof(AgentState) - 8);
        break;
      case 1:
        at = kJournalOffset + where % 512 * 8;
        break;
      case 2:
        at = kMappingsOffset + where % 512 * 8;
        break;
      default:
        at = kHeapOffset + where % (kUsedHeap - 8);
    }
    std::memcpy(p->arena + at, &what, 8);
  }
  (void)owner_of_arena(p->child, address(p->arena)).has_value();
  {
    auto held = StoppedProcess::stop(p->child, deadline_in_ms(1000));
    if (held) {
      (void)threads_inside(*held, address(p->arena), true).has_value();
    }
  }
  (void)take_out(p->child, deadline_in_ms(5)).has_value();
  // It goes on or it is gone; it is never left held. One that was written to is not used again.
  if (::waitpid(p->child, nullptr, WNOHANG) == p->child) {
    p->child = -1;
  } else {
    end_child(p);
  }
  return 0;
}
