"""When those whom a call rings have rung out. Pure."""

from datetime import datetime, timedelta

from sfu.calls.call import Call
from sfu.calls.table import PENDING, Status

# A timer of the loop may come a little before the wallclock.
_TIMER_SLACK = timedelta(milliseconds=50)


def of(call: Call) -> dict[str, datetime]:
    """Return when each of those who ring has rung out."""
    timeout = timedelta(seconds=call.ring_timeout_s)
    return {
        p.user_id: (p.invited_at or call.created_at) + timeout
        for p in call.participants
        if p.state in PENDING
    }


def next_due(call: Call) -> float | None:
    """Return when the next of them has, in seconds since 1970; None if nobody rings."""
    found = of(call) if call.status is not Status.ENDED else {}
    return min(found.values()).timestamp() if found else None


def rung_out(call: Call, at: datetime) -> list[str]:
    """Return the ids of those who have."""
    return [user_id for user_id, deadline in of(call).items() if deadline <= at + _TIMER_SLACK]
