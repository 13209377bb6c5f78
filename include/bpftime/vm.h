/* libbpftime-vm: eBPF programs in your own process. C API, x86-64 Linux.
 *
 *   bpftime_vm *vm = bpftime_vm_new();
 *   bpftime_vm_register_helper(vm, 1, my_helper);
 *   if (bpftime_vm_load(vm, insns, bytes) != 0) puts(bpftime_vm_message(vm));
 *   bpftime_vm_allow(vm, memory, memory_bytes, 1);      // what the interpreter lets the program touch
 *   bpftime_vm_run(vm, memory, memory_bytes, &r0);      // interpreter, all accesses checked
 *   bpftime_vm_compile(vm);                             // then the same with compiled code,
 *   bpftime_vm_run_compiled(vm, memory, memory_bytes, &r0);  // which checks nothing: for verified programs
 *
 * Functions return 0 or a negative errno; bpftime_vm_message() then says why. A vm is used by one thread at a time.
 * A program gets r1 = memory and r2 = its size. Programs that do not end by themselves are ended by the budget.
 */
#ifndef BPFTIME_VM_H
#define BPFTIME_VM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BPFTIME_VM_API __attribute__((visibility("default")))

typedef struct bpftime_vm bpftime_vm;
/* The sixth argument belongs to the library; pass it on when calling a function reference (see below). */
typedef uint64_t (*bpftime_vm_helper)(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4,
                                      uint64_t r5, void* hit);

BPFTIME_VM_API bpftime_vm* bpftime_vm_new(void);
BPFTIME_VM_API void bpftime_vm_free(bpftime_vm* vm);

/* What `call id` calls. A function reference that a program passes to a helper (as to bpf_loop) is itself a
 * bpftime_vm_helper: call it with up to five arguments and the hit. Before bpftime_vm_load or after it. There are no
 * program arrays here: a helper of the number of bpf_tail_call comes back like any other. */
BPFTIME_VM_API int bpftime_vm_register_helper(bpftime_vm* vm, uint32_t id,
                                              bpftime_vm_helper helper);
/* What a map reference (64-bit load with src_reg 1, imm = map) is at run time; and one of a map's value area (src_reg 2). */
BPFTIME_VM_API int bpftime_vm_register_map(bpftime_vm* vm, uint32_t map, void* handle,
                                           void* values);
/* Memory that interpreted programs may read (and write). Beside it, each has its frames, and `memory` of the run. */
BPFTIME_VM_API int bpftime_vm_allow(bpftime_vm* vm, const void* begin, size_t bytes,
                                    int is_writable);
BPFTIME_VM_API int bpftime_vm_forbid_all(bpftime_vm* vm);
/* Backward jumps a run may make; by default 2^63 - 1. Used up: the run fails with -ETIME. */
BPFTIME_VM_API int bpftime_vm_set_budget(bpftime_vm* vm, int64_t backward_jumps);

/* Checks the program's structure and keeps it. -EINVAL, -E2BIG, -EOPNOTSUPP. */
BPFTIME_VM_API int bpftime_vm_load(bpftime_vm* vm, const void* insns, size_t bytes);
/* Interprets. -EFAULT for an access outside of what is allowed, -ENOENT for a helper or map that is not registered. */
BPFTIME_VM_API int bpftime_vm_run(bpftime_vm* vm, void* memory, size_t bytes, uint64_t* r0);
/* Makes x86-64 code of the loaded program, mapped read and execute. */
BPFTIME_VM_API int bpftime_vm_compile(bpftime_vm* vm);
BPFTIME_VM_API int bpftime_vm_run_compiled(bpftime_vm* vm, void* memory, size_t bytes,
                                           uint64_t* r0);
/* The program as text, one line an instruction; valid until the next call with this vm. */
BPFTIME_VM_API const char* bpftime_vm_print(bpftime_vm* vm);
/* Why the last call with this vm failed. */
BPFTIME_VM_API const char* bpftime_vm_message(const bpftime_vm* vm);

#ifdef __cplusplus
}
#endif
#endif
