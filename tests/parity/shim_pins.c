// OBJ_PIN and OBJ_GET of maps, programs and links. On the kernel: as root, with a bpffs of its own.
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mount.h>

#include "shim_hits.h"

static long pin(int fd, const char* path, uint32_t flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.pathname = (uintptr_t)path;
  attr.bpf_fd = (uint32_t)fd;
  attr.file_flags = flags;
  return sys_bpf(BPF_OBJ_PIN, &attr, sizeof(attr));
}
static long get(const char* path, uint32_t fd, uint32_t flags) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  attr.pathname = (uintptr_t)path;
  attr.bpf_fd = fd;
  attr.file_flags = flags;
  return sys_bpf(BPF_OBJ_GET, &attr, sizeof(attr));
}

static void maps(int map) {
  uint32_t key = 0;
  uint64_t value = 5, got = 0;
  IS_OK("pin", pin(map, "/sys/fs/bpf/parity_map", 0));
  IS_ERROR("pin_again", EEXIST, pin(map, "/sys/fs/bpf/parity_map", 0));
  IS_OK("second_pin", pin(map, "/sys/fs/bpf/parity_map_2", 0));
  IS_OK("update", map_update(map, &key, &value));
  close(map);
  const int again = (int)IS_OK("get", get("/sys/fs/bpf/parity_map", 0, 0));
  IS_OK("lookup", map_lookup(again, &key, &got));
  IS_TRUE("the_same_map", got == 5);
  IS_TRUE("close_on_exec", (fcntl(again, F_GETFD) & FD_CLOEXEC) != 0);
  close(again);
  IS_OK("unlink", unlink("/sys/fs/bpf/parity_map"));
  IS_ERROR("get_unlinked", ENOENT, get("/sys/fs/bpf/parity_map", 0, 0));
  const int other = (int)IS_OK("get_second", get("/sys/fs/bpf/parity_map_2", 0, 0));
  close(other);
  IS_OK("unlink_second", unlink("/sys/fs/bpf/parity_map_2"));
}

static void errors(int map) {
  IS_ERROR("no_fd", EINVAL, pin(-1, "/sys/fs/bpf/parity_x", 0));
  IS_ERROR("a_pipe", EINVAL, ({
             int ends[2];
             (void)!pipe(ends);
             const long result = pin(ends[0], "/sys/fs/bpf/parity_x", 0);
             const int error = errno;
             close(ends[0]);
             close(ends[1]);
             errno = error;
             result;
           }));
  IS_ERROR("no_such_directory", ENOENT, pin(map, "/sys/fs/bpf/none/parity_x", 0));
  IS_ERROR("elsewhere", EPERM, pin(map, "/tmp/bpftime_parity_x", 0));
  IS_ERROR("a_dot", EPERM, pin(map, "/sys/fs/bpf/parity.x", 0));
  IS_ERROR("pin_flags", EINVAL, pin(map, "/sys/fs/bpf/parity_x", 1));
  IS_ERROR("bad_path", EFAULT, pin(map, (const char*)8, 0));
  IS_ERROR("get_nothing", ENOENT, get("/sys/fs/bpf/parity_x", 0, 0));
  IS_ERROR("get_a_file", EACCES, get("/proc/self/exe", 0, 0));
  IS_ERROR("get_with_fd", EINVAL, get("/sys/fs/bpf/parity_x", 1, 0));
  IS_ERROR("get_flags", EINVAL, get("/sys/fs/bpf/parity_x", 0, 1));
  IS_ERROR("get_bad_path", EFAULT, get((const char*)8, 0, 0));
}

static void directories(int map) {
  IS_OK("mkdir", mkdir("/sys/fs/bpf/parity_dir", 0700));
  IS_ERROR("mkdir_again", EEXIST, mkdir("/sys/fs/bpf/parity_dir", 0700));
  IS_OK("pin_inside", pin(map, "/sys/fs/bpf/parity_dir/map", 0));
  const int again = (int)IS_OK("get_inside", get("/sys/fs/bpf/parity_dir/map", 0, 0));
  close(again);
  IS_OK("unlink_inside", unlink("/sys/fs/bpf/parity_dir/map"));
}

static void programs_and_links(void) {
  const int prog = load_counter(0);
  IS_OK("pin_program", pin(prog, "/sys/fs/bpf/parity_prog", 0));
  close(prog);
  const int again = (int)IS_OK("get_program", get("/sys/fs/bpf/parity_prog", 0, 0));
  const int link = (int)IS_OK("link", link_probed(again, 0));
  IS_OK("pin_link", pin(link, "/sys/fs/bpf/parity_link", 0));
  close(link);
  close(again);
  call_probed(1);
  IS_TRUE("link_goes_on", word(0) == 1);
  const int third = (int)IS_OK("get_link", get("/sys/fs/bpf/parity_link", 0, 0));
  IS_OK("unlink_link", unlink("/sys/fs/bpf/parity_link"));
  call_probed(1);
  IS_TRUE("its_descriptor_keeps_it", word(0) == 2);
  close(third);
  call_probed(1);
  IS_TRUE("and_then_it_is_gone", word(0) == 2);
  IS_OK("unlink_program", unlink("/sys/fs/bpf/parity_prog"));
}

int main(void) {
  if (getenv("BPFTIME_SESSION") == NULL &&
      (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
       mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL) != 0)) {
    perror("a bpffs of our own");
    return 1;
  }
  if (!find_probed() || !make_counters()) {
    return 1;
  }
  const int map = map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, "pinned");
  errors(map);
  directories(map);
  maps(map);
  programs_and_links();
  return done();
}
