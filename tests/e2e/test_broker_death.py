"""A broker that is killed in the middle of an attach: at no moment does the target notice, and the next broker can
attach to it and cleans up. BPFTIME_DEATH_SECONDS sets how long moments are tried."""
import os
import random
import signal
import time

import harness
from harness import EndToEnd, until

SECONDS = float(os.environ.get("BPFTIME_DEATH_SECONDS", "20"))
LEAST = 8  # also where the machine is busy


def anonymous(pid):
    """Executable memory of a process that belongs to no file."""
    with open(f"/proc/{pid}/smaps") as smaps:
        found = []
        for line in smaps:
            words = line.split()
            if "-" in words[0] and len(words) == 5 and words[4] == "0" and "x" in words[1]:
                begin, end = (int(n, 16) for n in words[0].split("-"))
                found.append((words[1], end - begin))
        return sorted(found)


class BrokerDeath(EndToEnd):
    def wanting_broker(self):
        """A broker that wants a probe in everything that it is told to attach to."""
        tool = self.session.load("calls", "-i", self.session.target_path("target_victim"), "work")
        tool.expect("^attached$")
        broker = self.session.brokers()[0]
        return tool, broker

    def test_the_target_survives_at_any_moment(self):
        victim = self.session.target("target_victim", "8")
        tool, broker = self.wanting_broker()
        before = anonymous(victim.pid)
        begin = time.monotonic()
        self.session.bpftime("attach", str(victim.pid))
        longest = time.monotonic() - begin
        self.session.bpftime("detach", str(victim.pid))
        chance = random.Random(os.environ.get("BPFTIME_DEATH_SEED"))
        end = time.monotonic() + SECONDS
        kills = 0
        while kills < LEAST or (kills < 10 * SECONDS and time.monotonic() < end):
            attach = self.session.start([self.session.bin("bpftime"), "attach", str(victim.pid)], stdin=False)
            time.sleep(chance.uniform(0.002, longest))
            os.kill(broker, signal.SIGKILL)
            kills += 1
            for process in (attach, tool):
                process.finish()
                self.session.end(process)
            until("broker gone", lambda: broker not in self.session.brokers())
            self.assertIsNone(victim.process.poll(), f"the target died of kill {kills}")
            tool, broker = self.wanting_broker()  # restores what the last one left
            self.session.bpftime("detach", str(victim.pid), status=None)  # the command may have met the new one
            self.assertEqual(harness.changed_code(victim.pid), [])
        self.session.bpftime("attach", str(victim.pid))
        tool.finish()
        self.session.bpftime("shutdown")
        self.assertEqual(harness.changed_code(victim.pid), [])
        self.assertEqual(harness.our_mappings(victim.pid), [])
        self.assertEqual(anonymous(victim.pid), before)
        victim.kill(signal.SIGTERM)
        self.assertIn("wrong=0", victim.finish()[1])


if __name__ == "__main__":
    harness.main()
