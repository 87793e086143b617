"""How well a peer is connected: what it sends and what it receives, the worse of the two."""

import pytest

from sfu.media import rtcp
from sfu.media.bandwidth import START_BPS
from sfu.media.negotiation import TRANSPORT_CC_URI, Section, Sending
from sfu.media.number_bank import NumberBank
from sfu.media.quality import Quality, score
from sfu.media.rtp_session import Publication, RtpSession
from sfu.media.transport_cc import ArrivalRecorder
from tests.unit.media.scene import (
    OPUS,
    VP8_DELTA,
    VP8_KEY,
    Outlet,
    rtp_bytes,
    section,
    slot,
)

CAMERA, VOICE = (
    section(ssrcs=(1, 2), flows=((1, 2),)),
    section(mid="1", kind="audio", codecs=(OPUS,), ssrcs=(8,)),
)
PUBLICATIONS = {"0": Publication("camera", "camera"), "1": Publication("voice", "microphone")}
SHOWN, HEARD = Sending(5000, 5001, "stream"), Sending(6000, 6001, "stream")


def a_slot(**changes: object) -> Section:
    return slot(sending=SHOWN, **changes)


def a_voice(**changes: object) -> Section:
    return slot(mid="10", kind="audio", codecs=(OPUS,), extensions={}, sending=HEARD, **changes)


class Counted(Outlet):
    """An outlet that remembers what it numbered, as a peer does."""

    def __init__(self) -> None:
        super().__init__()
        self._bank = NumberBank()
        self._place = self._bank.take()

    def next_transport_number(self, size: int, now: float) -> int:
        return self._bank.next(self._place, size, now)

    def recall(self, first: int, count: int, now: float) -> tuple[list[float], list[int]]:
        return self._bank.recall(self._place, first, count, now)

    def recall_bytes(self, first: int, count: int) -> int:
        return self._bank.recall_bytes(self._place, first, count)


class Peer:
    """One peer; others publish to it, a camera and a voice."""

    def __init__(self, *sections: Section) -> None:
        self.outlet, self.now, self._sequences = Counted(), 100.0, {}
        self.session = RtpSession(self.outlet, 77)
        self.session.admitted = True
        self.session.negotiate(list(sections), PUBLICATIONS, self.now)
        self.others = RtpSession(Outlet(), 78)
        self.others.admitted = True
        self.others.negotiate([CAMERA, VOICE], PUBLICATIONS, self.now)
        for mid, leg in self.session.legs.items():
            leg.attach(self.others.tracks["0" if mid == "9" else "1"], self.now)

    @property
    def quality(self) -> Quality | None:
        return self.session.quality()

    def publish(self, ssrc: int = 1, *, by: RtpSession | None = None, lose: int = 0, size: int = 100) -> None:
        """Publish a second of a hundred packets, of which so many are lost, and let the second end."""
        session = by or self.session
        for step in range(100):
            sequence = self._sequences[session, ssrc] = self._sequences.get((session, ssrc), 0) + 1
            payload = (VP8_KEY if sequence == 1 else VP8_DELTA).ljust(size - 12, b"\0")
            if 0 < step <= lose:
                continue
            payload_type = 111 if ssrc == 8 else 96
            data = rtp_bytes(
                sequence, payload, payload_type=payload_type, ssrc=ssrc, timestamp=sequence * 900
            )
            session.receive_rtp(data, self.now + step / 100, self.now + step / 100)

    def tick(self) -> None:
        """Let a second end."""
        self.now += 1
        self.session.handle_timer(self.now)
        self.others.handle_timer(self.now)

    def second(self, ssrc: int = 1, **changes) -> None:
        self.publish(ssrc, **changes)
        self.tick()

    def receive(self, *ssrcs: int, seconds: int = 2) -> None:
        """Let others publish for a time what this peer receives."""
        self.session.subscriptions.settle(self.now)
        for _ in range(seconds):
            for ssrc in ssrcs:
                self.publish(ssrc, by=self.others, size=1000)
            self.tick()

    def hear(self, *reports: rtcp.Report, after: float = 0.0) -> None:
        """Let the client report what it receives."""
        self.session.receive_rtcp(rtcp.receiver_report(1, reports), self.now + after)


def report(ssrc: int, *, loss: float = 0.0, jitter: int = 0, last_sr: int = 0) -> rtcp.Report:
    return rtcp.Report(ssrc, int(loss * 256), 0, 0, jitter, last_sr, 0)


