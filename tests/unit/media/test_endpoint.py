"""RTCP of a peer: as much as an honest one sends, and no feedback that nobody needs; the rest is cheap."""

import struct

import pytest
from pylibsrtp import Policy as SrtpPolicy, Session

from sfu.counters import MediaCounters
from sfu.media import rtcp
from sfu.media.datagrams import STRIDE
from sfu.media.endpoint import MAX_RTCP_PER_S, PeerEndpoint
from sfu.media.ports import MediaPorts
from sfu.media.srtp import Rows, SrtpContext
from sfu.media.transport_cc import ArrivalRecorder
from sfu.media.udp import UdpPort
from tests.unit.media.scene import SENDING, rtp_bytes, slot

# Both that are agreed; what they add to a compound differs (20 and 14 bytes).
GCM, CM = SrtpPolicy.SRTP_PROFILE_AEAD_AES_128_GCM, SrtpPolicy.SRTP_PROFILE_AES128_CM_SHA1_80
NACK = rtcp.nack(1, 2, [3])
# One that is counted as a report.
REPORT = rtcp.receiver_report(1) + NACK
# Packets are this large, and so much feedback comes on a calm link.
SIZE, CALM_S = 1000, 0.3


def session(direction: int, profile: int) -> Session:
    policy = SrtpPolicy(
        key=bytes(range(28 if profile == GCM else 30)), ssrc_type=direction, srtp_profile=profile
    )
    return Session(policy)


class Scene:
    """A peer, and what its client sends to it."""

    def __init__(self) -> None:
        self.counters = MediaCounters()
        self.ports = MediaPorts(
            UdpPort("127.0.0.1", 0, self.counters, lambda: 0.0), self.counters, lambda: 0.0
        )
        self.peer = PeerEndpoint(self.ports, lambda: None, lambda data: True)
        self.rows = Rows(4, STRIDE)
        self.recorder = ArrivalRecorder()
        self.key()

    def key(self, profile: int = GCM) -> None:
        """Let the handshake be over."""
        self.client = session(SrtpPolicy.SSRC_ANY_OUTBOUND, profile)
        self.peer.incoming = SrtpContext(session(SrtpPolicy.SSRC_ANY_INBOUND, profile))

    @property
    def dropped(self) -> dict[str, int]:
        return self.counters.dropped

    @property
    def heard(self) -> int:
        """NACKs that were read."""
        return self.counters.nacks_received

    @property
    def skipped(self) -> int:
        return self.counters.feedback_skipped

    def receive(self, data: bytes, now: float) -> None:
        """Let the peer take a datagram, from a row in the midst of others."""
        self.rows.buffer[2 * STRIDE : 2 * STRIDE + len(data)] = data
        self.peer.receive_media(self.rows, 2, len(data), now, now)

    def hear(self, *packets: bytes, now: float = 100.0) -> None:
        self.receive(self.client.protect_rtcp(b"".join(packets)), now)

    def flood(self, count: int, now: float, data: bytes = REPORT) -> int:
        """Let so many compounds come at once; return how many were read."""
        before = self.heard
        for _ in range(count):
            self.hear(data, now=now)
        return self.heard - before

    def slots(self, count: int) -> None:
        """Give the client so many slots."""
        for mid in map(str, range(count)):
            self.peer.rtp.subscriptions.begin(slot(mid=mid), SENDING)

    def send(self, now: float, *, arrives: bool = True) -> None:
        """Let a packet go out under the next number of the link."""
        number = self.peer.next_transport_number(SIZE, now)
        if arrives:
            self.recorder.receive(number, now + 0.02)

    def feedback(self, now: float) -> bytes:
        """Return the client's feedback of all that was sent since its last."""
        (body,) = self.recorder.handle_timer(now + 10)
        return rtcp.transport_feedback(1, 2, body)

    def tell(self, now: float) -> int:
        """Let a packet be sent and told of; return how many feedbacks of it were skipped."""
        before = self.skipped
        self.send(now)
        self.hear(self.feedback(now), now=now + 0.03)
        return self.skipped - before


@pytest.fixture
async def scene():
    made = Scene()
    yield made
    made.peer.close()
    made.ports.udp.close()


async def test_what_comes_before_the_keys_is_dropped(scene):
    """Media and RTCP alike: it cannot be decrypted. Afterwards both are read, with the whole budget."""
    scene.hear(REPORT)
    scene.peer.incoming = None
    for number in range(MAX_RTCP_PER_S):
        scene.receive(scene.client.protect_rtcp(NACK), 100.0)
        scene.receive(scene.client.protect(rtp_bytes(number)), 100.0)
    assert scene.dropped == {"before_keys": 2 * MAX_RTCP_PER_S}
    assert (scene.heard, scene.counters.packets_received) == (1, 0)
    scene.key()
    assert scene.flood(MAX_RTCP_PER_S - 1, 100.0) == MAX_RTCP_PER_S - 1
    scene.receive(scene.client.protect(rtp_bytes(1)), 100.0)
    assert scene.counters.packets_received == 1


