"""What the REST interface takes and returns: the models behind the OpenAPI document."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)

from sfu import clock

Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
CallType = Literal["voice", "video"]
CallStatus = Literal["ringing", "active", "ended"]

MAX_METADATA_BYTES = 4096


def _rfc_3339(value: Any) -> Any:
    """Refuse numbers and days, which pydantic would take for a time."""
    if isinstance(value, str) and "T" not in value.upper():
        raise ValueError("a time like 2026-01-31T12:00:00Z is wanted")
    return value


def _in_utc(moment: datetime) -> datetime:
    """Return a time in UTC; at both ends of the calendar there may be none."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("there is no such time in UTC") from error


Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]


def _text(moment: datetime | None) -> str | None:
    """Return a time as documents have it."""
    return clock.timestamp(moment) if moment is not None else None


class _Body(BaseModel):
    """What a client sends: exactly what is described, or it is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Reply(BaseModel):
    """What the server returns; a newer one may return more."""

    model_config = ConfigDict(extra="allow")


class Nothing(_Body):
    """No fields."""


class InitiateCall(_Body):
    """Place a call: in a conversation, or to those named."""

    conversation_id: Id | None = None
    callee_ids: list[Id] = Field(default=[], max_length=1000)
    call_type: CallType = "video"
    ring_timeout_s: float | None = Field(None, ge=1, le=600)
    metadata: dict[str, Any] = Field(default={}, description="Kept with the call; 4096 bytes of JSON.")
    idempotency_key: Id | None = Field(
        None, description="A request repeated under the same key makes no second call."
    )

    @field_validator("metadata")
    @classmethod
    def _small(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value)) > MAX_METADATA_BYTES:
            raise ValueError(f"larger than {MAX_METADATA_BYTES} bytes")
        return value


class RejectCall(_Body):
    """Refuse a call."""

    reason: Annotated[str, StringConstraints(max_length=200)] = ""


class Invite(_Body):
    """Ask others into a running call."""

    user_ids: list[Id] = Field(min_length=1, max_length=1000)


class Participant(_Reply):
    """One user in a call."""

    user_id: str
    name: str
    state: Literal["invited", "ringing", "answered", "joined", "left", "rejected", "missed", "busy"]
    devices: list[str]
    joined_at: str | None
    left_at: str | None


class Join(_Reply):
    """How the reader gets into the call: the socket, and a token that holds for some minutes."""

    url: str
    token: str
    room_name: str


class Call(_Reply):
    """A call as its reader sees it."""

    id: str
    room_name: str
    call_type: CallType
    status: CallStatus
    initiator: str
    initiator_name: str
    conversation_id: str | None
    participants: list[Participant]
    created_at: str
    answered_at: str | None
    ended_at: str | None
    end_reason: str | None
    metadata: dict[str, Any]
    recording: dict[str, Any] | None
    join: Join | None


class Calls(_Reply):
    """A page of calls, the newest first; `next_cursor` asks for those before them."""

    calls: list[Call]
    next_cursor: str | None = None


class Ringing(_Reply):
    """The calls that ring for the reader, and those that he is in."""

    calls: list[Call]


class CallEvent(_Reply):
    """Something that happened to a call."""

    type: str
    event_id: str
    at: str
    data: dict[str, Any]


class Timeline(_Reply):
    """What happened to a call, in order."""

    events: list[CallEvent]


class CallQuery(BaseModel):
    """Which calls are listed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    user: Id | None = Field(None, description="Whose calls; another's with the admin grant only.")
    state: CallStatus | None = Field(None, description="Only calls in this state.")
    since: Time | None = Field(None, description="Only calls placed at or after this time.")
    cursor: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="The `next_cursor` of the page before."
    )
    limit: int = Field(50, ge=1, le=200, description="Calls on a page.")

    @property
    def since_text(self) -> str | None:
        """The time as calls have it."""
        return _text(self.since)


class ConversationRecording(_Body):
    """How calls in a conversation are recorded; what is left out is as the server is set."""

    mode: Literal["off", "on_request", "always"] | None = None
    required: Literal["no", "before_ring", "before_answer", "during"] | None = None
    consent: Literal["none", "notify", "require_ack"] | None = None
    consent_timeout_s: float | None = Field(None, ge=1, le=600)
    recorders: Literal[1, 2] | None = None
    keep_days: int | None = Field(None, ge=0, le=36_500)
    keep_at_least_days: int | None = Field(None, ge=0, le=36_500)


class PutConversation(_Body):
    """Who belongs to a conversation, and may call the others in it."""

    participants: list[Id] = Field(min_length=1, max_length=1_000)
    title: Annotated[str, StringConstraints(max_length=255)] = ""
    recording: ConversationRecording | None = None


class Conversation(_Reply):
    """A conversation of the host application."""

    id: str
    participants: list[str]
    title: str
    recording: dict[str, Any] | None = None


class AddWebhook(_Body):
    """Where events are to be sent, and which; all of them if none is named."""

    url: Annotated[str, StringConstraints(min_length=8, max_length=2048)]
    types: list[Annotated[str, StringConstraints(min_length=1, max_length=64)]] = Field(
        default=[], max_length=50
    )
    secret: Annotated[str, StringConstraints(min_length=32, max_length=128)] | None = Field(
        None, description="Signs what is sent; made by the server if it is left out."
    )


class Webhook(_Reply):
    """A webhook; its secret is shown when it is added, and never again."""

    id: str
    url: str
    types: list[str]
    created_at: str
    last_seq: int
    secret: str | None = None


