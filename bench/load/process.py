"""The load process: commands as lines of JSON in, one answer each out. Started by `bench.load.control`.

aiortc does ICE and DTLS; then the engine (load.c) takes the sockets over. Nothing is decoded here
either, and the client's certificate is made once: the figures are to be the server's.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import socket
import struct
import sys
import traceback
from typing import Any

import aioice.ice
import aiortc.codecs
import aiortc.rtcdtlstransport as dtls
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpHeaderExtensionParameters
from aiortc.rtp import (
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
)

from bench.load.signalling import SESSIONS, TIMEOUT_S, Session
from sfu.clock import NTP_UNIX_OFFSET_S

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
TRANSPORT_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"

IP = os.environ.get("LOAD_IP", "127.0.0.1")
engine = ctypes.CDLL(os.environ["LOAD_ENGINE"])
for _name in ("load_now", "load_first_packet"):
    getattr(engine, _name).restype = ctypes.c_int64


def prepare_aiortc(*, feedback: bool) -> None:
    """Let aiortc offer transport-cc like a browser, AES-GCM only, one address, and decode nothing."""
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [IP] if use_ipv4 else []
    if os.environ.get("LOAD_SRTP", "gcm") == "gcm":
        dtls.SRTP_PROFILES[:] = [dtls.SRTP_AEAD_AES_128_GCM]
    else:
        dtls.SRTP_PROFILES[:] = [dtls.SRTP_AES128_CM_SHA1_80]
    certificate = dtls.RTCCertificate.generateCertificate()
    dtls.RTCCertificate.generateCertificate = classmethod(lambda cls: certificate)
    fingerprints = dtls.RTCCertificate.getFingerprints
    # Janus accepts one only.
    dtls.RTCCertificate.getFingerprints = lambda self: [
        f for f in fingerprints(self) if f.algorithm == "sha-256"
    ]

    async def nothing(self: Any, *_: Any) -> None:
        return None

    for kind in (RTCRtpReceiver, RTCRtpSender):
        kind.stop = nothing
    RTCRtpReceiver.receive = nothing
    RTCRtpSender.send = nothing
    if feedback:
        aiortc.codecs.HEADER_EXTENSIONS["video"].append(
            RTCRtpHeaderExtensionParameters(
                id=len(aiortc.codecs.HEADER_EXTENSIONS["video"]) + 5, uri=TRANSPORT_CC
            )
        )
        for codec in aiortc.codecs.CODECS["video"]:
            if codec.mimeType.lower() != "video/rtx":
                codec.rtcpFeedback.append(RTCRtcpFeedback(type="transport-cc"))


class Peer:
    """One peer connection whose media the engine handles."""

    current: "Peer | None" = None

    def __init__(self, receives: bool, group: int) -> None:
        self.receives, self.group = receives, group
        self.engine_id = -1
        self.keyframe_requests = 0
        self.transport: Any = None
        self.keys_at = 0
        Peer.current = self
        configuration = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        self.pc = RTCPeerConnection(configuration)
        self.connected: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def changed() -> None:
            state = self.pc.connectionState
            if state == "connected" and not self.connected.done():
                self.connected.set_result(True)
            if state == "failed" and not self.connected.done():
                self.connected.set_exception(RuntimeError("the peer connection failed"))

        self.pc.on("connectionstatechange", changed)

    def extension(self, kind: str, uri: str) -> int:
        for transceiver in self.pc.getTransceivers():
            if transceiver.kind == kind:
                for extension in transceiver._headerExtensions:
                    if extension.uri == uri:
                        return int(extension.id)
        return 0

    def take_over(self, transport: Any, profile: int, out_key: bytes, in_key: bytes) -> None:
        """DTLS is done: hand the socket of a receiver to the engine, keep that of a publisher."""
        self.transport, self.keys_at = transport, engine.load_now()
        self.profile, self.out_key = profile, out_key
        pair = transport.transport._connection._nominated[1]
        self.protocol, self.server = pair.protocol, pair.remote_addr
        if not self.receives:
            return
        fileno = self.protocol.transport.get_extra_info("socket").fileno()
        asyncio.get_running_loop()._remove_reader(fileno)  # type: ignore[attr-defined]
        feedback = self.extension("video", TRANSPORT_CC)
        self.engine_id = engine.load_add_receiver(fileno, profile, in_key, out_key, self.group, feedback)

    async def receive_rtcp(self, data: bytes) -> None:
        with contextlib.suppress(ValueError):
            for packet in RtcpPacket.parse(data):
                if isinstance(packet, RtcpPsfbPacket) and packet.fmt in (1, 4) and not self.receives:
                    self.keyframe_requests += 1
                    engine.load_want_key(self.engine_id)


def hook_transports() -> None:
    """Let each DTLS transport know its peer, and tell it of its keys."""
    begin, setup = dtls.RTCDtlsTransport.__init__, dtls.RTCDtlsTransport._setup_srtp

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self.load_peer = peer = Peer.current
        if peer is not None:
            self._handle_rtcp_data = peer.receive_rtcp

    def set_up(self: Any) -> None:
        setup(self)
        chosen = self._ssl.get_selected_srtp_profile()
        for profile in self._srtp_profiles:
            if profile.openssl_profile == chosen and self.load_peer is not None:
                size = 2 * (profile.key_length + profile.salt_length)
                view = self._ssl.export_keying_material(b"EXTRACTOR-dtls_srtp", size)
                ours, theirs = (1, 0) if self._role == "server" else (0, 1)
                keys = [profile.get_key_and_salt(view, side) for side in (ours, theirs)]
                self.load_peer.take_over(self, int(profile.libsrtp_profile), *keys)

    dtls.RTCDtlsTransport.__init__ = init
    dtls.RTCDtlsTransport._setup_srtp = set_up


class Load:
    """What the commands do."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.publishers: list[Peer] = []
        self.receivers: list[Peer] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.by_engine_id: dict[int, Peer] = {}
        # What a receiver floods the server with, by its place among them.
        self.floods: dict[int, asyncio.Task[None]] = {}
        upward, downward = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (upward, downward):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._upward, self._downward = upward, downward
        engine.load_init(downward.fileno(), int(os.environ.get("LOAD_SAMPLE", "8")))
        asyncio.get_running_loop().add_reader(upward.fileno(), self._from_engine)
        engine.load_receive()
        self._is_sending = False
        self._since = engine.load_now()
        self._before = [0] * 5

    def _from_engine(self) -> None:
        for _ in range(200):
            try:
                message = self._upward.recv(4096)
            except BlockingIOError:
                return
            peer = self.by_engine_id.get(struct.unpack_from("=i", message)[0])
            if peer is not None:
                address = (socket.inet_ntoa(message[4:8]), struct.unpack_from("!H", message, 8)[0])
                peer.protocol.datagram_received(message[12:], address)

    def _go(self, coroutine: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _session(self, server: str, url: str) -> Session:
        session = SESSIONS[server](url)
        self.sessions.append(session)
        await session.connect()
        return session

    async def publish(
        self,
        server: str,
        url: str,
        count: int = 1,
        mbit: float = 1.0,
        payload: int = 1100,
        gap_us: int = 3500,
    ) -> dict[str, Any]:
        ids = []
        for _ in range(count):
            session = await self._session(server, url)
            peer = Peer(receives=False, group=0)
            for kind, wanted in (("audio", "audio/opus"), ("video", "video/VP8")):
                transceiver = peer.pc.addTransceiver(kind, direction="sendonly")
                known = RTCRtpSender.getCapabilities(kind).codecs
                transceiver.setCodecPreferences([c for c in known if c.mimeType.lower() == wanted.lower()])
            await session.publish(peer.pc)
            await asyncio.wait_for(peer.connected, TIMEOUT_S)
            Peer.current = None
            self._begin_publisher(peer, mbit, payload)
            if not self._is_sending:
                engine.load_send(gap_us)
                self._is_sending = True
            self.publishers.append(peer)
            self._go(self._report_sent(peer))
            ids.append(session.id)
        return {"ids": ids}

    def _begin_publisher(self, peer: Peer, mbit: float, payload: int) -> None:
        audio, video = peer.pc.getTransceivers()
        types = [
            next(c.payloadType for c in t._codecs if "rtx" not in c.mimeType.lower()) for t in (video, audio)
        ]
        peer.ssrcs = (ctypes.c_uint32 * 2)(video.sender._ssrc, audio.sender._ssrc)  # type: ignore[attr-defined]
        ids = (
            peer.extension("video", MID),
            peer.extension("audio", MID),
            peer.extension("video", ABS_SEND_TIME),
            peer.extension("video", TRANSPORT_CC),
        )
        peer.engine_id = engine.load_add_publisher(
            peer.protocol.transport.get_extra_info("socket").fileno(),
            peer.server[0].encode(),
            peer.server[1],
            peer.profile,
            peer.out_key,
            peer.ssrcs,  # type: ignore[attr-defined]
            (ctypes.c_int * 2)(*types),
            video.mid.encode(),
            audio.mid.encode(),
            (ctypes.c_int * 4)(*ids),
            ctypes.c_double(mbit),
            payload,
        )

    async def _report_sent(self, peer: Peer) -> None:
        figures = (ctypes.c_int64 * 8)()
        while True:
            await asyncio.sleep(1)
            engine.load_publisher(peer.engine_id, figures)
            seconds, rest = divmod(engine.load_now(), 10**9)
            ntp = (seconds + NTP_UNIX_OFFSET_S) << 32 | (rest << 32) // 10**9
            for ssrc, stamp, packets, octets in zip(
                peer.ssrcs,
                (figures[4], figures[5]),
                (figures[0], figures[2]),
                (figures[1], figures[3]),
                strict=True,  # type: ignore[attr-defined]
            ):
                info = RtcpSenderInfo(ntp, stamp & 0xFFFFFFFF, packets & 0xFFFFFFFF, octets & 0xFFFFFFFF)
                name = RtcpSdesPacket(chunks=[RtcpSourceInfo(ssrc=ssrc, items=[(1, b"load")])])
                await peer.transport._send_rtp(bytes(RtcpSrPacket(ssrc=ssrc, sender_info=info)) + bytes(name))

    async def subscribe(
        self,
        server: str,
        url: str,
        count: int = 1,
        feeds: int = 1,
        exclude: list[Any] | None = None,
        every_s: float = 0.0,
        group: int = 0,
        stay: int | None = None,
    ) -> dict[str, Any]:
        joins, first_ns = [], engine.load_now()
        there: list[tuple[Session, Peer, asyncio.Task[None]]] = []
        for number in range(count):
            began = engine.load_now()
            session = await self._session(server, url)
            opened = engine.load_now()
            made: list[Peer] = []

            def make(made: list[Peer] = made) -> RTCPeerConnection:
                made.append(Peer(receives=True, group=group))
                return made[0].pc

            await session.subscribe(make, feeds, [exclude[number]] if exclude else [])
            peer = made[0]
            await asyncio.wait_for(peer.connected, TIMEOUT_S)
            Peer.current = None
            self.by_engine_id[peer.engine_id] = peer
            first = await self._first_packet(peer)
            joins.append([(at - began) / 1e6 for at in (opened, peer.keys_at, first)])
            self.receivers.append(peer)
            there.append((session, peer, self._go(self._report_received(peer))))
            if stay is not None and len(there) > stay:
                self._go(self._leave(*there.pop(0)))
            await asyncio.sleep((first_ns - engine.load_now()) / 1e9 + (number + 1) * every_s)
        if stay is not None:
            await asyncio.gather(*(self._leave(*one) for one in there))
        return {"joins_ms": joins}

    async def _leave(self, session: Session, peer: Peer, reports: asyncio.Task[None]) -> None:
        reports.cancel()
        # Before the server says farewell and the socket is closed: its number is the next one's then, which
        # may be a WebSocket's, and the engine would go on to send there.
        engine.load_stop_reading(peer.engine_id)
        await session.close()
        await peer.pc.close()

    async def _first_packet(self, peer: Peer) -> int:
        for _ in range(5_000):
            first = int(engine.load_first_packet(peer.engine_id))
            if first:
                return first
            await asyncio.sleep(0.002)
        raise RuntimeError("a receiver got no packet within 10 s")

    def _streams(self, peer: Peer) -> list[tuple[int, int]]:
        ssrcs, highest = (ctypes.c_uint32 * 64)(), (ctypes.c_uint32 * 64)()
        count = engine.load_streams(peer.engine_id, ssrcs, highest)
        return list(zip(ssrcs[:count], highest[:count], strict=True))

    async def _report_received(self, peer: Peer) -> None:
        await asyncio.sleep(random.random())
        while True:
            reports = [
                RtcpReceiverInfo(
                    ssrc=ssrc, fraction_lost=0, packets_lost=0, highest_sequence=top, jitter=10, lsr=0, dlsr=0
                )
                for ssrc, top in self._streams(peer)
            ]
            for at in range(0, len(reports), 30):
                await peer.transport._send_rtp(bytes(RtcpRrPacket(ssrc=1, reports=reports[at : at + 30])))
            await asyncio.sleep(1)

    def misbehave(self, receiver: int, kind: str, per_s: int = 2000) -> dict[str, Any]:
        """Let a receiver be bad from now on: stop_reading, flood_nack, flood_pli, flood_rtcp."""
        peer = self.receivers[receiver]
        if kind == "stop_reading":
            engine.load_stop_reading(peer.engine_id)
        else:
            self.floods[receiver] = self._go(self._flood(peer, kind, per_s))
        return {}

    def behave(self, receiver: int) -> dict[str, Any]:
        """Let a receiver who was bad be as the others again."""
        if (flood := self.floods.pop(receiver, None)) is not None:
            flood.cancel()
        engine.load_read_again(self.receivers[receiver].engine_id)
        return {}

    async def _flood(self, peer: Peer, kind: str, per_s: int) -> None:
        while True:
            for ssrc, top in self._streams(peer):
                for _ in range(max(1, per_s // 200)):
                    if kind == "flood_nack":
                        lost = [(top - back) & 0xFFFF for back in range(100)]
                        data = bytes(RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=ssrc, lost=lost))
                    elif kind == "flood_pli":
                        data = bytes(RtcpPsfbPacket(fmt=1, ssrc=1, media_ssrc=ssrc))
                    else:
                        data = bytes(RtcpRrPacket(ssrc=1, reports=[]))
                    await peer.transport._send_rtp(data)
            await asyncio.sleep(0.01)

    def set_group(self, receiver: int, group: int) -> dict[str, Any]:
        engine.load_set_group(self.receivers[receiver].engine_id, group)
        return {}

    def _sent(self) -> list[int]:
        figures, total = (ctypes.c_int64 * 8)(), [0] * 5
        for peer in self.publishers:
            engine.load_publisher(peer.engine_id, figures)
            total = [a + b for a, b in zip(total, (*figures[:4], figures[6]), strict=True)]
        return total

    def reset(self) -> dict[str, Any]:
        self._before, self._since = self._sent(), engine.load_now()
        engine.load_reset()
        return {}

    def stats(self, group: int = 0) -> dict[str, Any]:
        figures = (ctypes.c_int64 * 15)()
        engine.load_stats(group, figures)
        names = ("packets", "bytes", "expected", "lost", "duplicates", "streams", "marks", "receivers")
        names += ("not_decrypted", "measured", "p50", "p95", "p99", "p999", "longest")
        found: dict[str, Any] = dict(zip(names, figures, strict=True))
        for name in ("p50", "p95", "p99", "p999", "longest"):
            found[name + "_ms"] = found.pop(name) / 1e6
        found["seconds"] = (engine.load_now() - self._since) / 1e9
        sent = [now - before for now, before in zip(self._sent(), self._before, strict=True)]
        found |= {"sent": sent[0] + sent[2], "refused": sent[4]}
        found["keyframe_requests"] = sum(peer.keyframe_requests for peer in self.publishers)
        return found


async def main() -> None:
    prepare_aiortc(feedback=os.environ.get("LOAD_FEEDBACK", "1") == "1")
    hook_transports()
    load, loop = Load(), asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    gc.freeze()
    while line := await reader.readline():
        command = json.loads(line)
        try:
            result = getattr(load, command.pop("command"))(**command)
            answer = {"ok": True, **(await result if asyncio.iscoroutine(result) else result)}
        except Exception as error:
            traceback.print_exc()
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), flush=True)
    leaving = [asyncio.create_task(session.close()) for session in load.sessions]
    if leaving:
        await asyncio.wait(leaving, timeout=3)
    engine.load_stop()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
