"""Codecs: what may stand for what, and where a keyframe begins."""

import pytest
from hypothesis import given, strategies as st

from sfu.media.codecs import Codec, parameters, same_format, starts_keyframe


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
