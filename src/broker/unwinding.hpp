// What forbids return probes in a process or a module (hook/thunks.hpp): unwinders that cannot read the unwind
// data of an open return probe, and calling conventions in which no register is the caller's. Home: broker. Pure.
#pragma once
#include <cstddef>
#include <span>

#include "inject/process_maps.hpp"

namespace bpftime {

// The process has mapped nongnu libunwind (libunwind.so.8, libunwind-x86_64.so.8). LLVM's, libunwind.so.1, is another.
bool maps_nongnu_libunwind(std::span<const Mapping> maps);
// The image was linked by Go's linker: a note named "Go" (cmd/link/internal/ld/elf.go: ELF_NOTE_GO_NAME). The bytes
// are HOSTILE.
bool is_go_image(std::span<const std::byte> bytes);

}  // namespace bpftime
