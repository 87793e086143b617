"""The RTP of one peer: whose packet it is, what is asked for, what is reported."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from sfu.media import rtcp
from sfu.media.keyframes import MIN_INTERVAL_S
from sfu.media.nack import MAX_MISSING
from sfu.media.negotiation import (
    AUDIO_LEVEL_URI,
    MID_URI,
    REPAIRED_RID_URI,
    RID_URI,
    TRANSPORT_CC_URI,
)
from sfu.media.packet import MAX_PACKET_BYTES
from sfu.media.rtp_session import MAX_INCOMING_SSRCS, REPORT_INTERVAL_S, Publication, RtpSession
from tests.unit.media.scene import (
    H264,
    OPUS,
    SENDING,
    VP8,
    VP8_DELTA,
    VP8_KEY,
    VP8_RTX,
    Outlet,
    bye,
    codec,
    rtp_bytes,
    section,
    slot,
)

RED = codec(63, "red", 48_000, 2)
NAMED = {1: AUDIO_LEVEL_URI, 3: TRANSPORT_CC_URI, 4: MID_URI, 10: RID_URI, 11: REPAIRED_RID_URI}
CAMERA = {"0": Publication("camera", "camera", "Cam", True)}
OUR_SSRC = 77


class Leg:
    """A receiver that keeps what it is offered, of the first and the last layer of a track."""

    def __init__(self, track, got: list[tuple[str, int, bytes]]) -> None:
        self.track, self.got = track, got

    @property
    def layer(self):
        return next(iter(self.track.layers.values()), None)

    @property
    def target(self):
        return next(reversed(self.track.layers.values()), None)

    def lane(self):
        return None

    def enter(self, batch):
        assert batch is None

    def begin(self, layer, packet, now):
        self.forward(layer, packet, now)

    def forward(self, layer, packet, now):
        self.got.append((layer.rid, packet.sequence, packet.data[packet.payload : packet.end]))

    def layers_changed(self, now):
        self.track.fan_out.changed(self)

    def format_changed(self, now):
        pass


class Scene:
    """A peer that publishes by the sections given, and a leg on each of its tracks; they share one list."""

    def __init__(self, *sections, publications=CAMERA) -> None:
        self.outlet = Outlet()
        self.session = RtpSession(self.outlet, OUR_SSRC)
        self.session.admitted = True
        self.got: list[tuple[str, int, bytes]] = []
        self.negotiate(*(sections or (section(ssrcs=(1, 2), flows=((1, 2),)),)), publications=publications)

    def negotiate(self, *sections, publications=CAMERA, now: float = 0.0) -> None:
        self.session.negotiate(list(sections), publications, now)
        for track in self.session.tracks.values():
            if not track.fan_out.legs:
                track.fan_out.add(Leg(track, self.got))

    @property
    def sequences(self) -> list[int]:
        return [sequence for _, sequence, _ in self.got]

    @property
    def track(self):
        return self.session.tracks["0"]

    @property
    def dropped(self) -> dict[str, int]:
        return self.outlet.counters.dropped

    def rtp(self, *sequences: int, now: float = 0.0, payload: bytes = VP8_DELTA, **changes) -> None:
        for sequence in sequences:
            self.session.receive_rtp(rtp_bytes(sequence, payload, **changes), now, now)

    def hear(self, *packets: bytes, now: float = 0.0) -> None:
        self.session.receive_rtcp(b"".join(packets), now)

    def said(self) -> list[rtcp.Rtcp]:
        return self.outlet.take_rtcp()


def names(mid: str = "", rid: str = "", repaired: str = "") -> list[tuple[int, bytes]]:
    pairs = ((4, mid), (10, rid), (11, repaired))
    return [(number, value.encode()) for number, value in pairs if value]


# Negotiation


def test_a_publication_becomes_a_track():
    """As the client described it, with what was agreed."""
    scene = Scene()
    track = scene.track
    assert (track.id, track.mid, track.kind, track.source) == ("camera", "0", "video", "camera")
    assert (track.name, track.muted) == ("Cam", True)
    assert track.codecs == {96: VP8, 97: VP8_RTX}
    assert track.extensions == section().extensions


def test_m_lines_without_publication_or_agreement_are_no_tracks():
    """Rejected, inactive, or not described by the client."""
    scene = Scene(
        section(rejected=True), section(mid="1", receives=False), section(mid="2"), publications=CAMERA
    )
    assert scene.session.tracks == {}


def test_a_track_lives_on_when_negotiated_again():
    """With the same layers and the new codecs; its SSRCs are not bound twice."""
    scene = Scene()
    track, layers = scene.track, dict(scene.track.layers)
    scene.negotiate(section(ssrcs=(1, 2), flows=((1, 2),), codecs=(VP8,)))
    assert scene.track is track
    assert scene.track.layers == layers
    assert scene.track.codecs == {96: VP8}


def test_a_track_that_is_no_longer_there_ends():
    """Its SSRCs are nobody's, the others go on."""
    voice = section(mid="1", kind="audio", codecs=(OPUS,), ssrcs=(8,))
    both = {**CAMERA, "1": Publication("voice", "microphone")}
    scene = Scene(section(ssrcs=(1,)), voice, publications=both)
    scene.negotiate(section(receives=False), voice, publications=both)
    scene.rtp(1)
    scene.rtp(7, ssrc=8, payload_type=111)
    assert list(scene.session.tracks) == ["1"]
    assert scene.sequences == [7]
    assert scene.dropped == {"unknown_ssrc": 1}


