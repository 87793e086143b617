"""What a receiver's link can take, from the transport-wide feedback it sends (send side).

Three signs, in this order: a queue that stands (delay), packets that are gone (loss), and
what arrives while more is sent on purpose (probing). The first follows the thought of
LEDBAT (RFC 6817) and Copa: not how fast the delay grows but whether it stays above the
least delay of the last seconds, over a stretch in which every packet had the chance to be
early. Jitter and the burst of a keyframe do not stand; the queue of a link that is sent too
much does. What somebody else's flow adds for good becomes the new least delay.
A queue that stands although little is sent, and although it arrives, is none of the link's: the
receiver's machine has no time to read.

Pure: feedback and `now` come in, `estimate_bps` goes out.
"""

from collections import deque
from operator import sub

MIN_BPS, MAX_BPS = 50_000.0, 100_000_000.0

# Enough for the middle layer of a camera; a probe finds the rest within a second.
START_BPS = 1_000_000.0

# A queue longer than this is ours to drain; below the lower one the link is idle now and then.
QUEUE_HIGH_S, QUEUE_LOW_S = 0.030, 0.012

# Every packet of so long a stretch must have waited for a queue to stand.
_STANDING_S = 0.1

# The least delay is looked for in this time; two halves, so that it slides.
_BASE_WINDOW_S = 10.0

# After a decrease, this much of what arrived; the rest lets the queue drain.
_DECREASE = 0.85

# What arrives in a short stretch is what the link carries where so much more was sent in it. Otherwise it
# is what was sent.
_OVERRUN = 1.25

# A queue that stands although clearly less is sent than the link took lately, and although what is sent
# arrives, is not ours: the receiver's machine has no time to read. So much of it must arrive, by the queue.
_NOT_OURS = ((0.2, 0.5), (0.5, 0.9))

# Losses between these neither raise nor lower the estimate: links lose packets without a queue.
LOSS_LOW, LOSS_HIGH = 0.02, 0.10

# A fraction of loss is taken over as many packets, and as long. What chance alone makes of the
# higher fraction (two deviations) is not held against a link.
_LOSS_PACKETS, _LOSS_S, _DEVIATIONS = 20, 0.5, 2.0

# Entries of a window, whatever the receiver's clock says.
_MAX_ENTRIES = 256

# Growth in a second without any sign against it, and how far it may lead what is really sent.
_GROWTH, _LEAD, _LEAD_BPS = 1.08, 1.5, 20_000.0

# Beyond what the link carried when it was full, nothing is believed but proof; so long.
_FULL_KNOWN_S = 20.0

# What arrives is taken for proof but for this; one rate is never measured to the bit.
_PROVEN = 0.95

# What flowed without a queue so long ago says nothing of the link now; two halves, so that it slides.
_FLOWED_S = 8.0

# Rates are taken over this.
_RATE_S = 0.5

# A probe is judged by at least so long a stretch of arrivals: a token bucket is empty by then.
_PROBE_JUDGED_S = 0.25


class _Rate:
    """Bytes over a sliding window, by a time that grows."""

    __slots__ = ("_bytes", "_entries")

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int]] = deque()
        self._bytes = 0

    def add(self, at: float, size: int) -> None:
        self._entries.append((at, size))
        self._bytes += size
        while self._entries[0][0] < at - _RATE_S or len(self._entries) > _MAX_ENTRIES:
            self._bytes -= self._entries.popleft()[1]

    def bps(self) -> float | None:
        """Return bits a second, None before there are two moments; the first one only begins it."""
        if len(self._entries) < 2:
            return None
        first, last = self._entries[0], self._entries[-1]
        return (self._bytes - first[1]) * 8 / max(last[0] - first[0], 0.02)

    def bps_since(self, since: float) -> float | None:
        """Return bits a second of the entries from a time on, None if they cover too little."""
        entries = [entry for entry in self._entries if entry[0] >= since]
        if len(entries) < 2 or entries[-1][0] - entries[0][0] < _STANDING_S * 0.9:
            return None
        return sum(size for _, size in entries[1:]) * 8 / (entries[-1][0] - entries[0][0])

    def bps_for(self, seconds: float) -> float | None:
        """Return bits a second of the last so many seconds, None if the entries cover too little."""
        return self.bps_since(self.latest - seconds)

    @property
    def latest(self) -> float:
        """Return the time of the last entry."""
        return self._entries[-1][0]


