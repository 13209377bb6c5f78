"""Real servers as targets, each with a way to load it and a test of its health. What they write goes to a folder of the
session's, where they listen is the loopback or a socket there."""
import os
import random
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
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
                        "-keyout", self.folder / "key.pem", "-out", self.folder / "certificate.pem"],
                       check=True, capture_output=True)
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
        run = subprocess.run([f"/usr/bin/{program}", "-s", self.socket, *arguments], capture_output=True, text=True,
                             timeout=harness.DEADLINE)
        assert run.returncode == 0, f"{program} {arguments}: {run.stdout} {run.stderr}"
        return run.stdout

    def command(self, *words):
        """One answer, as redis-cli prints it."""
        return self.run("redis-cli", *words).rstrip("\n")

    def benchmark(self, *options):
        return self.run("redis-benchmark", "-q", *options)
