"""How one stream arrives: loss and jitter for report blocks (RFC 3550 section 6.4.1, A.8)."""

from sfu.media.packet import sequence_delta, timestamp_delta


class Reception:
    """Statistics of one incoming SSRC."""

    __slots__ = (
        "_base",
        "_cycles",
        "_expected_before",
        "_highest",
        "_last_arrival",
        "_last_timestamp",
        "_received_before",
        "clock_rate",
        "jitter",
        "octets",
        "received",
    )

    def __init__(self, clock_rate: int) -> None:
        self.clock_rate = clock_rate
        self.received = self.octets = 0
        # Interarrival jitter in media time.
        self.jitter = 0.0
        self._base: int | None = None
        self._highest = self._cycles = 0
        self._expected_before = self._received_before = 0
        self._last_arrival = 0.0
        self._last_timestamp: int | None = None

    def receive(self, sequence: int, timestamp: int, size: int, arrived: float) -> None:
        """Take a packet of `size` bytes, and when it arrived."""
        self.received += 1
        self.octets += size
        if sequence == (self._highest + 1) & 0xFFFF and sequence and self._base is not None:
            self._highest = sequence
        elif self._base is None:
            self._base = self._highest = sequence
        else:
            ahead = sequence_delta(sequence, self._highest)
            if ahead > 0:
                if sequence < self._highest:
                    self._cycles += 0x10000
                self._highest = sequence
        if self._last_timestamp is not None and timestamp != self._last_timestamp:
            elapsed = (arrived - self._last_arrival) * self.clock_rate
            difference = abs(elapsed - timestamp_delta(timestamp, self._last_timestamp))
            if difference < self.clock_rate * 5:  # a jump of the timestamps is no jitter
                self.jitter += (difference - self.jitter) / 16
        self._last_arrival, self._last_timestamp = arrived, timestamp

    @property
    def extended_highest(self) -> int:
        """Highest sequence number with the count of its wraps above it."""
        return self._cycles + self._highest

    @property
    def expected(self) -> int:
        return 0 if self._base is None else self.extended_highest - self._base + 1

    @property
    def lost(self) -> int:
        """Packets lost since the start; recovered duplicates can make it negative."""
        return max(-0x800000, min(0x7FFFFF, self.expected - self.received))

    def take_fraction_lost(self) -> int:
        """Return the loss since this was last asked, in 1/256."""
        expected = self.expected - self._expected_before
        received = self.received - self._received_before
        self._expected_before, self._received_before = self.expected, self.received
        lost = expected - received
        return 0 if expected <= 0 or lost <= 0 else min(255, lost * 256 // expected)
