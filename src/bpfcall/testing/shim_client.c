// A small loader that shim_test runs under the shim: `shim_client CASE`. Plain C and raw calls. Exits 0 when all is
// as it should be, else with the line of the first thing that was not.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failed_at(int line, const char* what) {
  fprintf(stderr, "line %d: %s (errno %d)\n", line, what, errno);
  return 1;
}
#define EXPECT(condition)                     \
  do {                                        \
    errno = 0;                                \
    if (!(condition)) {                       \
      return failed_at(__LINE__, #condition); \
    }                                         \
  } while (0)
#define EXPECT_ERROR(call, code) EXPECT((call) == -1 && errno == (code))

static long bpf(int command, union bpf_attr* attr, unsigned size) {
  return syscall(SYS_bpf, command, attr, size);
}
static int make_map(int type, unsigned value_size, unsigned entries, unsigned flags) {
  union bpf_attr attr = {.map_type = (unsigned)type,
                         .key_size = 4,
                         .value_size = value_size,
                         .max_entries = entries,
                         .map_flags = flags};
  return (int)bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
}
static long element(int command, int map, const void* key, const void* value, uint64_t flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_fd = (unsigned)map;
  attr.key = (uintptr_t)key;
  attr.value = (uintptr_t)value;
  attr.flags = flags;
  return bpf(command, &attr, 32);
}

static int elements(void) {
  int map = make_map(BPF_MAP_TYPE_HASH, 8, 100, 0);
  EXPECT(map >= 0);
  EXPECT((fcntl(map, F_GETFD) & FD_CLOEXEC) != 0);
  uint32_t key = 1;
  uint64_t value = 11;
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0), ENOENT);
  EXPECT(element(BPF_MAP_UPDATE_ELEM, map, &key, &value, BPF_NOEXIST) == 0);
  EXPECT_ERROR(element(BPF_MAP_UPDATE_ELEM, map, &key, &value, BPF_NOEXIST), EEXIST);
  value = 0;
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0) == 0 && value == 11);
  uint32_t next = 0;
  EXPECT(element(BPF_MAP_GET_NEXT_KEY, map, NULL, &next, 0) == 0 && next == 1);
  EXPECT_ERROR(element(BPF_MAP_GET_NEXT_KEY, map, &key, &next, 0), ENOENT);
  EXPECT(element(BPF_MAP_DELETE_ELEM, map, &key, NULL, 0) == 0);
  EXPECT_ERROR(element(BPF_MAP_DELETE_ELEM, map, &key, NULL, 0), ENOENT);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, -1, &key, &value, 0), EBADF);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, 0, &key, &value, 0), EINVAL);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 1), EINVAL);
  return 0;
}

static int bad_pointers(void) {
  int map = make_map(BPF_MAP_TYPE_HASH, 8, 100, 0);
  uint32_t key = 1;
  uint64_t value = 11;
  EXPECT(element(BPF_MAP_UPDATE_ELEM, map, &key, &value, 0) == 0);
  for (int round = 0; round < 3; round++) {
    EXPECT_ERROR(bpf(BPF_MAP_LOOKUP_ELEM, NULL, 32), EFAULT);
    EXPECT_ERROR(bpf(BPF_MAP_CREATE, (void*)0x1000, 72), EFAULT);
    EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, (void*)8, &value, 0), EFAULT);
    EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, &key, NULL, 0), EFAULT);
    EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, &key, (void*)~0ULL, 0), EFAULT);
    EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, &key, (void*)0xffffffff81000000, 0), EFAULT);
    EXPECT_ERROR(element(BPF_MAP_UPDATE_ELEM, map, &key, (void*)1, 0), EFAULT);
  }
  // A page that was good and is no more.
  char* page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 3; i++) {
    EXPECT(element(BPF_MAP_LOOKUP_ELEM, map, &key, page, 0) == 0);
  }
  mprotect(page, 4096, PROT_READ);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, &key, page, 0), EFAULT);
  EXPECT(element(BPF_MAP_UPDATE_ELEM, map, &key, page, 0) == 0);
  munmap(page, 4096);
  EXPECT_ERROR(element(BPF_MAP_UPDATE_ELEM, map, &key, page, 0), EFAULT);
  // A value that ends behind the last page.
  page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(page + 4096, 4096);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, map, &key, page + 4088, 0) == 0);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, &key, page + 4089, 0), EFAULT);
  // An attr at the end of a page, with less than a whole union bpf_attr behind it.
  union bpf_attr attr = {
      .map_fd = (unsigned)map, .key = (uintptr_t)&key, .value = (uintptr_t)&value};
  memcpy(page + 4096 - 32, &attr, 32);
  EXPECT(bpf(BPF_MAP_LOOKUP_ELEM, (void*)(page + 4096 - 32), 32) == 0);
  EXPECT_ERROR(bpf(BPF_MAP_LOOKUP_ELEM, (void*)(page + 4096 - 32), 33), EFAULT);
  return 0;
}

