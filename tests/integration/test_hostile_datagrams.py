"""Attacks on the media port, from strangers and from a peer, in every state of a connection."""

import asyncio
import os
import random
import socket
import struct

import pytest
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from OpenSSL import SSL

from sfu.bot.patterns import CounterVideo, Tone
from sfu.media.dtls import Certificate
from sfu.media.plane import OfferRequest
from tests.integration.test_media_with_aiortc import peers, running_plane


def client_hello():
    """A real DTLS ClientHello, which a foreign host could send."""
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_tlsext_use_srtp(b"SRTP_AEAD_AES_128_GCM")
    connection = SSL.Connection(context)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(1500)


def stun(attributes=b"", *, kind=0x0001):
    return struct.pack("!HHI12s", kind, len(attributes), 0x2112A442, os.urandom(12)) + attributes


def attribute(kind, value):
    return struct.pack("!HH", kind, len(value)) + value + b"\0" * (-len(value) % 4)


def rubbish(seed=1):
    """Datagrams of every first byte, of every size that matters, and STUN with broken attributes."""
    chance = random.Random(seed)
    yield b""
    for first in range(256):
        yield bytes((first,))
        yield bytes((first,)) + chance.randbytes(chance.randrange(1, 1400))
    yield from (chance.randbytes(size) for size in (11, 12, 13, 1900, 2048, 2049, 9000, 65507))
    yield b"\x80" * 65507
    yield from (stun(), stun(kind=0x0101), stun(kind=0x0111), stun(kind=0x0011))
    for kind in (0x0006, 0x0008, 0x0020, 0x0024, 0x0025, 0x8028, 0x8029, 0x802A):
        for size in (0, 1, 3, 4, 7, 8, 20, 300):
            yield stun(attribute(kind, chance.randbytes(size)))
    yield stun(attribute(0x0006, b"\xff\xfe:\xfd") + attribute(0x0008, b"x" * 20))
    yield stun(attribute(0x0006, b"a:b" * 200) + attribute(0x0008, b"x" * 20))


class Stranger:
    """A socket of somebody who takes part in nothing, and what the server answered him."""

    def __init__(self, port):
        self._server = ("127.0.0.1", port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)

    def send(self, *datagrams):
        for datagram in datagrams:
            self.socket.sendto(datagram, self._server)

    def answers(self):
        found = []
        while True:
            try:
                found.append(self.socket.recv(65536))
            except BlockingIOError:
                return found

    def close(self):
        self.socket.close()


@pytest.fixture
async def plane():
    async with running_plane() as running:
        yield running


@pytest.fixture
def stranger(plane):
    made = Stranger(plane.ports.udp.port)
    yield made
    made.close()


async def until(condition):
    """Give the loop turns until something holds; the test's own deadline is the limit."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_running_call_is_not_harmed_by_strangers(plane, stranger):
    """Every frame still arrives once and in order, and the strangers get no answer."""
    async with peers(plane, "ada", "bob") as (ada, bob):
        await ada.offer(Tone(440), CounterVideo())
        await bob.offer(audio_slots=1, video_slots=1)
        await bob.decoded(video=10)
        sent = 0
        for seed in range(5):
            for datagram in rubbish(seed):
                stranger.send(datagram)
                sent += 1
                if sent % 50 == 0:
                    await asyncio.sleep(0)
            stranger.send(client_hello())
            await bob.decoded(video=bob.frames["video"] + 10)
        first = bob.numbers[0]
        assert bob.numbers == list(range(first, first + len(bob.numbers)))
        assert stranger.answers() == []
        dropped = plane.counters.dropped
        assert dropped["stranger"] > 1000 and dropped["empty"] >= 5
        assert dropped["oversize"] >= 5 and dropped["unauthenticated_check"] > 100
        assert "internal_error" not in dropped
        for name in ("ada", "bob"):
            assert plane.connection(name).connectionState == "connected"


async def test_a_peer_that_sends_rubbish_harms_nobody(plane):
    """From a validated address the same rubbish reaches the ciphers, and goes no further."""
    async with peers(plane, "ada", "bob", "mallory") as (ada, bob, mallory):
        await ada.offer(Tone(440), CounterVideo())
        await bob.offer(audio_slots=1, video_slots=1)
        await mallory.offer(Tone(660))
        await bob.decoded(video=10)
        await plane.event("mallory", "peer.connected")
        path = plane.connection("mallory").ice.selected
        ice = mallory.pc.getTransceivers()[0].sender.transport.transport._connection
        protocol = next(
            p for p in ice._protocols if p.transport.get_extra_info("sockname")[1] == path.address[1]
        )
        for datagram in rubbish():
            protocol.transport.sendto(datagram, ("127.0.0.1", plane.ports.udp.port))
        await until(lambda: plane.counters.dropped.get("srtp_not_authentic", 0) > 50)
        await bob.decoded(video=bob.frames["video"] + 20)
        first = bob.numbers[0]
        assert bob.numbers == list(range(first, first + len(bob.numbers)))
        assert "internal_error" not in plane.counters.dropped
        assert plane.connection("bob").connectionState == "connected"


async def test_rubbish_before_and_during_the_handshake(plane, stranger):
    """In the states new, checking and handshake nothing of it is taken for the client's."""
    async with peers(plane, "ada") as (ada,):
        states, connection = [], None

        def attack():
            states.append(connection.iceConnectionState)
            stranger.send(*rubbish(len(states)), client_hello())

        pc = ada.pc
        pc.addTransceiver(Tone(440), "sendonly")
        await pc.setLocalDescription(await pc.createOffer())
        reply = await plane.plane.offer("ada", OfferRequest("room", "ada", "ada", pc.localDescription.sdp))
        connection = plane.connection("ada")
        attack()
        connection.on("iceconnectionstatechange", attack)
        receive = connection._dtls.receive

        def when_dtls(data):
            attack()
            return receive(data)

        connection._dtls.receive = when_dtls
        await pc.setRemoteDescription(RTCSessionDescription(reply.sdp, "answer"))
        await plane.event("ada", "peer.connected")
        connection.remove_listener("iceconnectionstatechange", attack)
        assert "checking" in states and "completed" in states
        assert stranger.answers() == []


