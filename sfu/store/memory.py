"""Calls and events in this process's memory: they are gone with it.

For `--dev`, demonstrations and tests. Documents are copied on their way in and out, as a database would.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from sfu import clock, jsontext
from sfu.errors import Conflict
from sfu.store.memory_outbox import MemoryOutbox
from sfu.store.recordings import MemoryRecordings
from sfu.store.records import (
    MAX_EVENTS_PER_USER,
    Claim,
    Claimed,
    Engaged,
    MakeStored,
    NewEvent,
    StoredEvent,
    timeline,
)

# Ended calls kept to be looked at, and claims of requests that clients may repeat.
MAX_ENDED_CALLS, MAX_CLAIMS = 10_000, 10_000

StoredT = TypeVar("StoredT", bound=StoredEvent)


class MemoryStore(Generic[StoredT]):
    """The whole store; `stored` makes an event that has its number."""

    def __init__(self, stored: MakeStored) -> None:
        self._stored = stored
        self._calls: dict[str, Mapping[str, Any]] = {}
        self._due: dict[str, float] = {}
        self._ended: deque[str] = deque()
        # User → ids of his calls, and of those that have not ended.
        self._of: dict[str, dict[str, None]] = {}
        self._open: dict[str, dict[str, None]] = {}
        self._timelines: dict[str, list[Mapping[str, Any]]] = {}
        self._claims: dict[tuple[str, str], str] = {}
        self._events: dict[str, deque[StoredT]] = {}
        self._last_seq: dict[str, int] = {}
        self._conversations: dict[str, Mapping[str, Any]] = {}
        self.outbox = MemoryOutbox()
        self.recordings = MemoryRecordings(lambda user_id: self._of.get(user_id, ()))

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """There is nothing to disconnect from."""

    # Calls

    async def load(self, call_id: str) -> Mapping[str, Any] | None:
        return jsontext.copied(self._calls.get(call_id))

    async def commit(
        self,
        call: Mapping[str, Any],
        events: Sequence[NewEvent],
        *,
        at: str = "",
        due_at: float | None = None,
        claim: Claim | None = None,
        free: Sequence[str] = (),
    ) -> list[StoredT]:
        """Keep a call and its events together; see `sfu.calls.ports.CallStore`."""
        kept = self._calls.get(call["id"])
        if claim is not None and (made := self._claims.get((claim.user_id, claim.key))) is not None:
            raise Claimed(made)
        if any(user_id in self._open for user_id in free):
            raise Engaged
        if claim is not None:
            self._claims[claim.user_id, claim.key] = call["id"]
            while len(self._claims) > MAX_CLAIMS:
                del self._claims[next(iter(self._claims))]
        if call["version"] != (kept["version"] + 1 if kept is not None else 1):
            raise Conflict("The call was changed at the same time.")
        self._keep(jsontext.copied(call), due_at)
        self._timelines.setdefault(call["id"], []).extend(timeline(call, events, at))
        self.outbox.keep(call, events, at, clock.unix_seconds())
        return [self._append(event) for event in events]

    def _keep(self, call: Mapping[str, Any], due_at: float | None) -> None:
        call_id, ended = call["id"], call["status"] == "ended"
        self._calls[call_id] = call
        self._due.pop(call_id, None)
        if due_at is not None:
            self._due[call_id] = due_at
        for participant in call["participants"]:
            user_id = participant["user_id"]
            self._of.setdefault(user_id, {})[call_id] = None
            if not ended:
                self._open.setdefault(user_id, {})[call_id] = None
            elif call_id in self._open.get(user_id, {}):
                del self._open[user_id][call_id]
                if not self._open[user_id]:
                    del self._open[user_id]
        if ended:
            self._ended.append(call_id)
            while len(self._ended) > MAX_ENDED_CALLS:
                self._forget(self._ended.popleft())

    def _forget(self, call_id: str) -> None:
        call = self._calls.pop(call_id, None)
        self._timelines.pop(call_id, None)
        for participant in call["participants"] if call is not None else ():
            calls = self._of.get(participant["user_id"], {})
            calls.pop(call_id, None)
            if not calls:
                self._of.pop(participant["user_id"], None)

    def _append(self, event: NewEvent) -> StoredT:
        seq = self._last_seq.get(event.user_id, 0) + 1
        self._last_seq[event.user_id] = seq
        stored: StoredT = self._stored(
            user_id=event.user_id,
            seq=seq,
            event_id=event.event_id,
            type=event.type,
            data=jsontext.copied(event.data),
            not_for=event.not_for,
        )
        self._events.setdefault(event.user_id, deque(maxlen=MAX_EVENTS_PER_USER)).append(stored)
        return stored

    async def claimed(self, user_id: str, key: str) -> str | None:
        return self._claims.get((user_id, key))

    async def open_calls(self, user_id: str) -> list[Mapping[str, Any]]:
        return [jsontext.copied(self._calls[call_id]) for call_id in self._open.get(user_id, ())]

    async def unfinished(self) -> list[Mapping[str, Any]]:
        return [jsontext.copied(call) for call in self._calls.values() if call["status"] != "ended"]

    async def due(self, before: float) -> list[str]:
        return sorted((i for i, at in self._due.items() if at <= before), key=self._due.__getitem__)

    async def history(
        self,
        user_id: str,
        *,
        status: str | None = None,
        since: str | None = None,
        before: tuple[str, str] | None = None,
        limit: int = 50,
    ) -> list[Mapping[str, Any]]:
        calls = [self._calls[call_id] for call_id in self._of.get(user_id, ())]
        found = [
            call
            for call in calls
            if (status is None or call["status"] == status)
            and (since is None or call["created_at"] >= since)
            and (before is None or (call["created_at"], call["id"]) < before)
        ]
        found.sort(key=lambda call: (call["created_at"], call["id"]), reverse=True)
        return jsontext.copied(found[:limit])

    async def timeline(self, call_id: str) -> list[Mapping[str, Any]]:
        keys = ("type", "event_id", "at", "data")
        return [{key: row[key] for key in keys} for row in jsontext.copied(self._timelines.get(call_id, []))]

    # Events

    async def events_after(self, user_id: str, seq: int) -> list[StoredT] | None:
        last = self._last_seq.get(user_id, 0)
        if seq > last:
            return None
        events = [event for event in self._events.get(user_id, ()) if event.seq > seq]
        return events if len(events) == last - seq else None

    async def last_seq(self, user_id: str) -> int:
        return self._last_seq.get(user_id, 0)

    # Conversations

    async def put_conversation(self, conversation_id: str, document: Mapping[str, Any]) -> bool:
        is_new = conversation_id not in self._conversations
        self._conversations[conversation_id] = jsontext.copied(document)
        return is_new

    async def conversation(self, conversation_id: str) -> Mapping[str, Any] | None:
        return jsontext.copied(self._conversations.get(conversation_id))

    async def delete_conversation(self, conversation_id: str) -> bool:
        return self._conversations.pop(conversation_id, None) is not None

    # Processes

    async def beat(self, process_id: str, at: float, dead_before: float) -> list[str]:
        return [process_id]

    async def forget_process(self, process_id: str) -> None:
        """No other process sees this store."""

    async def is_there(self) -> bool:
        return True