static int tails(void) {
  int map = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0);
  uint32_t key = 1;
  uint64_t value = 11;
  char room[8192] = {0};
  union bpf_attr attr = {
      .map_fd = (unsigned)map, .key = (uintptr_t)&key, .value = (uintptr_t)&value};
  memcpy(room, &attr, sizeof(attr));
  EXPECT(bpf(BPF_MAP_LOOKUP_ELEM, (void*)room, 4096) == 0);
  EXPECT_ERROR(bpf(BPF_MAP_LOOKUP_ELEM, (void*)room, 4097), E2BIG);
  room[4095] = 1;
  EXPECT_ERROR(bpf(BPF_MAP_LOOKUP_ELEM, (void*)room, 4096), E2BIG);
  EXPECT_ERROR(bpf(BPF_MAP_CREATE, (void*)room, 4096), E2BIG);
  EXPECT(bpf(BPF_MAP_LOOKUP_ELEM, (void*)room, 4095) == 0);
  room[40] = 1;
  EXPECT_ERROR(bpf(BPF_MAP_LOOKUP_ELEM, (void*)room, 64), EINVAL);
  EXPECT(bpf(BPF_MAP_LOOKUP_ELEM, (void*)room, 40) == 0);
  // A short attr: what is missing is zero.
  EXPECT_ERROR(bpf(BPF_MAP_LOOKUP_ELEM, (void*)room, 4), EFAULT);
  EXPECT_ERROR(bpf(BPF_MAP_LOOKUP_ELEM, (void*)room, 0), EINVAL);
  return 0;
}

static int numbers(void) {
  int map = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0);
  int other = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0);
  uint32_t key = 0;
  uint64_t one = 1, two = 2, value = 0;
  EXPECT(element(BPF_MAP_UPDATE_ELEM, map, &key, &one, 0) == 0);
  EXPECT(element(BPF_MAP_UPDATE_ELEM, other, &key, &two, 0) == 0);
  int copy = dup(map);
  int high = fcntl(map, F_DUPFD_CLOEXEC, 200);
  EXPECT(copy >= 0 && high >= 200);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, copy, &key, &value, 0) == 0 && value == 1);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, high, &key, &value, 0) == 0 && value == 1);
  EXPECT(dup2(other, copy) == copy);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, copy, &key, &value, 0) == 0 && value == 2);
  EXPECT(dup3(map, copy, O_CLOEXEC) == copy);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, copy, &key, &value, 0) == 0 && value == 1);
  EXPECT(dup2(other, copy) == copy && close(other) == 0);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, other, &key, &value, 0), EBADF);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, copy, &key, &value, 0) == 0 && value == 2);
  int file = open("/dev/null", O_RDONLY);
  EXPECT(file == other);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, file, &key, &value, 0), EINVAL);
  EXPECT(syscall(SYS_dup2, map, file) == file);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, file, &key, &value, 0) == 0 && value == 1);
  EXPECT(syscall(SYS_close, file) == 0);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, file, &key, &value, 0), EBADF);
  // A loader that closes everything it can think of does not lose the broker.
  EXPECT(close_range(3, ~0U, 0) == 0);
  EXPECT_ERROR(element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0), EBADF);
  for (int fd = 3; fd < 4096; fd++) {
    close(fd);
  }
  for (int fd = 3; fd < 1020; fd++) {
    EXPECT(dup2(1, fd) == fd);
  }
  for (int fd = 3; fd < 1020; fd++) {
    EXPECT(close(fd) == 0);
  }
  map = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0);
  EXPECT(map == 3);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0) == 0 && value == 0);
  return 0;
}

static int frozen(void) {
  int map = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, BPF_F_RDONLY_PROG | BPF_F_MMAPABLE);
  uint32_t key = 0;
  uint64_t value = 5;
  EXPECT(element(BPF_MAP_UPDATE_ELEM, map, &key, &value, 0) == 0);
  union bpf_attr attr = {.map_fd = (unsigned)map};
  EXPECT(bpf(BPF_MAP_FREEZE, &attr, 4) == 0);
  EXPECT_ERROR(element(BPF_MAP_UPDATE_ELEM, map, &key, &value, 0), EPERM);
  value = 0;
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0) == 0 && value == 5);
  EXPECT_ERROR((long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0), EPERM);
  uint64_t* values = mmap(NULL, 4096, PROT_READ, MAP_SHARED, map, 0);
  EXPECT(values != MAP_FAILED && values[0] == 5);
  EXPECT_ERROR(mprotect(values, 4096, PROT_READ | PROT_WRITE), EACCES);
  return 0;
}

