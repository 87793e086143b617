"""The media plane as the rest of the server sees it: plain messages in, events back.

A room could as well live in another process: nothing here hands out an object of the
packet path.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import structlog
from aiortc import RTCDataChannel, RTCSessionDescription

from sfu import clock, ids
from sfu.errors import BadRequest, NotAllowed, NotFound, Unavailable
from sfu.media.agenda import Agenda
from sfu.media.allocation import Preference
from sfu.media.negotiation import Policy
from sfu.media.peer_connection import FingerprintChanged, PeerConnection, PeerSettings
from sfu.media.quality import Quality
from sfu.media.room import Member, Room, Watcher
from sfu.media.rtp_session import Publication
from sfu.media.stalls import Stall, StallWatch
from sfu.tasks import end

log = structlog.get_logger()

# How fine the timers of RTP run: a NACK waits 20 ms at least.
TICK_S = 0.02

# After so long of it, packets have their turn; feedback is taken in so many steps of a tick at most.
STEP_S = 0.0005
MAX_ASIDE_STEPS = 32

# How often silence is looked for.
LIVENESS_S = 1.0

# How often speakers are told, at most.
SPEAKERS_S = 0.3

# One message on the data channel, as on the socket.
MAX_DATA_BYTES = 64 * 1024

# From here on a stall of the loop is told: it is five frames of sound.
STALL_TOLD_S = 0.1

DEFAULT_SOURCES = {"audio": "microphone", "video": "camera"}


@dataclass(frozen=True, slots=True)
class TrackInfo:
    """What a client says of an m-line on which it publishes."""

    mid: str
    source: str
    name: str = ""
    muted: bool = False


@dataclass(frozen=True, slots=True)
class OfferRequest:
    """A client's offer, with what it may do in the room."""

    room: str
    user_id: str
    name: str
    sdp: str
    tracks: tuple[TrackInfo, ...] = ()
    hidden: bool = False
    publish: bool = True
    subscribe: bool = True
    data: bool = True
    video: bool = True
    # False: connect, but let no media pass before `admit`.
    admitted: bool = True


@dataclass(frozen=True, slots=True)
class OfferReply:
    """Our answer, and what the room looks like."""

    sdp: str
    participants: list[dict[str, Any]]
    slots: list[dict[str, Any]]


Emit = Callable[[str, str, dict[str, Any]], None]


@dataclass(slots=True)
class _Joining:
    """What was decided of a peer while its first offer was being answered."""

    is_admitted: bool
    is_removed: bool = False


async def _go_on() -> None:
    """Wait for nothing."""


async def _let_others() -> None:
    """Let everything else have its turn."""
    await asyncio.sleep(0)


