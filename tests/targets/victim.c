// The victim: N threads (default 4) that each call malloc and free, and work(), a hundred times every millisecond.
// Prints "ready PID" when all run. On SIGTERM prints "calls malloc=N work=N wrong=N" and exits 0; wrong counts
// results of work() that were not right.
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static atomic_ulong mallocs, works, wrong;
static atomic_int stop;

__attribute__((noinline)) unsigned long work(unsigned long a, unsigned long b) {
  __asm__ volatile("" : "+r"(a), "+r"(b));
  return a * 3 + b;
}

static void* run(void* arg) {
  unsigned long n = (unsigned long)arg;
  struct timespec pause = {0, 1000000};
  while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
    for (int i = 0; i < 100; i++) {
      void* volatile p = malloc(16 + n % 512);
      free(p);
      if (work(n, i) != n * 3 + i) {
        atomic_fetch_add(&wrong, 1);
      }
      n++;
    }
    atomic_fetch_add(&mallocs, 100);
    atomic_fetch_add(&works, 100);
    nanosleep(&pause, NULL);
  }
  return NULL;
}

int main(int argc, char** argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 4;
  if (threads < 1 || threads > 1024) {
    return 2;
  }
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  pthread_t* ids = calloc(threads, sizeof(*ids));
  for (int i = 0; i < threads; i++) {
    if (pthread_create(&ids[i], NULL, run, (void*)(unsigned long)i) != 0) {
      return 1;
    }
  }
  printf("ready %d\n", getpid());
  fflush(stdout);
  int signal = 0;
  sigwait(&set, &signal);
  atomic_store(&stop, 1);
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
  }
  printf("calls malloc=%lu work=%lu wrong=%lu\n", atomic_load(&mallocs), atomic_load(&works),
         atomic_load(&wrong));
  free(ids);
  return 0;
}
