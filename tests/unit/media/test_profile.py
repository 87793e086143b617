"""The form of a packet that receivers share, and where their own numbers go in it."""

import pytest

from sfu.media.negotiation import (
    ABS_SEND_TIME_URI,
    AUDIO_LEVEL_URI,
    DEPENDENCY_DESCRIPTOR_URI,
    MID_URI,
    TRANSPORT_CC_URI,
)
from sfu.media.packet import RtpPacket
from sfu.media.profile import Profile
from tests.unit.media.scene import (
    H264,
    THEIR_VP8,
    VP8,
    VP8_DELTA,
    VP8_RTX,
    codec,
    rtp,
    slot,
)

CODECS = {96: VP8, 97: VP8_RTX}
# At the publisher; what one hop says is not for the next.
SOURCE = {1: AUDIO_LEVEL_URI, 3: TRANSPORT_CC_URI, 4: MID_URI, 12: DEPENDENCY_DESCRIPTOR_URI}
AGREED = {5: TRANSPORT_CC_URI, 6: ABS_SEND_TIME_URI, 7: AUDIO_LEVEL_URI, 8: DEPENDENCY_DESCRIPTOR_URI}


def profile(published=None, source=None, **changes) -> Profile:
    """Of a receiver whose agreement is a slot with these changes."""
    changes.setdefault("extensions", AGREED)
    codecs = CODECS if published is None else published
    return Profile(codecs, SOURCE if source is None else source, slot(**changes))


def test_payload_types_and_extensions_are_mapped_to_the_receivers():
    """Rtx is not forwarded as such, and neither are mid and the hop's own extensions."""
    made = profile()
    assert made.payload_types == {96: 120}
    assert made.extensions == {1: 7, 12: 8}
    assert (made.transport_cc, made.abs_send_time, made.descriptor) == (5, 6, 12)
    assert made.rtx == {120: 121}
    assert made.vp8 == {96}
    assert made.names[96] == "vp8"


def test_what_was_not_agreed_has_no_number():
    """Neither here nor there."""
    made = profile(source={}, extensions={})
    assert made.extensions == {}
    assert (made.transport_cc, made.abs_send_time, made.descriptor) == (0, 0, 0)


def test_a_codec_that_is_not_shared_is_not_mapped():
    made = profile({102: H264})
    assert made.payload_types == {}
    assert made.vp8 == frozenset()


@pytest.mark.parametrize(
    ("codecs", "repairable"),
    [
        ((THEIR_VP8, codec(121, "rtx", fmtp="apt=120")), True),
        ((THEIR_VP8,), False),
        ((THEIR_VP8, codec(121, "rtx", fmtp="apt=119")), False),
    ],
)
def test_repairable_is_who_has_rtx_for_all_of_it(codecs, repairable):
    """One format without it is enough to keep plain packets."""
    assert profile(codecs=codecs).is_repairable is repairable


def test_equal_agreements_share_a_key():
    """Whatever differs in the bytes of a body makes it another."""
    same = [profile(), profile(mid="17")]
    others = [
        profile(codecs=(codec(40, "VP8"),)),
        profile(extensions={5: TRANSPORT_CC_URI, 6: ABS_SEND_TIME_URI, 7: AUDIO_LEVEL_URI}),
        profile(extensions=AGREED | {5: ABS_SEND_TIME_URI, 6: TRANSPORT_CC_URI}),
        profile(extensions={6: ABS_SEND_TIME_URI, 7: AUDIO_LEVEL_URI, 8: DEPENDENCY_DESCRIPTOR_URI}),
        profile(extensions={5: TRANSPORT_CC_URI, 7: AUDIO_LEVEL_URI, 8: DEPENDENCY_DESCRIPTOR_URI}),
    ]
    keys = [made.key() for made in same + others]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 1 + len(others)


def test_a_body_without_extensions():
    """A bare header and the payload, and nowhere to write."""
    body = profile(extensions={}).body(rtp(1, elements=[(1, b"\x85")]))
    assert body == (b"\x80" + bytes(11) + VP8_DELTA, 12, 0, 0, 0)


@pytest.mark.parametrize("transport_cc", [True, False])
@pytest.mark.parametrize("send_time", [True, False])
@pytest.mark.parametrize("value", [b"\xc0\x12\x34", b"\xc0\x12\x34" + bytes(30), b"\xc0\x12", None])
def test_places_are_where_the_elements_stand(transport_cc, send_time, value):
    """Of all combinations, in one-byte and two-byte form, with and without a frame number."""
    gone = {5: not transport_cc, 6: not send_time}
    made = profile(extensions={n: uri for n, uri in AGREED.items() if not gone.get(n)})
    elements = [(1, b"\x85"), (3, b"\0\1"), (4, b"mid")] + ([(12, value)] if value else [])
    body = made.body(rtp(1, elements=elements))
    data = bytearray(body.data)
    if transport_cc:
        data[body.transport_cc_at : body.transport_cc_at + 2] = b"TC"
    if send_time:
        data[body.abs_send_time_at : body.abs_send_time_at + 3] = b"AST"
    numbered = value is not None and len(value) >= 3
    if numbered:
        assert data[body.frame_number_at : body.frame_number_at + 2] == b"\x12\x34"
        data[body.frame_number_at : body.frame_number_at + 2] = b"FN"
    wanted = {5: b"TC", 6: b"AST", 7: b"\x85", 8: b"\xc0FN" + value[3:] if numbered else value}
    found = RtpPacket(bytes(data))
    assert dict(found.extensions()) == {
        number: element for number, element in wanted.items() if element and not gone.get(number)
    }
    assert found.payload == body.payload_at
    assert found.data[found.payload :] == VP8_DELTA
    places = (body.transport_cc_at > 0, body.abs_send_time_at > 0, body.frame_number_at > 0)
    assert places == (transport_cc, send_time, numbered)


def test_padding_stays_behind():
    padded = bytearray(rtp(1, VP8_DELTA + b"\0\0\x03").data)
    padded[0] |= 0x20
    assert profile().body(RtpPacket(bytes(padded))).data.endswith(VP8_DELTA)


def test_the_frame_number_of_a_packet():
    """None where it has no descriptor, a short one, or one that was not agreed."""
    numbered = rtp(1, elements=[(1, b"\x85"), (12, b"\xc0\x12\x34")])
    assert profile().frame_number(numbered) == 0x1234
    assert profile().frame_number(rtp(1, elements=[(1, b"\x85")])) is None
    assert profile().frame_number(rtp(1, elements=[(12, b"\xc0\x12")])) is None
    assert profile(extensions={7: AUDIO_LEVEL_URI}).frame_number(numbered) is None
    assert profile(source={1: AUDIO_LEVEL_URI}).frame_number(numbered) is None
