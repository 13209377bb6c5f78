// The Btf of what a BtfBuilder made; the test fails where it cannot be read. Tests only.
#pragma once
#include <gtest/gtest.h>

#include <utility>

#include "btf/btf.hpp"
#include "btf/testing/btf_builder.hpp"

namespace bpftime::testing {

inline Btf parsed(const BtfBuilder& builder) {
  auto btf = Btf::parse(builder.bytes());
  EXPECT_TRUE(btf.has_value()) << btf.error().why;
  return std::move(btf).value();
}

}  // namespace bpftime::testing
