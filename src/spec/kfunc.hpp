// Functions of the kernel that programs may call: what their BTF does not say. Home: pure *, any thread.
//
// Prototypes come from the running kernel's BTF; flags are the kernel's own words for them
// (docs.kernel.org/bpf/kfuncs.html, docs.ebpf.io/linux/kfuncs), program types what Linux 6.18 answers.
#pragma once
#include <cstdint>
#include <string_view>

namespace bpftime {

enum KfuncFlag : uint16_t {
  kKfAcquire = 1,
  kKfRelease = 2,
  kKfRetNull = 4,
  kKfTrustedArgs = 8,  // pointers to kernel objects must be trusted, none may be null
  kKfSleepable = 16,
  kKfDestructive = 32,
  kKfRcu = 64,  // as kKfTrustedArgs, but what an RCU section protects is good too
  kKfRcuProtected = 128,
  kKfIterNew = 256,
  kKfIterNext = 512,
  kKfIterDestroy = 1024,
  kKfUnderLock = 2048,      // may be called while a bpf_spin_lock is held
  kKfChangesPacket = 4096,  // packet pointers are void afterwards
};

// What a function does beyond its flags; kNone for most.
enum class KfuncRule : uint8_t {
  kNone,
  kRcuLock,
  kRcuUnlock,
  kPreemptDisable,
  kPreemptEnable,
  kSession,        // programs of sessions alone
  kSessionCookie,  // the same, and gives eight bytes
  kThrow,          // ends the program
  // Objects of the program's types, lists and trees of them.
  kObjectNew,
  kObjectShare,  // one more owning reference
  kPerCpuNew,
  kPerCpuDrop,
  kListPush,
  kListPop,
  kListLook,
  kTreeAdd,
  kTreeRemove,
  kTreeLook,
  kTreeStep,
  kDynptrFromSkb,
  kDynptrFromSkbMeta,
  kDynptrFromXdp,
  kDynptrClone,
  kDynptrSlice,
  kDynptrSliceWrite,
  kDynptrWrite,   // through the first argument
  kContextCast,   // gives the kernel's structure behind the context
  kReadOnlyCast,  // gives an untrusted pointer to the type with the constant's number
  kCssTask,       // LSM, iterators and what may sleep
  kIterOnly,      // programs of iterators alone
  kUntrusted,     // gives an untrusted pointer
  kIrqSave,
  kIrqRestore,
};

struct KfuncSpec {
  std::string_view name;
  uint16_t flags;
  KfuncRule rule;
  uint64_t program_types;  // bit = BPF_PROG_TYPE_*
};

const KfuncSpec* find_kfunc_spec(std::string_view name);  // nullptr = not one that we know
uint32_t kfunc_spec_count();
const KfuncSpec& kfunc_spec_at(uint32_t index);  // sorted by name

}  // namespace bpftime
