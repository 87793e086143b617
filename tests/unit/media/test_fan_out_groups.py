"""Whoever joins is sent to singly, then in a small group; when nobody comes any more all are one."""

import random
from collections import Counter

import pytest

from sfu.media import fan_out
from sfu.media.batch import MIN_LEGS, Batch
from sfu.media.fan_out import GATHER_S, MAX_GROUPS, SETTLE_S
from sfu.media.leg import Leg
from tests.unit.media.receivers import Peer, RowPort, make_leg
from tests.unit.media.scene import THEIR_VP8, VP8_DELTA, VP8_KEY, codec, layer, rtp, slot, track

# From one packet to the next; and after this whoever had his keyframe has been gathered.
STEP_S = 0.04
SOON_S = GATHER_S + 2 * STEP_S


class World:
    """A track, and receivers that come and go while its packets flow."""

    def __init__(self) -> None:
        self.port, self.track = RowPort(), track()
        self.layer = layer(self.track)
        self.now, self._sequence = 100.0, 0
        self.legs: list[Leg] = []
        self.peers: list[Peer] = []
        # What each must have got: payloads, in their order.
        self.due: list[list[bytes]] = []

    def join(self, count: int, **changes: object) -> list[Leg]:
        """Let so many attach; they wait for a keyframe."""
        for _ in range(count):
            number = len(self.legs)
            leg, peer = make_leg(self.port, number, slot(mid=str(number), **changes), 100)
            leg.attach(self.track, self.now)
            self.legs.append(leg)
            self.peers.append(peer)
            self.due.append([])
        return self.legs[-count:]

    def leave(self, leg: Leg) -> None:
        leg.detach()

    def send(self, *, key: bool = False) -> list[int]:
        """Publish a packet; return how many were sent to in each batch, the largest first."""
        self._sequence, self.now = self._sequence + 1, self.now + STEP_S
        payload = (VP8_KEY if key else VP8_DELTA) + self._sequence.to_bytes(2, "big")
        for leg, due in zip(self.legs, self.due, strict=True):
            if leg.layer is not None or (leg.target is not None and key):
                due.append(payload)
        self.port.blocks.clear()
        self.layer.last_packet_at = self.now
        self.track.fan_out.forward(self.layer, rtp(self._sequence, payload), self.now)
        return sorted(self.port.blocks, reverse=True)

    def come(self, count: int, **changes: object) -> list[Leg]:
        """Let so many join, and a keyframe come for them."""
        made = self.join(count, **changes)
        self.send(key=True)
        return made

    def run(self, seconds: float) -> list[int]:
        """Let packets flow for a time; return the batches of the last one."""
        batches: list[int] = []
        until = self.now + seconds
        while self.now < until - STEP_S / 2:
            batches = self.send()
        return batches

    @property
    def batches(self) -> list[Batch]:
        """The batches that were made, and not yet done away with."""
        plans = self.track.fan_out._plans.values()
        return [group.batch for plan in plans for group in plan.groups if group.batch is not None]

    @property
    def together(self) -> int:
        return self.track.fan_out.together

    def check(self) -> None:
        """Everybody got everything that he was due, once and in its order, under numbers without a hole."""
        for peer, due in zip(self.peers, self.due, strict=True):
            got = peer.received()
            assert len(peer.encrypted) == len(got)
            assert [p.data[p.payload :] for p in got] == due
            assert [p.sequence for p in got] == list(range(100, 100 + len(got)))


def grouped(*sizes: int) -> World:
    """Return a world in which groups of these sizes came one after the other, and nobody since."""
    world = World()
    for size in sizes:
        world.come(size)
        world.run(SOON_S)
    return world


def test_newcomers_go_singly_at_first_and_together_soon():
    """A moment after their keyframe, so that whoever comes at once is one group."""
    world = World()
    world.join(3)
    assert (world.send(key=True), world.together) == ([], 0)
    assert world.run(GATHER_S - STEP_S) == []
    assert world.together == 0
    assert world.run(STEP_S * 3) == [3]
    assert world.together == 3
    before = list(world.batches)
    assert world.run(SETTLE_S * 2) == [3]
    assert world.batches == before
    world.check()


