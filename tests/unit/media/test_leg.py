"""A packet arrives as somebody else's and leaves as the slot's own."""

import pytest

from sfu.media import rtcp
from sfu.media.leg import MAX_PLAIN_HISTORY, MAX_REPEATS_PER_S, Leg
from sfu.media.negotiation import AUDIO_LEVEL_URI, DEPENDENCY_DESCRIPTOR_URI, TRANSPORT_CC_URI
from sfu.media.packet import MAX_ADDED_BYTES, MAX_PACKET_BYTES
from sfu.media.track import SenderClock
from tests.unit.media.scene import (
    ALL_EXTENSIONS,
    H264,
    OPUS,
    SENDING,
    THEIR_VP8,
    VP8,
    VP8_DELTA,
    VP8_KEY,
    VP8_RTX,
    Outlet,
    Wishes,
    codec,
    layer,
    offer,
    rtp,
    slot,
    track,
)


class Scene:
    """A video track of one layer, and a leg that shows it."""

    def __init__(self, *, codecs=(VP8, VP8_RTX), attach: bool = True, kind: str = "video", **changes) -> None:
        self.wishes, self.outlet = Wishes(), Outlet()
        self.track = track(self.wishes, kind, codecs)
        self.layer = layer(self.track)
        self.leg = Leg(slot(**changes), SENDING, self.outlet, 100)
        if attach:
            self.leg.attach(self.track, 0.0)

    def send(self, sequence: int, payload: bytes = VP8_DELTA, now: float = 0.0, **changes):
        """Publish a packet; return what leaves."""
        packet = rtp(sequence, payload, **changes)
        self.layer.history.add(packet, now)
        self.track.fan_out.forward(self.layer, packet, now)
        return self.outlet.take_sent()

    def repeat(self, *sequences: int, now: float = 1.0):
        self.leg.repeat(sequences, now)
        return self.outlet.take_sent()


def test_a_packet_leaves_under_the_slots_numbers():
    """SSRC, payload type, sequence number, media time; marker and payload are the publisher's."""
    scene = Scene()
    (first,) = scene.send(7000, VP8_KEY, marker=1)
    assert (first.ssrc, first.payload_type, first.sequence, first.timestamp) == (5000, 120, 100, 0)
    assert first.marker == 1
    assert first.data[first.payload :] == VP8_KEY
    (second,) = scene.send(7001)
    assert (second.sequence, second.timestamp, second.marker) == (101, 3000, 0)
    counters = scene.outlet.counters
    assert (scene.leg.packets, scene.leg.octets) == (2, len(VP8_KEY) + len(VP8_DELTA))
    assert (counters.packets_forwarded, counters.bytes_forwarded) == (2, len(first.data) + len(second.data))


def test_video_begins_with_a_keyframe():
    """Until it comes nothing leaves, and it is asked for."""
    scene = Scene()
    assert scene.wishes.asked == [(scene.layer, True)]
    assert scene.send(1) == []
    assert scene.wishes.asked[1:] == [(scene.layer, False)]
    assert len(scene.send(2, VP8_KEY)) == 1
    assert len(scene.send(3)) == 1


def test_audio_begins_at_once():
    """Every packet stands alone, and no keyframe is asked for."""
    wishes, outlet = Wishes(), Outlet()
    voice = track(wishes, "audio", (OPUS,))
    made = layer(voice)
    leg = Leg(slot(kind="audio", codecs=(OPUS,)), SENDING, outlet, 1)
    leg.attach(voice, 0.0)
    voice.fan_out.forward(made, rtp(1, b"sound", payload_type=111), 0.0)
    assert [p.payload_type for p in outlet.sent] == [111]
    assert wishes.asked == []


def test_a_packet_from_before_the_keyframe_does_not_leave():
    """Its number belongs to whoever was there before."""
    scene = Scene()
    scene.send(10, VP8_KEY)
    assert scene.send(9) == []


def test_padding_of_the_publisher_does_not_leave():
    """The payload alone is forwarded."""
    scene = Scene()
    padded = bytearray(rtp(1, VP8_KEY + b"\0\0\x03").data)
    padded[0] |= 0x20
    packet = type(rtp())(bytes(padded))
    offer(scene.leg, scene.layer, packet, 0.0)
    (sent,) = scene.outlet.sent
    assert sent.data[sent.payload :] == VP8_KEY


