"""The media of a Python program in a call: stock aiortc, offering as any client does."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from sfu.bot.client import Client
from sfu.tasks import end

# aiortc 1.16 loses the second m-line of a kind with any other bundle policy: it stays on a
# transport that was closed when the answer bundled it away.
CONFIGURATION = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)

SOURCES = {"audio": "microphone", "video": "camera"}


class MediaConnection:
    """One peer connection with the server.

    Every received frame goes to `on_frame(mid, frame)`, decoded; nothing is kept.
    """

    def __init__(self, client: Client, on_frame: Callable[[str, Any], None]) -> None:
        self._client, self._on_frame = client, on_frame
        self.connection = RTCPeerConnection(CONFIGURATION)
        self.connection.on("track", self._track)
        self._tasks: set[asyncio.Task[None]] = set()
        self.participant_id = ""
        # What the server said last stands in each slot.
        self.slots: list[dict[str, Any]] = []
        client.on_event(self._event)

    async def join(
        self,
        target: dict[str, str],
        tracks: list[MediaStreamTrack],
        *,
        audio_slots: int = 1,
        video_slots: int = 1,
    ) -> dict[str, Any]:
        """Offer tracks and slots for `{"call_id": …}` or `{"room": …}`; return the reply."""
        for track in tracks:
            self.connection.addTransceiver(track, "sendonly")
        for kind, count in (("audio", audio_slots), ("video", video_slots)):
            for _ in range(count):
                self.connection.addTransceiver(kind, "recvonly")
        await self.connection.setLocalDescription(await self.connection.createOffer())
        sending = {t.sender.track: t.mid for t in self.connection.getTransceivers()}
        reply = await self._client.request(
            "media.offer",
            {
                **target,
                "sdp": self.connection.localDescription.sdp,
                "tracks": [{"mid": sending[track], "source": SOURCES[track.kind]} for track in tracks],
            },
        )
        self.participant_id, self.slots = reply["participant_id"], reply["slots"]
        await self.connection.setRemoteDescription(RTCSessionDescription(reply["sdp"], "answer"))
        return reply

    async def connected(self, timeout: float = 10) -> None:
        """Return when media can flow.

        Raises:
            ConnectionError: it never will.
            TimeoutError: it does not yet.

        """
        done = asyncio.Event()
        self.connection.on("connectionstatechange", done.set)
        async with asyncio.timeout(timeout):
            while self.connection.connectionState != "connected":
                if self.connection.connectionState in ("failed", "closed"):
                    raise ConnectionError(f"the peer connection {self.connection.connectionState}")
                await done.wait()
                done.clear()

    async def close(self) -> None:
        """Close the connection and end every task of it."""
        await self.connection.close()
        await end(*self._tasks)

    def _event(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "media.slots":
            self.slots = frame["data"]["slots"]

    def _track(self, track: MediaStreamTrack) -> None:
        transceiver = next(t for t in self.connection.getTransceivers() if t.receiver.track is track)
        task = asyncio.create_task(self._receive(transceiver.mid or "", track))
        self._tasks.add(task)

    async def _receive(self, mid: str, track: MediaStreamTrack) -> None:
        try:
            while True:
                self._on_frame(mid, await track.recv())
        except MediaStreamError:
            return
