"""The queue before a socket: bounded, in order, and closed with the first reason."""

import asyncio
import json

import pytest

from sfu.auth import Identity
from sfu.signaling import session as module
from sfu.signaling.session import (
    MAX_WAITING_BYTES,
    MAX_WAITING_FRAMES,
    WRITES_PER_TURN,
    CloseCode,
    Pace,
    Session,
    Socket,
)


class Peer:
    """A WebSocket whose other side reads when it is told to."""

    def __init__(self, *, reads=True, fails=None):
        self.sent = []
        self.closed = False
        self.closed_with = None
        # Set with each frame that arrived.
        self.received = asyncio.Event()
        self._reads = asyncio.Event()
        self._fails = fails
        if reads:
            self._reads.set()

    def read(self):
        self._reads.set()

    async def send_str(self, text):
        await self._reads.wait()
        if self._fails is not None:
            raise self._fails
        self.sent.append(json.loads(text))
        self.received.set()

    async def close(self, *, code, message):
        await self._reads.wait()
        self.closed, self.closed_with = True, (code, message)


class Transport:
    """What is below the WebSocket: the bytes that the kernel has not taken, and the way to cut it."""

    def __init__(self, abort=lambda: None):
        self.unsent = 0
        self.abort = abort

    def get_write_buffer_size(self):
        return self.unsent


def socket_of(peer, abort=lambda: None, transport=None, pace=None):
    return Socket(peer, transport or Transport(abort), 0.0, 30.0, pace or Pace())


async def turns():
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_frames_go_out_in_order_and_then_the_close():
    peer = Peer()
    socket = socket_of(peer)
    for number in range(5):
        socket.send({"n": number})
    socket.close(4400, "enough")
    assert not socket.is_open
    await socket.write()
    socket.closed()
    assert peer.sent == [{"n": n} for n in range(5)]
    assert peer.closed_with == (4400, b"enough")


async def test_a_frame_is_written_where_it_is_sent_if_nothing_is_before_it():
    peer = Peer()
    socket = socket_of(peer)
    socket.send({"n": 0})  # its task has not begun
    assert peer.sent == []
    writer = asyncio.create_task(socket.write())
    await turns()
    socket.send({"n": 1})
    socket.send({"n": 2})
    assert peer.sent == [{"n": 0}, {"n": 1}, {"n": 2}]
    socket.close(1000, "")
    await writer
    socket.closed()


async def test_frames_keep_their_order_when_the_peer_stops_reading_and_goes_on():
    peer, transport = Peer(), Transport()
    socket = socket_of(peer, transport=transport)
    writer = asyncio.create_task(socket.write())
    await turns()
    socket.send({"n": 0})
    transport.unsent = 70_000
    socket.send({"n": 1})
    transport.unsent = 0
    socket.send({"n": 2})  # the one before it has not been written
    assert peer.sent == [{"n": 0}]
    await turns()
    socket.send({"n": 3})
    assert peer.sent == [{"n": n} for n in range(4)]
    socket.close(1000, "")
    await writer
    socket.closed()


async def test_a_frame_that_fills_the_buffer_is_sent_once_and_nobody_waits_for_it():
    peer, transport = Peer(), Transport()
    written = []

    async def send_str(text):
        written.append(text)
        transport.unsent = 100_000
        await asyncio.Event().wait()  # until the peer reads, which it does not

    socket = socket_of(peer, transport=transport)
    writer = asyncio.create_task(socket.write())
    await turns()
    peer.send_str = send_str
    socket.send({"n": 0})
    socket.send({"n": 1})
    assert written == ['{"n":0}']
    await turns()
    assert written == ['{"n":0}', '{"n":1}']
    writer.cancel()
    await asyncio.wait([writer])
    socket.closed()


async def test_many_sockets_are_written_in_turns_and_who_came_first_is_first():
    pace, count, order = Pace(), 5 * WRITES_PER_TURN, []
    peers = [Peer() for _ in range(count)]
    sockets = [socket_of(peer, pace=pace) for peer in peers]
    writers = [asyncio.create_task(socket.write()) for socket in sockets]
    await turns()
    for socket in sockets:
        socket.send({"n": 0})
        socket.send({"n": 1})
    for turn in range(100):
        written = sum(len(peer.sent) for peer in peers)
        assert written <= 2 * WRITES_PER_TURN * (turn + 1)  # a writer that is woken writes all it has
        order += [number for number, peer in enumerate(peers) if peer.sent and number not in order]
        if written == 2 * count:
            break
        await asyncio.sleep(0)
    assert turn >= 4
    assert order == sorted(order)
    assert all(peer.sent == [{"n": 0}, {"n": 1}] for peer in peers)
    # The next turn begins anew, and others are let write at once.
    await turns()
    sockets[-1].send({"n": 2})
    assert peers[-1].sent[-1] == {"n": 2}
    for socket in sockets:
        socket.close(1000, "")
    await asyncio.gather(*writers)
    for socket in sockets:
        socket.closed()


