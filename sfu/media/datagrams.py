"""Rows of memory with an address each, as `recvmmsg` and `sendmmsg` of Linux want them."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from sfu.media.packet import MAX_PACKET_BYTES
from sfu.media.srtp import SRTP_TRAILER_BYTES, Rows

# One row: the largest packet, and what SRTP writes behind it. A longer datagram is cut by
# the kernel and dropped here.
STRIDE = MAX_PACKET_BYTES + SRTP_TRAILER_BYTES + 4

# Receivers that one batch of rows goes to; a larger audience is several batches.
AUDIENCE_ROWS = 256

# struct mmsghdr and struct iovec of Linux on 64 bits, as words of 8 and of 4 bytes.
_HEADER_BYTES, _IOVEC_BYTES = 64, 16
_NAME, _NAMELEN, _IOV, _IOVLEN, _CONTROL, _CONTROLLEN = 0, 1, 2, 3, 4, 5  # of 8 bytes
_FLAGS, _LENGTH, _WORDS = 12, 14, 16  # of 4 bytes


class Messages:
    """Headers of a batch of datagrams, prepared once: each row has its name and its iovec."""

    def __init__(self, rows: Rows, name_bytes: int, control_bytes: int | None = None) -> None:
        """Prepare a header for each row.

        `control_bytes`: for receiving, with so much room for what the kernel tells of each datagram; the
        kernel may then fill whole rows, whatever their lengths. Without it, each row is sent as it is.
        """
        count = rows.count
        self.name_bytes = name_bytes
        self.names = bytearray(count * name_bytes)
        names = np.frombuffer(self.names, np.uint8)
        index: NDArray[np.uint64] = np.arange(count, dtype=np.uint64)
        self._iovecs = rows.iovecs
        self._table: NDArray[np.uint64] = np.zeros((count, _HEADER_BYTES // 8), np.uint64)
        self._table[:, _NAME] = names.ctypes.data + index * name_bytes
        self._table[:, _NAMELEN] = name_bytes
        self._table[:, _IOVLEN] = 1
        if control_bytes is not None:
            self._iovecs = rows.iovecs.copy()
            self._iovecs[:, 1] = rows.stride
            self.control = bytearray(count * control_bytes)
            address = np.frombuffer(self.control, np.uint8).ctypes.data if control_bytes else 0
            self._table[:, _CONTROL] = address + index * control_bytes
            self._table[:, _CONTROLLEN] = control_bytes
        self._table[:, _IOV] = self._iovecs.ctypes.data + index * _IOVEC_BYTES
        self._address: int = self._table.ctypes.data
        self.headers = ctypes.c_void_p(self._address)
        # Plain numbers: to read one costs a tenth of what reading it from an array does.
        self._words = memoryview(self._table.view(np.uint32).reshape(-1).data)

    def received(self, index: int) -> tuple[int, int]:
        """Return length and flags of a datagram that came."""
        at = index * _WORDS
        return self._words[at + _LENGTH], self._words[at + _FLAGS]

    def headers_from(self, index: int) -> ctypes.c_void_p:
        """Return the address of a header, for the system call."""
        return ctypes.c_void_p(self._address + index * _HEADER_BYTES) if index else self.headers
