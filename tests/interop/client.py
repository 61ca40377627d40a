# SPDX-License-Identifier: Apache-2.0
"""A client of hawser's wire format, version 1, over one socket.

Written from src/wire/README.md alone, with nothing but the standard library and msgpack.
It blocks; whatever it waits for, it handles every frame that comes in the meantime.
"""
import collections
import os
import socket
import struct

import msgpack

HELLO, WELCOME, REFUSE, ATTACH, ATTACHED = 1, 2, 3, 4, 5
DATA, CREDIT, PING, PONG, END, CLOSE, CLOSED, MOVED, UNKNOWN = range(8, 17)
CONTROL, RPC, STREAM, BULK = range(4)
CONTINUED, URGENT = 1, 2
FIRST_CREDIT = [16384, 4096, 65536, 4096, 0, 0, 0, 0]
SLICE, SLICE_MIN, OVERHEAD = 65536, 16384, 64

Message = collections.namedtuple("Message", "payload id codec urgent")


class Refused(Exception):
    """The server said no: (code, text)."""


class Lost(Exception):
    """The link ended without an orderly close: (code, text)."""


def align8(size):
    return (size + 7) & ~7


def encode(header, payload=b""):
    """A whole frame."""
    packed = msgpack.packb(header, use_bin_type=True)
    if payload:
        packed += bytes(align8(4 + len(packed)) - 4 - len(packed)) + payload
    whole = struct.pack("<I", len(packed)) + packed
    return whole + bytes(align8(len(whole)) - len(whole))


def connect(uri, timeout=20):
    """A socket to tcp://host:port or unix:/path."""
    if uri.startswith("unix:"):
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(timeout)
        made.connect(uri[len("unix:"):].split("?")[0])
        return made
    host, port = uri[len("tcp://"):].split("?")[0].rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


class Lane:
    def __init__(self, index):
        self.granted, self.spent, self.sent = FIRST_CREDIT[index], 0, 0    # as a sender
        self.consumed_there = self.received_there = 0
        self.window = self.granted_there = 0                               # as a receiver
        self.arrived = self.released = self.received = self.consumed = self.told = 0
        self.queue = collections.deque()
        self.partial, self.partial_of, self.partial_cost = None, None, 0
        self.end = None


