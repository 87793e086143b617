"""A call under random acts of random people: what holds whatever they do."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sfu.calls import call as acts
from sfu.calls.call import NO_DEVICE, Call, Participant, from_document, to_document
from sfu.calls.table import IN, PARTICIPANT, PENDING, State, Status
from sfu.errors import InvalidState, NotAllowed

T0 = datetime(2024, 1, 1, tzinfo=UTC)
USERS = ["a", "b", "c", "d", "e"]
DEVICES = ["phone", "desk", NO_DEVICE]
REASONS = {"rejected", "cancelled", "missed", "busy", "completed"}

users = st.sampled_from(USERS)
devices = st.sampled_from(DEVICES)
crowds = st.frozensets(users)


def _reachable():
    """Pairs of states between which one act, or an invitation of somebody busy, lies."""
    one = {(before, after) for (before, _), after in PARTICIPANT.items()}
    return one | {(s, s) for s in State} | {(s, State.BUSY) for s, t in one if t is State.INVITED}


class CallMachine(RuleBasedStateMachine):
    """One call; users outside of it try, too."""

    def __init__(self):
        super().__init__()
        self.call = None
        self.told = Counter()
        self.was_active = False
        self.clock = 0

    @initialize(others=st.integers(1, 4), busy=crowds)
    def place(self, others, busy):
        people = tuple(Participant(u, u) for u in USERS[: others + 1])
        self._take(acts.initiate(Call("call_1", "voice", Status.RINGING, "a", people, T0), busy))

    @rule(user=users, device=devices)
    def ring(self, user, device):
        self._do(lambda call, at: acts.ring(call, user, device))

    @rule(user=users, device=devices)
    def answer(self, user, device):
        self._do(lambda call, at: acts.answer(call, user, device, at))

    @rule(user=users)
    def reject(self, user):
        self._do(lambda call, at: acts.reject(call, user, "", at))

    @rule(user=users)
    def cancel(self, user):
        self._do(lambda call, at: acts.cancel(call, user, at))

    @rule(user=users)
    def join(self, user):
        self._do(lambda call, at: acts.join(call, user, at))

    @rule(user=users)
    def leave(self, user):
        self._do(lambda call, at: acts.leave(call, user, at))

    @rule(user=users)
    def end(self, user):
        self._do(lambda call, at: acts.end(call, user, at))

    @rule(user=users, invited=crowds, busy=crowds)
    def invite(self, user, invited, busy):
        people = [Participant(u, u, invited_at=T0) for u in sorted(invited)]
        self._do(lambda call, at: acts.invite(call, user, people, busy))

    @rule(user=users, call_type=st.sampled_from(["voice", "video"]))
    def update(self, user, call_type):
        self._do(lambda call, at: acts.update(call, user, call_type))

    @rule(whom=st.none() | crowds)
    def expire(self, whom):
        self._do(lambda call, at: acts.expire(call, at, whom))

    def _do(self, act):
        self.clock += 1
        try:
            change = act(self.call, T0 + timedelta(milliseconds=self.clock))
        except (InvalidState, NotAllowed):
            return
        if self.call.status is Status.ENDED:
            assert change.call == self.call, "an ended call changed"
            assert not change.events
        self._take(change)

    def _take(self, change):
        before, self.call = self.call, change.call
        for event in change.events:
            assert event.to
            assert len(set(event.to)) == len(event.to)
            assert set(event.to) <= set(self.call.user_ids), "a stranger was told"
            self.told.update((event.type, user) for user in event.to)
        if before is None:
            return
        if self.call == before:
            return
        assert change.events or self._only_devices_differ(before), "a change that nobody was told of"
        allowed = _reachable()
        for old in before.participants:
            new = self.call.participant(old.user_id)
            assert new is not None, "somebody was forgotten"
            assert (old.state, new.state) in allowed
        self.was_active |= self.call.status is Status.ACTIVE

    def _only_devices_differ(self, before):
        return [p.state for p in before.participants] == [p.state for p in self.call.participants]

    @invariant()
    def a_call_has_one_end_with_one_reason(self):
        ended = self.call.status is Status.ENDED
        assert ended == (self.call.ended_at is not None) == (self.call.end_reason in REASONS)
        assert (self.call.answered_at is not None) == self.was_active
        if ended:
            assert (self.call.end_reason == "completed") == self.was_active

    @invariant()
    def an_ended_call_has_nobody_pending_or_in(self):
        if self.call.status is Status.ENDED:
            assert self.call.users_in(PENDING | IN) == []

    @invariant()
    def a_call_that_has_not_ended_has_somebody_in(self):
        if self.call.status is not Status.ENDED:
            assert self.call.users_in(IN)

    @invariant()
    def a_ringing_call_has_only_its_caller_in_and_somebody_who_may_answer(self):
        if self.call.status is Status.RINGING:
            assert self.call.users_in(IN) == ["a"]
            assert self.call.users_in(PENDING)

    @invariant()
    def whoever_was_rung_is_told_the_end_exactly_once(self):
        ended = self.call.status is Status.ENDED
        for user in self.call.user_ids:
            assert self.told["call.ended", user] == (1 if ended else 0)
            if self.call.participant(user).state in PENDING:
                assert self.told["call.incoming", user]

    @invariant()
    def a_document_holds_the_whole_call(self):
        assert from_document(to_document(self.call)) == self.call

    @precondition(lambda self: self.call.status is Status.ENDED)
    @rule(user=users, device=devices)
    def answer_too_late(self, user, device):
        """An ended call is answered by nobody."""
        try:
            acts.answer(self.call, user, device, T0)
        except (InvalidState, NotAllowed):
            return
        raise AssertionError("an ended call was answered")


CallMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCallMachine = CallMachine.TestCase
