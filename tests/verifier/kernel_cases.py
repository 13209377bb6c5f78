"""Tables of make_cases.py that speak of the kernel's structures and functions."""
import itertools

TASK = ("attach 23", "attach_btf btf_trace_task_newtask")  # r1[0]: a new task
ITER_TASK = ("attach 28", "attach_btf bpf_iter_task")
MAPS = {40: "sk_storage key=4 entries=0 flags=1 btf=plain"}
OUT = ["out:", "mov %r0, 0", "exit"]
FIRST = "ldxdw %r6, [%r1+0]"


def structures(case):
    """Reads of structures, and what the pointers in them are good for."""
    strncmp = "mov %r1, %r6; add %r1, {at}; mov %r2, {size}; lddw %r3, mapvalue 10+0; call strncmp"
    for shift, size in itertools.product((-1, 0, 1), (1, 15, 16, 17)):
        at = f"{{task_struct.comm{shift:+d}}}"
        yield case(f"text of {size} bytes at {shift:+d} of a task's name", [FIRST, strncmp.format(at=at, size=size), *OUT], "tracing", TASK)
    for field, width, shift in itertools.product(("pid", "flags", "comm", "real_parent", "tasks", "start_time"), ("b", "h", "w", "dw"), (-2, 0, 1, 4, 15)):
        yield case(f"{field} {shift:+d}, ldx{width}", [FIRST, f"ldx{width} %r2, [%r6+{{task_struct.{field}{shift:+d}}}]", *OUT], "tracing", TASK)
    for width in ("b", "h", "w", "dw"):
        yield case(f"bit fields, ldx{width}", [FIRST, f"ldx{width} %r2, [%r6+{{task_struct.in_execve}}]", *OUT], "tracing", TASK)
        yield case(f"a member of a union, ldx{width}", [FIRST, f"ldx{width} %r2, [%r6+{{inode.i_fop}}]", *OUT], "tracing", ("attach 23", "attach_btf btf_trace_writeback_dirty_inode"))
        yield case(f"written, stx{width}", [FIRST, f"mov %r2, 0; stx{width} [%r6+{{task_struct.flags}}], %r2", *OUT], "tracing", TASK)
    yield case("at a variable offset", [FIRST, "call get_prandom_u32; and %r0, 8; add %r6, %r0; ldxdw %r2, [%r6+0]", *OUT], "tracing", TASK)
    yield case("before it", [FIRST, "ldxdw %r2, [%r6-8]", *OUT], "tracing", TASK)
    yield case("beyond it", [FIRST, "ldxdw %r2, [%r6+30000]", *OUT], "tracing", TASK)


LOCK, UNLOCK = "call kfunc bpf_rcu_read_lock", "call kfunc bpf_rcu_read_unlock"