class MediaPlane:
    """All rooms of this process.

    `emit(peer_id, type, data)` takes the events; beside those of the protocol,
    `peer.connected` and `peer.closed {reason}` tell of the connection itself.
    """

    def __init__(self, settings: PeerSettings, codecs: frozenset[str], max_peers: int, emit: Emit) -> None:
        self._settings, self._codecs, self._max_peers, self._emit = settings, codecs, max_peers, emit
        self.rooms: dict[str, Room] = {}
        # Peer id → its room and its membership.
        self._peers: dict[str, tuple[Room, Member]] = {}
        # Those whose first offer is being answered.
        self._joining: dict[str, _Joining] = {}
        # When each of them has something to do, by peer id.
        self._agenda = Agenda()
        # Room name → who watches it.
        self._watchers: dict[str, list[Watcher]] = {}
        self._ticker: asyncio.Task[None] | None = None
        # Set while there is a peer: an idle server sleeps.
        self._busy = asyncio.Event()
        self._stalls = StallWatch()
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._ticker = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Close every peer, then the clock; the ports are closed by who opened them."""
        for peer_id in [*self._joining, *self._peers]:
            self.remove(peer_id, "server_closing")
        if self._closing:
            await asyncio.wait(self._closing, timeout=5)
        if self._ticker is not None:
            await end(self._ticker)
        self._stalls.close()

    @property
    def peers(self) -> int:
        return len(self._peers)

    @property
    def worst_stall(self) -> Stall:
        """How late the loop came to its clock at worst in the last minute or two, if anybody was there."""
        return self._stalls.worst

    @property
    def tracks(self) -> int:
        return sum(len(member.tracks) for _, member in self._peers.values())

    def qualities(self) -> list[Quality]:
        """Return how each peer is connected, of those through which something flows."""
        found = [member.connection.rtp.quality() for _, member in self._peers.values()]
        return [quality for quality in found if quality is not None]

    def video_slots(self) -> dict[str, int]:
        """Return how many slots show a picture as it was asked for, less of it, and nothing for now."""
        found = {"all": 0, "less": 0, "nothing": 0}
        for _, member in self._peers.values():
            for leg in member.connection.rtp.legs.values():
                if leg.kind == "video" and leg.track is not None:
                    shows = "nothing" if leg.layer is None else "less" if leg.is_limited else "all"
                    found[shows] += 1
        return found

    # Negotiation

    async def offer(self, peer_id: str, request: OfferRequest) -> OfferReply:
        """Answer an offer: a new peer, or one that negotiates again in the same room.

        Raises:
            BadRequest: `bad_sdp`, or `fingerprint_changed` when it is the offer of a new
                connection; an existing peer goes on as it was.
            Unavailable: too many peers.

        """
        known = self._peers.get(peer_id)
        policy = Policy(self._codecs, request.publish, request.subscribe, request.video, request.data)
        if known is None:
            return await self._join(peer_id, request, policy)
        room, member = known
        member.connection.policy = policy
        tracks_before = member.tracks
        answer = await self._negotiate(member, request, _go_on)
        room.negotiated(member, tracks_before)
        if request.admitted:
            room.admit(member)
        self._settings.ports.flush()
        return OfferReply(answer.sdp, room.participants(member), room.slots(member))

    async def _join(self, peer_id: str, request: OfferRequest, policy: Policy) -> OfferReply:
        """Answer the first offer of a peer, in steps: between two of them the packets of others go on."""
        if peer_id in self._joining:
            raise BadRequest("Your first offer is still being answered.", code="offer_in_progress")
        joining = self._joining[peer_id] = _Joining(request.admitted)
        try:
            member = self._new_member(peer_id, request, policy)
            try:
                answer = await self._negotiate(member, request, _let_others)
                if joining.is_removed:
                    raise NotFound("You left before the offer was answered.", code="no_media")
            except BaseException:
                await member.connection.close()
                raise
        finally:
            del self._joining[peer_id]
        room = self._enter(request.room, member)
        room.negotiated(member, {})
        if joining.is_admitted:
            room.admit(member)
        self._settings.ports.flush()
        return OfferReply(answer.sdp, room.participants(member), room.slots(member))

    async def _negotiate(
        self, member: Member, request: OfferRequest, between: Callable[[], Awaitable[None]]
    ) -> RTCSessionDescription:
        connection = member.connection
        try:
            await between()
            await connection.setRemoteDescription(RTCSessionDescription(sdp=request.sdp, type="offer"))
            await between()
            answer = await connection.createAnswer()
            await connection.setLocalDescription(answer)
            await between()
        except ValueError as error:
            code = "fingerprint_changed" if isinstance(error, FingerprintChanged) else "bad_sdp"
            raise BadRequest(f"The offer cannot be answered: {error}.", code=code) from error
        self._name_tracks(connection, request)
        connection.apply_rtp()
        return answer

    def _new_member(self, peer_id: str, request: OfferRequest, policy: Policy) -> Member:
        if len(self._peers) + len(self._joining) > self._max_peers:
            raise Unavailable("The server has as many media connections as it may.", code="overloaded")
        connection = PeerConnection(self._settings, policy)
        member = Member(peer_id, request.user_id, request.name, request.hidden, connection)

        def state_changed() -> None:
            self._state_changed(member)

        connection.on("connectionstatechange", state_changed)
        connection.on("datachannel", lambda channel: self._data_channel(member, channel))
        return member

    def _enter(self, name: str, member: Member) -> Room:
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(name, self._emit)
            for watcher in self._watchers.get(name, []):
                room.watch(watcher)
        room.add(member)
        self._peers[member.peer_id] = (room, member)
        member.connection.rtp.called = partial(self._agenda.call, member.peer_id)
        self._agenda.call(member.peer_id, 0.0)
        self._busy.set()
        return room

    def _name_tracks(self, connection: PeerConnection, request: OfferRequest) -> None:
        told = {track.mid: track for track in request.tracks}
        publications = {}
        for section in connection.sections:
            if not section.receives:
                continue
            info = told.get(section.mid) or TrackInfo(section.mid, DEFAULT_SOURCES[section.kind])
            before = connection.publications.get(section.mid)
            keep = before is not None and before.source == info.source
            track_id = before.track_id if keep and before is not None else ids.track_id()
            publications[section.mid] = Publication(track_id, info.source, info.name, info.muted)
        connection.publications = publications

    # What clients ask

    def admit(self, peer_id: str) -> bool:
        """Let media pass for a peer, whose call is active; False if it did already, or is on its way in."""
        if peer_id in self._joining:
            self._joining[peer_id].is_admitted = True
        known = self._peers.get(peer_id)
        if known is None or known[1].admitted:
            return False
        known[0].admit(known[1])
        self._settings.ports.flush()
        return True

    def mute(self, peer_id: str, track_id: str, muted: bool) -> None:
        """Tell the room that a track of this peer is muted or not."""
        room, member = self._known(peer_id)
        track = member.tracks.get(track_id)
        if track is None:
            raise NotFound("You publish no such track.", code="track_not_found")
        room.mute(member, track, muted)

    def silence(self, peer_id: str, track_id: str, silenced: bool) -> None:
        """Stop forwarding a track of a peer, or go on; the room is told that it is muted."""
        room, member = self._known(peer_id)
        track = member.tracks.get(track_id)
        if track is None:
            raise NotFound("There is no such track.", code="track_not_found")
        room.silence(member, track, silenced)

    def describe(self) -> list[dict[str, Any]]:
        """Return name and participants of every room."""
        return [
            {"name": room.name, "participants": [member.describe() for member in room.members.values()]}
            for room in self.rooms.values()
        ]

    def prefer(self, peer_id: str, preference: Preference, *, mid: str | None, track_id: str | None) -> None:
        """Take what a peer needs of a slot (`mid`) or of a track."""
        room, member = self._known(peer_id)
        name = track_id or member.bound.get(mid or "")
        if name is None:
            raise NotFound("There is no track in this slot.", code="track_not_found")
        room.prefer(member, name, preference)
        self._settings.ports.flush()

    def state(self, peer_id: str) -> dict[str, Any]:
        """Return the room as one peer sees it: for a client that lost events."""
        room, member = self._known(peer_id)
        return {"participants": room.participants(member), "slots": room.slots(member)}

    def send_data(self, peer_id: str, to: list[str] | None, topic: str, payload: Any) -> None:
        """Give data of a peer to others, over their sockets."""
        room, member = self._known(peer_id)
        if not member.admitted or not member.connection.policy.data:
            raise NotAllowed("You may not send data here.")
        data = {"participant_id": peer_id, "topic": topic, "payload": payload}
        for other in room.recipients(member, to):
            self._emit(other.peer_id, "data.received", data)

    def remove(self, peer_id: str, reason: str) -> None:
        """Close a peer; it is not told here, its signalling tells it."""
        if peer_id in self._joining:
            self._joining[peer_id].is_removed = True
        self._drop(peer_id, reason)

    def _known(self, peer_id: str) -> tuple[Room, Member]:
        known = self._peers.get(peer_id)
        if known is None:
            raise NotFound("You have no media connection; send media.offer first.", code="no_media")
        return known

    # Who sees a room from outside

    def watch(self, name: str, watcher: Watcher) -> None:
        """Let somebody see a room, now or when it comes to be."""
        self._watchers.setdefault(name, []).append(watcher)
        if name in self.rooms:
            self.rooms[name].watch(watcher)

    def unwatch(self, name: str, watcher: Watcher) -> None:
        """Let it see the room no more; it may do so no longer already."""
        watchers = self._watchers.get(name, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            self._watchers.pop(name, None)
        room = self.rooms.get(name)
        if room is not None and watcher in room.watchers:
            room.watchers.remove(watcher)

    # What connections do

    def _state_changed(self, member: Member) -> None:
        state = member.connection.connectionState
        if state == "connected":
            known = self._peers.get(member.peer_id)
            if known is not None:
                known[0].connected(member)
                self._settings.ports.flush()
                self._emit(member.peer_id, "peer.connected", {})
        elif state in ("failed", "closed"):
            self._drop(member.peer_id, state, member)

    def _drop(self, peer_id: str, reason: str, only: Member | None = None) -> None:
        known = self._peers.get(peer_id)
        if known is None or (only is not None and known[1] is not only):
            return
        del self._peers[peer_id]
        if not self._peers:
            self._busy.clear()
        room, member = known
        room.remove(member)
        if not room.members:
            self.rooms.pop(room.name, None)
        task = asyncio.create_task(member.connection.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._emit(peer_id, "peer.closed", {"reason": reason})

    def _data_channel(self, member: Member, channel: RTCDataChannel) -> None:
        if channel.label != "sfu" or not member.connection.policy.data:
            return
        member.channel = channel

        def on_message(message: str | bytes) -> None:
            self._data_message(member, message)

        channel.on("message", on_message)

    def _data_message(self, member: Member, message: str | bytes) -> None:
        """Pass on `data.send` of a data channel: by channel where there is one, else by socket."""
        known = self._peers.get(member.peer_id)
        if known is None or not member.admitted or len(message) > MAX_DATA_BYTES:
            return
        try:
            frame = json.loads(message)
            if frame["type"] != "data.send":
                return
            data = frame["data"]
            to, topic, payload = data.get("to"), str(data.get("topic", ""))[:128], data["payload"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        received = {"participant_id": member.peer_id, "topic": topic, "payload": payload}
        text = json.dumps({"type": "data.received", "data": received})
        for other in known[0].recipients(member, to if isinstance(to, list) else None):
            if other.channel is not None and other.channel.readyState == "open":
                other.channel.send(text)
            else:
                self._emit(other.peer_id, "data.received", received)

    # Time

    def _tell_speakers(self, now: float) -> None:
        for room in list(self.rooms.values()):
            try:
                room.tell_speakers(now)
            except Exception:
                log.exception("room_timer_failed", room=room.name)

    def _look_after(self, peer_id: str, now: float) -> None:
        """Do what is due for a peer."""
        known = self._peers.get(peer_id)
        if known is None:
            return
        room, member = known
        connection = member.connection
        try:
            if connection.rtp.due <= now:
                connection.rtp.handle_timer(now)
                room.tell_hints(member, now, look=False)
            if now >= member.look_at:
                member.look_at = now + LIVENESS_S
                self._agenda.call(peer_id, member.look_at)
                room.tell_hints(member, now, look=True)
                connection.check_liveness(now)
                room.tell_layers(member)
                room.tell_quality(member, now)
        except Exception:
            # One peer's trouble is not the others': it goes, and it is told.
            log.exception("peer_timer_failed", peer_id=peer_id)
            self._drop(peer_id, "internal_error")

    async def _tick(self) -> None:
        ports, listen_at = self._settings.ports, 0.0
        while True:
            await self._busy.wait()
            self._stalls.sleeps(clock.now(), TICK_S)
            await asyncio.sleep(TICK_S)
            now = clock.now()
            stall = self._stalls.wakes(now)
            if stall.late_s > STALL_TOLD_S:
                parts = {name: round(seconds * 1000) for name, seconds in asdict(stall).items()}
                log.warning("loop_stalled", **{name.replace("_s", "_ms"): ms for name, ms in parts.items()})
            for _ in range(MAX_ASIDE_STEPS):
                if not ports.udp.take_aside():
                    break
                await _let_others()
            now = step_at = clock.now()
            for peer_id in self._agenda.take(now):
                self._look_after(peer_id, now)
                if clock.now() - step_at > STEP_S:
                    ports.flush()
                    await _let_others()
                    now = step_at = clock.now()
            if now >= listen_at:
                listen_at = now + SPEAKERS_S
                self._tell_speakers(now)
            ports.flush()
