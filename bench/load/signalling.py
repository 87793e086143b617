"""How a participant joins each server: the same peer connection, another protocol around it."""

import asyncio
import contextlib
import itertools
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from aiortc import RTCPeerConnection, RTCSessionDescription

from sfu.auth import mint

TIMEOUT_S = 30
ROOM = "1234"

# With which our server is started here, and nowhere else.
SECRET = "only-for-measurements-" + "x" * 32

MakePeer = Callable[[], RTCPeerConnection]


class Session:
    """One participant's signalling; `url` is the server's WebSocket."""

    protocols: Sequence[str] = ()

    def __init__(self, url: str) -> None:
        self.url = url
        self.id: Any = None
        self._pending: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count()

    async def connect(self) -> None:
        """Open the socket."""
        self._http = aiohttp.ClientSession()
        self._ws = await self._http.ws_connect(self.url, max_msg_size=0, protocols=self.protocols)
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Close the socket; the peer connection is somebody else's."""
        self._reader.cancel()
        with contextlib.suppress(Exception):
            await self._ws.close()
        await self._http.close()

    async def publish(self, peer: RTCPeerConnection) -> None:
        """Negotiate a peer that sends one voice and one picture; sets `id`."""
        raise NotImplementedError

    async def subscribe(self, make: MakePeer, feeds: int, exclude: Sequence[Any]) -> None:
        """Negotiate a peer that receives `feeds` participants, all but those excluded."""
        raise NotImplementedError

    def _key_of(self, message: dict[str, Any]) -> str:
        raise NotImplementedError

    async def _read(self) -> None:
        async for message in self._ws:
            if message.type == aiohttp.WSMsgType.TEXT:
                frame = json.loads(message.data)
                waiting = self._pending.pop(self._key_of(frame), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame)
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(self._ended())

    def _ended(self) -> ConnectionError:
        return ConnectionError(f"the server closed the socket: {self._ws.close_code} {self._ws.exception()}")

    async def _ask(self, key: str, frame: dict[str, Any]) -> dict[str, Any]:
        if self._ws.closed:
            raise self._ended()
        waiting = self._pending[key] = asyncio.get_running_loop().create_future()
        await self._ws.send_str(json.dumps(frame))
        return await asyncio.wait_for(waiting, TIMEOUT_S)


class Sfu(Session):
    """Ours: the client offers, receivers offer slots ahead of need."""

    async def connect(self) -> None:
        name = f"load-{secrets.token_hex(4)}"
        self.protocols = ("sfu.v1", "bearer." + mint(name, secret=SECRET, grants={"room": "*"}, ttl_s=7200))
        await super().connect()

    def _key_of(self, message: dict[str, Any]) -> str:
        return str(message.get("re", ""))

    async def _offer(self, peer: RTCPeerConnection) -> None:
        await peer.setLocalDescription(await peer.createOffer())
        key = f"r{next(self._numbers)}"
        data = {"room": ROOM, "sdp": peer.localDescription.sdp}
        reply = await self._ask(key, {"type": "media.offer", "id": key, "data": data})
        if reply["type"] == "error":
            raise RuntimeError(str(reply["data"]))
        self.id = reply["data"]["participant_id"]
        await peer.setRemoteDescription(RTCSessionDescription(reply["data"]["sdp"], "answer"))

    async def close(self) -> None:
        """Leave before the socket closes: who only loses it is kept for a while."""
        with contextlib.suppress(Exception):
            await self._ask("leave", {"type": "media.leave", "id": "leave", "data": {}})
        await super().close()

    async def publish(self, peer: RTCPeerConnection) -> None:
        await self._offer(peer)

    async def subscribe(self, make: MakePeer, feeds: int, exclude: Sequence[Any]) -> None:
        peer = make()
        for _ in range(feeds):
            peer.addTransceiver("audio", "recvonly")
            peer.addTransceiver("video", "recvonly")
        await self._offer(peer)


class Pion(Session):
    """The small server in bench/servers/pion: it answers publishers and offers to receivers."""

    def _key_of(self, message: dict[str, Any]) -> str:
        return "only"

    async def _say(self, **frame: Any) -> dict[str, Any]:
        reply = await self._ask("only", frame)
        if reply.get("op") == "error":
            raise RuntimeError(reply["error"])
        return reply

    async def publish(self, peer: RTCPeerConnection) -> None:
        await peer.setLocalDescription(await peer.createOffer())
        reply = await self._say(op="publish", sdp=peer.localDescription.sdp)
        self.id = reply["id"]
        await peer.setRemoteDescription(RTCSessionDescription(reply["sdp"], "answer"))

    async def subscribe(self, make: MakePeer, feeds: int, exclude: Sequence[Any]) -> None:
        reply = await self._say(op="subscribe", exclude=list(exclude))
        peer = make()
        await peer.setRemoteDescription(RTCSessionDescription(reply["sdp"], "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        await self._say(op="answer", sdp=peer.localDescription.sdp)


class Janus(Session):
    """Janus' VideoRoom over its WebSocket transport."""

    protocols = ("janus-protocol",)
    _session: int | None = None

    def _key_of(self, message: dict[str, Any]) -> str:
        return "" if message.get("janus") == "ack" else str(message.get("transaction", ""))

    async def _request(self, kind: str, **more: Any) -> dict[str, Any]:
        key = secrets.token_hex(6)
        if self._session is not None:
            more["session_id"] = self._session
        reply = await self._ask(key, {"janus": kind, "transaction": key, **more})
        data = reply.get("plugindata", {}).get("data", {})
        if reply.get("janus") == "error" or "error" in data:
            raise RuntimeError(str(reply)[:300])
        return reply

    async def connect(self) -> None:
        await super().connect()
        self._session = (await self._request("create"))["data"]["id"]

    async def _attach(self) -> int:
        handle: int = (await self._request("attach", plugin="janus.plugin.videoroom"))["data"]["id"]
        return handle

    async def _message(self, handle: int, jsep: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
        more = {"jsep": jsep} if jsep else {}
        return await self._request("message", handle_id=handle, body=body, **more)

    async def publish(self, peer: RTCPeerConnection) -> None:
        handle = await self._attach()
        joined = await self._message(handle, request="join", ptype="publisher", room=int(ROOM))
        self.id = joined["plugindata"]["data"]["id"]
        await peer.setLocalDescription(await peer.createOffer())
        offer = {"type": "offer", "sdp": peer.localDescription.sdp}
        reply = await self._message(handle, offer, request="publish", audiocodec="opus", videocodec="vp8")
        await peer.setRemoteDescription(RTCSessionDescription(reply["jsep"]["sdp"], "answer"))

    async def subscribe(self, make: MakePeer, feeds: int, exclude: Sequence[Any]) -> None:
        handle = await self._attach()
        listed = await self._message(handle, request="listparticipants", room=int(ROOM))
        there = [p["id"] for p in listed["plugindata"]["data"]["participants"] if p.get("publisher")]
        streams = [{"feed": feed} for feed in there if feed not in exclude]
        reply = await self._message(
            handle, request="join", ptype="subscriber", room=int(ROOM), streams=streams
        )
        peer = make()
        await peer.setRemoteDescription(RTCSessionDescription(reply["jsep"]["sdp"], "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        answer = {"type": "answer", "sdp": peer.localDescription.sdp}
        await self._message(handle, answer, request="start", room=int(ROOM))


SESSIONS: dict[str, type[Session]] = {"sfu": Sfu, "pion": Pion, "janus": Janus}