class Link:
    def __init__(self, uri, window=None, pipes=1, link_id=None, early=()):
        self.socket = connect(uri)
        self.input = b""
        self.lanes = [Lane(i) for i in range(8)]
        window = window or [65536, 16384, 262144, 16384, 1048576, 16384, 4194304, 16384]
        for lane, wanted, first in zip(self.lanes, window, FIRST_CREDIT):
            lane.window = lane.granted_there = max(wanted, first)
        self.token, self.pongs, self.unknown, self.moved = 0, [], [], []
        self.peer_close = self.closed = None
        self.close_sent = self.closed_sent = False
        self.id = link_id or os.urandom(16)
        limits = [1 << 20, [65536, 1 << 24, 1 << 24, 1 << 24],
                  [lane.window for lane in self.lanes], 20000, pipes]
        self.write([HELLO, "hawser", 1, 1, 0, self.id, 1, limits, None])
        self.peer_limits = None
        for channel, payload in early:  # may leave before the answer, within the first credit
            self.send(channel, payload)
        header, _, _ = self.read_frame()
        if header[0] == REFUSE:
            self.socket.close()
            raise Refused(header[1], header[2])
        assert header[0] == WELCOME and header[1] == 1 and header[3] == self.id, header
        self.attach_secret, self.peer_limits = header[5], header[7]
        for lane, granted in zip(self.lanes, self.peer_limits[2]):
            lane.granted = max(lane.granted, granted)

    # ---- frames -----------------------------------------------------------------------------

    def write(self, header, payload=b""):
        self.socket.sendall(encode(header, payload))

    def need(self, size):
        while len(self.input) < size:
            more = self.socket.recv(1 << 18)
            if not more:
                raise Lost(0, "end of file")
            self.input += more

    def read_frame(self):
        """Header, payload and cost of the next frame."""
        self.need(4)
        (length,) = struct.unpack_from("<I", self.input)
        self.need(align8(4 + length))
        body, self.input = self.input[4:4 + length], self.input[align8(4 + length):]
        unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
        unpacker.feed(body[:4092])
        header = unpacker.unpack()
        payload = body[align8(4 + unpacker.tell()) - 4:] if header[0] == DATA else b""
        return header, payload, align8(4 + length)

    def step(self):
        """Reads one frame and does what it asks for."""
        header, payload, cost = self.read_frame()
        kind = header[0]
        if kind == DATA:
            self.on_data(header + [0] * (6 - len(header)), payload, cost)
        elif kind == CREDIT:
            for index, granted, consumed, received, *_ in header[1:]:
                lane = self.lanes[index]
                lane.granted = max(lane.granted, granted)
                lane.consumed_there = max(lane.consumed_there, consumed)
                lane.received_there = max(lane.received_there, received)
        elif kind == PING:
            self.write([PONG, header[1]])
        elif kind == PONG:
            self.pongs.append(header[1])
        elif kind == END:
            for urgent, count in enumerate(header[2:4]):
                self.lanes[2 * header[1] + urgent].end = count
        elif kind == CLOSE:
            if header[1] != 0:
                self.socket.close()
                raise Lost(header[1], header[2])
            self.peer_close = header[3]
            for lane, count in zip(self.lanes, header[3]):
                lane.end = count
        elif kind == CLOSED:
            self.closed = header[1:3]
        elif kind == MOVED:  # only if more than one pipe was asked for
            self.moved.append(header[1:])
        elif kind == UNKNOWN:
            self.unknown.append(header[1])
        else:
            self.write([UNKNOWN, kind])

    # ---- receiving --------------------------------------------------------------------------

    def on_data(self, header, payload, cost):
        _, channel, flags, id, codec, total = header[:6]
        index = 2 * channel + (1 if flags & URGENT else 0)
        lane = self.lanes[index]
        first = lane.partial is None
        cost += OVERHEAD if first else 0
        lane.arrived += cost
        assert lane.arrived <= lane.granted_there, "the server overdraws its credit"
        if first and not flags & CONTINUED:
            lane.queue.append((Message(payload, id or 0, codec or 0, bool(flags & URGENT)), cost))
            lane.received += 1
        else:
            if first:
                lane.partial, lane.partial_cost = bytearray(), 0
                lane.partial_of = (id or 0, codec or 0)
                whole = lane.arrived - cost + total + OVERHEAD + (total // SLICE_MIN + 2) * 64
                if whole > lane.granted_there:
                    self.grant(index, whole)
            lane.partial += payload
            lane.partial_cost += cost
            if not flags & CONTINUED:
                whole = Message(bytes(lane.partial), *lane.partial_of, False)
                lane.queue.append((whole, lane.partial_cost))
                lane.received += 1
                lane.partial = None
        if channel == BULK and lane.arrived - lane.told >= 65536:
            self.grant(index, lane.granted_there)

    def grant(self, index, granted):
        lane = self.lanes[index]
        lane.granted_there, lane.told = max(lane.granted_there, granted), lane.arrived
        self.write([CREDIT, [index, lane.granted_there, lane.consumed, lane.arrived]])

    def receive(self, channel):
        """The next message, or None at the end of the channel."""
        while True:
            for index in (2 * channel + 1, 2 * channel):
                lane = self.lanes[index]
                if lane.queue:
                    message, cost = lane.queue.popleft()
                    lane.consumed += 1
                    lane.released += cost
                    if lane.released + lane.window - lane.granted_there >= lane.window // 4:
                        self.grant(index, lane.released + lane.window)
                    return message
            if all(lane.end == lane.received for lane in self.lanes[2 * channel:2 * channel + 2]):
                return None
            self.step()

    # ---- sending ----------------------------------------------------------------------------

    def send(self, channel, payload, urgent=False, id=0, codec=0):
        lane = self.lanes[2 * channel + (1 if urgent else 0)]
        head = [DATA, channel, URGENT if urgent else 0, id, codec]
        frame = encode(head, payload)
        window = max(self.peer_limits[2][self.lanes.index(lane)] if self.peer_limits else 0,
                     FIRST_CREDIT[self.lanes.index(lane)])
        fits = len(payload) <= SLICE and len(frame) + OVERHEAD <= window - window // 4
        if fits or urgent:
            self.spend(lane, frame, OVERHEAD)
        else:
            at = 0
            while at < len(payload):
                # As much as there is credit for, but no slice below the minimum before the last.
                overhead = OVERHEAD if at == 0 else 0
                room = lane.granted - lane.spent - 64 - overhead
                size = min(SLICE, len(payload) - at, max(room, SLICE_MIN))
                last = at + size == len(payload)
                head = [DATA, channel, 0 if last else CONTINUED]
                if at == 0:
                    head += [id, codec, len(payload)]
                if channel == BULK:
                    while lane.spent - lane.received_there >= 4 * SLICE:
                        self.step()
                self.spend(lane, encode(head, payload[at:at + size]), overhead)
                at += size
        lane.sent += 1

    def spend(self, lane, frame, overhead):
        while lane.spent + len(frame) + overhead > lane.granted:
            self.step()
        lane.spent += len(frame) + overhead
        self.socket.sendall(frame)

    # ---- the rest ---------------------------------------------------------------------------

    def ping(self):
        self.token += 1
        self.write([PING, self.token])
        while self.token not in self.pongs:
            self.step()

    def finish(self, channel):
        self.write([END, channel, self.lanes[2 * channel].sent, self.lanes[2 * channel + 1].sent])

    def close(self):
        """In order. Afterwards both sides know that all arrived; returns the peer's CLOSED."""
        self.write([CLOSE, 0, "", [lane.sent for lane in self.lanes]])
        while self.peer_close is None or self.closed is None or not self.closed_sent:
            complete = [lane.received for lane in self.lanes] == self.peer_close
            if complete and not self.closed_sent:
                self.write([CLOSED, [lane.received for lane in self.lanes],
                            [lane.consumed for lane in self.lanes]])
                self.closed_sent = True
            else:
                self.step()
        assert self.closed[0] == [lane.sent for lane in self.lanes], self.closed
        self.socket.close()
        return self.closed
