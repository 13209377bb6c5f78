// The instructions are gone through once to learn what the program uses (analyse), then twice to
// write code: the first round takes long forms for forward jumps, the second, knowing where
// everything lay at most, takes short ones where they reach. Code only shrinks between the rounds,
// so what was short enough stays short enough.
#include "jit_x64/compile.hpp"

#include <cpuid.h>

#include <algorithm>
#include <cerrno>

#include "jit_x64/compiler.hpp"

namespace bpftime {
namespace x64 {

Compiler::Compiler(const DecodedProgram& program, const CompileOptions& options)
    : insns_(program.insns),
      program_(program),
      options_(options),
      count_(static_cast<uint32_t>(program.insns.size())),
      out_(count_ * size_t{6} + 512),
      flow_(program.insns, options) {}

Result<CompiledProgram> Compiler::run() {
  const uint32_t depth = TRY(call_depth(program_));
  TRY(analyse());
  offset_of_.resize(count_ + 1);
  for (const bool is_last : {false, true}) {
    is_last_round_ = is_last;
    out_.clear();
    emit_all();
    if (out_.position() > INT32_MAX / 2) {
      return make_error(E2BIG, "program needs too much code");
    }
  }
  patch_jumps_and_calls();
  CompiledProgram compiled{};
  const auto* bytes = reinterpret_cast<const std::byte*>(out_.data());
  compiled.code.assign(bytes, bytes + out_.position());
  compiled.slots = slots_.take();
  if (needs_hit_) {
    compiled.faults.push_back({body_begin_, body_end_, leave_stub_});
    append_fixups(&compiled);
  }
  compiled.facts = facts();
  compiled.stack_bytes = stack_bytes() * depth;
  return compiled;
}

void Compiler::patch_jumps_and_calls() {
  for (const Fixup& jump : fixups_) {
    if (jump.is_short) {
      out_.point8(jump.at, offset_of_[jump.target]);
    } else {
      out_.point32(jump.at, offset_of_[jump.target]);
    }
  }
  for (const Fixup& call : call_fixups_) {
    out_.point32(call.at, functions_[call.target].entry);
  }
  for (const Fixup& thunk : thunk_fixups_) {
    out_.point32(thunk.at, functions_[thunk.target].callback_thunk);
  }
}

uint32_t Compiler::facts() const {
  return (calls_helpers_ || has_callbacks_ ? uint32_t{kCallsHelpers} : 0) |
         (counts_fuel_ || has_callbacks_ ? uint32_t{kCountsFuel} : 0) |
         (out_.touches_more() ? uint32_t{kTouchesMore} : 0) |
         (reads_inline_ ? uint32_t{kReadsInline} : 0) |
         (makes_tail_calls_ ? uint32_t{kMakesTailCalls} : 0);
}

void Compiler::emit_all() {
  reads_.clear();
  read_fixups_.clear();
  leave_fixups_.clear();
  for (Function& function : functions_) {
    out_.make_room();
    if (function.is_callback) {
      emit_callback_thunk(&function);
    }
    function.entry = out_.position();
    if (flow_.is_reached(function.begin)) {
      emit_function(function);
    } else {
      std::fill(offset_of_.begin() + function.begin, offset_of_.begin() + function.end,
                function.entry);
    }
  }
  for (const InlineRead& read : reads_) {
    out_.make_room();
    emit_read_aside(read);
  }
  out_.make_room();
  body_end_ = out_.position();
  offset_of_[count_] = body_end_;  // jumps to the fuel stub go there
  if (needs_hit_) {
    emit_leave_stub();
  }
}

void Compiler::emit_function(const Function& function) {
  emit_prologue(function);
  for (uint32_t i = function.begin; i < function.end;) {
    out_.make_room();
    old_offset_ = offset_of_[i];
    offset_of_[i] = out_.position();
    const uint32_t taken = flow_.needs_code(i) ? emit_insn(function, i) : 1;
    for (uint32_t skipped = i + 1; skipped < i + taken; ++skipped) {
      offset_of_[skipped] = out_.position();
    }
    i += taken;
  }
}

uint32_t Compiler::emit_insn(const Function& function, uint32_t i) {
  const bpf_insn& insn = insns_[i];
  switch (insn_class(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      return emit_alu(function, i);
    case BPF_LD:
      emit_load_constant(i);
      return 2;
    case BPF_LDX:
      if (insn.code == kByteLoad) {
        if (const uint32_t taken = emit_joined_load(function, i); taken != 0) {
          return taken;
        }
      }
      emit_load(insn);
      return 1;
    case BPF_ST:
      emit_store_imm(insn);
      return 1;
    case BPF_STX:
      if (insn_mode(insn.code) == BPF_ATOMIC) {
        emit_atomic(insn);
      } else {
        emit_store(insn);
      }
      return 1;
    default:
      if (insn.code == kOpExit) {
        emit_exit(function);
      } else if (insn.code == kOpCall) {
        emit_call(i);
      } else {
        emit_branch(i);
      }
      return 1;
  }
}

}  // namespace x64

Result<CompiledProgram> compile_x64(const DecodedProgram& program, const CompileOptions& options) {
  return x64::Compiler(program, options).run();
}

bool host_has_bmi2() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b >> 8 & 1) != 0;
}

}  // namespace bpftime
