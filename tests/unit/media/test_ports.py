"""Every datagram is somebody's or nobody's: checks by user name, the rest by address."""

import asyncio
import socket
import struct
from dataclasses import dataclass, field

import pytest
from aioice import stun

from sfu.counters import MediaCounters
from sfu.media import ports, tcp
from sfu.media.ice import MAX_VALIDATED_PATHS, Credentials, IceLite
from sfu.media.packet import MAX_PACKET_BYTES
from sfu.media.ports import _MAX_LOGGED_FAILURES, MediaPorts
from sfu.media.srtp import Rows
from sfu.media.udp import UdpPort
from tests.unit.media.scene import rtp_bytes

TIMEOUT_S = 5
DTLS_RECORD = b"\x16\xfe\xfd" + bytes(20)
SRTP_PACKET = rtp_bytes(1, b"payload")


@dataclass(eq=False)
class Endpoint(ports.Endpoint):
    """A peer, as the ports know it; notes what it is handed."""

    remote: str = "them"
    ice: IceLite = field(default_factory=IceLite)
    validated: list[float] = field(default_factory=list)
    dtls: list[bytes] = field(default_factory=list)
    media: list[bytes] = field(default_factory=list)
    breaks: bool = False

    def __post_init__(self) -> None:
        self.ice.begin(self.remote)

    def path_validated(self, now: float) -> None:
        self.validated.append(now)

    def receive_dtls(self, data: bytes) -> None:
        if self.breaks:
            raise RuntimeError("a bug of ours")
        self.dtls.append(data)

    def receive_media(self, rows: Rows, index: int, length: int, now: float, arrived: float) -> None:
        at = index * rows.stride
        self.media.append(bytes(rows.buffer[at : at + length]))

    def check(
        self, password: str = "", nominates: bool = False, credentials: Credentials | None = None
    ) -> bytes:
        """A connectivity check of this peer, as a browser sends it."""
        ours = credentials or self.ice.credentials
        message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        message.attributes["USERNAME"] = f"{ours.ufrag}:{self.remote}"
        message.attributes["PRIORITY"] = 1
        if nominates:
            message.attributes["USE-CANDIDATE"] = None
        message.add_message_integrity((password or ours.password).encode())
        return bytes(message)


class Client:
    """A UDP socket of somebody."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self._to = ("127.0.0.1", port)

    @property
    def address(self) -> tuple[str, int]:
        return self.socket.getsockname()

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self._to)

    async def receive(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 2048), TIMEOUT_S)

    def has_mail(self) -> bool:
        try:
            self.socket.recv(2048)
        except BlockingIOError:
            return False
        return True


class Scene:
    """Open ports on 127.0.0.1, read by hand where a test does not wait."""

    def __init__(self) -> None:
        self.counters = MediaCounters()
        self.now = 100.0
        self.udp = UdpPort("127.0.0.1", 0, self.counters, lambda: self.now)
        self.ports = MediaPorts(self.udp, self.counters, lambda: self.now)
        self.clients: list[Client] = []
        self.streams: list[asyncio.StreamWriter] = []

    @property
    def dropped(self) -> dict[str, int]:
        return self.counters.dropped

    def client(self) -> Client:
        self.clients.append(Client(self.udp.port))
        return self.clients[-1]

    def endpoint(self, remote: str = "them") -> Endpoint:
        made = Endpoint(remote)
        self.ports.register(made)
        return made

    def read(self) -> None:
        """Handle what has arrived; on the loopback that is all that was sent."""
        self.udp._readable()

    def deliver(self, client: Client, *datagrams: bytes) -> None:
        for data in datagrams:
            client.send(data)
            self.read()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports.tcp.port)
        self.streams.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self.streams:
            writer.close()
        for client in self.clients:
            client.socket.close()
        await self.ports.close()


@pytest.fixture
async def scene():
    made = Scene()
    await made.ports.start("127.0.0.1", 0, ["127.0.0.1", "::1"])
    yield made
    await made.close()


async def test_every_advertised_address_has_both_ports(scene):
    """UDP first."""
    udp, tcp_port = scene.udp.port, scene.ports.tcp.port
    assert scene.ports.advertised == [
        ("127.0.0.1", udp, "udp"),
        ("::1", udp, "udp"),
        ("127.0.0.1", tcp_port, "tcp"),
        ("::1", tcp_port, "tcp"),
    ]


# Checks


async def test_an_authentic_check_is_answered(scene):
    """With the client's address, for its transaction, signed; the path is validated."""
    endpoint, client = scene.endpoint(), scene.client()
    check = endpoint.check()
    scene.deliver(client, check)
    answer = stun.parse_message(await client.receive())
    assert answer.message_class == stun.Class.RESPONSE
    assert answer.transaction_id == stun.parse_message(check).transaction_id
    assert answer.attributes["XOR-MAPPED-ADDRESS"] == client.address
    assert answer.check_message_integrity(endpoint.ice.credentials.password.encode())
    assert endpoint.ice.selected.address == client.address
    assert endpoint.validated == [100.0]
    assert scene.dropped == {}


