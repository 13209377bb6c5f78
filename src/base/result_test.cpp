#include "base/result.hpp"

#include <cerrno>
#include <memory>

#include <gtest/gtest.h>

namespace bpftime {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) {
    return make_error(EINVAL, "odd");
  }
  return n / 2;
}
Result<int> quarter(int n) {
  const int h = TRY(half(n));
  return TRY(half(h));
}
Result<void> check(int n) {
  (void)TRY(half(n));
  return {};
}

TEST(Result, TryPassesTheValueOn) { EXPECT_EQ(*quarter(12), 3); }

TEST(Result, TryReturnsTheFirstErrorWithItsPlace) {
  const Result<int> r = quarter(6);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, EINVAL);
  EXPECT_STREQ(r.error().why, "odd");
  EXPECT_NE(std::string(r.error().file).find("result_test.cpp"), std::string::npos);
  EXPECT_EQ(r.error().line, 13);
}

TEST(Result, VoidCarriesTheError) {
  EXPECT_TRUE(check(2));
  EXPECT_FALSE(check(1));
}

TEST(Result, MovesAndDestroysAnOwningValue) {
  auto counted = std::make_shared<int>(7);
  {
    Result<std::shared_ptr<int>> a = counted;
    Result<std::shared_ptr<int>> b = std::move(a);
    EXPECT_EQ(**b, 7);
    b = Result<std::shared_ptr<int>>(make_error(EIO, "gone"));
    EXPECT_FALSE(b);
  }
  EXPECT_EQ(counted.use_count(), 1);
}

}  // namespace
}  // namespace bpftime
