"""Which layer a slot shows, and that its receiver notices nothing of a change but the picture."""

import random
from itertools import groupby

import pytest

from sfu.media.leg import MAX_PADDING_PACKETS, Leg
from sfu.media.negotiation import PLAYOUT_DELAY_URI, TRANSPORT_CC_URI
from tests.unit.media.receivers import RowPort, make_leg
from tests.unit.media.scene import (
    OPUS,
    SENDING,
    THEIR_VP8,
    VP8_DELTA,
    VP8_KEY,
    Outlet,
    Wishes,
    layer,
    rtp,
    slot,
    track,
)

RATES = {"q": 100, "h": 300, "f": 900}


class Scene:
    """A track of three layers, and a leg to which somebody allots them."""

    def __init__(self, attach: bool = True, **changes) -> None:
        self.wishes, self.outlet, self.told = Wishes(), Outlet(), 0
        self.track = track(self.wishes)
        self.layers = {rid: layer(self.track, rid, ssrc) for ssrc, rid in enumerate(RATES, 1)}
        for rid, made in self.layers.items():
            made.nominal_bps = made.bitrate_bps = RATES[rid]
        self.leg = Leg(slot(**changes), SENDING, self.outlet, 100, self._changed)
        if attach:
            self.leg.attach(self.track, 0.0)

    def _changed(self) -> None:
        self.told += 1

    def send(self, rid: str, sequence: int, payload: bytes = VP8_DELTA, now: float = 0.0, **changes):
        """Publish a packet of a layer; return what leaves."""
        of = self.layers[rid]
        packet = rtp(sequence, payload, ssrc=of.ssrc, **changes)
        of.last_packet_at = now
        if of.history.add(packet, now):
            self.track.fan_out.forward(of, packet, now)
        return self.outlet.take_sent()

    def show(self, rid: str, sequence: int, now: float = 0.0) -> None:
        """Let a layer be allotted, and its keyframe come."""
        self.leg.allot(rid, now)
        assert len(self.send(rid, sequence, VP8_KEY, now)) == 1

    def pad(self, size: int, now: float = 0.1):
        """Return what it says it has sent for a probe, and what was sent."""
        told = self.leg.pad(size, now)
        return told, self.outlet.take_sent()


def originals(packets) -> list[int]:
    """The numbers that repeats are of (RFC 4588)."""
    return [int.from_bytes(p.data[p.payload : p.payload + 2], "big") for p in packets]


# What is allotted


def test_a_slot_shows_nothing_before_a_layer_was_allotted():
    """It only says that there is something to choose; the voice in another slot is taken at once."""
    scene = Scene()
    assert (scene.told, scene.leg.target, scene.wishes.asked) == (1, None, [])
    assert scene.send("q", 1, VP8_KEY) == []
    outlet, voice = Outlet(), track(None, "audio", (OPUS,))
    sound = layer(voice)
    leg = Leg(slot(kind="audio", codecs=(OPUS,)), SENDING, outlet, 1, scene._changed)
    leg.attach(voice, 0.0)
    assert (leg.target, scene.told) == (sound, 1)


def test_an_allotted_layer_begins_with_its_keyframe():
    """It is asked for, and what is shown goes on until it is there."""
    scene = Scene()
    scene.show("q", 1)
    scene.wishes.asked.clear()
    scene.leg.allot("h", 0.2)
    assert scene.wishes.asked == [(scene.layers["h"], True)]
    assert scene.send("h", 50, now=0.2) == []
    assert [p.sequence for p in scene.send("q", 2, now=0.2)] == [101]
    assert [p.sequence for p in scene.send("h", 51, VP8_KEY, now=0.3)] == [102]
    assert scene.send("q", 3, VP8_KEY, now=0.3) == []
    assert [p.sequence for p in scene.send("h", 52, now=0.3)] == [103]


def test_the_same_layer_again_changes_nothing():
    """Not even a keyframe is asked for."""
    scene = Scene()
    scene.show("h", 1)
    scene.wishes.asked.clear()
    scene.leg.allot("h", 0.2, is_limited=True)
    assert scene.wishes.asked == []
    assert scene.leg.is_limited
    assert len(scene.send("h", 2, now=0.2)) == 1


