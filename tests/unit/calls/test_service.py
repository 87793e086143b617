"""The service of calls: kept once, told once, timers that ring out, limits."""

import asyncio
from datetime import timedelta

import pytest
import structlog

from sfu import clock
from sfu.bus.memory import MemoryBus
from sfu.calls.ports import StoredEvent
from sfu.calls.service import MAX_ATTEMPTS, CallService
from sfu.calls.table import State, Status
from sfu.errors import BadRequest, Conflict, InvalidState, NotFound, TooLarge, Unavailable
from sfu.metrics import Metrics
from sfu.settings import Calls
from sfu.store.memory import MemoryStore

# Shorter than an operator may set, so that the real loop can ring out within a test.
SHORT_S = 0.03
# A ring of which the half is far from its end, also where a test waits for the processor.
LATE_S = 6.0


class ContestedStore(MemoryStore):
    """A store in which somebody else changes the call first, a number of times."""

    def __init__(self):
        super().__init__(StoredEvent)
        self.conflicts = 0
        self.commits = 0
        # Set with the last of the conflicts.
        self.appeased = asyncio.Event()

    async def commit(self, call, events, **more):
        self.commits += 1
        if self.conflicts:
            self.conflicts -= 1
            if not self.conflicts:
                self.appeased.set()
            raise Conflict("somebody else was first")
        return await super().commit(call, events, **more)


class FailingStore(MemoryStore):
    """A store whose next commit fails, as a database does that is restarted."""

    def __init__(self):
        super().__init__(StoredEvent)
        self.failures = 0

    async def commit(self, call, events, **more):
        if self.failures:
            self.failures -= 1
            raise Unavailable("the store is away")
        return await super().commit(call, events, **more)


class Told:
    """Every event that the bus brought, in order."""

    def __init__(self, bus):
        self.events = []
        self._arrived = asyncio.Event()
        bus.subscribe(self._receive)

    async def _receive(self, event):
        self.events.append(event)
        self._arrived.set()

    def types(self, user):
        return [event.type for event in self.events if event.user_id == user]

    async def wait_for(self, user, type_):
        async with asyncio.timeout(5):
            while type_ not in self.types(user):
                self._arrived.clear()
                await self._arrived.wait()


class Bench:
    """A service with its store, its bus and its metrics."""

    def __init__(self, *, store=None, **limits):
        self.store = store or ContestedStore()
        self.bus = MemoryBus()
        self.told = Told(self.bus)
        self.metrics = Metrics()
        settings = Calls().model_copy(update=limits)
        self.calls = CallService(self.store, self.bus, settings, self.metrics, lambda user: user.upper())

    async def place(self, *callees, by="a", **options):
        options.setdefault("call_type", "voice")
        return await self.calls.initiate(by, by.upper(), callee_ids=list(callees), **options)

    def metric(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels or None)


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    await made.calls.close()


# Placing


async def test_a_placed_call_is_kept_and_everybody_else_is_told(bench):
    await bench.store.put_conversation("talk", {"participants": ["a", "b", "c", "d"]})
    call = await bench.place("b", "c", metadata={"ticket": 7}, conversation_id="talk")
    assert call.version == 1
    assert [p.name for p in call.participants] == ["A", "B", "C"]
    kept = await bench.calls.get(call.id)
    assert (kept.metadata, kept.conversation_id) == ({"ticket": 7}, "talk")
    assert [(e.user_id, e.type, e.seq) for e in bench.told.events] == [
        ("b", "call.incoming", 1),
        ("c", "call.incoming", 1),
    ]
    assert bench.told.events[0].data["call"]["id"] == call.id
    assert bench.told.events[0].event_id == bench.told.events[1].event_id


async def test_one_is_called_once_and_never_oneself(bench):
    call = await bench.place("b", "a", "b")
    assert call.user_ids == ["a", "b"]


@pytest.mark.parametrize("callees", [(), ("a",), ("a", "a")])
async def test_a_call_needs_somebody_else(bench, callees):
    with pytest.raises(BadRequest) as refused:
        await bench.place(*callees)
    assert refused.value.code == "no_callees"


