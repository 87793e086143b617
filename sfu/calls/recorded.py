"""What a call knows of its recording: what is wanted of it, how it stands, and who has accepted it.

All of it stands in the call, so that every process and every device sees the same. Pure: a call in, what it
is afterwards and who is told out.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sfu.calls.call import Call, Change, Event, Participant
from sfu.calls.table import IN, PENDING, State, Status
from sfu.errors import Conflict, InvalidState, NotAllowed

# A recording in one of these states is under way.
RECORDING = frozenset({"requested", "starting", "active", "paused", "finishing"})

# What somebody answered who was asked whether he may be recorded.
ACCEPTED, DECLINED = "accepted", "declined"


def ask(call: Call, recording: Mapping[str, Any]) -> Change:
    """A recording is asked for: its `id`, `state`, `consent` and what is `wanted`."""
    if call.status is Status.ENDED:
        raise InvalidState("The call has ended.")
    if call.recording is not None and call.recording["state"] in RECORDING:
        raise Conflict("This call is recorded already.", code="already_recording")
    return _recorded(call, recording)


def record(call: Call, recording_id: str, changes: Mapping[str, Any]) -> Change:
    """Something about a recording of the call is otherwise now; nothing, if there is a newer one."""
    if call.recording is None or call.recording["id"] != recording_id:
        return Change(call)
    recording = {**call.recording, **changes}
    return _recorded(call, recording) if recording != call.recording else Change(call)


def consent(call: Call, user_id: str, *, accepts: bool) -> Change:
    """Somebody in the call says whether he may be recorded; he may change his mind while it is."""
    participant = call.participant(user_id)
    if participant is None or participant.state not in PENDING | IN:
        raise NotAllowed("Only who is in the call is asked.", code="not_a_participant")
    if call.recording is None or call.recording["state"] not in RECORDING:
        raise InvalidState("This call is not recorded.", code="not_recording")
    answers = {**call.recording.get("answers", {}), user_id: ACCEPTED if accepts else DECLINED}
    return record(call, call.recording["id"], {"answers": answers})


def has_been_in(participant: Participant) -> bool:
    """Tell whether somebody took part in a call: he is in, or has been."""
    return participant.state in IN or participant.state is State.LEFT or participant.joined_at is not None


def accepted(recording: Mapping[str, Any]) -> frozenset[str]:
    """Return who has accepted a recording."""
    answers = recording.get("answers", {})
    return frozenset(user_id for user_id, answer in answers.items() if answer == ACCEPTED)


def _recorded(call: Call, recording: Mapping[str, Any]) -> Change:
    told = {"state": recording["state"], "consent": recording["consent"], "recording": dict(recording)}
    call = replace(call, recording=dict(recording))
    return Change(call, (Event("call.recording", tuple(call.user_ids), told),))
