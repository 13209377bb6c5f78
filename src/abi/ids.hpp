// Names of things across processes. Home: pure *. Issued by the broker, never reused in a session.
#pragma once
#include <cstdint>
#include <type_traits>

namespace bpftime {

enum class MapId : uint32_t {};
enum class ProgId : uint32_t {};
enum class LinkId : uint32_t {};
enum class OwnerId : uint32_t {};     // one per attached process; names lock owners; 0 = nobody
enum class RemoteAddr : uint64_t {};  // an address in a target; never dereferenced by the broker

template <class Id>
constexpr auto raw(Id id) {
  return static_cast<std::underlying_type_t<Id>>(id);
}

}  // namespace bpftime