def test_a_link_that_is_full_gets_nothing_of_the_old_layer():
    """The keyframe of the new one does not wait behind it; numbers go on."""
    scene = Scene()
    scene.show("f", 1)
    scene.leg.stop()
    assert (scene.leg.is_limited, scene.leg.is_paused) == (True, True)
    assert scene.send("f", 2, now=0.2) == []
    assert scene.send("f", 3, VP8_KEY, now=0.2) == []
    assert scene.send("q", 8, VP8_KEY, now=0.2) == []
    scene.leg.allot("q", 0.25, is_limited=True)
    assert scene.send("q", 9, now=0.26) == []
    assert [p.sequence for p in scene.send("q", 10, VP8_KEY, now=0.3)] == [101]
    assert (scene.leg.is_limited, scene.leg.is_paused) == (True, False)
    assert scene.leg.taken_up_at == 0.3


def test_a_paused_slot_sends_nothing_at_all():
    """Whatever comes, and whoever wants to choose again; a probe and a repeat neither."""
    scene = Scene()
    scene.show("q", 1)
    scene.leg.allot(None, 0.1, is_limited=True)
    assert (scene.leg.is_paused, scene.leg.layer, scene.leg.target) == (True, None, None)
    scene.leg.layers_changed(0.2)
    scene.leg.keyframe_wanted(0.2)
    assert scene.wishes.asked == [(scene.layers["q"], True)]
    for rid in RATES:
        assert scene.send(rid, 20, VP8_KEY, now=0.2) == []
    assert scene.pad(10_000) == (0, [])
    assert scene.leg.repeat([100], 0.2) == []
    assert scene.leg.sender_report(0.2) == b""


def test_a_slot_that_was_paused_begins_with_a_keyframe():
    """Of the same layer too: what came in between is not there. Numbers go on, time as the clock."""
    scene = Scene()
    scene.show("q", 1)
    scene.leg.allot(None, 0.1)
    scene.send("q", 2, now=0.1)
    scene.wishes.asked.clear()
    scene.leg.allot("q", 2.0)
    assert scene.wishes.asked == [(scene.layers["q"], True)]
    assert not scene.leg.is_paused
    assert scene.send("q", 61, now=2.0) == []
    (sent,) = scene.send("q", 62, VP8_KEY, now=2.0)
    assert (sent.sequence, sent.timestamp) == (101, 180_000)


def test_a_slot_that_is_emptied_forgets_what_was_allotted():
    """The next track in it is not paused, and is of other layers."""
    scene = Scene()
    for rid in ("q", None):
        scene.leg.allot(rid, 0.0, is_limited=True)
        scene.leg.attach(scene.track, 0.1)
        assert (scene.leg.allotted, scene.leg.is_paused, scene.leg.is_limited) == (None, False, False)
    assert scene.told == 3


def test_an_allotted_layer_that_sleeps_is_stood_in_for():
    """It is woken, and taken up when it comes."""
    scene = Scene()
    scene.show("q", 1)
    asleep = scene.layers["f"]
    asleep.is_asleep, asleep.last_packet_at = True, -60.0
    scene.leg.allot("f", 0.5)
    assert (scene.leg.target, scene.leg.allotted) == (scene.layers["q"], "f")
    assert scene.track.is_hint_due
    assert len(scene.send("q", 2, now=0.5)) == 1
    scene.track.layer_awoke(asleep, 0.8)
    assert scene.leg.target is asleep
    assert [p.sequence for p in scene.send("f", 7, VP8_KEY, now=0.8)] == [102]


def test_a_paused_slot_leaves_its_batch_and_comes_back():
    """The others go on; it goes on behind what the batch has sent for it."""
    port, published = RowPort(), track()
    shown = layer(published, "q")
    legs, peers = zip(*(make_leg(port, n, slot(mid=str(n)), 100 * n + 100) for n in range(3)), strict=True)
    for leg in legs:
        leg.attach(published, 0.0)

    def send(sequence: int, payload: bytes = VP8_DELTA) -> None:
        published.fan_out.forward(shown, rtp(sequence, payload), sequence / 2)

    send(0, VP8_KEY)
    for sequence in range(1, 5):
        send(sequence)
    assert published.fan_out.together == 3
    legs[1].allot(None, 2.0)
    for sequence in range(5, 8):
        send(sequence)
    assert published.fan_out.together == 2
    legs[1].allot("q", 3.5)
    send(8, VP8_KEY)
    send(9)
    assert [[p.sequence for p in peer.received()] for peer in peers] == [
        list(range(100, 110)),
        list(range(200, 207)),
        list(range(300, 310)),
    ]


# Numbers


def vp8(picture: int, tl0: int, *, key: bool) -> bytes:
    return bytes((0x90, 0xC0, 0x80 | picture >> 8, picture & 0xFF, tl0 & 0xFF, not key)) + b"picture"


