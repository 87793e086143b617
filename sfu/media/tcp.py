"""ICE over TCP for networks that block UDP: a passive port, framed (RFC 6544, RFC 4571)."""

import asyncio
import contextlib
import struct
from collections.abc import Callable
from typing import Any, cast

from sfu.counters import MediaCounters

_LENGTH = struct.Struct("!H")

# A connection that has shown no authenticated check within this time is closed.
FIRST_CHECK_S = 5.0

# Connections at once; a peer needs one. More are closed as they come.
MAX_CONNECTIONS = 2_000

# What may wait for a slow connection: a second of 2 Mbit/s. More is dropped, never queued.
MAX_UNSENT_BYTES = 256 * 1024


class TcpPath(asyncio.Protocol):
    """One connection, which is one path of one peer.

    Frames go to `on_frame` in the order in which they came.
    """

    kind = "tcp"

    def __init__(
        self,
        counters: MediaCounters,
        on_frame: Callable[["TcpPath", bytes], None],
        on_lost: Callable[["TcpPath"], None],
    ) -> None:
        self._counters, self._on_frame, self._on_lost = counters, on_frame, on_lost
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._received = bytearray()
        self.address = ("", 0)
        # The peer that this connection was proved to belong to (sfu/media/ports.py).
        self.endpoint: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.address = tuple(transport.get_extra_info("peername")[:2])
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(FIRST_CHECK_S, self._require_check)

    def _require_check(self) -> None:
        if self.endpoint is None:
            self.close()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while len(received) - at >= 2:
            end = at + 2 + _LENGTH.unpack_from(received, at)[0]
            if end > len(received):
                break
            if self._transport is None or self._transport.is_closing():
                return
            self._on_frame(self, bytes(received[at + 2 : end]))
            at = end
        del received[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None
        self._on_lost(self)

    def send_now(self, data: bytes) -> None:
        """Send one frame, or drop it when the connection does not keep up."""
        transport = self._transport
        if transport is None or transport.is_closing():
            self._counters.drop("unreachable")
        elif transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._counters.drop("socket_full")
        else:
            transport.write(_LENGTH.pack(len(data)) + data)
            self._counters.datagrams_sent += 1

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class TcpPort:
    """The listening socket, and every connection it took."""

    def __init__(self, counters: MediaCounters) -> None:
        self._counters = counters
        self._connections: set[TcpPath] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(
        self,
        host: str,
        port: int,
        on_frame: Callable[[TcpPath, bytes], None],
        on_lost: Callable[[TcpPath], None],
    ) -> None:
        """Listen; frames of all connections go to `on_frame`."""

        def lost(path: TcpPath) -> None:
            self._connections.discard(path)
            on_lost(path)

        def connect() -> asyncio.Protocol:
            if len(self._connections) >= MAX_CONNECTIONS:
                self._counters.drop("too_many_connections")
                return _Refusal()
            path = TcpPath(self._counters, on_frame, lost)
            self._connections.add(path)
            return path

        self._server = await asyncio.get_running_loop().create_server(connect, host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for path in list(self._connections):
                path.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._server.wait_closed()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()