async def test_an_unauthenticated_check_gets_no_answer(scene):
    """Wrong password, unknown ufrag, no user name, no STUN: nothing comes back, all is counted."""
    endpoint, client = scene.endpoint(), scene.client()
    nameless = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    other = Endpoint("somebody")
    scene.deliver(
        client,
        endpoint.check("guessed"),
        other.check(),
        bytes(nameless),
        b"\x00\x01" + bytes(30),
        b"\x01" + bytes(30),
    )
    assert scene.dropped == {"unauthenticated_check": 5}
    assert not client.has_mail()
    assert endpoint.ice.validated == {}
    assert scene.counters.datagrams_sent == 0


async def test_an_unauthenticated_check_does_not_move_a_path(scene):
    """Nor does it end one."""
    endpoint, client = scene.endpoint(), scene.client()
    scene.deliver(client, endpoint.check(), endpoint.check("guessed"), DTLS_RECORD)
    assert endpoint.dtls == [DTLS_RECORD]


# What is no check


async def test_a_validated_address_is_heard(scene):
    """DTLS and media go to the peer, by their first byte (RFC 7983); the rest is counted."""
    endpoint, client = scene.endpoint(), scene.client()
    scene.deliver(client, endpoint.check())
    scene.now = 101.0
    scene.deliver(client, DTLS_RECORD, SRTP_PACKET, b"\x40turn", b"\xffwhat")
    assert endpoint.dtls == [DTLS_RECORD]
    assert endpoint.media == [SRTP_PACKET]
    assert scene.dropped == {"unknown_protocol": 2}
    assert endpoint.ice.heard_at == 101.0


async def test_a_stranger_reaches_nobody(scene):
    """Counted, not answered."""
    endpoint, client = scene.endpoint(), scene.client()
    scene.deliver(client, DTLS_RECORD, SRTP_PACKET, b"\xff")
    assert (endpoint.dtls, endpoint.media) == ([], [])
    assert scene.dropped == {"stranger": 3}
    assert not client.has_mail()


@pytest.mark.parametrize("validated", [False, True])
async def test_datagrams_of_all_sizes_are_counted(scene, validated):
    """Empty, one byte, and the largest that UDP has: from strangers and from a peer."""
    endpoint, client = scene.endpoint(), scene.client()
    if validated:
        scene.deliver(client, endpoint.check())
    scene.deliver(client, b"", b"\x00", b"\x80", bytes(65507), b"\x80" * 65507)
    assert scene.dropped.pop("stranger", 0) == (0 if validated else 1)
    assert scene.dropped == {"empty": 1, "unauthenticated_check": 1, "oversize": 2}
    assert endpoint.media == ([b"\x80"] if validated else [])


