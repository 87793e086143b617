"""Transport-wide sequence numbers of all peers, side by side, so that a batch counts them at once.

Beside each counter stand the last packets that were sent under it: when, and how large.
Feedback speaks of numbers; here is what they mean.
"""

from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from sfu.media.packet import sequence_delta

# Packets remembered of each peer, a power of two: a second of 8 Mbit/s, while feedback comes
# several times a second.
SENT_KEPT: Final = 1024

# Nothing older than this is told of by an honest receiver.
_MAX_AGE_S: Final = 3.0

_MASK: Final = SENT_KEPT - 1
_SIZE_BITS: Final = 16
_SIZE_MASK: Final = (1 << _SIZE_BITS) - 1


def sent_entry(size: int, now: float) -> int:
    """Return what is remembered of a packet: microseconds of `now` shifted by 16 bits, and its size."""
    return int(now * 1e6) << _SIZE_BITS | size


def _cells(array: NDArray[Any]) -> "memoryview[int]":
    return memoryview(cast(Any, array))


class NumberBank:
    """One 16-bit counter a peer; a place is taken at the peer's start and given back at its end."""

    def __init__(self) -> None:
        self.values: NDArray[np.uint16] = np.zeros(64, np.uint16)
        # SENT_KEPT entries a peer.
        self.sent: NDArray[np.int64] = np.zeros(64 * SENT_KEPT, np.int64)
        self._free = list(range(63, -1, -1))
        # Where both are; this array itself stays where it is.
        self.addresses: NDArray[np.uint64] = np.zeros(2, np.uint64)
        self._look()

    def _look(self) -> None:
        # The same memory as plain numbers: one of them is read in a tenth of the time.
        self.cells, self.sent_cells = _cells(self.values), _cells(self.sent)
        self.addresses[:] = self.values.ctypes.data, self.sent.ctypes.data

    def take(self) -> int:
        """Return the place of a fresh counter."""
        if not self._free:
            size = len(self.values)
            self.values = np.concatenate([self.values, np.zeros(size, np.uint16)])
            self.sent = np.concatenate([self.sent, np.zeros(size * SENT_KEPT, np.int64)])
            self._look()
            self._free = list(range(2 * size - 1, size - 1, -1))
        place = self._free.pop()
        self.values[place] = 0
        self.sent[place * SENT_KEPT : (place + 1) * SENT_KEPT] = 0
        return place

    def give_back(self, place: int) -> None:
        self._free.append(place)

    def next(self, place: int, size: int, now: float) -> int:
        """Count one on for a packet of `size` bytes, and return its number."""
        number: int = (self.cells[place] + 1) & 0xFFFF
        self.cells[place] = number
        self.sent_cells[place * SENT_KEPT + (number & _MASK)] = sent_entry(size, now)
        return number

    def next_block(
        self, places: NDArray[np.intp], rows: NDArray[np.intp], out: NDArray[np.uint16], size: int, now: float
    ) -> None:
        """Count one on at each place for packets of `size` bytes; `rows` are places times SENT_KEPT."""
        values = self.values
        values.take(places, out=out, mode="clip")
        np.add(out, 1, out=out)
        values[places] = out
        self.sent[rows + (out & _MASK)] = sent_entry(size, now)

    def recall(self, place: int, first: int, count: int, now: float) -> tuple[list[float], list[int]]:
        """Return when the packets from a number on were sent, and their sizes; 0 where that is forgotten."""
        oldest = int((now - _MAX_AGE_S) * 1e6) << _SIZE_BITS
        entries = self._entries(place, first, count)
        sizes = [entry & _SIZE_MASK if entry > oldest else 0 for entry in entries]
        return [(entry >> _SIZE_BITS) * 1e-6 for entry in entries], sizes

    def recall_bytes(self, place: int, first: int, count: int) -> int:
        """Return the bytes of the packets from a number on."""
        return sum([entry & _SIZE_MASK for entry in self._entries(place, first, count)])

    def _entries(self, place: int, first: int, count: int) -> list[int]:
        """Return what is remembered of the packets from a number on, 0 of those that are not."""
        last, cells = self.cells[place], self.sent_cells
        begin, row = first & _MASK, place * SENT_KEPT
        is_kept = sequence_delta(first, last) > -SENT_KEPT and sequence_delta(first + count - 1, last) <= 0
        if is_kept and begin + count <= SENT_KEPT:
            return cells[row + begin : row + begin + count].tolist()
        # Of a number that is too far behind the last one, or before it, another stands in its place.
        return [
            cells[row + (number & _MASK)] if (last - number) & 0xFFFF < SENT_KEPT else 0
            for number in range(first, first + count)
        ]
