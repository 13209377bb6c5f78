#include "tests/verifier/embedding.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace bpftime::testing {
namespace {

std::string hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%lx", value);
  return text;
}

}  // namespace

Embedding::Embedding(const VerifierTrace& trace, const FactCheck& facts)
    : trace_(trace), facts_(facts), children_(trace.nodes.size()), live_slots_(trace.nodes.size()) {
  for (uint32_t i = 0; i < trace.nodes.size(); ++i) {
    if (trace.nodes[i].parent != i && trace.nodes[i].parent < i) {
      children_[trace.nodes[i].parent].push_back(i);
    }
  }
  find_live_slots();
}

void Embedding::find_live_slots() {
  const auto count = static_cast<uint32_t>(trace_.nodes.size());
  std::vector<std::vector<uint32_t>> pruned_here(count);
  std::vector<uint32_t> todo;
  std::vector<bool> is_waiting(count, true);
  for (uint32_t i = 0; i < count; ++i) {
    if (trace_.nodes[i].pruned_into != VerifierTrace::kNone) {
      pruned_here[trace_.nodes[i].pruned_into].push_back(i);
    }
    todo.push_back(i);  // the last first
  }
  const auto wait = [&](uint32_t node) {
    if (!is_waiting[node]) {
      is_waiting[node] = true;
      todo.push_back(node);
    }
  };
  while (!todo.empty()) {
    const uint32_t i = todo.back();
    todo.pop_back();
    is_waiting[i] = false;
    const VerifierTrace::Node& node = trace_.nodes[i];
    std::array<uint64_t, 8> live{};
    const auto add = [&](uint32_t next) {
      for (size_t f = 0; f < node.frames.size(); ++f) {
        live[f] |= live_slots_[next][f];
      }
    };
    std::for_each(children_[i].begin(), children_[i].end(), add);
    if (node.pruned_into != VerifierTrace::kNone) {
      add(node.pruned_into);
    }
    for (size_t f = 0; f < live.size(); ++f) {
      live[f] = node.reads[f] | (live[f] & ~node.writes[f]);
    }
    if (live != live_slots_[i]) {
      live_slots_[i] = live;
      if (node.parent < i) {
        wait(node.parent);
      }
      std::for_each(pruned_here[i].begin(), pruned_here[i].end(), wait);
    }
  }
}

std::string Embedding::run(Machine* machine, uint32_t most_steps) {
  std::vector<Place> now, next;
  was_cut_ = false;
  follow(0, Care::kAll, *machine, &now);
  for (uint32_t step = 0; step < most_steps; ++step) {
    if (now.empty() && !was_cut_) {
      return "instruction " + std::to_string(machine->insn()) +
             ": the machine is in no state that the verifier saw: " + misfit_;
    }
    const uint32_t at = machine->insn();
    const auto misfit = [at](const std::string& what) {
      return "instruction " + std::to_string(at) + ": " + what;
    };
    if (const std::string wrong = facts_.before(*machine); !wrong.empty()) {
      return misfit(wrong);
    }
    const Machine::Step result = machine->step();
    if (result == Machine::Step::kFault) {
      return machine->why();
    }
    if (result == Machine::Step::kEnd) {
      return "";
    }
    if (const std::string wrong = facts_.after(at, *machine); !wrong.empty()) {
      return misfit(wrong);
    }
    if (was_cut_) {
      continue;  // memory is still watched
    }
    next.clear();
    misfit_ = "no path goes there";
    for (const Place& place : now) {
      was_cut_ = was_cut_ || children_[place.node].empty();
      for (const uint32_t child : children_[place.node]) {
        if (trace_.nodes[child].insn == machine->insn()) {
          follow(child, place.care, *machine, &next);
        }
      }
    }
    std::swap(now, next);
  }
  return "";
}

void Embedding::follow(uint32_t node, Care care, const Machine& machine, std::vector<Place>* to) {
  for (uint32_t hops = 0; hops < 64; ++hops) {
    const VerifierTrace::Node& at = trace_.nodes[node];
    // What a pruned path's end holds is still exact; the state that it ends in is not.
    if (!fits(at, care, machine)) {
      return;
    }
    if (at.pruned_into == VerifierTrace::kNone) {
      const Place place{node, care};
      if (std::find(to->begin(), to->end(), place) == to->end()) {
        to->push_back(place);
      }
      return;
    }
    node = at.pruned_into;
    care = Care::kPruned;
  }
  was_cut_ = true;
}