async def test_a_call_has_as_many_participants_as_allowed():
    bench = Bench(max_participants=3)
    assert len((await bench.place("b", "c")).participants) == 3
    with pytest.raises(TooLarge):
        await bench.place("b", "c", "d")
    await bench.calls.close()


async def test_inviting_more_than_allowed_changes_nothing():
    bench = Bench(max_participants=3)
    call = await bench.place("b", "c")
    with pytest.raises(TooLarge):
        await bench.calls.invite(call.id, "a", ["d"])
    assert (await bench.calls.get(call.id)).version == 1
    await bench.calls.close()


async def test_the_same_key_gives_the_same_call_and_rings_once(bench):
    first = await bench.place("b", idempotency_key="k")
    again = await bench.place("b", idempotency_key="k")
    assert again.id == first.id
    assert bench.told.types("b") == ["call.incoming"]
    assert (await bench.place("b", idempotency_key="other")).id != first.id
    assert (await bench.place("c", by="x", idempotency_key="k")).id != first.id


async def test_a_key_whose_call_could_not_be_kept_can_be_used_again():
    bench = Bench(store=FailingStore())
    bench.store.failures = 1
    with pytest.raises(Unavailable):
        await bench.place("b", idempotency_key="k")
    bench.store.failures = 1
    with pytest.raises(Unavailable):
        await bench.place("b")
    call = await bench.place("b", idempotency_key="k")
    assert call.status is Status.RINGING
    await bench.calls.close()


# Busy


async def test_who_is_in_a_call_is_busy(bench):
    running = await bench.place("b")
    await bench.calls.answer(running.id, "b", "phone")
    call = await bench.place("b", by="x")
    assert (call.status, call.end_reason) == (Status.ENDED, "busy")
    assert bench.told.types("x") == ["call.busy", "call.ended"]
    assert bench.told.types("b")[-1] == "call.ended"


async def test_who_calls_somebody_is_busy_and_who_is_only_rung_is_not(bench):
    await bench.place("b")
    assert (await bench.place("a", by="x")).end_reason == "busy"
    assert (await bench.place("b", by="x")).status is Status.RINGING


async def test_after_the_end_nobody_is_busy(bench):
    call = await bench.place("b")
    await bench.calls.answer(call.id, "b", "phone")
    await bench.calls.end(call.id, "a")
    assert (await bench.place("b", by="x")).status is Status.RINGING


async def test_who_is_in_this_call_is_not_busy_for_it(bench):
    call = await bench.place("b", "c")
    await bench.calls.answer(call.id, "b", "phone")
    await bench.calls.reject(call.id, "c")
    call = await bench.calls.invite(call.id, "a", ["b", "c", "c"])
    assert call.participant("c").state is State.INVITED
    assert call.participant("b").state is State.ANSWERED


async def test_the_inviter_is_told_each_time_that_somebody_is_busy(bench):
    other = await bench.place("c", by="x")
    await bench.calls.answer(other.id, "c", "phone")
    call = await bench.place("b")
    for times in (1, 2):
        await bench.calls.invite(call.id, "a", ["c"])
        assert bench.told.types("a").count("call.busy") == times


# Reading


async def test_a_call_is_read_only_by_who_takes_part(bench):
    call = await bench.place("b")
    assert (await bench.calls.get_for(call.id, "b")).id == call.id
    for reader, call_id in (("x", call.id), ("a", "call_none")):
        with pytest.raises(NotFound) as refused:
            await bench.calls.get_for(call_id, reader)
        assert refused.value.code == "call_not_found"


async def test_open_calls_are_those_one_is_in_or_rung_for(bench):
    first = await bench.place("b", "c")
    second = await bench.place("b", by="x")
    assert [c.id for c in await bench.calls.open_calls("b")] == [first.id, second.id]
    await bench.calls.reject(first.id, "b", "no")
    assert [c.id for c in await bench.calls.open_calls("b")] == [second.id]
    assert await bench.calls.open_calls("nobody") == []


