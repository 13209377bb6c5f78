"""Real servers as targets, each with a way to load it and a test of its health. What they write goes to a folder of the
session's, where they listen is the loopback or a socket there."""
import contextlib
import hashlib
import http.client
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess

import harness
from harness import until


def free_port():
    """One below the range from which connections are given theirs."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def run(*command):
    """What a program printed that ended well."""
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * harness.DEADLINE)
    assert done.returncode == 0, f"{command}: {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout


class Server:
    """Started by its constructor; `pids` are all its processes."""

    def __init__(self, session, as_root=False):
        self.session, self.as_root = session, as_root
        self.folder = session.base / f"{type(self).__name__.lower()}-{len(session.processes)}"
        self.folder.mkdir()
        if harness.AS_ROOT and not as_root:
            os.chown(self.folder, harness.NOBODY, harness.NOBODY)

    def launch(self, command, **options):
        self.process = self.session.start(command, as_root=self.as_root, **options)

    @property
    def pid(self):
        return self.process.pid

    def children(self):
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
            return [int(pid) for pid in children.read().split()]

    @property
    def pids(self):
        return [self.pid, *self.children()]

    def stop(self, number=signal.SIGTERM):
        """Ends as its administrator would end it; its status."""
        self.process.kill(number)
        return self.process.finish()[0]


NGINX = """
daemon off;
worker_processes {workers};
pid {folder}/pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;
    root {folder}/pages;
    location /hello {{ return 200 "hello from $request_uri\\n"; }}
  }}
}}
"""
LARGE = "".join(f"line {n} of the large page\n" for n in range(4000))


class Nginx(Server):
    """With TLS and without; as root its workers have a user of their own."""

    def __init__(self, session, as_root=False, workers=1):
        super().__init__(session, as_root)
        self.port, self.tls_port = free_port(), free_port()
        self.folder.chmod(0o755)
        (self.folder / "pages").mkdir()
        (self.folder / "pages/large").write_text(LARGE)
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
            "-keyout", self.folder / "key.pem", "-out", self.folder / "certificate.pem")
        (self.folder / "key.pem").chmod(0o644)  # a secret of nobody's
        (self.folder / "conf").write_text(NGINX.format(
            workers=workers, folder=self.folder, port=self.port, tls_port=self.tls_port,
            user="user www-data;" if as_root else ""))
        self.launch(["/usr/sbin/nginx", "-c", self.folder / "conf", "-e", self.folder / "error.log"])
        until("nginx has its workers", lambda: len(self.children()) == workers)
        until("nginx listens", lambda: self.answers(self.port) and self.answers(self.tls_port))

    @staticmethod
    def answers(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def connect(self, tls):
        connection = socket.create_connection(("127.0.0.1", self.tls_port if tls else self.port), harness.DEADLINE)
        if not tls:
            return connection
        context = ssl.create_default_context(cafile=str(self.folder / "certificate.pem"))
        return context.wrap_socket(connection, server_hostname="localhost")

    @staticmethod
    def get(connection, path):
        """The body of one answer; the connection stays open."""
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, body = data.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(next(l for l in head.split(b"\r\n") if l.lower().startswith(b"content-length:")).split(b":")[1])
        while len(body) < length:
            more = connection.recv(65536)
            assert more, "connection closed"
            body += more
        return body.decode()

    @contextlib.contextmanager
    def client(self):
        with self.connect(tls=True) as connection:
            def work(n):
                assert self.get(connection, f"/hello?{n}") == f"hello from /hello?{n}\n"
                if n % 10 == 0:
                    assert self.get(connection, "/large") == LARGE
            yield work

    def healthy(self):
        """Small and large answers, with TLS and without."""
        for tls in (False, True):
            with self.connect(tls) as connection:
                for path in ("/hello", "/hello?again"):
                    assert self.get(connection, path) == f"hello from {path}\n"
                assert self.get(connection, "/large") == LARGE


class Redis(Server):
    def __init__(self, session, as_root=False):
        super().__init__(session, as_root)
        self.socket = self.folder / "socket"
        self.launch(["/usr/bin/redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", self.folder])
        until("redis listens", self.socket.exists)

    def run(self, program, *arguments):
        return run(f"/usr/bin/{program}", "-s", self.socket, *arguments)

    def command(self, *words):
        """One answer, as redis-cli prints it."""
        return self.run("redis-cli", *words).rstrip("\n")

    def benchmark(self, *options):
        return self.run("redis-benchmark", "-q", *options)

    @contextlib.contextmanager
    def client(self):
        mine = random.randrange(1 << 30)  # keys

        def work(n):
            stream.write(b"".join(b"SET key%d-%d value%d\r\nGET key%d-%d\r\n" % (mine, k, n + k, mine, k) for k in range(20)))
            stream.flush()
            for k in range(20):
                value = b"value%d" % (n + k)
                answer = [stream.readline() for _ in range(3)]
                assert answer == [b"+OK\r\n", b"$%d\r\n" % len(value), value + b"\r\n"], answer

        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(harness.DEADLINE)
            connection.connect(str(self.socket))
            with connection.makefile("rwb") as stream:
                yield work

    def healthy(self):
        """Answers, and saves its data in a child, which is a copy of it with everything of ours in it."""
        assert self.command("incr", "health").isdigit()
        until("no child saves", lambda: "rdb_bgsave_in_progress:0" in self.command("info", "persistence"))
        assert "started" in self.command("bgsave")
        until("it is saved", lambda: "rdb_bgsave_in_progress:0" in self.command("info", "persistence"))
        assert "rdb_last_bgsave_status:ok" in self.command("info", "persistence")


class Postgres(Server):
    """One that connections, forked processes each, come to and go from."""
    PROGRAMS = harness.pathlib.Path("/usr/lib/postgresql/15/bin")

    def __init__(self, session):
        super().__init__(session)
        self.data = self.folder / "data"
        self.initialize()
        self.launch([self.PROGRAMS / "postgres", "-D", self.data, "-k", self.folder, "-c", "listen_addresses=",
                     "-c", "fsync=off", "-c", "logging_collector=off", "-c", "autovacuum_naptime=1"])
        self.connection = ["-h", self.folder, "-U", "postgres"]
        until("postgres accepts connections", lambda: subprocess.run(
            [self.PROGRAMS / "pg_isready", *self.connection], capture_output=True).returncode == 0)
        self.run("pgbench", "-i", "-q", "-s", "1", "postgres")

    def initialize(self):
        """As a user who has a name, which initdb asks for."""
        named = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if harness.AS_ROOT else []
        if harness.AS_ROOT:
            shutil.chown(self.folder, "nobody")
        run(*named, self.PROGRAMS / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "--no-locale")
        if harness.AS_ROOT:
            for path in [self.folder, self.data, *self.data.rglob("*")]:
                os.chown(path, harness.NOBODY, harness.NOBODY)

    def run(self, program, *arguments):
        return run(self.PROGRAMS / program, *self.connection, *arguments)

    @contextlib.contextmanager
    def client(self):
        """Short transactions of pgbench's, every other time on a connection each."""
        def work(n):
            output = self.run("pgbench", "-n", "-t", "10", *(["-C"] if n % 2 else []), "postgres")
            assert "transactions actually processed: 10/10" in output, output
        yield work

    def healthy(self):
        """What pgbench keeps equal is equal; tables and indexes are sound."""
        answer = self.run("psql", "-AtX", "-d", "postgres", "-c",
                          "select sum(abalance) = (select coalesce(sum(delta), 0) from pgbench_history), count(*), "
                          "(select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers) "
                          "from pgbench_accounts")
        assert answer == "t|100000|t\n", answer

    def stop(self, number=signal.SIGINT):  # "fast": does not wait for connections to end
        return super().stop(number)


