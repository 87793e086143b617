"""Links at the edge: what was given up comes back, and nothing is counted twice."""

import struct

import pytest

from sfu.media import rtcp
from sfu.media.codecs import frame_size
from sfu.media.leg import Leg
from sfu.media.negotiation import MID_URI, RID_URI
from sfu.media.number_bank import SENT_KEPT, NumberBank
from sfu.media.rtp_session import Publication, RtpSession
from sfu.media.subscriptions import MAX_FEEDBACK_PER_S, Subscriptions
from sfu.media.track import SenderClock
from tests.unit.media.scene import SENDING, VP8_KEY, Outlet, rtp_bytes, slot
from tests.unit.media.test_session_quality import section
from tests.unit.media.test_subscriptions import CAMERA, Scene


def test_a_picture_that_was_given_up_is_tried_again():
    """Where nothing flows nothing is learned; the link may have become wide."""
    scene = Scene(CAMERA)
    scene.rate = 80e3
    scene.run(10)
    assert scene.allotted == [None]
    scene.rate = 10e6
    scene.run(30)
    assert scene.allotted == ["f"]


def test_the_lowest_layer_is_not_taken_away_for_what_a_higher_one_did():
    """A keyframe of the middle layer fills a link that takes the lowest: the estimate says nothing then."""
    scene = Scene(CAMERA)
    scene.rate = 300e3
    scene.run(8)
    scene.leg.allot("h", scene.now)
    scene.subscriptions.bandwidth.estimate_bps = 60e3
    scene.subscriptions.bandwidth.congested_at = scene.now
    scene.subscriptions._least_since = float("inf")
    for _ in range(40):
        scene.subscriptions.allocate(scene.now)
        assert scene.allotted == ["q"]
        scene.run(0.05)


def test_one_of_several_is_paused_after_all_have_their_least():
    """On a link that takes two lowest layers of four somebody is paused, and not before it was tried."""
    scene = Scene(CAMERA, CAMERA, CAMERA, CAMERA)
    scene.rate = 10e6
    scene.run(5)
    scene.rate = 400e3
    seen = set()
    for _ in range(100):
        scene.run(0.05)
        seen.add(tuple(scene.allotted))
    assert ("q", "q", "q", "q") in seen
    assert {None, "q"} == set(scene.allotted)


def test_a_link_that_stays_too_narrow_is_tried_more_and_more_rarely():
    """For most of the time nothing is sent into it."""
    scene = Scene(CAMERA)
    scene.rate = 40e3
    scene.run(10)
    dark = tries = 0
    was_dark = True
    for _ in range(120):
        scene.run(1)
        is_dark = scene.allotted == [None]
        dark += is_dark
        tries += was_dark and not is_dark
        was_dark = is_dark
    assert 1 <= tries <= 8
    assert dark > 60


def test_a_limit_that_becomes_known_is_obeyed():
    """Nobody knew of one when layers were chosen last: the receiver had been silent."""
    scene = Scene({"": 2e6})
    scene.publish()
    for _ in range(5):
        scene.subscriptions.report(scene.now)
    scene.subscriptions.changed()
    scene.tick()
    scene.rate = 100e3
    scene.run(3)
    assert scene.allotted == [None]


def test_early_reports_begin_with_the_media():
    """However long nothing flowed before."""
    scene = Scene()
    for second in range(10):
        scene.subscriptions.report(scene.now + second)
    scene.now += 9.5
    scene.layers[0].clock = SenderClock(1 << 32, 0, scene.now)
    scene.publish()
    sent = []
    for second in range(9):
        scene.subscriptions.report(scene.now + second)
        sent += [second for p in scene.outlet.take_rtcp() if isinstance(p, rtcp.SenderReport)]
    assert sent == [0, 1, 2, 3, 4, 5, 8]


def test_a_flood_of_feedback_is_looked_at_as_far_as_it_may():
    """What is too much is dropped; the rest still counts."""
    outlet = Outlet()
    looked_at = []
    outlet.recall = lambda first, count, now: looked_at.append(now) or ([0.0] * count, [0] * count)
    outlet.recall_bytes = lambda first, count: 0
    subscriptions = Subscriptions(outlet, lambda at: None)
    for number in range(2_000):
        # One packet arrived: base number, count, reference time and number of feedback, one chunk, one delta.
        body = struct.pack("!HHIH", number, 1, 0, 1 << 13 | 1) + b"\0"
        subscriptions.receive_feedback(body, 100 + number / 200)
    assert len(looked_at) == pytest.approx(11 * MAX_FEEDBACK_PER_S, rel=0.05)
    assert outlet.counters.dropped["feedback_flood"] == 2_000 - len(looked_at)


def test_numbers_that_are_forgotten_or_were_never_given_have_no_size():
    """Another packet stands in their place by then."""
    bank = NumberBank()
    place = bank.take()
    for number in range(SENT_KEPT + 500):
        bank.next(place, 100 + number % 7, 10 + number / 10_000)
    last = SENT_KEPT + 500
    assert bank.recall(place, 1, 3, 10.2)[1] == [0, 0, 0]
    assert bank.recall(place, last + 1, 3, 10.2)[1] == [0, 0, 0]
    assert all(bank.recall(place, last - 2, 3, 10.2)[1])
    assert bank.recall_bytes(place, 1, 500) == bank.recall_bytes(place, last + 1, 10) == 0
    assert bank.recall_bytes(place, last, 5) == bank.recall(place, last, 1, 10.2)[1][0]


def test_layers_that_come_and_go_leave_nothing_behind():
    """A publisher may begin one encoding anew as often as it likes."""
    session = RtpSession(Outlet(), 77)
    session.admitted = True
    of = section(extensions={4: MID_URI, 10: RID_URI}, rids=("q",))
    session.negotiate([of], {"0": Publication("c", "camera")}, 0.0)
    Leg(slot(), SENDING, Outlet(), 100).attach(session.tracks["0"], 0.0)
    for number in range(100):
        elements = [(4, b"0"), (10, b"q")]
        session.receive_rtp(
            rtp_bytes(1, VP8_KEY, ssrc=1000 + number, elements=elements), number / 100, number / 100
        )
    assert len(session.tracks["0"].fan_out._plans) <= 2


def test_the_size_stands_behind_the_frame_tag_only():
    """Picture ids may look like its start code."""
    frame = b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 640, 360)
    assert frame_size("vp8", bytes((0x90, 0xC0, 0x9D, 0x01, 0x2A)) + frame) == (640, 360)
    assert frame_size("vp8", b"\x10" + frame) == (640, 360)
    assert frame_size("vp8", b"\x10" + frame[:-1]) is None


def test_a_receiver_is_told_to_wait_no_more():
    """Asked for nothing it would keep what it was asked for; after a while there is nothing to ask."""
    scene = Scene(CAMERA)
    scene.run(1)
    ssrc = scene.leg.sending.ssrc

    def report(lost: int, after: float) -> float | None:
        scene.now += after
        scene.subscriptions.receive_report(rtcp.Report(ssrc, lost, 0, 0, 0, 0, 0), scene.now)
        return scene.leg.playout_delay_s

    assert report(0, 0) is None
    assert report(20, 1) > 0.1
    assert report(0, 10) > 0.1
    assert report(0, 10) == 0.0
    assert report(0, 5) == 0.0
    assert report(0, 20) is None