static int mapped(void) {
  int map = make_map(BPF_MAP_TYPE_ARRAY, 5, 1000, BPF_F_MMAPABLE);
  uint32_t key = 3;
  uint64_t value = 0x0504030201;
  EXPECT(element(BPF_MAP_UPDATE_ELEM, map, &key, &value, 0) == 0);
  uint64_t* values = mmap(NULL, 8000, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
  EXPECT(values != MAP_FAILED && values[3] == 0x0504030201);
  values[4] = 77;
  key = 4;
  value = 0;
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0) == 0 && value == 77);
  EXPECT(mmap(NULL, 4096, PROT_READ, MAP_SHARED, map, 4096) != MAP_FAILED);
  EXPECT_ERROR((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, map, 8192), EINVAL);
  EXPECT_ERROR((long)mmap(NULL, 8193, PROT_READ, MAP_SHARED, map, 0), EINVAL);
  EXPECT_ERROR((long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, map, 0), EINVAL);
  int plain = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0);
  EXPECT_ERROR((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, plain, 0), EINVAL);
  int hash = make_map(BPF_MAP_TYPE_HASH, 8, 4, 0);
  EXPECT_ERROR((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, hash, 0), 524);
  // Over a mapping that is there, as libbpf does; the number may be closed afterwards.
  void* fixed = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT(mmap(fixed, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, map, 0) == fixed);
  EXPECT(close(map) == 0);
  EXPECT(((volatile uint64_t*)fixed)[4] == 77);
  // Other files are mapped as ever.
  int file = open("/proc/self/exe", O_RDONLY);
  EXPECT(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0) != MAP_FAILED);
  return 0;
}

static int programs(void) {
  struct bpf_insn insns[] = {{.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 1, .src_reg = 1},
                             {0},
                             {.code = BPF_ALU64 | BPF_MOV | BPF_K},
                             {.code = BPF_JMP | BPF_EXIT}};
  int map = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0);
  insns[0].imm = map;
  char log[64] = "";
  union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_KPROBE,
                         .insns = (uintptr_t)insns,
                         .insn_cnt = 4,
                         .license = (uintptr_t)"GPL",
                         .log_level = 1,
                         .log_size = sizeof(log),
                         .log_buf = (uintptr_t)log};
  int prog = (int)bpf(BPF_PROG_LOAD, &attr, 144);
  EXPECT(prog >= 0 && strcmp(log, "a log line\n") == 0);
  memset(log, 0, sizeof(log));
  attr.log_size = 4;
  attr.prog_type = 999;
  EXPECT_ERROR(bpf(BPF_PROG_LOAD, &attr, 144), EACCES);
  EXPECT(memcmp(log, "a lo\0", 5) == 0);
  attr.log_size = 64;
  attr.insn_cnt = 0;
  EXPECT_ERROR(bpf(BPF_PROG_LOAD, &attr, 144), E2BIG);
  attr.insn_cnt = ~0U;
  EXPECT_ERROR(bpf(BPF_PROG_LOAD, &attr, 144), E2BIG);
  attr.insn_cnt = 900000;
  EXPECT_ERROR(bpf(BPF_PROG_LOAD, &attr, 144), EFAULT);
  attr.insn_cnt = 4;
  attr.license = 0;
  EXPECT_ERROR(bpf(BPF_PROG_LOAD, &attr, 144), EFAULT);

  struct bpf_map_info info;
  memset(&info, 0, sizeof(info));
  attr = (union bpf_attr){
      .info = {.bpf_fd = (unsigned)map, .info_len = sizeof(info), .info = (uintptr_t)&info}};
  EXPECT(bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, 16) == 0);
  EXPECT(info.max_entries == 4 && info.value_size == 8 && attr.info.info_len == sizeof(info));
  attr.info.info_len = 12;
  EXPECT(bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, 16) == 0 && attr.info.info_len == 12);
  attr = (union bpf_attr){.start_id = 0};
  EXPECT(bpf(BPF_MAP_GET_NEXT_ID, &attr, 12) == 0 && attr.next_id == 1);
  memset(&attr, 0, sizeof(attr));
  attr.test.prog_fd = (unsigned)prog;
  EXPECT(bpf(BPF_PROG_TEST_RUN, &attr, 80) == 0 && attr.test.retval == 42 &&
         attr.test.duration == 7);
  memset(&attr, 0, sizeof(attr));
  attr.link_create.prog_fd = (unsigned)prog;
  attr.link_create.target_fd = (unsigned)-1;
  attr.link_create.attach_type = BPF_PERF_EVENT;
  EXPECT_ERROR(bpf(BPF_LINK_CREATE, &attr, 48), EBADF);
  EXPECT_ERROR(bpf(0x7777, &attr, 48), EINVAL);

  struct perf_event_attr event = {
      .type = 8, .size = sizeof(event), .config1 = (uintptr_t)"/proc/self/exe", .config2 = 64};
  int perf = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
  EXPECT(perf >= 0 && (fcntl(perf, F_GETFD) & FD_CLOEXEC) != 0);
  int open_over_exec = (int)syscall(SYS_perf_event_open, &event, -1, 0, -1, 0);
  EXPECT(open_over_exec >= 0 && (fcntl(open_over_exec, F_GETFD) & FD_CLOEXEC) == 0);
  EXPECT(ioctl(perf, PERF_EVENT_IOC_SET_BPF, prog) == 0);
  EXPECT(ioctl(perf, PERF_EVENT_IOC_ENABLE, 0) == 0);
  event.config1 = (uintptr_t)"/nonexistent/file";
  EXPECT_ERROR(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0), ENOENT);
  event.config1 = (uintptr_t)"/tmp";
  EXPECT_ERROR(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0), EINVAL);
  event.config1 = 1;
  EXPECT_ERROR(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0), EFAULT);
  event.size = 17;
  EXPECT_ERROR(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0), E2BIG);
  EXPECT(event.size >= 112);
  int pair[2];
  EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  EXPECT_ERROR(ioctl(1, PERF_EVENT_IOC_ENABLE, 0), ENOTTY);
  return 0;
}

