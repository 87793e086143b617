"""The last packets of one encoding, for whoever asks again.

Shared by all receivers: what is kept is the packet as it came, and each leg writes its
own numbers over it. Bounded in packets and time.
"""

from collections import deque
from typing import Final

from sfu.media.packet import RtpPacket, sequence_delta

# A power of two. libsrtp refuses indices more than its window of 1,024 behind, so nothing
# older is of use; at 1,200 bytes a packet this is 1.2 MB, and five seconds of 2 Mbit/s.
MAX_PACKETS: Final = 1024

# A receiver that has waited this long has frozen and wants a keyframe, not the packet.
MAX_AGE_S: Final = 3.0


class History:
    """Packets by sequence number, in a ring; an equal number replaces nothing."""

    __slots__ = ("_marks", "_newest", "_oldest", "_ring")

    def __init__(self) -> None:
        self._ring: list[RtpPacket | None] = [None] * MAX_PACKETS
        # Numbers between which something may stand; None before the first packet.
        self._newest: int | None = None
        self._oldest = 0
        # (when, newest number then) of each `expire`, as long as something of then is young.
        self._marks: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return sum(packet is not None for packet in self._ring)

    def add(self, packet: RtpPacket, now: float) -> bool:
        """Keep a packet; False if one of this number is kept already, or a later one in its place."""
        sequence, ring, newest = packet.sequence, self._ring, self._newest
        at = sequence & (MAX_PACKETS - 1)
        if newest is None:
            self._newest = self._oldest = sequence
        elif sequence == (newest + 1) & 0xFFFF:
            self._newest = sequence
        elif not self._add_out_of_order(sequence, ring[at], now):
            return False
        packet.received_at = now
        ring[at] = packet
        return True

    def _add_out_of_order(self, sequence: int, there: RtpPacket | None, now: float) -> bool:
        assert self._newest is not None
        ahead = sequence_delta(sequence, self._newest)
        young = there is not None and now - there.received_at <= MAX_AGE_S
        if young and there is not None and sequence_delta(sequence, there.sequence) <= 0:
            return False
        if ahead > 0:
            self._newest = sequence
        elif sequence_delta(sequence, self._oldest) < 0:
            self._oldest = sequence
        return True

    def expire(self, now: float) -> None:
        """Let go of what is too old; called about once a second."""
        if self._newest is None:
            return
        marks, newest = self._marks, self._newest
        marks.append((now, newest))
        while marks[0][0] < now - MAX_AGE_S:
            newest = marks.popleft()[1]
            steps = sequence_delta(newest, self._oldest) + 1
            if steps:  # below zero after numbers that jumped: the whole ring is looked at
                self._let_go(self._oldest, steps if 0 < steps < MAX_PACKETS else MAX_PACKETS, now - MAX_AGE_S)
                self._oldest = (newest + 1) & 0xFFFF

    def _let_go(self, first: int, steps: int, too_old: float) -> None:
        """Empty so many places, from that of a number on, of what is older than that."""
        ring, at = self._ring, first & (MAX_PACKETS - 1)
        for start, end in ((at, min(at + steps, MAX_PACKETS)), (0, at + steps - MAX_PACKETS)):
            if end > start:
                ring[start:end] = [
                    packet if packet is not None and packet.received_at > too_old else None
                    for packet in ring[start:end]
                ]

    def get(self, sequence: int, now: float) -> RtpPacket | None:
        """Return the packet of this number if it is kept and young enough."""
        packet = self._ring[sequence & (MAX_PACKETS - 1)]
        if packet is None or packet.sequence != sequence or packet.received_at < now - MAX_AGE_S:
            return None
        return packet
