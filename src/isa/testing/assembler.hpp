// Assembler for case files and tests. Home: pure, tests only: never linked into what is installed.
//
// Syntax, one instruction a line, `#` begins a comment, `name:` a label (as in the bpf_conformance
// vectors):
//   add|sub|mul|div|sdiv|or|and|lsh|rsh|mod|smod|xor|mov|arsh[32] %rD, %rS|imm   neg[32] %rD
//   movsx832|movsx1632|movsx864|movsx1664|movsx3264 %rD, %rS
//   be16|be32|be64|le16|le32|le64|bswap16|bswap32|bswap64|swap16|swap32|swap64 %rD
//   lddw %rD, imm64      ldx[s]b|h|w|dw %rD, [%rS+off]   st[x]b|h|w|dw [%rD+off], imm|%rS
//   ja|ja32 label|+n     jeq|jne|jgt|jge|jlt|jle|jset|jsgt|jsge|jslt|jsle[32] %rD, %rS|imm,
//   label|+n call n    call %rN   call local label|+n   exit lock [fetch] add|or|and|xor[32]
//   [%rD+off], %rS   lock xchg|cmpxchg[32] [%rD+off], %rS
// and, of our own:
//   may_goto label|+n    ldacqb|h|w|dw %rD, [%rS+off]    strelb|h|w|dw [%rD+off], %rS
//   call kfunc n         lddw %rD, map n | mapvalue n+off | func label
//   raw 0x0123456789abcdef (one instruction as a little-endian word)
#pragma once
#include <linux/bpf.h>

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace bpftime::testing {

// Errors: EINVAL; *message (when given) says the line and what is wrong with it.
Result<std::vector<bpf_insn>> assemble(std::string_view text, std::string* message = nullptr);

// One case: the text of each `-- name` section. "" holds what stands before the first.
// A file may hold several cases, separated by lines `=== title`.
struct Case {
  std::string title;
  std::map<std::string, std::string> sections;
};
std::vector<Case> parse_cases(std::string_view text);

// "aa bb 0c" to bytes; comments and line ends are skipped.
std::vector<std::byte> parse_hex(std::string_view text);

// The program of a case: its `raw` section (8 bytes a line, in memory order or as one 0x word) or
// its `asm` section.
Result<std::vector<bpf_insn>> program_of(const Case& test, std::string* message = nullptr);

}  // namespace bpftime::testing
