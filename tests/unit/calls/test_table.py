"""The tables: closed, consistent, and drawn as they are."""

from sfu.calls.table import CALL, IN, OUT, PARTICIPANT, PENDING, Act, CallAct, State, Status, diagram


def test_every_state_is_pending_in_or_out_and_only_one_of_them():
    assert set(State) == PENDING | IN | OUT
    assert len(PENDING) + len(IN) + len(OUT) == len(State)


def test_every_act_is_possible_somewhere():
    assert {act for _, act in PARTICIPANT} == set(Act)
    assert {act for _, act in CALL} == set(CallAct)


def test_an_ended_call_has_no_way_out():
    assert not [act for status, act in CALL if status is Status.ENDED]


def test_a_call_never_goes_back():
    order = list(Status)
    assert all(order.index(after) >= order.index(before) for (before, _), after in CALL.items())


def test_who_is_out_comes_back_only_by_invitation():
    assert {act for state, act in PARTICIPANT if state in OUT} == {Act.INVITE}


def test_whoever_is_not_out_can_always_be_let_go():
    assert all((state, Act.MISS) in PARTICIPANT for state in PENDING)
    assert all((state, Act.LEAVE) in PARTICIPANT for state in IN)


def test_the_diagram_has_an_arrow_for_every_line_that_changes_something():
    lines = [line.strip() for line in diagram().splitlines()]
    assert lines[0] == "stateDiagram-v2"
    assert lines.count("}") == 2
    expected = [f"{a} --> {b}: {act}" for t in (CALL, PARTICIPANT) for (a, act), b in t.items() if a != b]
    arrows = [line for line in lines if "-->" in line and "[*]" not in line]
    assert arrows == expected
    assert {"[*] --> ringing: initiate", "ended --> [*]", "[*] --> invited: invite"} <= set(lines)
