"""Sizes are those that the encoder was told; what tells none has none."""

import hashlib
import json
from base64 import b64decode
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import pytest
from hypothesis import example, given, settings, strategies as st

from sfu.recorder.sizes import picture_size

DATA = Path(__file__).parents[2] / "data" / "rtp_payloads"

CODECS = ("vp8", "vp9", "h264", "av1")


@cache
def encoded(
    encoder: str, width: int, height: int, pixels: str = "yuv420p", count: int = 1, **options: str
) -> list[bytes]:
    """Return the frames of an encoder that was given grey pictures."""
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = width, height, pixels
    context.time_base, context.framerate, context.thread_count = Fraction(1, 30), Fraction(30), 1
    context.options = options
    frames = []
    for number in range(count):
        picture = av.VideoFrame(width, height, pixels)
        for plane in picture.planes:
            plane.update(b"\x01" * plane.buffer_size)
        picture.pts = number
        frames += context.encode(picture)
    return [bytes(frame) for frame in frames + context.encode(None)]


VPX = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
X264 = {"preset": "ultrafast", "tune": "zerolatency"}
SVT = {"preset": "13", "svtav1-params": "lp=1"}
LARGE = [(1280, 720), (1920, 1080)]
SIZES = [(16, 16), (160, 120), (854, 480), *LARGE]
ODD = [(161, 121), (17, 31), (2, 2), (1, 1)]


@pytest.mark.parametrize(("width", "height"), [*SIZES, *ODD])
def test_a_vp8_keyframe_tells_its_size(width, height):
    """In the ten bytes before its first partition."""
    (frame,) = encoded("libvpx", width, height, **VPX)
    assert picture_size("vp8", frame) == (width, height)
    assert picture_size("vp8", frame[:10]) == (width, height)
    assert picture_size("vp8", frame[:9]) is None


@pytest.mark.parametrize(("width", "height"), [*SIZES, *ODD])
def test_a_vp9_keyframe_tells_its_size(width, height):
    """In its uncompressed header."""
    (frame,) = encoded("libvpx-vp9", width, height, **VPX)
    assert picture_size("vp9", frame) == (width, height)


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv422p", "yuv440p", "gbrp"])
@pytest.mark.parametrize(("width", "height"), [(160, 120), (161, 121)])
def test_vp9_with_more_color_tells_its_size(pixels, width, height):
    """Profile 1 tells how color is sampled; of sRGB it need not."""
    (frame,) = encoded("libvpx-vp9", width, height, pixels, **VPX)
    assert frame[0] >> 4 == 0b1010
    assert picture_size("vp9", frame) == (width, height)


@pytest.mark.parametrize(("codec", "encoder"), [("vp8", "libvpx"), ("vp9", "libvpx-vp9")])
def test_delta_frames_tell_no_size(codec, encoder):
    """It is that of the keyframe before."""
    frames = encoded(encoder, 160, 120, count=5, **VPX)
    assert [picture_size(codec, frame) for frame in frames] == [(160, 120), None, None, None, None]


@pytest.mark.parametrize(("width", "height"), [*SIZES, (2, 2), (162, 122), (18, 34)])
@pytest.mark.parametrize(
    ("idc", "params"), [(66, "cabac=0"), (77, "cabac=1"), (100, "8x8dct=1")], ids=["baseline", "main", "high"]
)
def test_an_h264_keyframe_tells_its_size(idc, params, width, height):
    """In its parameters, without what is cropped."""
    (frame,) = encoded("libx264", width, height, **X264, **{"x264-params": params})
    assert frame[frame.index(b"\0\0\1\x67") + 4] == idc
    assert picture_size("h264", frame) == (width, height)


@pytest.mark.parametrize(
    ("encoder", "pixels", "idc"),
    [
        ("libx264", "yuv422p", 122),
        ("libx264", "yuv444p", 244),
        ("libx264", "yuv420p10le", 110),
        ("libx264", "yuv422p10le", 122),
        ("libx264", "yuv444p10le", 244),
        ("libx264", "gray", 100),
        ("libx264rgb", "bgr24", 244),
    ],
)
@pytest.mark.parametrize(("width", "height"), [(854, 480), (162, 122), (160, 120)])
def test_h264_with_other_colors_tells_its_size(encoder, pixels, idc, width, height):
    """What is cropped is counted in units of its color."""
    (frame,) = encoded(encoder, width, height, pixels, **X264)
    assert frame[frame.index(b"\0\0\1\x67") + 4] == idc
    assert picture_size("h264", frame) == (width, height)