def trust(case):
    """What pointers read from structures are good for, in sections and without."""
    acquire = "mov %r1, %r7; call kfunc bpf_task_acquire; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_task_release"
    mask = "mov %r1, %r7; call kfunc bpf_cpumask_first"
    uses = {"cpus_ptr": mask, "real_parent": acquire, "group_leader": acquire, "parent": acquire, "last_wakee": acquire}
    places = {
        "a tracepoint": (TASK, "ldxdw %r6, [%r1+0]"),
        "an iterator": (ITER_TASK, "ldxdw %r6, [%r1+8]; jeq %r6, 0, out"),
        "an iterator, unchecked": (ITER_TASK, "ldxdw %r6, [%r1+8]"),
        "an iterator that may sleep": ((*ITER_TASK, "flags sleepable"), "ldxdw %r6, [%r1+8]; jeq %r6, 0, out"),
    }
    for (place, (context, first)), (field, use) in itertools.product(places.items(), uses.items()):
        load = f"ldxdw %r7, [%r6+{{task_struct.{field}}}]"
        bodies = {"": [load, use], ", in a section": [LOCK, load, use, "call kfunc bpf_rcu_read_unlock"],
                  ", after the section": [LOCK, load, UNLOCK, use], ", loaded before the section": [load, LOCK, use, UNLOCK],
                  ", a read more": [load, "ldxdw %r2, [%r7+0]"], ", kept on the stack over the section's end": [LOCK, load, "stxdw [%r10-8], %r7", UNLOCK, "ldxdw %r7, [%r10-8]", use]}
        for what, body in bodies.items():
            if "section" in what and "release" in use:
                body = [line.replace("jeq %r0, 0, out", "jeq %r0, 0, +2") for line in body]
            yield case(f"{field} of {place}{what}", [first, *body, *OUT], "tracing", context)
    for at in (-1, 0, 1):
        yield case(f"a mask inside a task, {at:+d}", [FIRST, f"mov %r1, %r6; add %r1, {{task_struct.cpus_mask{at:+d}}}; call kfunc bpf_cpumask_first", *OUT], "tracing", TASK)
    yield case("a task itself as a mask", [FIRST, "mov %r1, %r6; call kfunc bpf_cpumask_first", *OUT], "tracing", TASK)
    yield case("a mask as a task", [FIRST, "mov %r1, %r6; add %r1, {task_struct.cpus_mask}; call kfunc bpf_task_acquire", *OUT], "tracing", TASK)
    skb = ("attach 23", "attach_btf btf_trace_consume_skb")
    storage = "mov %r2, %r7; lddw %r1, map 40; mov %r3, 0; mov %r4, 0; call sk_storage_get"
    for what, check in {"checked": "jeq %r7, 0, out", "unchecked": ""}.items():
        yield case(f"a packet's socket, {what}", [FIRST, "ldxdw %r7, [%r6+{sk_buff.sk}]", check, storage, *OUT], "tracing", skb)
    for field in ("dev", "next"):
        yield case(f"a packet's {field}", [FIRST, f"ldxdw %r7, [%r6+{{sk_buff.{field}}}]", "ldxdw %r0, [%r7+0]", *OUT], "tracing", skb)
    yield case("from a task to its cgroup", [FIRST, "ldxdw %r7, [%r6+{task_struct.cgroups}]; ldxdw %r7, [%r7+{css_set.dfl_cgrp}]; mov %r1, %r7; call kfunc bpf_cgroup_acquire; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_cgroup_release", *OUT], "tracing", TASK)
    yield case("a pointer to no structure", [FIRST, "ldxdw %r7, [%r6+{task_struct.stack}]; ldxdw %r0, [%r7+100]; call get_prandom_u32; add %r7, %r0; ldxb %r0, [%r7+0]", *OUT], "tracing", TASK)
    yield case("a pointer to no structure, written", [FIRST, "ldxdw %r7, [%r6+{task_struct.stack}]; stdw [%r7+0], 0", *OUT], "tracing", TASK)
    yield case("a pointer to no structure, handed to a helper", [FIRST, "ldxdw %r1, [%r6+{task_struct.stack}]; mov %r2, 8; lddw %r3, mapvalue 10+0; call strncmp", *OUT], "tracing", TASK)


ITERS = {"bpf_map": 2, "bpf_map_elem": 4, "bpf_prog": 2, "bpf_link": 2, "bpf_sk_storage_map": 4, "sockmap": 4, "task": 2, "task_file": 4, "task_vma": 3, "tcp": 3, "udp": 4, "unix": 3, "netlink": 2,
         "cgroup": 2, "ksym": 2}


def contexts(case):
    """Arguments of BTF-typed programs."""
    for target, count in ITERS.items():
        context = ("attach 28", f"attach_btf bpf_iter_{target}")
        for n in range(count + 1):
            for what, body in {"read": "", "and through it": "ldxdw %r2, [%r2+0]", "checked, and through it": "jeq %r2, 0, out; ldxdw %r2, [%r2+0]",
                               "checked, written through": "jeq %r2, 0, out; stdw [%r2+0], 0", "checked, far away": "jeq %r2, 0, out; ldxdw %r2, [%r2+4000]",
                               "checked, at a variable offset": "mov %r6, %r2; call get_prandom_u32; and %r0, 8; jeq %r6, 0, out; add %r6, %r0; ldxdw %r2, [%r6+0]"}.items():
                yield case(f"iter/{target} argument {n} {what}", [f"ldxdw %r2, [%r1+{8 * n}]", body, *OUT], "tracing", context)
        for width, at in (("w", 8 * (count - 1)), ("h", 8 * (count - 1) + 2), ("w", 8 * (count - 1) + 4)):
            yield case(f"iter/{target} ldx{width} at {at}", [f"ldx{width} %r2, [%r1+{at}]", *OUT], "tracing", context)
        yield case(f"iter/{target} written", ["stdw [%r1+0], 0", *OUT], "tracing", context)
        yield case(f"iter/{target} gives 2", ["mov %r0, 2; exit"], "tracing", context)
    for point, most in {"sched_pi_setprio": 2, "kfree_skb": 4, "mm_page_alloc": 4, "task_newtask": 2, "sched_switch": 4, "workqueue_execute_end": 2, "tcp_send_reset": 3}.items():
        for n in range(most + 1):
            for what, body in {"read": "", "and through it": "ldxdw %r2, [%r2+0]", "checked": "jeq %r2, 0, out; ldxdw %r2, [%r2+0]"}.items():
                yield case(f"{point} argument {n} {what}", [f"ldxdw %r2, [%r1+{8 * n}]", body, *OUT], "tracing", ("attach 23", f"attach_btf btf_trace_{point}"))


