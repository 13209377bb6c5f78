// What BTF calls the context of each program type. Home: pure *, any thread.
// Source: uapi linux/bpf.h; kernel names as Linux 6.18's BTF and bpf_cast_to_kern_ctx show them.
#pragma once
#include <cstdint>
#include <string_view>

namespace bpftime {

struct ContextTypes {
  uint32_t prog_type;
  std::string_view program;  // the structure (or typedef) that programs name; empty: none
  std::string_view kernel;   // what stands behind it; empty: no structure
};
const ContextTypes* find_context_types(uint32_t prog_type);  // nullptr = not known

// Is a kernel function's argument, a pointer to this structure, the context?
bool is_context_argument(uint32_t prog_type, std::string_view structure);

}  // namespace bpftime
