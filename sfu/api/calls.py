"""The REST interface of calls: the same service as behind the socket."""

from typing import Any

from sfu.api import schemas
from sfu.api.cursor import from_cursor, to_cursor
from sfu.api.routes import Context, Endpoint
from sfu.calls.call import NO_DEVICE, Call
from sfu.calls.service import CallService
from sfu.calls.views import CallViews
from sfu.errors import NotAllowed

Document = dict[str, Any]


class CallEndpoints:
    """Handlers of everything under `/calls`."""

    def __init__(self, calls: CallService, views: CallViews) -> None:
        self._calls, self._views = calls, views

    def all(self) -> list[Endpoint]:
        """Return the endpoints; fixed paths stand before those with a parameter."""
        call, of = schemas.Call, "/calls/{call_id}"

        def act(name: str, summary: str, handler: Any, body: Any = schemas.Nothing) -> Endpoint:
            return Endpoint(
                "POST", f"{of}/{name}", f"{name}_call", summary, handler, call, body, body_optional=True
            )

        return [
            Endpoint(
                "POST",
                "/calls/initiate",
                "initiate_call",
                "Place a call; everybody else rings.",
                self._initiate,
                call,
                schemas.InitiateCall,
                statuses=(201,),
            ),
            Endpoint(
                "GET",
                "/calls/ring_state",
                "ring_state",
                "What rings for me now, and what I am in: for a client that lost events.",
                self._ring_state,
                schemas.Ringing,
            ),
            Endpoint(
                "GET",
                "/calls",
                "list_calls",
                "A user's calls, the newest first.",
                self._list,
                schemas.Calls,
                query=schemas.CallQuery,
            ),
            Endpoint("GET", of, "get_call", "One call.", self._get, call),
            Endpoint("GET", f"{of}/events", "call_events", "Its timeline.", self._timeline, schemas.Timeline),
            act("answer", "Take a call; the first device wins.", self._answer),
            act("reject", "Refuse a call.", self._reject, schemas.RejectCall),
            act("cancel", "Give up a call that nobody has answered.", self._cancel),
            act("end", "End a call for everybody.", self._end),
            act("leave", "Leave a call; the last but one ends a call of two.", self._leave),
            Endpoint(
                "POST",
                f"{of}/participants",
                "invite",
                "Ask others into a running call.",
                self._invite,
                call,
                schemas.Invite,
            ),
            Endpoint(
                "DELETE",
                f"{of}/participants/{{user_id}}",
                "remove_participant",
                "Send somebody away, or leave.",
                self._remove,
                call,
            ),
        ]

    def _view(self, call: Call, context: Context) -> Document:
        return self._views.of(call, context.identity, context.socket_url)

    def _may_call(self, context: Context) -> None:
        if not context.identity.grants.calls:
            raise NotAllowed("Your token does not let you place or take calls.")

    async def _initiate(self, context: Context) -> Document:
        self._may_call(context)
        body: schemas.InitiateCall = context.body
        call = await self._calls.initiate(
            context.identity.user_id,
            context.identity.name,
            callee_ids=body.callee_ids,
            call_type=body.call_type,
            conversation_id=body.conversation_id,
            ring_timeout_s=body.ring_timeout_s,
            metadata=body.metadata,
            idempotency_key=body.idempotency_key,
        )
        return self._view(call, context)

    async def _ring_state(self, context: Context) -> Document:
        calls = await self._calls.open_calls(context.identity.user_id)
        return {"calls": [self._view(call, context) for call in calls]}

    async def _list(self, context: Context) -> Document:
        query: schemas.CallQuery = context.query
        user_id = query.user or context.identity.user_id
        if user_id != context.identity.user_id and not context.identity.grants.admin:
            raise NotAllowed("Only the admin grant shows the calls of others.")
        before = from_cursor(query.cursor) if query.cursor else None
        calls = await self._calls.history(
            user_id, status=query.state, since=query.since_text, before=before, limit=query.limit + 1
        )
        page = [self._view(call, context) for call in calls[: query.limit]]
        more = len(calls) > query.limit
        return {"calls": page, "next_cursor": to_cursor(page[-1]) if more else None}

    async def _get(self, context: Context) -> Document:
        if context.identity.grants.admin:
            return self._view(await self._calls.get(context.path["call_id"]), context)
        call_id, user_id = _mine(context)
        return self._view(await self._calls.get_for(call_id, user_id), context)

    async def _timeline(self, context: Context) -> Document:
        call_id, user_id = _mine(context)
        return {"events": [dict(row) for row in await self._calls.timeline(call_id, user_id)]}

    async def _answer(self, context: Context) -> Document:
        self._may_call(context)
        call_id, user_id = _mine(context)
        return self._view(await self._calls.answer(call_id, user_id, NO_DEVICE), context)

    async def _reject(self, context: Context) -> Document:
        call_id, user_id = _mine(context)
        return self._view(await self._calls.reject(call_id, user_id, context.body.reason), context)

    async def _cancel(self, context: Context) -> Document:
        call_id, user_id = _mine(context)
        return self._view(await self._calls.cancel(call_id, user_id), context)

    async def _end(self, context: Context) -> Document:
        call_id, user_id = _mine(context)
        return self._view(await self._calls.end(call_id, user_id), context)

    async def _leave(self, context: Context) -> Document:
        call_id, user_id = _mine(context)
        return self._view(await self._calls.leave(call_id, user_id), context)

    async def _invite(self, context: Context) -> Document:
        self._may_call(context)
        call_id, user_id = _mine(context)
        return self._view(await self._calls.invite(call_id, user_id, context.body.user_ids), context)

    async def _remove(self, context: Context) -> Document:
        call_id, user_id = _mine(context)
        return self._view(await self._calls.remove(call_id, user_id, context.path["user_id"]), context)


def _mine(context: Context) -> tuple[str, str]:
    """Return the ids of the call and of whoever asks."""
    return context.path["call_id"], context.identity.user_id
