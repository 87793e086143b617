"""When to send more than needed, to learn whether a link takes more (send side).

An estimate cannot climb above what is sent. So when a receiver would get a better layer if
only its link took it, the difference is sent as repeats on the rtx stream for half a second:
short enough not to hurt, long enough to empty a token bucket. A probe that finds the link
full stops at once, and the next one waits twice as long.

Pure: numbers and `now` in, bytes to send out.
"""

# How long a probe sends, and how long its feedback may be under way.
PROBE_S, SETTLE_S = 0.5, 0.25

# Between two probes; doubled by each failure. The longest is what a link that got better waits.
MIN_INTERVAL_S, MAX_INTERVAL_S = 1.0, 5.0

# A probe goes at most so far above the estimate; what is wanted is reached in steps. After the link was
# found full they begin small, because what is too much stands in its queue before anybody notices.
_STEP, _FIRST_STEP = 3.0, 1.1

# What the goal is exceeded by, so that an estimate of 95 % of it suffices.
_ABOVE = 1.15


class Prober:
    """The probes of one receiver."""

    __slots__ = ("_at", "_began_at", "_interval", "_next_at", "_step", "target_bps")

    def __init__(self) -> None:
        # What the probe that runs sends, all in all; 0 while there is none.
        self.target_bps = 0.0
        self._began_at = self._at = 0.0
        self._interval, self._next_at = MIN_INTERVAL_S, float("-inf")
        self._step = _STEP

    @property
    def is_running(self) -> bool:
        return self.target_bps > 0

    def begin(self, wanted_bps: float, estimate_bps: float, now: float) -> bool:
        """Begin a probe if one is due and of use; True: it runs now."""
        if self.is_running or now < self._next_at or wanted_bps <= estimate_bps:
            return False
        self.target_bps = min(wanted_bps, estimate_bps * self._step) * _ABOVE
        self._began_at = self._at = now
        return True

    def padding(self, sent_bps: float, now: float) -> int:
        """Return the bytes to send in addition, for the time since this was last asked."""
        if not self.is_running:
            return 0
        elapsed, self._at = min(now - self._at, 0.1), now
        if now - self._began_at > PROBE_S:
            return 0
        return max(0, int((self.target_bps - sent_bps) / 8 * elapsed))

    def judge(self, estimate_bps: float, *, is_clear: bool, now: float) -> bool:
        """Look whether the probe is over; True: it has just ended."""
        if not self.is_running:
            return False
        reached = estimate_bps * _ABOVE >= self.target_bps
        if is_clear and not reached and now - self._began_at < PROBE_S + SETTLE_S:
            return False
        self._step = min(_STEP, self._step * 2) if reached else _FIRST_STEP
        self._interval = MIN_INTERVAL_S if reached else min(MAX_INTERVAL_S, self._interval * 2)
        # After a success the next step may follow as soon as this one's layer is there.
        self._next_at = now + (self._interval if not reached else MIN_INTERVAL_S / 2)
        self.target_bps = 0.0
        return True

    def put_off(self, now: float) -> None:
        """Wait at least the interval from now on: the link was found full."""
        self._next_at, self._step = max(self._next_at, now + self._interval), _FIRST_STEP
