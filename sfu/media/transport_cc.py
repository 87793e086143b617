"""Transport-wide congestion feedback, both ways (draft-holmer-rmcat-transport-wide-cc-01).

Every packet of a connection carries one running number; its sender is told when each
arrived, and estimates from it what the link can take. We tell publishers, and receivers
tell us.
"""

import struct
from functools import lru_cache
from itertools import accumulate
from typing import Final

from sfu.media.packet import sequence_delta

# How often feedback goes out; libwebrtc sends it every 50-250 ms.
INTERVAL_S: Final = 0.1

# One feedback covers at most so many numbers, so that it fits a packet; the next goes on.
MAX_STATUSES: Final = 400

# A jump by more than this is a new beginning, not 1,000 lost packets.
_MAX_GAP: Final = 1000

_TICK_S: Final = 0.00025  # of a delta
_REFERENCE_S: Final = 0.064  # of the reference time
_CLOCK_WRAP_S: Final = 2**24 * _REFERENCE_S


class ArrivalRecorder:
    """Running numbers and arrival times in, feedback bodies out."""

    __slots__ = ("_arrivals", "_feedback_count", "_last_at", "_next", "_send_at")

    def __init__(self) -> None:
        self._arrivals: dict[int, float] = {}
        # First number that the next feedback speaks of.
        self._next: int | None = None
        self._feedback_count = 0
        # The last time that was told, for a body in which nothing arrived.
        self._last_at = 0.0
        self._send_at: float | None = None

    def receive(self, number: int, arrived: float) -> None:
        """Take the running number of a packet, and when it arrived."""
        if self._next is None:
            self._next = number
        ahead = sequence_delta(number, self._next)
        if ahead < 0:
            return  # told as lost already
        if ahead > _MAX_GAP:
            self._arrivals.clear()
            self._next = number
        self._arrivals.setdefault(number, arrived)
        if self._send_at is None:
            self._send_at = arrived + INTERVAL_S

    def next_timer(self) -> float | None:
        return self._send_at

    def handle_timer(self, now: float) -> list[bytes]:
        """Return the feedback bodies that are due."""
        if self._send_at is None or now < self._send_at:
            return []
        self._send_at = None
        bodies = []
        while self._arrivals and self._next is not None:
            start, farthest = self._next, 0
            for number in self._arrivals:
                farthest = max(farthest, sequence_delta(number, start))
            count = min(farthest + 1, MAX_STATUSES)
            bodies.append(self._body(start, count))
            self._next = (start + count) & 0xFFFF
        return bodies

    def _body(self, start: int, count: int) -> bytes:
        arrivals = [self._arrivals.pop((start + step) & 0xFFFF, None) for step in range(count)]
        first = self._last_at = next((at for at in arrivals if at is not None), self._last_at)
        reference = int(first / _REFERENCE_S)
        ticks = round(reference * _REFERENCE_S / _TICK_S)
        symbols: list[int] = []
        deltas = bytearray()
        for at in arrivals:
            if at is None:
                symbols.append(0)
                continue
            delta = round(at / _TICK_S) - ticks
            if not -0x8000 <= delta <= 0x7FFF:  # eight seconds apart: cannot be said
                symbols.append(0)
                continue
            ticks += delta
            if 0 <= delta <= 0xFF:
                symbols.append(1)
                deltas.append(delta)
            else:
                symbols.append(2)
                deltas += delta.to_bytes(2, "big", signed=True)
        header = struct.pack("!HHI", start, count, (reference & 0xFFFFFF) << 8 | self._feedback_count & 0xFF)
        self._feedback_count += 1
        return header + _chunks(symbols) + bytes(deltas)


def _chunks(symbols: list[int]) -> bytes:
    """Return the packet status chunks: a run length where one is long, else seven two-bit symbols."""
    packed, at = [], 0
    while at < len(symbols):
        run = 1
        while at + run < len(symbols) and symbols[at + run] == symbols[at] and run < 0x1FFF:
            run += 1
        if run >= 7 or at + run == len(symbols):
            packed.append(symbols[at] << 13 | run)
            at += run
            continue
        seven = symbols[at : at + 7]
        seven += [0] * (7 - len(seven))
        chunk = 0xC000
        for position, symbol in enumerate(seven):
            chunk |= symbol << (12 - 2 * position)
        packed.append(chunk)
        at += 7
    return struct.pack(f"!{len(packed)}H", *packed)


