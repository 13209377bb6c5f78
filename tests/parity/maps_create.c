/* Errnos of BPF_MAP_CREATE. */
#include "parity.h"

#define CREATE(...) (close_it(map_create(__VA_ARGS__)))
static int close_it(int fd) {
  if (fd < 0) {
    return fd;
  }
  close(fd);
  return 0;
}

int main(void) {
  const uint32_t H = BPF_MAP_TYPE_HASH, A = BPF_MAP_TYPE_ARRAY;
  CHECK(CREATE(H, 4, 8, 1, 0), 0);
  CHECK(CREATE(H, 0, 8, 1, 0), -EINVAL);
  CHECK(CREATE(H, 4, 0, 1, 0), -EINVAL);
  CHECK(CREATE(H, 4, 8, 0, 0), -EINVAL);
  CHECK(CREATE(H, 4, 8, 1, BPF_F_MMAPABLE), -EINVAL);
  CHECK(CREATE(H, 4, 8, 1, BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG), -EINVAL);
  CHECK(CREATE(H, 4, 1 << 22, 1, 0), -E2BIG);
  CHECK(CREATE(H, 4, 8, 0xffffffff, 0), -E2BIG);
  CHECK(CREATE(A, 4, 8, 1, 0), 0);
  CHECK(CREATE(A, 8, 8, 1, 0), -EINVAL);
  CHECK(CREATE(A, 4, 0, 1, 0), -EINVAL);
  CHECK(CREATE(A, 4, 8, 0, 0), -EINVAL);
  CHECK(CREATE(A, 4, 8, 1, BPF_F_NO_PREALLOC), -EINVAL);
  CHECK(CREATE(A, 4, 0x80000000, 1, 0), -E2BIG);
  CHECK(CREATE(A, 4, 7732, 1, BPF_F_MMAPABLE | BPF_F_RDONLY_PROG), 0);
  CHECK(CREATE(999, 4, 8, 1, 0), -EINVAL);
  return done("maps_create");
}
