// hostile: a target that does what no decent program does, on command; each line is answered by one.
//   call N          calls traced() N times                 "called N sum S"
//   scribble NAME   random bytes over the writable mappings whose name has NAME in it ("table": the site table)
//   daemon N        forks a child that closes every descriptor from 3 on and then calls traced() N times
//   closeall        closes every descriptor from 3 on      garbage N   packets of nonsense into every socket
//   handler, fault  installs a SIGSEGV handler; faults and comes back through it
//   linger          faults; the handler says so, waits for a line and returns   "lingered"
//   default         SIGSEGV's action to the default        action      says what sigaction() finds
//   rawaction, rawhandler   the same two past libc
//   block           blocks every signal                    unshare, undumpable, stop, exec
//   onstack N BYTES calls traced() N times from a handler on an alternate stack of BYTES
//   jump N          leaves traced() by siglongjmp from a timer's handler, N times
//   vfork N, spawn N   N children that run /bin/true       threads N   N threads that call traced() until they all did
// first argument "early": installs the SIGSEGV handler before it says "ready"; "headless": the main thread ends first.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;
static char self[4096];

__attribute__((noinline)) int traced(int n) {
  volatile int one = 1;
  return n + one;
}

static int calls(int n) {
  int sum = 0;
  for (int i = 0; i < n; i++) {
    sum += traced(i);
  }
  return sum;
}

static sigjmp_buf back;
static volatile int faults;
static char* volatile nowhere = (char*)24;

static char* volatile guarded;  // a page that may not be touched until the handler says so

static void linger(void) {
  static const char kSaid[] = "in the handler\n";
  (void)!write(1, kSaid, sizeof(kSaid) - 1);
  for (char byte = 0; byte != '\n' && read(0, &byte, 1) == 1;) {
  }
  mprotect(guarded, 4096, PROT_READ | PROT_WRITE);
}

static void on_fault(int signo, siginfo_t* info, void* context) {
  (void)signo;
  (void)context;
  if (guarded != NULL && info->si_addr == guarded) {
    linger();
    return;
  }
  faults += info->si_addr == (void*)24;
  siglongjmp(back, 1);
}

static void on_fault_ignored(int signo) { (void)signo; }

static void set_handler(void) {
  struct sigaction action;
  memset(&action, 0, sizeof(action));
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, NULL);
}

// The kernel's own table, past libc: what rt_sigaction(2) says, or takes.
struct kernel_action {
  void* handler;
  unsigned long flags;
  void* restorer;
  unsigned long mask;
};
static const char* raw_action(void) {
  struct kernel_action now;
  syscall(SYS_rt_sigaction, SIGSEGV, NULL, &now, 8);
  return now.handler == NULL ? "default" : now.handler == (void*)on_fault ? "ours" : "another's";
}
static void set_raw_handler(void) {
  struct kernel_action action;
  signal(SIGUSR2, on_fault_ignored);  // for libc's flags and way back
  syscall(SYS_rt_sigaction, SIGUSR2, NULL, &action, 8);
  action.handler = (void*)on_fault;
  action.flags |= SA_SIGINFO;
  syscall(SYS_rt_sigaction, SIGSEGV, &action, NULL, 8);
}

static volatile int sum_on_stack;
static int calls_on_stack;
static void on_stack(int signo) {
  (void)signo;
  sum_on_stack = calls(calls_on_stack);
}

static sigjmp_buf out;
static void on_timer(int signo) {
  (void)signo;
  siglongjmp(out, 1);
}

// Xorshift: the same nonsense each time.
static uint64_t nonsense = 88172645463325252ULL;
static uint64_t next(void) {
  nonsense ^= nonsense << 13;
  nonsense ^= nonsense >> 7;
  return nonsense ^= nonsense << 17;
}

static int scribble(const char* name) {
  FILE* maps = fopen("/proc/self/maps", "re");
  char line[4352];
  int count = 0;
  while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
    unsigned long begin = 0, end = 0;
    char prot[8] = "";
    if (sscanf(line, "%lx-%lx %7s", &begin, &end, prot) != 3 || prot[1] != 'w' ||
        strstr(line, name) == NULL) {
      continue;
    }
    // The whole arena is 64 MB of address space: what is in use lies in front of each of its parts.
    for (unsigned long at = begin; at < end; at += 4096) {
      unsigned char resident = 0;
      if (mincore((void*)at, 4096, &resident) == 0 && (resident & 1) != 0) {
        for (int i = 0; i < 512; i++) {
          ((uint64_t*)at)[i] = next();
        }
        count++;
      }
    }
  }
  if (maps != NULL) {
    fclose(maps);
  }
  return count;
}