class BandwidthEstimator:
    """Feedback of one receiver in, one estimate out."""

    __slots__ = (
        "_arrival_rate",
        "_base",
        "_base_before",
        "_base_until",
        "_delays",
        "_flowed",
        "_flowed_before",
        "_flowed_until",
        "_full_bps",
        "_full_since",
        "_hold_until",
        "_is_lossy",
        "_loss_at",
        "_loss_lost",
        "_loss_total",
        "_passed_over",
        "_probe",
        "_sent_rate",
        "_updated_at",
        "_was_overrun",
        "congested_at",
        "estimate_bps",
        "loss",
        "queue_s",
        "round_trip_s",
    )

    def __init__(self, start_bps: float = START_BPS) -> None:
        self.estimate_bps = start_bps
        # How long packets wait on the way beyond what they must; seconds.
        self.queue_s = 0.0
        # Fraction lost of the last packets that were told of.
        self.loss = 0.0
        # Least time from a packet's sending to the feedback that tells of it; None before the first.
        self.round_trip_s: float | None = None
        # When the link was last found full.
        self.congested_at = float("-inf")
        self._arrival_rate, self._sent_rate = _Rate(), _Rate()
        self._delays: deque[tuple[float, float]] = deque()
        self._base = self._base_before = float("inf")
        self._base_until = float("-inf")
        self._hold_until = float("-inf")
        self._loss_at = self._updated_at = float("-inf")
        self._loss_lost = self._loss_total = 0
        self._is_lossy = False
        self._passed_over = 0
        # When the queue that stands began to grow, on the receiver's clock; None while there is none.
        self._full_since: float | None = None
        # The most that flowed without a queue lately.
        self._flowed = self._flowed_before = 0.0
        self._flowed_until = float("-inf")
        # What arrived while the link was last full.
        self._full_bps = float("inf")
        # Whether so much more had been sent then that this is all that the link carries.
        self._was_overrun = False
        # (from when sent, first arrival, bytes since) of the probe that runs.
        self._probe: tuple[float, float | None, int] | None = None

    @property
    def sent_bps(self) -> float:
        """What was really sent lately, as far as feedback tells of it."""
        return self._sent_rate.bps() or 0.0

    @property
    def arrived_bps(self) -> float | None:
        """What arrived lately; None before there was enough."""
        return self._arrival_rate.bps()

    def receive(self, sent: list[float], sizes: list[int], arrived: list[float | None], now: float) -> None:
        """Take one feedback: for each packet when it was sent, its bytes, and when it arrived.

        Times of sending are ours, times of arrival the receiver's clock; None: it did not arrive.
        """
        if not sent:
            return
        passed_over, self._passed_over = self._passed_over, 0
        last_sent, octets = max(sent), sum(sizes)
        self._sent_rate.add(last_sent, octets + passed_over)
        there = [at for at in arrived if at is not None]
        lost = len(arrived) - len(there)
        self._count_loss(len(sent), lost, now)
        if there:
            here = sent
            if lost:
                here = [each for each, at in zip(sent, arrived, strict=True) if at is not None]
                octets = sum([size for size, at in zip(sizes, arrived, strict=True) if at is not None])
            last = max(there)
            self._arrival_rate.add(last, octets + passed_over)
            self._note_delay(min(map(sub, there, here)), last, now)
            trip = now - last_sent
            self.round_trip_s = trip if self.round_trip_s is None else min(trip, self.round_trip_s * 1.02)
            if self._probe is not None:
                self._follow_probe(sent, sizes, arrived, now)
        self._update(now)

    def pass_over(self, octets: int) -> None:
        """Count bytes as arrived of which nobody looked at the feedback; the link was calm."""
        self._passed_over += octets

    def _count_loss(self, total: int, lost: int, now: float) -> None:
        self._loss_total += total
        self._loss_lost += lost
        if self._loss_total >= _LOSS_PACKETS and now - self._loss_at >= _LOSS_S:
            total, lost = self._loss_total, self._loss_lost
            self.loss = lost / total
            chance = _DEVIATIONS * (total * LOSS_HIGH * (1 - LOSS_HIGH)) ** 0.5
            self._is_lossy = lost > LOSS_HIGH * total + chance
            self._loss_total = self._loss_lost = 0
            self._loss_at = now

    def _note_delay(self, least: float, at: float, now: float) -> None:
        if now >= self._base_until:
            self._base_before = self._base
            self._base, self._base_until = float("inf"), now + _BASE_WINDOW_S / 2
        self._base = min(self._base, least)
        delays = self._delays
        delays.append((at, least))
        # The youngest that is old enough stays, so that the stretch is always covered.
        while len(delays) > 1 and (delays[1][0] <= at - _STANDING_S or len(delays) > _MAX_ENTRIES):
            delays.popleft()
        standing = min(delay for _, delay in delays)
        base = min(self._base, self._base_before)
        self.queue_s = max(0.0, standing - base)
        if least - base < QUEUE_LOW_S:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = at

    def _update(self, now: float) -> None:
        elapsed = min(0.5, max(0.0, now - self._updated_at))
        self._updated_at = now
        arrived = self._arrival_rate.bps()
        if arrived is None:
            return
        if now >= self._flowed_until:
            self._flowed_before, self._flowed = self._flowed, 0.0
            self._flowed_until = now + _FLOWED_S / 2
        if self.queue_s > QUEUE_HIGH_S:
            was_full_at, self.congested_at, self._probe = self.congested_at, now, None
            if now >= self._hold_until and not self._is_in_vain(arrived, was_full_at, now):
                self._lower(self._share_of(arrived), now)
        elif self._is_lossy:
            self.congested_at = now
            if now >= self._hold_until:
                self._lower(min(self.estimate_bps, self.sent_bps) * (1 - self.loss / 2), now)
                self._is_lossy = False  # said once
        elif self.queue_s < QUEUE_LOW_S:
            self._flowed = max(self._flowed, arrived)
            if self.loss >= LOSS_LOW:
                return
            limit = arrived * _LEAD + _LEAD_BPS
            if now - self.congested_at < _FULL_KNOWN_S:
                limit = min(limit, self._full_bps)
            # What arrives without a queue is proof.
            grown = min(self.estimate_bps * _GROWTH**elapsed, max(self.estimate_bps, limit))
            self._set(max(grown, arrived * _PROVEN))

    def _is_in_vain(self, arrived: float, full_at: float, now: float) -> bool:
        """Tell whether less was sent than the link took, and a queue stands all the same."""
        took = max(self._flowed, self._flowed_before)
        if now - full_at < _FULL_KNOWN_S and self._full_bps < float("inf"):
            took = self._full_bps if self._was_overrun else max(took, self._full_bps)
        sent = self.sent_bps
        return sent <= took * _DECREASE and any(
            self.queue_s < queue_s and arrived >= sent * arrives for queue_s, arrives in _NOT_OURS
        )

    def _share_of(self, arrived: float) -> float:
        """Return what to send on a link that is full: a little less than it carries.

        What it carries is what arrives while it is full; before, it may have had less to carry.
        """
        carried, self._was_overrun = arrived, False
        if self._full_since is not None:
            lately = self._arrival_rate.bps_since(self._full_since)
            sent = self._sent_rate.bps_for(self._arrival_rate.latest - self._full_since)
            if lately is not None and sent is not None:
                self._was_overrun = sent > lately * _OVERRUN
                carried = lately if self._was_overrun else max(lately, arrived)
        self._full_bps = carried
        flowed = max(self._flowed, self._flowed_before)
        return max(carried * _DECREASE, min(flowed, carried * _PROVEN))

    def _lower(self, bps: float, now: float) -> None:
        # What was decided shows itself one round trip later, at the earliest.
        self._hold_until = now + 0.2 + (self.round_trip_s or 0.1)
        if bps < self.estimate_bps:
            self._set(bps)

    def _set(self, bps: float) -> None:
        self.estimate_bps = min(MAX_BPS, max(MIN_BPS, bps))

    # Probing

    @property
    def is_clear(self) -> bool:
        """Whether nothing speaks against sending more."""
        return self.queue_s < QUEUE_LOW_S and not self._is_lossy

    def begin_probe(self, now: float) -> None:
        """From now on more is sent than needed: what arrives of it is proof."""
        self._probe = (now, None, 0)

    def end_probe(self) -> None:
        """Judge no more by the probe."""
        self._probe = None

    def _follow_probe(
        self, sent: list[float], sizes: list[int], arrived: list[float | None], now: float
    ) -> None:
        assert self._probe is not None
        since, first, octets = self._probe
        last = first
        for here, size, there in zip(sent, sizes, arrived, strict=True):
            if here < since or there is None:
                continue
            if first is None:
                first = last = there
                continue
            octets += size
            last = max(there, last or there)
        self._probe = (since, first, octets)
        if first is None or last is None or last - first < _PROBE_JUDGED_S or not self.is_clear:
            return
        self._set(max(self.estimate_bps, octets * 8 / (last - first) * _PROVEN))
        self.congested_at = min(self.congested_at, now - 1.0)

    def begin_again(self, bps: float) -> None:
        """Try so many bits a second on a link that was left alone: its least delay may be another by now."""
        self._base = self._base_before = float("inf")
        self._base_until = float("-inf")
        self._delays.clear()
        self._full_since, self.queue_s = None, 0.0
        self._set(bps)