def test_extensions_are_translated():
    """What both agreed goes under the receiver's id; the rest stays behind."""
    scene = Scene()
    (sent,) = scene.send(1, VP8_KEY, elements=[(1, b"\x85"), (3, b"\0\1"), (9, b"x")])
    assert sent.extensions() == [(7, b"\x85")]


def test_the_hop_writes_its_own_extensions():
    """Transport-wide number and send time are the server's."""
    scene = Scene(extensions=ALL_EXTENSIONS)
    (first,) = scene.send(1, VP8_KEY, elements=[(1, b"\x85")], now=3.5)
    (second,) = scene.send(2, now=64.25)
    assert first.extensions() == [
        (5, b"\xff\xff"),
        (6, int(3.5 * 2**18).to_bytes(3, "big")),
        (7, b"\x85"),
    ]
    assert second.extensions() == [(5, b"\0\0"), (6, int(0.25 * 2**18).to_bytes(3, "big"))]


@pytest.mark.parametrize("transport_cc", [True, False])
@pytest.mark.parametrize("send_time", [True, False])
@pytest.mark.parametrize("level", [b"\x85", bytes(17)])
def test_extensions_of_all_widths_are_written_where_they_stand(transport_cc, send_time, level):
    """Also when a long element makes the whole block two-byte elements."""
    agreed = {7: AUDIO_LEVEL_URI}
    agreed |= {
        n: uri for n, uri in ALL_EXTENSIONS.items() if (n == 5 and transport_cc) or (n == 6 and send_time)
    }
    scene = Scene(extensions=agreed)
    (sent,) = scene.send(1, VP8_KEY, elements=[(1, level)], now=1.0)
    found = dict(sent.extensions())
    assert found[7] == level
    assert found.get(5) == (b"\xff\xff" if transport_cc else None)
    assert found.get(6) == ((1 << 18).to_bytes(3, "big") if send_time else None)
    assert sent.data[sent.payload :] == VP8_KEY


def test_two_receivers_of_one_profile_share_the_body():
    """It is built once; each writes its own numbers over it."""
    scene, outlet = Scene(extensions=ALL_EXTENSIONS), Outlet(transport_number=40)
    other = Leg(slot(mid="8", extensions=ALL_EXTENSIONS), type(SENDING)(6000, 6001, "x"), outlet, 900)
    other.attach(scene.track, 0.0)
    packet = rtp(1, VP8_KEY)
    scene.track.fan_out.forward(scene.layer, packet, 0.0)
    (mine,), (theirs,) = scene.outlet.sent, outlet.sent
    assert len(packet.bodies) == 1
    assert (mine.ssrc, mine.sequence, theirs.ssrc, theirs.sequence) == (5000, 100, 6000, 900)
    assert (mine.extensions()[0], theirs.extensions()[0]) == ((5, b"\xff\xff"), (5, b"\0\x29"))


def test_receivers_of_other_extensions_do_not_share_it():
    """Each profile has its own body."""
    scene, outlet = Scene(extensions=ALL_EXTENSIONS), Outlet()
    other = Leg(slot(extensions={}), SENDING, outlet, 900)
    other.attach(scene.track, 0.0)
    packet = rtp(1, VP8_KEY, elements=[(1, b"\x85")])
    scene.track.fan_out.forward(scene.layer, packet, 0.0)
    assert len(packet.bodies) == 2
    assert outlet.sent[0].extensions() == []


def test_a_codec_that_the_receiver_did_not_agree_to_is_dropped():
    """And counted."""
    scene = Scene(codecs=(H264,))
    assert scene.send(1, payload_type=102) == []
    assert scene.outlet.counters.dropped == {"codec_not_agreed": 1}


def test_a_codec_that_the_publisher_gave_up_is_not_taken_up():
    """A late packet of it is nobody's."""
    scene = Scene()
    scene.track.agree({}, {}, 0.0)
    assert scene.send(1, VP8_KEY) == []


