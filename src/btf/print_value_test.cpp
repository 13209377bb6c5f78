#include "btf/print_value.hpp"

#include <gtest/gtest.h>

#include <random>

#include "btf/testing/parsed_btf.hpp"

namespace bpftime {
namespace {

using testing::BtfBuilder;
using testing::parsed;

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

TEST(PrintValue, AStructIsAnObjectWithNumbersTextAndEnumerators) {
  BtfBuilder b;
  const uint32_t u32 = b.add_int("unsigned int", 4);
  const uint32_t s64 = b.add_int("long", 8, BTF_INT_SIGNED);
  const uint32_t character = b.add_int("char", 1, BTF_INT_SIGNED);
  const uint32_t comm = b.add_array(character, u32, 8);
  const uint32_t colour =
      b.raw("colour", BTF_KIND_ENUM, 2, 4, {b.string("RED"), 0, b.string("BLUE"), 7});
  const uint32_t pointer = b.add_pointer(0);
  const uint32_t pair = b.add_array(u32, u32, 2);
  const uint32_t type = b.add_struct("event", 48,
                                     {{"id", u32, 0},
                                      {"colour", colour, 4},
                                      {"delta", s64, 8},
                                      {"comm", comm, 16},
                                      {"at", pointer, 24},
                                      {"pair", pair, 32},
                                      {"", b.add_struct("", 4, {{"inner", u32, 0}}), 40}});
  struct {
    uint32_t id = 4294967295U, colour = 7;
    int64_t delta = -5;
    char comm[8] = "na\"sh";
    uint64_t at = 0xdeadbeef;
    uint32_t pair[2] = {1, 2};
    uint32_t inner = 9, rest = 0;
  } event;
  EXPECT_EQ(value_text(parsed(b), type, bytes_of(event)),
            "{\"id\":4294967295,\"colour\":\"BLUE\",\"delta\":-5,\"comm\":\"na\\\"sh\","
            "\"at\":\"0xdeadbeef\",\"pair\":[1,2],\"\":{\"inner\":9}}");
}

TEST(PrintValue, ADataSectionIsAnObjectWithItsVariables) {
  BtfBuilder b;
  const uint32_t u32 = b.add_int("unsigned int", 4);
  const uint32_t variable = b.raw("slots", BTF_KIND_VAR, 0, b.add_array(u32, u32, 3), {1});
  const uint32_t section = b.raw(".bss", BTF_KIND_DATASEC, 1, 12, {variable, 0, 12});
  const uint32_t values[3] = {5, 6, 7};
  EXPECT_EQ(value_text(parsed(b), section, bytes_of(values)), "{\"slots\":[5,6,7]}");
}

TEST(PrintValue, WithoutATypeNumbersAndBytes) {
  EXPECT_EQ(value_text(bytes_of(uint64_t{18})), "18");
  EXPECT_EQ(value_text(bytes_of(uint16_t{513})), "513");
  const uint8_t bytes[3] = {1, 0xab, 0};
  EXPECT_EQ(value_text(bytes_of(bytes)), "\"01 ab 00\"");
}

TEST(PrintValue, ATypeThatDoesNotFitIsPrintedAsBytes) {
  BtfBuilder b;
  const uint32_t u32 = b.add_int("unsigned int", 4);
  const uint32_t large = b.add_array(u32, u32, 100);
  EXPECT_EQ(value_text(parsed(b), large, bytes_of(uint64_t{7})), "7");
  EXPECT_EQ(value_text(parsed(b), 99, bytes_of(uint64_t{7})), "7");
}

// A member may lie anywhere, overlap others, and be of a type that holds its own: the text is bounded all the same.
TEST(PrintValue, TypesThatMultiplyEndInTheMiddle) {
  BtfBuilder b;
  uint32_t type = b.add_int("unsigned int", 4);
  for (int level = 0; level < 12; level++) {
    std::vector<BtfBuilder::Member> members(16, {"m", type, 0});
    type = b.add_struct("s", 4, members);
  }
  EXPECT_LT(value_text(parsed(b), type, bytes_of(uint32_t{1})).size(), kMostValueText + 65536);
}

}  // namespace
}  // namespace bpftime
