"""Targets and programs that do what no decent ones do: what is hit is theirs alone, and everybody else goes on."""
import errno
import json
import os
import pathlib
import random
import signal
import socket
import struct
import unittest

import harness
from harness import EndToEnd, until
from test_first_whole import counts
from test_torture import offset_of


class Hostile(EndToEnd):
    def hostile(self, *arguments):
        target = self.session.start([self.session.bin("hostile"), *arguments])
        target.expect("^ready")
        return target

    def traced(self, target, *arguments):
        tool = self.session.load("calls", "-i", *arguments, "-p", target.pid, self.session.bin("hostile"), "traced")
        tool.expect("^attached$")
        return tool

    def wild(self, target, what):
        path = self.session.bin("hostile")
        tool = self.session.load("wild", target.pid, path, offset_of(path, "traced"), what, options=["--unverified"])
        tool.expect("^attached$")
        return tool

    def call(self, target, n):
        target.ask(f"call {n}", rf"^called {n} sum {n * (n + 1) // 2}$")

    def status(self):
        return json.loads(self.session.bpftime("status", "--json")[0])

    def recursion_misses(self):
        """Of each program, as OBJ_GET_INFO_BY_FD has them."""
        ask = """if True:
            import ctypes, struct
            def bpf(command, *words):
                attr = ctypes.create_string_buffer(struct.pack("4I", *words))
                return ctypes.CDLL(None).syscall(321, command, attr, 16), struct.unpack("4I", attr.raw[:16])
            id = 0
            while True:
                status, words = bpf(11, id, 0, 0, 0)  # PROG_GET_NEXT_ID
                if status != 0:
                    break
                id = words[1]
                info = ctypes.create_string_buffer(232)
                address = ctypes.addressof(info)
                bpf(15, bpf(13, id, 0, 0, 0)[0], 232, address & 0xffffffff, address >> 32)
                print(struct.unpack_from("Q", info, 208)[0])  # bpf_prog_info::recursion_misses"""
        status, output = self.session.start([self.session.bin("bpftime"), "load", "python3", "-c", ask]).finish()
        self.assertEqual(status, 0)
        return [int(line) for line in output.split()]

    def ends_well(self, tools, targets):
        for tool in tools:
            self.assertEqual(tool.finish()[0], 0, tool.stderr())
        for target in targets:
            until("code restored", lambda: harness.changed_code(target.pid) == [])
            self.call(target, 3)
        self.session.bpftime("shutdown")
        self.assert_untouched(*targets)
        for target in targets:
            target.say("quit")
            self.assertEqual(target.finish()[0], 0)
        self.assert_nothing_left()


class Programs(Hostile):
    """Programs that no verifier would let pass: the hit ends, the link is disarmed and said so, the target goes on."""

    def is_disarmed(self, what, how):
        target = self.hostile()
        tool = self.wild(target, what)
        good = self.traced(target)
        self.call(target, 100)
        until("status says so", lambda: self.status()["probes"][0]["disarmed"])
        self.assertEqual(tool.ask("", r"^hits (\d+)").group(1), "1")
        self.assertEqual(counts(good)[:2], (100, 100))  # the other program at the place goes on
        self.assertIn("disarmed", self.session.bpftime("status")[0])
        log = next(self.session.runtime.rglob("broker.log")).read_text()
        self.assertIn(how, log)
        self.call(target, 100)
        self.assertEqual(counts(good)[:2], (200, 200))
        self.ends_well([tool, good], [target])

    def test_a_program_that_goes_round_for_ever(self):
        self.is_disarmed("loop", "used up its budget")

    def test_a_wild_read(self):
        self.is_disarmed("read", "faulted")

    def test_a_wild_write(self):
        self.is_disarmed("write", "faulted")

    def test_a_read_far_behind_the_context(self):
        self.is_disarmed("jump", "faulted")

    def test_a_bad_key_for_a_helper(self):
        self.is_disarmed("key", "faulted")

    def test_a_bad_value_for_a_helper_that_holds_a_lock(self):
        self.is_disarmed("update", "faulted")

    def test_a_write_far_below_its_stack(self):
        self.is_disarmed("deep", "faulted")

    def test_a_checked_read_of_a_bad_address_is_no_fault(self):
        target = self.hostile()
        tool = self.wild(target, "string")
        self.call(target, 100)
        self.assertEqual(tool.ask("", r"^hits (\d+)").group(1), "100")
        self.ends_well([tool], [target])

    def test_a_wild_program_in_a_target_that_blocks_every_signal(self):
        """Nothing can catch that fault (signal(7)): the target must not be armed for it, or must outlive it."""
        target = self.hostile()
        target.ask("block", "^blocked$")
        tool = self.wild(target, "string")
        self.call(target, 100)
        self.assertEqual(tool.ask("", r"^hits (\d+)").group(1), "100")
        self.ends_well([tool], [target])