def test_nothing_leaves_before_there_is_a_path():
    """Nor is a keyframe asked for; it is, when one comes while aiming is done again."""
    scene = Scene(attach=False)
    scene.outlet.open = False
    scene.leg.attach(scene.track, 0.0)
    assert scene.send(1, VP8_KEY) == []
    assert scene.wishes.asked == []
    assert scene.repeat(100) == []
    scene.outlet.open = True
    scene.leg.layers_changed(1.0)
    assert scene.wishes.sent() == 1


def test_what_the_outlet_refuses_is_not_counted():
    """It did not leave."""
    scene = Scene()
    scene.outlet.takes = False
    scene.send(1, VP8_KEY)
    assert (scene.leg.packets, scene.outlet.counters.packets_forwarded) == (0, 0)


def test_an_empty_slot_sends_nothing():
    """Before a track came, and after it went; commands to it do nothing."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    scene.leg.detach()
    assert scene.track.fan_out.legs == []
    offer(scene.leg, scene.layer, rtp(2), 0.0)
    scene.leg.layers_changed(0.0)
    scene.leg.keyframe_wanted(0.0)
    scene.leg.negotiate(slot())
    scene.leg.aim(None, 0.0)
    scene.leg.detach()
    assert scene.repeat(100) == []
    assert scene.leg.sender_report(0.0) == b""
    assert scene.outlet.take_sent() == []


def test_a_new_agreement_changes_the_numbers():
    """Payload types and extensions, from the next packet on."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    scene.leg.negotiate(slot(codecs=(codec(40, "VP8"),), extensions=ALL_EXTENSIONS))
    (sent,) = scene.send(2)
    assert (sent.payload_type, sent.sequence) == (40, 101)
    assert len(sent.extensions()) == 2


# Changing what is shown


def test_another_track_goes_on_where_the_last_one_stopped():
    """Numbers without a hole, media time as the clock, picture ids too."""
    scene = Scene()

    def picture(identifier: int, key: bool) -> bytes:
        return bytes((0x90, 0xC0, 0x80 | identifier >> 8, identifier & 0xFF, identifier & 0xFF, not key))

    before = [scene.send(n, picture(500 + n, n == 1), now=n / 30)[0] for n in (1, 2, 3)]
    other_track = track(scene.wishes)
    other = layer(other_track, ssrc=2)
    scene.leg.attach(other_track, 0.2)
    assert scene.track.fan_out.legs == []
    for n in (40, 41):
        other_track.fan_out.forward(other, rtp(n, picture(9 + n, n == 40), ssrc=2), 0.1 + (n - 39) / 30)
    sent = [*before, *scene.outlet.take_sent()]
    assert [p.sequence for p in sent] == [100, 101, 102, 103, 104]
    assert [p.timestamp for p in sent] == [0, 3000, 6000, 9000, 12000]
    assert [p.data[p.payload + 2 : p.payload + 5] for p in sent] == [
        bytes((0x80 | n >> 8, n & 0xFF, n & 0xFF)) for n in range(501, 506)
    ]


def test_a_better_layer_is_taken_up_with_its_keyframe():
    """Until then the old one is shown."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    best = layer(scene.track, "f", 2, now=0.5)
    best.bitrate_bps = 1e6
    scene.leg.layers_changed(0.5)
    assert scene.leg.target is best
    assert (best, True) in scene.wishes.asked
    offer(scene.leg, best, rtp(60, ssrc=2), 0.5)
    assert scene.outlet.take_sent() == []
    assert len(scene.send(2, now=0.5)) == 1
    offer(scene.leg, best, rtp(61, VP8_KEY, ssrc=2), 0.6)
    assert [p.sequence for p in scene.outlet.take_sent()] == [102]
    assert scene.send(3, now=0.6) == []


def test_a_layer_that_is_not_aimed_at_is_not_taken_up():
    """Even with a keyframe."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    other = layer(scene.track, "q", 2)
    offer(scene.leg, other, rtp(1, VP8_KEY, ssrc=2), 0.0)
    assert scene.outlet.take_sent() == []


