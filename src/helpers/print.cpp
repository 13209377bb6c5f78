// trace_printk, trace_vprintk.
#include <cerrno>

#include "helpers/all.hpp"

namespace bpftime::helper {
namespace {

constexpr uint64_t kText = 976;     // AgentMessage::text; the kernel's buffer has 1024
constexpr uint64_t kMostArgs = 12;  // MAX_BPRINTF_VARARGS
static_assert(sizeof(AgentMessage::text) == kText);

uint64_t print(ProbeHit& hit, uint64_t format, uint64_t format_bytes, const uint64_t* args,
               uint32_t count) {
  char text[kText];
  const int64_t length =
      format_trace(hit.thread, text, sizeof text, reinterpret_cast<const char*>(format),
                   format_bytes, args, count);
  if (length >= 0) {
    const auto bytes = static_cast<uint64_t>(length);
    bpftime_say_printk(&hit, text, static_cast<uint32_t>(bytes < kText ? bytes : kText - 1));
  }
  return static_cast<uint64_t>(length);
}

}  // namespace

// (const char* fmt, u32 fmt_size, ...): three arguments at most. Length of the text.
BPFTIME_HELPER(trace_printk) {
  const uint64_t args[3] = {a3, a4, a5};
  return print(probe(hit), a1, static_cast<uint32_t>(a2), args, 3);
}

// (const char* fmt, u32 fmt_size, const void* data, u32 data_len)
BPFTIME_HELPER(trace_vprintk) {
  (void)a5;
  const auto bytes = static_cast<uint32_t>(a4);
  if (bytes % 8 != 0 || bytes > kMostArgs * 8 || (bytes != 0 && a3 == 0)) {
    return static_cast<uint64_t>(-EINVAL);
  }
  return print(probe(hit), a1, static_cast<uint32_t>(a2), reinterpret_cast<const uint64_t*>(a3),
               bytes / 8);
}

}  // namespace bpftime::helper