class Signals(Hostile):
    def test_the_targets_own_fault_handler_from_before(self):
        target = self.hostile("early")
        tool = self.traced(target)
        for _ in range(3):
            target.ask("fault", "^faulted 1$")
            self.call(target, 10)
        self.assertEqual(counts(tool)[:2], (30, 30))
        self.ends_well([tool], [target])
        # and it is its own again afterwards

    def test_the_targets_own_fault_handler_is_back_afterwards(self):
        target = self.hostile("early")
        tool = self.traced(target)
        self.call(target, 10)
        tool.finish()
        self.session.bpftime("shutdown")
        target.ask("action", "^action is ours$")
        target.ask("fault", "^faulted 1$")
        self.assert_untouched(target)

    def test_the_agent_goes_while_a_thread_is_in_the_targets_own_fault_handler(self):
        target = self.hostile("early")
        tool = self.traced(target)
        self.call(target, 10)
        target.ask("linger", "^in the handler$")
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target)  # the handler does not return through what was unmapped
        target.ask("go on", "^lingered$")
        target.ask("fault", "^faulted 1$")

    def test_a_fault_handler_that_comes_later_is_the_targets_and_programs_faults_stay_ours(self):
        target = self.hostile()
        tool = self.wild(target, "read")
        target.ask("action", "^action is default$")
        target.ask("handler", "^handler set$")
        target.ask("action", "^action is ours$")
        self.call(target, 10)
        target.ask("fault", "^faulted 1$")
        until("the link is disarmed", lambda: self.status()["probes"][0]["disarmed"])
        tool.finish()
        self.session.bpftime("shutdown")
        target.ask("action", "^action is ours$")
        target.ask("fault", "^faulted 1$")
        self.assert_untouched(target)

    def test_signals_are_given_back_with_the_last_probe_and_taken_again_with_the_next(self):
        target = self.hostile()
        self.session.bpftime("attach", str(target.pid))
        for handler in ("default", "ours"):
            tool = self.traced(target)
            self.call(target, 10)
            self.assertEqual(counts(tool)[:2], (10, 10))
            target.ask("rawaction", "^raw action is another's$")
            tool.finish()
            until("the kernel's table is as before",
                  lambda: target.ask("rawaction", "^raw action is (.*)$").group(1) == handler)
            self.assertEqual([t["pid"] for t in self.status()["targets"]], [target.pid])
            target.ask("handler", "^handler set$")
            target.ask("rawaction", "^raw action is ours$")
            target.ask("fault", "^faulted 1$")
        tool = self.wild(target, "read")
        target.ask("action", "^action is ours$")
        self.call(target, 10)  # the program's fault is the agent's, not that of the target's handler
        until("the link is disarmed", lambda: self.status()["probes"][0]["disarmed"])
        target.ask("fault", "^faulted 1$")
        tool.finish()
        self.session.bpftime("shutdown")
        target.ask("rawaction", "^raw action is ours$")
        self.assert_untouched(target)

    def test_a_raw_sigaction_sees_and_sets_the_kernels_own_table(self):
        target = self.hostile()
        tool = self.traced(target)
        target.ask("action", "^action is default$")
        target.ask("rawaction", "^raw action is another's$")
        target.ask("rawhandler", "^raw handler set$")
        target.ask("fault", "^faulted 1$")
        self.call(target, 10)
        self.assertEqual(counts(tool)[:2], (10, 10))
        tool.finish()
        self.session.bpftime("shutdown")
        target.ask("rawaction", "^raw action is ours$")  # the target's later word stands
        target.ask("fault", "^faulted 1$")
        self.assert_untouched(target)

    def test_a_default_action_that_comes_later_kills_as_it_should(self):
        target = self.hostile("early")
        tool = self.traced(target)
        target.ask("default", "^default set$")
        target.say("fault")
        self.assertEqual(target.finish()[0], -signal.SIGSEGV)
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def test_blocked_signals(self):
        target = self.hostile()
        target.ask("block", "^blocked$")
        tool = self.traced(target)
        self.call(target, 1000)
        self.assertEqual(counts(tool)[:2], (1000, 1000))
        self.ends_well([tool], [target])

    def test_an_alternate_stack(self):
        target = self.hostile()
        tool = self.traced(target)
        target.ask("onstack 100 32768", "^onstack 0 sum 5050$")
        self.assertEqual(counts(tool)[:2], (100, 100))
        self.ends_well([tool], [target])

    def test_an_alternate_stack_without_room_for_a_hit_is_not_overrun_and_the_hits_count_as_missed(self):
        target = self.hostile()
        tool = self.traced(target, "-k")  # calls a helper at each entry: that takes a stack
        target.ask("onstack 100 6144", "^onstack 0 sum 5050$")
        self.assertEqual(counts(tool)[:2], (0, 100))
        self.assertEqual(self.status()["targets"][0]["missed"], 100)
        self.assertEqual([link["missed"] for link in json.loads(self.session.bpftime("link", "list", "--json")[0])], [100, 0])
        self.assertEqual(self.recursion_misses(), [100, 0])
        self.call(target, 10)
        self.assertEqual(counts(tool)[:2], (10, 110))
        self.ends_well([tool], [target])

    def test_a_program_that_calls_nothing_has_room_on_any_stack(self):
        target = self.hostile()
        tool = self.traced(target)
        target.ask("onstack 100 6144", "^onstack 0 sum 5050$")
        self.assertEqual(counts(tool)[:2], (100, 100))
        self.assertEqual(self.status()["targets"][0]["missed"], 0)
        self.ends_well([tool], [target])

    def test_jumps_out_of_probed_functions_from_a_handler(self):
        target = self.hostile()
        tool = self.traced(target)
        target.ask("jump 3000", "^jumped 3000$")
        self.call(target, 100)
        before = counts(tool)[0]
        self.call(target, 100)
        self.assertEqual(counts(tool)[0], before + 100)
        self.ends_well([tool], [target])