async def test_a_path_that_is_not_the_selected_one_is_heard_too(scene):
    """But does not say that the selected one is alive."""
    endpoint, first, second = scene.endpoint(), scene.client(), scene.client()
    scene.deliver(first, endpoint.check())
    scene.deliver(second, endpoint.check())
    scene.now = 101.0
    scene.deliver(second, SRTP_PACKET)
    assert endpoint.media == [SRTP_PACKET]
    assert endpoint.ice.heard_at == 100.0


async def test_a_bug_of_ours_does_not_stop_the_port(scene, capsys):
    """It is counted each time, and told so often only."""
    endpoint, client = scene.endpoint(), scene.client()
    scene.deliver(client, endpoint.check())
    endpoint.breaks = True
    scene.deliver(client, *[DTLS_RECORD] * (_MAX_LOGGED_FAILURES + 5))
    endpoint.breaks = False
    scene.deliver(client, DTLS_RECORD)
    assert scene.dropped == {"internal_error": _MAX_LOGGED_FAILURES + 5}
    assert endpoint.dtls == [DTLS_RECORD]
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("packet_handler_failed") == _MAX_LOGGED_FAILURES


# Whose address it is


async def test_an_address_may_become_another_peers(scene):
    """A client that joins again from the same port: the first one loses the path."""
    one, two, client = scene.endpoint("one"), scene.endpoint("two"), scene.client()
    scene.deliver(client, one.check(), two.check(), SRTP_PACKET)
    assert (one.ice.validated, one.ice.selected) == ({}, None)
    assert (one.media, two.media) == ([], [SRTP_PACKET])
    assert two.ice.selected.endpoint is two


async def test_the_oldest_path_gives_way(scene):
    """Its address is a stranger's again."""
    endpoint = scene.endpoint()
    clients = [scene.client() for _ in range(MAX_VALIDATED_PATHS + 1)]
    for client in clients:
        scene.now += 0.1
        scene.deliver(client, endpoint.check())
    scene.deliver(clients[0], SRTP_PACKET)
    assert endpoint.media == [SRTP_PACKET]
    scene.deliver(clients[1], SRTP_PACKET)
    assert scene.dropped == {"stranger": 1}
    assert len(endpoint.ice.validated) == MAX_VALIDATED_PATHS


async def test_a_peer_that_left_is_forgotten(scene):
    """Its ufrags, its UDP address and its connection."""
    endpoint, other, client = scene.endpoint("one"), scene.endpoint("two"), scene.client()
    reader, writer = await scene.connect()
    writer.write(frame(endpoint.check()))
    await read_frame(reader)
    scene.deliver(client, endpoint.check())
    assert scene.ports.is_known(endpoint)
    scene.ports.unregister(endpoint)
    assert not scene.ports.is_known(endpoint)
    assert scene.ports.is_known(other)
    scene.deliver(client, SRTP_PACKET, endpoint.check())
    assert scene.dropped == {"stranger": 1, "unauthenticated_check": 1}
    assert await end_of(reader)


async def test_a_peer_is_known_by_its_address_alone(scene):
    """While a path of it is left, something points to it."""
    endpoint, client = scene.endpoint(), scene.client()
    scene.deliver(client, endpoint.check())
    scene.ports._by_ufrag.clear()
    assert scene.ports.is_known(endpoint)


async def test_restarts_that_nobody_used_are_forgotten(scene):
    """Whoever offers anew again and again, and never checks, takes no more room."""
    peer = scene.endpoint()
    for number in range(20):
        peer.ice.begin(f"again{number}")
        scene.ports.register(peer)
    assert set(scene.ports._by_ufrag) == set(peer.ice.ufrags)
    assert len(peer.ice.ufrags) == 2


