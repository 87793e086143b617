"""Spatial layers of one encoding: who wants a smaller picture gets what it needs, and nothing else.

The encoder here numbers and describes its frames as libwebrtc does in the modes L3T3 and L3T3_KEY.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings, strategies as st

from sfu.media.allocation import ALL, Extent, Wish, allocate
from sfu.media.leg import Leg
from sfu.media.negotiation import DEPENDENCY_DESCRIPTOR_URI
from sfu.media.packet import RtpPacket
from sfu.media.picture_ids import NOTHING_TOLD, describe
from sfu.media.scalability import Scalability
from sfu.media.thinning import WHOLE, Thinning
from tests.unit.media.scene import (
    SENDING,
    THEIR_VP9,
    THEIR_VP9_RTX,
    VP9,
    VP9_RTX,
    Outlet,
    Wishes,
    layer,
    rtp,
    slot,
    track,
)
from tests.unit.media.test_dependency import bits
from tests.unit.media.test_subscriptions import Scene

NAMED = {9: DEPENDENCY_DESCRIPTOR_URI}
SIZES = ((320, 180), (640, 360), (1280, 720))
# The temporal layers of four pictures, and how many pictures back those stand that they need.
PATTERN = ((0, 4), (2, 1), (1, 2), (2, 1))
# Bytes of a picture of each spatial layer, at 30 in a second: 120, 360 and 960 kbit/s.
BYTES = (500, 1500, 4000)
FPS = 30


@dataclass
class Frame:
    """The picture of one spatial layer."""

    number: int
    spatial: int
    temporal: int
    needs: frozenset[int]
    packets: list[RtpPacket] = field(default_factory=list)


class Encoder:
    """Publishes three spatial and three temporal layers, numbered from somewhere."""

    def __init__(self, *, nested: bool, sizes: tuple[int, ...] = (2, 2, 2), size: int = 20) -> None:
        self.nested, self.packets_of, self.bytes = nested, sizes, size
        self.sequence, self.picture, self.key = 65_400, 0, 0
        # The highest spatial layer that is sent.
        self.highest = 2

    def film(self, *, key: bool = False) -> list[Frame]:
        """Return the frames of the next picture, the smallest first."""
        if key or self.picture == 0:
            self.key = self.picture
        place = (self.picture - self.key) % len(PATTERN)
        temporal, back = PATTERN[place]
        is_key, number = self.picture == self.key, 3 * self.picture + 65_000
        frames = []
        for spatial in range(self.highest + 1):
            needs = [] if is_key else [3 * back]
            if spatial and (is_key or self.nested):
                needs.append(1)
            found = frozenset(number + spatial - need for need in needs)
            frames.append(Frame(number + spatial, spatial, temporal, found))
            self._packetize(frames[-1], needs, is_key=is_key)
        self.picture += 1
        return frames

    def _packetize(self, frame: Frame, needs: list[int], *, is_key: bool) -> None:
        count = self.packets_of[frame.spatial]
        template = 4 * frame.spatial + (0 if is_key else 1 + frame.temporal)
        for index in range(count):
            is_last = index == count - 1
            fields = [(index == 0, 1), (is_last, 1), (template, 6), (frame.number & 0xFFFF, 16)]
            # Only the first packet of a keyframe brings the structure; all name what they need.
            has_structure = is_key and frame.spatial == 0 and index == 0
            fields += [(has_structure, 1), (0, 2), (1, 1), (0, 1)]
            fields += self._structure() if has_structure else []
            fields += [part for need in needs for part in ((2, 2), (need - 1, 8))]
            flags = 0xA0 | 0x08 * (index == 0) | 0x40 * (not is_key)
            head = bytes((flags, 0x80 | self.picture >> 8, self.picture & 0xFF))
            head += bytes((frame.temporal << 5 | frame.spatial << 1, 0))
            elements = [(9, bits(*fields, (0, 2)))]
            if len(elements[0][1]) > 16:
                elements.append((10, bytes(20)))  # then both are of the long form
            self.sequence += 1
            frame.packets.append(
                rtp(
                    self.sequence,
                    head + bytes(max(0, self.bytes - len(head))),
                    payload_type=98,
                    timestamp=3000 * self.picture,
                    marker=int(is_last and frame.spatial == self.highest),
                    elements=elements,
                )
            )

    def _structure(self) -> list[tuple[int, int]]:
        places = [(s, t) for s in range(3) for t in range(3)]
        # Of each spatial layer one template for a keyframe, and one for each temporal layer.
        templates = [(s, t, t_at == 0) for s in range(3) for t_at, t in enumerate((0, 0, 1, 2))]
        fields = [(0, 6), (len(places) - 1, 5)]
        fields += [(step, 2) for step in (0, 1, 1, 2, 0, 1, 1, 2, 0, 1, 1, 3)]
        for spatial, temporal, is_key in templates:
            for above, faster in places:
                is_needed = spatial == above or (spatial < above and (is_key or self.nested))
                fields.append((2 * (is_needed and temporal <= faster), 2))
        for spatial, _, is_key in templates:
            fields += [(0, 1)] if is_key and spatial == 0 else [(1, 1), (0, 4), (0, 1)]
        fields += [(0, 3), (1, 1)]  # no chains; sizes
        return fields + [(side - 1, 16) for size in SIZES for side in size]


class Viewer:
    """A receiver of it, and what a decoder makes of what he gets."""

    def __init__(self, *, nested: bool) -> None:
        self.outlet, self.wishes = Outlet(), Wishes()
        self.track = track(self.wishes, codecs=(VP9, VP9_RTX))
        self.track.extensions = dict(NAMED)
        self.layer = layer(self.track)
        self.leg = Leg(slot(codecs=(THEIR_VP9, THEIR_VP9_RTX)), SENDING, self.outlet, 100)
        self.leg.attach(self.track, 0.0)
        self.encoder, self.now = Encoder(nested=nested), 0.0
        self.decoded: set[int] = set()
        self.sent: list[RtpPacket] = []
        # Of each picture that came: (spatial layers, temporal layer).
        self.pictures: list[tuple[tuple[int, ...], int]] = []

    def film(self) -> None:
        """Publish a picture, and take what comes of it."""
        is_key = self.layer.keyframes.is_wanted or not self.encoder.picture
        came, temporal = [], 0
        for frame in self.encoder.film(key=is_key):
            for packet in frame.packets:
                if is_key and packet is frame.packets[0]:
                    self.layer.keyframes.arrived()
                    self.layer.note_keyframe("vp9", packet, self.now)
                self.layer.last_packet_at = self.now
                self.layer.history.add(packet, self.now)
                self.layer.reception.receive(packet.sequence, packet.timestamp, len(packet.data), self.now)
                self.track.forward(self.layer, packet, self.now)
            out = self.outlet.take_sent()
            assert len(out) in (0, len(frame.packets)), "a part of a frame, or one twice"
            if out:
                lacking = frame.needs - self.decoded
                assert not lacking, f"frame {frame.number} of layer {frame.spatial} lacks {lacking}"
                self.decoded.add(frame.number)
                self.sent += out
                came.append(frame.spatial)
                temporal = frame.temporal
        if came:
            self.pictures.append((tuple(came), temporal))
        self.now += 1 / FPS

    def second(self, extent: Extent = ALL, max_fps: int | None = None) -> list[tuple[tuple[int, ...], int]]:
        """Let a second pass; return what came in it."""
        before = len(self.pictures)
        self.layer.measure(self.now)
        self.leg.max_fps = max_fps
        self.leg.allot("", self.now, extent=extent)
        for _ in range(FPS):
            self.film()
        return self.pictures[before:]

    def is_continuous(self) -> bool:
        """Tell whether numbers go on by one, each picture ends with a mark, and ids are the publisher's."""
        sequences = [(packet.sequence - 100) & 0xFFFF for packet in self.sent]
        ends = [a.timestamp != b.timestamp for a, b in zip(self.sent, self.sent[1:], strict=False)]
        marks = [bool(packet.marker) for packet in self.sent[:-1]]
        ids = {p.timestamp // 3000 - describe(p.peek(6), "vp9").picture_id for p in self.sent}
        return sequences == list(range(len(sequences))) and marks == ends and len(ids) == 1


@pytest.mark.parametrize("nested", [True, False])
def test_each_size_is_sent_without_the_larger_ones(nested):
    """In L3T3_KEY without the smaller ones either: only a keyframe has all."""
    viewer = Viewer(nested=nested)
    viewer.second()
    for spatial in (2, 1, 0, 2, 0, 1):
        viewer.second(Extent(None, spatial))
        came = viewer.second(Extent(None, spatial))
        assert {layers for layers, _ in came} == {tuple(range(spatial + 1)) if nested else (spatial,)}
        assert [temporal for _, temporal in came].count(2) == FPS // 2
    assert viewer.is_continuous()


def test_a_smaller_picture_begins_without_a_keyframe_where_it_was_there_all_the_time():
    """A larger one needs one, and so does any other in L3T3_KEY."""
    for nested in (True, False):
        viewer = Viewer(nested=nested)
        viewer.second()
        viewer.second(Extent(None, 2))
        viewer.second(Extent(None, 2))
        before = viewer.wishes.sent()
        viewer.second(Extent(None, 1))
        assert viewer.wishes.sent() - before == (0 if nested else 1)
        viewer.second(Extent(None, 2))
        assert viewer.wishes.sent() - before == (1 if nested else 2)


EXTENTS = st.builds(Extent, st.sampled_from([None, None, 0, 1]), st.sampled_from([None, 0, 1, 2]))


@settings(max_examples=40)
@given(
    nested=st.booleans(), wishes=st.lists(st.tuples(EXTENTS, st.sampled_from([None, 0, 8, 16])), max_size=10)
)
def test_whatever_is_wanted_every_frame_has_what_it_needs(nested, wishes):
    """Size and rate may change at once, and at any picture."""
    viewer = Viewer(nested=nested)
    viewer.second()
    for index, (extent, max_fps) in enumerate(wishes):
        viewer.second(extent, max_fps)
        for _ in range(index % 7):
            viewer.film()
    assert viewer.is_continuous()


@pytest.mark.parametrize("nested", [True, False])
def test_a_layer_that_stays_away_is_not_waited_for(nested):
    """The encoder has no bits for the largest picture; later it has them again."""
    viewer = Viewer(nested=nested)
    viewer.second()
    viewer.second(Extent(None, 2))
    viewer.encoder.highest = 1
    viewer.second(Extent(None, 2))
    viewer.second(Extent(None, 2))
    came = viewer.second(Extent(None, 2))
    assert len(came) == FPS
    assert all(layers[-1] == 1 for layers, _ in came)
    assert [option.extent.spatial for option in viewer.track.options(viewer.now)[-2:]] == [0, 1]
    viewer.encoder.highest = 2  # begins with a keyframe, unasked
    viewer.layer.keyframes.want(viewer.now)
    viewer.second(Extent(None, 2))
    assert all(layers[-1] == 2 for layers, _ in viewer.second(Extent(None, 2)))


def test_what_may_be_of_the_picture_that_is_shown_is_waited_for():
    """Lost between a smaller picture, which is left out, and the larger one: of either."""
    encoder, part = Encoder(nested=False), Thinning(WHOLE, 2)
    known = Scalability()

    def take(packet: RtpPacket) -> RtpPacket | None:
        known.tell(packet, dict(packet.extensions())[9], known.told)
        return part.take(packet, known.told, NOTHING_TOLD)

    for frame in encoder.film():
        for packet in frame.packets:
            assert take(packet) is not None
    _, middle, largest = encoder.film()
    first, second = largest.packets
    taken = [take(packet) for packet in [*middle.packets[:1], second, first, middle.packets[1]]]
    assert taken[0] is None
    numbers = [packet.sequence for packet in taken if packet is not None]
    # The second of the middle one and the first of the largest were missing: both keep a number.
    assert numbers == [numbers[0], numbers[0] - 1, numbers[0] - 2]
    assert [packet.end > packet.payload for packet in taken if packet is not None] == [True, True, False]


def test_a_layer_for_which_there_are_no_bits_is_no_choice():
    """Chromium 156, AV1 in L2T1: the encoder says when it begins to send the larger picture."""
    known, packet = Scalability(), rtp()
    assert known.tell(packet, bytes.fromhex("c10001c00123ba22891820d21001111813f80b3827f8167a"), known.told)
    assert (known.spatial_layers, known.highest) == (2, 0)
    assert not known.tell(packet, bytes.fromhex("c000021a000800"), known.told)
    assert known.tell(packet, bytes.fromhex("c000035e800202"), known.told)
    assert known.highest == 1


@settings(max_examples=150)
@given(
    layers=st.lists(st.sampled_from([0, 1, 2]), max_size=12),
    needs=st.lists(st.booleans(), min_size=13, max_size=13),
    uses=st.lists(st.integers(0, 2**4 - 1), min_size=13, max_size=13),
    has_sizes=st.booleans(),
    values=st.lists(st.binary(min_size=3, max_size=12), max_size=12),
)
@example(layers=[2, 2], needs=[False] + 12 * [True], uses=[15, 3, *11 * [0]], has_sizes=False, values=[])
def test_whatever_is_described_there_are_choices(layers, needs, uses, has_sizes, values):
    """A publisher says what he likes: of two decode targets, with or without sizes."""
    fields = [(1, 1), (1, 1), (0, 6), (7, 16), (1, 1), (0, 4), (0, 6), (1, 5)]
    fields += [(step, 2) for step in [*layers, 3]]
    count = len(layers) + 1
    fields += [(use, 4) for use in uses[:count]]
    fields += [part for need in needs[:count] for part in ([(1, 1), (0, 4), (0, 1)] if need else [(0, 1)])]
    fields += [(0, 1), (has_sizes, 1)] + [(9, 16)] * 2 * (layers.count(2) + 1) * has_sizes
    viewer = Viewer(nested=True)
    viewer.layer.listen(0.0)
    for at, value in enumerate([bits(*fields), *values, *(bytes((0xC0 | n, 0, n)) for n in range(count))]):
        elements = [(9, value), (10, bytes(20))]
        packet = rtp(at, b"\x08", payload_type=98, timestamp=at, elements=elements)
        viewer.track.forward(viewer.layer, packet, at / 30)
        assert viewer.track.options(at / 30)
        viewer.leg.allot("", at / 30, extent=Extent(None, at % 4))
    viewer.layer.measure(100.0)
    viewer.layer.measure(101.0)
    assert viewer.track.options(101.0)


def test_what_each_size_costs_is_measured():
    """And which size it is stands in the descriptor."""
    for nested, costs in ((True, (500, 2000, 6000)), (False, (500, 1500, 4000))):
        viewer = Viewer(nested=nested)
        viewer.encoder.packets_of, viewer.encoder.bytes = (1, 3, 8), 500
        for _ in range(6):
            viewer.second(Extent(None, 2))
        options = viewer.track.options(viewer.now)
        whole = [option for option in options if option.extent.temporal is None]
        assert [(option.width, option.height) for option in whole] == list(SIZES)
        assert [option.bitrate_bps for option in whole] == pytest.approx(
            [size * 8 * FPS for size in costs], rel=0.15
        )
        assert [option.extent for option in options[:2]] == [Extent(0, 0), Extent(1, 0)]
        assert options[0].bitrate_bps < options[1].bitrate_bps < options[2].bitrate_bps


def test_nothing_is_made_of_several_streams_in_one():
    """S2T1: pictures of which none needs another go together."""
    encoder = Encoder(nested=False)
    fields = [(1, 1), (0, 1), (0, 6), (7, 16), (1, 1), (0, 4), (0, 6), (1, 5), (2, 2), (3, 2)]
    fields += [(2, 2), (0, 2), (0, 2), (2, 2), (0, 1), (0, 1), (0, 2), (0, 1)]
    known = Scalability()
    packet = encoder.film()[0].packets[0]
    assert not known.tell(packet, bits(*fields), known.told)
    assert known.told.temporal == 0
    assert known.spatial_layers == 1
    assert known.share(WHOLE) == 1


def test_nobody_takes_a_part_and_it_is_gone():
    """Its history of packets is the memory of it."""
    viewer = Viewer(nested=True)
    for _ in range(3):
        viewer.second(Extent(None, 1))
    assert list(viewer.layer.parts) == [(1, WHOLE)]
    for _ in range(13):
        viewer.second(Extent(None, 2))
    assert viewer.layer.parts == {}
    assert viewer.leg.layer is viewer.layer


def test_a_repeat_of_a_part_is_what_was_sent():
    viewer = Viewer(nested=True)
    for _ in range(3):
        viewer.second(Extent(None, 1))
    last = viewer.sent[-1]
    assert last.marker
    viewer.leg.repeat([last.sequence], viewer.now)
    (again,) = viewer.outlet.take_sent()
    assert (again.marker, again.data[again.payload + 2 :]) == (1, last.data[last.payload :])


class Camera(Scene):
    """One encoding of three sizes as a browser publishes it, and one receiver behind a link."""

    def __init__(self, rate: float, *, nested: bool) -> None:
        self.encoder = Encoder(nested=nested, sizes=(1, 2, 4), size=1000)
        super().__init__({"": 1.44e6}, codecs=(THEIR_VP9, THEIR_VP9_RTX))
        self.rate = rate
        made = self.layers[0].track
        made.codecs, made.extensions = {98: VP9, 99: VP9_RTX}, dict(NAMED)
        self.leg.format_changed(self.now)
        self._frame_at = self._measure_at = self.now
        self.shown: list[tuple[float, int]] = []

    def _film(self) -> list[RtpPacket]:
        of = self.layers[0]
        if self.now >= self._measure_at:
            self._measure_at += 1
            of.measure(self.now)
        if self.now < self._frame_at:
            return []
        self._frame_at += 1 / FPS
        is_key, left = of.keyframes.is_wanted, []
        for frame in self.encoder.film(key=is_key):
            for packet in frame.packets:
                if is_key and packet is frame.packets[0]:
                    of.keyframes.arrived()
                    of.note_keyframe("vp9", packet, self.now)
                of.last_packet_at = self.now
                of.reception.receive(packet.sequence, packet.timestamp, len(packet.data), self.now)
                of.history.add(packet, self.now)
                of.track.forward(of, packet, self.now)
            out = self.outlet.take_sent()
            if any(packet.ssrc == 5000 for packet in out):
                self.shown.append((self.now, frame.spatial))
            left += out
        return left

    def sizes(self, seconds: float) -> list[int]:
        """Return the sizes that go out from now on for so long, each once, the latest last."""
        self.shown.clear()
        self.run(seconds)
        pictures: dict[float, int] = {}
        for at, spatial in self.shown:
            pictures[at] = max(spatial, pictures.get(at, 0))
        return list(dict.fromkeys(reversed(pictures.values())))[::-1]


@pytest.mark.parametrize("nested", [True, False])
def test_a_link_gets_the_size_that_it_takes(nested):
    """As with layers of their own; and a larger one when it is wider."""
    scene = Camera(5e6, nested=nested)
    scene.run(15)
    assert scene.sizes(3) == [2]
    scene.rate = 900e3
    scene.run(12)
    assert scene.sizes(5) == [1]
    scene.rate = 400e3
    scene.run(12)
    assert scene.sizes(5) == [0]
    assert scene.leg.is_limited
    scene.rate = 5e6
    scene.run(25)
    assert scene.sizes(3) == [2]
    assert not scene.leg.is_limited


def test_on_a_link_that_became_narrow_a_smaller_picture_begins_anew():
    """Something of the one before fell out of the full queue: what it needs may not have come."""
    scene = Camera(5e6, nested=True)
    scene.run(15)
    before = scene.wishes.sent()
    scene.rate = 300e3
    scene.run(3)
    assert scene.leg.layer is not None
    assert scene.leg.layer.spatial == 0
    assert scene.wishes.sent() > before


def test_sizes_are_steps_of_the_allocator():
    """What is shown needs no room to spare, and a small window no larger one."""
    viewer = Viewer(nested=True)
    for _ in range(4):
        viewer.second(Extent(None, 2))
    options = viewer.track.options(viewer.now)
    of_size = {option.extent: option.bitrate_bps for option in options}
    middle = of_size[Extent(None, 1)]
    shown = Wish("0", options, shown="", extent=Extent(None, 1))
    assert allocate(middle * 1.05, [shown]).extents == {"0": Extent(None, 1)}
    assert allocate(middle * 1.05, [Wish("0", options)]).extents == {"0": Extent(None, 0)}
    assert allocate(1e9, [Wish("0", options, max_width=600, max_height=340)]).extents == {
        "0": Extent(None, 1)
    }
    assert allocate(1e9, [Wish("0", options)]).limited == frozenset()
