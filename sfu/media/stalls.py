"""How late the event loop comes to its clock, and what held it up.

A loop that comes late has computed, or has waited for a core that another process had, or was blocked in a
system call; on a virtual machine the host may have had the core as well. Linux counts the first two for each
thread (`CLOCK_THREAD_CPUTIME_ID`, and `schedstat` of proc(5)), so a stall says whose it is.
"""

import contextlib
import os
from dataclasses import dataclass
from typing import Final

from sfu import clock

# The worst stall is remembered for one to two of these, so that one of yesterday is no news.
WINDOW_S: Final = 60.0

# What was done in less than that is not asked for, unless nothing was worse: it costs as much as the turn.
NOTABLE_S: Final = 0.01

_SCHEDSTAT = "/proc/thread-self/schedstat"


@dataclass(slots=True)
class Stall:
    """How late the loop came, and what its thread did since the clock had gone to sleep, in seconds."""

    late_s: float = 0.0
    # It ran: this program's own work.
    computed_s: float = 0.0
    # It could have run, and another process had the core; zero where the system does not tell.
    waited_s: float = 0.0


class StallWatch:
    """Watches the loop of the thread that makes it: `sleeps` before each turn of its clock, `wakes` after."""

    def __init__(self) -> None:
        self._schedstat: int | None = None
        with contextlib.suppress(OSError):
            self._schedstat = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        self._turn_at = 0.0
        # The worst of this window, and of the one before.
        self._worst = (Stall(), Stall())
        self._due = self._computed = self._waited = 0.0

    def close(self) -> None:
        if self._schedstat is not None:
            os.close(self._schedstat)
            self._schedstat = None

    @property
    def worst(self) -> Stall:
        """The worst stall of the last minute or two."""
        now, before = self._worst
        return now if now.late_s >= before.late_s else before

    def sleeps(self, now: float, seconds: float) -> None:
        """The clock sleeps for so long."""
        self._due = now + seconds
        self._computed, self._waited = clock.thread_seconds(), self._waited_s()

    def wakes(self, now: float) -> Stall:
        """The clock woke: return how late that was, and what was done meanwhile if it is of note."""
        if now >= self._turn_at:
            self._turn_at, self._worst = now + WINDOW_S, (Stall(), self._worst[0])
        late_s = max(0.0, now - self._due)
        if late_s < NOTABLE_S and late_s <= self._worst[0].late_s:
            return Stall(late_s)
        computed = clock.thread_seconds() - self._computed
        stall = Stall(late_s, computed, self._waited_s() - self._waited)
        if late_s > self._worst[0].late_s:
            self._worst = (stall, self._worst[1])
        return stall

    def _waited_s(self) -> float:
        """Return for how long this thread was ready to run and did not, ever."""
        if self._schedstat is None:
            return 0.0
        _, waited_ns, _ = os.pread(self._schedstat, 64, 0).split()
        return int(waited_ns) / 1e9
