"""Rows of memory with an address each, as `recvmmsg` and `sendmmsg` of Linux want them."""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sfu.compiling import mypyc_attr
from sfu.media.packet import MAX_ADDED_BYTES, MAX_PACKET_BYTES
from sfu.media.srtp import SRTP_TRAILER_BYTES, Rows

# One row: the largest packet, what it may grow by, and what SRTP writes behind it. It is 33 lines of a cache;
# at a power of two the rows would share a few. What fills it is dropped: it is longer, and was cut.
STRIDE: Final = MAX_PACKET_BYTES + MAX_ADDED_BYTES + SRTP_TRAILER_BYTES + 4

# Receivers that one batch of rows goes to; a larger audience is several batches.
AUDIENCE_ROWS: Final = 512

# Packets in a row that go to an audience at once: a frame of 2 Mbit/s has six or seven.
BURST: Final = 8

# struct mmsghdr and struct iovec of Linux on 64 bits.
_HEADER_BYTES: Final = 64
# Places in the first of them, in words of 8 bytes; the length in words of 4.
_NAME: Final = 0
_NAMELEN: Final = 1
_IOV: Final = 2
_IOVLEN: Final = 3
_CONTROL: Final = 4
_CONTROLLEN: Final = 5
_LENGTH: Final = 14
_WORDS: Final = 16

# Around each datagram that came: what the kernel tells of it (struct cmsghdr, struct timespec), then
# who sent it.
ENVELOPE_BYTES: Final = 64
CONTROL_BYTES: Final = 32


# Beside a message of several packets: the length of each but the last, which may be shorter (struct cmsghdr;
# udp(7), linux/udp.h). The kernel cuts the message there, late: what it does for a datagram it does once.
SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
_SEGMENT: Final = struct.Struct("=QiiH6x")
_SEGMENT_AT: Final = 16


class Burst:
    """Rows for several packets to the same audience: those of one receiver are neighbours for the kernel."""

    def __init__(self, count: int, stride: int) -> None:
        self.count, self.stride = count, stride
        self.iovecs: NDArray[np.uint64] = np.zeros((count, BURST, 2), np.uint64)
        self._packets: list[Rows] = []

    def rows(self, packet: int) -> Rows:
        """Return the rows of the first packet (0), of the second, …: one a receiver."""
        while len(self._packets) <= packet:
            self._packets.append(Rows(self.count, self.stride, self.iovecs[:, len(self._packets)]))
        return self._packets[packet]


@mypyc_attr(allow_interpreted_subclasses=True)
class Held:
    """What has written packets into the rows of a burst."""

    def release(self, packets: int) -> None:
        """Send the packets that were written."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class RowOutlet:
    """Where rows go out: the UDP port."""

    burst: Burst

    def hold(self, held: Held, length: int) -> int:
        """Return which packet of `burst` one of so many bytes becomes; it is sent before anything else is.

        Whoever held others, or what this one does not fit to, is released before.
        """
        raise NotImplementedError

    def send_rows(self, names: bytes, count: int, packets: int = 1, refused: int = 0) -> bool:
        """Send so many packets of `burst` to the addresses in `names`, each as long as it is.

        False: the socket was full, and some of them are dropped and counted. `refused` rows have no
        length: libsrtp did not encrypt them.
        """
        raise NotImplementedError


class Messages:
    """Headers of a batch of datagrams, prepared once: each row has its name and its iovec."""

    def __init__(self, rows: Rows | Burst, name_bytes: int, *, receives: bool = False) -> None:
        """Prepare a header for each row, or for the rows of each receiver.

        `receives`: the kernel fills whole rows, whatever their lengths, and `envelopes`. Otherwise each row
        is sent as it is, to the address in `names`.
        """
        count = rows.count
        self.name_bytes = name_bytes
        index: NDArray[np.uint64] = np.arange(count, dtype=np.uint64)
        iovecs = rows.iovecs
        self._table: NDArray[np.uint64] = np.zeros((count, _HEADER_BYTES // 8), np.uint64)
        self._table[:, _NAMELEN] = name_bytes
        self._table[:, _IOVLEN] = 1
        self.names = bytearray(0 if receives else count * name_bytes)
        self.envelopes = bytearray(count * ENVELOPE_BYTES if receives else 0)
        if receives:
            iovecs = iovecs.copy()
            iovecs[:, 1] = rows.stride
            at = _address(self.envelopes) + index * ENVELOPE_BYTES
            self._table[:, _NAME] = at + CONTROL_BYTES
            self._table[:, _CONTROL] = at
            self._table[:, _CONTROLLEN] = CONTROL_BYTES
        else:
            self._table[:, _NAME] = _address(self.names) + index * name_bytes
        # The kernel reads them: they live as long as this.
        self._iovecs = iovecs
        self._table[:, _IOV] = iovecs.ctypes.data + index * iovecs.strides[0]
        # How many packets each message carries, and what tells the kernel of it.
        self._packets = 1
        self._cuts = bytearray(0)
        self._lengths: NDArray[np.int32] = np.zeros(0, np.int32)
        self._segments: NDArray[np.uint16] = np.zeros(0, np.uint16)
        if isinstance(rows, Burst):
            self._lengths = rows.rows(0).lengths
            told = _SEGMENT.pack(_SEGMENT.size - 6, SOL_UDP, UDP_SEGMENT, 0)
            self._cuts = bytearray(told * count)
            self._segments = np.ndarray(
                (count,), np.uint16, self._cuts, offset=_SEGMENT_AT, strides=(_SEGMENT.size,)
            )
            self._table[:, _CONTROL] = _address(self._cuts) + index * _SEGMENT.size
        # The address of the first header.
        self.headers: int = self._table.ctypes.data
        # Plain numbers: to read one costs a tenth of what reading it from an array does.
        self._words = memoryview(self._table.view(np.uint32).reshape(-1).data)

    def carry(self, packets: int, count: int) -> None:
        """Let each of the first messages carry so many packets: all but the last are as long as the first."""
        if packets != self._packets:
            self._packets = packets
            self._table[:, _IOVLEN] = packets
            self._table[:, _CONTROLLEN] = _SEGMENT.size if packets > 1 else 0
        if packets > 1:
            self._segments[:count] = self._lengths[:count]

    def received(self, index: int) -> int:
        """Return the length of a datagram that came, or of the row if it was not shorter."""
        return self._words[index * _WORDS + _LENGTH]

    def headers_from(self, index: int) -> int:
        """Return the address of a header, for the system call."""
        return self.headers + index * _HEADER_BYTES


def _address(memory: bytearray) -> int:
    """Return where it lies; it must not be resized, and must live on."""
    return int(np.frombuffer(memory, np.uint8).ctypes.data)
