"""RTP payloads into encoded frames as files hold them, nothing decoded.

Opus RFC 7587 (redundant: RFC 2198), VP8 RFC 7741, VP9 RFC 9628, H264 RFC 6184, AV1 the AOMedia RTP
specification 1.0. H264 comes out as an Annex B byte stream, AV1 as a temporal unit of OBUs with sizes
and without delimiter (what Matroska wants), VP9 with spatial layers as a superframe (Annex B of its
bitstream specification).

Pure: packets in order in, frames out; a frame of which a part is missing says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sfu.media.codecs import red_primary, starts_keyframe, vp8_descriptor_bytes

# A frame larger than this is none: 4K at full quality stays far below.
MAX_FRAME_BYTES = 8 << 20

# Layers of one picture that a superframe of VP9 can hold.
MAX_LAYERS = 8

_START_CODE = b"\x00\x00\x00\x01"

# OBU types (AV1 bitstream specification 6.2.2).
_OBU_TEMPORAL_DELIMITER, _OBU_TILE_LIST, _OBU_PADDING = 2, 8, 15


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded frame; `timestamp` in the clock of its track, extended beyond 32 bits."""

    data: bytes
    timestamp: int
    is_key: bool
    # Whether every packet of it was there.
    is_whole: bool = True


class MalformedPayload(ValueError):
    """A payload that its own lengths contradict."""


class AudioDepacketizer:
    """Opus, plain or redundant: each packet is a frame, and each can be played by itself."""

    def __init__(self, codec: str) -> None:
        self._is_redundant = codec == "red"

    def push(self, payload: bytes, timestamp: int, *, marker: bool, missing: bool) -> list[Frame]:
        """Return the frame of a packet; none for an empty one (a probe)."""
        del marker, missing
        data = red_primary(payload) if self._is_redundant else payload
        return [Frame(data, timestamp, True)] if data else []

    @property
    def is_unfinished(self) -> bool:
        """Nothing ever is: a packet is a frame."""
        return False

    def flush(self) -> list[Frame]:
        return []


class VideoDepacketizer:
    """Packets of one timestamp are one frame; the marker tells its last."""

    def __init__(self, codec: str) -> None:
        """Raises KeyError for a codec that is not known."""
        self._codec = codec
        self._assemble, self._begins = _FORMATS[codec]
        self._payloads: list[bytes] = []
        self._size = 0
        self._timestamp = 0
        self._is_whole = True
        # Whether the frame before was given out with its marker: what comes now begins another.
        self._is_done = True
        # Whether something did not come before a packet that held nothing.
        self._missed = False

    def push(self, payload: bytes, timestamp: int, *, marker: bool, missing: bool) -> list[Frame]:
        """Take the next packet; `missing`: some before it did not come. Return the frames that it ends."""
        found = []
        if self._payloads and timestamp != self._timestamp:
            self._is_whole = False  # its last packet did not come
            found += self._finish()
        missing, self._missed = missing or self._missed, False
        if not payload:
            self._missed = missing
            return found
        if not self._payloads:
            begins = self._does_begin(payload)
            self._is_whole = begins is True or (begins is None and not missing and self._is_done)
            self._timestamp = timestamp
        elif missing:
            self._is_whole = False
        self._payloads.append(payload)
        self._size += len(payload)
        self._is_done = marker
        if marker:
            found += self._finish()
        elif self._size > MAX_FRAME_BYTES:
            self._is_whole = False
            found += self._finish()
        return found

    @property
    def is_unfinished(self) -> bool:
        """Whether a frame was begun of which nothing is missing but its end."""
        return bool(self._payloads) and self._is_whole

    def flush(self) -> list[Frame]:
        """Return the frame that was begun, as broken: nothing more comes."""
        self._is_whole = False
        return self._finish()

    def _does_begin(self, payload: bytes) -> bool | None:
        try:
            return self._begins(payload)
        except IndexError:
            return False

    def _finish(self) -> list[Frame]:
        payloads, self._payloads, self._size = self._payloads, [], 0
        if not payloads:
            return []
        # H264: what tells may stand behind delimiters and messages in packets of their own.
        telling = payloads if self._codec == "h264" else payloads[:1]
        is_key = any(starts_keyframe(self._codec, payload) for payload in telling)
        try:
            data = self._assemble(payloads)
        except (MalformedPayload, IndexError):
            return [Frame(b"", self._timestamp, is_key, is_whole=False)]
        if not data and self._is_whole:
            return []
        return [Frame(data, self._timestamp, is_key, self._is_whole)]