def test_a_late_packet_of_an_ended_track_is_not_another_tracks():
    """A camera that stops while a screen goes on: nothing of it is shown as the screen."""
    screen = section(mid="1", ssrcs=(8,))
    both = {**CAMERA, "1": Publication("screen", "screen")}
    scene = Scene(section(ssrcs=(1,)), screen, publications=both)
    scene.negotiate(section(receives=False), screen, publications=both)
    scene.rtp(1, payload=VP8_KEY)
    assert scene.got == []
    assert scene.session.tracks["1"].layers[""].ssrc == 8


def test_a_codec_that_the_publisher_changes_to_is_forwarded():
    """The legs of its track take over what was agreed again."""
    publisher, receiver = Scene(), Scene(slot(codecs=(VP8, H264)))
    receiver.session.legs["9"].attach(publisher.track, 0.0)
    receiver.session.subscriptions.settle(0.0)
    publisher.negotiate(section(ssrcs=(1,), codecs=(H264,)))
    publisher.rtp(1, payload=b"\x65key", payload_type=102)
    assert [packet.payload_type for packet in receiver.outlet.take_sent()] == [102]


def test_slots_become_legs():
    """They live on when negotiated again, and end when their m-line does."""
    scene = Scene(slot())
    leg = scene.session.legs["9"]
    assert leg.sending is SENDING
    scene.negotiate(slot(codecs=(VP8,)))
    assert scene.session.legs["9"] is leg
    assert leg.section.codecs == (VP8,)
    scene.negotiate(slot(sends=False, sending=None))
    assert scene.session.legs == {}
    scene.hear(rtcp.picture_loss(1, SENDING.ssrc))
    assert scene.outlet.counters.keyframe_requests_received == 1


def test_closing_leaves_every_fan_out():
    """And nothing is due any more."""
    publisher, receiver = Scene(), Scene(slot())
    leg = receiver.session.legs["9"]
    leg.attach(publisher.track, 0.0)
    assert leg in publisher.track.fan_out.legs
    receiver.session.close()
    assert leg not in publisher.track.fan_out.legs
    assert receiver.session.due == float("inf")
    publisher.session.close()
    publisher.rtp(1, ssrc=1234, payload_type=50)
    assert publisher.got == []


# RTP


def test_packets_of_a_named_ssrc_are_forwarded():
    """Counted, and remembered for repeats."""
    scene = Scene()
    scene.rtp(1, 2, 3, now=1.0)
    assert scene.got == [("", n, VP8_DELTA) for n in (1, 2, 3)]
    (layer,) = scene.track.layers.values()
    assert (layer.ssrc, layer.rtx_ssrc, layer.last_packet_at) == (1, 2, 1.0)
    assert layer.history.get(2, 1.0) is not None
    counters = scene.outlet.counters
    assert counters.packets_received == 3
    assert counters.bytes_received == 3 * len(rtp_bytes(1))