class Webhooks(_Reply):
    """All webhooks."""

    webhooks: list[Webhook]


class Replay(_Body):
    """From which number on everything is to be sent again."""

    from_seq: int = Field(1, ge=1)


class Replayed(_Reply):
    """How many are sent again; what is older than a week is gone."""

    deliveries: int


class Notification(_Reply):
    """Something that concerns a user: a call that came in, or was missed."""

    id: str
    verb: str
    data: dict[str, Any]
    created_at: str
    read_at: str | None


class Notifications(_Reply):
    """A user's notifications, the newest first."""

    notifications: list[Notification]


class NotificationQuery(BaseModel):
    """Which notifications are listed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    unread: Literal["true", "false"] = Field("false", description="Only those that were not read.")
    limit: int = Field(50, ge=1, le=200, description="How many at most.")


class MintToken(_Body):
    """What a token is to hold."""

    user_id: Id
    name: Annotated[str, StringConstraints(max_length=128)] | None = None
    grants: dict[str, bool | str] = Field(default={}, description="As in the claim `sfu` of a token.")
    ttl_s: int = Field(600, ge=1, le=365 * 86_400)


class Token(_Reply):
    """A token of this server."""

    token: str
    user_id: str
    expires_in_s: int


class RoomTrack(_Reply):
    """Something that a participant sends."""

    track_id: str
    kind: Literal["audio", "video"]
    source: str
    name: str
    muted: bool


class RoomParticipant(_Reply):
    """Somebody whose media is in a room."""

    participant_id: str
    user_id: str
    name: str
    tracks: list[RoomTrack]


class Room(_Reply):
    """A media room."""

    name: str
    participants: list[RoomParticipant]


class Rooms(_Reply):
    """All rooms of this process."""

    rooms: list[Room]


class MuteParticipant(_Body):
    """Which track; all of sound if none is named."""

    track_id: Id | None = None
    muted: bool = True


class Problem(_Reply):
    """What went wrong (RFC 9457); `code` is stable, the sentence is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool


class RecordingAction(_Body):
    """What is to happen with the recording of a call."""

    action: Literal["start", "pause", "resume", "stop", "accept", "decline"] = Field(
        description="accept and decline: whether you may be recorded; needs no grant."
    )
    reason: str = Field("", max_length=200)
    # Of a pause: it ends by itself after so long.
    seconds: float | None = Field(None, ge=1, le=86_400)


RecordingState = Literal[
    "requested",
    "starting",
    "active",
    "paused",
    "finishing",
    "uploading",
    "sealed",
    "failed",
    "erasing",
    "erased",
]


class Recording(_Reply):
    """What is known of a recording."""

    model_config = ConfigDict(extra="ignore")

    id: str
    call_id: str
    room: str
    state: RecordingState
    consent: str
    created_at: str
    by: str
    reason: str
    user_ids: list[str]
    started_at: str | None = None
    ended_at: str | None = None
    duration_ms: int | None = None
    end_reason: str | None = None
    bytes: int | None = None
    files: list[dict[str, Any]] = []
    losses: dict[str, int] = {}
    alarm: str | None = None
    error: str | None = None
    keep_until: str | None = None
    hold: dict[str, str] | None = None
    manifest_sha256: str | None = None
    erased_at: str | None = None
    erased_by: str | None = None
    erase_reason: str | None = None


class Recordings(_Reply):
    """A page of recordings, the newest first; `next_cursor` asks for those before them."""

    recordings: list[Recording]
    next_cursor: str | None = None


class RecordingQuery(BaseModel):
    """Which recordings are listed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    call_id: Id | None = Field(None, description="Only those of this call.")
    state: RecordingState | None = Field(None, description="Only recordings in this state.")
    user_id: Id | None = Field(None, description="Only those of calls in which this user was.")
    since: Time | None = Field(None, description="Only those made at or after this time.")
    until: Time | None = Field(None, description="Only those made before this time.")
    cursor: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="The `next_cursor` of the page before."
    )
    limit: int = Field(50, ge=1, le=200, description="Recordings on a page.")

    @property
    def times(self) -> tuple[str | None, str | None]:
        """`since` and `until` as recordings have them."""
        return _text(self.since), _text(self.until)


class Ticketed(BaseModel):
    """Who reads a file without a token."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    ticket: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        None, description="A ticket of `play_recording`, instead of a token."
    )


class PlayableFile(_Reply):
    """A file, and where it is read for some minutes."""

    name: str
    url: str


class Playable(_Reply):
    """The files of a recording, and until when their addresses hold."""

    expires_at: str
    files: list[PlayableFile]


class Hold(_Body):
    """Whether a recording is kept from being erased, and why."""

    hold: bool = True
    reason: str = Field("", max_length=200)


class Erase(_Body):
    """Why a recording is erased."""

    reason: str = Field("", max_length=200)


class AuditEntry(_Reply):
    """Something that was done with a recording; `hash` covers all else, `prev` is that of the one before."""

    n: int
    at: str
    action: str
    user_id: str
    detail: dict[str, Any]
    prev: str
    hash: str


class AuditTrail(_Reply):
    """Everything that was done with a recording, in order."""

    entries: list[AuditEntry]


class RecordingVerdict(_Reply):
    """What the check of a recording found; nothing is wrong when `problems` is empty."""

    id: str
    is_right: bool
    end_reason: str
    key_id: str
    problems: list[dict[str, str]]
