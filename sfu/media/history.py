"""The last packets of one encoding, for whoever asks again.

Shared by all receivers: what is kept is the packet as it came, and each leg writes its
own numbers over it. Bounded in packets and time.
"""

from collections import deque

from sfu.media.packet import RtpPacket, sequence_delta

# A power of two. libsrtp refuses indices more than its window of 1,024 behind, so nothing
# older is of use; at 1,200 bytes a packet this is 1.2 MB, and five seconds of 2 Mbit/s.
MAX_PACKETS = 1024

# A receiver that has waited this long has frozen and wants a keyframe, not the packet.
MAX_AGE_S = 3.0


class History:
    """Packets by sequence number, in a ring; an equal number replaces nothing."""

    __slots__ = ("_order", "_ring")

    def __init__(self) -> None:
        self._ring: list[tuple[float, RtpPacket] | None] = [None] * MAX_PACKETS
        # When each place was taken, oldest first: what is too old is let go.
        self._order: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return sum(entry is not None for entry in self._ring)

    def add(self, packet: RtpPacket, now: float) -> bool:
        """Keep a packet; False if one of this number is kept already, or a later one in its place."""
        at = packet.sequence & (MAX_PACKETS - 1)
        entry = self._ring[at]
        young = entry is not None and now - entry[0] <= MAX_AGE_S
        if young and entry is not None and sequence_delta(packet.sequence, entry[1].sequence) <= 0:
            return False
        self._ring[at] = (now, packet)
        order, too_old = self._order, now - MAX_AGE_S
        order.append((now, at))
        while order[0][0] < too_old:
            added, place = order.popleft()
            kept = self._ring[place]
            if kept is not None and kept[0] == added:
                self._ring[place] = None
        return True

    def get(self, sequence: int, now: float) -> RtpPacket | None:
        """Return the packet of this number if it is kept and young enough."""
        entry = self._ring[sequence & (MAX_PACKETS - 1)]
        if entry is None or entry[1].sequence != sequence or entry[0] < now - MAX_AGE_S:
            return None
        return entry[1]
