"""A call as a value, and every act on it as a function: call and act in, call and events out.

No clock, no store, no socket. The tables of `sfu/calls/table.py` decide what may happen.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from sfu.calls.table import CALL, IN, PARTICIPANT, PENDING, Act, CallAct, State, Status
from sfu.errors import BadRequest, InvalidState, NotAllowed, NotFound

# The device that a request without a socket (REST) comes from.
NO_DEVICE = ""


@dataclass(frozen=True, slots=True)
class Participant:
    """One user in a call."""

    user_id: str
    name: str
    state: State = State.INVITED
    # Sessions in which it rings; after the answer the one that took it.
    devices: tuple[str, ...] = ()
    # When he was last asked to come: his ring timeout runs from here.
    invited_at: datetime | None = None
    joined_at: datetime | None = None
    left_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """Everything about a call; `version` grows by one with each change."""

    id: str
    call_type: str
    status: Status
    initiator: str
    participants: tuple[Participant, ...]
    created_at: datetime
    conversation_id: str | None = None
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
    ring_timeout_s: float = 45.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    # The recording that runs or ran last, see `recorded`: its id, state and consent; None: there was none.
    recording: Mapping[str, Any] | None = None
    version: int = 0

    @property
    def room_name(self) -> str:
        """The media room of the call."""
        return self.id

    @property
    def user_ids(self) -> list[str]:
        return [p.user_id for p in self.participants]

    @property
    def is_group(self) -> bool:
        return len(self.participants) > 2

    def participant(self, user_id: str) -> Participant | None:
        return next((p for p in self.participants if p.user_id == user_id), None)

    def users_in(self, states: Iterable[State]) -> list[str]:
        """Return the ids of the participants in any of these states."""
        wanted = frozenset(states)
        return [p.user_id for p in self.participants if p.state in wanted]

    @property
    def duration_s(self) -> float:
        if self.answered_at is None or self.ended_at is None:
            return 0.0
        return round((self.ended_at - self.answered_at).total_seconds(), 3)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that users must be told; `data` is what stands beside the call."""

    type: str
    to: tuple[str, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    # A device that is not told, because it did it.
    not_for: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A call after an act, and the events of it; no events: nothing changed."""

    call: Call
    events: tuple[Event, ...] = ()


def initiate(call: Call, busy: frozenset[str]) -> Change:
    """Place a call whose participants are still all invited; `busy` are in other calls."""
    participants = tuple(
        replace(p, state=State.ANSWERED)
        if p.user_id == call.initiator
        else (replace(p, state=_next(p, Act.FIND_BUSY)) if p.user_id in busy else p)
        for p in call.participants
    )
    call = replace(call, participants=participants)
    ringing = tuple(call.users_in(PENDING))
    events = []
    if ringing:
        events.append(Event("call.incoming", ringing))
    busy_here = call.users_in({State.BUSY})
    if busy_here:
        events.append(Event("call.busy", (call.initiator,), {"user_ids": busy_here}))
    if not ringing:
        return _ended(call, CallAct.REFUSE, "busy", call.created_at, events)
    return Change(call, tuple(events))


def ring(call: Call, user_id: str, device: str) -> Change:
    """A device of a participant shows the call."""
    participant = _participant(call, user_id)
    if participant.state not in PENDING or device in participant.devices:
        return Change(call)
    first = participant.state is State.INVITED
    changed = replace(
        participant, state=_next(participant, Act.RING), devices=(*participant.devices[-15:], device)
    )
    call = _with(call, changed)
    events = (Event("call.ringing", (call.initiator,), {"user_id": user_id}),) if first else ()
    return Change(call, events)


def answer(call: Call, user_id: str, device: str, at: datetime) -> Change:
    """A device of a participant takes the call; the first one wins."""
    participant = _participant(call, user_id)
    if call.status is Status.RINGING and user_id == call.initiator:
        raise InvalidState("You place this call; others answer it.")
    if participant.state in IN and (device in participant.devices or device == NO_DEVICE):
        return Change(call)
    state = _next(participant, Act.ANSWER, call)
    others = tuple(d for d in participant.devices if d != device)
    changed = replace(participant, state=state, devices=(device,) if device else ())
    call = replace(_with(call, changed), status=_next_status(call, CallAct.ANSWER))
    if call.answered_at is None:
        call = replace(call, answered_at=at)
    told = tuple(call.users_in(PENDING | IN))
    events = [Event("call.answered", told, {"by": user_id})]
    if others or device:
        events.append(Event("call.answered_elsewhere", (user_id,), {"by": user_id}, not_for=device))
    return Change(call, tuple(events))


def reject(call: Call, user_id: str, reason: str, at: datetime) -> Change:
    """A participant will not take the call."""
    participant = _participant(call, user_id)
    if participant.state is State.REJECTED:
        return Change(call)
    changed = replace(participant, state=_next(participant, Act.REJECT, call), left_at=at)
    call = _with(call, changed)
    told = tuple(dict.fromkeys([*call.users_in(PENDING | IN), user_id]))
    events = [Event("call.rejected", told, {"by": user_id, "reason": reason})]
    return _end_if_nobody_can_answer(call, "rejected", at, events)


def cancel(call: Call, user_id: str, at: datetime) -> Change:
    """The caller gives up before anybody answered."""
    _participant(call, user_id)
    if user_id != call.initiator:
        raise NotAllowed("Only the caller can cancel a call.")
    if call.status is Status.ENDED and call.end_reason == "cancelled":
        return Change(call)
    return _ended(call, CallAct.CANCEL, "cancelled", at, [Event("call.cancelled", tuple(call.user_ids))])


def expire(call: Call, at: datetime, user_ids: Collection[str] | None = None) -> Change:
    """The ring timeout is over for these, or for everybody, as far as they have not answered."""
    pending = [u for u in call.users_in(PENDING) if user_ids is None or u in user_ids]
    if not pending or call.status is Status.ENDED:
        return Change(call)
    for user_id in pending:
        participant = _participant(call, user_id)
        call = _with(call, replace(participant, state=_next(participant, Act.MISS), left_at=at))
    told = tuple(dict.fromkeys([call.initiator, *pending]))
    events = [Event("call.missed", told, {"user_ids": pending})]
    return _end_if_nobody_can_answer(call, "missed", at, events)


def join(call: Call, user_id: str, at: datetime) -> Change:
    """The media of a participant is connected, in an active call."""
    participant = _participant(call, user_id)
    if call.status is not Status.ACTIVE or participant.state is not State.ANSWERED:
        return Change(call)
    changed = replace(participant, state=_next(participant, Act.JOIN), joined_at=participant.joined_at or at)
    call = _with(call, changed)
    told = tuple(call.users_in(PENDING | IN))
    return Change(call, (Event("call.participant_joined", told, {"user_id": user_id}),))


def leave(call: Call, user_id: str, at: datetime) -> Change:
    """A participant goes; a call of two is over then."""
    participant = _participant(call, user_id)
    if participant.state is State.LEFT:
        return Change(call)
    if call.status is Status.RINGING and user_id == call.initiator:
        return cancel(call, user_id, at)
    changed = replace(participant, state=_next(participant, Act.LEAVE, call), left_at=at)
    call = _with(call, changed)
    inside, pending = call.users_in(IN), call.users_in(PENDING)
    told = tuple(dict.fromkeys([*inside, *pending, user_id]))
    events = [Event("call.participant_left", told, {"user_id": user_id})]
    if not inside or (len(inside) == 1 and not pending and not call.is_group):
        return _ended(call, CallAct.EMPTY, "completed", at, events)
    return Change(call, tuple(events))


def move(call: Call, user_id: str, device: str) -> Change:
    """Another device of a participant takes his place over; the one that had it is told."""
    participant = _participant(call, user_id)
    if call.status is Status.ENDED or participant.state not in IN or participant.devices == (device,):
        return Change(call)
    had_one = bool(participant.devices)
    call = _with(call, replace(participant, devices=(device,)))
    events = (Event("call.answered_elsewhere", (user_id,), {"by": user_id}, not_for=device),)
    return Change(call, events if had_one else ())


def lose(call: Call, user_ids: Collection[str], at: datetime) -> Change:
    """These participants of a running call are gone, and nobody knows where."""
    lost = [u for u in call.users_in(IN) if u in user_ids]
    if call.status is not Status.ACTIVE or not lost:
        return Change(call)
    for user_id in lost:
        participant = _participant(call, user_id)
        call = _with(call, replace(participant, state=_next(participant, Act.LEAVE), left_at=at))
    inside, pending = call.users_in(IN), call.users_in(PENDING)
    told = tuple(dict.fromkeys([*inside, *pending, *lost]))
    events = [Event("call.participant_left", told, {"user_id": user_id}) for user_id in lost]
    if not inside:
        return _ended(call, CallAct.EMPTY, "expired", at, events)
    if len(inside) == 1 and not pending and not call.is_group:
        return _ended(call, CallAct.EMPTY, "completed", at, events)
    return Change(call, tuple(events))


def end(call: Call, user_id: str, at: datetime) -> Change:
    """Somebody who is in ends the call for everybody."""
    participant = _participant(call, user_id)
    if call.status is Status.ENDED:
        if call.end_reason in ("completed", "cancelled"):
            return Change(call)
        raise InvalidState(f"The call has ended ({call.end_reason}).")
    if participant.state not in IN:
        raise InvalidState(f"You are {participant.state} in this call; you cannot end it.")
    if call.status is Status.RINGING:
        return cancel(call, user_id, at)
    return _ended(call, CallAct.END, "completed", at, [])


def invite(call: Call, user_id: str, invited: Iterable[Participant], busy: frozenset[str]) -> Change:
    """Somebody who is in asks others to come."""
    inviter = _participant(call, user_id)
    if call.status is Status.ENDED or inviter.state not in IN:
        raise InvalidState("Only who is in a call that has not ended can invite.")
    new: list[str] = []
    for candidate in invited:
        known = call.participant(candidate.user_id)
        if known is None:
            call = replace(call, participants=(*call.participants, candidate))
        elif known.state in PENDING | IN:
            continue
        else:
            call = _with(call, replace(candidate, state=_next(known, Act.INVITE), name=known.name))
        new.append(candidate.user_id)
        if candidate.user_id in busy:
            current = _participant(call, candidate.user_id)
            call = _with(call, replace(current, state=_next(current, Act.FIND_BUSY)))
    ringing = tuple(u for u in new if u not in busy)
    events = []
    if ringing:
        events.append(Event("call.incoming", ringing))
    if len(ringing) < len(new):
        events.append(Event("call.busy", (user_id,), {"user_ids": [u for u in new if u in busy]}))
    return Change(call, tuple(events))


def remove(call: Call, by: str, user_id: str, at: datetime) -> Change:
    """Somebody who is in sends another participant away: out of the call, or out of its ringing."""
    if by == user_id:
        return leave(call, user_id, at)
    remover, participant = _participant(call, by), call.participant(user_id)
    if participant is not None and participant.state in (State.LEFT, State.MISSED):
        return Change(call)  # it is done
    if call.status is Status.ENDED or remover.state not in IN:
        raise InvalidState("Only who is in a call that has not ended can remove others.")
    if participant is None:
        raise NotFound("There is no such participant.", code="participant_not_found")
    if participant.state in PENDING:
        call = _with(call, replace(participant, state=_next(participant, Act.MISS), left_at=at))
        told = tuple(dict.fromkeys([call.initiator, user_id]))
        events = [Event("call.missed", told, {"user_ids": [user_id], "by": by})]
        return _end_if_nobody_can_answer(call, "missed", at, events)
    if participant.state not in IN:
        return Change(call)
    call = _with(call, replace(participant, state=_next(participant, Act.LEAVE), left_at=at))
    told = tuple(dict.fromkeys([*call.users_in(IN | PENDING), user_id]))
    events = [Event("call.participant_left", told, {"user_id": user_id, "by": by})]
    return _end_if_nobody_can_answer(call, "completed", at, events)


def update(call: Call, user_id: str, call_type: str) -> Change:
    """Turn a voice call into a video call, or back."""
    participant = _participant(call, user_id)
    if call.status is Status.ENDED or participant.state not in IN:
        raise InvalidState("Only who is in a call that has not ended can change it.")
    if call.call_type == call_type:
        return Change(call)
    call = replace(call, call_type=call_type)
    return Change(call, (Event("call.updated", tuple(call.users_in(PENDING | IN)), {"by": user_id}),))


def fail(call: Call, reason: str, at: datetime) -> Change:
    """End a call because the server cannot keep what it must: e.g. its recording."""
    if call.status is Status.ENDED:
        return Change(call)
    return _ended(call, CallAct.REFUSE if call.status is Status.RINGING else CallAct.END, reason, at, [])


def _participant(call: Call, user_id: str) -> Participant:
    participant = call.participant(user_id)
    if participant is None:
        raise NotAllowed("You do not take part in this call.", code="not_a_participant")
    return participant


def _with(call: Call, changed: Participant) -> Call:
    return replace(
        call, participants=tuple(changed if p.user_id == changed.user_id else p for p in call.participants)
    )


def _next(participant: Participant, act: Act, call: Call | None = None) -> State:
    if call is not None and call.status is Status.ENDED:
        raise InvalidState(f"The call has ended ({call.end_reason}).")
    state = PARTICIPANT.get((participant.state, act))
    if state is None:
        raise InvalidState(f"You are {participant.state} in this call; you cannot {act} it.")
    return state


def _next_status(call: Call, act: CallAct) -> Status:
    status = CALL.get((call.status, act))
    if status is None:
        raise InvalidState(f"The call is {call.status}; it cannot be changed by {act}.")
    return status


def _end_if_nobody_can_answer(call: Call, reason: str, at: datetime, events: list[Event]) -> Change:
    if call.status is Status.RINGING and not call.users_in(PENDING):
        return _ended(call, CallAct.REFUSE, reason, at, events)
    inside = call.users_in(IN)
    if call.status is Status.ACTIVE and not call.users_in(PENDING) and len(inside) < 2 and not call.is_group:
        return _ended(call, CallAct.EMPTY, "completed", at, events)
    return Change(call, tuple(events))


def _ended(call: Call, act: CallAct, reason: str, at: datetime, events: list[Event]) -> Change:
    status = _next_status(call, act)
    participants = tuple(
        replace(p, state=PARTICIPANT[p.state, Act.MISS if p.state in PENDING else Act.LEAVE], left_at=at)
        if p.state in PENDING | IN
        else p
        for p in call.participants
    )
    call = replace(call, status=status, participants=participants, ended_at=at, end_reason=reason)
    ended = Event("call.ended", tuple(call.user_ids), {"end_reason": reason, "duration_s": call.duration_s})
    return Change(call, (*events, ended))


# A call as a document: what a store keeps and a client reads.


def to_document(call: Call) -> dict[str, Any]:
    """Return a call as JSON values, without what is meant for one reader only."""
    return {
        "id": call.id,
        "room_name": call.room_name,
        "call_type": call.call_type,
        "status": str(call.status),
        "initiator": call.initiator,
        "initiator_name": next((p.name for p in call.participants if p.user_id == call.initiator), ""),
        "conversation_id": call.conversation_id,
        "participants": [
            {
                "user_id": p.user_id,
                "name": p.name,
                "state": str(p.state),
                "devices": list(p.devices),
                "invited_at": _text(p.invited_at),
                "joined_at": _text(p.joined_at),
                "left_at": _text(p.left_at),
            }
            for p in call.participants
        ],
        "created_at": _text(call.created_at),
        "answered_at": _text(call.answered_at),
        "ended_at": _text(call.ended_at),
        "end_reason": call.end_reason,
        "ring_timeout_s": call.ring_timeout_s,
        "metadata": dict(call.metadata),
        "recording": dict(call.recording) if call.recording is not None else None,
        "version": call.version,
    }


def from_document(document: Mapping[str, Any]) -> Call:
    """Return the call that a document holds.

    Raises:
        BadRequest: it holds none.

    """
    try:
        return Call(
            id=document["id"],
            call_type=document["call_type"],
            status=Status(document["status"]),
            initiator=document["initiator"],
            participants=tuple(
                Participant(
                    user_id=p["user_id"],
                    name=p["name"],
                    state=State(p["state"]),
                    devices=tuple(p["devices"]),
                    invited_at=_moment(p["invited_at"]),
                    joined_at=_moment(p["joined_at"]),
                    left_at=_moment(p["left_at"]),
                )
                for p in document["participants"]
            ),
            created_at=datetime.fromisoformat(document["created_at"]),
            conversation_id=document["conversation_id"],
            answered_at=_moment(document["answered_at"]),
            ended_at=_moment(document["ended_at"]),
            end_reason=document["end_reason"],
            ring_timeout_s=document["ring_timeout_s"],
            metadata=document["metadata"],
            recording=document["recording"],
            version=document["version"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"not a call: {error}") from error


@lru_cache(maxsize=4096)
def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
