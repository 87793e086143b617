"""What one peer receives: feedback in, an estimate, layers and reports out.

The scene is shared with the tests of probes (test_probing.py) and of loss (test_quality.py).
"""

import itertools
import struct

import pytest

from sfu.media import rtcp
from sfu.media.allocation import Preference
from sfu.media.bandwidth import START_BPS
from sfu.media.negotiation import Sending
from sfu.media.number_bank import SENT_KEPT, NumberBank
from sfu.media.packet import RtpPacket
from sfu.media.subscriptions import MAX_FEEDBACK_PER_S, Subscriptions
from sfu.media.track import Layer, SenderClock
from sfu.media.transport_cc import ArrivalRecorder
from tests.unit.media.scene import ALL_EXTENSIONS, OPUS, THEIR_VP8, Outlet, Wishes, layer, rtp, slot, track

CAMERA = {"q": 150e3, "h": 500e3, "f": 1.5e6}
FAST, STEP_S, DELAY_S = 10e6, 0.005, 0.02
# Where the clock of arrivals begins anew: 24 bits of 64 ms.
WRAP_S = 2**24 * 0.064


class Peer(Outlet):
    """An outlet that remembers what it sent under each number."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = NumberBank()
        self.place = self.bank.take()

    def next_transport_number(self, size: int, now: float) -> int:
        return self.bank.next(self.place, size, now)

    def recall(self, first: int, count: int, now: float) -> tuple[list[float], list[int]]:
        return self.bank.recall(self.place, first, count, now)

    def recall_bytes(self, first: int, count: int) -> int:
        return self.bank.recall_bytes(self.place, first, count)


class Scene:
    """A receiver with a track in each of its slots (mids 0, 1, ...), and the link to it on virtual time.

    Each track is given as the rates of its layers by rid.
    """

    def __init__(self, *tracks: dict[str, float], kind: str = "video", **agreed: object) -> None:
        self.now, self.due, self.rate, self.offset = 100.0, float("inf"), FAST, 0.0
        self.outlet, self.wishes = Peer(), Wishes()
        self.subscriptions = Subscriptions(self.outlet, self._wake)
        self.layers: list[Layer] = []
        self.counts: dict[Layer, int] = {}
        self.debts: dict[Layer, float] = {}
        self.sent: list[RtpPacket] = []
        self.recorder = ArrivalRecorder()
        self._busy_until = self.now
        self._on_the_way: list[tuple[float, int]] = []
        self._feedback_at, self._report_at = self.now + 0.05, self.now + 1
        for rates in tracks or ({"": 500e3},):
            mid = str(len(self.subscriptions.legs))
            sending = Sending(5000 + 10 * int(mid), 5001 + 10 * int(mid), "stream")
            section = slot(mid=mid, kind=kind, sending=sending, **({"extensions": ALL_EXTENSIONS} | agreed))
            self.subscriptions.begin(section, sending)
            made = track(self.wishes, kind, (OPUS,)) if kind == "audio" else track(self.wishes)
            for rid, bps in rates.items():
                of = layer(made, rid, len(self.layers) + 1, self.now)
                of.bitrate_bps = of.nominal_bps = bps
                self.layers.append(of)
            self.subscriptions.legs[mid].attach(made, self.now)
        self.subscriptions.settle(self.now)
        self.due = float("inf")

    def _wake(self, at: float) -> None:
        self.due = min(self.due, at)

    @property
    def leg(self):
        return self.subscriptions.legs["0"]

    @property
    def allotted(self) -> list[str | None]:
        return [leg.allotted for leg in self.subscriptions.legs.values()]

    @property
    def dropped(self) -> dict[str, int]:
        return self.outlet.counters.dropped

    def publish(self, of: Layer | None = None) -> list[RtpPacket]:
        """Publish one packet of a layer, a keyframe if one is wanted; return what leaves."""
        of = of or self.layers[0]
        self.counts[of] = self.counts.get(of, 0) + 1
        packet = rtp(self.counts[of], bytes([0x10, not of.keyframes.is_wanted]) + bytes(940), ssrc=of.ssrc)
        of.keyframes.arrived()
        of.history.add(packet, self.now)
        of.track.fan_out.forward(of, packet, self.now)
        return self.outlet.take_sent()

    def tick(self) -> None:
        """Do what is due now."""
        self.due = float("inf")
        self.subscriptions.handle_timer(self.now)

    def hear(self, data: bytes) -> None:
        """Take what the receiver says of transport-wide numbers."""
        (packet,) = rtcp.parse(rtcp.transport_feedback(1, 5000, data))
        self.subscriptions.receive_feedback(packet.data, self.now)

    def run(self, seconds: float) -> None:
        """Publish all layers at their rates, over a link of a rate; feedback each 50 ms."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            if self.now >= self.due:
                self.tick()
            self._carry([*self.outlet.take_sent(), *self._film()])
            self._answer()

    def _film(self) -> list[RtpPacket]:
        """Publish what is due; return what leaves."""
        left = []
        for of in self.layers:
            of.last_packet_at = self.now
            self.debts[of] = self.debts.get(of, 0.0) + of.bitrate_bps / 8 * STEP_S
            while self.debts[of] >= 1000:
                self.debts[of] -= 1000
                left += self.publish(of)
        return left

    def _carry(self, packets: list[RtpPacket]) -> None:
        self.sent += packets
        for packet in packets:
            if self._busy_until - self.now < 0.4:
                self._busy_until = max(self.now, self._busy_until) + len(packet.data) * 8 / self.rate
                self._on_the_way.append((self._busy_until + DELAY_S, number_of(packet)))

    def _answer(self) -> None:
        if self.now >= self._feedback_at:
            self._feedback_at += 0.05
            while self._on_the_way and self._on_the_way[0][0] <= self.now - DELAY_S:
                at, number = self._on_the_way.pop(0)
                self.recorder.receive(number, at + self.offset)
            for data in self.recorder.handle_timer(float("inf")):
                self.hear(data)
        if self.now >= self._report_at:
            self._report_at += 1
            self.subscriptions.report(self.now)