async def test_events_are_read_again_in_order(bench):
    call = await bench.place("b")
    await bench.calls.answer(call.id, "b", "phone")
    await bench.calls.end(call.id, "b")
    assert await bench.calls.last_seq("b") == 4
    later = await bench.calls.events_after("b", 1)
    assert [(e.seq, e.type) for e in later] == [
        (2, "call.answered"),
        (3, "call.answered_elsewhere"),
        (4, "call.ended"),
    ]
    assert await bench.calls.events_after("b", 5) is None


# Changing


async def test_every_act_reaches_the_call(bench):
    calls = bench.calls
    call = await bench.place("b")
    assert (await calls.ring(call.id, "b", "phone")).participant("b").state is State.RINGING
    assert (await calls.answer(call.id, "b", "phone")).status is Status.ACTIVE
    assert (await calls.join(call.id, "b")).participant("b").state is State.JOINED
    assert (await calls.update(call.id, "a", "video")).call_type == "video"
    assert (await calls.invite(call.id, "a", ["c"])).participant("c").state is State.INVITED
    assert (await calls.reject(call.id, "c", "n" * 300)).participant("c").state is State.REJECTED
    assert len(bench.told.events[-1].data["reason"]) == 200
    assert (await calls.leave(call.id, "b")).participant("b").state is State.LEFT
    ended = await calls.end(call.id, "a")
    assert (ended.status, ended.version) == (Status.ENDED, 9)
    assert bench.metric("sfu_calls_total", end_reason="completed") == 1
    assert bench.metric("sfu_ring_seconds_count") == 1
    again = await bench.place("b")
    assert (await calls.cancel(again.id, "a")).end_reason == "cancelled"


async def test_what_changes_nothing_is_not_kept_and_not_told(bench):
    call = await bench.place("b")
    await bench.calls.answer(call.id, "b", "phone")
    told, commits = len(bench.told.events), bench.store.commits
    await bench.calls.answer(call.id, "b", "phone")
    with pytest.raises(InvalidState):
        await bench.calls.answer(call.id, "b", "desk")
    assert (len(bench.told.events), bench.store.commits) == (told, commits)
    assert bench.metric("sfu_ring_seconds_count") == 1


@pytest.mark.parametrize("conflicts", [1, 3, MAX_ATTEMPTS - 1])
async def test_when_somebody_else_was_first_the_act_is_tried_again(bench, conflicts):
    call = await bench.place("b")
    bench.store.conflicts = conflicts
    assert (await bench.calls.answer(call.id, "b", "phone")).status is Status.ACTIVE
    assert bench.store.commits == conflicts + 2
    assert bench.told.types("b").count("call.answered") == 1


async def test_after_too_many_conflicts_the_client_is_told_to_try_again(bench):
    call = await bench.place("b")
    bench.store.conflicts = MAX_ATTEMPTS + 1  # the first is made of the call as it is known
    with pytest.raises(Conflict) as refused:
        await bench.calls.answer(call.id, "b", "phone")
    assert refused.value.retryable
    assert (await bench.calls.get(call.id)).status is Status.RINGING


async def test_acts_of_one_process_on_one_call_do_not_get_in_each_others_way():
    """They wait for each other; the store would refuse all but the first."""

    class SlowStore(ContestedStore):
        async def commit(self, call, events, **more):
            for _ in range(5):
                await asyncio.sleep(0)
            return await super().commit(call, events, **more)

    made = Bench(store=SlowStore())
    call = await made.place("b", "c", "d")
    await asyncio.gather(
        made.calls.ring(call.id, "b", "ses_b"),
        made.calls.ring(call.id, "c", "ses_c"),
        made.calls.reject(call.id, "d", "busy"),
        made.calls.answer(call.id, "b", "ses_b"),
    )
    assert made.store.commits == 5
    kept = await made.calls.get(call.id)
    assert kept.version == 5
    assert [kept.participant(u).state for u in "bcd"] == [State.ANSWERED, State.RINGING, State.REJECTED]
    await made.calls.close()