static int garbage(int rounds) {
  int sent = 0;
  for (int fd = 3; fd < 65536; fd++) {
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISSOCK(st.st_mode)) {
      continue;
    }
    for (int i = 0; i < rounds; i++) {
      char bytes[2048];
      for (size_t n = 0; n < sizeof(bytes) / 8; n++) {
        ((uint64_t*)bytes)[n] = next();
      }
      if (i % 3 != 0) {  // what the agent says, nearly
        ((uint32_t*)bytes)[0] = 0x74667062;
        ((uint32_t*)bytes)[1] = i % 7;
      }
      struct iovec iov = {bytes, i % 5 == 0 ? 0 : next() % sizeof(bytes)};
      union {
        struct cmsghdr head;
        char room[CMSG_SPACE(4 * sizeof(int))];
      } control;
      memset(&control, 0, sizeof(control));
      struct msghdr message;
      memset(&message, 0, sizeof(message));
      message.msg_iov = &iov;
      message.msg_iovlen = 1;
      message.msg_control = &control;
      message.msg_controllen = CMSG_SPACE(4 * sizeof(int));
      control.head.cmsg_level = SOL_SOCKET;
      control.head.cmsg_type = SCM_RIGHTS;
      control.head.cmsg_len = CMSG_LEN(4 * sizeof(int));
      const int fds[4] = {0, 1, 2, 0};
      memcpy(CMSG_DATA(&control.head), fds, sizeof(fds));
      sent += sendmsg(fd, &message, MSG_NOSIGNAL) >= 0;
    }
  }
  return sent;
}

static void* in_thread(void* argument) { return (void*)(intptr_t)calls((int)(intptr_t)argument); }

