#!/usr/bin/env python3
"""Makes the table-driven case files of tests/data/verifier. As root, on a kernel with eBPF: verdicts are the kernel's.

Usage: make_cases.py BUILD_DIR [--reasons] [NAME...]
A file is written only when every program of it got a verdict. --reasons also writes down what our verifier says of the
programs that it and the kernel reject. Where ours differs, the case keeps the `policy` line that the old file has for
that title, else the kernel's verdict stands and the test is red until that is settled.
"""
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import kernel_cases

root = pathlib.Path(__file__).resolve().parents[2]
folder = root / "tests/data/verifier"

MAPS = {
    1: "hash key=8 value=16",
    2: "array key=4 value=16",
    3: "ringbuf key=0 value=0 entries=4096",
    4: "perf_event_array key=4 value=4",
    5: "prog_array key=4 value=4",
    6: "stack_trace key=4 value=80",
    7: "array btf=lock",
    8: "array btf=timer",
    9: "array btf=kptr",
    10: "array key=4 value=16 entries=1 flags=0x80 content=41420000000000000000000000000000 frozen",
    11: "queue key=0 value=16",
    12: "array key=4 value=16 flags=0x80",
    13: "array key=4 value=16 flags=0x100",
    21: "array btf=list entries=1",
    22: "array btf=tree entries=1",
    23: "array btf=both entries=1",
    24: "array btf=stash entries=1",
    27: "array btf=twins entries=1",
    14: "array key=4 value=16 entries=1 flags=0x80 content=" + "41" * 16 + " frozen",
    15: "sockmap key=4 value=8",
    16: "sockhash key=4 value=8",
}


def lines(text):
    """`a; b` to lines."""
    return [part.strip() for part in re.split(r"[;\n]", text) if part.strip()]


def case(title, asm, prog_type="kprobe", context=()):
    asm = lines(asm) if isinstance(asm, str) else [l for part in asm for l in lines(part)]
    used = sorted({int(n) for l in asm for n in re.findall(r"(?:map|mapvalue) (\d+)", l)})
    head = [f"type {prog_type}", *context, *(f"map {n} {MAPS[n]}" for n in used)]
    return title, head, asm


# ---- registers of every kind, in %r6; %r9 is the context, fp-8 ... fp-64 are zero ----

PROLOGUE = "mov %r9, %r1; " + "; ".join(f"stdw [%r10-{n}], 0" for n in range(8, 72, 8))
LOOKUP = "lddw %r1, map 2; mov %r2, %r10; add %r2, -8; call map_lookup_elem"
VALUE = LOOKUP + "; jeq %r0, 0, out; mov %r6, %r0"
RECORD = "lddw %r1, map 3; mov %r2, 16; mov %r3, 0; call ringbuf_reserve; jeq %r0, 0, out; mov %r6, %r0"
SUBMIT = "mov %r1, %r6; mov %r2, 0; call ringbuf_submit"
UNKNOWN = "call ktime_get_ns; mov %r6, %r0"
KINDS = {
    "zero": ("mov %r6, 0", ""),
    "the constant 16": ("mov %r6, 16", ""),
    "the constant -1": ("mov %r6, -1", ""),
    "an unknown number": (UNKNOWN, ""),
    "a number up to 16": (UNKNOWN + "; and %r6, 31; jgt %r6, 16, out", ""),
    "a number from 1 to 16": (UNKNOWN + "; jgt %r6, 16, out; jeq %r6, 0, out", ""),
    "the frame's end": ("mov %r6, %r10", ""),
    "initialised stack": ("mov %r6, %r10; add %r6, -32", ""),
    "stack never written": ("mov %r6, %r10; add %r6, -256", ""),
    "stack at an unknown offset": (UNKNOWN + "; and %r6, 15; add %r6, -64; add %r6, %r10", ""),
    "the context": ("mov %r6, %r9", ""),
    "the context and 8": ("mov %r6, %r9; add %r6, 8", ""),
    "a map": ("lddw %r6, map 1", ""),
    "a map value": (VALUE, ""),
    "a map value or null": (LOOKUP + "; mov %r6, %r0", ""),
    "a map value's last byte": (VALUE + "; add %r6, 15", ""),
    "a map value at an unknown offset": (VALUE + "; mov %r7, %r6; " + UNKNOWN + "; and %r6, 255; add %r6, %r7", ""),
    "a ring buffer record": (RECORD, SUBMIT),
    "read-only data": ("lddw %r6, mapvalue 10+0", ""),
    "a register never written": ("", ""),
}


def fp(offset):
    return lambda r: f"mov {r}, %r10; add {r}, {offset}"


def imm(n):
    return lambda r: f"mov {r}, {n}"


def the_map(n):
    return lambda r: f"lddw {r}, map {n}"


def ctx(r):
    return f"mov {r}, %r9"


def special(n):
    """A value of map n, looked up before: kept in %r8."""
    return lambda r: f"mov {r}, %r8"


def look(n):
    return f"lddw %r1, map {n}; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; mov %r8, %r0"


RELEASE = "jeq %r0, 0, out; mov %r1, %r0; mov %r2, 0; call ringbuf_submit"
# argument kind: helper, all arguments as they should be, which one is replaced, before, after
SLOTS = {
    "a map": ("map_lookup_elem", [the_map(1), fp(-8)], 0, "", ""),
    "a key": ("map_lookup_elem", [the_map(1), fp(-8)], 1, "", ""),
    "a value": ("map_update_elem", [the_map(1), fp(-8), fp(-32), imm(0)], 2, "", ""),
    "flags": ("map_update_elem", [the_map(1), fp(-8), fp(-32), imm(0)], 3, "", ""),
    "memory to write": ("probe_read_kernel", [fp(-16), imm(8), imm(0)], 0, "", ""),
    "a size that may be 0": ("probe_read_kernel", [fp(-16), imm(8), imm(0)], 1, "", ""),
    "anything": ("probe_read_kernel", [fp(-16), imm(8), imm(0)], 2, "", ""),
    "memory to write, size above 0": ("get_current_comm", [fp(-16), imm(8)], 0, "", ""),
    "a size above 0": ("get_current_comm", [fp(-16), imm(8)], 1, "", ""),
    "memory to read": ("ringbuf_output", [the_map(3), fp(-16), imm(8), imm(0)], 1, "", ""),
    "a size to read": ("ringbuf_output", [the_map(3), fp(-16), imm(8), imm(0)], 2, "", ""),
    "the context": ("perf_event_output", [ctx, the_map(4), imm(0), fp(-16), imm(8)], 0, "", ""),
    "a perf event array": ("perf_event_output", [ctx, the_map(4), imm(0), fp(-16), imm(8)], 1, "", ""),
    "a stack map": ("get_stackid", [ctx, the_map(6), imm(0)], 1, "", ""),
    "a ring buffer": ("ringbuf_reserve", [the_map(3), imm(16), imm(0)], 0, "", RELEASE),
    "a size known at load": ("ringbuf_reserve", [the_map(3), imm(16), imm(0)], 1, "", RELEASE),
    "a record": ("ringbuf_submit", [ctx, imm(0)], 0, "", ""),
    "a program array": ("tail_call", [ctx, the_map(5), imm(0)], 1, "", ""),
    "a constant string": ("strncmp", [fp(-16), imm(8), lambda r: f"lddw {r}, mapvalue 10+0"], 2, "", ""),
    "a spin lock": ("spin_lock", [special(7)], 0, look(7), "mov %r1, %r8; call spin_unlock"),
    "a timer": ("timer_init", [special(8), the_map(8), imm(1)], 0, look(8) + "; add %r8, 8", ""),
    "a kernel pointer's place": ("kptr_xchg", [special(9), imm(0)], 0, look(9) + "; add %r8, 8", "jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_task_release"),
    "a queue's value": ("map_peek_elem", [the_map(11), fp(-16)], 1, "", ""),
}


def helper_arguments():
    for slot, (helper, arguments, index, before, after) in SLOTS.items():
        for kind, (setup, cleanup) in {"what it should be": (None, ""), **KINDS}.items():
            if setup is None and slot == "a record":
                continue
            args = [make(f"%r{i + 1}") for i, make in enumerate(arguments)]
            if setup is not None:
                args[index] = f"mov %r{index + 1}, %r6"
            if slot == "a record" and kind == "a ring buffer record":
                cleanup = ""
            # A jump to the end while a record is held would leak it: what is after comes last.
            yield case(f"{helper}: for {slot}, {kind}",
                       [PROLOGUE, before, setup or "", *args, f"call {helper}", cleanup or after,
                        "out:", "mov %r0, 0", "exit"],
                       "tc" if "timer" in helper or "lock" in helper else "kprobe")


# ---- memory: every kind of pointer, at its edges ----

def access():
    packet = "ldxw %r6, [%r9+0]; ldxw %r7, [%r9+4]; mov %r8, %r6; add %r8, 16; jgt %r8, %r7, out"
    pointers = {  # name: setup, offset of the first byte, bytes, program type
        "stack": ("mov %r6, %r10", -512, 512, "kprobe", ""),
        "a map value": (VALUE, 0, 16, "kprobe", ""),
        "a ring buffer record": (RECORD, 0, 16, "kprobe", SUBMIT),
        "a packet": (packet, 0, 16, "xdp", ""),
        "a map value a third in": (VALUE + "; add %r6, 5", -5, 16, "kprobe", ""),
        "a map value plus 0 to 7": (VALUE + "; mov %r7, %r6; " + UNKNOWN + "; and %r6, 7; add %r6, %r7", 0, 9, "kprobe", ""),
        "a packet plus 0 to 7": (packet + "; mov %r0, %r6; ldxb %r1, [%r0+0]; and %r1, 7; add %r6, %r1; mov %r8, %r6; add %r8, 16; jgt %r8, %r7, out", 0, 16, "xdp", ""),
        "read-only data": ("lddw %r6, mapvalue 10+0", 0, 16, "kprobe", ""),
        "a map that programs may not read": ("lddw %r1, map 13; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; mov %r6, %r0", 0, 16, "kprobe", ""),
        "a map that programs may not write": ("lddw %r1, map 12; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; mov %r6, %r0", 0, 16, "kprobe", ""),
    }
    sizes = {"b": 1, "dw": 8}
    for name, (setup, first, count, prog_type, cleanup) in pointers.items():
        for letter, size in sizes.items():
            for where, offset in {"before it": first - 1, "at its begin": first,
                                  "at its end": first + count - size,
                                  "over its end": first + count - size + 1,
                                  "behind it": first + count}.items():
                for verb, insn in {"read": f"ldx{letter} %r1, [%r6{offset:+d}]",
                                   "written": f"st{letter} [%r6{offset:+d}], 1"}.items():
                    full = name == "stack" and verb == "read"
                    init = "; ".join(f"stdw [%r10-{n}], 0" for n in (8, 512)) if full else ""
                    yield case(f"{size} bytes {verb}: {name}, {where}",
                               [PROLOGUE if prog_type == "kprobe" else "mov %r9, %r1", init, setup,
                                insn, cleanup, "out:", "mov %r0, 0", "exit"], prog_type)
    for name, (setup, first, count, prog_type, cleanup) in pointers.items():
        for insn in ("lock add [%r6{o}], %r1", "lock fetch add32 [%r6{o}], %r1", "lock xchg [%r6{o}], %r1",
                     "lock cmpxchg [%r6{o}], %r1", "ldxsw %r2, [%r6{o}]", "ldacqw %r2, [%r6{o}]", "strelw [%r6{o}], %r1"):
            offset = f"{-8 if name == 'stack' else first:+d}"
            yield case(f"{insn.replace('{o}', '')}: {name}",
                       [PROLOGUE if prog_type == "kprobe" else "mov %r9, %r1", setup, "mov %r0, 1; mov %r1, 1",
                        insn.replace("{o}", offset), cleanup, "out:", "mov %r0, 0", "exit"], prog_type)


# ---- contexts ----

def contexts():
    spots = {
        "kprobe": [0, 8, 104, 112, 160, 164, 168, 4, -8, 1],
        "tracepoint": [0, 8, 16, 64, 2040, 8184, 8192, -8, 3],
        "raw_tracepoint": [0, 8, 16, 88, 96, -8, 4],
        "perf_event": [0, 128, 168, 176, 184, 4],
        "socket": [0, 4, 8, 16, 48, 64, 68, 76, 80, 140, 144, 152, 160, 164, 168, 176, 184, 192, 2],
        "xdp": [0, 4, 8, 12, 16, 20, 24, 2],
        "tc": [0, 8, 12, 44, 48, 72, 76, 80, 128, 136, 140, 152, 160, 164, 168, 184, 188, 192],
    }
    for prog_type, offsets in spots.items():
        for offset, letter in itertools.product(offsets, ("w", "dw")):
            yield case(f"context of {prog_type}: {letter} at {offset}",
                       f"ldx{letter} %r0, [%r1{offset:+d}]; mov %r0, 0; exit", prog_type)
        for offset in offsets[:6]:
            yield case(f"context of {prog_type} written: at {offset}",
                       f"mov %r2, 0; stxw [%r1{offset:+d}], %r2; mov %r0, 0; exit", prog_type)
        for letter in "bh":
            yield case(f"context of {prog_type}: {letter} at 0", f"ldx{letter} %r0, [%r1+0]; mov %r0, 0; exit", prog_type)
    for prog_type in spots:
        for what, value in {"0": "mov %r0, 0", "1": "mov %r0, 1", "-1": "mov %r0, -1", "anything": "call ktime_get_ns",
                            "a pointer": "mov %r0, %r10", "nothing": ""}.items():
            yield case(f"{prog_type} returns {what}", f"{value}; exit", prog_type)
    for prog_type in spots:
        yield case(f"{prog_type}: the context at an unknown offset",
                   "mov %r6, %r1; call ktime_get_ns; and %r0, 8; add %r6, %r0; ldxw %r0, [%r6+0]; mov %r0, 0; exit", prog_type)


# ---- program types: contexts by expected_attach_type, packets, sockets, helpers ----

# name in titles: type, attach type, offsets of the context's edges and its odd fields, where packets, sockets and others lie
PROGRAM_TYPES = {
    "cgroup_skb ingress": ("cgroup_skb", 0, [8, 32, 48, 72, 76, 92, 132, 140, 152, 160, 168, 180, 184, 192], {"packet": ("w", 76, 80), "sock or null": 168}),
    "cgroup_skb egress": ("cgroup_skb", 1, [8], {"packet": ("w", 76, 80)}),
    "cgroup_sock create": ("cgroup_sock", 2, [0, 4, 12, 16, 24, 44, 48, 50, 52, 72, 76, 80], {}),
    "cgroup_sock post_bind4": ("cgroup_sock", 12, [0, 4, 16, 24, 28, 44, 48], {}),
    "cgroup_sock post_bind6": ("cgroup_sock", 13, [0, 24, 28, 40, 44], {}),
    "cgroup_sock release": ("cgroup_sock", 34, [0, 16, 44], {}),
    "lwt_in": ("lwt_in", 0, [8, 12, 48, 72, 76, 88, 140, 152, 164, 168, 180], {"packet": ("w", 76, 80), "sock or null": 168}),
    "lwt_xmit": ("lwt_xmit", 0, [32, 44, 72], {"packet": ("w", 76, 80)}),
    "lwt_seg6local": ("lwt_seg6local", 0, [32, 72], {"packet": ("w", 76, 80)}),
    "sock_ops": ("sock_ops", 3, [0, 4, 8, 160, 164, 168, 172, 184, 192, 200, 208, 212, 216, 224], {"packet": ("dw", 192, 200), "sock or null": 184}),
    "sk_skb": ("sk_skb", 4, [4, 8, 12, 32, 44, 48, 76, 92, 132, 140, 168, 180], {"packet": ("w", 76, 80), "sock or null": 168}),
    "cgroup_device": ("cgroup_device", 6, [0, 4, 8, 12], {}),
    "sk_msg": ("sk_msg", 7, [0, 8, 16, 68, 72, 80], {"packet": ("dw", 0, 8), "sock": 72}),
    "sock_addr bind4": ("cgroup_sock_addr", 8, [0, 4, 8, 24, 28, 36, 40, 64, 72], {"sock": 64}),
    "sock_addr bind6": ("cgroup_sock_addr", 9, [4, 8, 12, 16, 20, 24, 44], {}),
    "sock_addr connect4": ("cgroup_sock_addr", 10, [4, 8], {}),
    "sock_addr sendmsg4": ("cgroup_sock_addr", 14, [40, 44], {}),
    "sock_addr sendmsg6": ("cgroup_sock_addr", 15, [44, 48, 52, 56, 60], {}),
    "sock_addr recvmsg4": ("cgroup_sock_addr", 19, [4, 40], {}),
    "sock_addr getpeername6": ("cgroup_sock_addr", 30, [8], {}),
    "sock_addr unix connect": ("cgroup_sock_addr", 49, [0, 4, 8, 24, 64], {}),
    "sock_addr unix recvmsg": ("cgroup_sock_addr", 51, [24], {}),
    "sk_reuseport": ("sk_reuseport", 39, [0, 8, 16, 20, 22, 24, 32, 36, 40, 48, 56], {"packet": ("dw", 0, 8), "sock": 40, "sock or null": 48}),
    "flow_dissector": ("flow_dissector", 17, [0, 76, 80, 144, 152], {"packet": ("w", 76, 80), "flow keys": 144}),
    "cgroup_sysctl": ("cgroup_sysctl", 18, [0, 4, 8], {}),
    "raw_tracepoint_writable": ("raw_tracepoint_writable", 0, [0, 1, 2, 4, 8, 88, 96], {"buffer": 0}),
    "getsockopt": ("cgroup_sockopt", 21, [0, 8, 16, 24, 28, 32, 36, 40], {"packet": ("dw", 8, 16), "sock": 0}),
    "setsockopt": ("cgroup_sockopt", 22, [24, 32, 36], {"packet": ("dw", 8, 16), "sock": 0}),
    "sk_lookup": ("sk_lookup", 36, [0, 4, 8, 12, 64, 68], {"sock or null": 0}),
    "netfilter": ("netfilter", 45, [0, 4, 8, 16], {"structure": 8}),
    "syscall": ("syscall", 0, [0, 4], {}),
    "xdp of a device map": ("xdp", 33, [16, 20, 24], {}),
}


def program_types():
    for name, (prog_type, attach, offsets, special) in PROGRAM_TYPES.items():
        head = [f"attach {attach}", *(["flags sleepable"] if prog_type == "syscall" else [])]

        def one(what, asm, more=()):
            return case(f"{name}: {what}", asm, prog_type, [*head, *more])

        end = "mov %r0, 1; exit"
        for offset in offsets:
            for letter in ("h", "w", "dw"):
                yield one(f"{letter} at {offset}", f"ldx{letter} %r0, [%r1+{offset}]; {end}")
            letter = "dw" if offset % 8 == 0 and offset >= 152 else "w"
            yield one(f"{letter} written at {offset}", f"mov %r2, 0; stx{letter} [%r1+{offset}], %r2; {end}")
        yield one("a byte written", f"mov %r2, 0; stxb [%r1+{offsets[0]}], %r2; {end}")
        for value in (-1, 0, 1, 2, 3, 4):
            yield one(f"returns {value}", f"mov %r0, {value}; exit")
        yield one("returns anything", "call get_prandom_u32; exit")
        # A few helpers that tell program types apart.
        for helper, args in {"get_retval": "", "set_retval": "mov %r1, 0", "ktime_get_coarse_ns": "", "get_socket_cookie": "",
                             "get_cgroup_classid": "", "get_netns_cookie": "mov %r1, 0", "skb_pull_data": "mov %r2, 0",
                             "sock_ops_cb_flags_set": "mov %r2, 0", "msg_apply_bytes": "mov %r2, 0", "get_func_ip": ""}.items():
            yield one(f"calls {helper}", f"{args}; call {helper}; {end}")
        for helper, args in {"bind": "", "getsockopt": "mov %r3, 1; mov %r2, 1;", "sysctl_get_name": "mov %r4, 0; "}.items():
            room = "%r4, %r10; add %r4, -16; mov %r5, 16" if helper == "getsockopt" else "%r2, %r10; add %r2, -16; mov %r3, 16"
            yield one(f"calls {helper}", f"stdw [%r10-8], 0; stdw [%r10-16], 0; {args} mov {room}; call {helper}; {end}")
        if "packet" in special:
            letter, begin, finish = special["packet"]
            load = f"mov %r9, %r1; ldx{letter} %r6, [%r1+{begin}]; ldx{letter} %r7, [%r1+{finish}]; mov %r8, %r6; add %r8, 16; jgt %r8, %r7, out"
            for what, asm in {"packet read": "ldxdw %r0, [%r6+8]", "packet read beyond": "ldxdw %r0, [%r6+9]", "packet written": "stb [%r6+0], 1",
                              "packet as a key": "lddw %r1, map 1; mov %r2, %r6; call map_lookup_elem",
                              "packet as a value": "lddw %r1, map 1; mov %r2, %r6; mov %r3, %r6; mov %r4, 0; call map_update_elem",
                              "packet to print": "mov %r1, %r6; mov %r2, 8; call trace_printk",
                              "packet to be written": "mov %r1, %r6; mov %r2, 16; call get_current_comm"}.items():
                yield one(what, [load, asm, "out:", end])
        for kind in ("sock", "sock or null"):
            if kind not in special:
                continue
            load = f"ldxdw %r6, [%r1+{special[kind]}]"
            yield one(f"{kind}: read, not checked", f"{load}; ldxw %r0, [%r6+4]; {end}")
            for offset, letter in ((0, "w"), (4, "h"), (4, "b"), (8, "w"), (12, "w"), (16, "w"), (24, "b"), (26, "h"), (44, "h"), (46, "h"), (48, "w"), (50, "h"),
                                   (52, "w"), (72, "w"), (76, "w"), (80, "w"), (8, "dw")):
                yield one(f"{kind}: {letter} at {offset}", [load, "jeq %r6, 0, out", f"ldx{letter} %r0, [%r6+{offset}]", "out:", end])
            yield one(f"{kind}: written", [load, "jeq %r6, 0, out", "mov %r2, 0; stxw [%r6+4], %r2", "out:", end])
            yield one(f"{kind}: moved", [load, "jeq %r6, 0, out", "add %r6, 4; ldxw %r0, [%r6+0]", "out:", end])
            for helper in ("sk_fullsock", "tcp_sock", "skc_to_tcp_sock", "sk_release"):
                yield one(f"{kind}: {helper}", [load, "jeq %r6, 0, out", f"mov %r1, %r6; call {helper}", "out:", end])
        if "flow keys" in special or "buffer" in special:
            load = f"ldxdw %r6, [%r1+{special.get('flow keys', 0)}]"
            for what, asm in {"its first bytes": "ldxdw %r0, [%r6+0]", "its last byte": "ldxb %r0, [%r6+55]", "beyond": "ldxh %r0, [%r6+55]", "before": "ldxb %r0, [%r6-1]",
                              "written": "mov %r2, 1; stxdw [%r6+8], %r2", "moved": "add %r6, 64; ldxb %r0, [%r6-60]", "moved by a number": "call get_prandom_u32; and %r0, 7; add %r6, %r0; ldxb %r0, [%r6+0]",
                              "atomic": "mov %r2, 1; lock add [%r6+0], %r2", "for a helper": "mov %r1, %r6; mov %r2, 8; call trace_printk",
                              "a pointer stored": "stxdw [%r6+0], %r10"}.items():
                yield one(f"what it points to, {what}", f"{load}; {asm}; {end}")
        if "structure" in special:
            yield one("a structure's field", f"ldxdw %r6, [%r1+{special['structure']}]; ldxw %r0, [%r6+0]; {end}")
            yield one("a structure written", f"ldxdw %r6, [%r1+{special['structure']}]; stw [%r6+0], 0; {end}")
    yield from places()
    yield from odd_attach_types()
    yield from sockets_of_maps()
    yield from sleepers()


