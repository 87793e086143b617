"""Calls and events in this process's memory: they are gone with it.

Documents are copied on their way in and out, as a database would.
"""

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from sfu.errors import Conflict

# Events kept for a user who is away; a client that missed more gets a snapshot.
MAX_EVENTS_PER_USER = 500

# Ended calls kept to be looked at.
MAX_ENDED_CALLS = 10_000


class _NewEvent(Protocol):
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


class _StoredEvent(_NewEvent, Protocol):
    @property
    def seq(self) -> int: ...


class _MakeStored(Protocol):
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


StoredT = TypeVar("StoredT", bound=_StoredEvent)


class MemoryStore(Generic[StoredT]):
    """The whole store; `stored` makes an event that has its number."""

    def __init__(self, stored: _MakeStored) -> None:
        self._stored = stored
        self._calls: dict[str, Mapping[str, Any]] = {}
        self._ended: deque[str] = deque()
        # User → ids of his calls that have not ended.
        self._open: dict[str, dict[str, None]] = {}
        self._events: dict[str, deque[StoredT]] = {}
        self._last_seq: dict[str, int] = {}

    async def load(self, call_id: str) -> Mapping[str, Any] | None:
        return copy.deepcopy(self._calls.get(call_id))

    async def commit(self, call: Mapping[str, Any], events: Sequence[_NewEvent]) -> list[StoredT]:
        kept = self._calls.get(call["id"])
        if call["version"] != (kept["version"] + 1 if kept is not None else 1):
            raise Conflict("The call was changed at the same time.")
        self._calls[call["id"]] = copy.deepcopy(call)
        ended = call["status"] == "ended"
        for participant in call["participants"]:
            calls = self._open.setdefault(participant["user_id"], {})
            if ended:
                calls.pop(call["id"], None)
                if not calls:
                    del self._open[participant["user_id"]]
            else:
                calls[call["id"]] = None
        if ended:
            self._ended.append(call["id"])
            while len(self._ended) > MAX_ENDED_CALLS:
                self._calls.pop(self._ended.popleft(), None)
        return [self._append(event) for event in events]

    def _append(self, event: _NewEvent) -> StoredT:
        seq = self._last_seq.get(event.user_id, 0) + 1
        self._last_seq[event.user_id] = seq
        stored: StoredT = self._stored(
            user_id=event.user_id,
            seq=seq,
            event_id=event.event_id,
            type=event.type,
            data=copy.deepcopy(event.data),
            not_for=event.not_for,
        )
        self._events.setdefault(event.user_id, deque(maxlen=MAX_EVENTS_PER_USER)).append(stored)
        return stored

    async def open_calls(self, user_id: str) -> list[Mapping[str, Any]]:
        return [copy.deepcopy(self._calls[call_id]) for call_id in self._open.get(user_id, ())]

    async def events_after(self, user_id: str, seq: int) -> list[StoredT] | None:
        last = self._last_seq.get(user_id, 0)
        if seq > last:
            return None
        events = [event for event in self._events.get(user_id, ()) if event.seq > seq]
        return events if len(events) == last - seq else None

    async def last_seq(self, user_id: str) -> int:
        return self._last_seq.get(user_id, 0)
