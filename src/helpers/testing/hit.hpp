// A ProbeHit of this thread with everything it points at. Tests and benchmarks only.
#pragma once
#include <unistd.h>

#include "helpers/helpers.hpp"
#include "helpers/probe_hit.hpp"

namespace bpftime::testing {

struct TestHit {
  ThreadBlock thread = {};
  ProcessInfo process = {};
  ProbeHit hit = {};
  TestHit() {
    thread.tid = static_cast<uint32_t>(::gettid());
    thread.tgid = static_cast<uint32_t>(::getpid());
    process.owner = 1;
    process.tgid = thread.tgid;
    hit.thread = &thread;
    hit.process = &process;
    hit.cpu = kNoCpu;
    hit.fuel = kHitFuel;
  }
  TestHit(const TestHit&) = delete;
  TestHit& operator=(const TestHit&) = delete;
};

// As a program calls it, by its number.
template <class... Args>
int64_t call(TestHit& t, uint32_t id, Args... args) {
  const uint64_t a[5] = {static_cast<uint64_t>(args)...};
  return static_cast<int64_t>(find_helper_function(id)(a[0], a[1], a[2], a[3], a[4], &t.hit));
}
inline uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }

}  // namespace bpftime::testing