class Encoding:
    """One layer with numbers of its own, all of them near their ends."""

    def __init__(self, rng: random.Random) -> None:
        self.sequence, self.timestamp = rng.randrange(65_400, 65_536), rng.randrange(2**32 - 9000, 2**32)
        self.picture, self.tl0 = rng.randrange(0x7FC0, 0x8000), rng.randrange(230, 256)

    def frame(self, scene: Scene, rid: str, key: bool, now: float):
        """Publish a picture of two packets; return what leaves."""
        self.timestamp = (self.timestamp + 3000) & 0xFFFFFFFF
        self.picture, self.tl0 = (self.picture + 1) & 0x7FFF, (self.tl0 + 1) & 0xFF
        sent = []
        for at in (0, 1):
            self.sequence = (self.sequence + 1) & 0xFFFF
            payload = bytearray(vp8(self.picture, self.tl0, key=key))
            if at:
                payload[0] &= 0xEF  # not the start of a partition
            sent += scene.send(rid, self.sequence, bytes(payload), now, timestamp=self.timestamp)
        return sent


@pytest.mark.parametrize("seed", range(20))
def test_numbers_are_those_of_one_stream_whatever_is_shown(seed):
    """Sequence, time, picture and TL0PICIDX of a receiver that goes up, down, and pauses at random."""
    rng, scene = random.Random(seed), Scene()
    encodings = {rid: Encoding(rng) for rid in RATES}
    sent, shown, first_at = [], [], 0.0
    for step in range(400):
        now = 1 + step / 30
        if rng.random() < 0.1:
            if rng.random() < 0.2:
                scene.leg.stop()
            scene.leg.allot(rng.choice([*RATES, *RATES, None]), now)
        for rid, encoding in encodings.items():
            left = encoding.frame(scene, rid, rng.random() < 0.2, now)
            if left and not sent:
                first_at = now
            sent += [(now, packet) for packet in left]
            shown += [rid] * bool(left)
    packets = [packet for _, packet in sent]
    assert [p.sequence for p in packets] == [100 + at for at in range(len(packets))]
    assert len(packets) == 2 * len(shown) > 300
    for number, (now, packet) in enumerate(sent):
        assert packet.timestamp == pytest.approx((now - first_at) * 90_000, abs=len(sent))
        before = packets[number - number % 2]
        assert packet.timestamp == before.timestamp
    pictures = [int.from_bytes(p.data[p.payload + 2 : p.payload + 4], "big") & 0x7FFF for p in packets]
    assert pictures == [(pictures[0] + at // 2) & 0x7FFF for at in range(len(packets))]
    tl0 = [p.data[p.payload + 4] for p in packets]
    assert tl0 == [(tl0[0] + at // 2) & 0xFF for at in range(len(packets))]
    assert len(list(groupby(shown))) > 5


@pytest.mark.parametrize("seed", range(20))
def test_late_packets_take_nobodys_number_over_a_change(seed):
    """AES-GCM may not see one index with two contents; what arrives late keeps its place or stays behind."""
    rng, scene = random.Random(seed), Scene()
    contents, late = {}, []
    sequences = {rid: rng.randrange(65_000, 65_536) for rid in RATES}
    for now in (step / 100 for step in range(600)):
        if rng.random() < 0.05:
            if rng.random() < 0.2:
                scene.leg.stop()
            scene.leg.allot(rng.choice([*RATES, None]), now)
        rid = rng.choice([*RATES])
        sequences[rid] = (sequences[rid] + 1) & 0xFFFF
        arrived = (rid, sequences[rid], b"\x10" + bytes((rng.random() > 0.3,)) + rng.randbytes(8))
        if rng.random() < 0.3:
            late.append(arrived)
            continue
        arriving = [arrived] + ([late.pop(rng.randrange(len(late)))] if late and rng.random() < 0.6 else [])
        for name, sequence, payload in arriving:
            for packet in scene.send(name, sequence, payload, now):
                assert packet.sequence not in contents
                contents[packet.sequence] = payload
                assert packet.data[packet.payload :] == payload
    assert len(contents) > 40


def test_what_the_layer_before_sent_is_not_sent_again():
    """Neither to who asks for it nor as the padding of a probe: it is of another source."""
    scene = Scene()
    scene.show("q", 1)
    scene.send("q", 2)
    assert scene.send("h", 38) + scene.send("h", 39) == []
    scene.show("h", 40)
    scene.send("h", 41)
    assert scene.leg.repeat([100, 101], 0.1) == []
    assert scene.leg.repeat([102], 0.1) == [102]
    (again,) = scene.outlet.take_sent()
    assert (again.ssrc, again.data[again.payload :]) == (SENDING.rtx_ssrc, b"\0\x66" + VP8_KEY)
    assert sorted(originals(scene.pad(10**9)[1])) == [102, 103]


# Padding of a probe


def padded_scene(count: int = 10, **changes) -> Scene:
    scene = Scene(**changes)
    scene.show("q", 1)
    for sequence in range(2, count + 1):
        scene.send("q", sequence, VP8_DELTA + bytes(200))
    return scene


def test_a_probe_is_padded_with_what_was_sent():
    """As much as asked for and at most one packet more, as repeats on the rtx stream, counted apart.

    They are numbered for the link: the probe is judged by the feedback that tells of them.
    """
    scene = padded_scene(extensions={5: TRANSPORT_CC_URI})
    told, packets = scene.pad(500)
    assert told == sum(len(p.data) for p in packets)
    assert 500 <= told < 500 + len(packets[-1].data)
    assert {(p.ssrc, p.payload_type) for p in packets} == {(SENDING.rtx_ssrc, 121)}
    assert set(originals(packets)) <= set(range(100, 110))
    assert [p.extensions() for p in packets] == [[(5, bytes((0, 9 + at)))] for at in range(len(packets))]
    counters = scene.outlet.counters
    assert (counters.packets_padded, counters.packets_retransmitted) == (len(packets), 0)
    assert scene.leg.packets == 10
    assert [p.sequence for p in scene.send("q", 11)] == [110]


def test_padding_repeats_one_packet_after_the_other():
    """None twice before all were, however much is asked for; each has a number of its own."""
    scene = padded_scene(MAX_PADDING_PACKETS + 30)
    packets = []
    for step in range(MAX_PADDING_PACKETS):
        told, sent = scene.pad(1, now=0.1 + step / 100)
        assert told == sum(len(p.data) for p in sent) > 0
        packets += sent
    newest = 100 + MAX_PADDING_PACKETS + 29
    assert sorted(originals(packets)) == list(range(newest - MAX_PADDING_PACKETS + 1, newest + 1))
    assert len({p.sequence for p in packets}) == MAX_PADDING_PACKETS
    assert sorted(originals(scene.pad(10**9, now=1.0)[1])) == sorted(originals(packets))


def test_nothing_is_padded_where_nothing_can_be_repeated():
    """No layer is shown yet, no rtx was agreed, all of it is too old, or there is no path any more."""
    assert Scene().pad(1000) == (0, [])
    assert padded_scene(codecs=(THEIR_VP8,)).pad(1000) == (0, [])
    assert padded_scene().pad(1000, now=30.0) == (0, [])
    scene = padded_scene()
    scene.outlet.open = False
    assert scene.pad(1000) == (0, [])
    scene.outlet.open, scene.outlet.takes = True, False
    assert scene.pad(1000) == (0, [])
    assert scene.outlet.counters.packets_padded == 0


# The receiver's buffer


def asked(packet) -> int:
    """The least delay that a packet asks for, in 10 ms; 0 where it asks for none."""
    value = dict(packet.extensions()).get(9, bytes(3))
    return int.from_bytes(value, "big") >> 12


DELAYED = {5: TRANSPORT_CC_URI, 9: PLAYOUT_DELAY_URI}


def test_a_receiver_is_asked_to_play_later():
    """From the next packet on, repeats too, and in the next track as well."""
    scene = Scene(extensions=DELAYED)
    scene.show("q", 1)
    assert asked(scene.send("q", 2)[0]) == 0
    scene.leg.delay_playout(0.3)
    (sent,) = scene.send("q", 3)
    assert (sent.sequence, asked(sent), scene.leg.playout_delay_s) == (102, 30, 0.3)
    scene.leg.repeat([101], 0.1)
    assert asked(scene.outlet.take_sent()[0]) == 30
    scene.leg.attach(scene.track, 0.2)
    scene.leg.allot("q", 0.2)
    (sent,) = scene.send("q", 4, VP8_KEY, 0.2)
    assert (sent.sequence, asked(sent)) == (103, 30)


def test_a_receiver_is_not_asked_to_wait_for_ever():
    """Nor is an empty slot: whoever comes into it next is not delayed."""
    scene = Scene(extensions=DELAYED)
    scene.show("q", 1)
    scene.leg.delay_playout(0.3)
    scene.leg.delay_playout(0.0)
    assert asked(scene.send("q", 2)[0]) == 0
    scene.leg.detach()
    scene.leg.delay_playout(0.4)
    scene.leg.attach(scene.track, 0.1)
    scene.leg.allot("q", 0.1)
    assert asked(scene.send("q", 3, VP8_KEY, 0.1)[0]) == 40
