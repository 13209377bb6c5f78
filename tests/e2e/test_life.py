"""Life and death: loader, target or broker ends at any moment; forks; libraries that come and go."""
import os
import signal
import unittest

import harness
from harness import EndToEnd, until
from test_first_whole import counts


class Life(EndToEnd):
    def calls(self, *arguments):
        tool = self.session.load("calls", *arguments)
        tool.expect("^attached$")
        return tool

    def forker(self):
        return self.session.target("target_forker")

    def traced(self, target, *arguments):
        return self.calls("-i", *arguments, "-p", target.pid, self.session.target_path("target_forker"), "traced")

    def test_a_loader_that_is_killed_takes_its_probes_with_it(self):
        target = self.forker()
        tool = self.traced(target)
        target.ask("call 2", "called")
        tool.kill(signal.SIGKILL)
        tool.wait()
        until("code restored", lambda: harness.changed_code(target.pid) == [])
        target.ask("call 5", "called 5 sum 15")
        self.session.bpftime("shutdown")
        self.assert_untouched(target)
        self.assert_nothing_left()

    def test_a_target_that_is_killed_leaves_the_others_going(self):
        first, second = self.forker(), self.forker()
        tool = self.calls("-i", self.session.target_path("target_forker"), "traced")
        for target in (first, second):
            self.session.bpftime("attach", str(target.pid))
            target.ask("call 1", "called")
        first.kill(signal.SIGKILL)
        first.wait()
        second.ask("call 3", "called 3 sum 6")
        self.assertEqual(counts(tool)[:2], (5, 5))
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(second)
        self.assert_nothing_left()

    def test_when_the_broker_is_killed_programs_stop_and_the_next_broker_restores(self):
        target = self.forker()
        tool = self.traced(target)
        target.ask("call 2", "called")
        broker, = self.session.brokers()
        os.kill(broker, signal.SIGKILL)
        until("broker gone", lambda: not self.session.brokers())
        target.ask("call 50", "called 50 sum 1275")  # passes through
        self.assertNotEqual(tool.finish()[0], None)
        other = self.forker()
        self.session.bpftime("attach", str(other.pid))  # brings a new broker
        until("code restored by the next broker", lambda: harness.changed_code(target.pid) == [])
        target.ask("call 3", "called 3 sum 6")
        self.session.bpftime("shutdown")
        self.assert_untouched(target, other)
        self.assert_nothing_left()

    def test_a_forked_child_of_a_target_is_a_target(self):
        target = self.forker()
        tool = self.calls("-i", self.session.target_path("target_forker"), "traced")
        self.session.bpftime("attach", str(target.pid))
        target.ask("call 1", "called")
        child = int(target.ask("fork 20", r"^child (\d+) called 20 sum 210$").group(1))
        self.assertEqual(counts(tool)[:2], (21, 21))
        grandchild = target.ask("fork 4", r"^child (\d+) called 4").group(1)
        self.assertEqual(counts(tool)[:2], (25, 25))
        tool.finish()
        until("children restored", lambda: harness.changed_code(child) == [] and
              harness.changed_code(grandchild) == [] and harness.changed_code(target.pid) == [])
        self.session.bpftime("shutdown")
        self.assert_untouched(target, child, int(grandchild))
        target.say("quit")
        self.assertEqual(target.finish()[0], 0)
        self.assert_nothing_left()

    def test_a_child_is_not_traced_by_a_probe_that_names_its_parent(self):
        target = self.forker()
        tool = self.traced(target)
        child = int(target.ask("fork 20", r"^child (\d+) called 20 sum 210$").group(1))
        self.assertEqual(counts(tool)[:2], (0, 0))
        until("its code is restored", lambda: harness.changed_code(child) == [])
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target, child)

    def test_a_child_that_never_hits_is_restored_with_its_parent(self):
        target = self.forker()
        tool = self.traced(target)
        child = int(target.ask("fork 0", r"^child (\d+) called 0").group(1))
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target, child)
        self.assert_nothing_left()

    def test_a_return_after_the_target_was_let_go_is_not_counted(self):
        target = self.forker()
        tool = self.calls("-i", "/lib/x86_64-linux-gnu/libc.so.6", "read")
        self.session.bpftime("attach", str(target.pid))
        target.ask("call 1", "called")  # from here on it waits inside of read
        until("it waits inside of the probed function", lambda: counts(tool)[0] == counts(tool)[1] + 1)
        before = counts(tool)[:2]
        self.session.bpftime("detach", str(target.pid))
        target.ask("call 3", "called 3 sum 6")  # that read returns
        self.assertEqual(counts(tool)[:2], before)
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target)
        self.assert_nothing_left()

    def test_a_process_is_traced_anew_while_a_call_that_was_traced_before_is_open(self):
        other = self.calls("-i", self.session.target_path("target_forker"), "traced")  # the broker stays
        target = self.forker()
        for _ in range(4):  # each time it is let go while it waits inside of read
            tool = self.calls("-i", "-p", target.pid, "/lib/x86_64-linux-gnu/libc.so.6", "read")
            target.ask("call 1", "called")
            until("it waits inside of the probed function", lambda: counts(tool)[:2] == (1, 0))
            self.assertEqual(tool.finish()[0], 0)
            self.session.bpftime("status")  # behind the end of the tool
        tool = self.calls("-i", "-p", target.pid, "/lib/x86_64-linux-gnu/libc.so.6", "read")
        for n in range(3):
            target.ask(f"call {n}", f"called {n}")
            until("read returned but once", lambda: counts(tool)[:2] == (n + 1, n))
        tool.finish()
        other.finish()
        target.ask("call 3", "called 3 sum 6")  # the last open call returns
        self.session.bpftime("shutdown")
        self.assert_untouched(target)
        self.assert_nothing_left()

    def test_a_library_is_probed_when_it_comes(self):
        plugin = self.session.target_path("target_plugin.so")
        target = self.session.target("target_loader_of", plugin)
        tool = self.calls("-i", "-p", target.pid, plugin, "plugin_entry")
        for round_number in range(1, 4):
            target.ask("load", "^loaded$")
            target.ask("call 10", "^called 10 sum 90$")
            self.assertEqual(counts(tool)[:2], (10 * round_number, 10 * round_number))
            target.ask("unload", "^unloaded$")
        target.ask("load", "^loaded$")
        tool.finish()
        until("code restored", lambda: harness.changed_code(target.pid) == [])
        target.ask("call 10", "^called 10 sum 90$")
        self.session.bpftime("shutdown")
        self.assert_untouched(target)
        self.assert_nothing_left()

    def test_exceptions_jumps_and_walks_pass_through_return_probes(self):
        target = self.session.target("target_unwinder")
        tool = self.calls("-i", "-p", target.pid, self.session.target_path("target_unwinder"), "outer")
        for _ in range(3):
            target.say("go")
            lines = []
            while not lines or lines[-1] != "done":
                lines.append(target.line())
            self.assertEqual([line for line in lines if line.startswith("WRONG")], [])
            self.assertGreaterEqual(len(lines), 10)
        entries, returns, _, _ = counts(tool)
        self.assertGreater(entries, 10000)
        self.assertLess(returns, entries)  # thrown and jumped frames do not return
        tool.finish()
        self.session.bpftime("shutdown")
        until("code restored", lambda: harness.changed_code(target.pid) == [])
        target.say("quit")
        self.assertEqual(target.finish()[0], 0)
        self.assert_nothing_left()

    def test_a_hundred_attaches_and_detaches_under_load(self):
        victim = self.session.target("target_victim", "8")
        tool = self.calls("-i", self.session.target_path("target_victim"), "work")
        before = 0
        for _ in range(100):
            self.session.bpftime("attach", str(victim.pid))
            now = until("hits", lambda: counts(tool)[0] if counts(tool)[0] > before else 0)
            self.session.bpftime("detach", str(victim.pid))
            before = now
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(victim)
        victim.kill(signal.SIGTERM)
        self.assertIn("wrong=0", victim.finish()[1])
        self.assert_nothing_left()


if __name__ == "__main__":
    harness.main()
