#!/usr/bin/env python3
"""How our verifier stands to the running kernel's over real programs. Run as root.

Usage: corpus.py BUILD_DIR [--json FILE] [--objects FOLDER] [--foreign only | --selftests only]
Objects: those inside Debian's libbpf-tools (a skeleton holds its object file in the executable), what bpftrace makes of its
packaged scripts, and ours. Prints for each object what the kernel accepts and what of that we accept, then the rates that
issue 4 asks for: programs accepted of those that the kernel accepts (goal: 97 %), programs accepted that the kernel rejects
(goal: none), times.
--objects keeps the object files there. --foreign only: instead of those, objects that nobody looked at while the verifier was
written, out of packages that are downloaded (not installed) for it. --selftests only: the kernel's own BPF tests, out of
Debian's linux-source-6.12, compiled with clang-19 against the running kernel's types; also lists the differences by message.
"""
import collections
import concurrent.futures
import json
import pathlib
import platform
import re
import select
import shutil
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


SOURCE = "linux-source-6.12"
# What the tests include, of the whole source.
SOURCE_PARTS = ["tools/testing/selftests/bpf", "tools/lib/bpf", "tools/include", "include/uapi", "include/linux/compiler.h", "include/linux/compiler_types.h",
                "scripts/bpf_doc.py"]