AT = "mov %r1, %r10; add %r1, {}; "
SYSCALL = ("flags sleepable",)
# name: bytes on the stack, arguments of new (r6 is a task), what is done with an element
ITERATORS = {
    "num": (8, "mov %r2, 0; mov %r3, 10", "ldxw %r2, [%r0+0]"),
    "bits": (16, "mov %r2, 0; mov %r3, 1", "ldxw %r2, [%r0+0]"),
    "task": (24, "mov %r2, 0; mov %r3, 0", "mov %r1, %r0; call kfunc bpf_task_acquire; jeq %r0, 0, +2; mov %r1, %r0; call kfunc bpf_task_release"),
    "task_vma": (8, "mov %r2, %r6; mov %r3, 0", "ldxdw %r2, [%r0+0]"),
    "css": (24, "ldxdw %r2, [%r6+{task_struct.cgroups}]; ldxdw %r2, [%r2+{css_set.dfl_cgrp}]; mov %r3, 1", "ldxdw %r2, [%r0+{cgroup_subsys_state.cgroup}]"),
    "css_task": (8, "ldxdw %r2, [%r6+{task_struct.cgroups}]; ldxdw %r2, [%r2+{css_set.dfl_cgrp}]; mov %r3, 0", "ldxdw %r2, [%r0+0]"),
    "dmabuf": (8, "", "ldxdw %r2, [%r0+0]"),
    "kmem_cache": (8, "", "ldxdw %r2, [%r0+0]"),
}


def iterators(case):
    """Open-coded iterators: orders of their functions, in programs of some types, in sections and without."""
    places = {"tp_btf": ("tracing", TASK, FIRST), "iter": ("tracing", ITER_TASK, "ldxdw %r6, [%r1+8]; jeq %r6, 0, out"),
              "iter.s": ("tracing", (*ITER_TASK, "flags sleepable"), "ldxdw %r6, [%r1+8]; jeq %r6, 0, out"),
              "syscall": ("syscall", SYSCALL, "call get_current_task_btf; mov %r6, %r0"), "kprobe": ("kprobe", (), "call get_current_task_btf; mov %r6, %r0")}
    for (name, (size, arguments, use)), (place, (kind, context, first)) in itertools.product(ITERATORS.items(), places.items()):
        at = AT.format(-size)
        make, more, end = at + arguments + f"; call kfunc bpf_iter_{name}_new", at + f"call kfunc bpf_iter_{name}_next", at + f"call kfunc bpf_iter_{name}_destroy"
        loop = ["again:", more, "jeq %r0, 0, done", use, "ja again", "done:", end]
        bodies = {"a loop": [make, *loop], "never ended": [make, more], "ended twice": [make, end, end], "begun twice": [make, make, end], "asked before": [more, make, end],
                  "an element unchecked": [make, more, use, end], "an element after the end": [make, more, "mov %r7, %r0", end, "jeq %r7, 0, out; ldxb %r0, [%r7+0]"],
                  "moved": [make, AT.format(8 - size) + f"call kfunc bpf_iter_{name}_next", end], "overwritten": [make, f"stdw [%r10-{size}], 0", end],
                  "read": [make, f"ldxdw %r0, [%r10-{size}]", end], "at a variable place": ["call get_prandom_u32; and %r0, 8; mov %r7, %r0", make, at + f"add %r1, %r7; call kfunc bpf_iter_{name}_next", end],
                  "of another kind": [make, at + f"call kfunc bpf_iter_{'num' if name != 'num' else 'bits'}_next", end], "too near to the frame": [make.replace(f"add %r1, -{size}", f"add %r1, -{size - 8}"), end],
                  "in a section": [LOCK, make, *loop, UNLOCK], "over the section's end": [LOCK, make, more, UNLOCK, end], "asked after the section": [LOCK, make, UNLOCK, more, end],
                  "in a region without preemption": ["call kfunc bpf_preempt_disable", make, *loop, "call kfunc bpf_preempt_enable"]}
        for what, body in bodies.items():
            if place in ("tp_btf", "iter.s") or what in ("a loop", "in a section"):
                yield case(f"{name}, {place}: {what}", [first, *body, *OUT], kind, context)
    number = AT.format(-8)
    for order in itertools.permutations(("outer", "inner"), 2):
        yield case(f"two iterators, {order[0]} ended first", [AT.format(-8) + "mov %r2, 0; mov %r3, 3; call kfunc bpf_iter_num_new", AT.format(-24) + "mov %r2, 0; mov %r3, 1; call kfunc bpf_iter_bits_new",
                   *((number if o == "outer" else AT.format(-24)) + f"call kfunc bpf_iter_{'num' if o == 'outer' else 'bits'}_destroy" for o in order), *OUT])