static int g_map;
static int child_looks(void) {
  uint32_t key = 0;
  uint64_t value = 0;
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, g_map, &key, &value, 0) == 0 && value == 9);
  value = 10;
  EXPECT(element(BPF_MAP_UPDATE_ELEM, g_map, &key, &value, 0) == 0);
  EXPECT(make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0) >= 0);
  return 0;
}
static int forked(void) {
  g_map = make_map(BPF_MAP_TYPE_HASH, 8, 4, 0);
  uint32_t key = 0;
  uint64_t value = 9;
  EXPECT(element(BPF_MAP_UPDATE_ELEM, g_map, &key, &value, 0) == 0);
  pid_t child = fork();
  if (child == 0) {
    _exit(child_looks());
  }
  int status = -1;
  EXPECT(waitpid(child, &status, 0) == child && status == 0);
  EXPECT(element(BPF_MAP_LOOKUP_ELEM, g_map, &key, &value, 0) == 0 && value == 10);
  // A child that only runs something else does not touch the broker.
  EXPECT(system("true") == 0);
  EXPECT(make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0) >= 0);
  return 0;
}

static atomic_int g_stop, g_wrong;
static void* churn(void* arg) {
  uint64_t seed = (uintptr_t)arg;
  while (!g_stop) {
    int map = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0);
    uint32_t key = 0;
    uint64_t value = ++seed, read = 0;
    if (map < 0 || element(BPF_MAP_UPDATE_ELEM, map, &key, &value, 0) != 0 ||
        element(BPF_MAP_LOOKUP_ELEM, map, &key, &read, 0) != 0 || read != value) {
      fprintf(stderr, "churn: map %d, %lu for %lu, errno %d\n", map, (unsigned long)read,
              (unsigned long)value, errno);
      g_wrong = 1;
    }
    close(map);
  }
  return NULL;
}
static void* look(void* arg) {
  (void)arg;
  while (!g_stop) {
    uint32_t key = 0;
    uint64_t read = 0;
    for (int fd = 3; fd < 12; fd++) {
      long result = element(BPF_MAP_LOOKUP_ELEM, fd, &key, &read, 0);
      if (result != 0 && errno != EBADF && errno != EINVAL && errno != ENOENT) {
        fprintf(stderr, "look: errno %d\n", errno);
        g_wrong = 1;
      }
    }
  }
  return NULL;
}
static void on_alarm(int signal_number) {
  (void)signal_number;
  int saved = errno;
  uint32_t key = 0;
  uint64_t read = 0;
  element(BPF_MAP_LOOKUP_ELEM, g_map, &key, &read, 0);
  int map = make_map(BPF_MAP_TYPE_ARRAY, 8, 4, 0);
  close(map);
  errno = saved;
}
static int threads(void) {
  g_map = make_map(BPF_MAP_TYPE_HASH, 8, 4, 0);
  struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval every = {{0, 3000}, {0, 3000}};
  setitimer(ITIMER_REAL, &every, NULL);
  pthread_t ids[4];
  for (int i = 0; i < 4; i++) {
    EXPECT(pthread_create(&ids[i], NULL, i < 2 ? churn : look, (void*)(uintptr_t)(i * 1000)) == 0);
  }
  struct timespec second = {1, 0};
  while (nanosleep(&second, &second) != 0) {
  }
  g_stop = 1;
  for (int i = 0; i < 4; i++) {
    pthread_join(ids[i], NULL);
  }
  EXPECT(!g_wrong);
  return 0;
}

