"""Servers as they are in use: each attached, traced under load, detached, again and again; after each round it is healthy,
its code is as in its files and nothing of ours is left. BPFTIME_SERVER_ROUNDS sets the length (100 in `make soak`)."""
import glob
import os
import threading
import unittest

import harness
import servers
from harness import EndToEnd, until
from test_first_whole import counts

ROUNDS = int(os.environ.get("BPFTIME_SERVER_ROUNDS", "6"))
CLIENTS = 2
HITS = 50  # entries and returns that a round waits for
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"


class Load:
    """Clients that ask and look at every answer, until the block ends; a wrong one fails it."""

    def __init__(self, server):
        self.server, self.done, self.failures, self.ended = server, 0, [], False

    def work(self):
        try:
            with self.server.client() as work:
                n = 0
                while not self.ended:
                    work(n)
                    n += 1
                self.done += n
        except Exception as failure:
            self.failures.append(failure)

    def __enter__(self):
        self.threads = [threading.Thread(target=self.work) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self.ended = True
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise self.failures[0]


class Servers(EndToEnd):
    def attach(self, server):
        for _ in range(10):
            # One of its children may end meanwhile; whether enough were reached, the counts say.
            self.said = self.session.bpftime("attach", "--children", str(server.pid), status=None)
            if "no return probes here yet" not in self.session.bpftime("status")[0]:
                return
            # No thread of it came to a wait in time, on a machine as busy as that: refused, with the reason. Once more.
            self.session.bpftime("detach")

    def as_before(self, server):
        for pid in server.pids:
            try:
                until(f"nothing of ours in {pid}", lambda: not harness.our_mappings(pid))
                self.assert_untouched(pid)
            except (AssertionError, IndexError, OSError):
                if not self.ends(pid):
                    raise

    def ends(self, pid):
        """A child that served one connection ends while it is looked at: its memory is gone before it is."""
        def has_ended():
            try:
                return harness.pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
            except OSError:
                return True
        try:
            return until("it has ended", has_ended, 2)
        except AssertionError:
            return False

    def rounds(self, server, places):
        server.healthy()
        with Load(server) as load:
            for n in range(ROUNDS):
                path, function = places[n % len(places)]
                tool = self.session.load("calls", "-i", path, function)
                tool.expect("^attached$")
                self.attach(server)
                try:
                    until(f"{function} is traced", lambda: load.failures or min(counts(tool)[:2]) >= HITS)
                except AssertionError as late:
                    raise AssertionError(f"{late}; {self.said} {self.session.bpftime('status')}") from None
                self.assertEqual(tool.finish()[0], 0, tool.stderr())
                self.session.end(tool)
                self.session.bpftime("detach")
                server.healthy()
                self.as_before(server)
                self.assertEqual(load.failures, [])
        self.session.bpftime("shutdown")
        self.as_before(server)
        server.healthy()
        self.assert_nothing_left()
        print(f"{ROUNDS} rounds, {load.done} times asked ... ", end="", flush=True)

    def test_nginx(self):
        nginx = servers.Nginx(self.session, workers=2)
        self.trace_nginx(nginx)

    @unittest.skipUnless(harness.AS_ROOT, "no other user's processes without root")
    def test_nginx_with_workers_of_another_user(self):
        self.session = harness.Session(as_root=True)
        self.addCleanup(self.session.close)
        nginx = servers.Nginx(self.session, as_root=True, workers=2)
        self.trace_nginx(nginx)

    def trace_nginx(self, nginx):
        [ssl] = glob.glob("/lib/x86_64-linux-gnu/libssl.so.3")
        self.rounds(nginx, [(ssl, "SSL_read"), ("/usr/sbin/nginx", "ngx_http_process_request"), (LIBC, "malloc"),
                            (ssl, "SSL_write"), (LIBC, "write"), ("/usr/sbin/nginx", "ngx_palloc")])
        self.assertEqual(nginx.stop(), 0)
        errors = (nginx.folder / "error.log").read_text()
        self.assertNotRegex(errors, r"\[(alert|crit|emerg|error)\]|signal \d+ .*core")

    def test_a_server_that_is_given_up_leaves_no_worker(self):
        nginx = servers.Nginx(self.session, workers=2)
        workers = [os.pidfd_open(pid) for pid in nginx.children()]
        nginx.process.close()
        for worker in workers:
            self.assertTrue(harness.readable([worker], harness.DEADLINE))
            os.close(worker)

    def test_postgres(self):
        postgres = servers.Postgres(self.session)
        program = str(postgres.PROGRAMS / "postgres")
        self.rounds(postgres, [(program, name) for name in ("palloc", "ExecutorRun", "LWLockAcquire", "ReadBuffer",
                                                            "GetSnapshotData", "heap_insert")])
        postgres.run("pg_amcheck", "--install-missing", "postgres")
        self.assertEqual(postgres.stop(), 0)
        self.assertNotRegex(postgres.process.stderr(), "PANIC|was terminated by signal")

    def test_redis(self):
        redis = servers.Redis(self.session)
        program = "/usr/bin/redis-server"
        self.rounds(redis, [(program, "call"), (LIBC, "read"), (program, "processCommand"), (program, "zmalloc"),
                            (LIBC, "write"), (program, "dictFind")])
        self.assertEqual(redis.stop(), 0)

    def test_java(self):
        java = servers.Java(self.session)
        library = java.JVM / "lib"
        self.rounds(java, [(LIBC, "malloc"), (library / "server/libjvm.so", "JVM_FillInStackTrace"),
                           (library / "libnio.so", "Java_sun_nio_ch_SocketDispatcher_read0"), (LIBC, "free"),
                           (LIBC, "pthread_mutex_lock"), (LIBC, "write")])
        self.assertEqual(java.stop(), 143)
        self.assertFalse((java.folder / "error").exists())

    def test_python3(self):
        python = servers.Python(self.session)
        program = os.path.realpath("/usr/bin/python3")
        self.rounds(python, [(program, "PyObject_Malloc"), (LIBC, "malloc"), (program, "_PyEval_EvalFrameDefault"),
                             (program, "PyDict_SetItem"), (LIBC, "recv"), (program, "PyObject_Call")])
        self.assertEqual(python.stop(), -15)


if __name__ == "__main__":
    harness.main()