def places():
    """Helpers that tracing programs have at some places only."""
    option = "ldxdw %r1, [%r1+8]; jeq %r1, 0, out; stdw [%r10-8], 0; mov %r2, 1; mov %r3, 2; mov %r4, %r10; add %r4, -8; mov %r5, 4"
    calls = {"setsockopt": option, "getsockopt": option, "get_attach_cookie": "", "get_func_ip": "", "get_func_arg_cnt": "", "get_socket_cookie": "mov %r1, 0",
             "seq_write": "ldxdw %r1, [%r1+0]; ldxdw %r1, [%r1+0]; stdw [%r10-8], 0; mov %r2, %r10; add %r2, -8; mov %r3, 8", "sk_release": "mov %r1, 0",
             "xdp_get_buff_len": "", "get_cgroup_classid": "", "redirect": "mov %r1, 0; mov %r2, 0", "ktime_get_coarse_ns": "", "send_signal": "mov %r1, 0"}
    for (attach, place), (helper, args) in itertools.product(((23, "btf_trace_sched_switch"), (28, "bpf_iter_task"), (28, "bpf_iter_tcp"), (28, "bpf_iter_udp"), (28, "bpf_iter_unix")), calls.items()):
        yield case(f"{helper} at {place}", [f"{args}; call {helper}", "out:", "mov %r0, 0; exit"], "tracing", [f"attach {attach}", f"attach_btf {place}"])
    task = "call get_current_task_btf; mov %r1, %r0"
    for helper in ("per_cpu_ptr", "this_cpu_ptr"):
        yield case(f"{helper} of a task", f"{task}; mov %r2, 0; call {helper}; mov %r0, 0; exit", "kprobe")


def odd_attach_types():
    for prog_type, attach in (("cgroup_sock", 0), ("sk_reuseport", 0), ("sk_reuseport", 40), ("sk_msg", 0), ("sock_ops", 60), ("xdp", 35)):
        yield case(f"{prog_type} with attach type {attach}", "mov %r0, 1; exit", prog_type, [f"attach {attach}"])
    for reg, value in (("sk_assign of null", "mov %r2, 0"), ("sk_assign of one or null", "ldxdw %r2, [%r1+0]"), ("sk_assign of the context", "mov %r2, %r1")):
        yield case(f"sk_lookup: {reg}", f"{value}; mov %r3, 0; call sk_assign; mov %r0, 1; exit", "sk_lookup", ["attach 36"])
    yield case("sk_reuseport: the cookie of one or null", "ldxdw %r1, [%r1+48]; call get_socket_cookie; mov %r0, 1; exit", "sk_reuseport", ["attach 39"])
    for prog_type, attach in (("cgroup_sockopt", 21), ("cgroup_sockopt", 22)):
        for at, helper in itertools.product((0, 2, 4, 6), ("strtol",)):
            yield case(f"{prog_type} {attach}: a number for {helper} goes into the option at {at}",
                       ["stdw [%r10-8], 0; ldxdw %r6, [%r1+8]; ldxdw %r7, [%r1+16]; mov %r8, %r6; add %r8, 16; jgt %r8, %r7, out",
                        f"mov %r1, %r10; add %r1, -8; mov %r2, 8; mov %r3, 0; mov %r4, %r6; add %r4, {at}; call {helper}", "out:", "mov %r0, 1; exit"],
                       prog_type, [f"attach {attach}"])
    for at in (0, 2):
        yield case(f"strict alignment counts two bytes before a packet: {at}",
                   ["ldxw %r6, [%r1+76]; ldxw %r7, [%r1+80]; mov %r8, %r6; add %r8, 16; jgt %r8, %r7, out", f"ldxw %r0, [%r6+{at}]", "out:", "mov %r0, 0; exit"],
                   "tc", ["flags strict_alignment"])


def sockets_of_maps():
    sockets = {"sk_lookup": (36, "ldxdw %r7, [%r1+0]; jeq %r7, 0, out"), "sock_ops": (3, "ldxdw %r7, [%r1+184]; jeq %r7, 0, out"), "tc": (0, "ldxdw %r7, [%r1+168]; jeq %r7, 0, out"),
               "sk_msg": (7, "ldxdw %r7, [%r1+72]"), "sk_reuseport": (39, "ldxdw %r7, [%r1+40]")}
    for prog_type, (attach, load) in sockets.items():
        key = "lddw %r1, map 1; mov %r2, %r10; add %r2, -4"
        for what, asm in {"put in": f"{key}; mov %r3, %r7; mov %r4, 0; call map_update_elem", "taken out": f"{key}; call map_delete_elem",
                          "looked up": f"{key}; call map_lookup_elem; jeq %r0, 0, out; mov %r1, %r0; call sk_release",
                          "looked up and kept": f"{key}; call map_lookup_elem"}.items():
            title, head, asm = case(f"{prog_type}: a socket {what} a map", ["stw [%r10-4], 0", load, asm, "out:", "mov %r0, 1; exit"], prog_type, [f"attach {attach}"])
            yield title, [*[l for l in head if not l.startswith("map")], "map 1 sockmap key=4 value=4"], asm
        yield case(f"{prog_type}: a socket for a size of a tuple that may be 0", ["mov %r6, %r1", "stdw [%r10-8], 0", "mov %r2, %r10; add %r2, -8; mov %r3, 0; mov %r4, 0; mov %r5, 0; call sk_lookup_tcp; jeq %r0, 0, out",
                   "mov %r1, %r0; call sk_release", "out:", "mov %r0, 1; exit"], prog_type, [f"attach {attach}"])
    for what, asm in {"a key": "mov %r2, %r6; lddw %r1, map 1; call map_lookup_elem", "a value": "mov %r3, %r6; mov %r2, %r10; add %r2, -8; mov %r4, 0; lddw %r1, map 1; call map_update_elem",
                      "bytes to read": "mov %r2, %r6; mov %r3, 8; mov %r4, 0; lddw %r1, map 3; call ringbuf_output", "bytes to write": "mov %r1, %r6; mov %r2, 16; call get_current_comm"}.items():
        yield case(f"a structure of the kernel's as {what}", f"stdw [%r10-8], 0; call get_current_task_btf; mov %r6, %r0; {asm}; mov %r0, 0; exit")


def sleepers():
    for prog_type, sleepable in itertools.product(("kprobe", "tracepoint", "raw_tracepoint", "perf_event", "xdp", "tc", "socket", "syscall", "sk_msg"), (False, True)):
        yield case(f"{prog_type} {'may sleep' if sleepable else 'may not sleep'}", "mov %r0, 0; exit", prog_type, ["flags sleepable"] if sleepable else [])
    for n in (1, 2, 3, 4, 5, 6, 11, 12):
        title, head, asm = case(f"may sleep, with {MAPS[n].split()[0]} {n}", f"lddw %r1, map {n}; mov %r0, 0; exit", "kprobe", ["flags sleepable"])
        yield title, head, asm
    yield case("may sleep: copy_from_user", "mov %r1, %r10; add %r1, -8; mov %r2, 8; mov %r3, 0; call copy_from_user; mov %r0, 0; exit", "kprobe", ["flags sleepable"])
    yield case("may not sleep: copy_from_user", "mov %r1, %r10; add %r1, -8; mov %r2, 8; mov %r3, 0; call copy_from_user; mov %r0, 0; exit", "sk_msg", ["attach 7"])


# ---- arithmetic on pointers ----

def pointer_arithmetic():
    pointers = {"stack": ("mov %r6, %r10; add %r6, -32", "kprobe"), "a map value": (VALUE, "kprobe"),
                "a map value or null": (LOOKUP + "; mov %r6, %r0", "kprobe"), "the context": ("mov %r6, %r9", "kprobe"),
                "a map": ("lddw %r6, map 1", "kprobe"),
                "a packet": ("ldxw %r6, [%r9+0]", "xdp"), "a packet's end": ("ldxw %r6, [%r9+4]", "xdp")}
    operations = {
        "plus 8": "add %r6, 8", "minus 8": "sub %r6, 8", "plus 2^28": "mov %r7, 0x10000000; add %r6, %r7",
        "plus 2^29": "mov %r7, 0x20000000; add %r6, %r7", "minus 2^29": "mov %r7, 0x20000000; sub %r6, %r7",
        "plus 2^31-1": "add %r6, 0x7fffffff", "plus 2^32": "lddw %r7, 0x100000000; add %r6, %r7",
        "plus itself": "add %r6, %r6", "minus itself": "sub %r6, %r6", "minus the frame": "sub %r6, %r10",
        "plus something unknown": "mov %r7, %r6; call ktime_get_ns; add %r7, %r0; mov %r6, %r7",
        "minus something unknown": "mov %r7, %r6; call ktime_get_ns; sub %r7, %r0; mov %r6, %r7",
        "something minus it": "mov %r7, 8; sub %r7, %r6; mov %r6, %r7", "and 7": "and %r6, 7", "or 1": "or %r6, 1",
        "xor 1": "xor %r6, 1", "times 2": "mul %r6, 2", "shifted": "lsh %r6, 1", "negated": "neg %r6",
        "plus 8 in 32 bits": "add32 %r6, 8", "copied in 32 bits": "mov32 %r6, %r6", "swapped": "be64 %r6",
        "divided by 2": "div %r6, 2", "compared with 5": "jgt %r6, 5, out", "compared with 0": "jeq %r6, 0, out",
        "written to the stack": "stxdw [%r10-8], %r6", "half written to the stack": "stxw [%r10-8], %r6; ldxw %r6, [%r10-8]",
        "returned": "mov %r0, %r6; exit",
    }
    for (name, (setup, prog_type)), (what, code) in itertools.product(pointers.items(), operations.items()):
        yield case(f"{name} {what}", [PROLOGUE if prog_type == "kprobe" else "mov %r9, %r1", setup, code, "out:", "mov %r0, 0", "exit"], prog_type)
        if what in ("plus 8", "minus 8", "plus 8 in 32 bits", "and 7", "or 1", "minus itself", "copied in 32 bits"):
            yield case(f"{name} {what}, then read",
                       [PROLOGUE if prog_type == "kprobe" else "mov %r9, %r1", setup, code, "ldxb %r0, [%r6+0]", "out:", "mov %r0, 0", "exit"], prog_type)


# ---- numbers: what a comparison and an operator tell, seen through a 16-byte map value ----

def numbers():
    start = [PROLOGUE, VALUE, "mov %r8, %r6; call ktime_get_ns; mov %r7, %r0"]
    for op, bits, reg in itertools.product(("jlt", "jle", "jgt", "jge", "jslt", "jsle", "jsgt", "jsge", "jeq", "jne", "jset"), ("", "32"), (False, True)):
        for limit in (15, 16):
            operand = "%r5" if reg else str(limit)
            for taken in (True, False):
                jump = f"{op}{bits} %r7, {operand}, {'use' if taken else 'out'}"
                yield case(f"a number where {op}{bits} {limit}{' in a register' if reg else ''} is {'true' if taken else 'false'}, as an offset",
                           [*start, f"mov %r5, {limit}" if reg else "", jump, "ja out" if taken else "", "use:",
                            "mov32 %r7, %r7" if bits else "", "add %r8, %r7; ldxb %r0, [%r8+0]", "out:", "mov %r0, 0", "exit"])
    for op, value, mask, last in (("add", 8, 7, 15), ("sub", -8, 7, 15), ("mul", 2, 7, 14), ("div", 2, 31, 15), ("mod", 16, 255, 15),
                                  ("or", 8, 15, 15), ("and", 15, 255, 15), ("xor", 8, 15, 15), ("lsh", 1, 7, 14), ("rsh", 4, 255, 15),
                                  ("arsh", 4, 255, 15), ("mov", 15, 0, 15)):
        for bits, reg, size in itertools.product(("", "32"), (False, True), ("exact", "one more")):
            # The load reaches to the last byte of the value, or one beyond.
            offset = 15 - last + (1 if size == "one more" else 0)
            yield case(f"0..{mask} {op}{bits} {value}{' in a register' if reg else ''}, as an offset, {size}",
                       [*start, f"and %r7, {mask}", f"mov %r5, {value}; {op}{bits} %r7, %r5" if reg else f"{op}{bits} %r7, {value}",
                        f"add %r8, %r7; ldxb %r0, [%r8+{offset}]", "out:", "mov %r0, 0", "exit"])
    for how, code in {"its lower half kept": "mov32 %r7, %r7; jgt %r7, 15, out", "checked in 32 bits, used in 64": "jgt32 %r7, 15, out",
                      "checked, then sign-extended": "jgt %r7, 15, out; movsx3264 %r7, %r7",
                      "a byte sign-extended": "and %r7, 255; movsx864 %r7, %r7; jsgt %r7, 15, out",
                      "a byte sign-extended, checked from both sides": "and %r7, 255; movsx864 %r7, %r7; jsgt %r7, 15, out; jslt %r7, 0, out",
                      "shifted up and down": "jgt %r7, 15, out; lsh %r7, 32; rsh %r7, 32",
                      "shifted up and down, signed": "jgt %r7, 15, out; lsh %r7, 32; arsh %r7, 32",
                      "negated twice": "jgt %r7, 15, out; neg %r7; neg %r7",
                      "swapped within 16 bits": "and %r7, 0xf00; be16 %r7", "swapped within 64 bits": "and %r7, 15; be64 %r7; rsh %r7, 56",
                      "its copy checked": "mov %r5, %r7; jgt %r5, 15, out", "its 32-bit copy checked": "mov32 %r5, %r7; jgt %r5, 15, out",
                      "its copy plus 4 checked": "mov %r5, %r7; add %r5, 4; jgt %r5, 15, out",
                      "its copy plus 4 plus 4 checked, one too low": "mov %r5, %r7; add %r5, 4; add %r5, 4; jlt %r5, 4, out; jgt %r5, 19, out",
                      "its copy plus 4 plus 4 checked": "mov %r5, %r7; add %r5, 4; add %r5, 4; jlt %r5, 8, out; jgt %r5, 23, out",
                      "its copy minus 4 checked": "mov %r5, %r7; add %r5, -4; jgt %r5, 11, out",
                      "its copy added to itself": "jgt %r7, 7, out; mov %r5, %r7; add %r5, %r5; mov %r7, %r5",
                      "checked before it was copied": "jgt %r7, 15, out; mov %r5, %r7; mov %r7, %r5",
                      "its copy changed, then checked": "mov %r5, %r7; add %r5, %r5; jgt %r5, 15, out",
                      "checked through the stack": "stxdw [%r10-8], %r7; ldxdw %r5, [%r10-8]; jgt %r5, 15, out",
                      "checked in the stack's lower half": "stxdw [%r10-8], %r7; ldxw %r5, [%r10-8]; jgt %r5, 15, out",
                      "checked, written to the stack and read back": "jgt %r7, 15, out; stxdw [%r10-8], %r7; mov %r7, 99; ldxdw %r7, [%r10-8]",
                      "checked, half written to the stack and read back": "jgt %r7, 15, out; stxw [%r10-8], %r7; mov %r7, 99; ldxw %r7, [%r10-8]",
                      "checked, written, partly overwritten, read back": "jgt %r7, 15, out; stxdw [%r10-8], %r7; stb [%r10-8], 200; ldxdw %r7, [%r10-8]",
                      "equal to a checked one": "mov %r5, %r7; call ktime_get_ns; jne %r0, %r7, out; jgt %r0, 15, out",
                      "or-ed and checked": "mov %r5, %r7; or %r5, 1; jgt %r5, 15, out",
                      "an atomic's old value": "stdw [%r10-8], 5; mov %r7, 1; lock fetch add [%r10-8], %r7",
                      "what an atomic left": "stdw [%r10-8], 5; mov %r5, 1; lock fetch add [%r10-8], %r5; ldxdw %r7, [%r10-8]",
                      "a 32-bit atomic's old value": "stdw [%r10-8], 5; mov %r7, 1; lock fetch add32 [%r10-8], %r7",
                      "a byte from memory": "stdw [%r10-8], 5; ldxb %r7, [%r10-8]", "a divisor of zero": "mov %r5, 0; div %r7, %r5",
                      "modulo zero": "mov %r5, 0; mod %r7, %r5", "modulo zero, checked": "and %r7, 15; mov %r5, 0; mod %r7, %r5",
                      "shifted by 64": "jgt %r7, 15, out; mov %r5, 64; lsh %r7, %r5", "shifted by 64 at once": "raw 0x0000004000000767",
                      "divided signed": "jgt %r7, 15, out; mov %r5, 2; sdiv %r7, %r5"}.items():
        yield case(f"an offset: {how}", [*start, code, "add %r8, %r7; ldxb %r0, [%r8+0]", "out:", "mov %r0, 0", "exit"])


# ---- packets ----

def packets():
    load = "ldxw %r6, [%r1+0]; ldxw %r7, [%r1+4]"
    for op, mirrored, taken in itertools.product(("jgt", "jge", "jlt", "jle", "jeq", "jne"), (False, True), (False, True)):
        for size in (8, 9):
            pair = "%r7, %r8" if mirrored else "%r8, %r7"
            yield case(f"packet: {'end' if mirrored else 'p + 8'} {op} {'p + 8' if mirrored else 'end'} {'taken' if taken else 'not taken'}, byte {size}",
                       [load, "mov %r8, %r6; add %r8, 8", f"{op} {pair}, {'use' if taken else 'out'}", "ja out" if taken else "", "use:",
                        f"ldxb %r0, [%r6+{size - 1}]", "out:", "mov %r0, 0", "exit"], "xdp")
    for how, code in {"checked again after it moved": "call xdp_adjust_head; ldxw %r6, [%r9+0]; ldxw %r7, [%r9+4]; mov %r8, %r6; add %r8, 8; jgt %r8, %r7, out",
                      "not checked after it moved": "call xdp_adjust_head",
                      "loaded but not checked after it moved": "call xdp_adjust_head; ldxw %r6, [%r9+0]",
                      "after a helper that does not move it": "mov %r1, 0; call ktime_get_ns"}.items():
        yield case(f"packet {how}", ["mov %r9, %r1", load, "mov %r8, %r6; add %r8, 8; jgt %r8, %r7, out; mov %r1, %r9; mov %r2, 0", code,
                                     "ldxb %r0, [%r6+0]", "out:", "mov %r0, 0", "exit"], "xdp")
    for limit, op in itertools.product((255, 65534, 65535, 65536, 1 << 20), ("jgt", "jge")):
        yield case(f"packet plus up to {limit}, {op}",
                   [load, f"mov %r8, %r6; add %r8, 8; jgt %r8, %r7, out; ldxdw %r2, [%r6+0]; {op} %r2, {limit}, out; add %r6, %r2",
                    "mov %r8, %r6; add %r8, 8; jgt %r8, %r7, out; ldxdw %r0, [%r6+0]", "out:", "mov %r0, 0", "exit"], "xdp")
    apart = "mov %r9, %r1; call ktime_get_ns; and %r0, 255; ldxw %r6, [%r9+0]; ldxw %r7, [%r9+4]; mov %r8, %r6; add %r8, %r0"
    for checked, read in itertools.product(("%r6", "%r8"), ("%r6", "%r8")):
        which = {"%r6": "its begin", "%r8": "begin plus a number"}
        yield case(f"packet: {which[checked]} checked, {which[read]} read",
                   [apart, f"mov %r1, {checked}; add %r1, 8; jgt %r1, %r7, out; ldxb %r0, [{read}+0]", "out:", "mov %r0, 0; exit"], "xdp")
    yield case("packet: a callee that moves it", ["mov %r9, %r1", load, "mov %r8, %r6; add %r8, 8; jgt %r8, %r7, out; mov %r1, %r9; call local f; ldxb %r0, [%r6+0]",
               "out:", "mov %r0, 0; exit", "f:", "mov %r2, 0; call xdp_adjust_head; mov %r0, 0; exit"], "xdp")
    yield case("packet: a callee that does not move it", ["mov %r9, %r1", load, "mov %r8, %r6; add %r8, 8; jgt %r8, %r7, out; mov %r1, %r9; call local f; ldxb %r0, [%r6+0]",
               "out:", "mov %r0, 0; exit", "f:", "mov %r0, 0; exit"], "xdp")
    yield case("packet: sign-extending load of its address", "ldxsw %r6, [%r1+0]; ldxw %r7, [%r1+4]; mov %r8, %r6; add %r8, 8; jgt %r8, %r7, out; ldxb %r0, [%r6+0]; out:; mov %r0, 0; exit", "xdp")


# ---- what must be given back ----