def test_nothing_is_forwarded_before_the_peer_is_admitted():
    """It is counted as dropped."""
    scene = Scene()
    scene.session.admitted = False
    scene.rtp(1)
    assert scene.got == []
    assert scene.dropped == {"not_admitted": 1}


def test_a_duplicate_is_not_forwarded():
    """Nor a repeat of what arrived."""
    scene = Scene()
    scene.rtp(1, 1)
    scene.rtp(50, payload=b"\0\1" + VP8_DELTA, payload_type=97, ssrc=2)
    assert scene.sequences == [1]
    assert scene.dropped == {"duplicate": 2}


def test_a_broken_packet_is_dropped():
    """And counted."""
    scene = Scene()
    scene.session.receive_rtp(b"\x80\x60", 0.0, 0.0)
    assert scene.dropped == {"malformed_rtp": 1}


def test_a_packet_too_large_for_a_row_is_not_forwarded():
    """With our extensions and the SRTP trailer it would be written beyond its row of the send buffer."""
    scene = Scene()
    scene.rtp(1, payload=VP8_KEY + bytes(MAX_PACKET_BYTES))
    assert scene.got == []
    assert sum(scene.dropped.values()) == 1


@given(st.binary(max_size=60))
def test_any_bytes_may_come(data):
    """As RTP and as RTCP: nothing is raised."""
    scene = Scene(section(ssrcs=(1,)), slot())
    scene.session.receive_rtp(data, 0.0, 0.0)
    scene.session.receive_rtp(rtp_bytes(1)[:12] + data, 0.0, 0.0)
    scene.session.receive_rtcp(data, 0.0)
    scene.session.handle_timer(10.0)


@given(st.lists(st.tuples(st.integers(0, 15), st.binary(max_size=16)), max_size=5), st.integers(0, 127))
def test_any_header_extension_may_come(elements, payload_type):
    """On a known and on an unknown SSRC."""
    scene = Scene(section(extensions=NAMED, rids=("q",)), slot())
    for ssrc in (1, 2):
        elements = [(number or 1, value) for number, value in elements]
        scene.rtp(1, ssrc=ssrc, elements=elements, payload_type=payload_type)


# Repair


def test_a_lost_packet_is_asked_for_and_recovered():
    """The repeat is forwarded as the packet it repeats."""
    scene = Scene()
    scene.rtp(1, 3)
    assert scene.said() == [rtcp.Nack(OUR_SSRC, 1, (2,))]
    assert scene.outlet.counters.nacks_sent == 1
    scene.rtp(900, payload=b"\0\2" + VP8_DELTA, payload_type=97, ssrc=2, marker=1)
    assert scene.got[-1] == ("", 2, VP8_DELTA)
    assert scene.outlet.counters.packets_recovered == 1
    (layer,) = scene.track.layers.values()
    recovered = layer.history.get(2, 0.0)
    assert (recovered.ssrc, recovered.payload_type, recovered.marker) == (1, 96, 1)
    scene.session.handle_timer(0.9)
    assert scene.said() == []


def test_a_padded_repeat_loses_its_padding():
    """The recovered packet has none."""
    scene = Scene()
    data = bytearray(rtp_bytes(900, b"\0\2" + VP8_DELTA + b"\0\0\x03", payload_type=97, ssrc=2))
    data[0] |= 0x20
    scene.session.receive_rtp(bytes(data), 0.0, 0.0)
    assert scene.got == [("", 2, VP8_DELTA)]


@pytest.mark.parametrize(
    ("payload", "payload_type"), [(b"", 97), (b"\0\2", 97), (b"\0\2xx", 96), (b"\0\2xx", 55)]
)
def test_what_repeats_nothing_is_passed_over(payload, payload_type):
    """Probing padding, and formats that are no repair."""
    scene = Scene()
    scene.rtp(900, payload=payload, payload_type=payload_type, ssrc=2)
    assert scene.got == []
    assert scene.track.layers[""].reception.received == 0


def test_a_loss_is_asked_for_again_at_the_timer():
    """`due` says when."""
    scene = Scene()
    scene.rtp(1, 3)
    scene.said()
    due = scene.session.due
    assert due == pytest.approx(0.12)
    scene.session.handle_timer(due)
    assert scene.said() == [rtcp.Nack(OUR_SSRC, 1, (2,))]


