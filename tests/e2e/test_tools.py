"""Debian's own tools, unmodified: each on the kernel as root and on us as nobody, on the same work; what they print is
compared. Without root only ours runs. At the end: a table of tools, targets and results."""
import json
import os
import re
import signal
import unittest

import harness
from harness import EndToEnd, until
from servers import Nginx, Redis

RESOLVER = """
import socket, sys
print("ready", flush=True)
for line in sys.stdin:
    socket.getaddrinfo(line.strip(), None)
    print("asked", line.strip(), flush=True)
"""
ALLOCATOR = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    for n in range(int(line)):
        bytearray(150000 + n)
    print("allocated", line.strip(), flush=True)
"""
# epoll_wait, epoll_pwait, futex, poll, ppoll, nanosleep, clock_nanosleep, pause, select, pselect6: asm/unistd_64.h
EVENT_WAITS = {"232", "281", "202", "7", "271", "35", "230", "34", "23", "270"}
TABLE = []  # (tool, target, what was compared, result)


class Run:
    """One run of a tool: kernel's or ours."""

    def __init__(self, session, on_us, command, target=None):
        line_buffered = ["stdbuf", "-oL", *[str(word) for word in command]]
        if on_us:
            self.process = session.start([session.bin("bpftime"), "load", *line_buffered])
        else:
            self.process = session.start(line_buffered, as_root=True)
        self.session, self.on_us = session, on_us

    def until_prints(self, pattern):
        return self.process.expect(pattern)

    def stop(self, number=signal.SIGINT):
        """Ctrl-C, once the tool has its handler and waits; all that was printed, the first lines too."""
        until("the tool waits", lambda: self.waits_with_handler(number))
        self.process.kill(number)
        # bpftrace 0.17 ends only where a wait for events ends with EINTR: a Ctrl-C between two waits is forgotten, on the
        # kernel too; whoever types it types it again.
        ended = os.pidfd_open(self.process.pid)
        while not self.process.read_until(ended, 2):
            if self.waits_with_handler(number):
                self.process.kill(number)
        os.close(ended)
        _, rest = self.process.finish()
        return self.process.lines + rest.splitlines()

    def waits_with_handler(self, number):
        """It sleeps where it has nothing more to do, by itself or in our shim."""
        status = dict(line.split(":\t", 1) for line in harness.pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
                      if ":\t" in line)
        if not status["State"].startswith("S") or not int(status["SigCgt"], 16) >> (number - 1) & 1:
            return False
        call = harness.pathlib.Path(f"/proc/{self.process.pid}/syscall").read_text().split()[0]
        return call in EVENT_WAITS


