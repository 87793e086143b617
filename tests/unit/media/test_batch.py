"""A batch of receivers: what each row says, and what the batch tells of itself.

That it says the same as its legs would is in test_fan_out.py.
"""

import pytest
from hypothesis import given, strategies as st

from sfu.media.batch import Batch, Offsets
from sfu.media.negotiation import (
    ABS_SEND_TIME_URI,
    AUDIO_LEVEL_URI,
    DEPENDENCY_DESCRIPTOR_URI,
    TRANSPORT_CC_URI,
)
from sfu.media.packet import RtpPacket
from sfu.media.picture_ids import describe
from sfu.media.profile import Profile
from tests.unit.media.receivers import WAYS, Peer, RowPort, write_rows
from tests.unit.media.scene import H264, VP8, VP8_RTX, rtp, slot

SOURCE = {1: AUDIO_LEVEL_URI, 12: DEPENDENCY_DESCRIPTOR_URI}
AGREED = {5: TRANSPORT_CC_URI, 6: ABS_SEND_TIME_URI, 7: AUDIO_LEVEL_URI, 8: DEPENDENCY_DESCRIPTOR_URI}
NOTHING_MOVED = Offsets(ssrc=5000, sequence=0, timestamp=0, picture=0, tl0=0, frame=0)


@pytest.fixture(autouse=True, params=WAYS)
def written(request, monkeypatch):
    """All ways to write the rows say the same."""
    write_rows(monkeypatch, request.param)


class Receiver:
    """A leg that knows its offsets, and how far its source had come."""

    def __init__(self, offsets: Offsets, newest: int = 0) -> None:
        self._offsets, self._newest = offsets, newest

    def offsets(self) -> Offsets:
        return self._offsets

    def newest(self) -> int:
        return self._newest


class Scene:
    """A batch of receivers with these offsets."""

    def __init__(self, *offsets: Offsets, extensions=AGREED, newest: int = 0xFFFF) -> None:
        self.port = RowPort()
        self.peers = [Peer(self.port, number) for number in range(len(offsets))]
        published = {96: VP8, 97: VP8_RTX, 102: H264}
        self.profile = Profile(published, SOURCE, slot(extensions=extensions))
        self.begin(*offsets, newest=newest)

    def begin(self, *offsets: Offsets, newest: int = 0xFFFF) -> None:
        """Make the batch of the same receivers, with these offsets."""
        legs = [Receiver(one, newest) for one in offsets]
        lanes = [peer.lane() for peer in self.peers]
        self.batch = Batch(legs, lanes, self.profile, self.profile.key())

    def send(self, packet: RtpPacket, now: float = 0.0) -> list[RtpPacket]:
        """Send a packet; return what each receiver got."""
        self.batch.forward(packet, now)
        return [peer.received()[-1] for peer in self.peers]


def test_each_receiver_gets_its_own_numbers():
    """All of them, also over their wrap; what is common is the same for all."""
    scene = Scene(
        NOTHING_MOVED._replace(ssrc=1),
        Offsets(ssrc=0xFFFFFFFF, sequence=2, timestamp=0x20, picture=3, tl0=4, frame=5),
    )
    payload = b"\x90\xc0\xff\xfe\xfe\x01picture"
    elements = [(1, b"\x85"), (12, b"\xc0\xff\xfe")]
    packet = rtp(0xFFFF, payload, timestamp=0xFFFFFFF0, marker=1, elements=elements)
    first, second = scene.send(packet, now=65.5)
    assert [(p.payload_type, p.marker) for p in (first, second)] == [(120, 1)] * 2
    assert (first.ssrc, first.sequence, first.timestamp) == (1, 0xFFFF, 0xFFFFFFF0)
    assert (second.ssrc, second.sequence, second.timestamp) == (0xFFFFFFFF, 1, 0x10)
    assert first.data[first.payload :] == payload
    assert second.data[second.payload :] == b"\x90\xc0\x80\x01\x02\x01picture"
    when = int(1.5 * 2**18).to_bytes(3, "big")
    assert dict(first.extensions()) == {5: b"\xff\xf1", 6: when, 7: b"\x85", 8: b"\xc0\xff\xfe"}
    assert dict(second.extensions()) == {5: b"\xff\xf2", 6: when, 7: b"\x85", 8: b"\xc0\x00\x03"}


def test_a_short_picture_id_keeps_its_width():
    """Seven bits, whatever was added."""
    moved = NOTHING_MOVED._replace(picture=0x7FFF)
    (sent,) = Scene(moved).send(rtp(1, b"\x90\x80\x00\x01"))
    assert sent.data[sent.payload :] == b"\x90\x80\x7f\x01"


def test_tl0_moves_where_no_picture_id_is():
    """Each field by itself."""
    (sent,) = Scene(NOTHING_MOVED._replace(tl0=2)).send(rtp(1, b"\x90\x40\xff\x01"))
    assert sent.data[sent.payload :] == b"\x90\x40\x01\x01"


def test_only_vp8_has_picture_ids():
    """Other payloads go as they are, and tell no ids."""
    h264 = slot(codecs=(H264,))
    port = RowPort()
    peer = Peer(port, 0)
    profile = Profile({102: H264}, {}, h264)
    made = Batch([Receiver(NOTHING_MOVED._replace(picture=9), 0)], [peer.lane()], profile, profile.key())
    made.forward(rtp(1, b"\x90\xc0\x80\x01\x01\x01", payload_type=102), 0.0)
    (sent,) = peer.received()
    assert sent.data[sent.payload :] == b"\x90\xc0\x80\x01\x01\x01"
    progress = made.progress()
    assert (progress.descriptor, progress.frame) == (None, None)