class CountingStore(ContestedStore):
    """A store that counts how often it is asked for a call."""

    loads = 0

    async def load(self, call_id):
        self.loads += 1
        return await super().load(call_id)


async def test_an_act_on_a_call_that_is_known_asks_the_store_nothing():
    bench = Bench(store=CountingStore())
    call = await bench.place("b")
    await bench.calls.ring(call.id, "b", "phone")
    await bench.calls.answer(call.id, "b", "phone")
    assert (bench.store.loads, bench.store.commits) == (0, 3)
    await bench.calls.close()


async def test_what_another_process_did_counts_and_not_what_is_known_here():
    """Both refusals and successes come from the store when what is known is old."""
    here = Bench()
    there = CallService(here.store, MemoryBus(), Calls(), Metrics(), lambda user: user)
    call = await here.place("b")
    await there.answer(call.id, "b", "phone")
    with pytest.raises(InvalidState):  # known here: it rings
        await here.calls.cancel(call.id, "a")
    assert (await here.calls.leave(call.id, "b")).status is Status.ENDED
    for service in (here.calls, there):
        with pytest.raises(InvalidState):
            await service.answer(call.id, "b", "phone")
        await service.close()


async def test_who_was_invited_by_another_process_may_answer_here():
    here = Bench()
    there = CallService(here.store, MemoryBus(), Calls(), Metrics(), lambda user: user)
    call = await here.place("b")
    await there.answer(call.id, "b", "phone")
    await there.invite(call.id, "a", ["c"])
    answered = await here.calls.answer(call.id, "c", "tablet")
    assert answered.user_ids == ["a", "b", "c"]
    await here.calls.close()
    await there.close()


async def test_of_many_devices_that_answer_at_once_one_wins(bench):
    call = await bench.place("b")
    devices = [f"device{n}" for n in range(10)]
    answers = await asyncio.gather(
        *(bench.calls.answer(call.id, "b", device) for device in devices), return_exceptions=True
    )
    refused = [a for a in answers if isinstance(a, InvalidState)]
    assert len(refused) == 9
    assert len((await bench.calls.get(call.id)).participant("b").devices) == 1
    assert bench.told.types("a") == ["call.answered"]


async def test_whoever_wants_to_know_of_changes_is_told_after_they_are_kept(bench):
    seen = []

    async def changed(call):
        seen.append((call.version, (await bench.calls.get(call.id)).version))

    bench.calls.on_changed(changed)
    call = await bench.place("b")
    await bench.calls.reject(call.id, "b")
    assert seen == [(1, 1), (2, 2)]


# Ring timeout


async def test_a_call_that_nobody_answers_is_missed():
    bench = Bench(ring_timeout_s=SHORT_S)
    call = await bench.place("b")
    await bench.told.wait_for("a", "call.ended")
    kept = await bench.calls.get(call.id)
    assert (kept.status, kept.end_reason) == (Status.ENDED, "missed")
    assert kept.ended_at - kept.created_at >= timedelta(seconds=SHORT_S)
    assert kept.ended_at <= clock.wallclock(), "it ended in the future"
    assert bench.told.types("a") == bench.told.types("b")[1:] == ["call.missed", "call.ended"]
    await bench.calls.close()


async def test_a_call_may_have_a_ring_timeout_of_its_own(bench):
    call = await bench.place("b", ring_timeout_s=SHORT_S)
    slow = await bench.place("c", by="x")
    await bench.told.wait_for("a", "call.ended")
    assert call.ring_timeout_s == SHORT_S
    assert (await bench.calls.get(slow.id)).status is Status.RINGING


