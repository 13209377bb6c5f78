"""The parity programs, the same binaries that the kernel_* tests run on the kernel as root, under the shim as nobody."""
import os
import pathlib
import unittest

import harness
from harness import EndToEnd


class Parity(EndToEnd):
    pass


def programs():
    return sorted(p.name for p in (harness.BUILD / "bin").glob("parity_*")
                  if os.access(p, os.X_OK) and p.is_file() and p.name not in ("parity_helpers", "parity_events", "parity_laps"))


def make(name):
    def test(self):
        process = self.session.start([self.session.bin("bpftime"), "load", self.session.bin(name)])
        status, output = process.finish(60)
        self.assertEqual(status, 0, output + process.stderr())
        self.assertIn("ok ", output)
        self.session.bpftime("shutdown")
        self.assert_nothing_left()
    return test


for program in programs():
    setattr(Parity, f"test_{program.removeprefix('parity_')}", make(program))


class Helpers(EndToEnd):
    def test_every_helper_gives_what_it_gives_on_the_kernel(self):
        ours = self.session.start([self.session.bin("bpftime"), "load", self.session.bin("parity_helpers")])
        status, output = ours.finish(60)
        self.assertEqual(status, 0, output + ours.stderr())
        self.assertNotIn("WRONG", output)
        self.session.bpftime("shutdown")
        self.assert_nothing_left()
        trace = [line for line in output.splitlines() if line.startswith("trace ")]
        self.assertEqual(trace, ["trace bpf_trace_printk: helpers: -5 hello, world abcdef",
                                 "trace bpf_trace_printk: helpers: plain",
                                 "trace bpf_trace_printk: helpers: 1 ff -3 c    42 %",
                                 "trace lines 3"])
        if not harness.AS_ROOT:
            return  # kernel_helpers needs root
        kernel = self.session.start([self.session.bin("parity_helpers")], as_root=True)
        status, theirs = kernel.finish(60)
        self.assertEqual(status, 0, theirs + kernel.stderr())
        self.assertEqual([line for line in theirs.splitlines() if not line.startswith("trace ")],
                         [line for line in output.splitlines() if not line.startswith("trace ")])


class Events(EndToEnd):
    def test_buffers_and_every_way_to_wait_for_them(self):
        ours = self.session.start([self.session.bin("bpftime"), "load", self.session.bin("parity_events")])
        status, output = ours.finish(60)
        self.assertEqual(status, 0, output + ours.stderr())
        self.session.bpftime("shutdown")
        self.assert_nothing_left()
        self.assertIn("ok events", output)
        self.assertNotRegex(output, "wrong [1-9]")
        if not harness.AS_ROOT:
            return  # kernel_events needs root
        kernel = self.session.start([self.session.bin("parity_events")], as_root=True)
        status, theirs = kernel.finish(60)
        self.assertEqual(status, 0, theirs + kernel.stderr())
        self.assertEqual(theirs.splitlines(), output.splitlines())


class Laps(EndToEnd):
    def test_libbpfs_readers_over_a_thousand_laps_with_producers_in_many_processes(self):
        ours = self.session.load("parity_laps")
        status, output = ours.finish(200)
        self.assertEqual(status, 0, output + ours.stderr())
        self.assertIn("ok laps", output)
        self.assertNotIn("WRONG", output)
        self.session.bpftime("shutdown")
        self.assert_nothing_left()


class Complete(unittest.TestCase):
    def test_there_are_programs(self):
        self.assertGreaterEqual(len(programs()), 10)


if __name__ == "__main__":
    harness.main()