class Targets(Hostile):
    def test_a_target_that_closes_every_descriptor(self):
        target = self.hostile()
        tool = self.traced(target)
        self.call(target, 10)
        target.ask("closeall", "^closed 0$")
        self.call(target, 10)
        self.assertEqual(counts(tool)[:2], (20, 20))
        self.ends_well([tool], [target])

    def test_a_target_that_closed_every_descriptor_can_be_probed_anew(self):
        target = self.hostile()
        first = self.traced(target)
        target.ask("closeall", "^closed 0$")
        second = self.traced(target)
        self.call(target, 10)
        self.assertEqual(counts(first)[:2], (10, 10))
        self.assertEqual(counts(second)[:2], (10, 10))
        self.ends_well([first, second], [target])

    def test_a_child_that_closes_every_descriptor_before_its_first_hit_goes_on_and_is_restored_in_the_end(self):
        target = self.hostile()
        tool = self.traced(target)
        child = int(target.ask("daemon 20", r"^daemon (\d+) sum 210$").group(1))
        self.call(target, 5)
        self.assertEqual(counts(tool)[:2], (5, 5))  # nobody hears of that child
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_untouched(target, child)
        self.assert_nothing_left()

    def test_a_target_that_sends_nonsense(self):
        target, other = self.hostile(), self.hostile()
        tool = self.traced(target)
        second = self.traced(other)
        broker, = self.session.brokers()
        before = len(os.listdir(f"/proc/{broker}/fd"))
        self.assertGreater(int(target.ask("garbage 500", r"^sent (\d+)").group(1)), 100)
        self.call(other, 10)
        self.assertEqual(counts(second)[:2], (10, 10))
        self.assertEqual(self.session.brokers(), [broker])
        self.assertLess(len(os.listdir(f"/proc/{broker}/fd")), before + 8)
        tool.finish()
        self.ends_well([second], [other])

    def scribbled(self, what):
        target, other = self.hostile(), self.hostile()
        tool = self.traced(target)
        second = self.traced(other)
        self.call(target, 10)
        broker, = self.session.brokers()
        self.assertGreater(int(target.ask(f"scribble {what}", r"^scribbled (\d+)").group(1)), 0)
        self.status()
        self.call(other, 10)
        self.assertEqual(counts(second)[:2], (10, 10))
        tool.kill()
        tool.wait()
        self.call(other, 10)
        self.assertEqual(counts(second)[:2], (20, 20))
        self.assertEqual(self.session.brokers(), [broker])
        target.kill()
        target.wait()
        self.ends_well([second], [other])

    def test_a_target_that_scribbles_over_a_map(self):
        self.scribbled("memfd:bpftime-map")

    def test_a_target_that_scribbles_over_its_arena(self):
        self.scribbled("memfd:bpftime-arena")

    def test_a_target_that_execs(self):
        target = self.hostile()
        tool = self.traced(target)
        self.call(target, 10)
        target.ask("exec", "^ready")
        self.call(target, 10)
        self.assertEqual(counts(tool)[:2], (20, 20))
        self.ends_well([tool], [target])

    def test_unshare_of_the_user_namespace_works_in_a_target(self):
        plain = self.hostile()
        want = plain.ask("unshare", "^unshare (.*)$").group(1)
        target = self.hostile()
        tool = self.traced(target)
        self.call(target, 5)
        self.assertEqual(target.ask("unshare", "^unshare (.*)$").group(1), want)
        self.call(target, 5)
        self.assertEqual(counts(tool)[:2], (10, 10))
        tool.kill()

    def test_a_stopped_target_is_attached_to_and_stays_stopped(self):
        target = self.hostile()
        status = pathlib.Path(f"/proc/{target.pid}/status")
        reads = pathlib.Path(f"/proc/{target.pid}/syscall")
        until("waiting for what to do", lambda: reads.read_text().startswith("0 "))
        os.kill(target.pid, signal.SIGSTOP)

        def stays_stopped():  # it needs a CPU to come to where it was
            until("stopped", lambda: "T (stopped)" in status.read_text())

        stays_stopped()
        tool = self.traced(target)
        self.session.bpftime("attach", str(target.pid))
        stays_stopped()
        tool.kill()
        tool.finish()
        self.session.bpftime("detach", str(target.pid))
        stays_stopped()
        tool = self.traced(target)
        stays_stopped()
        self.assertIn("TracerPid:\t0", status.read_text())
        os.kill(target.pid, signal.SIGCONT)
        self.call(target, 10)
        self.assertEqual(counts(tool)[:2], (10, 10))
        self.ends_well([tool], [target])

    def test_vfork_and_spawn(self):
        target = self.hostile()
        tool = self.traced(target)
        target.ask("vfork 50", "^children 50$")
        target.ask("spawn 50", "^children 50$")
        self.call(target, 10)
        self.ends_well([tool], [target])

    def test_a_thousand_threads(self):
        target = self.hostile()
        tool = self.traced(target)
        target.ask("threads 1000", "^threads 1000 sum 5050000$")
        self.assertEqual(counts(tool)[:2], (100000, 100000))
        self.ends_well([tool], [target])

    def test_a_target_that_ends_while_it_is_attached_to(self):
        for n in range(20):
            target = self.hostile()
            tool = self.session.load("calls", "-i", "-p", target.pid, self.session.bin("hostile"), "traced")
            if n % 2:
                target.say("quit")
            else:
                target.kill()
            status, _ = tool.finish()
            self.assertIn(status, (0, 1))
            target.wait()
        other = self.hostile()
        tool = self.traced(other)
        self.call(other, 10)
        self.assertEqual(counts(tool)[:2], (10, 10))
        self.ends_well([tool], [other])

    def one_line(self, target):
        output, errors = self.session.bpftime("attach", str(target.pid), status=None)
        self.assertEqual(output, "")
        self.assertEqual(len(errors.strip().splitlines()), 1, errors)
        self.assertTrue(errors.startswith("bpftime: "), errors)
        return errors

    def test_a_target_under_a_tracer_is_one_line(self):
        target = self.hostile()
        tracer = self.session.start(["strace", "-f", "-o", "/dev/null", "-p", target.pid])
        until("traced", lambda: f"TracerPid:\t0" not in pathlib.Path(f"/proc/{target.pid}/status").read_text())
        self.assertIn("traced by another", self.one_line(target))
        self.call(target, 10)
        tracer.kill(signal.SIGINT)
        tracer.finish()
        tool = self.traced(target)
        self.call(target, 10)
        self.ends_well([tool], [target])

    def test_a_target_that_may_not_be_traced_is_one_line(self):
        target = self.hostile()
        target.ask("undumpable", "^undumpable 0$")
        self.assertRegex(self.one_line(target), r"not dumpable \(.*PR_SET_DUMPABLE.*only root")
        self.call(target, 10)

    def test_a_target_without_room_for_the_agent_is_one_line_and_nothing_stays_in_it(self):
        for limit in ("data", "as"):
            target = self.session.start(["prlimit", f"--{limit}=67108864:", self.session.bin("hostile")])
            target.expect("^ready")
            error = self.session.bpftime("attach", str(target.pid), status=1)[1]
            self.assertRegex(error, rf"^bpftime: attach {target.pid}: .*Cannot allocate memory.*; .*\n$")
            self.assert_untouched(target)
            self.call(target, 3)
            raised = self.session.start(["prlimit", f"--pid={target.pid}", f"--{limit}=unlimited:"])
            self.assertEqual(raised.finish()[0], 0, raised.stderr())
            tool = self.traced(target)
            self.call(target, 3)
            self.assertEqual(counts(tool)[:2], (3, 3))
            self.ends_well([tool], [target])

    def test_a_target_whose_main_thread_has_ended_is_one_line(self):
        target = self.hostile("headless")
        until("the main thread has ended",
              lambda: "State:\tZ" in pathlib.Path(f"/proc/{target.pid}/status").read_text())
        error = self.session.bpftime("attach", str(target.pid), status=1)[1]
        self.assertRegex(error, rf"^bpftime: attach {target.pid}: its main thread has ended before the others.*; .*\n$")
        self.call(target, 3)
        self.assertIn("its main thread has ended", self.session.bpftime("doctor", str(target.pid), status=1)[0])

    def test_a_target_that_becomes_undumpable_later(self):
        target, other = self.hostile(), self.hostile()
        tool = self.traced(target)
        second = self.traced(other)
        target.ask("undumpable", "^undumpable 0$")
        self.call(target, 10)
        self.assertEqual(counts(tool)[:2], (10, 10))
        tool.finish()
        self.call(other, 10)
        self.assertEqual(counts(second)[:2], (10, 10))
        target.ask("dumpable", "^dumpable 0$")
        self.call(target, 10)
        target.kill()
        target.wait()
        self.ends_well([second], [other])


