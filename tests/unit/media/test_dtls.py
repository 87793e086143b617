"""aiortc's DTLS on plain callables; fails when a private name of aiortc moves."""

import asyncio
import inspect
import stat

import pytest
from aiortc import RTCCertificate, RTCDataChannel, RTCDataChannelParameters, RTCPeerConnection
from aiortc.rtcdtlstransport import SRTP_PROFILES, RTCDtlsTransport
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from sfu.media import rtcp
from sfu.media.dtls import MAX_WAITING_RECORDS, Certificate, DtlsTransport, sctp_transport, start_sctp
from sfu.media.peer_connection import PeerConnection
from sfu.media.srtp import Rows, SrtpContext
from sfu.settings import SettingsError
from tests.unit.media.scene import rtp_bytes

TAG_BYTES = 16


@pytest.fixture(scope="module")
def certificates() -> tuple[Certificate, Certificate]:
    return Certificate.fresh(), Certificate.fresh()


class Pair:
    """Two transports, each of which sends straight into the other."""

    def __init__(self, certificates: tuple[Certificate, Certificate]) -> None:
        self.certificates = certificates
        # So many flights of the client are lost.
        self.lose = 0
        self.client = DtlsTransport(self._to_server, certificates[0])
        self.server = DtlsTransport(lambda data: self.client.receive(data), certificates[1])

    def _to_server(self, data: bytes) -> None:
        if self.lose:
            self.lose -= 1
        else:
            self.server.receive(data)

    async def connect(self) -> list[tuple[SrtpContext, SrtpContext]]:
        """Return what the client got, and what the server: incoming and outgoing."""
        return await asyncio.gather(
            self.client.handshake("client", [("sha-256", self.certificates[1].sha256)], 10),
            self.server.handshake("server", [("sha-256", self.certificates[0].sha256)], 10),
        )

    async def close(self) -> None:
        await self.client.close()
        await self.server.close()


def other_tasks() -> set[asyncio.Task]:
    return asyncio.all_tasks() - {asyncio.current_task()}


# Private names


def test_the_private_names_of_aiortc_are_there(certificates):
    """All that dtls.py touches and says so."""
    assert list(inspect.signature(RTCCertificate._create_ssl_context).parameters) == ["self", "srtp_profiles"]
    transport = RTCDtlsTransport(object(), [certificates[0]])
    assert transport._srtp_profiles is SRTP_PROFILES
    assert (transport._role, transport._rx_srtp, transport._tx_srtp, transport._task) == (
        "auto",
        None,
        None,
        None,
    )
    transport._set_role("server")
    assert transport._role == "server"


# Certificate


def test_one_context_serves_all_peers():
    """It is made once."""
    one, other = Certificate.fresh(), Certificate.fresh()
    context = one._create_ssl_context(SRTP_PROFILES)
    assert one._create_ssl_context(SRTP_PROFILES) is context
    assert other._create_ssl_context(SRTP_PROFILES) is not context


def test_the_fingerprint_is_as_sdp_wants_it(certificates):
    """Thirty-two bytes in hexadecimal with colons."""
    parts = certificates[0].sha256.split(":")
    assert len(parts) == 32
    assert all(len(part) == 2 and int(part, 16) >= 0 for part in parts)


def test_a_certificate_file_is_made_and_loaded_again(tmp_path):
    """Readable by its owner only; the same certificate the next time."""
    path = tmp_path / "certificate.pem"
    made = Certificate.at(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Certificate.at(path).sha256 == made.sha256


async def test_a_loaded_certificate_shakes_hands(tmp_path):
    """Key and certificate of the file belong together."""
    Certificate.at(tmp_path / "c.pem")
    pair = Pair((Certificate.at(tmp_path / "c.pem"), Certificate.fresh()))
    await pair.connect()
    await pair.close()


def _key_pem(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        _key_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        _key_pem(ec.generate_private_key(ec.SECP256R1())),
        _key_pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret")),
    ],
    ids=["empty", "rubbish", "rsa", "no-certificate", "encrypted"],
)
def test_a_file_that_is_no_certificate_is_refused(tmp_path, content):
    """As a fault of the settings, with the name of the file."""
    path = tmp_path / "certificate.pem"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"certificate\.pem"):
        Certificate.at(path)


def test_a_file_that_cannot_be_made_or_read_is_refused(tmp_path):
    """No directory, or one in its place."""
    for path in (tmp_path / "missing" / "certificate.pem", tmp_path):
        with pytest.raises(SettingsError, match=r"media\.certificate_file"):
            Certificate.at(path)


# Handshake


async def test_two_transports_key_srtp_with_aes_gcm(certificates):
    """Packets that one protects, the other unprotects; the tag is the one of AES-128-GCM."""
    pair, rows = Pair(certificates), Rows(1, 512)
    keyed = client, server = await pair.connect()
    assert pair.server._ssl.get_selected_srtp_profile() == b"SRTP_AEAD_AES_128_GCM"
    for (_, outgoing), (incoming, _) in (keyed, (server, client)):
        packet = rtp_bytes(7, b"payload")
        rows.put(0, packet)
        assert outgoing.protect(rows, 0)
        assert int(rows.lengths[0]) == len(packet) + TAG_BYTES
        assert incoming.open(rows, 0, int(rows.lengths[0]))
        assert rows.take(0) == packet
        rows.put(0, rtcp.picture_loss(1, 2))
        assert outgoing.protect_rtcp(rows, 0)
        assert incoming.unprotect_rtcp(rows, 0)
        assert rows.take(0) == rtcp.picture_loss(1, 2)
    await pair.close()


