"""What the service of calls needs of a store, of a bus and of time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
    """Where calls and events are kept; every method is one transaction."""

    async def load(self, call_id: str) -> Document | None:
        """Return a call, or None."""

    async def commit(self, call: Document, events: Sequence[NewEvent]) -> list[StoredEvent]:
        """Keep a call and its events together; `version` must be one above the kept one.

        Raises:
            Conflict: it is not; nothing was kept.

        """

    async def open_calls(self, user_id: str) -> list[Document]:
        """Return the calls of a user that have not ended, oldest first."""

    async def events_after(self, user_id: str, seq: int) -> list[StoredEvent] | None:
        """Return a user's events after a number in order; None if some are gone."""

    async def last_seq(self, user_id: str) -> int:
        """Return the number of a user's last event; 0 if there is none."""


class Bus(Protocol):
    """How events reach whoever has a user's sockets."""

    async def publish(self, event: StoredEvent) -> None:
        """Tell every subscriber of an event that is kept."""

    def subscribe(self, receive: Callable[[StoredEvent], Awaitable[None]]) -> None:
        """Tell `receive` of every event from now on."""