def references():
    steps = {"reserve": "lddw %r1, map 3; mov %r2, 16; mov %r3, 0; call ringbuf_reserve; mov %r6, %r0",
             "check": "jeq %r6, 0, out", "submit": "mov %r1, %r6; mov %r2, 0; call ringbuf_submit",
             "discard": "mov %r1, %r6; mov %r2, 0; call ringbuf_discard", "use": "stb [%r6+0], 1", "move": "add %r6, 1"}
    for n in (1, 2, 3, 4):
        for order in itertools.product(steps, repeat=n):
            if order[0] != "reserve" or (n > 1 and order.count("reserve") > 2) or (n == 4 and (order[1] != "check" or "check" in order[2:])):
                continue
            yield case("ring buffer: " + ", ".join(order), [*(steps[s] for s in order), "out:", "mov %r0, 0", "exit"])
    locks = {"lock": "mov %r1, %r8; call spin_lock", "unlock": "mov %r1, %r8; call spin_unlock", "write": "stw [%r8+8], 1",
             "call a helper": "call ktime_get_ns", "write the lock": "stw [%r8+0], 1", "exit": "mov %r0, 0; exit"}
    for n in (1, 2, 3):
        for order in itertools.product(locks, repeat=n):
            if "exit" in order[:-1] or order[0] not in ("lock", "unlock") or (n == 3 and order[0] == "unlock"):
                continue
            yield case("spin lock: " + ", ".join(order), [PROLOGUE, look(7), *(locks[s] for s in order), "out:", "mov %r0, 0", "exit"], "tc")
    yield case("spin lock in a tracing program", [PROLOGUE, look(7), locks["lock"], locks["unlock"], "out:", "mov %r0, 0", "exit"])
    yield case("timer in a tracing program", [PROLOGUE, look(8), "add %r8, 8; mov %r1, %r8; lddw %r2, map 8; mov %r3, 1; call timer_init", "out:", "mov %r0, 0", "exit"])
    yield case("ring buffer: leaked by a tail call", [PROLOGUE, RECORD, "mov %r1, %r9; lddw %r2, map 5; mov %r3, 0; call tail_call", SUBMIT, "out:", "mov %r0, 0; exit"])
    yield case("ring buffer: submitted in a callee", [PROLOGUE, RECORD, "mov %r1, %r6; call local f", "out:", "mov %r0, 0; exit", "f:", "mov %r2, 0; call ringbuf_submit; mov %r0, 0; exit"])
    yield case("ring buffer: leaked in a callee", [PROLOGUE, "call local f", "mov %r0, 0; exit", "f:", RECORD, "out:", "mov %r0, 0; exit"])
    yield case("ring buffer: made in a callee, submitted by its caller", [PROLOGUE, "call local f; jeq %r0, 0, out; mov %r6, %r0", SUBMIT, "out:", "mov %r0, 0; exit", "f:", "lddw %r1, map 3; mov %r2, 16; mov %r3, 0; call ringbuf_reserve; exit"])
    yield case("ring buffer: used through a copy after it was submitted", [PROLOGUE, RECORD, "mov %r7, %r6", SUBMIT, "stb [%r7+0], 1", "out:", "mov %r0, 0; exit"])
    yield case("ring buffer: used through the stack after it was submitted", [PROLOGUE, RECORD, "stxdw [%r10-8], %r6", SUBMIT, "ldxdw %r7, [%r10-8]; stb [%r7+0], 1", "out:", "mov %r0, 0; exit"])
    yield case("ring buffer: overwritten before it was submitted", [PROLOGUE, RECORD, "mov %r6, 0", "out:", "mov %r0, 0; exit"])
    yield case("ring buffer: submitted from the stack", [PROLOGUE, RECORD, "stxdw [%r10-8], %r6; ldxdw %r6, [%r10-8]", SUBMIT, "out:", "mov %r0, 0; exit"])
    yield case("ring buffer: one of two leaked", [PROLOGUE, RECORD, "mov %r7, %r6; lddw %r1, map 3; mov %r2, 16; mov %r3, 0; call ringbuf_reserve; jeq %r0, 0, gone; mov %r6, %r0", SUBMIT, "gone:", "out:", "mov %r0, 0; exit"])


# ---- what lives on the stack, and kernel objects: every order of a few steps ----

def orders(steps, first, most):
    for n in range(1, most + 1):
        for order in itertools.product(steps, repeat=n):
            if order[0] in first:
                yield order


def objects():
    at = "mov %r1, %r10; add %r1, -16; "
    dynptr = {"reserve": "lddw %r1, map 3; mov %r2, 16; mov %r3, 0; mov %r4, %r10; add %r4, -16; call ringbuf_reserve_dynptr",
              "submit": at + "mov %r2, 0; call ringbuf_submit_dynptr", "discard": at + "mov %r2, 0; call ringbuf_discard_dynptr",
              "write": at + "mov %r2, 0; mov %r3, %r10; add %r3, -32; mov %r4, 8; mov %r5, 0; call dynptr_write",
              "slice": at + "mov %r2, 0; mov %r3, 8; call dynptr_data; mov %r6, %r0; jeq %r6, 0, +1; stb [%r6+7], 1",
              "use the slice": "jeq %r6, 0, +1; stb [%r6+0], 1", "use behind the slice": "jeq %r6, 0, +1; stb [%r6+8], 1",
              "overwrite": "stdw [%r10-16], 0", "read raw": "ldxdw %r1, [%r10-16]"}
    for order in orders(dynptr, ("reserve", "submit", "write"), 3):
        if len(order) == 1 or order[0] == "reserve" and "reserve" not in order[1:] and (len(order) == 2 or order[2] in ("submit", "discard", "use the slice")):
            yield case("dynptr: " + ", ".join(order), [PROLOGUE, "mov %r6, 0", *(dynptr[s] for s in order), "mov %r0, 0", "exit"])
    here = "mov %r1, %r10; add %r1, -8; "
    number = {"new": here + "mov %r2, 0; mov %r3, 10; call kfunc bpf_iter_num_new", "next": here + "call kfunc bpf_iter_num_next",
              "next, used": here + "call kfunc bpf_iter_num_next; jeq %r0, 0, +1; ldxw %r1, [%r0+0]",
              "next, used unchecked": here + "call kfunc bpf_iter_num_next; ldxw %r1, [%r0+0]",
              "destroy": here + "call kfunc bpf_iter_num_destroy", "overwrite": "stdw [%r10-8], 0", "read raw": "ldxdw %r1, [%r10-8]"}
    for order in orders(number, ("new", "next", "destroy"), 3):
        if len(order) < 3 or (order[0] == "new" and order[2] == "destroy"):
            yield case("iterator: " + ", ".join(order), [*(number[s] for s in order), "mov %r0, 0", "exit"])
    for what, body in {"that counts": "add %r7, 1", "that counts and uses it as an offset": "mov %r8, %r6; add %r8, %r7; ldxb %r0, [%r8+0]; add %r7, 1",
                       "that checks its counter": "jgt %r7, 15, done; mov %r8, %r6; add %r8, %r7; ldxb %r0, [%r8+0]; add %r7, 1",
                       "that uses its number as an offset": "ldxw %r0, [%r0+0]; mov %r8, %r6; add %r8, %r0; ldxb %r0, [%r8+0]",
                       "that checks its number": "ldxw %r0, [%r0+0]; jgt %r0, 15, done; mov %r8, %r6; add %r8, %r0; ldxb %r0, [%r8+0]"}.items():
        yield case(f"a loop over numbers {what}", [PROLOGUE, VALUE, "mov %r7, 0", number["new"], "again:", number["next"], "jeq %r0, 0, done", body, "ja again", "done:", number["destroy"],
                                                   "out:", "mov %r0, 0", "exit"])
    rcu = {"lock": "call kfunc bpf_rcu_read_lock", "unlock": "call kfunc bpf_rcu_read_unlock", "a helper": "call ktime_get_ns"}
    for order in orders(rcu, rcu, 3):
        yield case("rcu: " + ", ".join(order), [*(rcu[s] for s in order), "mov %r0, 0", "exit"])
    task = {"acquire": "mov %r1, %r6; call kfunc bpf_task_acquire; mov %r7, %r0", "check": "jeq %r7, 0, out",
            "release": "mov %r1, %r7; call kfunc bpf_task_release", "read": "ldxdw %r1, [%r7+16]", "read the current": "ldxdw %r1, [%r6+16]",
            "release the current": "mov %r1, %r6; call kfunc bpf_task_release"}
    traced = ("attach 23", "attach_btf btf_trace_task_newtask")
    for order in orders(task, ("acquire", "read the current", "release the current"), 4):
        if len(order) < 3 or (order[:2] == ("acquire", "check") and "check" not in order[2:] and "acquire" not in order[2:]):
            yield case("task: " + ", ".join(order), ["call get_current_task_btf; mov %r6, %r0", *(task[s] for s in order), "out:", "mov %r0, 0", "exit"], "tracing", traced)


# ---- loops ----

def loops():
    for trips in (0, 1, 2, 10, 1000, 100000, 2000000):
        yield case(f"a loop of {trips}", f"mov %r6, 0; again:; jge %r6, {trips}, out; add %r6, 1; ja again; out:; mov %r0, 0; exit")
    for trips, offset in itertools.product((1, 15, 16, 17), (0, 1)):
        yield case(f"a loop of {trips} that reads at its counter plus {offset}",
                   [PROLOGUE, VALUE, f"mov %r7, 0; again:; jge %r7, {trips}, out; mov %r8, %r6; add %r8, %r7; ldxb %r0, [%r8+{offset}]; add %r7, 1; ja again", "out:", "mov %r0, 0; exit"])
    for what, code in {"without an end": "again:; ja again", "over itself": "ja -1",
                       "that counts and never ends": "mov %r6, 0; again:; add %r6, 1; jne %r6, 0, again",
                       "that ends by chance": "again:; call ktime_get_ns; jne %r0, 0, again",
                       "that changes nothing but ends by chance": "call ktime_get_ns; mov %r6, %r0; again:; jne %r6, 0, again",
                       "bounded by something unknown up to 100": "call ktime_get_ns; and %r0, 63; mov %r6, %r0; again:; jeq %r6, 0, out; sub %r6, 1; ja again; out:",
                       "with may_goto": "mov %r6, 0; again:; may_goto out; add %r6, 1; ja again; out:",
                       "with may_goto whose counter is an offset": PROLOGUE + ";" + VALUE + "; mov %r7, 0; again:; may_goto out; mov %r8, %r6; add %r8, %r7; ldxb %r0, [%r8+0]; add %r7, 1; ja again; out:",
                       "with may_goto whose counter is checked": PROLOGUE + ";" + VALUE + "; mov %r7, 0; again:; may_goto out; jgt %r7, 15, out; mov %r8, %r6; add %r8, %r7; ldxb %r0, [%r8+0]; add %r7, 1; ja again; out:",
                       "downwards, signed": "mov %r6, 10; again:; jslt %r6, 0, out; sub %r6, 1; ja again; out:",
                       "in 32 bits": "mov %r6, 0; again:; jge32 %r6, 10, out; add32 %r6, 1; ja again; out:",
                       "over two counters": "mov %r6, 0; mov %r7, 10; again:; jge %r6, %r7, out; add %r6, 1; sub %r7, 1; ja again; out:",
                       "within a loop": "mov %r6, 0; outer:; mov %r7, 0; inner:; jge %r7, 10, next; add %r7, 1; ja inner; next:; add %r6, 1; jlt %r6, 10, outer",
                       }.items():
        yield case(f"a loop {what}", [code, "mov %r0, 0; exit"])
    functions = ("func global int test(ctx)", "func static u64 each(u64, ptr)")
    for what, callback in {"returns 0": "mov %r0, 0", "returns 1": "mov %r0, 1", "returns 2": "mov %r0, 2", "returns its number": "mov %r0, %r1",
                           "returns nothing": "", "uses its number as an offset": "mov %r3, %r2; add %r3, %r1; ldxb %r0, [%r3+0]; mov %r0, 0",
                           "writes to its caller's stack": "stdw [%r2+0], 5; mov %r0, 0", "reads its caller's stack": "ldxdw %r0, [%r2+0]; mov %r0, 0",
                           "writes beyond its caller's stack": "stdw [%r2+64], 5; mov %r0, 0", "counts in its caller's stack": "ldxdw %r3, [%r2+0]; add %r3, 1; stxdw [%r2+0], %r3; mov %r0, 0",
                           "loops again": "mov %r1, 2; lddw %r2, func each; mov %r3, %r10; mov %r4, 0; call loop; mov %r0, 0"}.items():
        for trips in ("mov %r1, 10", "call ktime_get_ns; mov %r1, %r0"):
            yield case(f"bpf_loop {'10' if '10' in trips else 'unknown'} times: the callback {what}",
                       [PROLOGUE, trips, "lddw %r2, func each; mov %r3, %r10; add %r3, -64; mov %r4, 0; call loop; ldxdw %r1, [%r10-64]; mov %r0, 0; exit", "each:", callback, "exit"],
                       context=functions)
    for what, use in {"as an offset": "mov %r2, %r6; add %r2, %r1; ldxb %r0, [%r2+0]", "as an offset after a check": "jgt %r1, 15, out; mov %r2, %r6; add %r2, %r1; ldxb %r0, [%r2+0]"}.items():
        yield case(f"bpf_loop: what the callback counted, {what}",
                   [PROLOGUE, VALUE, "stdw [%r10-64], 0; mov %r1, 10; lddw %r2, func each; mov %r3, %r10; add %r3, -64; mov %r4, 0; call loop; ldxdw %r1, [%r10-64]", use, "out:", "mov %r0, 0; exit",
                    "each:", "ldxdw %r3, [%r2+0]; add %r3, 1; stxdw [%r2+0], %r3; mov %r0, 0; exit"], context=functions)
    for flags in (0, 1):
        yield case(f"bpf_loop with flags {flags}", [PROLOGUE, f"mov %r1, 3; lddw %r2, func each; mov %r3, 0; mov %r4, {flags}; call loop; mov %r0, 0; exit", "each:", "mov %r0, 0; exit"], context=functions)
    walk = ("func global int test(ctx)", "func static u64 each(u64, ptr, ptr, ptr)")
    for what, callback in {"reads its value": "ldxdw %r0, [%r3+8]; mov %r0, 0", "reads behind its value": "ldxdw %r0, [%r3+16]; mov %r0, 0", "reads its key": "ldxw %r0, [%r2+0]; mov %r0, 0",
                           "reads behind its key": "ldxdw %r0, [%r2+4]; mov %r0, 0", "writes its key": "stw [%r2+0], 1; mov %r0, 0", "writes its value": "stdw [%r3+0], 1; mov %r0, 0",
                           "returns 2": "mov %r0, 2", "returns 1": "mov %r0, 1", "looks up in the map": "mov %r2, %r2; call map_lookup_elem; mov %r0, 0", "uses what the caller gave": "ldxdw %r0, [%r4+0]; mov %r0, 0"}.items():
        yield case(f"for_each_map_elem: the callback {what}",
                   [PROLOGUE, "lddw %r1, map 2; lddw %r2, func each; mov %r3, %r10; add %r3, -64; mov %r4, 0; call for_each_map_elem; mov %r0, 0; exit", "each:", callback, "exit"], context=walk)


# ---- functions ----

def functions():
    for depth in (1, 6, 7, 8, 9):
        body = []
        for i in range(depth):
            body += [f"f{i}:", f"call local f{i + 1}" if i + 1 < depth else "mov %r0, 0", "exit"]
        yield case(f"calls {depth} deep", ["call local f0", "mov %r0, 0", "exit", *body])
    for first, second in ((256, 256), (512, 0), (512, 8), (256, 264), (480, 64)):
        yield case(f"stack of {first} and {second} bytes in a chain",
                   [f"stdw [%r10-{first}], 0", "call local f", "mov %r0, 0; exit", "f:", f"stdw [%r10-{second}], 0" if second else "", "mov %r0, 0; exit"])
    yield case("a function that calls itself", "call local f; mov %r0, 0; exit; f:; call local f; mov %r0, 0; exit")
    yield case("two functions that call each other", "call local f; mov %r0, 0; exit; f:; call local g; mov %r0, 0; exit; g:; call local f; mov %r0, 0; exit")
    callees = {"f": "f:; mov %r0, 0; exit", "g": "g:; ldxdw %r0, [%r1-8]; exit", "h": "h:; stdw [%r1-8], 1; mov %r0, 0; exit",
               "i": "i:; stdw [%r10-8], 1; mov %r0, %r10; exit", "j": "j:; stdw [%r10-8], 1; stxdw [%r1-8], %r10; mov %r0, 0; exit",
               "k": "k:; mov %r0, %r6; exit"}
    for what, code in {"r6 kept": "mov %r6, 5; call local f; mov %r0, %r6", "r1 kept": "mov %r1, 5; call local f; mov %r0, %r1",
                       "r0 given": "call local f", "the caller's stack read": "stdw [%r10-8], 1; mov %r1, %r10; call local g", "the caller's stack not written yet": "mov %r1, %r10; call local g",
                       "the caller's stack written": "mov %r1, %r10; call local h; ldxdw %r0, [%r10-8]", "the callee's stack given back": "call local i; ldxdw %r0, [%r0-8]",
                       "the callee's stack through the caller's": "mov %r1, %r10; call local j; ldxdw %r1, [%r10-8]; ldxdw %r0, [%r1-8]",
                       "a register that it never wrote": "call local k"}.items():
        yield case(f"across a call: {what}", [code, "and %r0, 1; exit", callees[code.split("call local ")[1][0]]])
    signatures = {"(u64)": ("u64", "mov %r1, 5"), "(u64) given a pointer": ("u64", "mov %r1, %r10"), "(ctx)": ("ctx", ""), "(ctx) given the stack": ("ctx", "mov %r1, %r10"),
                  "(ctx) given a number": ("ctx", "mov %r1, 0"), "(ptr) given the stack": ("ptr", "stdw [%r10-16], 0; stdw [%r10-8], 0; mov %r1, %r10; add %r1, -16"),
                  "(ptr) given null": ("ptr", "mov %r1, 0"), "(ptr) given too little": ("ptr", "stdw [%r10-8], 0; mov %r1, %r10; add %r1, -8"), "(ptr) given a number": ("ptr", "mov %r1, 77")}
    bodies = {"returns a number": "mov %r0, 0", "reads it": "ldxdw %r0, [%r1+0]", "reads it after a check": "mov %r0, 0; jeq %r1, 0, end; ldxdw %r0, [%r1+8]; end:", "reads behind it": "mov %r0, 0; jeq %r1, 0, end; ldxdw %r0, [%r1+16]; end:",
              "returns a pointer": "mov %r0, %r10", "returns nothing": ""}
    for (signature, (kind, setup)), (what, body) in itertools.product(signatures.items(), bodies.items()):
        if " given " in signature and what != "returns a number" and not (signature == "(ptr) given the stack" and "it" in what):
            continue
        yield case(f"global function {signature}: {what}", [setup, "call local f; mov %r0, 0; exit", "f:", body, "exit"],
                   context=("func global int test(ctx)", f"func global int f({kind})"))
    for gives, linkage in itertools.product(("int", "u64", "void"), ("global", "static")):
        yield case(f"a {linkage} function that gives {gives}", "mov %r1, 5; call local f; mov %r0, 0; exit; f:; mov %r0, 0; exit",
                   context=("func global int test(ctx)", f"func {linkage} {gives} f(int)"))
        yield case(f"a {linkage} function that gives {gives}, called where nobody comes", "mov %r1, 5; jeq %r1, 5, out; call local f; out:; mov %r0, 0; exit; f:; mov %r0, 0; exit",
                   context=("func global int test(ctx)", f"func {linkage} {gives} f(int)"))
    for value, use in itertools.product(("mov %r0, 5", "mov %r0, 500"), ("jgt %r0, 15, out", "")):
        yield case(f"a global function's result ({value[9:]}) as an offset{', checked' if use else ''}",
                   [PROLOGUE, VALUE, "mov %r1, 1; call local f", use, "add %r6, %r0; ldxb %r0, [%r6+0]", "out:", "mov %r0, 0; exit", "f:", value, "exit"],
                   context=("func global int test(ctx)", "func global u64 f(u64)"))


# ---- the rest: structure, null checks, stack, pruning ----

