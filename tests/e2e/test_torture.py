"""Patching under load: 64 threads in functions whose first five bytes are several instructions, switched on and off
again and again; no wrong result, bytes as before. BPFTIME_TORTURE_ROUNDS sets the length (10,000 in `make soak`)."""
import os
import subprocess

import harness
from harness import EndToEnd

ROUNDS = int(os.environ.get("BPFTIME_TORTURE_ROUNDS", "200"))


def offset_of(path, symbol):
    for line in subprocess.run(["readelf", "-sW", path], check=True, capture_output=True, text=True).stdout.splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[7] == symbol and fields[3] == "FUNC":
            address = int(fields[1], 16)
    for line in subprocess.run(["readelf", "-lW", path], check=True, capture_output=True, text=True).stdout.splitlines():
        fields = line.split()
        if fields[:1] == ["LOAD"]:
            offset, virtual, size = int(fields[1], 16), int(fields[2], 16), int(fields[4], 16)
            if virtual <= address < virtual + size:
                return address - virtual + offset
    raise AssertionError(f"no {symbol} in {path}")


def anonymous_code(pid):
    with open(f"/proc/{pid}/maps") as maps:
        return [line for line in maps if line.split()[1].startswith("r-x") and len(line.split()) == 5]


class Torture(EndToEnd):
    def torture(self, function, *options, rounds=ROUNDS):
        path = self.session.target_path("target_torture")
        # The threads keep all processors busy, but not from those who attach: a round's time is the work in it.
        target = self.session.start(["nice", "-n", "5", path, "64"])
        target.expect("^ready")
        before = anonymous_code(target.pid)
        tool = self.session.load("toggle", target.pid, path, offset_of(path, function), rounds, *options)
        status, output = tool.finish(200 + rounds)
        self.assertEqual(status, 0, tool.stderr())
        self.assertRegex(output, rf"rounds {rounds} hits [1-9]")
        # What is no longer in use is used again: room for trampolines (341 in each piece of it) does not grow with the
        # rounds. Only a thread that gets no CPU for a while holds on to what is taken away meanwhile.
        self.assertLessEqual(len(anonymous_code(target.pid)), 6 + len(before))
        self.session.bpftime("shutdown", deadline=120)
        calls, wrong = (int(n) for n in target.ask("", r"calls (\d+) wrong (\d+)").groups())
        self.assertGreater(calls, 100000)
        self.assertEqual(wrong, 0)
        self.assert_untouched(target)
        self.assert_nothing_left()

    def test_five_one_byte_instructions(self):
        self.torture("five_pushes")

    def test_trampolines_are_used_again_though_some_thread_is_always_inside(self):
        self.torture("five_pushes", rounds=3000)  # nine pieces for as many

    def test_five_one_byte_instructions_with_a_return_probe(self):
        self.torture("five_pushes", "r")

    def test_a_displaced_call(self):
        self.torture("call_first", "r")

    def test_a_displaced_conditional_jump(self):
        self.torture("jump_first")


if __name__ == "__main__":
    harness.main()