def test_a_wish_for_a_keyframe_goes_to_the_layer_aimed_at():
    """That is where the next picture will come from."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    best = layer(scene.track, "f", 2)
    best.bitrate_bps = 1e6
    scene.leg.layers_changed(0.0)
    scene.wishes.asked.clear()
    scene.leg.keyframe_wanted(1.0)
    assert scene.wishes.asked == [(best, True)]


# Repairs


def test_a_lost_packet_comes_again_as_rtx():
    """Original number before the payload (RFC 4588), its own SSRC, type and count."""
    scene = Scene(extensions=ALL_EXTENSIONS)
    scene.send(65535, VP8_KEY, elements=[(1, b"\x85")])
    (delta,) = scene.send(0, VP8_DELTA, marker=1)
    again, key = scene.repeat(101, 100)
    assert (again.ssrc, again.payload_type, again.marker) == (5001, 121, 1)
    assert again.timestamp == delta.timestamp
    assert again.data[again.payload : again.payload + 2] == (101).to_bytes(2, "big")
    assert again.data[again.payload + 2 :] == VP8_DELTA
    assert key.data[key.payload : key.payload + 2] == (100).to_bytes(2, "big")
    assert key.data[key.payload + 2 :] == VP8_KEY
    assert (key.sequence - again.sequence) & 0xFFFF == 1
    assert [number for number, _ in key.extensions()] == [5, 6, 7]
    assert scene.outlet.counters.packets_retransmitted == 2


def test_repeated_pictures_keep_their_ids():
    """The receiver gets the ids that it missed."""
    scene = Scene()
    key = bytes((0x90, 0x80, 0x81, 0xF4, 0x00))
    scene.send(1, bytes((0x90, 0x80, 0x81, 0x00, 0x00)))
    other = track()
    made = layer(other, ssrc=2)
    scene.leg.attach(other, 0.0)
    packet = rtp(9, key, ssrc=2)
    made.history.add(packet, 0.0)
    offer(scene.leg, made, packet, 0.0)
    (sent,) = scene.outlet.take_sent()
    (again,) = scene.repeat(sent.sequence)
    assert again.data[again.payload + 2 :] == sent.data[sent.payload :]
    assert sent.data[sent.payload + 2 : sent.payload + 4] == b"\x81\x01"


def test_without_rtx_the_same_bits_come_again():
    """AES-GCM may not see one index with two contents."""
    scene = Scene()
    scene.leg.negotiate(slot(codecs=(THEIR_VP8,), extensions=ALL_EXTENSIONS))
    (first,) = scene.send(1, VP8_KEY)
    (again,) = scene.repeat(100)
    assert again.data == first.data


def test_what_is_kept_for_repeats_is_bounded():
    """The oldest give way."""
    scene = Scene()
    scene.leg.negotiate(slot(codecs=(THEIR_VP8,)))
    scene.send(1, VP8_KEY)
    for n in range(MAX_PLAIN_HISTORY):
        scene.send(n + 2)
    assert scene.repeat(100) == []
    assert len(scene.repeat(101)) == 1


def test_what_was_never_sent_is_not_repeated():
    """Nor what is no longer kept, nor what belongs to the source before."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    assert scene.repeat(99) == []
    assert scene.repeat(101) == []
    assert scene.repeat(100, now=10.0) == []
    assert scene.outlet.counters.packets_retransmitted == 0


def test_audio_without_rtx_is_not_repeated():
    """Nothing of it is kept by the leg."""
    outlet, voice = Outlet(), track(None, "audio", (OPUS,))
    made = layer(voice)
    leg = Leg(slot(kind="audio", codecs=(OPUS,)), SENDING, outlet, 1)
    leg.attach(voice, 0.0)
    packet = rtp(1, b"sound", payload_type=111)
    made.history.add(packet, 0.0)
    offer(leg, made, packet, 0.0)
    outlet.take_sent()
    leg.repeat((1,), 0.1)
    assert outlet.sent == []


