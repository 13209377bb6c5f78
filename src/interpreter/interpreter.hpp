// Bounds-checking interpreter. Home: pure; bpftime-vm, libbpftime-vm, tests and fuzzers: the engine
// the others are compared with.
//
// A program is first turned into operations for direct threading (prepare), then run any number of
// times, by any number of threads at once. Whatever a program does, it ends: with a value, out of
// fuel, or with an error; nothing outside the ranges that the host allows, the program's own live
// frames and what helpers do is read or written. Each frame is kFrameBytes of its own and reads as
// zero at first; callers' frames can be reached, dead ones cannot. Fuel, references and callbacks
// are as in jit_x64/compile.hpp.
#pragma once
#include <memory>
#include <span>

#include "base/result.hpp"
#include "isa/program.hpp"
#include "vm/program.hpp"

namespace bpftime {

struct MemoryRange {
  uint64_t begin, size_bytes;
  bool is_writable;
};

// Where and why a run failed; `address` is that of the access, if it was one.
struct InterpreterFault {
  uint32_t insn = 0;
  uint64_t address = 0;
};

class Interpreter {
 public:
  // Errors: as compile_x64.
  static Result<Interpreter> prepare(const DecodedProgram& program);
  Interpreter(Interpreter&& other) noexcept;
  Interpreter& operator=(Interpreter&& other) noexcept;
  ~Interpreter();

  // What the host fills hit->slots with, in this order; the same list as compile_x64's.
  [[nodiscard]] const std::vector<Slot>& slots() const;

  // `args` become r1, r2, ... Out of fuel is no error: r0 = 0 and hit->ended = kHitOutOfFuel, as
  // for compiled code. Errors: EFAULT for an access outside `allowed`, or a misaligned atomic one;
  // EINVAL for a call through an empty slot. hit->program_rsp is used during the run and restored.
  Result<uint64_t> run(std::span<const uint64_t> args, std::span<const MemoryRange> allowed,
                       Hit* hit, InterpreterFault* fault = nullptr) const;

 private:
  struct Prepared;
  explicit Interpreter(std::unique_ptr<Prepared> prepared);
  std::unique_ptr<Prepared> prepared_;
};

}  // namespace bpftime
