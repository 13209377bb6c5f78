// probe/*_empty in one process: what the hook itself costs, callbacks empty, net of the unhooked
// call. Prints JSON.
#include <sched.h>

#include <cstdlib>

#include "../measure.hpp"
#include "fake_broker.hpp"

using namespace bpftime;
using namespace bpftime::testing;

// Functions of one shape (nop5; lea; ret), each for one contender.
#define TARGET(name)                                                                \
  extern "C" long name(long);                                                       \
  __asm__(".text; .p2align 6; .globl " #name "; .type " #name ", @function; " #name \
          ": .byte 0x0f,0x1f,0x44,0,0; lea 1(%rdi), %rax; ret; .size " #name ", .-" #name)
TARGET(plain_target);
TARGET(floor_entry_target);
TARGET(floor_return_target);
TARGET(entry_target);
TARGET(return_target);
TARGET(both_target);
TARGET(disarmed_target);

extern "C" {
void floor_entry_trampoline();
void floor_return_trampoline();
extern void* floor_entry_back;
extern void* floor_return_back;
}

namespace {
constexpr uint64_t kCalls = 20000;

template <long (*kFunction)(long)>
void loop() {
  long sum = 0;
  for (uint64_t i = 0; i < kCalls; i++) {
    sum += kFunction(static_cast<long>(i));
  }
  if (sum != static_cast<long>(kCalls * (kCalls + 1) / 2)) {
    std::abort();
  }
}

void patch_floor(long (*function)(long), void (*trampoline)()) {
  uint8_t jump[5] = {0xe9};
  const auto at = reinterpret_cast<uint64_t>(function);
  const auto distance =
      static_cast<uint32_t>(reinterpret_cast<uint64_t>(trampoline) - (at + sizeof jump));
  __builtin_memcpy(jump + 1, &distance, 4);
  write_text(at, jump, sizeof jump);
}
}  // namespace

int main(int argc, char** argv) {
  const uint64_t repetitions = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 400;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  sched_setaffinity(0, sizeof one, &one);
  start_fake_broker();
  floor_entry_back = reinterpret_cast<void*>(reinterpret_cast<uint64_t>(&floor_entry_target) + 5);
  floor_return_back = reinterpret_cast<void*>(reinterpret_cast<uint64_t>(&floor_return_target) + 5);
  patch_floor(&floor_entry_target, &floor_entry_trampoline);
  patch_floor(&floor_return_target, &floor_return_trampoline);
  hook_bytes(reinterpret_cast<void*>(&entry_target), 10, Probe::kEntry);
  hook_bytes(reinterpret_cast<void*>(&return_target), 10, Probe::kReturn);
  hook_bytes(reinterpret_cast<void*>(&both_target), 10, Probe::kBoth);
  hook_bytes(reinterpret_cast<void*>(&disarmed_target), 10, Probe::kEntry).disarm();

  using bench::Contender;
  std::vector<Contender> all;
  const auto add = [&](const char* scenario, const char* name, void (*run)(), const char* net) {
    Contender c;
    c.scenario = scenario;
    c.name = name;
    c.run = run;
    c.calls = kCalls;
    c.net_of = net;
    all.push_back(c);
  };
  add("probe/uprobe_empty", "direct", &loop<plain_target>, "");
  add("probe/uprobe_empty", "floor", &loop<floor_entry_target>, "direct");
  add("probe/uprobe_empty", "ours", &loop<entry_target>, "direct");
  add("probe/uretprobe_empty", "direct", &loop<plain_target>, "");
  add("probe/uretprobe_empty", "floor", &loop<floor_return_target>, "direct");
  add("probe/uretprobe_empty", "ours", &loop<return_target>, "direct");
  add("probe/both_empty", "direct", &loop<plain_target>, "");
  add("probe/both_empty", "ours", &loop<both_target>, "direct");
  add("probe/disarmed", "direct", &loop<plain_target>, "");
  add("probe/disarmed", "ours", &loop<disarmed_target>, "direct");
  bench::print_json(bench::measure(all, repetitions));
}
