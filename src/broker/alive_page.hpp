// The word by which targets learn that the broker died, however it died. Home: broker's main
// thread.
//
// The word is a futex that holds the thread's tid and stands in the thread's robust list for life:
// when the thread ends, the kernel sets FUTEX_OWNER_DIED in it (get_robust_list(2); Linux 6.18
// kernel/futex/core.c: exit_robust_list, handle_futex_death). It lies in a memfd that is sealed
// against new writable mappings.
#pragma once
#include <cstdint>

#include "abi/agent.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace bpftime {

class AliveWord {
 public:
  // Must be called by the thread whose life it tells, which stays the only one to end the process.
  static Result<AliveWord> create();
  AliveWord(AliveWord&& other) noexcept;
  AliveWord(const AliveWord&) = delete;
  AliveWord& operator=(const AliveWord&) = delete;
  AliveWord& operator=(AliveWord&&) = delete;
  ~AliveWord();  // out of the list again, and the word says dead

  [[nodiscard]] int fd() const { return file_.get(); }
  [[nodiscard]] uint32_t expected() const { return expected_; }

 private:
  AliveWord() = default;
  UniqueFd file_;
  void* page_ = nullptr;
  uint32_t expected_ = 0;
};

}  // namespace bpftime
