"""Width and height of the pictures in a keyframe, read from its headers; nothing is decoded.

VP8 RFC 6386 section 9.1, VP9 bitstream specification 6.2, H264 ITU-T 7.3.2.1.1, AV1 specification 5.5.
Pure: bytes in, numbers out.
"""

from collections.abc import Callable

# H264 profiles whose parameter sets tell of chroma (7.3.2.1.1).
_WITH_CHROMA = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


class _Bits:
    """Bits of bytes, the highest first. Raises IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            byte = self._data[self._at >> 3]
            value = value << 1 | (byte >> (7 - (self._at & 7)) & 1)
            self._at += 1
        return value

    def golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise IndexError
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_golomb(self) -> int:
        value = self.golomb()
        return (value + 1) // 2 if value & 1 else -(value // 2)


def picture_size(codec: str, frame: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a keyframe; None where it does not tell."""
    try:
        size = _SIZES[codec](frame)
    except (IndexError, KeyError):
        return None
    return size if size is not None and min(size) > 0 else None


def _vp8(frame: bytes) -> tuple[int, int] | None:
    if frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
        return None
    return (frame[6] | frame[7] << 8) & 0x3FFF, (frame[8] | frame[9] << 8) & 0x3FFF


def _vp9(frame: bytes) -> tuple[int, int] | None:
    bits = _Bits(frame)
    if bits.take(2) != 2:
        return None
    profile = bits.take(1) | bits.take(1) << 1
    if profile == 3:
        bits.take(1)
    if bits.take(1) or bits.take(1):  # an existing frame is shown; not a key frame
        return None
    bits.take(2)
    if bits.take(24) != 0x498342:
        return None
    if profile >= 2:
        bits.take(1)
    if bits.take(3) != 7:  # color space; sRGB has no subsampling
        bits.take(1)
        if profile in (1, 3):
            bits.take(3)
    elif profile in (1, 3):
        bits.take(1)
    return bits.take(16) + 1, bits.take(16) + 1


def _h264(frame: bytes) -> tuple[int, int] | None:
    at = 0
    while (at := frame.find(b"\x00\x00\x01", at)) >= 0:
        at += 3
        if frame[at] & 0x1F == 7:
            end = frame.find(b"\x00\x00\x01", at)
            sps = frame[at + 1 : end if end >= 0 else len(frame)]
            return _sps(sps.replace(b"\x00\x00\x03", b"\x00\x00"))
    return None


def _sps(data: bytes) -> tuple[int, int]:
    bits = _Bits(data)
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()
    chroma = 1
    if profile in _WITH_CHROMA:
        chroma = bits.golomb()
        if chroma == 3:
            bits.take(1)
        bits.golomb()
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            _scaling_lists(bits, 8 if chroma != 3 else 12)
    bits.golomb()
    _picture_order(bits)
    bits.golomb()
    bits.take(1)
    width, height = bits.golomb() + 1, bits.golomb() + 1
    is_progressive = bits.take(1)
    if not is_progressive:
        bits.take(1)
    bits.take(1)
    left = right = top = bottom = 0
    if bits.take(1):
        left, right, top, bottom = bits.golomb(), bits.golomb(), bits.golomb(), bits.golomb()
    across, down = (2 if chroma in (1, 2) else 1), (2 if chroma == 1 else 1) * (2 - is_progressive)
    return width * 16 - across * (left + right), (2 - is_progressive) * height * 16 - down * (top + bottom)


def _picture_order(bits: _Bits) -> None:
    kind = bits.golomb()
    if kind == 0:
        bits.golomb()
    elif kind == 1:
        bits.take(1)
        bits.signed_golomb()
        bits.signed_golomb()
        for _ in range(bits.golomb()):
            bits.signed_golomb()


def _scaling_lists(bits: _Bits, count: int) -> None:
    for index in range(count):
        if bits.take(1):
            last = following = 8
            for _ in range(16 if index < 6 else 64):
                if following:
                    following = (last + bits.signed_golomb()) % 256
                last = following or last


def _av1(frame: bytes) -> tuple[int, int] | None:
    at = 0
    while at < len(frame):
        head = frame[at]
        at += 2 if head & 4 else 1
        size = 0
        for shift in range(0, 56, 7):  # eight bytes at the most (4.10.5)
            byte = frame[at]
            at += 1
            size |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
        else:
            return None
        if head >> 3 & 15 == 1:
            return _sequence_header(frame[at : at + size])
        at += size
    return None


def _sequence_header(data: bytes) -> tuple[int, int]:
    bits = _Bits(data)
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        decoder_model = delay_bits = 0
        if bits.take(1):  # timing
            bits.take(64)
            if bits.take(1):
                bits.golomb()
            decoder_model = bits.take(1)
            if decoder_model:
                delay_bits = bits.take(5) + 1
                bits.take(42)
        has_delay = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if decoder_model and bits.take(1):
                bits.take(2 * delay_bits + 1)
            if has_delay and bits.take(1):
                bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


_SIZES: dict[str, Callable[[bytes], tuple[int, int] | None]] = {
    "vp8": _vp8,
    "vp9": _vp9,
    "h264": _h264,
    "av1": _av1,
}
