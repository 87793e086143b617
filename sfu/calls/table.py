"""What may happen to a call, and to each of its participants.

A call is *ringing* from the moment it is placed, *active* from the first answer, and
*ended* for ever after. It has exactly one end, with one reason:

- `rejected`, `cancelled`, `missed`, `busy`: it never was active;
- `completed`: it was, and somebody ended it, or everybody left.

A participant is *invited* when the call is placed, *ringing* when a device of his has
shown it, *answered* when one of his devices took it (the first one wins, the others are
told), *joined* when that device's media is connected, and *left* at the end. Or he never
got there: *rejected*, *missed* (nobody answered in time, or the caller gave up), *busy*
(he was in another call). Who places a call has answered it himself.

Rules that follow from this and are checked by the tests:

1. What is not in the tables is refused with `invalid_state` and changes nothing.
2. The same act again by the same device changes nothing and is not refused: clients
   repeat what they do not know to have arrived.
3. An ended call has no participant who is invited, ringing, answered or joined.
4. Only a call with someone answered or joined besides the caller becomes active; it stays
   so until `end`, until one of two leaves, or until nobody is left.

The tables are the whole truth: `docs/calls.md` shows a diagram made from them.
"""

from enum import StrEnum


class Status(StrEnum):
    """Where a call stands."""

    RINGING = "ringing"
    ACTIVE = "active"
    ENDED = "ended"


class State(StrEnum):
    """Where a participant stands."""

    INVITED = "invited"
    RINGING = "ringing"
    ANSWERED = "answered"
    JOINED = "joined"
    LEFT = "left"
    REJECTED = "rejected"
    MISSED = "missed"
    BUSY = "busy"


class Act(StrEnum):
    """What can happen to a participant."""

    INVITE = "invite"
    RING = "ring"
    ANSWER = "answer"
    REJECT = "reject"
    MISS = "miss"
    FIND_BUSY = "find_busy"
    JOIN = "join"
    LEAVE = "leave"


class CallAct(StrEnum):
    """What can happen to a call as a whole."""

    ANSWER = "answer"
    REFUSE = "refuse"  # nobody is left who could answer
    CANCEL = "cancel"
    END = "end"
    EMPTY = "empty"  # everybody, or one of two, has left


PARTICIPANT: dict[tuple[State, Act], State] = {
    (State.INVITED, Act.RING): State.RINGING,
    (State.INVITED, Act.ANSWER): State.ANSWERED,
    (State.INVITED, Act.REJECT): State.REJECTED,
    (State.INVITED, Act.MISS): State.MISSED,
    (State.INVITED, Act.FIND_BUSY): State.BUSY,
    (State.RINGING, Act.RING): State.RINGING,
    (State.RINGING, Act.ANSWER): State.ANSWERED,
    (State.RINGING, Act.REJECT): State.REJECTED,
    (State.RINGING, Act.MISS): State.MISSED,
    (State.ANSWERED, Act.JOIN): State.JOINED,
    (State.ANSWERED, Act.LEAVE): State.LEFT,
    (State.JOINED, Act.JOIN): State.JOINED,
    (State.JOINED, Act.LEAVE): State.LEFT,
    (State.LEFT, Act.INVITE): State.INVITED,
    (State.REJECTED, Act.INVITE): State.INVITED,
    (State.MISSED, Act.INVITE): State.INVITED,
    (State.BUSY, Act.INVITE): State.INVITED,
}

CALL: dict[tuple[Status, CallAct], Status] = {
    (Status.RINGING, CallAct.ANSWER): Status.ACTIVE,
    (Status.RINGING, CallAct.REFUSE): Status.ENDED,
    (Status.RINGING, CallAct.CANCEL): Status.ENDED,
    (Status.ACTIVE, CallAct.ANSWER): Status.ACTIVE,
    (Status.ACTIVE, CallAct.END): Status.ENDED,
    (Status.ACTIVE, CallAct.EMPTY): Status.ENDED,
}

# A participant who can still answer; one who is in; one who is out.
PENDING = frozenset({State.INVITED, State.RINGING})
IN = frozenset({State.ANSWERED, State.JOINED})
OUT = frozenset({State.LEFT, State.REJECTED, State.MISSED, State.BUSY})


def diagram() -> str:
    """Return both tables as one Mermaid text, for the documentation."""
    lines = ["stateDiagram-v2", "    state call {", "        [*] --> ringing: initiate"]
    lines += [f"        {a} --> {b}: {act}" for (a, act), b in CALL.items() if a != b]
    lines += ["        ended --> [*]", "    }", "    state participant {", "        [*] --> invited: invite"]
    lines += [f"        {a2} --> {b2}: {act2}" for (a2, act2), b2 in PARTICIPANT.items() if a2 != b2]
    return "\n".join([*lines, "    }"])
