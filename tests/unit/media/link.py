"""A link on virtual time: a rate, a queue, jitter and loss; what goes in comes out as feedback."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sfu.media.bandwidth import BandwidthEstimator

FEEDBACK_S = 0.05
STEP_S = 0.005


@dataclass
class Link:
    """The way to one receiver, and the estimator that watches it.

    `rate` gives bits a second at a time; a bucket of `burst` bytes goes through at once. `starved_s` tells
    how long at most a receiver that slept must wait at a time before its machine lets it read.
    """

    rate: Callable[[float], float]
    delay_s: float = 0.02
    jitter_s: float = 0.0
    loss: float = 0.0
    buffer_s: float = 0.3
    burst: int = 0
    lost_feedback: float = 0.0
    clock_skew: float = 0.0
    starved_s: Callable[[float], float] = lambda _: 0.0
    seed: int = 1
    now: float = 100.0
    estimator: BandwidthEstimator = field(default_factory=BandwidthEstimator)
    # (time, estimate)
    seen: list[tuple[float, float]] = field(default_factory=list)
    sent: int = 0
    gone: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._busy_until = self.now
        self._tokens = float(self.burst)
        self._reads_at = self.now
        self._waiting: list[tuple[float, int, float | None]] = []
        self._under_way: list[tuple[float, list[tuple[float, int, float | None]]]] = []
        self._feedback_at = self.now + FEEDBACK_S

    def send(self, size: int) -> None:
        """Send one packet now."""
        rate = self.rate(self.now)
        self._busy_until = max(self._busy_until, self.now)
        self._tokens = min(self.burst, self._tokens)
        start = self._busy_until
        self.sent += 1
        if start - self.now > self.buffer_s or self._random.random() < self.loss:
            self._waiting.append((self.now, size, None))
            self.gone += 1
            return
        if self._tokens >= size:
            self._tokens -= size
        else:
            self._busy_until = start + size * 8 / rate
        jitter = self._random.random() * self.jitter_s
        arrives = self._busy_until + self.delay_s + jitter
        if arrives > self._reads_at and (starved_s := self.starved_s(arrives)):
            self._reads_at = arrives + self._random.random() * starved_s
        arrives = max(arrives, self._reads_at)
        self._waiting.append((self.now, size, arrives))

    def step(self) -> None:
        """Let 5 ms go by."""
        self.now += STEP_S
        if self._busy_until < self.now:
            self._tokens += self.rate(self.now) / 8 * STEP_S
        if self.now >= self._feedback_at:
            self._feedback_at += FEEDBACK_S
            told = [p for p in self._waiting if p[2] is None and p[0] < self.now - 0.4]
            told += [p for p in self._waiting if p[2] is not None and p[2] <= self.now]
            # A lost packet is told of once a later one has arrived.
            last = max((p[0] for p in told), default=0.0)
            told = [p for p in self._waiting if p[0] <= last and (p[2] is None or p[2] <= self.now)]
            self._waiting = [p for p in self._waiting if p not in told]
            if told and self._random.random() >= self.lost_feedback:
                self._under_way.append((self.now + self.delay_s, told))
        while self._under_way and self._under_way[0][0] <= self.now:
            _, told = self._under_way.pop(0)
            skew = 1 + self.clock_skew
            self.estimator.receive(
                [p[0] for p in told],
                [p[1] for p in told],
                [p[2] * skew - 77.0 if p[2] is not None else None for p in told],
                self.now,
            )
        self.seen.append((self.now, self.estimator.estimate_bps))

    def estimates(self, since: float, until: float = float("inf")) -> list[float]:
        """Return the estimates between two times after the start."""
        begin = self.seen[0][0]
        return [bps for at, bps in self.seen if since <= at - begin <= until]


class Source:
    """Frames at a rate that may change, in packets of 1,100 bytes."""

    def __init__(self, link: Link, *, fps: int = 30) -> None:
        self.link, self._next_frame, self._debt, self._fps = link, link.now, 0.0, fps

    def run(self, seconds: float, bps: Callable[[float], float]) -> None:
        """Send for a time; `bps` is asked at each frame with the estimate of the moment."""
        until = self.link.now + seconds
        while self.link.now < until:
            if self.link.now >= self._next_frame:
                self._next_frame += 1 / self._fps
                self._debt += bps(self.link.estimator.estimate_bps) / 8 / self._fps
                while self._debt >= 200:
                    size = min(1100, int(self._debt))
                    self.link.send(size)
                    self._debt -= size
            self.link.step()
