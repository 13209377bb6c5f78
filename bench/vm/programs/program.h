/* What the programs of the vm benchmark share; the same source becomes native code and eBPF. Each file's first function is
 * `program`: its eBPF code begins at the section's start. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#ifdef __bpf__
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define NO_UNROLL
#endif
u64 program(const u8* memory, u64 size);
