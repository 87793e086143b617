"""What legs have in common: the form of a packet before a leg writes its own numbers into it.

Receivers with equal payload types and extensions share the bodies of packets; only the
numbers differ from one to the other.
"""

from typing import Final, NamedTuple

from sfu.media.codecs import RED, RTX, Codec, red_primary, same_format
from sfu.media.negotiation import (
    ABS_SEND_TIME_URI,
    DEPENDENCY_DESCRIPTOR_URI,
    FORWARDED_EXTENSIONS,
    PLAYOUT_DELAY_URI,
    TRANSPORT_CC_URI,
    Section,
)
from sfu.media.packet import MAX_ADDED_BYTES, ONE_BYTE_PROFILE, RtpPacket, extension_block
from sfu.media.picture_ids import PICTURED

# Of the receiver's buffer, in 10 ms: more than ten seconds is no call.
_MAX_DELAY: Final = 1000

# By so much the extensions of a packet may grow; a repeat adds two bytes more (RFC 4588).
_MAX_GROWTH: Final = MAX_ADDED_BYTES - 2

_new = tuple.__new__
_ONE_BYTE: Final = ONE_BYTE_PROFILE.to_bytes(2, "big")


class Body(NamedTuple):
    """An outgoing packet but for the leg's numbers, and where those go (0: nowhere)."""

    data: bytes
    payload_at: int
    transport_cc_at: int
    abs_send_time_at: int
    # Where the frame number of the dependency descriptor stands.
    frame_number_at: int


