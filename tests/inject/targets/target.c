// The process that tests work on: `target MODE [N]`. Prints "ready\n" when it is in place; ends when its standard
// input closes (a test that dies leaves nothing behind), printing what it saw. Also built static, and with musl.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_int stop_all;
static atomic_long errors, counted, created, signals;

static void fail(const char* what) {
  printf("FAIL %s errno %d\n", what, errno);
  fflush(stdout);
  atomic_fetch_add(&errors, 1);
}

static void* spin(void* unused) {
  (void)unused;
  while (!atomic_load_explicit(&stop_all, memory_order_relaxed)) {
    counted++;
  }
  return 0;
}

static void* allocate(void* unused) {
  (void)unused;
  unsigned seed = 1;
  void* blocks[64] = {0};
  while (!stop_all) {
    seed = seed * 1103515245 + 12345;
    unsigned i = (seed >> 8) % 64;
    free(blocks[i]);
    blocks[i] = malloc((seed >> 16) % 5000 + 1);
    memset(blocks[i], (int)i, 1);
    counted++;
  }
  for (int i = 0; i < 64; i++)
    free(blocks[i]);
  return 0;
}

// A server whom everybody wants something of: what it waits for is always there already. Each answer must be right.
static void* serve(void* unused) {
  (void)unused;
  int ends[2], ep = epoll_create1(EPOLL_CLOEXEC);
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
    fail("socketpair");
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 4711};
  epoll_ctl(ep, EPOLL_CTL_ADD, ends[0], &event);
  unsigned char wrote = 0, got = 0;
  void* blocks[16] = {0};
  while (!stop_all) {
    errno = 77;
    wrote++;
    if (write(ends[1], &wrote, 1) != 1)
      fail("write");
    struct epoll_event ready = {0};
    if (epoll_wait(ep, &ready, 1, -1) != 1 || ready.data.u64 != 4711)
      fail("epoll_wait");
    if (read(ends[0], &got, 1) != 1 || got != wrote || errno != 77)
      fail("read");
    free(blocks[got % 16]);
    blocks[got % 16] = malloc(got * 16 + 1);
    counted++;
  }
  for (int i = 0; i < 16; i++)
    free(blocks[i]);
  return 0;
}

// One kind of waiting each; none may ever see EINTR or come back early.
static int fds[2], sock[2];
static uint32_t futex_word;
static uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
static void* wait_some_way(void* kind) {
  double vectors = 3.25;
  int ep = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  while (!stop_all) {
    uint64_t begun = now_ms();
    long result = 0, want = 0;
    int least = 30;
    errno = 77;
    double before = vectors;
    __asm__ volatile("" : "+x"(before));
    switch ((intptr_t)kind) {
      case 0: {
        struct timespec t = {0, 30000000};
        result = nanosleep(&t, 0);
        break;
      }
      case 1: {
        struct pollfd p = {fds[0], POLLIN, 0};
        result = poll(&p, 1, 30);
        break;
      }
      case 2:
        result = epoll_wait(ep, &event, 1, 30);
        break;
      case 3: {
        struct timespec t = {0, 30000000};
        register struct timespec* limit __asm__("r10") = &t;  // as libc's own code calls it
        __asm__ volatile("mov $202, %%eax\n\tsyscall"
                         : "=a"(result)
                         : "D"(&futex_word), "S"(0L), "d"(0L), "r"(limit)
                         : "rcx", "r11", "memory");
        if (result == -ETIMEDOUT)
          result = 0;
        break;
      }
      case 4: {
        struct timeval t = {0, 30000};
        result = select(0, 0, 0, 0, &t);
        break;
      }
      case 5: {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR2);
        struct timespec t = {0, 30000000};
        result = sigtimedwait(&set, 0, &t);
        if (result == -1 && errno == EAGAIN)
          result = 0, errno = 77;
        break;
      }
      case 6: {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += 30000000;
        if (t.tv_nsec >= 1000000000)
          t.tv_nsec -= 1000000000, t.tv_sec++;
        result = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0);
        break;
      }
      case 7: {  // SO_RCVTIMEO
        char c;
        result = recv(sock[0], &c, 1, 0);
        if (result == -1 && errno == EAGAIN)
          result = 0, errno = 77;
        break;
      }
    }
    __asm__ volatile("" : "+x"(before));
    if (before != vectors)
      fail("vector register");
    if (result != want || errno != 77) {
      printf("kind %ld result %ld ", (long)(intptr_t)kind, result);
      fail("wait");
    }
    if (now_ms() + 3 < begun + (uint64_t)least)
      fail("early");
    counted++;
  }
  close(ep);
  return 0;
}