class Loaders(Hostile):
    """Bytes that no shim sends. The broker and the loaders that behave go on."""

    HELLO, BPF, PERF_OPEN, PERF_IOCTL, REGION, STATUS = 1, 3, 4, 5, 6, 23

    def connect(self):
        path = next(p for p in self.session.runtime.rglob("broker.sock"))
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channels.append(channel)
        channel.settimeout(5)
        channel.connect(str(path))
        return channel

    def packet(self, kind, body, size=None, version=1):
        return struct.pack("<IHHQ", 16 + len(body) if size is None else size, kind, version, 7) + body

    def request(self, kind, command=0, attr=b"", args=(0, 0, 0, 0), refs=b"", payloads=b"", flags=0, counts=None):
        ref_count, payload_count = counts or (len(refs) // 24, 0)
        attr += bytes(-len(attr) % 8)
        return self.packet(kind, struct.pack("<II4qIIII", command, len(attr), *args, ref_count, payload_count, flags, 0) +
                           attr + refs + payloads)

    def hello(self):
        channel = self.connect()
        channel.send(self.request(self.HELLO, args=(1, 0, 0, 0)))
        self.assertGreater(len(channel.recv(65536)), 16)
        return channel

    def value(self, channel, packet):
        channel.send(packet)
        return struct.unpack_from("<q", channel.recv(65536), 16)[0]

    def map_create(self, key=4, value=8, entries=1, kind=2):
        return self.request(self.BPF, 0, struct.pack("<IIIII", kind, key, value, entries, 0).ljust(256, b"\0"))

    def with_a_witness(self, attack):
        target = self.hostile()
        tool = self.traced(target)
        broker, = self.session.brokers()
        fds = len(os.listdir(f"/proc/{broker}/fd"))
        self.channels = []
        attack()
        for channel in self.channels:
            channel.close()
        self.call(target, 10)
        self.assertEqual(counts(tool)[:2], (10, 10))
        self.assertEqual(self.session.brokers(), [broker])
        until("its descriptors are closed", lambda: len(os.listdir(f"/proc/{broker}/fd")) < fds + 4)
        self.ends_well([tool], [target])

    def test_truncated_oversized_and_random_packets(self):
        def attack():
            dice = random.Random(7)
            whole = self.request(self.BPF, 5, bytes(256), refs=bytes(48))
            for size in range(0, len(whole)):
                channel = self.hello() if size % 2 else self.connect()
                channel.send(whole[:size])
                channel.close()
            for _ in range(300):
                channel = self.hello()
                broken = bytearray(whole)
                for _ in range(dice.randrange(1, 12)):
                    broken[dice.randrange(len(broken))] = dice.randrange(256)
                struct.pack_into("<I", broken, 0, len(broken))
                try:
                    channel.send(bytes(broken))
                    channel.recv(65536)
                except (TimeoutError, OSError):
                    pass
                channel.close()
            channel = self.hello()
            channel.send(self.packet(self.BPF, bytes(60000)))
            channel = self.connect()
            with self.assertRaises(OSError):
                channel.send(bytes(4 << 20))
        self.with_a_witness(attack)

    def test_counts_and_sizes_that_lie(self):
        def attack():
            for counts_said in ((1 << 31, 0), (0, 1 << 31), (256, 16), (0xffffffff, 0xffffffff)):
                channel = self.hello()
                channel.send(self.request(self.BPF, 5, bytes(256), counts=counts_said))
                self.assertEqual(channel.recv(65536), b"")
            for size in (1 << 63, (1 << 64) - 1, 64 << 20, (64 << 20) + 1):
                channel = self.hello()
                channel.send(self.request(self.BPF, 5, bytes(256), payloads=struct.pack("<IIQ", 8, 0, size), counts=(0, 1)))
                self.assertEqual(channel.recv(65536), b"")
        self.with_a_witness(attack)

    def test_descriptors_of_all_sorts(self):
        def attack():
            reader, writer = os.pipe()
            memfd = os.memfd_create("small")
            directory = os.open("/proc/self", os.O_RDONLY)
            for flags in (0, 1):
                for fds in ([reader], [writer], [memfd], [directory], [memfd] * 8, [memfd] * 200):
                    for kind in (self.BPF, self.PERF_OPEN, self.PERF_IOCTL, self.REGION):
                        channel = self.hello()
                        socket.send_fds(channel, [self.request(kind, 5, bytes(256), flags=flags,
                                                               payloads=struct.pack("<IIQ", 8, 0, 64), counts=(0, 1))], fds)
                        channel.settimeout(2)
                        try:
                            channel.recv(65536)
                        except ConnectionError:
                            pass
                        channel.close()
            for fd in (reader, writer, memfd, directory):
                os.close(fd)
        self.with_a_witness(attack)

    def test_huge_maps_and_thousands_of_objects(self):
        def attack():
            channel = self.hello()
            for key, value, entries in ((4, 8, 0xffffffff), (4, 1 << 31, 1), (4, 0xfffffff8, 0xffffffff), (512, 1 << 20, 1 << 24)):
                self.assertLess(self.value(channel, self.map_create(key, value, entries, kind=1)), 0)
            held, errors = [], set()
            for _ in range(20000):
                channel.send(self.map_create())
                reply, fds, _, _ = socket.recv_fds(channel, 65536, 4)
                value = struct.unpack_from("<q", reply, 16)[0]
                if value < 0:
                    errors.add(-value)
                    break
                held += fds
                if len(held) > 900:  # the test's own limit
                    break
            self.assertLessEqual(errors, {errno.EMFILE, errno.ENFILE, errno.ENOMEM})
            for fd in held:
                os.close(fd)
            channel.close()
        self.with_a_witness(attack)

    def test_a_thousand_connections(self):
        def attack():
            held = []
            for _ in range(900):
                try:
                    held.append(self.connect())
                except OSError:
                    break
            for channel in held:
                channel.close()
        self.with_a_witness(attack)

    def test_a_loader_that_never_reads_its_answers(self):
        def attack():
            channel = self.hello()
            channel.settimeout(0.2)
            try:
                for _ in range(100000):
                    channel.send(self.request(self.STATUS))
            except OSError:
                pass
            channel.close()
        self.with_a_witness(attack)


class Makes(Hostile):
    """Targets linked in every way, attached to while they run and started."""

    def make(self, name, *options):
        path = self.session.bin(name)
        for prefix in ([], [self.session.bin("bpftime"), "start"]):
            target = self.session.start([*prefix, path])
            target.expect("^ready")
            tool = self.session.load("calls", "-i", *options, "-p", target.pid, path, "traced")
            tool.expect("^attached$")
            returns = 0 if "-e" in options else 1
            self.call(target, 100)
            self.assertEqual(counts(tool)[:2], (100, 100 * returns))
            target.ask("threads 50", "^threads 50 sum 252500$")
            self.assertEqual(counts(tool)[:2], (5100, 5100 * returns))
            target.ask("handler", "^handler set$")
            target.ask("fault", "^faulted 1$")
            self.assertEqual(tool.finish()[0], 0)
            self.session.bpftime("detach", "--all", status=None)
            self.session.bpftime("shutdown")
            self.assert_untouched(target)
            target.say("quit")
            self.assertEqual(target.finish()[0], 0)
        # and from its first instruction on
        tool = self.session.load("calls", "-i", *options, path, "traced")
        tool.expect("^attached$")
        target = self.session.start([self.session.bin("bpftime"), "start", path])
        target.expect("^ready")
        self.call(target, 100)
        self.assertEqual(counts(tool)[:2], (100, 100 * returns))
        target.say("quit")
        self.assertEqual(target.finish()[0], 0)
        tool.finish()
        self.session.bpftime("shutdown")
        self.assert_nothing_left()

    def refuses_return_probes(self, name):
        path = self.session.bin(name)
        target = self.session.start([path])
        target.expect("^ready")
        tool = self.session.load("calls", "-r", "-i", "-p", target.pid, path, "traced")
        self.assertEqual(tool.finish()[0], 1)
        self.assertIn("Operation not supported", tool.stderr())
        self.call(target, 10)
        self.session.bpftime("shutdown")
        self.assert_untouched(target)

    def test_dynamic(self):
        self.make("hostile")

    def test_at_a_fixed_address(self):
        self.make("hostile_fixed")

    def test_static(self):
        self.make("hostile_static", "-e")
        self.refuses_return_probes("hostile_static")

    def test_musl(self):
        self.make("hostile_musl", "-e")
        self.refuses_return_probes("hostile_musl")

    def test_musl_static(self):
        self.make("hostile_musl_static", "-e")


if __name__ == "__main__":
    harness.main()