# VP8


def _vp8(payloads: list[bytes]) -> bytes:
    return b"".join(payload[vp8_descriptor_bytes(payload) :] for payload in payloads)


def _vp8_begins(payload: bytes) -> bool | None:
    return bool(payload[0] & 0x10) and not payload[0] & 0x07


# VP9


def _vp9_descriptor(payload: bytes) -> int:
    """Return the bytes of the payload descriptor (RFC 9628 section 4.2)."""
    first = payload[0]
    at = 1
    if first & 0x80:  # I: picture id
        at += 2 if payload[at] & 0x80 else 1
    if first & 0x20:  # L: layer indices, and TL0PICIDX unless in flexible mode
        at += 1 if first & 0x10 else 2
    if first & 0x10 and first & 0x40:  # F and P: references
        for _ in range(3):
            at += 1
            if not payload[at - 1] & 1:
                break
    if first & 0x02:  # V: scalability structure
        at = _vp9_structure(payload, at)
    return at


def _vp9_structure(payload: bytes, at: int) -> int:
    head = payload[at]
    at += 1
    if head & 0x10:  # Y: sizes of each layer
        at += 4 * ((head >> 5) + 1)
    if head & 0x08:  # G: pictures of a group
        pictures = payload[at]
        at += 1
        for _ in range(pictures):
            at += 1 + (payload[at] >> 2 & 3)
    return at


def _vp9(payloads: list[bytes]) -> bytes:
    frames: list[list[bytes]] = []
    for payload in payloads:
        if payload[0] & 0x08 or not frames:  # B: a layer frame begins
            frames.append([])
        frames[-1].append(payload[_vp9_descriptor(payload) :])
    layers = [b"".join(parts) for parts in frames]
    return layers[0] if len(layers) == 1 else _superframe(layers)


