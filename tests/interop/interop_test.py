#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A foreign client against a real server, friendly and hostile, over unix and tcp.

usage: interop_test.py ECHO_SERVER [unittest arguments]

HAWSER_TEST_BACKEND chooses the reactor, HAWSER_TEST_SEED repeats a run. Exits with 77 when
something could not run here and nothing failed.
"""
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support.programs import BACKEND, SEED, need_msgpack, run_tests, take_paths  # noqa: E402

need_msgpack()
import client  # noqa: E402
from client import (  # noqa: E402
    BULK, CONTROL, RPC, STREAM, Link, Lost, Refused, encode)

SERVER = ""
PATIENCE = 30
TOO_LARGE, VIOLATION, REFUSED, UNAUTHORIZED, LIMIT, UNSUPPORTED = 5, 6, 7, 8, 9, 10


class Server:
    def __init__(self, uri):
        self.process = subprocess.Popen([SERVER, BACKEND, uri], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.uri = self.process.stdout.readline().strip()
        if not self.uri:
            raise unittest.SkipTest(f"{BACKEND} cannot run here") if self.process.wait() == 77 \
                else AssertionError("the server did not start")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def next_ended(self):
        """How the next link to end has ended, in the server's words."""
        return self.process.stdout.readline().strip()

    def stop(self):
        self.process.communicate(timeout=PATIENCE)  # the end of its input is its end
        return self.process.returncode


def eventually(condition):
    limit = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


