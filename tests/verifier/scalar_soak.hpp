// Layer A at full length, piece by piece: for verifier_soak. Home: tests.
#pragma once
#include <cstdint>
#include <string>

namespace bpftime::testing {

inline constexpr uint64_t kRoundsOfABlock = 1'000'000;

// A block of random checks at 64 bits. Empty: all sound; else what was not.
std::string check_random_block(uint64_t block);

// Every reduced value of the 4-bit domain, whatever its five sets were, has a row: its extensions, and
// all operators and comparisons of it with all of them.
uint64_t four_bit_rows();
std::string check_four_bit_row(uint64_t row);

}  // namespace bpftime::testing
