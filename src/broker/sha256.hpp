// SHA-256 (FIPS 180-4): the first 8 bytes are a program's tag (Linux 6.18). Home: broker; pure.
// Our own: libcrypto would be the broker's largest library, loaded at each start for one hash a program.
#pragma once
#include <array>
#include <cstddef>
#include <span>

namespace bpftime {

std::array<std::byte, 32> sha256(std::span<const std::byte> message);

}  // namespace bpftime
