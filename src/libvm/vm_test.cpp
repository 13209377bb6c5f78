// The C API, as a host uses it: through the shared library only.
#include "bpftime/vm.h"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

namespace {

struct FreeVm {
  void operator()(bpftime_vm* vm) const { bpftime_vm_free(vm); }
};
using Vm = std::unique_ptr<bpftime_vm, FreeVm>;

int load(const Vm& vm, const std::vector<uint64_t>& words) {
  return bpftime_vm_load(vm.get(), words.data(), words.size() * 8);
}

constexpr uint64_t kExit = 0x95;
constexpr uint64_t call_insn(uint64_t id) { return 0x85 | id << 32; }
constexpr uint64_t mov(uint64_t reg, uint64_t imm) { return 0xb7 | reg << 8 | imm << 32; }

uint64_t twice(uint64_t r1, uint64_t, uint64_t, uint64_t, uint64_t, void*) { return 2 * r1; }

TEST(VmApi, InterpretsAndRunsCompiledCode) {
  const Vm vm(bpftime_vm_new());
  ASSERT_EQ(bpftime_vm_register_helper(vm.get(), 9, twice), 0);
  ASSERT_EQ(load(vm, {mov(1, 21), call_insn(9), kExit}), 0);
  uint64_t r0 = 0;
  EXPECT_EQ(bpftime_vm_run(vm.get(), nullptr, 0, &r0), 0);
  EXPECT_EQ(r0, 42U);
  EXPECT_EQ(bpftime_vm_run_compiled(vm.get(), nullptr, 0, &r0), -EINVAL);
  r0 = 0;
  EXPECT_EQ(bpftime_vm_compile(vm.get()), 0);
  EXPECT_EQ(bpftime_vm_run_compiled(vm.get(), nullptr, 0, &r0), 0);
  EXPECT_EQ(r0, 42U);
  EXPECT_STREQ(bpftime_vm_print(vm.get()),
               "0: (b7) r1 = 21\n1: (85) call helper#9\n2: (95) exit\n");
}

TEST(VmApi, RefusedProgramsAreNotRun) {
  const Vm vm(bpftime_vm_new());
  EXPECT_EQ(load(vm, {0x8d, kExit}), -EINVAL);
  EXPECT_STREQ(bpftime_vm_message(vm.get()), "instruction 0: unknown opcode");
  uint64_t r0 = 0;
  EXPECT_EQ(bpftime_vm_run(vm.get(), nullptr, 0, &r0), -EINVAL);
  EXPECT_EQ(bpftime_vm_compile(vm.get()), -EINVAL);
  EXPECT_EQ(load(vm, {}), -E2BIG);
}

TEST(VmApi, AnUnregisteredHelperOrMapFailsWithEnoent) {
  const Vm vm(bpftime_vm_new());
  uint64_t r0 = 0;
  ASSERT_EQ(load(vm, {call_insn(9), kExit}), 0);
  EXPECT_EQ(bpftime_vm_run(vm.get(), nullptr, 0, &r0), -ENOENT);
  ASSERT_EQ(load(vm, {0x1018 | 5ULL << 32, 0, kExit}), 0);
  EXPECT_EQ(bpftime_vm_run(vm.get(), nullptr, 0, &r0), -ENOENT);
}

TEST(VmApi, MapsAndAllowedMemoryAreReached) {
  const Vm vm(bpftime_vm_new());
  std::array<uint64_t, 4> values = {1, 2, 3, 4};
  ASSERT_EQ(bpftime_vm_register_map(vm.get(), 5, nullptr, values.data()), 0);
  // r1 = value area of map 5 + 16; r0 = *(u64 *)(r1 + 8)
  ASSERT_EQ(load(vm, {0x2118 | 5ULL << 32, 16ULL << 32, 0x00081079, kExit}), 0);
  uint64_t r0 = 0;
  EXPECT_EQ(bpftime_vm_run(vm.get(), nullptr, 0, &r0), -EFAULT);
  ASSERT_EQ(bpftime_vm_allow(vm.get(), values.data(), sizeof values, 0), 0);
  EXPECT_EQ(bpftime_vm_run(vm.get(), nullptr, 0, &r0), 0);
  EXPECT_EQ(r0, 4U);
  ASSERT_EQ(bpftime_vm_compile(vm.get()), 0);
  EXPECT_EQ(bpftime_vm_run_compiled(vm.get(), nullptr, 0, &r0), 0);
  EXPECT_EQ(r0, 4U);
  ASSERT_EQ(bpftime_vm_forbid_all(vm.get()), 0);
  EXPECT_EQ(bpftime_vm_run(vm.get(), nullptr, 0, &r0), -EFAULT);
}

TEST(VmApi, AnEndlessProgramFailsWithEtime) {
  const Vm vm(bpftime_vm_new());
  ASSERT_EQ(bpftime_vm_set_budget(vm.get(), 1000), 0);
  ASSERT_EQ(load(vm, {mov(0, 1), 0xffff0005}), 0);
  ASSERT_EQ(bpftime_vm_compile(vm.get()), 0);
  uint64_t r0 = 0;
  EXPECT_EQ(bpftime_vm_run(vm.get(), nullptr, 0, &r0), -ETIME);
  EXPECT_EQ(bpftime_vm_run_compiled(vm.get(), nullptr, 0, &r0), -ETIME);
  EXPECT_EQ(bpftime_vm_set_budget(vm.get(), -1), -EINVAL);
}

}  // namespace
