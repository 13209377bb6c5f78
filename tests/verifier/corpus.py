#!/usr/bin/env python3
"""How our verifier stands to the running kernel's over real programs. Run as root.

Usage: corpus.py BUILD_DIR [--json FILE] [--objects FOLDER] [--foreign only]
Objects: those inside Debian's libbpf-tools (a skeleton holds its object file in the executable), what bpftrace makes of its
packaged scripts, and ours. Prints for each object what the kernel accepts and what of that we accept, then the rates that
issue 4 asks for: programs accepted of those that the kernel accepts (goal: 97 %), programs accepted that the kernel rejects
(goal: none), times.
--objects keeps the object files there. --foreign only: instead of those, objects that nobody looked at while the verifier was
written, out of packages that are downloaded (not installed) for it.
"""
import collections
import json
import pathlib
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time

BPF_MACHINE = 247  # EM_BPF


def objects_in(executable):
    """The BPF object files that lie in an executable's bytes."""
    data = executable.read_bytes()
    at = -1
    while (at := data.find(b"\x7fELF\x02\x01\x01", at + 1)) >= 0:
        head = data[at:at + 64]
        if len(head) < 64 or struct.unpack_from("<H", head, 18)[0] != BPF_MACHINE:
            continue
        sections_at, = struct.unpack_from("<Q", head, 40)
        size, count = struct.unpack_from("<HH", head, 58)
        yield data[at:at + sections_at + size * count]


def libbpf_tools(folder):
    listing = subprocess.run(["dpkg", "-L", "libbpf-tools"], capture_output=True, text=True)
    for path in sorted(pathlib.Path(p) for p in listing.stdout.split()):
        if path.parent.name == "sbin" and path.is_file():
            for i, data in enumerate(objects_in(path)):
                name = folder / f"libbpf-tools-{path.name}{i or ''}.bpf.o"
                name.write_bytes(data)
                yield name


FOREIGN = ["xdp-tools", "libxdp1", "xdp-tests", "libknot13", "golang-github-cilium-ebpf-dev"]


def foreign_of(folder, package):
    """Programs of others: packet filters, a name server, a Go library's tests."""
    place = folder / package
    place.mkdir(exist_ok=True)
    if subprocess.run(["apt-get", "-q", "download", package], cwd=place, capture_output=True).returncode != 0:
        print(f"  not to be had: {package}")
        return
    subprocess.run(["dpkg", "-x", next(place.glob("*.deb")), place / "files"], check=True)
    for path in sorted(p for p in (place / "files").rglob("*") if p.is_file() and not p.is_symlink()):
        for i, data in enumerate(objects_in(path)):
            name = folder / f"{package}-{path.name.removesuffix('.o')}{i or ''}.bpf.o"
            name.write_bytes(data)
            yield name


def waits_for_events(pid):
    """In epoll_wait or epoll_pwait (asm/unistd_64.h)."""
    try:
        return pathlib.Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("232", "281")
    except OSError:
        return False


def bpftrace_scripts(folder, build):
    """bpftrace loads each program into the kernel; what it hands over is written down on the way."""
    recorder = build / "lib/libbpf-recorder.so"
    listing = subprocess.run(["dpkg", "-L", "bpftrace"], capture_output=True, text=True)
    for path in sorted(pathlib.Path(p) for p in listing.stdout.split()):
        if path.suffix != ".bt" or not path.is_file():
            continue
        name = folder / f"bpftrace-{path.stem}.record"
        name.unlink(missing_ok=True)
        script = subprocess.Popen(["bpftrace", path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_PRELOAD": str(recorder),
                                       "BPF_RECORD": str(name), "HOME": "/root"})
        # All programs are loaded before it waits for events, until it is interrupted.
        end = time.monotonic() + 60
        while script.poll() is None and time.monotonic() < end and not waits_for_events(script.pid):
            select.select([], [], [], 0.005)
        script.send_signal(signal.SIGINT)
        try:
            script.wait(3)
        except subprocess.TimeoutExpired:
            script.kill()
            script.wait()
        if name.exists() and name.stat().st_size:
            yield name


