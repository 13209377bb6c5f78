#include "runtime/tail_call.hpp"

#include <gtest/gtest.h>

#include "helpers/all.hpp"
#include "maps/testing/test_map.hpp"
#include "runtime/testing/armed.hpp"

extern "C" {
void bpftime_say_printk(bpftime::ProbeHit*, const char*, uint32_t) {}
bool bpftime_say_wake(bpftime::ThreadBlock*, uint32_t) { return true; }
void bpftime_say_disarmed(bpftime::ThreadBlock*, bpftime::AgentState*, uint32_t, uint32_t) {}
}

namespace bpftime::testing {
namespace {

const TailTarget* next_target = nullptr;
int64_t fuel_at_the_end = 0;
const uint64_t* slots_at_the_end = nullptr;
const uint64_t slots_of_last[1] = {0};

// Ends as the helper ends a program.
uint64_t caller(void* /*regs*/, Hit* hit) {
  hit->fuel -= 100;
  static_cast<ProbeHit*>(hit)->tail_target = next_target;
  return 1;
}
uint64_t last(void* /*regs*/, Hit* hit) {
  fuel_at_the_end = hit->fuel;
  slots_at_the_end = hit->slots;
  return 7;
}

struct Place : Armed {
  uint64_t slots[2] = {reinterpret_cast<uint64_t>(&caller), 0};
  CodeRange range = {};
  List list{{Attached{run_tail_calls, slots + 1, nullptr, 0, 1, 0, &range}}};
};

TEST(TailCall, TheBudgetGoesOn) {
  Place place;
  const TailTarget target = {last, slots_of_last, nullptr};
  next_target = &target;
  place.hit(place.list.get());
  EXPECT_EQ(fuel_at_the_end, kHitFuel - 100);
  EXPECT_EQ(slots_at_the_end, slots_of_last);
}

TEST(TailCall, NothingIsCalledWhereNothingIs) {
  const MapSpec spec{BPF_MAP_TYPE_PROG_ARRAY, 0, 4, 4, 2, 1, 0};
  const TestMap array(spec);
  Place place;
  next_target = nullptr;
  place.hit(place.list.get());
  auto* const hit = static_cast<ProbeHit*>(place.thread.hit);
  hit->running = &place.range;
  const auto call = [&](const MapView& map, uint64_t index) {
    return helper::tail_call(0, reinterpret_cast<uint64_t>(&map), index, 0, 0, hit);
  };
  EXPECT_EQ(array.map.used, nullptr);
  EXPECT_EQ(call(array.map, 0), 0U);  // a map without a table: in a loader
  const TailTarget* table[2] = {nullptr, nullptr};
  MapView view = array.map;
  view.used = reinterpret_cast<std::byte*>(table);
  EXPECT_EQ(call(view, 1), 0U);
  const TailTarget target = {last, slots_of_last, nullptr};
  table[0] = table[1] = &target;
  EXPECT_EQ(call(view, 2), 0U);
  hit->tail_calls = kMostTailCalls;
  EXPECT_EQ(call(view, 1), 0U);
  EXPECT_EQ(hit->tail_target, nullptr);
}

}  // namespace
}  // namespace bpftime::testing
