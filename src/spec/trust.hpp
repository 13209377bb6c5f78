// Which pointers of the kernel's a BTF-typed program may rely on. Home: pure *, any thread.
//
// A walk from a trusted structure gives a pointer that may be read, but that no function takes for sure; the fields
// here are the exceptions. Asked of Linux 6.18 with programs that load each pointer member of the structures that
// tracepoints and iterators hand out.
#pragma once
#include <cstdint>
#include <string_view>

namespace bpftime {

enum class FieldTrust : uint8_t {
  kNone,
  kTrusted,
  kTrustedOrNull,
  kRcu,  // within an RCU section
  kRcuOrNull,
};
FieldTrust field_trust(std::string_view structure, std::string_view field);

// Arguments of `iter` programs, the context's words.
enum class IterArgument : uint8_t {
  kTrusted,
  kTrustedOrNull,
  kOrNull,  // to be read only
  kReadOnlyBytesOrNull,
  kBytesOrNull,
};
// `target`: the kernel's function, bpf_iter_task.
IterArgument iter_argument(std::string_view target, uint32_t index);

// The field that programs of this type may write of a structure that they hold. Empty: none.
std::string_view writable_field(uint32_t prog_type, std::string_view structure);

// Objects that kptrs may point to and that live until the RCU sections are over in which they were released.
bool is_freed_after_rcu(std::string_view structure);

// May programs of this target ask for and set options of the socket?
bool gives_socket_options(std::string_view target);

// May this argument of a BTF-typed raw tracepoint (without `btf_trace_`) be null?
bool is_nullable_argument(std::string_view tracepoint, uint32_t index);

}  // namespace bpftime
