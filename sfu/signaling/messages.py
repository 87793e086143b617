"""What clients say: one model for each type of request, parsed once, trusted inside.

The envelope is `{"type", "id", "data"}`; unknown fields are passed over, so that a newer
client can talk to an older server.
"""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from sfu.errors import BadRequest

# Any frame; an offer may be larger, for it carries a description (PROTOCOL, "WebSocket").
MAX_FRAME_BYTES = 64 * 1024
MAX_OFFER_BYTES = 256 * 1024

# Nesting of a frame; nobody needs ten, and every reader behind us must bear it.
MAX_DEPTH = 32

PROTOCOL_VERSION = 1

Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Name = Annotated[str, StringConstraints(max_length=128)]
CallType = Literal["voice", "video"]
Source = Literal["microphone", "camera", "screen", "screen_audio"]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Frame(_Message):
    """The envelope of everything a client says."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    id: str | int | None = None
    data: dict[str, Any] = Field(default_factory=dict)

    @field_validator("id")
    @classmethod
    def _short(cls, value: str | int | None) -> str | int | None:
        if len(str(value)) > 64:
            raise ValueError("longer than 64 characters")
        return value


class Ping(_Message):
    """A question whether the other side is there."""


class Pong(_Message):
    """The answer to the server's ping."""


class Ack(_Message):
    """Everything up to this number has arrived."""

    seq: int = Field(ge=0)


class CallInitiate(_Message):
    """Place a call."""

    callee_ids: list[Id] = Field(default_factory=list, max_length=1000)
    conversation_id: Id | None = None
    call_type: CallType = "video"
    ring_timeout_s: float | None = Field(None, ge=1, le=600)
    metadata: dict[str, Any] = Field(default_factory=dict)
    idempotency_key: Id | None = None

    @field_validator("metadata")
    @classmethod
    def _small(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value)) > 4096:
            raise ValueError("larger than 4096 bytes")
        return value


class CallRef(_Message):
    """A call, by its id."""

    call_id: Id


class CallReject(CallRef):
    """Refuse a call."""

    reason: Annotated[str, StringConstraints(max_length=200)] = ""


class CallConsent(CallRef):
    """Say whether one may be recorded."""

    accept: bool


class CallInvite(CallRef):
    """Ask others into a running call."""

    user_ids: list[Id] = Field(min_length=1, max_length=1000)


class CallUpdate(CallRef):
    """Turn voice into video, or back."""

    call_type: CallType


class PresenceWatch(_Message):
    """Tell me who of these is online, now and when it changes; `*` is everybody."""

    user_ids: list[Id] = Field(max_length=1000)


class OfferedTrack(_Message):
    """What stands behind an m-line on which the client publishes."""

    mid: Annotated[str, StringConstraints(min_length=1, max_length=16)]
    source: Source
    name: Name = ""
    muted: bool = False


class MediaOffer(_Message):
    """A description for a call or a room."""

    call_id: Id | None = None
    room: Id | None = None
    sdp: Annotated[str, StringConstraints(min_length=1, max_length=MAX_OFFER_BYTES)]
    tracks: list[OfferedTrack] = Field(default_factory=list, max_length=64)


class MediaPrefer(_Message):
    """What a slot needs on the screen."""

    mid: Annotated[str, StringConstraints(max_length=16)] | None = None
    track_id: Id | None = None
    max_width: int | None = Field(None, ge=0, le=16384)
    max_height: int | None = Field(None, ge=0, le=16384)
    max_fps: int | None = Field(None, ge=0, le=240)
    priority: int = Field(0, ge=-100, le=100)
    paused: bool = False
    pin: bool = False


class MediaMute(_Message):
    """A published track is muted, or not any more."""

    track_id: Id
    muted: bool


class MediaLeave(_Message):
    """Close my media connection."""


class MediaCandidate(_Message):
    """A candidate of the client; accepted, not needed."""

    candidate: Any = None


class DataSend(_Message):
    """Data for others in the room."""

    to: list[Id] | None = Field(None, max_length=1000)
    topic: Name = ""
    payload: Any
    reliable: bool = True


REQUESTS: dict[str, type[BaseModel]] = {
    "ping": Ping,
    "pong": Pong,
    "ack": Ack,
    "call.initiate": CallInitiate,
    "call.answer": CallRef,
    "call.reject": CallReject,
    "call.cancel": CallRef,
    "call.end": CallRef,
    "call.leave": CallRef,
    "call.state": CallRef,
    "call.consent": CallConsent,
    "call.invite": CallInvite,
    "call.update": CallUpdate,
    "presence.watch": PresenceWatch,
    "media.offer": MediaOffer,
    "media.prefer": MediaPrefer,
    "media.mute": MediaMute,
    "media.leave": MediaLeave,
    "media.candidate": MediaCandidate,
    "data.send": DataSend,
}


def parse_frame(text: str) -> Frame:
    """Return the envelope of a text frame.

    Raises:
        BadRequest: it is not JSON, or no envelope; says where.

    """
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if _is_deeper(value, MAX_DEPTH):
            raise BadRequest("The frame is nested too deep.", code="bad_frame")
        return Frame.model_validate(value)
    except RecursionError as error:
        raise BadRequest("The frame is nested too deep.", code="bad_frame") from error
    except ValidationError as error:
        raise BadRequest(f"The frame is not an envelope: {_where(error)}.", code="bad_frame") from error
    except ValueError as error:
        raise BadRequest("The frame is not JSON.", code="bad_frame") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number too large for anybody to read again")
    return number


def _is_deeper(value: Any, depth: int) -> bool:
    """Tell whether lists and objects are nested deeper than so."""
    level = [value]
    while level and depth >= 0:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth -= 1
    return bool(level)


def parse_data(frame: Frame) -> BaseModel:
    """Return the request in an envelope.

    Raises:
        BadRequest: `unknown_type`, or `bad_request` with the fields that are wrong.

    """
    model = REQUESTS.get(frame.type)
    if model is None:
        raise BadRequest("There is no request of this type.", code="unknown_type")
    try:
        return model.model_validate(frame.data)
    except ValidationError as error:
        raise BadRequest(f"{frame.type}: {_where(error)}.") from error


def _where(error: ValidationError) -> str:
    """Return fields and faults, never what the client sent."""
    faults = error.errors(include_input=False, include_url=False)[:5]
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'frame'}: {fault['msg']}" for fault in faults)


def reply(re: str | int | None, data: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request that went well."""
    return {"type": "reply", "re": re, "data": data}


def error(re: str | int | None, data: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request that did not; `data` is SfuError.as_data()."""
    return {"type": "error", "re": re, "data": data}


def event(type_: str, data: dict[str, Any], seq: int | None = None) -> dict[str, Any]:
    """Return an event; a durable one has its number."""
    return {"type": type_, "data": data} if seq is None else {"type": type_, "seq": seq, "data": data}
