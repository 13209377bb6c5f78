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
        """Ctrl-C; all that was printed, the first lines too."""
        self.process.kill(number)
        _, rest = self.process.finish()
        return self.process.lines + rest.splitlines()


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


def setUpModule():
    del TABLE[:]


def tearDownModule():
    widths = [max(len(row[i]) for row in TABLE + [["tool", "target", "compared", "result"]]) for i in range(4)]
    print()
    for row in [["tool", "target", "compared", "result"], *TABLE]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    harness.main()
