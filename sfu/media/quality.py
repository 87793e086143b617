"""How good a connection is, as one number that people understand.

The scale and the curve are those of the E-model (ITU-T G.107), simplified as it is done for
calls: delay and loss take from a rating of 93.2, and the rating is told as a mean opinion
score, 1 to 5. A picture smaller than asked for takes one more.
"""

from typing import NamedTuple

# Delay beyond the round trip that every call has: packetization, jitter buffer, playout.
_BUFFER_S = 0.08


class Quality(NamedTuple):
    """What one peer receives; loss 0-1, rates in bits a second; None: nobody knows."""

    score: int
    loss: float
    round_trip_s: float | None
    jitter_s: float
    bitrate_bps: float
    estimate_bps: float | None


def score(loss: float, round_trip_s: float | None, jitter_s: float, *, limited: bool = False) -> int:
    """Return the score, 1 (bad) to 5 (excellent)."""
    one_way_ms = ((round_trip_s or 0.0) / 2 + 2 * jitter_s + _BUFFER_S) * 1000
    delay = 0.024 * one_way_ms + (0.11 * (one_way_ms - 177.3) if one_way_ms > 177.3 else 0.0)
    # Opus with its error correction, and repairs on the way, bear loss better than G.711 did.
    rating = max(0.0, min(100.0, 93.2 - delay - 150 * loss))
    opinion = 1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6
    rounded = (
        5 if opinion >= 4.2 else 4 if opinion >= 3.9 else 3 if opinion >= 3.3 else 2 if opinion >= 2.5 else 1
    )
    return max(1, rounded - 1) if limited else rounded