@pytest.mark.parametrize("length", [1, 2, 8, 11])
async def test_what_is_shorter_than_a_header_is_dropped(scene, length):
    """Whatever it begins with: what was in the row before is not taken for the rest of it."""
    assert scene.tell(100.0) == 0
    scene.send(100.1)
    scene.receive(scene.feedback(100.1)[:length], 100.1)
    assert (scene.skipped, sum(scene.dropped.values())) == (0, 1)


async def test_rtcp_is_told_from_media_by_its_type(scene):
    """Types 192 to 223 (RFC 5761); what stands beside them is media, with its marker."""
    scene.hear(NACK)
    for sequence, (payload_type, marker) in enumerate(((96, 0), (96, 1), (63, 1), (111, 1))):
        packet = rtp_bytes(sequence, payload_type=payload_type, marker=marker)
        scene.receive(scene.client.protect(packet), 100.0)
    assert (scene.heard, scene.counters.packets_received) == (1, 4)


async def test_what_is_not_authentic_is_not_read(scene):
    """It is counted; a copy of what was read is not read again."""
    compound = scene.client.protect_rtcp(NACK)
    scene.receive(compound[:-1] + bytes((compound[-1] ^ 1,)), 100.0)
    assert (scene.heard, scene.dropped) == (0, {"srtcp_not_authentic": 1})
    scene.receive(compound, 100.0)
    scene.receive(compound, 100.0)
    assert (scene.heard, scene.dropped) == (1, {"srtcp_not_authentic": 2})


# As much as a peer is listened to


async def test_a_peer_is_listened_to_so_often_in_a_second(scene):
    """What is more at once is dropped and counted, and costs no decryption."""
    assert scene.flood(MAX_RTCP_PER_S + 50, 100.0) == MAX_RTCP_PER_S
    assert scene.dropped == {"rtcp_flood": 50}
    scene.receive(b"\x80\xcd" + bytes(40), 100.0)
    assert scene.dropped == {"rtcp_flood": 51}


async def test_the_budget_comes_back_with_time(scene):
    """In proportion, and never more of it than a second's, however long it was quiet."""
    scene.flood(MAX_RTCP_PER_S, 100.0)
    assert scene.flood(MAX_RTCP_PER_S, 100.25) == MAX_RTCP_PER_S // 4
    assert scene.flood(2 * MAX_RTCP_PER_S, 4000.0) == MAX_RTCP_PER_S


async def test_a_peer_that_floods_for_long_is_still_listened_to(scene):
    """At the rate that everybody has; it is not shut out for what is more."""
    scene.flood(MAX_RTCP_PER_S, 100.0)
    heard = sum(scene.flood(1, 100.0 + step / (MAX_RTCP_PER_S * 3)) for step in range(MAX_RTCP_PER_S * 6))
    assert heard == pytest.approx(MAX_RTCP_PER_S * 2, rel=0.01)


@pytest.mark.parametrize(("slots", "per_s"), ((0, 50), (1, 50), (2, 100), (4, 200), (40, MAX_RTCP_PER_S)))
async def test_requests_to_send_again_are_heard_for_each_slot(scene, slots, per_s):
    """One of them may name hundreds of packets: nobody with one slot needs 400 a second."""
    scene.slots(slots)
    assert scene.flood(2 * MAX_RTCP_PER_S, 100.0, NACK) == per_s
    assert scene.dropped == {"rtcp_flood": 2 * MAX_RTCP_PER_S - per_s}
    assert scene.flood(MAX_RTCP_PER_S, 100.5, NACK) == per_s // 2


async def test_an_honest_peer_is_never_dropped(scene):
    """With four slots: a hundred requests a second, twenty feedbacks, twenty reports, for a minute."""
    scene.slots(4)
    for step in range(60 * 20):
        now = 100.0 + step / 20
        scene.hear(rtcp.receiver_report(1), now=now)
        scene.send(now)
        scene.hear(scene.feedback(now), now=now)
        for part in range(5):
            scene.hear(NACK, now=now + part / 100)
    assert (scene.heard, scene.dropped) == (60 * 100, {})


async def test_media_is_not_counted_as_rtcp(scene):
    """Neither is it dropped after a flood of RTCP, nor does it use the budget up."""
    scene.flood(MAX_RTCP_PER_S + 1, 100.0)
    for number in range(1000):
        scene.receive(scene.client.protect(rtp_bytes(number)), 100.0)
    assert scene.counters.packets_received == 1000
    assert scene.flood(MAX_RTCP_PER_S, 101.0) == MAX_RTCP_PER_S


async def test_budgets_are_each_peers_own(scene):
    """Nobody is deaf because of somebody else."""
    other = Scene()
    scene.flood(MAX_RTCP_PER_S + 1, 100.0)
    assert other.flood(1, 100.0) == 1
    other.peer.close()
    other.ports.udp.close()


