"""Loaders, targets and brokers that end by exit, SIGKILL or crash at any moment, in an order that a seed gives: the
others go on with right results, and in the end code is as in the files and nothing is left.
BPFTIME_CHAOS_SECONDS sets the length (60 in `make soak`), BPFTIME_CHAOS_SEED repeats a run."""
import os
import pathlib
import random
import signal
import time

import harness
from harness import EndToEnd, until

SECONDS = float(os.environ.get("BPFTIME_CHAOS_SECONDS", "8"))
ENDS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT)


class Chaos(EndToEnd):
    def setUp(self):
        super().setUp()
        self.path = self.session.target_path("target_forker")
        self.targets, self.tools, self.children, self.ending = [], [], [], None

    def new_target(self):
        if len(self.targets) < 5:
            started = self.dice.random() < 0.3
            command = [self.session.bin("bpftime"), "start", self.path] if started else [self.path]
            target = self.session.start(command)
            target.expect("^ready")
            self.targets.append(target)

    def new_tool(self):
        if len(self.tools) < 4:
            arguments = ["-i"]
            if self.targets and self.dice.random() < 0.7:
                arguments += ["-p", self.dice.choice(self.targets).pid]
            tool = self.session.load("calls", *arguments, self.path, "traced")
            if self.dice.random() < 0.7:
                try:
                    tool.expect("^attached$")
                except AssertionError:  # its target or the broker ended under it
                    self.assertIsNotNone(tool.wait(), "a tool that did not attach did not end either")
                    self.session.end(tool)
                    return
            self.tools.append(tool)

    def call(self):
        if self.targets:
            n = self.dice.randrange(1, 2000)
            self.dice.choice(self.targets).ask(f"call {n}", rf"^called {n} sum {n * (n + 1) // 2}$")

    def fork(self):
        if self.targets and len(self.children) < 8:
            n = self.dice.randrange(0, 50)
            target = self.dice.choice(self.targets)
            child = target.ask(f"fork {n}", rf"^child (\d+) called {n} sum {n * (n + 1) // 2}$").group(1)
            self.children.append((target, int(child)))

    def attach(self):
        if self.targets:
            self.session.bpftime("attach", str(self.dice.choice(self.targets).pid), status=None)

    def detach(self):
        if self.targets:
            self.session.bpftime("detach", str(self.dice.choice(self.targets).pid), status=None)

    def end_tool(self):
        if self.tools:
            tool = self.tools.pop(self.dice.randrange(len(self.tools)))
            if self.dice.random() < 0.3:
                tool.finish()
            else:
                tool.kill(self.dice.choice(ENDS))
                tool.wait()
            self.session.end(tool)

    def end_target(self):
        if self.targets:
            target = self.ending = self.targets.pop(self.dice.randrange(len(self.targets)))
            if self.dice.random() < 0.3:
                target.say("quit")
                self.assertEqual(target.finish()[0], 0)
            else:
                target.kill(self.dice.choice(ENDS))
                target.wait()
            self.session.end(target)
            self.ending = None
            self.children = [c for c in self.children if c[0] is not target]

    def end_broker(self):
        for broker in self.session.brokers():
            try:
                os.kill(broker, self.dice.choice(ENDS))
            except ProcessLookupError:
                pass

    def where(self, pid):
        """What a process that does not answer is doing."""
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            kept = [line for line in status.splitlines() if line.startswith(("State", "Tracer", "SigPnd", "ShdPnd", "SigBlk", "SigCgt"))]
            return kept, pathlib.Path(f"/proc/{pid}/syscall").read_text().strip()
        except OSError as error:
            return str(error)

    def run_seed(self, seed):
        self.dice = random.Random(seed)
        end = time.monotonic() + SECONDS / 2
        steps = [(self.new_target, 4), (self.new_tool, 5), (self.call, 10), (self.fork, 2), (self.attach, 2),
                 (self.detach, 1), (self.end_tool, 3), (self.end_target, 2), (self.end_broker, 1)]
        done = []
        try:
            while time.monotonic() < end:
                step, = self.dice.choices([s for s, _ in steps], [w for _, w in steps])
                done.append(step.__name__)
                step()
            for tool in self.tools:
                tool.finish()
            fresh = self.session.target("target_forker")
            self.session.bpftime("attach", str(fresh.pid))  # a broker that takes over what others left
            self.session.bpftime("shutdown", deadline=60)
            alive = [*self.targets, fresh]
            until("code restored", lambda: all(harness.changed_code(t.pid) == [] for t in alive))
            until("nothing left", lambda: all(harness.our_mappings(t.pid) == [] for t in alive))
            self.assert_untouched(*alive)
            for target in alive:
                target.ask("call 20", "^called 20 sum 210$")
                target.say("quit")
                self.assertEqual(target.finish()[0], 0)
            self.assert_nothing_left()
        except BaseException:
            print(f"seed {seed}: {' '.join(done)}")
            for target in [*self.targets, *([self.ending] if self.ending else [])]:
                print(target.pid, target.process.poll(), target.lines[-2:], self.where(target.pid))
            for log in self.session.runtime.rglob("broker.log"):
                print(log.read_text()[-4000:])
            raise

    def test_a_random_order_of_deaths(self):
        self.run_seed(int(os.environ.get("BPFTIME_CHAOS_SEED", str(random.randrange(1 << 30)))))

    def test_a_known_order_of_deaths(self):
        self.run_seed(1)


if __name__ == "__main__":
    harness.main()
