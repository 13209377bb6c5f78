#include "runtime/run.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "helpers/helpers.hpp"
#include "maps/ring_buffer.hpp"
#include "maps/testing/ring_reader.hpp"
#include "maps/testing/test_map.hpp"
#include "runtime/testing/armed.hpp"

namespace {
struct Said {
  uint32_t link = 0, why = 0, times = 0;
};
Said& said() {
  static Said one;
  return one;
}
std::string& trace() {
  static std::string text;
  return text;
}
}  // namespace

extern "C" {
void bpftime_say_printk(bpftime::ProbeHit*, const char*, uint32_t) {}
bool bpftime_say_wake(bpftime::ThreadBlock*, uint32_t) { return true; }
void bpftime_say_disarmed(bpftime::ThreadBlock*, bpftime::AgentState*, uint32_t link,
                          uint32_t why) {
  said().link = link;
  said().why = why;
  said().times++;
}
}

namespace bpftime {
namespace {

using testing::Armed;
using testing::List;

uint64_t note(void* /*ctx*/, Hit* hit) {
  const auto& self = static_cast<const ProbeHit&>(*hit);
  trace() += std::to_string(self.attached->cookie) + " ";
  return 0;
}
uint64_t out_of_fuel(void* /*ctx*/, Hit* hit) {
  trace() += "fuel ";
  hit->ended = kHitOutOfFuel;
  return 0;
}
uint64_t look(void* ctx, Hit* hit) {
  const auto& self = static_cast<const ProbeHit&>(*hit);
  EXPECT_EQ(ctx, self.regs);
  EXPECT_EQ(self.site->address, 0x4711U);
  EXPECT_EQ(self.thread->hit, hit);
  EXPECT_EQ(self.fuel, kHitFuel);
  EXPECT_EQ(self.slots[0], 55U);
  EXPECT_EQ(self.ended, static_cast<uint32_t>(kHitNormal));
  trace() += "look ";
  return 0;
}

Attached program(uint64_t (*function)(void*, Hit*), uint64_t cookie = 0,
                 HitCounts* counts = nullptr, uint32_t flags = 0) {
  Attached item = {};
  item.program = function;
  item.cookie = cookie;
  item.counts = counts;
  item.flags = flags;
  item.link = static_cast<uint32_t>(cookie);
  return item;
}

TEST(RunList, RunsProgramsInTheOrderOfAttaching) {
  trace().clear();
  Armed armed;
  const List list({program(note, 3), program(note, 1), program(note, 2)});
  armed.hit(list.get());
  EXPECT_EQ(trace(), "3 1 2 ");
  EXPECT_EQ(armed.thread.hits, 1U);
  EXPECT_EQ(armed.running(), nullptr);
}

TEST(RunList, TheHitTellsWhereItIs) {
  trace().clear();
  Armed armed;
  const uint64_t slots[] = {55};
  uint64_t regs[21] = {};
  Attached item = program(look);
  item.slots = slots;
  const List list({item});
  armed.hit(list.get(), regs);
  EXPECT_EQ(trace(), "look ");
}

TEST(RunList, AnEmptyOrWipedListPassesThrough) {
  trace().clear();
  Armed armed;
  armed.hit(nullptr);
  const List empty({});
  armed.hit(empty.get());
  EXPECT_EQ(trace(), "");
}

TEST(RunList, ADeadBrokerStopsPrograms) {
  trace().clear();
  Armed armed;
  const List list({program(note, 1)});
  armed.alive.word = 77 | 0x40000000;  // as the kernel marks it
  armed.hit(list.get());
  EXPECT_EQ(trace(), "");
}

TEST(RunList, AProgramThatUsedUpItsFuelIsDisarmedAndSaidOnceAndTheOthersRun) {
  trace().clear();
  said() = Said();
  Armed armed;
  HitCounts counts = {};
  const List list({program(note, 1), program(out_of_fuel, 9, &counts), program(note, 2)});
  armed.hit(list.get());
  EXPECT_EQ(trace(), "1 fuel 2 ");
  armed.hit(list.get());
  EXPECT_EQ(trace(), "1 fuel 2 1 2 ");
  EXPECT_EQ(said().times, 1U);
  EXPECT_EQ(said().link, 9U);
  EXPECT_EQ(said().why, static_cast<uint32_t>(kHitOutOfFuel));
  EXPECT_EQ(counts.out_of_fuel.load(), 1U);
  EXPECT_EQ(counts.disarmed.load(), static_cast<uint64_t>(kHitOutOfFuel));
}

// As a signal handler does that jumps out of a program: whatever the run left must not be found by the next.
TEST(RunList, ARunThatWasJumpedOutOfLeavesNothingToTheNext) {
  trace().clear();
  Armed armed;
  const uint64_t slots[] = {55};
  Attached item = program(look);
  item.slots = slots;
  const List list({item});
  armed.hit(list.get());
  auto& hit = static_cast<ProbeHit&>(*armed.thread.hit);
  hit.attached = &item;
  hit.fuel = 3;
  hit.cpu = 1;
  armed.hit(list.get());
  EXPECT_EQ(trace(), "look look ");
  EXPECT_EQ(hit.cpu, kNoCpu);
  EXPECT_EQ(armed.running(), nullptr);
}

uint64_t answers(void* /*ctx*/, Hit* hit) {
  static_cast<ProbeHit*>(hit)->answer = 1;
  return 0;
}

testing::TestMap& ring() {
  static testing::TestMap one(MapSpec{BPF_MAP_TYPE_RINGBUF, 0, 0, 0, 4096, 1, 0});
  return one;
}
uint64_t forget_a_record(void* /*ctx*/, Hit* hit) {
  return find_helper_function(131)(reinterpret_cast<uint64_t>(&ring().map), 8, 0, 0, 0, hit);
}

TEST(RunList, ARecordThatAProgramLeavesOpenIsDiscarded) {
  Armed armed;
  const List list({{forget_a_record, nullptr, nullptr, 1, 1, 0, nullptr}});
  armed.hit(list.get());
  EXPECT_EQ(ring_query(ring().map, BPF_RB_PROD_POS), 16U);
  EXPECT_TRUE(ring_is_readable(ring().map));
  testing::RingReader reader(ring().base(), ring().base() + 4096, 4096);
  int seen = 0;
  EXPECT_EQ(reader.read([&](const char*, uint32_t) { seen++; }), 1U);
  EXPECT_EQ(seen, 0);
}

TEST(RunList, AnInternalProgramsAnswerIsReturnedOnce) {
  Armed armed;
  HitCounts counts = {};
  const List answering({program(answers, 0, &counts, kAttachedInternal), program(note, 1)});
  const List other({program(note, 2)});
  armed.prepare(answering.get());
  armed.prepare(other.get());
  EXPECT_EQ(testing::call_run_list(nullptr, &armed.site, &armed.thread, answering.get()), 1U);
  EXPECT_EQ(testing::call_run_list(nullptr, &armed.site, &armed.thread, other.get()), 0U);
}

uint64_t spends_and_asks(void* /*ctx*/, Hit* hit) {
  auto& self = static_cast<ProbeHit&>(*hit);
  EXPECT_EQ(self.fuel, kHitFuel);
  EXPECT_EQ(self.cpu, kNoCpu);
  self.fuel -= 10;
  self.cpu = 1;
  self.reserved = kHitHasCpu;
  return 0;
}

TEST(RunList, EachRunFindsFullFuelAndNoCpu) {
  Armed armed;
  const List list({program(spends_and_asks), program(spends_and_asks)});
  armed.hit(list.get());
  armed.hit(list.get());
  EXPECT_EQ(armed.thread.hits, 2U);
}

TEST(RunList, RunsAreCountedWhereAsked) {
  Armed armed;
  HitCounts counted = {};
  HitCounts not_counted = {};
  const List list({program(note, 1, &counted, kAttachedCounted), program(note, 2, &not_counted)});
  for (int i = 0; i < 5; i++) {
    armed.hit(list.get());
  }
  EXPECT_EQ(counted.run.load(), 5U);
  EXPECT_EQ(not_counted.run.load(), 0U);
}

uint64_t add_one(void* ctx, Hit* hit) {
  static_cast<uint64_t*>(ctx)[14]++;  // rdi
  *reinterpret_cast<uint64_t*>(hit->slots[0]) += 1;
  return 0;
}
uint64_t fault(void* /*ctx*/, Hit* hit) {
  hit->ended = kHitFault;  // as the handler leaves it
  return 0;
}

// Simple lists, from the thunk's side; plain ones are hook's (tests/hook).
class RunOne : public ::testing::Test {
 protected:
  uint64_t counter_ = 0;
  uint64_t slots_[1] = {reinterpret_cast<uint64_t>(&counter_)};
  HitCounts counts_ = {};
  Armed armed_;
  std::set<const AttachedList*> known_;
  // As the thunks do; a list is of the kind at its first hit.
  void hit(const List& list) {
    armed_.prepare(list.get());
    if (known_.insert(list.get()).second) {
      const_cast<AttachedList*>(list.get())->flags = kListSimple;
    }
    const uint32_t kind = list.get()->flags;
    if (kind == 0 || testing::call_run_simple(&armed_.thread, list.get(), &armed_.site) != 0) {
      testing::call_run_list(armed_.thread.regs, &armed_.site, &armed_.thread, list.get());
    }
  }
  Attached item(uint64_t (*function)(void*, Hit*)) {
    Attached made = program(function, 7, &counts_, kAttachedAlone);
    made.slots = slots_;
    return made;
  }
};

TEST_F(RunOne, RunsFromTheFirstHitOnWithTheThreadsRegisters) {
  const List list({item(add_one)});
  for (int i = 0; i < 3; i++) {
    hit(list);
  }
  EXPECT_EQ(counter_, 3U);
  EXPECT_EQ(armed_.thread.regs[14], 3U);
  EXPECT_EQ(armed_.thread.hits, 3U);
  EXPECT_EQ(armed_.running(), nullptr);
}

TEST_F(RunOne, ADeadBrokerPassesThrough) {
  const List list({item(add_one)});
  hit(list);
  armed_.alive.word = 77 | 0x40000000;
  hit(list);
  EXPECT_EQ(counter_, 1U);
}

TEST_F(RunOne, AProgramThatFaultedIsDisarmedAndSaidOnce) {
  said() = Said();
  const List first({item(add_one)});
  hit(first);
  const List list({item(fault)});
  hit(list);
  EXPECT_EQ(list.get()->flags, 0U) << "run_list looks at `disarmed`";
  hit(list);
  EXPECT_EQ(said().times, 1U);
  EXPECT_EQ(said().link, 7U);
  EXPECT_EQ(said().why, static_cast<uint32_t>(kHitFault));
  EXPECT_EQ(counts_.faulted.load(), 1U);
  EXPECT_EQ(armed_.running(), nullptr);
}

// As hook finds a plain program that faulted: the hit says which code did, its list is run the general way.
TEST_F(RunOne, APlainProgramThatFaultedIsDisarmedWithoutBeingRunAgain) {
  said() = Said();
  const CodeRange code = {};
  const CodeRange other = {};
  Attached faulty = item(add_one);
  faulty.code = &code;
  const List list({faulty});
  armed_.prepare(list.get());
  const auto run = [&] {
    testing::call_run_list(armed_.thread.regs, &armed_.site, &armed_.thread, list.get());
  };
  run();
  EXPECT_EQ(counter_, 1U);
  auto& hit = static_cast<ProbeHit&>(*armed_.thread.hit);
  for (const CodeRange* faulted : {&other, &code}) {
    const_cast<AttachedList*>(list.get())->flags = kListPlain;
    hit.attached = nullptr;
    hit.ended = kHitFault;
    hit.faulted = faulted;
    run();
  }
  EXPECT_EQ(counter_, 2U) << "once, since another program's fault ends no run of this one";
  EXPECT_EQ(list.get()->flags, 0U);
  EXPECT_EQ(said().times, 1U);
  EXPECT_EQ(said().link, 7U);
}

uint64_t asks(void* /*ctx*/, Hit* hit) {
  auto& self = static_cast<ProbeHit&>(*hit);
  EXPECT_EQ(self.cpu, kNoCpu);
  self.cpu = 1;
  self.reserved = kHitHasCpu;
  return 0;
}

TEST(RunSimple, EachRunFindsNoCpuAndItsSite) {
  Armed armed;
  const List list({program(asks)});
  armed.prepare(list.get());
  armed.hit(list.get(), armed.thread.regs);
  for (int i = 0; i < 2; i++) {
    armed.thread.hit->slots = nullptr;
    EXPECT_EQ(testing::call_run_simple(&armed.thread, list.get(), &armed.site), 0U);
    EXPECT_EQ(static_cast<ProbeHit*>(armed.thread.hit)->site, &armed.site);
  }
  EXPECT_EQ(armed.thread.hits, 3U);
}

}  // namespace
}  // namespace bpftime
