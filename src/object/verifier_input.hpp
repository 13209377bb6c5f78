// A BPF object's programs as the verifier wants them. Home: edge (tools).
#pragma once
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "btf/btf.hpp"
#include "object/object.hpp"
#include "verifier/verifier.hpp"

namespace bpftime {

// The running kernel's types (/sys/kernel/btf/vmlinux). Errors: ENOENT: it has none; EINVAL.
Result<Btf> read_kernel_btf();

// Maps and types of one object, ready for verify(). What it gives out points into it, into the
// object and into `kernel_btf`, which may be null.
class VerifierInput {
 public:
  // Errors: EINVAL, E2BIG: types that make no sense.
  static Result<VerifierInput> make(const BpfObject& object, const Btf* kernel_btf);
  // Errors: EINVAL, E2BIG: func_info or line_info of its that make no sense.
  Result<VerifierProgram> program(const ObjectProgram& of);
  [[nodiscard]] std::span<const VerifierMap> maps() const { return maps_; }
  [[nodiscard]] const Btf* btf() const { return btf_.get(); }  // null: the object has no types

 private:
  VerifierMap map_of(const BpfObject& object, size_t index, bool may_nest) const;

  std::unique_ptr<const Btf> btf_;
  const Btf* kernel_btf_ = nullptr;
  std::vector<VerifierMap> maps_;
  std::deque<std::vector<BtfFuncInfo>> functions_;  // of programs given out
  std::deque<std::vector<BtfLineInfo>> lines_;
};

}  // namespace bpftime