# More packets than a feedback of one datagram can speak of; a larger count is an attack.
_MAX_TOLD: Final = 4096


def parse_feedback(body: bytes) -> tuple[int, list[float | None]]:
    """Return the first number of a feedback, and when each packet from there on arrived.

    Seconds on the receiver's clock, which wraps after 12 days (24 bits of 64 ms); None for a
    packet that did not arrive.

    Raises:
        ValueError: it is shorter than it says.

    """
    if len(body) < 8:
        raise ValueError("feedback without a header")
    base, count, reference = struct.unpack_from("!HHI", body)
    if not 0 < count <= _MAX_TOLD:
        raise ValueError("feedback of no packets, or of too many")
    symbols: list[int] = []
    at, size = 8, len(body)
    while len(symbols) < count:
        if at + 2 > size:
            raise ValueError("feedback cut in its chunks")
        chunk = body[at] << 8 | body[at + 1]
        at += 2
        if chunk < 0x8000:
            symbols += [chunk >> 13] * (chunk & 0x1FFF)
        else:
            symbols += _vector(chunk)
    del symbols[count:]
    ticks = (reference >> 8) * _TICKS_PER_REFERENCE
    if max(symbols) > 1:
        return base, _arrivals(body, at, symbols, ticks)
    # Nearly always: each was there, or not, and none was late by more than 64 ms.
    there = symbols.count(1)
    if at + there > size:
        raise ValueError("feedback cut in its deltas")
    times = [ticks * _TICK_S for ticks in accumulate(body[at : at + there], initial=ticks)]
    if there == count:
        return base, list(times[1:])
    each = iter(times[1:])
    return base, [next(each) if symbol else None for symbol in symbols]


def _arrivals(body: bytes, at: int, symbols: list[int], ticks: int) -> list[float | None]:
    """Return when packets with these symbols arrived; their deltas begin at a place of the body."""
    arrivals: list[float | None] = []
    size = len(body)
    for symbol in symbols:
        if symbol == 1:
            if at >= size:
                raise ValueError("feedback cut in its deltas")
            ticks += body[at]
            at += 1
            arrivals.append(ticks * _TICK_S)
        elif symbol == 2:
            if at + 2 > size:
                raise ValueError("feedback cut in its deltas")
            ticks += ((body[at] << 8 | body[at + 1]) ^ 0x8000) - 0x8000
            at += 2
            arrivals.append(ticks * _TICK_S)
        else:
            arrivals.append(None)
    return arrivals


_TICKS_PER_REFERENCE: Final = round(_REFERENCE_S / _TICK_S)


@lru_cache(maxsize=4096)
def _vector(chunk: int) -> tuple[int, ...]:
    """Return the symbols of a status vector: fourteen of one bit, or seven of two."""
    if chunk & 0x4000:
        return tuple(chunk >> shift & 3 for shift in range(12, -1, -2))
    return tuple(chunk >> shift & 1 for shift in range(13, -1, -1))


class ArrivalClock:
    """A receiver's clock of arrivals, which begins anew after 24 bits of 64 ms."""

    __slots__ = ("_latest", "_wrapped_s")

    def __init__(self) -> None:
        self._latest = self._wrapped_s = 0.0

    def unwrap(self, arrived: list[float | None]) -> list[float | None]:
        """Return the times of one feedback, in seconds that go on where the clock began anew."""
        first = next((at for at in arrived if at is not None), None)
        if first is None:
            return arrived
        if first + self._wrapped_s < self._latest - _CLOCK_WRAP_S / 2:
            self._wrapped_s += _CLOCK_WRAP_S
        wrapped_s = self._wrapped_s
        self._latest = first + wrapped_s
        return [at + wrapped_s if at is not None else None for at in arrived] if wrapped_s else arrived
