// What libstdc++ would bring in with exceptions in tow: the shim loads into any program, and must not allocate an
// emergency pool there at start. Home: shim *. Running out of memory ends the call's process, as malloc(3) users do.
#include <stdlib.h>

#include <cstddef>
#include <new>

#include "base/raw_syscall.hpp"

namespace {
[[noreturn]] void out_of_memory() {
  constexpr char kLine[] = "bpftime: out of memory\n";
  bpftime::raw_syscall(SYS_write, 2, reinterpret_cast<uint64_t>(kLine), sizeof(kLine) - 1);
  ::abort();
}
void* allocate(size_t size) {
  void* memory = ::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) {
    out_of_memory();
  }
  return memory;
}
}  // namespace

void* operator new(size_t size) { return allocate(size); }
void* operator new[](size_t size) { return allocate(size); }
void operator delete(void* memory) noexcept { ::free(memory); }
void operator delete[](void* memory) noexcept { ::free(memory); }
void operator delete(void* memory, size_t /*size*/) noexcept { ::free(memory); }
void operator delete[](void* memory, size_t /*size*/) noexcept { ::free(memory); }

namespace std {
[[noreturn]] void __throw_length_error(const char* /*why*/) { ::abort(); }
[[noreturn]] void __throw_logic_error(const char* /*why*/) { ::abort(); }
[[noreturn]] void __throw_bad_alloc() { out_of_memory(); }
[[noreturn]] void __throw_bad_array_new_length() { ::abort(); }
[[noreturn]] void __throw_out_of_range_fmt(const char* /*format*/, ...) { ::abort(); }
}  // namespace std
