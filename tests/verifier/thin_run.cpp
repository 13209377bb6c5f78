#include "tests/verifier/thin_run.hpp"

namespace bpftime::testing {
namespace {

// False: it did not end.
bool run_whole(Machine* machine, uint32_t most_steps) {
  for (uint32_t step = 0; step < most_steps; ++step) {
    if (const Machine::Step result = machine->step(); result != Machine::Step::kOn) {
      return result == Machine::Step::kEnd;
    }
  }
  return false;
}

}  // namespace

std::string run_thin(std::span<const bpf_insn> insns, const Flow& flow, Machine* whole,
                     Machine* thin, uint32_t most_steps) {
  if (!run_whole(whole, most_steps)) {
    return "";
  }
  constexpr uint64_t kGarbage = 0x5eed'0bad'5eed'0bad;
  for (uint32_t step = 0; step < most_steps; ++step) {
    const uint32_t at = thin->insn();
    const bpf_insn& insn = insns[at];
    if (!flow.needs_code(at)) {
      thin->leave_out(kGarbage * (at + 1));
      continue;
    }
    if (is_jump(insn.code) && flow.always_jumps(at)) {
      thin->go_to(static_cast<uint32_t>(jump_target(insn, at)));
      continue;
    }
    const Machine::Step result = thin->step();
    if (result == Machine::Step::kFault) {
      return "with what needs code alone: " + thin->why();
    }
    if (result == Machine::Step::kOn) {
      continue;
    }
    if (thin->frames()[0].regs[0] != whole->frames()[0].regs[0]) {
      return "with what needs code alone the result is another";
    }
    for (size_t i = 0; i < whole->regions().size(); ++i) {
      const Region& region = whole->regions()[i];
      if (region.kind == Region::Kind::kValue && region.bytes != thin->regions()[i].bytes) {
        return "with what needs code alone a map value is another";
      }
    }
    return "";
  }
  return "with what needs code alone it does not end";
}

}  // namespace bpftime::testing
