"""RTP packets as bytes with a few numbers beside them (RFC 3550 section 5.1, RFC 8285).

Nothing here allocates more than one object an incoming packet.
"""

import struct
from typing import Any, Final

# Packets larger than this never come from a browser (which stops near 1,200) and would
# not fit a row of the send buffer with the SRTP trailer.
MAX_PACKET_BYTES: Final = 1900

# What may be added to one on its way: extensions of ours, longer forms of theirs, the number of RFC 4588.
MAX_ADDED_BYTES: Final = 64

ONE_BYTE_PROFILE: Final = 0xBEDE
TWO_BYTE_PROFILE: Final = 0x1000

_HEADER: Final = struct.Struct("!BBHII")
_EXTENSION_HEADER: Final = struct.Struct("!HH")


class RtpPacket:
    """One RTP packet, decrypted: the bytes and where its parts are.

    `payload` and `end` are offsets into `data`; the padding lies behind `end`.
    """

    __slots__ = (
        "_elements",
        "bodies",
        "data",
        "end",
        "extension",
        "extension_end",
        "extension_profile",
        "marker",
        "payload",
        "payload_type",
        "received_at",
        "sequence",
        "ssrc",
        "timestamp",
    )

    def __init__(self, data: bytes) -> None:
        if len(data) < 12:
            raise ValueError("shorter than an RTP header")
        first: int
        second: int
        sequence: int
        timestamp: int
        ssrc: int
        first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
        if first >> 6 != 2:
            raise ValueError("not RTP version 2")
        self.data = data
        self.sequence, self.timestamp, self.ssrc = sequence, timestamp, ssrc
        self.marker = second >> 7
        self.payload_type = second & 0x7F
        offset = 12 + 4 * (first & 15)
        end = len(data)
        self.extension = self.extension_end = self.extension_profile = 0
        if first & 0x10:
            if offset + 4 > end:
                raise ValueError("cut in the header extension")
            self.extension_profile = data[offset] << 8 | data[offset + 1]
            words = data[offset + 2] << 8 | data[offset + 3]
            self.extension = offset + 4
            self.extension_end = offset = offset + 4 + 4 * words
        if first & 0x20:
            end -= data[-1]
            if data[-1] == 0:
                raise ValueError("padding of no bytes")
        if offset > end:
            raise ValueError("longer inside than outside")
        self.payload = offset
        self.end = end
        # When it was taken into the history.
        self.received_at = 0.0
        self._elements: list[tuple[int, bytes]] | None = None
        # Outgoing forms already built of this packet, by leg profile (sfu/media/leg.py).
        self.bodies: dict[int, Any] = {}

    def peek(self, size: int) -> bytes:
        """Return at most so many bytes of the payload's beginning."""
        return self.data[self.payload : min(self.end, self.payload + size)]

    def extensions(self) -> list[tuple[int, bytes]]:
        """Return the header extension elements as (id, value); a broken tail is left out."""
        if self._elements is None:
            self._elements = self._parse_extensions()
        return self._elements

    def _parse_extensions(self) -> list[tuple[int, bytes]]:
        profile, at, end, data = self.extension_profile, self.extension, self.extension_end, self.data
        found: list[tuple[int, bytes]] = []
        if profile == ONE_BYTE_PROFILE:
            while at < end:
                first = data[at]
                identifier = first >> 4
                if identifier == 15:  # RFC 8285 section 4.2: stop here
                    break
                at += 1
                if identifier:
                    length = (first & 15) + 1
                    if at + length > end:
                        break
                    found.append((identifier, data[at : at + length]))
                    at += length
                # identifier 0 is padding, of one byte whatever its length field says
        elif profile & 0xFFF0 == TWO_BYTE_PROFILE:
            while at < end:
                identifier = data[at]
                at += 1
                if identifier:
                    if at >= end or at + 1 + data[at] > end:
                        break
                    found.append((identifier, data[at + 1 : at + 1 + data[at]]))
                    at += 1 + data[at]
        return found


def extension_block(elements: list[tuple[int, bytes]]) -> bytes:
    """Return the whole header extension, profile and padding included; empty for no elements.

    One-byte elements where all fit (ids 1-14, 1-16 bytes), else two-byte ones (RFC 8285).
    """
    if not elements:
        return b""
    if all(identifier < 15 and 1 <= len(value) <= 16 for identifier, value in elements):
        profile = ONE_BYTE_PROFILE
        body = b"".join(bytes(((i << 4) | (len(v) - 1),)) + v for i, v in elements)
    else:
        profile = TWO_BYTE_PROFILE
        body = b"".join(bytes((i, len(v))) + v for i, v in elements)
    words = (len(body) + 3) // 4
    return _EXTENSION_HEADER.pack(profile, words) + body.ljust(4 * words, b"\0")


def build(
    payload_type: int,
    sequence: int,
    timestamp: int,
    ssrc: int,
    payload: bytes,
    *,
    marker: int = 0,
    elements: list[tuple[int, bytes]] | None = None,
) -> bytes:
    """Return an RTP packet."""
    block = extension_block(elements or [])
    first = 0x90 if block else 0x80
    return _HEADER.pack(first, marker << 7 | payload_type, sequence, timestamp, ssrc) + block + payload


def sequence_delta(later: int, earlier: int) -> int:
    """Return how far one 16-bit sequence number lies behind another, -32768 to 32767."""
    return ((later - earlier + 0x8000) & 0xFFFF) - 0x8000


def timestamp_delta(later: int, earlier: int) -> int:
    """Return how far one 32-bit timestamp lies behind another, signed."""
    return ((later - earlier + 0x80000000) & 0xFFFFFFFF) - 0x80000000