class OverSockets:
    """Each test runs over unix and over tcp."""

    def setUp(self):
        self.dice = random.Random(SEED)
        self.server = Server(self.listen())
        self.bystander = Link(self.server.uri)
        self.echo(self.bystander, RPC, b"before")
        self.files = self.server.open_files()

    def tearDown(self):
        # Whatever happened: the server lives, others were not disturbed, nothing is left behind.
        self.echo(self.bystander, STREAM, b"after")
        self.assertTrue(eventually(lambda: self.server.open_files() == self.files),
                        f"{self.files} files were open, now {self.server.open_files()}")
        self.bystander.close()
        self.assertEqual(self.server.stop(), 0)

    def echo(self, link, channel, payload, **fields):
        link.send(channel, payload, **fields)
        back = link.receive(channel)
        self.assertEqual(back.payload, payload)
        for name, value in fields.items():
            self.assertEqual(getattr(back, name), value)

    def raw(self, *frames):
        """A link whose next frames are written as they are."""
        link = Link(self.server.uri)
        for frame in frames:
            link.socket.sendall(frame)
        return link

    def expect_lost(self, link, code):
        with self.assertRaises(Lost) as lost:
            link.receive(CONTROL)
        self.assertEqual(lost.exception.args[0], code, lost.exception)
        link.socket.close()

    # ---- friendly ---------------------------------------------------------------------------

    def test_every_channel_echoes(self):
        link = Link(self.server.uri)
        for channel in (CONTROL, RPC, STREAM, BULK):
            for size in (0, 1, 3, 4, 5, 100, 4096, 40000):
                self.echo(link, channel, self.dice.randbytes(size))
            for id in (0, 1, 127, 128, 65536, 2**64 - 1):
                self.echo(link, channel, b"fields", id=id, codec=self.dice.randrange(256))
            self.echo(link, channel, b"now", urgent=True, id=3)
        link.close()
        self.assertIn("closed", self.server.next_ended())

    def test_early_frames_save_a_round_trip(self):
        link = Link(self.server.uri, early=[(RPC, b"early call"), (CONTROL, b"early word")])
        self.assertEqual(link.receive(RPC).payload, b"early call")
        self.assertEqual(link.receive(CONTROL).payload, b"early word")
        link.close()

    def test_large_messages_travel_in_slices_both_ways(self):
        link = Link(self.server.uri)
        for channel, size in ((CONTROL, 65000), (RPC, 300_000), (STREAM, 3_000_000),
                              (BULK, 10_000_001), (BULK, 16 << 20)):
            self.echo(link, channel, self.dice.randbytes(size), id=size)
        link.close()

    def test_credit_comes_back_for_ever(self):
        link = Link(self.server.uri)
        payload = self.dice.randbytes(1000)
        for i in range(2000):  # 30 windows of control
            self.echo(link, CONTROL, payload, id=i + 1)
        consumed, received = link.lanes[0].consumed_there, link.lanes[0].received_there
        self.assertGreater(consumed, 1900)
        self.assertLessEqual(received, link.lanes[0].spent)
        link.close()

    def test_a_receiver_that_does_not_read_stops_only_its_channel(self):
        link = Link(self.server.uri, window=[16384, 4096, 65536, 4096, 65536, 4096, 0, 0])
        for i in range(200):
            link.send(STREAM, bytes(1000), id=i + 1)
        self.echo(link, RPC, b"beside")
        for i in range(200):
            self.assertEqual(link.receive(STREAM).id, i + 1)
        link.close()

    def test_ping_is_answered_and_unknown_kinds_are_skipped(self):
        link = self.raw(encode([99, {"any": [1, 2.5, None]}]))
        link.ping()
        self.assertEqual(link.unknown, [99])
        longer = encode([client.DATA, RPC, 0, 5, 0, 0, {"later": [b"version"]}], b"longer")
        link.spend(link.lanes[2], longer, client.OVERHEAD)
        link.lanes[2].sent += 1
        self.assertEqual(link.receive(RPC)[:2], (b"longer", 5))
        link.close()

    def test_a_finished_channel_ends_on_the_other_side(self):
        link = Link(self.server.uri)
        link.send(STREAM, b"last")
        link.finish(STREAM)
        self.assertEqual(link.receive(STREAM).payload, b"last")
        self.assertIsNone(link.receive(STREAM))  # the server finishes when we have
        self.echo(link, RPC, b"the others go on")
        link.close()

    def test_close_counts_on_both_sides(self):
        link = Link(self.server.uri)
        for i in range(10):
            self.echo(link, RPC, b"counted")
        link.send(CONTROL, b"not awaited")
        received, consumed = link.close()
        self.assertEqual(received, [1, 0, 10, 0, 0, 0, 0, 0])
        self.assertLessEqual(consumed[0], 1)
        self.assertIn("closed", self.server.next_ended())

    def test_several_links_at_once(self):
        links = [Link(self.server.uri) for _ in range(20)]
        for link in links:
            link.send(RPC, link.id)
        for link in reversed(links):
            self.assertEqual(link.receive(RPC).payload, link.id)
            link.close()

    # ---- hostile ----------------------------------------------------------------------------

    def test_garbage_is_refused_or_cut(self):
        for first in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100, encode(["no", "hello"]),
                      encode([1, "other", 1, 1]), encode([10, 1]), self.dice.randbytes(300)):
            with self.subTest(first=first[:20]):
                one = client.connect(self.server.uri)
                one.sendall(first)
                try:
                    answer = one.recv(4096)
                    if answer:  # REFUSE with a protocol violation
                        self.assertEqual(answer[4:7], bytes([0x93, 3, VIOLATION]))
                except ConnectionResetError:
                    pass
                one.close()

    def test_a_connection_that_goes_away_early_leaves_nothing(self):
        hello = encode([1, "hawser", 1, 1, 0, bytes(16), 1,
                        [1 << 20, [65536] * 4, [65536] * 8, 20000, 1], None])
        for cut in (0, 1, 3, 4, 10, len(hello) - 1):
            one = client.connect(self.server.uri)
            one.sendall(hello[:cut])
            one.close()

    def test_silent_connections_hold_up_nobody(self):
        silent = [client.connect(self.server.uri) for _ in range(50)]
        link = Link(self.server.uri)
        self.echo(link, RPC, b"meanwhile")
        link.close()
        for one in silent:
            one.close()

    def test_no_common_version_is_refused(self):
        one = client.connect(self.server.uri)
        one.sendall(encode([1, "hawser", 2, 9, 0, os.urandom(16), 1,
                            [1 << 20, [65536] * 4, [65536] * 8, 20000, 1], None]))
        answer = one.recv(4096)
        self.assertEqual(answer[4:7], bytes([0x93, 3, UNSUPPORTED]))
        self.assertEqual(one.recv(1), b"")
        one.close()

    def attach(self, link_id, secret, channel):
        one = client.connect(self.server.uri)
        one.sendall(encode([client.ATTACH, "hawser", link_id, secret, channel]))
        answer = one.recv(4096)
        return one, answer

    def test_a_wrong_attach_secret_is_refused(self):
        link = Link(self.server.uri)
        for link_id, secret in ((link.id, os.urandom(16)), (os.urandom(16), link.attach_secret)):
            one, answer = self.attach(link_id, secret, STREAM)
            self.assertEqual(answer[4:7], bytes([0x93, 3, UNAUTHORIZED]))
            one.close()
        self.echo(link, STREAM, b"unharmed")
        link.close()

    def test_an_attach_that_was_not_agreed_is_refused(self):
        link = Link(self.server.uri)  # asks for one pipe
        for channel in (STREAM, CONTROL, 4, 2**40):
            one, answer = self.attach(link.id, link.attach_secret, channel)
            self.assertEqual(answer[4:7], bytes([0x93, 3, REFUSED]))
            one.close()
        self.echo(link, STREAM, b"unharmed")
        link.close()

    def test_a_second_attach_of_a_channel_is_refused(self):
        link = Link(self.server.uri, pipes=4)
        first, answer = self.attach(link.id, link.attach_secret, BULK)
        self.assertEqual(answer[:8], encode([client.ATTACHED]))
        second, answer = self.attach(link.id, link.attach_secret, BULK)
        self.assertEqual(answer[4:7], bytes([0x93, 3, REFUSED]))
        second.close()
        # The server moves its sending direction of bulk to the new pipe, ours stays where it is.
        link.send(BULK, b"moved?")
        self.assertTrue(eventually(lambda: link.step() or link.moved))
        self.assertEqual(link.moved, [[BULK, BULK, 1, 1]])
        self.assertEqual(first.recv(4096), encode([client.DATA, BULK, 0], b"moved?"))
        link.socket.close()
        first.close()

    def test_the_loss_of_an_attached_pipe_is_the_loss_of_the_link(self):
        link = Link(self.server.uri, pipes=4)
        first, answer = self.attach(link.id, link.attach_secret, STREAM)
        self.assertEqual(answer[:8], encode([client.ATTACHED]))
        first.close()
        with self.assertRaises((Lost, ConnectionResetError)):
            link.receive(CONTROL)
        link.socket.close()
        self.assertIn("link lost", self.server.next_ended())

    def test_a_link_id_that_exists_is_refused(self):
        link = Link(self.server.uri)
        with self.assertRaises((Refused, Lost)) as no:
            Link(self.server.uri, link_id=link.id).receive(RPC)
        self.assertEqual(no.exception.args[0], REFUSED)
        self.echo(link, RPC, b"the first lives")
        link.close()

    def test_violations_are_answered_with_their_code(self):
        slices = encode([client.DATA, RPC, 1, 0, 0, 40_000], bytes(20_000))
        offences = (
            (struct.pack("<II", 1 << 30, 0), TOO_LARGE),
            (struct.pack("<II", 0, 0), VIOLATION),
            (encode([client.DATA, CONTROL, 0], bytes(65537)), TOO_LARGE),
            (encode([client.DATA, RPC, 1, 0, 0, 1 << 40], bytes(20_000)), TOO_LARGE),
            (encode([client.PING, 1, bytes(5000)]), TOO_LARGE),
            (encode([client.DATA, 9, 0], b"nowhere"), VIOLATION),
            (encode([client.DATA, RPC, 0, 0, 0, 0, nested(100)], b"deep"), VIOLATION),
            (encode([client.DATA, CONTROL, 0], bytes(60_000)) * 2, VIOLATION),
            (slices + encode([client.DATA, RPC, 0], bytes(10)), VIOLATION),
            (encode([client.CREDIT, [2, 0, 5, 0]]), VIOLATION),
            (encode([client.END, RPC, 0, 0]) * 2, VIOLATION),
            (encode([client.CLOSED, [0] * 8, [0] * 8]), VIOLATION),
            (encode([client.MOVED, STREAM, STREAM, 1, 1]), VIOLATION),
            (encode([client.HELLO]), VIOLATION),
            (encode([client.PONG, 7]), VIOLATION),
            (b"".join(encode([client.PING, i]) for i in range(10)), LIMIT),
        )
        for bytes_sent, code in offences:
            with self.subTest(sent=bytes_sent[:30], code=code):
                self.expect_lost(self.raw(bytes_sent), code)

    def test_random_bytes_on_an_open_link_end_it(self):
        for _ in range(20):
            link = self.raw(self.dice.randbytes(2000) + bytes(8))
            with self.assertRaises((Lost, OSError)):
                # One in 4000 begins like a frame of which the rest may still come.
                link.socket.shutdown(socket.SHUT_WR)
                link.receive(CONTROL)
            link.socket.close()

    def test_a_client_that_vanishes_is_noticed(self):
        link = Link(self.server.uri)
        link.send(BULK, bytes(100_000))
        link.socket.sendall(encode([client.DATA, RPC, 0], bytes(1000))[:500])
        link.socket.close()
        self.assertIn("link lost", self.server.next_ended())


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


