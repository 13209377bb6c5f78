// A program for `hold`: prints what it was born with (signal mask, SIGTRAP's action, arguments), exits 7.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char** argv) {
  sigset_t mask;
  struct sigaction action;
  sigprocmask(SIG_BLOCK, 0, &mask);
  sigaction(SIGTRAP, 0, &action);
  printf("trap blocked %d ignored %d default %d args", sigismember(&mask, SIGTRAP),
         action.sa_handler == SIG_IGN, action.sa_handler == SIG_DFL);
  for (int i = 1; i < argc; i++)
    printf(" %s", argv[i]);
  printf("\n");
  return 7;
}
