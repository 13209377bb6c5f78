"""The thinnest true path: an unmodified libbpf tool counts in a running process, without root."""
import json
import os
import signal
import unittest

import harness
from harness import EndToEnd, until

COUNTS = r"entries=(\d+) returns=(\d+) arguments=(\d+) results=(\d+)"


def counts(tool):
    return tuple(int(n) for n in tool.ask("", COUNTS).groups())


class FirstWhole(EndToEnd):
    def calls(self, *arguments, options=()):
        tool = self.session.load("calls", *arguments, options=options)
        tool.expect("^attached$")
        return tool

    def forker(self):
        return self.session.target("target_forker")

    def test_every_call_is_counted_once_with_its_argument_and_result(self):
        target = self.forker()
        tool = self.calls("-i", "-p", target.pid, self.session.target_path("target_forker"), "traced")
        self.assertEqual(counts(tool), (0, 0, 0, 0))
        target.ask("call 1000", r"^called 1000 sum 500500$")
        self.assertEqual(counts(tool), (1000, 1000, 499500, 500500))
        self.assertNotEqual(harness.changed_code(target.pid), [])
        status, _ = tool.finish()
        self.assertEqual(status, 0)
        until("code restored when the tool is gone", lambda: harness.changed_code(target.pid) == [])
        target.ask("call 10", r"^called 10 sum 55$")
        self.session.bpftime("detach", str(target.pid), status=None)
        self.assert_untouched(target)
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_the_malloc_example_counts_a_running_multithreaded_victim(self):
        victim = self.session.target("target_victim", "4")
        tool = self.session.load("malloc", "-p", victim.pid, "-d", "2")
        status, output = tool.finish()
        self.assertEqual(status, 0, tool.stderr())
        self.assertRegex(output, rf"\b{victim.pid}\b")
        self.session.bpftime("shutdown")
        self.assert_untouched(victim)
        victim.kill(signal.SIGTERM)
        self.assertIn("wrong=0", victim.finish()[1])
        self.assert_nothing_left()

    def test_load_then_attach_and_attach_then_load(self):
        path = self.session.target_path("target_forker")
        first, second = self.forker(), self.forker()
        self.session.bpftime("attach", str(first.pid))
        tool = self.calls("-i", path, "traced")  # pid -1: every target, now and later
        first.ask("call 5", "called")
        self.assertEqual(counts(tool)[:2], (5, 5))
        second.ask("call 7", "called")
        self.assertEqual(counts(tool)[:2], (5, 5))
        self.session.bpftime("attach", str(second.pid))
        second.ask("call 7", "called")
        self.assertEqual(counts(tool)[:2], (12, 12))
        self.session.bpftime("detach", str(first.pid))
        self.assert_untouched(first)
        first.ask("call 5", "called 5 sum 15")
        second.ask("call 1", "called")
        self.assertEqual(counts(tool)[:2], (13, 13))
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(first, second)
        self.assert_nothing_left()

    def test_two_tools_at_one_place_both_count(self):
        path = self.session.target_path("target_forker")
        target = self.forker()
        one = self.calls("-i", "-e", "-p", target.pid, path, "traced")
        target.ask("call 3", "called")
        two = self.calls("-i", "-p", target.pid, path, "traced")  # adds a return probe to a patched site
        target.ask("call 4", "called 4 sum 10")
        self.assertEqual(counts(one)[:2], (7, 0))
        self.assertEqual(counts(two)[:2], (4, 4))
        one.finish()
        target.ask("call 2", "called 2 sum 3")
        self.assertEqual(counts(two)[:2], (6, 6))
        two.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target)
        self.assert_nothing_left()

    def test_no_attach_leaves_the_named_process_alone(self):
        target = self.forker()
        tool = self.session.load("calls", "-i", "-p", target.pid,
                                 self.session.target_path("target_forker"), "traced",
                                 options=("--no-attach",))
        tool.expect("^attached$")
        self.assert_untouched(target)
        self.session.bpftime("attach", str(target.pid))
        target.ask("call 6", "called")
        self.assertEqual(counts(tool)[:2], (6, 6))
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target)

    def test_start_probes_from_the_first_call_on(self):
        path = self.session.target_path("target_forker")
        tool = self.calls("-i", path, "traced")
        target = self.session.start([self.session.bin("bpftime"), "start", path])
        target.expect("^ready")
        target.ask("call 9", "called 9 sum 45")
        self.assertEqual(counts(tool)[:2], (9, 9))
        target.say("quit")
        self.assertEqual(target.finish()[0], 0)
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_start_sees_calls_before_main(self):
        tool = self.calls("-i", "-e", "/lib/x86_64-linux-gnu/libc.so.6", "__cxa_atexit")
        target = self.session.start([self.session.bin("bpftime"), "start", "/bin/true"])
        self.assertEqual(target.finish()[0], 0)
        self.assertGreaterEqual(counts(tool)[0], 1)
        tool.finish()
        self.session.bpftime("shutdown")

    def test_load_and_start_give_the_commands_own_status_and_signals(self):
        for verb in ("load", "start"):
            process = self.session.start([self.session.bin("bpftime"), verb, "/bin/sh", "-c", "exit 37"])
            self.assertEqual(process.finish()[0], 37, verb)
            process = self.session.start([self.session.bin("bpftime"), verb, "/bin/sh", "-c", "kill -USR1 $$"])
            self.assertEqual(process.finish()[0], -signal.SIGUSR1, verb)
            process = self.session.start([self.session.bin("bpftime"), verb, "/bin/cat"])
            process.say("through the pipe")
            process.expect("^through the pipe$")
            self.assertEqual(process.finish()[0], 0)
        self.session.bpftime("shutdown")

    def test_trace_does_both_ends_in_one_line(self):
        path = self.session.target_path("target_forker")
        target = self.forker()
        tool = self.session.start([self.session.bin("bpftime"), "trace", "--pid", target.pid,
                                   self.session.bin("calls"), "-i", path, "traced"])
        tool.expect("^attached$")
        target.ask("call 8", "called")
        until("both ends are joined", lambda: (target.ask("call 1", "called"), counts(tool)[0] > 0)[1])
        self.assertEqual(tool.finish()[0], 0)
        until("code restored", lambda: harness.changed_code(target.pid) == [])
        self.session.bpftime("shutdown")
        self.assert_untouched(target)

    def test_a_loader_may_be_its_own_target(self):
        tool = self.calls("-i", "-e", "/lib/x86_64-linux-gnu/libc.so.6", "strerror_r")
        self.session.bpftime("attach", str(tool.pid))
        self.assertEqual(counts(tool)[0], 0)
        self.session.bpftime("detach", str(tool.pid))
        self.assertEqual(harness.changed_code(tool.pid), [])
        self.assertEqual(tool.finish()[0], 0)
        self.session.bpftime("shutdown")

    def test_status_names_targets_and_links(self):
        target = self.forker()
        tool = self.calls("-i", "-p", target.pid, self.session.target_path("target_forker"), "traced")
        output, _ = self.session.bpftime("status")
        self.assertIn(str(target.pid), output)
        status = json.loads(self.session.bpftime("status", "--json")[0])
        self.assertEqual([t["pid"] for t in status["targets"]], [target.pid])
        tool.finish()
        self.session.bpftime("shutdown")

    def test_failures_are_one_line_that_says_what_to_do(self):
        _, errors = self.session.bpftime("attach", "999999999", status=None)
        self.assertEqual(len(errors.strip().splitlines()), 1, errors)
        self.assertTrue(errors.startswith("bpftime: "), errors)
        if harness.AS_ROOT:
            _, errors = self.session.bpftime("attach", "1", status=None)
            self.assertEqual(len(errors.strip().splitlines()), 1, errors)
        self.session.bpftime("shutdown", status=None)

    def test_printk_reaches_the_log(self):
        target = self.forker()
        tool = self.calls("-i", "-e", "-k", "-p", target.pid, self.session.target_path("target_forker"),
                          "traced")
        log = self.session.start([self.session.bin("bpftime"), "log", "-f"])
        target.ask("call 3", "called")
        for n in range(3):
            log.expect(rf"target_forker-{target.pid} .*bpf_trace_printk: entry arg={n}$|entry arg={n}$")
        tool.finish()
        self.session.bpftime("shutdown")


if __name__ == "__main__":
    harness.main()
