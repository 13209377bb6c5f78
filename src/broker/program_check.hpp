// From the instructions of BPF_PROG_LOAD to a program whose names are resolved. Home: broker; pure.
// What the program may do is for judge.hpp.
#pragma once
#include <linux/bpf.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "broker/object.hpp"
#include "isa/program.hpp"

namespace bpftime {

inline constexpr uint32_t kMaxUsedMaps = 64;  // kernel: MAX_USED_MAPS

struct LinkedProgram {
  DecodedProgram program;  // map loads hold a MapId where the caller's fd stood
  std::vector<std::shared_ptr<MapObject>> maps;
};

// Which object the caller's fd is. Errors: EBADF not open, EINVAL no map.
using FindMap = std::function<Result<std::shared_ptr<MapObject>>(int fd)>;

// Decodes, and puts MapIds for fds. Errors: as the kernel's for the same fault: EINVAL, E2BIG, EBADF,
// EPROTO. *log gets what its log would say.
Result<LinkedProgram> link_program(std::span<const std::byte> insns, std::span<const int> fd_array,
                                   const FindMap& find_map, std::string* log);

// Marks the instructions that a walk from the entry reaches. Bounded by the number of instructions.
std::vector<bool> reachable(const DecodedProgram& program);

}  // namespace bpftime
