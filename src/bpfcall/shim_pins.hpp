// /sys/fs/bpf for a loader: the session's own directory of pins (docs/decisions/0006-pins.md). Home: shim *, any thread.
#pragma once
#include <climits>
#include <string>

#include "base/result.hpp"

namespace bpftime::shim {

// `path`, or where the session has it, written to `room`.
const char* pin_place(const char* path, char (&room)[PATH_MAX]);

// Full name of the directory that `fd`, or AT_FDCWD, is; below /sys/fs/bpf where the session has it. Errors: EBADF, ENOTDIR.
Result<std::string> directory_name(int fd);

}  // namespace bpftime::shim
