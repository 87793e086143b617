"""Calls on one side, media on the other: who may have a media connection, and until when."""

from typing import Any, Protocol

import structlog

from sfu import ids
from sfu.calls.call import Call, Participant
from sfu.calls.service import CallService
from sfu.calls.table import IN, PENDING, Status
from sfu.errors import BadRequest, InvalidState, NotAllowed, SfuError
from sfu.media.allocation import Preference
from sfu.media.plane import OfferReply, OfferRequest, TrackInfo
from sfu.signaling import messages
from sfu.signaling.hub import Hub
from sfu.signaling.session import Session

log = structlog.get_logger()


class MediaPlane(Protocol):
    """The rooms, wherever they live."""

    async def offer(self, peer_id: str, request: OfferRequest) -> OfferReply: ...
    def admit(self, peer_id: str) -> bool: ...
    def mute(self, peer_id: str, track_id: str, muted: bool) -> None: ...
    def prefer(
        self, peer_id: str, preference: Preference, *, mid: str | None, track_id: str | None
    ) -> None: ...
    def state(self, peer_id: str) -> dict[str, Any]: ...
    def send_data(self, peer_id: str, to: list[str] | None, topic: str, payload: Any) -> None: ...
    def remove(self, peer_id: str, reason: str) -> None: ...
    def describe(self) -> list[dict[str, Any]]: ...
    def silence(self, peer_id: str, track_id: str, silenced: bool) -> None: ...


