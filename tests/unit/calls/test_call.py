"""Every act on a call, from every state: what the tables allow, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sfu.calls import call as acts
from sfu.calls.call import NO_DEVICE, Call, Change, Participant, from_document, to_document
from sfu.calls.table import IN, PENDING, State, Status
from sfu.errors import BadRequest, InvalidState, NotAllowed

T0 = datetime(2024, 5, 6, 7, 8, 9, 250_000, tzinfo=UTC)
T1 = T0 + timedelta(seconds=12.5)
NOBODY = frozenset()

SAME = "unchanged"
REFUSED = "refused"


def placed(*others, busy=NOBODY, call_type="video"):
    """A call that `a` has just placed."""
    people = tuple(Participant(u, u.upper()) for u in ("a", *others))
    call = Call("call_1", call_type, Status.RINGING, "a", people, T0)
    return acts.initiate(call, busy)


def having(status, **states):
    """A call in a status, with everybody where he is said to be; `a` placed it."""
    people = tuple(
        Participant(user, user.upper(), State(state), ("phone",) if state in ("ringing", *IN) else ())
        for user, state in states.items()
    )
    answered, ended = status is not Status.RINGING, status is Status.ENDED
    return Call(
        "call_1",
        "video",
        status,
        "a",
        people,
        T0,
        answered_at=T0 if answered else None,
        ended_at=T0 if ended else None,
        end_reason="missed" if ended else None,
    )


def told(change, type_):
    """To whom one event of a type goes; None if there is none."""
    found = [event.to for event in change.events if event.type == type_]
    assert len(found) <= 1, f"{type_} twice"
    return set(found[0]) if found else None


def types(change):
    return [event.type for event in change.events]


def state(change, user):
    return change.call.participant(user).state


# Every act by `b` from every state, in a group call that is active. Written from the prose
# of sfu/calls/table.py, not from its tables.
ACTS = {
    "answer_same_device": (
        lambda call: acts.answer(call, "b", "phone", T1),
        {"invited": "answered", "ringing": "answered", "answered": SAME, "joined": SAME},
    ),
    "answer_without_device": (
        lambda call: acts.answer(call, "b", NO_DEVICE, T1),
        {"invited": "answered", "ringing": "answered", "answered": SAME, "joined": SAME},
    ),
    "answer_other_device": (
        lambda call: acts.answer(call, "b", "desk", T1),
        {"invited": "answered", "ringing": "answered"},
    ),
    "reject": (
        lambda call: acts.reject(call, "b", "", T1),
        {"invited": "rejected", "ringing": "rejected", "rejected": SAME},
    ),
    "leave": (
        lambda call: acts.leave(call, "b", T1),
        {"answered": "left", "joined": "left", "left": SAME},
    ),
    "end": (lambda call: acts.end(call, "b", T1), {"answered": "left", "joined": "left"}),
    "ring": (
        lambda call: acts.ring(call, "b", "desk"),
        {"invited": "ringing", "ringing": "ringing", **dict.fromkeys(State, SAME)}
        | {"invited": "ringing", "ringing": "ringing"},
    ),
    "join": (
        lambda call: acts.join(call, "b", T1),
        {**dict.fromkeys(State, SAME), "answered": "joined"},
    ),
    "expire": (
        lambda call: acts.expire(call, T1),
        {**dict.fromkeys(State, SAME), "invited": "missed", "ringing": "missed"},
    ),
    "invited_again": (
        lambda call: acts.invite(call, "a", [Participant("b", "B")], NOBODY),
        {**dict.fromkeys(State, SAME), **dict.fromkeys(("left", "rejected", "missed", "busy"), "invited")},
    ),
}


@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("name", ACTS)
def test_an_act_of_a_participant_in_an_active_call(name, before):
    act, table = ACTS[name]
    call = having(Status.ACTIVE, a="joined", b=before, c="joined")
    expected = table.get(before, REFUSED)
    if expected is REFUSED:
        with pytest.raises(InvalidState):
            act(call)
    elif expected is SAME:
        assert act(call) == Change(call)
    else:
        change = act(call)
        assert state(change, "b") == expected
        assert change.call != call
        others = [p for p in change.call.participants if p.user_id != "b"]
        if change.call.status is Status.ACTIVE:
            assert others == [p for p in call.participants if p.user_id != "b"]


# The same acts once the call has ended: nothing moves any more.
AFTER_THE_END = {
    "answer_same_device": {},
    "answer_without_device": {},
    "answer_other_device": {},
    "reject": {"rejected"},
    "leave": {"left"},
    "end": set(),
    "ring": set(State),
    "join": set(State),
    "expire": set(State),
    "invited_again": set(),
}


@pytest.mark.parametrize("before", ["left", "rejected", "missed", "busy"])
@pytest.mark.parametrize("name", ACTS)
def test_an_ended_call_stays_as_it_is(name, before):
    act, _ = ACTS[name]
    call = having(Status.ENDED, a="left", b=before, c="left")
    if before in AFTER_THE_END[name]:
        assert act(call) == Change(call)
    else:
        with pytest.raises(InvalidState):
            act(call)


@pytest.mark.parametrize(
    "act",
    [
        lambda call: acts.ring(call, "x", "d"),
        lambda call: acts.answer(call, "x", "d", T1),
        lambda call: acts.reject(call, "x", "", T1),
        lambda call: acts.cancel(call, "x", T1),
        lambda call: acts.join(call, "x", T1),
        lambda call: acts.leave(call, "x", T1),
        lambda call: acts.end(call, "x", T1),
        lambda call: acts.invite(call, "x", [], NOBODY),
        lambda call: acts.update(call, "x", "voice"),
    ],
)
def test_a_stranger_may_nothing(act):
    with pytest.raises(NotAllowed) as refused:
        act(placed("b").call)
    assert refused.value.code == "not_a_participant"


# Placing


def test_placing_a_call_rings_everybody_else_and_answers_for_the_caller():
    change = placed("b", "c")
    assert change.call.status is Status.RINGING
    assert [p.state for p in change.call.participants] == [State.ANSWERED, State.INVITED, State.INVITED]
    assert types(change) == ["call.incoming"]
    assert told(change, "call.incoming") == {"b", "c"}


def test_who_is_busy_is_not_rung_and_the_caller_is_told():
    change = placed("b", "c", busy=frozenset({"c"}))
    assert told(change, "call.incoming") == {"b"}
    assert told(change, "call.busy") == {"a"}
    assert change.events[1].data == {"user_ids": ["c"]}
    assert change.call.status is Status.RINGING


def test_when_everybody_is_busy_the_call_is_over_at_once():
    change = placed("b", busy=frozenset({"b"}))
    assert (change.call.status, change.call.end_reason) == (Status.ENDED, "busy")
    assert types(change) == ["call.busy", "call.ended"]
    assert told(change, "call.ended") == {"a", "b"}
    assert change.call.answered_at is None
    assert change.call.duration_s == 0.0


def test_a_caller_who_is_in_another_call_may_still_call():
    assert placed("b", busy=frozenset({"a"})).call.status is Status.RINGING


# Ringing


def test_the_caller_is_told_once_that_somebody_rings():
    first = acts.ring(placed("b").call, "b", "phone")
    assert (types(first), told(first, "call.ringing")) == (["call.ringing"], {"a"})
    second = acts.ring(first.call, "b", "desk")
    assert second.events == ()
    assert second.call.participant("b").devices == ("phone", "desk")
    assert acts.ring(second.call, "b", "desk") == Change(second.call)


def test_of_many_devices_the_last_sixteen_are_known():
    call = placed("b").call
    for number in range(20):
        call = acts.ring(call, "b", f"d{number}").call
    assert call.participant("b").devices == tuple(f"d{n}" for n in range(4, 20))


# Answering


def test_the_first_answer_makes_the_call_active_and_tells_the_other_devices():
    call = acts.ring(acts.ring(placed("b").call, "b", "phone").call, "b", "desk").call
    change = acts.answer(call, "b", "desk", T1)
    assert (change.call.status, change.call.answered_at) == (Status.ACTIVE, T1)
    assert change.call.participant("b").devices == ("desk",)
    assert types(change) == ["call.answered", "call.answered_elsewhere"]
    assert told(change, "call.answered") == {"a", "b"}
    elsewhere = change.events[1]
    assert (elsewhere.to, elsewhere.not_for) == (("b",), "desk")
    with pytest.raises(InvalidState):
        acts.answer(change.call, "b", "phone", T1)


def test_an_answer_without_a_socket_tells_the_devices_that_ring_and_nobody_if_there_are_none():
    ringing = acts.ring(placed("b").call, "b", "phone").call
    change = acts.answer(ringing, "b", NO_DEVICE, T1)
    assert told(change, "call.answered_elsewhere") == {"b"}
    assert change.call.participant("b").devices == ()
    assert types(acts.answer(placed("b").call, "b", NO_DEVICE, T1)) == ["call.answered"]


def test_a_second_participant_answers_a_running_call_and_the_moment_of_the_first_stays():
    call = acts.answer(placed("b", "c").call, "b", "d", T0).call
    change = acts.answer(call, "c", "e", T1)
    assert change.call.answered_at == T0
    assert told(change, "call.answered") == {"a", "b", "c"}


def test_the_caller_cannot_answer_his_own_call_on_a_device():
    with pytest.raises(InvalidState):
        acts.answer(placed("b").call, "a", "desk", T1)


# Refusing, giving up, timing out


def test_when_the_only_callee_refuses_the_call_is_rejected():
    change = acts.reject(placed("b").call, "b", "later", T1)
    assert types(change) == ["call.rejected", "call.ended"]
    assert told(change, "call.rejected") == {"a", "b"}
    assert change.events[0].data == {"by": "b", "reason": "later"}
    assert (change.call.end_reason, change.call.ended_at) == ("rejected", T1)
    assert change.call.participant("b").left_at == T1


def test_one_of_two_callees_may_refuse_and_the_other_rings_on():
    change = acts.reject(placed("b", "c").call, "b", "", T1)
    assert change.call.status is Status.RINGING
    assert told(change, "call.rejected") == {"a", "b", "c"}


def test_in_a_running_group_call_a_refusal_ends_nothing():
    call = acts.answer(placed("b", "c").call, "b", "d", T0).call
    assert acts.reject(call, "c", "", T1).call.status is Status.ACTIVE


def test_a_call_of_two_in_which_one_is_left_is_completed():
    """It takes a call put together by hand: by the acts alone one of two cannot be pending now."""
    change = acts.reject(having(Status.ACTIVE, a="joined", b="ringing"), "b", "", T1)
    assert (change.call.status, change.call.end_reason) == (Status.ENDED, "completed")


def test_only_the_caller_cancels():
    call = placed("b").call
    with pytest.raises(NotAllowed):
        acts.cancel(call, "b", T1)
    change = acts.cancel(call, "a", T1)
    assert types(change) == ["call.cancelled", "call.ended"]
    assert told(change, "call.cancelled") == {"a", "b"}
    assert state(change, "b") is State.MISSED
    assert state(change, "a") is State.LEFT
    assert acts.cancel(change.call, "a", T1) == Change(change.call)


def test_an_active_or_otherwise_ended_call_cannot_be_cancelled():
    active = acts.answer(placed("b").call, "b", "d", T0).call
    with pytest.raises(InvalidState):
        acts.cancel(active, "a", T1)
    with pytest.raises(InvalidState):
        acts.cancel(acts.expire(placed("b").call, T1).call, "a", T1)


def test_after_the_ring_timeout_the_call_is_missed():
    change = acts.expire(placed("b", "c").call, T1)
    assert types(change) == ["call.missed", "call.ended"]
    assert told(change, "call.missed") == {"a", "b", "c"}
    assert change.events[0].data == {"user_ids": ["b", "c"]}
    assert change.call.end_reason == "missed"


def test_the_ring_timeout_of_a_running_group_call_ends_only_the_ringing():
    call = acts.answer(placed("b", "c").call, "b", "d", T0).call
    change = acts.expire(call, T1)
    assert (types(change), change.call.status) == (["call.missed"], Status.ACTIVE)
    assert told(change, "call.missed") == {"a", "c"}


def test_the_ring_timeout_of_one_leaves_the_others_ringing():
    call = placed("b", "c").call
    change = acts.expire(call, T1, ["b", "a", "nobody"])
    assert (state(change, "b"), state(change, "c")) == (State.MISSED, State.INVITED)
    assert told(change, "call.missed") == {"a", "b"}
    assert change.events[0].data == {"user_ids": ["b"]}
    assert acts.expire(call, T1, []) == Change(call)
    assert acts.expire(change.call, T1, ["c"]).call.end_reason == "missed"


# Being in, and leaving


def test_joining_is_told_to_all_who_are_or_may_come_in():
    call = acts.answer(placed("b", "c").call, "b", "d", T0).call
    change = acts.join(call, "b", T1)
    assert told(change, "call.participant_joined") == {"a", "b", "c"}
    assert change.call.participant("b").joined_at == T1
    assert acts.join(change.call, "b", T1) == Change(change.call)


def test_media_before_the_answer_joins_nobody():
    call = placed("b").call
    assert acts.join(call, "a", T1) == Change(call)


@pytest.mark.parametrize("who", ["a", "b"])
def test_when_one_of_two_leaves_the_call_is_completed(who):
    call = acts.answer(placed("b").call, "b", "d", T0).call
    change = acts.leave(call, who, T1)
    assert types(change) == ["call.participant_left", "call.ended"]
    assert told(change, "call.participant_left") == {"a", "b"}
    assert (change.call.end_reason, change.call.duration_s) == ("completed", 12.5)
    assert change.events[-1].data == {"end_reason": "completed", "duration_s": 12.5}


def test_a_group_call_lasts_until_the_last_one_leaves():
    call = acts.answer(acts.answer(placed("b", "c").call, "b", "d", T0).call, "c", "e", T0).call
    call = acts.leave(call, "a", T1).call
    call = acts.leave(call, "b", T1).call
    assert call.status is Status.ACTIVE
    assert acts.leave(call, "c", T1).call.end_reason == "completed"


def test_when_the_last_one_leaves_who_still_rings_has_missed_it():
    call = acts.answer(placed("b", "c").call, "b", "d", T0).call
    change = acts.leave(acts.leave(call, "a", T1).call, "b", T1)
    assert state(change, "c") is State.MISSED
    assert told(change, "call.participant_left") == {"b", "c"}
    assert told(change, "call.ended") == {"a", "b", "c"}


@pytest.mark.parametrize("act", [acts.leave, acts.end])
def test_a_caller_who_goes_before_the_answer_cancels(act):
    change = act(placed("b").call, "a", T1)
    assert change.call.end_reason == "cancelled"


def test_whoever_is_in_ends_the_call_for_everybody():
    call = acts.answer(placed("b", "c").call, "b", "d", T0).call
    change = acts.end(call, "b", T1)
    assert types(change) == ["call.ended"]
    assert told(change, "call.ended") == {"a", "b", "c"}
    assert [p.state for p in change.call.participants] == [State.LEFT, State.LEFT, State.MISSED]
    assert acts.end(change.call, "a", T1) == Change(change.call)


def test_a_cancelled_call_may_be_ended_again_and_a_missed_one_not():
    cancelled = acts.cancel(placed("b").call, "a", T1).call
    assert acts.end(cancelled, "b", T1) == Change(cancelled)
    with pytest.raises(InvalidState):
        acts.end(acts.expire(placed("b").call, T1).call, "a", T1)


# Inviting, changing


def test_a_newcomer_rings_and_makes_it_a_group_call():
    call = acts.answer(placed("b").call, "b", "d", T0).call
    change = acts.invite(call, "b", [Participant("c", "C")], NOBODY)
    assert told(change, "call.incoming") == {"c"}
    assert change.call.is_group
    assert not call.is_group


def test_of_those_invited_who_is_in_already_is_passed_over_and_who_is_busy_is_told():
    call = acts.answer(placed("b").call, "b", "d", T0).call
    invited = [Participant(u, u.upper()) for u in "abcd"]
    change = acts.invite(call, "a", invited, frozenset({"d"}))
    assert told(change, "call.incoming") == {"c"}
    assert told(change, "call.busy") == {"a"}
    assert change.events[1].data == {"user_ids": ["d"]}
    assert state(change, "d") is State.BUSY


def test_inviting_only_those_who_are_busy_rings_nobody():
    call = acts.answer(placed("b").call, "b", "d", T0).call
    change = acts.invite(call, "a", [Participant("c", "C")], frozenset({"c"}))
    assert types(change) == ["call.busy"]


def test_who_left_can_be_asked_again_under_the_name_he_had():
    call = acts.reject(placed("b", "c").call, "b", "", T1).call
    change = acts.invite(call, "a", [Participant("b", "somebody", invited_at=T1)], NOBODY)
    assert change.call.participant("b") == Participant("b", "B", invited_at=T1)


@pytest.mark.parametrize("state_", [s for s in State if s not in IN])
def test_only_who_is_in_invites_and_changes(state_):
    call = having(Status.ACTIVE, a="joined", b=state_, c="joined")
    with pytest.raises(InvalidState):
        acts.invite(call, "b", [Participant("x", "X")], NOBODY)
    with pytest.raises(InvalidState):
        acts.update(call, "b", "voice")


def test_nobody_invites_or_changes_when_it_is_over():
    call = replace(
        having(Status.ENDED, a="left", b="left"), participants=having(Status.ACTIVE, a="joined").participants
    )
    with pytest.raises(InvalidState):
        acts.invite(call, "a", [Participant("x", "X")], NOBODY)
    with pytest.raises(InvalidState):
        acts.update(call, "a", "voice")


def test_voice_becomes_video_for_everybody_and_once():
    call = acts.answer(placed("b", call_type="voice").call, "b", "d", T0).call
    change = acts.update(call, "b", "video")
    assert change.call.call_type == "video"
    assert told(change, "call.updated") == {"a", "b"}
    assert acts.update(change.call, "a", "video") == Change(change.call)


def test_a_refusal_by_the_table_of_calls_names_status_and_act():
    with pytest.raises(InvalidState, match=r"active.*cancel"):
        acts.cancel(having(Status.ACTIVE, a="joined", b="joined"), "a", T1)


# Documents


def test_a_document_says_everything_in_json_values():
    call = acts.join(acts.answer(placed("b").call, "b", "phone", T0).call, "b", T1).call
    assert to_document(call) == {
        "id": "call_1",
        "room_name": "call_1",
        "call_type": "video",
        "status": "active",
        "initiator": "a",
        "initiator_name": "A",
        "conversation_id": None,
        "participants": [
            {
                "user_id": "a",
                "name": "A",
                "state": "answered",
                "devices": [],
                "invited_at": None,
                "joined_at": None,
                "left_at": None,
            },
            {
                "user_id": "b",
                "name": "B",
                "state": "joined",
                "devices": ["phone"],
                "invited_at": None,
                "joined_at": "2024-05-06T07:08:21.750Z",
                "left_at": None,
            },
        ],
        "created_at": "2024-05-06T07:08:09.250Z",
        "answered_at": "2024-05-06T07:08:09.250Z",
        "ended_at": None,
        "end_reason": None,
        "ring_timeout_s": 45.0,
        "metadata": {},
        "recording": None,
        "version": 0,
    }


def test_a_document_becomes_the_same_call():
    call = replace(
        acts.leave(acts.answer(placed("b").call, "b", "d", T0).call, "b", T1).call, metadata={"k": [1]}
    )
    assert from_document(to_document(call)) == call


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"status": "dreaming"},
        {"created_at": "yesterday"},
        {"participants": None},
        {"participants": [{"user_id": "a"}]},
        {"created_at": None},
    ],
)
def test_what_is_not_a_call_is_refused(broken):
    document = {**to_document(placed("b").call), **broken} if broken else {}
    with pytest.raises(BadRequest):
        from_document(document)


def test_who_is_where_can_be_asked():
    call = placed("b", "c", busy=frozenset({"c"})).call
    assert call.users_in(PENDING) == ["b"]
    assert call.users_in(IN) == ["a"]
    assert call.user_ids == ["a", "b", "c"]
    assert call.participant("nobody") is None
    assert call.duration_s == 0.0