def dynptrs(case):
    """Dynptrs of packets and memory, slices of them, and what takes both away."""
    make = {"skb": ("tc", "mov %r1, %r6; mov %r2, 0; mov %r3, %r10; add %r3, -16; call kfunc bpf_dynptr_from_skb"),
            "skb of a filter": ("socket", "mov %r1, %r6; mov %r2, 0; mov %r3, %r10; add %r3, -16; call kfunc bpf_dynptr_from_skb"),
            "xdp": ("xdp", "mov %r1, %r6; mov %r2, 0; mov %r3, %r10; add %r3, -16; call kfunc bpf_dynptr_from_xdp"),
            "ringbuf": ("tc", "lddw %r1, map 3; mov %r2, 16; mov %r3, 0; mov %r4, %r10; add %r4, -16; call ringbuf_reserve_dynptr"),
            "memory": ("tc", "lddw %r1, map 2; mov %r2, %r10; add %r2, -64; call map_lookup_elem; jeq %r0, 0, out; mov %r1, %r0; mov %r2, 16; mov %r3, 0; mov %r4, %r10; add %r4, -16; call dynptr_from_mem")}
    end = {"ringbuf": AT.format(-16) + "mov %r2, 0; call ringbuf_discard_dynptr"}
    changes = {"tc": "mov %r1, %r6; mov %r2, 4; call skb_pull_data", "socket": "call ktime_get_ns", "xdp": "mov %r1, %r6; mov %r2, 4; call xdp_adjust_head"}
    here = AT.format(-16)

    def slice_of(name, size="mov %r4, 8", buffer="mov %r3, %r10; add %r3, -32"):
        return here + f"mov %r2, 0; {buffer}; {size}; call kfunc {name}; mov %r7, %r0"

    for what, (kind, first) in make.items():
        change, last = changes[kind], [end[what]] if what in end else []
        read, write = slice_of("bpf_dynptr_slice"), slice_of("bpf_dynptr_slice_rdwr")
        use = "jeq %r7, 0, +1; ldxdw %r0, [%r7+0]"
        bodies = {
            "asked": [here + f"call kfunc bpf_dynptr_{n}" for n in ("size", "is_null", "is_rdonly")], "cut": [here + "mov %r2, 1; mov %r3, 2; call kfunc bpf_dynptr_adjust"],
            "sliced, read": [read, use], "sliced, unchecked": [read, "ldxdw %r0, [%r7+0]"], "sliced, beyond": [read, "jeq %r7, 0, +1; ldxdw %r0, [%r7+1]"],
            "sliced, written": [read, "jeq %r7, 0, +1; stdw [%r7+0], 0"], "sliced to be written": [write, "jeq %r7, 0, +1; stdw [%r7+0], 0"],
            "sliced without a buffer": [slice_of("bpf_dynptr_slice", buffer="mov %r3, 0"), use], "a slice of unknown size": ["call get_prandom_u32; and %r0, 7; mov %r8, %r0", slice_of("bpf_dynptr_slice", "mov %r4, %r8")],
            "a slice larger than its buffer": [slice_of("bpf_dynptr_slice", "mov %r4, 40")], "a slice of nothing": [slice_of("bpf_dynptr_slice", "mov %r4, 0")],
            "a slice when the packet changed": [read, change, use], "a slice after a write": [read, here + "mov %r2, 0; mov %r3, %r10; add %r3, -32; mov %r4, 8; mov %r5, 0; call dynptr_write", use],
            "a slice after it was overwritten": [read, "stdw [%r10-16], 0", use], "cloned": [here + "mov %r2, %r10; add %r2, -48; call kfunc bpf_dynptr_clone", AT.format(-48) + "call kfunc bpf_dynptr_size"],
            "cloned over itself": [here + "mov %r2, %r10; add %r2, -16; call kfunc bpf_dynptr_clone"],
            "cloned, the clone sliced": [here + "mov %r2, %r10; add %r2, -48; call kfunc bpf_dynptr_clone", read.replace("-16", "-48", 1), use],
            "cloned, the clone used after the end": [here + "mov %r2, %r10; add %r2, -48; call kfunc bpf_dynptr_clone", *last, AT.format(-48) + "call kfunc bpf_dynptr_size"],
            "the place of a slice after the end": [read, *last, use], "data": [here + "mov %r2, 0; mov %r3, 8; call dynptr_data; mov %r7, %r0", change, use],
            "copied": [here + "mov %r2, 0; mov %r3, %r10; add %r3, -16; mov %r4, 4; mov %r5, 4; call kfunc bpf_dynptr_copy"], "made twice": [first], "read raw": ["ldxdw %r0, [%r10-16]"],
            "a null": ["mov %r1, 0; call kfunc bpf_dynptr_size"], "at 8 bytes beside": [AT.format(-24) + "call kfunc bpf_dynptr_size"]}
        for body_name, body in bodies.items():
            ended = last if "the end" not in body_name else []
            zeros = [f"stdw [%r10-{n}], 0" for n in range(8, 72, 8)]
            yield case(f"dynptr of {what}: {body_name}", ["mov %r6, %r1", *zeros, first, *body, *ended, *OUT], kind)
    for kind in ("kprobe", "tracepoint", "perf_event", "raw_tracepoint", "xdp", "socket", "tc"):
        yield case(f"dynptr of a packet in {kind}", ["mov %r6, %r1", make["skb"][1], *OUT], kind)
    yield case("dynptr of a traced packet", ["ldxdw %r6, [%r1+0]", make["skb"][1], here + "call kfunc bpf_dynptr_size", *OUT], "tracing", ("attach 23", "attach_btf btf_trace_consume_skb"))
    yield case("dynptr of a traced task", ["ldxdw %r6, [%r1+0]", make["skb"][1], *OUT], "tracing", TASK)


