// bpf(2), perf_event_open(2) and map element calls with hostile attrs, memory and broker answers.
// Input: command, attr size, where the attr lies, how much of the rest the broker says; then memory, then its words.
#include <fcntl.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "bpfcall/answer.hpp"
#include "bpfcall/map_batch.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kBase = 0x10000;

struct World {
  std::vector<std::byte> memory;
  std::vector<std::byte> answer;
  int64_t value = 0;

  bool holds(uint64_t address, uint64_t size) const {
    return address >= kBase && size <= memory.size() && address - kBase <= memory.size() - size;
  }
};

Result<void> read(void* self, uint64_t from, std::span<std::byte> to) {
  auto* w = static_cast<World*>(self);
  if (!w->holds(from, to.size())) {
    return make_error(EFAULT, "unmapped");
  }
  std::copy_n(w->memory.begin() + static_cast<ptrdiff_t>(from - kBase), to.size(), to.begin());
  return {};
}
Result<void> write(void* self, uint64_t to, std::span<const std::byte> from) {
  auto* w = static_cast<World*>(self);
  if (!w->holds(to, from.size())) {
    return make_error(EFAULT, "unmapped");
  }
  std::copy(from.begin(), from.end(), w->memory.begin() + static_cast<ptrdiff_t>(to - kBase));
  return {};
}
void* in_place(void* self, uint64_t address, uint64_t size, bool /*for_write*/) {
  auto* w = static_cast<World*>(self);
  return size != 0 && w->holds(address, size) && (address & 1) == 0
             ? w->memory.data() + (address - kBase)
             : nullptr;
}
bool identify(void* /*self*/, int fd, ObjectRef* ref) {
  *ref = ObjectRef{fd, 0, 1, static_cast<uint64_t>(fd)};
  return (fd & 3) != 3;
}
Result<Reply> ask(void* self, Request* request) {
  auto* w = static_cast<World*>(self);
  if (request->refs.size() > kMaxRefs + 1 || request->payloads.size() > kMaxPayloads) {
    __builtin_trap();
  }
  Reply reply;
  reply.value = w->value;
  reply.output = w->answer;
  return reply;
}
Result<std::string> directory(void* /*self*/, int fd) {
  return fd % 2 == 0 ? std::string("/tmp") : Result<std::string>(make_error(EBADF, "not open"));
}
Result<UniqueFd> open_path(void* /*self*/, const char* path) {
  if (std::strlen(path) >= 4096) {
    __builtin_trap();
  }
  return UniqueFd(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
}

LockContext nobody(void* /*self*/) {
  LockContext who;
  who.owner = OwnerId{1};
  who.tid = 1;
  return who;
}

// A small map of each kind, kept from input to input.
LocalMap* map_of(uint32_t number) {
  static const MapSpec kSpecs[] = {
      {BPF_MAP_TYPE_ARRAY, 0, 4, 12, 5, 1, 0},       {BPF_MAP_TYPE_HASH, 0, 8, 600, 16, 1, 0},
      {BPF_MAP_TYPE_HASH, 0, 500, 3, 4, 1, 0},       {BPF_MAP_TYPE_PERCPU_HASH, 0, 4, 12, 5, 3, 0},
      {BPF_MAP_TYPE_PERCPU_ARRAY, 0, 4, 8, 5, 3, 0}, {BPF_MAP_TYPE_STACK_TRACE, 0, 4, 32, 8, 1, 0},
      {BPF_MAP_TYPE_QUEUE, 0, 0, 20, 5, 1, 0},       {BPF_MAP_TYPE_PROG_ARRAY, 0, 4, 4, 5, 1, 0}};
  constexpr uint32_t kCount = sizeof(kSpecs) / sizeof(kSpecs[0]);
  static std::vector<std::byte> regions[kCount];
  static LocalMap maps[kCount];
  const uint32_t i = number % kCount;
  if (regions[i].empty()) {
    regions[i].resize(*region_bytes(kSpecs[i]));
    (void)format_region(regions[i].data(), regions[i].size(), kSpecs[i], 1).has_value();
    maps[i] = LocalMap{*open_region(regions[i].data(), regions[i].size(), kSpecs[i]), true, true};
  }
  return &maps[i];
}

}  // namespace
}  // namespace bpftime

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  struct Head {
    uint32_t command;
    uint16_t attr_bytes, attr_at, answer_bytes, padding;
    int32_t value;
  } head;
  if (size < sizeof(head)) {
    return 0;
  }
  std::memcpy(&head, data, sizeof(head));
  const auto* rest = reinterpret_cast<const std::byte*>(data) + sizeof(head);
  const size_t rest_bytes = size - sizeof(head);
  const size_t answer_bytes = std::min<size_t>(head.answer_bytes, rest_bytes);
  World world;
  world.memory.assign(rest, rest + (rest_bytes - answer_bytes));
  world.answer.assign(rest + (rest_bytes - answer_bytes), rest + rest_bytes);
  world.value = head.value;
  const Caller caller{{read, write, in_place, &world}, identify, ask, open_path, directory, &world};
  const uint64_t attr = kBase + head.attr_at;

  (void)answer_bpf(caller, head.command % 48, attr, head.attr_bytes);
  (void)answer_perf_open(caller, {attr, -1, 0, -1, 0});
  (void)answer_perf_ioctl(caller, head.value, 0x2400 + head.command % 16, attr);
  for (uint32_t command = BPF_MAP_LOOKUP_ELEM; command <= BPF_MAP_GET_NEXT_KEY; command++) {
    const auto call = read_map_call(caller.memory, command, attr, head.attr_bytes);
    if (call) {
      answer_map_call(*map_of(head.command), caller.memory, *call, nobody, nullptr);
    }
  }
  const auto taken =
      read_map_call(caller.memory, BPF_MAP_LOOKUP_AND_DELETE_ELEM, attr, head.attr_bytes);
  if (taken) {
    answer_map_call(*map_of(head.command), caller.memory, *taken, nobody, nullptr);
  }
  for (uint32_t command = BPF_MAP_LOOKUP_BATCH; command <= BPF_MAP_DELETE_BATCH; command++) {
    const auto call = read_map_batch_call(caller.memory, command, attr, head.attr_bytes);
    if (call) {
      answer_map_batch_call(*map_of(head.command), caller.memory, *call, nobody, nullptr);
    }
  }
  return 0;
}