class Profile:
    """What legs must share to share the bodies of packets: payload types and extensions."""

    def __init__(
        self,
        codecs: dict[int, Codec],
        extensions: dict[int, str],
        section: Section,
        playout_delay_s: float | None = None,
    ) -> None:
        self.payload_types = _payload_types(codecs, section)
        # Payload types of the publisher whose redundancy stays behind (RFC 2198).
        self._unwrapped = frozenset(
            number
            for number, codec in codecs.items()
            if codec.name == RED and not _takes_red(codecs, section)
        )
        theirs = {uri: number for number, uri in section.extensions.items()}
        self.extensions = {
            number: theirs[uri]
            for number, uri in extensions.items()
            if uri in FORWARDED_EXTENSIONS and uri in theirs
        }
        # Our payload type → the one of its rtx format; none where rtx was not agreed.
        self.rtx = {c.repairs: c.payload_type for c in section.codecs if c.repairs is not None}
        # Whether every packet can be repeated under a number of its own (RFC 4588).
        self.is_repairable = all(number in self.rtx for number in self.payload_types.values())
        # Payload type of the publisher → name of its codec.
        self.names = {number: codec.name for number, codec in codecs.items()}
        # The same, of those whose picture ids are rewritten.
        self.pictured = {number: name for number, name in self.names.items() if name in PICTURED}
        # Id of the dependency descriptor at the publisher; it goes first of what travels on.
        self.descriptor = next((n for n, u in extensions.items() if u == DEPENDENCY_DESCRIPTOR_URI), 0)
        self.is_video = section.kind == "video"
        # Audio is not numbered: it is sent in any case, and its few bits are not worth the feedback.
        self.transport_cc = theirs.get(TRANSPORT_CC_URI, 0) if self.is_video else 0
        self.abs_send_time = theirs.get(ABS_SEND_TIME_URI, 0)
        # What we ask ourselves of the receiver's buffer; it replaces what the publisher asks.
        delay_id = theirs.get(PLAYOUT_DELAY_URI, 0) if playout_delay_s is not None and self.is_video else 0
        self._delay: list[tuple[int, bytes]] = []
        if delay_id and playout_delay_s is not None:
            least = min(0xFFF, round(playout_delay_s * 100))
            self._delay = [(delay_id, (least << 12 | max(least, _MAX_DELAY)).to_bytes(3, "big"))]
            self.extensions = {n: ours for n, ours in self.extensions.items() if ours != delay_id}
        # Most packets carry nothing that travels on: what stands before their payload is made once.
        self._plain = self._frame([], numbered=False)

    def key(self) -> int:
        """Return a number that equal profiles share, for the cache of bodies in a packet."""
        value = (
            tuple(self.payload_types.items()),
            tuple(self.extensions.items()),
            self.transport_cc,
            self.abs_send_time,
            tuple(self._delay),
        )
        return hash(value)

    def body(self, packet: RtpPacket) -> Body:
        """Return the packet in this profile's form."""
        theirs, numbered = self._travelling(packet)
        frame = self._frame(theirs, numbered) if theirs else self._plain
        # Only who plays with us has many small ones, which would grow beyond a row: they stay behind.
        if theirs and len(frame[0]) > packet.payload + _MAX_GROWTH:
            frame = self._plain
        payload = packet.data[packet.payload : packet.end]
        if packet.payload_type in self._unwrapped:
            payload = red_primary(payload) or b""
        # What `Body(…)` does, at half its cost: there is one for every packet.
        return _new(Body, (frame[0] + payload, frame[1], frame[2], frame[3], frame[4]))

    def _frame(self, theirs: list[tuple[int, bytes]], numbered: bool) -> Body:
        """Return what stands before the payload: our extensions, then those that travel on."""
        own = []
        if self.transport_cc:
            own.append((self.transport_cc, b"\0\0"))
        if self.abs_send_time:
            own.append((self.abs_send_time, b"\0\0\0"))
        theirs = theirs + self._delay
        block = extension_block(own + theirs)
        element_header = 1 if block[:2] == _ONE_BYTE else 2
        at, places = 16, []
        for _, value in (own + theirs)[:3]:
            places.append(at + element_header)
            at += element_header + len(value)
        return Body(
            bytes((0x90 if block else 0x80,)) + bytes(11) + block,
            payload_at=12 + len(block),
            transport_cc_at=places[0] if self.transport_cc else 0,
            abs_send_time_at=places[len(own) - 1] if self.abs_send_time else 0,
            # Behind the first byte, which has flags and the template.
            frame_number_at=places[len(own)] + 1 if numbered else 0,
        )

    def _travelling(self, packet: RtpPacket) -> tuple[list[tuple[int, bytes]], bool]:
        """Return what goes on of a packet's extensions, and whether a dependency descriptor leads it."""
        if not packet.extension or not self.extensions:
            return [], False
        found: list[tuple[int, bytes]] = []
        mapped, numbered = self.extensions, False
        for number, value in packet.extensions():
            if number not in mapped:
                continue
            if number == self.descriptor and len(value) >= 3:
                found.insert(0, (mapped[number], value))
                numbered = True
            else:
                found.append((mapped[number], value))
        return found, numbered

    def frame_number(self, packet: RtpPacket) -> int | None:
        """Return the frame number in a packet's dependency descriptor, if it has one."""
        values = (v for n, v in packet.extensions() if n == self.descriptor and len(v) >= 3)
        return next((v[1] << 8 | v[2] for v in values), None) if self.descriptor in self.extensions else None


def _payload_types(codecs: dict[int, Codec], section: Section) -> dict[int, int]:
    mapping: dict[int, int] = {}
    for number, codec in codecs.items():
        if codec.name == RED and not _takes_red(codecs, section):
            inner = next((c for c in section.codecs if c.name == "opus"), None)
            if inner is not None:
                mapping[number] = inner.payload_type
            continue
        match = next((c for c in section.codecs if c.name != RTX and same_format(c, codec)), None)
        if match is not None:
            mapping[number] = match.payload_type
    return mapping


def _takes_red(codecs: dict[int, Codec], section: Section) -> bool:
    """Tell whether redundant audio can go as it is: its blocks name the payload type of Opus."""
    theirs = {c.payload_type for c in codecs.values() if c.name == "opus"}
    ours = {c.payload_type for c in section.codecs if c.name == "opus"}
    return theirs == ours and any(c.name == RED for c in section.codecs)
