"""Codecs: what may stand for what, where a keyframe begins and how large it is, what redundancy carries."""

import pytest
from hypothesis import given, strategies as st

from sfu.media.codecs import Codec, frame_size, parameters, red_primary, same_format, starts_keyframe


def codec(name: str, fmtp: str = "", clock_rate: int = 90_000, channels: int = 1) -> Codec:
    return Codec(
        payload_type=96,
        name=name,
        encoding=name.upper(),
        clock_rate=clock_rate,
        channels=channels,
        fmtp=fmtp,
        parameters=parameters(fmtp),
    )


@pytest.mark.parametrize(
    ("fmtp", "expected"),
    [
        ("", {}),
        ("apt=96", {"apt": "96"}),
        ("Profile-ID=0; x-google= 1", {"profile-id": "0", "x-google": "1"}),
        ("minptime=10;;useinbandfec=1;", {"minptime": "10", "useinbandfec": "1"}),
        ("111/111", {"111/111": ""}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_parameters_are_read_by_name(fmtp, expected):
    """Names in lower case, values as they stand."""
    assert parameters(fmtp) == expected


@given(st.text())
def test_any_text_has_parameters(text):
    """No text is an error, and no name is empty."""
    assert "" not in parameters(text)


def test_feedback_is_agreed_or_not():
    """Only what is listed counts."""
    agreed = Codec(96, "vp8", "VP8", 90_000, feedback=("nack", "nack pli"))
    assert agreed.has_feedback("nack pli")
    assert not agreed.has_feedback("ccm fir")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (codec("vp8"), codec("vp8", "max-fr=30"), True),
        (codec("vp8"), codec("vp9"), False),
        (codec("opus", "", 48_000, 2), codec("opus", "useinbandfec=1", 48_000, 2), True),
        (codec("opus", "", 48_000, 2), codec("opus", "", 48_000, 1), False),
        (codec("pcmu", "", 8_000), codec("pcmu", "", 16_000), False),
        (codec("vp9"), codec("vp9", "profile-id=0"), True),
        (codec("vp9", "profile-id=2"), codec("vp9"), False),
        (codec("av1"), codec("av1", "profile=0;tier=0"), True),
        (codec("av1", "profile=1"), codec("av1"), False),
    ],
)
def test_formats_are_the_same_when_a_decoder_says_so(a, b, same):
    """Profiles count, tuning does not; and it does not matter who asks."""
    assert same_format(a, b) is same
    assert same_format(b, a) is same


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (
            "profile-level-id=42e01f;packetization-mode=1",
            "profile-level-id=42E034;packetization-mode=1",
            True,
        ),
        ("profile-level-id=42e01f", "profile-level-id=42c01f", True),
        ("profile-level-id=42e01f", "profile-level-id=42001f", False),
        ("profile-level-id=42e01f", "profile-level-id=42e01f;packetization-mode=0", True),
        ("profile-level-id=42e01f", "profile-level-id=42e01f;packetization-mode=1", False),
        ("", "profile-level-id=42000a", True),
        ("profile-level-id=42zz1f", "profile-level-id=42001f", True),
        ("profile-level-id=42", "profile-level-id=42001f", True),
        ("profile-level-id=4d001f", "profile-level-id=64001f", False),
        ("profile-level-id=4d001f", "profile-level-id=4d0032", True),
    ],
)
def test_h264_is_compared_by_profile_and_mode(a, b, same):
    """The level may differ, Constrained Baseline is not Baseline (RFC 6184 section 8.1)."""
    assert same_format(codec("h264", a), codec("h264", b)) is same


KEYFRAMES = [
    ("vp8", "1000"),  # no extension
    ("vp8", "900000"),  # X, nothing in it
    ("vp8", "90800500"),  # 7 bits of picture id
    ("vp8", "9080800500"),  # 15 bits
    ("vp8", "90c080050100"),  # TL0PICIDX
    ("vp8", "90f08005010000"),  # TID beside it
    ("vp8", "9050050000"),  # TL0PICIDX and KEYIDX, no picture id
    ("h264", "65"),
    ("h264", "67"),
    ("h264", "7800016700016800"),  # STAP-A beginning with an SPS
    ("h264", "780002099000026588"),  # STAP-A: AUD, then an IDR slice
    ("h264", "7c85"),  # FU-A, first fragment of an IDR slice
    ("vp9", "08"),
    ("vp9", "280000"),  # layers, spatial id 0, no picture id
    ("vp9", "a8010000"),  # 7 bits of picture id
    ("vp9", "a880010000"),  # 15 bits
    ("av1", "18"),
]
OTHERS = [
    ("vp8", "1001"),  # P set
    ("vp8", "0000"),  # in the middle of a partition
    ("vp8", "1100"),  # second partition
    ("vp8", "90800501"),
    ("vp8", "908080"),  # cut
    ("h264", "61"),
    ("h264", "7c05"),  # FU-A, a later fragment
    ("h264", "7c81"),  # FU-A of another slice
    ("h264", "7800016100016800"),
    ("h264", "78"),
    ("h264", "7c"),
    ("vp9", "00"),
    ("vp9", "48"),
    ("vp9", "280200"),  # spatial layer 1
    ("vp9", "a8"),
    ("av1", "10"),
    ("opus", "ff"),
    ("rtx", ""),
]


