#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hawser inside a libuv program and inside an Asio server, in one thread each.

usage: embed_test.py EMBED_LIBUV EMBED_ASIO [unittest arguments]

HAWSER_TEST_BACKEND chooses the reactor. Exits with 77 when something could not run here and
nothing failed.
"""
import os
import re
import signal
import socket

from support.programs import BACKEND, PATIENCE, ProgramCase, run_tests, take_paths


class Embedded(ProgramCase):
    def start(self, *command, **options):
        return super().start(*command, env={**os.environ, "HAWSER_BACKEND": BACKEND}, **options)

    def finish(self, server, caller):
        """A caller has its 3000 answers and ticks meanwhile; the server, in one thread, ends."""
        out, err = caller.communicate(timeout=PATIENCE)
        found = re.search(r"^(\d+) answers, and (\d+) ticks", out.decode(), re.M)
        self.assertIsNotNone(found, (out, err))
        self.assertEqual(int(found[1]), 3000)
        self.assertGreater(int(found[2]), 3)
        self.assertEqual(len(os.listdir(f"/proc/{server.pid}/task")), 1)

        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=PATIENCE)
        self.assertEqual((server.returncode, err), (0, b""))
        return out


class EmbedLibuv(Embedded):
    def serve(self, uri):
        server = self.start(LIBUV, uri)
        said = server.stdout.readline().decode()
        self.assertTrue(said.startswith("listening on "), said)
        return server, said.split()[-1]

    def test_messages_and_timers_share_one_thread(self):
        server, uri = self.serve(f"unix:{self.work}/e.sock")
        out = self.finish(server, self.start(LIBUV, uri, "3000"))
        self.assertIn(b"3000 answers", out)
        self.assertFalse(os.path.exists(f"{self.work}/e.sock"))

    def test_several_clients_over_tcp(self):
        _, uri = self.serve("tcp://127.0.0.1:0")
        clients = [self.start(LIBUV, uri, "300") for _ in range(4)]
        for client in clients:
            out, err = client.communicate(timeout=PATIENCE)
            self.assertIn(b"300 answers", out, err)

    def test_nobody_listens(self):
        client = self.start(LIBUV, f"unix:{self.work}/none.sock", "1")
        out, err = client.communicate(timeout=PATIENCE)
        self.assertEqual(client.returncode, 1, out)
        self.assertIn(b"no such file", err)


class EmbedAsio(Embedded):
    def serve(self, uri):
        server = self.start(ASIO, uri, "0")
        said = [server.stdout.readline().decode() for _ in range(2)]
        self.assertTrue(said[0].startswith("listening on "), said)
        self.assertTrue(said[1].startswith("lines on port "), said)
        return server, said[0].split()[-1], int(said[1].split()[-1])

    def exchange_lines(self, port, count):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
            with line.makefile("rwb") as stream:
                for number in range(count):
                    stream.write(b"line %d\n" % number)
                    stream.flush()
                    self.assertEqual(stream.readline(), b"line %d\n" % number)

    def test_lines_and_messages_share_one_thread(self):
        server, uri, port = self.serve(f"unix:{self.work}/e.sock")
        caller = self.start(ASIO, "call", uri, "3000")
        self.exchange_lines(port, 200)
        out = self.finish(server, caller)
        self.assertIn(b"200 lines, 3000 messages", out)

    def test_several_clients_over_tcp(self):
        _, uri, _ = self.serve("tcp://127.0.0.1:0")
        clients = [self.start(ASIO, "call", uri, "300") for _ in range(4)]
        for client in clients:
            out, err = client.communicate(timeout=PATIENCE)
            self.assertIn(b"300 answers", out, err)

    def test_nobody_listens(self):
        client = self.start(ASIO, "call", f"unix:{self.work}/none.sock", "1")
        out, err = client.communicate(timeout=PATIENCE)
        self.assertEqual(client.returncode, 1, out)
        self.assertIn(b"no such file", err)


if __name__ == "__main__":
    LIBUV, ASIO = take_paths(2, __doc__)
    run_tests()