def rest():
    yield case("no exit", "mov %r0, 0")
    yield case("the end is a jump forward", "ja +1; exit; mov %r0, 0; ja -3")
    for what, code in {"an instruction never reached": "mov %r0, 0; exit; mov %r0, 1; exit", "a jump out of the program": "ja +5; exit", "a jump into a 64-bit load": "ja +1; lddw %r0, 1; exit",
                       "a branch that is never taken and wrong": "mov %r1, 0; mov %r0, 0; jeq %r1, 0, +1; ldxdw %r0, [%r1+0]; exit",
                       "a call that does not exist, never reached": "mov %r0, 0; jeq %r0, 0, +1; call 195896080; exit", "a call that does not exist": "call 195896080; exit",
                       "a call of helper 0": "call 0; exit", "r10 written": "mov %r10, 0; mov %r0, 0; exit", "r10 moved": "add %r10, -8; mov %r0, 0; exit",
                       "r11 read": "raw 0x000000000000b0bf; exit", "an opcode that is none": "raw 0x00000000000000ff; mov %r0, 0; exit",
                       "reserved bits in exit": "raw 0x0000000100000095", "division by 0": "mov %r0, 1; div %r0, 0; exit", "division by 0 in a register": "mov %r0, 1; mov %r1, 0; div %r0, %r1; mov %r0, 0; exit",
                       "shift by 64": "mov %r0, 1; lsh %r0, 64; exit", "shift by 32 in 32 bits": "mov %r0, 1; lsh32 %r0, 32; exit", "shift by 63": "mov %r0, 1; lsh %r0, 63; mov %r0, 0; exit",
                       "r1 after a helper": "mov %r6, %r1; call ktime_get_ns; mov %r0, %r1; exit", "r0 before anything": "mov %r1, %r0; mov %r0, 0; exit",
                       "a helper of another program type": "mov %r2, 0; call xdp_adjust_head; mov %r0, 0; exit", "atomic on the context": "mov %r2, 1; lock add [%r1+0], %r2; mov %r0, 0; exit",
                       "atomic of one byte": "raw 0x00000000fff812d3; mov %r0, 0; exit", "atomic that is not aligned": "stdw [%r10-8], 0; stdw [%r10-16], 0; mov %r1, 1; lock add [%r10-12], %r1; mov %r0, 0; exit",
                       "a pointer in an atomic": "stdw [%r10-8], 0; lock add [%r10-8], %r10; mov %r0, 0; exit", "a pointer exchanged into the stack": "stdw [%r10-8], 0; mov %r1, %r10; lock xchg [%r10-8], %r1; mov %r0, 0; exit",
                       "cmpxchg with r0 never written": "stdw [%r10-8], 0; mov %r1, 1; lock cmpxchg [%r10-8], %r1; mov %r0, 0; exit",
                       "the frame read before it was written": "ldxdw %r0, [%r10-8]; exit", "half of the slot written": "stw [%r10-8], 0; ldxdw %r0, [%r10-8]; exit",
                       "both halves written": "stw [%r10-8], 0; stw [%r10-4], 0; ldxdw %r0, [%r10-8]; exit", "a slot that is not aligned": "stdw [%r10-12], 0; mov %r0, 0; exit",
                       "a pointer spilled and read back": "stxdw [%r10-8], %r1; ldxdw %r2, [%r10-8]; ldxdw %r0, [%r2+0]; mov %r0, 0; exit", "a pointer spilled and half read back": "stxdw [%r10-8], %r1; ldxw %r2, [%r10-8]; mov %r0, 0; exit",
                       "a spilled pointer overwritten in part": "stxdw [%r10-8], %r1; stb [%r10-8], 0; ldxdw %r2, [%r10-8]; ldxdw %r0, [%r2+0]; mov %r0, 0; exit", "a spilled pointer overwritten in part, read as a number": "stxdw [%r10-8], %r1; stb [%r10-8], 0; ldxdw %r2, [%r10-8]; mov %r0, 0; exit",
                       "a pointer spilled where it is not aligned": "stxdw [%r10-12], %r1; mov %r0, 0; exit", "a number out of a pointer returned": "mov %r0, %r1; exit"}.items():
        yield case(f"{what}", code)
    variable = "call ktime_get_ns; and %r0, 7; mov %r6, %r10; add %r6, -16; add %r6, %r0"
    for what, code in {"written, then read back": "stb [%r6+0], 1; ldxdw %r0, [%r10-16]", "written over a spilled pointer": "stxdw [%r10-16], %r9; stb [%r6+0], 1; ldxdw %r1, [%r10-16]; ldxdw %r0, [%r1+0]",
                       "read where all is written": "stdw [%r10-16], 0; stdw [%r10-8], 0; ldxb %r0, [%r6+0]", "read where nothing is written": "ldxb %r0, [%r6+0]", "read where half is written": "stw [%r10-16], 0; ldxb %r0, [%r6+0]",
                       "read over a spilled pointer": "stxdw [%r10-16], %r9; stdw [%r10-8], 0; ldxb %r0, [%r6+0]", "given to a helper that writes": "mov %r1, %r6; mov %r2, 8; mov %r3, 0; call probe_read_kernel; mov %r0, 0",
                       "given to a helper that reads": "stdw [%r10-16], 0; stdw [%r10-8], 0; lddw %r1, map 3; mov %r2, %r6; mov %r3, 8; mov %r4, 0; call ringbuf_output"}.items():
        yield case(f"stack at an unknown offset, {what}", ["mov %r9, %r1", variable, code, "mov %r0, 0; exit"])
    for what, code in {"without an end": "lddw %r3, mapvalue 14+0", "at an unknown offset": "lddw %r3, mapvalue 10+0; add %r3, %r6",
                       "that may change": "lddw %r3, mapvalue 2+0", "at its end": "lddw %r3, mapvalue 10+15"}.items():
        yield case(f"strncmp against data {what}", [PROLOGUE, UNKNOWN + "; and %r6, 7; mov %r1, %r10; add %r1, -16; mov %r2, 8", code, "call strncmp", "mov %r0, 0; exit"])
    for byte in (0, 1):
        yield case(f"stack zeros, a byte of {byte} written at an unknown offset, one read as an offset",
                   [PROLOGUE, VALUE, "stw [%r10-12], 0; call ktime_get_ns; and %r0, 3; mov %r7, %r10; add %r7, -12; add %r7, %r0",
                    f"stb [%r7+0], {byte}; ldxb %r5, [%r10-12]; add %r6, %r5; ldxb %r0, [%r6+15]", "out:", "mov %r0, 0; exit"])
    for what, code in {"checked": "jeq %r0, 0, out; ldxdw %r1, [%r0+0]", "checked the other way": "jne %r0, 0, +1; ja out; ldxdw %r1, [%r0+0]", "not checked": "ldxdw %r1, [%r0+0]",
                       "its copy checked": "mov %r6, %r0; jeq %r6, 0, out; ldxdw %r1, [%r0+0]", "moved before the check": "mov %r6, %r0; add %r6, 8; jeq %r6, 0, out; ldxdw %r1, [%r6+0]",
                       "used where it is null": "jeq %r0, 0, +1; ja out; ldxdw %r1, [%r0+0]", "checked in 32 bits": "jeq32 %r0, 0, out; ldxdw %r1, [%r0+0]", "checked against a register of 0": "mov %r1, 0; jeq %r0, %r1, out; ldxdw %r1, [%r0+0]",
                       "another lookup's result checked": "mov %r6, %r0; lddw %r1, map 2; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; ldxdw %r1, [%r6+0]",
                       "checked after it went to the stack": "stxdw [%r10-16], %r0; jeq %r0, 0, out; ldxdw %r1, [%r10-16]; ldxdw %r2, [%r1+0]", "compared above 0": "jgt %r0, 0, +1; ja out; ldxdw %r1, [%r0+0]",
                       "checked against 1": "jeq %r0, 1, out; ldxdw %r1, [%r0+0]", "null used as 0": "jne %r0, 0, out; add %r0, 5; mov %r6, %r0"}.items():
        yield case(f"a lookup's result, {what}", [PROLOGUE, LOOKUP, code, "out:", "mov %r0, 0; exit"])
    for what, code in {"two ways that meet with other bounds": "jeq %r7, 0, a; mov %r5, 3; ja b; a:; mov %r5, 30; b:", "two ways that meet, the worse checked": "jeq %r7, 0, a; mov %r5, 3; ja b; a:; mov %r5, 30; b:; jgt %r5, 15, out",
                       "two ways, precise by a later use": "jeq %r7, 1, a; mov %r5, 100; ja b; a:; mov %r5, 1; b:; jeq %r7, 2, c; jne %r7, 1, out; c:; jgt %r7, 1, out",
                       "a bound kept in the stack over two ways": "stdw [%r10-8], 3; jeq %r7, 0, b; stdw [%r10-8], 30; b:; ldxdw %r5, [%r10-8]", "an atomic on one of two ways": "stdw [%r10-8], 3; mov %r5, 1; jeq %r7, 0, b; mov %r5, 30; lock fetch add [%r10-8], %r5; b:; ldxdw %r5, [%r10-8]",
                       "a value that only one way sets": "mov %r5, 20; jeq %r7, 0, b; mov %r5, 2; b:"}.items():
        yield case(f"paths: {what}", [PROLOGUE, VALUE, "call ktime_get_ns; mov %r7, %r0", code, "add %r6, %r5; ldxb %r0, [%r6+0]", "out:", "mov %r0, 0; exit"])
    for what, code in {"read": "lddw %r1, mapvalue 10+0; ldxb %r0, [%r1+0]", "folded: a branch that its content rules out": "lddw %r1, mapvalue 10+0; ldxb %r0, [%r1+0]; jeq %r0, 0x41, out; ldxdw %r0, [%r0+0]",
                       "not folded: a map that may change": "lddw %r1, mapvalue 2+0; ldxb %r0, [%r1+0]; jeq %r0, 0, out; ldxdw %r0, [%r0+0]", "at the edge": "lddw %r1, mapvalue 10+15; ldxb %r0, [%r1+0]", "beyond": "lddw %r1, mapvalue 10+16; ldxb %r0, [%r1+0]",
                       "of a hash": "lddw %r1, mapvalue 1+0; mov %r0, 0", "written": "lddw %r1, mapvalue 10+0; stb [%r1+0], 1", "given to a helper that writes": "lddw %r1, mapvalue 10+0; mov %r2, 8; mov %r3, 0; call probe_read_kernel",
                       "given to a helper that reads": "lddw %r2, mapvalue 10+0; lddw %r1, map 3; mov %r3, 16; mov %r4, 0; call ringbuf_output"}.items():
        yield case(f"global data {what}", [code, "out:", "mov %r0, 0; exit"])
    for helper, low, high in (("probe_read_kernel_str", -4095, 16), ("get_stack", -4095, 16)):
        setup = "mov %r1, %r10; add %r1, -64; mov %r2, 16; mov %r3, 0; call probe_read_kernel_str" if "str" in helper else "mov %r1, %r9; mov %r2, %r10; add %r2, -64; mov %r3, 16; mov %r4, 0; call get_stack"
        for what, check in {"unchecked": "", "checked not to be negative": "jslt %r0, 0, out", "checked above 0": "jsle %r0, 0, out", "checked up to 8": "jgt %r0, 8, out"}.items():
            yield case(f"{helper}'s result as a size, {what}", [PROLOGUE, setup, check, "lddw %r1, map 3; mov %r2, %r10; add %r2, -64; mov %r3, %r0; mov %r4, 0; call ringbuf_output", "out:", "mov %r0, 0; exit"])


# ---- strict mode: no pointer may become a number that anybody sees ----

def strict():
    """The kernel's verdict is that on a loader without CAP_PERFMON, whose socket filters may hold no pointer as a number."""
    pointers = {"the frame's end": "mov %r6, %r10", "the context": "mov %r6, %r9", "a map": "lddw %r6, map 1", "a map value": VALUE,
                "a map value or null": LOOKUP + "; mov %r6, %r0", "a pointer from the stack": "stxdw [%r10-8], %r9; ldxdw %r6, [%r10-8]"}
    to_value = LOOKUP.replace("map_lookup_elem", "map_lookup_elem; jeq %r0, 0, out")
    uses = {"returned": "mov %r0, %r6; exit", "stored in a map value": f"{to_value}; stxdw [%r0+0], %r6", "half stored in a map value": f"{to_value}; stxw [%r0+0], %r6",
            "stored in a map's constants' place": f"lddw %r1, mapvalue 2+0; stxdw [%r1+8], %r6", "stored in the context": "stxw [%r9+48], %r6",
            "added to a map value": f"{to_value}; lock add [%r0+0], %r6", "exchanged into a map value": f"{to_value}; lock xchg [%r0+0], %r6",
            "exchanged into the stack": "lock xchg [%r10-16], %r6", "compared and exchanged into the stack": "mov %r0, 0; lock cmpxchg [%r10-16], %r6", "compared in an exchange": "mov %r1, 0; mov %r0, %r6; lock cmpxchg [%r10-16], %r1",
            "negated": "neg %r6", "swapped": "be64 %r6", "cut to 32 bits": "mov32 %r1, %r6", "copied": "mov %r1, %r6", "masked": "and %r6, 7", "multiplied": "mul %r6, 2", "with a constant added": "add %r6, 8",
            "with a constant added in 32 bits": "add32 %r6, 8", "subtracted from itself": "sub %r6, %r6", "subtracted from another": "mov %r1, %r10; sub %r1, %r6", "added to another": "mov %r1, %r10; add %r1, %r6",
            "compared with a constant": "jeq %r6, 5, out", "compared with null": "jeq %r6, 0, out", "compared above 0": "jgt %r6, 0, out", "compared with another": "jgt %r6, %r10, out", "compared with itself": "jeq %r6, %r6, out", "compared in 32 bits": "jeq32 %r6, 0, out",
            "compared with a number": "call get_prandom_u32; jeq %r6, %r0, out", "given as flags": "lddw %r1, map 1; mov %r2, %r10; add %r2, -8; mov %r3, %r10; add %r3, -32; mov %r4, %r6; call map_update_elem",
            "given as a size": "lddw %r1, map 3; mov %r2, %r10; add %r2, -16; mov %r3, %r6; mov %r4, 0; call ringbuf_output",
            "spilled": "stxdw [%r10-16], %r6; ldxdw %r1, [%r10-16]", "spilled, half read": "stxdw [%r10-16], %r6; ldxw %r1, [%r10-16]", "spilled, a byte read": "stxdw [%r10-16], %r6; ldxb %r1, [%r10-13]",
            "spilled in half": "stxw [%r10-16], %r6", "spilled, overwritten in part": "stxdw [%r10-16], %r6; stb [%r10-16], 0", "spilled, overwritten as a whole": "stxdw [%r10-16], %r6; stdw [%r10-16], 0; ldxw %r1, [%r10-16]",
            "spilled, an atomic on it": "stxdw [%r10-16], %r6; mov %r1, 1; lock add [%r10-16], %r1", "spilled, handed to a helper that reads": "stxdw [%r10-16], %r6; lddw %r1, map 3; mov %r2, %r10; add %r2, -16; mov %r3, 8; mov %r4, 0; call ringbuf_output",
            "spilled, below what a helper reads": "stxdw [%r10-24], %r6; lddw %r1, map 3; mov %r2, %r10; add %r2, -16; mov %r3, 8; mov %r4, 0; call ringbuf_output",
            "spilled, a key": "stxdw [%r10-16], %r6; lddw %r1, map 1; mov %r2, %r10; add %r2, -16; call map_lookup_elem", "spilled, overwritten by a helper": "stxdw [%r10-16], %r6; mov %r1, %r9; mov %r2, 0; mov %r3, %r10; add %r3, -16; mov %r4, 8; call skb_load_bytes; ldxdw %r1, [%r10-16]; mov %r0, %r1",
            "given to a function and back": "mov %r1, %r6; call local f; mov %r6, %r0", "given to a function, returned as a number": "mov %r1, %r6; call local f; exit"}
    for (which, make_it), (what, use) in itertools.product(pointers.items(), uses.items()):
        code = [PROLOGUE, make_it, use, "mov %r0, 0", "out:", "mov %r0, 0; exit"] + (["f:", "mov %r0, %r1; exit"] if "local f" in use else [])
        yield case(f"strict: {which}, {what}", code, "socket", ("strict",))
    unwritten = {"read": "ldxdw %r0, [%r10-128]", "a byte read": "ldxb %r0, [%r10-128]", "half written, read": "stw [%r10-128], 0; ldxdw %r0, [%r10-128]", "written, read": "stdw [%r10-128], 0; ldxdw %r0, [%r10-128]",
                 "handed to a helper that reads": "lddw %r1, map 3; mov %r2, %r10; add %r2, -128; mov %r3, 8; mov %r4, 0; call ringbuf_output", "a key": "lddw %r1, map 1; mov %r2, %r10; add %r2, -128; call map_lookup_elem",
                 "handed to a helper that writes, read": "mov %r1, %r9; mov %r2, 0; mov %r3, %r10; add %r3, -128; mov %r4, 8; call skb_load_bytes; ldxdw %r0, [%r10-128]",
                 "written by a helper but for its last byte, read": "mov %r1, %r9; mov %r2, 0; mov %r3, %r10; add %r3, -128; mov %r4, 7; call skb_load_bytes; ldxdw %r0, [%r10-128]",
                 "an atomic on it": "mov %r1, 1; lock add [%r10-128], %r1", "written on one of two ways, read": "call get_prandom_u32; jeq %r0, 0, a; stdw [%r10-128], 0; a:; ldxdw %r0, [%r10-128]",
                 "written on one of two ways, the other first, read": "call get_prandom_u32; jne %r0, 0, a; stdw [%r10-128], 0; a:; ldxdw %r0, [%r10-128]",
                 "read in a function": "mov %r1, %r10; add %r1, -128; call local f", "written in a function, read": "mov %r1, %r10; add %r1, -128; call local g; ldxdw %r0, [%r10-128]"}
    for what, use in unwritten.items():
        code = [PROLOGUE, use, "mov %r0, 0", "out:", "mov %r0, 0; exit"]
        code += ["f:", "ldxdw %r0, [%r1+0]; mov %r0, 0; exit"] if "local f" in use else ["g:", "stdw [%r1+0], 0; mov %r0, 0; exit"] if "local g" in use else []
        yield case(f"strict: stack never written, {what}", code, "socket", ("strict",))
    variable = "call get_prandom_u32; and %r0, 7; mov %r6, %r10; add %r6, -64; add %r6, %r0"
    for what, use in {"read": "ldxb %r1, [%r6+0]", "written": "stb [%r6+0], 1", "a pointer written": "and %r0, 0; stxdw [%r6+0], %r9", "handed to a helper that reads": "lddw %r1, map 3; mov %r2, %r6; mov %r3, 8; mov %r4, 0; call ringbuf_output",
                      "handed to a helper that writes": "mov %r1, %r9; mov %r2, 0; mov %r3, %r6; mov %r4, 8; call skb_load_bytes"}.items():
        yield case(f"strict: stack at an unknown offset, {what}", [PROLOGUE, variable, use, "mov %r0, 0; exit"], "socket", ("strict",))
    for what, use in {"used after it was submitted": "mov %r0, %r6; exit", "returned from the stack after it was submitted": "ldxdw %r0, [%r10-8]; exit", "compared after it was submitted": "jeq %r6, 5, out", "not used after it was submitted": ""}.items():
        yield case(f"strict: a record, {what}", [PROLOGUE, RECORD, "stxdw [%r10-8], %r6", SUBMIT, use, "out:", "mov %r0, 0; exit"], "socket", ("strict",))
    for what, use in {"stored in a record": "stxdw [%r6+0], %r10", "a number stored in a record": "stdw [%r6+0], 5"}.items():
        yield case(f"strict: {what}", [PROLOGUE, RECORD, use, SUBMIT, "out:", "mov %r0, 0; exit"], "socket", ("strict",))
    packet = "mov %r9, %r1; ldxw %r6, [%r1+0]; ldxw %r7, [%r1+4]; mov %r2, %r6; add %r2, 8"
    for what, use in {"compared with its end": "jgt %r2, %r7, out; ldxb %r1, [%r6+0]", "compared with another place in it": "jgt %r2, %r6, out", "compared with a number": "jgt %r2, 5, out", "its end minus its begin": "sub %r7, %r6",
                      "returned": "mov %r0, %r6; exit", "written into itself": "jgt %r2, %r7, out; stxdw [%r6+0], %r6", "a number written into it": "jgt %r2, %r7, out; stdw [%r6+0], 1", "compared with the frame": "jgt %r2, %r10, out"}.items():
        yield case(f"strict: a packet, {what}", [packet, use, "out:", "mov %r0, 2; exit"], "xdp", ("strict",))


# ---- packet bytes by number, and functions that end early ----

def packet_byte(size="b", source=None):
    """LD_ABS, or LD_IND with a register's number, of offset 0: the assembler has none."""
    code = {"w": 0x20, "h": 0x28, "b": 0x30, "dw": 0x38}[size] + (0 if source is None else 0x20)
    return f"raw 0x{code | (source or 0) << 12:016x}"


def packet_loads():
    load, main = packet_byte(), "func global int test(ctx)"
    for prog_type in ("socket", "tc", "xdp", "kprobe", "tracepoint"):
        yield case(f"a packet's byte in {prog_type}", f"mov %r6, %r1; {load}; mov %r0, 0; exit", prog_type)
    for size, source in itertools.product(("b", "h", "w", "dw"), (None, 7)):
        yield case(f"{size} of the packet{'' if source is None else ', its place in a register'}", f"mov %r6, %r1; mov %r7, 4; {packet_byte(size, source)}; exit", "socket")
    for what, setup in {"never written": "", "a number": "mov %r6, 0", "the stack": "mov %r6, %r10", "the context and 8": "mov %r6, %r1; add %r6, 8",
                        "the context and something unknown": "mov %r6, %r1; ldxw %r2, [%r1+0]; and %r2, 8; add %r6, %r2", "a map": "lddw %r6, map 1"}.items():
        yield case(f"a packet's byte, r6 is {what}", f"{setup}; {load}; exit", "socket")
    for what, setup in {"never written": "", "unknown": "ldxw %r7, [%r1+0]", "the frame": "mov %r7, %r10"}.items():
        yield case(f"a packet's byte at a place that is {what}", f"mov %r6, %r1; {setup}; {packet_byte('b', 7)}; exit", "socket")
    for code, what in ((0x130, "a destination"), (0x1030, "a source"), (0x10030, "an offset")):
        yield case(f"a packet's byte with {what}", f"mov %r6, %r1; raw 0x{code:016x}; exit", "socket")
    for r in (0, 1, 2, 3, 4, 5, 7, 8, 9):
        yield case(f"a packet's byte, r{r} afterwards", f"mov %r6, %r1; mov %r{r}, 1; {load}; mov %r0, %r{r}; exit", "socket")
    yield case("a packet's byte, the context afterwards", f"mov %r6, %r1; {load}; ldxw %r0, [%r6+0]; exit", "socket")
    value = [PROLOGUE, VALUE, "mov %r8, %r6; mov %r6, %r9", load]
    for what, check in {"masked": "and %r0, 15", "checked": "jgt %r0, 15, out", "checked one too far": "jgt %r0, 16, out", "not checked": ""}.items():
        yield case(f"a packet's byte as an offset, {what}", [*value, check, "add %r8, %r0; ldxb %r1, [%r8+0]", "out:", "mov %r0, 0; exit"], "socket")
    yield case("a packet's byte, a checked packet afterwards",
               ["mov %r6, %r1; ldxw %r7, [%r1+76]; ldxw %r8, [%r1+80]; mov %r2, %r7; add %r2, 8; jgt %r2, %r8, out", load, "ldxb %r0, [%r7+0]", "out:", "mov %r0, 0; exit"], "tc")
    for what, (before, after) in {"with a record": (RECORD.replace("mov %r6", "mov %r7"), "mov %r1, %r7; mov %r2, 0; call ringbuf_submit"),
                                  "under a lock": (look(7) + "; mov %r1, %r8; call spin_lock", "mov %r1, %r8; call spin_unlock"),
                                  "in an RCU region": ("call kfunc bpf_rcu_read_lock", "call kfunc bpf_rcu_read_unlock"),
                                  "without preemption": ("call kfunc bpf_preempt_disable", "call kfunc bpf_preempt_enable")}.items():
        yield case(f"a packet's byte {what}", [PROLOGUE, "mov %r6, %r1", before, load, after, "out:", "mov %r0, 0; exit"], "tc")
    ends = {"a packet's byte": f"mov %r6, %r1; {load}", "a tail call": "lddw %r2, map 5; mov %r3, 0; call tail_call"}
    for (what, code), linkage, gives in itertools.product(ends.items(), ("static", "global"), ("int", "u64", "void")):
        yield case(f"{what} in a {linkage} function that gives {gives}", ["call local f; mov %r0, 0; exit", "f:", code, "mov %r0, 1; exit"], "tc",
                   (main, f"func {linkage} {gives} f(ctx)"))
    for (what, code), context in itertools.product(ends.items(), ((), (main, "func static void f(ctx)"))):
        where = f"{what} in a function {'that gives nothing' if context else 'of no type'}"
        yield case(where, ["call local f; mov %r0, 0; exit", "f:", code, "mov %r0, 1; exit"], "tc", context)
        yield case(f"{where}, where nobody comes", ["mov %r2, 1; jeq %r2, 1, out; call local f; out:; mov %r0, 0; exit", "f:", code, "mov %r0, 1; exit"], "tc", context)
    for what, offset, how in (("0 or 1", 14, ""), ("0 or 1, one too far", 15, ""), ("1", 0, "sub %r0, 1")):
        yield case(f"a function that a packet's byte may end, its result used as {what}",
                   [PROLOGUE, VALUE, "mov %r1, %r9; call local f", how, f"add %r6, %r0; ldxb %r1, [%r6+{offset}]", "out:", "mov %r0, 0; exit",
                    "f:", ends["a packet's byte"], "mov %r0, 1; exit"], "tc", (main, "func static int f(ctx)"))
    # The kernel's own walk backwards does not end where the function did, so it refuses what relies on the other outcome too.
    yield case("what a function writes behind a packet's byte, taken as written",
               [PROLOGUE, VALUE, "mov %r8, %r6; stdw [%r10-8], 1; mov %r1, %r9; mov %r2, %r10; add %r2, -8; call local f; ldxdw %r1, [%r10-8]", "jeq %r1, 2, out; ldxb %r0, [%r8+16]", "out:", "mov %r0, 0; exit",
                "f:", "mov %r7, %r2", ends["a packet's byte"], "stdw [%r7+0], 2; mov %r0, 1; exit"], "tc", (main, "func static int f(ctx, ptr)"))
    writes = {"a number": "mov %r10, 1", "a sum": "add %r10, 8", "a load": "ldxdw %r10, [%r1+0]", "a constant": "lddw %r10, 1", "a negation": "neg %r10", "a swap": "be64 %r10",
              "what was fetched": "stdw [%r10-8], 1; lock fetch add [%r10-8], %r10", "what was exchanged": "stdw [%r10-8], 1; lock xchg [%r10-8], %r10",
              "what was acquired": "stdw [%r10-8], 1; ldacqdw %r10, [%r10-8]"}
    for what, code in writes.items():
        yield case(f"the frame pointer becomes {what}", f"{code}; mov %r0, 0; exit", "socket")
        yield case(f"the frame pointer becomes {what}, where nobody comes", f"mov %r2, 1; jeq %r2, 1, out; {code}; out:; mov %r0, 0; exit", "socket")