@pytest.mark.parametrize(("pixels", "width", "height"), [("yuv444p", 161, 121), ("yuv422p", 162, 121)])
def test_h264_may_have_odd_sizes(pixels, width, height):
    """Where its color is not halved."""
    (frame,) = encoded("libx264", width, height, pixels, **X264)
    assert picture_size("h264", frame) == (width, height)


@pytest.mark.parametrize(("width", "height"), [(160, 120), (162, 124), (1920, 1080)])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("params", ["interlaced=1", "fake-interlaced=1", "bff=1"])
def test_interlaced_h264_tells_the_size_of_its_pictures(width, height, pixels, params):
    """Not of its fields."""
    frames = encoded("libx264", width, height, pixels, **X264, **{"x264-params": params})
    assert picture_size("h264", frames[0]) == (width, height)


@pytest.mark.parametrize(
    "params", ["cqm=jvt", "aud=1", "bframes=2:keyint=10", "slices=4", "cqm4=" + ",".join(["20"] * 16)]
)
def test_h264_tells_its_size_with_any_options(params):
    """Scaling lists, delimiters, another picture order."""
    options = {"preset": "ultrafast", "profile": "high"}
    frames = encoded("libx264", 854, 480, count=4, **options, **{"x264-params": params})
    assert picture_size("h264", frames[0]) == (854, 480)


def test_h264_without_parameters_tells_no_size():
    """Delta frames, and what does not even begin."""
    frames = encoded("libx264", 160, 120, count=3, **X264)
    assert [picture_size("h264", frame) for frame in frames] == [(160, 120), None, None]
    assert picture_size("h264", b"\0\0\0\1") is None
    assert picture_size("h264", b"\0\0\0\1\x65data") is None


@pytest.mark.parametrize(("width", "height"), [(64, 64), *SIZES[1:], (162, 122), (321, 241)])
def test_an_av1_keyframe_tells_its_size(width, height):
    """In its sequence header, behind a temporal delimiter or not."""
    frame = encoded("libsvtav1", width, height, **SVT)[0]
    assert picture_size("av1", frame) == (width, height)
    assert frame[:2] == b"\x12\0"
    assert picture_size("av1", frame[2:]) == (width, height)


def test_av1_with_ten_bits_tells_its_size():
    """How deep color is stands behind it."""
    frame = encoded("libsvtav1", 160, 120, "yuv420p10le", **SVT)[0]
    assert picture_size("av1", frame) == (160, 120)


def test_av1_of_another_encoder_tells_its_size():
    """In keyframes only."""
    frames = json.loads((DATA / "av1.json").read_text())["frames"]
    data = [b64decode(frame[3]) for frame in frames]
    assert [hashlib.sha256(each).hexdigest() for each in data] == [frame[0] for frame in frames]
    expected = [(160, 120) if frame[2] else None for frame in frames]
    assert [picture_size("av1", each) for each in data] == expected


@pytest.mark.parametrize("codec", ["opus", "", "h265"])
def test_what_has_no_pictures_has_no_size(codec):
    """Nor has a codec that is not known."""
    assert picture_size(codec, b"\x9d\x01\x2a" * 10) is None


@pytest.mark.parametrize(
    ("codec", "encoder", "options"),
    [
        ("vp8", "libvpx", VPX),
        ("vp9", "libvpx-vp9", VPX),
        ("h264", "libx264", X264),
        ("av1", "libsvtav1", SVT),
    ],
)
def test_a_header_that_is_cut_tells_the_size_or_none(codec, encoder, options):
    """Never another."""
    frame = encoded(encoder, 160, 120, **options)[0]
    found = [picture_size(codec, frame[:size]) for size in range(min(len(frame), 120))]
    assert set(found) <= {None, (160, 120)}
    assert found[0] is None


