"""Which packets of one stream are missing, and when to ask for them (RFC 4585).

A gap is asked for at once: browsers send in order, and a packet that was only late costs
one needless retransmission. It is asked for again after each round trip, a few times; then
the frame is given up and a keyframe must come.
"""

from typing import Final

from sfu.media.packet import sequence_delta

# More than this missing at once is an outage, not loss: a keyframe repairs it cheaper.
MAX_MISSING: Final = 256

MAX_TRIES: Final = 10

# Asking faster than this would ask twice for what is on its way; slower would freeze.
MIN_RETRY_S: Final = 0.02
MAX_RETRY_S: Final = 0.25


_NOTHING: Final[list[int]] = []


class NackGenerator:
    """Sequence numbers in, requests out."""

    __slots__ = ("_highest", "_missing", "gave_up", "round_trip_s")

    def __init__(self) -> None:
        self._highest: int | None = None
        # Missing number → (when to ask next, how often asked), in order of sequence.
        self._missing: dict[int, tuple[float, int]] = {}
        self.round_trip_s = 0.1
        # Set when something was given up; whoever reads it asks for a keyframe.
        self.gave_up = False

    def __len__(self) -> int:
        return len(self._missing)

    @property
    def is_waiting(self) -> bool:
        """Whether something is missing."""
        return bool(self._missing)

    def receive(self, sequence: int, now: float) -> list[int]:
        """Take an arrived number; return what to ask for now."""
        if self._highest is None:
            self._highest = sequence
            return []
        if sequence == (self._highest + 1) & 0xFFFF:
            self._highest = sequence
            return _NOTHING
        ahead = sequence_delta(sequence, self._highest)
        if ahead <= 0:
            self._missing.pop(sequence, None)
            return []
        previous, self._highest = self._highest, sequence
        if ahead - 1 + len(self._missing) > MAX_MISSING:
            self._missing.clear()
            self.gave_up = True
            return []
        lost = [(previous + step) & 0xFFFF for step in range(1, ahead)]
        retry_at = now + self._retry_s()
        for number in lost:
            self._missing[number] = (retry_at, 1)
        return lost

    def _retry_s(self) -> float:
        return min(MAX_RETRY_S, max(MIN_RETRY_S, self.round_trip_s * 1.2))

    def next_timer(self) -> float | None:
        """Return when `handle_timer` has something to do."""
        return min((at for at, _ in self._missing.values()), default=None)

    def handle_timer(self, now: float) -> list[int]:
        """Return what to ask for again."""
        due = []
        for number, (at, tries) in list(self._missing.items()):
            if at > now:
                continue
            if tries >= MAX_TRIES:
                del self._missing[number]
                self.gave_up = True
            else:
                self._missing[number] = (now + self._retry_s(), tries + 1)
                due.append(number)
        return due