# ---- small rules, each with what it just forbids ----

def small_rules():
    for what, insn in {"8 bytes of its begin": "ldxdw %r2, [%r1+0]", "4 bytes of its begin": "ldxw %r2, [%r1+0]", "a byte of its begin": "ldxb %r2, [%r1+0]", "below its begin": "ldxdw %r2, [%r1-8]",
                       "far behind it": "ldxdw %r2, [%r1+32000]", "written": "mov %r2, 0; stxdw [%r1+0], %r2", "an atomic on it": "mov %r2, 1; lock add [%r1+0], %r2", "with 0 added": "add %r1, 0; ldxdw %r2, [%r1+0]",
                       "with 8 added": "add %r1, 8; ldxdw %r2, [%r1+0]"}.items():
        for number in (1, 2, 3, 6):
            yield case(f"the map itself, a {MAPS[number].split()[0]}: {what}", f"lddw %r1, map {number}; {insn}; mov %r0, 0; exit", "socket")
    yield case("strict: the map itself is read", "lddw %r1, map 1; ldxdw %r2, [%r1+0]; mov %r0, 0; exit", "socket", ("strict",))
    for (how, write), (letter, size), place in itertools.product({"a zero": "stdw [%r10-16], 0", "a register's zero": "mov %r1, 0; stxdw [%r10-16], %r1", "a one": "stdw [%r10-16], 1", "half a zero": "stdw [%r10-16], -1; stw [%r10-16], 0",
                                                                 "two zeros of four bytes": "stw [%r10-16], 0; stw [%r10-12], 0"}.items(), (("b", 1), ("h", 2), ("w", 4), ("dw", 8)), (-16, -12, -10, -9)):
        if (place + 16) % size == 0 and place + size <= -8:
            yield case(f"{how} in the stack, {size} bytes at {place} as an offset",
                       [PROLOGUE.replace("stdw [%r10-16], 0; ", ""), VALUE, write, f"ldx{letter} %r5, [%r10{place}]; add %r6, %r5; ldxb %r0, [%r6+15]", "out:", "mov %r0, 0; exit"])
    for first, second in (("0", "1"), ("1", "0")):
        yield case(f"the stack has {first} or {second}, its last byte as an offset",
                   [PROLOGUE, VALUE, f"call ktime_get_ns; stdw [%r10-16], {first}; jeq %r0, 7, +1; stdw [%r10-16], {second}", "ldxb %r5, [%r10-9]; add %r6, %r5; ldxb %r0, [%r6+15]", "out:", "mov %r0, 0; exit"],
                   context=("flags state_freq",))
        yield case(f"the stack has {first} or {second} shifted to its last byte, as an offset",
                   [PROLOGUE, VALUE, f"call ktime_get_ns; mov %r1, {first}; jeq %r0, 7, +1; mov %r1, {second}", "lsh %r1, 56; stxdw [%r10-16], %r1; ldxb %r5, [%r10-9]; add %r6, %r5; ldxb %r0, [%r6+15]", "out:", "mov %r0, 0; exit"],
                   context=("flags state_freq",))
    start = [PROLOGUE, VALUE, "mov %r8, %r6; call ktime_get_ns"]
    for what, code in {"a copy, 4 added": "mov %r5, %r0; add %r5, 4; jgt %r0, 11, out", "a copy of that": "mov %r4, %r0; add %r4, 4; mov %r5, %r4; jgt %r0, 11, out", "a copy of that, the copied one checked": "mov %r4, %r0; add %r4, 4; mov %r5, %r4; jgt %r4, 15, out",
                       "a copy of that, 4 added": "mov %r4, %r0; add %r4, 4; mov %r5, %r4; add %r5, 4; jgt %r4, 11, out", "a copy of that, 4 added, one too far": "mov %r4, %r0; add %r4, 4; mov %r5, %r4; add %r5, 4; jgt %r4, 12, out",
                       "4 added twice": "mov %r5, %r0; add %r5, 4; add %r5, 4; jgt %r0, 7, out", "that, through the stack": "mov %r4, %r0; add %r4, 4; stxdw [%r10-16], %r4; ldxdw %r5, [%r10-16]; jgt %r4, 15, out",
                       "that, through the stack, the first checked": "mov %r4, %r0; add %r4, 4; stxdw [%r10-16], %r4; ldxdw %r5, [%r10-16]; jgt %r0, 11, out"}.items():
        yield case(f"linked numbers: {what}", [*start, code, "add %r8, %r5; ldxb %r0, [%r8+0]", "out:", "mov %r0, 0; exit"])
    for last in (15, 16):
        yield case(f"a loop that counts with copies, up to {last}",
                   [PROLOGUE, VALUE, f"call ktime_get_ns; jgt %r0, {last}, out; again:; mov %r1, %r6; mov %r2, %r0; add %r1, %r2; ldxb %r3, [%r1+0]", "raw 0x00000000000300e5", f"mov %r0, %r2; add %r0, 1; jlt %r2, {last}, again", "out:", "mov %r0, 0; exit"], "socket")
    for kind, where in itertools.product(("", "static", "global"), ("called back", "called back where nobody comes", "only named")):
        named = "lddw %r2, func f"
        code = {"called back": f"mov %r1, 2; {named}; mov %r3, 0; mov %r4, 0; call loop", "only named": named,
                "called back where nobody comes": f"mov %r1, 2; jeq %r1, 2, out; {named}; mov %r3, 0; mov %r4, 0; call loop"}[where]
        yield case(f"a {kind or 'typeless'} function is {where}", [code, "out:", "mov %r0, 0; exit", "f:", "mov %r0, 0; exit"],
                   "tc", ("func global int test(ctx)", f"func {kind} int f(u64, ptr)") if kind else ())
    for target, helper, check in itertools.product(("tcp", "unix", "task"), ("setsockopt", "getsockopt"), ("jeq %r1, 0, out", "")):
        yield case(f"{helper} of what iter/{target} walks over{', not checked' if not check else ''}",
                   ["ldxdw %r1, [%r1+8]", check, "stdw [%r10-8], 0; mov %r2, 1; mov %r3, 8; mov %r4, %r10; add %r4, -8; mov %r5, 4", f"call {helper}", "out:", "mov %r0, 0; exit"],
                   "tracing", ("attach 28", f"attach_btf bpf_iter_{target}"))
    for prog_type in ("socket", "tc"):
        for what, code in {"the frame": "stxdw [%r1+48], %r10", "a map": "lddw %r2, map 1; stxdw [%r1+48], %r2", "the context": "stxdw [%r1+48], %r1", "half the frame": "stxw [%r1+48], %r10"}.items():
            for strict_line in ((), ("strict",)):
                yield case(f"{'strict: ' if strict_line else ''}{what} stored in the packet's notes in {prog_type}", f"{code}; mov %r0, 0; exit", prog_type, strict_line)


# ---- sockets: where they come from, what comes of them, and how long that lasts ----

SOCKET_TUPLE = "mov %r9, %r1; stdw [%r10-8], 0; stdw [%r10-16], 0"
CAST = ("tcp_sock", "sk_fullsock", "get_listener_sock", "skc_to_tcp_sock", "skc_to_tcp6_sock", "skc_to_tcp_timewait_sock",
        "skc_to_tcp_request_sock", "skc_to_udp6_sock", "skc_to_unix_sock", "skc_to_mptcp_sock")


def looked_up(helper):
    return f"mov %r1, %r9; mov %r2, %r10; add %r2, -16; mov %r3, 12; mov %r4, 0; mov %r5, 0; call {helper}; jeq %r0, 0, out; mov %r6, %r0"


def sockets():
    release = "mov %r1, %r6; call sk_release"
    release_second = "mov %r1, %r7; call sk_release"
    use_first, use = "ldxw %r8, [%r6+4]", "ldxw %r8, [%r7+4]"
    sources = {"one looked up": (looked_up("sk_lookup_tcp"), release), "one looked up of any kind": (looked_up("skc_lookup_tcp"), release),
               "one out of a map": ("lddw %r1, map 15; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; mov %r6, %r0", release),
               "the packet's": ("ldxdw %r6, [%r1+168]; jeq %r6, 0, out", "")}
    for (source, (setup, end)), helper in itertools.product(sources.items(), CAST):
        found = f"jne %r0, 0, found; {end}; ja out; found:; mov %r7, %r0"
        for what, code in {"used": [found, use, end], "used after the release": [found, end, use], "used, not checked": ["mov %r7, %r0", use, end],
                           "checked after the release": ["mov %r7, %r0", end, "jeq %r7, 0, out", use], "released in its place": [found, release_second],
                           "released in its place, the first used": [found, release_second, use_first], "released after the first": [found, end, release_second],
                           "released before the first": [found, release_second, release], "released, perhaps null": ["mov %r7, %r0", release_second],
                           "from the stack, used after the release": [found, "stxdw [%r10-24], %r7", end, "ldxdw %r7, [%r10-24]", use], "lost": [found],
                           "made a full one": [found, "mov %r1, %r7; call sk_fullsock; jne %r0, 0, full", end, "ja out", "full:", "mov %r7, %r0", end, use]}.items():
            yield case(f"{helper} of {source}: {what}", [SOCKET_TUPLE, setup, f"mov %r1, %r6; call {helper}", *code, "out:", "mov %r0, 0; exit"], "tc")
    for source, (setup, end) in sources.items():
        for what, code in {"nothing": "", "stored to": "stw [%r6+4], 0", "an atomic on it": "mov %r2, 1; lock add [%r6+0], %r2", "moved": "add %r6, 4; ldxw %r8, [%r6+0]", "compared": "jeq %r6, 7, +0",
                           "a key": "lddw %r1, map 15; mov %r2, %r6; call map_lookup_elem", "put into a map": "lddw %r1, map 15; mov %r2, %r10; add %r2, -8; mov %r3, %r6; mov %r4, 0; call map_update_elem",
                           "assigned to the packet": "mov %r1, %r9; mov %r2, %r6; mov %r3, 0; call sk_assign", "no socket assigned to the packet": "mov %r1, %r9; mov %r2, 0; mov %r3, 0; call sk_assign",
                           "given to a function": "mov %r1, %r6; call local f", "a copy released": "mov %r7, %r6; mov %r1, %r7; call sk_release; ldxw %r1, [%r6+4]"}.items():
            yield case(f"a socket, {source}: {what}", [SOCKET_TUPLE, setup, code, end, "out:", "mov %r0, 0; exit"] + (["f:", "ldxw %r0, [%r1+4]; mov %r0, 0; exit"] if "local" in code else []), "tc")
    for prog_type, number, helper in itertools.product(("kprobe", "tracepoint", "perf_event", "raw_tracepoint", "socket", "tc", "xdp"), (15, 16), ("delete", "update")):
        yield case(f"{helper} on a {MAPS[number].split()[0]} in {prog_type}",
                   [SOCKET_TUPLE, f"lddw %r1, map {number}; mov %r2, %r10; add %r2, -8; mov %r3, %r10; add %r3, -16; mov %r4, 0; call map_{helper}_elem", "mov %r0, 0; exit"], prog_type)


# ---- objects that programs allocate, and who owns them ----

MAIN = ("func global int test(ctx)",)


def new(kind, to, otherwise="out"):
    return f"mov %r1, @{kind}; mov %r2, 0; call kfunc bpf_obj_new_impl; jeq %r0, 0, {otherwise}; mov %r{to}, %r0"


def drop(held):
    return f"mov %r1, %r{held}; mov %r2, 0; call kfunc bpf_obj_drop_impl"


def share(held):
    return f"mov %r1, %r{held}; mov %r2, 0; call kfunc bpf_refcount_acquire_impl"


def exchange(place, at, what):
    return f"mov %r1, %r{place}; add %r1, {at}; mov %r2, {what}; call kptr_xchg"


def owned():
    end = ("out:", "mov %r0, 0; exit")
    for kind in ("tc", "xdp", "syscall", "socket", "kprobe", "tracepoint", "perf_event", "raw_tracepoint"):
        yield case(f"an object in a program of type {kind}", [new("pod", 6), drop(6), *end], kind, MAIN + (("flags sleepable",) if kind == "syscall" else ()))
    for what, code in {"read": "ldxw %r1, [%r6+0]", "written": "stw [%r6+0], 1", "this processor's written": "mov %r1, %r6; call this_cpu_ptr; stw [%r0+0], 1",
                       "a processor's read unchecked": "mov %r1, %r6; mov %r2, 0; call per_cpu_ptr; ldxw %r1, [%r0+0]", "this processor's of this processor's": "mov %r1, %r6; call this_cpu_ptr; mov %r1, %r0; call this_cpu_ptr", "read by a helper": "lddw %r1, map 3; mov %r2, %r6; mov %r3, 8; mov %r4, 0; call ringbuf_output"}.items():
        for name in ("runqueues", "cpu_number"):
            yield case(f"the variable {name}, {what}", [f"lddw %r6, variable {name}", code, *end], "tc", MAIN)
    for what, code in {"a record": (RECORD, SUBMIT), "a map value": (VALUE, ""), "the frame": ("mov %r6, %r10", ""), "the context": ("mov %r6, %r9", "")}.items():
        yield case(f"bpf_this_cpu_ptr of {what}", [PROLOGUE, code[0], "mov %r1, %r6; call this_cpu_ptr", code[1], *end], "tc", MAIN)
    for what, code in {"of each type": [code for kind in ("pod", "item", "leaf", "shared", "box", "safe") for code in (new(kind, 6), drop(6))], "without types": ["mov %r1, 0; mov %r2, 0; call kfunc bpf_obj_new_impl"],
                       "of a number's type": ["mov %r1, 1; mov %r2, 0; call kfunc bpf_obj_new_impl"], "of a type beyond the last": ["mov %r1, 5000; mov %r2, 0; call kfunc bpf_obj_new_impl"],
                       "of a type of 33 bits": ["lddw %r1, 0x100000001; mov %r2, 0; call kfunc bpf_obj_new_impl"], "of an unknown type": ["call get_prandom_u32; mov %r1, %r0; mov %r2, 0; call kfunc bpf_obj_new_impl"],
                       "of one of two types": ["call get_prandom_u32; mov %r1, @pod; jeq %r0, 0, +1; mov %r1, @item; mov %r2, 0; call kfunc bpf_obj_new_impl; jeq %r0, 0, out; mov %r6, %r0", drop(6)],
                       "of a large type": [new("large", 6), drop(6)], "with a pointer": [new("pointer", 6), "ldxdw %r1, [%r6+0]; stxdw [%r10-8], %r1", drop(6)], "with a pointer that is followed": [new("pointer", 6), "ldxdw %r1, [%r6+0]; ldxdw %r1, [%r1+0]", drop(6)],
                       "with a second argument of any kind": ["mov %r1, @pod; mov %r2, %r10; call kfunc bpf_obj_new_impl; jeq %r0, 0, out; mov %r1, %r0; mov %r2, %r10; call kfunc bpf_obj_drop_impl"],
                       "with no second argument": ["mov %r1, @pod; call kfunc bpf_obj_new_impl; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_obj_drop_impl"]}.items():
        yield case(f"an object {what}", [*code, *end], "tc", MAIN)
    # A pod in r6, owned, perhaps a copy in r7 and in the stack.
    copies = "mov %r7, %r6; stxdw [%r10-8], %r6"
    uses = {"dropped": drop(6), "lost": "", "dropped twice": drop(6) + "; " + drop(6), "its copy dropped": drop(7), "dropped, its copy too": drop(6) + "; " + drop(7), "dropped, its copy read": drop(6) + "; ldxdw %r1, [%r7+0]",
            "dropped, the copy in the stack read": drop(6) + "; ldxdw %r1, [%r10-8]; ldxdw %r1, [%r1+0]", "dropped, the copy in the stack dropped": drop(6) + "; ldxdw %r8, [%r10-8]; " + drop(8), "dropped, read": drop(6) + "; ldxdw %r1, [%r6+0]",
            "dropped, written": drop(6) + "; stdw [%r6+0], 1", "dropped, an atomic on it": drop(6) + "; mov %r1, 1; lock add [%r6+0], %r1", "dropped, compared with null": drop(6) + "; jeq %r6, 0, out", "dropped, given back as a number": drop(6) + "; mov %r0, %r6; exit",
            "dropped on one of two ways": "call get_prandom_u32; jeq %r0, 0, a; " + drop(6) + "; a:", "dropped on one of two ways, then again": "call get_prandom_u32; jeq %r0, 0, a; " + drop(6) + "; a:; " + drop(6),
            "dropped on both ways": "call get_prandom_u32; jeq %r0, 0, a; " + drop(6) + "; ja out; a:; " + drop(6), "dropped on one of two ways, read": "call get_prandom_u32; jeq %r0, 0, a; " + drop(6) + "; a:; ldxdw %r1, [%r6+0]",
            "dropped at an offset": "add %r6, 8; " + drop(6), "moved and moved back, dropped": "add %r6, 8; sub %r6, 8; " + drop(6), "dropped at an unknown offset": "call get_prandom_u32; and %r0, 8; add %r6, %r0; " + drop(6),
            "dropped as one a CPU": "mov %r1, %r6; mov %r2, 0; call kfunc bpf_percpu_obj_drop_impl", "released as a task": "mov %r1, %r6; call kfunc bpf_task_release", "released as a record": "mov %r1, %r6; mov %r2, 0; call ringbuf_submit",
            "released as a socket": "mov %r1, %r6; call sk_release", "shared": share(6), "put at the begin of a list without a node": "lddw %r1, mapvalue 21+8; mov %r2, %r6; mov %r3, 0; mov %r4, 0; call kfunc bpf_list_push_front_impl",
            "locked": "mov %r1, %r6; call spin_lock; mov %r1, %r6; call spin_unlock; " + drop(6), "asked for its copy": "mov %r1, %r6; call this_cpu_ptr; " + drop(6), "overwritten": "mov %r6, 0; mov %r7, 0; stdw [%r10-8], 0", "overwritten but for the stack": "mov %r6, 0; mov %r7, 0; ldxdw %r8, [%r10-8]; " + drop(8),
            "half of it overwritten in the stack, dropped": "stw [%r10-8], 0; " + drop(6), "dropped in a function": "mov %r1, %r6; call local f", "dropped in a function, the caller's copy read": "mov %r1, %r6; call local f; ldxdw %r1, [%r7+0]",
            "dropped in a function, the caller's copy dropped": "mov %r1, %r6; call local f; " + drop(7), "dropped in a function, the caller's stack read": "mov %r1, %r6; call local f; ldxdw %r1, [%r10-8]; ldxdw %r1, [%r1+0]",
            "lost in a function": "mov %r1, %r6; call local g", "given to a function and back": "mov %r1, %r6; call local h; mov %r6, %r0; " + drop(6), "given to a function and back, both dropped": "mov %r1, %r6; call local h; mov %r8, %r0; " + drop(8) + "; " + drop(6),
            "dropped by a function out of the caller's stack": "mov %r1, %r10; add %r1, -8; call local k", "dropped by a function out of the caller's stack, read": "mov %r1, %r10; add %r1, -8; call local k; ldxdw %r1, [%r6+0]",
            "dropped in a callback": "mov %r1, 1; lddw %r2, func each; mov %r3, %r10; add %r3, -8; mov %r4, 0; call loop", "held over a callback": "mov %r1, 3; lddw %r2, func none; mov %r3, 0; mov %r4, 0; call loop; " + drop(6),
            "held at a throw": "mov %r1, 0; call kfunc bpf_throw", "dropped before a throw": drop(6) + "; mov %r1, 0; call kfunc bpf_throw", "held at a tail call": "mov %r1, %r9; lddw %r2, map 5; mov %r3, 0; call tail_call; " + drop(6)}
    functions = {"f": ("func static int f(u64)", ["f:", "mov %r2, 0; call kfunc bpf_obj_drop_impl; mov %r0, 0; exit"]), "g": ("func static int g(u64)", ["g:", "mov %r1, 0; mov %r0, 0; exit"]), "h": ("func static u64 h(u64)", ["h:", "mov %r0, %r1; exit"]),
                 "k": ("func static int k(u64)", ["k:", "ldxdw %r1, [%r1+0]; mov %r2, 0; call kfunc bpf_obj_drop_impl; mov %r0, 0; exit"]),
                 "each": ("func static u64 each(u64, u64)", ["each:", "ldxdw %r1, [%r2+0]; mov %r2, 0; call kfunc bpf_obj_drop_impl; mov %r0, 0; exit"]), "none": ("func static u64 none(u64, u64)", ["none:", "mov %r0, 0; exit"])}
    for what, use in uses.items():
        called = re.findall(r"(?:local|\bfunc) (\w+)", use)
        yield case(f"an object that is {what}", [PROLOGUE, new("pod", 6), copies, use, *end, *(functions[called[0]][1] if called else [])], "tc", MAIN + ((functions[called[0]][0],) if called else ()))
    accesses = {"its first byte read": "ldxb %r1, [%r6+0]", "its last byte read": "ldxb %r1, [%r6+23]", "the byte behind it read": "ldxb %r1, [%r6+24]", "the byte before it read": "ldxb %r1, [%r6-1]", "its last eight bytes read": "ldxdw %r1, [%r6+16]", "two members read as one": "ldxdw %r1, [%r6+16]",
                "across two members": "ldxdw %r1, [%r6+4]", "half a member read": "ldxw %r1, [%r6+4]", "a member written": "stdw [%r6+8], 5", "half a member written": "stw [%r6+12], 5", "across two members written": "stdw [%r6+4], 5", "two members written as one": "stdw [%r6+16], 5",
                "the byte behind it written": "stb [%r6+24], 5", "its last byte written": "stb [%r6+23], 1", "an atomic on a member": "mov %r1, 1; lock add [%r6+8], %r1", "an atomic behind it": "mov %r1, 1; lock add [%r6+24], %r1", "an odd atomic": "mov %r1, 1; lock add32 [%r6+2], %r1",
                "a pointer written": "stxdw [%r6+0], %r10", "itself written": "stxdw [%r6+0], %r6", "read sign-extended": "ldxsw %r1, [%r6+16]", "read at an unknown offset": "call get_prandom_u32; and %r0, 7; mov %r7, %r6; add %r7, %r0; ldxb %r1, [%r7+0]", "read at a known offset": "mov %r7, %r6; add %r7, 8; ldxdw %r1, [%r7+8]; ldxdw %r1, [%r7-8]",
                "read far behind": "mov %r7, %r6; add %r7, 4096; ldxb %r1, [%r7+0]", "what was read is followed": "ldxdw %r1, [%r6+0]; ldxdw %r1, [%r1+0]", "read by a helper": "lddw %r1, map 3; mov %r2, %r6; mov %r3, 8; mov %r4, 0; call ringbuf_output", "written by a helper": "mov %r1, %r6; mov %r2, 8; mov %r3, %r10; call probe_read_kernel",
                "a key": "lddw %r1, map 1; mov %r2, %r6; call map_lookup_elem", "a value for a map": "lddw %r1, map 1; mov %r2, %r10; add %r2, -8; mov %r3, %r6; mov %r4, 0; call map_update_elem", "stored in a map value": "lddw %r1, mapvalue 10+0; mov %r8, %r1; lddw %r1, mapvalue 24+0; stxdw [%r1+0], %r6",
                "given to a global function": "mov %r1, %r6; call local p", "compared with itself": "mov %r7, %r6; jeq %r7, %r6, +0", "compared with a number": "jeq %r6, 5, +0", "subtracted": "mov %r7, %r6; sub %r7, %r6", "masked": "mov %r7, %r6; and %r7, 7"}
    for kind, (what, use) in itertools.product(("pod",), accesses.items()):
        tail = ["p:", "ldxdw %r0, [%r1+0]; mov %r0, 0; exit"] if "local p" in use else []
        yield case(f"an object, {what}", [PROLOGUE, new(kind, 6), use, drop(6), *end, *tail], "tc", MAIN + (("func global int p(ptr)",) if tail else ()))
    for kind, size in {"item": 40, "leaf": 40, "shared": 72, "box": 32, "safe": 48}.items():
        for at, width in itertools.product(range(0, size, 4), ("w", "dw")):
            if width == "w" or at % 8 == 0:
                yield case(f"an object of type {kind}, {width} at {at} read", [new(kind, 6), f"ldx{width} %r1, [%r6+{at}]", drop(6), *end], "tc", MAIN)
                yield case(f"an object of type {kind}, {width} at {at} written", [new(kind, 6), f"st{width} [%r6+{at}], 0", drop(6), *end], "tc", MAIN)
    for what, code in {"read unchecked": "ldxdw %r1, [%r0+0]", "dropped unchecked": "mov %r1, %r0; mov %r2, 0; call kfunc bpf_obj_drop_impl", "moved unchecked": "add %r0, 8; jeq %r0, 0, out", "checked after a copy": "mov %r6, %r0; jeq %r0, 0, out; " + drop(6), "checked by not null": "jne %r0, 0, +1; ja out; mov %r6, %r0; " + drop(6),
                       "checked in 32 bits": "jeq32 %r0, 0, out; mov %r6, %r0; " + drop(6), "dropped where it is null": "mov %r6, %r0; jne %r0, 0, +3; " + drop(6), "null on one way, dropped on the other": "mov %r6, %r0; jeq %r6, 0, out; " + drop(6) + "; ja out"}.items():
        yield case(f"a new object, {what}", ["mov %r1, @pod; mov %r2, 0; call kfunc bpf_obj_new_impl", code, *end], "tc", MAIN)
    for what, code in {"one each round": "mov %r7, 0; again:; jge %r7, 10, out; " + new("pod", 6) + "; " + drop(6) + "; add %r7, 1; ja again", "one each round, lost": "mov %r7, 0; again:; jge %r7, 10, out; " + new("pod", 6) + "; add %r7, 1; ja again",
                       "the one of the round before": new("pod", 6) + "; mov %r7, 0; again:; jge %r7, 10, done; " + new("pod", 8, "done") + "; " + drop(6) + "; mov %r6, %r8; add %r7, 1; ja again; done:; " + drop(6),
                       "one each round of an iterator": "mov %r1, %r10; add %r1, -8; mov %r2, 0; mov %r3, 10; call kfunc bpf_iter_num_new; again:; mov %r1, %r10; add %r1, -8; call kfunc bpf_iter_num_next; jeq %r0, 0, done; " + new("pod", 6, "again") + "; " + drop(6) + "; ja again; done:; mov %r1, %r10; add %r1, -8; call kfunc bpf_iter_num_destroy",
                       "one each round of an iterator, lost": "mov %r1, %r10; add %r1, -8; mov %r2, 0; mov %r3, 10; call kfunc bpf_iter_num_new; again:; mov %r1, %r10; add %r1, -8; call kfunc bpf_iter_num_next; jeq %r0, 0, done; " + new("pod", 6, "again") + "; ja again; done:; mov %r1, %r10; add %r1, -8; call kfunc bpf_iter_num_destroy",
                       "dropped in the first round": new("pod", 6) + "; mov %r7, 0; again:; jge %r7, 10, out; " + drop(6) + "; add %r7, 1; ja again"}.items():
        yield case(f"objects in a loop: {what}", [code, *end], "tc", MAIN)