def test_whoever_comes_meanwhile_is_gathered_too():
    """Nobody puts off the others by coming."""
    world = World()
    world.come(2)
    world.run(0.1)
    world.come(2)
    assert world.run(SOON_S - 0.1) == [4]
    world.check()


def test_a_receiver_that_waits_for_a_keyframe_is_in_no_group():
    """Nor does he disturb one."""
    world = grouped(3)
    world.join(2)
    assert world.run(10) == [3]
    assert world.together == 3
    world.send(key=True)
    assert world.run(SOON_S) == [3, 2]
    world.check()


def test_a_join_leaves_the_large_group_alone():
    """Its rows are the same as before; whoever came has a small group of his own."""
    world = grouped(5)
    (before,) = world.batches
    world.come(3)
    assert world.run(GATHER_S - STEP_S) == [5]
    assert world.run(STEP_S * 3) == [5, 3]
    assert before in world.batches
    assert world.together == 8
    world.check()


def test_groups_become_one_when_nobody_has_come_for_a_while():
    """And not before; each newcomer puts it off."""
    world = grouped(5, 3)
    assert world.run(SETTLE_S - 0.5) == [5, 3]
    world.come(2)
    assert world.run(SOON_S) == [5, 3, 2]
    assert world.run(SETTLE_S - 2 * STEP_S) == [5, 3, 2]
    assert world.run(4 * STEP_S) == [10]
    (block,) = world.batches
    assert world.run(60) == [10]
    assert world.batches == [block]
    world.check()


def test_there_are_few_small_groups():
    """One more, and the small ones become one; the large one is still as it was."""
    world = grouped(8, *[2] * (MAX_GROUPS - 1))
    large = world.batches[0]
    assert world.send() == [8] + [2] * (MAX_GROUPS - 1)
    world.come(2)
    assert world.run(SOON_S) == [8, 2 * MAX_GROUPS]
    assert large in world.batches
    assert len(world.batches) == 2
    world.check()


def test_one_newcomer_joins_a_small_group():
    """He alone is none; where there is only one group he goes into that."""
    world = grouped(4)
    world.come(1)
    assert world.run(SOON_S) == [5]
    world.come(2)
    world.run(SOON_S)
    world.come(1)
    assert world.run(SOON_S) == [5, 3]
    assert world.together == 8
    world.check()


def test_who_is_alone_stays_single():
    """An array for one costs more than it saves; with the next one they are a group."""
    world = grouped(MIN_LEGS - 1)
    assert world.run(10) == []
    assert world.together == 0
    world.come(1)
    assert world.run(SOON_S) == [MIN_LEGS]
    world.check()


def test_who_leaves_is_taken_out_of_his_group_alone():
    """The others of it go on together with the next packet, and other groups notice nothing."""
    world = grouped(5, 3)
    large = world.batches[0]
    world.leave(world.legs[6])
    assert world.together == 5
    assert world.send() == [5, 2]
    assert (world.together, len(world.batches)) == (7, 2)
    assert large in world.batches
    world.leave(world.legs[0])
    assert world.send() == [4, 2]
    world.check()


def test_a_group_that_became_too_small_goes_singly():
    """Its rows are given back."""
    world = grouped(2)
    world.leave(world.legs[0])
    assert world.run(1) == []
    assert (world.together, world.batches) == (0, [])
    world.check()


def test_nothing_is_left_when_all_have_gone():
    """No rows, and nobody is sent to."""
    world = grouped(5, 3)
    for leg in world.legs:
        world.leave(leg)
    assert world.send() == []
    assert (world.together, world.batches) == (0, [])
    world.check()


def test_who_changes_goes_singly_for_a_moment():
    """A new agreement or a new way is found out alone; he comes back with the next gathering."""
    world = grouped(4)
    world.legs[1].negotiate(slot(mid="1"))
    assert world.send() == [3]
    assert world.run(SOON_S) == [4]
    world.peers[2].on_udp = False
    world.track.fan_out.changed(world.legs[2])
    assert world.run(10) == [3]
    assert world.together == 3
    world.peers[2].on_udp = True
    world.track.fan_out.changed(world.legs[2])
    world.send()
    assert world.run(SOON_S) == [4]
    world.check()


