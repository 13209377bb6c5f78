"""Targets that live elsewhere: in pid, mount and user namespaces of their own, in a root directory without /proc and
without our files. The agent's channel comes at injection, so nothing need be found from there."""
import os
import pathlib
import shutil
import signal
import subprocess
import unittest

import harness
from harness import NOBODY, EndToEnd, until
from test_first_whole import counts

NOT_ROOT = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def descendant(pid, name):
    """The process among the children of `pid` (its own number for it) whose command is `name`."""
    def look():
        todo = [pid]
        while todo:
            one = todo.pop()
            try:
                if pathlib.Path(f"/proc/{one}/comm").read_text().strip() == name:
                    return one
                todo += [int(c) for c in pathlib.Path(f"/proc/{one}/task/{one}/children").read_text().split()]
            except OSError:
                continue
        return None
    return until(f"{name} runs", look)


class Namespaces(EndToEnd):
    def setUp(self):
        super().setUp()
        self.path = self.session.target_path("target_forker")

    def inside(self, command, as_root=True):
        """Starts a forker by `command`; (its process here, its pid here, its pid as it says itself)."""
        process = self.session.start(command, as_root=as_root)
        inner = int(process.expect(r"^ready (\d+)").group(1))
        return process, descendant(process.pid, "target_forker"), inner

    def lives_and_dies(self, process, pid, path, returns=True):
        """Everything that a target does, from the first call to a broker that is killed."""
        def seen(entries, tool):
            self.assertEqual(counts(tool)[:2], (entries, entries if returns else 0))

        tool = self.session.load("calls", "-i", *([] if returns else ["-e"]), path, "traced")
        tool.expect("^attached$")
        self.session.bpftime("attach", str(pid))
        process.ask("call 5", "^called 5 sum 15$")
        seen(5, tool)
        process.ask("fork 20", "^child [0-9]+ called 20 sum 210$")
        seen(25, tool)
        children = [int(c) for c in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        self.session.bpftime("detach", str(pid))
        self.assert_untouched(pid)
        process.ask("call 5", "^called 5 sum 15$")
        seen(25, tool)
        self.session.bpftime("attach", str(pid))
        tool.kill()
        tool.wait()
        until("code restored", lambda: all(harness.changed_code(p) == [] for p in [pid, *children]))

        # Brings the agent by itself.
        tool = self.session.load("calls", "-i", *([] if returns else ["-e"]), "-p", pid, path, "traced")
        tool.expect("^attached$")
        process.ask("call 7", "^called 7 sum 28$")
        seen(7, tool)
        broker, = self.session.brokers()
        os.kill(broker, signal.SIGKILL)
        until("broker dead", lambda: not self.session.brokers())
        process.ask("call 3", "^called 3 sum 6$")
        other = self.session.target("target_forker")
        self.session.bpftime("attach", str(other.pid))  # a broker that restores what the first one left
        until("code restored by the next broker", lambda: harness.changed_code(pid) == [])
        process.ask("call 3", "^called 3 sum 6$")
        tool.close()
        self.session.bpftime("shutdown")
        self.assert_untouched(pid, other)
        process.say("quit")
        self.assertEqual(process.finish()[0], 0)
        self.assert_nothing_left()

    def root_directory(self, *more):
        """A root directory with the target and its libraries alone."""
        root = self.session.base / "root"
        root.mkdir(mode=0o755)
        found = subprocess.run(["ldd", self.path], check=True, capture_output=True, text=True).stdout
        for file in {word for word in found.split() if word.startswith("/")} | {self.path}:
            place = root / ("target_forker" if file == self.path else file.lstrip("/"))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(file), place)
        return root

    @unittest.skipUnless(harness.AS_ROOT, "only root may make such a namespace")
    def test_first_process_of_a_pid_namespace(self):
        process, pid, inner = self.inside(["unshare", "--pid", "--fork", *NOT_ROOT, self.path])
        self.assertEqual(inner, 1)
        self.lives_and_dies(process, pid, self.path)

    @unittest.skipUnless(harness.AS_ROOT, "only root may make such a namespace")
    def test_later_process_of_a_pid_namespace_that_has_its_own_proc(self):
        shell = f"{' '.join(NOT_ROOT)} {self.path}; exit $?"
        process, pid, inner = self.inside(["unshare", "--pid", "--mount-proc", "--fork", "sh", "-c", shell])
        self.assertGreater(inner, 1)
        self.assertNotEqual(inner, pid)
        self.lives_and_dies(process, pid, self.path)

    @unittest.skipUnless(harness.AS_ROOT, "only root may change the root directory")
    def test_root_directory_without_proc(self):
        root = self.root_directory()
        process, pid, _ = self.inside(["chroot", f"--userspec={NOBODY}:{NOBODY}", root, "/target_forker"])
        self.assertFalse(os.path.exists(f"/proc/{pid}/root/proc"))
        self.lives_and_dies(process, pid, root / "target_forker", returns=False)

    @unittest.skipUnless(harness.AS_ROOT, "only root may change the root directory")
    def test_root_directory_without_proc_in_a_pid_namespace(self):
        root = self.root_directory()
        process, pid, inner = self.inside(["unshare", "--pid", "--fork", "chroot", f"--userspec={NOBODY}:{NOBODY}",
                                           root, "/target_forker"])
        self.assertEqual(inner, 1)
        self.lives_and_dies(process, pid, root / "target_forker", returns=False)

    @unittest.skipUnless(harness.AS_ROOT, "only root may mount")
    def test_program_that_only_its_own_mount_namespace_has(self):
        script = (f"mount -t tmpfs none /mnt && cp {self.path} /mnt/target_forker && "
                  f"exec {' '.join(NOT_ROOT)} /mnt/target_forker")
        process, pid, _ = self.inside(["unshare", "--mount", "sh", "-c", script])
        self.assertFalse(os.path.exists("/mnt/target_forker"))
        self.lives_and_dies(process, pid, f"/proc/{pid}/root/mnt/target_forker")

    def test_user_and_pid_namespace_of_an_unprivileged_user(self):
        process, pid, inner = self.inside(["unshare", "--user", "--map-root-user", "--pid", "--fork", self.path],
                                          as_root=False)
        self.assertEqual(inner, 1)
        self.lives_and_dies(process, pid, self.path)


if __name__ == "__main__":
    harness.main()
