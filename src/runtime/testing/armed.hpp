// An AgentState that is armed, a thread's block, and lists of programs. Tests and benchmarks only.
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/hit.hpp"
#include "runtime/run.hpp"

namespace bpftime::testing {

struct Armed {
  std::unique_ptr<AgentState> state_memory{new AgentState()};
  AgentState& state = *state_memory;
  AlivePage alive = {};
  ThreadBlock thread = {};
  Site site = {};
  Armed() {
    alive.word = 77;
    state.alive = &alive;
    state.alive_expected = 77;
    state.process.owner = 1;
    thread.tid = static_cast<uint32_t>(::gettid());
    thread.tgid = static_cast<uint32_t>(::getpid());
    site.address = 0x4711;
  }
  Armed(const Armed&) = delete;
  Armed& operator=(const Armed&) = delete;
  void hit(const AttachedList* list, void* regs = nullptr) {
    run_list(list, regs, &site, &thread, &state);
  }
};

class List {
 public:
  explicit List(const std::vector<Attached>& items)
      : memory_(static_cast<AttachedList*>(
            std::calloc(1, sizeof(AttachedList) + items.size() * sizeof(Attached)))) {
    memory_->count = static_cast<uint32_t>(items.size());
    for (size_t i = 0; i < items.size(); i++) {
      memory_->items[i] = items[i];
    }
  }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() { std::free(memory_); }
  [[nodiscard]] const AttachedList* get() const { return memory_; }

 private:
  AttachedList* memory_;
};

}  // namespace bpftime::testing