def number_of(packet: RtpPacket) -> int:
    return struct.unpack("!H", dict(packet.extensions())[5])[0]


def body(arrivals: dict[int, float]) -> bytes:
    """The feedback of a receiver to whom these numbers came at these times."""
    recorder = ArrivalRecorder()
    for number, at in arrivals.items():
        recorder.receive(number, at)
    (made,) = recorder.handle_timer(float("inf"))
    return made


def told(*spans: range) -> Scene:
    """A scene in which fifty packets went out, one each 10 ms, and which was told of these numbers."""
    scene = Scene()
    for _ in range(50):
        scene.publish()
        scene.now += 0.01
    for span in spans:
        scene.hear(body({n: 7.0 + n * 0.01 for n in span}))
    return scene


# Feedback


def test_feedback_leads_to_an_estimate():
    """What arrives without a queue is proof of as much; before, the link has the benefit of a guess."""
    scene = Scene({"": 2e6})
    assert scene.subscriptions.limit_bps == START_BPS
    scene.run(2)
    assert 1.9e6 < scene.subscriptions.limit_bps < 4e6
    assert scene.subscriptions.bandwidth.sent_bps == pytest.approx(2e6, rel=0.1)
    assert scene.subscriptions.bandwidth.round_trip_s == pytest.approx(2 * DELAY_S, abs=0.03)
    assert scene.subscriptions.bandwidth.loss == 0


def test_feedback_that_overlaps_counts_each_packet_once():
    """In part or as a whole; what is new in it counts."""
    once = told(range(1, 11), range(11, 21), range(21, 31)).subscriptions.bandwidth
    again = told(range(1, 11), range(1, 11), range(6, 21), range(11, 31)).subscriptions.bandwidth
    assert once.sent_bps == pytest.approx(968 * 8 / 0.01, rel=0.02)
    assert (again.sent_bps, again.arrived_bps) == (once.sent_bps, once.arrived_bps)


def test_feedback_that_was_passed_over_counts_as_arrived():
    """Nobody looked at it; its bytes are known all the same."""
    all_of_it = told(range(1, 11), range(11, 21), range(21, 31)).subscriptions.bandwidth
    every_other = told(range(1, 11), range(21, 31)).subscriptions.bandwidth
    assert every_other.arrived_bps == pytest.approx(all_of_it.arrived_bps)
    assert every_other.sent_bps == pytest.approx(all_of_it.sent_bps)


def test_a_gap_of_more_than_is_remembered_counts_for_nothing():
    """What was sent in it is forgotten."""
    scene = told(range(1, 11))
    for _ in range(SENT_KEPT):
        scene.publish()
    scene.now += 0.1
    scene.hear(body({n: 7.6 for n in range(11 + SENT_KEPT, 21 + SENT_KEPT)}))
    assert scene.subscriptions.bandwidth.arrived_bps < 2e5


def test_numbers_that_were_never_sent_say_nothing():
    """A receiver cannot make its link look better by them."""
    scene = told(range(1, 11), range(11, 21))
    before = scene.subscriptions.bandwidth.arrived_bps
    scene.now += 0.1
    scene.hear(body({n: 7.21 for n in range(51, 251)}))
    assert scene.subscriptions.bandwidth.arrived_bps == before
    assert scene.subscriptions.bandwidth.estimate_bps < 1.1 * START_BPS


