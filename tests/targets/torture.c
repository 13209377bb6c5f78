// torture N: N threads run three functions for ever, as fast as they can, and check each result: one whose prologue is
// five one-byte instructions, one with a call and one with a conditional jump among its first five bytes' instructions.
// Prints "ready PID"; each line of input is answered by "calls N wrong N".
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

unsigned long five_pushes(unsigned long a);
unsigned long call_first(unsigned long a);
unsigned long jump_first(unsigned long a);
__asm__(
    ".text\n"
    ".p2align 4\n.globl five_pushes\n.type five_pushes, @function\n"
    "five_pushes: push %rbx; push %rbp; push %rax; push %rcx; push %rdx\n"
    "  lea 3(%rdi), %rbx; mov %rbx, %rax; mov %rax, 16(%rsp)\n"
    "  pop %rdx; pop %rcx; pop %rax; pop %rbp; pop %rbx; ret\n"
    ".size five_pushes, .-five_pushes\n"
    ".p2align 4\n"
    "helper: lea 1(%rdi), %rax; ret\n"
    ".p2align 4\n.globl call_first\n.type call_first, @function\n"
    "call_first: call helper; add $2, %rax; nop; ret\n"
    ".size call_first, .-call_first\n"
    ".p2align 4\n.globl jump_first\n.type jump_first, @function\n"
    "jump_first: test $1, %dil; jz 1f; lea 3(%rdi), %rax; ret\n"
    "1: lea 3(%rdi), %rax; nop; ret\n"
    ".size jump_first, .-jump_first\n");

static atomic_ulong calls, wrong;

static void* run(void* arg) {
  unsigned long n = (unsigned long)arg;
  for (;;) {
    unsigned long bad = 0;
    for (int i = 0; i < 1000; i++, n++) {
      bad += five_pushes(n) != n + 3;
      bad += call_first(n) != n + 3;
      bad += jump_first(n) != n + 3;
    }
    atomic_fetch_add_explicit(&calls, 3000, memory_order_relaxed);
    if (bad != 0) {
      atomic_fetch_add(&wrong, bad);
    }
  }
  return NULL;
}

int main(int argc, char** argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 64;
  for (int i = 0; i < threads; i++) {
    pthread_t id;
    if (pthread_create(&id, NULL, run, (void*)(unsigned long)i) != 0) {
      return 1;
    }
  }
  printf("ready %d\n", getpid());
  fflush(stdout);
  char line[16];
  while (fgets(line, sizeof(line), stdin) != NULL) {
    printf("calls %lu wrong %lu\n", atomic_load(&calls), atomic_load(&wrong));
    fflush(stdout);
  }
  return 0;
}
