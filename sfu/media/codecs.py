"""Codecs as the server sees them: a name, parameters, and a look at the first bytes.

Nothing is decoded. Where a keyframe begins is read from the payload header of each
format: VP8 RFC 7741, H264 RFC 6184, VP9 RFC 9628, AV1 the AOMedia RTP specification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# Helper formats that travel with another codec, never alone.
RTX: Final = "rtx"
RED: Final = "red"


@dataclass(frozen=True)
class Codec:
    """One payload type of one m-line: its rtpmap, fmtp and feedback, as they were offered."""

    payload_type: int
    name: str  # lower case: "vp8"
    encoding: str  # as written: "VP8"
    clock_rate: int
    channels: int = 1
    fmtp: str = ""
    feedback: tuple[str, ...] = ()
    # The payload type that an rtx format repairs (`apt`), else None.
    repairs: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)

    def has_feedback(self, kind: str) -> bool:
        """Tell whether e.g. "nack pli" was agreed."""
        return kind in self.feedback


def parameters(fmtp: str) -> dict[str, str]:
    """Return the parameters of an fmtp line, names in lower case."""
    found = {}
    for part in fmtp.split(";"):
        name, _, value = part.strip().partition("=")
        if name:
            found[name.lower()] = value.strip()
    return found


def same_format(a: Codec, b: Codec) -> bool:
    """Tell whether packets of one format may be sent where the other was agreed.

    What a decoder must agree on is compared (H264 profile and packetization, VP9 and AV1
    profile); what only tunes an encoder (bitrates, FEC, DTX) is not.
    """
    if (a.name, a.clock_rate, a.channels) != (b.name, b.clock_rate, b.channels):
        return False
    if a.name == "h264":
        return _h264(a) == _h264(b)
    if a.name == "vp9":
        return a.parameters.get("profile-id", "0") == b.parameters.get("profile-id", "0")
    if a.name == "av1":
        return a.parameters.get("profile", "0") == b.parameters.get("profile", "0")
    return True


def _h264(codec: Codec) -> tuple[str, str]:
    # RFC 6184 section 8.1: the default level id is 42000a, the default mode 0. The level
    # (last byte) may differ. Constraint bits tell Constrained Baseline from Baseline.
    level_id = codec.parameters.get("profile-level-id", "42000a").lower()
    profile, constraints = level_id[:2], level_id[2:4]
    if profile == "42":
        try:
            constrained = bool(int(constraints, 16) & 0x40)
        except ValueError:
            constrained = False
        profile = "42c" if constrained else "42"
    return profile, codec.parameters.get("packetization-mode", "0")


# As much of a payload as tells whether a keyframe begins: parameter sets and an IDR slice may stand
# behind others in one H264 aggregation.
KEYFRAME_PEEK_BYTES: Final = 256


def starts_keyframe(name: str, payload: bytes | memoryview) -> bool:
    """Tell whether a packet begins a frame that needs no other; False for what is unknown."""
    try:
        check = _KEYFRAME[name]
        return check(payload)
    except (KeyError, IndexError):
        return False


def _vp8(payload: bytes | memoryview) -> bool:
    first = payload[0]
    if not first & 0x10 or first & 0x07:  # S set and partition 0
        return False
    return not payload[vp8_descriptor_bytes(payload)] & 0x01  # RFC 7741 section 4.3: P is 0 in a key frame


def vp8_descriptor_bytes(payload: bytes | memoryview) -> int:
    """Return how long the descriptor before a VP8 payload is (RFC 7741 section 4.2)."""
    at = 1
    if payload[0] & 0x80:
        extended = payload[1]
        at = 2
        if extended & 0x80:
            at += 2 if payload[at] & 0x80 else 1
        at += bool(extended & 0x40) + bool(extended & 0x30)
    return at


def _h264_keyframe(payload: bytes | memoryview) -> bool:
    kind = payload[0] & 0x1F
    if kind in (5, 7):  # an IDR slice, or the parameters that stand before it
        return True
    if kind == 24:  # STAP-A: look into each
        at = 1
        while at + 2 < len(payload):
            if payload[at + 2] & 0x1F in (5, 7):
                return True
            at += 2 + (payload[at] << 8 | payload[at + 1])
    elif kind == 28:  # FU-A: the first fragment of one
        return bool(payload[1] & 0x80) and payload[1] & 0x1F in (5, 7)
    return False


def _vp9(payload: bytes | memoryview) -> bool:
    first = payload[0]
    # B set (start of frame), P clear (not inter-predicted); of SVC the lowest layer only.
    if not first & 0x08 or first & 0x40:
        return False
    if not first & 0x20:
        return True
    at = 1
    if first & 0x80:
        at += 2 if payload[1] & 0x80 else 1
    return (payload[at] >> 1) & 7 == 0


def _av1(payload: bytes | memoryview) -> bool:
    return bool(payload[0] & 0x08)  # N: first packet of a coded video sequence


_KEYFRAME: Final = {"vp8": _vp8, "h264": _h264_keyframe, "vp9": _vp9, "av1": _av1}


def frame_size(name: str, payload: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a keyframe from its first packet; None where it does not stand there.

    VP8 only (RFC 6386 section 9.1): other codecs tell it further in, or not in every keyframe.
    """
    if name != "vp8" or len(payload) < 4:
        return None
    # Behind the descriptor (RFC 7741 section 4.2) and the frame tag the start code stands.
    at = vp8_descriptor_bytes(payload) + 3
    if payload[at : at + 3] != b"\x9d\x01\x2a" or at + 7 > len(payload):
        return None
    width, height = payload[at + 3] | payload[at + 4] << 8, payload[at + 5] | payload[at + 6] << 8
    return width & 0x3FFF, height & 0x3FFF


def red_primary(payload: bytes) -> bytes | None:
    """Return the newest frame of a redundant payload (RFC 2198 section 3), None if it is broken."""
    at = skipped = 0
    while at < len(payload) and payload[at] & 0x80:  # another block follows
        if at + 4 > len(payload):
            return None
        skipped += (payload[at + 2] & 3) << 8 | payload[at + 3]
        at += 4
    start = at + 1 + skipped
    return payload[start:] if start <= len(payload) else None