class OverUnix(OverSockets, unittest.TestCase):
    def listen(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return f"unix:{folder.name}/echo.sock"


class OverTcp(OverSockets, unittest.TestCase):
    def listen(self):
        return "tcp://127.0.0.1:0"


class Impatient(unittest.TestCase):
    """Peers that connect or fall silent are cut, by a server with little patience."""

    def setUp(self):
        options = "?handshake_timeout=300&keepalive=200&keepalive_timeout=300"
        self.server = Server("tcp://127.0.0.1:0" + options)
        first = Link(self.server.uri)
        self.files = self.server.open_files() - 1  # without the socket of the first link
        first.close()
        self.server.next_ended()

    def tearDown(self):
        self.assertTrue(eventually(lambda: self.server.open_files() == self.files))
        self.assertEqual(self.server.stop(), 0)

    def test_a_silent_connection_is_cut(self):
        one = client.connect(self.server.uri)
        self.assertEqual(one.recv(1), b"")
        one.close()

    def test_a_hello_that_trickles_in_is_cut(self):
        one = client.connect(self.server.uri)
        limits = [1 << 20, [1] * 4, [1] * 8, 0, 1]
        hello = encode([1, "hawser", 1, 1, 0, bytes(16), 1, limits, None])
        with self.assertRaises(OSError):
            for _ in range(PATIENCE):
                for byte in hello[:len(hello) - 8]:
                    one.sendall(bytes([byte]))
                    time.sleep(0.02)
        one.close()

    def test_a_link_that_answers_pings_lives(self):
        link = Link(self.server.uri)
        began = time.monotonic()
        while time.monotonic() - began < 1:
            link.step()  # PING, answered
        link.send(RPC, b"still here")
        self.assertEqual(link.receive(RPC).payload, b"still here")
        link.close()

    def test_a_link_that_falls_silent_is_lost(self):
        link = Link(self.server.uri)
        self.assertEqual(link.read_frame()[0], [client.PING, 1])
        self.assertEqual(link.read_frame()[0][:2], [client.CLOSE, 2])
        with self.assertRaises((Lost, ConnectionResetError)):
            link.read_frame()
        link.socket.close()
        self.assertIn("link lost", self.server.next_ended())


def main():
    global SERVER
    SERVER, = take_paths(1, __doc__)
    run_tests()


if __name__ == "__main__":
    main()
