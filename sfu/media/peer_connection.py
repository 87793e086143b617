"""One client's peer connection, as its server end.

`PeerConnection` has the interface, the states and the events of `aiortc.RTCPeerConnection`;
underneath stand our own description handling, ICE-lite on the shared ports, and RTP that is
forwarded by its header. It only answers: a client offers, always.
"""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog
from aiortc import (
    InvalidStateError,
    RTCDataChannel,
    RTCIceCandidate,
    RTCPeerConnection,
    RTCSctpTransport,
    RTCSessionDescription,
)
from aiortc.stats import RTCStatsReport, RTCTransportStats

from sfu import clock
from sfu.media import negotiation, sdp
from sfu.media.dtls import Certificate, DtlsTransport, sctp_transport, start_sctp
from sfu.media.endpoint import PeerEndpoint
from sfu.media.negotiation import LocalTransport, Policy, RemoteTransport, Section, Sending
from sfu.media.ports import MediaPorts
from sfu.media.rtp_session import Publication
from sfu.tasks import end

log = structlog.get_logger()

# A peer that was silent for so long is told as "disconnected"; consent checks of aiortc
# come every six seconds at the latest.
INTERRUPTED_S = 8.0


class FingerprintChanged(ValueError):
    """The offer is of another connection than this one."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What all peers of a server share."""

    ports: MediaPorts
    certificate: Certificate
    connect_timeout_s: float
    expiry_s: float


@dataclass(frozen=True, slots=True)
class Transceiver:
    """One m-line, with the names that the W3C gives to its parts."""

    mid: str
    kind: str
    direction: str