def selftest_sources(place):
    """Unpacks what the tests need, makes the headers that the kernel's build would make, and says how to compile."""
    place.mkdir(exist_ok=True)
    top = place / SOURCE
    if not top.exists():
        if subprocess.run(["apt-get", "-q", "download", SOURCE], cwd=place, capture_output=True).returncode != 0:
            sys.exit(f"{SOURCE} is not to be had")
        subprocess.run(["dpkg", "-x", next(place.glob("*.deb")), place], check=True)
        archive = place / f"usr/src/{SOURCE}.tar.xz"
        subprocess.run(["tar", "-xf", archive, "-C", place, *(f"{SOURCE}/{part}" for part in SOURCE_PARTS)], check=True)
        archive.unlink()
    made = place / "include"
    (made / "bpf").mkdir(parents=True, exist_ok=True)
    for header in (top / "tools/lib/bpf").glob("*.h"):
        shutil.copy(header, made / "bpf")
    for target, command in ((made / "bpf/bpf_helper_defs.h", [sys.executable, top / "scripts/bpf_doc.py", "--header", "--file", top / "tools/include/uapi/linux/bpf.h"]),
                            (made / "vmlinux.h", ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c"])):
        with target.open("w") as out:
            subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL, check=True)
    tests = top / "tools/testing/selftests/bpf"
    includes = [made, tests / "progs", tests, top / "tools/include/uapi", top / "include/uapi", pathlib.Path(f"/usr/include/{platform.machine()}-linux-gnu")]
    return tests / "progs", ["clang-19", "-g", "-O2", "--target=bpf", "-mcpu=v3", "-mlittle-endian", "-std=gnu11", "-fno-strict-aliasing", "-Wno-everything", "-D__TARGET_ARCH_x86",
                             "-DENABLE_ATOMICS_TESTS", "-D__force=", "-D__attribute_const__=", *(f"-I{path}" for path in includes), "-idirafter", "/usr/include"]


def selftests(folder):
    programs, compiler = selftest_sources(folder / "selftests")

    def compiled(source):
        target = folder / f"selftests-{source.stem}.bpf.o"
        if target.exists() or subprocess.run([*compiler, "-c", source, "-o", target], capture_output=True).returncode == 0:
            return target
        return None

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for source, target in zip(sources := sorted(programs.glob("*.c")), pool.map(compiled, sources)):
            if target is None:
                print(f"  does not compile here: {source.name}")
            else:
                yield target


# What the kernel says where we accept on purpose: rows of docs/verifier.md.
POLICIES = ("cannot use helper bpf_(override_return|probe_write_user)#", "failed to find the address for kernel symbol", "BPF program is too large")


def is_policy(row):
    return any(re.search(policy, row["kernel"]["message"]) for policy in POLICIES)


def print_differences(rows):
    """What the kernel accepts and we do not, by our message, numbers aside; and the other way, by the kernel's."""
    for ours, theirs, teller in (("reject", "accept", "ours"), ("accept", "reject", "kernel")):
        found = collections.defaultdict(list)
        for row in rows:
            if row.get("ours", {}).get("verdict", "error").replace("error", "reject") == ours and row.get("kernel", {}).get("verdict") == theirs:
                message = row[teller]["message"] if teller in row else row.get("problem", "")
                found[re.sub(r"0x[0-9a-f]+|-?\b\d+\b", "N", message)].append(f"{pathlib.Path(row['file']).stem.removesuffix('.bpf')}:{row['name']}")
        print(f"\nthe kernel {theirs}s, we {ours}:")
        for message, names in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
            print(f"{len(names):>5}  {message}\n       {', '.join(names[:4])}")


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
        if "--selftests" in options:
            groups = [("selftests", selftests(folder))]
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
                    is_allowed = theirs == "reject" and mine == "accept" and is_policy(row)
                    count["policy" if is_allowed else f"{theirs}/{mine}"] += 1
                    if theirs == mine == "accept":
                        ours_us.append(row["ours"]["time_us"])
                        kernel_us.append(row["kernel"]["time_us"])
                    elif is_allowed:
                        print(f"  policy: {path.name} {row['name']}: {row['kernel']['message']}")
                    elif theirs == "accept":
                        print(f"  rejected: {path.name} {row['name']}: {row['ours']['message'] if 'ours' in row else row.get('problem')}")
                    elif theirs == "reject" and mine == "accept":
                        print(f"  ACCEPTED although the kernel says: {path.name} {row['name']}: {row['kernel']['message']}")
                total.update(count)
                both = count["accept/accept"]
                print(f"{path.name}: {count['programs']} programs, the kernel accepts {both + count['accept/reject'] + count['accept/error']}, of these we {both}"
                      + (f", it cannot judge {count['none/accept'] + count['none/reject'] + count['none/error']}" if count["programs"] != sum(v for k, v in count.items() if k[:6] in ("accept", "reject", "policy")) else "")
                      + (f" ({complaint.splitlines()[0]})" if complaint else ""))
            total["ours_p50"], total["ours_p95"], total["ours_max"] = (quantile(ours_us, q) for q in (0.5, 0.95, 1))
            total["kernel_p50"], total["kernel_p95"], total["kernel_max"] = (quantile(kernel_us, q) for q in (0.5, 0.95, 1))
    print(f"\n{'':30}{'objects':>8}{'programs':>9}{'kernel +':>9}{'ours of +':>10}{'rate':>8}{'kernel -':>9}{'ours of -':>10}{'ours us p50/p95/max':>24}{'kernel us':>22}")
    for group, t in totals.items():
        plus = t["accept/accept"] + t["accept/reject"] + t["accept/error"]
        minus = t["reject/accept"] + t["reject/reject"] + t["reject/error"] + t["policy"]
        print(f"{group:30}{t['objects']:>8}{t['programs']:>9}{plus:>9}{t['accept/accept']:>10}{t['accept/accept'] / plus if plus else 0:>8.1%}{minus:>9}{t['reject/accept']:>10}"
              f"{'/'.join(str(t['ours_' + q]) for q in ('p50', 'p95', 'max')):>24}{'/'.join(str(t['kernel_' + q]) for q in ('p50', 'p95', 'max')):>22}")
    if "--selftests" in options:
        print_differences(all_rows)
    if "--json" in options:
        pathlib.Path(options["--json"]).write_text(json.dumps(all_rows, indent=1))
    good = all(t["reject/accept"] == 0 for t in totals.values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