static void* serve(void* unused) {
  printf("ready %d\n", getpid());
  fflush(stdout);
  char line[128], name[64];
  while (fgets(line, sizeof(line), stdin) != NULL) {
    int n = 0, bytes = 0;
    if (sscanf(line, "call %d", &n) == 1) {
      printf("called %d sum %d\n", n, calls(n));
    } else if (sscanf(line, "scribble %63s", name) == 1) {
      printf("scribbled %d\n", scribble(name));
    } else if (sscanf(line, "garbage %d", &n) == 1) {
      printf("sent %d\n", garbage(n));
    } else if (sscanf(line, "daemon %d", &n) == 1) {
      const pid_t child = fork();
      if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        syscall(SYS_close_range, 3, ~0U, 0);
        printf("daemon %d sum %d\n", getpid(), calls(n));
        fflush(stdout);
        for (;;) {
          pause();
        }
      }
      continue;
    } else if (strncmp(line, "closeall", 8) == 0) {
      printf("closed %ld\n", syscall(SYS_close_range, 3, ~0U, 0));
    } else if (strncmp(line, "handler", 7) == 0) {
      set_handler();
      printf("handler set\n");
    } else if (strncmp(line, "default", 7) == 0) {
      signal(SIGSEGV, SIG_DFL);
      printf("default set\n");
    } else if (strncmp(line, "rawaction", 9) == 0) {
      printf("raw action is %s\n", raw_action());
    } else if (strncmp(line, "rawhandler", 10) == 0) {
      set_raw_handler();
      printf("raw handler set\n");
    } else if (strncmp(line, "action", 6) == 0) {
      struct sigaction action;
      sigaction(SIGSEGV, NULL, &action);
      printf("action is %s\n", action.sa_handler == SIG_DFL      ? "default"
                               : action.sa_handler == SIG_IGN    ? "ignore"
                               : action.sa_sigaction == on_fault ? "ours"
                                                                 : "foreign");
    } else if (strncmp(line, "linger", 6) == 0) {
      guarded = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      *(volatile char*)guarded = 1;
      printf("lingered\n");
    } else if (strncmp(line, "fault", 5) == 0) {
      const int before = faults;
      if (sigsetjmp(back, 1) == 0) {
        *(volatile char*)nowhere = 1;
      }
      printf("faulted %d\n", faults - before);
    } else if (strncmp(line, "block", 5) == 0) {
      sigset_t all;
      sigfillset(&all);
      sigprocmask(SIG_BLOCK, &all, NULL);
      printf("blocked\n");
    } else if (strncmp(line, "unshare", 7) == 0) {
      printf("unshare %s\n", unshare(CLONE_NEWUSER) == 0 ? "ok" : strerror(errno));
    } else if (strncmp(line, "undumpable", 10) == 0) {
      printf("undumpable %d\n", prctl(PR_SET_DUMPABLE, 0));
    } else if (strncmp(line, "dumpable", 8) == 0) {
      printf("dumpable %d\n", prctl(PR_SET_DUMPABLE, 1));
    } else if (strncmp(line, "stop", 4) == 0) {
      raise(SIGSTOP);
      printf("continued\n");
    } else if (strncmp(line, "exec", 4) == 0) {
      execl(self, self, (char*)NULL);
      return NULL;
    } else if (sscanf(line, "onstack %d %d", &n, &bytes) == 2) {
      static char small[65536];
      stack_t stack = {.ss_sp = small, .ss_size = (size_t)bytes};
      struct sigaction action;
      memset(&action, 0, sizeof(action));
      action.sa_handler = on_stack;
      action.sa_flags = SA_ONSTACK;
      calls_on_stack = n;
      sum_on_stack = -1;
      const int failed = sigaltstack(&stack, NULL) != 0 || sigaction(SIGUSR1, &action, NULL) != 0 ||
                         raise(SIGUSR1) != 0;
      printf("onstack %d sum %d\n", failed, sum_on_stack);
    } else if (sscanf(line, "jump %d", &n) == 1) {
      struct sigaction action;
      memset(&action, 0, sizeof(action));
      action.sa_handler = on_timer;
      sigaction(SIGALRM, &action, NULL);
      volatile int jumps = 0;
      while (jumps < n) {
        if (sigsetjmp(out, 1) == 0) {
          struct itimerval soon = {{0, 0}, {0, 50 + (int)(next() % 200)}};
          setitimer(ITIMER_REAL, &soon, NULL);
          for (;;) {
            traced(1);
          }
        }
        jumps = jumps + 1;
      }
      printf("jumped %d\n", jumps);
    } else if (sscanf(line, "vfork %d", &n) == 1 || sscanf(line, "spawn %d", &n) == 1) {
      volatile int good = 0;
      for (volatile int i = 0; i < n; i = i + 1) {
        pid_t child = 0;
        char* arguments[] = {"/bin/true", NULL};
        if (line[0] == 'v') {
          child = vfork();
          if (child == 0) {
            traced(i);
            execv("/bin/true", arguments);
            _exit(127);
          }
        } else if (posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) != 0) {
          continue;
        }
        int status = -1;
        good = good + (waitpid(child, &status, 0) == child && status == 0);
      }
      printf("children %d\n", good);
    } else if (sscanf(line, "threads %d", &n) == 1) {
      pthread_t* threads = calloc((size_t)n, sizeof(*threads));
      pthread_attr_t small;
      pthread_attr_init(&small);
      pthread_attr_setstacksize(&small, 65536);
      int made = 0;
      long sum = 0;
      for (;
           made < n && pthread_create(&threads[made], &small, in_thread, (void*)(intptr_t)100) == 0;
           made++) {
      }
      for (int i = 0; i < made; i++) {
        void* result = NULL;
        pthread_join(threads[i], &result);
        sum += (long)(intptr_t)result;
      }
      free(threads);
      printf("threads %d sum %ld\n", made, sum);
    } else if (strncmp(line, "quit", 4) == 0) {
      break;
    } else {
      printf("what?\n");
    }
    fflush(stdout);
  }
  exit(0);
  return unused;
}

int main(int argc, char** argv) {
  if (readlink("/proc/self/exe", self, sizeof(self) - 1) <= 0) {
    return 1;
  }
  if (argc > 1 && strcmp(argv[1], "early") == 0) {
    set_handler();
  }
  if (argc > 1 && strcmp(argv[1], "headless") == 0) {
    pthread_t other;
    pthread_create(&other, NULL, serve, NULL);
    pthread_exit(NULL);
  }
  serve(NULL);
}
