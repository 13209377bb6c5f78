"""What is installed works by itself: bpftime finds broker, agent and shim beside it; and uninstalling leaves nothing."""
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import harness  # noqa: E402
from harness import BUILD, EndToEnd  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FILES = ["bin/bpftime", "bin/bpftime-vm", "bin/bpftimed", "include/bpftime/vm.h"]


class Install(EndToEnd):
    def test_what_is_installed_works_and_goes_again(self):
        prefix = self.session.base / "prefix"
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin/other").write_text("not ours\n")
        manifest = BUILD / "install_manifest.txt"
        kept = manifest.read_bytes() if manifest.exists() else None
        try:
            subprocess.run(["cmake", "--install", BUILD, "--prefix", prefix], check=True, stdout=subprocess.DEVNULL)
            for name in FILES:
                self.assertTrue((prefix / name).is_file(), name)
            self.use(prefix)
            subprocess.run(["make", "--no-print-directory", "-C", ROOT, "uninstall", f"BUILD={BUILD}"], check=True,
                           stdout=subprocess.DEVNULL)
        finally:
            manifest.unlink(missing_ok=True)
            if kept is not None:
                manifest.write_bytes(kept)
        self.assertEqual([str(p) for p in prefix.rglob("*") if not p.is_dir() or "bpftime" in p.name],
                         [str(prefix / "bin/other")])

    def use(self, prefix):
        """A tool counts calls with nothing of the build folder in reach but the tool and its target."""
        tree = self.session.tree
        only_tool = self.session.base / "tools"
        (only_tool / "bin").mkdir(parents=True)
        for name in ("bin/calls", "targets/target_victim"):
            (only_tool / name).parent.mkdir(exist_ok=True)
            shutil.copy(tree / name, only_tool / name)
        self.session.tree = only_tool
        self.session.env["PATH"] = f"{prefix}/bin:/usr/bin:/bin"
        target = self.session.target("target_victim", "2")
        tool = self.session.start([prefix / "bin/bpftime", "load", only_tool / "bin/calls", "-i", "-p", str(target.pid),
                                   "/lib/x86_64-linux-gnu/libc.so.6", "malloc"])
        tool.expect("attached")
        harness.until("broker runs from where it is installed", lambda: [
            pid for pid in self.session.brokers() if os.readlink(f"/proc/{pid}/exe") == str(prefix / "bin/bpftimed")])
        self.assertNotEqual(harness.changed_code(target.pid), [])
        tool.finish()
        done = self.session.start([prefix / "bin/bpftime", "shutdown"], stdin=False)
        self.assertEqual(done.finish()[0], 0, done.stderr())
        self.assert_untouched(target)
        self.assert_nothing_left()


if __name__ == "__main__":
    harness.main()
