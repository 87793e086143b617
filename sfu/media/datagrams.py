"""Rows of memory with an address each, as `recvmmsg` and `sendmmsg` of Linux want them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sfu.media.packet import MAX_ADDED_BYTES, MAX_PACKET_BYTES
from sfu.media.srtp import SRTP_TRAILER_BYTES, Rows

# One row: the largest packet, what it may grow by, and what SRTP writes behind it. It is 33 lines of a cache;
# at a power of two the rows would share a few. What fills it is dropped: it is longer, and was cut.
STRIDE: Final = MAX_PACKET_BYTES + MAX_ADDED_BYTES + SRTP_TRAILER_BYTES + 4

# Receivers that one batch of rows goes to; a larger audience is several batches.
AUDIENCE_ROWS: Final = 256

# struct mmsghdr and struct iovec of Linux on 64 bits.
_HEADER_BYTES: Final = 64
_IOVEC_BYTES: Final = 16
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


class Messages:
    """Headers of a batch of datagrams, prepared once: each row has its name and its iovec."""

    def __init__(self, rows: Rows, name_bytes: int, *, receives: bool = False) -> None:
        """Prepare a header for each row.

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
        self._table[:, _IOV] = iovecs.ctypes.data + index * _IOVEC_BYTES
        # The address of the first header.
        self.headers: int = self._table.ctypes.data
        # Plain numbers: to read one costs a tenth of what reading it from an array does.
        self._words = memoryview(self._table.view(np.uint32).reshape(-1).data)

    def received(self, index: int) -> int:
        """Return the length of a datagram that came, or of the row if it was not shorter."""
        return self._words[index * _WORDS + _LENGTH]

    def headers_from(self, index: int) -> int:
        """Return the address of a header, for the system call."""
        return self.headers + index * _HEADER_BYTES


def _address(memory: bytearray) -> int:
    """Return where it lies; it must not be resized, and must live on."""
    return int(np.frombuffer(memory, np.uint8).ctypes.data)
