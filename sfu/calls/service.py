"""The service of calls: loads a call, lets an act change it, keeps call and events, tells.

One owner: whatever changes a call goes through `_change`, which is optimistic: the store
refuses a version that is not the next, and the act is tried again on what is there now.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from sfu import clock, ids
from sfu.calls import call as acts
from sfu.calls.call import Call, Change, Participant, from_document, to_document
from sfu.calls.ports import Bus, CallStore, Document, NewEvent, StoredEvent
from sfu.calls.table import IN, PENDING, Status
from sfu.errors import BadRequest, Conflict, NotFound, TooLarge
from sfu.metrics import Metrics
from sfu.settings import Calls

log = structlog.get_logger()

# How often an act is tried again when somebody else changed the call first. Each retry
# means that somebody else got through, so this many in a row does not happen.
MAX_ATTEMPTS = 20

MAX_REASON_CHARACTERS = 200

# Idempotency keys remembered; a client repeats within seconds.
MAX_IDEMPOTENCY_KEYS = 10_000

# A timer of the loop may come a little before the wallclock.
_TIMER_SLACK = timedelta(milliseconds=50)

Act = Callable[[Call], Change]
Changed = Callable[[Call], Awaitable[None]]


class CallService:
    """Every act on calls, and the timers that ring out."""

    def __init__(
        self,
        store: CallStore,
        bus: Bus,
        settings: Calls,
        metrics: Metrics,
        name_of: Callable[[str], str],
    ) -> None:
        self._store, self._bus, self._settings, self._metrics = store, bus, settings, metrics
        # The name of a user who is not the one who asks, as far as it is known.
        self._name_of = name_of
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed: list[Changed] = []
        # (user, key) → call id.
        self._idempotency: dict[tuple[str, str], str] = {}

    def on_changed(self, changed: Changed) -> None:
        """Tell somebody of every call that changed, after it was kept."""
        self._changed.append(changed)

    async def close(self) -> None:
        """Stop the timers; nothing of the service runs afterwards."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # Reading

    async def get(self, call_id: str) -> Call:
        """Return a call.

        Raises:
            NotFound: there is none of this id.

        """
        document = await self._store.load(call_id)
        if document is None:
            raise NotFound("There is no such call.", code="call_not_found")
        return from_document(document)

    async def get_for(self, call_id: str, user_id: str) -> Call:
        """Return a call to somebody who takes part in it; to others there is none."""
        call = await self.get(call_id)
        if call.participant(user_id) is None:
            raise NotFound("There is no such call.", code="call_not_found")
        return call

    async def open_calls(self, user_id: str) -> list[Call]:
        """Return the calls that a user is in or is rung for."""
        calls = [from_document(document) for document in await self._store.open_calls(user_id)]
        return [c for c in calls if (p := c.participant(user_id)) is not None and p.state in PENDING | IN]

    async def last_seq(self, user_id: str) -> int:
        """Return the number of a user's last event."""
        return await self._store.last_seq(user_id)

    async def events_after(self, user_id: str, seq: int) -> list[StoredEvent] | None:
        """Return a user's later events in order; None if some are gone."""
        return await self._store.events_after(user_id, seq)

    # Acts

    async def initiate(
        self,
        user_id: str,
        name: str,
        *,
        callee_ids: list[str],
        call_type: str,
        conversation_id: str | None = None,
        ring_timeout_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Call:
        """Place a call; everybody else rings."""
        key = (user_id, idempotency_key) if idempotency_key else None
        if key is not None and key in self._idempotency:
            return await self.get(self._idempotency[key])
        callees = [u for u in dict.fromkeys(callee_ids) if u != user_id]
        if not callees:
            raise BadRequest("A call needs somebody else to be called.", code="no_callees")
        if len(callees) + 1 > self._settings.max_participants:
            raise TooLarge(f"A call has at most {self._settings.max_participants} participants.")
        at = clock.wallclock()
        people = [Participant(user_id, name), *(self._invited(u, at) for u in callees)]
        call = Call(
            id=ids.call_id(),
            call_type=call_type,
            status=Status.RINGING,
            initiator=user_id,
            participants=tuple(people),
            created_at=at,
            conversation_id=conversation_id,
            ring_timeout_s=ring_timeout_s or self._settings.ring_timeout_s,
            metadata=metadata or {},
        )
        if key is not None:
            self._idempotency[key] = call.id
            while len(self._idempotency) > MAX_IDEMPOTENCY_KEYS:
                del self._idempotency[next(iter(self._idempotency))]
        try:
            return await self._keep(acts.initiate(call, await self._busy(callees)))
        except BaseException:
            if key is not None:
                self._idempotency.pop(key, None)
            raise

    def _invited(self, user_id: str, at: datetime) -> Participant:
        return Participant(user_id, self._name_of(user_id), invited_at=at)

    async def ring(self, call_id: str, user_id: str, device: str) -> Call:
        return await self._change(call_id, lambda call: acts.ring(call, user_id, device))

    async def answer(self, call_id: str, user_id: str, device: str) -> Call:
        at = clock.wallclock()
        call = await self._change(call_id, lambda call: acts.answer(call, user_id, device, at))
        if call.answered_at == at:
            self._metrics.ring_s.observe((at - call.created_at).total_seconds())
        return call

    async def reject(self, call_id: str, user_id: str, reason: str = "") -> Call:
        short = reason[:MAX_REASON_CHARACTERS]
        return await self._change(call_id, lambda call: acts.reject(call, user_id, short, clock.wallclock()))

    async def cancel(self, call_id: str, user_id: str) -> Call:
        return await self._change(call_id, lambda call: acts.cancel(call, user_id, clock.wallclock()))

    async def end(self, call_id: str, user_id: str) -> Call:
        return await self._change(call_id, lambda call: acts.end(call, user_id, clock.wallclock()))

    async def leave(self, call_id: str, user_id: str) -> Call:
        return await self._change(call_id, lambda call: acts.leave(call, user_id, clock.wallclock()))

    async def join(self, call_id: str, user_id: str) -> Call:
        """Take note that a participant's media is connected."""
        return await self._change(call_id, lambda call: acts.join(call, user_id, clock.wallclock()))

    async def invite(self, call_id: str, user_id: str, user_ids: list[str]) -> Call:
        at = clock.wallclock()
        invited = [self._invited(u, at) for u in dict.fromkeys(user_ids)]
        busy = await self._busy([p.user_id for p in invited], but=call_id)

        def act(call: Call) -> Change:
            change = acts.invite(call, user_id, invited, busy)
            if len(change.call.participants) > self._settings.max_participants:
                raise TooLarge(f"A call has at most {self._settings.max_participants} participants.")
            return change

        return await self._change(call_id, act)

    async def update(self, call_id: str, user_id: str, call_type: str) -> Call:
        return await self._change(call_id, lambda call: acts.update(call, user_id, call_type))

    async def _busy(self, user_ids: list[str], but: str | None = None) -> frozenset[str]:
        """Return who is in an active call, or is calling somebody himself."""
        busy = set()
        for user_id in user_ids:
            for document in await self._store.open_calls(user_id):
                call = from_document(document)
                participant = call.participant(user_id)
                if call.id != but and participant is not None and participant.state in IN:
                    busy.add(user_id)
        return frozenset(busy)

    # The one way in which a call changes

    async def _change(self, call_id: str, act: Act) -> Call:
        for _ in range(MAX_ATTEMPTS):
            before = await self.get(call_id)
            change = act(before)
            if change.call == before and not change.events:
                return before
            with contextlib.suppress(Conflict):
                return await self._keep(change)
        raise Conflict("The call is being changed by too many at once.")

    async def _keep(self, change: Change) -> Call:
        call = replace(change.call, version=change.call.version + 1)
        document = to_document(call)
        stored = await self._store.commit(document, _per_user(change, document))
        self._arm(call, clock.wallclock())
        if call.status is Status.ENDED:
            self._metrics.calls.labels(call.end_reason).inc()
            log.info("call_ended", call_id=call.id, end_reason=call.end_reason, duration_s=call.duration_s)
        for event in stored:
            await self._bus.publish(event)
        for changed in self._changed:
            await changed(call)
        return call

    # Ring timeout

    def _arm(self, call: Call, at: datetime) -> None:
        """Set the one timer of a call to when the first of those who ring has rung out."""
        timer = self._timers.pop(call.id, None)
        if timer is not None:
            timer.cancel()
        deadlines = _deadlines(call)
        if deadlines and call.status is not Status.ENDED:
            delay = (min(deadlines.values()) - at).total_seconds()
            loop = asyncio.get_running_loop()
            self._timers[call.id] = loop.call_later(max(0.0, delay), self._ring_out, call.id)

    def _ring_out(self, call_id: str) -> None:
        self._timers.pop(call_id, None)
        task = asyncio.create_task(self._expire(call_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self, call_id: str) -> None:
        def act(call: Call) -> Change:
            at = clock.wallclock()
            over = [
                user_id for user_id, deadline in _deadlines(call).items() if deadline <= at + _TIMER_SLACK
            ]
            return acts.expire(call, at, over)

        try:
            call = await self._change(call_id, act)
        except Conflict:
            log.warning("ring_timeout_delayed", call_id=call_id)
            self._timers[call_id] = asyncio.get_running_loop().call_later(1, self._ring_out, call_id)
        except Exception:
            log.exception("ring_timeout_failed", call_id=call_id)
        else:
            if call.id not in self._timers:
                self._arm(call, clock.wallclock())


def _deadlines(call: Call) -> dict[str, datetime]:
    """Return when each of those who ring has rung out."""
    timeout = timedelta(seconds=call.ring_timeout_s)
    return {
        p.user_id: (p.invited_at or call.created_at) + timeout
        for p in call.participants
        if p.state in PENDING
    }


def _per_user(change: Change, document: Document) -> list[NewEvent]:
    """Return one event for each user that is told, with the whole call in it."""
    found = []
    for event in change.events:
        event_id = ids.event_id()
        for user_id in event.to:
            data = {"call": document, "event_id": event_id, **event.data}
            found.append(NewEvent(user_id, event_id, event.type, data, event.not_for))
    return found