def test_without_extensions_there_is_a_bare_header():
    """And nothing is counted that is not sent."""
    scene = Scene(NOTHING_MOVED, extensions={})
    before = scene.port.bank.values.tolist()
    (sent,) = scene.send(rtp(1, elements=[(1, b"\x85")]))
    assert sent.extensions() == []
    assert scene.port.bank.values.tolist() == before


def test_a_codec_that_was_not_agreed_is_dropped_for_each():
    """It is no progress either."""
    scene = Scene(NOTHING_MOVED, NOTHING_MOVED)
    scene.batch.forward(rtp(1, payload_type=102), 0.0)
    assert scene.port.sent == {}
    assert scene.port.counters.dropped == {"codec_not_agreed": 2}
    assert scene.batch.progress() is None
    assert (scene.batch.packets, scene.batch.octets) == (0, 0)


def test_what_was_sent_is_counted():
    """Packets and payload for each leg, datagrams for the server."""
    scene = Scene(NOTHING_MOVED, NOTHING_MOVED)
    sent = scene.send(rtp(1, b"payload")) + scene.send(rtp(2, b"more"))
    assert (scene.batch.packets, scene.batch.octets) == (2, 11)
    assert scene.port.counters.packets_forwarded == 4
    assert scene.port.counters.bytes_forwarded == sum(len(packet.data) for packet in sent)


def test_what_libsrtp_refuses_is_dropped_and_counted():
    """The others arrive."""
    scene = Scene(NOTHING_MOVED, NOTHING_MOVED._replace(sequence=40_000), NOTHING_MOVED)
    scene.send(rtp(1, b"a"))
    # Far behind what this receiver's session sent before: outside its window.
    scene.begin(NOTHING_MOVED, NOTHING_MOVED._replace(sequence=30_000), NOTHING_MOVED)
    scene.batch.forward(rtp(2, b"b"), 0.0)
    assert [len(peer.received()) for peer in scene.peers] == [2, 1, 2]
    assert scene.port.counters.dropped == {"srtp_refused": 1}
    assert scene.port.counters.packets_forwarded == 5


def test_only_packets_in_their_order_are_taken():
    """Also over the wrap; an equal number is not later."""
    scene = Scene(NOTHING_MOVED, newest=0xFFFE)
    assert scene.batch.takes(rtp(0xFFFF))
    scene.send(rtp(0xFFFF))
    assert [scene.batch.takes(rtp(n)) for n in (0xFFFE, 0xFFFF, 0, 1)] == [False, False, True, True]


def test_progress_is_the_last_packet_in_the_sources_numbers():
    """None before there was one."""
    scene = Scene(NOTHING_MOVED._replace(sequence=5, timestamp=6, picture=7, frame=8))
    assert scene.batch.progress() is None
    payload = b"\x90\xc0\x81\x02\x03\x01"
    scene.send(rtp(1, payload, timestamp=44, elements=[(12, b"\xc0\x12\x34")]), now=3.0)
    assert scene.batch.progress() == (1, 44, 3.0, describe(payload), 0x1234)


@pytest.mark.parametrize("legs", [1, 7])
def test_two_batches_of_one_profile_share_the_body(legs):
    """It is built once a packet."""
    packet = rtp(1, b"payload")
    one, other = Scene(*[NOTHING_MOVED] * legs), Scene(NOTHING_MOVED)
    one.send(packet)
    other.send(packet)
    assert len(packet.bodies) == 1


@given(payload=st.binary(max_size=40), picture=st.integers(0, 0x7FFF), tl0=st.integers(0, 0xFF))
def test_any_payload_may_come(payload, picture, tl0):
    """A row is as long as its packet, whatever the payload says of itself."""
    scene = Scene(NOTHING_MOVED._replace(picture=picture, tl0=tl0), NOTHING_MOVED)
    moved, same = scene.send(rtp(1, payload))
    assert same.data[same.payload :] == payload
    assert len(moved.data) == len(same.data)


def test_receivers_with_the_same_numbers_get_them_as_one():
    """Which is how everybody begins: the source's own, or those moved for all alike."""
    for sequence, timestamp in ((0, 0), (0x8000, 7)):
        moved = NOTHING_MOVED._replace(sequence=sequence, timestamp=timestamp)
        scene = Scene(moved._replace(ssrc=1), moved._replace(ssrc=2), newest=0)
        assert not scene.batch._is_mixed
        for number in (0xFFFF, 0, 1):
            first, second = scene.send(rtp(number, timestamp=0xFFFFFFFE))
            assert (first.ssrc, second.ssrc) == (1, 2)
            assert first.sequence == second.sequence == (number + sequence) & 0xFFFF
            assert first.timestamp == second.timestamp == (0xFFFFFFFE + timestamp) & 0xFFFFFFFF


def test_a_full_socket_costs_the_rest_of_the_frame_and_no_more():
    """Video only: each frame of audio stands for itself."""
    scene = Scene(NOTHING_MOVED, NOTHING_MOVED)
    scene.port.is_full = True
    scene.batch.forward(rtp(1, timestamp=7), 0.0)
    scene.port.release()
    scene.port.is_full = False
    scene.batch.forward(rtp(2, timestamp=7), 0.0)
    scene.batch.forward(rtp(3, timestamp=8), 0.0)
    assert [p.sequence for p in scene.peers[0].received()] == [1, 3]
    assert scene.port.counters.dropped == {"socket_full_frame": 2}
