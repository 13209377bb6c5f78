// The C API over decoder, interpreter and compiler. Home: edge, in a host of its own choice.
#include "bpftime/vm.h"

#include <cerrno>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "interpreter/interpreter.hpp"
#include "isa/program.hpp"
#include "jit_x64/compile.hpp"
#include "libvm/code_mapping.hpp"

namespace {
struct Map {
  uint64_t handle, values;
};
using CompiledFn = uint64_t (*)(void*, bpftime::Hit*, uint64_t);
}  // namespace

struct bpftime_vm {
  std::map<uint32_t, bpftime_vm_helper> helpers;
  std::map<uint32_t, Map> maps;
  std::vector<bpftime::MemoryRange> allowed;
  int64_t budget = INT64_MAX;
  std::optional<bpftime::DecodedProgram> program;
  std::optional<bpftime::Interpreter> interpreter;
  std::optional<bpftime::CompiledProgram> compiled;
  std::optional<bpftime::CodeMapping> code;
  std::string text, message;

  int fail(int code_of_error, std::string why) {
    message = std::move(why);
    return -code_of_error;
  }

  // Values for `wanted`, or -ENOENT.
  int fill(const std::vector<bpftime::Slot>& wanted, std::vector<uint64_t>* slots) {
    for (const bpftime::Slot& slot : wanted) {
      if (slot.kind == bpftime::SlotKind::kHelper) {
        const auto helper = helpers.find(slot.id);
        if (helper == helpers.end()) {
          return fail(ENOENT, "helper " + std::to_string(slot.id) + " is not registered");
        }
        slots->push_back(reinterpret_cast<uint64_t>(helper->second));
        continue;
      }
      const auto map = maps.find(slot.id);
      if (map == maps.end()) {
        return fail(ENOENT, "map " + std::to_string(slot.id) + " is not registered");
      }
      slots->push_back(slot.kind == bpftime::SlotKind::kMap ? map->second.handle
                                                            : map->second.values + slot.addend);
    }
    return 0;
  }
};

extern "C" {

bpftime_vm* bpftime_vm_new(void) { return new bpftime_vm; }
void bpftime_vm_free(bpftime_vm* vm) { delete vm; }

int bpftime_vm_register_helper(bpftime_vm* vm, uint32_t id, bpftime_vm_helper helper) {
  if (helper == nullptr) {
    return vm->fail(EINVAL, "a helper needs a function");
  }
  vm->helpers[id] = helper;
  return 0;
}

int bpftime_vm_register_map(bpftime_vm* vm, uint32_t map, void* handle, void* values) {
  vm->maps[map] = {reinterpret_cast<uint64_t>(handle), reinterpret_cast<uint64_t>(values)};
  return 0;
}

int bpftime_vm_allow(bpftime_vm* vm, const void* begin, size_t bytes, int is_writable) {
  vm->allowed.push_back({reinterpret_cast<uint64_t>(begin), bytes, is_writable != 0});
  return 0;
}

int bpftime_vm_forbid_all(bpftime_vm* vm) {
  vm->allowed.clear();
  return 0;
}

int bpftime_vm_set_budget(bpftime_vm* vm, int64_t backward_jumps) {
  if (backward_jumps < 0) {
    return vm->fail(EINVAL, "a budget is not negative");
  }
  vm->budget = backward_jumps;
  return 0;
}

int bpftime_vm_load(bpftime_vm* vm, const void* insns, size_t bytes) {
  vm->program.reset();
  vm->interpreter.reset();
  vm->compiled.reset();
  vm->code.reset();
  bpftime::DecodeProblem problem;
  auto program = bpftime::decode(std::span(static_cast<const std::byte*>(insns), bytes), &problem);
  if (!program) {
    return vm->fail(program.error().code,
                    "instruction " + std::to_string(problem.insn) + ": " + problem.why);
  }
  auto interpreter = bpftime::Interpreter::prepare(program.value());
  if (!interpreter) {
    return vm->fail(interpreter.error().code, interpreter.error().why);
  }
  vm->program = std::move(program).value();
  vm->interpreter.emplace(std::move(interpreter).value());
  return 0;
}

int bpftime_vm_run(bpftime_vm* vm, void* memory, size_t bytes, uint64_t* r0) {
  if (!vm->interpreter) {
    return vm->fail(EINVAL, "no program is loaded");
  }
  std::vector<uint64_t> slots;
  if (const int error = vm->fill(vm->interpreter->slots(), &slots); error != 0) {
    return error;
  }
  bpftime::Hit hit{slots.data(), vm->budget, bpftime::kHitNormal, 0, 0};
  std::vector<bpftime::MemoryRange> allowed = vm->allowed;
  allowed.push_back({reinterpret_cast<uint64_t>(memory), bytes, true});
  const uint64_t args[] = {reinterpret_cast<uint64_t>(memory), bytes};
  bpftime::InterpreterFault fault;
  const auto value = vm->interpreter->run(args, allowed, &hit, &fault);
  if (!value) {
    return vm->fail(value.error().code,
                    "instruction " + std::to_string(fault.insn) + ": " + value.error().why);
  }
  if (hit.ended != bpftime::kHitNormal) {
    return vm->fail(ETIME, "the budget is used up");
  }
  *r0 = value.value();
  return 0;
}

int bpftime_vm_compile(bpftime_vm* vm) {
  if (!vm->program) {
    return vm->fail(EINVAL, "no program is loaded");
  }
  bpftime::CompileOptions options;
  options.has_bmi2 = bpftime::host_has_bmi2();
  options.takes_length = true;
  auto compiled = bpftime::compile_x64(*vm->program, options);
  if (!compiled) {
    return vm->fail(compiled.error().code, compiled.error().why);
  }
  auto code = bpftime::CodeMapping::map(compiled.value().code);
  if (!code) {
    return vm->fail(code.error().code, code.error().why);
  }
  vm->compiled = std::move(compiled).value();
  vm->code.emplace(std::move(code).value());
  return 0;
}

int bpftime_vm_run_compiled(bpftime_vm* vm, void* memory, size_t bytes, uint64_t* r0) {
  if (!vm->code) {
    return vm->fail(EINVAL, "no program is compiled");
  }
  std::vector<uint64_t> slots;
  if (const int error = vm->fill(vm->compiled->slots, &slots); error != 0) {
    return error;
  }
  bpftime::Hit hit{slots.data(), vm->budget, bpftime::kHitNormal, 0, 0};
  const uint64_t value = vm->code->entry<CompiledFn>()(memory, &hit, bytes);
  if (hit.ended != bpftime::kHitNormal) {
    return vm->fail(ETIME, "the budget is used up");
  }
  *r0 = value;
  return 0;
}

const char* bpftime_vm_print(bpftime_vm* vm) {
  vm->text = vm->program ? bpftime::print(*vm->program) : std::string();
  return vm->text.c_str();
}

const char* bpftime_vm_message(const bpftime_vm* vm) { return vm->message.c_str(); }

}  // extern "C"
