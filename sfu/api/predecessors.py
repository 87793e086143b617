"""The REST paths of the two systems before this one, over the same calls: with slashes at their ends."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sfu.api.routes import Context, Endpoint
from sfu.api.schemas import Id, Nothing
from sfu.calls.call import NO_DEVICE, Call
from sfu.calls.service import CallService
from sfu.calls.views import CallViews, describe_call
from sfu.errors import NotAllowed


class _Body(BaseModel):
    """What front ends send; fields that mean nothing here are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Initiate(_Body):
    """Call somebody, or everybody in a conversation."""

    recipient: Id | None = None
    recipient_id: Id | None = None
    participants: list[Id] = Field(default=[], max_length=1000)
    conversation_id: Id | None = None
    call_type: Literal["voice", "video", "audio"] = "video"

    @property
    def callees(self) -> list[str]:
        """Everybody who was named, in whichever field."""
        return [u for u in (self.recipient, self.recipient_id, *self.participants) if u is not None]


class Reject(_Body):
    """Refuse a call."""

    reason: Annotated[str, StringConstraints(max_length=200)] = ""


class PredecessorEndpoints:
    """Handlers of `/calls/initiate/` and of the acts on one call."""

    def __init__(self, calls: CallService, views: CallViews) -> None:
        self._calls, self._views = calls, views

    def all(self) -> list[Endpoint]:
        """Return the endpoints."""

        def post(path: str, name: str, handler: Any, body: type[BaseModel], status: int = 200) -> Endpoint:
            return Endpoint(
                "POST", path, name, name, handler, None, body, body_optional=True, statuses=(status,)
            )

        of = "/calls/{call_id}"
        return [
            post("/calls/initiate/", "initiate", self._initiate, Initiate, 201),
            post(f"{of}/answer/", "answer", self._answer, Nothing),
            post(f"{of}/reject/", "reject", self._reject, Reject),
            post(f"{of}/end/", "end", self._end, Nothing),
        ]

    def _view(self, call: Call, context: Context) -> dict[str, Any]:
        return describe_call(self._views.of(call, context.identity, context.socket_url))

    async def _initiate(self, context: Context) -> dict[str, Any]:
        if not context.identity.grants.calls:
            raise NotAllowed("Your token does not let you place or take calls.")
        body: Initiate = context.body
        call = await self._calls.initiate(
            context.identity.user_id,
            context.identity.name,
            callee_ids=body.callees,
            call_type="video" if body.call_type == "video" else "voice",
            conversation_id=body.conversation_id,
        )
        return self._view(call, context)

    async def _answer(self, context: Context) -> dict[str, Any]:
        if not context.identity.grants.calls:
            raise NotAllowed("Your token does not let you place or take calls.")
        call_id, user_id = context.path["call_id"], context.identity.user_id
        return self._view(await self._calls.answer(call_id, user_id, NO_DEVICE), context)

    async def _reject(self, context: Context) -> dict[str, Any]:
        call_id, user_id = context.path["call_id"], context.identity.user_id
        return self._view(await self._calls.reject(call_id, user_id, context.body.reason), context)

    async def _end(self, context: Context) -> dict[str, Any]:
        """End it; a caller gives up, and whoever is rung refuses."""
        call_id, user_id = context.path["call_id"], context.identity.user_id
        call = await self._calls.get_for(call_id, user_id)
        participant = call.participant(user_id)
        if participant is not None and participant.state in ("invited", "ringing"):
            return self._view(await self._calls.reject(call_id, user_id, ""), context)
        return self._view(await self._calls.end(call_id, user_id), context)
