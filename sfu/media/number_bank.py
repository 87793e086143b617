"""Transport-wide sequence numbers of all peers, side by side, so that a batch counts them at once.

Beside each counter stand the last packets that were sent under it: when, and how large.
Feedback speaks of numbers; here is what they mean.
"""

import numpy as np
from numpy.typing import NDArray

# Packets remembered of each peer, a power of two: a second of 8 Mbit/s, while feedback comes
# several times a second.
SENT_KEPT = 1024

# Nothing older than this is told of by an honest receiver.
_MAX_AGE_S = 3.0

_MASK = SENT_KEPT - 1
_SIZE_BITS = 16


class NumberBank:
    """One 16-bit counter a peer; a place is taken at the peer's start and given back at its end."""

    def __init__(self) -> None:
        self.values: NDArray[np.uint16] = np.zeros(64, np.uint16)
        # One row a peer: microseconds of `now` shifted by 16 bits, and the size.
        self.sent: NDArray[np.int64] = np.zeros(64 * SENT_KEPT, np.int64)
        self._free = list(range(63, -1, -1))

    def take(self) -> int:
        """Return the place of a fresh counter."""
        if not self._free:
            size = len(self.values)
            self.values = np.concatenate([self.values, np.zeros(size, np.uint16)])
            self.sent = np.concatenate([self.sent, np.zeros(size * SENT_KEPT, np.int64)])
            self._free = list(range(2 * size - 1, size - 1, -1))
        place = self._free.pop()
        self.values[place] = 0
        self.sent[place * SENT_KEPT : (place + 1) * SENT_KEPT] = 0
        return place

    def give_back(self, place: int) -> None:
        self._free.append(place)

    def next(self, place: int, size: int, now: float) -> int:
        """Count one on for a packet of `size` bytes, and return its number."""
        number = (int(self.values[place]) + 1) & 0xFFFF
        self.values[place] = number
        self.sent[place * SENT_KEPT + (number & _MASK)] = int(now * 1e6) << _SIZE_BITS | size
        return number

    def next_block(
        self, places: NDArray[np.intp], rows: NDArray[np.intp], out: NDArray[np.uint16], size: int, now: float
    ) -> None:
        """Count one on at each place for packets of `size` bytes; `rows` are places times SENT_KEPT."""
        values = self.values
        values.take(places, out=out, mode="clip")
        np.add(out, 1, out=out)
        values[places] = out
        self.sent[rows + (out & _MASK)] = int(now * 1e6) << _SIZE_BITS | size

    def recall(self, place: int, first: int, count: int, now: float) -> tuple[list[float], list[int]]:
        """Return when the packets from a number on were sent, and their sizes; 0 where that is forgotten."""
        numbers = np.arange(first, first + count)
        entries = self.sent[(numbers & _MASK) + place * SENT_KEPT].tolist()
        oldest = int((now - _MAX_AGE_S) * 1e6) << _SIZE_BITS
        size_mask = (1 << _SIZE_BITS) - 1
        # Of a number that is too far behind the last one, or before it, another stands in its place.
        behind = ((int(self.values[place]) - numbers) & 0xFFFF).tolist()
        sizes = [
            entry & size_mask if entry > oldest and back < SENT_KEPT else 0
            for entry, back in zip(entries, behind, strict=True)
        ]
        return [(entry >> _SIZE_BITS) * 1e-6 for entry in entries], sizes

    def recall_bytes(self, place: int, first: int, count: int) -> int:
        """Return the bytes of the packets from a number on."""
        numbers = np.arange(first, first + count)
        known = ((int(self.values[place]) - numbers) & 0xFFFF) < SENT_KEPT
        sizes = self.sent[(numbers & _MASK) + place * SENT_KEPT] & ((1 << _SIZE_BITS) - 1)
        return int((sizes * known).sum())
