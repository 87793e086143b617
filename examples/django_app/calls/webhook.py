"""What the calls server tells: checked, read, and kept.

It tells each thing at least once and in order, but repeats and replays come late. So an account of a call
is kept only if it is later than the one that is there: told twice, or in another order, it comes to the same.
"""

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from calls.models import CallParticipant, CallRecord

# Older or younger than this by its own time, and a delivery is refused: nobody sends an old one again.
MAX_AGE_S = 300

_SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")


class NotAnEvent(ValueError):
    """A body that was signed and yet cannot be read."""


@dataclass(frozen=True, slots=True)
class Account:
    """A call as one event told of it."""

    record: CallRecord
    participants: list[CallParticipant]


def is_signed(header: str, body: bytes, secret: str, now_s: float) -> bool:
    """Tell whether the calls server signed these bytes, and lately."""
    found = _SIGNATURE.fullmatch(header)
    if found is None or abs(now_s - int(found[1])) > MAX_AGE_S:
        return False
    expected = hmac.new(secret.encode(), f"{found[1]}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, found[2])


def read(body: bytes) -> Account | None:
    """Return what an event tells of a call; None if it is of something else.

    Raises:
        NotAnEvent: it cannot be read.

    """
    try:
        event = json.loads(body)
        call = event["data"].get("call") if event["type"].startswith("call.") else None
        return None if call is None else _account(call, _moment(event["created_at"]), int(event["seq"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotAnEvent(f"{type(error).__name__}: {error}") from error


@transaction.atomic
def keep(account: Account) -> bool:
    """Keep a call as it was told of; False: what is there is as new, or newer."""
    told = account.record
    known = CallRecord.objects.select_for_update().filter(call_id=told.call_id).first()
    if known is not None and told.age <= known.age:
        return False
    told.save(force_insert=known is None)
    CallParticipant.objects.bulk_create(
        account.participants,
        update_conflicts=True,
        unique_fields=("call", "user_id"),
        update_fields=("name", "state"),
    )
    return True


def _account(call: dict[str, Any], told_at: datetime, seq: int) -> Account:
    record = CallRecord(
        call_id=call["id"],
        call_type=call["call_type"],
        state=CallRecord.State(call["status"]),
        initiator=call["initiator"],
        started_at=_moment(call["created_at"]),
        answered_at=_moment_or_none(call["answered_at"]),
        ended_at=_moment_or_none(call["ended_at"]),
        end_reason=call["end_reason"] or "",
        told_at=told_at,
        told_seq=seq,
    )
    participants = [
        CallParticipant(call=record, user_id=p["user_id"], name=p["name"], state=p["state"])
        for p in call["participants"]
    ]
    return Account(record, participants)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment


def _moment_or_none(text: str | None) -> datetime | None:
    return None if text is None else _moment(text)
