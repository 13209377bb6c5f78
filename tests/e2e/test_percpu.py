"""Per-CPU data: exact sums, and lanes that come back (src/abi/lanes.hpp)."""
import json
import os
import struct

import harness
from harness import EndToEnd, until


class PerCpu(EndToEnd):
    def held_lanes(self):
        """Owners that stand in the session's lanes, read from the broker's own file."""
        [broker] = self.session.brokers()
        for name in os.listdir(f"/proc/{broker}/fd"):
            path = f"/proc/{broker}/fd/{name}"
            if "bpftime-lanes" in os.readlink(path):
                with open(path, "rb") as file:
                    words = file.read()
                return [owner for (owner,) in struct.iter_unpack("<I60x", words) if owner != 0]
        self.fail("the broker has no lanes")

    def test_sums_are_exact_with_64_threads_in_8_processes(self):
        tool = self.session.load("parity_percpu", "20000")
        status, output = tool.finish(120)
        self.assertEqual(status, 0, output + tool.stderr())
        self.assertNotIn("WRONG", output)
        until("all lanes free", lambda: self.held_lanes() == [])
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_lanes_of_killed_processes_come_back(self):
        for _ in range(3):
            tool = self.session.load("parity_percpu", "killed")
            tool.expect("^killed$")
            until("no target", lambda: json.loads(self.session.bpftime("status", "--json")[0])["targets"] == [])
            self.assertEqual(self.held_lanes(), [])
            self.assertEqual(tool.finish()[0], 0)
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_loaders_see_as_many_cpus_as_there_are_lanes(self):
        shown = self.session.start([self.session.bin("bpftime"), "load", "cat", "/sys/devices/system/cpu/possible"])
        configured = os.sysconf("SC_NPROCESSORS_CONF")
        lanes = (configured + 32 + 63) // 64 * 64
        self.assertEqual(shown.finish()[1], f"0-{lanes - 1}\n")
        self.session.bpftime("shutdown", status=None)


if __name__ == "__main__":
    harness.main()
