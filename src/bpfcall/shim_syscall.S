// long syscall(long number, ...), as libc's, but for the numbers that the shim answers. Home: shim *.
// Uses no stack, so that calls that return twice or on another stack (clone, vfork) go on working.
// x86-64 psABI appendix A.2.1: number in rax, arguments rdi rsi rdx r10 r8 r9.
#define MASK_LOW (1 << 3 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16 | 1 << 25)  // close mmap mprotect munmap ioctl mremap

        .text
        .globl  syscall
        .type   syscall, @function
        .p2align 4
syscall:
        .cfi_startproc
        endbr64
        cmpq    $321, %rdi              // bpf
        je      .Lours
        cmpq    $31, %rdi
        ja      .Lhigh
        movl    $MASK_LOW, %eax
        btl     %edi, %eax
        jc      .Lours
.Lkernel:
        movq    %rdi, %rax
        movq    %rsi, %rdi
        movq    %rdx, %rsi
        movq    %rcx, %rdx
        movq    %r8, %r10
        movq    %r9, %r8
        movq    8(%rsp), %r9
        syscall
        cmpq    $-4095, %rax
        jae     .Lfailed
        ret
.Lhigh:
        cmpq    $32, %rdi               // dup
        je      .Lours
        cmpq    $33, %rdi               // dup2
        je      .Lours
        cmpq    $292, %rdi              // dup3
        je      .Lours
        cmpq    $298, %rdi              // perf_event_open
        je      .Lours
        cmpq    $436, %rdi              // close_range
        jne     .Lkernel
.Lours:
        jmp     bpftime_shim_syscall    // the same arguments in the same places
.Lfailed:
        movq    %rax, %rdi
        jmp     bpftime_shim_failed
        .cfi_endproc
        .size   syscall, .-syscall
        .section .note.GNU-stack,"",@progbits
