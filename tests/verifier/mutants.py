#!/usr/bin/env python3
"""Seeds faults into the verifier and sees which test turns red. Usage: mutants.py BUILD_DIR [CLASS|NUMBER...]

Each row is one fault of a class that verifiers have had (docs/verifier.md): a file of src/verifier, a text in it that
occurs once, and what stands there instead. The file is compiled alone and linked in front of the built library into
the tests, which run in this order: random programs, the case files, the scalar domain (for faults in it). Prints a table; exit status 1 when
fewer than 95 % turned a test red, or when a row fits the source no longer.
"""
import collections
import concurrent.futures
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

MUTANTS = [
    # 32-bit view of 64-bit values, sign extension
    ("width", "alu.cpp", ": Scalar::constant(static_cast<uint32_t>(insn.imm)));", ": Scalar::constant(static_cast<uint64_t>(int64_t{insn.imm})));"),
    ("width", "alu.cpp", "    if (!is64) {\n      copy.num = copy.num.zero_extended(32);\n    }\n", ""),
    ("width", "alu.cpp", "copy.num = copy.num.sign_extended(", "copy.num = copy.num.zero_extended("),
    ("width", "alu.cpp", "result = Reg::scalar(alu(op, !is64, dst.num, number.num));", "result = Reg::scalar(alu(op, false, dst.num, number.num));"),
    ("width", "scalar.cpp", "*out_bits = shift_arithmetic<W>(bits, n);", "*out_bits = shift_right(bits, n);"),
    ("width", "memory.cpp", "    r->num = is_signed ? r->num.sign_extended(", "    r->num = false && is_signed ? r->num.sign_extended("),
    ("width", "scalar.cpp", "  r.low = range;\n  r.range.umax = Width<W / 2>::kMax;", "  r.low = range;\n  r.range.umax = Width<W / 2>::kMax >> 1;"),
    # branch refinement
    ("branch", "scalar.cpp", "    const uint64_t gap = or_equal ? 0 : 1;", "    const uint64_t gap = 1;"),
    ("branch", "scalar.cpp", "    const int64_t gap = or_equal ? 0 : 1;", "    const int64_t gap = 1;"),
    ("branch", "scalar.cpp", "  r->umax -= r->umax == c ? 1 : 0;", "  r->umax -= r->umax >= c ? 1 : 0;"),
    ("branch", "scalar.cpp", "    case BPF_JSGT:\n      order(true, false, b, a, &ok);", "    case BPF_JSGT:\n      order(true, false, a, b, &ok);"),
    ("branch", "scalar.cpp", "  if (hi - lo > Width<H>::kMax) {\n    return;\n  }\n", ""),
    ("branch", "scalar.cpp", "  if ((r->umin & kSign) == (r->umax & kSign)) {", "  if (r->umin <= r->umax) {"),
    ("branch", "jump.cpp", "  put_operands(taken, c, taken_dst, taken_src, linked);", "  put_operands(taken, c, other_dst, other_src, linked);"),
    # pruning, precision, liveness
    ("pruning", "precise.cpp", "      } else if (op != BPF_NEG && op != BPF_END && insn_has_reg(insn.code)) {\n        add(insn.src_reg);", "      } else if (op != BPF_NEG && op != BPF_END && insn_has_reg(insn.code)) {"),
    ("pruning", "precise.cpp", "        if (insn_has_reg(insn.code)) {\n          add(insn.src_reg);\n        }", ""),
    ("pruning", "precise.cpp", "          if ((insn.imm & BPF_FETCH) != 0 && ((set->regs[d] >> result) & 1) != 0) {", "          if (false && ((set->regs[d] >> result) & 1) != 0) {"),
    ("pruning", "precise.cpp", "          if (cls == BPF_STX) {\n            add(insn.src_reg);\n          }", ""),
    ("pruning", "precise.cpp", "      if (insn_has_reg(insn.code) && (has(insn.dst_reg) || has(insn.src_reg))) {", "      if (false) {"),
    ("pruning", "explore.cpp", "  propagate_precision(*old, &cur());\n", ""),
    ("pruning", "alu.cpp", "    return (!has_reg || mark_precise(insn.src_reg)) &&\n           check_pointer_alu(", "    return check_pointer_alu("),
    ("pruning", "jump.cpp", "    return mark_precise(c.insn.dst_reg) && (!c.has_reg || mark_precise(c.insn.src_reg)) &&\n           go(c, may_take);", "    return go(c, may_take);"),
    ("pruning", "compare.cpp", "    return facts_[state.insn].live;", "    return facts_[state.insn].live & 0x7bf;"),
    ("pruning", "compare.cpp", "    return older.num.includes(newer.num) && older.has_delta", "    return older.has_delta"),
    ("pruning", "compare.cpp", "      if (was == ByteKind::kZero) {\n        if (is != ByteKind::kZero) {\n          return false;", "      if (was == ByteKind::kZero) {\n        if (false) {\n          return false;"),
    # linked scalars and spills
    ("linked", "alu.cpp", "insn.off == 0 ? is64 || umax <= UINT32_MAX : umax", "insn.off == 0 ? true : umax"),
    ("linked", "jump.cpp", "    const int64_t delta = int64_t{r.delta} - int64_t{known.delta};", "    const int64_t delta = 0 * (int64_t{r.delta} - int64_t{known.delta});"),
    ("linked", "alu.cpp", "  if (is64 && op == BPF_ADD && dst.id != 0 && !dst.has_delta && number", "  if (is64 && op == BPF_ADD && dst.id != 0 && number"),
    ("linked", "alu.cpp", "      result.has_delta = true;\n      result.delta = static_cast<int32_t>(delta);\n", ""),
    ("linked", "stack.cpp", "      const bool fits = size == 8 || value.num.range.umax <= (1ULL << (size * 8)) - 1;", "      const bool fits = true;"),
    ("linked", "stack.cpp", "      if (fits && value_reg >= 0) {", "      if (value_reg >= 0) {"),
    ("linked", "stack.cpp", "  if (at.is_spill()) {\n    scrub(&at);\n  }\n", ""),
    # pointer arithmetic, offset overflow
    ("arithmetic", "alu.cpp", "  if (range.smin == INT64_MIN) {", "  if (false) {"),
    ("arithmetic", "alu.cpp", "  if (pointer.or_null()) {", "  if (false) {"),
    ("arithmetic", "alu.cpp", "  if (op == BPF_SUB && !is_dst_pointer) {", "  if (false) {"),
    ("arithmetic", "alu.cpp", "op == BPF_ADD ? int64_t{pointer.off} + known : int64_t{pointer.off} - known;", "int64_t{pointer.off} + known;"),
    ("arithmetic", "alu.cpp", "  if (out || r.off >= kMostOffset || r.off <= -kMostOffset) {", "  if (false) {"),
    ("arithmetic", "alu.cpp", "  if (op != BPF_ADD && op != BPF_SUB) {", "  if (false) {"),
    ("arithmetic", "alu.cpp", "    case RegKind::kPacketEnd:\n    case RegKind::kSocket:", "    case RegKind::kSocket:"),
    # stack, bounds, uninitialised registers
    ("bounds", "memory.cpp", "  if (highest < 0 || highest + size > region) {", "  if (highest < 0 || highest > region) {"),
    ("bounds", "memory.cpp", "      lowest < -kMostStack || highest + size > 0) {", "      lowest < -kMostStack || highest > 0) {"),
    ("bounds", "memory.cpp", "      lowest < -kMostStack || highest + size > 0) {", "      lowest < -kMostStack - 8 || highest + size > 0) {"),
    ("bounds", "memory.cpp", "  if (lowest < 0 || (size == 0 && !zero_allowed) || lowest + size > region) {", "  if ((size == 0 && !zero_allowed) || lowest + size > region) {"),
    ("bounds", "memory.cpp", "  const int64_t fixed = off + base.off;\n  if (base.num.range.smin < 0 &&", "  const int64_t fixed = base.off;\n  if (base.num.range.smin < 0 &&"),
    ("bounds", "alu.cpp", "  if (reg(n).kind == RegKind::kNone) {", "  if (false) {"),
    ("bounds", "stack.cpp", "    if (is_zero && s.bytes[byte] == ByteKind::kZero) {", "    if (s.bytes[byte] == ByteKind::kZero) {"),
    # type confusion: maps, helper arguments
    ("types", "argument.cpp", "      if (r.kind != RegKind::kMap || r.off != 0 || r.or_null()) {", "      if (r.off != 0 || r.or_null()) {"),
    ("types", "memory.cpp", "  if ((m.map_flags & (is_write ? BPF_F_RDONLY_PROG : BPF_F_WRONLY_PROG)) != 0) {\n    return refuse(EACCES, \"%s into map forbidden, value_size=%u off=%lld", "  if ((m.map_flags & (is_write ? 0U : BPF_F_WRONLY_PROG)) != 0) {\n    return refuse(EACCES, \"%s into map forbidden, value_size=%u off=%lld"),
    ("types", "argument.cpp", "           check_helper_memory(regno, map(static_cast<uint32_t>(args->map)).key_size, false, false);", "           true;"),
    ("types", "argument.cpp", "      if (r.kind != RegKind::kCtx) {", "      if (false) {"),
    ("types", "memory.cpp", "  if (base.or_null()) {\n    return refuse(EACCES, \"R%d invalid mem access", "  if (false) {\n    return refuse(EACCES, \"R%d invalid mem access"),
    ("types", "argument.cpp", "  if (!r.num.is_constant()) {\n    return refuse(EACCES, \"R%d is not a constant address", "  if (false) {\n    return refuse(EACCES, \"R%d is not a constant address"),
    ("types", "argument.cpp", "      ok = check_map_use(proto.id, map(r.object), proto.name);", "      ok = true;"),
    # packet and context
    ("packet", "jump.cpp", "  const auto size = static_cast<uint32_t>(pointer.off + beyond);", "  const auto size = static_cast<uint32_t>(pointer.off + 1);"),
    ("packet", "jump.cpp", "      case BPF_JGT:\n        op = BPF_JLT;\n        break;", "      case BPF_JGT:\n        break;"),
    ("packet", "jump.cpp", "    if (r.kind == kind && r.id == pointer.id) {", "    if (r.kind == kind) {"),
    ("packet", "call.cpp", "  if ((proto->effects & kChangesPacket) != 0 || writes_packet) {", "  if (false) {"),
    ("packet", "alu.cpp", "      result.id = new_id();\n      result.size = 0;", "      result.id = new_id();"),
    ("packet", "memory.cpp", "  if (!base.num.is_constant()) {\n    return refuse(EACCES, \"variable ctx access", "  if (false) {\n    return refuse(EACCES, \"variable ctx access"),
    # references, locks
    ("references", "explore.cpp", "  if (!check_no_references(\"BPF_EXIT instruction in main prog\")) {", "  if (false) {"),
    ("references", "call.cpp", "    if (!check_no_references(\"tail_call\")) {", "    if (false) {"),
    ("references", "reference.cpp", "    if (r.ref == id) {", "    if (r.ref == id && &r == &reg(1)) {"),
    ("references", "reference.cpp", "  refs.erase(it);\n", ""),
    ("references", "compare.cpp", " || older->refs.size() != newer->refs.size() ||", " || older->refs.size() > newer->refs.size() ||"),
    ("references", "argument.cpp", "  if (r.kind != RegKind::kMem || (r.flags & kRingbufRecord) == 0 || r.or_null()) {", "  if (r.kind != RegKind::kMem || (r.flags & kRingbufRecord) == 0) {"),
    # loops, callbacks
    ("loops", "explore.cpp", "      if (num.range.smin < callee.return_min || num.range.smax > callee.return_max) {", "      if (false) {"),
    ("loops", "jump.cpp", "    widen_against(&state, *previous);\n", ""),
    ("loops", "explore.cpp", "    return refuse(EINVAL, \"infinite loop detected at insn %u\", at);\n", "    return *covered = true;\n"),
    ("loops", "explore.cpp", "        widen_against(&state, *older);\n", ""),
    ("loops", "explore.cpp", "      cur().back_edges += jumps_back(at) ? 1 : 0;\n", ""),
    ("loops", "explore.cpp", "  pruned_remaining_ = in_progress != nullptr ? UINT32_MAX : old->remaining;", "  pruned_remaining_ = 0;"),
    # what compilers rely on
    ("facts", "learn.cpp", "  return mark_precise(insn.src_reg);", "  return true;"),
    ("facts", "learn.cpp", "  return mark_slot_precise(key.frame, slot);", "  return true;"),
    ("facts", "learn.cpp", "  known.points_to |= place;", "  known.points_to = place;"),
    ("facts", "learn.cpp", "is_first_visit_ ? alignment : std::min(known.alignment, alignment);", "alignment;"),
    ("facts", "learn.cpp", "both ? kGoesOn | kJumps : jumps ? kJumps : kGoesOn;", "jumps ? kJumps : kGoesOn;"),
    # what programs own, lists and trees
    ("owned", "owned.cpp", "  refs.erase(held);\n", ""),
    ("owned", "owned.cpp", "    if ((r.flags & kNonOwning) != 0) {", "    if (false) {"),
    ("owned", "owned.cpp", "    if (r.ref == ref) {\n      r.ref = r.id = 0;", "    if (r.ref == ref && &r == &reg(2)) {\n      r.ref = r.id = 0;"),
    ("owned", "owned.cpp", " && (r.flags & kNot) == 0 &&\n         r.ref != 0;", ";"),
    ("owned", "owned.cpp", "    if (at < int64_t{field.offset} + field.size_bytes && int64_t{field.offset} < at + a.size) {", "    if (at == int64_t{field.offset}) {"),
    ("owned", "owned.cpp", "call->object.ref != 0 ? 0 : kOrNull", "0"),
    ("owned", "owned.cpp", "         ((r.flags & kPerCpu) != 0) == is_per_cpu;", "         true;"),
    ("owned", "graph.cpp", "  return is_held || refuse(", "  return true || refuse("),
    ("owned", "graph.cpp", "? r.owner : r.ref;", "? r.owner : 0;"),
    ("owned", "graph.cpp", "  if (call->root == nullptr || call->root->pointee != r.object ||", "  if (call->root == nullptr ||"),
    ("owned", "graph.cpp", "      int64_t{call->root->node_offset} != at) {", "      false) {"),
    ("owned", "reference.cpp", "    drop_non_owning();\n", ""),
    # exceptions
    ("exceptions", "exception.cpp", "  if (!check_no_references(\"bpf_throw\")) {", "  if (false) {"),
    ("exceptions", "exception.cpp", "    if (is_called_back[function] != 0 && is_throw(insn)) {", "    if (false) {"),
    ("exceptions", "exception.cpp", "        function_at(static_cast<uint32_t>(int64_t{i} + 1 + insn.imm)) == exception_callback_) {", "        false) {"),
    ("exceptions", "function.cpp", "  if (callee.may_throw && !check_no_references(", "  if (false && !check_no_references("),
]