def functions_of_the_kernel(case):
    """Casts, interrupts, masks, kptrs, program types."""
    for kind, cast in itertools.product(("socket", "tc", "xdp", "kprobe", "tracepoint", "perf_event", "raw_tracepoint"), ("", "ldxdw %r2, [%r0+0]", "ldxdw %r2, [%r0+30000]", "stdw [%r0+0], 0")):
        yield case(f"the context of {kind} as the kernel's, {cast or 'no more'}", ["call kfunc bpf_cast_to_kern_ctx", cast, *OUT], kind)
    yield case("the context cast twice", ["mov %r6, %r1; call kfunc bpf_cast_to_kern_ctx; mov %r1, %r6; call kfunc bpf_cast_to_kern_ctx", *OUT], "tc")
    yield case("no context cast", ["mov %r1, 0; call kfunc bpf_cast_to_kern_ctx", *OUT], "tc")
    yield case("a context at an offset cast", ["add %r1, 8; call kfunc bpf_cast_to_kern_ctx", *OUT], "tc")
    yield case("the socket behind the context", ["call kfunc bpf_cast_to_kern_ctx; ldxdw %r6, [%r0+{sk_buff.sk}]; jeq %r6, 0, out; ldxdw %r7, [%r6+0]", *OUT], "tc")
    for what, body in {"to bytes, read far": "mov %r2, 0; call kfunc bpf_rdonly_cast; ldxdw %r0, [%r0+4096]", "to bytes, written": "mov %r2, 0; call kfunc bpf_rdonly_cast; stdw [%r0+0], 0",
                       "to what is unknown": "mov %r6, %r1; call get_prandom_u32; mov %r2, %r0; mov %r1, %r6; call kfunc bpf_rdonly_cast", "to no type": "lddw %r2, 0x7fffffff; call kfunc bpf_rdonly_cast",
                       "to bytes, handed to a function": "mov %r2, 0; call kfunc bpf_rdonly_cast; mov %r1, %r0; call kfunc bpf_task_acquire",
                       "to bytes, with arithmetic": "mov %r2, 0; call kfunc bpf_rdonly_cast; mov %r6, %r0; call get_prandom_u32; xor %r6, %r0; and %r6, -8; ldxb %r0, [%r6+0]",
                       "to bytes, number plus pointer": "mov %r2, 0; call kfunc bpf_rdonly_cast; mov %r6, %r0; call get_prandom_u32; add %r0, %r6; ldxb %r0, [%r0+0]"}.items():
        yield case(f"a cast {what}", [body, *OUT], "raw_tracepoint")
    irq = {"save 8": AT.format(-8) + "call kfunc bpf_local_irq_save", "save 16": AT.format(-16) + "call kfunc bpf_local_irq_save",
           "restore 8": AT.format(-8) + "call kfunc bpf_local_irq_restore", "restore 16": AT.format(-16) + "call kfunc bpf_local_irq_restore", "write 8": "stdw [%r10-8], 0", "read 8": "ldxdw %r0, [%r10-8]"}
    for n in (1, 2, 3, 4):
        for order in itertools.product(irq, repeat=n):
            if order[0] == "save 8" and (n < 3 or (order[1] in ("save 16", "write 8") and order[-1].startswith("restore"))):
                yield case("irq: " + ", ".join(order), [*(irq[s] for s in order), *OUT], "tc")
    sleep = "mov %r1, %r10; add %r1, -64; mov %r2, 8; mov %r3, 0; mov %r4, 0; call kfunc bpf_copy_from_user_str"
    regions = {"": ("", ""), " with interrupts off": (irq["save 8"], irq["restore 8"]), " in a section": (LOCK, UNLOCK), " without preemption": ("call kfunc bpf_preempt_disable", "call kfunc bpf_preempt_enable")}
    for (where, (enter, leave)), flags in itertools.product(regions.items(), ((), ("flags sleepable",))):
        yield case(f"a function that sleeps{where}, {flags}", [enter, sleep, leave, *OUT], "kprobe", flags)
        yield case(f"a helper that sleeps{where}, {flags}", [enter, "mov %r1, %r10; add %r1, -64; mov %r2, 8; mov %r3, 0; call copy_from_user", leave, *OUT], "kprobe", flags)
    mask = {"create": "call kfunc bpf_cpumask_create; mov %r6, %r0", "check": "jeq %r6, 0, out", "set": "mov %r1, 1; mov %r2, %r6; call kfunc bpf_cpumask_set_cpu",
            "first": "mov %r1, %r6; call kfunc bpf_cpumask_first", "acquire": "mov %r1, %r6; call kfunc bpf_cpumask_acquire", "release": "mov %r1, %r6; call kfunc bpf_cpumask_release"}
    for n in (1, 2, 3, 4):
        for order in itertools.product(mask, repeat=n):
            if order[0] == "create" and (n < 3 or (order[1] == "check" and order[-1] == "release" and "create" not in order[1:])):
                yield case("mask: " + ", ".join(order), [*(mask[s] for s in order), *OUT], "tracing", TASK)
    for what, r1 in {"stack": "mov %r1, %r10; add %r1, -512", "too little stack": "mov %r1, %r10; add %r1, -8", "a number": "mov %r1, 5", "a task": "ldxdw %r1, [%r1+0]"}.items():
        yield case(f"a mask that is {what}", [r1, "call kfunc bpf_cpumask_first", *OUT], "tracing", TASK)
    for kind, (name, body) in itertools.product(("socket", "tc", "xdp", "kprobe", "tracepoint", "perf_event", "raw_tracepoint", "syscall"),
                                                {"mask": "call kfunc bpf_cpumask_create; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_cpumask_release",
                                                 "task": "mov %r1, 1; call kfunc bpf_task_from_pid; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_task_release",
                                                 "cgroup": "mov %r1, 1; call kfunc bpf_cgroup_from_id; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_cgroup_release",
                                                 "key": "mov %r1, 1; call kfunc bpf_lookup_system_key; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_key_put",
                                                 "strlen": "call kfunc bpf_strlen", "pull": "mov %r2, 4; call kfunc bpf_xdp_pull_data", "session": "call kfunc bpf_session_is_return"}.items()):
        yield case(f"{name} in {kind}", [body, *OUT], kind, SYSCALL if kind == "syscall" else ())
    conntrack = ["mov %r9, %r1", *(f"stdw [%r10-{n}], 0" for n in range(8, 56, 8)), "mov %r1, %r9; mov %r2, %r10; add %r2, -16; mov %r3, 12; mov %r4, %r10; add %r4, -48; mov %r5, 12"]
    for (kind, short), body in itertools.product({"tc": "skb", "xdp": "xdp"}.items(), ("stw [%r6+{nf_conn.mark}], 1", "stb [%r6+{nf_conn.mark}], 1", "stb [%r6+{nf_conn.mark+1}], 1", "stdw [%r6+{nf_conn.mark}], 1", "stdw [%r6+{nf_conn.status}], 1",
                                                                                         "ldxw %r2, [%r6+{nf_conn.mark}]", "mov %r2, 1; lock add32 [%r6+{nf_conn.mark}], %r2", "mov %r1, %r6; mov %r2, 1; call kfunc bpf_ct_change_timeout", "mov %r1, %r6; mov %r2, 1; call kfunc bpf_ct_set_timeout")):
        yield case(f"a connection in {kind}: {body}", [*conntrack, f"call kfunc bpf_{short}_ct_lookup; jeq %r0, 0, out; mov %r6, %r0", body, "mov %r1, %r6; call kfunc bpf_ct_release", *OUT], kind)
    for what, body in {"inserted": "mov %r1, %r6; call kfunc bpf_ct_insert_entry; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_ct_release", "inserted, leaked": "mov %r1, %r6; call kfunc bpf_ct_insert_entry",
                       "released before it is inserted": "mov %r1, %r6; call kfunc bpf_ct_release", "given a time": "mov %r1, %r6; mov %r2, 1; call kfunc bpf_ct_set_timeout; mov %r1, %r6; call kfunc bpf_ct_insert_entry; jeq %r0, 0, out; mov %r1, %r0; call kfunc bpf_ct_release",
                       "changed as if inserted": "mov %r1, %r6; mov %r2, 1; call kfunc bpf_ct_change_timeout"}.items():
        yield case(f"a new connection: {what}", [*conntrack, "call kfunc bpf_skb_ct_alloc; jeq %r0, 0, out; mov %r6, %r0", body, *OUT], "tc")
    for target, check in itertools.product(("tcp", "udp", "unix", "netlink"), ("jeq %r1, 0, out", "")):
        for helper in ("setsockopt", "getsockopt"):
            yield case(f"{helper} of iter/{target}, {check or 'unchecked'}", ["stdw [%r10-8], 0; ldxdw %r1, [%r1+8]", check, "mov %r2, 1; mov %r3, 7; mov %r4, %r10; add %r4, -8; mov %r5, 4", f"call {helper}", *OUT], "tracing", ("attach 28", f"attach_btf bpf_iter_{target}"))
    yield case("a map's count", ["lddw %r1, map 2; call kfunc bpf_map_sum_elem_count", *OUT])
    yield case("a count of an iterator's map", ["ldxdw %r1, [%r1+8]; jeq %r1, 0, out; call kfunc bpf_map_sum_elem_count", *OUT], "tracing", ("attach 28", "attach_btf bpf_iter_bpf_map"))
    yield case("a count of an iterator's map, unchecked", ["ldxdw %r1, [%r1+8]; call kfunc bpf_map_sum_elem_count", *OUT], "tracing", ("attach 28", "attach_btf bpf_iter_bpf_map"))
    look = "stdw [%r10-8], 0; lddw %r1, map 9; mov %r2, %r10; add %r2, -8; call map_lookup_elem; jeq %r0, 0, out; ldxdw %r7, [%r0+8]"
    use = "mov %r1, %r7; call kfunc bpf_task_acquire; jeq %r0, 0, +2; mov %r1, %r0; call kfunc bpf_task_release"
    for place, (kind, context) in {"a tracepoint": ("tracing", TASK), "what may sleep": ("syscall", SYSCALL)}.items():
        for what, body in {"checked": [look, "jeq %r7, 0, out", use], "unchecked": [look, use], "in a section": [LOCK, look.replace("0, out", "0, leave"), "jeq %r7, 0, leave", use, "leave:", UNLOCK],
                           "after the section": [LOCK, look.replace("0, out", "0, leave"), UNLOCK, "jeq %r7, 0, out", use, "ja out", "leave:", UNLOCK], "released": [look, "jeq %r7, 0, out; mov %r1, %r7; call kfunc bpf_task_release"],
                           "read": [look, "jeq %r7, 0, out; ldxdw %r0, [%r7+0]"]}.items():
            yield case(f"a kptr of {place}, {what}", [*body, *OUT], kind, context)


