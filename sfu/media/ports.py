"""Every datagram of every peer comes in here, and is somebody's or nobody's.

By its first byte (RFC 7983): a STUN check goes by its user name to the peer it names and
must be authentic; anything else goes by its address, which a check must have validated
before. What is left over is counted and gone: no stranger reaches DTLS, SRTP or aiortc.
"""

from collections.abc import Callable

import structlog

from sfu.compiling import mypyc_attr
from sfu.counters import MediaCounters
from sfu.media.datagrams import STRIDE
from sfu.media.ice import Check, IceLite, parse_check
from sfu.media.number_bank import NumberBank
from sfu.media.packet import MAX_PACKET_BYTES
from sfu.media.srtp import Rows
from sfu.media.tcp import TcpPath, TcpPort
from sfu.media.udp import DatagramReceiver, UdpPort

log = structlog.get_logger()

# A failure in a handler is our bug; it is told so often and then only counted.
_MAX_LOGGED_FAILURES = 20


class UdpPath:
    """One remote address that a check has validated."""

    __slots__ = ("_port", "address", "endpoint", "sockaddr")
    kind = "udp"

    def __init__(self, port: UdpPort, sockaddr: bytes) -> None:
        self._port = port
        self.sockaddr = sockaddr
        self.address = port.address(sockaddr)
        self.endpoint: Endpoint | None = None

    def send_now(self, data: bytes) -> None:
        """Send one datagram at once."""
        self._port.send_now(data, self.sockaddr)


Path = UdpPath | TcpPath


@mypyc_attr(allow_interpreted_subclasses=True)
class Endpoint:
    """What the ports know of a peer."""

    ice: IceLite[Path]

    def path_validated(self, now: float) -> None:
        """Take note that a check was authentic."""
        raise NotImplementedError

    def receive_dtls(self, data: bytes) -> None:
        """Take one DTLS record flight from a validated address."""
        raise NotImplementedError

    def receive_media(self, rows: Rows, index: int, length: int, now: float, arrived: float) -> None:
        """Take one SRTP or SRTCP packet, still encrypted, from a validated address."""
        raise NotImplementedError