async def test_an_answered_call_does_not_ring_out():
    """The timers of a later call would come after: when that one rings out, the first still stands."""
    bench = Bench(ring_timeout_s=SHORT_S)
    answered = await bench.place("b")
    await bench.calls.answer(answered.id, "b", "phone")
    await bench.place("y", by="x")
    await bench.told.wait_for("x", "call.ended")
    assert (await bench.calls.get(answered.id)).status is Status.ACTIVE
    await bench.calls.close()


async def test_in_a_running_group_call_only_the_ringing_ends():
    bench = Bench(ring_timeout_s=SHORT_S)
    call = await bench.place("b", "c")
    await bench.calls.answer(call.id, "b", "phone")
    await bench.told.wait_for("c", "call.missed")
    kept = await bench.calls.get(call.id)
    assert (kept.status, kept.participant("c").state) == (Status.ACTIVE, State.MISSED)
    await bench.calls.close()


async def test_who_is_invited_later_rings_until_a_timeout_of_his_own():
    bench = Bench(ring_timeout_s=SHORT_S)
    call = await bench.place("b")
    await bench.calls.answer(call.id, "b", "phone")
    await bench.calls.invite(call.id, "a", ["c"])
    await bench.told.wait_for("c", "call.missed")
    assert (await bench.calls.get(call.id)).status is Status.ACTIVE
    await bench.calls.close()


async def test_who_is_invited_while_another_rings_has_the_whole_ring_timeout(bench):
    """`c` is called late in the time of `b`; when `b` has missed it, `c` still rings."""
    call = await bench.place("b", ring_timeout_s=LATE_S)
    await bench.place("y", by="x", ring_timeout_s=LATE_S / 2)
    await bench.told.wait_for("x", "call.ended")
    await bench.calls.invite(call.id, "a", ["c"])
    await bench.told.wait_for("b", "call.missed")
    assert bench.told.types("c") == ["call.incoming"]


async def test_who_is_asked_again_has_the_whole_ring_timeout_again(bench):
    call = await bench.place("b", "c", ring_timeout_s=LATE_S)
    await bench.place("y", by="x", ring_timeout_s=LATE_S / 2)
    await bench.told.wait_for("x", "call.ended")
    await bench.calls.reject(call.id, "c")
    await bench.calls.invite(call.id, "a", ["c"])
    await bench.told.wait_for("b", "call.missed")
    assert bench.told.types("c") == ["call.incoming", "call.rejected", "call.incoming"]
    await bench.told.wait_for("c", "call.ended")
    assert bench.told.types("a").count("call.missed") == 2


async def test_a_ring_timeout_that_cannot_be_kept_is_logged_and_the_service_lives_on(bench):
    call = await bench.place("b", ring_timeout_s=SHORT_S)
    bench.store.conflicts = MAX_ATTEMPTS + 1  # the first is made of the call as it is known
    with structlog.testing.capture_logs() as logged:
        async with asyncio.timeout(5):
            await bench.store.appeased.wait()
    assert [entry["event"] for entry in logged] == ["ring_timeout_delayed"]
    assert (await bench.calls.get(call.id)).status is Status.RINGING
    assert (await bench.calls.reject(call.id, "b")).end_reason == "rejected"


async def test_after_close_nothing_of_the_service_runs():
    bench = Bench()
    await bench.place("b", ring_timeout_s=SHORT_S)
    entered, never = asyncio.Event(), asyncio.Event()

    async def slow(_event):
        entered.set()
        await never.wait()

    bench.bus.subscribe(slow)
    async with asyncio.timeout(5):
        await entered.wait()
    await bench.calls.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_close_stops_the_timers():
    """Another service, started later, has rung out: so would this one have."""
    closed, open_ = Bench(), Bench()
    call = await closed.place("b", ring_timeout_s=SHORT_S)
    await closed.calls.close()
    await open_.place("b", ring_timeout_s=SHORT_S)
    await open_.told.wait_for("a", "call.ended")
    assert (await closed.calls.get(call.id)).status is Status.RINGING
    await open_.calls.close()


async def test_created_at_is_now(bench):
    before = clock.wallclock()
    assert before <= (await bench.place("b")).created_at <= clock.wallclock()
