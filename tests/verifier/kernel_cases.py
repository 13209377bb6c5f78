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


def files(case):
    """By name of the file, what makes its cases."""
    return {"structures": lambda: structures(case), "trust": lambda: trust(case), "typed_contexts": lambda: contexts(case)}
