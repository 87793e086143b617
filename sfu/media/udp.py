"""The one UDP socket: datagrams in by `recvmmsg`, out by `sendmmsg`, in rows of memory.

Where the kernel has neither call (macOS), the same rows travel one at a time.
"""

import asyncio
import contextlib
import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

from sfu.clock import unix_seconds
from sfu.compiling import mypyc_attr
from sfu.counters import MediaCounters
from sfu.media import kernel
from sfu.media.datagrams import (
    AUDIENCE_ROWS,
    BURST,
    ENVELOPE_BYTES,
    SOL_UDP,
    STRIDE,
    UDP_SEGMENT,
    Burst,
    Held,
    Messages,
    RowOutlet,
)
from sfu.media.srtp import Rows

# One system call brings so many datagrams: at 100,000 a second, 0.6 ms worth.
BATCH: Final = 64

# Batches taken in one turn of the loop, so that timers and sockets get theirs.
MAX_BATCHES: Final = 8

# Outgoing packets of single receivers gathered before they are sent.
OUTGOING_ROWS: Final = 256

# Half a second of 64 Mbit/s; the kernel caps it at net.core.rmem_max and wmem_max.
SOCKET_BUFFER_BYTES: Final = 4 << 20

# Feedback waits in a socket of its own: so many are taken after the media, so often, and the rest at each
# tick, so many at a time. Its buffer is small: what waits longer than a few ticks is of no use.
ASIDE_MOST: Final = 16
ASIDE_EVERY_S: Final = 0.01
ASIDE_BUFFER_BYTES: Final = 512 << 10

# Of Linux (asm-generic/socket.h): choose by a program among the sockets of one port.
_SO_ATTACH_REUSEPORT_CBPF = 51

# The program: 1, the second socket, for RTCP whose first packet is transport-wide feedback (packet type
# 205, format 15); else 0. Each step is (code, jump if true, jump if false, number), linux/filter.h.
_LOAD_BYTE: Final = 0x30
_AND: Final = 0x54
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_CHOICE: Final = (
    (_LOAD_BYTE, 0, 0, 1),
    (_JUMP_IF_EQUAL, 0, 4, 205),
    (_LOAD_BYTE, 0, 0, 0),
    (_AND, 0, 0, 0xDF),  # whether it is padded makes no difference
    (_JUMP_IF_EQUAL, 0, 1, 0x8F),
    (_RETURN, 0, 0, 1),
    (_RETURN, 0, 0, 0),
)
_PROGRAM: Final = ctypes.create_string_buffer(b"".join([struct.pack("=HBBI", *step) for step in _CHOICE]))

# What Linux tells beside each datagram: struct cmsghdr, then when it arrived by the wall clock, as seconds
# and nanoseconds (struct timespec; socket(7), asm-generic/socket.h). Behind it stands who sent it, in so many
# bytes (struct sockaddr_in, struct sockaddr_in6).
_SO_TIMESTAMPNS: Final = 35
_V4_ENVELOPE: Final = struct.Struct("=16xqq16s")
_V6_ENVELOPE: Final = struct.Struct("=16xqq28s")
# One that is farther away than this was made before the wall clock was set.
OLDEST_S: Final = 1.0

_V4: Final = struct.Struct("!2xH4s8x")
_V6: Final = struct.Struct("!2xHI16sI")


@mypyc_attr(allow_interpreted_subclasses=True)
class DatagramReceiver:
    """Who takes what the socket brings."""

    def receive_datagram(self, index: int, length: int, sockaddr: bytes, now: float, arrived: float) -> None:
        """Take the datagram in a row of `UdpPort.incoming`.

        `arrived`: when the kernel got it. A process that had to wait for a processor reads it later, and
        must not take that for a queue on the network.
        """
        raise NotImplementedError


def _open_aside(first: socket.socket) -> socket.socket | None:
    """Return a second socket on the port of a bound one, to which the kernel sends the feedback.

    Feedback is most of what a large audience sends, and none of it is urgent: from its own socket it
    wakes nobody, and is read in batches. None where the kernel knows no such thing; then all comes by
    the first. Nobody else can bind the port: the first was bound alone.
    """
    second = socket.socket(first.family, socket.SOCK_DGRAM)
    try:
        second.setblocking(False)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ASIDE_BUFFER_BYTES)
        if first.family == socket.AF_INET6:
            second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for each in (first, second):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.bind(first.getsockname())
        choice = struct.pack("HP", len(_CHOICE), ctypes.addressof(_PROGRAM))
        second.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, choice)
    except (AttributeError, OSError):
        second.close()
        with contextlib.suppress(AttributeError, OSError):
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return None
    return second


