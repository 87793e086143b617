"""Video for a narrow link goes out as the link takes it, and nothing of it is lost, late or out of order."""

import pytest
from hypothesis import given, strategies as st

from sfu.media.negotiation import Sending
from sfu.media.pacing import MAX_WAIT_S, MAX_WAITING, PACE, Pacer
from tests.unit.media.receivers import Peer as Receiver, RowPort
from tests.unit.media.scene import ALL_EXTENSIONS, OPUS, layer, rtp, slot, track
from tests.unit.media.test_subscriptions import CAMERA, Scene

TICK_S = 0.02


def nobody(_at: float) -> None:
    """Wake nobody."""


class Paced:
    """A pacer that is asked each 20 ms, and what came out of it when."""

    def __init__(self, rate_bps: float) -> None:
        self.pacer: Pacer[int] = Pacer(nobody)
        self.pacer.rate_bps = rate_bps
        self.now = 50.0
        self.sizes: list[int] = []
        self.out: list[tuple[float, int]] = []
        self.came: list[float] = []

    def send(self, size: int) -> None:
        self.sizes.append(size)
        self.came.append(self.now)
        if self.pacer.takes(size, self.now):
            self.out.append((self.now, len(self.sizes) - 1))
        else:
            self.pacer.wait(len(self.sizes) - 1, size, self.now)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            self.out += [(self.now, item) for item in self.pacer.due(self.now)]

    def most_in(self, seconds: float) -> int:
        """The most bytes that went out in any stretch of so long."""
        return max(
            sum(self.sizes[item] for at, item in self.out if begin <= at <= begin + seconds)
            for begin, _ in self.out
        )


@given(
    st.floats(30e3, 20e6),
    st.lists(st.tuples(st.integers(20, 1200), st.sampled_from([0, 0, 0, 0, 1, 2, 5])), max_size=300),
)
def test_everything_comes_out_once_in_order_and_in_time(rate_bps, packets):
    """However much it is."""
    paced = Paced(rate_bps)
    for size, ticks in packets:
        paced.send(size)
        paced.run(ticks * TICK_S)
    paced.run(MAX_WAIT_S + 2 * TICK_S)
    assert [item for _, item in paced.out] == list(range(len(packets)))
    assert not paced.pacer.is_waiting
    for at, item in paced.out:
        assert at - paced.came[item] <= MAX_WAIT_S + TICK_S + 1e-9


@given(st.floats(200e3, 20e6), st.integers(2, 100))
def test_what_comes_at_once_goes_out_at_the_rate(rate_bps, count):
    """As far as it takes no longer than anything may wait; not faster, and not much slower."""
    paced = Paced(rate_bps)
    for _ in range(count):
        paced.send(1200)
    paced.run(1)
    most = max(rate_bps / 8 * 0.03, 1500) + 1200
    takes_s = (count * 1200 - most) * 8 / rate_bps
    if takes_s < MAX_WAIT_S - TICK_S:
        for seconds in (0.02, 0.06, 0.1, 0.2):
            assert paced.most_in(seconds) <= most + rate_bps / 8 * (seconds + TICK_S) + 1200
        assert paced.out[-1][0] - 50 <= max(0.0, takes_s) + 3 * TICK_S


def test_what_is_sent_again_goes_before_and_counts():
    """Both together are not more than the link takes; what is owed is owed for a tenth of a second."""
    paced = Paced(400e3)
    paced.send(100)
    paced.pacer.spend(2_500, paced.now)
    paced.send(1000)
    assert [item for _, item in paced.out] == [0]
    paced.run(0.02)
    assert len(paced.out) == 1
    paced.run(0.04)
    assert len(paced.out) == 2
    paced.pacer.spend(10**6, paced.now)
    paced.send(1000)
    paced.run(0.08)
    assert len(paced.out) == 2
    paced.run(0.06)
    assert len(paced.out) == 3


def test_no_more_waits_than_may():
    """The oldest goes out."""
    paced = Paced(10e3)
    for _ in range(MAX_WAITING + 100):
        paced.send(1000)
    paced.run(TICK_S)
    assert len(paced.out) >= 100
    assert [item for _, item in paced.out] == list(range(len(paced.out)))


def test_who_waits_is_looked_after():
    """From the first one on."""
    woken: list[float] = []
    pacer: Pacer[int] = Pacer(woken.append)
    pacer.rate_bps = 100e3
    assert pacer.takes(10_000, 1.0)
    assert not pacer.takes(10, 1.0)
    pacer.wait(1, 10, 1.0)
    pacer.wait(2, 10, 1.0)
    assert woken == [1.0]