bool Embedding::fits(const VerifierTrace::Node& node, Care care, const Machine& machine) {
  if (care == Care::kPruned && !node.is_stored) {
    return true;  // what is dead there may hold anything, and which that is is not noted
  }
  ++compared_;
  const auto& live_slots = live_slots_[static_cast<size_t>(&node - trace_.nodes.data())];
  const auto& frames = machine.frames();
  if (node.frames.size() != frames.size()) {
    misfit_ = "another number of frames";
    return false;
  }
  for (size_t f = 0; f < frames.size(); ++f) {
    const bool is_top = f + 1 == frames.size();
    const Frame& abstract = node.frames[f];
    for (uint32_t n = is_top ? 0 : 6; n <= 10; ++n) {
      const Reg& reg = abstract.regs[n];
      const bool numbers_count = care == Care::kAll || reg.precise;
      if (!fits(reg, frames[f].regs[n], numbers_count, machine)) {
        misfit_ = "frame " + std::to_string(f) + " r" + std::to_string(n) + " = " +
                  hex(frames[f].regs[n]) + " is not in [" + hex(reg.num.range.umin) + ", " +
                  hex(reg.num.range.umax) + "], " + std::to_string(reg.num.range.smin) + ".." +
                  std::to_string(reg.num.range.smax) + ", low [" + hex(reg.num.low.umin) + ", " +
                  hex(reg.num.low.umax) + "], bits " + hex(reg.num.bits.value) + "/" +
                  hex(reg.num.bits.mask) + ", kind " + std::to_string(static_cast<int>(reg.kind)) +
                  " off " + std::to_string(reg.off);
        return false;
      }
    }
    if (care == Care::kAll && is_top) {  // linked numbers move together
      for (uint32_t a = 0; a < 10; ++a) {
        for (uint32_t b = a + 1; b < 10; ++b) {
          const Reg &x = abstract.regs[a], &y = abstract.regs[b];
          if (x.is_scalar() && y.is_scalar() && x.id != 0 && x.id == y.id && !x.has_delta &&
              !y.has_delta && frames[f].regs[a] != frames[f].regs[b]) {
            misfit_ = "r" + std::to_string(a) + " and r" + std::to_string(b) + " are not equal";
            return false;
          }
        }
      }
    }
    const Region& stack = machine.regions()[frames[f].stack];
    for (size_t s = 0; s < abstract.slots.size() && s < 64; ++s) {
      const StackSlot& slot = abstract.slots[s];
      if (care == Care::kPruned && (live_slots[f] >> s & 1) == 0) {
        continue;
      }
      const uint8_t* bytes = stack.bytes.data() + 512 - 8 * (s + 1);
      uint64_t value = 0;
      std::memcpy(&value, bytes, 8);
      const std::string where = "frame " + std::to_string(f) + " fp-" + std::to_string(8 * (s + 1));
      for (size_t b = 0; b < 8; ++b) {
        if (slot.bytes[b] == ByteKind::kZero && bytes[b] != 0) {
          misfit_ = where + " is not zero: " + hex(value);
          return false;
        }
      }
      if (slot.is_spill()) {
        uint32_t spilled = 0;
        while (spilled < 8 && slot.bytes[spilled] == ByteKind::kSpill) {
          ++spilled;
        }
        const uint64_t mask = spilled == 8 ? ~0ULL : (1ULL << (spilled * 8)) - 1;
        const bool numbers_count = care == Care::kAll || slot.reg.precise;
        if (!fits(slot.reg, value & mask, numbers_count, machine)) {
          misfit_ = where + " = " + hex(value & mask) + " is not in [" +
                    hex(slot.reg.num.range.umin) + ", " + hex(slot.reg.num.range.umax) + "], " +
                    std::to_string(spilled) + " bytes, kind " +
                    std::to_string(static_cast<int>(slot.reg.kind));
          return false;
        }
      }
    }
  }
  return true;
}

bool Embedding::fits(const Reg& reg, uint64_t value, bool numbers_count,
                     const Machine& machine) const {
  if (reg.or_null() && value == 0) {
    return true;
  }
  const uint64_t offset = value - static_cast<uint64_t>(int64_t{reg.off});
  const auto is_in = [&](Region::Kind kind, uint32_t index, bool any_index) {
    return std::any_of(machine.regions().begin(), machine.regions().end(),
                       [&](const Region& region) {
                         return region.kind == kind && (any_index || region.index == index) &&
                                reg.num.contains(offset - region.base);
                       });
  };
  switch (reg.kind) {
    case RegKind::kNone:
      return true;
    case RegKind::kScalar:
      return !numbers_count || reg.num.contains(value);
    case RegKind::kCtx:
      return is_in(Region::Kind::kContext, 0, true);
    case RegKind::kMap:
      return value == Machine::map_address(reg.object);
    case RegKind::kMapValue:
      return is_in(Region::Kind::kValue, reg.object, false);
    case RegKind::kStack: {
      if (reg.frame >= machine.frames().size()) {
        return false;
      }
      const Region& stack = machine.regions()[machine.frames()[reg.frame].stack];
      return reg.num.contains(offset - stack.end());
    }
    case RegKind::kMem:
      return is_in(Region::Kind::kRecord, 0, true);
    case RegKind::kPacket:
      return is_in(Region::Kind::kPacket, 0, true);
    case RegKind::kPacketEnd: {
      const auto& regions = machine.regions();
      return std::any_of(regions.begin(), regions.end(), [&](const Region& region) {
        return region.kind == Region::Kind::kPacket && value == region.end();
      });
    }
    default:
      return true;
  }
}

}  // namespace bpftime::testing