static int files(void) {
  char text[64] = "";
  FILE* file = fopen("/sys/devices/system/cpu/possible", "re");
  EXPECT(file != NULL && fgets(text, sizeof(text), file) != NULL && strcmp(text, "0-5\n") == 0);
  fclose(file);
  int fd = open("/sys/kernel/debug/tracing/trace_pipe", O_RDONLY | O_NONBLOCK);
  EXPECT(fd >= 0);
  memset(text, 0, sizeof(text));
  EXPECT(read(fd, text, sizeof(text)) == 7 && strcmp(text, "a line\n") == 0);
  EXPECT((fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0);
  file = fopen("/sys/kernel/tracing/trace_pipe", "r");
  EXPECT(file != NULL && fgets(text, sizeof(text), file) != NULL);
  EXPECT_ERROR(open("/sys/kernel/nothing", O_RDONLY), ENOENT);
  EXPECT_ERROR(access("/sys/kernel/nothing", F_OK), ENOENT);
  struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
  EXPECT(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  return 0;
}

// Nanoseconds of one lookup, the best of some rounds.
static int speed(void) {
  int map = make_map(BPF_MAP_TYPE_HASH, 8, 1024, 0);
  uint32_t key = 7;
  uint64_t value = 1;
  EXPECT(element(BPF_MAP_UPDATE_ELEM, map, &key, &value, 0) == 0);
  // Rounds so short that some are not interrupted, whoever else wants the CPU.
  enum { kRounds = 2000, kLookups = 1000 };
  double best = 1e9;
  for (int round = 0; round < kRounds; round++) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < kLookups; i++) {
      element(BPF_MAP_LOOKUP_ELEM, map, &key, &value, 0);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    double ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / kLookups;
    best = ns < best ? ns : best;
  }
  printf("%.1f\n", best);
  return 0;
}

// Nothing of bpf: the shim must do nothing.
static int inert(void) {
  // The lowest free number, as without the shim: it holds no descriptor of its own.
  int lowest = dup(0);
  close(lowest);
  int file = open("/dev/null", O_RDWR);
  EXPECT(file == lowest);
  EXPECT(dup2(file, 1000) == 1000 && close(1000) == 0 && close(file) == 0);
  struct pollfd none = {.fd = -1};
  EXPECT(poll(&none, 1, 0) == 0);
  EXPECT(syscall(SYS_getpid) == getpid());
  EXPECT_ERROR(syscall(SYS_close, 77), EBADF);
  EXPECT_ERROR(syscall(9999), ENOSYS);
  void* page = (void*)syscall(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
  EXPECT(page != MAP_FAILED && syscall(SYS_munmap, page, 4096) == 0);
  return 0;
}

static int become_nobody(void) { return getuid() != 0 || setresuid(65534, 65534, 65534) == 0; }
static int user(void) {
  EXPECT(become_nobody());
  EXPECT(geteuid() == getuid());
  return 0;
}
static int user_of_a_loader(void) {
  EXPECT(become_nobody());
  EXPECT(dlopen("libbpf.so.1", RTLD_NOW | RTLD_GLOBAL) != NULL);
  EXPECT(getuid() != 0);
  EXPECT(geteuid() == 0);
  return 0;
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    int (*run)(void);
  } kCases[] = {{"elements", elements}, {"bad_pointers", bad_pointers},
                {"tails", tails},       {"numbers", numbers},
                {"frozen", frozen},     {"mapped", mapped},
                {"programs", programs}, {"forked", forked},
                {"threads", threads},   {"files", files},
                {"speed", speed},       {"inert", inert},
                {"user", user},         {"user_of_a_loader", user_of_a_loader}};
  for (size_t i = 0; argc == 2 && i < sizeof(kCases) / sizeof(kCases[0]); i++) {
    if (strcmp(argv[1], kCases[i].name) == 0) {
      return kCases[i].run();
    }
  }
  return 2;
}
