"""A probe's semaphore in a target: raised while somebody listens, lowered whatever ends that."""
import os
import re
import signal
import subprocess

import harness
from harness import EndToEnd, until

# perf_event_open, PROG_LOAD of `r0 = 0; exit`, PERF_EVENT_IOC_SET_BPF, as a tool makes them; then waits for its input.
TOOL = """
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
path, offset, semaphore, pid = sys.argv[1].encode(), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0))
text, name = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(path)
load = ctypes.create_string_buffer(struct.pack("<IIQQ", 2, 2, ctypes.addressof(code), ctypes.addressof(text)), 128)
program = libc.syscall(321, 5, load, 128)
kind = int(open("/sys/bus/event_source/devices/uprobe/type").read())
attr = ctypes.create_string_buffer(struct.pack("<IIQQQQQIIQQ", kind, 112, semaphore << 32, 0, 0, 0, 0, 0, 0,
                                               ctypes.addressof(name), offset), 112)
event = libc.syscall(298, attr, pid, -1 if pid > 0 else 0, -1, 8)
print("armed", program >= 0 and event >= 0 and libc.ioctl(event, 0x40042408, program), flush=True)
sys.stdin.read()
"""


def place_in_file(path, symbol):
    """(offset in the file) of a symbol's address."""
    def run(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    address = next(int(line.split()[0], 16) for line in run("nm", path).splitlines() if line.split()[-1] == symbol)
    for line in run("readelf", "-lW", path).splitlines():
        found = re.match(r"\s+LOAD\s+(0x\w+) (0x\w+) 0x\w+ (0x\w+)", line)
        if found and int(found[2], 16) <= address < int(found[2], 16) + int(found[3], 16):
            return address - int(found[2], 16) + int(found[1], 16)
    raise AssertionError(symbol)


class Semaphores(EndToEnd):
    def setUp(self):
        super().setUp()
        self.path = self.session.target_path("target_forker")
        self.places = [place_in_file(self.path, "traced"), place_in_file(self.path, "listeners")]

    def listeners(self, target):
        return int(target.ask("listeners", r"^listeners (\d+)").group(1))

    def listen(self, pid):
        tool = self.session.start([self.session.bin("bpftime"), "load", "python3", "-c", TOOL, self.path, *self.places, pid])
        tool.expect("^armed 0$")
        return tool

    def test_each_tool_counts_once_and_no_more_when_it_ends(self):
        target = self.session.target("target_forker")
        first = self.listen(target.pid)
        self.assertEqual(self.listeners(target), 1)
        second = self.listen(target.pid)
        self.assertEqual(self.listeners(target), 2)
        first.finish()
        until("one is left", lambda: self.listeners(target) == 1)
        second.kill(signal.SIGKILL)
        until("none is left", lambda: self.listeners(target) == 0)
        self.session.bpftime("shutdown")
        self.assert_untouched(target)

    def test_detaching_lowers_it_and_attaching_raises_it_again(self):
        target = self.session.target("target_forker")
        tool = self.listen(-1)
        self.assertEqual(self.listeners(target), 0)
        self.session.bpftime("attach", str(target.pid))
        self.assertEqual(self.listeners(target), 1)
        self.session.bpftime("detach", str(target.pid))
        self.assertEqual(self.listeners(target), 0)
        self.session.bpftime("attach", str(target.pid))
        self.assertEqual(self.listeners(target), 1)
        tool.finish()
        self.session.bpftime("shutdown")
        self.assertEqual(self.listeners(target), 0)
        self.assert_untouched(target)

    def test_the_next_broker_lowers_what_a_killed_one_raised(self):
        target = self.session.target("target_forker")
        tool = self.listen(target.pid)
        [broker] = self.session.brokers()
        os.kill(broker, signal.SIGKILL)
        until("it is dead", lambda: not self.session.brokers())
        self.session.bpftime("attach", str(target.pid))
        until("lowered", lambda: self.listeners(target) == 0)
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target)


if __name__ == "__main__":
    harness.main()
