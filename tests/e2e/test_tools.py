"""Debian's own tools, unmodified: each on the kernel as root and on us as nobody, on the same work; what they print is
compared. Without root only ours runs. At the end: a table of tools, targets and results."""
import re
import signal
import unittest

import harness
from harness import EndToEnd, until

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
        _, rest = self.process.finish()
        return self.process.lines + rest.splitlines()

    def waits_with_handler(self, number):
        status = dict(line.split(":\t", 1) for line in open(f"/proc/{self.process.pid}/status").read().splitlines()
                      if ":\t" in line)
        return status["State"].startswith("S") and int(status["SigCgt"], 16) >> (number - 1) & 1


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


    # ---- ours

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
