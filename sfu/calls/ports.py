"""What the service of calls needs of a store, of a bus and of time."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sfu import jsontext
from sfu.store.records import Claim

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A durable event of one user: `seq` grows by one per user, without a hole."""

    user_id: str
    seq: int
    event_id: str
    type: str
    data: Document
    not_for: str | None = None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that has no number yet."""

    user_id: str
    event_id: str
    type: str
    data: Document
    not_for: str | None = None


class CallStore(Protocol):
    """Where calls and events are kept; every method is one transaction.

    Every method raises Unavailable while the database does not answer.
    """

    async def load(self, call_id: str) -> Document | None:
        """Return a call, or None."""

    async def commit(
        self,
        call: Document,
        events: Sequence[NewEvent],
        *,
        at: str = "",
        due_at: float | None = None,
        claim: Claim | None = None,
        free: Sequence[str] = (),
    ) -> list[StoredEvent]:
        """Keep a call and its events together; `version` must be one above the kept one.

        `at` is when it happened, for the timeline; `due_at` (seconds since 1970) when the next ring times
        out; `claim` the key under which the request may be repeated; `free` who must be in no call that has
        not ended.

        Raises:
            Claimed: another request was made under this key; nothing was kept.
            Engaged: somebody who must be free is not; nothing was kept.
            Conflict: the version is not the next one; nothing was kept.

        """

    async def claimed(self, user_id: str, key: str) -> str | None:
        """Return the id of the call that a request made, if it was made before."""

    async def open_calls(self, user_id: str) -> list[Document]:
        """Return the calls of a user that have not ended, oldest first."""

    async def unfinished(self) -> list[Document]:
        """Return all calls that have not ended, oldest first."""

    async def due(self, before: float) -> list[str]:
        """Return the ids of the calls in which a ring timed out before a moment."""

    async def history(
        self,
        user_id: str,
        *,
        status: str | None = None,
        since: str | None = None,
        before: tuple[str, str] | None = None,
        limit: int = 50,
    ) -> list[Document]:
        """Return a user's calls, the newest first; `before` is the (created_at, id) of the last one seen."""

    async def timeline(self, call_id: str) -> list[Document]:
        """Return what happened to a call, in order: type, event_id, at, data."""

    async def events_after(self, user_id: str, seq: int) -> list[StoredEvent] | None:
        """Return a user's events after a number in order; None if some are gone."""

    async def last_seq(self, user_id: str) -> int:
        """Return the number of a user's last event; 0 if there is none."""

    async def conversation(self, conversation_id: str) -> Document | None:
        """Return a conversation with its `participants`, or None."""

    async def put_conversation(self, conversation_id: str, document: Document) -> bool:
        """Keep a conversation; tell whether it is new."""

    async def delete_conversation(self, conversation_id: str) -> bool:
        """Forget a conversation; tell whether there was one. Its calls stay."""


class Bus(Protocol):
    """How events reach whoever has a user's sockets."""

    async def publish(self, event: StoredEvent) -> None:
        """Tell every subscriber of an event that is kept."""

    def subscribe(self, receive: Callable[[StoredEvent], Awaitable[None]]) -> None:
        """Tell `receive` of every event from now on."""


def encode_event(event: StoredEvent) -> bytes:
    """Return an event as bytes, for a bus between processes."""
    fields = (event.user_id, event.seq, event.event_id, event.type, event.data, event.not_for)
    return jsontext.write(fields).encode()


def decode_event(data: bytes) -> StoredEvent:
    """Return the event in bytes of `encode_event`."""
    return StoredEvent(*json.loads(data))
