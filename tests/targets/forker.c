// Forks on command. Reads lines from stdin: "fork N" makes a child that calls traced() N times and then waits for its
// parent's end; "call N" calls traced() N times here; "quit" ends. Answers "child PID called N sum S", "called N sum S".
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <signal.h>

__attribute__((noinline)) int traced(int n) {
  volatile int one = 1;
  return n + one;
}

// A semaphore as USDT probes have them; "listeners" prints it.
volatile unsigned short listeners __attribute__((section(".data"))) = 0;

int main(void) {
  char line[64];
  printf("ready %d\n", getpid());
  fflush(stdout);
  pid_t children[64];
  int count = 0;
  while (fgets(line, sizeof(line), stdin) != NULL) {
    int n = 0;
    if (sscanf(line, "fork %d", &n) == 1 && count < 64) {
      // The child calls n times at once, says so, then waits to be killed.
      pid_t pid = fork();
      if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int sum = 0;
        for (int i = 0; i < n; i++) {
          sum += traced(i);
        }
        printf("child %d called %d sum %d\n", getpid(), n, sum);
        fflush(stdout);
        for (;;) {
          pause();
        }
      }
      children[count++] = pid;
    } else if (sscanf(line, "call %d", &n) == 1) {
      int sum = 0;
      for (int i = 0; i < n; i++) {
        sum += traced(i);
      }
      printf("called %d sum %d\n", n, sum);
    } else if (strcmp(line, "listeners\n") == 0) {
      printf("listeners %d\n", listeners);
    } else if (strcmp(line, "quit\n") == 0) {
      break;
    }
    fflush(stdout);
  }
  for (int i = 0; i < count; i++) {
    kill(children[i], SIGKILL);
    waitpid(children[i], NULL, 0);
  }
  return 0;
}