def test_the_same_packet_is_not_repeated_too_soon():
    """Within a round trip the repeat is still on its way."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    assert len(scene.repeat(100, now=1.0)) == 1
    assert scene.repeat(100, now=1.01) == []
    assert len(scene.repeat(100, now=1.03)) == 1
    scene.leg.round_trip_s = 0.5
    assert scene.repeat(100, now=1.3) == []
    assert len(scene.repeat(100, now=1.5)) == 1


def test_a_second_repeat_is_a_packet_of_its_own():
    """On a lossy link both go out, each with a number of the rtx stream, as far as the budget goes."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    scene.send(2)
    assert scene.leg.has_rtx
    assert scene.leg.repeat((100, 101, 999), 1.0) == [100, 101]
    assert scene.leg.repeat([100, 101], 1.0, is_second=True) == [100, 101]
    sent = scene.outlet.take_sent()
    assert [p.data[p.payload : p.payload + 2] for p in sent] == [b"\0\x64", b"\0\x65"] * 2
    assert len({p.sequence for p in sent}) == 4
    scene.leg._repeat_budget = 0.5
    assert scene.leg.repeat([100], 1.0, is_second=True) == []


def test_without_rtx_there_is_no_second_repeat():
    """It would be the same packet to the last bit, and thrown away as a duplicate."""
    scene = Scene()
    scene.leg.negotiate(slot(codecs=(THEIR_VP8,)))
    assert not scene.leg.has_rtx


def test_repeats_have_a_budget():
    """It comes back with time; what is over it is dropped and counted once a request."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    for n in range(2, MAX_REPEATS_PER_S + 101):
        scene.send(n)
    asked = range(100, 100 + MAX_REPEATS_PER_S + 100)
    assert len(scene.repeat(*asked, now=1.0)) == MAX_REPEATS_PER_S
    assert scene.outlet.counters.dropped == {"repeat_budget": 1}
    assert len(scene.repeat(*asked, now=1.1)) == MAX_REPEATS_PER_S // 10
    assert len(scene.leg._repeated) <= MAX_PLAIN_HISTORY


def test_the_memory_of_repeats_is_bounded():
    """However many are asked for over time."""
    scene = Scene()
    scene.send(1, VP8_KEY, now=0.0)
    for n in range(2, 1000):
        scene.send(n)
    for at in range(3):
        scene.repeat(*range(100 + 300 * at, 400 + 300 * at), now=1.0 + at * 0.6)
    assert scene.outlet.counters.packets_retransmitted == 900
    assert len(scene.leg._repeated) == MAX_PLAIN_HISTORY


def test_the_largest_packet_fits_its_row_also_when_repeated():
    """With every extension on top of it; behind that a row has room for what SRTP adds."""
    scene = Scene(extensions=ALL_EXTENSIONS)
    scene.send(1, VP8_KEY)
    (sent,) = scene.send(
        2, VP8_DELTA + bytes(MAX_PACKET_BYTES - 12 - 8 - len(VP8_DELTA)), elements=[(1, b"\x85")]
    )
    (again,) = scene.repeat(101)
    assert len(sent.data) < len(again.data) <= MAX_PACKET_BYTES + MAX_ADDED_BYTES


# Reports


def test_there_is_no_report_before_there_is_something_to_say():
    """Neither before the publisher's clock is known nor before a packet left."""
    scene = Scene()
    assert scene.leg.sender_report(0.0) == b""
    scene.send(1, VP8_KEY)
    assert scene.leg.sender_report(0.0) == b""
    scene.leg._packets, scene.layer.clock = 0, SenderClock(1, 1, 0.0)
    assert scene.leg.sender_report(0.0) == b""


def test_a_report_joins_the_publishers_clock_to_our_media_time():
    """So that lips and voice of one publisher stay together."""
    scene = Scene()
    scene.send(1, VP8_KEY, timestamp=1_000_000)
    scene.layer.clock = SenderClock(ntp=7 << 32, timestamp=1_000_900, heard_at=0.5)
    (report,) = rtcp.parse(scene.leg.sender_report(1.5))
    assert report == rtcp.SenderReport(5000, 8 << 32, 90_900, 1, len(VP8_KEY))