class PeerConnection(RTCPeerConnection):
    """The answering end of a WebRTC connection that forwards instead of decoding.

    Events: `connectionstatechange`, `iceconnectionstatechange`, `signalingstatechange`,
    `datachannel`.
    """

    def __init__(self, settings: PeerSettings, policy: Policy) -> None:
        # aiortc's own initialisation would make keys and a certificate for each peer, and states that nobody
        # looks at here: only that of its base runs.
        super(RTCPeerConnection, self).__init__()
        self._settings = settings
        # What this peer may do; replaced when the call changes its kind.
        self.policy = policy
        # What every packet passes.
        self.endpoint = PeerEndpoint(settings.ports, self._path_validated, self._take_dtls)
        self.ice, self.rtp = self.endpoint.ice, self.endpoint.rtp
        self.sections: list[Section] = []
        self._dtls = DtlsTransport(self.endpoint.send_dtls, settings.certificate)
        self._sctp: RTCSctpTransport | None = None
        self._remote: RemoteTransport | None = None
        self._sendings: dict[str, Sending] = {}
        self._session_id = secrets.randbits(62)
        self._version = 0
        self._offer: sdp.Description | None = None
        self._agreed: list[Section] | None = None
        self._descriptions: dict[str, RTCSessionDescription] = {}
        self._states = {"connection": "new", "ice": "new", "signaling": "stable"}
        self._validated = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        # What each published m-line is, by mid; set by the room before negotiate.
        self.publications: dict[str, Publication] = {}
        # From here the time to connect is counted.
        self.started_at = clock.now()

    # States, as aiortc has them

    @property
    def connectionState(self) -> str:
        return self._states["connection"]

    @property
    def iceConnectionState(self) -> str:
        return self._states["ice"]

    @property
    def iceGatheringState(self) -> str:
        """Complete from the first description on: the ports were there before."""
        return "complete" if "local" in self._descriptions else "new"

    @property
    def signalingState(self) -> str:
        return self._states["signaling"]

    @property
    def localDescription(self) -> RTCSessionDescription:
        return self._descriptions.get("local")  # type: ignore[return-value]  # None before, as in aiortc

    @property
    def remoteDescription(self) -> RTCSessionDescription:
        return self._descriptions.get("remote")  # type: ignore[return-value]

    @property
    def sctp(self) -> RTCSctpTransport | None:
        return self._sctp

    @property
    def is_closed(self) -> bool:
        return self._states["connection"] == "closed"

    def _set(self, which: str, state: str) -> None:
        if self._states[which] != state:
            self._states[which] = state
            self.emit(_EVENT[which])

    # Negotiation

    async def setRemoteDescription(self, sessionDescription: RTCSessionDescription) -> None:
        """Take a client's offer.

        Raises:
            InvalidStateError: it is not an offer, or the connection is closed.
            ValueError: the offer cannot be answered; nothing has changed.

        """
        self._assert_open()
        if sessionDescription.type != "offer":
            raise InvalidStateError("a server answers; it takes offers only")
        offer = sdp.parse(sessionDescription.sdp)
        remote = negotiation.remote_transport(offer)
        if self._remote is not None and set(remote.fingerprints) != set(self._remote.fingerprints):
            raise FingerprintChanged("the fingerprint changed: a new connection is needed")
        sendings = self._reserve_sendings(offer)
        agreed = negotiation.agree(offer, self.policy, sendings, previous=len(self.sections))
        if not any(not section.rejected for section in agreed):
            raise ValueError("no m-line of the offer can be used")
        self._offer, self._agreed, self._remote = offer, agreed, remote
        self._descriptions["remote"] = sessionDescription
        if self.ice.begin(remote.ufrag):
            self._settings.ports.register(self.endpoint)
        self._set("signaling", "have-remote-offer")

    def _reserve_sendings(self, offer: sdp.Description) -> dict[str, Sending]:
        numbers = {"audio": 0, "video": 0}
        for media in offer.media:
            if media.kind in numbers and media.direction in ("recvonly", "sendrecv"):
                if media.mid not in self._sendings:
                    self._sendings[media.mid] = Sending(
                        ssrc=secrets.randbelow(0xFFFFFFFE) + 1,
                        rtx_ssrc=secrets.randbelow(0xFFFFFFFE) + 1,
                        stream_id=f"slot-{numbers[media.kind]}",
                    )
                numbers[media.kind] += 1
        return self._sendings

    async def createAnswer(self) -> RTCSessionDescription:
        """Return the answer to the offer that was set.

        Raises:
            InvalidStateError: there is no offer.

        """
        self._assert_open()
        if self._offer is None or self._agreed is None or self._remote is None:
            raise InvalidStateError("there is no offer to answer")
        self._version += 1
        local = LocalTransport(
            ufrag=self.ice.credentials.ufrag,
            password=self.ice.credentials.password,
            fingerprint=self._settings.certificate.sha256,
            candidates=self._settings.ports.advertised,
            session_id=self._session_id,
            version=self._version,
        )
        answer = negotiation.answer(self._offer, self._agreed, local, self._remote.our_role)
        return RTCSessionDescription(sdp=str(answer), type="answer")

    async def setLocalDescription(self, description: RTCSessionDescription | None = None) -> None:
        """Take our own answer; the connection begins with the first."""
        answer = description or await self.createAnswer()
        if self._agreed is None:
            raise InvalidStateError("there is no offer to answer")
        self._descriptions["local"] = answer
        self.sections, self._agreed, self._offer = self._agreed, None, None
        self._set("signaling", "stable")
        if self._connecting is None:
            self._set("ice", "checking")
            self._set("connection", "connecting")
            self._connecting = asyncio.create_task(self._connect())
        elif self.connectionState == "connected":
            await self._start_data()

    def apply_rtp(self) -> None:
        """Make what was agreed true for RTP: tracks and legs come and go."""
        self.rtp.negotiate(self.sections, self.publications, clock.now())

    async def addIceCandidate(self, candidate: RTCIceCandidate | None) -> None:
        """Accept a candidate and do nothing: a lite agent learns addresses from checks."""

    # Connecting and closing

    async def _connect(self) -> None:
        remote = self._remote
        assert remote is not None
        timeout = self._settings.connect_timeout_s
        try:
            async with asyncio.timeout(timeout):
                await self._validated.wait()
            left = timeout - (clock.now() - self.started_at)
            keyed = await self._dtls.handshake(remote.our_role, list(remote.fingerprints), max(1.0, left))
            self.endpoint.key(*keyed)
            await self._start_data()
        except (TimeoutError, ConnectionError) as error:
            log.info("peer_failed", reason=str(error) or "no connectivity check in time")
            self._fail()
            return
        self._dtls.on("statechange", self._dtls_changed)
        self._set("connection", "connected")

    async def _start_data(self) -> None:
        """Begin SCTP once an m-line for it was agreed."""
        data = next((s for s in self.sections if s.kind == "application" and not s.rejected), None)
        if self._sctp is None and data is not None:
            self._sctp = sctp_transport(self._dtls)
            self._sctp.on("datachannel", self._on_data_channel)
            await start_sctp(self._sctp, data.max_message_bytes, data.sctp_port)

    def _fail(self) -> None:
        self._set("ice", "failed")
        self._set("connection", "failed")
        self._close_soon()

    def _close_soon(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self.close())

    def _dtls_changed(self) -> None:
        if self._dtls.state in ("closed", "failed") and not self.is_closed:
            self._close_soon()

    async def close(self) -> None:
        """End the connection; afterwards no task, timer or table knows it."""
        if self.is_closed:
            return
        self.rtp.close()
        connecting, current = self._connecting, asyncio.current_task()
        if connecting is not None and connecting is not current and not connecting.done():
            await end(connecting)
        if self.is_closed:
            return
        self._set("ice", "closed")
        self._set("signaling", "closed")
        self._set("connection", "closed")
        if self._sctp is not None:
            with contextlib.suppress(ConnectionError):
                await self._sctp.stop()
        await self._dtls.close()
        self.endpoint.close()
        self.remove_all_listeners()

    def check_liveness(self, now: float) -> None:
        """Follow the silence of the client: interrupted, then expired."""
        if self._states["ice"] not in ("completed", "disconnected"):
            return
        silent = now - self.ice.heard_at
        if silent > self._settings.expiry_s:
            log.info("peer_expired", silent_s=round(silent, 1))
            self._fail()
        else:
            self._set("ice", "disconnected" if silent > INTERRUPTED_S else "completed")

    # From the endpoint

    def _path_validated(self) -> None:
        self._validated.set()
        if self._states["ice"] in ("checking", "disconnected"):
            self._set("ice", "completed")

    def _take_dtls(self, data: bytes) -> bool:
        return self._dtls.receive(data)

    def _on_data_channel(self, channel: RTCDataChannel) -> None:
        self.emit("datachannel", channel)

    # The rest of aiortc's interface

    def getTransceivers(self) -> list[Transceiver]:  # type: ignore[override]
        return [Transceiver(s.mid, s.kind, s.direction) for s in self.sections if s.kind != "application"]

    def getSenders(self) -> list[Any]:
        """Return the legs: what is sent, in slots."""
        return list(self.rtp.legs.values())

    def getReceivers(self) -> list[Any]:
        """Return the published tracks: what is received."""
        return list(self.rtp.tracks.values())

    async def getStats(self) -> RTCStatsReport:
        report = RTCStatsReport()
        transport = RTCTransportStats(
            timestamp=clock.wallclock(),
            type="transport",
            id="transport",
            packetsSent=sum(leg.packets for leg in self.rtp.legs.values()),
            packetsReceived=sum(
                layer.reception.received for t in self.rtp.tracks.values() for layer in t.layers.values()
            ),
            bytesSent=sum(leg.octets for leg in self.rtp.legs.values()),
            bytesReceived=sum(
                layer.reception.octets for t in self.rtp.tracks.values() for layer in t.layers.values()
            ),
            iceRole="controlled",
            dtlsState=self._dtls.state,
        )
        report.add(transport)
        return report

    def _only_answers(self, *_: object, **__: object) -> NoReturn:
        raise InvalidStateError("a server's peer connection only answers; the client offers")

    createOffer = addTrack = addTransceiver = createDataChannel = _only_answers

    def _assert_open(self) -> None:
        if self.is_closed:
            raise InvalidStateError("the connection is closed")


_EVENT = {
    "connection": "connectionstatechange",
    "ice": "iceconnectionstatechange",
    "signaling": "signalingstatechange",
}