def run(command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def ninja_commands(build, target):
    return run(["ninja", "-C", str(build), "-t", "commands", target]).stdout.splitlines()


def link_command(build, test):
    """The last command, as one linker call: what stands behind && is not needed."""
    line = ninja_commands(build, test)[-1]
    return shlex.split(next(part for part in line.split("&&") if f"-o bin/{test}" in part))


def compile_command(build, file):
    line = next(l for l in ninja_commands(build, "bpftime_verifier") if f"src/verifier/{file}" in l and " -c " in l)
    words = shlex.split(line)
    return ["-O1" if w == "-O2" else w for w in words if w not in ("-g", "-MD")]


TESTS = [("verifier_layers_test", "random programs"), ("verifier_cases_test", "case files")]
TESTS_OF = {"scalar.cpp": [*TESTS, ("verifier_scalar_test", "scalar domain")],
            "learn.cpp": [*TESTS, ("verifier_learn_test", "single instructions")]}


def judge(build, number, row):
    """Which test turned red: its name, '' for none, or None when the row is out of date."""
    kind, file, old, new = row
    text = (ROOT / "src/verifier" / file).read_text()
    if text.count(old) != 1:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, mutant = pathlib.Path(folder) / file, pathlib.Path(folder) / "mutant.o"
        source.write_text(text.replace(old, new))
        command = compile_command(build, file)
        command[command.index("-o") + 1] = str(mutant)
        command[command.index("-c") + 1] = str(source)
        for flag in ("-MT", "-MF"):
            if flag in command:
                del command[command.index(flag):command.index(flag) + 2]
        built = run([*command, "-Wno-error", "-w"], cwd=build)
        if built.returncode != 0:
            return None
        for test, name in TESTS_OF.get(file, TESTS):
            program = pathlib.Path(folder) / test
            link = link_command(build, test)
            at = link.index("-o")
            linked = run([*link[:at], str(mutant), "-o", str(program), *link[at + 2:]], cwd=build)
            if linked.returncode != 0:
                return None
            filters = "-*Kernel*"  # the kernel is not what is looked at
            try:
                done = run([program, "--gtest_brief=1", f"--gtest_filter={filters}"], timeout=240, cwd=ROOT)
            except subprocess.TimeoutExpired:
                return name + " (does not end)"
            if done.returncode != 0:
                return name
    return ""


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    wanted = sys.argv[2:]
    rows = [(i, row) for i, row in enumerate(MUTANTS) if not wanted or row[0] in wanted or str(i) in wanted]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = []
        for (number, (kind, file, old, new)), result in zip(rows, pool.map(lambda r: judge(build, *r), rows)):
            found.append(result)
            shown = "OUT OF DATE" if result is None else f"killed by {result}" if result else "SURVIVED"
            print(f"{number:3} {kind:11} {file:12} {shown:32} {' '.join(old.split())[:70]}", flush=True)
    by_class = collections.OrderedDict()
    for (number, (kind, file, old, new)), result in zip(rows, found):
        count = by_class.setdefault(kind, [0, 0])
        count[0] += 1
        count[1] += bool(result)
    print()
    for kind, (count, killed) in by_class.items():
        print(f"{kind:12}{killed:3} of {count}")
    killed = sum(bool(r) for r in found)
    print(f"killed {killed} of {len(rows)} ({100 * killed / len(rows):.1f} %)")
    sys.exit(0 if killed >= 0.95 * len(rows) and None not in found else 1)


if __name__ == "__main__":
    main()
