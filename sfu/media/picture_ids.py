"""Numbers of frames, continuous for a receiver across sources.

Picture ids and TL0PICIDX of VP8 (RFC 7741 section 4.2) and VP9 (RFC 9628 section 4.2), and the frame
number of the dependency descriptor (AV1 RTP specification, appendix A). A decoder orders frames by them, so
a new source behind the same SSRC must go on where the old one stopped; one that goes back is taken for old
and thrown away. Fields keep their width: they are patched, not rewritten.
"""

from dataclasses import dataclass
from typing import Final

from sfu.media.dependency import NOTHING_KNOWN, Told
from sfu.media.packet import sequence_delta


@dataclass(slots=True)
class Descriptor:
    """Where the ids of a payload stand (offset into the payload) and what they say.

    An offset of 0 means that the field is absent: byte 0 is the mandatory one. `frame`, of VP8: its temporal
    layer (TID), the Y bit, and whether it begins here.
    """

    picture_at: int
    picture_bits: int
    picture_id: int
    tl0_at: int
    tl0_index: int
    frame: Told = NOTHING_KNOWN


NOTHING_TOLD: Final = Descriptor(0, 0, 0, 0, 0)


# Codecs whose payloads have ids.
PICTURED: Final = ("vp8", "vp9")


def describe(payload: bytes | memoryview, codec: str = "vp8") -> Descriptor:
    """Return the ids of a payload; a short payload has none."""
    if codec == "vp9":
        return _describe_vp9(payload)
    if len(payload) < 2 or not payload[0] & 0x80:
        return NOTHING_TOLD
    extended, at = payload[1], 2
    picture_at = picture_bits = picture_id = tl0_at = tl0_index = 0
    temporal, is_sync = -1, False
    if extended & 0x80:
        if len(payload) < at + 2:
            return NOTHING_TOLD
        picture_at = at
        if payload[at] & 0x80:
            picture_bits, picture_id = 15, (payload[at] & 0x7F) << 8 | payload[at + 1]
            at += 2
        else:
            picture_bits, picture_id = 7, payload[at]
            at += 1
    if extended & 0x40:
        if len(payload) < at + 1:
            return NOTHING_TOLD
        tl0_at, tl0_index = at, payload[at]
        at += 1
    if extended & 0x20:
        if len(payload) < at + 1:
            return NOTHING_TOLD
        temporal, is_sync = payload[at] >> 6, bool(payload[at] & 0x20)
    begins = payload[0] & 0x17 == 0x10  # S, and partition 0
    frame = Told(temporal, begins, is_sync)
    return Descriptor(picture_at, picture_bits, picture_id, tl0_at, tl0_index, frame)


def _describe_vp9(payload: bytes | memoryview) -> Descriptor:
    if len(payload) < 2 or not payload[0] & 0x80:
        return NOTHING_TOLD
    if payload[1] & 0x80:
        if len(payload) < 3:
            return NOTHING_TOLD
        bits, picture, at = 15, (payload[1] & 0x7F) << 8 | payload[2], 3
    else:
        bits, picture, at = 7, payload[1], 2
    # Behind the layer indices, unless the frame names those that it needs itself (flexible mode).
    if payload[0] & 0x30 == 0x20 and len(payload) > at + 1:
        return Descriptor(1, bits, picture, at + 1, payload[at + 1])
    return Descriptor(1, bits, picture, 0, 0)


class PictureIds:
    """Offsets of one receiver; moved with each switch of the source."""

    __slots__ = ("_last_picture", "_last_tl0", "picture_offset", "tl0_offset")

    def __init__(self) -> None:
        self.picture_offset = self.tl0_offset = 0
        self._last_picture: int | None = None
        self._last_tl0: int | None = None

    def switch(self, first: Descriptor, *, is_same: bool = False) -> None:
        """Continue with a source whose first packet says this.

        `is_same`: more or fewer frames of the same.
        """
        if first.picture_at and self._last_picture is not None:
            self.picture_offset = (self._last_picture + 1 - first.picture_id) & 0x7FFF
        if first.tl0_at and self._last_tl0 is not None and not is_same:
            self.tl0_offset = (self._last_tl0 + 1 - first.tl0_index) & 0xFF

    def patch(self, buffer: bytearray, at: int, descriptor: Descriptor) -> None:
        """Write the receiver's ids over those of a payload that begins at `at`."""
        picture, tl0 = self.catch_up(descriptor)
        if descriptor.picture_at:
            where = at + descriptor.picture_at
            if descriptor.picture_bits == 15:
                buffer[where] = 0x80 | picture >> 8
                buffer[where + 1] = picture & 0xFF
            else:
                buffer[where] = picture & 0x7F
        if descriptor.tl0_at:
            buffer[at + descriptor.tl0_at] = tl0

    def catch_up(self, descriptor: Descriptor) -> tuple[int, int]:
        """Take note of the ids of a packet that goes to the receiver; return the receiver's."""
        picture = (descriptor.picture_id + self.picture_offset) & 0x7FFF
        tl0 = (descriptor.tl0_index + self.tl0_offset) & 0xFF
        if descriptor.picture_at:
            mask = 0x7FFF if descriptor.picture_bits == 15 else 0x7F
            if self._last_picture is None or 0 < ((picture - self._last_picture) & mask) <= mask >> 1:
                self._last_picture = picture & mask
        if descriptor.tl0_at and (self._last_tl0 is None or 0 < ((tl0 - self._last_tl0) & 0xFF) <= 0x7F):
            self._last_tl0 = tl0
        return picture, tl0


class FrameNumbers:
    """The 16-bit frame numbers of the dependency descriptor, for one receiver."""

    __slots__ = ("_last", "offset")

    def __init__(self) -> None:
        self.offset = 0
        self._last: int | None = None

    def switch(self, first: int) -> None:
        """Continue with a source whose first frame has this number."""
        if self._last is not None:
            self.offset = (self._last + 1 - first) & 0xFFFF

    def map(self, number: int) -> int:
        """Return the receiver's number of a frame of the source."""
        mapped = (number + self.offset) & 0xFFFF
        if self._last is None or sequence_delta(mapped, self._last) > 0:
            self._last = mapped
        return mapped
