// Random programs: layer B (state embedding) and layer C (the running kernel as judge). The same seeds each time;
// `make soak` takes others.
#include <gtest/gtest.h>

#include "tests/verifier/layers.hpp"

namespace bpftime::testing {
namespace {

TEST(VerifierLayers, WhatIsAcceptedRunsInsideOfWhatTheVerifierSaw) {
  auto layers = Layers::make(false);
  ASSERT_TRUE(layers.has_value());
  LayerCounts counts;
  for (uint64_t seed = 0; seed < 10'000; ++seed) {
    const std::string misfit = (*layers)->embed(seed, &counts);
    ASSERT_EQ(misfit, "") << (*layers)->show(seed);
  }
  // The check is worth nothing where little is accepted.
  EXPECT_GT(counts.accepted, counts.programs / 3);
  EXPECT_GT(counts.bounded_loops, counts.programs / 100);
  EXPECT_GT(counts.reached_bounds, counts.bounded_loops);
  RecordProperty("compared", std::to_string(counts.compared));
}

// Seeds on which something did not fit once: a loop's marks that came late while another loop was under
// way, and slots that nothing reads any more.
TEST(VerifierLayers, WhatDidNotFitOnceFits) {
  auto layers = Layers::make(false);
  ASSERT_TRUE(layers.has_value());
  LayerCounts counts;
  for (const uint64_t seed : {38408ULL, 3320483ULL, 3571813ULL, 4318118ULL, 1795195504573ULL}) {
    EXPECT_EQ((*layers)->embed(seed, &counts), "") << (*layers)->show(seed);
  }
}

TEST(VerifierLayers, TheKernelAcceptsWhatWeAccept) {
  if (!KernelVerifier::available()) {
    GTEST_SKIP() << "may not load programs here";
  }
  auto layers = Layers::make(true);
  ASSERT_TRUE(layers.has_value()) << layers.error().why;
  LayerCounts counts;
  for (uint64_t seed = 0; seed < 2'000; ++seed) {
    const std::string difference = (*layers)->compare(seed, &counts);
    ASSERT_EQ(difference, "") << (*layers)->show(seed);
  }
  EXPECT_GE(counts.both_accepted * 100, counts.kernel_accepted * 97);
}

}  // namespace
}  // namespace bpftime::testing