def test_a_flood_of_feedback_is_dropped_and_counted():
    """So much a second is looked at; with time the budget comes back."""
    scene = Scene()
    scene.publish()
    data = body({1: 7.0})
    for _ in range(MAX_FEEDBACK_PER_S + 7):
        scene.hear(data)
    scene.publish()
    scene.hear(body({2: 7.1}))
    assert scene.dropped == {"feedback_flood": 8}
    assert scene.subscriptions.bandwidth.sent_bps == 0
    scene.now += 0.1
    for _ in range(MAX_FEEDBACK_PER_S):
        scene.hear(data)
    assert scene.dropped["feedback_flood"] == pytest.approx(8 + MAX_FEEDBACK_PER_S * 0.9, abs=1)


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(8), b"\0\1\0\2\0\0\0\0", b"\0\1\0\2\0\0\0\0\x20\2"])
def test_broken_feedback_is_dropped_and_counted(data):
    """And changes nothing."""
    scene = told(range(1, 11))
    before = scene.subscriptions.bandwidth.sent_bps
    scene.subscriptions.receive_feedback(data, scene.now)
    assert scene.dropped == {"malformed_rtcp": 1}
    assert scene.subscriptions.bandwidth.sent_bps == before


def test_the_clock_of_arrivals_may_begin_anew():
    """Nothing of it is seen in rate or queue."""
    scene = Scene({"": 2e6})
    scene.offset = WRAP_S - scene.now - 2
    scene.run(4)
    bandwidth = scene.subscriptions.bandwidth
    assert bandwidth.arrived_bps == pytest.approx(2e6, rel=0.1)
    assert 1.9e6 < bandwidth.estimate_bps < 4e6
    assert bandwidth.congested_at == float("-inf")
    scene.rate = 1e6
    scene.run(1)
    assert scene.now - bandwidth.congested_at < 0.5


def test_whoever_never_sends_feedback_has_a_link_without_a_limit():
    """Four reports in which something was sent; until it comes all the same."""
    scene, limits = Scene(), []
    for _ in range(5):
        scene.subscriptions.report(scene.now)
    scene.publish()
    for _ in range(5):
        scene.subscriptions.report(scene.now)
        limits.append(scene.subscriptions.limit_bps)
    assert limits == 3 * [START_BPS] + 2 * [float("inf")]
    scene.subscriptions.begin(scene.leg.section, scene.leg.sending)
    assert scene.subscriptions.limit_bps == float("inf")
    scene.hear(body({1: 7.0}))
    for _ in range(5):
        scene.subscriptions.report(scene.now)
    assert scene.subscriptions.limit_bps == START_BPS


# What it said of slots


def test_preferences_decide_who_comes_first():
    """A priority, before it a pin; both are forgotten with the preference."""
    scene = Scene(*2 * [{"q": 100e3, "f": 600e3}], extensions={})
    scene.subscriptions.receive_remb(rtcp.Remb(1, 900_000, ()))
    seen = []
    for mid, preference in (
        ("0", None),
        ("1", Preference(priority=1)),
        ("0", Preference(pinned=True)),
        ("0", None),
        ("1", None),
    ):
        scene.subscriptions.prefer(mid, preference)
        assert scene.due == 0.0
        scene.tick()
        seen.append("".join(scene.allotted))
    assert seen == ["fq", "qf", "fq", "qf", "fq"]
    assert [leg.is_limited for leg in scene.subscriptions.legs.values()] == [False, True]


@pytest.mark.parametrize("size", [{"max_width": 500}, {"max_height": 300}])
def test_a_small_window_gets_a_small_picture(size):
    scene = Scene(CAMERA, extensions={})
    for of, height in zip(scene.layers, (180, 360, 720), strict=True):
        of.width, of.height = height * 16 // 9, height
    scene.subscriptions.prefer("0", Preference(**size))
    scene.tick()
    assert (scene.allotted, scene.leg.is_limited) == (["h"], False)


@pytest.mark.parametrize(
    ("rates", "shown", "chooses"),
    [({"": 5e5}, True, False), ({"": 5e5}, False, True), ({"q": 1e5, "f": 5e5}, True, True)],
)
def test_layers_are_chosen_each_second_where_there_is_something_to_choose(rates, shown, chooses):
    """Not where one layer is all there is, and is shown."""
    scene = Scene(rates)
    if shown:
        scene.publish(scene.layers[-1])
    scene.now += 0.5
    scene.subscriptions.report(scene.now)
    assert (scene.layers[-1].used_at == scene.now) is chooses