static void on_signal(int signal, siginfo_t* info, void* context) {
  (void)signal;
  (void)context;
  if (info->si_code != SI_QUEUE || info->si_value.sival_int != 4711)
    atomic_fetch_add(&errors, 1);
  atomic_fetch_add(&signals, 1);
}

static void* come_and_go(void* unused) {
  (void)unused;
  return 0;
}
static void* churn(void* unused) {
  (void)unused;
  while (!stop_all) {
    pthread_t thread;
    if (pthread_create(&thread, 0, come_and_go, 0) != 0) {
      fail("pthread_create");
      continue;
    }
    created++;
    pthread_join(thread, 0);
  }
  return 0;
}

static void wait_for_end(int busily) {
  char c;
  if (busily) {  // never waiting in a call, nor in one that could wait
    fcntl(0, F_SETFL, O_NONBLOCK);
    struct iovec to = {&c, 1};
    while (syscall(SYS_preadv2, 0, &to, 1, -1L, -1L, 0) != 0)
      counted++;
    stop_all = 1;
    return;
  }
  for (;;) {
    ssize_t got = read(0, &c, 1);
    if (got == 0)
      break;
    if (got < 0 && errno != EINTR)
      break;
    if (got < 0)
      fail("read EINTR");
  }
  stop_all = 1;
}

static void on_io(int number) {
  (void)number;
  signals++;
}

// As a server's master process waits: returns only for a signal, which comes only at the end of the input. The mask
// must be what it was before.
static void suspend_until_end(void) {
  sigset_t io, none, now;
  sigemptyset(&none);
  sigemptyset(&io);
  sigaddset(&io, SIGIO);
  sigprocmask(SIG_BLOCK, &io, 0);
  struct sigaction action = {.sa_handler = on_io};
  sigaction(SIGIO, &action, 0);
  fcntl(0, F_SETOWN, getpid());
  fcntl(0, F_SETFL, O_NONBLOCK | O_ASYNC);
  printf("ready\n");
  fflush(stdout);
  char c;
  while (read(0, &c, 1) != 0) {
    long before = signals;
    if (sigsuspend(&none) != -1 || errno != EINTR || signals == before)
      fail("sigsuspend");
    sigprocmask(SIG_SETMASK, 0, &now);
    if (!sigismember(&now, SIGIO) || sigismember(&now, SIGUSR1))
      fail("mask");
  }
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "spin";
  int n = argc > 2 ? atoi(argv[2]) : 1;
  pthread_t threads[1100];
  int count = 0;
  void* (*body)(void*) = 0;
  if (pipe(fds) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, sock) != 0)
    return 2;
  struct timeval timeout = {0, 30000};
  setsockopt(sock[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  if (strcmp(mode, "spin") == 0)
    body = spin;
  if (strcmp(mode, "malloc") == 0 || strcmp(mode, "malloc-busy") == 0)
    body = allocate;
  if (strcmp(mode, "churn") == 0)
    body = churn;
  if (strcmp(mode, "serve-busy") == 0)
    body = serve;
  if (strcmp(mode, "wait") == 0) {
    body = wait_some_way;
    n = 8;
  }
  if (strcmp(mode, "signals") == 0) {
    struct sigaction action = {0};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
      sigaction(s, &action, 0);
    body = spin;
  }
  if (strcmp(mode, "dead-main") == 0) {
    pthread_create(&threads[0], 0, spin, 0);
    printf("ready\n");
    fflush(stdout);
    pthread_detach(threads[0]);
    pthread_exit(0);
  }
  if (strcmp(mode, "vfork") == 0) {
    printf("ready\n");
    fflush(stdout);
    char c;
    if (vfork() == 0) {
      while (read(0, &c, 1) > 0) {
      }
      _exit(0);
    }
    return 0;
  }
  if (strcmp(mode, "idle") == 0) {
    printf("ready\n");
    fflush(stdout);
    struct pollfd p = {0, POLLIN, 0};
    while (poll(&p, 1, -1) < 0)
      fail("poll");
    printf("errors %ld counted %ld signals %ld\n", errors, counted, signals);
    return errors != 0;
  }
  if (strcmp(mode, "sigsuspend") == 0) {
    suspend_until_end();
    printf("errors %ld counted %ld signals %ld\n", errors, counted, signals);
    return errors != 0;
  }
  for (; body != 0 && count < n; count++) {
    if (pthread_create(&threads[count], 0, body, (void*)(intptr_t)count) != 0)
      return 3;
  }
  printf("ready\n");
  fflush(stdout);
  wait_for_end(strstr(mode, "-busy") != 0);
  for (int i = 0; i < count; i++)
    pthread_join(threads[i], 0);
  printf("errors %ld counted %ld signals %ld\n", errors, counted, signals);
  return errors != 0;
}
