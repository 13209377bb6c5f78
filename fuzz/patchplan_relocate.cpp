// Any bytes as a function: plan_patch never crashes, and what it displaces decodes in the
// trampoline to the same instructions with the same absolute targets, read by a second disassembler
// (LLVM's, through its C interface).
#include <Zydis/Zydis.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "abi/trampoline.hpp"
#include "patchplan/plan.hpp"

using namespace bpftime;

// The five functions of LLVM's stable C interface (llvm-c/Disassembler.h, LLVM 19) that this needs;
// its headers come with 400 MB of others.
extern "C" {
void LLVMInitializeX86TargetInfo();
void LLVMInitializeX86TargetMC();
void LLVMInitializeX86Disassembler();
void* LLVMCreateDisasm(const char* triple, void* info, int tag_type, void* get_info, void* look_up);
size_t LLVMDisasmInstruction(void* context, uint8_t* bytes, uint64_t size, uint64_t pc, char* out,
                             size_t out_size);
}

namespace {

void* disassembler() {
  static void* made = [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86Disassembler();
    return LLVMCreateDisasm("x86_64-linux-gnu", nullptr, 0, nullptr, nullptr);
  }();
  return made;
}

struct Line {
  size_t bytes;
  std::string mnemonic, operands;
};
Line disassemble(const uint8_t* at, size_t most, uint64_t address) {
  char text[256];
  const size_t bytes = LLVMDisasmInstruction(disassembler(), const_cast<uint8_t*>(at), most,
                                             address, text, sizeof text);
  std::string all = bytes != 0 ? text : "";
  const size_t begin = all.find_first_not_of(" \t");
  all = begin == std::string::npos ? "" : all.substr(begin);
  const size_t tab = all.find_first_of("\t");
  return {bytes, all.substr(0, tab), tab == std::string::npos ? "" : all.substr(tab + 1)};
}

// A word of the line, prefixes before it or not, that begins so.
bool has_word(const Line& line, const std::string& word) {
  const std::string all = " " + line.mnemonic + " " + line.operands;
  return all.find(" " + word) != std::string::npos || all.find("\t" + word) != std::string::npos;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8 || size > 256) {
    return 0;
  }
  const uint8_t flags = data[0];
  const uint64_t site = 0x5000000,
                 room = (flags & 1) != 0 ? 0x5100000 : site - 0x70000000ULL + (1ULL << 40);
  const uint64_t base = (flags & 1) != 0 ? site : site + (1ULL << 40);
  PlanInput input;
  const std::span<const uint8_t> code(data + 4, size - 4);
  input.function_begin = static_cast<RemoteAddr>(base);
  const uint64_t offset = (flags & 2) != 0 ? data[1] % code.size() : 0;
  input.site = static_cast<RemoteAddr>(base + offset);
  input.code = code;
  input.function_bytes = 1 + data[2] % code.size();
  input.bytes_to_next_function = input.function_bytes + data[3] % 16;
  input.room = static_cast<RemoteAddr>(room & ~15ULL);
  input.entry_thunk = input.inside_thunk = input.return_thunk =
      static_cast<RemoteAddr>(room + 0x100000);
  input.wants_return = (flags & 4) != 0 && offset == 0;
  static const uint8_t kNops[16] = {0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
                                    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90};
  const PaddingRange hole{static_cast<RemoteAddr>(base - 64), kNops};
  if ((flags & 8) != 0) {
    input.padding = {&hole, 1};
  }
  const Result<Plan> result = plan_patch(input);
  if (!result) {
    return 0;
  }
  const Plan& plan = *result;
  if (plan.trampoline.size() > kMaxTrampolineBytes || plan.patch.move_count > 15 ||
      plan.displaced_bytes < 1) {
    std::abort();
  }
  const uint64_t copy = input.wants_return ? kReturnCopy : offset == 0 ? kEntryCopy : kInsideCopy;
  // (movabs with an address-size prefix is 4 bytes shorter than LLVM takes it to be: SDM 2A
  // §2.2.1.4.) Instruction by instruction: plain ones must be byte for byte the same but for a
  // rip-relative displacement, which must name the same address; branches must lead to the same
  // address.
  uint64_t from = offset, to = copy;
  while (from < offset + plan.displaced_bytes) {
    const Line before = disassemble(code.data() + from, code.size() - from, base + from);
    const Line after =
        disassemble(plan.trampoline.data() + to, plan.trampoline.size() - to, raw(input.room) + to);
    // LLVM 19 heeds a REX prefix that stands before another prefix, processors do not (SDM
    // 2A 2.2.1).
    ZydisDecoder decoder;
    ZydisDecodedInstruction insn;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code.data() + from,
                                                    code.size() - from, &insn)) ||
        insn.length != before.bytes) {
      return 0;
    }
    if (before.bytes == 0 || after.bytes == 0) {
      return 0;  // the two disassemblers know different instructions
    }
    if (before.mnemonic != after.mnemonic || before.bytes != after.bytes ||
        has_word(before, "loop")) {
      return 0;  // rewritten in another form (calls, jumps, far operands): the unit tests have
                 // those
    }
    const size_t rip = before.operands.find("(%rip)");
    if (rip == std::string::npos && !has_word(before, "j") &&
        std::memcmp(code.data() + from, plan.trampoline.data() + to, before.bytes) != 0) {
      std::fprintf(stderr, "%s %s became %s %s\n", before.mnemonic.c_str(), before.operands.c_str(),
                   after.mnemonic.c_str(), after.operands.c_str());
      std::abort();
    }
    if (rip != std::string::npos && after.operands.find("(%rip)") != std::string::npos) {
      // the number that stands before (%rip)
      const auto number = [](const std::string& text) {
        size_t begin = text.find("(%rip)");
        while (begin > 0 && std::strchr("-0123456789abcdefx", text[begin - 1]) != nullptr) {
          begin--;
        }
        return static_cast<uint64_t>(std::strtoll(text.c_str() + begin, nullptr, 0));
      };
      if (base + from + before.bytes + number(before.operands) !=
          raw(input.room) + to + after.bytes + number(after.operands)) {
        std::fprintf(stderr, "%s became %s\n", before.operands.c_str(), after.operands.c_str());
        std::abort();
      }
    }
    from += before.bytes;
    to += after.bytes;
  }
  return 0;
}
