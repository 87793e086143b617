"""A link that does not take the lowest layer gets fewer frames of it, where its encoder tells them apart."""

import statistics

import pytest

from sfu.media.allocation import ALL, Extent, LayerOption, Wish, allocate
from sfu.media.negotiation import DEPENDENCY_DESCRIPTOR_URI
from sfu.media.packet import RtpPacket
from tests.unit.media.scene import rtp
from tests.unit.media.test_subscriptions import Scene
from tests.unit.media.test_thinning import Encoder

# Bytes of a frame of each temporal layer: 150 kbit/s at 30 frames a second, 40, 20 and 40 % of them.
SIZES = {0: 1000, 1: 500, 2: 500}
FPS = 30


class Camera(Scene):
    """One encoding of three temporal layers, or of one, as a browser sends it that describes its frames."""

    def __init__(self, rate: float, *, tells: bool = True) -> None:
        self.encoder, self.tells = Encoder(size=1), tells
        super().__init__({"": 150e3})
        self.rate = rate
        self.layer.track.extensions |= {9: DEPENDENCY_DESCRIPTOR_URI}
        self._frame_at = self._measure_at = self.now
        self.queues: list[float] = []

    @property
    def layer(self):
        return self.layers[0]

    def _film(self) -> list[RtpPacket]:
        self.queues.append(max(0.0, self._busy_until - self.now))
        if self.now >= self._measure_at:
            self._measure_at += 1
            self.layer.measure(self.now)
        if self.now < self._frame_at:
            return []
        self._frame_at += 1 / FPS
        of, is_key = self.layer, self.layer.keyframes.is_wanted
        frame = self.encoder.frame(key=is_key)
        (made,) = frame.packets
        payload = made.data[made.payload : made.end] if self.tells else bytes((0x10, not is_key))
        packet = rtp(
            made.sequence,
            payload + bytes(SIZES[frame.temporal] - len(payload)),
            timestamp=made.timestamp,
            marker=1,
        )
        if is_key:
            of.keyframes.arrived()
        of.last_packet_at = self.now
        of.reception.receive(packet.sequence, packet.timestamp, len(packet.data), self.now)
        of.history.add(packet, self.now)
        of.track.forward(of, packet, self.now)
        return self.outlet.take_sent()

    def shown(self, seconds: float) -> tuple[float, float]:
        """Frames in a second that go out from now on for so long, and the median of the queue in seconds."""
        self.sent.clear()
        self.queues.clear()
        self.run(seconds)
        frames = {packet.timestamp for packet in self.sent if packet.ssrc == 5000}
        return len(frames) / seconds, statistics.median(self.queues)


@pytest.mark.parametrize(("rate", "fps"), [(125e3, 15), (85e3, 7.5)])
def test_where_the_lowest_layer_is_too_much_there_are_fewer_frames(rate, fps):
    """As many as there is room for; and only probes stand in the queue."""
    scene = Camera(rate)
    scene.run(25)
    seen, queue = scene.shown(10)
    assert seen == pytest.approx(fps, rel=0.1)
    assert queue < 0.1
    assert scene.allotted == [""]
    assert scene.leg.is_limited


def test_a_link_that_becomes_wide_gets_all_frames_again():
    """Without a keyframe."""
    scene = Camera(100e3)
    scene.run(25)
    assert scene.shown(5)[0] < 20
    asked = scene.wishes.sent()
    scene.rate = 2e6
    scene.run(40)
    assert scene.shown(5)[0] == pytest.approx(FPS, rel=0.05)
    assert scene.leg.extent == ALL
    assert not scene.leg.is_limited
    assert scene.wishes.sent() == asked


def test_what_is_not_told_apart_is_paused_as_it_was():
    """An encoder that makes one layer is found out after three seconds; a picture that does not fit stops."""
    scene = Camera(85e3, tells=False)
    scene.run(20)
    seen, _ = scene.shown(8)
    assert seen < FPS * 0.6
    assert scene.layer.scalability.thinner(is_described=True) == []


def test_frames_of_a_wide_link_are_never_looked_at():
    """Nobody wants fewer, so nothing is prepared for it."""
    scene = Camera(5e6)
    scene.run(10)
    assert scene.shown(5)[0] == pytest.approx(FPS, rel=0.05)
    assert not scene.layer.is_listened_to


LOW = (
    LayerOption("q", 60e3, 320, 180, Extent(0)),
    LayerOption("q", 90e3, 320, 180, Extent(1)),
    LayerOption("q", 150e3, 320, 180),
    LayerOption("h", 500e3, 640, 360),
)


def test_everybody_moves_before_anybody_is_sharp():
    """Each step costs what it adds; whoever has fewer frames is limited."""
    wishes = [Wish(str(mid), LOW) for mid in range(3)]
    found = allocate(200e3, wishes)
    assert found.layers == {"0": "q", "1": "q", "2": "q"}
    assert found.extents == dict.fromkeys("012", Extent(0))
    assert found.limited == {"0", "1", "2"}
    assert found.next_bps == pytest.approx(1.1 * (180e3 + 30e3))
    found = allocate(500e3, wishes)
    assert found.extents == dict.fromkeys("012", ALL)
    assert found.limited == {"0", "1", "2"}


def test_what_is_shown_needs_no_room_to_spare():
    """With every frame shown it stays; with fewer, all of them must fit with room."""
    assert allocate(155e3, [Wish("0", LOW, shown="q")]).extents == {"0": ALL}
    assert allocate(155e3, [Wish("0", LOW, shown="q", extent=Extent(1))]).extents == {"0": Extent(1)}
    assert allocate(170e3, [Wish("0", LOW, shown="q", extent=Extent(1))]).extents == {"0": ALL}


def test_a_small_window_has_all_frames_of_the_lowest_layer():
    """Its size is met by fewer frames as well, but nobody asked for fewer."""
    found = allocate(2e6, [Wish("0", LOW, max_width=160, max_height=90)])
    assert (found.layers, found.extents, found.limited) == ({"0": "q"}, {"0": ALL}, frozenset())


def test_the_least_is_the_fewest_frames():
    """Only then may somebody be paused."""
    wish = Wish("0", LOW)
    assert allocate(50e3, [wish]).gives_least(wish)
    assert allocate(10e3, [wish]).gives_least(wish)
    assert not allocate(120e3, [wish]).gives_least(wish)
    assert not allocate(200e3, [wish]).gives_least(wish)