def last_sr(peer: Peer, ssrc: int) -> int:
    """What names the last sender report of a stream in an answer to it."""
    said = [p for p in peer.outlet.take_rtcp() if isinstance(p, rtcp.SenderReport) and p.ssrc == ssrc]
    return said[-1].ntp >> 16 & 0xFFFFFFFF


def test_nothing_is_known_before_anything_flows():
    """Neither of who publishes nor of who receives, though all is agreed."""
    peer = Peer(CAMERA, a_slot())
    assert peer.quality is None
    peer.tick()
    assert peer.quality is None


def test_a_publisher_is_known_when_its_rate_was_measured():
    """Its packets alone do not tell it yet."""
    peer = Peer(CAMERA)
    peer.publish()
    assert peer.quality is None
    peer.tick()
    peer.second(size=500)
    found = peer.quality
    assert found.bitrate_bps > 0
    assert found == Quality(score(0.0, None, 0.0), 0.0, None, 0.0, found.bitrate_bps, None)
    for _ in range(10):
        peer.second(size=500)
    assert peer.quality.bitrate_bps == pytest.approx(100 * 500 * 8, rel=0.02)


def test_what_is_lost_on_the_way_from_a_publisher_counts():
    """That of the last second: it is good again when all arrives."""
    peer = Peer(CAMERA)
    peer.second()
    assert (peer.quality.loss, peer.quality.score) == (0.0, 5)
    peer.second(lose=30)
    assert peer.quality.loss == pytest.approx(0.3, abs=0.01)
    assert peer.quality.score == score(peer.quality.loss, None, 0.0) == 1
    peer.second()
    assert (peer.quality.loss, peer.quality.score) == (0.0, 5)


def test_the_worst_of_what_is_published_counts():
    """A voice that breaks up is not made good by a clear picture; rates add up."""
    peer = Peer(CAMERA, VOICE)
    for _ in range(10):
        peer.publish(1, size=500)
        peer.second(8, lose=20, size=100)
    assert peer.quality.loss == pytest.approx(0.2, abs=0.01)
    assert peer.quality.bitrate_bps == pytest.approx((100 * 500 + 80 * 100) * 8, rel=0.03)


def test_repairs_of_a_publisher_are_no_stream_of_their_own():
    """Holes between them are no loss."""
    peer = Peer(CAMERA)
    peer.second()
    for sequence in (5000, 6000, 6001, 9000):
        repair = rtp_bytes(sequence, b"\x03\xe8" + VP8_DELTA, payload_type=97, ssrc=2)
        peer.session.receive_rtp(repair, peer.now, peer.now)
    peer.second()
    assert peer.quality.loss == 0.0


def test_a_receiver_is_known_when_something_is_sent_to_it():
    """As it reports it; before the first report nothing speaks against it."""
    peer = Peer(a_slot())
    assert peer.quality is None
    peer.receive(1)
    found = peer.quality
    assert (found.score, found.loss, found.round_trip_s, found.estimate_bps) == (5, 0.0, None, None)
    assert found.bitrate_bps == pytest.approx(100 * 988 * 8, rel=0.02)
    peer.hear(report(SHOWN.ssrc, loss=0.25, jitter=1800))
    found = peer.quality
    assert (found.loss, found.jitter_s) == (0.25, 0.02)
    assert found.score == score(0.25, None, 0.02) == 2


def test_the_worst_of_what_is_received_counts():
    """Loss and jitter each of the stream that has most of it, in its own clock; rates add up."""
    peer = Peer(a_slot(), a_voice())
    peer.receive(1, 8)
    peer.hear(report(SHOWN.ssrc, loss=0.125, jitter=900), report(HEARD.ssrc, loss=0.0625, jitter=1440))
    found = peer.quality
    assert (found.loss, found.jitter_s) == (0.125, 0.03)
    assert found.bitrate_bps == pytest.approx(2 * 100 * 988 * 8, rel=0.02)


def test_a_slot_that_is_empty_does_not_count():
    """What was reported of it belongs to whoever was there."""
    peer = Peer(a_slot(), a_voice())
    peer.receive(1, 8)
    peer.hear(report(SHOWN.ssrc, loss=0.5), report(HEARD.ssrc, loss=0.0625))
    peer.session.legs["9"].detach()
    assert peer.quality.loss == 0.0625
    peer.session.legs["10"].detach()
    assert peer.quality is None


