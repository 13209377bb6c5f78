"""Real programs: Debian's bash and redis-server, and every function of libc in a running program."""
import re
import signal
import socket
import unittest

import harness
from harness import EndToEnd, until
from test_first_whole import counts

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"


class Bash(EndToEnd):
    def test_malloc_and_a_function_of_bash_itself_are_counted(self):
        shell = self.session.start(["/bin/bash", "--norc", "--noprofile"])
        shell.ask("echo ready", "^ready$")
        own = self.session.load("calls", "-i", "-p", shell.pid, "/bin/bash", "execute_command")
        own.expect("^attached$")
        libc = self.session.load("calls", "-i", "-p", shell.pid, LIBC, "malloc")
        libc.expect("^attached$")
        for n in range(20):
            shell.ask(f"echo $(({n} * 2)) $(echo sub)", rf"^{n * 2} sub$")  # the substitution forks
        self.assertGreaterEqual(counts(own)[0], 20)
        shell.ask("trap 'echo got it' USR1; kill -USR1 $$; echo after", "^got it$")
        self.assertEqual(own.finish()[0], 0)
        self.assertEqual(libc.finish()[0], 0)
        until("code restored", lambda: harness.changed_code(shell.pid) == [])
        self.session.bpftime("shutdown")
        self.assert_untouched(shell)
        shell.say("exit 3")
        self.assertEqual(shell.finish()[0], 3)
        self.assert_nothing_left()


class Redis(EndToEnd):
    def command(self, line):
        self.connection.sendall(line.encode() + b"\r\n")
        return self.connection.recv(65536).decode()

    def test_a_server_is_traced_under_load_and_let_go(self):
        path = str(self.session.runtime / "redis.sock")
        server = self.session.start(["/usr/bin/redis-server", "--port", "0", "--unixsocket", path, "--save", "",
                                     "--dir", str(self.session.runtime)])
        until("redis listens", lambda: (self.session.runtime / "redis.sock").exists())
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(path)
        self.addCleanup(self.connection.close)
        self.assertEqual(self.command("PING"), "+PONG\r\n")
        tool = self.session.load("calls", "-i", "-p", server.pid, "/usr/bin/redis-server", "processCommand")
        tool.expect("^attached$")
        for n in range(500):
            self.assertEqual(self.command(f"SET key{n} value{n}"), "+OK\r\n")
            self.assertEqual(self.command(f"GET key{n}").split("\r\n")[1], f"value{n}")
        self.assertEqual(counts(tool)[:2], (1000, 1000))
        self.assertIn("OK", self.command("BGSAVE").upper() + "OK")  # forks
        self.assertEqual(self.command("PING"), "+PONG\r\n")
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(server)
        self.assertEqual(self.command("DBSIZE"), ":500\r\n")
        server.kill(signal.SIGTERM)
        self.assertEqual(server.finish()[0], 0)
        self.assert_nothing_left()


# What the swept program does: no output may differ. It reaches much of libc: sorting, formatting, locale, time,
# regular expressions, processes, pipes, files, threads.
WORK = r"""
import hashlib, json, locale, os, re, subprocess, tempfile, threading, time, math
def work():
    out = []
    out.append(json.dumps({str(i): [i * 0.5, "x" * (i % 7)] for i in range(300)}, sort_keys=True))
    out.append(hashlib.sha256(b"abc" * 1000).hexdigest())
    out.append(str(sorted(re.findall(r"[a-z]+", "the quick brown fox jumps over the lazy dog"))))
    out.append(time.strftime("%Y-%m-%d", time.gmtime(86400 * 365)))
    out.append(subprocess.run(["/bin/sh", "-c", "echo child; exit 3"], capture_output=True, text=True).stdout)
    with tempfile.TemporaryFile() as f:
        f.write(b"line\n" * 1000); f.seek(0); out.append(str(len(f.readlines())))
    total = []
    threads = [threading.Thread(target=lambda n=n: total.append(sum(range(n)))) for n in range(100, 108)]
    [t.start() for t in threads]; [t.join() for t in threads]
    out.append(str(sorted(total)))
    out.append(str(math.fsum([0.1] * 10)) + str(math.sin(1.0)))
    out.append(str(sorted(os.listdir("/"))[:3]))
    r, w = os.pipe(); pid = os.fork()
    if pid == 0:
        os.write(w, b"from the child"); os._exit(0)
    os.waitpid(pid, 0); out.append(os.read(r, 100).decode()); os.close(r); os.close(w)
    return hashlib.md5("\n".join(out).encode()).hexdigest()
print("ready", flush=True)
import sys
for line in sys.stdin:
    if line.strip() == "go":
        print("did", work(), flush=True)
    else:
        break
"""


class Sweep(EndToEnd):
    def sweep(self, *options):
        program = self.session.start(["/usr/bin/python3", "-c", WORK])
        program.expect("^ready$")
        plain = program.ask("go", r"^did (\w+)$").group(1)
        tool = self.session.load("every", *options, "-p", program.pid, LIBC)
        refused, placed = [], None
        while (line := tool.line(240)) != "ready":
            found = re.match(r"placed (\d+) of (\d+)", line)
            if found:
                placed = [int(n) for n in found.groups()]
            elif line.startswith("refused"):
                refused.append(line)
        print(f"sweep {options}: {placed[0]} of {placed[1]} probes placed; {len(refused)} refused", flush=True)
        status = self.session.bpftime("status")[0]
        for line in refused:
            print("  " + line)
        for _ in range(3):
            self.assertEqual(program.ask("go", r"^did (\w+)$").group(1), plain)
        hits = int(tool.ask("", r"^hits (\d+)").group(1))
        self.assertGreater(hits, 5000)
        tool.finish(120)
        until("code restored", lambda: harness.changed_code(program.pid) == [])
        # Its main thread was inside read() when the probes went, and returned through the agent just now.
        self.assertEqual(program.ask("go", r"^did (\w+)$").group(1), plain)
        until("the agent is unmapped", lambda: harness.our_mappings(program.pid) == [])
        self.session.bpftime("shutdown", deadline=60)
        self.assertEqual(program.ask("go", r"^did (\w+)$").group(1), plain)
        self.assert_untouched(program)
        self.assertTrue(status)
        return placed, refused

    def test_an_entry_probe_on_every_function_of_libc(self):
        placed, _ = self.sweep("-e")
        self.assertGreaterEqual(placed[0] / placed[1], 0.99)

    def test_an_entry_and_a_return_probe_on_every_function_of_libc(self):
        placed, _ = self.sweep()
        self.assertGreaterEqual(placed[0] / placed[1], 0.98)


if __name__ == "__main__":
    harness.main()
