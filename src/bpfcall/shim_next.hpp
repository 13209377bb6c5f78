// What the interposers share: the next definition of a symbol, and results in libc's shape. Home: shim *.
#pragma once
#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "base/raw_syscall.hpp"

#define BPFTIME_EXPORT extern "C" __attribute__((visibility("default")))

namespace bpftime::shim {

// -errno to errno and -1.
inline long finish(long result) {
  if (is_syscall_error(result)) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}

// The definition behind ours, found at the first call. Used only where libc does more than the system call (it may
// be a cancellation point); the rest is done by raw_syscall, which works before libc is ready.
template <class Function>
class Next {
 public:
  constexpr explicit Next(const char* name) : name_(name) {}
  Function get() {
    void* found = found_.load(std::memory_order_relaxed);
    if (found == nullptr) {
      const int saved = errno;
      found = ::dlsym(RTLD_NEXT, name_);
      errno = saved;
      found_.store(found, std::memory_order_relaxed);
    }
    return reinterpret_cast<Function>(found);
  }

 private:
  const char* name_;
  std::atomic<void*> found_{nullptr};
};

}  // namespace bpftime::shim
