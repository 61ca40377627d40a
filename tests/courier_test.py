#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The courier as a user meets it: processes, sockets, signals, exit codes.

usage: courier_test.py COURIER [unittest arguments]

HAWSER_TEST_BACKEND chooses the reactor, HAWSER_TEST_SEED repeats a run. Exits with 77 when
something could not run here and nothing failed.
"""
import contextlib
import filecmp
import json
import os
import random
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

from support.programs import BACKEND, PATIENCE, SEED, ProgramCase, run_tests, take_paths

COURIER = ""
STAGING = b".courier-partial"


def describe(root):
    """Path by path, what a copy has to keep."""
    root = os.fsencode(root)
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [b""] + folders + files:
            path = os.path.join(folder, name) if name else folder
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            target = os.readlink(path) if kind == stat.S_IFLNK else None
            size = info.st_size if kind == stat.S_IFREG else None
            found[os.path.relpath(path, root)] = (info.st_mode, info.st_mtime_ns, size, target)
    return found


def differing_files(one, other):
    """Names of files in `one` whose contents differ from those in `other`."""
    one, other = os.fsencode(one), os.fsencode(other)
    bad = []
    for folder, _, files in os.walk(one):
        for name in files:
            path = os.path.join(folder, name)
            twin = os.path.join(other, os.path.relpath(path, one))
            if os.path.isfile(path) and not os.path.islink(path):
                if not filecmp.cmp(path, twin, shallow=False):
                    bad.append(path)
    return bad


def bytes_below(root):
    """How many bytes of files there are, complete or not."""
    total = 0
    for folder, _, files in os.walk(os.fsencode(root)):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                info = os.lstat(os.path.join(folder, name))
                total += info.st_size if stat.S_ISREG(info.st_mode) else 0
    return total


def write(path, data, mode=None):
    with open(path, "wb") as out:
        out.write(data)
    if mode is not None:
        os.chmod(path, mode)


class Case(ProgramCase):
    def setUp(self):
        super().setUp()
        self.random = random.Random(f"{SEED} {self.id()}")
        os.chmod(self.work, 0o755)
        self.source = os.path.join(self.work, "source")
        self.target = os.path.join(self.work, "target")
        os.mkdir(self.source)
        os.mkdir(self.target)
        self.servers = 0

    def courier(self, *arguments, prefix=(), **options):
        return self.start(*prefix, COURIER, *arguments, **options)

    def serve(self, uri=None, *more, folder=None, **options):
        """Starts a server; returns it and the address it says it has."""
        self.servers += 1
        uri = uri or f"unix:{self.work}/{self.servers}.sock"
        log = open(os.path.join(self.work, f"server-{self.servers}.log"), "wb")
        with log:
            server = self.courier("serve", "--backend", BACKEND, uri, folder or self.target, *more,
                                  stderr=log, **options)
        line = server.stdout.readline().decode()
        if not line.startswith("listening on "):
            server.wait(PATIENCE)
            with open(log.name, encoding="utf-8", errors="replace") as text:
                self.fail(f"the server said {line!r} and {text.read()!r}")
        return server, line[len("listening on "):].strip()

    def send(self, uri, *more, source=None, **options):
        """Sends to the end; returns exit code, output and errors."""
        process = self.start_sender(uri, *more, source=source, **options)
        return self.outcome(process)

    def start_sender(self, uri, *more, source=None, **options):
        return self.courier("send", "--backend", BACKEND, "--json", source or self.source, uri,
                            *more, **options)

    def outcome(self, process):
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, *((text or b"").decode(errors="replace") for text in (out, err))

    def stop(self, server):
        server.send_signal(signal.SIGTERM)
        return server.wait(PATIENCE)

    def figures(self, out):
        return json.loads(out.strip().splitlines()[-1])

    def wait_until(self, condition, what):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.002)  # sleeps: polls another process

    def assert_same(self, source=None, target=None):
        source, target = source or self.source, target or self.target
        ours, theirs = describe(source), describe(target)
        self.assertEqual(ours.keys(), theirs.keys())
        for path, looks in ours.items():
            self.assertEqual(looks, theirs[path], path)
        self.assertEqual(differing_files(source, target), [])

    def assert_copied(self, result):
        code, out, err = result
        self.assertEqual(code, 0, out + err)
        return self.figures(out)

    def random_tree(self, folder, large, small):
        os.makedirs(folder, exist_ok=True)
        for number, size in enumerate(large):
            write(os.path.join(folder, f"large {number}"), self.random.randbytes(size))
        for number in range(small):
            inner = os.path.join(folder, f"folder {number % 7}")
            os.makedirs(inner, exist_ok=True)
            write(os.path.join(inner, f"{number}"), self.random.randbytes(number * 37 % 20000))


class Copies(Case):
    def make_odd_tree(self):
        root = os.fsencode(self.source)
        at = lambda *names: os.path.join(root, *names)
        os.makedirs(at(b"a", b"b", b"c"))
        os.mkdir(at(b"empty folder"))
        os.mkdir(at(b"sticky"))
        os.mkdir(at(b"closed"))
        write(at(b"empty"), b"")
        write(at(b"closed", b"inside"), b"inside")
        write(at(b"a", b"read-only"), b"r" * 1000, 0o400)
        write(at(b"a", b"program"), b"#!/bin/sh\n", 0o751)
        write(at(b"a", b"set-id"), b"#!/bin/sh\n", 0o6755)
        write(at(b"a", b"no rights"), b"secret", 0o000)
        write(at(b"\xff\xfe not UTF-8"), b"odd")
        write(at(b"new\nline \x1b[31m"), b"odd")
        write(at(b"n" * 255), b"long")
        write(at(b"a", b"large"), self.random.randbytes(5_000_000))
        os.link(at(b"a", b"large"), at(b"hard link"))
        os.symlink(b"nowhere", at(b"dangling"))
        os.symlink(b"/", at(b"a", b"root"))
        os.symlink(b"\xff/..//", at(b"a", b"b", b"odd target"))
        with open(at(b"sparse"), "wb") as out:
            out.seek(3_000_000)
            out.write(b"island")
            out.truncate(50_000_000)
        with open(at(b"only a hole"), "wb") as out:
            out.truncate(10_000_000)
        os.chmod(at(b"sticky"), 0o3777)
        for number, path in enumerate(sorted(describe(root))):
            moment = (-10**9 if number % 2 else 4 * 10**9) * 10**9 + number * 1_000_003
            os.utime(os.path.join(root, path), ns=(0, moment), follow_symlinks=False)
        os.chmod(at(b"closed"), 0o500)
        os.utime(at(b"closed"), ns=(0, 1_234_567_890_123_456_789))

    def check_odd_tree(self, uri):
        self.make_odd_tree()
        server, uri = self.serve(uri)

        figures = self.assert_copied(self.send(uri))

        self.assert_same()
        self.assertEqual(figures["failed"], 0)
        self.assertLess(figures["bytes_sent"], 12_000_000, "holes were sent")
        sparse = os.stat(os.path.join(self.target, "sparse"))
        if os.stat(os.path.join(self.source, "sparse")).st_blocks * 512 < 1_000_000:
            self.assertLess(sparse.st_blocks * 512, 1_000_000, "a hole was filled")
        again = self.assert_copied(self.send(uri))
        self.assertEqual(again["bytes_sent"], 0)
        self.assert_same()
        self.assertEqual(self.stop(server), 0)

    def test_odd_tree_over_unix(self):
        self.check_odd_tree(f"unix:{self.work}/courier.sock")

    def test_odd_tree_over_tcp(self):
        self.check_odd_tree("tcp://127.0.0.1:0")

    def test_odd_tree_over_one_socket(self):
        self.check_odd_tree("tcp://127.0.0.1:0?channels=1")

    def test_many_small_files_and_some_large(self):
        self.random_tree(self.source, [3_000_000, 1 << 20, (1 << 20) - 40, 1], 3000)
        _, uri = self.serve()
        figures = self.assert_copied(self.send(uri))
        self.assert_same()
        self.assertGreater(figures["pings"], 0)

    def test_an_empty_tree(self):
        _, uri = self.serve()
        self.assert_copied(self.send(uri))
        self.assert_same()

    def test_sockets_and_pipes_are_skipped_with_a_notice(self):
        os.mkfifo(os.path.join(self.source, "pipe"))
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.join(self.source, "socket"))
            write(os.path.join(self.source, "file"), b"file")
            _, uri = self.serve()
            code, out, err = self.send(uri)
        self.assertEqual(code, 0, err)
        self.assertIn("pipe: skipped", err)
        self.assertIn("socket: skipped", err)
        self.assertEqual(os.listdir(self.target), ["file"])

    def test_changed_files_replace_old_ones(self):
        self.random_tree(self.source, [100_000], 20)
        _, uri = self.serve()
        self.assert_copied(self.send(uri))
        write(os.path.join(self.source, "large 0"), b"short")
        write(os.path.join(self.source, "folder 1", "1"), self.random.randbytes(50_000))
        self.assert_copied(self.send(uri))
        self.assert_same()

    def test_two_trees_at_once_into_one_server(self):
        other = os.path.join(self.work, "other")
        self.random_tree(os.path.join(self.source, "a"), [20_000_000], 300)
        self.random_tree(os.path.join(other, "b"), [20_000_000], 300)
        _, uri = self.serve()
        senders = [self.start_sender(uri), self.start_sender(uri, source=other)]
        for sender in senders:
            self.assert_copied(self.outcome(sender))
        self.assertEqual(sorted(os.listdir(self.target)), ["a", "b"])
        for name, source in (("a", self.source), ("b", other)):
            self.assert_same(os.path.join(source, name), os.path.join(self.target, name))

    def test_serve_once_ends_with_the_first_transfer(self):
        write(os.path.join(self.source, "file"), b"file")
        server, uri = self.serve(None, "--once")
        self.assert_copied(self.send(uri))
        self.assertEqual(server.wait(PATIENCE), 0)

    def test_plain_lines_where_there_is_no_terminal(self):
        write(os.path.join(self.source, "file"), b"file")
        _, uri = self.serve()
        code, out, err = self.send(uri)
        self.assertEqual(code, 0, err)
        self.assertIn("100 %", err)
        self.assertNotIn("\r", err)
        self.assertRegex(out, r"p50 [0-9.]+ ms, p99 [0-9.]+ ms")

    def test_a_bar_on_a_terminal(self):
        self.random_tree(self.source, [50_000_000], 100)
        _, uri = self.serve()
        ours, theirs = self.open_terminal()
        sender = self.start_sender(uri, stderr=theirs)
        os.close(theirs)
        drawn = self.rest_of(ours)
        self.assert_copied(self.outcome(sender))
        self.assertIn(b"\r[", drawn)
        self.assertIn(b"100 %", drawn)


class Interruptions(Case):
    """Killed anywhere, a transfer goes on where it was."""
    LARGE = 60_000_000

    def make_tree(self):
        self.random_tree(self.source, [self.LARGE, 20_000_000], 400)
        return bytes_below(self.source)

    def kill_when(self, victim, share, total, other):
        goal = share * total
        self.wait_until(lambda: bytes_below(self.target) >= goal or other.poll() is not None,
                        "no progress")
        victim.kill()
        victim.wait()

    def check_resumed(self, uri, total):
        kept = bytes_below(self.target)
        code, out, err = self.send(uri)
        self.assertEqual(code, 0, out + err)
        figures = self.figures(out)
        resent = figures["bytes_sent"] + kept - total
        print(f"  {kept} of {total} bytes had arrived, {resent} came again", file=sys.stderr)
        self.assertLessEqual(resent, 0.05 * kept)
        self.assertEqual(figures["bytes_resent"], 0)
        self.assert_same()

    def check_killed_sender(self, share):
        total = self.make_tree()
        _, uri = self.serve("tcp://127.0.0.1:0")
        sender = self.start_sender(uri)
        self.kill_when(sender, share, total, sender)
        # What was on its way is still written: the same server takes the second transfer when it
        # has noticed the end of the first.
        self.wait_until(lambda: self.quiet(), "the server does not come to rest")
        self.check_resumed(uri, total)

    def quiet(self):
        before = bytes_below(self.target)
        time.sleep(0.3)  # sleeps: nothing tells that a server has nothing left to write
        return bytes_below(self.target) == before

    def check_killed_server(self, share):
        total = self.make_tree()
        server, uri = self.serve("tcp://127.0.0.1:0")
        sender = self.start_sender(uri)
        self.kill_when(server, share, total, sender)
        code, out, err = self.outcome(sender)
        if code != 0:  # else it was faster than the kill
            self.assertEqual(code, 1, out + err)
            self.assertIn("courier: ", err)
        _, uri = self.serve("tcp://127.0.0.1:0")
        self.check_resumed(uri, total)

    def test_killed_sender(self):
        for _ in range(3):
            with self.subTest(share=(share := self.random.random())):
                self.check_killed_sender(share)
            self.empty_target()

    def test_killed_server(self):
        for _ in range(3):
            with self.subTest(share=(share := self.random.random())):
                self.check_killed_server(share)
            self.empty_target()

    def empty_target(self):
        for folder in (self.source, self.target):
            shutil.rmtree(folder)
            os.mkdir(folder)

    def test_killed_again_and_again(self):
        total = self.make_tree()
        for share in sorted(self.random.random() for _ in range(4)):
            server, uri = self.serve("tcp://127.0.0.1:0")
            sender = self.start_sender(uri)
            self.kill_when(self.random.choice([server, sender]), share, total, sender)
            server.kill()
            sender.kill()
            server.wait()
        _, uri = self.serve("tcp://127.0.0.1:0")
        self.check_resumed(uri, total)

    def test_a_partial_file_that_was_damaged_is_sent_again(self):
        total = self.make_tree()
        server, uri = self.serve()
        sender = self.start_sender(uri)
        self.kill_when(server, 0.3, total, sender)
        self.outcome(sender)
        staging = os.path.join(os.fsencode(self.target), STAGING)
        damaged = 0
        for folder, _, files in os.walk(staging):
            for name in files:
                path = os.path.join(folder, name)
                if os.path.getsize(path) > 1000:
                    with open(path, "r+b") as file:
                        file.write(b"damaged")
                    damaged += 1
        _, uri = self.serve()
        figures = self.assert_copied(self.send(uri))
        self.assert_same()
        if damaged:
            self.assertGreater(figures["bytes_resent"], 0)

    def start_and_interrupt(self, uri, *more):
        self.random_tree(self.source, [200_000_000, 200_000_000], 10)
        sender = self.start_sender(uri, *more)
        self.wait_until(lambda: bytes_below(self.target) > 2_000_000 or sender.poll() is not None,
                        "no progress")
        sender.send_signal(signal.SIGINT)
        return self.outcome(sender)

    def test_an_interrupt_cancels_and_leaves_nothing_half_written(self):
        server, uri = self.serve()
        code, out, err = self.start_and_interrupt(uri)
        if code == 0:
            self.skipTest("the transfer was faster than the signal")
        self.assertEqual(code, 1, out + err)
        self.assertIn("cancelled", err)
        self.assertNotIn(os.fsdecode(STAGING), os.listdir(self.target))
        self.assertEqual(differing_files(self.target, self.source), [])
        self.assertIsNone(server.poll())
        self.assert_copied(self.send(uri))
        self.assert_same()

    def test_an_interrupt_can_keep_what_has_arrived(self):
        _, uri = self.serve()
        code, out, err = self.start_and_interrupt(uri, "--keep-partial")
        if code == 0:
            self.skipTest("the transfer was faster than the signal")
        self.assertIn("cancelled", err)
        self.assertIn(os.fsdecode(STAGING), os.listdir(self.target))
        self.check_resumed(uri, bytes_below(self.source))

    def test_a_stopped_server_keeps_what_has_arrived(self):
        total = self.make_tree()
        server, uri = self.serve()
        sender = self.start_sender(uri)
        self.wait_until(lambda: bytes_below(self.target) > 0 or sender.poll() is not None,
                        "no progress")
        self.stop(server)
        self.outcome(sender)
        _, uri = self.serve()
        self.check_resumed(uri, total)


class Failures(Case):
    def check(self, code, *arguments, says=()):
        result = self.outcome(self.courier(*arguments))
        self.assertEqual(result[0], code, result)
        for text in says:
            self.assertIn(text, result[1] + result[2])

    def as_nobody(self):
        """What to put before a command so that file permissions count for it."""
        if os.geteuid() != 0:
            return []
        wrapped = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if not shutil.which("setpriv") or subprocess.run(
                [*wrapped, COURIER, "--help"], capture_output=True, check=False).returncode != 0:
            self.skipTest("cannot give up the rights of root here")
        return wrapped

    def test_bad_command_lines(self):
        self.check(2)
        self.check(2, "carry")
        self.check(2, "serve")
        self.check(2, "serve", "tcp://127.0.0.1:0")
        self.check(2, "send", self.source)
        self.check(2, "send", self.source, "tcp://127.0.0.1:1", "too much")
        self.check(2, "send", "--lanes", "0", self.source, "tcp://127.0.0.1:1")
        self.check(2, "send", "--backend", "abacus", self.source, "tcp://127.0.0.1:1")
        self.check(2, "send", "--no-such-option", self.source, "tcp://127.0.0.1:1")
        self.check(0, "--help", says=["serve", "send"])

    def test_bad_uris(self):
        for uri in ("nonsense", "http://localhost:1", "tcp://127.0.0.1", "tcp://127.0.0.1:99999",
                    "unix:", "tcp://127.0.0.1:1?no-such-option=1"):
            self.check(2, "serve", uri, self.target, says=["courier: "])
            self.check(2, "send", self.source, uri, says=["courier: "])

    def test_missing_folders(self):
        missing = os.path.join(self.work, "missing")
        file = os.path.join(self.work, "file")
        write(file, b"")
        self.check(1, "serve", "tcp://127.0.0.1:0", missing, says=[missing, "No such file"])
        self.check(1, "send", missing, "tcp://127.0.0.1:1", says=[missing, "No such file"])
        self.check(1, "serve", "tcp://127.0.0.1:0", file, says=[file, "Not a directory"])
        self.check(1, "send", file, "tcp://127.0.0.1:1", says=[file, "Not a directory"])

    def test_a_port_or_path_in_use(self):
        for uri in ("tcp://127.0.0.1:0", f"unix:{self.work}/used.sock"):
            _, uri = self.serve(uri)
            place = uri.split(":", 1)[1].lstrip("/")
            self.check(1, "serve", uri, self.target, says=[place])

    def test_nobody_listens(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            self.check(1, "send", self.source, f"tcp://127.0.0.1:{port}", says=[str(port)])
        path = f"{self.work}/nobody.sock"
        self.check(1, "send", self.source, f"unix:{path}", says=[path])

    def test_a_folder_that_cannot_be_written(self):
        os.chmod(self.target, 0o555)
        write(os.path.join(self.source, "file"), b"file")
        _, uri = self.serve("tcp://127.0.0.1:0", prefix=self.as_nobody())
        code, _, err = self.send(uri)
        self.assertEqual(code, 1)
        self.assertIn("ermission denied", err)

    def test_unreadable_files_are_told_and_the_rest_is_copied(self):
        write(os.path.join(self.source, "secret"), b"secret", 0o000)
        write(os.path.join(self.source, "public"), b"public", 0o644)
        os.mkdir(os.path.join(self.source, "closed"), 0o000)
        _, uri = self.serve("tcp://127.0.0.1:0")
        code, out, err = self.send(uri, prefix=self.as_nobody())
        self.assertEqual(code, 1, out + err)
        self.assertIn("secret: Permission denied", err)
        self.assertIn("closed", err)
        self.assertEqual(sorted(os.listdir(self.target)), ["closed", "public"])

    def test_a_link_in_the_target_leads_nobody_out(self):
        outside = os.path.join(self.work, "outside")
        os.mkdir(outside)
        os.symlink(outside, os.path.join(self.target, "folder"))
        os.mkdir(os.path.join(self.source, "folder"))
        write(os.path.join(self.source, "folder", "file"), b"file")
        write(os.path.join(self.source, "other"), b"other")
        _, uri = self.serve()
        code, out, err = self.send(uri)
        self.assertEqual(code, 1, out + err)
        self.assertIn("folder", err)
        self.assertEqual(os.listdir(outside), [])
        self.assertEqual(sorted(os.listdir(self.target)), ["folder", "other"])

    def test_a_file_too_large_for_the_target(self):
        self.random_tree(self.source, [3_000_000], 10)
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        _, uri = self.serve(preexec_fn=limit)
        code, out, err = self.send(uri)
        self.assertEqual(code, 1, out + err)
        self.assertIn("large 0: File too large", err)
        self.assertEqual(sorted(os.listdir(self.target)),
                         sorted(name for name in os.listdir(self.source) if name != "large 0"))

    def test_a_full_disk(self):
        # A small file system that only the server sees, in a mount namespace of its own.
        wrapped = ["unshare", "--mount", "sh", "-c",
                   'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"', "sh", self.target]
        if not shutil.which("unshare") or subprocess.run(
                [*wrapped, "true"], capture_output=True, check=False).returncode != 0:
            self.skipTest("this user may not mount a small file system")
        self.random_tree(os.path.join(self.source, "a"), [], 100)
        self.random_tree(os.path.join(self.source, "b"), [20_000_000], 0)
        server, uri = self.serve("tcp://127.0.0.1:0", prefix=wrapped)
        seen = f"/proc/{server.pid}/root{self.target}"

        code, out, err = self.send(uri)

        self.assertEqual(code, 1, out + err)
        self.assertIn("No space left", err)
        self.assertIn("large 0", err)
        self.assertNotIn(os.fsdecode(STAGING), os.listdir(seen))
        self.assertEqual(os.listdir(os.path.join(seen, "b")), [])
        self.assertEqual(differing_files(os.path.join(seen, "a"), os.path.join(self.source, "a")),
                         [])
        self.assertIsNone(server.poll(), "a full disk ends a transfer, not the server")

    def test_a_client_that_is_no_courier_harms_nobody(self):
        write(os.path.join(self.source, "file"), b"file")
        server, uri = self.serve("tcp://127.0.0.1:0")
        port = int(uri.split("?")[0].rsplit(":", 1)[1])
        for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", self.random.randbytes(100_000)):
            with socket.create_connection(("127.0.0.1", port)) as client:
                with contextlib.suppress(OSError):
                    client.sendall(garbage)
        self.assert_copied(self.send(uri))
        self.assert_same()
        self.assertIsNone(server.poll())


def main():
    global COURIER
    COURIER, = take_paths(1, __doc__)
    run_tests()


if __name__ == "__main__":
    main()
