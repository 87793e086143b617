"""What every store keeps and returns, whichever database is under it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sfu import ids
from sfu.errors import Conflict

# Events kept for a user who is away; a client that missed more gets a snapshot.
MAX_EVENTS_PER_USER = 500

# What was delivered to webhooks is kept so long, to be replayed.
KEPT_DELIVERIES_S = 7 * 86_400.0

# Of a delivery, beside the URL and the secret of its webhook.
DELIVERY_FIELDS = ("webhook_id", "seq", "body", "attempts", "next_at")

# Events of one change of one call, at most: room in its timeline.
_EVENTS_PER_VERSION = 64


class StoreError(Exception):
    """The database cannot be used; the message says why."""


class NewEvent(Protocol):
    """An event of one user that has no number yet."""

    @property
    def user_id(self) -> str: ...
    @property
    def event_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...
    @property
    def not_for(self) -> str | None: ...


class StoredEvent(NewEvent, Protocol):
    """One that has."""

    @property
    def seq(self) -> int: ...


class MakeStored(Protocol):
    """Makes an event that has its number."""

    def __call__(
        self,
        *,
        user_id: str,
        seq: int,
        event_id: str,
        type: str,
        data: Mapping[str, Any],
        not_for: str | None,
    ) -> Any: ...


def numbered(stored: MakeStored, events: Sequence[NewEvent], numbers: Sequence[int]) -> list[Any]:
    """Return events that have their numbers."""
    return [
        stored(
            user_id=event.user_id,
            seq=seq,
            event_id=event.event_id,
            type=event.type,
            data=event.data,
            not_for=event.not_for,
        )
        for event, seq in zip(events, numbers, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Claim:
    """The key under which a user may repeat a request, and when he made it (seconds since 1970)."""

    user_id: str
    key: str
    at: float


class Claimed(Conflict):
    """A request was made before; `call_id` is what it made."""

    def __init__(self, call_id: str) -> None:
        super().__init__("This request was made before.")
        self.call_id = call_id


class Engaged(Conflict):
    """Somebody who was to be in no call is in one; nothing was kept."""

    def __init__(self, message: str = "Somebody is in another call.") -> None:
        super().__init__(message)


def timeline(call: Mapping[str, Any], events: Sequence[NewEvent], at: str) -> list[dict[str, Any]]:
    """Return the rows of a call's timeline: each event once, however many it was for."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.event_id not in found:
            found[event.event_id] = {
                "call_id": call["id"],
                "number": call["version"] * _EVENTS_PER_VERSION + len(found),
                "type": event.type,
                "event_id": event.event_id,
                "at": at,
                "data": {key: value for key, value in event.data.items() if key not in ("call", "event_id")},
            }
    return list(found.values())


def told_once(events: Sequence[NewEvent]) -> list[NewEvent]:
    """Return each event once, however many users it was for."""
    return list({event.event_id: event for event in reversed(events)}.values())[::-1]


def is_wanted(webhook: Mapping[str, Any], event: NewEvent) -> bool:
    """Tell whether a webhook is told of an event."""
    return not webhook["types"] or event.type in webhook["types"]


def notifications_of(call: Mapping[str, Any], events: Sequence[NewEvent], at: str) -> list[dict[str, Any]]:
    """Return the notifications that events of a call bring their users: it came in, or was missed."""
    found = []
    for event in events:
        if event.type == "call.incoming":
            verb = f"incoming_{call['call_type']}_call"
        elif event.type == "call.missed" and event.user_id in event.data.get("user_ids", ()):
            verb = f"missed_{call['call_type']}_call"
        else:
            continue
        data = {"conversation_id": call["conversation_id"], "call_id": call["id"]}
        data["from"], data["from_name"] = call["initiator"], call["initiator_name"]
        row = {"id": ids.notification_id(), "user_id": event.user_id, "verb": verb, "data": data}
        found.append({**row, "created_at": at, "read_at": None})
    return found
