"""A limit on how often something is done: what is saved up while it is quiet is spent while it is not."""


class TokenBucket:
    """Messages saved up while it is quiet, spent while it is not."""

    __slots__ = ("_at", "_burst", "_rate", "_saved")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._saved, self._at = rate_per_s, burst, burst, now

    def take(self, now: float) -> bool:
        """Spend one; False: none is left."""
        self._saved = min(self._burst, self._saved + (now - self._at) * self._rate)
        self._at = now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
