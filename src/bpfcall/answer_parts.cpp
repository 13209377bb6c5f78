#include "bpfcall/answer_parts.hpp"

#include <algorithm>
#include <cerrno>

namespace bpftime {

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

// Linux 6.18 kernel/bpf/syscall.c: bpf_check_uarg_tail_zero.
Result<void> check_tail(const CallerMemory& memory, uint64_t from, uint32_t known, uint32_t given) {
  if (given > kPageBytes) {
    return make_error(E2BIG, "attr larger than a page");
  }
  std::byte chunk[256];
  for (uint32_t at = known; at < given;) {
    const uint32_t n = std::min<uint32_t>(given - at, sizeof(chunk));
    TRY(memory.read(memory.self, from + at, std::span(chunk, n)));
    if (!all_zero(std::span(chunk, n))) {
      return make_error(E2BIG, "attr has bytes that nobody knows");
    }
    at += n;
  }
  return {};
}

Result<std::vector<std::byte>> read_string(const CallerMemory& memory, uint64_t from,
                                           uint64_t most) {
  std::vector<std::byte> text;
  while (text.size() < most) {
    const uint64_t at = from + text.size();
    const uint64_t n = std::min<uint64_t>({kPageBytes - at % kPageBytes, 256, most - text.size()});
    const size_t before = text.size();
    text.resize(before + n);
    TRY(memory.read(memory.self, at, std::span(text).subspan(before)));
    const auto end =
        std::find(text.begin() + static_cast<ptrdiff_t>(before), text.end(), std::byte{0});
    if (end != text.end()) {
      text.erase(end, text.end());
      return text;
    }
  }
  return make_error(ENAMETOOLONG, "string without end");
}

Result<void> write_u32(const CallerMemory& memory, uint64_t to, uint32_t value) {
  return memory.write(memory.self, to, std::as_bytes(std::span(&value, 1)));
}

void add_ref(const Caller& caller, int fd, Request* request) {
  if (request->ref(fd) != nullptr) {
    return;
  }
  ObjectRef ref{};
  if (caller.identify(caller.self, fd, &ref)) {
    ref.fd = fd;
    request->refs.push_back(ref);
  }
}

Answer failed(int code) {
  Answer answer;
  answer.value = -code;
  return answer;
}

Result<void> read_bpf_attr(const CallerMemory& memory, uint64_t from, uint32_t given,
                           std::span<std::byte> attr) {
  const auto known = static_cast<uint32_t>(std::min<size_t>(attr.size(), kKnownAttrBytes));
  if (given > known) {
    TRY(check_tail(memory, from, known, given));
  }
  std::memset(attr.data(), 0, attr.size());
  return memory.read(memory.self, from, attr.subspan(0, std::min(given, known)));
}

}  // namespace bpftime
