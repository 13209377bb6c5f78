// kernfs: the inode of a cgroup's directory is its id, and the root's is 1 (Linux 6.18 include/linux/kernfs.h: kernfs_ino).
#include "broker/cgroup.hpp"

#include <mntent.h>
#include <sys/stat.h>

#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

namespace bpftime {
namespace {

// Where the unified hierarchy is mounted; empty: nowhere.
std::string find_mount() {
  const std::unique_ptr<FILE, int (*)(FILE*)> mounts(::setmntent("/proc/self/mounts", "re"),
                                                     ::endmntent);
  while (const mntent* entry = mounts != nullptr ? ::getmntent(mounts.get()) : nullptr) {
    if (std::strcmp(entry->mnt_type, "cgroup2") == 0) {
      return entry->mnt_dir;
    }
  }
  return "";
}

// Within the unified hierarchy; empty: not known.
std::string path_of(pid_t pid) {
  const std::string name = "/proc/" + std::to_string(pid) + "/cgroup";
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(name.c_str(), "re"), std::fclose);
  char line[PATH_MAX + 16];
  while (file != nullptr && std::fgets(line, sizeof(line), file.get()) != nullptr) {
    if (std::strncmp(line, "0::", 3) == 0) {
      line[std::strcspn(line, "\n")] = 0;
      return line + 3;
    }
  }
  return "";
}

}  // namespace

uint64_t cgroup_id_of(pid_t pid) {
  const std::string path = path_of(pid);
  if (path == "/") {
    return 1;
  }
  struct stat st{};
  const std::string mount = find_mount();
  return !path.empty() && !mount.empty() && ::stat((mount + path).c_str(), &st) == 0 ? st.st_ino
                                                                                     : 0;
}

}  // namespace bpftime