def ours(build):
    yield from sorted(build.glob("examples/**/*.bpf.o"))
    yield from sorted(build.glob("tests/**/*.bpf.o"))
    yield from sorted(build.glob("bench/**/*.bpf.o"))
    yield from sorted(build.glob("src/**/*.bpf.o"))


def judge(build, path):
    done = subprocess.run([build / "bin/verifier_judge", path], capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return rows, done.stderr.strip()


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * q))] if values else 0


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    all_rows, totals = [], collections.OrderedDict()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.get("--objects", temporary))
        folder.mkdir(parents=True, exist_ok=True)
        groups = [("libbpf-tools", libbpf_tools(folder)), ("bpftrace", bpftrace_scripts(folder, build)), ("ours", ours(build))]
        if "--foreign" in options:
            groups = [(package, foreign_of(folder, package)) for package in FOREIGN]
        for group, paths in groups:
            total = totals[group] = collections.Counter()
            ours_us, kernel_us = [], []
            for path in paths:
                rows, complaint = judge(build, path)
                total["objects"] += 1
                count = collections.Counter()
                for row in rows:
                    row["group"] = group
                    all_rows.append(row)
                    mine = row.get("ours", {}).get("verdict", "error")
                    theirs = row.get("kernel", {}).get("verdict", "none")
                    count["programs"] += 1
                    count[f"{theirs}/{mine}"] += 1
                    if theirs == mine == "accept":
                        ours_us.append(row["ours"]["time_us"])
                        kernel_us.append(row["kernel"]["time_us"])
                    elif theirs == "accept":
                        print(f"  rejected: {path.name} {row['name']}: {row['ours']['message'] if 'ours' in row else row.get('problem')}")
                    elif theirs == "reject" and mine == "accept":
                        print(f"  ACCEPTED although the kernel says: {path.name} {row['name']}: {row['kernel']['message']}")
                total.update(count)
                both = count["accept/accept"]
                print(f"{path.name}: {count['programs']} programs, the kernel accepts {both + count['accept/reject'] + count['accept/error']}, of these we {both}"
                      + (f", it cannot judge {count['none/accept'] + count['none/reject'] + count['none/error']}" if count["programs"] != sum(v for k, v in count.items() if k[:6] in ("accept", "reject")) else "")
                      + (f" ({complaint.splitlines()[0]})" if complaint else ""))
            total["ours_p50"], total["ours_p95"], total["ours_max"] = (quantile(ours_us, q) for q in (0.5, 0.95, 1))
            total["kernel_p50"], total["kernel_p95"], total["kernel_max"] = (quantile(kernel_us, q) for q in (0.5, 0.95, 1))
    print(f"\n{'':30}{'objects':>8}{'programs':>9}{'kernel +':>9}{'ours of +':>10}{'rate':>8}{'kernel -':>9}{'ours of -':>10}{'ours us p50/p95/max':>24}{'kernel us':>22}")
    for group, t in totals.items():
        plus = t["accept/accept"] + t["accept/reject"] + t["accept/error"]
        minus = t["reject/accept"] + t["reject/reject"] + t["reject/error"]
        print(f"{group:30}{t['objects']:>8}{t['programs']:>9}{plus:>9}{t['accept/accept']:>10}{t['accept/accept'] / plus if plus else 0:>8.1%}{minus:>9}{t['reject/accept']:>10}"
              f"{'/'.join(str(t['ours_' + q]) for q in ('p50', 'p95', 'max')):>24}{'/'.join(str(t['kernel_' + q]) for q in ('p50', 'p95', 'max')):>22}")
    if "--json" in options:
        pathlib.Path(options["--json"]).write_text(json.dumps(all_rows, indent=1))
    good = all(t["reject/accept"] == 0 for t in totals.values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
