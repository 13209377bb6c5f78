// Takes the lane of the CPU that the thread runs on, in a restartable sequence: whatever preempts, migrates or interrupts
// the thread between its beginning and the store sends it back to the beginning (Linux uapi linux/rseq.h), so that
// reading "free" and taking are one step among the threads of a CPU. rseq_cs is null again afterwards: the kernel would
// read what it names also when this image is gone.

  .text
// uint32_t eax bpftime_take_cpu_lane(const ProcessInfo* rdi): a lane, or ~0. Preconditions: lanes, rseq_offset_valid.
  .globl bpftime_take_cpu_lane
  .hidden bpftime_take_cpu_lane
  .type bpftime_take_cpu_lane, @function
  .p2align 4
bpftime_take_cpu_lane:
  .cfi_startproc
  mov 16(%rdi), %rdx                   // ProcessInfo::rseq_offset
  mov 40(%rdi), %r8                    // lanes
  mov (%rdi), %r9d                     // owner
  lea sequence(%rip), %r10
.Lagain:
  mov %r10, %fs:8(%rdx)                // struct rseq: rseq_cs
.Lbegin:
  mov %fs:4(%rdx), %eax                // cpu_id; negative when the thread is not registered
  cmp %eax, 48(%rdi)                   // cpu_lanes
  jbe .Lnone
  mov %rax, %rcx
  shl $6, %rcx
  cmpl $0, (%r8,%rcx)
  jne .Lnone
  mov %r9d, (%r8,%rcx)
.Lend:
  movq $0, %fs:8(%rdx)
  ret
.Lnone:
  movq $0, %fs:8(%rdx)
  mov $-1, %eax
  ret
  .byte 0x0f, 0xb9, 0x3d               // ud1 with the signature as its displacement, as glibc registers it
  .long 0x53053053
.Labort:
  jmp .Lagain
  .cfi_endproc
  .size bpftime_take_cpu_lane, . - bpftime_take_cpu_lane

  .section .data.rel.ro.bpftime_lane, "aw", @progbits
  .p2align 5
sequence:                              // struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip
  .long 0, 0
  .quad .Lbegin, .Lend - .Lbegin, .Labort

  .section .note.GNU-stack, "", @progbits
