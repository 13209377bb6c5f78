// bench_target: a process with one function a scenario and contender. Prints "ready PID"; then, by line of input:
//   measure N    measures all that is probed now, contenders in turns, N repetitions; JSON, then "done"
//   spin         calls spun() for ever on a thread of its own; answers "spinning"
//   quit
#include <sched.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "../measure.hpp"

// push: what compilers emit with frame pointers; nop5: what the kernel's optimised uprobe wants.
#define BODY "lea 1(%rdi), %rax; "
#define PUSH(name)                                                                  \
  extern "C" long name(long, const void*);                                          \
  __asm__(".text; .p2align 6; .globl " #name "; .type " #name ", @function; " #name \
          ": push %rbp; mov %rsp, %rbp; " BODY "pop %rbp; ret; .size " #name ", .-" #name)
#define NOP5(name)                                                                  \
  extern "C" long name(long, const void*);                                          \
  __asm__(".text; .p2align 6; .globl " #name "; .type " #name ", @function; " #name \
          ": .byte 0x0f,0x1f,0x44,0,0; " BODY "ret; .size " #name ", .-" #name)
#define SCENARIO(name)      \
  PUSH(name##_ours);        \
  PUSH(name##_kernel_push); \
  NOP5(name##_kernel_nop5)
SCENARIO(uprobe_empty);
SCENARIO(uretprobe_empty);
SCENARIO(both_empty);
SCENARIO(array_inc);
SCENARIO(loop_16);
SCENARIO(hash_inc);
SCENARIO(percpu_inc);
SCENARIO(stack_16);
SCENARIO(read_user_16);
SCENARIO(ringbuf_64);
SCENARIO(perfbuf_64);
PUSH(direct);
NOP5(direct_nop5);
NOP5(floor_entry);
NOP5(floor_return);
PUSH(spun);

// A thousand functions for attach/1000_probes.
__asm__(
    ".text\n"
    ".set n, 0\n"
    ".altmacro\n"
    ".macro many_function number\n"
    ".p2align 4\n"
    ".globl many_\\number\n"
    ".type many_\\number, @function\n"
    "many_\\number: push %rbp; mov %rsp, %rbp; lea 1(%rdi), %rax; pop %rbp; ret\n"
    ".size many_\\number, .-many_\\number\n"
    ".endm\n"
    ".rept 1000\n"
    "many_function %n\n"
    ".set n, n+1\n"
    ".endr\n"
    ".noaltmacro\n");

extern "C" {
void floor_entry_trampoline();
void floor_return_trampoline();
extern void* floor_entry_back;
extern void* floor_return_back;
__attribute__((noinline)) void floor_callback(void*) { __asm__ volatile(""); }
}

namespace {

using Function = long (*)(long, const void*);
char buffer[64] = "sixteen bytes and more";

void patch_floor(Function function, void (*trampoline)()) {
  const auto at = reinterpret_cast<uint64_t>(function);
  const auto distance = static_cast<uint32_t>(reinterpret_cast<uint64_t>(trampoline) - (at + 5));
  void* const page = reinterpret_cast<void*>(at & ~4095ULL);
  mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
  uint8_t jump[5] = {0xe9};
  std::memcpy(jump + 1, &distance, 4);
  std::memcpy(reinterpret_cast<void*>(at), jump, sizeof(jump));
  mprotect(page, 8192, PROT_READ | PROT_EXEC);
}

// Below `frames` frames of its own.
__attribute__((noinline, noclone,
               optimize("no-omit-frame-pointer", "no-optimize-sibling-calls"))) long
call_below(int frames, Function function, uint64_t calls) {
  long x = 0;
  if (frames > 0) {
    x = call_below(frames - 1, function, calls);
  } else {
    for (uint64_t i = 0; i < calls; i++) {
      x = function(x, buffer);
      __asm__ volatile("" : "+r"(x));
    }
  }
  __asm__ volatile("" : "+r"(x));
  return x;
}

void measure(uint64_t repetitions) {
  using bpftime::bench::Contender;
  std::vector<Contender> all;
  const auto add = [&](const char* scenario, const char* name, Function function, uint64_t calls,
                       const char* net) {
    Contender c;
    c.scenario = scenario;
    c.name = name;
    c.calls = calls;
    c.net_of = net;
    c.run = [function, calls] {
      long x = 0;
      for (uint64_t i = 0; i < calls; i++) {
        x = function(x, buffer);
        __asm__ volatile("" : "+r"(x));
      }
      if (x != static_cast<long>(calls)) {
        std::abort();
      }
    };
    all.push_back(c);
  };
  constexpr uint64_t kFast = 10000;
  constexpr uint64_t kSlow = 1000;
#define ADD(name)                                                          \
  add("probe/" #name, "direct", direct, kFast, "");                        \
  add("probe/" #name, "direct_nop5", direct_nop5, kFast, "");              \
  add("probe/" #name, "ours", name##_ours, kFast, "direct");               \
  add("probe/" #name, "kernel_push", name##_kernel_push, kSlow, "direct"); \
  add("probe/" #name, "kernel_nop5", name##_kernel_nop5, kSlow, "direct_nop5")
  ADD(uprobe_empty);
  add("probe/uprobe_empty", "floor", floor_entry, kFast, "direct_nop5");
  ADD(uretprobe_empty);
  add("probe/uretprobe_empty", "floor", floor_return, kFast, "direct_nop5");
  ADD(both_empty);
  ADD(array_inc);
  ADD(loop_16);
  ADD(hash_inc);
  ADD(percpu_inc);
#define ADD_STACK(contender, function, calls, net)                     \
  add("stack/16_frames", contender, function, calls, net);             \
  all.back().run = [] {                                                \
    if (call_below(16, function, calls) != static_cast<long>(calls)) { \
      std::abort();                                                    \
    }                                                                  \
  }
  ADD_STACK("direct", direct, kFast, "");
  ADD_STACK("ours", stack_16_ours, kFast, "direct");
  ADD_STACK("kernel_push", stack_16_kernel_push, kSlow, "direct");
  ADD(read_user_16);
  ADD(ringbuf_64);
  ADD(perfbuf_64);
  bpftime::bench::print_json(bpftime::bench::measure(all, repetitions));
  std::printf("done\n");
  std::fflush(stdout);
}

void* spin(void*) {
  for (long x = 0;;) {
    x = spun(x, buffer);
  }
  return nullptr;
}

}  // namespace

int main() {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  floor_entry_back = reinterpret_cast<void*>(reinterpret_cast<uint64_t>(&floor_entry) + 5);
  floor_return_back = reinterpret_cast<void*>(reinterpret_cast<uint64_t>(&floor_return) + 5);
  patch_floor(&floor_entry, &floor_entry_trampoline);
  patch_floor(&floor_return, &floor_return_trampoline);
  std::printf("ready %d\n", getpid());
  std::fflush(stdout);
  char line[64];
  while (std::fgets(line, sizeof(line), stdin) != nullptr) {
    unsigned long n = 0;
    if (std::sscanf(line, "measure %lu", &n) == 1) {
      sched_setaffinity(0, sizeof(one), &one);
      measure(n);
    } else if (std::strcmp(line, "spin\n") == 0) {
      pthread_t thread;
      pthread_create(&thread, nullptr, spin, nullptr);
      std::printf("spinning\n");
      std::fflush(stdout);
    } else if (std::strcmp(line, "quit\n") == 0) {
      return 0;
    }
  }
  return 0;
}
