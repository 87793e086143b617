"""The form of a packet that receivers share, and where their own numbers go in it."""

import pytest

from sfu.media.negotiation import (
    ABS_SEND_TIME_URI,
    AUDIO_LEVEL_URI,
    DEPENDENCY_DESCRIPTOR_URI,
    MID_URI,
    PLAYOUT_DELAY_URI,
    TRANSPORT_CC_URI,
)
from sfu.media.packet import MAX_ADDED_BYTES, RtpPacket
from sfu.media.profile import Profile
from tests.unit.media.scene import (
    H264,
    OPUS,
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
    assert made.pictured == {96: "vp8"}
    assert made.names[96] == "vp8"


def test_what_was_not_agreed_has_no_number():
    """Neither here nor there."""
    made = profile(source={}, extensions={})
    assert made.extensions == {}
    assert (made.transport_cc, made.abs_send_time, made.descriptor) == (0, 0, 0)


@pytest.mark.parametrize("ours", [7, 15, 200])
def test_a_packet_full_of_small_extensions_does_not_outgrow_its_row(ours):
    """Each takes a byte more where the receiver's id is larger than 14 (RFC 8285 section 4.3)."""
    made = profile(extensions={**AGREED, ours: AUDIO_LEVEL_URI})
    for count in (1, 40, 58, 62, 930):
        body = made.body(rtp(1, VP8_DELTA, elements=[(1, b"\x85")] * count))
        grown = len(body.data) - len(rtp(1, VP8_DELTA, elements=[(1, b"\x85")] * count).data)
        assert grown <= MAX_ADDED_BYTES - 2
        assert body.data[body.payload_at :] == VP8_DELTA
        assert (len(body.data) > 12 + 12 + len(VP8_DELTA)) is (ours < 15 or count < 50), count
        assert body.transport_cc_at


def test_a_codec_that_is_not_shared_is_not_mapped():
    made = profile({102: H264})
    assert made.payload_types == {}
    assert made.pictured == {}


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


# Redundant audio

RED = codec(63, "red", 48_000, 2, "111/111")
REDUNDANT = {63: RED, 111: OPUS}
# One older frame, then the newest.
OLDER, NEWEST = b"older", b"newest"
BOTH = (1 << 31 | 111 << 24 | 960 << 10 | len(OLDER)).to_bytes(4, "big") + b"\x6f" + OLDER + NEWEST


def voice(*codecs, published=None, extensions=None) -> Profile:
    """Of a receiver of somebody's redundant voice."""
    agreed = slot(kind="audio", codecs=codecs, extensions=extensions or {})
    return Profile(REDUNDANT if published is None else published, SOURCE, agreed)


def payload_of(made: Profile, payload: bytes, payload_type: int = 63) -> bytes:
    body = made.body(rtp(1, payload, payload_type=payload_type))
    return body.data[body.payload_at :]


def test_redundancy_goes_to_whoever_takes_it():
    """As it is, under the receiver's payload type, where Opus has the same number for both."""
    made = voice(OPUS, codec(64, "red", 48_000, 2))
    assert made.payload_types == {63: 64, 111: 111}
    assert payload_of(made, BOTH) == BOTH
    assert payload_of(made, NEWEST, 111) == NEWEST


@pytest.mark.parametrize(
    "agreed",
    [
        (OPUS,),
        (codec(40, "opus", 48_000, 2),),
        (codec(40, "opus", 48_000, 2), codec(63, "red", 48_000, 2)),  # its blocks would name 111
    ],
)
def test_redundancy_stays_behind_where_it_cannot_be_read(agreed):
    """The newest frame goes on as Opus, and what came as Opus as it is."""
    made = voice(*agreed)
    opus = agreed[0].payload_type
    assert made.payload_types == {63: opus, 111: opus}
    assert payload_of(made, BOTH) == NEWEST
    assert payload_of(made, BOTH, 111) == BOTH


def test_redundancy_is_unwrapped_beside_extensions_and_padding():
    """What stands before and behind the payload is not taken for a part of it."""
    made = voice(OPUS, extensions={6: ABS_SEND_TIME_URI, 7: AUDIO_LEVEL_URI})
    padded = bytearray(rtp(1, BOTH + b"\0\0\x03", payload_type=63, elements=[(1, b"\x85")]).data)
    padded[0] |= 0x20
    found = RtpPacket(made.body(RtpPacket(bytes(padded))).data)
    assert found.data[found.payload :] == NEWEST
    assert found.extensions() == [(6, bytes(3)), (7, b"\x85")]


def test_broken_redundancy_is_an_empty_frame():
    """Its number is not left out, and nothing of it is taken for sound."""
    assert payload_of(voice(OPUS), BOTH[:3]) == b""


def test_redundancy_is_not_for_whoever_has_no_opus():
    assert voice(codec(0, "PCMU", 8_000)).payload_types == {}


def test_who_takes_redundancy_does_not_share_bodies_with_who_does_not():
    """Their packets differ in more than the payload type."""
    keys = {voice(OPUS).key(), voice(OPUS, RED).key(), voice(codec(63, "opus", 48_000, 2)).key()}
    assert len(keys) == 3


# What is asked of the receiver's buffer

DELAYED = AGREED | {9: PLAYOUT_DELAY_URI}
WITH_DELAY = SOURCE | {2: PLAYOUT_DELAY_URI}


def delayed(delay_s: float | None, source=None, **changes) -> Profile:
    agreed = slot(**{"extensions": DELAYED} | changes)
    return Profile(CODECS, WITH_DELAY if source is None else source, agreed, delay_s)


def limits(made: Profile, elements: list[tuple[int, bytes]] | None = None) -> tuple[int, int] | None:
    """Return the least and the largest delay that a body asks for, in 10 ms."""
    body = made.body(rtp(1, elements=elements))
    packet = RtpPacket(body.data)
    assert packet.payload == body.payload_at
    assert packet.data[packet.payload :] == VP8_DELTA
    asked = [value for number, value in packet.extensions() if number == 9]
    assert len(asked) < 2
    value = int.from_bytes(asked[0], "big") if asked else None
    return (value >> 12, value & 0xFFF) if value is not None else None


@pytest.mark.parametrize(
    ("delay_s", "least", "most"),
    [(0.25, 25, 1000), (0.304, 30, 1000), (10.0, 1000, 1000), (20.0, 2000, 2000), (100.0, 4095, 4095)],
)
def test_a_receiver_is_asked_to_play_later(delay_s, least, most):
    """Twelve bits of 10 ms each, at least and at most; with or without anything else that travels on."""
    made = delayed(delay_s)
    assert limits(made) == (least, most)
    assert limits(made, [(1, b"\x85"), (12, b"\xc0\x12\x34")]) == (least, most)


def test_what_we_ask_ourselves_replaces_what_the_publisher_asks():
    """Else that travels on as it is."""
    theirs = [(2, (7 << 12 | 9).to_bytes(3, "big"))]
    assert limits(delayed(0.25), theirs) == (25, 1000)
    assert limits(delayed(None), theirs) == (7, 9)
    assert limits(delayed(None)) is None


def test_only_a_receiver_of_video_that_agreed_is_asked():
    """Nobody waits for a picture in sound, and an extension that was not agreed is not sent."""
    assert limits(delayed(0.25, extensions=AGREED)) is None
    assert limits(delayed(0.25, kind="audio")) is None
    assert limits(delayed(0.25, source={})) == (25, 1000)


@pytest.mark.parametrize("own", [{}, {5: TRANSPORT_CC_URI}, {5: TRANSPORT_CC_URI, 6: ABS_SEND_TIME_URI}])
@pytest.mark.parametrize("descriptor", [None, b"\xc0\x12\x34", b"\xc0\x12\x34" + bytes(30)])
def test_places_are_right_beside_the_delay(own, descriptor):
    """The hop's numbers and the frame number are written where they stand, not over it."""
    made = delayed(0.25, extensions=own | {8: DEPENDENCY_DESCRIPTOR_URI, 9: PLAYOUT_DELAY_URI})
    body = made.body(rtp(1, elements=[(12, descriptor)] if descriptor else None))
    data = bytearray(body.data)
    for at, value in (
        (body.transport_cc_at, b"TC"),
        (body.abs_send_time_at, b"AST"),
        (body.frame_number_at, b"FN"),
    ):
        if at:
            data[at : at + len(value)] = value
    wanted = {5: b"TC", 6: b"AST"}
    expected = {number: wanted[number] for number in own} | {9: (25 << 12 | 1000).to_bytes(3, "big")}
    if descriptor:
        expected[8] = b"\xc0FN" + descriptor[3:]
    assert dict(RtpPacket(bytes(data)).extensions()) == expected


def test_who_is_asked_to_wait_does_not_share_bodies_with_who_is_not():
    """Nor with whom is asked to wait longer."""
    assert len({delayed(delay_s).key() for delay_s in (None, 0.2, 0.3)}) == 3
    assert delayed(0.3).key() == delayed(0.3, mid="17").key()