# ---- kptrs to objects, and objects of one copy a CPU ----

def object_kptrs():
    end = ("out:", "mov %r0, 0; exit")
    place = "lddw %r7, mapvalue 24+0"
    each = "mov %r1, @pod; mov %r2, 0; call kfunc bpf_percpu_obj_new_impl; jeq %r0, 0, out; mov %r6, %r0"
    drop_each = "mov %r1, %r6; mov %r2, 0; call kfunc bpf_percpu_obj_drop_impl"
    old = "jeq %r0, 0, out; mov %r6, %r0; "
    old_each = old + drop_each
    lookup = "stdw [%r10-8], 0; lddw %r1, map 24; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; mov %r7, %r0"
    for what, code in {"a pod stashed": [new("pod", 6), exchange(7, 8, "%r6"), old + drop(6)], "a pod stashed, what was there is lost": [new("pod", 6), exchange(7, 8, "%r6")], "a pod stashed, then read": [new("pod", 6), exchange(7, 8, "%r6"), "ldxdw %r8, [%r6+0]", old + drop(6)],
                       "a pod stashed, then dropped": [new("pod", 6), exchange(7, 8, "%r6"), "mov %r8, %r0", drop(6)], "a pod stashed twice": [new("pod", 6), exchange(7, 8, "%r6"), "mov %r8, %r0", exchange(7, 8, "%r6")], "null stashed": [exchange(7, 8, "0"), old + drop(6)], "null stashed, what was there unchecked": [exchange(7, 8, "0"), "mov %r6, %r0", drop(6)],
                       "null stashed, what was there read": [exchange(7, 8, "0"), old + "ldxdw %r8, [%r6+0]; stdw [%r6+8], 1; " + drop(6)], "null stashed, what was there lost": [exchange(7, 8, "0")], "a pod in a shared's place": [new("pod", 6), exchange(7, 24, "%r6"), old + drop(6)], "a shared in a pod's place": [new("shared", 6), exchange(7, 8, "%r6"), old + drop(6)],
                       "a shared stashed": [new("shared", 6), exchange(7, 24, "%r6"), old + drop(6)], "a pod in the place of one a CPU": [new("pod", 6), exchange(7, 16, "%r6"), old + drop(6)], "one a CPU in a pod's place": [each, exchange(7, 8, "%r6"), old + drop(6)], "one a CPU stashed": [each, exchange(7, 16, "%r6"), old_each],
                       "one a CPU stashed, what was there dropped as one": [each, exchange(7, 16, "%r6"), old + drop(6)], "a pod stashed where nothing is": [new("pod", 6), exchange(7, 0, "%r6"), old + drop(6)], "a pod stashed at an odd place": [new("pod", 6), exchange(7, 9, "%r6"), old + drop(6)], "a pod's middle stashed": [new("pod", 6), "mov %r8, %r6; add %r8, 8", exchange(7, 8, "%r8"), old + drop(6)],
                       "an unchecked pod stashed": ["mov %r1, @pod; mov %r2, 0; call kfunc bpf_obj_new_impl", exchange(7, 8, "%r0"), old + drop(6)], "a number stashed": ["call get_prandom_u32", exchange(7, 8, "%r0"), old + drop(6)], "the frame stashed": [exchange(7, 8, "%r10"), old + drop(6)], "a copy of a pod stashed, dropped": [new("pod", 6), "mov %r8, %r6", exchange(7, 8, "%r8"), "mov %r8, %r0", drop(6)],
                       "a pod stored": [new("pod", 6), "stxdw [%r7+8], %r6", drop(6)], "null stored": ["stdw [%r7+8], 0"], "a pod in its place read in half": ["ldxw %r1, [%r7+8]"], "a task in a pod's place": ["call get_current_task_btf; mov %r1, %r0; call kfunc bpf_task_acquire; jeq %r0, 0, out; mov %r6, %r0", exchange(7, 8, "%r6"), "mov %r0, 0; exit"],
                       "a pod in an object": [new("safe", 8), new("pod", 6, "a"), exchange(8, 8, "%r6"), "jeq %r0, 0, a; mov %r6, %r0; " + drop(6) + "; a:", drop(8)], "a pod in an object, read there": [new("safe", 8), "ldxdw %r1, [%r8+8]", drop(8)], "a pod in an object, lost": [new("safe", 8), exchange(8, 8, "0"), drop(8)],
                       "a shared in a pod's place of an object": [new("safe", 8), new("shared", 6, "a"), exchange(8, 8, "%r6"), "jeq %r0, 0, a; mov %r6, %r0; " + drop(6) + "; a:", drop(8)], "a pod in an object that was dropped": [new("safe", 8), drop(8), exchange(8, 8, "0"), old + drop(6)], "an object into itself": [new("safe", 8), exchange(8, 8, "%r8")],
                       "a pod in an object at no kptr": [new("safe", 8), exchange(8, 0, "0"), old + drop(6)], "a pod taken out under a lock": ["lddw %r8, mapvalue 21+0; mov %r1, %r8; call spin_lock", exchange(7, 8, "0"), "mov %r6, %r0; mov %r1, %r8; call spin_unlock; jeq %r6, 0, out", drop(6)]}.items():
        for where, setup in {"a variable": place, "an element": lookup}.items():
            yield case(f"{what}, in {where}", [PROLOGUE, setup, *code, *end], "tc", MAIN)
    reads = {"read": "ldxdw %r1, [%r6+0]", "written": "stdw [%r6+0], 1", "dropped": drop(6), "shared": share(6) + "; jeq %r0, 0, out; mov %r6, %r0; " + drop(6), "shared, unchecked": share(6) + "; mov %r6, %r0; " + drop(6), "stashed again": "mov %r8, %r6; " + exchange(7, 24, "%r8"), "read by a helper": "mov %r1, %r10; add %r1, -8; mov %r2, 8; mov %r3, %r6; call probe_read_kernel",
             "read behind its end": "ldxdw %r1, [%r6+72]", "its count read": "ldxw %r1, [%r6+64]", "locked": "mov %r1, %r6; call spin_lock", "removed from a tree": "lddw %r8, mapvalue 23+0; mov %r1, %r8; call spin_lock; mov %r1, %r8; add %r1, 24; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; mov %r1, %r8; call spin_unlock", "not looked at": ""}
    load = "ldxdw %r6, [%r7+24]"
    check = "jeq %r6, 0, out"
    lock, unlock = "call kfunc bpf_rcu_read_lock", "call kfunc bpf_rcu_read_unlock"
    for (what, use), (where, shape) in itertools.product(reads.items(), {"in a program that may not sleep": ("tc", (), [load, check, "{}"]), "unchecked": ("tc", (), [load, "{}"]), "in a program that may sleep": ("syscall", ("flags sleepable",), [load, check, "{}"]),
            "in an RCU section": ("syscall", ("flags sleepable",), [lock, "ldxdw %r6, [%r7+24]; jne %r6, 0, +2", unlock, "ja out", "{}", unlock]), "after the RCU section": ("syscall", ("flags sleepable",), [lock, load, unlock, check, "{}"]), "checked in the RCU section, then used": ("syscall", ("flags sleepable",), [lock, "ldxdw %r6, [%r7+24]; jne %r6, 0, +2", unlock, "ja out", unlock, "{}"]),
            "after an RCU section in a program that may not sleep": ("tc", (), [lock, "ldxdw %r6, [%r7+24]; jne %r6, 0, +2", unlock, "ja out", unlock, "{}"])}.items()):
        prog_type, heads, code = shape
        yield case(f"a kptr read out of a map and {what}, {where}", [PROLOGUE, place, *(line.replace("{}", use) for line in code), *end], prog_type, MAIN + heads)
    each_uses = {"dropped": drop_each, "lost": "", "dropped twice": drop_each + "; " + drop_each, "read": "ldxdw %r1, [%r6+0]; " + drop_each, "written": "stdw [%r6+0], 1; " + drop_each, "dropped as one": drop(6), "asked for this processor's": "mov %r1, %r6; call this_cpu_ptr; " + drop_each, "asked for a processor's": "mov %r1, %r6; mov %r2, 0; call per_cpu_ptr; " + drop_each,
                 "dropped at an offset": "add %r6, 8; " + drop_each, "shared": share(6), "dropped, read": drop_each + "; ldxdw %r1, [%r6+0]", "put into a list": "lddw %r1, mapvalue 21+8; mov %r2, %r6; mov %r3, 0; mov %r4, 0; call kfunc bpf_list_push_front_impl"}
    for what, use in each_uses.items():
        yield case(f"one object a CPU, {what}", [PROLOGUE, each, use, *end], "tc", MAIN)
    for kind in ("item", "leaf", "shared", "box", "safe", "pointer", "large", "pod"):
        yield case(f"one object of type {kind} a CPU", [each.replace("@pod", f"@{kind}"), drop_each, *end], "tc", MAIN)
    taken = {"this processor's read": "mov %r1, %r6; call this_cpu_ptr; ldxdw %r1, [%r0+8]", "this processor's written": "mov %r1, %r6; call this_cpu_ptr; stdw [%r0+8], 1", "this processor's read behind its end": "mov %r1, %r6; call this_cpu_ptr; ldxdw %r1, [%r0+24]", "a processor's read": "mov %r1, %r6; mov %r2, 0; call per_cpu_ptr; jeq %r0, 0, out; ldxdw %r1, [%r0+8]",
             "a processor's read unchecked": "mov %r1, %r6; mov %r2, 0; call per_cpu_ptr; ldxdw %r1, [%r0+8]", "a processor's written": "mov %r1, %r6; mov %r2, 1; call per_cpu_ptr; jeq %r0, 0, out; stdw [%r0+16], 1", "read itself": "ldxdw %r1, [%r6+0]", "dropped": drop_each, "this processor's dropped": "mov %r1, %r6; call this_cpu_ptr; mov %r6, %r0; " + drop(6), "this processor's stashed": "mov %r1, %r6; call this_cpu_ptr; mov %r8, %r0; " + exchange(7, 8, "%r8")}
    for (what, use), (where, shape) in itertools.product(taken.items(), {"out of a map": ("tc", (), ["ldxdw %r6, [%r7+16]; jeq %r6, 0, out", "{}"]), "out of a map, unchecked": ("tc", (), ["ldxdw %r6, [%r7+16]", "{}"]), "out of a map, in a program that may sleep": ("syscall", ("flags sleepable",), ["ldxdw %r6, [%r7+16]; jeq %r6, 0, out", "{}"]),
            "that was just stashed": ("tc", (), [each, exchange(7, 16, "%r6"), "jeq %r0, 0, stashed; mov %r8, %r6; mov %r6, %r0", drop_each, "mov %r6, %r8; stashed:", "{}"]), "that was just stashed, in a program that may sleep": ("syscall", ("flags sleepable",), [each, exchange(7, 16, "%r6"), "jeq %r0, 0, stashed; mov %r8, %r6; mov %r6, %r0", drop_each, "mov %r6, %r8; stashed:", "{}"])}.items()):
        prog_type, heads, code = shape
        yield case(f"one object a CPU {where}, {what}", [PROLOGUE, place, *(line.replace("{}", use) for line in code), *end], prog_type, MAIN + heads)


# ---- lists and trees ----

PUSH = "mov %r1, %r7; add %r1, {root}; mov %r2, %r{node}; add %r2, {at}; mov %r3, 0; mov %r4, 0; call kfunc bpf_list_push_{end}_impl"
ADD = "mov %r1, %r7; add %r1, {root}; mov %r2, %r{node}; add %r2, {at}; lddw %r3, func less; mov %r4, 0; mov %r5, 0; call kfunc bpf_rbtree_add_impl"
LESS = ["less:", "ldxdw %r3, [%r1-8]; ldxdw %r4, [%r2-8]; mov %r0, 0; jge %r3, %r4, +1; mov %r0, 1; exit"]
LESS_HEAD = ("func static int less(u64, u64)",)


def graph_walks(kind, steps, count, seed):
    """Orders of operations, most of them sensible: `steps` is name -> (needs, then, asm); a state is a set of words."""
    import random
    dice = random.Random(seed)
    seen = set()
    while len(seen) < count:
        state, order = frozenset(), []
        for _ in range(dice.randint(2, 7)):
            sane = [n for n, (needs, _, _) in steps.items() if all((w[1:] not in state) if w[0] == "!" else w in state for w in needs)]
            name = dice.choice(sane) if sane and dice.random() < 0.85 else dice.choice(list(steps))
            order.append(name)
            for word in steps[name][1]:
                state = state - {word[1:]} if word[0] == "!" else state | {word}
        for word, end in (("locked", "unlock"), ("owned", "drop"), ("popped", "drop the popped")):
            if word in state and dice.random() < 0.9:
                order.append(end)
        if tuple(order) not in seen:
            seen.add(tuple(order))
            yield tuple(order)