async def test_a_restart_is_known_by_both_ufrags_until_the_new_one_is_used(scene):
    """Then the old one is nobody's."""
    endpoint, client = scene.endpoint(), scene.client()
    old = endpoint.ice.credentials
    scene.deliver(client, endpoint.check())
    before = endpoint.check()
    endpoint.ice.begin("again")
    endpoint.remote = "again"
    scene.ports.register(endpoint)
    scene.deliver(client, before)
    assert scene.dropped == {}
    scene.deliver(client, endpoint.check())
    assert old.ufrag not in scene.ports._by_ufrag
    scene.deliver(client, before)
    assert scene.dropped == {"unauthenticated_check": 1}


# Sending


async def test_rows_go_out_by_the_path_of_the_peer(scene):
    """With the next flush."""
    endpoint, client = scene.endpoint(), scene.client()
    scene.deliver(client, endpoint.check())
    await client.receive()
    scene.udp.outgoing.put(scene.udp.reserve(), b"row")
    scene.ports.send_row(endpoint.ice.selected)
    assert not client.has_mail()
    scene.ports.flush()
    assert await client.receive() == b"row"


# TCP


def frame(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(TIMEOUT_S):
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return await reader.readexactly(length)


async def end_of(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side is gone; a reset is an end too."""
    try:
        return await asyncio.wait_for(reader.read(1), TIMEOUT_S) == b""
    except ConnectionResetError:
        return True


async def test_a_check_over_tcp_is_answered_in_a_frame(scene):
    """And what follows on the connection is the peer's (RFC 4571, RFC 6544)."""
    endpoint = scene.endpoint()
    reader, writer = await scene.connect()
    writer.write(frame(endpoint.check()) + frame(DTLS_RECORD) + frame(SRTP_PACKET))
    answer = stun.parse_message(await read_frame(reader))
    assert answer.attributes["XOR-MAPPED-ADDRESS"] == writer.get_extra_info("sockname")
    assert answer.check_message_integrity(endpoint.ice.credentials.password.encode())
    assert (endpoint.dtls, endpoint.media) == ([DTLS_RECORD], [SRTP_PACKET])
    assert endpoint.ice.selected.kind == "tcp"
    scene.udp.outgoing.put(scene.udp.reserve(), b"row")
    scene.ports.send_row(endpoint.ice.selected)
    assert await read_frame(reader) == b"row"
    assert scene.counters.datagrams_received == 3


async def test_frames_may_come_in_pieces(scene):
    """Byte by byte; the check is whole when its last byte is there."""
    endpoint = scene.endpoint()
    path = tcp.TcpPath(scene.counters, scene.ports._tcp_frame, scene.ports._tcp_lost)
    wire = Wire()
    path.connection_made(wire)
    for byte in frame(b"\xff") + frame(b"") + frame(endpoint.check()) + frame(SRTP_PACKET):
        path.data_received(bytes((byte,)))
    assert endpoint.media == [SRTP_PACKET]
    assert scene.dropped == {"stranger": 1, "empty": 1}
    assert len(wire.written) == 1
    path.connection_lost(None)


class Wire(asyncio.Transport):
    """A connection that keeps what is written, and can be slow."""

    def __init__(self, waiting: int = 0) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711)})
        self.written: list[bytes] = []
        self.waiting = waiting
        self.aborted = False

    def write(self, data):
        self.written.append(bytes(data))

    def get_write_buffer_size(self):
        return self.waiting

    def is_closing(self):
        return self.aborted

    def abort(self):
        self.aborted = True


async def test_a_slow_connection_loses_frames_not_memory(scene):
    """More than its bound is never queued; a closed one takes nothing."""
    path, wire = tcp.TcpPath(scene.counters, scene.ports._tcp_frame, scene.ports._tcp_lost), Wire()
    path.send_now(b"too early")
    path.connection_made(wire)
    path.send_now(b"sent")
    wire.waiting = tcp.MAX_UNSENT_BYTES + 1
    path.send_now(b"too much")
    path.close()
    path.send_now(b"too late")
    path.connection_lost(None)
    path.close()
    assert wire.written == [frame(b"sent")]
    assert scene.dropped == {"unreachable": 2, "socket_full": 1}