@given(st.sampled_from(CODECS), st.binary(max_size=100))
@example("h264", b"\0\0\1\x67" + b"\0" * 50)
@example("h264", b"\0\0\1")
@example("av1", b"\x0a")
@example("av1", b"\x0a\x00")
@example("av1", b"\x0e")
@example("vp9", b"\x82\x49\x83\x42")
def test_any_bytes_tell_a_size_or_none(codec, data):
    """No bytes are an error."""
    found = picture_size(codec, data)
    assert found is None or len(found) == 2


@given(st.data())
@settings(max_examples=200)
def test_any_damage_tells_a_size_or_none(data):
    """Of a frame that an encoder made."""
    codec, encoder, options = data.draw(
        st.sampled_from(
            (
                ("vp8", "libvpx", VPX),
                ("vp9", "libvpx-vp9", VPX),
                ("h264", "libx264", X264),
                ("av1", "libsvtav1", SVT),
            )
        )
    )
    frame = bytearray(encoded(encoder, 160, 120, **options)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, min(len(frame), 60) - 1))] = data.draw(st.integers(0, 255))
    found = picture_size(codec, bytes(frame))
    assert found is None or len(found) == 2


# Headers that no encoder at hand makes, written by the specifications.


class Writer:
    """Bits, the highest first."""

    def __init__(self) -> None:
        self.bits = ""

    def put(self, value: int, count: int) -> None:
        self.bits += f"{value:0{count}b}" if count else ""

    def golomb(self, value: int) -> None:
        """Unsigned Exp-Golomb (H.264 section 9.1)."""
        text = f"{value + 1:b}"
        self.bits += "0" * (len(text) - 1) + text

    def signed(self, value: int) -> None:
        self.golomb(2 * value - 1 if value > 0 else -2 * value)

    def bytes(self) -> bytes:
        text = self.bits + "0" * (-len(self.bits) % 8)
        return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


numbers = st.one_of(st.integers(0, 5), st.integers(0, 100_000))
signed_numbers = st.integers(-40_000, 40_000)


def put_scaling_lists(out: Writer, draw, count: int) -> None:
    """Section 7.3.2.1.1.1, any lists."""
    for index in range(count):
        present = draw(st.booleans())
        out.put(present, 1)
        last = following = 8
        for _ in range((16 if index < 6 else 64) if present else 0):
            if following:
                following = draw(st.sampled_from((0, 1, 8, 16, 200, 255)))
                delta = (following - last + 128) % 256 - 128
                out.signed(delta)
            last = following or last


def put_picture_order(out: Writer, draw) -> None:
    kind = draw(st.integers(0, 2))
    out.golomb(kind)
    if kind == 0:
        out.golomb(draw(st.integers(0, 12)))
    elif kind == 1:
        out.put(draw(st.integers(0, 1)), 1)
        out.signed(draw(signed_numbers))
        out.signed(draw(signed_numbers))
        cycle = draw(st.lists(signed_numbers, max_size=6))
        out.golomb(len(cycle))
        for each in cycle:
            out.signed(each)