def graphs():
    end = ("out:", "mov %r0, 0; exit")
    lock, unlock = "mov %r1, %r7; call spin_lock", "mov %r1, %r7; call spin_unlock"
    begin = "mov %r6, 0; mov %r8, 0"
    make = lambda kind: f"mov %r1, @{kind}; mov %r2, 0; call kfunc bpf_obj_new_impl; jeq %r0, 0, +1; mov %r6, %r0; jeq %r6, 0, out"
    dropped = lambda held, at: f"jeq %r{held}, 0, +{4 if at else 3}; mov %r1, %r{held}; " + (f"sub %r1, {at}; " if at else "") + "mov %r2, 0; call kfunc bpf_obj_drop_impl"
    shapes = {
        "list": ("lddw %r7, mapvalue 21+0", "item", 8, 8, {"push": PUSH.format(root=8, node=6, at=8, end="front"), "push back": PUSH.format(root=8, node=6, at=8, end="back")}, ("bpf_list_pop_front", "bpf_list_pop_back"), ("bpf_list_front", "bpf_list_back")),
        "tree": ("lddw %r7, mapvalue 22+0", "leaf", 8, 8, {"push": ADD.format(root=8, node=6, at=8)}, (), ("bpf_rbtree_first", "bpf_rbtree_root")),
        "shared list": ("lddw %r7, mapvalue 23+0", "shared", 8, 40, {"push": PUSH.format(root=8, node=6, at=40, end="front")}, ("bpf_list_pop_front",), ("bpf_list_front",)),
        "shared tree": ("lddw %r7, mapvalue 23+0", "shared", 24, 8, {"push": ADD.format(root=24, node=6, at=8)}, (), ("bpf_rbtree_first",))}
    for seed, (shape, (place, kind, root, at, pushes, pops, looks)) in enumerate(shapes.items()):
        is_tree = "tree" in shape
        steps = {"new": (("!owned", "!locked"), ("owned",), make(kind)), "lock": (("!locked",), ("locked",), lock), "unlock": (("locked",), ("!locked", "!looked", "!pushed"), unlock), "drop": (("owned", "!locked"), ("!owned",), "mov %r1, %r6; mov %r2, 0; call kfunc bpf_obj_drop_impl"),
                 "read": (("owned",), (), "ldxdw %r1, [%r6+0]"), "write": (("pushed",), (), "stdw [%r6+0], 7"), "drop the popped": (("popped", "!locked"), ("!popped",), dropped(8, at)), "use what was looked at": (("looked",), (), f"jeq %r8, 0, +1; ldxdw %r1, [%r8-{at}]")}
        steps |= {name: (("owned", "locked"), ("!owned", "pushed"), asm) for name, asm in pushes.items()}
        for name in pops:
            steps[name[4:]] = (("locked", "!popped", "!looked"), ("popped",), f"mov %r1, %r7; add %r1, {root}; call kfunc {name}; mov %r8, %r0")
        for name in looks:
            steps[name[4:]] = (("locked", "!popped"), ("looked",), f"mov %r1, %r7; add %r1, {root}; call kfunc {name}; mov %r8, %r0")
        if is_tree:
            steps["remove what was pushed"] = (("locked", "pushed", "!popped"), ("popped", "!looked"), f"mov %r1, %r7; add %r1, {root}; mov %r2, %r6; add %r2, {at}; call kfunc bpf_rbtree_remove; mov %r8, %r0")
            steps["remove what was looked at"] = (("locked", "looked", "!popped"), ("popped", "!looked"), f"jeq %r8, 0, +5; mov %r1, %r7; add %r1, {root}; mov %r2, %r8; call kfunc bpf_rbtree_remove; mov %r8, %r0")
            steps["look left of it"] = (("looked",), (), f"jeq %r8, 0, +5; mov %r1, %r7; add %r1, {root}; mov %r2, %r8; call kfunc bpf_rbtree_left; mov %r8, %r0")
        if "shared" in shape:
            steps["share"] = (("owned", "!popped"), ("popped",), share(6) + f"; mov %r8, %r0; add %r8, {at}")
            steps["share what was pushed"] = (("pushed", "!popped"), ("popped", "!looked"), share(6) + f"; mov %r8, %r0; jeq %r8, 0, +1; add %r8, {at}")
            steps["drop the popped"] = (("popped", "!locked"), ("!popped",), dropped(8, at))
        for order in graph_walks(shape, steps, 110, seed):
            yield case(f"{shape}: " + ", ".join(order), [PROLOGUE, place, begin, *(steps[s][2] for s in order), *end, *(LESS if is_tree and "push" in order else [])], "tc", MAIN + (LESS_HEAD if is_tree and "push" in order else ()))
    # Where the root lies, what lies there, and what is held.
    item = new("item", 6)
    pushed = PUSH.format(root=8, node=6, at=8, end="front")
    lookup = lambda to: "stdw [%r10-8], 0; lddw %r1, map 21; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; mov %r{}, %r0".format(to)
    box = "mov %r1, @box; mov %r2, 0; call kfunc bpf_obj_new_impl; jeq %r0, 0, out; mov %r7, %r0"
    item_or = "mov %r1, @item; mov %r2, 0; call kfunc bpf_obj_new_impl; jne %r0, 0, +4; " + drop(7) + "; ja out; mov %r6, %r0"
    boxed = PUSH.format(root=16, node=6, at=8, end="front")
    box_lock, box_unlock = "mov %r1, %r7; add %r1, 8; call spin_lock", "mov %r1, %r7; add %r1, 8; call spin_unlock"
    for what, code in {"a node put into an element's list": [lookup(7), item, lock, pushed, unlock], "an element's lock from one lookup, its list from another": [lookup(8), lookup(7), item, "mov %r1, %r8; call spin_lock", pushed, "mov %r1, %r8; call spin_unlock"],
                       "an element's lock, a variable's list": [lookup(8), "lddw %r7, mapvalue 21+0", item, "mov %r1, %r8; call spin_lock", pushed, "mov %r1, %r8; call spin_unlock"], "another map's lock": ["lddw %r7, mapvalue 21+0; lddw %r8, mapvalue 22+0", item, "mov %r1, %r8; call spin_lock", pushed, "mov %r1, %r8; call spin_unlock"],
                       "no lock": ["lddw %r7, mapvalue 21+0", item, pushed], "the lock released before": ["lddw %r7, mapvalue 21+0", item, lock, unlock, pushed], "a node put into an object's list": [box, item_or, box_lock, boxed, box_unlock, drop(7)], "an object's list without its lock": [box, item_or, boxed, drop(7)],
                       "an object dropped with its lock held": [box, box_lock, drop(7)], "an object's lock lost": [box, box_lock], "an object unlocked without a lock": [box, box_unlock, drop(7)], "an object locked, another unlocked": [box, "mov %r8, %r7; mov %r1, @box; mov %r2, 0; call kfunc bpf_obj_new_impl; jne %r0, 0, +4; " + drop(8) + "; ja out; mov %r7, %r0", box_lock, "mov %r1, %r8; add %r1, 8; call spin_unlock", drop(7), drop(8)],
                       "a popped node of an object's list, lost": [box, box_lock, "mov %r1, %r7; add %r1, 16; call kfunc bpf_list_pop_front; mov %r6, %r0", box_unlock, drop(7)], "a popped node of an object's list": [box, box_lock, "mov %r1, %r7; add %r1, 16; call kfunc bpf_list_pop_front; mov %r6, %r0", box_unlock, drop(7), "jeq %r6, 0, out; sub %r6, 8; " + drop(6)],
                       "a popped node dropped at its node": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_pop_front; mov %r6, %r0", unlock, "jeq %r6, 0, out; " + drop(6)], "a popped node put back unchecked": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_pop_front; mov %r6, %r0; sub %r6, 8", pushed, unlock],
                       "a popped node put back": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_pop_front; jeq %r0, 0, a; mov %r6, %r0; sub %r6, 8", pushed, "a:", unlock], "the popped node of an object's list put into the value's": [box, "mov %r8, %r7", box_lock, "mov %r1, %r7; add %r1, 16; call kfunc bpf_list_pop_front; mov %r6, %r0", box_unlock, "lddw %r7, mapvalue 21+0; jeq %r6, 0, a; sub %r6, 8", lock, pushed, unlock, "a:", drop(8)],
                       "a pod put in": ["lddw %r7, mapvalue 21+0", new("pod", 6), lock, pushed, unlock], "a twin put in by its second node": ["lddw %r7, mapvalue 27+0", new("twin", 6), lock, PUSH.format(root=8, node=6, at=32, end="back"), unlock], "a twin put in by its first node": ["lddw %r7, mapvalue 27+0", new("twin", 6), lock, PUSH.format(root=8, node=6, at=8, end="back"), unlock],
                       "a leaf put into a list": ["lddw %r7, mapvalue 21+0", new("leaf", 6), lock, pushed, unlock], "a shared put into a list of items": ["lddw %r7, mapvalue 21+0", new("shared", 6), lock, PUSH.format(root=8, node=6, at=40, end="front"), unlock],
                       "a node at a wrong place": ["lddw %r7, mapvalue 21+0", item, lock, PUSH.format(root=8, node=6, at=16, end="front"), unlock], "a list at a wrong place": ["lddw %r7, mapvalue 21+0", item, lock, PUSH.format(root=24, node=6, at=8, end="front"), unlock], "a list at an unknown place": ["lddw %r7, mapvalue 21+0", item, "call get_prandom_u32; and %r0, 8; mov %r8, %r7; add %r8, %r0", lock, "mov %r1, %r8; mov %r2, %r6; add %r2, 8; mov %r3, 0; mov %r4, 0; call kfunc bpf_list_push_front_impl", unlock],
                       "a node at an unknown place": ["lddw %r7, mapvalue 21+0", item, "call get_prandom_u32; and %r0, 8; mov %r8, %r6; add %r8, %r0", lock, "mov %r1, %r7; add %r1, 8; mov %r2, %r8; mov %r3, 0; mov %r4, 0; call kfunc bpf_list_push_front_impl", unlock],
                       "a tree's root as a list": ["lddw %r7, mapvalue 22+0", item, lock, pushed, unlock], "the list read": ["lddw %r7, mapvalue 21+0; ldxdw %r1, [%r7+8]"], "the list written": ["lddw %r7, mapvalue 21+0; stdw [%r7+8], 0"], "what lies beside the list written": ["lddw %r7, mapvalue 21+0; stdw [%r7+24], 0"], "the list written by a helper": ["lddw %r1, mapvalue 21+4; mov %r2, 8; mov %r3, %r10; call probe_read_kernel"],
                       "a node out of the stack put in": ["lddw %r7, mapvalue 21+0", lock, "mov %r6, %r10; add %r6, -64", pushed, unlock], "null put in": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, %r7; add %r1, 8; mov %r2, 0; mov %r3, 0; mov %r4, 0; call kfunc bpf_list_push_front_impl", unlock],
                       "an owner of one copy in the stack put in, the copy used": ["lddw %r7, mapvalue 21+0", item, "stxdw [%r10-8], %r6", lock, pushed, "ldxdw %r8, [%r10-8]; ldxdw %r1, [%r8+0]", unlock], "put in, the copy in the stack used after the unlock": ["lddw %r7, mapvalue 21+0", item, "stxdw [%r10-8], %r6", lock, pushed, unlock, "ldxdw %r8, [%r10-8]; ldxdw %r1, [%r8+0]"],
                       "put in, the copy in the stack dropped after the unlock": ["lddw %r7, mapvalue 21+0", item, "stxdw [%r10-8], %r6", lock, pushed, unlock, "ldxdw %r8, [%r10-8]; " + drop(8)], "put in by a function": ["lddw %r7, mapvalue 21+0", item, lock, "mov %r1, %r7; mov %r2, %r6; call local f", unlock], "put in by a function, used by the caller": ["lddw %r7, mapvalue 21+0", item, lock, "mov %r1, %r7; mov %r2, %r6; call local f; ldxdw %r1, [%r6+0]", unlock],
                       "put in by a function, put in by the caller again": ["lddw %r7, mapvalue 21+0", item, lock, "mov %r1, %r7; mov %r2, %r6; call local f", pushed, unlock], "put in by a function, used after the unlock": ["lddw %r7, mapvalue 21+0", item, lock, "mov %r1, %r7; mov %r2, %r6; call local f", unlock, "ldxdw %r1, [%r6+0]"],
                       "put in by a function that unlocks, used by the caller": ["lddw %r7, mapvalue 21+0", item, lock, "mov %r1, %r7; mov %r2, %r6; call local g; ldxdw %r1, [%r6+0]"], "put in by a function that unlocks": ["lddw %r7, mapvalue 21+0", item, lock, "mov %r1, %r7; mov %r2, %r6; call local g"],
                       "put in on one of two ways, dropped": ["lddw %r7, mapvalue 21+0", item, "call get_prandom_u32; mov %r8, %r0", lock, "jeq %r8, 0, a", pushed, "a:", unlock, drop(6)], "put in on one of two ways, dropped on the other": ["lddw %r7, mapvalue 21+0", item, "call get_prandom_u32; mov %r8, %r0", lock, "jeq %r8, 0, a", pushed, unlock, "ja out; a:", unlock, drop(6)],
                       "a helper under the lock": ["lddw %r7, mapvalue 21+0", lock, "call ktime_get_ns", unlock], "a new object under the lock": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, @item; mov %r2, 0; call kfunc bpf_obj_new_impl; mov %r6, %r0", unlock, "jeq %r6, 0, out; " + drop(6)], "an object dropped under the lock": ["lddw %r7, mapvalue 21+0", item, lock, drop(6), unlock], "an iterator under the lock": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, %r10; add %r1, -8; mov %r2, 0; mov %r3, 10; call kfunc bpf_iter_num_new; mov %r1, %r10; add %r1, -8; call kfunc bpf_iter_num_destroy", unlock],
                       "an rcu section under the lock": ["lddw %r7, mapvalue 21+0", lock, "call kfunc bpf_rcu_read_lock; call kfunc bpf_rcu_read_unlock", unlock], "ten nodes put in": ["lddw %r7, mapvalue 21+0; mov %r8, 0; again:; jge %r8, 10, out", item, "stxdw [%r6+0], %r8", lock, pushed, unlock, "add %r8, 1; ja again"],
                       "all nodes popped": ["lddw %r7, mapvalue 21+0; mov %r8, 0; again:; jge %r8, 10, out", lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_pop_back; mov %r6, %r0", unlock, "jeq %r6, 0, out; sub %r6, 8", drop(6), "add %r8, 1; ja again"], "all nodes popped, lost": ["lddw %r7, mapvalue 21+0; mov %r8, 0; again:; jge %r8, 10, out", lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_pop_back; mov %r6, %r0", unlock, "jeq %r6, 0, out; add %r8, 1; ja again"],
                       "looked at in one section, used in the next": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_front; mov %r6, %r0", unlock, lock, "jeq %r6, 0, a; ldxdw %r1, [%r6-8]; a:", unlock], "looked at, given to a map": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_front; mov %r6, %r0", unlock, "lddw %r1, mapvalue 24+8; mov %r2, %r6; call kptr_xchg"],
                       "a non-owning node's lock": [box, "mov %r1, %r7; add %r1, 8; call spin_lock; mov %r1, %r7; add %r1, 8; call spin_unlock", drop(7)], "held at a throw": ["lddw %r7, mapvalue 21+0", item, lock, pushed, unlock, "mov %r1, 0; call kfunc bpf_throw"], "popped at a throw": ["lddw %r7, mapvalue 21+0", lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_pop_front; mov %r6, %r0", unlock, "mov %r1, 0; call kfunc bpf_throw"]}.items():
        functions = (["f:", "mov %r3, %r1; mov %r1, %r3; add %r1, 8; add %r2, 8; mov %r3, 0; mov %r4, 0; call kfunc bpf_list_push_front_impl; mov %r0, 0; exit"], ("func static int f(u64, u64)",)) if any("local f" in c for c in code) else \
            (["g:", "mov %r6, %r1; add %r1, 8; add %r2, 8; mov %r3, 0; mov %r4, 0; call kfunc bpf_list_push_front_impl; mov %r1, %r6; call spin_unlock; mov %r0, 0; exit"], ("func static int g(u64, u64)",)) if any("local g" in c for c in code) else ([], ())
        yield case(f"lists: {what}", [PROLOGUE, *code, *end, *functions[0]], "tc", MAIN + functions[1])
    leaf = new("leaf", 6)
    tree = "lddw %r7, mapvalue 22+0"
    add = ADD.format(root=8, node=6, at=8)
    for what, body in {"compares": "ldxdw %r3, [%r1-8]; ldxdw %r4, [%r2-8]; mov %r0, 0; jge %r3, %r4, +1; mov %r0, 1", "returns 2": "mov %r0, 2", "returns -1": "mov %r0, -1", "returns an unknown number": "ldxdw %r0, [%r1-8]", "returns a pointer": "mov %r0, %r1", "writes": "stdw [%r1-8], 1; mov %r0, 0",
                       "reads the node": "ldxdw %r0, [%r1+0]; mov %r0, 0", "reads behind the object": "ldxdw %r0, [%r1+32]; mov %r0, 0", "calls a helper": "call ktime_get_ns; mov %r0, 0", "takes a lock": "lddw %r1, mapvalue 21+0; call spin_lock; mov %r0, 0", "releases the lock": "lddw %r1, mapvalue 22+0; call spin_unlock; mov %r0, 0",
                       "removes its node": "mov %r2, %r1; lddw %r1, mapvalue 22+8; call kfunc bpf_rbtree_remove; mov %r0, 0", "adds its node": "mov %r2, %r1; lddw %r1, mapvalue 22+8; lddw %r3, func less; mov %r4, 0; mov %r5, 0; call kfunc bpf_rbtree_add_impl; mov %r0, 0", "looks at the first": "lddw %r1, mapvalue 22+8; call kfunc bpf_rbtree_first; mov %r0, 0",
                       "looks left": "mov %r2, %r1; lddw %r1, mapvalue 22+8; call kfunc bpf_rbtree_left; mov %r0, 0", "looks at the root": "lddw %r1, mapvalue 22+8; call kfunc bpf_rbtree_root; mov %r0, 0", "drops its node": "sub %r1, 8; mov %r2, 0; call kfunc bpf_obj_drop_impl; mov %r0, 0", "makes an object": "mov %r1, @leaf; mov %r2, 0; call kfunc bpf_obj_new_impl; mov %r0, 0", "keeps nothing": "mov %r0, 0",
                       "reads a third register": "mov %r0, %r3; mov %r0, 0", "throws": "mov %r1, 0; call kfunc bpf_throw; mov %r0, 0", "loops without an end": "ja -1; mov %r0, 0", "calls a function": "call local f; mov %r0, 0"}.items():
        yield case(f"trees: less() {what}", [PROLOGUE, tree, leaf, lock, add, unlock, *end, "less:", body + "; exit", *(["f:", "mov %r0, 0; exit"] if "local f" in body else [])], "tc", MAIN + LESS_HEAD + (("func static int f(u64)",) if "local f" in body else ()))
    for what, code in {"added twice": [tree, leaf, lock, add, add, unlock], "an item added": [tree, new("item", 6), lock, add, unlock], "a shared added to a tree of leaves": [tree, new("shared", 6), lock, add, unlock], "added without the lock": [tree, leaf, add], "added without less()": [tree, leaf, lock, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; mov %r3, 0; mov %r4, 0; mov %r5, 0; call kfunc bpf_rbtree_add_impl", unlock],
                       "removed, what is owned": [tree, leaf, lock, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; mov %r8, %r0", unlock, "jeq %r8, 0, a; sub %r8, 8; " + drop(8) + "; a:", drop(6)], "removed, what is owned, lost": [tree, leaf, lock, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; mov %r8, %r0", unlock, "jeq %r8, 0, a; sub %r8, 8; " + drop(8) + "; a:"],
                       "removed after it was removed": [tree, leaf, lock, add, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; mov %r8, %r0; mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; mov %r9, %r0", unlock, "jeq %r8, 0, a; sub %r8, 8; " + drop(8) + "; a:; jeq %r9, 0, out; sub %r9, 8; " + drop(9)],
                       "removed, the older reference read": [tree, leaf, lock, add, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; mov %r8, %r0; ldxdw %r1, [%r6+0]", unlock, "jeq %r8, 0, out; sub %r8, 8; " + drop(8)], "removed, the older reference read after the unlock": [tree, leaf, lock, add, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; mov %r8, %r0", unlock, "ldxdw %r1, [%r6+0]; jeq %r8, 0, out; sub %r8, 8; " + drop(8)],
                       "removed and added again": [tree, leaf, lock, add, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; jeq %r0, 0, a; mov %r6, %r0; sub %r6, 8", add, "a:", unlock], "removed at a wrong place": [tree, leaf, lock, add, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; call kfunc bpf_rbtree_remove; mov %r8, %r0", unlock],
                       "removed from a list": ["lddw %r7, mapvalue 21+0", leaf, lock, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove", unlock], "the first, unchecked": [tree, lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_first; ldxdw %r1, [%r0-8]", unlock], "the first, removed unchecked": [tree, lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_first; mov %r2, %r0; mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_remove; mov %r8, %r0", unlock, "jeq %r8, 0, out; sub %r8, 8; " + drop(8)],
                       "the first, without the lock": [tree, "mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_first"], "the first, dropped": [tree, lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_first; mov %r6, %r0", unlock, "jeq %r6, 0, out; sub %r6, 8; " + drop(6)], "the first, added": [tree, lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_first; jeq %r0, 0, a; mov %r6, %r0; sub %r6, 8", add, "a:", unlock], "from the first to the right": [tree, lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_first; jeq %r0, 0, a; mov %r2, %r0; mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_right; jeq %r0, 0, a; ldxdw %r1, [%r0-8]; a:", unlock],
                       "left of an owned one": [tree, leaf, lock, "mov %r1, %r7; add %r1, 8; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_left", unlock, drop(6)], "down to the left": [tree, lock, "mov %r1, %r7; add %r1, 8; call kfunc bpf_rbtree_root; mov %r6, %r0; mov %r8, 0; again:; jeq %r6, 0, a; jge %r8, 5, a; mov %r1, %r7; add %r1, 8; mov %r2, %r6; call kfunc bpf_rbtree_left; mov %r6, %r0; add %r8, 1; ja again; a:", unlock]}.items():
        yield case(f"trees: {what}", [PROLOGUE, *code, *end, *(LESS if any("func less" in c for c in code) else [])], "tc", MAIN + (LESS_HEAD if any("func less" in c for c in code) else ()))
    both = "lddw %r7, mapvalue 23+0"
    shared = new("shared", 6)
    in_list, in_tree = PUSH.format(root=8, node="{}", at=40, end="front"), ADD.format(root=24, node="{}", at=8)
    popped = "mov %r1, %r7; add %r1, 8; call kfunc bpf_list_pop_front; mov %r8, %r0"
    for what, code in {"in both": [both, shared, share(6), "mov %r8, %r0", lock, in_list.format(6), in_tree.format(8), unlock], "in both with one reference": [both, shared, lock, in_list.format(6), in_tree.format(6), unlock], "shared, dropped twice": [shared, share(6), "mov %r8, %r0", drop(6), drop(8)], "shared, dropped once": [shared, share(6), "mov %r8, %r0", drop(6)],
                       "shared, the other used after one was dropped": [shared, share(6), "mov %r8, %r0", drop(6), "ldxdw %r1, [%r8+0]", drop(8)], "shared, the dropped used": [shared, share(6), "mov %r8, %r0", drop(6), "ldxdw %r1, [%r6+0]", drop(8)], "shared at an offset": [shared, "add %r6, 8", share(6), "mov %r8, %r0; sub %r6, 8", drop(6), drop(8)], "shared unchecked": ["mov %r1, @shared; mov %r2, 0; call kfunc bpf_obj_new_impl; mov %r6, %r0", share(6)],
                       "shared out of the list": [both, shared, lock, in_list.format(6), share(6), "mov %r8, %r0", unlock, "jeq %r8, 0, out", drop(8)], "shared out of the list, unchecked": [both, shared, lock, in_list.format(6), share(6), "mov %r8, %r0", unlock, drop(8)], "shared after the unlock": [both, shared, lock, in_list.format(6), unlock, share(6)], "in a list, removed from a tree": [both, shared, lock, in_list.format(6), "mov %r1, %r7; add %r1, 24; mov %r2, %r6; add %r2, 8; call kfunc bpf_rbtree_remove; mov %r8, %r0", unlock, "jeq %r8, 0, out; sub %r8, 8", drop(8)],
                       "popped and put into the tree": [both, lock, popped, "jeq %r8, 0, a; sub %r8, 40", in_tree.format(8), "a:", unlock], "popped in less()": [both, shared, lock, in_tree.format(6).replace("less", "pops"), unlock], "another added in less()": [both, shared, lock, in_tree.format(6).replace("less", "adds"), unlock], "shared in less()": [both, shared, lock, in_tree.format(6).replace("less", "shares"), unlock],
                       "stashed and in the tree": [both, shared, share(6), "mov %r8, %r0; lddw %r1, mapvalue 24+24; mov %r2, %r6; call kptr_xchg; mov %r6, %r0", lock, in_tree.format(8), unlock, "jeq %r6, 0, out", drop(6)], "the same lock by two references of one object": [shared, share(6), "mov %r8, %r0", drop(6), drop(8)]}.items():
        body = {"pops": "lddw %r1, mapvalue 23+8; call kfunc bpf_list_pop_front; mov %r0, 0; exit", "adds": "lddw %r1, mapvalue 23+8; call kfunc bpf_list_pop_front; jeq %r0, 0, +10; mov %r2, %r0; sub %r2, 32; lddw %r1, mapvalue 23+24; lddw %r3, func less; mov %r4, 0; mov %r5, 0; call kfunc bpf_rbtree_add_impl; mov %r0, 0; exit",
                "shares": "sub %r1, 8; mov %r2, 0; call kfunc bpf_refcount_acquire_impl; mov %r0, 0; exit"}
        used = [name for name in ("pops", "adds", "shares", "less") if any(f"func {name}" in c for c in code) or (name == "less" and any("func adds" in c for c in code))]
        tail = [line for name in used for line in (LESS if name == "less" else [f"{name}:", body[name]])]
        yield case(f"shared objects: {what}", [PROLOGUE, *code, *end, *tail], "tc", MAIN + tuple(f"func static int {name}(u64, u64)" for name in used))


# ---- exceptions: what may be thrown where, and who catches ----

def exceptions():
    throw = "mov %r1, {}; call kfunc bpf_throw"
    end = "mov %r0, 0; exit"
    main = ("func global int test(ctx)",)
    maybe = "call get_prandom_u32; jeq %r0, 0, +2"
    for kind in ("tc", "xdp", "syscall", "socket", "kprobe", "tracepoint", "perf_event", "raw_tracepoint"):
        yield case(f"bpf_throw in a program of type {kind}", [throw.format(0), end], kind, main + (("flags sleepable",) if kind == "syscall" else ()))
    for what, cookie in {"an unknown number": "call get_prandom_u32; mov %r1, %r0", "a pointer": "mov %r1, %r10", "the context": "", "a register never written": "mov %r1, %r5", "a large number": "lddw %r1, 0x7fffffffffffffff",
                         "a map value or null": LOOKUP + "; mov %r1, %r0"}.items():
        yield case(f"bpf_throw of {what}", ["" if "large" in what or "context" in what else "stdw [%r10-8], 0", cookie, "call kfunc bpf_throw", end], "tc", main)
    holds = {"nothing": ("", ""), "a record": (RECORD, SUBMIT), "a record that is submitted before": (RECORD + "; " + SUBMIT, ""), "a record or null": ("lddw %r1, map 3; mov %r2, 16; mov %r3, 0; call ringbuf_reserve; mov %r6, %r0", "jeq %r6, 0, +3; " + SUBMIT),
             "the rcu lock": ("call kfunc bpf_rcu_read_lock", "call kfunc bpf_rcu_read_unlock"), "a preemption region": ("call kfunc bpf_preempt_disable", "call kfunc bpf_preempt_enable"),
             "an iterator": ("mov %r1, %r10; add %r1, -16; mov %r2, 0; mov %r3, 10; call kfunc bpf_iter_num_new", "mov %r1, %r10; add %r1, -16; call kfunc bpf_iter_num_destroy"),
             "a lock": ("lddw %r1, map 7; mov %r2, %r10; add %r2, -8; stdw [%r10-8], 0; call map_lookup_elem; jeq %r0, 0, out; mov %r6, %r0; mov %r1, %r6; call spin_lock", "mov %r1, %r6; call spin_unlock")}
    for (what, (take, give)), where in itertools.product(holds.items(), ("here", "on one of two ways", "in a static function", "in a static function, on one of two ways", "in a global function", "in a function's function")):
        deep = "function" in where
        linkage = "global" if "global" in where else "static"
        heads = main + ((f"func {linkage} u64 f(u64)",) if deep else ()) + (("func static u64 g(u64)",) if "function's" in where else ())
        code = (maybe + "; " if "two" in where else "") + throw.format(1)
        call = "mov %r1, 1; call local f" if deep else code
        tail = ["f:", "mov %r1, 1; call local g; exit", "g:", code, end] if "function's" in where else ["f:", code, end] if deep else []
        yield case(f"bpf_throw {where}, holding {what}", [take, call, give, "out:", end, *tail], "tc", heads)
    each = main + ("func static u64 each(u64, ptr)",)
    loop = "mov %r1, 3; lddw %r2, func each; mov %r3, 0; mov %r4, 0; call loop"
    for what, (asm, heads) in {"in a callback": ([loop, end, "each:", throw.format(0), end], each), "in a callback that is never called": (["mov %r0, 1; jeq %r0, 1, +6", loop, end, "each:", throw.format(0), end], each),
                               "in a callback's dead code": ([loop, end, "each:", "mov %r0, 0; jeq %r0, 0, +2", throw.format(0), end], each),
                               "in a function that a callback calls": ([loop, end, "each:", "call local f; mov %r0, 0; exit", "f:", throw.format(0), end], each + ("func static u64 f(u64)",)),
                               "in a global function that a callback calls": ([loop, end, "each:", "call local f; mov %r0, 0; exit", "f:", throw.format(0), end], each + ("func global u64 f(u64)",)),
                               "after a loop with a callback": ([loop, throw.format(0), end, "each:", end], each), "in a timer's callback": (["stdw [%r10-8], 0; lddw %r1, map 8; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; mov %r1, %r0; add %r1, 8; lddw %r2, func each; call timer_set_callback", "out:", end, "each:", throw.format(0), end], main + ("func static u64 each(ptr, ptr, ptr)",)),
                               "and what comes after is never walked": ([throw.format(0), "ldxdw %r0, [%r9+0]", end], main), "with what comes after a call that always throws": (["mov %r1, 1; call local f; ldxdw %r0, [%r0+0]", end, "f:", throw.format(0), end], main + ("func static u64 f(u64)",)),
                               "after a global call that always throws": (["mov %r1, 1; call local f; ldxdw %r0, [%r0+0]", end, "f:", throw.format(0), end], main + ("func global u64 f(u64)",)),
                               "on one way out of a loop": (["mov %r6, 0; a:; add %r6, 1; jgt %r6, 10, b; ja a; b:", throw.format(0), end], main),
                               "with a packet checked by it": (["ldxw %r6, [%r1+76]; ldxw %r7, [%r1+80]; mov %r2, %r6; add %r2, 8; jle %r2, %r7, +2", throw.format(0), "ldxdw %r0, [%r6+0]", end], main)}.items():
        yield case(f"bpf_throw {what}", asm, "tc", heads)
    tagged = main + ("tag exception_callback:cb",)
    bodies = {"gives its argument": (["mov %r0, %r1; exit"], 2, "global u64 cb(u64)"), "gives 0": (["mov %r0, 0; exit"], 2, "global int cb(u64)"), "takes an int": (["mov %r0, 0; exit"], 2, "global int cb(int)"),
              "takes nothing": (["mov %r0, 0; exit"], 2, "global int cb()"), "takes two": (["mov %r0, 0; exit"], 2, "global int cb(u64, u64)"), "takes a pointer": (["mov %r0, 0; exit"], 2, "global int cb(ptr)"), "takes the context": (["mov %r0, 0; exit"], 2, "global int cb(ctx)"),
              "gives a pointer": (["mov %r0, 0; exit"], 2, "global ptr cb(u64)"), "gives the frame": (["mov %r0, %r10; exit"], 2, "global u64 cb(u64)"), "gives nothing": (["mov %r0, 0; exit"], 2, "global void cb(u64)"), "is static": (["mov %r0, 0; exit"], 2, "static u64 cb(u64)"),
              "throws": ([throw.format(0), end], 4, "global u64 cb(u64)"), "throws in dead code": (["mov %r0, 0; jeq %r0, 0, +2", throw.format(0), "exit"], 5, "global u64 cb(u64)"), "reads a register never written": (["mov %r0, %r2; exit"], 2, "global u64 cb(u64)"),
              "reads memory at its argument": (["ldxdw %r0, [%r1+0]; exit"], 2, "global u64 cb(u64)"), "loops without an end": (["ja -1"], 1, "global u64 cb(u64)"), "leaks a record": (["lddw %r1, map 3; mov %r2, 16; mov %r3, 0; call ringbuf_reserve", end], 7, "global u64 cb(u64)"),
              "makes a tail call": (["lddw %r2, map 5; mov %r3, 0; call tail_call", end], 6, "global u64 cb(u64)"), "calls a helper": (["call ktime_get_ns; exit"], 2, "global u64 cb(u64)"), "has another name": (["mov %r0, 0; exit"], 2, "global u64 dc(u64)"),
              "begins in the middle": (["lddw %r0, 0; exit"], 2, "global u64 cb(u64)"), "runs on from main": (["mov %r0, 0; exit"], 1, "global u64 cb(u64)")}
    for (what, (body, last, kind)), throws in itertools.product(bodies.items(), (True, False)):
        yield case(f"an exception callback that {what}, {'thrown to' if throws else 'nothing thrown'}", [throw.format(64) if throws else "", end, *body], "tc", (*tagged, f"func {kind} last {last}"))
    for what, (asm, heads) in {"tagged twice": ([throw.format(0), end, "mov %r0, 0; exit"], (*tagged, "tag exception_callback:cb", "func global u64 cb(u64) last 2")), "tagged, and another tag": ([throw.format(0), end, "mov %r0, 0; exit"], (*tagged, "tag exception", "func global u64 cb(u64) last 2")),
                               "with an empty name": ([throw.format(0), end, "mov %r0, 0; exit"], (*main, "tag exception_callback:", "func global u64 cb(u64) last 2")), "that is main": ([throw.format(0), end], (*main, "tag exception_callback:test")),
                               "that is called directly": (["mov %r1, 1; call local cb", end, "cb:", "mov %r0, 0; exit"], (*tagged, "func global u64 cb(u64)")), "that dead code calls": (["mov %r0, 0; jeq %r0, 0, out; mov %r1, 1; call local cb; out:", end, "cb:", "mov %r0, 0; exit"], (*tagged, "func global u64 cb(u64)")),
                               "that a static function calls": (["mov %r1, 1; call local f", end, "f:", "call local cb; exit", "cb:", "mov %r0, 0; exit"], (*tagged, "func static u64 f(u64)", "func global u64 cb(u64)")),
                               "that is a loop's callback": (["mov %r1, 3; lddw %r2, func cb; mov %r3, 0; mov %r4, 0; call loop", end, "cb:", "mov %r0, 0; exit"], (*tagged, "func global u64 cb(u64)")),
                               "that main jumps into": (["call get_prandom_u32; jeq %r0, 0, cb", end, "cb:", "mov %r0, 0; exit"], (*tagged, "func global u64 cb(u64) last 2")), "that jumps back to main": (["a:", end, "mov %r0, 0; ja a"], (*tagged, "func global u64 cb(u64) last 2")),
                               "and a function that nobody calls": ([end, "mov %r0, 0; exit"], (*main, "func global u64 cb(u64) last 2")), "with a throw of a pointer": (["mov %r1, %r10; call kfunc bpf_throw", end, "mov %r0, 0; exit"], (*tagged, "func global u64 cb(u64) last 2"))}.items():
        yield case(f"an exception callback {what}", asm, "tc", heads)


# ---- what programs of others were accepted with, once a mistake was put in (verifier_mutate) ----

# P: packet bytes; F: the stack's last 64; C: the context; M: a map; numbers.
PACKET_HELPERS = {
    "map_lookup_elem": "M1 P", "map_update_elem": ["M1 P F 0", "M1 F P 0"], "map_delete_elem": "M1 P", "map_push_elem": "M11 P 0", "map_pop_elem": "M11 P", "map_peek_elem": "M11 P",
    "csum_diff": ["P 16 F 16 0", "F 16 P 16 0"], "tcp_raw_gen_syncookie_ipv4": "P P 20", "tcp_raw_check_syncookie_ipv4": "P P", "trace_printk": "P 16", "trace_vprintk": ["P 16 F 16", "F 16 P 16"],
    "skb_store_bytes": "C 0 P 16 0", "skb_load_bytes": "C 0 P 16", "skb_load_bytes_relative": "C 0 P 16 0", "get_current_comm": "P 16", "skb_get_tunnel_key": "C P 16 0", "skb_set_tunnel_key": "C P 16 0",
    "perf_event_output": "C M4 0 P 16", "fib_lookup": "C P 64 0", "strtol": "P 16 0 F", "probe_read_kernel": "P 16 0", "probe_read_user_str": "P 16 0", "get_ns_current_pid_tgid": "0 0 P 8", "ringbuf_output": "M3 P 16 0",
    "redirect_neigh": "0 P 16 0", "snprintf_btf": ["P 16 F 16 0", "F 16 P 16 0"], "strncmp": "P 16 F",
}


def title_of_format(text, size):
    return f"snprintf of {text!r} with {size} bytes of numbers"


def mistakes():
    checked = "mov %r9, %r1; ldxw %r6, [%r1+76]; ldxw %r7, [%r1+80]; mov %r8, %r6; add %r8, 64; jgt %r8, %r7, out"
    stack = "; ".join(f"stdw [%r10-{n}], 0" for n in range(8, 72, 8))
    of = {"P": "mov {0}, %r6", "F": "mov {0}, %r10; add {0}, -64", "C": "mov {0}, %r9"}
    for helper, rows in PACKET_HELPERS.items():
        for row in rows if isinstance(rows, list) else [rows]:
            code = [(of[a] if a in of else f"lddw {{0}}, map {a[1:]}" if a[0] == "M" else f"mov {{0}}, {a}").format(f"%r{i + 1}") for i, a in enumerate(row.split())]
            yield case(f"packet bytes for {helper} {row}", [checked, stack, *code, f"call {helper}", "out:", "mov %r0, 0; exit"], "tc")
    for number in (15, 16):
        yield case(f"a socket or null put into a {MAPS[number].split()[0]}",
                   [SOCKET_TUPLE, "ldxdw %r6, [%r1+168]", f"lddw %r1, map {number}; mov %r2, %r10; add %r2, -8; mov %r3, %r6; mov %r4, 0; call map_update_elem", "mov %r0, 0; exit"], "tc")
    for where, code in {"on the path": "", "where nobody comes": "ja out;"}.items():
        yield case(f"a kernel function of a number that is none, {where}", [code, "raw 0x0000000100002085", "out:", "mov %r0, 0; exit"], "tc")
        yield case(f"a kernel function of a module that is not there, {where}", [code, "raw 0x0000000100012085", "out:", "mov %r0, 0; exit"], "tc")
    for what, code in {"a task": "mov %r2, %r6", "a task's parent": "ldxdw %r2, [%r6+{task_struct.real_parent}]", "a task's memory": "ldxdw %r2, [%r6+{task_struct.mm}]; jeq %r2, 0, out", "a number of a task": "ldxdw %r2, [%r6+{task_struct.stack}]"}.items():
        yield case(f"{what} as memory for a helper", ["call get_current_task_btf; mov %r6, %r0", code, "lddw %r1, map 3; mov %r3, 8; mov %r4, 0; call ringbuf_output", "out:", "mov %r0, 0; exit"], "raw_tracepoint")
    pointers = {"the context": "mov %r6, %r9", "a map value": VALUE, "the stack": "mov %r6, %r10; add %r6, -64", "a socket": "ldxdw %r6, [%r9+168]; jeq %r6, 0, out",
                "a whole socket": "ldxdw %r1, [%r9+168]; jeq %r1, 0, out; call sk_fullsock; jeq %r0, 0, out; mov %r6, %r0", "a TCP socket": "ldxdw %r1, [%r9+168]; jeq %r1, 0, out; call tcp_sock; jeq %r0, 0, out; mov %r6, %r0",
                "packet bytes": "ldxw %r6, [%r9+76]; ldxw %r7, [%r9+80]; mov %r8, %r6; add %r8, 8; jgt %r8, %r7, out"}
    for (one, first), (other, second) in itertools.product(pointers.items(), pointers.items()):
        for what, use in {"read": "ldxw %r0, [%r6+0]", **({"written": "stw [%r6+0], 0"} if "socket" not in one + other and "context" not in one + other else {})}.items():
            yield case(f"one instruction, {one} or {other} is {what}",
                       [PROLOGUE, "call get_prandom_u32; jeq %r0, 7, other", first, "ja use", "other:", second, "use:", use, "out:", "mov %r0, 0; exit"], "tc")
    for what, code in {"the caller's frame": "stxdw [%r1+0], %r1", "its own": "stxdw [%r1+0], %r10", "a number": "stdw [%r1+0], 1", "the context": "stxdw [%r1+0], %r2"}.items():
        yield case(f"a function stores {what} in the caller's frame", ["stdw [%r10-8], 0; mov %r2, %r1; mov %r1, %r10; add %r1, -8; call local f; ldxdw %r3, [%r10-8]; mov %r0, 0; exit", "f:", code, "mov %r0, 0; exit"], "tc")
    for cast in ("skc_to_tcp6_sock", "skc_to_tcp_sock", "skc_to_udp6_sock", "skc_to_unix_sock"):
        for what, use in {"as memory for a helper": "mov %r2, %r0; lddw %r1, map 3; mov %r3, 8; mov %r4, 0; call ringbuf_output", "read": "ldxw %r1, [%r0+16]"}.items():
            yield case(f"{cast}, {what}", ["mov %r9, %r1; ldxdw %r1, [%r9+168]; jeq %r1, 0, out", f"call {cast}; jeq %r0, 0, out", use, "out:", "mov %r0, 0; exit"], "tc")
    for where, code in {"on the path": "", "where nobody comes": "ja out;"}.items():
        yield case(f"a kernel function that was not found, {where}", [code, "raw 0x0000000000002085", "out:", "mov %r0, 0; exit"], "tc")
    for text, size in itertools.product(("plain", "%%", "%d", "%d %d", "%s %lx", "%c", "%pks", "%pk", "%pI4", "%pI5", "%pB", "%p", "%5d", "%-05d", "%lld", "%lls", "%h", "%q", "%d%", "%.3s", "% %", "\x01"), (0, 8, 12, 16)):
        content = (text.encode() + bytes(16))[:16].hex()
        yield title_of_format(text, size), ["type kprobe", f"map 14 array key=4 value=16 entries=1 flags=0x80 content={content} frozen"], lines(
            f"stdw [%r10-8], 0; stdw [%r10-16], 0; mov %r1, %r10; add %r1, -64; mov %r2, 32; lddw %r3, mapvalue 14+0; mov %r4, %r10; add %r4, -16; mov %r5, {size}; call snprintf; mov %r0, 0; exit")
    for op in ("lock xchg", "lock fetch add", "lock fetch or", "lock add", "lock cmpxchg"):
        yield case(f"{op}: the address's own register is what is written", [PROLOGUE, "mov %r2, %r10; add %r2, -8; mov %r0, 0", f"{op} [%r2+0], %r2", "mov %r0, 0; exit"])


FILES = {"helper_arguments": helper_arguments, "access": access, "contexts": contexts, "program_types": program_types, "pointer_arithmetic": pointer_arithmetic,
         "numbers": numbers, "packets": packets, "references": references, "objects": objects, "loops": loops, "functions": functions, "rest": rest, "strict": strict, "sockets": sockets, "mistakes": mistakes,
         "exceptions": exceptions, "packet_loads": packet_loads, "small_rules": small_rules}

MAPS |= kernel_cases.MAPS
FILES |= kernel_cases.files(case)
FILES |= {"owned": owned, "object_kptrs": object_kptrs, "graphs": graphs}


def text_of(title, head, asm, expect):
    return "\n".join([f"=== {title}", "-- context", *head, "-- asm", *asm, "-- expect", *expect]) + "\n"


def reason_of(message):
    """The part of a message that does not depend on registers and numbers."""
    parts = [p.strip(" ,:;()'\"") for p in re.split(r"\b[Rr]\d+\b|'[^']*'|[-+]?\b(?:0x[0-9a-f]+|\d+)\b|fp-?", message)]
    return max(parts, key=len, default="")


def make(name, cases, judge, want_reasons):
    path = folder / f"{name}.cases"
    policies = {}
    if path.exists():
        for block in path.read_text().split("=== ")[1:]:
            found = re.search(r"^policy (.*)$", block, re.M)
            if found:
                policies[block.split("\n")[0]] = found[1]
    with tempfile.TemporaryDirectory() as temporary:
        draft = pathlib.Path(temporary) / "draft.cases"
        draft.write_text("".join(text_of(*c, ["reject"]) for c in cases))
        run = subprocess.run([judge, draft], capture_output=True, text=True)
    verdicts = {row["name"]: row for row in map(json.loads, run.stdout.splitlines())}
    missing = [c[0] for c in cases if verdicts.get(c[0], {}).get("kernel", {}).get("verdict", "none") == "none"]
    if missing or run.returncode != 0:
        print(f"{name}: no verdict on {missing[:5]}: {run.stderr[:2000]}")
        return False
    out = [f"# Made by tests/verifier/make_cases.py; verdicts are the running kernel's.\n"]
    accepted = differ = 0
    for title, head, asm in cases:
        row = verdicts[title]
        verdict = row["kernel"]["verdict"]
        accepted += verdict == "accept"
        ours = row["ours"]["verdict"]
        expect = [verdict]
        if ours != verdict:
            differ += 1
            if title in policies:
                expect = [ours, f"policy {policies[title]}"]
        if expect[0] == ours == "reject" and want_reasons:
            expect[0] = f"reject {reason_of(row['ours']['message'])}".strip()
        out.append(text_of(title, head, asm, expect))
    path.write_text("".join(out))
    print(f"{name}: {len(cases)} cases, {accepted} accepted by the kernel, {differ} where ours differs")
    return True


def main():
    judge = pathlib.Path(sys.argv[1]) / "bin/verifier_judge"
    good = True
    wanted = [word for word in sys.argv[2:] if not word.startswith("--")] or list(FILES)
    for name in wanted:
        build = FILES[name]
        cases = list(build())
        titles = [c[0] for c in cases]
        twice = {t for t in titles if titles.count(t) > 1}
        assert not twice, twice
        good = make(name, cases, judge, "--reasons" in sys.argv) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