def _superframe(layers: list[bytes]) -> bytes:
    """Return the frames of one picture as one, with the index that tells where each ends."""
    if len(layers) > MAX_LAYERS:
        raise MalformedPayload(f"{len(layers)} layers")
    largest = max(map(len, layers))
    width = max(1, (largest.bit_length() + 7) // 8)
    marker = bytes((0xC0 | (width - 1) << 3 | (len(layers) - 1),))
    index = b"".join(len(layer).to_bytes(width, "little") for layer in layers)
    return b"".join(layers) + marker + index + marker


def _vp9_begins(payload: bytes) -> bool | None:
    """B of the lowest spatial layer."""
    first = payload[0]
    if not first & 0x08:
        return False
    if not first & 0x20:
        return True
    at = 1 + ((2 if payload[1] & 0x80 else 1) if first & 0x80 else 0)
    return (payload[at] >> 1) & 7 == 0


# H264


def _h264(payloads: list[bytes]) -> bytes:
    out = bytearray()
    in_fragment = False
    for payload in payloads:
        kind = payload[0] & 0x1F
        if kind == 28:  # FU-A
            if bool(payload[1] & 0x80) == in_fragment:
                raise MalformedPayload("FU-A")  # it begins twice, or goes on with nothing
            if payload[1] & 0x80:
                out += _START_CODE
                out.append(payload[0] & 0xE0 | payload[1] & 0x1F)
                in_fragment = True
            out += payload[2:]
            in_fragment = not payload[1] & 0x40
            continue
        if in_fragment:
            raise MalformedPayload("FU-A without its end")
        if kind == 24:  # STAP-A
            at = 1
            while at + 2 <= len(payload):
                size = payload[at] << 8 | payload[at + 1]
                at += 2
                if not size or at + size > len(payload):
                    raise MalformedPayload("STAP-A")
                out += _START_CODE + payload[at : at + size]
                at += size
        elif 1 <= kind <= 23:
            out += _START_CODE + payload
        else:
            raise MalformedPayload(f"NAL unit type {kind}")
    if in_fragment:
        raise MalformedPayload("FU-A without its end")
    return bytes(out)


def _h264_begins(payload: bytes) -> bool | None:
    """A fragment that is not the first does not begin a frame; of anything else nobody can tell."""
    if payload[0] & 0x1F == 28 and not payload[1] & 0x80:
        return False
    return None


# AV1


def _av1(payloads: list[bytes]) -> bytes:
    """Return the OBUs of one temporal unit with their sizes."""
    out = bytearray()
    fragment: bytearray | None = None
    for payload in payloads:
        head = payload[0]
        elements = _av1_elements(payload)
        for index, element in enumerate(elements):
            if index == 0 and head & 0x80:  # Z: goes on from the packet before
                if fragment is None:
                    raise MalformedPayload("an OBU without its beginning")
                fragment += element
            else:
                fragment = bytearray(element)
            if index == len(elements) - 1 and head & 0x40:  # Y: goes on in the next packet
                break
            out += _sized_obu(bytes(fragment))
            fragment = None
    if fragment is not None:
        raise MalformedPayload("an OBU without its end")
    return bytes(out)


def _av1_elements(payload: bytes) -> list[bytes]:
    """Return the OBU elements of a packet; the last of W has no length before it."""
    count, at = payload[0] >> 4 & 3, 1
    elements: list[bytes] = []
    while at < len(payload):
        if count and len(elements) == count - 1:
            elements.append(payload[at:])
            break
        size, at = _leb128(payload, at)
        if at + size > len(payload):
            raise MalformedPayload("OBU element")
        elements.append(payload[at : at + size])
        at += size
    return elements


def _sized_obu(obu: bytes) -> bytes:
    """Return an OBU with a size field; nothing for those that do not belong into a file."""
    if not obu:
        return b""
    kind = obu[0] >> 3 & 15
    if kind in (_OBU_TEMPORAL_DELIMITER, _OBU_TILE_LIST, _OBU_PADDING):
        return b""
    if obu[0] & 0x02:  # it has one
        return obu
    head = 2 if obu[0] & 0x04 else 1
    body = obu[head:]
    return bytes((obu[0] | 0x02,)) + obu[1:head] + _to_leb128(len(body)) + body


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return value, at
    raise MalformedPayload("leb128")


def _to_leb128(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def _av1_begins(payload: bytes) -> bool | None:
    return False if payload[0] & 0x80 else None


# Name → what makes a frame of payloads, and whether a payload begins a frame (None: nobody can tell).
_FORMATS: dict[str, tuple[Callable[[list[bytes]], bytes], Callable[[bytes], bool | None]]] = {
    "vp8": (_vp8, _vp8_begins),
    "vp9": (_vp9, _vp9_begins),
    "h264": (_h264, _h264_begins),
    "av1": (_av1, _av1_begins),
}

VIDEO_CODECS, AUDIO_CODECS = frozenset(_FORMATS), frozenset({"opus", "red"})


def depacketizer(codec: str) -> AudioDepacketizer | VideoDepacketizer:
    """Return the depacketizer of a codec.

    Raises:
        KeyError: it is none that can be recorded.

    """
    return AudioDepacketizer(codec) if codec in AUDIO_CODECS else VideoDepacketizer(codec)
