"""What each type of request does: one small method each, found by its type."""

from collections.abc import Awaitable, Callable
from typing import Any

from sfu.auth import TokenAuthority
from sfu.calls.call import Call, to_document
from sfu.calls.service import CallService
from sfu.calls.views import CallViews
from sfu.errors import NotAllowed
from sfu.signaling import messages
from sfu.signaling.hub import Hub
from sfu.signaling.media_link import MediaLink
from sfu.signaling.session import Session

Reply = dict[str, Any]
Handler = Callable[[Session, Any], Awaitable[Reply]]


class Requests:
    """Handlers by type. Each returns the `data` of the reply, or raises what went wrong."""

    def __init__(self, hub: Hub, calls: CallService, media: MediaLink, authority: TokenAuthority) -> None:
        self._hub, self._calls, self._media, self._views = hub, calls, media, CallViews(authority)
        self.handlers: dict[str, Handler] = {
            "call.initiate": self._initiate,
            "call.answer": self._answer,
            "call.reject": self._reject,
            "call.cancel": self._cancel,
            "call.end": self._end,
            "call.leave": self._leave,
            "call.state": self._state,
            "call.consent": self._consent,
            "call.invite": self._invite,
            "call.update": self._update,
            "presence.watch": self._watch,
            "media.offer": self._offer,
            "media.prefer": self._prefer,
            "media.mute": self._mute,
            "media.leave": self._media_leave,
            "media.candidate": self._candidate,
            "data.send": self._data,
        }

    # Calls

    def view(self, session: Session, document: dict[str, Any]) -> dict[str, Any]:
        """Return a call as one user reads it: with what he needs to join it, if he may."""
        return self._views.view(document, session.identity, session.url)

    def _reply(self, session: Session, call: Call) -> Reply:
        return {"call": self.view(session, to_document(call))}

    def _may_call(self, session: Session) -> None:
        if not session.identity.grants.calls:
            raise NotAllowed("Your token does not let you place or take calls.")

    async def _initiate(self, session: Session, request: messages.CallInitiate) -> Reply:
        self._may_call(session)
        call = await self._calls.initiate(
            session.user_id,
            session.identity.name,
            device=session.id,
            callee_ids=request.callee_ids,
            call_type=request.call_type,
            conversation_id=request.conversation_id,
            ring_timeout_s=request.ring_timeout_s,
            metadata=request.metadata,
            idempotency_key=request.idempotency_key,
        )
        return self._reply(session, call)

    async def _answer(self, session: Session, request: messages.CallRef) -> Reply:
        self._may_call(session)
        return self._reply(session, await self._calls.answer(request.call_id, session.user_id, session.id))

    async def _reject(self, session: Session, request: messages.CallReject) -> Reply:
        return self._reply(
            session, await self._calls.reject(request.call_id, session.user_id, request.reason)
        )

    async def _cancel(self, session: Session, request: messages.CallRef) -> Reply:
        return self._reply(session, await self._calls.cancel(request.call_id, session.user_id))

    async def _end(self, session: Session, request: messages.CallRef) -> Reply:
        return self._reply(session, await self._calls.end(request.call_id, session.user_id))

    async def _leave(self, session: Session, request: messages.CallRef) -> Reply:
        return self._reply(session, await self._calls.leave(request.call_id, session.user_id))

    async def _state(self, session: Session, request: messages.CallRef) -> Reply:
        return self._reply(session, await self._calls.get_for(request.call_id, session.user_id))

    async def _consent(self, session: Session, request: messages.CallConsent) -> Reply:
        call = await self._calls.consent(request.call_id, session.user_id, accepts=request.accept)
        return self._reply(session, call)

    async def _invite(self, session: Session, request: messages.CallInvite) -> Reply:
        self._may_call(session)
        return self._reply(
            session, await self._calls.invite(request.call_id, session.user_id, request.user_ids)
        )

    async def _update(self, session: Session, request: messages.CallUpdate) -> Reply:
        return self._reply(
            session, await self._calls.update(request.call_id, session.user_id, request.call_type)
        )

    # Presence

    async def _watch(self, session: Session, request: messages.PresenceWatch) -> Reply:
        self._may_call(session)
        return self._hub.watch(session, request.user_ids)

    # Media

    async def _offer(self, session: Session, request: messages.MediaOffer) -> Reply:
        return await self._media.offer(session, request)

    async def _prefer(self, session: Session, request: messages.MediaPrefer) -> Reply:
        self._media.prefer(session, request)
        return {}

    async def _mute(self, session: Session, request: messages.MediaMute) -> Reply:
        self._media.mute(session, request)
        return {}

    async def _media_leave(self, session: Session, _request: messages.MediaLeave) -> Reply:
        self._media.leave(session)
        return {}

    async def _candidate(self, _session: Session, _request: messages.MediaCandidate) -> Reply:
        return {}

    async def _data(self, session: Session, request: messages.DataSend) -> Reply:
        self._media.send_data(session, request)
        return {}