async def test_fifty_handshakes_under_foreign_client_hellos(plane, stranger):
    """Each connects, though a stranger sprays real ClientHellos at the port all the while."""
    hello = client_hello()
    spraying = True

    async def spray():
        while spraying:
            stranger.send(*[hello] * 5)
            await asyncio.sleep(0.001)

    sprayer = asyncio.create_task(spray())
    loop, took = asyncio.get_running_loop(), []
    for number in range(50):
        name = f"peer{number}"
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        pc.addTransceiver("audio", "recvonly")
        await pc.setLocalDescription(await pc.createOffer())
        began = loop.time()
        reply = await plane.plane.offer(name, OfferRequest("room", name, name, pc.localDescription.sdp))
        await pc.setRemoteDescription(RTCSessionDescription(reply.sdp, "answer"))
        await plane.event(name, "peer.connected")
        took.append(loop.time() - began)
        plane.plane.remove(name, "left")
        await pc.close()
    spraying = False
    await sprayer
    assert plane.counters.dropped["stranger"] > 500
    assert max(took) < 2


async def test_a_stolen_name_is_not_enough(plane, stranger):
    """A check with the right user name and a wrong password neither gets an answer nor moves the peer."""
    async with peers(plane, "ada") as (ada,):
        await ada.offer(Tone(440))
        await plane.event("ada", "peer.connected")
        connection = plane.connection("ada")
        selected = connection.ice.selected
        name = f"{connection.ice.credentials.ufrag}:{connection.ice.remote_ufrag}".encode()
        before = plane.counters.dropped.get("unauthenticated_check", 0)
        stranger.send(
            stun(attribute(0x0006, name) + attribute(0x0025, b"") + attribute(0x0008, b"\0" * 20)),
            stun(attribute(0x0006, name) + attribute(0x0025, b"")),
        )
        await until(lambda: plane.counters.dropped.get("unauthenticated_check", 0) == before + 2)
        assert connection.ice.selected is selected
        assert stranger.answers() == []


async def test_a_server_certificate_is_not_enough_for_another_peer(plane):
    """A client whose certificate is not the one of its offer is refused."""
    async with peers(plane, "ada") as (ada,):
        pc = ada.pc
        pc.addTransceiver(Tone(440), "sendonly")
        await pc.setLocalDescription(await pc.createOffer())
        wrong = Certificate.fresh().sha256
        sdp = "".join(
            f"a=fingerprint:sha-256 {wrong}\r\n" if line.startswith("a=fingerprint:sha-256") else line
            for line in pc.localDescription.sdp.splitlines(keepends=True)
            if not line.startswith(("a=fingerprint:sha-384", "a=fingerprint:sha-512"))
        )
        reply = await plane.plane.offer("ada", OfferRequest("room", "ada", "ada", sdp))
        await pc.setRemoteDescription(RTCSessionDescription(reply.sdp, "answer"))
        assert (await plane.event("ada", "peer.closed"))["reason"] == "failed"


class Nat(asyncio.DatagramProtocol):
    """A NAT between one client and the server, which can forget its mapping."""

    def __init__(self, port):
        self._server, self._client = ("127.0.0.1", port), None
        self._outside = None

    @classmethod
    async def open(cls, port):
        nat = cls(port)
        loop = asyncio.get_running_loop()
        nat._inside, _ = await loop.create_datagram_endpoint(lambda: nat, local_addr=("127.0.0.1", 0))
        nat.port = nat._inside.get_extra_info("sockname")[1]
        await nat.rebind()
        return nat

    async def rebind(self):
        old, nat = self._outside, self

        class Outside(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                if nat._client is not None:
                    nat._inside.sendto(data, nat._client)

        loop = asyncio.get_running_loop()
        self._outside, _ = await loop.create_datagram_endpoint(Outside, local_addr=("127.0.0.1", 0))
        if old is not None:
            old.close()

    def datagram_received(self, data, addr):
        self._client = addr
        self._outside.sendto(data, self._server)

    def close(self):
        self._inside.close()
        self._outside.close()


async def test_a_nat_that_rebinds_costs_seconds_not_the_call(plane):
    """The address follows the next authenticated check, in both directions, and the session stays."""
    nat = await Nat.open(plane.ports.udp.port)
    async with peers(plane, "ada", "bob") as (ada, bob):
        await bob.offer(audio_slots=1, video_slots=1)
        pc = ada.pc
        pc.addTransceiver(Tone(440), "sendonly")
        pc.addTransceiver("audio", "recvonly")
        await pc.setLocalDescription(await pc.createOffer())
        reply = await plane.plane.offer("ada", OfferRequest("room", "ada", "ada", pc.localDescription.sdp))
        through = reply.sdp.replace(f" {plane.ports.udp.port} typ", f" {nat.port} typ")
        await pc.setRemoteDescription(RTCSessionDescription(through, "answer"))
        await bob.decoded(audio=20)
        connection = plane.connection("ada")
        before = connection.ice.selected.address
        await nat.rebind()
        await until_slowly(lambda: connection.ice.selected.address != before)
        seen = bob.frames["audio"]
        await bob.decoded(audio=seen + 50)
        assert connection.connectionState == "connected"
        assert pc.connectionState == "connected"
    nat.close()


async def until_slowly(condition):
    """As `until`, for something that takes seconds: aioice checks every five."""
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.05)