def test_the_round_trip_of_the_peer_paces_its_nacks():
    """Learnt from the reports on what it receives."""
    voice = section(mid="1", ssrcs=(8,), codecs=(OPUS,), kind="audio")
    scene = Scene(section(ssrcs=(1,)), voice, slot(), publications={**CAMERA, "1": CAMERA["0"]})
    scene.session.legs["9"].round_trip_s = 0.05
    scene.hear(rtcp.receiver_report(1, (rtcp.Report(SENDING.ssrc, 0, 0, 0, 0, 0, 0),)))
    assert scene.track.layers[""].nack.round_trip_s == 0.05


def test_reports_without_a_round_trip_teach_nothing():
    """Nor do those on SSRCs that are not ours, or on a repair stream."""
    scene = Scene(section(ssrcs=(1,)), slot())
    reports = tuple(rtcp.Report(ssrc, 128, 0, 0, 0, 0, 0) for ssrc in (SENDING.rtx_ssrc, 4711))
    scene.hear(rtcp.receiver_report(1, reports))
    assert scene.session.legs["9"].loss == 0
    block = rtcp.Report(SENDING.ssrc, 64, 0, 0, 0, 0, 0)
    scene.hear(rtcp.sender_report(rtcp.SenderReport(4711, 0, 0, 0, 0, (block,))))
    assert scene.session.legs["9"].loss == 0.25
    assert scene.track.layers[""].nack.round_trip_s == 0.1


def test_an_outage_asks_for_a_keyframe():
    """At once, and again when it does not come."""
    scene = Scene()
    scene.rtp(1, 3 + MAX_MISSING)
    assert scene.said() == [rtcp.KeyframeRequest(OUR_SSRC, 1)]
    scene.session.handle_timer(MIN_INTERVAL_S)
    assert scene.said() == [rtcp.KeyframeRequest(OUR_SSRC, 1)]
    assert scene.outlet.counters.keyframe_requests_sent == 2
    scene.rtp(1000, payload=VP8_KEY, now=0.6)
    scene.said()
    scene.session.handle_timer(0.99)
    assert scene.said() == []


def test_a_publisher_that_knows_no_pli_is_sent_a_fir():
    """With a number of its own each time, and the SSRC in the entry."""
    only_fir = replace(VP8, feedback=("nack", "ccm fir"))
    scene = Scene(section(ssrcs=(1,), codecs=(only_fir, VP8_RTX)))
    track = scene.session.tracks["0"]
    for now in (1.0, 2.0):
        track.want_keyframe(track.layers[""], now)
    first, second = scene.outlet.compounds
    assert rtcp.parse(first) == rtcp.parse(second) == [rtcp.KeyframeRequest(OUR_SSRC, 1)]
    assert first != second


def test_a_packet_that_never_comes_asks_for_a_keyframe():
    """After it was asked for long enough."""
    scene = Scene()
    scene.rtp(1, 3)
    now, said = 0.0, []
    while now < 2:
        now = scene.session.due
        scene.session.handle_timer(now)
        said += scene.said()
    assert said.count(rtcp.Nack(OUR_SSRC, 1, (2,))) == 10
    assert rtcp.KeyframeRequest(OUR_SSRC, 1) in said


def test_audio_is_not_asked_for():
    """A packet of voice that comes late is of no use."""
    scene = Scene(section(kind="audio", codecs=(OPUS,), ssrcs=(1,)))
    scene.rtp(1, 5, payload_type=111, payload=b"sound")
    assert scene.said() == []
    assert scene.sequences == [1, 5]


def test_video_without_nack_is_not_asked_for():
    """What was not agreed is not sent."""
    plain = type(VP8)(96, "vp8", "VP8", 90_000)
    scene = Scene(section(codecs=(plain,), ssrcs=(1,)))
    scene.rtp(1, 5)
    scene.session.handle_timer(0.5)
    assert scene.said() == []


# Whose packet is it


def test_an_ssrc_is_known_by_its_mid():
    """Where the description names none (and from then on without it)."""
    scene = Scene(section(extensions=NAMED), section(mid="1"), publications={**CAMERA, "1": CAMERA["0"]})
    scene.rtp(1, ssrc=50, elements=names("0"))
    scene.rtp(2, ssrc=50)
    assert scene.sequences == [1, 2]
    assert scene.track.layers[""].ssrc == 50
    assert scene.session.tracks["1"].layers == {}


