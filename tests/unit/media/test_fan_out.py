"""Who gets which packet, and that a batch says what its legs would have said."""

import random
from dataclasses import dataclass, field

import pytest

from sfu.media import fan_out
from sfu.media.fan_out import FanOut
from sfu.media.leg import Leg
from sfu.media.negotiation import (
    ABS_SEND_TIME_URI,
    AUDIO_LEVEL_URI,
    DEPENDENCY_DESCRIPTOR_URI,
    TRANSPORT_CC_URI,
)
from sfu.media.packet import RtpPacket
from sfu.media.picture_ids import describe
from sfu.media.track import SenderClock
from tests.unit.media.receivers import WAYS, Peer, RowPort, make_leg, write_rows
from tests.unit.media.scene import (
    THEIR_RTX,
    THEIR_VP8,
    THEIR_VP9,
    THEIR_VP9_RTX,
    VP9,
    VP9_RTX,
    layer,
    rtp,
    rtp_bytes,
    slot,
    track,
)


class Listener:
    """A receiver that notes what it was offered, in a list that all share."""

    def __init__(self, name: str, seen: list, layer: str | None = "layer", target: str | None = None) -> None:
        self.name, self.seen, self.layer, self.target = name, seen, layer, target or layer

    def forward(self, layer: str, packet: RtpPacket, now: float) -> None:
        self.seen.append((self.name, layer, packet, now))

    def begin(self, layer: str, packet: RtpPacket, now: float) -> None:
        self.seen.append((self.name, f"begin {layer}", packet, now))

    def lane(self) -> None:
        return None

    def enter(self, batch: object) -> None:
        assert batch is None


def names(seen: list) -> list[tuple[str, str]]:
    return [(name, of) for name, of, *_ in seen]


def test_every_leg_is_offered_the_packets_of_its_layer():
    """In the order in which the legs came."""
    out, seen, packet = FanOut(), [], rtp()
    for name in "ab":
        out.add(Listener(name, seen))
    out.add(Listener("c", seen, layer="another"))
    out.forward("layer", packet, 1.0)
    assert seen == [("a", "layer", packet, 1.0), ("b", "layer", packet, 1.0)]


def test_who_waits_for_a_layer_is_offered_both():
    """The one that is shown still, and the one that may begin."""
    out, seen = FanOut(), []
    out.add(Listener("shows", seen, layer="old", target="new"))
    out.add(Listener("begins", seen, layer=None, target="new"))
    out.add(Listener("empty", seen, layer=None))
    for of in ("old", "new", "other"):
        out.forward(of, rtp(), 1.0)
    assert names(seen) == [("shows", "old"), ("shows", "begin new"), ("begins", "begin new")]


def test_a_leg_that_left_gets_nothing():
    """It may leave twice."""
    out, seen = FanOut(), []
    stays, leaves = Listener("stays", seen), Listener("leaves", seen)
    out.add(stays)
    out.add(leaves)
    out.remove(leaves)
    out.remove(leaves)
    out.forward("layer", rtp(), 1.0)
    assert names(seen) == [("stays", "layer")]


def test_a_leg_that_changed_is_looked_at_again():
    """Before the next packet, and not before it said so."""
    out, seen = FanOut(), []
    leg = Listener("a", seen)
    out.add(leg)
    out.forward("layer", rtp(), 1.0)
    leg.layer = leg.target = "better"
    out.changed(leg)
    out.forward("layer", rtp(), 1.0)
    out.forward("better", rtp(), 1.0)
    assert names(seen) == [("a", "layer"), ("a", "better")]


def test_nobody_listens():
    """A packet without receivers is nobody's."""
    FanOut().forward("layer", rtp(), 1.0)


# Batches

SOURCE = {1: AUDIO_LEVEL_URI, 3: TRANSPORT_CC_URI, 12: DEPENDENCY_DESCRIPTOR_URI}
AGREED = {5: TRANSPORT_CC_URI, 6: ABS_SEND_TIME_URI, 7: AUDIO_LEVEL_URI, 8: DEPENDENCY_DESCRIPTOR_URI}
# What receivers agree to; the third must keep its packets, the others can be in a batch.
PROFILES = (
    {"extensions": AGREED},
    {"extensions": {2: TRANSPORT_CC_URI, 3: AUDIO_LEVEL_URI}},
    {"extensions": AGREED, "codecs": (THEIR_VP8,)},
    {"extensions": {}, "codecs": (THEIR_VP8, THEIR_RTX)},
)
LEGS = 8


