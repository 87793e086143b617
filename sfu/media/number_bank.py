"""Transport-wide sequence numbers of all peers, side by side, so that a batch counts them at once."""

import numpy as np
from numpy.typing import NDArray


class NumberBank:
    """One 16-bit counter a peer; a place is taken at the peer's start and given back at its end."""

    def __init__(self) -> None:
        self.values: NDArray[np.uint16] = np.zeros(64, np.uint16)
        self._free = list(range(63, -1, -1))

    def take(self) -> int:
        """Return the place of a fresh counter."""
        if not self._free:
            size = len(self.values)
            self.values = np.concatenate([self.values, np.zeros(size, np.uint16)])
            self._free = list(range(2 * size - 1, size - 1, -1))
        place = self._free.pop()
        self.values[place] = 0
        return place

    def give_back(self, place: int) -> None:
        self._free.append(place)

    def next(self, place: int) -> int:
        """Count one on, and return it."""
        number = (int(self.values[place]) + 1) & 0xFFFF
        self.values[place] = number
        return number
