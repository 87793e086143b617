"""SRTP in place: libsrtp works on rows of our own memory (RFC 3711, RFC 7714).

The only file that touches private names of pylibsrtp: its cffi binding and the handle
of a session. `tests/unit/media/test_srtp.py` fails when they move.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pylibsrtp import Session
from pylibsrtp._binding import ffi, lib

# Looked up once: the binding resolves a name anew each time.
_protect, _protect_rtcp = lib.srtp_protect, lib.srtp_protect_rtcp
_unprotect, _unprotect_rtcp = lib.srtp_unprotect, lib.srtp_unprotect_rtcp

# libsrtp may write this much behind a packet; a row keeps it free.
SRTP_TRAILER_BYTES = 144


class Rows:
    """A block of equal rows of memory, with the pointers that libsrtp wants."""

    def __init__(self, count: int, stride: int) -> None:
        self.count, self.stride = count, stride
        self.buffer = bytearray(count * stride)
        self.view = memoryview(self.buffer)
        whole = ffi.from_buffer("char[]", self.buffer)
        self._whole = whole
        # Address of the first row, for the iovecs of recvmmsg and sendmmsg.
        self.address = int(ffi.cast("uintptr_t", whole))
        self._cells = ffi.new("int[]", count)
        self._pointers = [ffi.addressof(whole, index * stride) for index in range(count)]
        self._length_pointers = [ffi.addressof(self._cells, index) for index in range(count)]
        # The same lengths as an array, so that a batch is read in one step.
        self.lengths: NDArray[np.int32] = np.frombuffer(ffi.buffer(self._cells), np.int32)
        # And the rows themselves, (count, stride).
        self.matrix: NDArray[np.uint8] = np.frombuffer(self.buffer, np.uint8).reshape(count, stride)

    def take(self, index: int) -> bytes:
        """Return a copy of what stands in a row."""
        at = index * self.stride
        return bytes(self.view[at : at + self._cells[index]])

    def put(self, index: int, data: bytes) -> None:
        """Write a whole packet into a row."""
        at = index * self.stride
        self.buffer[at : at + len(data)] = data
        self._cells[index] = len(data)

    def set_length(self, index: int, length: int) -> None:
        self._cells[index] = length


class SrtpContext:
    """One direction of one peer's SRTP; every call returns whether libsrtp agreed."""

    __slots__ = ("_handle", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session  # owns the memory behind the handle
        self._handle = session._srtp[0]

    def open(self, rows: Rows, index: int, length: int) -> bytes | None:
        """Decrypt the packet in a row and return a copy of it; None if it is not authentic."""
        cells = rows._cells
        cells[index] = length
        if _unprotect(self._handle, rows._pointers[index], rows._length_pointers[index]):
            return None
        at = index * rows.stride
        return bytes(rows.view[at : at + cells[index]])

    def protect(self, rows: Rows, index: int) -> bool:
        return bool(_protect(self._handle, rows._pointers[index], rows._length_pointers[index]) == 0)

    def protect_rtcp(self, rows: Rows, index: int) -> bool:
        return bool(
            lib.srtp_protect_rtcp(self._handle, rows._pointers[index], rows._length_pointers[index]) == 0
        )

    def unprotect_rtcp(self, rows: Rows, index: int) -> bool:
        return bool(
            lib.srtp_unprotect_rtcp(self._handle, rows._pointers[index], rows._length_pointers[index]) == 0
        )


class Ciphers:
    """What libsrtp wants to know of the rows of an audience: sessions, first bytes, lengths."""

    __slots__ = ("_handles", "_lengths", "_pointers")

    def __init__(self, contexts: Sequence[SrtpContext], rows: Rows) -> None:
        if len(contexts) > rows.count:
            raise ValueError("more receivers than rows")
        self._handles = [context._handle for context in contexts]
        self._pointers, self._lengths = rows._pointers, rows._length_pointers

    def protect_all(self) -> int:
        """Encrypt rows in place; return how many libsrtp refused: those have no length afterwards."""
        codes = list(map(_protect, self._handles, self._pointers, self._lengths))
        if not any(codes):
            return 0
        for code, length in zip(codes, self._lengths, strict=False):
            if code:
                length[0] = 0
        return len(codes) - codes.count(0)