class Tools(EndToEnd):
    def compare(self, tool, target, what, run):
        """run(on_us) -> value to compare; ours must be the kernel's."""
        row = [tool, target, what, "FAILED"]
        TABLE.append(row)
        ours = run(True)
        self.assertTrue(ours)
        if not harness.AS_ROOT:
            row[3] = "ours only: no root"
            return
        kernels = run(False)
        self.assertEqual(ours, kernels)
        row[3] = "same" if not isinstance(ours, (list, dict)) else f"same, {len(ours)} lines"

    def finished(self, *targets):
        self.session.bpftime("shutdown")
        self.assert_untouched(*targets)
        self.assert_nothing_left()

    # ---- libbpf-tools

    def test_funclatency(self):
        target = self.session.target("target_forker")
        self.session.bpftime("attach", str(target.pid))

        def run(on_us):
            tool = Run(self.session, on_us, ["funclatency", self.session.target_path("target_forker") + ":traced"])
            tool.until_prints("^Tracing")
            target.ask("call 3000", "called 3000")
            buckets = [re.match(r"\s*\d+ -> \d+\s*: (\d+)", line) for line in tool.stop()]
            return {"hits": sum(int(bucket.group(1)) for bucket in buckets if bucket)}

        self.compare("funclatency", "target_forker", "hits in the histogram", run)
        self.finished(target)


    def shell(self):
        """An interactive bash at a terminal; (what to type into, its pid)."""
        terminal = self.session.start(["script", "-qec", "exec bash --norc --noprofile -i", "/dev/null"],
                                      env={"TERM": "dumb", "PS1": "> "})
        terminal.ask("echo ready$((40 + 2))", "ready42")
        children = harness.pathlib.Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()
        [pid] = [int(child) for child in children]
        return terminal, pid

    def test_bashreadline(self):
        terminal, pid = self.shell()
        self.session.bpftime("attach", str(pid))

        def run(on_us):
            tool = Run(self.session, on_us, ["bashreadline"])
            tool.until_prints("^TIME")
            until("it waits", lambda: tool.waits_with_handler(signal.SIGINT))
            for command in ("true one", "echo two  words", ": last"):
                terminal.say(command)
            tool.until_prints(": last")
            return [re.sub(r"^[\d:]+ +\d+ +", "", line) for line in tool.stop() if re.match(r"\d\d:", line)]

        self.compare("bashreadline", "bash", "lines", run)
        self.finished(pid)
        terminal.say("exit")

    def test_gethostlatency(self):
        target = self.session.start(["python3", "-c", RESOLVER])
        target.expect("^ready")

        def run(on_us):
            tool = Run(self.session, on_us, ["gethostlatency", "-p", target.pid])
            tool.until_prints("^TIME")
            until("it waits", lambda: tool.waits_with_handler(signal.SIGINT))
            for name in ("localhost", "127.0.0.1", "::1", "127.0.0.7"):
                target.ask(name, "asked " + name)
            tool.until_prints("127.0.0.7")
            rows = [line.split() for line in tool.stop() if re.match(r"\d\d:", line)]
            return [(comm, host) for _, pid, comm, _, host in rows if int(pid) == target.pid]

        self.compare("gethostlatency", "python3", "lines", run)
        self.finished(target)

    # ---- bpftrace

    def bpftrace(self, title, program, target, work):
        """What bpftrace prints after it was interrupted, which is its maps."""
        def run(on_us):
            tool = Run(self.session, on_us, ["bpftrace", "-e", program])
            tool.until_prints("^Attaching")
            until("its probes are there", lambda: self.has_attached(tool, program.count("probe:")))
            work()
            return sorted(line for line in tool.stop() if line.strip() and not line.startswith("Attaching"))

        self.compare("bpftrace " + title, target, "output", run)

    def has_attached(self, tool, probes):
        if tool.on_us:
            return self.session.placed() >= probes
        return harness.waits_for_events(tool.process.pid)

    def test_bpftrace_one_liners(self):
        target = self.session.target("target_forker")
        self.session.bpftime("attach", str(target.pid))
        place = self.session.target_path("target_forker") + ":traced"

        def work():
            target.ask("call 100", "called 100")
            target.ask("call 28", "called 28")

        for title, program in (
                ("count()", f"uprobe:{place} {{ @calls = count(); }}"),
                ("hist()", f"uprobe:{place} {{ @arguments = hist(arg0); }}"),
                ("lhist() of retval", f"uretprobe:{place} {{ @results = lhist(retval, 0, 100, 10); }}"),
                ("sum, max, by comm", f"uretprobe:{place} {{ @sum[comm] = sum(retval); @max = max(retval); }}"),
                ("entry and return", f"uprobe:{place} {{ @at[tid] = arg0; }} "
                                     f"uretprobe:{place} /@at[tid] > 90/ {{ @late = count(); delete(@at[tid]); }}"),
                ("printf()", f"uprobe:{place} /arg0 > 96/ {{ printf(\"hit %d %s\\n\", arg0, comm); }}")):
            with self.subTest(program):
                self.bpftrace(title, program, "target_forker", work)
        self.finished(target)

    def test_bpftrace_reads_strings(self):
        terminal, pid = self.shell()
        self.session.bpftime("attach", str(pid))

        def work():
            for command in ("true one", ": two"):
                terminal.say(command)
            terminal.ask("echo done$((40 + 3))", "done43")

        self.bpftrace("str()", 'uretprobe:/bin/bash:readline { printf("typed %s\\n", str(retval)); @[str(retval)] = count(); }',
                      "bash", work)
        self.finished(pid)
        terminal.say("exit")

    def test_bpftrace_ustack(self):
        target = self.session.target("target_forker")
        self.session.bpftime("attach", str(target.pid))
        place = self.session.target_path("target_forker") + ":traced"
        self.bpftrace("ustack", f"uprobe:{place} {{ @[ustack] = count(); }}", "target_forker",
                      lambda: target.ask("call 100", "called 100"))
        self.finished(target)

    # ---- ours

    def test_malloc(self):
        target = self.session.start(["python3", "-c", ALLOCATOR])
        target.expect("^ready")

        def run(on_us):
            tool = Run(self.session, on_us, [self.session.bin("malloc"), "-p", target.pid, "-b", "150000", "-j"])
            tool.until_prints('"second":1,')
            target.ask("700", "allocated 700")
            last = json.loads(tool.stop()[-1])
            return {"total": last["total"], "processes": [[p["pid"] == target.pid, p["calls"]] for p in last["processes"]]}

        self.compare("malloc", "python3", "calls", run)
        self.finished(target)

    def test_sslsniff(self):
        nginx = Nginx(self.session)
        [worker] = nginx.children()

        def run(on_us):
            tool = Run(self.session, on_us, [self.session.bin("sslsniff"), "-p", worker])
            tool.until_prints("^TIME")
            until("it waits", lambda: tool.waits_with_handler(signal.SIGINT))
            for _ in range(3):
                with nginx.connect(tls=True) as connection:
                    for n in range(20):
                        nginx.get(connection, f"/hello?{n}")
                    nginx.get(connection, "/large")
            nginx.healthy()
            until("the worker waits, out of SSL_write", lambda: harness.waits_for_events(worker))
            lines = [line.split(" ", 2) for line in tool.stop() if re.match(r"\d\d:", line)]
            self.assertEqual({int(pid) for _, pid, _ in lines}, {worker})
            return sorted(re.sub(r"Date: [^\\]*", "Date: ", line) for _, _, line in lines)

        self.compare("sslsniff", "nginx with TLS", "lines", run)
        self.finished(*nginx.pids)
        nginx.healthy()
        self.assertEqual(nginx.stop(), 0)

    def test_redis_latency(self):
        redis = Redis(self.session)

        def run(on_us):
            tool = Run(self.session, on_us, [self.session.bin("redis-latency"), "-p", redis.pid])
            tool.until_prints("^Timing")
            self.assertEqual(redis.command("flushall"), "OK")
            redis.benchmark("-c", "4", "-n", "500", "-t", "ping,set,get,lpush")
            self.assertEqual(redis.command("eval", "redis.call('set', 'x', 1); return redis.call('get', 'x')", "0"), "1")
            counts, sums = {}, {}
            for line in tool.stop():
                if found := re.match(r"(\w+): (\d+) calls", line):
                    command = found.group(1)
                    counts[command], sums[command] = int(found.group(2)), 0
                elif found := re.match(r" +\d+ ns\.\. +(\d+)", line):
                    sums[command] += int(found.group(1))
            self.assertEqual(sums, counts)
            return counts

        self.compare("redis-latency", "redis-server", "calls by command", run)
        self.finished(redis.pid)
        self.assertEqual(redis.command("ping"), "PONG")
        self.assertEqual(redis.stop(), 0)

    def retvals(self, target, arguments, before=()):
        def run(on_us):
            tool = Run(self.session, on_us, [*before, self.session.bin("funcretval"), *arguments])
            tool.until_prints("^tracing")
            target.ask("call 300", "called 300")
            target.ask("call 7", "called 7")
            rows = [line.split() for line in tool.stop() if re.fullmatch(r" +-?\d+ +\d+", line)]
            return {int(value): int(count) for value, count in rows}
        return run

    def test_funcretval(self):
        target = self.session.target("target_forker")
        arguments = ["-p", target.pid, self.session.target_path("target_forker"), "traced"]
        self.compare("funcretval", "target_forker", "values returned", self.retvals(target, arguments))
        self.finished(target)

    def test_funcretval_where_the_kernel_shows_no_types(self):
        """CO-RE against the BTF of our own: /sys/kernel/btf is hidden by a mount that only the tool sees."""
        target = self.session.target("target_forker")
        hidden = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh"]
        arguments = ["-p", target.pid, self.session.target_path("target_forker"), "traced"]
        tool = Run(self.session, True, [*hidden, self.session.bin("funcretval"), *arguments])
        tool.until_prints("^tracing")
        target.ask("call 5", "called 5")
        rows = [line.split() for line in tool.stop() if re.fullmatch(r" +-?\d+ +\d+", line)]
        self.assertEqual(sorted(rows), [[str(n), "1"] for n in range(1, 6)])
        TABLE.append(["funcretval, no BTF", "target_forker", "values returned", "right"])
        self.finished(target)


def setUpModule():
    del TABLE[:]


def tearDownModule():
    widths = [max(len(row[i]) for row in TABLE + [["tool", "target", "compared", "result"]]) for i in range(4)]
    print()
    for row in [["tool", "target", "compared", "result"], *TABLE]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    harness.main()
