// A bpf(2) that says yes and writes down what it was asked: with it libbpf makes an object ready as
// for loading, relocations and all, without a kernel that would take it. Home: edge; one thread.
//
// libbpf reaches bpf(2) through libc's syscall(3). fake_kernel.cpp defines that function for the
// whole process; while a FakeKernel is in force in a thread, that thread's bpf(2) calls come here,
// all others go on to the kernel.
#pragma once
#include <linux/bpf.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bpftime {

class FakeKernel {
 public:
  struct Map {
    bpf_attr attr{};  // of BPF_MAP_CREATE
    std::string name;
    ino_t inner = 0;
    std::vector<std::byte> content;  // of an array with one element, once it was written
    bool is_frozen = false;
  };
  struct Program {
    bpf_attr attr{};  // of BPF_PROG_LOAD; its pointers are dead
    std::vector<bpf_insn> insns;
    std::vector<bpf_func_info> functions;
    std::vector<bpf_line_info> lines;
    std::string license;
  };

  FakeKernel();   // in force from here
  ~FakeKernel();  // to here
  FakeKernel(const FakeKernel&) = delete;
  FakeKernel& operator=(const FakeKernel&) = delete;

  // What an fd that this one gave out stands for; nullptr: not ours.
  [[nodiscard]] const Map* map(int fd) const;
  [[nodiscard]] const Map* map_of(ino_t inode) const;
  [[nodiscard]] const Program* program(int fd) const;
  [[nodiscard]] const std::vector<std::byte>* btf(int fd) const;

  // Answers as the system call does: a value, or -errno.
  long answer(int command, const bpf_attr* attr, size_t attr_bytes);

 private:
  long create_map(const bpf_attr& attr);
  long load_program(const bpf_attr& attr);
  long update(const bpf_attr& attr);

  // An object's identity is the inode of the file that its fd refers to: libbpf duplicates fds.
  std::map<ino_t, Map> maps_;
  std::map<ino_t, Program> programs_;
  std::map<ino_t, std::vector<std::byte>> btfs_;
};

}  // namespace bpftime
