"""Sequence numbers and timestamps of changing sources, as one stream for one receiver.

A receiver hears one SSRC for as long as its slot lives. Sources come and go behind it
(another speaker, another layer); its numbers go on without a hole, and its media time
goes on as the clock does.
"""

from sfu.media.packet import sequence_delta


class Rewriter:
    """Numbers of one outgoing stream: out = source + offset, in 16 and 32 bits."""

    __slots__ = (
        "_clock_rate",
        "_first_source_sequence",
        "_keeps_first",
        "_last_at",
        "_last_sequence",
        "_last_timestamp",
        "sequence_offset",
        "timestamp_offset",
    )

    def __init__(self, first_sequence: int | None, first_timestamp: int, clock_rate: int) -> None:
        # The first packet takes first_sequence: keep it below 32768, or a receiver may take
        # the first wrap for a jump backwards and lose the SRTP rollover counter. None: the numbers
        # of the first source are kept as they are, but for that; receivers share them then.
        self._keeps_first = first_sequence is None
        self._last_sequence = ((first_sequence or 0) - 1) & 0xFFFF
        self._last_timestamp = first_timestamp & 0xFFFFFFFF
        # When the last packet went out; None before the first.
        self._last_at: float | None = None
        self._clock_rate = clock_rate
        self._first_source_sequence = 0
        self.sequence_offset = 0
        self.timestamp_offset = 0

    def switch(self, sequence: int, timestamp: int, now: float, *, is_same: bool = False) -> None:
        """Continue with a source whose first packet has these numbers.

        `is_same`: more or fewer frames of the same, on the same clock.
        """
        if self._keeps_first:
            self._keeps_first = False
            self._last_sequence, self._last_timestamp = (sequence - 1) & 0x7FFF, timestamp
        first = (self._last_sequence + 1) & 0xFFFF
        out_timestamp = self._last_timestamp
        if self._last_at is not None:
            elapsed = max(1, round((now - self._last_at) * self._clock_rate))
            out_timestamp = (out_timestamp + elapsed) & 0xFFFFFFFF
        self._first_source_sequence = sequence
        self.sequence_offset = (first - sequence) & 0xFFFF
        if not is_same:
            self.timestamp_offset = (out_timestamp - timestamp) & 0xFFFFFFFF

    def map(self, sequence: int, timestamp: int, now: float) -> tuple[int, int] | None:
        """Return the outgoing numbers of a packet of the current source.

        None for a packet from before the source was taken up: there is no number for it.
        """
        out_sequence = (sequence + self.sequence_offset) & 0xFFFF
        ahead = sequence_delta(out_sequence, self._last_sequence)
        if ahead <= 0 and sequence_delta(sequence, self._first_source_sequence) < 0:
            return None
        out_timestamp = (timestamp + self.timestamp_offset) & 0xFFFFFFFF
        if ahead > 0:
            self._last_sequence, self._last_timestamp, self._last_at = out_sequence, out_timestamp, now
            if sequence_delta(sequence, self._first_source_sequence) > 0x4000:
                # Keep the mark within half the number space of what comes.
                self._first_source_sequence = (sequence - 0x2000) & 0xFFFF
        return out_sequence, out_timestamp

    def newest_sequence(self) -> int:
        """Return our number of the last packet in order."""
        return self._last_sequence

    def newest_source_sequence(self) -> int:
        """Return the source's number of the last packet in order."""
        return (self._last_sequence - self.sequence_offset) & 0xFFFF

    def source_sequence(self, out_sequence: int) -> int | None:
        """Return the source's number of a packet that went out; None if none of this source did."""
        sequence = (out_sequence - self.sequence_offset) & 0xFFFF
        not_yet = sequence_delta(out_sequence, self._last_sequence) > 0
        if not_yet or sequence_delta(sequence, self._first_source_sequence) < 0:
            return None
        return sequence
