// Checked access to this process's own memory, as the kernel does it: a bad address is EFAULT, never a crash.
// Home: shim *, any thread.
// Pages that a kernel copy has once found good are remembered, and then used without a system call. They are
// forgotten when munmap, mprotect, mremap or a mapping over them goes through the shim. What libc unmaps by itself
// (a large block given to free(3), the stack of a thread that has ended) is not seen: such a pointer, which is a
// use after free in any case, can crash here where the kernel would say EFAULT.
#pragma once
#include "bpfcall/answer.hpp"

namespace bpftime::shim {

CallerMemory own_memory();
// Some mapping of this process has changed or gone.
void forget_pages();

}  // namespace bpftime::shim