def test_an_ssrc_is_known_by_its_payload_type_where_only_one_track_has_it():
    """The last resort."""
    scene = Scene(
        section(), section(mid="1", kind="audio", codecs=(OPUS,)), publications={**CAMERA, "1": CAMERA["0"]}
    )
    scene.rtp(1, ssrc=50)
    scene.rtp(1, ssrc=51, payload_type=111)
    assert scene.track.layers[""].ssrc == 50
    assert scene.session.tracks["1"].layers[""].ssrc == 51


@pytest.mark.parametrize(
    "packet",
    [
        {"payload_type": 96},  # two tracks have it
        {"payload_type": 50, "elements": names("0")},  # not agreed
        {"payload_type": 96, "elements": names("7")},  # no such mid
        {"payload_type": 96, "elements": [(4, b"\xff\xfe")]},  # no ASCII
        {"payload_type": 97, "elements": names("0")},  # repair of nothing yet
    ],
)
def test_a_stranger_is_dropped(packet):
    """No SSRC is bound for it."""
    scene = Scene(section(extensions=NAMED), section(mid="1"), publications={**CAMERA, "1": CAMERA["0"]})
    scene.rtp(1, ssrc=50, **packet)
    assert scene.dropped == {"unknown_ssrc": 1}
    assert scene.track.layers == {}


def test_layers_are_known_by_their_rids():
    """And their repair streams by the repaired rid; unknown rids are strangers."""
    scene = Scene(section(extensions=NAMED, rids=("q", "h", "f")))
    for ssrc, rid in ((50, "q"), (51, "h"), (52, "x")):
        scene.rtp(1, ssrc=ssrc, elements=names("0", rid))
    scene.rtp(9, ssrc=60, payload_type=97, payload=b"\0\5" + VP8_DELTA, elements=names("0", "", "h"))
    assert {rid: (x.ssrc, x.rtx_ssrc) for rid, x in scene.track.layers.items()} == {
        "q": (50, None),
        "h": (51, 60),
    }
    assert scene.got == [("q", 1, VP8_DELTA), ("h", 1, VP8_DELTA), ("h", 5, VP8_DELTA)]
    assert scene.dropped == {"unknown_ssrc": 1}


def test_an_rtx_stream_without_rids_repairs_the_only_layer():
    """By its payload type."""
    scene = Scene(section(extensions=NAMED))
    scene.rtp(1, ssrc=50, elements=names("0"))
    scene.rtp(9, ssrc=60, payload_type=97, payload=b"\0\5" + VP8_DELTA, elements=names("0"))
    assert scene.track.layers[""].rtx_ssrc == 60
    assert scene.sequences == [1, 5]


def test_a_client_that_begins_again_replaces_its_layer():
    """A new SSRC of the same rid: the old one and its repair stream are nobody's."""
    scene = Scene(section(extensions=NAMED, rids=("q",)))
    scene.rtp(1, ssrc=50, elements=names("0", "q"))
    scene.rtp(9, ssrc=60, payload_type=97, payload=b"\0\5x", elements=names("0", "", "q"))
    scene.rtp(1, ssrc=70, elements=names("0", "q"))
    assert scene.track.layers["q"].ssrc == 70
    scene.rtp(2, ssrc=50)
    assert scene.dropped == {"unknown_ssrc": 1}


def test_a_repair_stream_that_was_named_for_another_ssrc_is_not_bound():
    """A FID group whose primary nobody sends with, or that is taken already."""
    scene = Scene(section(ssrcs=(1, 2), flows=((9, 2),)))
    scene.rtp(1)
    assert scene.track.layers[""].rtx_ssrc is None


def test_ssrcs_are_bounded():
    """Guessing binds no more than the bound."""
    scene = Scene(section(extensions=NAMED, rids=tuple(f"r{n}" for n in range(MAX_INCOMING_SSRCS + 1))))
    for n in range(MAX_INCOMING_SSRCS + 1):
        scene.rtp(1, ssrc=100 + n, elements=names("0", f"r{n}"))
    assert len(scene.track.layers) == MAX_INCOMING_SSRCS
    assert scene.dropped == {"unknown_ssrc": 1}


