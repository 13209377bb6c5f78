"""The parity programs, the same binaries that the kernel_* tests run on the kernel as root, under the shim as nobody."""
import os
import pathlib
import unittest

import harness
from harness import EndToEnd


class Parity(EndToEnd):
    pass


def programs():
    return sorted(p.name for p in (harness.BUILD / "bin").glob("parity_*") if os.access(p, os.X_OK) and p.is_file())


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


class Complete(unittest.TestCase):
    def test_there_are_programs(self):
        self.assertGreaterEqual(len(programs()), 10)


if __name__ == "__main__":
    harness.main()
