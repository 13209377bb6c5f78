#include "broker/program_check.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "spec/spec.hpp"

namespace bpftime {
namespace {

constexpr uint8_t kLddw = BPF_LD | BPF_IMM | BPF_DW;
constexpr uint32_t kMaxValueOffset = 1U << 29;  // kernel: BPF_MAX_VAR_OFF

bool is_map_load(const bpf_insn& insn) {
  return insn.code == kLddw &&
         (insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_VALUE ||
          insn.src_reg == BPF_PSEUDO_MAP_IDX || insn.src_reg == BPF_PSEUDO_MAP_IDX_VALUE);
}

std::string line(const char* what, int64_t value, const char* rest = "\n") {
  return what + std::to_string(value) + rest;
}

// Kernel v6.18 kernel/bpf/verifier.c: check_ld_imm, resolve_pseudo_ldimm64.
Result<std::shared_ptr<MapObject>> map_of(const bpf_insn& first, const bpf_insn& second,
                                          std::span<const int> fd_array, const FindMap& find_map,
                                          std::string* log) {
  int fd = first.imm;
  if (first.src_reg == BPF_PSEUDO_MAP_IDX || first.src_reg == BPF_PSEUDO_MAP_IDX_VALUE) {
    if (fd_array.empty()) {
      *log += "fd_idx without fd_array is invalid\n";
      return make_error(EPROTO, "map index without fd_array");
    }
    if (first.imm < 0 || static_cast<size_t>(first.imm) >= fd_array.size()) {
      return make_error(EFAULT, "map index outside of fd_array");
    }
    fd = fd_array[static_cast<size_t>(first.imm)];
  }
  const bool wants_value =
      first.src_reg == BPF_PSEUDO_MAP_VALUE || first.src_reg == BPF_PSEUDO_MAP_IDX_VALUE;
  if (!wants_value && second.imm != 0) {
    *log += "unrecognized bpf_ld_imm64 insn\n";
    return make_error(EINVAL, "second half of a map load is not zero");
  }
  auto found = find_map(fd);
  if (!found) {
    *log += line("fd ", fd, " is not pointing to valid bpf_map\n");
    return found.error();
  }
  const MapObject& map = **found;
  if (wants_value) {
    const auto offset = static_cast<uint32_t>(second.imm);
    if (map.spec.map_type != BPF_MAP_TYPE_ARRAY) {
      *log += "no direct value access support for this map type\n";
      return make_error(EINVAL, "map has no direct values");
    }
    if (offset >= kMaxValueOffset) {
      *log += line("direct value offset of ", offset, " is not allowed\n");
      return make_error(EINVAL, "direct value offset too large");
    }
    if (map.spec.max_entries != 1) {
      *log += "invalid access to map value pointer, max_entries is not 1\n";
      return make_error(kKernelEnotsupp, "direct values need one entry");
    }
    if (offset >= map.spec.value_size) {
      *log += line("invalid access to map value pointer, value_size=", map.spec.value_size, " ") +
              line("off=", offset);
      return make_error(EINVAL, "direct value offset outside of the value");
    }
  }
  return std::move(found).value();
}

}  // namespace

std::vector<bool> reachable(const DecodedProgram& program) {
  const auto& insns = program.insns;
  std::vector<bool> seen(insns.size(), false);
  std::vector<uint32_t> todo{0};
  const auto visit = [&](int64_t at) {
    if (at >= 0 && static_cast<size_t>(at) < insns.size() && !seen[static_cast<size_t>(at)]) {
      todo.push_back(static_cast<uint32_t>(at));
    }
  };
  while (!todo.empty()) {
    uint32_t at = todo.back();
    todo.pop_back();
    while (at < insns.size() && !seen[at]) {
      const bpf_insn& insn = insns[at];
      seen[at] = true;
      if (insn.code == kLddw) {
        if (insn.src_reg == BPF_PSEUDO_FUNC) {
          visit(int64_t{at} + 1 + insn.imm);
        }
        if (at + 1 < insns.size()) {
          seen[at + 1] = true;
        }
        at += 2;
        continue;
      }
      const uint8_t cls = BPF_CLASS(insn.code);
      if (cls == BPF_JMP || cls == BPF_JMP32) {
        const uint8_t op = BPF_OP(insn.code);
        if (op == BPF_EXIT) {
          break;
        }
        if (op == BPF_CALL) {
          if (insn.src_reg == BPF_PSEUDO_CALL) {
            visit(int64_t{at} + 1 + insn.imm);
          }
        } else if (op == BPF_JA) {
          visit(int64_t{at} + 1 + (cls == BPF_JMP32 ? insn.imm : insn.off));
          break;
        } else {
          visit(int64_t{at} + 1 + insn.off);
        }
      }
      at++;
    }
  }
  return seen;
}

Result<LinkedProgram> link_program(std::span<const std::byte> insns, std::span<const int> fd_array,
                                   const FindMap& find_map, std::string* log) {
  DecodeProblem problem;
  auto decoded = decode(insns, &problem);
  if (!decoded) {
    *log += line("insn ", problem.insn, ": ") + problem.why + "\n";
    return decoded.error();
  }
  LinkedProgram linked{std::move(decoded).value(), {}};
  auto& code = linked.program.insns;
  for (uint32_t i = 0; i < code.size(); i++) {
    bpf_insn& insn = code[i];
    if (insn.code == kLddw) {
      if (is_map_load(insn) && i + 1 < code.size()) {
        auto map = map_of(insn, code[i + 1], fd_array, find_map, log);
        if (!map) {
          return map.error();
        }
        insn.src_reg = insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_IDX
                           ? BPF_PSEUDO_MAP_FD
                           : BPF_PSEUDO_MAP_VALUE;
        insn.imm = static_cast<int32_t>((*map)->id);
        if (std::find(linked.maps.begin(), linked.maps.end(), *map) == linked.maps.end()) {
          if (linked.maps.size() >= kMaxUsedMaps) {
            *log += line("The total number of maps per program has reached the limit of ",
                         kMaxUsedMaps);
            return make_error(E2BIG, "too many maps");
          }
          linked.maps.push_back(std::move(map).value());
        }
      }
      i++;
      continue;
    }
  }
  return linked;
}

}  // namespace bpftime