# RTCP in


def test_a_broken_compound_is_dropped():
    """And counted."""
    scene = Scene()
    scene.hear(b"\x80\xc8")
    assert scene.dropped == {"malformed_rtcp": 1}


def test_a_nack_is_answered_by_the_leg():
    """On its primary SSRC only; on none of ours it is counted and no more."""
    publisher, receiver = Scene(), Scene(slot())
    receiver.session.legs["9"].attach(publisher.track, 0.0)
    receiver.session.subscriptions.settle(0.0)
    publisher.rtp(1, payload=VP8_KEY)
    receiver.outlet.take_sent()
    receiver.hear(rtcp.nack(1, SENDING.rtx_ssrc, [1]), rtcp.nack(1, 4711, [1]), now=1.0)
    assert receiver.outlet.take_sent() == []
    receiver.hear(rtcp.nack(1, SENDING.ssrc, [1]), now=1.0)
    assert [p.ssrc for p in receiver.outlet.take_sent()] == [SENDING.rtx_ssrc]
    assert receiver.outlet.counters.nacks_received == 3


def test_a_keyframe_request_reaches_the_publisher():
    """As a PLI on the publisher's own SSRC."""
    publisher, receiver = Scene(), Scene(slot())
    receiver.session.legs["9"].attach(publisher.track, 0.0)
    receiver.session.subscriptions.settle(0.0)
    publisher.said()
    receiver.hear(rtcp.picture_loss(9, SENDING.ssrc), rtcp.full_intra_request(9, 4711, 1), now=1.0)
    assert publisher.said() == [rtcp.KeyframeRequest(OUR_SSRC, 1)]
    assert receiver.outlet.counters.keyframe_requests_received == 2
    assert publisher.session.due <= 1.0 + MIN_INTERVAL_S


def test_remb_is_remembered_and_the_rest_passed_over():
    """BYE and transport feedback say nothing to us."""
    scene = Scene()
    body = struct.pack("!II4sII", 1, 0, b"REMB", 1 << 24 | 2 << 18 | 1000, 5000)
    remb = struct.pack("!BBH", 0x8F, rtcp.PSFB, 5) + body
    assert scene.session.subscriptions.limit_bps == float("inf")
    scene.hear(bye((1,)), rtcp.transport_feedback(1, 2, bytes(8)), remb)
    assert scene.session.subscriptions.limit_bps == 4000


# What goes out by itself


def test_reports_are_due_each_second():
    """A block for each stream that was received, repair streams left out."""
    scene = Scene()
    assert scene.session.due == REPORT_INTERVAL_S
    scene.hear(rtcp.sender_report(rtcp.SenderReport(1, 7 << 32, 9, 0, 0)), now=0.5)
    scene.hear(rtcp.sender_report(rtcp.SenderReport(2, 8 << 32, 9, 0, 0)), now=0.5)
    scene.rtp(1, 2, 3, 4, now=0.5)
    scene.rtp(6, now=0.6)
    scene.rtp(9, payload=b"\0\5x", payload_type=97, ssrc=2, now=0.7)
    scene.said()
    scene.session.handle_timer(1.0)
    (report,) = scene.said()
    (block,) = report.reports
    assert report.ssrc == OUR_SSRC
    assert (block.ssrc, block.highest_sequence, block.lost, block.fraction_lost) == (1, 6, 1, 42)
    assert (block.last_sr, block.delay_since_sr) == (7 << 16, 32768)
    assert scene.session.due == 2.0


def test_a_stream_without_a_sender_report_has_none_to_answer():
    """Both fields are zero (RFC 3550 section 6.4.1)."""
    scene = Scene()
    scene.rtp(1)
    scene.session.handle_timer(1.0)
    (report,) = scene.said()
    assert (report.reports[0].last_sr, report.reports[0].delay_since_sr) == (0, 0)


def test_silence_is_not_reported():
    """Nothing was received, nothing is said."""
    scene = Scene()
    scene.session.handle_timer(1.0)
    assert scene.outlet.compounds == []


