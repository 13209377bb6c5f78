#include "broker/inside.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <utility>

#include "abi/trampoline.hpp"
#include "broker/arena_reader.hpp"

namespace bpftime {
namespace {

class Ranges {
 public:
  explicit Ranges(const std::vector<MappedRange>& ranges) {
    for (const MappedRange& r : ranges) {
      by_begin_.emplace_back(r.begin, r.begin + r.bytes);
      lowest_ = std::min(lowest_, r.begin);
      highest_ = std::max(highest_, r.begin + r.bytes);
    }
    std::sort(by_begin_.begin(), by_begin_.end());
  }
  [[nodiscard]] bool contain(uint64_t at) const {
    if (at < lowest_ || at >= highest_) {
      return false;
    }
    const auto after = std::upper_bound(by_begin_.begin(), by_begin_.end(),
                                        std::pair<uint64_t, uint64_t>(at, ~0ULL));
    return after != by_begin_.begin() && at < std::prev(after)->second;
  }

 private:
  std::vector<std::pair<uint64_t, uint64_t>> by_begin_;  // [begin, end)
  uint64_t lowest_ = ~0ULL, highest_ = 0;
};

// True when a signal frame of `process` has the word at `at` as its interrupted ip. A frame is known by its return
// address, code that does rt_sigreturn; the ip stands 176 bytes behind it (Linux 6.18 arch/x86/include/asm/sigframe.h:
// rt_sigframe, sigcontext_64).
constexpr uint64_t kIpInFrame = 176;
bool is_in_signal_frame(StoppedProcess& process, uint64_t at) {
  constexpr uint8_t kSigreturn[] = {0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};  // ... $15, %eax; syscall
  const auto pattern = std::as_bytes(std::span(kSigreturn));
  const auto returns_to = process.read_value<uint64_t>(RemoteAddr{at - kIpInFrame});
  std::array<std::byte, 16> code{};
  return returns_to && process.read(RemoteAddr{*returns_to}, code) &&
         std::search(code.begin(), code.end(), pattern.begin(), pattern.end()) != code.end();
}

// True when the thread is in a signal handler that interrupted something of ours: its way back leads there though its
// ip does not show it. The stack ends where memory does that the thread itself could read: a tracer may read on, through
// the guard page into the next thread's.
bool interrupted_inside(StoppedProcess& process, const Ranges& ranges, uint64_t rsp) {
  constexpr uint64_t kStackBytes = 256 << 10;
  constexpr uint64_t kAtOnce = 32 << 10;
  std::vector<uint64_t> words;
  for (uint64_t at = rsp & ~7ULL, end = at + kStackBytes; at < end;) {
    const uint64_t want = std::min(kAtOnce - at % kAtOnce, end - at);
    words.resize(want / 8);
    const size_t got = read_memory_part(process.pid(), RemoteAddr{at}, bytes_of(&words));
    for (size_t i = 0; i < got / 8; i++) {
      if (ranges.contain(words[i]) && at + i * 8 >= rsp + kIpInFrame &&
          is_in_signal_frame(process, at + i * 8)) {
        return true;
      }
    }
    if (got < want) {
      break;
    }
    at += want;
  }
  return false;
}

}  // namespace

Result<std::vector<ThreadInside>> threads_inside(StoppedProcess& process, uint64_t arena,
                                                 bool hits_only) {
  auto state = std::make_unique<AgentState>();
  TRY(read_state(process, arena, state.get()));
  const Ranges ranges(TRY(our_ranges(process, arena, *state)));
  // In another pid namespace tids are numbered otherwise: every block then counts as live.
  const auto status = read_status(process.pid());
  const bool same_numbers = status && status->inner_tgid == process.pid();
  const std::vector<BlockHead> blocks = TRY(thread_blocks(process, *state));
  std::map<pid_t, uint64_t> hits;
  for (const BlockHead& block : blocks) {
    if (same_numbers) {
      hits[static_cast<pid_t>(block.tid)] += block.hits;
    }
  }
  const auto hits_of = [&](pid_t tid) {
    const auto found = hits.find(tid);
    return found == hits.end() ? std::nullopt : std::optional<uint64_t>(found->second);
  };
  std::vector<ThreadInside> inside;
  std::map<pid_t, bool> waits;  // in the kernel; of each live thread
  for (const pid_t tid : process.threads()) {
    const Registers regs = TRY(process.registers(tid));
    waits[tid] = static_cast<int64_t>(regs.orig_rax) >= 0;
    if (ranges.contain(regs.rip)) {
      inside.push_back({tid, regs.rip, "a thread runs in the agent", hits_of(tid), std::nullopt});
    }
    if (interrupted_inside(process, ranges, regs.rsp)) {
      inside.push_back({tid, 0, "a thread is in a signal handler that interrupted the agent",
                        std::nullopt, std::nullopt});
    }
  }
  for (const BlockHead& block : blocks) {
    const auto tid = static_cast<pid_t>(block.tid);
    if (same_numbers && !waits.contains(tid)) {
      continue;
    }
    const pid_t known_tid = same_numbers ? tid : 0;
    if (block.guard != 0) {
      inside.push_back({known_tid, 0, "a thread is inside a hit", hits_of(tid), std::nullopt});
      continue;
    }
    const auto open =
        hits_only ? std::vector<ReturnEntry>{} : TRY(open_entries(process, *state, block));
    if (!open.empty()) {
      const bool is_waiting = same_numbers && waits.at(tid);
      inside.push_back(
          {known_tid, 0, "a thread is inside a probed function and will return through the agent",
           std::nullopt,
           is_waiting ? std::optional<uint64_t>(open.front().sequence) : std::nullopt});
    }
  }
  return inside;
}

Result<std::set<uint64_t>> trampolines_held(StoppedProcess& process, uint64_t arena) {
  auto state = std::make_unique<AgentState>();
  TRY(read_state(process, arena, state.get()));
  std::set<uint64_t> held;
  // Also of threads that have ended: a coroutine may have gone on in another.
  for (const BlockHead& block : TRY(thread_blocks(process, *state))) {
    for (const ReturnEntry& entry : TRY(open_entries(process, *state, block))) {
      held.insert(entry.resume - kReturnCopy);
    }
  }
  return held;
}

}  // namespace bpftime