def tags(case):
    """Arguments of global functions by their tags, and what may be passed."""
    passed = {"a task": "ldxdw %r1, [%r1+0]", "null": "mov %r1, 0", "the context": "", "the stack": "mov %r1, %r10; add %r1, -16", "a walked task": "ldxdw %r1, [%r1+0]; ldxdw %r1, [%r1+{task_struct.last_wakee}]",
              "a task of RCU": "ldxdw %r1, [%r1+0]; ldxdw %r1, [%r1+{task_struct.real_parent}]", "an acquired task": "ldxdw %r1, [%r1+0]; call kfunc bpf_task_acquire; mov %r1, %r0",
              "a mask": "ldxdw %r1, [%r1+0]; add %r1, {task_struct.cpus_mask}", "a number": "mov %r1, 7", "bytes": "ldxdw %r1, [%r1+0]; ldxdw %r1, [%r1+{task_struct.stack}]"}
    bodies = {"reads": "ldxdw %r0, [%r1+0]", "checks": "jeq %r1, 0, +1; ldxdw %r0, [%r1+0]", "acquires": "call kfunc bpf_task_acquire; jeq %r0, 0, +2; mov %r1, %r0; call kfunc bpf_task_release", "writes": "stdw [%r1+0], 0"}
    for argument in ("task:trusted", "task:trusted:nullable", "task:trusted:nonnull", "flavor:trusted", "task:nullable", "task:untrusted", "void:untrusted", "void:ctx", "ptr:nonnull", "ptr", "void", "void:arena", "task:odd"):
        functions = ("func global int test(ctx)", f"func global int callee({argument})")
        for what, body in bodies.items():
            yield case(f"{argument}, the function {what}", ["mov %r1, 0" if "null" in argument and "nonnull" not in argument else "ldxdw %r1, [%r1+0]", "call local callee", "mov %r0, 0", "exit", "callee:", body, "mov %r0, 0", "exit"], "tracing", (*TASK, *functions))
        for what, code in passed.items():
            yield case(f"{argument}, passed {what}", [code, "call local callee", "mov %r0, 0", "exit", "callee:", "mov %r0, 0", "exit"], "tracing", (*TASK, *functions))
    for kind, what in itertools.product(("raw_tracepoint", "xdp", "tc", "perf_event", "kprobe", "socket"), ("", "mov %r1, 0", "add %r1, 8")):
        yield case(f"the context of {kind} passed, {what or 'as it is'}", [what, "call local callee", "mov %r0, 0", "exit", "callee:", "mov %r0, 0", "exit"], kind, ("func global int test(ctx)", "func global int callee(ctx)"))


def files(case):
    """By name of the file, what makes its cases."""
    return {"structures": lambda: structures(case), "trust": lambda: trust(case), "typed_contexts": lambda: contexts(case),
            "iterators": lambda: iterators(case), "dynptrs": lambda: dynptrs(case), "kernel_functions": lambda: functions_of_the_kernel(case), "argument_tags": lambda: tags(case)}
