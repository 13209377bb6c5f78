// Runs a program on every engine, for tests and benchmarks.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "interpreter/interpreter.hpp"
#include "isa/program.hpp"
#include "jit_x64/compile.hpp"
#include "libvm/code_mapping.hpp"

namespace bpftime::testing {

enum class Engine { kInterpreter, kJit, kJitNoFuel, kJitBmi2 };
inline constexpr Engine kEngines[] = {Engine::kInterpreter, Engine::kJit, Engine::kJitNoFuel,
                                      Engine::kJitBmi2};

inline const char* name_of(Engine engine) {
  switch (engine) {
    case Engine::kInterpreter:
      return "interpreter";
    case Engine::kJit:
      return "jit";
    case Engine::kJitNoFuel:
      return "jit without fuel";
    default:
      return "jit with bmi2";
  }
}

// What a run came to. `error` is 0 or the errno of decoding, preparing, compiling or running.
struct Outcome {
  uint64_t value = 0;
  int error = 0;
  uint32_t ended = kHitNormal;
  int64_t fuel = 0;
  std::string why;
};

// What slot values are made of: helpers by number, maps by id.
struct Host {
  std::vector<std::pair<uint32_t, HelperFn>> helpers;
  std::vector<std::pair<uint32_t, uint64_t>> maps;    // handle
  std::vector<std::pair<uint32_t, uint64_t>> values;  // base of the value area
};

inline std::vector<uint64_t> slot_values(const std::vector<Slot>& slots, const Host& host) {
  std::vector<uint64_t> values;
  for (const Slot& slot : slots) {
    uint64_t value = 0;
    for (const auto& [id, helper] : host.helpers) {
      if (slot.kind == SlotKind::kHelper && slot.id == id) {
        value = reinterpret_cast<uint64_t>(helper);
      }
    }
    for (const auto& [id, handle] : host.maps) {
      if (slot.kind == SlotKind::kMap && slot.id == id) {
        value = handle;
      }
    }
    for (const auto& [id, base] : host.values) {
      if (slot.kind == SlotKind::kMapValue && slot.id == id) {
        value = base + slot.addend;
      }
    }
    values.push_back(value);
  }
  return values;
}

// Calls `entry` and, in sanitized builds, hides from the sanitizer that it is generated code.
__attribute__((no_sanitize("undefined"))) inline uint64_t call_code(uint64_t entry, void* context,
                                                                    Hit* hit, uint64_t length) {
  return reinterpret_cast<uint64_t (*)(void*, Hit*, uint64_t)>(entry)(context, hit, length);
}

// r1 = memory, r2 = its size. `memory` is what the interpreter may touch, with what `allowed` has.
inline Outcome run_on(Engine engine, const DecodedProgram& program, std::span<std::byte> memory,
                      const Host& host = {}, int64_t fuel = int64_t{1} << 40,
                      std::span<const MemoryRange> allowed = {}) {
  Outcome outcome;
  Hit hit{nullptr, fuel, kHitNormal, 0, 0};
  if (engine == Engine::kInterpreter) {
    const auto interpreter = Interpreter::prepare(program);
    if (!interpreter) {
      outcome.error = interpreter.error().code;
      outcome.why = interpreter.error().why;
      return outcome;
    }
    const std::vector<uint64_t> slots = slot_values(interpreter.value().slots(), host);
    hit.slots = slots.data();
    std::vector<MemoryRange> ranges(allowed.begin(), allowed.end());
    ranges.push_back({reinterpret_cast<uint64_t>(memory.data()), memory.size(), true});
    const uint64_t args[] = {reinterpret_cast<uint64_t>(memory.data()), memory.size()};
    const auto value = interpreter.value().run(args, ranges, &hit);
    if (!value) {
      outcome.error = value.error().code;
      outcome.why = value.error().why;
      return outcome;
    }
    outcome.value = value.value();
  } else {
    CompileOptions options;
    options.count_fuel = engine != Engine::kJitNoFuel;
    options.has_bmi2 = engine == Engine::kJitBmi2 && host_has_bmi2();
    options.takes_length = true;
    const auto compiled = compile_x64(program, options);
    if (!compiled) {
      outcome.error = compiled.error().code;
      outcome.why = compiled.error().why;
      return outcome;
    }
    const auto code = CodeMapping::map(compiled.value().code);
    if (!code) {
      outcome.error = code.error().code;
      return outcome;
    }
    const std::vector<uint64_t> slots = slot_values(compiled.value().slots, host);
    hit.slots = slots.data();
    outcome.value = call_code(code.value().begin(), memory.data(), &hit, memory.size());
  }
  outcome.ended = hit.ended;
  outcome.fuel = hit.fuel;
  return outcome;
}

}  // namespace bpftime::testing
