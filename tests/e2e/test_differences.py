"""The rows of docs/parity.md where we are not as the kernel, on both: one that goes away is noticed here. And what else
must 8 names that is only seen from outside: printk on stderr, .rodata, lines in `log -f`."""
import json

import harness
from harness import EndToEnd
from test_first_whole import counts
from test_torture import offset_of

#                                 ours  kernel
DIFFERENCES = {
    "prog_test_run": (-524, 0),
    "software_event_is_the_kernels": (1, 1),
    "hits_enabled": (1, 1),
    "hits_after_disable": (1, 2),  # the kernel (6.18) lets the program run on; older ones do not
    "prog_info": (0, 0),
    "prog_info_nr_map_ids": (1, 1),
    "prog_info_map_ids_filled": (1, 1),
    "prog_info_xlated_given": (1, 1),
    "obj_pin_on_no_bpffs": (0, None),
    "lpm_trie": (0, 1),
    "lru_hash": (0, 1),
    "endless_loop_loads": (0, 0),
    "gpl_helper_without_gpl_loads": (1, 0),
    "sessions_33_at_a_place": (0, 1),
    "sessions_32_at_a_place": (1, 1),
}
DEPEND_ON_THE_KERNEL = {"hits_after_disable"}


def results(output):
    return {line.split()[0]: int(line.split()[1]) for line in output.splitlines() if not line.startswith("ok")}


class Differences(EndToEnd):
    def test_are_as_docs_parity_says(self):
        tool = self.session.load("differ")
        status, output = tool.finish()
        self.assertEqual(status, 0, output + tool.stderr())
        self.assertEqual(results(output), {name: ours for name, (ours, _) in DIFFERENCES.items()})
        self.session.bpftime("shutdown")
        self.assert_nothing_left()
        if harness.AS_ROOT:
            kernel = self.session.start([self.session.bin("differ")], as_root=True)
            status, output = kernel.finish()
            self.assertEqual(status, 0, output + kernel.stderr())
            for name, theirs in results(output).items():
                if DIFFERENCES[name][1] is not None and name not in DEPEND_ON_THE_KERNEL:
                    self.assertEqual(theirs, DIFFERENCES[name][1], name)

    def test_docs_parity_names_only_tests_that_there_are(self):
        """Each row ends with a test: its file exists, and so does the test in it."""
        root = harness.pathlib.Path(__file__).resolve().parents[2]
        rows = [line for line in (root / "docs/parity.md").read_text().splitlines()
                if line.startswith("| ") and not line.startswith("| what") and not line.startswith("|--")]
        self.assertGreater(len(rows), 40)
        for row in rows:
            shown = row.strip().strip("|").split("|")[-1]
            names = harness.re.findall(r"`([^`]+)`", shown)
            self.assertTrue(names, row)
            for name in names:
                file, _, test = name.partition(":")
                paths = list(root.glob(file)) or list(root.glob(f"tests/**/{file}.*")) + list(root.glob(f"src/**/{file}.*"))
                self.assertTrue(paths, name)
                if test:
                    self.assertTrue(any(test in path.read_text() for path in paths), name)


class Seen(EndToEnd):
    def test_start_shows_printk_on_stderr(self):
        path = self.session.target_path("target_forker")
        tool = self.session.load("calls", "-i", "-e", "-k", path, "traced")
        tool.expect("^attached$")
        target = self.session.start([self.session.bin("bpftime"), "start", "--show-printk", path])
        target.expect("^ready")
        target.ask("call 3", "called 3")
        harness.until("the lines", lambda: all(f"entry arg={n}" in target.stderr() for n in range(3)))
        target.say("quit")
        self.assertEqual(target.finish()[0], 0)
        self.assertEqual(counts(tool)[0], 3)
        tool.finish()
        self.session.bpftime("shutdown")

    def test_listings_say_what_is_verified(self):
        target = self.session.target("target_forker")
        path = self.session.target_path("target_forker")
        programs = lambda: json.loads(self.session.bpftime("status", "--json")[0])["programs"]
        tool = self.session.load("calls", "-i", "-p", target.pid, path, "traced")
        tool.expect("^attached$")
        self.assertEqual({p["verified"] for p in programs()}, {True})
        wild = [target.pid, path, offset_of(path, "traced"), "read"]
        status, _ = self.session.load("wild", *wild).finish()
        self.assertNotEqual(status, 0)
        loose = self.session.load("wild", *wild, options=["--unverified"])
        loose.expect("^attached$")
        self.assertIn("that the verifier refuses load too", loose.stderr())
        self.assertEqual({p["name"]: p["verified"] for p in programs() if p["name"] == "wild"}, {"wild": False})
        loose.finish()
        tool.finish()
        self.session.bpftime("shutdown")

    def test_doctor_speaks_of_the_machine_and_of_a_process(self):
        target = self.session.target("target_forker")
        self.assertGreater(len(self.session.bpftime("doctor", status=None)[0].splitlines()), 3)
        self.assertIn(str(target.pid), "".join(self.session.bpftime("doctor", str(target.pid), status=None)))
        self.session.bpftime("shutdown", status=None)


if __name__ == "__main__":
    harness.main()
