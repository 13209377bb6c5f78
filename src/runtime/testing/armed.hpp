// An AgentState that is armed, a thread's block, and lists of programs. Tests and benchmarks only.
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/hit.hpp"
#include "runtime/run.hpp"
#include "runtime/testing/call_run.hpp"

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
    if (list == nullptr || list->count == 0) {
      return;  // a site has null then, and its thunk passes through
    }
    if (thread.hit != nullptr && static_cast<const ProbeHit*>(thread.hit)->regs != regs) {
      static_cast<ProbeHit*>(thread.hit)->attached = nullptr;  // to be set up once more
    }
    prepare(list);
    call_run_list(regs, &site, &thread, list);
  }
  // As the broker fills a list in.
  void prepare(const AttachedList* list) {
    auto* const writable = const_cast<AttachedList*>(list);
    writable->alive = &alive;
    writable->alive_expected = state.alive_expected;
    writable->state = &state;
  }
  // What runs now on this thread.
  [[nodiscard]] const Attached* running() const {
    const auto* const hit = static_cast<const ProbeHit*>(thread.hit);
    return hit == nullptr || !is_running(*hit) ? nullptr : hit->attached;
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
      if (items[i].counts == nullptr) {
        memory_->items[i].counts = &counts_;
      }
    }
  }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() { std::free(memory_); }
  [[nodiscard]] const AttachedList* get() const { return memory_; }

 private:
  AttachedList* memory_;
  HitCounts counts_ = {};
};

}  // namespace bpftime::testing
