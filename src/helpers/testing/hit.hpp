// A ProbeHit of this thread with everything it points at. Tests and benchmarks only.
#pragma once
#include <unistd.h>

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

}  // namespace bpftime::testing
