#include "object/fake_kernel.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstring>

#include "base/raw_syscall.hpp"

namespace bpftime {
namespace {

thread_local FakeKernel* in_force = nullptr;

ino_t inode_of(int fd) {
  struct stat st{};
  return ::fstat(fd, &st) == 0 ? st.st_ino : 0;
}

// A new file of its own stands for each object. Gives the fd; *inode becomes its identity.
int new_object(ino_t* inode) {
  const int fd = ::memfd_create("bpf-object", MFD_CLOEXEC);
  *inode = inode_of(fd);
  return fd < 0 ? -errno : fd;
}

template <class T>
const T* find(const std::map<ino_t, T>& in, ino_t inode) {
  const auto at = in.find(inode);
  return at == in.end() ? nullptr : &at->second;
}

// SAFETY: the pointers are libbpf's own, in this process, and as long as it says.
template <class T>
std::vector<T> copy_list(uint64_t pointer, uint32_t count, uint32_t record_bytes) {
  std::vector<T> list(pointer == 0 || record_bytes < sizeof(T) ? 0 : count);
  for (size_t i = 0; i < list.size(); ++i) {
    std::memcpy(&list[i], reinterpret_cast<const char*>(pointer) + i * record_bytes, sizeof(T));
  }
  return list;
}

std::string name_of(const char (&name)[BPF_OBJ_NAME_LEN]) {
  return {name, ::strnlen(name, sizeof(name))};
}

}  // namespace

FakeKernel::FakeKernel() { in_force = this; }
FakeKernel::~FakeKernel() { in_force = nullptr; }

const FakeKernel::Map* FakeKernel::map(int fd) const { return find(maps_, inode_of(fd)); }
const FakeKernel::Map* FakeKernel::map_of(ino_t inode) const { return find(maps_, inode); }
const FakeKernel::Program* FakeKernel::program(int fd) const {
  return find(programs_, inode_of(fd));
}
const std::vector<std::byte>* FakeKernel::btf(int fd) const { return find(btfs_, inode_of(fd)); }

long FakeKernel::answer(int command, const bpf_attr* given, size_t attr_bytes) {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  std::memcpy(&attr, given, std::min(attr_bytes, sizeof(attr)));
  switch (command) {
    case BPF_MAP_CREATE:
      return create_map(attr);
    case BPF_PROG_LOAD:
      return load_program(attr);
    case BPF_MAP_UPDATE_ELEM:
      return update(attr);
    case BPF_BTF_LOAD: {
      ino_t inode = 0;
      const int fd = new_object(&inode);
      if (fd >= 0) {
        btfs_[inode] = copy_list<std::byte>(attr.btf, attr.btf_size, 1);
      }
      return fd;
    }
    case BPF_MAP_FREEZE:
      if (const auto at = maps_.find(inode_of(static_cast<int>(attr.map_fd))); at != maps_.end()) {
        at->second.is_frozen = true;
      }
      return 0;
    case BPF_OBJ_PIN:
    case BPF_PROG_BIND_MAP:
      return 0;
    case BPF_LINK_CREATE:
      return -EBADF;  // libbpf: a kernel that has perf links says so
    case BPF_OBJ_GET:
    case BPF_MAP_LOOKUP_ELEM:
    case BPF_BTF_GET_NEXT_ID:
    case BPF_PROG_GET_NEXT_ID:
    case BPF_MAP_GET_NEXT_ID:
      return -ENOENT;
    default:
      return -EINVAL;
  }
}

long FakeKernel::create_map(const bpf_attr& attr) {
  ino_t inode = 0;
  const int fd = new_object(&inode);
  if (fd >= 0) {
    Map& map = maps_[inode];
    map.attr = attr;
    map.name = name_of(attr.map_name);
    if (attr.inner_map_fd != 0) {
      map.inner = inode_of(static_cast<int>(attr.inner_map_fd));
    }
  }
  return fd;
}

long FakeKernel::load_program(const bpf_attr& attr) {
  ino_t inode = 0;
  const int fd = new_object(&inode);
  if (fd >= 0) {
    Program& program = programs_[inode];
    program.attr = attr;
    program.insns = copy_list<bpf_insn>(attr.insns, attr.insn_cnt, sizeof(bpf_insn));
    program.functions =
        copy_list<bpf_func_info>(attr.func_info, attr.func_info_cnt, attr.func_info_rec_size);
    program.lines =
        copy_list<bpf_line_info>(attr.line_info, attr.line_info_cnt, attr.line_info_rec_size);
    if (attr.license != 0) {
      program.license = reinterpret_cast<const char*>(attr.license);
    }
  }
  return fd;
}

long FakeKernel::update(const bpf_attr& attr) {
  const auto at = maps_.find(inode_of(static_cast<int>(attr.map_fd)));
  if (at == maps_.end()) {
    return -EBADF;
  }
  Map& map = at->second;
  if (map.attr.map_type == BPF_MAP_TYPE_ARRAY && map.attr.max_entries == 1) {
    map.content = copy_list<std::byte>(attr.value, map.attr.value_size, 1);
  }
  return 0;
}

}  // namespace bpftime

// libc's name and meaning: errno and -1 for an error (syscall(2), NOTES of the C library).
extern "C" __attribute__((visibility("default"))) long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  uint64_t args[6];
  for (uint64_t& arg : args) {
    arg = va_arg(list, uint64_t);
  }
  va_end(list);
  long result = 0;
  if (number == SYS_bpf && bpftime::in_force != nullptr) {
    result = bpftime::in_force->answer(static_cast<int>(args[0]),
                                       reinterpret_cast<const bpf_attr*>(args[1]), args[2]);
  } else {
    result = bpftime::raw_syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
  }
  if (bpftime::is_syscall_error(result)) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}
