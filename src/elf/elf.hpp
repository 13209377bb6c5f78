// Bounded reading of one ELF64 x86-64 image: segments, symbols, notes, relative relocations.
// Home: pure, broker and tools. The bytes are HOSTILE (a target's or a loader's file): nothing
// outside the span is ever read, and every malformed image is an Error (ENOEXEC: not such an ELF;
// EINVAL: broken inside). Sources: System V gABI chapters 4 and 5, x86-64 psABI 4.4, gabi notes for
// NT_GNU_BUILD_ID.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace bpftime {

// A PT_LOAD: file bytes [file_offset, +file_bytes) appear at [address, +file_bytes), zeroes up to
// memory_bytes.
struct ElfSegment {
  uint64_t address, memory_bytes, file_offset, file_bytes, align;
  bool is_readable, is_writable, is_executable;
};

struct ElfSymbol {
  std::string_view name;  // into the image's bytes
  uint64_t address;       // as in the file (before the load bias)
  uint64_t size;          // may be 0 (hand-written assembly)
  bool is_function;       // STT_FUNC or STT_GNU_IFUNC
  bool is_ifunc;          // `address` is the resolver
  bool is_global;         // STB_GLOBAL, STB_WEAK or STB_GNU_UNIQUE
};

// *(base + offset) = base + addend, base being the load bias (R_X86_64_RELATIVE).
struct ElfRelativeReloc {
  uint64_t offset;
  int64_t addend;
};

// A parsed image. Views (names, build id) point into the bytes given to parse(), which must outlive
// it.
class ElfImage {
 public:
  static Result<ElfImage> parse(std::span<const std::byte> bytes);

  [[nodiscard]] bool is_position_independent() const { return is_dyn_; }  // ET_DYN
  [[nodiscard]] uint64_t entry() const { return entry_; }
  [[nodiscard]] const std::vector<ElfSegment>& segments() const { return segments_; }
  // One past the highest byte of any segment, and the lowest segment address; both not rounded.
  [[nodiscard]] uint64_t low_address() const;
  [[nodiscard]] uint64_t high_address() const;
  // Empty when there is none. PT_INTERP without its terminating zero.
  [[nodiscard]] std::string_view interpreter() const { return interpreter_; }
  [[nodiscard]] std::span<const std::byte> build_id() const { return build_id_; }
  [[nodiscard]] bool has_dynamic() const { return dynamic_bytes_ != 0; }
  [[nodiscard]] bool has_tls() const { return has_tls_; }

  // File offset <-> address, through the PT_LOADs' file bytes. ENOENT when no segment holds it.
  [[nodiscard]] Result<uint64_t> offset_of(uint64_t address) const;
  [[nodiscard]] Result<uint64_t> address_of(uint64_t file_offset) const;
  // The image's file bytes at an address: EFAULT when they are not all there.
  [[nodiscard]] Result<std::span<const std::byte>> bytes_at(uint64_t address, uint64_t count) const;

  // Defined symbols only. By name: .symtab first, a global before a local one. ENOENT.
  [[nodiscard]] Result<ElfSymbol> find_symbol(std::string_view name) const;
  // The function symbol whose [address, address + size) holds `address` (the innermost start); a
  // function of size 0 reaches to the next symbol, at most to the end of its segment. ENOENT.
  [[nodiscard]] Result<ElfSymbol> function_at(uint64_t address) const;
  // Function symbols of both tables by address, one a (address, name); several names may share an
  // address.
  [[nodiscard]] const std::vector<ElfSymbol>& functions() const { return functions_; }
  // All defined symbols of both tables, functions and objects, in file order.
  [[nodiscard]] const std::vector<ElfSymbol>& symbols() const { return symbols_; }

  // The relocations of an image that needs no loader. EOPNOTSUPP when it has any other kind.
  [[nodiscard]] Result<std::vector<ElfRelativeReloc>> relative_relocations() const;

 private:
  ElfImage() = default;
  std::span<const std::byte> bytes_;
  bool is_dyn_ = false, has_tls_ = false;
  uint64_t entry_ = 0, dynamic_offset_ = 0, dynamic_bytes_ = 0;
  std::vector<ElfSegment> segments_;
  std::string_view interpreter_;
  std::span<const std::byte> build_id_;
  std::vector<ElfSymbol> symbols_, functions_;
};

}  // namespace bpftime
