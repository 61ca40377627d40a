#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""top as a user meets it: a table of a running server, and clear words where there is none.

usage: top_test.py TOP WATCHED_ECHO COURIER [unittest arguments]

HAWSER_TEST_BACKEND chooses the reactor. Exits with 77 when something could not run here and
nothing failed.
"""
import json
import os
import signal
import socket
import sys
import threading
import time

from support.programs import (BACKEND, PATIENCE, ProgramCase, need_msgpack, run_tests,
                              take_paths)

need_msgpack()
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "interop"))
from client import CONTROL, RPC, STREAM, Link  # noqa: E402

TOP = ECHO = COURIER = ""


class Load:
    """Calls the echo server as fast as it answers, until the end of the block."""

    def __init__(self, uri):
        self.link = Link(uri)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stopped.is_set():
            for channel in (CONTROL, RPC, STREAM):
                self.link.send(channel, b"a message of the load")
                self.link.receive(channel)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()
        self.link.socket.close()


class Top(ProgramCase):
    def start(self, *command, env=None, **options):
        environment = {**os.environ, "HAWSER_BACKEND": BACKEND, **(env or {})}
        return super().start(*command, env=environment, **options)

    def serve(self, stats=None, **environment):
        """Starts an echo server; returns it, its address, and where its stats are."""
        uri = f"unix:{self.work}/echo.sock"
        stats = stats or f"unix:{self.work}/stats.sock"
        server = self.start(ECHO, uri, "--stats", stats,
                            env={"HAWSER_THREADS": "2", **environment})
        said = [server.stdout.readline().decode().strip() for _ in range(2)]
        if not said[1].startswith("listening on "):
            self.fail(f"the server said {said} and {server.stderr.read()!r}")
        return server, uri, said[0][len("stats at "):]

    def top(self, *arguments):
        out, err = (process := self.start(TOP, *arguments)).communicate(timeout=PATIENCE)
        return process.returncode, out.decode(), err.decode()

    def rows(self, text):
        """The first block of the table: by worker, the cells by the names of the columns."""
        block = text.split("\n\n")[1].splitlines()
        names = ["worker", "turns", "control", "rpc", "stream", "bulk", "stolen", "queued"]
        return {line.split()[0]: dict(zip(names, line.split())) for line in block[1:]}

    def check_table(self, stats=None):
        _, uri, stats = self.serve(stats)
        with Load(uri):
            deadline = time.monotonic() + PATIENCE
            while True:  # a machine that is held up may give the load no time
                code, out, err = self.top(stats, "--once", "--interval", "200ms")
                self.assertEqual(code, 0, err)
                rows = self.rows(out)
                self.assertEqual(list(rows), ["0", "1", "all"])
                counts = [rows["all"][name] for name in ("turns", "control", "rpc", "stream")]
                if all(count != "0" for count in counts):
                    break
                self.assertLess(time.monotonic(), deadline, out)
        self.assertIn("2 workers", out)
        self.assertIn("links 2 ", out)
        self.assertLessEqual(max(map(len, out.splitlines())), 110)
        self.assertNotIn("\x1b", out, "no terminal, no control")

    def test_a_table_of_a_server_under_load(self):
        self.check_table()

    def test_the_same_over_tcp(self):
        self.check_table("tcp://127.0.0.1:0")

    def test_json_is_one_object_a_line(self):
        _, _, stats = self.serve()
        code, out, err = self.top(stats, "--json", "--once")
        self.assertEqual(code, 0, err)
        self.assertEqual(out.count("\n"), 1)
        answer = json.loads(out)
        self.assertEqual(len(answer["workers"]), 2)
        self.assertEqual(answer["format"], 1)
        self.assertEqual(list(answer["workers"][0]["priorities"]),
                         ["control", "rpc", "stream", "bulk"])

    def test_counters_grow_from_line_to_line(self):
        _, uri, stats = self.serve()
        with Load(uri):
            watcher = self.start(TOP, stats, "--json", "--interval", "100ms")
            lines = [json.loads(watcher.stdout.readline()) for _ in range(3)]
        turns = [sum(worker["turns"] for worker in line["workers"]) for line in lines]
        self.assertEqual(turns, sorted(turns))
        self.assertLess(turns[0], turns[-1])
        self.assertLess(lines[0]["time_ns"], lines[-1]["time_ns"])

    def test_an_interrupt_ends_it(self):
        _, _, stats = self.serve()
        for number in (signal.SIGINT, signal.SIGTERM):
            watcher = self.start(TOP, stats, "--interval", "20ms")
            self.assertIn(b"workers", watcher.stdout.readline())
            watcher.send_signal(number)
            _, err = watcher.communicate(timeout=PATIENCE)
            self.assertEqual((watcher.returncode, err), (0, b""))

    def test_the_end_of_the_process_is_told(self):
        for number in (signal.SIGKILL, signal.SIGTERM):
            server, _, stats = self.serve()
            watcher = self.start(TOP, stats, "--interval", "20ms")
            watcher.stdout.readline()
            server.send_signal(number)
            _, err = watcher.communicate(timeout=PATIENCE)
            self.assertEqual(watcher.returncode, 1, err)
            self.assertEqual(err.decode().count("\n"), 1)
            self.assertIn("the process has ended", err.decode())

    def test_a_terminal_is_redrawn_in_place(self):
        _, _, stats = self.serve()
        ours, theirs = self.open_terminal()
        watcher = self.start(TOP, stats, "--interval", "20ms", stdout=theirs)
        os.close(theirs)
        drawn = b""
        while drawn.count(b"\x1b[H") < 3:
            drawn += os.read(ours, 4096)
        watcher.send_signal(signal.SIGINT)
        self.rest_of(ours)
        self.assertEqual(watcher.wait(PATIENCE), 0)

    def test_bad_addresses(self):
        for uri in ("nonsense", "http://localhost:1", "unix:"):
            code, out, err = self.top(uri, "--once")
            self.assertEqual((code, out), (2, ""), err)
            self.assertRegex(err, r"^top: .+\n$")
        path = f"{self.work}/nobody.sock"
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            for uri, place in ((f"unix:{path}", path),
                               (f"tcp://127.0.0.1:{taken.getsockname()[1]}",
                                str(taken.getsockname()[1]))):
                code, out, err = self.top(uri, "--once")
                self.assertEqual((code, out), (1, ""), err)
                self.assertIn(place, err)

    def test_what_serves_no_stats_is_told_apart(self):
        _, uri, _ = self.serve()
        code, out, err = self.top(uri, "--once")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("no JSON", err)

    def test_bad_command_lines(self):
        for arguments in ((), ("unix:/x", "too much"), ("unix:/x", "--interval", "1"),
                          ("unix:/x", "--interval", "1ms"), ("unix:/x", "--no-such-option")):
            code, _, _ = self.top(*arguments)
            self.assertEqual(code, 2, arguments)
        code, out, _ = self.top("--help")
        self.assertEqual(code, 0)
        self.assertIn("--interval", out)

    def test_a_courier_serves_its_stats(self):
        stats = f"unix:{self.work}/stats.sock"
        server = self.start(COURIER, "serve", f"unix:{self.work}/courier.sock", self.work,
                            "--stats", stats, env={"HAWSER_THREADS": "3"})
        self.assertIn(b"listening on", server.stdout.readline())
        code, out, err = self.top(stats, "--json", "--once")
        self.assertEqual(code, 0, err)
        self.assertEqual(len(json.loads(out)["workers"]), 1, "it stays with one worker")
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(PATIENCE), 0)

    def test_a_bad_variable_is_named(self):
        server = self.start(ECHO, f"unix:{self.work}/echo.sock", env={"HAWSER_SPIN": "fast"})
        _, err = server.communicate(timeout=PATIENCE)
        self.assertEqual(server.returncode, 2)
        self.assertIn(b"HAWSER_SPIN", err)


def main():
    global TOP, ECHO, COURIER
    TOP, ECHO, COURIER = take_paths(3, __doc__)
    run_tests()


if __name__ == "__main__":
    main()