class World:
    """A track of two layers and its possible receivers; a batch begins with so many of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, least: int) -> None:
        self._monkeypatch, self._least = monkeypatch, least
        # How long newcomers are sent to singly.
        self.gather_s = 0.0
        self.port = RowPort()
        self.track = track()
        self.track.extensions = SOURCE
        self.layers = [layer(self.track, "q", 1), layer(self.track, "f", 2)]
        self.legs: list[Leg] = []
        self.peers: list[Peer] = []
        for number in range(LEGS):
            agreed = slot(mid=str(number), **PROFILES[(0, 0, 0, 1, 1, 2, 3, 0)[number]])
            leg, peer = make_leg(self.port, number, agreed, 100 + 9000 * number % 32768)
            self.legs.append(leg)
            self.peers.append(peer)
        self.reports: list[bytes] = []

    def join(self, number: int, now: float = 0.0, of: int = 0) -> None:
        if self.legs[number].track is None:
            self.legs[number].attach(self.track, now)
        self.legs[number].aim(self.layers[of], now)

    def send(self, of: int, data: bytes, now: float = 0.0) -> None:
        """Publish a packet as the session of a publisher does: once each number."""
        with self._monkeypatch.context() as patch:
            patch.setattr(fan_out, "MIN_LEGS", self._least)
            patch.setattr(fan_out, "GATHER_S", self.gather_s)
            patch.setattr(fan_out, "SETTLE_S", self.gather_s * 2)
            made, packet = self.layers[of], RtpPacket(data)
            if made.history.add(packet, now):
                self.track.fan_out.forward(made, packet, now)

    def do(self, event: tuple) -> None:
        """Let one thing happen."""
        kind, now, number, *rest = event
        leg = self.legs[number]
        if kind == "packet":
            self.send(number, rest[0], now)
        elif kind == "aim":
            self.join(number, now, rest[0])
        elif kind == "leave":
            leg.detach()
        elif kind == "repeat":
            sent = self.peers[number].encrypted[-rest[0] :]
            leg.repeat(tuple(int.from_bytes(data[2:4], "big") for data in sent), now)
        elif kind == "report":
            for made in self.layers:
                made.clock = SenderClock(int(now * 2**32) + (7 << 32), int(now * 90_000), now)
            self.reports.append(leg.sender_report(now))
        elif kind == "lane":
            self.peers[number].on_udp = not self.peers[number].on_udp
            for leg in self.track.fan_out.legs:
                self.track.fan_out.changed(leg)
        else:
            leg.negotiate(slot(mid=str(number), **PROFILES[rest[0]]))

    def state(self, leg: Leg) -> tuple:
        return leg.packets, leg.octets, leg.offsets(), leg.layer is self.layers[0], leg.track is None


@dataclass
class Source:
    """One encoding of VP8 with everything that has a number."""

    rng: random.Random
    of: int
    picture_bits: int = 15
    sequence: int = 0
    timestamp: int = 0
    picture: int = 0
    tl0: int = 0
    frame: int = 0

    def __post_init__(self) -> None:
        rng = self.rng
        self.sequence, self.frame = rng.randrange(65_450, 65_536), rng.randrange(65_500, 65_536)
        self.timestamp, self.picture = rng.randrange(2**32 - 90_000, 2**32), rng.randrange(0x7FF0, 0x8000)
        self.tl0 = rng.randrange(240, 256)

    def picture_packets(self, key: bool) -> list[bytes]:
        """Return the packets of the next picture."""
        rng = self.rng
        self.timestamp = (self.timestamp + 3000) & 0xFFFFFFFF
        self.picture, self.frame = (self.picture + 1) & 0x7FFF, (self.frame + 1) & 0xFFFF
        self.tl0 = (self.tl0 + (key or rng.random() < 0.5)) & 0xFF
        if self.picture_bits == 15:
            number = (0x8000 | self.picture).to_bytes(2, "big")
        else:
            number = bytes((self.picture & 0x7F,))
        made, count = [], rng.randint(1, 3)
        for at in range(count):
            start = at == 0
            head = bytes((0x80 | start << 4, 0xC0)) + number + bytes((self.tl0,))
            payload = head + bytes((not (key and start),)) + rng.randbytes(rng.randrange(40))
            descriptor = b"\xc0" + self.frame.to_bytes(2, "big")
            if key and start:
                descriptor += bytes(rng.choice((2, 40)))
            elements = [(1, bytes((rng.randrange(256),))), (3, b"\0\1"), (12, descriptor)]
            made.append(self.packet(payload, marker=at == count - 1, elements=elements))
        return made

    def packet(self, payload: bytes, **changes) -> bytes:
        self.sequence = (self.sequence + 1) & 0xFFFF
        return rtp_bytes(self.sequence, payload, timestamp=self.timestamp, ssrc=self.of + 1, **changes)


@dataclass
class Network:
    """What of a source's packets arrives, and in which order."""

    rng: random.Random
    late: list[tuple[int, tuple[int, bytes]]] = field(default_factory=list)

    def carry(self, step: int, of: int, data: bytes) -> list[tuple[int, bytes]]:
        """Return what arrives after a packet was sent: it, late ones, duplicates, or nothing."""
        rng, arrives, chance = self.rng, [], self.rng.random()
        if chance < 0.15:
            if chance > 0.05:
                self.late.append((step + rng.randint(0, 2), (of, data)))
            return []
        arrives.append((of, data))
        if chance < 0.2:
            self.late.append((step + rng.randint(0, 2), (of, data)))
        while self.late and self.late[0][0] <= step and rng.random() < 0.6:
            arrives.append(self.late.pop(0)[1])
        return arrives


