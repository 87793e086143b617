"""The queue before a socket: bounded, in order, and closed with the first reason."""

import asyncio
import json

import pytest

from sfu.auth import Identity
from sfu.signaling import session as module
from sfu.signaling.session import MAX_WAITING_BYTES, MAX_WAITING_FRAMES, CloseCode, Session, Socket


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


def socket_of(peer, abort=lambda: None):
    return Socket(peer, abort, 0.0, 30.0)


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
