"""What a recording takes of a room: the best encoding there is, from its next keyframe on."""

from types import SimpleNamespace

import pytest

from sfu import clock
from sfu.media.packet import RtpPacket
from sfu.recorder.tap import RoomTap
from tests.unit.media.scene import VP8_KEY, layer, rtp, track


class Outlet:
    """What the process that writes was told."""

    def __init__(self):
        self.messages, self.media = [], []

    def send(self, message):
        self.messages.append(message)

    def send_media(self, source, at_us, packet):
        self.media.append((source, at_us, packet))

    def told(self, type_):
        return [message for message in self.messages if message["type"] == type_]


MEMBER = SimpleNamespace(peer_id="par_1", user_id="ada", name="Ada")


@pytest.fixture
def at(monkeypatch):
    """Set the time."""
    moment = [100.0]
    monkeypatch.setattr(clock, "now", lambda: moment[0])

    def set_to(seconds):
        moment[0] = seconds

    return set_to


def give(published, source, sequence, now, payload=VP8_KEY):
    """A packet of a layer comes."""
    source.last_packet_at = now
    packet = RtpPacket(rtp(sequence, payload=payload, ssrc=source.ssrc).data)
    published.fan_out.forward(source, packet, now)


def test_the_better_encoding_is_taken_up_and_left_when_it_stops(at):
    """Encodings begin slowly: which is the best shows only later. One that stops is not waited for."""
    outlet, published = Outlet(), track()
    small, large = layer(published, "q", 1, now=100.0), layer(published, "h", 2, now=100.0)
    small.bitrate_bps = 150_000.0
    tap = RoomTap(1, outlet, 100.0)
    tap.published({published.id: (MEMBER, published)})
    give(published, small, 1, 100.0)
    assert [message["about"]["rid"] for message in outlet.told("source")] == ["q"]
    large.bitrate_bps = 600_000.0
    large.last_packet_at = 100.5
    at(100.5)
    tap.tick()
    give(published, large, 50, 100.6)
    assert [message["about"]["rid"] for message in outlet.told("source")] == ["q", "h"]
    assert [message["source"] for message in outlet.told("source_end")] == [1]
    small.last_packet_at = 103.0
    at(103.0)
    tap.tick()
    give(published, small, 9, 103.1)
    assert [message["about"]["rid"] for message in outlet.told("source")] == ["q", "h", "q"]
    assert [source for source, _, _ in outlet.media] == [1, 2, 3]


@pytest.fixture
def one():
    """A tap on a track of one encoding, of which one packet came: outlet, track, encoding, tap."""
    outlet, published = Outlet(), track()
    only = layer(published, "", 1, now=100.0)
    tap = RoomTap(1, outlet, 100.0)
    tap.published({published.id: (MEMBER, published)})
    give(published, only, 1, 100.0)
    return outlet, published, only, tap


def test_nothing_of_a_pause_is_handed_on(at, one):
    outlet, published, only, tap = one
    tap.pause({"reason": "a card is read out"})
    give(published, only, 2, 100.1)
    assert len(outlet.media) == 1
    tap.resume({})
    give(published, only, 3, 100.2)
    assert len(outlet.media) == 2
    assert [message["type"] for message in outlet.messages] == ["source", "pause", "resume"]


def test_a_track_that_is_gone_ends_its_source(at, one):
    outlet, published, only, tap = one
    tap.published({})
    give(published, only, 2, 100.1)
    assert len(outlet.media) == 1
    assert len(outlet.told("source_end")) == 1
    assert published.fan_out.legs == []


def test_there_is_a_keyframe_every_twenty_seconds_but_not_in_a_pause(at, one, monkeypatch):
    """Who looks at the recording later finds his place by them."""
    _, published, only, tap = one
    asked = []
    monkeypatch.setattr(published, "want_keyframe", lambda layer, now: asked.append(now))
    for second in range(101, 165):
        only.last_packet_at = float(second)
        at(float(second))
        tap.tick()
    assert asked == [120.0, 140.0, 160.0]
    tap.pause({})
    at(190.0)
    only.last_packet_at = 190.0
    tap.tick()
    assert len(asked) == 3


def test_of_a_pause_it_is_not_told_who_speaks(at, one):
    outlet, _, _, tap = one
    tap.pause({})
    tap.told("media.speakers", {"speakers": []})
    tap.told("media.participant_left", {"participant_id": "par_2"})
    assert [message["name"] for message in outlet.told("event")] == ["participant_left"]


def test_nothing_is_taken_of_who_has_not_accepted(at):
    outlet, published, other = Outlet(), track(), track()
    other.id = "t2"
    ben = SimpleNamespace(peer_id="par_2", user_id="ben", name="Ben")
    one, two = layer(published, "", 1, now=100.0), layer(other, "", 2, now=100.0)
    tap = RoomTap(1, outlet, 100.0)
    tap.take_only(frozenset())
    tap.published({published.id: (MEMBER, published), other.id: (ben, other)})
    give(published, one, 1, 100.0)
    assert outlet.media == []
    tap.take_only(frozenset({"ada"}))
    give(published, one, 2, 100.1)
    give(other, two, 1, 100.1)
    assert [message["about"]["user_id"] for message in outlet.told("source")] == ["ada"]
    tap.take_only(frozenset({"ben"}))
    give(published, one, 3, 100.2)
    give(other, two, 2, 100.2)
    assert [message["about"]["user_id"] for message in outlet.told("source")] == ["ada", "ben"]
    assert [message["source"] for message in outlet.told("source_end")] == [1]
