"""What end-to-end tests stand on: a session of nobody's, its tools and targets, and the check that nothing is left.

Run by CTest with BPFTIME_BUILD naming the build folder. As root every process of ours runs as nobody (65534);
otherwise as the caller. Waiting is always for an event (a line, an exit, a condition) with a deadline.
"""
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BUILD = pathlib.Path(os.environ.get("BPFTIME_BUILD", "build/release")).resolve()
NOBODY = int(os.environ.get("BPFTIME_TEST_UID", "65534"))  # runs side by side need a user each
AS_ROOT = os.geteuid() == 0
DEADLINE = float(os.environ.get("BPFTIME_TEST_DEADLINE", "30"))


def until(what, condition, deadline=DEADLINE):
    """Waits until condition() is true and returns its value; looks every few milliseconds."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.005)


def readable(streams, deadline):
    """Those of the streams that can be read, or were closed at the other end, within `deadline` s; of any number, as
    select(2) would not have them."""
    poll = select.poll()
    for stream in streams:
        poll.register(stream, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(max(0, deadline) * 1000)}
    return [stream for stream in streams if (stream if isinstance(stream, int) else stream.fileno()) in ready]


def waits_for_events(pid):
    number = pathlib.Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return number in ("232", "281")  # epoll_wait, epoll_pwait


def reachable_by_nobody(path):
    for part in [path, *path.parents]:
        if not part.stat().st_mode & 0o001:
            return False
    return True


class Process:
    """A process of ours with its output read by lines; ended by its pid, never by name."""

    def __init__(self, command, env=None, as_root=False, cwd="/", stdin=True):
        command = [str(c) for c in command]
        if AS_ROOT and not as_root:
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
        self.command = command
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.errors, env=env, cwd=cwd)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.buffer = b""
        self.ended = False
        self.lines = []

    @property
    def pid(self):
        return self.process.pid

    def say(self, line):
        self.process.stdin.write((line + "\n").encode())
        self.process.stdin.flush()

    def line(self, deadline=DEADLINE):
        """The next line of output."""
        end = time.monotonic() + deadline
        while b"\n" not in self.buffer:
            if not readable([self.process.stdout], end - time.monotonic()):
                raise AssertionError(f"no line within {deadline} s from {self.command}: {self.stderr()}")
            data = self.process.stdout.read(65536)
            if not data:
                raise AssertionError(f"{self.command} ended ({self.process.poll()}): {self.buffer!r} {self.stderr()}")
            self.buffer += data
        text, self.buffer = self.buffer.split(b"\n", 1)
        self.lines.append(text.decode(errors="replace"))
        return self.lines[-1]

    def read_until(self, event, deadline):
        """Takes in output, which the process could else be waiting to get rid of, until `event` is readable; whether it was."""
        end = time.monotonic() + deadline
        streams = [event, self.process.stdout]
        while ready := readable(streams, end - time.monotonic()):
            if event in ready:
                return True
            data = self.process.stdout.read(65536)
            self.buffer += data
            if not data:
                streams = [event]
        return False

    def expect(self, pattern, deadline=DEADLINE):
        """Reads lines until one matches; returns the match."""
        end = time.monotonic() + deadline
        while True:
            found = re.search(pattern, self.line(max(0.01, end - time.monotonic())))
            if found:
                return found

    def ask(self, line, pattern):
        self.say(line)
        return self.expect(pattern)

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def kill(self, number=signal.SIGKILL):
        if self.process.poll() is None:
            os.kill(self.pid, number)

    def wait(self, deadline=DEADLINE):
        """Its status. (Popen.wait() with a time limit looks only at 0.5, 1.5, 3.5, 7.5, ... ms.)"""
        if self.process.poll() is None:
            ended = os.pidfd_open(self.pid)
            readable([ended], deadline)
            os.close(ended)
        return self.process.wait(deadline)  # who traces it, as a broker for a moment, is told first

    def finish(self, deadline=DEADLINE):
        """Closes its input, waits for its end, returns (status, rest of the output)."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        end = time.monotonic() + deadline
        rest = self.buffer
        while time.monotonic() < end:
            if readable([self.process.stdout], 0.1):
                data = self.process.stdout.read(65536)
                if not data:
                    break
                rest += data
        return self.wait(max(0.1, end - time.monotonic())), rest.decode(errors="replace")

    def descendants(self):
        """Its children and theirs, as descriptors: a number may be another's soon. A broker is its session's."""
        found, todo = [], [self.pid]
        while todo:
            try:
                for thread in pathlib.Path(f"/proc/{todo.pop()}/task").iterdir():
                    for child in (thread / "children").read_text().split():
                        if pathlib.Path(f"/proc/{child}/comm").read_text() != "bpftimed\n":
                            found.append(os.pidfd_open(int(child)))
                            todo.append(int(child))
            except OSError:
                continue
        return found

    def close(self):
        left = self.descendants() if self.process.poll() is None else []
        self.kill()
        self.process.wait()
        for child in left:
            try:
                signal.pidfd_send_signal(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.close(child)
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass


def mapped_file(pid, begin, end, path):
    """The file of a mapping: by itself, which only root may, else by the path that our root directory leads to."""
    try:
        return open(f"/proc/{pid}/map_files/{begin:x}-{end:x}", "rb")
    except OSError:
        return open(f"/proc/{pid}/root{path}", "rb")


def changed_code(pid):
    """Places of the process's executable file mappings that differ from the file: [(address, file bytes, memory)]."""
    faults = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            fields = line.split(None, 5)
            if len(fields) < 6 or "x" not in fields[1] or not fields[5].startswith("/"):
                continue
            path = fields[5].strip()
            if path.startswith("/memfd:") or path.endswith("(deleted)"):
                continue
            begin, end = (int(x, 16) for x in fields[0].split("-"))
            with mapped_file(pid, begin, end, path) as file:
                file.seek(int(fields[2], 16))
                want = file.read(end - begin)
            memory.seek(begin)
            have = memory.read(end - begin)[:len(want)]
            if want != have:
                at = next(i for i in range(len(want)) if want[i] != have[i])
                faults.append((hex(begin + at), path, want[at:at + 8].hex(), have[at:at + 8].hex()))
    return faults


def our_mappings(pid):
    try:
        with open(f"/proc/{pid}/maps") as maps:
            return [line.strip() for line in maps if "memfd:bpftime" in line or "bpftime-agent" in line]
    except OSError:
        return []


def our_fds(pid):
    """Descriptors of a process that are sockets or memfds (a target of ours should have none it did not make)."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = os.readlink(f"/proc/{pid}/fd/{name}")
            if link.startswith("socket:") or "memfd:" in link:
                found.append((int(name), link))
    except OSError:
        pass
    return found


class Session:
    """One broker session of nobody's, or of root's, in a directory of its own."""

    def __init__(self, as_root=False):
        self.as_root = as_root
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="bpftime-e2e-"))
        self.base.chmod(0o755)
        self.runtime = self.base / "run"
        self.runtime.mkdir(mode=0o700)
        if AS_ROOT and not as_root:
            os.chown(self.runtime, NOBODY, NOBODY)
        self.tree = BUILD
        if AS_ROOT and not reachable_by_nobody(BUILD / "bin"):
            self.tree = self.base / "tree"
            for part in ("bin", "lib", "targets"):
                shutil.copytree(BUILD / part, self.tree / part)
        self.env = {"PATH": f"{self.tree}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                    "XDG_RUNTIME_DIR": str(self.runtime), "HOME": str(self.base), "LC_ALL": "C",
                    **{name: os.environ[name] for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS") if name in os.environ}}
        self.processes = []

    def bin(self, name):
        return str(self.tree / "bin" / name)

    def target_path(self, name):
        return str(self.tree / "targets" / name)

    def start(self, command, **options):
        process = Process(command, env={**self.env, **options.pop("env", {})},
                          **{"as_root": self.as_root, **options})
        self.processes.append(process)
        return process

    def end(self, process):
        """Ends it, and lets go of it at once: hundreds in one test would use up the descriptors."""
        process.close()
        self.processes.remove(process)

    def target(self, name, *arguments):
        """A target of ours, ready."""
        process = self.start([self.target_path(name), *arguments])
        process.expect(r"^ready")
        return process

    def bpftime(self, *arguments, status=0, deadline=DEADLINE):
        """Runs `bpftime ARGUMENTS` to its end; (stdout, stderr). Any other status than wanted is a failure."""
        process = self.start([self.bin("bpftime"), *arguments], stdin=False)
        code, output = process.finish(deadline)
        errors = process.stderr()
        self.end(process)
        if status is not None and code != status:
            raise AssertionError(f"bpftime {arguments}: status {code}: {output} {errors}")
        return output, errors

    def load(self, tool, *arguments, options=()):
        """An unmodified tool under `bpftime load`."""
        return self.start([self.bin("bpftime"), "load", *options, self.bin(tool), *arguments])

    def placed(self):
        """Probes of this session that stand in targets."""
        return sum(link["placed"] for link in json.loads(self.bpftime("link", "list", "--json")[0]))

    def brokers(self):
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    command = pathlib.Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                    if command and command[0].endswith(b"bpftimed") and \
                            str(self.runtime).encode() in pathlib.Path(f"/proc/{name}/environ").read_bytes() + \
                            b"\0".join(command):
                        state = pathlib.Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[0]
                        if state != "Z":
                            found.append(int(name))
                except OSError:
                    continue
        return found

    def close(self):
        for process in self.processes:
            process.close()
        for pid in self.brokers():
            os.kill(pid, signal.SIGTERM)
        until("broker ends", lambda: not self.brokers())
        shutil.rmtree(self.base, ignore_errors=True)


class EndToEnd(unittest.TestCase):
    """Each test: a session; at the end every target's code is as in its file and nothing of ours is left."""

    def setUp(self):
        self.session = Session()
        self.addCleanup(self.session.close)

    def assert_untouched(self, *processes):
        """Code as in the files, no mapping and no descriptor of ours."""
        for process in processes:
            pid = process if isinstance(process, int) else process.pid
            self.assertEqual(changed_code(pid), [])
            self.assertEqual(our_mappings(pid), [])
            self.assertEqual([f for f in our_fds(pid) if f[0] >= 48], [])

    def assert_nothing_left(self):
        """After `bpftime shutdown`: no broker, no socket, no process with a mapping of ours."""
        until("broker ends", lambda: not self.session.brokers())
        left = [str(p) for p in self.session.runtime.rglob("*") if p.is_socket()]
        self.assertEqual(left, [])
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                try:
                    owner = os.stat(f"/proc/{name}").st_uid
                except OSError:
                    continue
                if owner == (NOBODY if AS_ROOT else os.getuid()):
                    self.assertEqual(our_mappings(name), [], f"process {name}")


def main():
    unittest.main(verbosity=2)


if __name__ == "__main__":
    sys.exit("this file is no test")
