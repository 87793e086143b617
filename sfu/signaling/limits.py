"""How fast one client may speak."""

from sfu.token_bucket import TokenBucket

# A page that joins says ten things in a second; a bot that is being tested, fifty.
MESSAGES_PER_S = 50.0
BURST = 200.0

# Refused for speed so often more than heard: it does not listen, and is closed (4429).
MAX_REFUSALS = 200

# Frames that could not be understood within a minute before the socket is closed (4400).
MAX_BAD_FRAMES = 20
BAD_FRAMES_WINDOW_S = 60.0


class Patience:
    """Counts what a client does wrong; says when it is enough."""

    __slots__ = ("_bad", "_bucket", "_refused", "_since")

    def __init__(self, now: float) -> None:
        self._bucket = TokenBucket(MESSAGES_PER_S, BURST, now)
        self._refused = self._bad = 0
        self._since = now

    def may_speak(self, now: float) -> bool:
        """Tell whether a message may be handled now."""
        if self._bucket.take(now):
            self._refused = max(0, self._refused - 1)
            return True
        self._refused += 1
        return False

    @property
    def too_fast(self) -> bool:
        return self._refused >= MAX_REFUSALS

    def bad_frame(self, now: float) -> bool:
        """Count a frame that was not understood; True: that is enough."""
        if now - self._since > BAD_FRAMES_WINDOW_S:
            self._since, self._bad = now, 0
        self._bad += 1
        return self._bad > MAX_BAD_FRAMES
