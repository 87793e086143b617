"""Fewer frames: what is left out leaves no hole, and what goes out can be decoded."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings, strategies as st

from sfu.media.leg import Leg
from sfu.media.packet import RtpPacket
from sfu.media.picture_ids import describe
from sfu.media.thinning import MAX_LATE, MAX_MISSING, WHOLE, Thinning
from tests.unit.media.scene import SENDING, Outlet, Wishes, layer, rtp, slot, track

# Temporal layer, what a frame needs by its place in the pattern (below zero: of the pattern before), and
# whether that is of the lowest layer only: as libvpx makes three temporal layers.
PATTERN = [
    (0, (-4,), False),
    (2, (0,), True),
    (1, (0,), True),
    (2, (0, 2), False),
    (0, (0,), False),
    (2, (4, 2), False),
    (1, (4, 2), False),
    (2, (4, 6), False),
]


@dataclass
class Frame:
    """One frame as it is published."""

    number: int
    temporal: int
    needs: frozenset[int]
    lowest: int
    packets: list[RtpPacket] = field(default_factory=list)


class Encoder:
    """Publishes frames of three temporal layers, numbered from somewhere."""

    def __init__(self, sequence: int = 65_500, picture: int = 0x7FF0, tl0: int = 250, size: int = 2):
        self.sequence, self.picture, self.tl0, self.size = sequence, picture, tl0, size
        self.count, self._since = 0, 0

    def frame(self, *, key: bool = False, bits: int = 15) -> Frame:
        if key:
            self._since = self.count
        place = (self.count - self._since) % 8
        temporal, needs, is_sync = PATTERN[place]
        first = self.count - place
        is_key = self.count == self._since
        self.tl0 += temporal == 0
        needed = frozenset() if is_key else frozenset(first + n for n in needs)
        made = Frame(self.count, temporal, needed, self.tl0)
        for index in range(self.size):
            head = bytes((0x90 if index == 0 else 0x80, 0xE0))
            head += (
                (0x8000 | self.picture & 0x7FFF).to_bytes(2, "big")
                if bits == 15
                else bytes((self.picture & 0x7F,))
            )
            head += bytes((self.tl0 & 0xFF, temporal << 6 | is_sync << 5))
            body = bytes((0 if is_key and index == 0 else 1,)) + b"%d" % self.count
            made.packets.append(
                rtp(
                    self.sequence,
                    head + body,
                    timestamp=3000 * self.count + 7,
                    marker=int(index == self.size - 1),
                )
            )
            self.sequence += 1
        self.count, self.picture = self.count + 1, self.picture + 1
        return made


def take(thinning: Thinning, packet: RtpPacket) -> RtpPacket | None:
    told = describe(packet.peek(6))
    return thinning.take(packet, told.frame, told)


@pytest.mark.parametrize("highest", [0, 1, 2])
@pytest.mark.parametrize("bits", [7, 15])
def test_what_is_left_out_leaves_no_hole(highest, bits):
    """Through every wrap of every number."""
    encoder, thinning = Encoder(), Thinning(highest)
    frames = [encoder.frame(bits=bits) for _ in range(300)]
    out = [taken for frame in frames for packet in frame.packets if (taken := take(thinning, packet))]
    kept = [packet for frame in frames if frame.temporal <= highest for packet in frame.packets]
    assert [p.timestamp for p in out] == [p.timestamp for p in kept]
    assert [p.sequence for p in out] == [(65_500 + n) & 0xFFFF for n in range(len(kept))]
    mask = 0x7FFF if bits == 15 else 0x7F
    assert [describe(p.peek(6)).picture_id for p in out] == [
        (0x7FF0 + n // 2) & mask for n in range(len(kept))
    ]
    assert [describe(p.peek(6)).tl0_index for p in out] == [describe(p.peek(6)).tl0_index for p in kept]
    assert [(p.marker, p.data[p.payload + 6 - (bits == 7) :]) for p in out] == [
        (p.marker, p.data[p.payload + 6 - (bits == 7) :]) for p in kept
    ]


@settings(max_examples=60)
@given(
    highest=st.integers(0, 1),
    fates=st.lists(st.sampled_from(["ok", "ok", "ok", "lost", "late", "twice"]), max_size=120),
)
def test_whatever_is_lost_or_late_goes_out_once_under_its_own_number(highest, fates):
    encoder, thinning = Encoder(), Thinning(highest)
    packets = [p for _ in range(60) for p in encoder.frame().packets]
    arriving: list[RtpPacket] = []
    waiting: list[tuple[int, RtpPacket]] = []
    for index, packet in enumerate(packets):
        # With the first one it begins.
        fate = fates[index] if 0 < index < len(fates) else "ok"
        arriving += [packet] * {"ok": 1, "lost": 0, "late": 0, "twice": 2}[fate]
        if fate == "late":
            waiting.append((index + 9, packet))
        arriving += [p for due, p in waiting if due == index]
    places = {p.sequence: index for index, p in enumerate(packets)}
    out = [(places[p.sequence], p, taken) for p in arriving if (taken := take(thinning, p))]
    # What is wanted and came goes out once, whole; anything else only says that it is no loss.
    wanted = {places[p.sequence] for p in arriving if describe(p.peek(6)).frame.temporal <= highest}
    whole = [place for place, _, taken in out if taken.end > taken.payload]
    assert Counter(whole) == Counter(wanted)
    # In the order of the source, whenever it came.
    by_place = sorted(out, key=lambda found: found[0])
    numbers = [(taken.sequence - by_place[0][2].sequence) & 0xFFFF for _, _, taken in by_place]
    assert numbers == sorted(set(numbers))
    pictures: dict[int, set[int]] = {}
    for _, packet, taken in out:
        if taken.end > taken.payload:
            pictures.setdefault(packet.timestamp, set()).add(describe(taken.peek(6)).picture_id)
    assert all(len(ids) == 1 for ids in pictures.values())


def test_within_a_frame_that_is_left_out_nothing_is_waited_for():
    encoder, thinning = Encoder(size=5), Thinning(0)
    first, left_out, _, _, next_ = (encoder.frame() for _ in range(5))
    out = [take(thinning, p) for p in [*first.packets, left_out.packets[0], left_out.packets[4]]]
    before = out[4].sequence
    assert out[5:] == [None, None]
    assert take(thinning, left_out.packets[2]) is None
    # The two frames between were lost: their numbers are kept.
    assert take(thinning, next_.packets[0]).sequence == (before + 11) & 0xFFFF


def test_a_source_that_jumps_is_followed():
    encoder, thinning = Encoder(), Thinning(0)
    take(thinning, encoder.frame().packets[0])
    for jump in (MAX_MISSING + 100, -MAX_LATE - 100):
        encoder.sequence += jump
        assert take(thinning, encoder.frame(key=True).packets[0]) is not None


class Viewer:
    """A receiver who wants some frames a second, and what a decoder makes of what he gets."""

    def __init__(self) -> None:
        self.outlet = Outlet()
        self.track = track(Wishes())
        self.layer = layer(self.track)
        self.leg = Leg(slot(), SENDING, self.outlet, 100)
        self.leg.attach(self.track, 0.0)
        self.encoder, self.now = Encoder(), 0.0
        # Frames that were decoded, and every packet that came.
        self.decoded: set[int] = set()
        self.packets: list[RtpPacket] = []
        # Of each packet how many frames of the lowest layer there were.
        self.lowest: list[int] = []

    def second(self, max_fps: int | None, *, frames: int = 32) -> int:
        """Let a second pass; return how many frames came in it."""
        self.leg.max_fps = max_fps
        self.layer.measure(self.now)
        self.leg.allot("", self.now)
        came = 0
        for _ in range(frames):
            frame = self.encoder.frame(key=not self.decoded and not self.packets)
            for packet in frame.packets:
                self.layer.last_packet_at = self.now
                self.layer.history.add(packet, self.now)
                self.track.forward(self.layer, packet, self.now)
            sent = self.outlet.take_sent()
            assert len(sent) in (0, len(frame.packets)), "a part of a frame, or one twice"
            if sent:
                assert frame.needs <= self.decoded, f"frame {frame.number} lacks {frame.needs - self.decoded}"
                self.decoded.add(frame.number)
                self.packets += sent
                self.lowest += [frame.lowest] * len(sent)
                came += 1
            self.now += 1 / frames
        return came

    def is_continuous(self) -> bool:
        """Tell whether numbers go on by one, and media time as the publisher's."""
        told = [describe(p.peek(6)) for p in self.packets]
        sequences = [(p.sequence - 100) & 0xFFFF for p in self.packets]
        pictures = [(d.picture_id - told[0].picture_id) & 0x7FFF for d in told]
        times = [(p.timestamp - self.packets[0].timestamp) & 0xFFFFFFFF for p in self.packets]
        tl0s = {(d.tl0_index - count) & 0xFF for d, count in zip(told, self.lowest, strict=True)}
        return (
            len(tl0s) == 1
            and sequences == list(range(len(sequences)))
            and pictures == [n // 2 for n in range(len(pictures))]
            and times == [3000 * number for number in sorted(self.decoded) for _ in range(2)]
        )


def test_a_viewer_gets_so_many_frames_as_he_wants_and_all_again():
    viewer = Viewer()
    assert viewer.second(None) == 32
    viewer.second(8)  # it is measured what there is
    viewer.second(8)
    assert viewer.second(8) == 8
    viewer.second(16)
    assert viewer.second(16) == 16
    viewer.second(None)
    assert viewer.second(None) == 32
    assert viewer.leg.layer is viewer.layer
    assert viewer.is_continuous()
    assert viewer.track._request_keyframe.sent() <= 1


@settings(max_examples=60)
@given(wishes=st.lists(st.sampled_from([None, 0, 8, 16]), min_size=8, max_size=24))
def test_whatever_he_wants_every_frame_has_what_it_needs(wishes):
    viewer = Viewer()
    for max_fps in wishes:
        viewer.second(max_fps, frames=27)  # it changes anywhere in the pattern
    assert viewer.is_continuous()


def test_nobody_wants_fewer_frames_any_more_and_none_are_prepared():
    viewer = Viewer()
    viewer.second(8)
    assert viewer.layer.is_listened_to
    for _ in range(14):
        viewer.second(None)
    assert not (viewer.layer.is_listened_to or viewer.layer.parts)
    assert viewer.leg.layer is viewer.layer


def test_what_was_left_out_is_not_sent_again_and_what_was_sent_is():
    viewer = Viewer()
    for _ in range(4):
        viewer.second(8)
    assert viewer.leg.layer is viewer.layer.parts[WHOLE, 0]
    last = viewer.packets[-1]
    viewer.leg.repeat([last.sequence], viewer.now)
    (again,) = viewer.outlet.take_sent()
    assert again.data[again.payload + 2 :] == last.data[last.payload :]


def test_nobody_goes_over_with_a_packet_that_comes_late():
    """What came after it went out already, under the numbers of before."""
    viewer = Viewer()
    viewer.second(8)
    frame = viewer.encoder.frame()
    late, in_order = frame.packets
    viewer.track.forward(viewer.layer, in_order, viewer.now)
    viewer.layer.measure(viewer.now)
    viewer.leg.allot("", viewer.now)
    assert viewer.leg.target is viewer.layer.parts[WHOLE, 0]
    viewer.track.forward(viewer.layer, late, viewer.now)
    assert viewer.leg.layer is viewer.layer
    for _ in range(4):
        for packet in viewer.encoder.frame().packets:
            viewer.track.forward(viewer.layer, packet, viewer.now)
    assert viewer.leg.layer is viewer.layer.parts[WHOLE, 0]
    numbers = [packet.sequence for packet in viewer.outlet.take_sent()]
    assert sorted(numbers) == list(range(min(numbers), min(numbers) + len(numbers)))