# Feedback that nobody needs


async def test_on_a_calm_link_every_few_feedbacks_are_enough(scene):
    """The others are counted as skipped; none of them is dropped."""
    looked_at = [scene.tell(100.0 + step / 20) == 0 for step in range(100)]
    assert looked_at[0]
    assert looked_at.count(True) == pytest.approx(5 / CALM_S, abs=2)
    longest = max(len(gap) for gap in "".join("x" if seen else "." for seen in looked_at).split("x"))
    assert longest <= CALM_S * 20
    assert scene.dropped == {}


async def test_surplus_feedback_is_not_decrypted(scene):
    """Its header tells what it is; so it does not matter what stands behind it."""
    assert scene.tell(100.0) == 0
    scene.send(100.1)
    scene.receive(scene.feedback(100.1) + bytes(20), 100.1)
    assert (scene.skipped, scene.dropped) == (1, {})
    scene.send(100.9)
    scene.receive(scene.feedback(100.9) + bytes(20), 100.9)
    assert (scene.skipped, scene.dropped) == (1, {"srtcp_not_authentic": 1})


@pytest.mark.parametrize("profile", [GCM, CM])
async def test_surplus_is_known_under_every_cipher(scene, profile):
    """They add different numbers of bytes."""
    scene.key(profile)
    assert scene.tell(100.0) == 0
    assert scene.tell(100.1) == 1


async def test_padding_does_not_make_feedback_needed(scene):
    scene.tell(100.0)
    scene.send(100.1)
    packet = bytearray(scene.feedback(100.1) + b"\0\0\0\4")
    packet[0] |= 0x20
    packet[3] += 1
    scene.hear(bytes(packet), now=100.1)
    assert scene.skipped == 1


@pytest.mark.parametrize("profile", [GCM, CM])
@pytest.mark.parametrize(
    "behind",
    [NACK, rtcp.picture_loss(1, 2), rtcp.receiver_report(1), rtcp.full_intra_request(1, 2, 3)],
    ids=["nack", "pli", "rr", "fir"],
)
async def test_feedback_with_something_behind_it_is_read(scene, profile, behind):
    """Whatever that is: what is in it is not told by the first header."""
    scene.key(profile)
    scene.tell(100.0)
    scene.send(100.1)
    scene.hear(scene.feedback(100.1), behind, now=100.1)
    assert scene.skipped == 0
    read = (scene.heard, scene.counters.keyframe_requests_received)
    assert read == {205: (1, 0), 206: (0, 1), 201: (0, 0)}[behind[1]]


async def test_what_is_not_feedback_is_read(scene):
    """A request for packets has the same type, a limit (REMB) the same format, some begin with a report."""
    scene.tell(100.0)
    limit = struct.pack("!BBHII4sBBHI", 0x8F, rtcp.PSFB, 5, 1, 0, b"REMB", 1, 0, 9000, 2)
    scene.hear(limit, now=100.1)
    assert scene.peer.rtp.subscriptions.remb_bps == 9000
    scene.hear(NACK, now=100.1)
    scene.hear(rtcp.picture_loss(1, 2), now=100.1)
    scene.send(100.1)
    scene.hear(rtcp.receiver_report(1), scene.feedback(100.1), NACK, now=100.1)
    assert (scene.heard, scene.counters.keyframe_requests_received, scene.skipped) == (2, 1, 0)


async def test_every_feedback_of_a_lossy_link_is_read(scene):
    """From the first that tells of the loss on."""
    for step in range(60):
        scene.send(100.0 + step / 100, arrives=step % 5 != 2)
    scene.hear(scene.feedback(100.6), now=100.62)
    assert scene.peer.rtp.subscriptions.bandwidth.loss == pytest.approx(0.2, abs=0.01)
    assert [scene.tell(100.7 + step / 20) for step in range(3)] == [0, 0, 0]


async def test_what_skipped_feedback_told_of_counts_as_arrived(scene):
    """The rate of the link is what was sent, not the part of it that was looked at."""
    for step in range(200):
        for packet in range(5):
            scene.send(100.0 + step / 20 + packet / 100)
        scene.hear(scene.feedback(100.05 + step / 20), now=100.06 + step / 20)
    assert scene.skipped > 150
    bandwidth = scene.peer.rtp.subscriptions.bandwidth
    assert bandwidth.arrived_bps == pytest.approx(100 * SIZE * 8, rel=0.05)
    assert bandwidth.sent_bps == pytest.approx(100 * SIZE * 8, rel=0.05)


async def test_a_flood_of_surplus_feedback_takes_nothing_from_the_rest(scene):
    """To pass it over costs less than to count it; what else comes is read."""
    scene.tell(100.0)
    scene.send(100.1)
    scene.flood(MAX_RTCP_PER_S + 9, 100.1, scene.feedback(100.1))
    assert (scene.skipped, scene.dropped) == (MAX_RTCP_PER_S + 9, {})
    assert scene.flood(1, 100.1) == 1