@st.composite
def sequence_parameters(draw):
    """Any SPS of H.264 section 7.3.2.1.1: (NAL unit, size)."""
    out = Writer()
    profile = draw(
        st.sampled_from((66, 77, 88, 100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
    )
    out.put(profile, 8)
    out.put(draw(st.integers(0, 0xFFFF)), 16)
    out.golomb(draw(st.integers(0, 31)))
    chroma, is_separate = 1, 0
    if profile not in (66, 77, 88):
        chroma = draw(st.integers(0, 3))
        out.golomb(chroma)
        if chroma == 3:
            is_separate = draw(st.integers(0, 1))
            out.put(is_separate, 1)
        out.golomb(draw(st.integers(0, 6)))
        out.golomb(draw(st.integers(0, 6)))
        out.put(draw(st.integers(0, 1)), 1)
        has_lists = draw(st.booleans())
        out.put(has_lists, 1)
        if has_lists:
            put_scaling_lists(out, draw, 12 if chroma == 3 else 8)
    out.golomb(draw(st.integers(0, 12)))
    put_picture_order(out, draw)
    out.golomb(draw(st.integers(0, 16)))
    out.put(draw(st.integers(0, 1)), 1)
    across, down, is_frames = draw(st.integers(1, 1024)), draw(st.integers(1, 512)), draw(st.integers(0, 1))
    out.golomb(across - 1)
    out.golomb(down - 1)
    out.put(is_frames, 1)
    if not is_frames:
        out.put(draw(st.integers(0, 1)), 1)
    out.put(draw(st.integers(0, 1)), 1)
    # Table 6-1: how many samples of luma one of color spans, of which crops are counted in.
    unit_x, unit_y = {0: (1, 1), 1: (2, 2), 2: (2, 1), 3: (1, 1)}[chroma]
    unit_y *= 2 - is_frames
    width, height = 16 * across, 16 * down * (2 - is_frames)
    crops = [draw(st.integers(0, 15 // unit // 2)) for unit in (unit_x, unit_x, unit_y, unit_y)]
    out.put(any(crops), 1)
    if any(crops):
        for crop in crops:
            out.golomb(crop)
    out.put(draw(st.integers(0, 1)), 1)
    data = Writer.bytes(out)
    escaped, zeros = bytearray(), 0
    for byte in data:
        if zeros >= 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = 0 if byte else zeros + 1
    size = width - unit_x * (crops[0] + crops[1]), height - unit_y * (crops[2] + crops[3])
    return b"\x67" + bytes(escaped) + b"\x80", size


@settings(max_examples=200)
@given(sequence_parameters(), st.sampled_from((b"\0\0\1", b"\0\0\0\1")), st.booleans())
def test_any_h264_parameters_tell_their_size(parameters, start, has_more):
    """All optional fields in all combinations; behind a delimiter, before other units."""
    unit, size = parameters
    frame = (
        start + b"\x09\xf0" + start + unit + (start + b"\x68\xce" + start + b"\x65data" if has_more else b"")
    )
    assert picture_size("h264", frame) == size


@pytest.mark.parametrize("profile", range(4))
@pytest.mark.parametrize("is_srgb", [False, True])
@given(size=st.tuples(st.integers(1, 65_536), st.integers(1, 65_536)), flags=st.integers(0, 255))
@settings(max_examples=20)
def test_any_vp9_header_tells_its_size(profile, is_srgb, size, flags):
    """Of all profiles (VP9 bitstream specification 6.2)."""
    out = Writer()
    out.put(2, 2)
    out.put(profile & 1, 1)
    out.put(profile >> 1, 1)
    if profile == 3:
        out.put(0, 1)
    out.put(0, 2)  # shows no other frame; is a keyframe
    out.put(flags & 3, 2)
    out.put(0x498342, 24)
    if profile >= 2:
        out.put(flags >> 2 & 1, 1)
    out.put(7 if is_srgb else flags >> 3 & 1, 3)
    if not is_srgb:
        out.put(flags >> 4 & 1, 1)
        if profile in (1, 3):
            out.put(flags >> 5 & 3, 2)
            out.put(0, 1)
    elif profile in (1, 3):
        out.put(0, 1)
    out.put(size[0] - 1, 16)
    out.put(size[1] - 1, 16)
    assert picture_size("vp9", out.bytes()) == size


@pytest.mark.parametrize(
    "data",
    [
        "8a",  # shows a frame that there was
        "86498342",  # a delta frame
        "82498343000eff0eff00",  # another sync code
        "42498342000eff0eff00",  # no frame marker
    ],
)
def test_other_vp9_frames_tell_no_size(data):
    """Only keyframes do."""
    assert picture_size("vp9", bytes.fromhex(data)) is None


def put_operating_points(out: Writer, draw, *, delay_bits: int) -> None:
    has_delay = draw(st.integers(0, 1))
    out.put(has_delay, 1)
    points = draw(st.integers(1, 32))
    out.put(points - 1, 5)
    for _ in range(points):
        out.put(draw(st.integers(0, 0xFFF)), 12)
        level = draw(st.integers(0, 31))
        out.put(level, 5)
        if level > 7:
            out.put(draw(st.integers(0, 1)), 1)
        if delay_bits:
            has_model = draw(st.integers(0, 1))
            out.put(has_model, 1)
            if has_model:
                out.put(draw(st.integers(0, 2**delay_bits - 1)), delay_bits)
                out.put(draw(st.integers(0, 2**delay_bits - 1)), delay_bits)
                out.put(draw(st.integers(0, 1)), 1)
        if has_delay:
            present = draw(st.integers(0, 1))
            out.put(present, 1)
            if present:
                out.put(draw(st.integers(0, 15)), 4)


@st.composite
def sequence_headers(draw):
    """Any sequence header OBU of AV1 section 5.5: (its bytes without OBU header, size)."""
    out = Writer()
    out.put(draw(st.integers(0, 2)), 3)
    is_still = draw(st.integers(0, 1))
    out.put(is_still, 1)
    is_reduced = is_still and draw(st.integers(0, 1))
    out.put(is_reduced, 1)
    if is_reduced:
        out.put(draw(st.integers(0, 31)), 5)
    else:
        delay_bits = 0
        has_timing = draw(st.integers(0, 1))
        out.put(has_timing, 1)
        if has_timing:
            out.put(draw(st.integers(0, 2**64 - 1)), 64)
            is_equal = draw(st.integers(0, 1))
            out.put(is_equal, 1)
            if is_equal:
                out.golomb(draw(numbers))  # uvlc is built alike
            has_model = draw(st.integers(0, 1))
            out.put(has_model, 1)
            if has_model:
                delay_bits = draw(st.integers(1, 32))
                out.put(delay_bits - 1, 5)
                out.put(draw(st.integers(0, 2**42 - 1)), 42)
        put_operating_points(out, draw, delay_bits=delay_bits)
    width, height = draw(st.integers(1, 65_536)), draw(st.integers(1, 65_536))
    width_bits, height_bits = (
        draw(st.integers(max(1, (each - 1).bit_length()), 16)) for each in (width, height)
    )
    out.put(width_bits - 1, 4)
    out.put(height_bits - 1, 4)
    out.put(width - 1, width_bits)
    out.put(height - 1, height_bits)
    return out.bytes() + b"\0", (width, height)


@settings(max_examples=150)
@given(sequence_headers(), st.sampled_from((b"", b"\x28")), st.sampled_from((0, 1, 200)), st.booleans())
def test_any_av1_sequence_header_tells_its_size(header, extension, before, has_long_size):
    """All optional fields in all combinations; behind other OBUs, with a size that is written longer."""
    data, size = header
    other = b"\x2a" + (bytes((before,)) if before < 128 else bytes((before & 127 | 128, 1))) + bytes(before)
    assert len(data) < 2**14
    length = bytes((len(data) & 127 | 128, len(data) >> 7 | 128, 0)) if has_long_size else b""
    length = length or bytes((len(data) & 127 | 128, len(data) >> 7))
    obu = bytes((0x0A | (4 if extension else 0),)) + extension + length + data
    assert picture_size("av1", other + obu + b"\x32\x01\x00") == size


def test_an_av1_size_of_more_than_eight_bytes_is_none():
    """AV1 bitstream specification 4.10.5."""
    header = bytes.fromhex("0a0b0000000442abbfc377ffe7")
    assert picture_size("av1", b"\x2a" + b"\x80" * 7 + b"\0" + header) is not None
    assert picture_size("av1", b"\x2a" + b"\x80" * 8 + b"\0" + header) is None


def test_h264_that_is_cropped_to_nothing_tells_no_size():
    """No picture has less than one pixel."""
    out = Writer()
    out.put(66 << 16, 24)
    for value in (0, 0, 2, 1):
        out.golomb(value)
    out.put(0, 1)
    out.golomb(0)
    out.golomb(0)  # one macroblock
    out.put(0b111, 3)
    for crop in (20, 20, 20, 20):
        out.golomb(crop)
    out.put(0b01, 2)
    assert picture_size("h264", b"\0\0\1\x67" + out.bytes()) is None


def test_vp8_of_no_pixels_tells_no_size():
    """As no encoder makes it."""
    assert picture_size("vp8", bytes.fromhex("1000009d012a00000000")) is None