def test_a_way_that_ends_without_a_word_stops_nobody():
    """The peer of one is gone while its group is to be made: the others are sent to."""
    world = World()
    world.come(4)
    world.run(SOON_S)
    world.leave(world.legs[0])
    world.peers[1].on_udp = False
    assert (world.send(), world.send(), world.together) == ([], [2], 2)
    world.check()


def test_whoever_must_be_sent_to_by_himself_is_in_no_group():
    """Over TCP, or without rtx: his packets are kept for repeats."""
    world = World()
    world.join(3)
    world.join(2, codecs=(THEIR_VP8,))
    world.peers[0].on_udp = False
    world.send(key=True)
    assert world.run(10) == [2]
    assert world.together == 2
    world.check()


def test_receivers_of_different_agreements_are_groups_of_their_own():
    """Also when they settle: their packets differ."""
    world = World()
    for _ in range(2):
        world.come(2)
        world.come(3, extensions={})
        world.run(SOON_S)
    assert world.run(SETTLE_S + GATHER_S) == [6, 4]
    assert world.together == 10
    world.come(1, codecs=(codec(40, "VP8"), codec(41, "rtx", fmtp="apt=40")))
    assert world.run(SETTLE_S + SOON_S) == [6, 4]
    world.check()


def test_an_audience_too_large_for_a_group_is_several(monkeypatch):
    """As few as can be, also when they settle; what is left over alone is sent to singly."""
    monkeypatch.setattr(fan_out, "MAX_LEGS", 4)
    world = grouped(3, 3, 2)
    assert world.send() == [3, 3, 2]
    assert world.run(SETTLE_S + GATHER_S) == [4, 4]
    world.come(1)
    assert world.run(SETTLE_S + SOON_S) == [4, 4]
    assert world.together == 8
    world.check()


def test_legs_together_are_those_that_batches_send_for():
    """Of all layers; whoever changes from one to another is in none for a moment."""
    world = grouped(5)
    other = layer(world.track, "f", 2, world.now)
    for leg in world.legs[3:]:
        leg.aim(other, world.now)
    assert world.together == 5
    world.send()
    assert world.together == 3
    for number in range(20):
        packet = rtp(number, VP8_DELTA if number else VP8_KEY, ssrc=2)
        world.track.fan_out.forward(other, packet, world.now + number * STEP_S)
    assert [leg.layer is other for leg in world.legs] == [False] * 3 + [True] * 2
    assert world.together == 5
    world.leave(world.legs[0])
    assert world.together == 2


@pytest.mark.parametrize("seed", range(15))
def test_nobody_notices_how_he_is_sent_to(seed):
    """Whoever joins and leaves when: each gets every packet from his keyframe on, once."""
    rng, world, sizes = random.Random(seed), World(), Counter()
    for _ in range(400):
        if len(world.legs) < 14 and rng.random() < 0.06:
            world.join(rng.randint(1, min(3, 14 - len(world.legs))))
        here = [leg for leg in world.legs if leg.track is not None]
        if here and rng.random() < 0.02:
            world.leave(rng.choice(here))
        if here and rng.random() < 0.02:
            world.track.fan_out.changed(rng.choice(here))
        sizes[len(world.send(key=rng.random() < 0.1))] += 1
        showing = sum(leg.layer is not None for leg in here if leg.track is not None)
        assert sum(world.port.blocks) == world.together <= showing
        assert len(world.port.blocks) <= MAX_GROUPS + 1
    assert len(sizes) > 2
    world.check()


@pytest.mark.parametrize("seed", range(10))
def test_in_the_end_all_who_came_are_together(seed):
    """However they came."""
    rng, world = random.Random(seed), World()
    while len(world.legs) < 14:
        world.come(rng.randint(1, min(4, 14 - len(world.legs))))
        world.run(rng.choice((0.0, 0.1, GATHER_S, 1.0, SETTLE_S, 5.0)))
    assert world.run(SOON_S + SETTLE_S + STEP_S) == [14]
    assert world.together == 14
    world.check()