def _stamp(each: socket.socket) -> bool:
    """Let the kernel tell when each datagram arrived; tell whether it can."""
    if sys.platform != "linux":
        return False
    try:
        each.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def _can_cut(each: socket.socket) -> bool:
    """Tell whether the kernel cuts a message into packets (Linux 4.18); an older one sends it whole."""
    if sys.platform != "linux":
        return False
    try:
        each.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


class UdpPort(RowOutlet):
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
        # Seconds since 1970, by the clock that the kernel's stamps are of.
        self.wallclock: Callable[[], float] = unix_seconds
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
        self._fileno = self._socket.fileno()
        name_bytes = 28 if family == socket.AF_INET6 else 16
        self.incoming = Rows(BATCH, STRIDE)
        self.outgoing = Rows(OUTGOING_ROWS, STRIDE)
        # Packets to each of an audience. All audiences use the same rows, one after the other: memory
        # that was used a moment ago is in the caches.
        self.burst = Burst(AUDIENCE_ROWS, STRIDE)
        # Who has written packets there, how many, how long all but the last are; whether another may follow.
        self._held: Held | None = None
        self._packets = self._length = 0
        self._is_open = False
        self._filled = 0
        self._receiver: DatagramReceiver | None = None
        # Any: what uvloop's methods return is not what asyncio's are said to.
        self._loop: Any = None
        self._in = Messages(self.incoming, name_bytes, receives=True)
        self._envelope = _V6_ENVELOPE if family == socket.AF_INET6 else _V4_ENVELOPE
        self._out = Messages(self.outgoing, name_bytes)
        self._to_audience = Messages(self.burst, name_bytes)
        # The addresses that stand in its headers.
        self._addressed = b""
        receive, send = kernel.receive_batch(), kernel.send_batch()
        self._batched = batched and receive is not None and send is not None
        # Any: of the type that mypyc would call, but made by cffi or ctypes.
        self._recvmmsg: Any = receive
        self._sendmmsg: Any = send
        self._aside = _open_aside(self._socket) if self._batched else None
        self._aside_at = 0.0
        sockets = [self._socket, *([self._aside] if self._aside is not None else [])]
        self._is_stamped = self._batched and all(_stamp(each) for each in sockets)
        # Until a network device shows that it cannot.
        self._cuts = self._batched and _can_cut(self._socket)

    def start(self, receiver: DatagramReceiver) -> None:
        """Hand what arrives to a receiver, from now on."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        self._held = None
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        if self._aside is not None:
            self._aside.close()
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
        for _ in range(MAX_BATCHES):
            count = self._receive_batch(self._fileno, BATCH) if self._batched else self._receive_singly()
            if count < BATCH:
                break
        self.flush()
        if self._aside is not None and (now := self._clock()) >= self._aside_at:
            is_rest = self._receive_batch(self._aside.fileno(), ASIDE_MOST) == ASIDE_MOST
            self._aside_at = now + (0.0 if is_rest else ASIDE_EVERY_S)

    def take_aside(self) -> bool:
        """Take some of the feedback that waits, and tell whether there is more.

        Called at each tick, because feedback wakes nobody itself.
        """
        return self._aside is not None and (
            self._receive_batch(self._aside.fileno(), ASIDE_MOST) == ASIDE_MOST
        )

    def _receive_batch(self, fileno: int, most: int) -> int:
        messages, receiver = self._in, self._receiver
        count: int = self._recvmmsg(fileno, messages.headers, most)
        if count <= 0 or receiver is None:
            return 0
        now = self._clock()
        behind = self.wallclock() - now
        envelope, envelopes = self._envelope, messages.envelopes
        is_stamped, arrived = self._is_stamped, now
        seconds: int
        nanoseconds: int
        self._counters.datagrams_received += count
        for index in range(count):
            length = messages.received(index)
            if length >= STRIDE:
                self._counters.drop("oversize")
                continue
            seconds, nanoseconds, sender = envelope.unpack_from(envelopes, index * ENVELOPE_BYTES)
            if is_stamped:
                arrived = seconds + nanoseconds * 1e-9 - behind
                if not now - OLDEST_S < arrived < now:
                    arrived = now
            receiver.receive_datagram(index, length, sender, now, arrived)
        self.release()
        return count

    def _receive_singly(self) -> int:
        for _ in range(BATCH):
            try:
                data, address = self._socket.recvfrom(65536)
            except (BlockingIOError, InterruptedError):
                return 0
            self._counters.datagrams_received += 1
            if len(data) >= STRIDE:
                self._counters.drop("oversize")
            else:
                assert self._receiver is not None  # start came first
                self.incoming.put(0, data)
                now = self._clock()
                self._receiver.receive_datagram(0, len(data), self._sockaddr(address), now, now)
        return BATCH

    def _sockaddr(self, address: tuple[str, int] | tuple[str, int, int, int]) -> bytes:
        if self.family == socket.AF_INET:
            return struct.pack("=H", self.family) + _V4.pack(address[1], socket.inet_aton(address[0]))[2:]
        packed = socket.inet_pton(socket.AF_INET6, address[0].split("%")[0])
        return struct.pack("=H", self.family) + _V6.pack(address[1], 0, packed, address[-1])[2:]

    # Sending

    def reserve(self) -> int:
        """Return the index of a free outgoing row; it is sent by `commit`."""
        self.release()
        if self._filled == OUTGOING_ROWS:
            self.flush()
        return self._filled

    def commit(self, sockaddr: bytes) -> None:
        """Queue the row that `reserve` gave, to go out with the next flush."""
        out, index = self._out, self._filled
        at = index * out.name_bytes
        out.names[at : at + out.name_bytes] = sockaddr
        self._filled = index + 1

    def hold(self, held: Held, length: int) -> int:
        """Return which packet of `burst` it becomes; see `RowOutlet`.

        It is sent at the latest when what was read with it is done. All packets of a burst are of one length,
        but the last may be shorter.
        """
        packets = self._packets
        if self._held is held and self._is_open and length <= self._length and packets < BURST:
            self._packets, self._is_open = packets + 1, length == self._length
            return packets
        self.release()
        self._held, self._packets, self._length, self._is_open = held, 1, length, self._cuts
        return 0

    def release(self) -> None:
        """Send the packets that are held."""
        held = self._held
        if held is not None:
            self._held = None
            held.release(self._packets)

    def send_rows(self, names: bytes, count: int, packets: int = 1, refused: int = 0) -> bool:
        """Send packets of `burst`; see `RowOutlet`."""
        if self._filled:  # what was queued before goes first
            self._send_queue()
        messages = self._to_audience
        if names is not self._addressed:
            messages.names[: len(names)] = names
            self._addressed = names
        if not self._batched or refused:
            for index in range(count):
                self._send_packets(index, packets)
            return True
        messages.carry(packets, count)
        sent: int = self._sendmmsg(self._fileno, messages.headers, count)
        if sent == count:
            self._counters.datagrams_sent += count * packets
            return True
        return self._send_rest(messages, count, sent, packets)

    def flush(self) -> None:
        """Send everything that is held or queued; what the kernel does not take is dropped and counted."""
        self.release()
        if self._filled:
            self._send_queue()

    def _send_queue(self) -> None:
        count, self._filled = self._filled, 0
        if self._batched:
            self._send_rest(self._out, count, self._sendmmsg(self._fileno, self._out.headers, count))
        else:
            for index in range(count):
                self._send_row(self.outgoing, self._out, index)

    def _send_rest(self, messages: Messages, count: int, sent: int, packets: int = 1) -> bool:
        """Send messages to the end; `sent`: what the system call said of the first attempt."""
        done = 0
        while True:
            if sent > 0:
                self._counters.datagrams_sent += sent * packets
                done += sent
            elif -sent in (errno.EAGAIN, errno.ENOBUFS):
                self._counters.drop("socket_full", (count - done) * packets)
                return False
            elif -sent != errno.EINTR and packets > 1:
                # Whole or in parts: a device without checksums of its own cuts nothing (EIO).
                self._cuts = self._cuts and -sent != errno.EIO
                self._send_packets(done, packets)
                done += 1
            elif -sent != errno.EINTR:  # this address only: unreachable, refused, forbidden
                self._counters.drop("unreachable")
                done += 1
            if done >= count:
                return True
            sent = self._sendmmsg(self._fileno, messages.headers_from(done), count - done)

    def _send_packets(self, index: int, packets: int) -> None:
        """Send one receiver's packets of a burst one at a time."""
        for packet in range(packets):
            self._send_row(self.burst.rows(packet), self._to_audience, index)

    def _send_row(self, rows: Rows, messages: Messages, index: int) -> None:
        """Send a row by itself; an empty one goes nowhere."""
        at = index * messages.name_bytes
        data = rows.take(index)
        if data:
            self.send_now(data, bytes(messages.names[at : at + messages.name_bytes]))

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
