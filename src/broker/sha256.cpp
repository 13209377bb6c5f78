// FIPS 180-4 §6.2: blocks of 64 bytes, 64 rounds each over eight words.
#include "broker/sha256.hpp"

#include <bit>
#include <cstdint>
#include <cstring>

namespace bpftime {
namespace {

constexpr uint32_t kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
constexpr std::array<uint32_t, 8> kStart = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

uint32_t word_at(const uint8_t* bytes) {
  return static_cast<uint32_t>(bytes[0]) << 24 | static_cast<uint32_t>(bytes[1]) << 16 |
         static_cast<uint32_t>(bytes[2]) << 8 | bytes[3];
}

void add_block(std::array<uint32_t, 8>* state, const uint8_t* block) {
  uint32_t w[64];
  for (size_t i = 0; i < 16; i++) {
    w[i] = word_at(block + i * 4);
  }
  for (size_t i = 16; i < 64; i++) {
    const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
    const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = *state;
  for (size_t i = 0; i < 64; i++) {
    const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRounds[i] + w[i];
    const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const uint32_t after[8] = {a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < 8; i++) {
    (*state)[i] += after[i];
  }
}

}  // namespace

std::array<std::byte, 32> sha256(std::span<const std::byte> message) {
  std::array<uint32_t, 8> state = kStart;
  const auto* bytes = reinterpret_cast<const uint8_t*>(message.data());
  const size_t whole = message.size() / 64 * 64;
  for (size_t at = 0; at < whole; at += 64) {
    add_block(&state, bytes + at);
  }
  // §5.1.1: a one bit, zeros, and the length in bits fill the last block or two.
  uint8_t last[128] = {};
  const size_t rest = message.size() - whole;
  if (rest != 0) {
    std::memcpy(last, bytes + whole, rest);
  }
  last[rest] = 0x80;
  const size_t padded = rest < 56 ? 64 : 128;
  const uint64_t bits = static_cast<uint64_t>(message.size()) * 8;
  for (size_t i = 0; i < 8; i++) {
    last[padded - 1 - i] = static_cast<uint8_t>(bits >> i * 8);
  }
  for (size_t at = 0; at < padded; at += 64) {
    add_block(&state, last + at);
  }
  std::array<std::byte, 32> hash;
  for (size_t i = 0; i < hash.size(); i++) {
    hash[i] = static_cast<std::byte>(state[i / 4] >> (24 - i % 4 * 8));
  }
  return hash;
}

}  // namespace bpftime