async def test_nothing_is_read_of_a_connection_that_was_closed(scene):
    """A handler may close it between two frames."""
    seen: list[bytes] = []
    path = tcp.TcpPath(scene.counters, lambda p, data: (seen.append(data), p.close()), lambda p: None)
    path.connection_made(Wire())
    path.data_received(frame(b"first") + frame(b"second"))
    assert seen == [b"first"]
    path.connection_lost(None)


async def test_a_frame_larger_than_a_packet_is_dropped(scene):
    """And counted; the connection goes on."""
    endpoint = scene.endpoint()
    reader, writer = await scene.connect()
    writer.write(frame(bytes(MAX_PACKET_BYTES + 1)) + frame(bytes(65535)) + frame(endpoint.check()))
    await read_frame(reader)
    assert scene.dropped == {"oversize": 2}


async def test_a_bug_of_ours_does_not_end_a_connection(scene):
    """It is counted."""
    endpoint = scene.endpoint()
    endpoint.breaks = True
    reader, writer = await scene.connect()
    writer.write(frame(endpoint.check()) + frame(DTLS_RECORD) + frame(endpoint.check()))
    await read_frame(reader)
    await read_frame(reader)
    assert scene.dropped == {"internal_error": 1}


async def test_a_connection_without_a_check_is_closed(scene, monkeypatch):
    """Soon; what it sends until then is a stranger's."""
    monkeypatch.setattr(tcp, "FIRST_CHECK_S", 0.02)
    reader, writer = await scene.connect()
    writer.write(frame(SRTP_PACKET))
    assert await end_of(reader)
    assert scene.dropped == {"stranger": 1}
    assert scene.ports.tcp._connections == set()


async def test_a_connection_with_a_check_stays(scene):
    """The deadline finds it proved."""
    endpoint = scene.endpoint()
    path, wire = tcp.TcpPath(scene.counters, scene.ports._tcp_frame, scene.ports._tcp_lost), Wire()
    path.connection_made(wire)
    path.data_received(frame(endpoint.check()))
    path._require_check()
    assert not wire.aborted
    path.connection_lost(None)
    assert endpoint.ice.selected is None


async def test_a_lost_connection_is_no_path_any_more(scene):
    """The peer goes on with another one if it has."""
    endpoint, client = scene.endpoint(), scene.client()
    reader, writer = await scene.connect()
    writer.write(frame(endpoint.check()))
    await read_frame(reader)
    scene.deliver(client, endpoint.check())
    (path,) = [path for path in endpoint.ice.validated if path.kind == "tcp"]
    lost = asyncio.Event()
    on_lost = path._on_lost
    path._on_lost = lambda p: (on_lost(p), lost.set())
    writer.close()
    await asyncio.wait_for(lost.wait(), TIMEOUT_S)
    assert endpoint.ice.selected.address == client.address
    assert len(endpoint.ice.validated) == 1


async def test_too_many_connections_are_refused(scene, monkeypatch):
    """At once, and counted."""
    monkeypatch.setattr(tcp, "MAX_CONNECTIONS", 1)
    endpoint = scene.endpoint()
    reader, writer = await scene.connect()
    writer.write(frame(endpoint.check()))
    await read_frame(reader)
    refused, _ = await scene.connect()
    assert await end_of(refused)
    assert scene.dropped == {"too_many_connections": 1}


async def test_closing_leaves_nothing_open(scene):
    """Neither port answers, and connections are ended."""
    reader, _ = await scene.connect()
    port = scene.ports.tcp.port
    await scene.ports.close()
    assert await end_of(reader)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_was_never_opened_can_be_closed():
    """There is nothing to wait for."""
    await tcp.TcpPort(MediaCounters()).close()