async def test_a_wrong_fingerprint_fails(certificates):
    """The certificate is not the promised one."""
    pair = Pair(certificates)
    wrong = [("sha-256", certificates[0].sha256)]
    client = pair.client.handshake("client", wrong, 10)
    server = pair.server.handshake("server", wrong, 10)
    failed, connected = await asyncio.gather(client, server, return_exceptions=True)
    assert isinstance(failed, ConnectionError)
    assert not isinstance(connected, BaseException)
    await pair.close()


async def test_a_fingerprint_of_an_unknown_kind_fails(certificates):
    """Nothing is promised by it."""
    pair = Pair(certificates)
    results = await asyncio.gather(
        pair.client.handshake("client", [("md5", "AA")], 10),
        pair.server.handshake("server", [("md5", "AA")], 10),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [ConnectionError, ConnectionError]
    await pair.close()


async def test_a_silent_peer_times_out(certificates):
    """And leaves no task behind."""
    transport = DtlsTransport(lambda data: None, certificates[0])
    with pytest.raises(ConnectionError, match="timed out"):
        await transport.handshake("client", [("sha-256", certificates[1].sha256)], 0.05)
    await transport.close()
    assert other_tasks() == set()


async def test_lost_flights_are_sent_again(certificates):
    """The first flight of the client is lost; its timer (one second of OpenSSL's) repeats it."""
    pair = Pair(certificates)
    pair.lose = 1
    await pair.connect()
    assert pair.lose == 0
    await pair.close()


async def test_closing_during_the_handshake_ends_it(certificates):
    """The handshake fails at once."""
    begun = asyncio.Event()
    transport = DtlsTransport(lambda data: begun.set(), certificates[0])
    shaking = asyncio.create_task(transport.handshake("client", [("sha-256", certificates[1].sha256)], 60))
    await asyncio.wait_for(begun.wait(), 5)
    await transport.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(shaking, 5)
    assert other_tasks() == set()


async def test_closing_tells_the_peer_and_leaves_no_task(certificates):
    """Both ends are closed; closing twice does nothing, and what comes then is refused."""
    pair = Pair(certificates)
    await pair.connect()
    pumping = pair.server._task
    closed = asyncio.Event()
    pair.server.on("statechange", closed.set)
    await pair.client.close()
    await asyncio.wait_for(closed.wait(), 5)
    assert (pair.client.state, pair.server.state) == ("closed", "closed")
    await pair.server.close()
    await pair.server.close()
    assert pumping.done()
    assert other_tasks() == set()
    assert not pair.server.receive(b"\x16")
    assert pair.server.listeners("statechange") == []


async def test_closing_before_the_handshake_is_nothing(certificates):
    """There is nothing to close."""
    transport = DtlsTransport(lambda data: None, certificates[0])
    await transport.close()
    assert other_tasks() == set()


async def test_waiting_records_are_bounded(certificates):
    """What is too much is dropped and told; closing gets through all the same."""
    transport = DtlsTransport(lambda data: None, certificates[0])
    assert all(transport.receive(b"\x16") for _ in range(MAX_WAITING_RECORDS))
    assert not transport.receive(b"\x16")
    await transport.close()


async def test_rubbish_during_the_handshake_does_not_hurt(certificates):
    """Records that are none are passed over."""
    pair = Pair(certificates)
    for junk in (b"\x16", b"\x16\xfe\xfd" + bytes(40), b"\x3f" * 100, b"\x80" * 100, b"\x00"):
        pair.server.receive(junk)
    await pair.connect()
    await pair.close()


# Data channels


async def test_a_data_channel_runs_over_it(certificates):
    """What one end says arrives at the other; nothing of it is left afterwards."""
    pair = Pair(certificates)
    await pair.connect()
    client, server = sctp_transport(pair.client), sctp_transport(pair.server)
    arrived: asyncio.Queue[str] = asyncio.Queue()
    server.on("datachannel", lambda channel: channel.on("message", arrived.put_nowait))
    await start_sctp(client, 65_536, 5000)
    await start_sctp(server, 65_536, 5000)
    channel = RTCDataChannel(client, RTCDataChannelParameters(label="messages"))
    channel.on("open", lambda: channel.send("hello"))
    assert await asyncio.wait_for(arrived.get(), 10) == "hello"
    await client.stop()
    await server.stop()
    await pair.close()
    assert other_tasks() == set()


def test_nothing_of_aiortcs_own_connection_is_left():
    """Its initialisation does not run, so whatever it offers is ours."""
    offered = {name for name in vars(RTCPeerConnection) if not name.startswith("_")}
    assert offered <= set(vars(PeerConnection))
