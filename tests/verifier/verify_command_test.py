#!/usr/bin/env python3
"""bpftime verify on an object file. Usage: verify_command_test.py BPFTIME SAMPLE_OBJECT (src/object/testing/sample.bpf.c)"""
import json
import subprocess
import sys

bpftime, sample = sys.argv[1:]


def run(*words):
    done = subprocess.run([bpftime, "verify", *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


status, out, err = run(sample, "--json")
rows = {row["program"]: row for row in json.loads(out)}
assert status == 1, status  # one of them has no program type
assert set(rows) == {"count_it", "by_core", "unknown_section", "never_there"}, rows
for row in rows.values():
    assert set(row) == {"program", "verdict", "message", "insns_processed", "time_us", "peak_states"}, row
    assert row["verdict"] in ("accept", "reject", "error"), row
assert rows["unknown_section"]["verdict"] == "error", rows
assert "section name" in rows["unknown_section"]["message"], rows

status, out, err = run(sample, "--program", "count_it", "--json", "--log-level", "2")
(row,) = json.loads(out)
assert row["program"] == "count_it" and "processed " in err, (row, err)
assert status == (0 if row["verdict"] == "accept" else 1)

status, out, err = run(sample)
assert "count_it (uprobe): " in out and "unknown_section (nonsense/of/ours): error: " in out, out

for words in ((sample, "--program", "nobody"), ("/nonexistent",), ("/etc/passwd",), (bpftime,)):
    status, out, err = run(*words)
    assert status == 1 and "bpftime: verify" in err, (words, status, err)
print("bpftime verify: as it should be")