@pytest.mark.parametrize(("name", "payload"), KEYFRAMES)
def test_keyframes_are_seen(name, payload):
    """The first packet of a frame that needs no other is known by its first bytes."""
    assert starts_keyframe(name, bytes.fromhex(payload))
    assert starts_keyframe(name, memoryview(bytes.fromhex(payload)))


@pytest.mark.parametrize(("name", "payload"), OTHERS)
def test_other_packets_are_no_keyframes(name, payload):
    """Delta frames, later packets, cut packets and unknown formats are not."""
    assert not starts_keyframe(name, bytes.fromhex(payload))


@given(st.sampled_from(("vp8", "h264", "vp9", "av1", "opus", "h265")), st.binary(max_size=30))
def test_any_payload_is_a_keyframe_or_not(name, payload):
    """No bytes are an error."""
    assert starts_keyframe(name, payload) in (True, False)


# Frame tag of three bytes, start code, width and height with two bits of scaling each (RFC 6386 section 9.1).
FRAME = "d04f02" + "9d012a" + "8002" + "6801"


@pytest.mark.parametrize(
    "descriptor",
    ["10", "9000", "908005", "90808005", "90c0800501", "90f0800501e0", "9050050a"],
)
def test_a_vp8_keyframe_tells_its_size(descriptor):
    """Behind a payload descriptor of any length."""
    assert frame_size("vp8", bytes.fromhex(descriptor + FRAME + "0011")) == (640, 360)


def test_how_a_picture_is_scaled_is_not_its_size():
    """The two upper bits of width and height tell it; sizes go up to 16,383."""
    scaled = bytes.fromhex("10d04f02" + "9d012a" + "8042" + "68c1")
    assert frame_size("vp8", scaled) == (640, 360)
    largest = bytes.fromhex("10d04f02" + "9d012a" + "ffff" + "ff3f")
    assert frame_size("vp8", largest) == (16_383, 16_383)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("vp9", "10" + FRAME),
        ("h264", "10" + FRAME),
        ("vp8", ""),
        ("vp8", "10d14f02" + "00" * 20),  # a delta frame has no start code
        ("vp8", "10" + "00" * 20 + FRAME),  # far behind where it would stand
    ],
)
def test_what_tells_no_size_has_none(name, payload):
    """Other codecs, other frames, and three bytes that look like it somewhere in the picture."""
    assert frame_size(name, bytes.fromhex(payload)) is None


def test_a_keyframe_that_is_cut_tells_no_size():
    """Before the last byte of the height nothing is known."""
    whole = bytes.fromhex("9000" + FRAME)
    assert [frame_size("vp8", whole[:size]) for size in range(len(whole))] == [None] * len(whole)
    assert frame_size("vp8", whole) == (640, 360)


def red(*blocks: bytes, newest: bytes) -> bytes:
    """Return a redundant payload: older frames first, each with its header (RFC 2198 section 3)."""
    headers = b"".join((1 << 31 | 111 << 24 | 960 << 10 | len(block)).to_bytes(4, "big") for block in blocks)
    return headers + b"\x6f" + b"".join(blocks) + newest


@given(st.lists(st.binary(max_size=1023), max_size=4), st.binary(max_size=1100))
def test_the_newest_frame_stands_behind_the_redundant_ones(blocks, newest):
    """However many there are, whatever their length; that of the newest is not told."""
    assert red_primary(red(*blocks, newest=newest)) == newest


def test_a_redundant_block_may_be_as_long_as_ten_bits_tell():
    """The two upper ones share a byte with the time."""
    assert red_primary(red(bytes(1023), bytes(256), newest=b"now")) == b"now"


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "ef",  # a header that is cut
        "ef0f00",
        "ef0f0002",  # no header of the newest frame
        "ef0f00026f",  # blocks that are cut
        "ef0f00026faa",
        "ef0f0001ef0f00016faa",
    ],
)
def test_a_broken_redundant_payload_has_no_frame(payload):
    """Nothing of it is taken for one."""
    assert red_primary(bytes.fromhex(payload)) is None


def test_a_newest_frame_of_no_bytes_is_one():
    """The blocks before it end where the payload ends."""
    assert red_primary(bytes.fromhex("ef0f00026faabb")) == b""
    assert red_primary(b"\x6f") == b""


@given(st.binary(max_size=40))
def test_any_redundant_payload_is_read_or_broken(payload):
    """No bytes are an error, and a frame is the end of what came."""
    found = red_primary(payload)
    assert found is None or (payload.endswith(found) and len(found) < len(payload))