def digest(n):
    return hashlib.sha256(str(n).encode()).hexdigest()


class Http(Server):
    """One that answers GET /N with the digest of N, and says "ready PORT" when it does."""

    def launch(self, command):
        super().launch(command)
        self.port = int(self.process.expect(r"^ready (\d+)$").group(1))

    @contextlib.contextmanager
    def client(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=harness.DEADLINE)

        def work(n):
            connection.request("GET", f"/{n}")
            answer = connection.getresponse()
            text = answer.read().decode()
            assert (answer.status, text) == (200, digest(n)), f"{answer.status} {text}"

        with contextlib.closing(connection):
            yield work

    def healthy(self):
        with self.client() as work:
            for n in range(3, 8):
                work(n)


class Java(Http):
    """A program whose work needs the JVM's own SIGSEGV handler: null pointers, stacks that overflow."""
    JVM = harness.pathlib.Path("/usr/lib/jvm/java-17-openjdk-amd64")

    def __init__(self, session):
        super().__init__(session)
        source = harness.pathlib.Path(__file__).parent / "tools/DigestServer.java"
        run(self.JVM / "bin/javac", "-d", self.folder, source)
        # Without the option exceptions that are thrown often lose their stack traces, which are traced.
        self.launch([self.JVM / "bin/java", "-Xmx128m", "-XX:-OmitStackTraceInFastThrow", "-Dsun.net.httpserver.nodelay=true",
                     f"-XX:ErrorFile={self.folder}/error", "-cp", self.folder, "DigestServer"])


PYTHON = """
import hashlib, http.server, os, threading
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 4096  # head and body in one packet
    def do_GET(self):
        text = self.path[1:]
        if text.endswith("7"):  # in a child
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(write, hashlib.sha256(text.encode()).hexdigest().encode())
                os._exit(0)
            os.close(write)
            body = os.read(read, 100)
            os.close(read)
            status = os.waitpid(child, 0)[1]
            body = body if status == 0 else b"child: %d" % status
        else:
            body = hashlib.sha256(text.encode()).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
server.daemon_threads = True
print("ready", server.server_port, flush=True)
server.serve_forever()
"""


class Python(Http):
    """A thread for each connection; some answers come from a child."""

    def __init__(self, session):
        super().__init__(session)
        self.launch(["/usr/bin/python3", "-c", PYTHON])
