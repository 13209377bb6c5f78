// An fd is the reference: what dup, close, exec, fork and passing it on do.
#include "shim_parity.h"

static bool map_exists(uint32_t id) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_id = id;
  const int fd = (int)sys_bpf(BPF_MAP_GET_FD_BY_ID, &attr, 12);
  if (fd >= 0) {
    close(fd);
  }
  return fd >= 0;
}
static uint32_t id_of(int map) {
  struct bpf_map_info info;
  memset(&info, 0, sizeof(info));
  uint32_t bytes = sizeof(info);
  return info_of(map, &info, &bytes) == 0 ? info.id : 0;
}
static bool gone_soon(uint32_t id) { return COMES_TRUE(!map_exists(id)); }

static void numbers(void) {
  uint32_t key = 0;
  uint64_t one = 1, two = 2, value = 0;
  const int a = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "a");
  const int b = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "b");
  map_update(a, &key, &one);
  map_update(b, &key, &two);
  IS_TRUE("close_on_exec", (fcntl(a, F_GETFD) & FD_CLOEXEC) != 0);
  const int copy = dup(a);
  IS_TRUE("dup", map_lookup(copy, &key, &value) == 0 && value == 1);
  IS_TRUE("dup2", dup2(b, copy) == copy && map_lookup(copy, &key, &value) == 0 && value == 2);
  IS_TRUE("dup3",
          dup3(a, copy, O_CLOEXEC) == copy && map_lookup(copy, &key, &value) == 0 && value == 1);
  const int high = fcntl(b, F_DUPFD, 100);
  IS_TRUE("fcntl_dupfd", high >= 100 && map_lookup(high, &key, &value) == 0 && value == 2);
  close(a);
  IS_ERROR("closed", EBADF, map_lookup(a, &key, &value));
  IS_TRUE("copy_lives", map_lookup(copy, &key, &value) == 0 && value == 1);
  const int file = open("/dev/null", O_RDWR | O_CLOEXEC);
  IS_TRUE("number_is_used_again", file == a);
  IS_ERROR("lookup_in_a_file", EINVAL, map_lookup(file, &key, &value));
  IS_ERROR("update_of_nothing", EBADF, map_update(-1, &key, &value));
  const int prog = trivial_program(BPF_PROG_TYPE_KPROBE);
  IS_ERROR("lookup_in_a_program", EINVAL, map_lookup(prog, &key, &value));
  union bpf_attr attr = {.map_fd = (unsigned)prog};
  IS_ERROR("freeze_of_a_program", EINVAL, sys_bpf(BPF_MAP_FREEZE, &attr, 4));
  close_range((unsigned)high, (unsigned)high, 0);
  IS_ERROR("close_range", EBADF, map_lookup(high, &key, &value));
  close(file);
  close(prog);
  close(copy);
  close(b);
}

static void references(void) {
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "refs");
  const uint32_t id = id_of(map);
  IS_TRUE("map_has_an_id", id != 0 && map_exists(id));
  const struct bpf_insn insns[] = {LOAD_MAP(1, map), MOV_IMM(0, 0), EXIT()};
  const int prog = PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns);
  const int copy = dup(map);
  close(map);
  close(copy);
  IS_TRUE("program_keeps_its_map", prog >= 0 && map_exists(id));
  close(prog);
  IS_TRUE("map_goes_with_its_program", gone_soon(id));

  const int bound = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "bound");
  const uint32_t bound_id = id_of(bound);
  const int holder = trivial_program(BPF_PROG_TYPE_KPROBE);
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.prog_bind_map.prog_fd = (unsigned)holder;
  attr.prog_bind_map.map_fd = (unsigned)bound;
  IS_OK("bind", sys_bpf(BPF_PROG_BIND_MAP, &attr, 12));
  close(bound);
  IS_TRUE("bound_map_lives", map_exists(bound_id));
  close(holder);
  IS_TRUE("bound_map_goes", gone_soon(bound_id));
}

static void by_id(void) {
  const int map = map_create(BPF_MAP_TYPE_HASH, 4, 8, 16, 0, "by_id");
  uint32_t key = 3;
  uint64_t value = 33;
  map_update(map, &key, &value);
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.map_id = id_of(map);
  const int other = (int)IS_OK("map_get_fd_by_id", sys_bpf(BPF_MAP_GET_FD_BY_ID, &attr, 12));
  value = 0;
  IS_TRUE("the_same_map", map_lookup(other, &key, &value) == 0 && value == 33);
  value = 34;
  map_update(other, &key, &value);
  value = 0;
  IS_TRUE("seen_through_the_first_fd", map_lookup(map, &key, &value) == 0 && value == 34);
  close(map);
  IS_TRUE("lives_through_the_second", map_lookup(other, &key, &value) == 0 && value == 34);
  attr.map_id = 0x7fffffff;
  IS_ERROR("no_such_id", ENOENT, sys_bpf(BPF_MAP_GET_FD_BY_ID, &attr, 12));
  close(other);
}

static int receive_fd(int from) {
  char byte;
  union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec iov = {&byte, 1};
  struct msghdr m = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
  int fd = -1;
  if (recvmsg(from, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m) != NULL) {
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
  }
  return fd;
}
static void send_fd(int to, int fd) {
  char byte = 1;
  union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  memset(&control, 0, sizeof(control));
  struct iovec iov = {&byte, 1};
  struct msghdr m = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
  struct cmsghdr* c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &fd, sizeof(fd));
  (void)!sendmsg(to, &m, 0);
}

static void other_processes(void) {
  uint32_t key = 0;
  uint64_t value = 5;
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "shared");
  map_update(map, &key, &value);
  pid_t child = fork();
  if (child == 0) {
    uint64_t seen = 0;
    const bool good = map_lookup(map, &key, &seen) == 0 && seen == 5;
    seen = 6;
    _exit(good && map_update(map, &key, &seen) == 0 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  IS_TRUE("forked_child_uses_the_map", status == 0);
  IS_TRUE("and_its_parent_sees_it", map_lookup(map, &key, &value) == 0 && value == 6);

  int pair[2];
  socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
  child = fork();
  if (child == 0) {
    close(map);
    close(pair[0]);
    const int made = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "childs");
    uint64_t seven = 7;
    const bool good = made >= 0 && map_update(made, &key, &seven) == 0;
    send_fd(pair[1], made);
    _exit(good ? 0 : 1);
  }
  close(pair[1]);
  const int passed = receive_fd(pair[0]);
  waitpid(child, &status, 0);
  value = 0;
  IS_TRUE("passed_fd_outlives_its_maker",
          status == 0 && map_lookup(passed, &key, &value) == 0 && value == 7);
  const uint32_t id = id_of(passed);
  close(passed);
  close(pair[0]);
  IS_TRUE("and_ends_with_the_last_one", id != 0 && gone_soon(id));

  // Killed: everything it held goes.
  int ids[2];
  if (pipe2(ids, O_CLOEXEC) != 0) {
    exit(1);
  }
  child = fork();
  if (child == 0) {
    const int held = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "held");
    const uint32_t held_id = id_of(held);
    (void)!write(ids[1], &held_id, sizeof(held_id));
    for (;;) {
      pause();
    }
  }
  uint32_t held_id = 0;
  (void)!read(ids[0], &held_id, sizeof(held_id));
  IS_TRUE("map_of_the_child", held_id != 0 && map_exists(held_id));
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  IS_TRUE("goes_when_it_is_killed", gone_soon(held_id));
  close(map);
}

int main(void) {
  numbers();
  references();
  by_id();
  other_processes();
  return done();
}
