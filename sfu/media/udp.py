"""The one UDP socket: datagrams in by `recvmmsg`, out by `sendmmsg`, in rows of memory.

Where the kernel has neither call (macOS), the same rows travel one at a time.
"""

import asyncio
import ctypes
import errno
import socket
import struct
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sfu.media.packet import MAX_PACKET_BYTES
from sfu.media.srtp import SRTP_TRAILER_BYTES, Rows
from sfu.metrics import MediaCounters

# One system call brings so many datagrams: at 100,000 a second, 0.6 ms worth.
BATCH = 64

# Batches taken in one turn of the loop, so that timers and sockets get theirs.
MAX_BATCHES = 8

# Outgoing packets gathered before they are sent; a fan-out of 300 fits.
OUTGOING_ROWS = 512

# One row: the largest packet, and what SRTP writes behind it. A longer datagram is cut by
# the kernel and dropped here.
STRIDE = MAX_PACKET_BYTES + SRTP_TRAILER_BYTES + 4

# Half a second of 64 Mbit/s; the kernel caps it at net.core.rmem_max and wmem_max.
SOCKET_BUFFER_BYTES = 4 << 20

# As a plain number: the flags of the socket module are enumerations, and slow.
_TRUNCATED = int(socket.MSG_TRUNC)

_V4, _V6 = struct.Struct("!2xH4s8x"), struct.Struct("!2xHI16sI")


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("hdr", _MsgHdr), ("len", ctypes.c_uint32))