def something(rng: random.Random, now: float) -> list[tuple]:
    """Return what happens to one receiver, if anything does."""
    number = rng.randrange(LEGS)
    happens = rng.choices(
        [
            [("aim", now, number, rng.randrange(2))],
            [("leave", now, number)],
            [("repeat", now, number, rng.randint(1, 20))],
            [("report", now, number)],
            [("lane", now, number)],
            [("negotiate", now, number, rng.randrange(len(PROFILES)))],
            [],
        ],
        weights=(20, 5, 15, 10, 5, 5, 40),
    )
    return happens[0]


def story(seed: int, padding: bool) -> list[tuple]:
    """Return what happens in one run, in its order."""
    rng = random.Random(seed)
    network = Network(rng)
    sources = [Source(rng, of, picture_bits=rng.choice((15, 15, 7))) for of in (0, 1)]
    events: list[tuple] = [("aim", 0.0, number, rng.randrange(2)) for number in range(rng.randint(2, LEGS))]
    for step in range(160):
        now = 1 + step / 30
        for source in sources:
            packets = source.picture_packets(key=step < 2 or rng.random() < 0.08)
            if padding and rng.random() < 0.1:
                packets.append(source.packet(b""))
            for data in packets:
                events += [("packet", now, *arrived) for arrived in network.carry(step, source.of, data)]
        events += something(rng, now)
    return events + [("report", 7.0, number) for number in range(LEGS)]


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("gather_s", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(8))
def test_a_batch_says_what_its_legs_would_have_said(monkeypatch, seed, padding, gather_s):
    """Every byte to every receiver, and every number of each leg, whatever happens in between."""
    write_rows(monkeypatch, WAYS[seed % len(WAYS)])
    together, singly = World(monkeypatch, 1), World(monkeypatch, 10_000)
    together.gather_s = gather_s
    for event in story(seed, padding):
        together.do(event)
        singly.do(event)
        for one, other in zip(together.peers, singly.peers, strict=True):
            assert one.encrypted == other.encrypted, event
        for one, other in zip(together.legs, singly.legs, strict=True):
            assert together.state(one) == singly.state(other), event
    assert together.reports == singly.reports
    assert together.port.counters == singly.port.counters
    assert together.port.bank.values.tolist() == singly.port.bank.values.tolist()
    assert len(together.port.blocks) > 200
    assert max(together.port.blocks) > 1
    assert singly.port.blocks == []
    assert sum(len(peer.received()) for peer in together.peers) > 1000


