#include "fake_broker.hpp"

#include <asm/prctl.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "abi/hit_offsets.h"
#include "abi/trampoline.hpp"

namespace bpftime::testing {
namespace {

[[noreturn]] void die(const char* what, const char* why) {
  std::fprintf(stderr, "fake broker: %s: %s\n", what, why);
  std::abort();
}

AgentState* g_state = nullptr;
uint8_t* g_room = nullptr;
uint64_t g_room_used = 0, g_room_bytes = 0;
AlivePage g_alive{77};
alignas(AttachedList) std::byte g_list_bytes[sizeof(AttachedList) + sizeof(Attached)];
AttachedList& g_list = *new (g_list_bytes) AttachedList{1, 0, &g_alive, 77, 0, nullptr};
HitCounts g_counts{};

uint8_t* near_memory(uint64_t near, uint64_t bytes) {
  for (uint64_t distance = 1 << 20; distance < (1ULL << 30); distance += 1 << 20) {
    void* const at = mmap(reinterpret_cast<void*>((near - distance) & ~0xfffULL), bytes,
                          PROT_READ | PROT_WRITE | PROT_EXEC,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != MAP_FAILED) {
      return static_cast<uint8_t*>(at);
    }
  }
  die("mmap", "no room near the code");
}

}  // namespace

void write_text(uint64_t at, const void* bytes, uint64_t size) {
  const int memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  if (memory < 0 ||
      pwrite(memory, bytes, size, static_cast<off_t>(at)) != static_cast<ssize_t>(size)) {
    die("write", "/proc/self/mem");
  }
  close(memory);
}

AgentState* start_fake_broker() {
  if (g_state != nullptr) {
    return g_state;
  }
  void* const memory = mmap(nullptr, sizeof(AgentState) + (1 << 20), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  g_state = new (memory) AgentState{};
  void* const table =
      mmap(nullptr, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(table, 1 << 16, MADV_WIPEONFORK);
  g_state->table = static_cast<Site*>(table);
  *static_cast<uint64_t*>(table) = kTableGuard;
  g_state->table_sites = (1 << 16) / sizeof(Site);
  g_state->site_count = 1;
  g_state->tgid = static_cast<uint32_t>(getpid());
  g_state->use_gs = 1;
  g_state->fs_self_pointer = 1;
  // Where libc keeps the tid in the TCB.
  const auto tid = static_cast<uint32_t>(syscall(SYS_gettid));
  for (uint32_t offset = 0x100; offset < 0x600; offset += 4) {
    uint32_t word;
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(word) : "r"(uint64_t{offset}));
    if (word == tid) {
      g_state->tcb_tid_offset = offset;
      break;
    }
  }
  if (g_state->tcb_tid_offset == 0) {
    die("libc", "no tid in the TCB");
  }
  g_list.items[0].counts = &g_counts;
  bpftime_agent_state = g_state;
  syscall(SYS_arch_prctl, ARCH_SET_GS, &bpftime_nobody);
  return g_state;
}

void use_lists(uint32_t flags, Program program) {
  g_list.flags = flags;
  g_list.items[0].program = program;
  ThreadBlock* const block = thread_block();  // as its first hit sets it up
  block->hit_space[HIT_ATTACHED / 8] = reinterpret_cast<uint64_t>(block->hit_space);
}
uint64_t missed_runs() { return g_counts.missed; }
void kill_broker(bool is_dead) { g_alive.word = is_dead ? 77 | FUTEX_OWNER_DIED : 77; }

void use_hashed_thunks(bool yes) { start_fake_broker()->use_gs = yes ? 0 : 1; }

void Hooked::arm(Probe probe) {
  site->on_entry.store(probe != Probe::kReturn ? &g_list : nullptr);
  site->on_return.store(probe != Probe::kEntry ? &g_list : nullptr);
}

void Hooked::disarm() {
  site->on_entry.store(nullptr);
  site->on_return.store(nullptr);
}

void Hooked::restore() {
  write_text(raw(plan.patch.site), plan.patch.before, plan.patch.site_bytes);
  if (plan.hole.site_bytes != 0) {
    write_text(raw(plan.hole.site), plan.hole.before, plan.hole.site_bytes);
  }
}

Hooked hook_bytes(void* function, uint64_t function_bytes, Probe probe, uint64_t offset,
                  const Error** refusal) {
  AgentState* const state = start_fake_broker();
  const auto begin = reinterpret_cast<uint64_t>(function);
  if (g_room_used + kMaxTrampolineBytes > g_room_bytes) {
    g_room_bytes = 1 << 16;
    g_room = near_memory(begin, g_room_bytes);
    g_room_used = 0;
  }
  Hooked hooked;
  const uint32_t index = state->site_count++;
  hooked.site = &state->table[index];
  hooked.site->address = begin + offset;
  PlanInput input;
  input.site = static_cast<RemoteAddr>(begin + offset);
  input.function_begin = static_cast<RemoteAddr>(begin);
  input.code = {static_cast<const uint8_t*>(function), function_bytes + 16};
  input.function_bytes = function_bytes;
  input.bytes_to_next_function = (function_bytes + 15) / 16 * 16;
  input.room = static_cast<RemoteAddr>(reinterpret_cast<uint64_t>(g_room + g_room_used));
  input.site_record = static_cast<RemoteAddr>(reinterpret_cast<uint64_t>(hooked.site));
  const bool gs = state->use_gs != 0;
  const auto at = [](void (*thunk)()) {
    return static_cast<RemoteAddr>(reinterpret_cast<uint64_t>(thunk));
  };
  input.entry_thunk = at(gs ? &bpftime_entry_thunk : &bpftime_entry_thunk_hashed);
  input.inside_thunk = at(gs ? &bpftime_inside_thunk : &bpftime_inside_thunk_hashed);
  input.return_thunk = at(gs ? &bpftime_return_thunk : &bpftime_return_thunk_hashed);
  input.site_index = index;
  input.wants_return = probe != Probe::kEntry;
  Result<Plan> plan = plan_patch(input);
  if (!plan) {
    if (refusal == nullptr) {
      die("plan", plan.error().why);
    }
    static Error last;
    last = plan.error();
    *refusal = &last;
    return hooked;
  }
  hooked.plan = std::move(plan).value();
  std::memcpy(g_room + g_room_used, hooked.plan.trampoline.data(), hooked.plan.trampoline.size());
  g_room_used += (hooked.plan.trampoline.size() + 15) / 16 * 16;
  hooked.arm(probe);
  write_text(begin + offset, hooked.plan.patch.after, hooked.plan.patch.site_bytes);
  return hooked;
}

Hooked hook_function(void* function, Probe probe, uint64_t offset, const Error** refusal) {
  Dl_info info;
  ElfW(Sym)* symbol = nullptr;
  if (dladdr1(function, &info, reinterpret_cast<void**>(&symbol), RTLD_DL_SYMENT) == 0 ||
      symbol == nullptr || info.dli_saddr != function) {
    die("symbol", "not exported");
  }
  return hook_bytes(function, symbol->st_size, probe, offset, refusal);
}

}  // namespace bpftime::testing