async def test_who_closes_does_not_wait_for_its_turn():
    pace = Pace()
    while pace.may_write():
        pass
    peer = Peer()
    socket = socket_of(peer, pace=pace)
    writer = asyncio.create_task(socket.write())
    await asyncio.sleep(0)
    while pace.may_write():
        pass
    socket.send({"n": 0})
    socket.close(1000, "bye")
    await writer
    socket.closed()
    assert (peer.sent, peer.closed_with) == ([{"n": 0}], (1000, b"bye"))


async def test_who_sends_hears_nothing_of_a_peer_that_went_first():
    for error in (ConnectionResetError("gone"), RuntimeError("closing")):
        socket = socket_of(Peer(fails=error))
        writer = asyncio.create_task(socket.write())
        await turns()
        socket.send({"n": 0})
        socket.close(1000, "")
        await writer
        socket.closed()


async def test_the_first_reason_counts_and_nothing_is_sent_after_it():
    peer = Peer()
    socket = socket_of(peer)
    socket.close(4400, "first")
    socket.close(4429, "second")
    socket.send({"late": True})
    await socket.write()
    socket.closed()
    assert (peer.sent, peer.closed_with) == ([], (4400, b"first"))


async def test_a_reason_fits_into_a_close_frame():
    peer = Peer()
    socket = socket_of(peer)
    socket.close(4400, "x" * 500)
    await socket.write()
    socket.closed()
    assert len(peer.closed_with[1]) <= 123


async def test_a_reader_too_many_frames_behind_is_closed():
    peer = Peer(reads=False)
    socket = socket_of(peer)
    for number in range(MAX_WAITING_FRAMES):
        socket.send({"n": number})
    assert socket.is_open
    socket.send({"n": "one more"})
    assert not socket.is_open
    peer.read()
    await socket.write()
    socket.closed()
    assert len(peer.sent) == MAX_WAITING_FRAMES
    assert peer.closed_with[0] == CloseCode.OVERLOADED


async def test_a_reader_too_many_bytes_behind_is_closed():
    socket = socket_of(Peer(reads=False))
    half = {"x": "y" * (MAX_WAITING_BYTES // 2 - 20)}
    socket.send(half)
    socket.send(half)
    assert socket.is_open
    socket.send(half)
    assert not socket.is_open
    socket.closed()


async def test_what_was_sent_makes_room_again():
    peer = Peer()
    socket = socket_of(peer)
    writer = asyncio.create_task(socket.write())
    half = {"x": "y" * (MAX_WAITING_BYTES // 2)}
    for _ in range(4):
        socket.send(half)
        await peer.received.wait()
        peer.received.clear()
    assert socket.is_open
    socket.close(1000, "")
    await writer
    socket.closed()


async def test_a_peer_that_does_not_read_our_goodbye_is_cut(monkeypatch):
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.01)
    cut = asyncio.Event()
    socket = socket_of(Peer(reads=False), cut.set)
    writer = asyncio.create_task(socket.write())
    socket.close(4429, "too fast")
    async with asyncio.timeout(5):
        await cut.wait()
    writer.cancel()
    await asyncio.wait([writer])
    socket.closed()


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), RuntimeError("closing")])
async def test_a_peer_that_went_first_ends_the_writer_quietly(error):
    socket = socket_of(Peer(fails=error))
    socket.send({})
    await socket.write()


async def test_when_the_connection_is_gone_nothing_waits_to_be_cut(monkeypatch):
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.0)
    cuts = []
    socket = socket_of(Peer(), lambda: cuts.append("cut"))
    socket.close(4400, "")
    socket.closed()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cuts == []
    unclosed = socket_of(Peer())
    unclosed.closed()
    assert not unclosed.is_open


async def test_a_session_without_a_socket_is_offline_and_loses_what_it_is_sent():
    session = Session("ses_1", Identity("a", "A", 0.0), "token", "ws://host/ws")
    session.send({"type": "presence.changed"})
    assert (session.user_id, session.is_online) == ("a", False)
    peer = Peer()
    session.socket = socket_of(peer)
    assert session.is_online
    session.send({"n": 1})
    session.socket.close(1000, "")
    assert not session.is_online
    await session.socket.write()
    session.socket.closed()
    assert peer.sent == [{"n": 1}]
