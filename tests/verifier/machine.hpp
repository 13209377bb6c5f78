// A machine for programs on the stage: one instruction at a time, every byte of memory in a region
// that is known. Home: tests. Written apart from the engines, from RFC 9669: it is their judge too.
#pragma once
#include <array>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "isa/opcode.hpp"

namespace bpftime::testing {

struct Region {
  enum class Kind : uint8_t { kStack, kContext, kValue, kRecord, kPacket };
  Kind kind;
  uint32_t index = 0;  // stack: frame; value: map
  uint64_t base = 0;
  std::vector<uint8_t> bytes;
  bool is_alive = true;
  [[nodiscard]] uint64_t end() const { return base + bytes.size(); }
};

class Machine {
 public:
  Machine(std::span<const bpf_insn> insns, uint32_t prog_type, uint64_t seed);

  enum class Step : uint8_t { kOn, kEnd, kFault };
  Step step();
  // Instead of a step: the instruction's register gets `value`, or the jump does not jump.
  void leave_out(uint64_t value);
  void go_to(uint32_t insn) { at_ = insn; }

  [[nodiscard]] uint32_t insn() const { return at_; }
  struct CallFrame {
    std::array<uint64_t, 11> regs{};  // of the top frame all; of others r6..r10 count
    uint32_t stack = 0;               // index of its region
    uint32_t return_to = 0;
  };
  [[nodiscard]] const std::vector<CallFrame>& frames() const { return frames_; }
  [[nodiscard]] const std::vector<Region>& regions() const { return regions_; }
  [[nodiscard]] uint32_t held_records() const;
  [[nodiscard]] uint32_t back_jumps() const { return back_jumps_; }  // so far, taken or not
  [[nodiscard]] const std::string& why() const { return why_; }
  static uint64_t map_address(uint32_t map) { return 0xffff'8880'0000'1000ULL + map * 0x400; }

 private:
  Step fault(const std::string& what);
  uint32_t add_region(Region::Kind kind, uint32_t index, size_t bytes);
  uint8_t* memory(uint64_t address, uint32_t bytes, bool is_write);
  bool push_frame(uint32_t return_to);
  Step call_helper(int32_t id);
  Step atomic(const bpf_insn& insn);
  uint64_t& r(uint32_t n) { return frames_.back().regs[n]; }
  uint64_t load(const uint8_t* from, uint32_t bytes) const;

  std::span<const bpf_insn> insns_;
  uint32_t prog_type_;
  std::mt19937_64 random_;
  uint32_t at_ = 0;
  std::vector<CallFrame> frames_;
  std::vector<Region> regions_;
  uint32_t may_goto_left_;
  uint32_t back_jumps_ = 0;
  std::string why_;
};

}  // namespace bpftime::testing
