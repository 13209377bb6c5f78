// map/*: helpers of ours, called as a compiled program calls them, and the kernel's in the same run
// (as root). 1000 operations a repetition with keys from the same LCG, the empty loop subtracted.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>

#include <memory>

#include "bench/measure.hpp"
#include "helpers/helpers.hpp"
#include "helpers/testing/hit.hpp"
#include "maps/testing/test_map.hpp"
#include "runtime/testing/armed.hpp"

extern "C" {
void bpftime_say_printk(bpftime::ProbeHit*, const char*, uint32_t) {}
bool bpftime_say_wake(bpftime::ThreadBlock*, uint32_t) { return true; }
void bpftime_say_disarmed(bpftime::ThreadBlock*, bpftime::AgentState*, uint32_t, uint32_t) {}
}

namespace {

using namespace bpftime;  // NOLINT: a benchmark

constexpr uint64_t kOperations = 1000;
constexpr uint32_t kEntries = 1024;

struct Random {
  uint32_t state = 1;
  uint32_t next() {
    state = state * 1664525 + 1013904223;
    return (state >> 8) % kEntries;
  }
};

uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }

struct Kernel {
  bpf_object* object = nullptr;
  uint64_t* ring_reader = nullptr;
  const uint64_t* ring_writer = nullptr;
  void drain() const { *ring_reader = __atomic_load_n(ring_writer, __ATOMIC_ACQUIRE); }
  Kernel() {
    libbpf_set_print(nullptr);
    object = bpf_object__open_file(BENCH_MAPS_OBJECT, nullptr);
    if (object != nullptr && bpf_object__load(object) != 0) {
      bpf_object__close(object);
      object = nullptr;
    }
    if (object == nullptr) {
      std::fprintf(stderr,
                   "bench_maps: the kernel does not let us load programs: no contender `kernel`\n");
      return;
    }
    const int ring = bpf_object__find_map_fd_by_name(object, "ring");
    ring_reader =
        static_cast<uint64_t*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0));
    ring_writer =
        static_cast<const uint64_t*>(::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, ring, 4096));
    for (const uint32_t size : {4U, 8U, 16U}) {
      const int fd =
          bpf_object__find_map_fd_by_name(object, ("hash" + std::to_string(size)).c_str());
      for (uint64_t i = 0; i < kEntries; i++) {
        const uint64_t key[2] = {i, 0};
        bpf_map_update_elem(fd, key, &i, 0);
      }
    }
  }
  void add(std::vector<bench::Contender>& to, const std::string& scenario,
           const std::string& program) const {
    if (object == nullptr) {
      return;
    }
    for (const auto& [contender, name, net] :
         {std::tuple<std::string, std::string, std::string>{"kernel_empty", "empty", ""},
          {"kernel", program, "kernel_empty"}}) {
      const int fd = bpf_program__fd(bpf_object__find_program_by_name(object, name.c_str()));
      bench::Contender one;
      one.scenario = scenario;
      one.name = contender;
      one.calls = kOperations;
      one.net_of = net;
      one.run = [fd, this] {
        static char packet[64];
        LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof packet);
        if (bpf_prog_test_run_opts(fd, &opts) != 0) {
          std::abort();
        }
        drain();
      };
      to.push_back(one);
    }
  }
};

}  // namespace