def test_layers_are_chosen_anew_when_something_changed():
    """At once if somebody asks, or with the next report; not without a change."""
    scene = Scene()
    scene.publish()
    for act in (scene.subscriptions.settle, scene.subscriptions.report, scene.subscriptions.handle_timer):
        scene.now += 0.1
        act(scene.now)
        assert scene.layers[0].used_at < scene.now
        scene.subscriptions.changed()
        act(scene.now)
        assert scene.layers[0].used_at == scene.now


def test_fewer_frames_are_chosen_each_second_until_all_are_wanted_again():
    """Also where there is one layer, which is shown: how many frames it has may change."""
    scene = Scene()
    scene.publish()
    scene.subscriptions.prefer("0", Preference(max_fps=8))
    scene.tick()
    assert scene.leg.max_fps == 8
    assert scene.layers[0].is_listened_to
    for _ in range(2):
        scene.now += 1
        scene.subscriptions.report(scene.now)
        assert scene.layers[0].used_at == scene.now
    scene.subscriptions.prefer("0", None)
    scene.tick()
    assert scene.leg.max_fps is None
    scene.now += 1
    scene.subscriptions.report(scene.now)
    assert scene.layers[0].used_at < scene.now


# What is passed on, and what goes out by itself


@pytest.mark.parametrize(("ssrc", "asked"), [(5000, True), (5001, True), (4711, False)])
def test_a_request_for_a_keyframe_is_passed_on(ssrc, asked):
    scene = Scene()
    scene.publish()
    scene.wishes.asked.clear()
    scene.now += 1
    scene.subscriptions.receive_keyframe_request(rtcp.KeyframeRequest(1, ssrc), scene.now)
    assert scene.wishes.asked == ([(scene.layers[0], True)] if asked else [])


def test_sender_reports_go_together_as_far_as_a_datagram_takes_them():
    """In the order of the slots, each with its name; nobody's is left out."""
    scene = Scene(*[{"": 100e3}] * 30)
    for of in scene.layers:
        of.clock = SenderClock(7 << 32, 0, scene.now)
    scene.run(0.5)
    scene.outlet.compounds.clear()
    scene.subscriptions.report(scene.now)
    compounds = scene.outlet.compounds
    assert len(compounds) == 2
    assert all(0 < len(compound) <= rtcp.MAX_COMPOUND for compound in compounds)
    reported = [said.ssrc for said in scene.outlet.take_rtcp() if isinstance(said, rtcp.SenderReport)]
    assert reported == [leg.sending.ssrc for leg in scene.subscriptions.legs.values()]


def test_sender_reports_are_frequent_at_first():
    """Each second until lips and voice are together; later two and a half and more go by."""
    scene, times = Scene(), []
    scene.layers[0].clock = SenderClock(1 << 32, 0, scene.now)
    scene.publish()
    for second in range(30):
        scene.subscriptions.report(scene.now + second)
        times += [second for said in scene.outlet.take_rtcp() if isinstance(said, rtcp.SenderReport)]
    assert times[:5] == [0, 1, 2, 3, 4]
    assert all(2.5 <= later - earlier <= 3 for earlier, later in itertools.pairwise(times[5:]))
    assert times[-1] >= 27


# Legs


def test_a_slot_that_is_negotiated_again_keeps_its_leg():
    scene = Scene()
    leg, plain = scene.leg, slot(mid="0", codecs=(THEIR_VP8,))
    scene.subscriptions.begin(plain, leg.sending)
    assert scene.leg is leg
    assert leg.section is plain


def test_slots_that_are_no_longer_there_end():
    """Their legs leave the fan-outs, and their SSRCs are nobody's; the others stay."""
    scene = Scene(CAMERA, CAMERA)
    other = scene.subscriptions.legs["1"]
    scene.subscriptions.end_all_but({"1", "2"})
    assert scene.subscriptions.legs == {"1": other}
    assert scene.layers[0].track.fan_out.legs == []
    assert [scene.subscriptions.leg_of(n) for n in (5000, 5001, 5010, 5011)] == [None, None, other, other]
    assert scene.layers[3].track.fan_out.legs == [other]


def test_closing_leaves_every_fan_out():
    scene = Scene(CAMERA, CAMERA)
    scene.subscriptions.close()
    assert [of.track.fan_out.legs for of in scene.layers] == 6 * [[]]
    assert [scene.subscriptions.leg_of(ssrc) for ssrc in (5000, 5011)] == [None, None]