class MediaPorts(DatagramReceiver):
    """The UDP and the TCP port of one server, and who is behind which address."""

    def __init__(self, udp: UdpPort, counters: MediaCounters, clock: Callable[[], float]) -> None:
        self.udp, self.counters, self._clock = udp, counters, clock
        self.tcp = TcpPort(counters)
        self._by_ufrag: dict[str, Endpoint] = {}
        self._by_sockaddr: dict[bytes, UdpPath] = {}
        self._failures = 0
        # TCP frames are handled in a row too, so that SRTP has one way in.
        self._tcp_row = Rows(1, STRIDE)
        # Addresses told to clients: (ip, port, "udp" | "tcp").
        self.advertised: list[tuple[str, int, str]] = []
        # Transport-wide sequence numbers of all peers.
        self.bank = NumberBank()

    async def start(self, host: str, tcp_port: int, advertised_ips: list[str]) -> None:
        """Open for packets; `advertised_ips` are what the candidates say."""
        await self.tcp.start(host, tcp_port, self._tcp_frame, self._tcp_lost)
        self.udp.start(self)
        self.advertised = [(ip, self.udp.port, "udp") for ip in advertised_ips]
        self.advertised += [(ip, self.tcp.port, "tcp") for ip in advertised_ips]

    async def close(self) -> None:
        """Close both sockets; the peers have been closed before."""
        self.udp.close()
        await self.tcp.close()

    # Who is there

    def register(self, endpoint: Endpoint) -> None:
        """Make the ufrags of a peer known: at its start, and after each ICE restart."""
        ufrags = endpoint.ice.ufrags
        if len(ufrags) > 1:  # a restart, and the one before may never have been used
            self._forget_old(endpoint)
        for ufrag in ufrags:
            self._by_ufrag[ufrag] = endpoint

    def _forget_old(self, endpoint: Endpoint) -> None:
        """Forget ufrags that a peer no longer uses."""
        current = endpoint.ice.ufrags
        for ufrag in [u for u, e in self._by_ufrag.items() if e is endpoint and u not in current]:
            del self._by_ufrag[ufrag]

    def unregister(self, endpoint: Endpoint) -> None:
        """Forget a peer, its ufrags and its addresses."""
        for ufrag in [u for u, e in self._by_ufrag.items() if e is endpoint]:
            del self._by_ufrag[ufrag]
        for path in endpoint.ice.validated:
            self._drop_path(path)

    def is_known(self, endpoint: Endpoint) -> bool:
        """Tell whether anything here still points to a peer."""
        return endpoint in self._by_ufrag.values() or any(
            path.endpoint is endpoint for path in self._by_sockaddr.values()
        )

    def _drop_path(self, path: Path) -> None:
        path.endpoint = None
        if isinstance(path, UdpPath):
            self._by_sockaddr.pop(path.sockaddr, None)
        else:
            path.close()

    # Receiving

    def receive_datagram(self, index: int, length: int, sockaddr: bytes, now: float, arrived: float) -> None:
        if not length:
            self.counters.drop("empty")
            return
        rows = self.udp.incoming
        first = rows.buffer[index * rows.stride]
        path = self._by_sockaddr.get(sockaddr)
        try:
            if path is not None and first > 3:
                self._from_peer(path, path.endpoint, rows, index, length, first, now, arrived)
            elif first <= 3:
                rows.set_length(index, length)
                self._check(rows.take(index), path or UdpPath(self.udp, sockaddr), now)
            else:
                self.counters.drop("stranger")
        except Exception:
            self._failed()

    def _from_peer(
        self,
        path: Path,
        endpoint: Endpoint | None,
        rows: Rows,
        index: int,
        length: int,
        first: int,
        now: float,
        arrived: float,
    ) -> None:
        if endpoint is None:
            self.counters.drop("stranger")
            return
        ice = endpoint.ice
        if ice.selected is path:
            ice.heard_at = now
        if 128 <= first <= 191:
            endpoint.receive_media(rows, index, length, now, arrived)
        elif 20 <= first <= 63:
            rows.set_length(index, length)
            endpoint.receive_dtls(rows.take(index))
        else:
            self.counters.drop("unknown_protocol")

    def _check(self, data: bytes, path: Path, now: float) -> None:
        check = parse_check(data)
        endpoint = self._by_ufrag.get(check.local_ufrag) if check is not None else None
        password = endpoint.ice.password_for(check) if endpoint is not None and check is not None else None
        if check is None or endpoint is None or password is None:
            self.counters.drop("unauthenticated_check")
            return
        # With whatever else goes out: who checks is in no hurry.
        self.udp.outgoing.put(self.udp.reserve(), check.response(path.address, password))
        self.send_row(path)
        self._validated(endpoint, check, path, now)

    def _validated(self, endpoint: Endpoint, check: Check, path: Path, now: float) -> None:
        if path.endpoint is not None and path.endpoint is not endpoint:
            # The same address and port now belongs to another peer of the same client.
            path.endpoint.ice.forget(path)
        path.endpoint = endpoint
        if isinstance(path, UdpPath):
            self._by_sockaddr[path.sockaddr] = path
        before = endpoint.ice.ufrags
        for gone in endpoint.ice.checked(check, path, now):
            self._drop_path(gone)
        if endpoint.ice.ufrags != before:
            self._forget_old(endpoint)
        endpoint.path_validated(now)

    def _tcp_frame(self, path: TcpPath, data: bytes) -> None:
        now = self._clock()
        self.counters.datagrams_received += 1
        if not data or len(data) > MAX_PACKET_BYTES:
            self.counters.drop("oversize" if data else "empty")
            return
        try:
            if data[0] <= 3:
                self._check(data, path, now)
            else:
                self._tcp_row.put(0, data)
                self._from_peer(path, path.endpoint, self._tcp_row, 0, len(data), data[0], now, now)
        except Exception:
            self._failed()
        self.udp.flush()

    def _tcp_lost(self, path: TcpPath) -> None:
        if path.endpoint is not None:
            path.endpoint.ice.forget(path)
            path.endpoint = None

    def _failed(self) -> None:
        self._failures += 1
        self.counters.drop("internal_error")
        if self._failures <= _MAX_LOGGED_FAILURES:
            log.exception("packet_handler_failed")

    # Sending

    def send_row(self, path: Path) -> None:
        """Send the outgoing row that was reserved last, protected already."""
        if isinstance(path, UdpPath):
            self.udp.commit(path.sockaddr)
        else:
            path.send_now(self.udp.outgoing.take(self.udp.reserve()))

    def flush(self) -> None:
        """Hand everything that waits to the kernel."""
        self.udp.flush()
