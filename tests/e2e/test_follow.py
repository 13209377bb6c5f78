"""A target's children and the programs that it execs are targets too: from their first call on, and only if wanted."""
import os
import shutil
import stat

import harness
from harness import EndToEnd
from test_first_whole import counts


class Follow(EndToEnd):
    def setUp(self):
        super().setUp()
        self.path = self.session.target_path("target_forker")

    def tool(self, *options):
        tool = self.session.load("calls", "-i", *options, self.path, "traced")
        tool.expect("^attached$")
        return tool

    def begin(self, *command):
        """Starts it; the forker that it becomes."""
        process = self.session.start([self.session.bin("bpftime"), "start", *command])
        process.expect("^ready")
        return process

    def calls(self, process, n=7):
        process.ask(f"call {n}", f"^called {n} ")

    def finished(self, tool, *processes):
        for process in processes:
            process.say("quit")
            self.assertEqual(process.finish()[0], 0)
        self.assertEqual(tool.finish()[0], 0)
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_what_a_target_execs_is_a_target_from_its_first_call_on(self):
        tool = self.tool()
        process = self.begin("/bin/sh", "-c", f"exec env {self.path}")  # a chain: sh, env, forker
        self.calls(process)
        self.assertEqual(counts(tool)[:2], (7, 7))
        self.finished(tool, process)

    def test_a_running_target_is_followed_too(self):
        shell = self.session.start(["/bin/sh"])
        shell.ask("echo here", "^here$")
        self.session.bpftime("attach", str(shell.pid))
        tool = self.tool()
        shell.say(f"exec {self.path}")
        shell.expect("^ready")
        self.calls(shell)
        self.assertEqual(counts(tool)[:2], (7, 7))
        self.finished(tool, shell)

    def test_a_child_that_execs_is_a_target(self):
        tool = self.tool()
        process = self.begin("/bin/sh", "-c", f"{self.path}; exit 0")
        self.calls(process)
        self.assertEqual(counts(tool)[:2], (7, 7))
        self.finished(tool, process)

    def test_a_vfork_child_that_execs_is_a_target(self):
        tool = self.tool()
        script = f"import subprocess; subprocess.run(['{self.path}'], close_fds=False)"
        process = self.begin(shutil.which("python3", path="/usr/bin"), "-c", script)
        self.calls(process)
        self.assertEqual(counts(tool)[:2], (7, 7))
        self.finished(tool, process)

    def test_a_failed_exec_changes_nothing(self):
        tool = self.tool()
        broken = self.session.base / "broken"
        broken.write_bytes(b"\x7fELF nothing")
        broken.chmod(0o755)
        process = self.begin("/bin/sh", "-c", f"{broken} 2>&-; {self.path}")
        self.calls(process)
        self.assertEqual(counts(tool)[:2], (7, 7))
        self.finished(tool, process)

    def test_no_follow_lets_children_and_next_programs_be(self):
        tool = self.tool()
        process = self.begin("--no-follow", "/bin/sh", "-c", f"exec {self.path}")
        self.calls(process)
        self.assertEqual(counts(tool)[:2], (0, 0))
        self.assert_untouched(process)
        child = self.begin("--no-follow", self.path)
        self.calls(child)
        self.assertEqual(counts(tool)[:2], (7, 7))
        pid = int(child.ask("fork 5", r"^child (\d+) called 5 ").group(1))
        self.assertEqual(counts(tool)[:2], (7, 7))
        self.assertEqual(harness.changed_code(pid), [])
        self.finished(tool, process, child)

    def test_what_no_link_concerns_is_not_followed(self):
        other = self.session.target("target_forker")
        shell = self.session.start(["/bin/sh"])
        shell.ask("echo here", "^here$")
        self.session.bpftime("attach", str(shell.pid))
        tool = self.tool("-p", other.pid)
        shell.say(f"exec {self.path}")
        shell.expect("^ready")
        self.calls(shell)
        self.calls(other, 3)
        self.assertEqual(counts(tool)[:2], (3, 3))
        self.assert_untouched(shell)
        self.finished(tool, shell, other)

    def test_an_exec_past_libc_ends_a_target(self):
        tool = self.tool()
        script = f"import ctypes; ctypes.CDLL(None).syscall(59, b'{self.path}', (ctypes.c_char_p * 2)(b'forker', None), None)"
        process = self.begin(shutil.which("python3", path="/usr/bin"), "-c", script)
        self.calls(process)
        self.assertEqual(counts(tool)[:2], (0, 0))
        self.assert_untouched(process)
        self.finished(tool, process)

    @harness.unittest.skipUnless(harness.AS_ROOT, "only root makes a program of another user's")
    def test_a_set_user_id_program_is_left_alone(self):
        tool = self.tool()
        program = self.session.base / "rights"
        shutil.copy(shutil.which("id"), program)
        os.chown(program, 0, 0)
        program.chmod(0o755 | stat.S_ISUID)
        process = self.session.start([self.session.bin("bpftime"), "start", "/bin/sh", "-c", f"exec {program} -u"])
        process.expect("^0$")  # it has its rights
        self.assertEqual(process.finish()[0], 0)
        self.assertEqual(tool.finish()[0], 0)
        self.session.bpftime("shutdown")

    def test_a_static_program_is_followed_and_it_is_said_what_it_lacks(self):
        tool = self.session.load("calls", "-i", "-e", self.session.bin("hostile_static"), "traced")
        tool.expect("^attached$")
        process = self.begin("/bin/sh", "-c", f"exec {self.session.bin('hostile_static')}")
        process.ask("call 7", "^called 7 ")
        self.assertEqual(counts(tool)[0], 7)
        log = next(self.session.runtime.rglob("broker.log")).read_text()
        self.assertIn("a program without a dynamic loader: entry probes only", log)
        direct = self.begin(self.session.bin("hostile_static"))
        self.assertIn("is statically linked: entry probes only", direct.stderr())
        self.finished(tool, process, direct)


if __name__ == "__main__":
    harness.main()
