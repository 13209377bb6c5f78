// OBJ_PIN and OBJ_GET of maps, programs and links. On the kernel: as root, with a bpffs of its own.
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mount.h>

#include "shim_hits.h"

enum { kPathFd = 1 << 14 };  // BPF_F_PATH_FD, Linux 6.5
struct PinAttr {             // union bpf_attr: OBJ_PIN, OBJ_GET
  uint64_t path;
  uint32_t fd, flags;
  int32_t path_fd;
  uint32_t padding;
};
static long pin_at(int directory, const char* path, int fd, uint32_t flags) {
  const struct PinAttr attr = {(uintptr_t)path, (uint32_t)fd, flags, directory, 0};
  return sys_bpf(BPF_OBJ_PIN, &attr, sizeof(attr));
}
static long get_at(int directory, const char* path, uint32_t flags) {
  const struct PinAttr attr = {(uintptr_t)path, 0, flags, directory, 0};
  return sys_bpf(BPF_OBJ_GET, &attr, sizeof(attr));
}

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

static bool got(long fd) { return fd >= 0 && close((int)fd) == 0; }

static void relative_paths(int map) {
  IS_OK("chdir", chdir("/sys/fs/bpf"));
  IS_OK("pin_relative", pin(map, "parity_rel", 0));
  IS_TRUE("get_relative", got(get("parity_rel", 0, 0)));
  IS_TRUE("by_its_full_name", got(get("/sys/fs/bpf/parity_rel", 0, 0)));
  IS_TRUE("by_dots", got(get("./../bpf//parity_rel", 0, 0)));
  IS_TRUE("by_dots_in_a_full_name", got(get("/sys/fs/../fs/bpf/./parity_rel", 0, 0)));
  IS_OK("unlink_relative", unlink("parity_rel"));
  IS_ERROR("get_relative_unlinked", ENOENT, get("parity_rel", 0, 0));
  IS_ERROR("relative_dot", EPERM, pin(map, "parity.rel", 0));
  IS_ERROR("empty", ENOENT, pin(map, "", 0));
  IS_OK("chdir_inside", chdir("/sys/fs/bpf/parity_dir"));
  IS_OK("pin_relative_inside", pin(map, "rel", 0));
  IS_TRUE("get_relative_inside", got(get("/sys/fs/bpf/parity_dir/rel", 0, 0)));
  IS_TRUE("get_from_above", got(get("../parity_dir/rel", 0, 0)));
  IS_OK("unlink_relative_inside", unlink("rel"));
  IS_OK("chdir_elsewhere", chdir("/tmp"));
  IS_ERROR("relative_elsewhere", EPERM, pin(map, "bpftime_parity_x", 0));
  IS_ERROR("get_relative_elsewhere", ENOENT, get("bpftime_parity_x", 0, 0));
}

static void paths_below_a_descriptor(int map) {
  const int root = open("/sys/fs/bpf", O_PATH | O_CLOEXEC);
  const int inside = open("/sys/fs/bpf/parity_dir", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  IS_TRUE("directories_open", root >= 0 && inside >= 0);
  IS_OK("pin_below", pin_at(root, "parity_at", map, kPathFd));
  IS_ERROR("pin_below_again", EEXIST, pin_at(root, "parity_at", map, kPathFd));
  IS_TRUE("get_below", got(get_at(root, "parity_at", kPathFd)));
  IS_TRUE("get_by_name", got(get("/sys/fs/bpf/parity_at", 0, 0)));
  IS_TRUE("a_full_name_needs_none", got(get_at(12345, "/sys/fs/bpf/parity_at", kPathFd)));
  IS_OK("pin_below_inside", pin_at(inside, "at", map, kPathFd));
  IS_TRUE("get_through_both", got(get_at(root, "parity_dir/at", kPathFd)));
  IS_OK("unlinkat", unlinkat(inside, "at", 0));
  IS_ERROR("get_unlinked_below", ENOENT, get_at(inside, "at", kPathFd));
  IS_ERROR("descriptor_without_flag", EINVAL, pin_at(root, "parity_x", map, 0));
  IS_ERROR("get_descriptor_without_flag", EINVAL, get_at(root, "parity_at", 0));
  IS_ERROR("flag_and_more", EINVAL, pin_at(root, "parity_x", map, kPathFd | 1));
  IS_ERROR("not_open", EBADF, pin_at(12345, "parity_x", map, kPathFd));
  IS_ERROR("get_not_open", EBADF, get_at(12345, "parity_x", kPathFd));
  IS_ERROR("no_directory", ENOTDIR, pin_at(file, "parity_x", map, kPathFd));
  IS_ERROR("get_no_directory", ENOTDIR, get_at(file, "parity_x", kPathFd));
  IS_OK("chdir_back", chdir("/sys/fs/bpf"));
  IS_TRUE("at_the_current_one", got(get_at(AT_FDCWD, "parity_at", kPathFd)));
  IS_OK("unlink_at", unlink("/sys/fs/bpf/parity_at"));
  IS_OK("chdir_away", chdir("/"));
  close(root);
  close(inside);
  close(file);
  IS_OK("rmdir", rmdir("/sys/fs/bpf/parity_dir"));
  IS_ERROR("rmdir_again", ENOENT, rmdir("/sys/fs/bpf/parity_dir"));
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
  relative_paths(map);
  paths_below_a_descriptor(map);
  maps(map);
  programs_and_links();
  return done();
}
