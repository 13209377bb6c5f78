"""`--verifier ours|kernel|both` of load, trace and verify: whose word counts, and who may ask."""
import json
import unittest

import harness
from harness import EndToEnd, Session
from test_first_whole import counts

#          ours   kernel  both
VERDICTS = {"both": (True, True, True),
            "ours": (True, False, False),
            "kernel": (False, True, False),
            "neither": (False, False, False)}
CHOICES = ("ours", "kernel", "both")


@unittest.skipUnless(harness.AS_ROOT, "only root may ask the kernel")
class ByTheKernel(EndToEnd):
    def setUp(self):
        self.session = Session(as_root=True)
        self.addCleanup(self.session.close)

    def listed(self):
        return json.loads(self.session.bpftime("prog", "list", "--json")[0])

    def test_whose_word_counts(self):
        for program, verdicts in VERDICTS.items():
            for choice, accepts in zip(CHOICES, verdicts):
                with self.subTest(program=program, verifier=choice):
                    tool = self.session.load("disputed", program, options=["--verifier", choice])
                    said = tool.line()
                    if accepts:
                        self.assertEqual(said, "loaded", tool.stderr())
                        (row,) = self.listed()
                        self.assertEqual((row["verified"], row["verifier"]), (True, choice))
                    else:
                        self.assertRegex(said, "^refused ")
                    status, rest = tool.finish()
                    self.assertEqual(status, 0 if accepts else 1)
                    if not accepts:
                        self.assertIn("\nprocessed ", rest)
                        self.assertEqual("the running kernel does not" in rest, (program, choice) == ("ours", "both"))
                    harness.until("it is gone", lambda: self.listed() == [])
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_a_tool_works_with_both(self):
        path = self.session.target_path("target_forker")
        target = self.session.target("target_forker")
        tool = self.session.load("calls", "-i", "-p", target.pid, path, "traced", options=["--verifier", "both"])
        tool.expect("^attached$")
        target.ask("call 3", "called 3")
        self.assertEqual(counts(tool)[0], 3)
        tool.finish()
        self.session.bpftime("shutdown")

    def test_trace_takes_the_choice(self):
        command = [self.session.bin("bpftime"), "trace", "--verifier", "kernel", self.session.bin("disputed"), "ours",
                   "--", "/bin/true"]
        trace = self.session.start(command)
        self.assertRegex(trace.line(), "^refused ")
        self.assertNotEqual(trace.finish()[0], 0)
        self.session.bpftime("shutdown")


class ByNobody(EndToEnd):
    def refused(self, *words):
        """What it says: one line."""
        _, errors = self.session.bpftime(*words, status=1)
        self.assertEqual(len(errors.splitlines()), 1, errors)
        return errors

    def test_may_not_ask_the_kernel(self):
        tool = self.session.bin("disputed")
        for choice in ("kernel", "both"):
            for words in (("load", "--verifier", choice, tool, "both"),
                          ("trace", "--verifier", choice, tool, "both", "--", "/bin/true"),
                          ("trace", "--pid", "1", "--verifier", choice, tool, "both")):
                said = self.refused(*words)
                self.assertRegex(said, "^bpftime: " + words[0] + " --verifier: the broker may not ask the running kernel: "
                                 "Operation not permitted; do it as root")
        ours = self.session.load("disputed", "ours", options=["--verifier", "ours"])
        self.assertEqual(ours.line(), "loaded")
        ours.finish()
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_cannot_have_both_a_judge_and_none(self):
        _, errors = self.session.bpftime("load", "--unverified", "--verifier", "both", "true", status=2)
        self.assertEqual(len(errors.splitlines()), 1, errors)
        _, errors = self.session.bpftime("load", "--verifier", "mine", "true", status=2)
        self.assertEqual(len(errors.splitlines()), 1, errors)


if __name__ == "__main__":
    harness.main()