def test_the_round_trip_is_learnt_from_the_answer_to_a_report():
    """Less what the receiver held it."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    scene.layer.clock = SenderClock(ntp=7 << 32, timestamp=0, heard_at=0.0)
    scene.leg.sender_report(10.0)
    block = rtcp.Report(5000, 64, 1, 100, 33, last_sr=17 << 16, delay_since_sr=32768)
    scene.leg.receive_report(block, 10.75)
    assert scene.leg.round_trip_s == pytest.approx(0.25)
    assert (scene.leg.loss, scene.leg.jitter) == (0.25, 33)


@pytest.mark.parametrize("last_sr", [0, 4711])
def test_an_answer_to_no_report_of_ours_says_no_round_trip(last_sr):
    """Loss and jitter count all the same."""
    scene = Scene()
    scene.leg.receive_report(rtcp.Report(5000, 128, 0, 0, 5, last_sr, 0), 1.0)
    assert scene.leg.round_trip_s is None
    assert (scene.leg.loss, scene.leg.jitter) == (0.5, 5)


def test_only_the_last_reports_are_remembered():
    """An answer to one that is too old says nothing."""
    scene = Scene()
    scene.send(1, VP8_KEY)
    scene.layer.clock = SenderClock(ntp=1 << 32, timestamp=0, heard_at=0.0)
    for second in range(9):
        scene.leg.sender_report(float(second))
    scene.leg.receive_report(rtcp.Report(5000, 0, 0, 0, 0, 1 << 16, 0), 9.0)
    assert scene.leg.round_trip_s is None
    scene.leg.receive_report(rtcp.Report(5000, 0, 0, 0, 0, 2 << 16, 0), 9.0)
    assert scene.leg.round_trip_s == pytest.approx(8)


# A dependency descriptor: flags and template, the frame number, and (in a keyframe) its structure.
def descriptor(number: int, structure: bytes = b"") -> bytes:
    return b"\xc0" + number.to_bytes(2, "big") + structure


class Numbered(Scene):
    """A publisher that numbers its frames in the dependency descriptor, under id 12; ours has id 8."""

    def __init__(self, extensions: dict[int, str] | None = None) -> None:
        super().__init__(extensions=extensions or {8: DEPENDENCY_DESCRIPTOR_URI, 5: TRANSPORT_CC_URI})
        self.track.agree(self.track.codecs, {12: DEPENDENCY_DESCRIPTOR_URI, 1: AUDIO_LEVEL_URI}, 0.0)

    def number(self, sequence: int, payload: bytes, value: bytes):
        """The descriptor that leaves with a packet."""
        (sent,) = self.send(sequence, payload, elements=[(1, b"\x80"), (12, value)])
        return dict(sent.extensions())[8]


def test_frame_numbers_are_continuous_over_a_change_of_the_layer():
    """A keyframe whose number went back would be thrown away as old."""
    scene = Numbered()
    assert scene.number(1, VP8_KEY, descriptor(180, b"structure")) == descriptor(180, b"structure")
    assert scene.number(2, VP8_DELTA, descriptor(181)) == descriptor(181)
    scene.layer = layer(scene.track, ssrc=2)
    assert scene.number(9, VP8_KEY, descriptor(1, b"structure")) == descriptor(182, b"structure")
    assert scene.number(10, VP8_DELTA, descriptor(2)) == descriptor(183)
    repeated = scene.repeat(102)[0]
    assert dict(repeated.extensions())[8] == descriptor(182, b"structure")


def test_a_long_descriptor_goes_as_a_two_byte_element():
    """The structure in a keyframe is often longer than a one-byte element may be."""
    scene = Numbered()
    scene.number(1, VP8_KEY, descriptor(7))
    scene.layer = layer(scene.track, ssrc=2)
    assert scene.number(9, VP8_KEY, descriptor(1, b"s" * 30)) == descriptor(8, b"s" * 30)


def test_a_descriptor_too_short_to_have_a_number_goes_as_it_is():
    assert Numbered().number(1, VP8_KEY, b"\xc0") == b"\xc0"


def test_a_descriptor_that_the_receiver_did_not_agree_to_stays_behind():
    scene = Numbered({5: TRANSPORT_CC_URI})
    (sent,) = scene.send(1, VP8_KEY, elements=[(12, descriptor(1))])
    assert [number for number, _ in sent.extensions()] == [5]


# In a batch


def test_there_is_no_way_into_a_batch_without_a_track_or_a_path():
    """Nor where the peer has none of its own (TCP)."""
    scene = Scene(attach=False)
    assert scene.leg.lane() is None
    scene.leg.attach(scene.track, 0.0)
    assert scene.leg.lane() is None
    scene.outlet.open = False
    assert scene.leg.lane() is None