def test_more_blocks_than_fit_go_into_several_reports():
    """Thirty-one in each."""
    scene = Scene(section(extensions=NAMED, rids=tuple(f"r{n}" for n in range(33))))
    for n in range(33):
        scene.rtp(1, ssrc=100 + n, elements=names("0", f"r{n}"))
    scene.session.handle_timer(1.0)
    assert [len(report.reports) for report in scene.said() if isinstance(report, rtcp.ReceiverReport)] == [
        31,
        2,
    ]


def test_legs_report_what_they_send():
    """Each with its own compound; and they look at the layers again."""
    publisher, receiver = Scene(), Scene(slot())
    receiver.session.legs["9"].attach(publisher.track, 0.0)
    receiver.session.subscriptions.settle(0.0)
    publisher.hear(rtcp.sender_report(rtcp.SenderReport(1, 7 << 32, 3000, 0, 0)))
    publisher.rtp(1, payload=VP8_KEY)
    receiver.session.handle_timer(1.0)
    (report,) = receiver.said()
    assert (report.ssrc, report.ntp, report.packets) == (SENDING.ssrc, 8 << 32, 1)


def test_arrivals_are_fed_back():
    """A tenth of a second after the first, by the number of the whole transport."""
    scene = Scene()
    for n in range(3):
        scene.rtp(n, elements=[(1, b"\x85"), (3, struct.pack("!H", 40 + n))])
    assert scene.session.due == pytest.approx(0.1)
    scene.session.handle_timer(0.1)
    (feedback,) = scene.said()
    assert isinstance(feedback, rtcp.TransportFeedback)
    assert struct.unpack_from("!HH", feedback.data) == (40, 3)


@pytest.mark.parametrize(
    ("agreed", "elements"),
    [
        ({1: AUDIO_LEVEL_URI}, [(3, b"\0\1")]),
        ({3: TRANSPORT_CC_URI}, [(1, b"\0\1")]),
        ({3: TRANSPORT_CC_URI}, [(3, b"1")]),
        ({3: TRANSPORT_CC_URI}, []),
    ],
)
def test_arrivals_without_a_number_are_not_fed_back(agreed, elements):
    """Not agreed, absent, or not two bytes."""
    scene = Scene(section(ssrcs=(1,), extensions=agreed))
    scene.rtp(1, elements=elements)
    scene.session.handle_timer(0.5)
    assert scene.outlet.compounds == []


def test_the_level_beside_a_packet_is_noted():
    """By the id that was agreed; a packet without one says nothing."""
    scene = Scene()
    track = scene.session.tracks["0"]
    scene.rtp(1, elements=[(3, b"\0\1")])
    assert track.level.loudness(0.0) == 0.0
    for n in range(2, 12):
        scene.rtp(n, elements=[(1, b"\x94")])
    assert track.level.loudness(0.0) == pytest.approx(0.1, rel=0.01)


def test_feedback_comes_in_a_compound_where_reduced_size_was_not_agreed():
    """A report and a name before it (RFC 3550 section 6.1)."""
    scene = Scene(section(ssrcs=(1,), reduced_size=False))
    scene.rtp(1, 3)
    (compound,) = scene.outlet.compounds
    assert [compound[1], compound[9]] == [rtcp.RR, rtcp.SDES]
    assert rtcp.parse(compound) == [rtcp.ReceiverReport(OUR_SSRC), rtcp.Nack(OUR_SSRC, 1, (2,))]


def test_a_timer_too_early_does_nothing():
    """And says when to come again."""
    scene = Scene()
    scene.session.handle_timer(0.2)
    assert scene.outlet.compounds == []
    assert scene.session.due == REPORT_INTERVAL_S


def test_the_codec_of_a_track_gives_the_clock_of_its_jitter():
    """The first of its codecs; red comes with the clock of what it carries."""
    scene = Scene(section(kind="audio", codecs=(OPUS, RED), ssrcs=(1,)))
    assert scene.track.layers[""].reception.clock_rate == 48_000


def test_the_size_of_a_picture_is_known_though_nobody_asked_for_a_keyframe():
    """By it layers are put in order: one that began a moment ago costs less than a smaller one."""
    scene = Scene()
    scene.session.receive_rtp(rtp_bytes(1, bytes.fromhex("10d04f029d012a80026801")), 0.0, 0.0)
    (layer,) = scene.track.layers.values()
    assert (layer.width, layer.height) == (640, 360)
