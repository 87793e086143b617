"""The service of calls: loads a call, lets an act change it, keeps call and events, tells.

One owner: whatever changes a call goes through `_change`, which is optimistic: the store
refuses a version that is not the next, and the act is tried again on what is there now.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from sfu import clock, ids
from sfu.calls import call as acts, deadlines, recorded
from sfu.calls.call import Call, Change, Participant, from_document, to_document
from sfu.calls.ports import Bus, CallStore, Document, NewEvent, StoredEvent
from sfu.calls.table import IN, PENDING, Status
from sfu.errors import BadRequest, Conflict, NotAllowed, NotFound, SfuError, TooLarge
from sfu.metrics import Metrics
from sfu.settings import Calls
from sfu.store.records import Claim, Claimed, Engaged
from sfu.tasks import Tasks, Turns

log = structlog.get_logger()

# How often an act is tried again when somebody else changed the call first. Each retry
# means that somebody else got through, so this many in a row does not happen.
MAX_ATTEMPTS = 20

MAX_REASON_CHARACTERS = 200

# A ring of which nobody took note is ended by whoever sees it: its process may be gone.
OVERDUE_S = 2.0

# Calls remembered as they were told last: nobody is told of an older one after a newer, and an act is
# tried on what is known before the store is asked.
MAX_KNOWN = 5_000

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
        self._tasks = Tasks("call_work_failed")
        self._changed: list[Changed] = []
        # By id, as they were kept or told last; and the versions that were told.
        self._known: dict[str, Call] = {}
        self._told: dict[str, int] = {}
        # Acts of this process on one call wait for each other, instead of being refused by the store.
        self._turns = Turns()
        # What must be so before a call rings, or is answered; it raises what is told to who asks.
        # The first is told the conversation and the type of the call, the other its id.
        self.may_ring: Callable[[str | None, str], Awaitable[None]] | None = None
        self.may_answer: Callable[[str], Awaitable[None]] | None = None

    def on_changed(self, changed: Changed) -> None:
        """Tell somebody of every call that changed, after it was kept."""
        self._changed.append(changed)

    async def start(self) -> None:
        """Take up the calls that a former process left: their timers.

        Raises:
            Unavailable: the store does not answer.

        """
        for call in await self.unfinished():
            self._arm(call, clock.wallclock())

    async def close(self) -> None:
        """Stop the timers; nothing of the service runs afterwards."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._tasks.cancel()

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

    async def history(
        self,
        user_id: str,
        *,
        status: str | None = None,
        since: str | None = None,
        before: tuple[str, str] | None = None,
        limit: int = 50,
    ) -> list[Call]:
        """Return a user's calls, the newest first; `before` is the (created_at, id) of the last one seen."""
        found = await self._store.history(user_id, status=status, since=since, before=before, limit=limit)
        return [from_document(document) for document in found]

    async def timeline(self, call_id: str, user_id: str) -> list[Document]:
        """Return what happened to a call, in order, to somebody who takes part in it."""
        await self.get_for(call_id, user_id)
        return await self._store.timeline(call_id)

    async def last_seq(self, user_id: str) -> int:
        """Return the number of a user's last event."""
        return await self._store.last_seq(user_id)

    async def events_after(self, user_id: str, seq: int) -> list[StoredEvent] | None:
        """Return a user's later events in order; None if some are gone."""
        return await self._store.events_after(user_id, seq)

    # Acts

    async def initiate(  # noqa: PLR0913 - one argument a field of the request
        self,
        user_id: str,
        name: str,
        *,
        device: str = "",
        callee_ids: list[str],
        call_type: str,
        conversation_id: str | None = None,
        ring_timeout_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Call:
        """Place a call; everybody else rings. `device` is the session that places it, if it is one."""
        if self.may_ring is not None:
            await self.may_ring(conversation_id, call_type)
        at = clock.wallclock()
        claim = Claim(user_id, idempotency_key, at.timestamp()) if idempotency_key else None
        if claim is not None and (made := await self._store.claimed(user_id, claim.key)) is not None:
            return await self.get(made)
        if conversation_id is not None:
            callee_ids = await self._callees(conversation_id, user_id, callee_ids)
        callees = [u for u in dict.fromkeys(callee_ids) if u != user_id]
        if not callees:
            raise BadRequest("A call needs somebody else to be called.", code="no_callees")
        if len(callees) + 1 > self._settings.max_participants:
            raise TooLarge(f"A call has at most {self._settings.max_participants} participants.")
        people = [
            Participant(user_id, name, devices=(device,) if device else ()),
            *(self._invited(u, at) for u in callees),
        ]
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
        try:
            return await self._place(call, callees, claim)
        except Claimed as error:  # the same request, at the same time
            return await self.get(error.call_id)

    async def _place(self, call: Call, callees: list[str], claim: Claim | None) -> Call:
        """Keep a new call: most callees are in no other, which is seen in the transaction that keeps it."""
        try:
            return await self._keep(acts.initiate(call, frozenset()), claim, free=callees)
        except Engaged:
            return await self._keep(acts.initiate(call, await self._busy(callees)), claim)

    async def _callees(self, conversation_id: str, user_id: str, wanted: list[str]) -> list[str]:
        """Return whom a call in a conversation rings: those named, else everybody in it."""
        conversation = await self._store.conversation(conversation_id)
        participants = list(conversation["participants"]) if conversation is not None else []
        if user_id not in participants:
            raise NotFound("There is no such conversation.", code="conversation_not_found")
        strangers = sorted(set(wanted) - set(participants))
        if strangers:
            raise NotAllowed(
                f"Not in this conversation: {', '.join(strangers[:5])}.", code="not_in_conversation"
            )
        return wanted or participants

    def _invited(self, user_id: str, at: datetime) -> Participant:
        return Participant(user_id, self._name_of(user_id), invited_at=at)

    async def ring(self, call_id: str, user_id: str, device: str) -> Call:
        return await self._change(call_id, user_id, lambda call: acts.ring(call, user_id, device))

    async def answer(self, call_id: str, user_id: str, device: str) -> Call:
        if self.may_answer is not None:
            await self.may_answer(call_id)
        at = clock.wallclock()
        call = await self._change(call_id, user_id, lambda call: acts.answer(call, user_id, device, at))
        if call.answered_at == at:
            self._metrics.ring_s.observe((at - call.created_at).total_seconds())
        return call

    async def reject(self, call_id: str, user_id: str, reason: str = "") -> Call:
        short = reason[:MAX_REASON_CHARACTERS]
        return await self._change(
            call_id, user_id, lambda call: acts.reject(call, user_id, short, clock.wallclock())
        )

    async def cancel(self, call_id: str, user_id: str) -> Call:
        return await self._change(
            call_id, user_id, lambda call: acts.cancel(call, user_id, clock.wallclock())
        )

    async def end(self, call_id: str, user_id: str) -> Call:
        return await self._change(call_id, user_id, lambda call: acts.end(call, user_id, clock.wallclock()))

    async def leave(self, call_id: str, user_id: str) -> Call:
        return await self._change(call_id, user_id, lambda call: acts.leave(call, user_id, clock.wallclock()))

    async def join(self, call_id: str, user_id: str) -> Call:
        """Take note that a participant's media is connected."""
        return await self._change(call_id, user_id, lambda call: acts.join(call, user_id, clock.wallclock()))

    async def invite(self, call_id: str, user_id: str, user_ids: list[str]) -> Call:
        at = clock.wallclock()
        invited = [self._invited(u, at) for u in dict.fromkeys(user_ids)]
        busy = await self._busy([p.user_id for p in invited], but=call_id)

        def act(call: Call) -> Change:
            change = acts.invite(call, user_id, invited, busy)
            if len(change.call.participants) > self._settings.max_participants:
                raise TooLarge(f"A call has at most {self._settings.max_participants} participants.")
            return change

        return await self._change(call_id, user_id, act)

    async def remove(self, call_id: str, by: str, user_id: str) -> Call:
        return await self._change(call_id, by, lambda call: acts.remove(call, by, user_id, clock.wallclock()))

    async def move(self, call_id: str, user_id: str, device: str) -> Call:
        """A device takes over a participant's place in a running call."""
        return await self._change(call_id, user_id, lambda call: acts.move(call, user_id, device))

    async def update(self, call_id: str, user_id: str, call_type: str) -> Call:
        return await self._change(call_id, user_id, lambda call: acts.update(call, user_id, call_type))

    async def consent(self, call_id: str, user_id: str, *, accepts: bool) -> Call:
        """Take note whether a participant may be recorded."""
        return await self._change(
            call_id, user_id, lambda call: recorded.consent(call, user_id, accepts=accepts)
        )

    async def change(self, call_id: str, act: Act) -> Call:
        """Let an act change a call that nobody who takes part in it asked for."""
        return await self._change(call_id, None, act)

    async def fail(self, call_id: str, reason: str) -> Call:
        """End a call because the server cannot keep what it must."""
        return await self._change(call_id, None, lambda call: acts.fail(call, reason, clock.wallclock()))

    # Conversations

    async def put_conversation(self, conversation_id: str, document: Document) -> bool:
        """Keep who belongs to a conversation; tell whether it is new."""
        return await self._store.put_conversation(conversation_id, document)

    async def conversation(self, conversation_id: str) -> Document:
        """Return a conversation.

        Raises:
            NotFound: there is none of this id.

        """
        found = await self._store.conversation(conversation_id)
        if found is None:
            raise NotFound("There is no such conversation.", code="conversation_not_found")
        return found

    async def delete_conversation(self, conversation_id: str) -> None:
        """Forget a conversation; its calls stay.

        Raises:
            NotFound: there is none of this id.

        """
        if not await self._store.delete_conversation(conversation_id):
            raise NotFound("There is no such conversation.", code="conversation_not_found")

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

    async def _change(self, call_id: str, user_id: str | None, act: Act) -> Call:
        """Let somebody who takes part in a call, or nobody, change it."""
        async with self._turns.of(call_id):
            call, stored = await self._try(call_id, user_id, act)
        if stored is not None:
            await self._tell(call, stored)
        return call

    async def _try(
        self, call_id: str, user_id: str | None, act: Act
    ) -> tuple[Call, Sequence[StoredEvent] | None]:
        """Return a call after an act, with what is to be told of it; None: the act changes nothing."""
        if (likely := self._foresee(call_id, user_id, act)) is not None:
            with contextlib.suppress(Conflict):
                return await self._commit(likely)
        for _ in range(MAX_ATTEMPTS):
            before = await (self.get(call_id) if user_id is None else self.get_for(call_id, user_id))
            change = act(before)
            if change.call == before and not change.events:
                return before, None
            with contextlib.suppress(Conflict):
                return await self._commit(change)
        raise Conflict("The call is being changed by too many at once.")

    def _foresee(self, call_id: str, user_id: str | None, act: Act) -> Change | None:
        """Return what an act makes of a call as it is known here, or None.

        What is known may be old: then the store refuses what comes of it, and a refusal here proves nothing.
        """
        known = self._known.get(call_id)
        if known is None or (user_id is not None and known.participant(user_id) is None):
            return None
        try:
            change = act(known)
        except SfuError:
            return None
        return change if change.events or change.call != known else None

    async def _keep(self, change: Change, claim: Claim | None, free: Sequence[str] = ()) -> Call:
        call, stored = await self._commit(change, claim, free)
        await self._tell(call, stored)
        return call

    async def _commit(
        self, change: Change, claim: Claim | None = None, free: Sequence[str] = ()
    ) -> tuple[Call, Sequence[StoredEvent]]:
        call = replace(change.call, version=change.call.version + 1)
        document = to_document(call)
        at = clock.wallclock()
        stored = await self._store.commit(
            document,
            _per_user(change, document),
            at=clock.timestamp(at),
            due_at=deadlines.next_due(call),
            claim=claim,
            free=free,
        )
        self._note(call)
        self._arm(call, at)
        return call, stored

    async def _tell(self, call: Call, stored: Sequence[StoredEvent]) -> None:
        if call.status is Status.ENDED:
            self._metrics.calls.labels(call.end_reason).inc()
            log.info("call_ended", call_id=call.id, end_reason=call.end_reason, duration_s=call.duration_s)
        for event in stored:
            await self._bus.publish(event)
        await self.tell_changed(call)

    def _note(self, call: Call) -> None:
        """Remember a call, unless a later change of it is known."""
        known = self._known.pop(call.id, None)
        self._known[call.id] = call if known is None or known.version < call.version else known
        while len(self._known) > MAX_KNOWN:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._told.pop(oldest, None)

    async def changed_elsewhere(self, event: StoredEvent) -> None:
        """Take note of an event of another process: a call may have changed by it."""
        document = event.data.get("call")
        # Of one change everybody in the call is told: the first says it all.
        if document is not None and self._told.get(document["id"], 0) < document["version"]:
            await self.tell_changed(from_document(document))

    async def tell_changed(self, call: Call) -> None:
        """Tell who wants to know of changed calls, unless they know of a later change."""
        self._note(call)
        if self._told.get(call.id, 0) >= call.version:
            return
        self._told[call.id] = call.version
        for changed in self._changed:
            await changed(call)

    # Ring timeout

    def _arm(self, call: Call, at: datetime) -> None:
        """Set the one timer of a call to when the first of those who ring has rung out."""
        timer = self._timers.pop(call.id, None)
        if timer is not None:
            timer.cancel()
        due = deadlines.next_due(call)
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timers[call.id] = loop.call_later(max(0.0, due - at.timestamp()), self._ring_out, call.id)

    def _ring_out(self, call_id: str) -> None:
        self._timers.pop(call_id, None)
        self._tasks.spawn(self._expire(call_id))

    async def _expire(self, call_id: str) -> None:
        def act(call: Call) -> Change:
            at = clock.wallclock()
            return acts.expire(call, at, deadlines.rung_out(call, at))

        try:
            call = await self._change(call_id, None, act)
        except Conflict:
            log.warning("ring_timeout_delayed", call_id=call_id)
            self._timers[call_id] = asyncio.get_running_loop().call_later(1, self._ring_out, call_id)
        except Exception:
            log.exception("ring_timeout_failed", call_id=call_id)
        else:
            if call.id not in self._timers:
                self._arm(call, clock.wallclock())

    async def end_overdue(self) -> None:
        """End the rings that timed out and of which nobody took note: their process may be gone."""
        for call_id in await self._store.due(clock.unix_seconds() - OVERDUE_S):
            await self._expire(call_id)

    async def unfinished(self) -> list[Call]:
        """Return every call that has not ended, oldest first."""
        return [from_document(document) for document in await self._store.unfinished()]

    async def lose(self, call_id: str, is_lost: Callable[[Call, str], bool]) -> Call:
        """Let those leave a running call who are gone, and nobody knows where."""

        def act(call: Call) -> Change:
            lost = [user_id for user_id in call.users_in(IN) if is_lost(call, user_id)]
            return acts.lose(call, lost, clock.wallclock())

        return await self._change(call_id, None, act)


def _per_user(change: Change, document: Document) -> list[NewEvent]:
    """Return one event for each user that is told, with the whole call in it."""
    found = []
    for event in change.events:
        event_id = ids.event_id()
        for user_id in event.to:
            data = {"call": document, "event_id": event_id, **event.data}
            found.append(NewEvent(user_id, event_id, event.type, data, event.not_for))
    return found
