"""What people type to see and choose: prog|map|link|target list, map dump|get, attach and detach by what a process is."""
import json

import harness
from harness import EndToEnd
from test_first_whole import counts


class Commands(EndToEnd):
    def json_of(self, *arguments):
        return json.loads(self.session.bpftime(*arguments, "--json")[0])

    def test_lists_and_maps_of_a_running_tool(self):
        target = self.session.target("target_forker")
        path = self.session.target_path("target_forker")
        tool = self.session.load("calls", "-i", "-p", target.pid, path, "traced")
        tool.expect("^attached$")
        target.ask("call 5", "called 5")
        self.assertEqual(counts(tool), (5, 5, 10, 15))

        programs = self.json_of("prog", "list")
        links = self.json_of("link", "list")
        maps = self.json_of("map", "list")
        self.assertEqual({link["program"] for link in links}, {program["id"] for program in programs})
        self.assertEqual({(link["path"], link["pid"], link["placed"], link["faulted"]) for link in links},
                         {(path, target.pid, 1, 0)})
        self.assertEqual({link["return"] for link in links}, {False, True})
        self.assertEqual([t["pid"] for t in self.json_of("target", "list")], [target.pid])
        for listing in ("prog", "map", "link", "target"):
            lines = self.session.bpftime(listing, "list")[0].splitlines()
            self.assertEqual(len(lines), 1 + len(self.json_of(listing, "list")), lines)

        # Elements as their BTF says.
        [map] = [m for m in maps if m["name"] == "counts"]
        [element] = self.json_of("map", "dump", "counts")
        self.assertEqual(element, {"key": 0, "value": {"entries": 5, "returns": 5, "arguments": 10, "results": 15}})
        self.assertEqual(self.json_of("map", "get", str(map["id"]), "0"), element)
        text = self.session.bpftime("map", "dump", str(map["id"]))[0]
        self.assertEqual(text, '0: {"entries":5,"returns":5,"arguments":10,"results":15}\n')
        [rodata] = [m["name"] for m in maps if m["name"].endswith(".rodata")]
        self.assertEqual(self.json_of("map", "get", rodata, "0")["value"]["print_each"], 0)
        for wrong, why in ((("map", "get", "counts", "1"), "No such file"), (("map", "dump", "nosuch"), "no such map"),
                           (("map", "get", "counts", "xyz"), "does not fit")):
            self.assertIn(why, self.session.bpftime(*wrong, status=1)[1])
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target)

    def test_hash_elements_are_read_while_programs_write(self):
        victim = self.session.target("target_victim", "2")
        tool = self.session.load("malloc", "-p", victim.pid, "-d", "60")
        harness.until("an element", lambda: f"{victim.pid}:" in self.session.bpftime(
            "map", "dump", "calls_by_pid", status=None)[0])
        [element] = self.json_of("map", "dump", "calls_by_pid")
        self.assertEqual(element["key"], victim.pid)
        before = element["value"]
        harness.until("more", lambda: self.json_of("map", "get", "calls_by_pid", str(victim.pid))["value"] > before)
        tool.kill(harness.signal.SIGINT)
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(victim)

    def test_processes_are_chosen_by_name_program_user_and_descent(self):
        first, second = self.session.target("target_forker"), self.session.target("target_forker")
        other = self.session.target("target_victim", "1")
        child = int(first.ask("fork 1", r"child (\d+) called").group(1))
        forkers = {first.pid, second.pid, child}

        def targets():
            return {t["pid"] for t in self.json_of("target", "list")}

        self.session.bpftime("attach", "--name", "target_forker")
        self.assertEqual(targets(), forkers)
        self.session.bpftime("attach", "--exe", self.session.target_path("target_victim"))
        self.assertEqual(targets(), forkers | {other.pid})
        self.session.bpftime("detach", str(first.pid), "--children")
        self.assertEqual(targets(), {second.pid, other.pid})
        self.session.bpftime("detach", "--exe", "target_victim", "--name", "target_forker")
        self.assertEqual(targets(), set())
        self.session.bpftime("attach", str(first.pid), "--children")
        self.assertEqual(targets(), {first.pid, child})
        self.session.bpftime("detach", "--uid", str(harness.NOBODY))
        self.assertEqual(targets(), set())
        self.assertIn("no process fits", self.session.bpftime("attach", "--name", "nosuch", status=1)[1])
        self.assertIn("no such user", self.session.bpftime("attach", "--uid", "nosuch", status=1)[1])
        self.session.bpftime("shutdown")
        self.assert_untouched(first, second, other, child)
        self.assert_nothing_left()

    def test_hits_are_counted_and_timed_while_statistics_are_on(self):
        target = self.session.target("target_forker")
        tool = self.session.load("calls", "-i", "-p", target.pid, self.session.target_path("target_forker"), "traced")
        tool.expect("^attached$")
        target.ask("call 5", "called 5")
        self.assertEqual({link["hits"] for link in self.json_of("link", "list")}, {0})
        # BPF_ENABLE_STATS, until its line of input comes.
        enable = ("import ctypes; attr = (ctypes.c_uint * 1)(0); "
                  "fd = ctypes.CDLL(None).syscall(321, 32, attr, 4); print('statistics', fd, flush=True); input()")
        statistics = self.session.start([self.session.bin("bpftime"), "load", "python3", "-c", enable])
        self.assertGreaterEqual(int(statistics.expect(r"^statistics (-?\d+)").group(1)), 0)
        target.ask("call 7", "called 7")
        links = self.json_of("link", "list")
        self.assertEqual({link["hits"] for link in links}, {7})
        self.assertTrue(all(0 < link["hit_ns"] < 1e9 for link in links), links)
        self.assertRegex(self.session.bpftime("link", "list")[0], r"\b7 +0 +\d+ +0  armed")
        statistics.finish()
        harness.until("statistics end", lambda: self.hits_after(target) == self.hits_after(target))
        self.session.bpftime("link", "list", "--for", "0.01")
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target)

    def hits_after(self, target):
        target.ask("call 1", "called 1")
        return {link["hits"] for link in self.json_of("link", "list")}

    def test_without_a_broker_lists_are_empty(self):
        for listing in ("prog", "map", "link", "target"):
            self.assertEqual(self.json_of(listing, "list"), [])
        self.assertIn("no such map", self.session.bpftime("map", "dump", "1", status=1)[1])


if __name__ == "__main__":
    harness.main()
