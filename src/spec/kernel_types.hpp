// A BTF of our own for machines that do not show the kernel's: the types that a tool's CO-RE relocations for uprobes and
// system calls ask for (libbpf looks fields up by name). Home: pure *.
#pragma once
#include <cstddef>
#include <span>

namespace bpftime {

// struct pt_regs as programs here see it (asm/ptrace.h), trace_entry, trace_event_raw_sys_enter and _sys_exit as
// tracefs' format files describe them.
std::span<const std::byte> kernel_types();

}  // namespace bpftime
