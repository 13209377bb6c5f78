#include "runtime/session.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "helpers/all.hpp"
#include "runtime/testing/armed.hpp"

namespace {
bpftime::ReturnEntry* reclaimed = nullptr;
int asked = 0;
}  // namespace

extern "C" {
void bpftime_say_printk(bpftime::ProbeHit*, const char*, uint32_t) {}
bool bpftime_say_wake(bpftime::ThreadBlock*, uint32_t) { return true; }
void bpftime_say_disarmed(bpftime::ThreadBlock*, bpftime::AgentState*, uint32_t, uint32_t) {}
bpftime::ReturnEntry* bpftime_free_return_entry(bpftime::ThreadBlock*, uint64_t) {
  asked++;
  return reclaimed;
}
}

namespace bpftime::testing {
namespace {

struct Seen {
  bool at_return;
  uint64_t cookie;
};
std::vector<Seen> seen;
uint64_t answer = 0;

// At entry the cookie becomes the number of calls so far.
uint64_t program(void* /*regs*/, Hit* hit) {
  auto* const cookie = reinterpret_cast<uint64_t*>(helper::session_cookie(0, 0, 0, 0, 0, hit));
  const bool at_return = helper::session_is_return(0, 0, 0, 0, 0, hit) != 0;
  seen.push_back({at_return, *cookie});
  if (!at_return) {
    *cookie = seen.size();
  }
  return answer;
}

// A thread with return entries, and a place with a session at entry and return.
struct Place : Armed {
  std::vector<ReturnEntry> entries{kReturnEntries};
  std::vector<SessionCell> cells{kReturnEntries * kSessionsOfCall};
  uint64_t regs[21] = {};
  uint64_t slots[2] = {reinterpret_cast<uint64_t>(&program), 0};
  HitCounts counts = {};
  List list;

  explicit Place(uint32_t links = 1, uint32_t flags = 0) : list(items(links, flags)) {
    thread.entries = entries.data();
    thread.sessions = cells.data();
    for (uint32_t i = kReturnEntries; i-- > 0;) {
      entries[i].home = &thread;
      entries[i].next = thread.free_entries;
      thread.free_entries = &entries[i];
    }
    seen.clear();
    answer = 0;
    asked = 0;
    reclaimed = nullptr;
  }
  std::vector<Attached> items(uint32_t links, uint32_t flags) {
    std::vector<Attached> all(links);
    for (uint32_t i = 0; i < links; i++) {
      all[i].program = run_session;
      all[i].slots = slots + 1;
      all[i].counts = &counts;
      all[i].link = i + 1;
      all[i].flags = kAttachedSession | kAttachedCounted | flags;
    }
    return all;
  }
  // As the thunks do; null: no entry was free.
  ReturnEntry* call(bool body_runs = true) {
    site.on_entry = list.get();
    site.on_return = nullptr;
    hit(list.get(), regs);
    ReturnEntry* const entry = thread.free_entries;
    if (!body_runs || entry == nullptr) {
      return nullptr;
    }
    thread.free_entries = entry->next;
    entry->sequence = ++thread.sequence;
    return entry;
  }
  void come_back(ReturnEntry* entry) {
    site.on_entry = nullptr;
    site.on_return = list.get();
    thread.returning = entry;
    hit(list.get(), regs);
    entry->next = thread.free_entries;
    thread.free_entries = entry;
  }
};

TEST(Session, EntryAndReturnOfACallShareACookie) {
  Place place;
  ReturnEntry* const entry = place.call();
  place.come_back(entry);
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_FALSE(seen[0].at_return);
  EXPECT_EQ(seen[0].cookie, 0U);
  EXPECT_TRUE(seen[1].at_return);
  EXPECT_EQ(seen[1].cookie, 1U);
  EXPECT_EQ(place.counts.run, 2U);
}

TEST(Session, NestedCallsHaveCookiesOfTheirOwn) {
  Place place;
  ReturnEntry* const outer = place.call();
  ReturnEntry* const inner = place.call();
  place.come_back(inner);
  place.come_back(outer);
  ASSERT_EQ(seen.size(), 4U);
  EXPECT_EQ(seen[2].cookie, 2U);
  EXPECT_EQ(seen[3].cookie, 1U);
}

TEST(Session, AnotherValueThanZeroSkipsTheReturnAndIsNoRun) {
  Place place;
  answer = 1;
  ReturnEntry* const entry = place.call();
  place.come_back(entry);
  EXPECT_EQ(seen.size(), 1U);
  EXPECT_EQ(place.counts.run, 1U);
  answer = 0;
  place.come_back(place.call());  // the same entry again
  ASSERT_EQ(seen.size(), 3U);
  EXPECT_EQ(seen[1].cookie, 0U);
}

TEST(Session, ACallThatDidNotComeToPassLeavesNothing) {
  Place place;
  place.call(false);
  ReturnEntry* const entry = place.call();
  place.come_back(entry);
  ASSERT_EQ(seen.size(), 3U);
  EXPECT_EQ(seen[1].cookie, 0U);
  EXPECT_EQ(seen[2].cookie, 2U);
}

TEST(Session, ReturnOfACallThatBeganBeforeItRunsNothing) {
  Place place;
  ReturnEntry* const entry = place.thread.free_entries;
  place.thread.free_entries = entry->next;
  entry->sequence = ++place.thread.sequence;
  place.come_back(entry);
  EXPECT_TRUE(seen.empty());
  EXPECT_EQ(place.counts.run, 0U);
}

TEST(Session, EachLinkHasItsCellAndTheOneTooManyIsMissed) {
  Place place(kSessionsOfCall + 1);
  ReturnEntry* const entry = place.call();
  EXPECT_EQ(seen.size(), kSessionsOfCall);
  EXPECT_EQ(place.counts.missed, 1U);
  place.come_back(entry);
  ASSERT_EQ(seen.size(), 2 * kSessionsOfCall);
  for (uint32_t i = 0; i < kSessionsOfCall; i++) {
    EXPECT_EQ(seen[kSessionsOfCall + i].cookie, i + 1);
  }
}

TEST(Session, OneThatAskedForReturnsAloneRunsAtEachWithACookieOfItsOwn) {
  Place place(1, kAttachedReturnOnly);
  ReturnEntry* const entry = place.thread.free_entries;
  place.thread.free_entries = entry->next;
  entry->sequence = ++place.thread.sequence;
  answer = 1;
  for (int i = 0; i < 2; i++) {
    place.come_back(entry);
    place.thread.free_entries = entry->next;
  }
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_TRUE(seen[1].at_return);
  EXPECT_EQ(seen[1].cookie, 0U);
  EXPECT_EQ(place.counts.run, 2U);
}

TEST(Session, WithoutAFreeEntryOneIsReclaimedOrTheCallMissed) {
  Place place;
  ReturnEntry* const spare = place.thread.free_entries;
  place.thread.free_entries = nullptr;
  EXPECT_EQ(place.call(), nullptr);
  EXPECT_EQ(place.counts.missed, 1U);
  EXPECT_TRUE(seen.empty());
  reclaimed = spare;
  place.call();
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(seen.size(), 1U);
}

}  // namespace
}  // namespace bpftime::testing