class MediaLink:
    """The media connections of sessions."""

    def __init__(self, hub: Hub, calls: CallService, plane: MediaPlane) -> None:
        self._hub, self._calls, self.plane = hub, calls, plane
        # Peer id → its session.
        self._sessions: dict[str, Session] = {}
        self._connected: set[str] = set()
        # Peers for which media may pass.
        self._admitted: set[str] = set()

    # Requests

    async def offer(self, session: Session, request: messages.MediaOffer) -> dict[str, Any]:
        """Answer an offer for a call or for a room."""
        if (request.call_id is None) == (request.room is None):
            raise BadRequest("media.offer wants either call_id or room.")
        call_id = request.call_id or (request.room if (request.room or "").startswith("call_") else None)
        grants = session.identity.grants
        if call_id is not None:
            call = await self._calls.get_for(call_id, session.user_id)
            room, video, admitted = call.room_name, call.call_type == "video", self._may_hear(call, session)
            is_in = self._is_in(call, session.user_id)
        else:
            room, video, admitted, is_in = str(request.room), True, True, False
            if not grants.may_join(room):
                raise NotAllowed("Your token does not let you into this room.")
        if (session.call_id, session.room) != (call_id, room):
            self._leave(session, "moved")
            self._take_over(session, room)
            if call_id is not None and is_in:
                await self._calls.move(call_id, session.user_id, session.id)
        offer = OfferRequest(
            room=room,
            user_id=session.user_id,
            name=session.identity.name,
            sdp=request.sdp,
            tracks=tuple(TrackInfo(t.mid, t.source, t.name, t.muted) for t in request.tracks),
            hidden=grants.hidden,
            publish=grants.publish and not grants.hidden,
            subscribe=grants.subscribe,
            data=grants.data,
            video=video,
            admitted=admitted,
        )
        try:
            answered = await self._negotiate(session, call_id, offer)
        except BadRequest as error:
            if error.code != "fingerprint_changed":
                raise
            # The client began anew without saying goodbye to its old connection.
            self._leave(session, "replaced")
            answered = await self._negotiate(session, call_id, offer)
        return {
            "sdp": answered.sdp,
            "participant_id": session.peer_id,
            "room_name": room,
            "participants": answered.participants,
            "slots": answered.slots,
        }

    async def _negotiate(self, session: Session, call_id: str | None, offer: OfferRequest) -> OfferReply:
        is_new = session.peer_id is None
        peer_id = session.peer_id or ids.peer_id()
        self._sessions[peer_id] = session
        session.peer_id, session.call_id, session.room = peer_id, call_id, offer.room
        if offer.admitted:
            self._admitted.add(peer_id)
        try:
            return await self.plane.offer(peer_id, offer)
        except SfuError:
            if is_new:
                self._forget(peer_id)
            raise

    @staticmethod
    def _is_in(call: Call, user_id: str) -> bool:
        participant = call.participant(user_id)
        return participant is not None and participant.state in IN

    def _may_hear(self, call: Call, session: Session) -> bool:
        participant = call.participant(session.user_id)
        if call.status is Status.ENDED or participant is None or participant.state not in PENDING | IN:
            raise InvalidState("You are not in this call any more.")
        return call.status is Status.ACTIVE and participant.state in IN

    def _take_over(self, session: Session, room: str) -> None:
        """One device of a user is in a room: the one that came last."""
        for other in self._hub.sessions(session.user_id):
            if other is not session and other.room == room and other.peer_id is not None:
                self._leave(other, "replaced", tell=True)

    def leave(self, session: Session) -> None:
        """Close a session's media connection because its client wants so."""
        self._leave(session, "left")

    def mute(self, session: Session, request: messages.MediaMute) -> None:
        self.plane.mute(self._peer(session), request.track_id, request.muted)

    def prefer(self, session: Session, request: messages.MediaPrefer) -> None:
        if request.mid is None and request.track_id is None:
            raise BadRequest("media.prefer wants mid or track_id.")
        preference = Preference(
            priority=request.priority + (1000 if request.pin else 0),
            paused=request.paused,
            pinned=request.pin,
            max_width=request.max_width,
            max_height=request.max_height,
            max_fps=request.max_fps,
        )
        self.plane.prefer(self._peer(session), preference, mid=request.mid, track_id=request.track_id)

    def send_data(self, session: Session, request: messages.DataSend) -> None:
        self.plane.send_data(self._peer(session), request.to, request.topic, request.payload)

    def tell_state(self, session: Session) -> None:
        """Tell a session that was cut off how its room looks now."""
        if session.peer_id is not None:
            state = self.plane.state(session.peer_id)
            session.send(messages.event("media.participants", {"participants": state["participants"]}))
            session.send(messages.event("media.slots", {"slots": state["slots"]}))

    # For who looks after the rooms

    def describe(self) -> list[dict[str, Any]]:
        """Return name and participants of every room."""
        return self.plane.describe()

    def silence(self, peer_id: str, track_id: str, silenced: bool) -> None:
        """Stop forwarding a track, or go on."""
        self.plane.silence(peer_id, track_id, silenced)

    def remove(self, peer_id: str) -> None:
        """Close a media connection; its client is told."""
        session = self._sessions.get(peer_id)
        if session is not None:
            self._leave(session, "removed", tell=True)

    def _peer(self, session: Session) -> str:
        if session.peer_id is None:
            raise InvalidState("You have no media connection; send media.offer first.", code="no_media")
        return session.peer_id

    def _leave(self, session: Session, reason: str, *, tell: bool = False) -> None:
        peer_id = session.peer_id
        if peer_id is None:
            return
        self._forget(peer_id)
        self.plane.remove(peer_id, reason)
        if tell:
            session.send(messages.event("media.removed", {"reason": reason}))

    def _forget(self, peer_id: str) -> None:
        session = self._sessions.pop(peer_id, None)
        self._connected.discard(peer_id)
        self._admitted.discard(peer_id)
        if session is not None and session.peer_id == peer_id:
            session.peer_id = session.call_id = session.room = None

    # Events of the plane

    def receive(self, peer_id: str, type_: str, data: dict[str, Any]) -> None:
        """Take an event of the media plane to the session it is for."""
        session = self._sessions.get(peer_id)
        if session is None:
            return
        if type_ == "peer.connected":
            self._connected.add(peer_id)
            if session.call_id is not None:
                self._hub.spawn(self._join(session.call_id, session.user_id))
        elif type_ == "peer.closed":
            self._forget(peer_id)  # its client sees it, too, and offers again if it wants
        else:
            session.send(messages.event(type_, data))

    async def _join(self, call_id: str, user_id: str) -> None:
        await self._calls.join(call_id, user_id)

    # Events of calls

    async def call_changed(self, call: Call) -> None:
        """Admit who is in now, and let go who is not any more."""
        for session in self._sessions_in(call):
            participant = call.participant(session.user_id)
            peer_id = session.peer_id
            if peer_id is None:
                continue
            if call.status is Status.ENDED:
                self._leave(session, "call_ended", tell=True)
            elif participant is None or participant.state not in PENDING | IN:
                self._leave(session, "left", tell=True)
            elif call.status is Status.ACTIVE and participant.state in IN:
                self._admit(session, peer_id, call, participant)

    def _admit(self, session: Session, peer_id: str, call: Call, participant: Participant) -> None:
        """Let media pass for the device that answered; others of its user connected in vain."""
        if peer_id not in self._admitted:
            answered_here = session.id in participant.devices or session.is_one_of_several
            if participant.devices and not answered_here:
                self._leave(session, "answered_elsewhere", tell=True)
                return
            self._admitted.add(peer_id)
            if self.plane.admit(peer_id):  # else the answer to its offer tells how the room looks
                self.tell_state(session)
        if peer_id in self._connected:
            self._hub.spawn(self._join(call.id, session.user_id))

    def _sessions_in(self, call: Call) -> list[Session]:
        return [
            session
            for user_id in call.user_ids
            for session in self._hub.sessions(user_id)
            if session.call_id == call.id
        ]

    # Events of sessions

    async def session_expired(self, session: Session) -> None:
        """A device is gone for good: so is its user from the calls that he had on no other."""
        its_call = session.call_id
        self._leave(session, "left")
        others = self._hub.sessions(session.user_id)
        for call in await self._calls.open_calls(session.user_id):
            participant = call.participant(session.user_id)
            if participant is None or participant.state not in IN:
                continue
            was_here = call.id == its_call or session.id in participant.devices
            is_nowhere = not others and not participant.devices
            if is_nowhere or (was_here and not any(other.call_id == call.id for other in others)):
                log.info("participant_gone", call_id=call.id, user_id=session.user_id)
                await self._calls.leave(call.id, session.user_id)