int main() {
  const Kernel kernel;
  std::vector<bench::Contender> all;
  testing::TestHit t;
  [[maybe_unused]] static volatile uint64_t sink;
  std::vector<std::unique_ptr<testing::TestMap>> maps;
  HelperFn const lookup = find_helper_function(1);
  HelperFn const update = find_helper_function(2);
  HelperFn const erase = find_helper_function(3);
  Hit* const hit = &t.hit;
  const auto add = [&](const std::string& scenario, const std::string& program, auto operation) {
    bench::Contender empty;
    empty.scenario = scenario;
    empty.name = "ours_empty";
    empty.calls = kOperations;
    empty.run = [] {
      Random random;
      for (uint64_t i = 0; i < kOperations; i++) {
        uint64_t key[2] = {random.next(), 0};
        __asm__ volatile("" : : "r"(key) : "memory");
      }
    };
    bench::Contender ours = empty;
    ours.name = "ours";
    ours.net_of = "ours_empty";
    ours.run = [operation] {
      Random random;
      for (uint64_t i = 0; i < kOperations; i++) {
        uint64_t key[2] = {random.next(), 0};
        __asm__ volatile("" : : "r"(key) : "memory");
        operation(address(key));
      }
    };
    all.push_back(empty);
    all.push_back(ours);
    kernel.add(all, scenario, program);
  };
  for (const uint32_t size : {4U, 8U, 16U}) {
    maps.push_back(std::make_unique<testing::TestMap>(testing::hash_spec(size, 8, kEntries)));
    for (uint64_t i = 0; i < kEntries; i++) {
      if (maps.back()->update(i, i) != 0) {
        std::abort();
      }
    }
    const uint64_t map = address(&maps.back()->map);
    const std::string end = "/" + std::to_string(size) + "/1024";
    const std::string name = "_" + std::to_string(size);
    add("map/hash/lookup" + end, "lookup" + name, [=](uint64_t key) {
      sink = *reinterpret_cast<const uint64_t*>(lookup(map, key, 0, 0, 0, hit));
    });
    add("map/hash/update" + end, "update" + name, [=](uint64_t key) {
      const uint64_t value = 1;
      if (update(map, key, address(&value), 0, 0, hit) != 0) {
        std::abort();
      }
    });
    add("map/hash/insert_delete" + end, "insert_delete" + name, [=](uint64_t key) {
      const uint64_t value = 1;
      if (erase(map, key, 0, 0, 0, hit) != 0 || update(map, key, address(&value), 0, 0, hit) != 0) {
        std::abort();
      }
    });
  }
  const testing::TestMap ring(MapSpec{BPF_MAP_TYPE_RINGBUF, 0, 0, 0, 1 << 20, 1, 0});
  HelperFn const reserve = find_helper_function(131);
  HelperFn const submit = find_helper_function(132);
  auto* const written = reinterpret_cast<RingProducerPage*>(ring.map.table);
  auto* const read = reinterpret_cast<RingConsumerPage*>(ring.map.base);
  add("map/ringbuf/reserve_submit/64", "reserve_submit", [&](uint64_t key) {
    const uint64_t sample = reserve(address(&ring.map), 64, 0, 0, 0, hit);
    *reinterpret_cast<uint64_t*>(sample) = *reinterpret_cast<const uint64_t*>(key);
    submit(sample, 0, 0, 0, 0, hit);
    if ((written->position & 0x3ffff) < 72) {  // the reader is behind, but not far
      read->position = written->position - 720;
    }
  });
  const auto array = std::make_unique<testing::TestMap>(testing::array_spec(8, kEntries));
  const uint64_t array_map = address(&array->map);
  const auto only_ours = [&](const std::string& scenario, auto operation) {
    add(scenario, "", operation);
    while (all.back().name != "ours") {
      all.pop_back();
    }
  };
  only_ours("map/array/lookup_called", [=](uint64_t key) {
    sink = *reinterpret_cast<const uint64_t*>(lookup(array_map, key, 0, 0, 0, hit));
  });
  static char text[16];
  only_ours("helper/probe_read_16", [=](uint64_t) {
    char to[16];
    if (checked_read(static_cast<ProbeHit*>(hit)->thread, to, address(text), 16) != 0) {
      std::abort();
    }
  });
  testing::Armed armed;
  const testing::List none({});
  Attached nothing = {};
  nothing.program = [](void*, Hit*) -> uint64_t { return 0; };
  const testing::List one({nothing});
  only_ours("runtime/no_program", [&](uint64_t) { armed.hit(none.get()); });
  only_ours("runtime/empty_program", [&](uint64_t) { armed.hit(one.get()); });

  std::vector<bench::Figure> figures = bench::measure(all, 301);
  std::erase_if(figures, [](const bench::Figure& f) {
    return f.contender.find("_empty") != std::string::npos;
  });
  bench::print_json(figures);
  return 0;
}
