"""Packets of one source in order, each once; what does not come is waited for and then given up.

Pure: sequence numbers and `now` in, packets out.
"""

from typing import Generic, TypeVar

from sfu.media.packet import sequence_delta

# A repair comes within a few round trips; nobody listens live, so there is time.
WAIT_S = 0.6

# Packets that wait at the most: two seconds of 8 Mbit/s.
MAX_WAITING = 2048

# A jump as long as this is a source that began anew, not loss.
MAX_JUMP = 3000

T = TypeVar("T")


class Reorder(Generic[T]):
    """One source; packets come out as (packet, how many before it are missing)."""

    __slots__ = ("_next", "_wait_s", "_waiting")

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        # The extended number that comes next; None before the first packet.
        self._next: int | None = None
        # Extended number → packet, and when it came.
        self._waiting: dict[int, tuple[T, float]] = {}

    def push(self, sequence: int, packet: T, now: float) -> list[tuple[T, int]]:
        """Take a packet by its 16-bit number; return what is in order now."""
        if self._next is None:
            self._next = sequence
        delta = sequence_delta(sequence, self._next & 0xFFFF)
        if abs(delta) > MAX_JUMP:
            given_up = self.flush()
            self._next = sequence + 1
            return [*given_up, (packet, 1)]
        number = self._next + delta
        if delta < 0 or number in self._waiting:
            return []  # it was given up, or it is a repeat
        self._waiting[number] = (packet, now)
        return self.take(now)

    def take(self, now: float) -> list[tuple[T, int]]:
        """Return what is in order, or has waited for longer than it may."""
        found: list[tuple[T, int]] = []
        waiting = self._waiting
        while waiting and self._next is not None:
            entry = waiting.pop(self._next, None)
            missing = 0
            if entry is None:
                # They are kept in the order in which they came.
                first, oldest = min(waiting), next(iter(waiting.values()))[1]
                if now - oldest < self._wait_s and len(waiting) <= MAX_WAITING:
                    break
                missing, self._next = first - self._next, first
                entry = waiting.pop(first)
            self._next += 1
            found.append((entry[0], missing))
        return found

    def flush(self) -> list[tuple[T, int]]:
        """Return everything that waits, in order: nothing more comes."""
        return self.take(float("inf"))
