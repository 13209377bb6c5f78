"""Whose broker a process is reached through (DESIGN: one for each user and session): under sudo a user's own processes
join what that user loaded; a process of another user is reached by root's own broker alone. Needs root."""
import os
import pathlib
import re
import shutil
import unittest

import harness
from harness import NOBODY, EndToEnd, Process, until
from test_first_whole import counts

OTHER = NOBODY - 1


@unittest.skipUnless(harness.AS_ROOT, "there is no other user's process without root")
class Sudo(EndToEnd):
    def setUp(self):
        super().setUp()
        self.name = f"sudo-{os.getpid()}"  # root's session; the user's has the usual name
        self.addCleanup(shutil.rmtree, f"/tmp/bpftime-0/{self.name}", ignore_errors=True)
        self.path = self.session.target_path("target_forker")

    def sudo(self, *arguments, uid=NOBODY, status=0):
        """`bpftime ARGUMENTS` as root for user `uid`; what it said."""
        command = self.session.start([self.session.bin("bpftime"), *arguments], as_root=True, stdin=False,
                                     env={"SUDO_UID": str(uid), "SUDO_GID": str(uid)})
        code, output = command.finish()
        self.assertEqual(code, status, output + command.stderr())
        return output + command.stderr()

    def brokers(self):
        """uid -> pid of the brokers of this test."""
        found = {}
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                text = (process / "status").read_text()
            except OSError:  # it ended
                continue
            if text.startswith("Name:\tbpftimed") and (self.name.encode() in command or
                                                       str(self.session.base).encode() in command):
                found[int(re.search(r"^Uid:\t\d+\t(\d+)", text, re.M).group(1))] = int(process.name)
        return found

    def test_the_callers_own_process_joins_what_the_caller_loaded(self):
        target = self.session.target("target_forker")
        tool = self.session.load("calls", "-i", self.path, "traced")
        tool.expect("^attached$")
        self.sudo("attach", str(target.pid))
        target.ask("call 5", "^called 5 sum 15$")
        self.assertEqual(counts(tool)[:2], (5, 5))
        self.assertEqual(set(self.brokers()), {NOBODY})
        self.sudo("detach", str(target.pid))
        self.assert_untouched(target)
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_a_broker_that_is_started_so_is_the_callers_and_nothing_more(self):
        target = self.session.target("target_forker")
        self.sudo("attach", str(target.pid))
        brokers = self.brokers()
        self.assertEqual(set(brokers), {NOBODY})
        status = pathlib.Path(f"/proc/{brokers[NOBODY]}/status").read_text()
        self.assertRegex(status, rf"\nUid:(\t{NOBODY}){{4}}\nGid:(\t{NOBODY}){{4}}\n")
        groups = re.search(r"^Groups:\t(.*)$", status, re.M).group(1).split()
        self.assertIn(groups, ([], [str(NOBODY)]))
        self.assertRegex(status, r"\nCapPrm:\t0+\nCapEff:\t0+\n")
        for path in [self.session.runtime / "bpftime", *(self.session.runtime / "bpftime").rglob("*")]:
            self.assertEqual(path.lstat().st_uid, NOBODY, path)
        self.assertIn(str(target.pid), self.session.bpftime("status")[0])  # the user's own commands see it
        self.session.bpftime("detach")
        self.session.bpftime("shutdown")
        self.assert_untouched(target)
        self.assert_nothing_left()

    def test_another_users_process_is_reached_through_roots_own_broker_alone(self):
        other = Process(["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", self.path],
                        env=self.session.env, as_root=True)
        self.addCleanup(other.close)
        other.expect("^ready")
        error = self.session.bpftime("attach", str(other.pid), status=1)[1]  # the user alone may not
        self.assertRegex(error, rf"^bpftime: attach {other.pid}: .*\n$")
        self.assertEqual(harness.our_mappings(other.pid), [])
        self.sudo("--session", self.name, "attach", str(other.pid))
        self.assertEqual(set(self.brokers()), {0, NOBODY})
        self.assertNotEqual(harness.our_mappings(other.pid), [])
        self.assertNotIn(str(other.pid), self.session.bpftime("status")[0])
        self.assertIn(str(other.pid), self.sudo("--session", self.name, "status"))
        other.ask("call 5", "^called 5 sum 15$")
        self.sudo("--session", self.name, "detach", str(other.pid))
        self.assert_untouched(other)
        self.sudo("--session", self.name, "shutdown")
        until("root's broker ends", lambda: 0 not in self.brokers())
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_a_program_that_gives_rights_is_not_run_without_them(self):
        for bits, name in ((0o4755, "user"), (0o2755, "group")):
            program = self.session.base / f"set-{name}-id"
            shutil.copy(self.path, program)
            program.chmod(bits)
            for how, why in (("start", "gets no rights"), ("load", "go to the kernel")):
                command = self.session.start([self.session.bin("bpftime"), how, program])
                self.assertEqual(command.finish()[0], 126)
                self.assertRegex(command.stderr(), rf"^bpftime: .*{why}.*; .*\n$")
            target = self.session.start([program])
            target.expect("^ready")
            error = self.session.bpftime("attach", str(target.pid), status=1)[1]
            self.assertRegex(error, rf"^bpftime: attach {target.pid}: .*; .*\n$")
            self.assertIn("bad", self.session.bpftime("doctor", str(target.pid), status=1)[0])
            self.sudo("--session", self.name, "attach", str(target.pid))  # root may
            target.ask("call 5", "^called 5 sum 15$")
            self.sudo("--session", self.name, "shutdown")
            self.assert_untouched(target)

    def test_a_link_in_the_users_directory_leads_root_nowhere(self):
        precious = self.session.base / "precious"
        precious.mkdir(mode=0o700)
        link = self.session.runtime / "bpftime"
        link.symlink_to(precious)
        os.lchown(link, NOBODY, NOBODY)
        target = self.session.target("target_forker")
        error = self.sudo("attach", str(target.pid), status=1)
        self.assertRegex(error, r"^bpftime: attach \d+: .*\n$")
        self.assertEqual(precious.stat().st_uid, 0)
        self.assertEqual(list(precious.iterdir()), [])
        self.assert_untouched(target)

    def test_what_is_no_user_is_not_believed(self):
        target = self.session.target("target_forker")
        for wrong in ("", "-1", "4294967295", "12x", "99999999999999"):
            self.sudo("--session", self.name, "detach", str(target.pid), uid=wrong, status=1)
            self.assertEqual(self.brokers(), {}, wrong)


if __name__ == "__main__":
    harness.main()
