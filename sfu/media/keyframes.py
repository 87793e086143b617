"""When to ask the publisher of one encoding for a keyframe.

Receivers ask often (aiortc for every frame it cannot decode); a keyframe is ten times a
normal frame. So one request is outstanding, it is repeated when no keyframe comes, and
after one came the next waits.
"""

# Least time between two requests, when the first was met; and when it was not: libwebrtc ignores
# requests that come within 300 ms of one for another encoding.
MIN_INTERVAL_S, RETRY_S = 0.5, 0.32

# A request that brought nothing so often was lost on a dead path or to a muted camera.
MAX_REPEATS = 8


class KeyframeRequests:
    """Wishes in, requests out."""

    __slots__ = ("_asked_at", "_interval_s", "_repeats", "_wanted")

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._wanted = False
        self._repeats = 0
        self._interval_s = RETRY_S

    def want(self, now: float) -> bool:
        """Take a receiver's wish; True: ask the publisher now."""
        self._wanted = True
        self._repeats = 0
        return self._ask(now)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a keyframe."""
        return self._wanted

    def arrived(self) -> None:
        """Take note of a keyframe: every wish is met."""
        self._wanted, self._interval_s = False, MIN_INTERVAL_S

    def _ask(self, now: float) -> bool:
        if now < self._asked_at + self._interval_s:
            return False
        self._asked_at, self._interval_s = now, RETRY_S
        return True

    def next_timer(self) -> float | None:
        """Return when an unanswered wish is due again."""
        return self._asked_at + self._interval_s if self._wanted else None

    def handle_timer(self, now: float) -> bool:
        """Tell whether to ask again now."""
        if not self._wanted or not self._ask(now):
            return False
        self._repeats += 1
        if self._repeats >= MAX_REPEATS:
            self._wanted = False
        return True
