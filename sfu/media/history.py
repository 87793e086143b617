"""The last packets of one encoding, for whoever asks again.

Shared by all receivers: what is kept is the packet as it came, and each leg writes its
own numbers over it. Bounded in packets, bytes and time.
"""

from sfu.media.packet import RtpPacket

# libsrtp refuses indices more than its window of 1,024 behind, so nothing older is of use.
MAX_PACKETS = 1024

# Four seconds of 2 Mbit/s; a stream that is faster is remembered for a shorter time.
MAX_BYTES = 1_000_000

# A receiver that has waited this long has frozen and wants a keyframe, not the packet.
MAX_AGE_S = 3.0


class History:
    """Packets by sequence number; an equal number replaces nothing."""

    __slots__ = ("_bytes", "_packets")

    def __init__(self) -> None:
        self._packets: dict[int, tuple[float, RtpPacket]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, packet: RtpPacket, now: float) -> bool:
        """Keep a packet; False if one of this number is kept already."""
        packets = self._packets
        if packet.sequence in packets:
            return False
        packets[packet.sequence] = (now, packet)
        self._bytes += len(packet.data)
        while len(packets) > MAX_PACKETS or self._bytes > MAX_BYTES or self._oldest() < now - MAX_AGE_S:
            _, gone = packets.pop(next(iter(packets)))
            self._bytes -= len(gone.data)
        return True

    def _oldest(self) -> float:
        return next(iter(self._packets.values()))[0]

    def get(self, sequence: int, now: float) -> RtpPacket | None:
        """Return the packet of this number if it is kept and young enough."""
        entry = self._packets.get(sequence)
        if entry is None or entry[0] < now - MAX_AGE_S:
            return None
        return entry[1]
