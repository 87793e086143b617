"""When video goes out to a receiver whose link is narrow (send side).

A publisher sends a keyframe as fast as its own way up takes it. A link that takes a tenth of that keeps the
rest in its queue: sound that comes later waits behind the picture, or falls out with it. So what is more than
the link takes waits here, mostly for tens of milliseconds, and sound goes by.

Pure: bytes and `now` come in, what is to go out comes back.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

# What goes out is so much of what the link is thought to take: who is late catches up, and the queue of the
# link stays short.
PACE: Final = 1.25

# What could have gone out in this time and did not may go at once. The clock that looks after who waits ticks
# every 20 ms.
_SAVED_S: Final = 0.03
_LEAST_SAVED: Final = 1_500.0

# What goes out in any case counts for so long at most.
_OWED_S: Final = 0.1

# Nothing waits longer, and no more of it: the layer is more than the link takes then, or the estimate is
# wrong, and neither becomes better by waiting.
MAX_WAIT_S: Final = 0.4
MAX_WAITING: Final = 512

ItemT = TypeVar("ItemT")


class Pacer(Generic[ItemT]):
    """The video of one receiver, in the order in which it came."""

    __slots__ = ("_at", "_saved", "_waiting", "_wake", "rate_bps")

    def __init__(self, wake: Callable[[float], None]) -> None:
        # `wake` is told when somebody is to ask what is due.
        self._wake = wake
        # What goes out in a second; 0: everything, at once.
        self.rate_bps = 0.0
        # Bytes that may go out now; below zero what went out too early.
        self._saved, self._at = 0.0, float("-inf")
        # (since when, bytes, what)
        self._waiting: deque[tuple[float, int, ItemT]] = deque()

    @property
    def is_on(self) -> bool:
        return self.rate_bps > 0

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def spend(self, size: int, now: float) -> None:
        """Count bytes that go out in any case: what is sent again is late already."""
        if self.rate_bps:
            self._save(now)
            self._saved = max(self._saved - size, -self.rate_bps / 8 * _OWED_S)

    def takes(self, size: int, now: float) -> bool:
        """Tell whether a packet goes out now, and count it; else it is to `wait`."""
        if self._waiting:
            return False
        self._save(now)
        if self._saved <= 0:
            return False
        self._saved -= size
        return True

    def wait(self, item: ItemT, size: int, now: float) -> None:
        """Let something wait for its turn."""
        if not self._waiting:
            self._wake(now)
        self._waiting.append((now, size, item))

    def due(self, now: float) -> list[ItemT]:
        """Return what goes out now, in its order."""
        self._save(now)
        found: list[ItemT] = []
        waiting = self._waiting
        while waiting and (
            self._saved > 0 or now - waiting[0][0] >= MAX_WAIT_S or len(waiting) > MAX_WAITING
        ):
            _, size, item = waiting.popleft()
            self._saved -= size
            found.append(item)
        # Beyond the rate by what had waited too long: that is not paid back.
        self._saved = max(self._saved, -self.rate_bps / 8 * _OWED_S)
        return found

    def take_all(self) -> list[ItemT]:
        """Return whatever waits: something else is to come after it."""
        found = [item for _, _, item in self._waiting]
        self._waiting.clear()
        return found

    def _save(self, now: float) -> None:
        bytes_per_s = self.rate_bps / 8
        elapsed, self._at = max(0.0, now - self._at), now
        most = max(bytes_per_s * _SAVED_S, _LEAST_SAVED)
        self._saved = min(most, self._saved + min(elapsed, 1.0) * bytes_per_s)