class Narrow(Scene):
    """A link of 300 kbit/s on which the lowest layer is shown, and how long its queue was since."""

    def __init__(self, *tracks: dict[str, float]) -> None:
        super().__init__(*(tracks or (CAMERA,)))
        self.rate = 300e3
        self.run(8)
        assert self.allotted[0] == "q"
        assert self.leg.layer is not None
        assert self.leg.layer.rid == "q"
        for of in self.layers:
            of.bitrate_bps = 0.0  # only what a test publishes
        self.run(1)
        self.sent.clear()
        self.queues: list[float] = []

    def _carry(self, packets) -> None:
        super()._carry(packets)
        if hasattr(self, "queues"):
            self.queues.append(max(0.0, self._busy_until - self.now))

    def burst(self, count: int) -> None:
        """Publish so many packets of the lowest layer at once."""
        for _ in range(count):
            self._carry(self.publish(self.layers[0]))


def test_a_keyframe_does_not_stand_in_the_queue_of_a_narrow_link():
    """It would be there for a third of a second, and sound behind it."""
    scene = Narrow()
    first = scene.counts[scene.layers[0]]
    scene.burst(12)
    scene.run(0.5)
    assert len(scene.sent) == 12
    assert scene.counts[scene.layers[0]] - first == 12
    numbers = [packet.sequence for packet in scene.sent]
    assert numbers == list(range(numbers[0], numbers[0] + 12))
    assert max(scene.queues) < 0.12


def test_the_rate_is_that_of_the_link():
    """A little more, so that who is late catches up."""
    scene = Narrow()
    bandwidth = scene.subscriptions.bandwidth
    assert scene.subscriptions._pacer.rate_bps == pytest.approx(PACE * bandwidth.estimate_bps, rel=0.05)
    assert 150e3 < bandwidth.estimate_bps < 320e3


def test_on_a_wide_link_nothing_waits():
    """Not even while nobody knows how wide it is."""
    scene = Scene(CAMERA)
    for _ in range(40):
        assert len(scene.publish(scene.layers[0])) in (0, 1)
        assert not scene.subscriptions._pacer.is_waiting
    scene.run(5)
    assert not scene.subscriptions._pacer.is_on


def test_sound_does_not_wait():
    """It goes by what waits."""
    scene = Narrow()
    made = track(kind="audio", codecs=(OPUS,))
    voice = layer(made, "", 900, scene.now)
    sending = Sending(7000, 7001, "stream")
    section = slot(mid="7", kind="audio", codecs=(OPUS,), sending=sending, extensions=ALL_EXTENSIONS)
    scene.subscriptions.begin(section, sending)
    scene.subscriptions.legs["7"].attach(made, scene.now)
    scene.burst(12)
    assert scene.subscriptions._pacer.is_waiting
    made.fan_out.forward(voice, rtp(1, b"sound", payload_type=111, ssrc=900), scene.now)
    assert [packet.ssrc for packet in scene.outlet.take_sent()] == [7000]


def test_when_the_link_was_calm_for_long_nothing_waits_any_more():
    """What waited goes out, and legs may go in batches again."""
    scene = Narrow()
    scene.burst(12)
    scene.outlet.lane = Receiver(RowPort(), 1).lane
    assert scene.leg.lane() is None
    scene.subscriptions.bandwidth.congested_at = scene.now - 21
    scene.outlet.take_sent()
    waiting = 12 - len(scene.sent)
    assert waiting > 5
    scene.subscriptions.report(scene.now)
    assert len(scene.outlet.take_sent()) == waiting
    assert not scene.subscriptions._pacer.is_on
    assert scene.leg.lane() is not None


def test_what_waits_of_a_picture_that_was_given_up_goes_nowhere():
    """The link is full of it; it is counted."""
    scene = Narrow()
    scene.burst(12)
    waiting = 12 - len(scene.sent)
    scene.sent.clear()
    scene.leg.stop()
    scene.run(0.5)
    assert [packet for packet in scene.sent if packet.ssrc == 5000] == []
    assert scene.dropped["waited_in_vain"] == waiting


def test_what_waits_goes_before_what_another_layer_begins_with():
    """In one row of numbers, so that the receiver misses nothing."""
    scene = Narrow()
    scene.burst(12)
    waiting = 12 - len(scene.sent)
    scene.leg.allot("h", scene.now)
    scene.sent += scene.publish(scene.layers[1])
    assert waiting > 5
    scene.run(0.5)
    numbers = [packet.sequence for packet in scene.sent]
    assert numbers == list(range(numbers[0], numbers[0] + 13))
    assert not scene.subscriptions._pacer.is_waiting


def test_a_peer_that_goes_takes_what_waits_with_it():
    """Nothing is sent for it afterwards."""
    scene = Narrow()
    scene.burst(12)
    scene.outlet.take_sent()
    scene.subscriptions.close()
    scene.subscriptions.release(scene.outlet)
    scene.now += 1
    scene.subscriptions.handle_timer(scene.now)
    assert scene.outlet.take_sent() == []