def test_the_shortest_round_trip_counts():
    """Of the answers to sender reports: the link is one, what is more is the client's doing."""
    peer = Peer(a_slot(), a_voice())
    for ssrc in (1, 8):
        peer.others.receive_rtcp(rtcp.sender_report(rtcp.SenderReport(ssrc, 7 << 32, 0, 0, 0)), peer.now)
    peer.receive(1, 8)
    shown = last_sr(peer, SHOWN.ssrc)
    peer.hear(report(SHOWN.ssrc, last_sr=shown), after=0.9)
    assert peer.quality.round_trip_s == pytest.approx(0.9)
    assert peer.quality.score == score(0.0, 0.9, 0.0) < 5
    peer.hear(report(HEARD.ssrc, last_sr=shown), after=0.2)
    assert peer.quality.round_trip_s == pytest.approx(0.2)


def test_feedback_tells_the_round_trip_where_no_report_does():
    """And what the link takes."""
    peer = Peer(a_slot(extensions={5: TRANSPORT_CC_URI}))
    peer.receive(1)
    client = ArrivalRecorder()
    peer.outlet.take_sent()
    peer.publish(1, by=peer.others, size=1000)
    for step, packet in enumerate(peer.outlet.take_sent()):
        client.receive(int.from_bytes(dict(packet.extensions())[5], "big"), 7.0 + step / 100)
    for body in client.handle_timer(1000.0):
        packet = rtcp.transport_feedback(1, SHOWN.ssrc, body)
        peer.session.receive_rtcp(packet, peer.now + 0.99 + 0.15)
    found = peer.quality
    assert found.round_trip_s == pytest.approx(0.15, abs=0.001)
    assert found.estimate_bps == peer.session.subscriptions.bandwidth.estimate_bps


def test_an_estimate_is_told_where_feedback_comes():
    """Where it was agreed it is counted on, until it stays away."""
    peer = Peer(a_slot(extensions={5: TRANSPORT_CC_URI}))
    peer.receive(1, seconds=3)
    assert peer.quality.estimate_bps == START_BPS
    peer.receive(1, seconds=10)
    assert peer.quality.estimate_bps is None


def test_a_smaller_picture_than_asked_for_is_less_good():
    """The link is to blame, whatever arrives of the small one."""
    peer = Peer(a_slot())
    peer.receive(1)
    peer.session.legs["9"].is_limited = True
    assert (peer.quality.score, peer.quality.loss) == (4, 0.0)


@pytest.mark.parametrize(("up", "down"), [(0, 0.0), (30, 0.0), (0, 0.25), (30, 0.125), (10, 0.25)])
def test_of_both_ways_the_worse_one_counts(up, down):
    """The higher loss and the lower score; the rest is told of what is received."""
    peer = Peer(CAMERA, a_slot())
    peer.receive(1)
    alone = Peer(a_slot())
    alone.receive(1)
    for each in (peer, alone):
        each.hear(report(SHOWN.ssrc, loss=down, jitter=1800))
    peer.publish(lose=up)
    peer.publish(by=peer.others, size=1000)
    peer.tick()
    alone.publish(by=alone.others, size=1000)
    alone.tick()
    found, received = peer.quality, alone.quality
    assert found.loss == pytest.approx(max(up / 100, down), abs=0.01)
    assert found.score == min(received.score, score(found.loss, None, 0.02))
    assert (found.jitter_s, found.bitrate_bps) == (received.jitter_s, received.bitrate_bps)
    assert (found.score < received.score) is (up / 100 > down)


def test_a_limited_receiver_stays_limited_beside_a_bad_way_up():
    """A little loss on the way up does not make the whole better than its other half."""
    peer = Peer(CAMERA, a_slot())
    peer.receive(1)
    peer.session.legs["9"].is_limited = True
    before = peer.quality.score
    peer.publish(lose=1)
    peer.publish(by=peer.others, size=1000)
    peer.tick()
    peer.session.legs["9"].is_limited = True
    assert peer.quality.loss == pytest.approx(0.01, abs=0.005)
    assert peer.quality.score == before == 4


def test_what_is_published_is_known_when_reception_ends():
    """The way up alone is told then."""
    peer = Peer(CAMERA, a_slot())
    peer.receive(1)
    peer.hear(report(SHOWN.ssrc, loss=0.25))
    peer.second(lose=10)
    peer.session.legs["9"].detach()
    assert peer.quality.loss == pytest.approx(0.1, abs=0.01)
    assert peer.quality.round_trip_s is None
    peer.session.close()
    assert peer.quality is None
