#include "inject/loaded_library.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace bpftime {
namespace {

uint64_t base_of(const void* address) {
  Dl_info info = {};
  EXPECT_NE(dladdr(address, &info), 0);
  return reinterpret_cast<uint64_t>(info.dli_fbase);
}

TEST(LoadedLibrary, FindsWhatTheDynamicLinkerFinds) {
  auto library = LoadedLibrary::open(getpid(), base_of(reinterpret_cast<void*>(&getenv)));
  ASSERT_TRUE(library) << library.error().why;
  void* const libc =
      dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);  // a sanitizer's malloc may stand before libc's
  for (const char* name :
       {"malloc", "dlopen", "dlclose", "__errno_location", "getenv", "environ"}) {
    auto address = library->find(name);
    ASSERT_TRUE(address) << name;
    if (strcmp(name, "environ") != 0 && strcmp(name, "dlopen") != 0 &&
        strcmp(name, "dlclose") != 0) {
      EXPECT_EQ(*address, reinterpret_cast<uint64_t>(dlsym(libc, name))) << name;
    }
    EXPECT_EQ(base_of(reinterpret_cast<void*>(*address)), library->bias());
  }
  EXPECT_EQ(library->find("no_such_function").error().code, ENOENT);
  EXPECT_EQ(library->find("strlen").error().code, ENOENT);  // an indirect function
}

TEST(LoadedLibrary, AnythingElseIsRefused) {
  static const char text[8192] = "not an ELF image";
  EXPECT_EQ(LoadedLibrary::open(getpid(), reinterpret_cast<uint64_t>(text)).error().code, ENOEXEC);
  EXPECT_EQ(LoadedLibrary::open(getpid(), 8).error().code, EFAULT);
  // Its own image, with every byte of the dynamic section's neighbourhood set to something else in
  // turn, must never do more than fail: here the hash header that a hostile process may show.
  std::vector<char> image(65536);
  memcpy(image.data(), reinterpret_cast<void*>(base_of(reinterpret_cast<void*>(&getenv))), 4096);
  auto library = LoadedLibrary::open(getpid(), reinterpret_cast<uint64_t>(image.data()));
  EXPECT_FALSE(library.has_value() && library->find("malloc").has_value());
}

}  // namespace
}  // namespace bpftime
