// The answered calls, as functions that return a value or -errno. Home: shim *, any thread.
#pragma once
#include <cstdint>

namespace bpftime::shim {

long bpf_call(uint64_t command, uint64_t attr, uint64_t attr_bytes);
long perf_event_open_call(uint64_t attr, uint64_t pid, uint64_t cpu, uint64_t group_fd,
                          uint64_t flags);
long ioctl_call(uint64_t fd, uint64_t request, uint64_t argument);
long mmap_call(uint64_t address, uint64_t length, uint64_t protection, uint64_t flags, uint64_t fd,
               uint64_t offset);
long munmap_call(uint64_t address, uint64_t length);
long mprotect_call(uint64_t address, uint64_t length, uint64_t protection);
long mremap_call(uint64_t address, uint64_t length, uint64_t new_length, uint64_t flags,
                 uint64_t new_address);

// Calls that give fd numbers another meaning.
long dup_call(uint64_t fd);
long dup3_call(long number, uint64_t from, uint64_t to, uint64_t flags);  // SYS_dup2 or SYS_dup3
long fcntl_call(uint64_t fd, uint64_t command, uint64_t argument);  // F_DUPFD, F_DUPFD_CLOEXEC
long close_range_call(uint64_t first, uint64_t last, uint64_t flags);
// Around a close(2) of `fd`.
struct Closing {
  bool allowed;        // false: the number is the shim's own, and for the loader it is not open
  bool is_attachment;  // a link or an event
};
Closing before_close(int fd);
// When close returns, what the fd kept armed is disarmed, as in the kernel.
void after_close(int fd, const Closing& closing);

}  // namespace bpftime::shim
