// StoppedProcess: some or all threads of a process held by ptrace, its memory and registers in our
// hands; let go by the destructor as if nothing had been. Home: edge, broker. Everything here must
// be called from the thread that called stop(): ptrace knows tracers by thread.
//
// What the target does not notice (each has a test in tests/inject): system calls interrupted by
// the stop go on (those that the kernel would end with EINTR too), signals met on the way are
// delivered with their siginfo, a process stopped by SIGSTOP stays stopped, a stop arriving
// meanwhile is kept.
#pragma once
#include <sys/types.h>
#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "abi/ids.hpp"
#include "abi/patch.hpp"
#include "base/result.hpp"
#include "inject/process.hpp"

namespace bpftime {

using Registers = user_regs_struct;  // fs_base and gs_base are in it; orig_rax too

class StoppedProcess {
 public:
  // Stops every thread. Errors: ESRCH (gone, also in the middle), EBUSY (traced by another process:
  // tracer_of() names it), EPERM (other user, not dumpable, Yama: the why says which), ETIMEDOUT (a
  // thread does not come: uninterruptible sleep; all are let go).
  static Result<StoppedProcess> stop(pid_t pid, uint64_t deadline_ns);
  // Stops one thread only: enough for remote calls; the others run on.
  static Result<StoppedProcess> borrow(pid_t pid, pid_t tid, uint64_t deadline_ns);
  // Lets all go.
  ~StoppedProcess();
  StoppedProcess(StoppedProcess&&) noexcept;
  StoppedProcess& operator=(StoppedProcess&&) noexcept;

  [[nodiscard]] pid_t pid() const;
  // Threads held, the main thread first when it is among them. A main thread that has exited while
  // others run on is not among them.
  [[nodiscard]] std::vector<pid_t> threads() const;

  [[nodiscard]] Result<Registers> registers(pid_t tid) const;
  Result<void> set_registers(pid_t tid, const Registers& registers);
  [[nodiscard]] Result<uint64_t> signal_mask(pid_t tid) const;  // bit signo - 1
  Result<void> set_signal_mask(pid_t tid, uint64_t mask);

  // An instruction pointer strictly inside a patch's displaced bytes goes to its copy; returns how
  // many moved. EFAULT (nothing was moved): one lies inside, but at no instruction of the patch.
  Result<uint32_t> move_ips(std::span<const Patch> patches);
  // The way back, before the bytes are restored: an ip at a `resume_at` of the patch goes to
  // offset_in_site.
  Result<uint32_t> move_ips_back(std::span<const Patch> patches);
  // Writes patch.after over patch.before in each; ESTALE when any of them has other bytes there
  // (then none is written). Call move_ips first. `restore` is the other direction.
  Result<void> write_patches(std::span<const Patch> patches);
  Result<void> restore_patches(std::span<const Patch> patches);

  // All of it or EFAULT.
  Result<void> read(RemoteAddr from, std::span<std::byte> to) const;
  Result<void> write(RemoteAddr to,
                     std::span<const std::byte> from);  // also read-only and text pages
  // write(), after comparing what is there with `before` (same length): ESTALE.
  Result<void> write_code(RemoteAddr to, std::span<const std::byte> before,
                          std::span<const std::byte> after);
  template <class T>
  Result<T> read_value(RemoteAddr from) const {
    T value{};
    TRY(read(from, std::as_writable_bytes(std::span<T, 1>(&value, 1))));
    return value;
  }
  template <class T>
  Result<void> write_value(RemoteAddr to, const T& value) {
    return write(to, std::as_bytes(std::span<const T, 1>(&value, 1)));
  }

  // Lets all go now; errors that do not matter any more are not reported.
  void release();

  struct State;  // private to this room
  [[nodiscard]] State& state() const { return *state_; }
  explicit StoppedProcess(std::unique_ptr<State> state);

 private:
  std::unique_ptr<State> state_;
};

// Why ptrace and what is judged like it (maps, memory) are refused there: ESRCH, EBUSY or EPERM.
Error why_not_permitted(pid_t pid);

// The memory of a process that is not stopped (data only; same rules as ptrace access).
Result<void> read_memory(pid_t pid, RemoteAddr from, std::span<std::byte> to);
Result<void> write_memory(pid_t pid, RemoteAddr to, uint64_t value);
// As much as can be read from there on; 0 when nothing can.
size_t read_memory_part(pid_t pid, RemoteAddr from, std::span<std::byte> to);

// After ETIMEDOUT a thread in an uninterruptible sleep is still ours and would stop when it wakes:
// this lets those go that have. Returns how many are left; call it again (a timer) until 0. Also
// done by every stop().
size_t let_late_threads_go();

}  // namespace bpftime
