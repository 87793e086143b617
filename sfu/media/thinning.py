"""A part of an encoding: spatial and temporal layers up to some, under numbers without holes.

A frame needs none of a layer above its own: what is above can be left out for those who want fewer frames,
or smaller ones. So can what is below, where the larger picture does not need it (of L3T3_KEY it does with a
keyframe only). Sequence numbers and VP8's picture ids close up, once for all who take the same. What counts
frames of the lowest layer (TL0PICIDX), or says itself what a frame needs (the numbers of the dependency
descriptor, VP9's picture ids), stays. The last packet of a picture is marked: it may be another one now.

What was lost on its way here may be of either kind. It keeps a number, and goes out under it when it comes;
if it is of a frame that is left out, without its payload.
"""

from collections import deque
from typing import Final

from sfu.media.dependency import Told
from sfu.media.packet import RtpPacket, sequence_delta
from sfu.media.picture_ids import Descriptor

# More than this is no loss, and more than that behind is not late, but a source that began anew.
MAX_MISSING: Final = 512
MAX_LATE: Final = 4096

# All spatial layers, and all temporal ones.
WHOLE: Final = 8

# Pictures left out that are remembered, for packets that come late.
MAX_PICTURES: Final = 64


class Thinning:
    """Takes the packets of an encoding, and gives those up to a temporal and a spatial layer, renumbered."""

    def __init__(self, temporal: int, spatial: int = WHOLE) -> None:
        self.temporal, self.spatial = temporal, spatial
        # The source's number of the newest packet; None before the first. Its frame, by media time.
        self._newest: int | None = None
        self._timestamp = 0
        self._is_left_out = False
        # Packets and pictures left out so far; the pictures left out lately, by the source's ids.
        self._packets = self._pictures = 0
        self._lately: deque[int] = deque(maxlen=MAX_PICTURES)
        # Packets that did not come yet: the source's number, and the one that is kept for it.
        self._missing: dict[int, int] = {}

    def take(self, packet: RtpPacket, frame: Told, told: Descriptor) -> RtpPacket | None:
        """Return a packet as it goes out, None if it does not; `told`: its ids, if it is VP8."""
        is_wanted = frame.temporal <= self.temporal and self._has_use_for(frame)
        is_last = frame.ends and frame.spatial == self.spatial
        ahead = 1 if self._newest is None else sequence_delta(packet.sequence, self._newest)
        if self._newest is not None and is_late(packet.sequence, self._newest):
            number = self._missing.pop(packet.sequence, None)
            if number is None:  # it was left out, or it is here again
                return None
            if not is_wanted:
                return _emptied(packet, number)
            return self._late(packet, told, number, is_last=is_last)
        if ahead > 1:
            self._miss(packet, ahead - 1, is_wanted=is_wanted)
        self._newest, self._timestamp, self._is_left_out = packet.sequence, packet.timestamp, not is_wanted
        if is_wanted:
            sequence = packet.sequence - self._packets
            return _renumbered(packet, told, sequence, self._pictures, is_last=is_last)
        self._packets += 1
        if told.picture_at and (not self._lately or self._lately[-1] != told.picture_id):
            self._lately.append(told.picture_id)
            self._pictures += 1
        return None

    def _has_use_for(self, frame: Told) -> bool:
        if frame.spatial < self.spatial < WHOLE:
            return frame.serves_above
        return frame.spatial <= self.spatial

    def _miss(self, packet: RtpPacket, count: int, *, is_wanted: bool) -> None:
        """Keep numbers for what should have come before a packet."""
        if count > MAX_MISSING:
            self._missing.clear()
        elif self._is_left_out and not is_wanted and packet.timestamp == self._timestamp:
            self._packets += count  # from within what is left out of a picture
        else:
            for behind in range(count, 0, -1):
                sequence = (packet.sequence - behind) & 0xFFFF
                self._missing[sequence] = (sequence - self._packets) & 0xFFFF
            while len(self._missing) > MAX_MISSING:
                del self._missing[next(iter(self._missing))]

    def _late(self, packet: RtpPacket, told: Descriptor, number: int, *, is_last: bool) -> RtpPacket:
        half = 0x4000 if told.picture_bits == 15 else 0x40
        since = [gone for gone in self._lately if 0 < (gone - told.picture_id) & (2 * half - 1) < half]
        return _renumbered(packet, told, number, self._pictures - len(since), is_last=is_last)


def is_late(sequence: int, newest: int) -> bool:
    """Tell whether a packet comes behind the newest."""
    return -MAX_LATE < sequence_delta(sequence, newest) <= 0


def _renumbered(
    packet: RtpPacket, told: Descriptor, sequence: int, fewer: int, *, is_last: bool
) -> RtpPacket:
    """Return a packet with another number, and an id of so many pictures fewer; `is_last`: of its picture."""
    data = bytearray(packet.data)
    if is_last:
        data[1] |= 0x80
    data[2:4] = (sequence & 0xFFFF).to_bytes(2, "big")
    if told.picture_at:
        at = packet.payload + told.picture_at
        if told.picture_bits == 15:
            data[at : at + 2] = (0x8000 | (told.picture_id - fewer) & 0x7FFF).to_bytes(2, "big")
        else:
            data[at] = (told.picture_id - fewer) & 0x7F
    return RtpPacket(bytes(data))


def _emptied(packet: RtpPacket, sequence: int) -> RtpPacket:
    """Return a packet of nothing: it only says that its number is no loss."""
    data = bytearray(packet.data[: packet.payload])
    data[0] &= 0xDF  # no padding
    data[1] &= 0x7F  # no end of a frame
    data[2:4] = sequence.to_bytes(2, "big")
    return RtpPacket(bytes(data))
