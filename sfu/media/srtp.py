"""SRTP in place: libsrtp works on rows of our own memory (RFC 3711, RFC 7714).

The only file that touches private names of pylibsrtp: its cffi binding and the handle
of a session. `tests/unit/media/test_srtp.py` fails when they move.
"""

import sys
from collections.abc import Sequence
from itertools import starmap
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pylibsrtp import Session
from pylibsrtp._binding import ffi, lib

# Looked up once: the binding resolves a name anew each time.
_protect: Final = lib.srtp_protect
_protect_rtcp: Final = lib.srtp_protect_rtcp
_unprotect: Final = lib.srtp_unprotect
_unprotect_rtcp: Final = lib.srtp_unprotect_rtcp
# Returns so many bytes from an address on.
_copy: Final = ffi.unpack

# libsrtp may write this much behind a packet; a row keeps it free.
SRTP_TRAILER_BYTES: Final = 144


class Rows:
    """A block of equal rows of memory, with the pointers that libsrtp wants.

    A row's length stands in its `struct iovec`, and nowhere else: what libsrtp makes of a length is
    what `sendmmsg` sends.
    """

    def __init__(self, count: int, stride: int, iovecs: NDArray[np.uint64] | None = None) -> None:
        """Make rows; `iovecs`: (count, 2), where their addresses and lengths are to stand."""
        self.count, self.stride = count, stride
        self.buffer = bytearray(count * stride)
        self.view = memoryview(self.buffer)
        self._whole = ffi.from_buffer("char[]", self.buffer)
        # (address, length) of each row, as the kernel wants them (struct iovec of 64 bits).
        self.iovecs: NDArray[np.uint64] = np.zeros((count, 2), np.uint64) if iovecs is None else iovecs
        self.iovecs[:, 0] = int(ffi.cast("uintptr_t", self._whole)) + np.arange(count) * stride
        # The lower half of the lengths: libsrtp knows them as int.
        self.lengths: NDArray[np.int32] = self.iovecs.view(np.int32)[:, 2 if sys.byteorder == "little" else 3]
        first = ffi.cast("char *", self.lengths.ctypes.data)
        self._pointers = [ffi.addressof(self._whole, index * stride) for index in range(count)]
        self._cells = [ffi.cast("int *", first + index * self.lengths.strides[0]) for index in range(count)]
        # The rows themselves, (count, stride).
        self.matrix: NDArray[np.uint8] = np.frombuffer(self.buffer, np.uint8).reshape(count, stride)

    def column(self, count: int, at: int, form: str) -> NDArray[Any]:
        """Return numbers of the first rows at a place, wherever that is; `form` is their NumPy type."""
        return np.ndarray((count,), form, self.buffer, offset=at, strides=(self.stride,))

    def take(self, index: int) -> bytes:
        """Return a copy of what stands in a row."""
        at = index * self.stride
        return bytes(self.view[at : at + self._cells[index][0]])

    def put(self, index: int, data: bytes) -> None:
        """Write a whole packet into a row."""
        at = index * self.stride
        self.buffer[at : at + len(data)] = data
        self._cells[index][0] = len(data)

    def set_length(self, index: int, length: int) -> None:
        self._cells[index][0] = length


def protect_address() -> int:
    """Return where `srtp_protect` of libsrtp is."""
    return int(ffi.cast("uintptr_t", ffi.addressof(lib, "srtp_protect")))


class SrtpContext:
    """One direction of one peer's SRTP; every call returns whether libsrtp agreed."""

    __slots__ = ("_handle", "_session", "address")

    def __init__(self, session: Session) -> None:
        self._session = session  # owns the memory behind the handle
        self._handle = session._srtp[0]
        # Where libsrtp has it (srtp_t).
        self.address = int(ffi.cast("uintptr_t", self._handle))

    def open(self, rows: Rows, index: int, length: int) -> bytes | None:
        """Decrypt the packet in a row and return a copy of it; None if it is not authentic."""
        cell = rows._cells[index]
        cell[0] = length
        if _unprotect(self._handle, rows._pointers[index], cell):
            return None
        data: bytes = _copy(rows._pointers[index], cell[0])
        return data

    def protect(self, rows: Rows, index: int) -> bool:
        return bool(_protect(self._handle, rows._pointers[index], rows._cells[index]) == 0)

    def protect_rtcp(self, rows: Rows, index: int) -> bool:
        return bool(_protect_rtcp(self._handle, rows._pointers[index], rows._cells[index]) == 0)

    def unprotect_rtcp(self, rows: Rows, index: int) -> bool:
        return bool(_unprotect_rtcp(self._handle, rows._pointers[index], rows._cells[index]) == 0)


class Ciphers:
    """What libsrtp wants to know of the rows of an audience: sessions, first bytes, lengths."""

    __slots__ = ("_arguments", "_cells")

    def __init__(self, contexts: Sequence[SrtpContext], rows: Rows) -> None:
        self._cells = rows._cells
        # Of each call: tuples that are made once are handed on as they are.
        handles = [context._handle for context in contexts]
        self._arguments = list(zip(handles, rows._pointers, rows._cells, strict=False))

    def protect_all(self) -> int:
        """Encrypt rows in place; return how many libsrtp refused: those have no length afterwards."""
        codes = list(starmap(_protect, self._arguments))
        if not any(codes):
            return 0
        for code, cell in zip(codes, self._cells, strict=False):
            if code:
                cell[0] = 0
        return len(codes) - codes.count(0)