@pytest.mark.parametrize("least", [1, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_no_number_is_used_for_two_packets(monkeypatch, seed, least):
    """AES-GCM may not see one index with two contents, batch or not."""
    world, contents = World(monkeypatch, least), {}
    for event in story(seed, padding=False):
        world.do(event)
    for peer in world.peers:
        for data in peer.encrypted:
            assert contents.setdefault((data[8:12], data[2:4]), data) == data


# What a switch of the layer needs to know from the batch, each by itself


def vp8(picture: int, *, key: bool = False) -> bytes:
    """A payload with a 15-bit picture id and TL0PICIDX; both are the same number here."""
    return bytes((0x90, 0xC0, 0x80 | picture >> 8, picture & 0xFF, picture & 0xFF, not key))


def vp9(picture: int, *, key: bool = False) -> bytes:
    """The same of VP9, in the mode that counts pictures of the lowest layer."""
    return bytes((0xA8 | 0x40 * (not key), 0x80 | picture >> 8, picture & 0xFF, 0, picture & 0xFF)) + b"\x00"


def begun(monkeypatch: pytest.MonkeyPatch) -> World:
    """Return two receivers in a batch, at source number 12 of the first layer."""
    world = World(monkeypatch, 2)
    for number in (0, 1):
        world.join(number)
    for at in (10, 11, 12):
        world.send(0, rtp_bytes(at, vp8(at, key=at == 10)), at / 30)
    assert world.port.blocks == [2, 2, 2]
    return world


def sequences(peer: Peer) -> list[int]:
    return [packet.sequence for packet in peer.received()]


def pictures(peer: Peer) -> list[int]:
    """The picture ids that a receiver sees; packets without a payload have none."""
    packets = [packet for packet in peer.received() if packet.payload < packet.end]
    return [int.from_bytes(p.data[p.payload + 2 : p.payload + 4], "big") & 0x7FFF for p in packets]


def test_a_packet_from_before_the_keyframe_does_not_leave_by_a_batch(monkeypatch):
    """Its number belongs to whoever was there before, also if it is the first of the batch."""
    world = World(monkeypatch, 2)
    for number in (0, 1):
        world.join(number)
    world.send(0, rtp_bytes(10, vp8(10, key=True)))
    world.send(0, rtp_bytes(9, vp8(9)))
    world.send(0, rtp_bytes(11, vp8(11)))
    assert [sequences(peer) for peer in world.peers[:2]] == [[100, 101], [9100, 9101]]


def test_numbers_go_on_after_a_batch_of_another_layer(monkeypatch):
    """What the old batch has sent is not counted with the offsets of the new layer."""
    world = begun(monkeypatch)
    world.join(0, 0.45, of=1)
    world.send(0, rtp_bytes(13, vp8(13)), 0.45)
    world.send(1, rtp_bytes(5, vp8(70, key=True), ssrc=2), 0.5)
    assert world.legs[0].layer is world.layers[1]
    world.send(1, rtp_bytes(6, vp8(71), ssrc=2), 0.6)
    world.join(0, 0.7, of=0)
    world.send(0, rtp_bytes(14, vp8(14, key=True)), 0.7)
    assert sequences(world.peers[0]) == list(range(100, 107))
    assert pictures(world.peers[0]) == list(range(10, 17))


def test_padding_in_a_batch_does_not_hide_the_pictures_before_it(monkeypatch):
    """A packet without a payload has no picture id; the last one seen counts all the same."""
    world = begun(monkeypatch)
    world.send(0, rtp_bytes(13, b""), 0.45)
    world.join(0, 0.5, of=1)
    world.send(1, rtp_bytes(5, vp8(70, key=True), ssrc=2), 0.5)
    assert pictures(world.peers[0]) == [10, 11, 12, 13]


def test_pictures_of_vp9_go_on_after_another_layer(monkeypatch):
    """With the index of the lowest layer, where it stands: as a batch writes them, and as a leg does."""
    for least in (2, 9):
        world = World(monkeypatch, least)
        world.track.codecs = {98: VP9, 99: VP9_RTX}
        agreed = {"codecs": (THEIR_VP9, THEIR_VP9_RTX), "extensions": AGREED}
        for number in (0, 1):
            world.legs[number].negotiate(slot(mid=str(number), **agreed))
            world.join(number)
        for at in (10, 11, 12):
            world.send(0, rtp_bytes(at, vp9(at, key=at == 10), payload_type=98), at / 30)
        world.join(0, 0.5, of=1)
        for at in (70, 71):
            world.send(1, rtp_bytes(at, vp9(at, key=at == 70), payload_type=98, ssrc=2), at / 30)
        assert world.legs[0].layer is world.layers[1]
        assert bool(world.port.blocks) == (least == 2)
        for peer, count in zip(world.peers[:2], (5, 3), strict=True):
            told = [describe(packet.peek(6), "vp9") for packet in peer.received()]
            assert [(one.picture_id, one.tl0_index) for one in told] == [
                (10 + n, 10 + n) for n in range(count)
            ]


def test_a_packet_without_a_descriptor_does_not_hide_the_frames_before_it(monkeypatch):
    """As padding does not hide the pictures."""
    world = World(monkeypatch, 2)
    for number in (0, 1):
        world.join(number)

    def send(of: int, sequence: int, frame: int | None, key: bool = False) -> None:
        elements = [(12, b"\xc0" + frame.to_bytes(2, "big"))] if frame is not None else []
        data = rtp_bytes(sequence, vp8(sequence, key=key), elements=elements, ssrc=of + 1)
        world.send(of, data, sequence / 30)

    send(0, 1, 500, key=True)
    send(0, 2, 501)
    send(0, 3, 502)
    send(0, 4, None)
    world.join(0, 0.5, of=1)
    send(1, 30, 7, key=True)
    found = [dict(packet.extensions()).get(8) for packet in world.peers[0].received()]
    numbers = [int.from_bytes(value[1:3], "big") if value else None for value in found]
    assert numbers == [500, 501, 502, None, 503]


def test_a_leg_that_leaves_the_batch_knows_how_far_it_came(monkeypatch):
    """Another track in the slot goes on behind it, and the rest of the batch goes on."""
    world = begun(monkeypatch)
    other = track()
    made = layer(other, ssrc=9)
    world.legs[0].attach(other, 0.5)
    other.fan_out.forward(made, rtp(800, vp8(5, key=True)), 0.5)
    world.send(0, rtp_bytes(13, vp8(13)), 0.5)
    assert sequences(world.peers[0]) == [100, 101, 102, 103]
    assert sequences(world.peers[1]) == [9100, 9101, 9102, 9103]
    assert pictures(world.peers[0]) == [10, 11, 12, 13]


def test_few_legs_go_one_by_one(monkeypatch):
    """Fewer than pay for the arrays, of each profile."""
    world = World(monkeypatch, 4)
    for number in (0, 1, 2, 3, 4):
        world.join(number)
    for at in range(3):
        world.send(0, rtp_bytes(at, vp8(at, key=at == 0)))
    assert world.port.blocks == []
    world.join(7)
    world.send(0, rtp_bytes(3, vp8(3, key=True)))
    world.send(0, rtp_bytes(4, vp8(4)))
    assert world.port.blocks == [4, 4]


def test_a_large_audience_is_several_batches(monkeypatch):
    """What is left over is a batch too, or goes one by one if it is too few."""
    monkeypatch.setattr(fan_out, "MAX_LEGS", 3)
    for least, blocks in ((1, [3, 1, 3, 1]), (2, [3, 3])):
        world = World(monkeypatch, least)
        for number in (0, 1, 2, 7):
            world.join(number)
        world.send(0, rtp_bytes(1, vp8(1, key=True)))
        world.send(0, rtp_bytes(2, vp8(2)))
        assert world.port.blocks == blocks
        assert [len(peer.encrypted) for peer in world.peers] == [2, 2, 2, 0, 0, 0, 0, 2]


def test_layers_of_one_track_are_batches_of_their_own(monkeypatch):
    """Each packet goes to whoever shows its layer."""
    world = World(monkeypatch, 2)
    for number in (0, 1, 2, 7):
        world.join(number, of=number % 2)
    for at in range(2):
        world.send(0, rtp_bytes(at, vp8(at, key=at == 0)))
        world.send(1, rtp_bytes(at, vp8(at, key=at == 0)))
    assert world.port.blocks == [2, 2, 2, 2]
    assert [len(peer.encrypted) for peer in world.peers] == [2, 2, 2, 0, 0, 0, 0, 2]


def test_a_packet_from_before_a_switch_does_not_take_a_number_again(monkeypatch):
    """The last packet of the layer before has it: one AES-GCM index, two contents."""
    world = begun(monkeypatch)
    for number in (0, 1):
        world.join(number, 0.45, of=1)
    world.send(1, rtp_bytes(5, vp8(70, key=True), ssrc=2), 0.5)
    world.send(1, rtp_bytes(4, vp8(69), ssrc=2), 0.5)
    for peer, first in zip(world.peers[:2], (100, 9100), strict=True):
        numbers = [int.from_bytes(data[2:4], "big") for data in peer.encrypted]
        assert numbers == [first, first + 1, first + 2, first + 3]