class _Messages:
    """Headers of a batch of datagrams, prepared once: each row has its name and its iovec."""

    def __init__(self, rows: Rows, name_bytes: int) -> None:
        count = rows.count
        self.name_bytes = name_bytes
        self.names = bytearray(count * name_bytes)
        self.name_rows = np.frombuffer(self.names, np.uint8).reshape(count, name_bytes)
        self._names = (ctypes.c_char * len(self.names)).from_buffer(self.names)
        self._iovecs = (_IoVec * count)()
        self.headers = (_MMsgHdr * count)()
        for index in range(count):
            self._iovecs[index].base = rows.address + index * rows.stride
            self._iovecs[index].len = rows.stride
            header = self.headers[index].hdr
            header.name = ctypes.addressof(self._names) + index * name_bytes
            header.namelen = name_bytes
            header.iov = ctypes.addressof(self._iovecs) + index * ctypes.sizeof(_IoVec)
            header.iovlen = 1
        words = ctypes.sizeof(_MMsgHdr) // 4
        table = np.frombuffer(memoryview(self.headers), np.uint32).reshape(count, words)
        self.received_lengths = table[:, _MMsgHdr.len.offset // 4]
        self.received_flags = table[:, _MsgHdr.flags.offset // 4]
        self.lengths_to_send = np.frombuffer(memoryview(self._iovecs), np.uint64).reshape(count, 2)[:, 1]


class DatagramReceiver(Protocol):
    """Who takes what the socket brings."""

    def receive_datagram(self, index: int, length: int, sockaddr: bytes, now: float) -> None:
        """Take the datagram in a row of `UdpPort.incoming`."""


class UdpPort:
    """A bound, non-blocking socket, read by the running loop."""

    def __init__(
        self,
        host: str,
        port: int,
        counters: MediaCounters,
        clock: Callable[[], float],
        *,
        batched: bool = True,
    ) -> None:
        self._counters, self._clock = counters, clock
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.family = family
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        if family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        name_bytes = 28 if family == socket.AF_INET6 else 16
        self.incoming = Rows(BATCH, STRIDE)
        self.outgoing = Rows(OUTGOING_ROWS, STRIDE)
        self._filled = 0
        # Queued rows that have no length: libsrtp refused them.
        self._empty = 0
        self._receiver: DatagramReceiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in = _Messages(self.incoming, name_bytes)
        self._out = _Messages(self.outgoing, name_bytes)
        libc = ctypes.CDLL(None, use_errno=True)
        self._batched = batched and hasattr(libc, "recvmmsg") and hasattr(libc, "sendmmsg")
        if self._batched:
            self._recvmmsg, self._sendmmsg = libc.recvmmsg, libc.sendmmsg

    def start(self, receiver: DatagramReceiver) -> None:
        """Hand what arrives to a receiver, from now on."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close()

    # Addresses

    def address(self, sockaddr: bytes) -> tuple[str, int]:
        """Return (ip, port) of a raw socket address."""
        if self.family == socket.AF_INET:
            port, packed = _V4.unpack(sockaddr)
            return socket.inet_ntop(socket.AF_INET, packed), port
        port, _flow, packed6, _scope = _V6.unpack(sockaddr)
        ip = socket.inet_ntop(socket.AF_INET6, packed6)
        return ip.removeprefix("::ffff:") if "." in ip else ip, port

    # Receiving

    def _readable(self) -> None:
        receive = self._receive_batch if self._batched else self._receive_singly
        for _ in range(MAX_BATCHES):
            if receive() < BATCH:
                break
        self.flush()

    def _receive_batch(self) -> int:
        messages, receiver = self._in, self._receiver
        count: int = self._recvmmsg(self._socket.fileno(), messages.headers, BATCH, 0, None)
        if count <= 0 or receiver is None:
            return 0
        now = self._clock()
        lengths = messages.received_lengths[:count].tolist()
        flags = messages.received_flags[:count].tolist()
        names, size = messages.names, messages.name_bytes
        self._counters.datagrams_received += count
        for index in range(count):
            if flags[index] & _TRUNCATED:
                self._counters.drop("oversize")
                continue
            at = index * size
            receiver.receive_datagram(index, lengths[index], bytes(names[at : at + size]), now)
        return count

    def _receive_singly(self) -> int:
        for _ in range(BATCH):
            try:
                data, address = self._socket.recvfrom(65536)
            except (BlockingIOError, InterruptedError):
                return 0
            self._counters.datagrams_received += 1
            if len(data) > STRIDE:
                self._counters.drop("oversize")
            else:
                assert self._receiver is not None  # start came first
                self.incoming.put(0, data)
                self._receiver.receive_datagram(0, len(data), self._sockaddr(address), self._clock())
        return BATCH

    def _sockaddr(self, address: tuple[str, int] | tuple[str, int, int, int]) -> bytes:
        if self.family == socket.AF_INET:
            return struct.pack("=H", self.family) + _V4.pack(address[1], socket.inet_aton(address[0]))[2:]
        packed = socket.inet_pton(socket.AF_INET6, address[0].split("%")[0])
        return struct.pack("=H", self.family) + _V6.pack(address[1], 0, packed, address[-1])[2:]

    # Sending

    def reserve(self) -> int:
        """Return the index of a free outgoing row; it is sent by `commit`."""
        if self._filled == OUTGOING_ROWS:
            self.flush()
        return self._filled

    def commit(self, sockaddr: bytes) -> None:
        """Queue the row that `reserve` gave, to go out with the next flush."""
        out, index = self._out, self._filled
        at = index * out.name_bytes
        out.names[at : at + out.name_bytes] = sockaddr
        self._filled = index + 1

    def reserve_block(self, count: int) -> int:
        """Return the index of the first of `count` free rows; `commit_block` sends them."""
        if self._filled + count > OUTGOING_ROWS:
            self.flush()
        return self._filled

    def commit_block(self, count: int, sockaddrs: NDArray[np.uint8], empty: int = 0) -> None:
        """Queue the rows that `reserve_block` gave, one to each address; `empty` have no length."""
        first = self._filled
        self._empty += empty
        self._out.name_rows[first : first + count] = sockaddrs
        self._filled = first + count

    def flush(self) -> None:
        """Send every queued row; what the kernel does not take is dropped and counted."""
        count, self._filled = self._filled, 0
        if not count:
            return
        if not self._batched:
            self._flush_singly(count)
            return
        out, sent_so_far = self._out, 0
        out.lengths_to_send[:count] = self.outgoing.lengths[:count]
        if self._empty:
            self._empty, count = 0, self._close_up(count)
        while sent_so_far < count:
            first = ctypes.byref(out.headers, sent_so_far * ctypes.sizeof(_MMsgHdr))
            sent = self._sendmmsg(self._socket.fileno(), first, count - sent_so_far, 0)
            if sent > 0:
                self._counters.datagrams_sent += sent
                sent_so_far += sent
                continue
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.ENOBUFS):
                self._counters.drop("socket_full", count - sent_so_far)
                return
            if code != errno.EINTR:  # this address only: unreachable, refused, forbidden
                self._counters.drop("unreachable")
                sent_so_far += 1

    def _close_up(self, count: int) -> int:
        """Move full rows over those without a length; return how many are left."""
        out, kept = self._out, 0
        for index in range(count):
            length = int(self.outgoing.lengths[index])
            if length:
                if kept != index:
                    self.outgoing.matrix[kept, :length] = self.outgoing.matrix[index, :length]
                    out.name_rows[kept] = out.name_rows[index]
                out.lengths_to_send[kept] = length
                kept += 1
        return kept

    def _flush_singly(self, count: int) -> None:
        out = self._out
        for index in range(count):
            at = index * out.name_bytes
            data = self.outgoing.take(index)
            if data:
                self.send_now(data, bytes(out.names[at : at + out.name_bytes]))

    def send_now(self, data: bytes, sockaddr: bytes) -> None:
        """Send one datagram: a STUN answer, a DTLS record."""
        address = self.address(sockaddr)
        if self.family == socket.AF_INET6 and "." in address[0]:
            address = (f"::ffff:{address[0]}", address[1])
        try:
            self._socket.sendto(data, address)
            self._counters.datagrams_sent += 1
        except (BlockingIOError, InterruptedError):
            self._counters.drop("socket_full")
        except OSError:
            self._counters.drop("unreachable")
