// Reads of user memory, compiled inline (docs/decisions/0005). rdi = to, rdx = from; rsi = bytes, for the slow way.
#include "jit_x64/compiler.hpp"

namespace bpftime::x64 {

// Changes rax and rcx, what a helper may change. All is loaded before anything is stored: where a load faults, the slow
// way finds the arguments, and does what the helper does.
void Compiler::emit_read(uint32_t bytes) {
  InlineRead read{};
  emit_read_hit_check(bytes, &read);
  const uint8_t size = bytes >= 8 ? BPF_DW : bytes >= 4 ? BPF_W : bytes >= 2 ? BPF_H : BPF_B;
  const uint32_t part = bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1;
  const auto rest = static_cast<int32_t>(bytes - part);  // the parts overlap
  read.loads_begin = out_.position();
  emit_load_sized(size, kRax, kRdx, 0);
  if (rest != 0) {
    emit_load_sized(size, kRcx, kRdx, rest);
  }
  read.loads_end = out_.position();
  emit_store_sized(size, kRdi, 0, kRax);
  if (rest != 0) {
    emit_store_sized(size, kRdi, rest, kRcx);
  }
  out_.mov_imm(kRax, 0);
  read.back = out_.position();
  reads_.push_back(read);
}

// Jumps to the slow way unless all bytes lie in one page, that page is in the cache, and the cache is young enough.
void Compiler::emit_read_hit_check(uint32_t bytes, InlineRead* read) {
  const ReadCache& cache = *options_.read_cache;
  out_.mov(true, kRax, kRdx);
  out_.group1_imm(true, kOr, kRax, static_cast<int32_t>(cache.page_mark));  // the page's last byte
  out_.lea(true, kRcx, kRdx, static_cast<int32_t>(bytes) - 1);
  out_.group1_rr(true, kCmp, kRcx, kRax);
  read->misses[0] = out_.near_jump_if(kAbove);
  out_.mov(false, kRcx, kRdx);
  out_.shift_imm(false, kShr, kRcx, 12);
  out_.group1_imm(false, kAnd, kRcx, static_cast<int32_t>(cache.page_count) - 1);
  out_.lea(true, kRcx, kHit, kRcx, 3, cache.pages);
  out_.op_rm(true, 0x3b, kRax, kRcx, 0);
  read->misses[1] = out_.near_jump_if(kNotEqual);
  out_.load64(kRax, kHit, cache.hits);
  out_.shift_imm(true, kShr, kRax, cache.age_shift);
  out_.op_rm(true, 0x3b, kRax, kHit, cache.age);
  read->misses[2] = out_.near_jump_if(kNotEqual);
}

// The slow way, behind all functions.
void Compiler::emit_read_aside(const InlineRead& read) {
  const uint32_t begin = out_.position();
  for (const uint32_t miss : read.misses) {
    out_.point32(miss, begin);
  }
  read_fixups_.push_back({read.loads_begin, read.loads_end, begin});
  leave_fixups_.push_back(out_.lea_rip(kRcx));
  emit_slot_call(slots_.intern(SlotKind::kReadAside, 0, 0));
  out_.point32(out_.near_jump(), read.back);
}

// Behind the code, for the fault handler.
void Compiler::append_fixups(CompiledProgram* compiled) const {
  if (read_fixups_.empty()) {
    return;
  }
  FaultRange& body = compiled->faults.back();
  compiled->code.resize((compiled->code.size() + 3) / 4 * 4);
  body.reads_at = static_cast<uint32_t>(compiled->code.size());
  body.read_count = static_cast<uint32_t>(read_fixups_.size());
  for (const ReadFixup& fixup : read_fixups_) {
    const ReadFixup from_body = {fixup.begin - body_begin_, fixup.end - body_begin_,
                                 fixup.resume - body_begin_};
    const auto* const bytes = reinterpret_cast<const std::byte*>(&from_body);
    compiled->code.insert(compiled->code.end(), bytes, bytes + sizeof(from_body));
  }
}

}  // namespace bpftime::x64
